// The tiles of Winograd's convolutions: from a map in memory to transformed tiles, and from their products to a map.
#include "vectors.h"
#include "winograd_transforms.h"

// Rows of a product's tile: with two vectors each, as many sums as registers hold beside three operands.
#if LANES == 16 || defined(__aarch64__)
#define ROWS 12
#else
#define ROWS 6
#endif
#define PANEL (2 * LANES)
#define LINE 16 // floats of a cache line

typedef int whole __attribute__((vector_size(4 * LANES)));

// fastconv/kernels/winograd_library.py has the same fields.
typedef struct {
    int images, height, width, inputs, outputs, padding; // of the convolution whose result is computed
    int m, block, threads;                               // tiles of a block, computed at once
    int pooled;                                          // which of its two maps a max-pool stands behind
    int bf16;                                            // whether the maps and the factors of products are
} Problem;
enum { NEITHER, OUTPUTS, INPUTS };

// A map, cut into tiles, and its transformed block: A x A matrices of `block` rows.
typedef struct {
    int height, width, channels, down, across, padding;
    int is_pooled;    // the memory has the maxima of 2x2 pixels, [height / 2, width / 2]
    int *which;       // of the four a maximum is, row by row, in 2 bits: those of a tile's maxima, row by row, together
    long pixels, marks; // of an image in memory, in which
    long row, matrix; // floats between the tiles of a matrix (in bf16 of a convolution's input: half), between matrices
} Map;

// An odd number of cache lines apart, matrices fall into different sets of a cache.
INLINE long apart(long floats) { return (up(floats, LINE) / LINE | 1) * LINE; }

static Map map_of(const Problem *p, int is_input, int *which) {
    Map s = {.height = p->height, .width = p->width, .channels = p->inputs, .padding = p->padding};
    int height = p->height + 2 * p->padding - 2, width = p->width + 2 * p->padding - 2;
    // A max-pool drops the last one of an odd number of rows: a tile with nothing else is left out.
    int rows = p->pooled == OUTPUTS ? height / 2 * 2 : height, columns = p->pooled == OUTPUTS ? width / 2 * 2 : width;
    s.down = (rows + p->m - 1) / p->m, s.across = (columns + p->m - 1) / p->m;
    if (!is_input) s.height = height, s.width = width, s.channels = p->outputs, s.padding = 0;
    s.is_pooled = p->pooled == (is_input ? INPUTS : OUTPUTS);
    if (s.is_pooled) s.which = which;
    s.pixels = s.is_pooled ? (long)(s.height / 2) * (s.width / 2) : (long)s.height * s.width;
    s.marks = up(s.height / 2 * 2, p->m) / p->m * (up(s.width / 2 * 2, p->m) / p->m);
    s.row = up(s.channels, LANES);
    s.matrix = apart(up(p->block, ROWS) * s.row);
    return s;
}

// Storage of the factors of products. In bf16 two factors that are summed are a pair in the place of one float: two
// channels of a convolution's input, two tiles for the gradient of the weights.
#if HAS_BF16
// One of the two values of each pair, the first of them first.
INLINE void store_half(float *to, vec d, int second) {
    __m512i wide = _mm512_cvtepu16_epi32(rounded(d));
    if (second) wide = _mm512_or_si512(_mm512_slli_epi32(wide, 16), _mm512_loadu_si512(to));
    _mm512_storeu_si512(to, wide);
}
// Pairs of lanes that are next to each other.
INLINE void store_pairs(float *to, vec d) { _mm256_storeu_si256((__m256i *)to, rounded(d)); }
// A value or a pair in each lane.
INLINE vec everywhere(const float *from) { return (vec)_mm512_set1_ps(*from); }
INLINE vec add_product(vec sum, vec one, vec other, int bf16) {
    if (!bf16) return sum + one * other;
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)one, (__m512bh)other);
}
#else
INLINE void store_half(float *to, vec d, int second) { (void)second, store(to, d); }
INLINE void store_pairs(float *to, vec d) { store(to, d); }
INLINE vec everywhere(const float *from) { return *from - (vec){0}; }
INLINE vec add_product(vec sum, vec one, vec other, int bf16) { return (void)bf16, sum + one * other; }
#endif

// In each lane `value`, or 0 where `is` is 0 rather than -1.
INLINE vec where(whole is, vec value) { return (vec)((whole)value & is); }

// What the compiler knows of these vectors. It would otherwise compile a transform twice, for a map and for a pooled one,
// and round the two differently.
#define FORGET(d) __asm__ volatile("" : : "r"(d) : "memory")

// How maps and transformed tiles are stored: both in fp32, or in bf16, where a vector of a tile is half a vector of pairs,
// or the first or the second values of a vector of pairs.
enum { FP32, PAIRS, HALVES };

// `side` x `side` pixels of an image from (top, left) on, A vectors in a row; those outside of it are zeros.
INLINE void gather(vec *d, const void *map, const Map *s, int top, int left, int c, int count, int m,
                   int side, int how) {
    int inside = top >= 0 && left >= 0 && top + side <= s->height && left + side <= s->width;
    for (int i = 0; i < side; i++)
        for (int j = 0; j < side; j++) {
            int y = top + i, x = left + j;
            if (inside || (y >= 0 && x >= 0 && y < s->height && x < s->width))
                d[i * (m + 2) + j] = load_map(map, ((long)y * s->width + x) * s->channels + c, count, how != FP32);
            else
                d[i * (m + 2) + j] = (vec){0};
        }
}
// The same of a pooled map, whose values lie where they were the maximum, among zeros; for the tile in this row and
// column of tiles. The integers of `which` are as wide as a value: bytes would have to be widened, one by one.
INLINE void spread(vec *d, const void *map, const int *which, const Map *s, int row, int column, int c,
                   int count, int m, int side, int padding, int how) {
    const int half = m / 2, height = s->height / 2, width = s->width / 2, across = (width + half - 1) / half;
#pragma GCC unroll 4
    for (int i = -(padding % 2); i < side; i += 2)
#pragma GCC unroll 4
        for (int j = -(padding % 2); j < side; j += 2) {
            // Both dividends are even.
            const int y = row * half + (i - padding) / 2, x = column * half + (j - padding) / 2;
            vec value = {0};
            whole at = {0};
            if (y >= 0 && x >= 0 && y < height && x < width) {
                const int *mark = which + ((long)(y / half) * across + x / half) * s->channels + c;
                value = load_map(map, ((long)y * width + x) * s->channels + c, count, how != FP32);
                at = (whole)load_some((const float *)mark, count) >> 2 * (y % half * half + x % half) & 3;
            }
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++)
                if (i + k / 2 >= 0 && j + k % 2 >= 0 && i + k / 2 < side && j + k % 2 < side)
                    d[(i + k / 2) * (m + 2) + j + k % 2] = where(at == k, value);
        }
}
// Stores the maxima of 2x2 pixels of a tile. As in torch's max-pool, the first of equal ones is taken, and a NaN is
// larger than any number: a training that diverges is to be noticed.
INLINE void pool(const vec *d, void *map, int *mark, const Map *s, int top, int left, int c, int count,
                 int m, int how) {
    whole marks = {0};
#pragma GCC unroll 2
    for (int i = 0; i < m; i += 2)
#pragma GCC unroll 2
        for (int j = 0; j < m; j += 2) {
            const int y = (top + i) / 2, x = (left + j) / 2;
            if (y >= s->height / 2 || x >= s->width / 2) continue;
            vec best = d[i * (m + 2) + j];
            whole at = {0};
            for (int k = 1; k < 4; k++) {
                const vec next = d[(i + k / 2) * (m + 2) + j + k % 2];
                const whole is = (next > best) | (next != next);
                best = (vec)((whole)where(~is, best) | (whole)where(is, next)), at = (at & ~is) | (is & k);
            }
            store_map(map, ((long)y * (s->width / 2) + x) * s->channels + c, best, count, how != FP32);
            marks |= at << 2 * (i / 2 * (m / 2) + j / 2);
        }
    store_some((float *)mark, (vec)marks, count);
}
INLINE int *marks_of(const Map *s, long n) { return s->which + n * s->marks * s->channels; }
INLINE void store_tile(const vec *d, float *to, const Map *s, int c, int m, int how, int second) {
    for (int p = 0; p < (m + 2) * (m + 2); p++) {
        if (how == FP32) store(to + p * s->matrix + c, d[p]);
        else if (how == PAIRS) store_pairs(to + p * s->matrix + c / 2, d[p]);
        else store_half(to + p * s->matrix + c, d[p], second);
    }
}
INLINE void input_tile(const void *map, float *to, const Map *s, long n, int at, int c, int count, int m, int how,
                       int second) {
    const int side = m + 2, row = at / s->across, column = at % s->across;
    vec d[36];
    if (!s->is_pooled)
        gather(d, map, s, row * m - s->padding, column * m - s->padding, c, count, m, side, how);
    else if (s->padding == 1) // a constant makes it faster
        spread(d, map, marks_of(s, n), s, row, column, c, count, m, side, 1, how);
    else
        spread(d, map, marks_of(s, n), s, row, column, c, count, m, side, s->padding, how);
    FORGET(d);
    for (int i = 0; i < side; i++) input_1d(d + i * side, 1, m);
    for (int j = 0; j < side; j++) input_1d(d + j, side, m);
    store_tile(d, to, s, c, m, how, second);
}
INLINE void gradient_tile(const void *map, float *to, const Map *s, long n, int at, int c, int count, int m, int how,
                          int second) {
    const int side = m + 2, row = at / s->across, column = at % s->across;
    vec d[36];
    if (s->is_pooled) spread(d, map, marks_of(s, n), s, row, column, c, count, m, m, 0, how);
    else gather(d, map, s, row * m, column * m, c, count, m, m, how);
    FORGET(d);
    for (int i = 0; i < m; i++) gradient_1d(d + i * side, 1, m);
    for (int j = 0; j < side; j++) gradient_1d(d + j, side, m);
    store_tile(d, to, s, c, m, how, second);
}
INLINE void output_tile(void *map, const float *from, const Map *s, long n, int at, int c, int count, int m, int how,
                        int second) {
    (void)second;
    const int side = m + 2, top = at / s->across * m, left = at % s->across * m;
    vec d[36];
    for (int p = 0; p < side * side; p++) d[p] = load(from + p * s->matrix + c);
    for (int i = 0; i < side; i++) output_1d(d + i * side, 1, m);
    for (int j = 0; j < m; j++) output_1d(d + j, side, m);
    if (s->is_pooled) {
        pool(d, map, marks_of(s, n) + (long)at * s->channels + c, s, top, left, c, count, m, how);
        return;
    }
    int inside = top + m <= s->height && left + m <= s->width;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < m; j++)
            if (inside || (top + i < s->height && left + j < s->width))
                store_map(map, ((long)(top + i) * s->width + left + j) * s->channels + c, d[i * side + j], count,
                          how != FP32);
}

// Transforms tile `t` of a stack of images, all channels; `row` is the tile's first in a block. Tiles of each size and
// storage have code of their own, with loops of constant length: in the functions that OpenMP makes of its loops, m and
// `how` are variables.
#define ALL_CHANNELS(NAME, MAP, ROW, BF16)                                                             \
    INLINE void NAME##_channels(MAP, ROW, const Map *s, long t, int m, int how, int second) {          \
        const long tiles = (long)s->down * s->across, n = t / tiles;                                   \
        const int at = (int)(t % tiles);                                                               \
        int c = 0;                                                                                     \
        map = map_from(map, n * s->pixels * s->channels, how != FP32);                                 \
        for (; c + LANES <= s->channels; c += LANES)                                                   \
            NAME##_tile(map, row, s, n, at, c, LANES, m, how, second);                                 \
        if (c < s->channels) NAME##_tile(map, row, s, n, at, c, s->channels - c, m, how, second);      \
    }                                                                                                  \
    static void NAME##_row(MAP, ROW, const Map *s, long t, int m, int how, int second) {               \
        if (m == 2 && how == FP32) NAME##_channels(map, row, s, t, 2, FP32, 0);                        \
        else if (how == FP32) NAME##_channels(map, row, s, t, 4, FP32, 0);                             \
        BF16                                                                                           \
    }
#define CASE(NAME, HOW)                                                                                \
        else if (HAS_BF16 && m == 2 && how == HOW) NAME##_channels(map, row, s, t, 2, HOW, second);    \
        else if (HAS_BF16 && how == HOW) NAME##_channels(map, row, s, t, 4, HOW, second);
ALL_CHANNELS(input, const void *map, float *row, CASE(input, PAIRS) CASE(input, HALVES))
ALL_CHANNELS(gradient, const void *map, float *row, CASE(gradient, HALVES))
ALL_CHANNELS(output, void *map, const float *row, CASE(output, PAIRS))
