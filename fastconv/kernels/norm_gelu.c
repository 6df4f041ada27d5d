// Batch norm without a scale, and GELU, of maps in fp32 or bf16, in one pass over a map where torch needs two.
//
// A map [N, H, W, C] (channels last) is `rows` = N x H x W rows of channels. With its mean and variance over the rows,
//     n = (x - mean) * scale        scale = 1 / sqrt(variance + eps)
//     y = gelu(n + bias)            gelu(z) = z * Phi(z), Phi: the normal distribution function
// and with e = dy * gelu'(n + bias), averages over the rows: dx = scale * (e - average of e - n * average of e * n).
//
// Sums are taken in float over the rows of a block and then in double over blocks, in their order, whatever the number
// of threads. Those of the statistics are about the block's first row: the sum of squares then errs by at most BLOCK
// roundings (Samuelson's inequality), however large the mean is.
#include "vectors.h"
#include <math.h>

#define BLOCK 128 // rows

typedef int ints __attribute__((vector_size(4 * LANES)));
typedef unsigned bits __attribute__((vector_size(4 * LANES)));

// fastconv/kernels/norm_gelu.py has the same fields.
typedef struct {
    long rows;
    int channels, training, threads, bf16;
} Maps;

// Rows of a channel's statistics, [4, channels]. The mean is MEAN - SHIFT / SCALE: as one float it would be off by up to
// 6e-8 of itself, which is a lot where the standard deviation is small beside it.
enum { MEAN, SCALE, SHIFT, VARIANCE };

static long blocks_of(const Maps *m) { return (m->rows + BLOCK - 1) / BLOCK; }
INLINE int rows_of(const Maps *m, long block) { return least(BLOCK, m->rows - block * BLOCK); }

// Floats of scratch memory for `fastconv_norm_statistics` and `fastconv_norm_gelu_gradient`.
long fastconv_norm_floats(const Maps *m) { return 3 * (blocks_of(m) + 1) * m->channels; }

// exp(-a^2 / 2) and E = exp(a^2 / 2) Phi(-a), of a = |z|, at most 9: there GELU and its gradient are 0 or z and 1.
// Both approximations are least squares with the weights of Lawson's method; GELU and its gradient err by 1e-7.
INLINE void normal(vec z, vec *a, vec *e, vec *tail) {
    ints size = (ints)z & 0x7fffffff, far = (vec)size > 9.0f; // NaN is not far
    *a = (vec)((size & ~far) | ((ints)((vec){0} + 9.0f) & far));
    // 2^v, v = whole + r, -0.5 <= r <= 0.5; adding 1.5 x 2^23 rounds, and leaves the whole number in the lowest bits.
    vec v = *a * *a * -0.72134752f, rounded = v + 12582912.0f, r = v - (rounded - 12582912.0f);
    vec power = 1 + r * (0.693147004f + r * (0.240222424f + r * (0.0555073358f + r * (0.00967152044f + r * 0.00132647494f))));
    *e = (vec)((bits)power + ((bits)rounded << 23));
    vec t = 1 / (1 + 0.28f * *a);
    *tail = t * (0.116729014f + t * (0.0662302598f + t * (0.271970451f + t * (-0.24066709f + t * (0.392065555f + t * -0.106328189f)))));
}
INLINE vec gelu(vec z) {
    vec a, e, tail, size = (vec)((ints)z & 0x7fffffff);
    normal(z, &a, &e, &tail);
    return 0.5f * (z + size) - a * e * tail;
}
INLINE vec gelu_slope(vec z) {
    vec a, e, tail;
    normal(z, &a, &e, &tail);
    vec rest = 0.5f - e * (tail - 0.398942280f * a);
    return 0.5f + (vec)((bits)rest | ((bits)z & 0x80000000u)); // copysign: rest is above 0
}

// FUNCTION(..., c, LANES, bf16) for each vector of channels, and FUNCTION(..., c, rest, bf16) for those that do not fill
// one, with code of its own for each type of the maps.
#define ALL_CHANNELS(channels, bf16, FUNCTION, ...)                                                \
    do {                                                                                           \
        int c = 0;                                                                                 \
        if (HAS_BF16 && (bf16)) {                                                                  \
            for (; c + LANES <= (channels); c += LANES) FUNCTION(__VA_ARGS__, c, LANES, 1);        \
            if (c < (channels)) FUNCTION(__VA_ARGS__, c, (channels) - c, 1);                       \
        } else {                                                                                   \
            for (; c + LANES <= (channels); c += LANES) FUNCTION(__VA_ARGS__, c, LANES, 0);        \
            if (c < (channels)) FUNCTION(__VA_ARGS__, c, (channels) - c, 0);                       \
        }                                                                                          \
    } while (0)

// Adds `count` rows to the sums [3, channels] of a block: its first row, the sum of differences to it, and of squares.
INLINE void add_rows(const void *x, float *sums, int channels, int count, int c, int some, int bf16) {
    const vec first = load_some(sums + c, some);
    vec sum = load_some(sums + channels + c, some), squares = load_some(sums + 2 * channels + c, some);
    for (int i = 0; i < count; i++) {
        vec d = load_map(x, (long)i * channels + c, some, bf16) - first;
        sum += d, squares += d * d;
    }
    store_some(sums + channels + c, sum, some), store_some(sums + 2 * channels + c, squares, some);
}
INLINE void first_row(const void *x, float *sums, int c, int some, int bf16) {
    store_some(sums + c, load_map(x, c, some, bf16), some);
}
INLINE void normalise(const void *x, void *y, const float *s, const float *bias, int channels, int c, int some,
                      int bf16) {
    vec n = (load_map(x, c, some, bf16) - load_some(s + c, some)) * load_some(s + SCALE * channels + c, some);
    vec shift = load_some(s + SHIFT * channels + c, some) + load_some(bias + c, some);
    store_map(y, c, gelu(n + shift), some, bf16);
}
// Writes e, and adds it and e * n to the sums [2, channels].
INLINE void add_gradient(const void *dy, const void *x, void *e, float *sums, const float *s, const float *bias,
                         int channels, int c, int some, int bf16) {
    vec n = (load_map(x, c, some, bf16) - load_some(s + c, some)) * load_some(s + SCALE * channels + c, some);
    n += load_some(s + SHIFT * channels + c, some);
    vec value = load_map(dy, c, some, bf16) * gelu_slope(n + load_some(bias + c, some));
    store_map(e, c, value, some, bf16);
    store_some(sums + c, load_some(sums + c, some) + value, some);
    store_some(sums + channels + c, load_some(sums + channels + c, some) + value * n, some);
}
// Makes dx of e, with averages [2, channels].
INLINE void centre(const void *x, void *e, const float *averages, const float *s, int channels, int c, int some,
                   int bf16) {
    const vec scale = load_some(s + SCALE * channels + c, some);
    vec n = (load_map(x, c, some, bf16) - load_some(s + c, some)) * scale + load_some(s + SHIFT * channels + c, some);
    vec rest = load_map(e, c, some, bf16) - load_some(averages + c, some);
    store_map(e, c, scale * (rest - n * load_some(averages + channels + c, some)), some, bf16);
}

// Statistics [4, channels] of x [rows, channels]; the variance is the unbiased one.
void fastconv_norm_statistics(const void *x, float *statistics, float *scratch, const Maps *m, float eps) {
    const int channels = m->channels;
    const long blocks = blocks_of(m), rows = m->rows;
#pragma omp parallel num_threads(m->threads)
    {
#pragma omp for schedule(static)
        for (long b = 0; b < blocks; b++) {
            float *sums = scratch + 3 * b * channels;
            const long from = b * BLOCK;
            ALL_CHANNELS(channels, m->bf16, first_row, map_from(x, from * channels, m->bf16), sums);
            memset(sums + channels, 0, 2 * sizeof(float) * (size_t)channels);
            int i = 0, n = rows_of(m, b);
            for (int count = 4; i < n; i += count) {
                if (i + 4 > n) count = 1;
                const void *of = map_from(x, (from + i) * channels, m->bf16);
                if (count == 4) ALL_CHANNELS(channels, m->bf16, add_rows, of, sums, channels, 4);
                else ALL_CHANNELS(channels, m->bf16, add_rows, of, sums, channels, 1);
            }
        }
#pragma omp for schedule(static)
        for (int c = 0; c < channels; c++) {
            double mean = 0, squares = 0;
            for (long b = 0; b < blocks; b++) {
                const float *sums = scratch + 3 * b * channels + c;
                mean += (double)rows_of(m, b) * sums[0] + sums[channels];
            }
            mean /= (double)rows;
            for (long b = 0; b < blocks; b++) {
                const float *sums = scratch + 3 * b * channels + c;
                const double d = sums[0] - mean;
                squares += sums[2 * channels] + d * (2.0 * sums[channels] + d * rows_of(m, b));
            }
            const double variance = squares > 0 || squares != squares ? squares : 0; // NaN stays
            const double scale = 1 / sqrt(variance / (double)rows + eps);
            statistics[MEAN * channels + c] = (float)mean;
            statistics[SCALE * channels + c] = (float)scale;
            statistics[SHIFT * channels + c] = (float)(((float)mean - mean) * scale);
            statistics[VARIANCE * channels + c] = (float)(variance / (double)(rows - 1));
        }
    }
}

// y = gelu(n + bias).
void fastconv_norm_gelu(const void *x, const float *bias, const float *statistics, void *y, const Maps *m) {
    const int channels = m->channels;
#pragma omp parallel for schedule(static) num_threads(m->threads)
    for (long row = 0; row < m->rows; row++) {
        const void *from = map_from(x, row * channels, m->bf16);
        void *to = map_from(y, row * channels, m->bf16);
        ALL_CHANNELS(channels, m->bf16, normalise, from, to, statistics, bias, channels);
    }
}

// dx and the bias's gradient, from dy. In training, the statistics are those of x; else they do not depend on it.
void fastconv_norm_gelu_gradient(const void *dy, const void *x, const float *bias, const float *statistics, void *dx,
                                 float *dbias, float *scratch, const Maps *m) {
    const int channels = m->channels;
    const long blocks = blocks_of(m);
    float *averages = scratch + 2 * blocks * channels;
#pragma omp parallel num_threads(m->threads)
    {
#pragma omp for schedule(static)
        for (long b = 0; b < blocks; b++) {
            float *sums = scratch + 2 * b * channels;
            memset(sums, 0, 2 * sizeof(float) * (size_t)channels);
            for (long row = b * BLOCK; row < b * BLOCK + rows_of(m, b); row++) {
                const void *of = map_from(dy, row * channels, m->bf16), *from = map_from(x, row * channels, m->bf16);
                void *to = map_from(dx, row * channels, m->bf16);
                ALL_CHANNELS(channels, m->bf16, add_gradient, of, from, to, sums, statistics, bias, channels);
            }
        }
#pragma omp for schedule(static)
        for (int c = 0; c < channels; c++) {
            double sum = 0, product = 0;
            for (long b = 0; b < blocks; b++) {
                sum += scratch[2 * b * channels + c], product += scratch[(2 * b + 1) * channels + c];
            }
            dbias[c] = (float)sum;
            averages[c] = m->training ? (float)(sum / (double)m->rows) : 0;
            averages[channels + c] = m->training ? (float)(product / (double)m->rows) : 0;
        }
#pragma omp for schedule(static)
        for (long row = 0; row < m->rows; row++) {
            const void *from = map_from(x, row * channels, m->bf16);
            void *to = map_from(dx, row * channels, m->bf16);
            ALL_CHANNELS(channels, m->bf16, centre, from, to, averages, statistics, channels);
        }
    }
}

// y = gelu(x), or dx = dy * gelu'(x), of `count` values, a vector's at once.
INLINE void gelu_vector(const void *x, void *y, int c, int some, int bf16) {
    store_map(y, c, gelu(load_map(x, c, some, bf16)), some, bf16);
}
INLINE void slope_vector(const void *dy, const void *x, void *dx, int c, int some, int bf16) {
    store_map(dx, c, load_map(dy, c, some, bf16) * gelu_slope(load_map(x, c, some, bf16)), some, bf16);
}
#define PART 4096 // values
void fastconv_gelu(const void *x, void *y, long count, int threads, int bf16) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long at = 0; at < count; at += PART) {
        const void *from = map_from(x, at, bf16);
        void *to = map_from(y, at, bf16);
        ALL_CHANNELS(least(PART, count - at), bf16, gelu_vector, from, to);
    }
}
void fastconv_gelu_gradient(const void *dy, const void *x, void *dx, long count, int threads, int bf16) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long at = 0; at < count; at += PART) {
        const void *of = map_from(dy, at, bf16), *from = map_from(x, at, bf16);
        void *to = map_from(dx, at, bf16);
        ALL_CHANNELS(least(PART, count - at), bf16, slope_vector, of, from, to);
    }
}
int fastconv_has_bf16(void) { return HAS_BF16; }
