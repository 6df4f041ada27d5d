// Winograd's convolutions F(m x m, 3 x 3), m = 2 or 4, in fp32 or bf16: Lavin & Gray 2015, arXiv 1509.09308.
//
// A map [N, H, W, C] (channels last) is cut into tiles of m x m outputs, row by row, image by image. With A = m + 2, a
// tile needs A x A inputs. With the transforms B, G and A of the paper, and * element by element,
//     Y = A' [(G w G') * (B' x B)] A         the convolution; its gradient of x is one too, with turned weights
//     w's gradient = G' [sum over tiles of (A dY A') * (B' x B)] G
// Summed over channels, or over tiles, each of the A x A elements is a matrix product. A block of tiles is transformed,
// multiplied and transformed back while it is in a core's own cache. This makes it faster than products of whole maps
// by a library, whose transformed maps, 2.25 times as large, go through memory twice: 1.5 to 2.5 times at 64 channels.
//
// Maps and the factors of products are in fp32, or both in bf16, where a product has half as many instructions. Weights,
// sums, and all that is computed between loading and storing are in fp32.
//
// A max-pool of 2x2 pixels may follow. The tiles begin at even pixels, so each 2x2 is of one tile: its maximum is taken
// from the registers, and the gradients' tiles are spread from the pooled map. The map between is never written.
#include "winograd_tiles.h"
#ifdef _OPENMP
#include <omp.h>
#endif

// Rows of a panel of transformed weights.
INLINE int rows_of(const Problem *p, int bf16) { return bf16 ? (p->inputs + 1) / 2 : p->inputs; }
static long weights_size(const Problem *p) { return (long)(p->m + 2) * (p->m + 2) * up(p->outputs, PANEL) * p->inputs; }
static long block_size(const Problem *p) {
    return (long)(p->m + 2) * (p->m + 2) * (map_of(p, 1, NULL).matrix + map_of(p, 0, NULL).matrix) + ROWS * LINE;
}
// The sums of the weights' gradient, A x A matrices [outputs, inputs].
static long sums_size(const Problem *p) { return apart(up(p->outputs, ROWS) * up(p->inputs, LANES)); }

int fastconv_has_bf16(void) { return HAS_BF16; }
// Floats of scratch memory for `fastconv_convolve` and `fastconv_weight_gradient`.
long fastconv_convolve_floats(const Problem *p) { return weights_size(p) + p->threads * up(block_size(p), LINE) + LINE; }
long fastconv_weight_gradient_floats(const Problem *p) {
    return (long)(p->m + 2) * (p->m + 2) * sums_size(p) + block_size(p) + LINE;
}

// c[ROWS, cols vectors] = or += the sum over k of a[i * across + k * along] * b[k * step + ...].
INLINE void product(const float *a, long across, long along, const float *b, long step, float *c, long row, int n,
                    int cols, int add, int bf16) {
    vec sum[ROWS][2];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < cols; j++) sum[i][j] = add ? load(c + i * row + j * LANES) : (vec){0};
    for (int k = 0; k < n; k++) {
        vec first = load(b + k * step), second = cols == 2 ? load(b + k * step + LANES) : first;
        for (int i = 0; i < ROWS; i++) {
            const vec factor = everywhere(a + i * across + k * along);
            sum[i][0] = add_product(sum[i][0], factor, first, bf16);
            if (cols == 2) sum[i][1] = add_product(sum[i][1], factor, second, bf16);
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < cols; j++) store(c + i * row + j * LANES, sum[i][j]);
}

// The same with code of its own for each case: in the functions that OpenMP makes of its loops, `bf16` is a variable.
INLINE void products(const float *a, long across, long along, const float *b, long step, float *c, long row, int n,
                     int cols, int add, int bf16) {
    if (HAS_BF16 && bf16 && cols == 2) product(a, across, along, b, step, c, row, n, 2, add, 1);
    else if (HAS_BF16 && bf16) product(a, across, along, b, step, c, row, n, 1, add, 1);
    else if (cols == 2) product(a, across, along, b, step, c, row, n, 2, add, 0);
    else product(a, across, along, b, step, c, row, n, 1, add, 0);
}

// Transformed weights, A x A matrices of panels [inputs or pairs of them, PANEL], from w [outputs, 3, 3, inputs]; or,
// `turned` by half a turn with inputs and outputs exchanged, from w [inputs, 3, 3, outputs].
INLINE void transform_weights(const float *w, float *to, const Problem *p, int turned, int m, int bf16) {
    const int side = m + 2, kept = turned ? p->inputs : p->outputs, lined = turned ? p->outputs : p->inputs;
    const long panels = up(p->outputs, PANEL) / PANEL, rows = rows_of(p, bf16);
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
                    float *row = to + ((i * panels + c / PANEL) * rows + (bf16 ? k / 2 : k)) * PANEL + c % PANEL;
                    if (bf16) store_half(row, d[i], k % 2);
                    else store(row, d[i]);
                } else {
                    float *column = to + ((i * panels + k / PANEL) * rows + (bf16 ? c / 2 : c)) * PANEL + k % PANEL;
                    if (bf16) store_pairs((float *)&d[i], d[i]);
                    for (int lane = 0; lane < (bf16 ? (count + 1) / 2 : count); lane++)
                        column[(long)lane * PANEL] = d[i][lane];
                }
            }
        }
}

INLINE void convolve(const void *x, const float *w, void *y, int *which, float *scratch, const Problem *p,
                     int turned, int m, int bf16) {
    const Map in = map_of(p, 1, which), out = map_of(p, 0, which);
    const long row = bf16 ? in.row / 2 : in.row;
    const int rows = rows_of(p, bf16);
    const int squares = (m + 2) * (m + 2), panels = (int)(up(p->outputs, PANEL) / PANEL);
    const long tiles = (long)p->images * in.down * in.across;
    float *weights = scratch, *blocks = scratch + up(weights_size(p), LINE);
    transform_weights(w, weights, p, turned, m, bf16);
#pragma omp parallel for schedule(static) num_threads(p->threads)
    for (long t = 0; t < tiles; t += p->block) {
#ifdef _OPENMP
        float *block = blocks + omp_get_thread_num() * up(block_size(p), LINE);
#else
        float *block = blocks;
#endif
        float *results = block + squares * in.matrix;
        const int n = least(p->block, tiles - t), full = (int)up(n, ROWS);
        for (int i = 0; i < n; i++) input_row(x, block + i * row, &in, t + i, m, bf16 ? PAIRS : FP32, 0);
        for (int q = 0; q < squares; q++) {
            memset(block + q * in.matrix + n * row, 0, sizeof(float) * (size_t)((full - n) * row));
            for (int panel = 0; panel < panels; panel++) {
                const float *factor = weights + ((long)q * panels + panel) * rows * PANEL;
                float *to = results + q * out.matrix + panel * PANEL;
                const int cols = p->outputs - panel * PANEL > LANES ? 2 : 1;
                for (int i = 0; i < n; i += ROWS) {
                    const float *of = block + q * in.matrix + i * row;
                    products(of, row, 1, factor, PANEL, to + i * out.row, out.row, rows, cols, 0, bf16);
                }
            }
        }
        for (int i = 0; i < n; i++) output_row(y, results + i * out.row, &out, t + i, m, bf16 ? PAIRS : FP32, 0);
    }
}

// The sums are shared, and each is one thread's, in the order of the tiles: the number of threads changes no bit.
INLINE void weight_gradient(const void *x, const void *dy, float *dw, int *which, float *scratch,
                            const Problem *p, int m, int bf16) {
    const Map in = map_of(p, 1, which), out = map_of(p, 0, which);
    const int side = m + 2, squares = side * side, groups = (p->outputs + ROWS - 1) / ROWS;
    const long tiles = (long)p->images * in.down * in.across, size = sums_size(p);
    float *sums = scratch, *block = scratch + squares * size, *gradients = block + squares * in.matrix;
#pragma omp parallel num_threads(p->threads)
    for (long t = 0; t < tiles; t += p->block) {
        const int n = least(p->block, tiles - t), step = bf16 ? 2 : 1, rows = (n + step - 1) / step;
#pragma omp for schedule(static)
        for (int pair = 0; pair < rows; pair++)
            for (int i = pair * step; i < least(pair * step + step, n); i++) {
                input_row(x, block + pair * in.row, &in, t + i, m, bf16 ? HALVES : FP32, i % 2);
                gradient_row(dy, gradients + pair * out.row, &out, t + i, m, bf16 ? HALVES : FP32, i % 2);
            }
#pragma omp for schedule(static)
        for (int item = 0; item < squares * groups; item++) {
            const int q = item / groups, k = item % groups * ROWS;
            float *to = sums + q * size + k * in.row;
            const float *from = gradients + q * out.matrix + k, *columns = block + q * in.matrix;
            if (t == 0) memset(to, 0, sizeof(float) * (size_t)(ROWS * in.row));
            for (int c = 0; c < in.row; c += PANEL)
                products(from, 1, out.row, columns + c, in.row, to + c, in.row, rows, c + PANEL <= in.row ? 2 : 1, 1, bf16);
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
void fastconv_convolve(const void *x, const float *w, void *y, int *which, float *scratch, const Problem *p,
                       int turned) {
    if (p->m == 2 && p->bf16 && HAS_BF16) convolve(x, w, y, which, scratch, p, turned, 2, 1);
    else if (p->m == 2) convolve(x, w, y, which, scratch, p, turned, 2, 0);
    else if (p->bf16 && HAS_BF16) convolve(x, w, y, which, scratch, p, turned, 4, 1);
    else convolve(x, w, y, which, scratch, p, turned, 4, 0);
}
// dw [outputs, 3, 3, inputs] from x and the gradient dy of the output; with OUTPUTS `pooled`, from that of the maxima.
void fastconv_weight_gradient(const void *x, const void *dy, float *dw, int *which, float *scratch,
                              const Problem *p) {
    if (p->m == 2 && p->bf16 && HAS_BF16) weight_gradient(x, dy, dw, which, scratch, p, 2, 1);
    else if (p->m == 2) weight_gradient(x, dy, dw, which, scratch, p, 2, 0);
    else if (p->bf16 && HAS_BF16) weight_gradient(x, dy, dw, which, scratch, p, 4, 1);
    else weight_gradient(x, dy, dw, which, scratch, p, 4, 0);
}
