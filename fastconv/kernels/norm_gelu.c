// Batch norm without a scale, and GELU, in fp32, in one pass over a map where torch needs two.
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
    int channels, training, threads;
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

// FUNCTION(..., c, LANES) for each vector of channels, and FUNCTION(..., c, rest) for those that do not fill one.
#define ALL_CHANNELS(channels, FUNCTION, ...)                                                      \
    do {                                                                                           \
        int c = 0;                                                                                 \
        for (; c + LANES <= (channels); c += LANES) FUNCTION(__VA_ARGS__, c, LANES);               \
        if (c < (channels)) FUNCTION(__VA_ARGS__, c, (channels) - c);                              \
    } while (0)

// Adds `count` rows to the sums [3, channels] of a block: its first row, the sum of differences to it, and of squares.
INLINE void add_rows(const float *x, float *sums, int channels, int count, int c, int some) {
    const vec first = load_some(sums + c, some);
    vec sum = load_some(sums + channels + c, some), squares = load_some(sums + 2 * channels + c, some);
    for (int i = 0; i < count; i++) {
        vec d = load_some(x + (long)i * channels + c, some) - first;
        sum += d, squares += d * d;
    }
    store_some(sums + channels + c, sum, some), store_some(sums + 2 * channels + c, squares, some);
}
INLINE void normalise(const float *x, float *y, const float *s, const float *bias, int channels, int c, int some) {
    vec n = (load_some(x + c, some) - load_some(s + c, some)) * load_some(s + SCALE * channels + c, some);
    vec shift = load_some(s + SHIFT * channels + c, some) + load_some(bias + c, some);
    store_some(y + c, gelu(n + shift), some);
}
// Writes e, and adds it and e * n to the sums [2, channels].
INLINE void add_gradient(const float *dy, const float *x, float *e, float *sums, const float *s, const float *bias,
                         int channels, int c, int some) {
    vec n = (load_some(x + c, some) - load_some(s + c, some)) * load_some(s + SCALE * channels + c, some);
    n += load_some(s + SHIFT * channels + c, some);
    vec value = load_some(dy + c, some) * gelu_slope(n + load_some(bias + c, some));
    store_some(e + c, value, some);
    store_some(sums + c, load_some(sums + c, some) + value, some);
    store_some(sums + channels + c, load_some(sums + channels + c, some) + value * n, some);
}
// Makes dx of e, with averages [2, channels].
INLINE void centre(const float *x, float *e, const float *averages, const float *s, int channels, int c, int some) {
    const vec scale = load_some(s + SCALE * channels + c, some);
    vec n = (load_some(x + c, some) - load_some(s + c, some)) * scale + load_some(s + SHIFT * channels + c, some);
    vec rest = load_some(e + c, some) - load_some(averages + c, some);
    store_some(e + c, scale * (rest - n * load_some(averages + channels + c, some)), some);
}

// Statistics [4, channels] of x [rows, channels]; the variance is the unbiased one.
void fastconv_norm_statistics(const float *x, float *statistics, float *scratch, const Maps *m, float eps) {
    const int channels = m->channels;
    const long blocks = blocks_of(m), rows = m->rows;
#pragma omp parallel num_threads(m->threads)
    {
#pragma omp for schedule(static)
        for (long b = 0; b < blocks; b++) {
            const float *from = x + b * BLOCK * channels;
            float *sums = scratch + 3 * b * channels;
            memcpy(sums, from, sizeof(float) * (size_t)channels);
            memset(sums + channels, 0, 2 * sizeof(float) * (size_t)channels);
            int i = 0, n = rows_of(m, b);
            for (; i + 4 <= n; i += 4) ALL_CHANNELS(channels, add_rows, from + (long)i * channels, sums, channels, 4);
            for (; i < n; i++) ALL_CHANNELS(channels, add_rows, from + (long)i * channels, sums, channels, 1);
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
void fastconv_norm_gelu(const float *x, const float *bias, const float *statistics, float *y, const Maps *m) {
    const int channels = m->channels;
#pragma omp parallel for schedule(static) num_threads(m->threads)
    for (long row = 0; row < m->rows; row++)
        ALL_CHANNELS(channels, normalise, x + row * channels, y + row * channels, statistics, bias, channels);
}

// dx and the bias's gradient, from dy. In training, the statistics are those of x; else they do not depend on it.
void fastconv_norm_gelu_gradient(const float *dy, const float *x, const float *bias, const float *statistics, float *dx,
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
                const long at = row * channels;
                ALL_CHANNELS(channels, add_gradient, dy + at, x + at, dx + at, sums, statistics, bias, channels);
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
        for (long row = 0; row < m->rows; row++)
            ALL_CHANNELS(channels, centre, x + row * channels, dx + row * channels, averages, statistics, channels);
    }
}

// y = gelu(x), or dx = dy * gelu'(x), of `count` values, a vector's at once.
INLINE void gelu_vector(const float *x, float *y, int c, int some) { store_some(y + c, gelu(load_some(x + c, some)), some); }
INLINE void slope_vector(const float *dy, const float *x, float *dx, int c, int some) {
    store_some(dx + c, load_some(dy + c, some) * gelu_slope(load_some(x + c, some)), some);
}
#define PART 4096 // values
void fastconv_gelu(const float *x, float *y, long count, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long at = 0; at < count; at += PART) ALL_CHANNELS(least(PART, count - at), gelu_vector, x + at, y + at);
}
void fastconv_gelu_gradient(const float *dy, const float *x, float *dx, long count, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long at = 0; at < count; at += PART)
        ALL_CHANNELS(least(PART, count - at), slope_vector, dy + at, x + at, dx + at);
}
