// Winograd's convolutions F(m x m, 3 x 3), m = 2 or 4, in fp32: Lavin & Gray 2015, arXiv 1509.09308.
//
// A map [N, H, W, C] (channels last) is cut into tiles of m x m outputs, row by row, image by image. With A = m + 2, a
// tile needs A x A inputs. With the transforms B, G and A of the paper, and * element by element,
//     Y = A' [(G w G') * (B' x B)] A         the convolution; its gradient of x is one too, with turned weights
//     w's gradient = G' [sum over tiles of (A dY A') * (B' x B)] G
// Summed over channels, or over tiles, each of the A x A elements is a matrix product. A block of tiles is transformed,
// multiplied and transformed back while it is in a core's own cache. This makes it faster than products of whole maps
// by a library, whose transformed maps, 2.25 times as large, go through memory twice: 1.5 to 2.5 times at 64 channels.
//
// A max-pool of 2x2 pixels may follow. The tiles begin at even pixels, so each 2x2 is of one tile: its maximum is taken
// from the registers, and the gradients' tiles are spread from the pooled map. The map between is never written.
#include "vectors.h"
#ifdef _OPENMP
#include <omp.h>
#endif

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
} Problem;
enum { NEITHER, OUTPUTS, INPUTS };

// A map, cut into tiles, and its transformed block: A x A matrices of `block` rows.
typedef struct {
    int height, width, channels, down, across, padding;
    int is_pooled;    // the memory has the maxima of 2x2 pixels, [height / 2, width / 2]
    int *which;       // of the four a maximum is, row by row, in 2 bits: those of a tile's maxima, row by row, together
    long pixels, marks; // of an image in memory, in which
    long row, matrix; // floats between the tiles of a matrix, and between matrices
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
static long weights_size(const Problem *p) { return (long)(p->m + 2) * (p->m + 2) * up(p->outputs, PANEL) * p->inputs; }
static long block_size(const Problem *p) {
    return (long)(p->m + 2) * (p->m + 2) * (map_of(p, 1, NULL).matrix + map_of(p, 0, NULL).matrix) + ROWS * LINE;
}
// The sums of the weights' gradient, A x A matrices [outputs, inputs].
static long sums_size(const Problem *p) { return apart(up(p->outputs, ROWS) * up(p->inputs, LANES)); }

// Floats of scratch memory for `fastconv_convolve` and `fastconv_weight_gradient`.
long fastconv_convolve_floats(const Problem *p) { return weights_size(p) + p->threads * up(block_size(p), LINE) + LINE; }
long fastconv_weight_gradient_floats(const Problem *p) {
    return (long)(p->m + 2) * (p->m + 2) * sums_size(p) + block_size(p) + LINE;
}

// In each lane `value`, or 0 where `is` is 0 rather than -1.
INLINE vec where(whole is, vec value) { return (vec)((whole)value & is); }

// One dimension of each transform, in place, of the vectors d[0], d[s], d[2 s], ...

INLINE void input_1d(vec *d, int s, int m) { // B'
    vec a = d[0], b = d[s], c = d[2 * s], e = d[3 * s];
    if (m == 2) {
        d[0] = a - c, d[s] = b + c, d[2 * s] = c - b, d[3 * s] = b - e;
    } else {
        vec f = d[4 * s], g = d[5 * s], p = f - 4 * c, q = e - 4 * b, r = f - c, t = 2 * (e - b);
        d[0] = 4 * a - 5 * c + f, d[s] = p + q, d[2 * s] = p - q, d[3 * s] = r + t, d[4 * s] = r - t;
        d[5 * s] = 4 * b - 5 * e + g;
    }
}
INLINE void output_1d(vec *d, int s, int m) { // A'
    vec a = d[0], b = d[s], c = d[2 * s], e = d[3 * s];
    if (m == 2) {
        d[0] = a + b + c, d[s] = b - c - e;
    } else {
        vec f = d[4 * s], g = d[5 * s], p = b + c, q = b - c, r = e + f, t = e - f;
        d[0] = a + p + r, d[s] = q + 2 * t, d[2 * s] = p + 4 * r, d[3 * s] = q + 8 * t + g;
    }
}
INLINE void gradient_1d(vec *d, int s, int m) { // A
    vec a = d[0], b = d[s];
    if (m == 2) {
        d[s] = a + b, d[2 * s] = a - b, d[3 * s] = -b;
    } else {
        vec c = d[2 * s], e = d[3 * s], p = a + c, q = b + e, r = a + 4 * c, t = 2 * b + 8 * e;
        d[s] = p + q, d[2 * s] = p - q, d[3 * s] = r + t, d[4 * s] = r - t, d[5 * s] = e;
    }
}
INLINE void weight_1d(vec *d, int s, int m) { // G
    vec a = d[0], b = d[s], c = d[2 * s];
    if (m == 2) {
        vec p = 0.5f * (a + c), q = 0.5f * b;
        d[s] = p + q, d[2 * s] = p - q, d[3 * s] = c;
    } else {
        vec p = (a + c) * (-1.0f / 6), q = b * (1.0f / 6), r = a * (1.0f / 24) + c * (1.0f / 6), t = b * (1.0f / 12);
        d[0] = 0.25f * a, d[s] = p - q, d[2 * s] = p + q, d[3 * s] = r + t, d[4 * s] = r - t, d[5 * s] = c;
    }
}
INLINE void weight_gradient_1d(vec *d, int s, int m) { // G'
    vec a = d[0], p = d[s] + d[2 * s], q = d[s] - d[2 * s];
    if (m == 2) {
        d[0] = a + 0.5f * p, d[s] = 0.5f * q, d[2 * s] = 0.5f * p + d[3 * s];
    } else {
        vec r = d[3 * s] + d[4 * s], t = d[3 * s] - d[4 * s];
        d[0] = 0.25f * a - p * (1.0f / 6) + r * (1.0f / 24), d[s] = t * (1.0f / 12) - q * (1.0f / 6);
        d[2 * s] = (r - p) * (1.0f / 6) + d[5 * s];
    }
}

// What the compiler knows of these vectors. It would otherwise compile a transform twice, for a map and for a pooled one,
// and round the two differently.
#define FORGET(d) __asm__ volatile("" : : "r"(d) : "memory")

// `side` x `side` pixels of an image from (top, left) on, A vectors in a row; those outside of it are zeros.
INLINE void gather(vec *d, const float *image, const Map *s, int top, int left, int c, int count, int m, int side) {
    int inside = top >= 0 && left >= 0 && top + side <= s->height && left + side <= s->width;
    for (int i = 0; i < side; i++)
        for (int j = 0; j < side; j++) {
            int y = top + i, x = left + j;
            if (inside || (y >= 0 && x >= 0 && y < s->height && x < s->width))
                d[i * (m + 2) + j] = load_some(image + ((long)y * s->width + x) * s->channels + c, count);
            else
                d[i * (m + 2) + j] = (vec){0};
        }
}
// The same of a pooled map, whose values lie where they were the maximum, among zeros; for the tile in this row and
// column of tiles. The integers of `which` are as wide as a value: bytes would have to be widened, one by one.
INLINE void spread(vec *d, const float *image, const int *which, const Map *s, int row, int column, int c, int count,
                   int m, int side, int padding) {
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
                value = load_some(image + ((long)y * width + x) * s->channels + c, count);
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
INLINE void pool(const vec *d, float *image, int *mark, const Map *s, int top, int left, int c, int count, int m) {
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
            store_some(image + ((long)y * (s->width / 2) + x) * s->channels + c, best, count);
            marks |= at << 2 * (i / 2 * (m / 2) + j / 2);
        }
    store_some((float *)mark, (vec)marks, count);
}
INLINE int *marks_of(const Map *s, long n) { return s->which + n * s->marks * s->channels; }
INLINE void input_tile(const float *image, float *to, const Map *s, long n, int at, int c, int count, int m) {
    const int side = m + 2, row = at / s->across, column = at % s->across;
    vec d[36];
    if (!s->is_pooled)
        gather(d, image, s, row * m - s->padding, column * m - s->padding, c, count, m, side);
    else if (s->padding == 1) // a constant makes it faster
        spread(d, image, marks_of(s, n), s, row, column, c, count, m, side, 1);
    else
        spread(d, image, marks_of(s, n), s, row, column, c, count, m, side, s->padding);
    FORGET(d);
    for (int i = 0; i < side; i++) input_1d(d + i * side, 1, m);
    for (int j = 0; j < side; j++) input_1d(d + j, side, m);
    for (int p = 0; p < side * side; p++) store(to + p * s->matrix + c, d[p]);
}
INLINE void gradient_tile(const float *image, float *to, const Map *s, long n, int at, int c, int count, int m) {
    const int side = m + 2, row = at / s->across, column = at % s->across;
    vec d[36];
    if (s->is_pooled) spread(d, image, marks_of(s, n), s, row, column, c, count, m, m, 0);
    else gather(d, image, s, row * m, column * m, c, count, m, m);
    FORGET(d);
    for (int i = 0; i < m; i++) gradient_1d(d + i * side, 1, m);
    for (int j = 0; j < side; j++) gradient_1d(d + j, side, m);
    for (int p = 0; p < side * side; p++) store(to + p * s->matrix + c, d[p]);
}
INLINE void output_tile(float *image, const float *from, const Map *s, long n, int at, int c, int count, int m) {
    const int side = m + 2, top = at / s->across * m, left = at % s->across * m;
    vec d[36];
    for (int p = 0; p < side * side; p++) d[p] = load(from + p * s->matrix + c);
    for (int i = 0; i < side; i++) output_1d(d + i * side, 1, m);
    for (int j = 0; j < m; j++) output_1d(d + j, side, m);
    if (s->is_pooled) {
        pool(d, image, marks_of(s, n) + (long)at * s->channels + c, s, top, left, c, count, m);
        return;
    }
    int inside = top + m <= s->height && left + m <= s->width;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < m; j++)
            if (inside || (top + i < s->height && left + j < s->width))
                store_some(image + ((long)(top + i) * s->width + left + j) * s->channels + c, d[i * side + j], count);
}

// Transforms tile `t` of a stack of images, all channels; `row` is the tile's first in a block. Tiles of each size have
// code of their own, with loops of constant length: in the functions that OpenMP makes of its loops, m is a variable.
#define ALL_CHANNELS(NAME, MAP, ROW)                                                           \
    INLINE void NAME##_channels(MAP, ROW, const Map *s, long n, int at, int m) {               \
        int c = 0;                                                                             \
        map += n * s->pixels * s->channels;                                                    \
        for (; c + LANES <= s->channels; c += LANES)                                           \
            NAME##_tile(map, row, s, n, at, c, LANES, m);                                      \
        if (c < s->channels) NAME##_tile(map, row, s, n, at, c, s->channels - c, m);           \
    }                                                                                          \
    static void NAME##_row(MAP, ROW, const Map *s, long t, int m) {                            \
        const long tiles = (long)s->down * s->across, n = t / tiles;                           \
        if (m == 2) NAME##_channels(map, row, s, n, (int)(t % tiles), 2);                      \
        else NAME##_channels(map, row, s, n, (int)(t % tiles), 4);                             \
    }
ALL_CHANNELS(input, const float *map, float *row)
ALL_CHANNELS(gradient, const float *map, float *row)
ALL_CHANNELS(output, float *map, const float *row)

// c[ROWS, cols vectors] = or += the sum over k of a[i * across + k * along] * b[k * step + ...].
INLINE void product(const float *a, long across, long along, const float *b, long step, float *c, long row, int n,
                    int cols, int add) {
    vec sum[ROWS][2];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < cols; j++) sum[i][j] = add ? load(c + i * row + j * LANES) : (vec){0};
    for (int k = 0; k < n; k++) {
        vec first = load(b + k * step), second = cols == 2 ? load(b + k * step + LANES) : first;
        for (int i = 0; i < ROWS; i++) {
            float factor = a[i * across + k * along];
            sum[i][0] += factor * first;
            if (cols == 2) sum[i][1] += factor * second;
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < cols; j++) store(c + i * row + j * LANES, sum[i][j]);
}

// Transformed weights, A x A matrices of panels [inputs, PANEL], from w [outputs, 3, 3, inputs]; or, `turned` by half a
// turn with inputs and outputs exchanged, from w [inputs, 3, 3, outputs].
INLINE void transform_weights(const float *w, float *to, const Problem *p, int turned, int m) {
    const int side = m + 2, kept = turned ? p->inputs : p->outputs, lined = turned ? p->outputs : p->inputs;
    const long panels = up(p->outputs, PANEL) / PANEL;
#pragma omp parallel for schedule(static) num_threads(p->threads)
    for (int c = 0; c < lined; c += LANES) // channels next to each other in memory, a vector at once
        for (int k = 0; k < (turned ? kept : (int)up(kept, LANES)); k++) {
            vec d[36] = {{0}};
            int count = least(LANES, lined - c);
            for (int i = 0; i < 9 && k < kept; i++)
                d[i / 3 * side + i % 3] = load_some(w + ((long)k * 9 + (turned ? 8 - i : i)) * lined + c, count);
            for (int i = 0; i < 3; i++) weight_1d(d + i * side, 1, m);
            for (int j = 0; j < side; j++) weight_1d(d + j, side, m);
            for (int i = 0; i < side * side; i++) {
                if (turned) {
                    store(to + ((i * panels + c / PANEL) * kept + k) * PANEL + c % PANEL, d[i]);
                } else {
                    float *column = to + ((i * panels + k / PANEL) * lined + c) * PANEL + k % PANEL;
                    for (int lane = 0; lane < count; lane++) column[(long)lane * PANEL] = d[i][lane];
                }
            }
        }
}

INLINE void convolve(const float *x, const float *w, float *y, int *which, float *scratch, const Problem *p,
                     int turned, int m) {
    const Map in = map_of(p, 1, which), out = map_of(p, 0, which);
    const int squares = (m + 2) * (m + 2), panels = (int)(up(p->outputs, PANEL) / PANEL);
    const long tiles = (long)p->images * in.down * in.across;
    float *weights = scratch, *blocks = scratch + up(weights_size(p), LINE);
    transform_weights(w, weights, p, turned, m);
#pragma omp parallel for schedule(static) num_threads(p->threads)
    for (long t = 0; t < tiles; t += p->block) {
#ifdef _OPENMP
        float *block = blocks + omp_get_thread_num() * up(block_size(p), LINE);
#else
        float *block = blocks;
#endif
        float *results = block + squares * in.matrix;
        const int n = least(p->block, tiles - t), full = (int)up(n, ROWS);
        for (int i = 0; i < n; i++) input_row(x, block + i * in.row, &in, t + i, m);
        for (int q = 0; q < squares; q++) {
            memset(block + q * in.matrix + n * in.row, 0, sizeof(float) * (size_t)((full - n) * in.row));
            for (int panel = 0; panel < panels; panel++) {
                const float *factor = weights + ((long)q * panels + panel) * p->inputs * PANEL;
                float *to = results + q * out.matrix + panel * PANEL;
                const int cols = p->outputs - panel * PANEL > LANES ? 2 : 1;
                for (int i = 0; i < n; i += ROWS) {
                    const float *rows = block + q * in.matrix + i * in.row;
                    if (cols == 2)
                        product(rows, in.row, 1, factor, PANEL, to + i * out.row, out.row, p->inputs, 2, 0);
                    else
                        product(rows, in.row, 1, factor, PANEL, to + i * out.row, out.row, p->inputs, 1, 0);
                }
            }
        }
        for (int i = 0; i < n; i++) output_row(y, results + i * out.row, &out, t + i, m);
    }
}

// The sums are shared, and each is one thread's, in the order of the tiles: the number of threads changes no bit.
INLINE void weight_gradient(const float *x, const float *dy, float *dw, int *which, float *scratch,
                            const Problem *p, int m) {
    const Map in = map_of(p, 1, which), out = map_of(p, 0, which);
    const int side = m + 2, squares = side * side, groups = (p->outputs + ROWS - 1) / ROWS;
    const long tiles = (long)p->images * in.down * in.across, size = sums_size(p);
    float *sums = scratch, *block = scratch + squares * size, *gradients = block + squares * in.matrix;
#pragma omp parallel num_threads(p->threads)
    for (long t = 0; t < tiles; t += p->block) {
        const int n = least(p->block, tiles - t);
#pragma omp for schedule(static)
        for (int i = 0; i < n; i++) {
            input_row(x, block + i * in.row, &in, t + i, m);
            gradient_row(dy, gradients + i * out.row, &out, t + i, m);
        }
#pragma omp for schedule(static)
        for (int item = 0; item < squares * groups; item++) {
            const int q = item / groups, k = item % groups * ROWS;
            float *to = sums + q * size + k * in.row;
            const float *rows = gradients + q * out.matrix + k, *columns = block + q * in.matrix;
            if (t == 0) memset(to, 0, sizeof(float) * (size_t)(ROWS * in.row));
            int c = 0;
            for (; c + PANEL <= in.row; c += PANEL)
                product(rows, 1, out.row, columns + c, in.row, to + c, in.row, n, 2, 1);
            if (c < in.row) product(rows, 1, out.row, columns + c, in.row, to + c, in.row, n, 1, 1);
        }
    }
#pragma omp parallel for schedule(static) num_threads(p->threads)
    for (int k = 0; k < p->outputs; k++)
        for (int c = 0; c < p->inputs; c += LANES) {
            vec d[36];
            for (int q = 0; q < squares; q++) d[q] = load(sums + q * size + k * in.row + c);
            for (int i = 0; i < side; i++) weight_gradient_1d(d + i * side, 1, m);
            for (int j = 0; j < 3; j++) weight_gradient_1d(d + j, side, m);
            for (int i = 0; i < 9; i++)
                store_some(dw + ((long)k * 9 + i) * p->inputs + c, d[i / 3 * side + i % 3], least(LANES, p->inputs - c));
        }
}

// y [images, outputs' height, width, outputs] of x [images, height, width, inputs], weights [outputs, 3, 3, inputs].
// With `turned`, the weights are [inputs, 3, 3, outputs], and this is the gradient of their convolution's input, from
// the gradient x of its output; `padding` is 2 less that of the convolution.
// With OUTPUTS `pooled`, y is [images, outputs' height / 2, width / 2, outputs], and `which` is [images, rows of tiles,
// columns of tiles, outputs]. With INPUTS so are x and `which`, of inputs; height and width are those before the pool.
void fastconv_convolve(const float *x, const float *w, float *y, int *which, float *scratch, const Problem *p,
                       int turned) {
    if (p->m == 2) convolve(x, w, y, which, scratch, p, turned, 2);
    else convolve(x, w, y, which, scratch, p, turned, 4);
}
// dw [outputs, 3, 3, inputs] from x and the gradient dy of the output; with OUTPUTS `pooled`, from that of the maxima.
void fastconv_weight_gradient(const float *x, const float *dy, float *dw, int *which, float *scratch,
                              const Problem *p) {
    if (p->m == 2) weight_gradient(x, dy, dw, which, scratch, p, 2);
    else weight_gradient(x, dy, dw, which, scratch, p, 4);
}
