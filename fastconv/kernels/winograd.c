// Winograd's convolutions F(m x m, 3 x 3), m = 2 or 4, in fp32: Lavin & Gray 2015, arXiv 1509.09308.
//
// A map [N, H, W, C] (channels last) is cut into tiles of m x m outputs, row by row, image by image. With A = m + 2, a
// tile needs A x A inputs. With the transforms B, G and A of the paper, and * element by element,
//     Y = A' [(G w G') * (B' x B)] A         the convolution; its gradient of x is one too, with turned weights
//     w's gradient = G' [sum over tiles of (A dY A') * (B' x B)] G
// Summed over channels, or over tiles, each of the A x A elements is a matrix product. A block of tiles is transformed,
// multiplied and transformed back while it is in a core's own cache. This makes it faster than products of whole maps
// by a library, whose transformed maps, 2.25 times as large, go through memory twice: 1.5 to 2.5 times at 64 channels.
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

// fastconv/kernels/library.py has the same fields.
typedef struct {
    int images, height, width, inputs, outputs, padding; // of the convolution whose result is computed
    int m, block, threads;                               // tiles of a block, computed at once
} Problem;

// A map, cut into tiles, and its transformed block: A x A matrices of `block` rows.
typedef struct {
    int height, width, channels, down, across, padding;
    long row, matrix; // floats between the tiles of a matrix, and between matrices
} Map;

// An odd number of cache lines apart, matrices fall into different sets of a cache.
INLINE long apart(long floats) { return (up(floats, LINE) / LINE | 1) * LINE; }

static Map map_of(const Problem *p, int is_input) {
    Map s = {p->height, p->width, p->inputs, 0, 0, p->padding, 0, 0};
    int height = p->height + 2 * p->padding - 2, width = p->width + 2 * p->padding - 2;
    s.down = (height + p->m - 1) / p->m, s.across = (width + p->m - 1) / p->m;
    if (!is_input) s.height = height, s.width = width, s.channels = p->outputs, s.padding = 0;
    s.row = up(s.channels, LANES);
    s.matrix = apart(up(p->block, ROWS) * s.row);
    return s;
}
static long weights_size(const Problem *p) { return (long)(p->m + 2) * (p->m + 2) * up(p->outputs, PANEL) * p->inputs; }
static long block_size(const Problem *p) {
    return (long)(p->m + 2) * (p->m + 2) * (map_of(p, 1).matrix + map_of(p, 0).matrix) + ROWS * LINE;
}
// The sums of the weights' gradient, A x A matrices [outputs, inputs].
static long sums_size(const Problem *p) { return apart(up(p->outputs, ROWS) * up(p->inputs, LANES)); }

// Floats of scratch memory for `fastconv_convolve` and `fastconv_weight_gradient`.
long fastconv_convolve_floats(const Problem *p) { return weights_size(p) + p->threads * up(block_size(p), LINE) + LINE; }
long fastconv_weight_gradient_floats(const Problem *p) {
    return (long)(p->m + 2) * (p->m + 2) * sums_size(p) + block_size(p) + LINE;
}

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
INLINE void input_tile(const float *image, float *to, const Map *s, int at, int c, int count, int m) {
    const int side = m + 2;
    vec d[36];
    gather(d, image, s, at / s->across * m - s->padding, at % s->across * m - s->padding, c, count, m, side);
    for (int i = 0; i < side; i++) input_1d(d + i * side, 1, m);
    for (int j = 0; j < side; j++) input_1d(d + j, side, m);
    for (int p = 0; p < side * side; p++) store(to + p * s->matrix + c, d[p]);
}
INLINE void gradient_tile(const float *image, float *to, const Map *s, int at, int c, int count, int m) {
    const int side = m + 2;
    vec d[36];
    gather(d, image, s, at / s->across * m, at % s->across * m, c, count, m, m);
    for (int i = 0; i < m; i++) gradient_1d(d + i * side, 1, m);
    for (int j = 0; j < side; j++) gradient_1d(d + j, side, m);
    for (int p = 0; p < side * side; p++) store(to + p * s->matrix + c, d[p]);
}
INLINE void output_tile(const float *from, float *image, const Map *s, int at, int c, int count, int m) {
    const int side = m + 2, top = at / s->across * m, left = at % s->across * m;
    vec d[36];
    for (int p = 0; p < side * side; p++) d[p] = load(from + p * s->matrix + c);
    for (int i = 0; i < side; i++) output_1d(d + i * side, 1, m);
    for (int j = 0; j < m; j++) output_1d(d + j, side, m);
    int inside = top + m <= s->height && left + m <= s->width;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < m; j++)
            if (inside || (top + i < s->height && left + j < s->width))
                store_some(image + ((long)(top + i) * s->width + left + j) * s->channels + c, d[i * side + j], count);
}

// Transforms tile `t` of a stack of images, all channels; `row` is the tile's first in a block.
#define ALL_CHANNELS(NAME, FROM, TO)                                                               \
    INLINE void NAME##_row(FROM, TO, const Map *s, long t, int m) {                                \
        const long tiles = (long)s->down * s->across;                                              \
        const long offset = t / tiles * s->height * s->width * s->channels;                        \
        int c = 0, at = (int)(t % tiles);                                                          \
        for (; c + LANES <= s->channels; c += LANES) NAME##_tile(FIRST, s, at, c, LANES, m);       \
        if (c < s->channels) NAME##_tile(FIRST, s, at, c, s->channels - c, m);                     \
    }
#define FIRST map + offset, row
ALL_CHANNELS(input, const float *map, float *row)
ALL_CHANNELS(gradient, const float *map, float *row)
#undef FIRST
#define FIRST row, map + offset
ALL_CHANNELS(output, const float *row, float *map)

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

INLINE void convolve(const float *x, const float *w, float *y, float *scratch, const Problem *p, int turned, int m) {
    const Map in = map_of(p, 1), out = map_of(p, 0);
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
        const int n = least(p->block, tiles - t), whole = (int)up(n, ROWS);
        for (int i = 0; i < n; i++) input_row(x, block + i * in.row, &in, t + i, m);
        for (int q = 0; q < squares; q++) {
            memset(block + q * in.matrix + n * in.row, 0, sizeof(float) * (size_t)((whole - n) * in.row));
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
        for (int i = 0; i < n; i++) output_row(results + i * out.row, y, &out, t + i, m);
    }
}

// The sums are shared, and each is one thread's, in the order of the tiles: the number of threads changes no bit.
INLINE void weight_gradient(const float *x, const float *dy, float *dw, float *scratch, const Problem *p, int m) {
    const Map in = map_of(p, 1), out = map_of(p, 0);
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
void fastconv_convolve(const float *x, const float *w, float *y, float *scratch, const Problem *p, int turned) {
    if (p->m == 2) convolve(x, w, y, scratch, p, turned, 2);
    else convolve(x, w, y, scratch, p, turned, 4);
}
// dw [outputs, 3, 3, inputs] from x and the gradient dy of the output.
void fastconv_weight_gradient(const float *x, const float *dy, float *dw, float *scratch, const Problem *p) {
    if (p->m == 2) weight_gradient(x, dy, dw, scratch, p, 2);
    else weight_gradient(x, dy, dw, scratch, p, 4);
}
