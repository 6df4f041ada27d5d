// What the programs that the sanitizers watch share: noise, memory, and the comparison with the exact result.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned long state = 1;
static int draw(int least, int most) {
    state = state * 6364136223846793005UL + 1442695040888963407UL;
    return least + (int)((state >> 33) % (unsigned long)(most - least + 1));
}
static float *noise(long count) {
    float *values = malloc(sizeof(float) * (size_t)count);
    for (long i = 0; i < count; i++) values[i] = (float)draw(-1000, 1000) / 1000;
    return values;
}
static float *memory(long count) { // as it comes, which may be anything
    float *values = malloc(sizeof(float) * (size_t)count);
    memset(values, 0xff, sizeof(float) * (size_t)count); // NaN
    return values;
}
static double *zeros(long count) { return calloc((size_t)count, sizeof(double)); }

static void compare(const char *name, const float *found, const double *exact, long count, double limit, int shape) {
    double error = 0, whole = 0;
    for (long i = 0; i < count; i++) error += pow(found[i] - exact[i], 2), whole += pow(exact[i], 2);
    if (sqrt(error / whole) < limit) return;
    fprintf(stderr, "%s of shape %d errs by %g\n", name, shape, sqrt(error / whole));
    exit(1);
}

// Values that bf16 has, the closest ones.
static void round_all(float *values, long count) {
    for (long i = 0; i < count; i++) {
        unsigned bits;
        memcpy(&bits, values + i, 4);
        bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
        memcpy(values + i, &bits, 4);
    }
}
// A copy in bf16, or in fp32, that ends with its last byte; and back.
static void *stored(const float *values, long count, int bf16) {
    char *copy = malloc((size_t)count * (bf16 ? 2 : 4));
    for (long i = 0; i < count; i++)
        if (bf16) memcpy(copy + 2 * i, (const char *)(values + i) + 2, 2);
        else memcpy(copy + 4 * i, values + i, 4);
    return copy;
}
static void take(float *values, void *copy, long count, int bf16) {
    for (long i = 0; i < count; i++) {
        values[i] = 0;
        if (bf16) memcpy((char *)(values + i) + 2, (char *)copy + 2 * i, 2);
        else memcpy(values + i, (char *)copy + 4 * i, 4);
    }
    free(copy);
}
