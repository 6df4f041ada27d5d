// Convolutions of random shapes and their gradients, with and without a max-pool behind them, against plain loops in
// double: argv[1] shapes.
#include "winograd.c"
#include "sanitized.h"

// The functions of winograd.c, with maps of a number of values in fp32 here and of the problem's type there.
static void convolve_stored(const float *x, long xs, const float *w, float *y, long ys, int *which, float *scratch,
                            const Problem *p, int turned) {
    void *in = stored(x, xs, p->bf16), *out = stored(y, ys, p->bf16);
    fastconv_convolve(in, w, out, which, scratch, p, turned);
    take(y, out, ys, p->bf16), free(in);
}
static void gradient_stored(const float *x, long xs, const float *dy, long ys, float *dw, int *which, float *scratch,
                            const Problem *p) {
    void *in = stored(x, xs, p->bf16), *of = stored(dy, ys, p->bf16);
    fastconv_weight_gradient(in, of, dw, which, scratch, p);
    free(in), free(of);
}

// The gradient of a convolution [n, h, w, k] from that of the maxima of its 2x2 pixels, by a plain loop.
static float *unpooled(const float *dm, const int *which, int n, int h, int w, int k, int m) {
    float *all = calloc((size_t)n * h * w * k, sizeof(float));
    const int down = (h / 2 * 2 + m - 1) / m, across = (w / 2 * 2 + m - 1) / m, half = m / 2;
    for (int i = 0; i < n; i++)
        for (int y = 0; y < h / 2; y++)
            for (int x = 0; x < w / 2; x++)
                for (int c = 0; c < k; c++) {
                    const int mark = which[((i * down + y / half) * across + x / half) * k + c];
                    const int at = mark >> 2 * (y % half * half + x % half) & 3;
                    all[((i * h + 2 * y + at / 2) * w + 2 * x + at % 2) * k + c] =
                        dm[((i * (h / 2) + y) * (w / 2) + x) * k + c];
                }
    return all;
}
static void equal(const char *name, const float *found, const float *exact, long count, double within, int shape) {
    for (long i = 0; i < count; i++)
        if (!(fabs(found[i] - exact[i]) <= within)) {
            fprintf(stderr, "%s of shape %d differs at %ld: %g and %g\n", name, shape, i, found[i], exact[i]);
            exit(1);
        }
}
// A max-pool within the operations, against one behind them: the same bits. y is the convolution of x.
static void check_pool(const float *x, const float *weight, const float *y, Problem forward, Problem backward,
                       int shape) {
    const int n = forward.images, k = forward.outputs, h = backward.height, w = backward.width, m = forward.m;
    const long ms = (long)n * (h / 2) * (w / 2) * k, xs = (long)n * forward.height * forward.width * forward.inputs;
    const long ws = 9L * forward.inputs * k;
    const long marks = (long)n * ((h / 2 * 2 + m - 1) / m) * ((w / 2 * 2 + m - 1) / m) * k;
    if (!ms) return;
    float *maxima = memory(ms), *dm = noise(ms), *exact = malloc(sizeof(float) * (size_t)ms);
    float *dx = memory(xs), *dw = memory(ws), *ex = memory(xs), *ew = memory(ws);
    int *which = malloc(sizeof(int) * (size_t)marks);
    for (long o = 0; o < ms; o++) {
        const long image = o / k / (w / 2) / (h / 2), row = o / k / (w / 2) % (h / 2) * 2, column = o / k % (w / 2) * 2;
        exact[o] = -INFINITY;
        for (int i = 0; i < 4; i++)
            exact[o] = fmaxf(exact[o], y[((image * h + row + i / 2) * w + column + i % 2) * k + o % k]);
    }
    float *one = memory(fastconv_convolve_floats(&forward)), *two = memory(fastconv_convolve_floats(&backward));
    float *three = memory(fastconv_weight_gradient_floats(&forward));
    if (forward.bf16) round_all(dm, ms);
    forward.pooled = OUTPUTS, backward.pooled = INPUTS;
    convolve_stored(x, xs, weight, maxima, ms, which, one, &forward, 0);
    convolve_stored(dm, ms, weight, dx, xs, which, two, &backward, 1);
    gradient_stored(x, xs, dm, ms, dw, which, three, &forward);
    forward.pooled = backward.pooled = NEITHER;
    float *dy = unpooled(dm, which, n, h, w, k, m);
    const long ys = (long)n * h * w * k;
    convolve_stored(dy, ys, weight, ex, xs, NULL, two, &backward, 1);
    gradient_stored(x, xs, dy, ys, ew, NULL, three, &forward);
    equal("maxima", maxima, exact, ms, 0, shape), equal("maxima's gradient", dx, ex, xs, 0, shape);
    // In bf16 the sums are of pairs of tiles, which are others where the pool leaves some out.
    equal("maxima's weights' gradient", dw, ew, ws, forward.bf16 ? 1e-4 : 0, shape);
    void *all[] = {maxima, dm, exact, dx, dw, ex, ew, which, one, two, three, dy};
    for (int i = 0; i < 12; i++) free(all[i]);
}

int main(int count, char **given) {
    const int shapes = count > 1 ? atoi(given[1]) : 1;
    for (int shape = 0; shape < shapes; shape++) {
        const int padding = draw(0, 1), m = draw(0, 1) ? 2 : 4, threads = draw(1, 3), block = draw(1, 50);
        const int n = draw(1, 5), h = draw(3 - 2 * padding, 14), w = draw(3 - 2 * padding, 14);
        const int c = draw(0, 9) ? draw(1, 40) : draw(1, 600), k = draw(0, 9) ? draw(1, 40) : draw(1, 600);
        const int oh = h + 2 * padding - 2, ow = w + 2 * padding - 2;
        const long xs = (long)n * h * w * c, ys = (long)n * oh * ow * k, ws = 9L * c * k;
        float *x = noise(xs), *weight = noise(ws), *dy = noise(ys), *y = memory(ys), *dx = memory(xs), *dw = memory(ws);
        const int bf16 = HAS_BF16 && draw(0, 1);
        const double limit = bf16 ? 0.05 : 2e-5;
        if (bf16) round_all(x, xs), round_all(dy, ys);
        double *ey = zeros(ys), *ex = zeros(xs), *ew = zeros(ws);
        for (long o = 0; o < ys; o++)
            for (int i = 0; i < 9; i++) {
                const int row = (int)(o / k / ow % oh) + i / 3 - padding, column = (int)(o / k % ow) + i % 3 - padding;
                if (row < 0 || column < 0 || row >= h || column >= w) continue;
                const long from = ((o / k / ow / oh * h + row) * w + column) * c, by = (o % k * 9 + i) * c;
                for (int j = 0; j < c; j++) {
                    ey[o] += (double)x[from + j] * weight[by + j];
                    ex[from + j] += (double)dy[o] * weight[by + j];
                    ew[by + j] += (double)dy[o] * x[from + j];
                }
            }
        Problem forward = {n, h, w, c, k, padding, m, block, threads, NEITHER, bf16};
        Problem backward = {n, oh, ow, k, c, 2 - padding, m, block, threads, NEITHER, bf16};
        float *one = memory(fastconv_convolve_floats(&forward)), *two = memory(fastconv_convolve_floats(&backward));
        float *three = memory(fastconv_weight_gradient_floats(&forward));
        convolve_stored(x, xs, weight, y, ys, NULL, one, &forward, 0);
        convolve_stored(dy, ys, weight, dx, xs, NULL, two, &backward, 1);
        gradient_stored(x, xs, dy, ys, dw, NULL, three, &forward);
        compare("output", y, ey, ys, limit, shape), compare("gradient", dx, ex, xs, limit, shape);
        compare("weights' gradient", dw, ew, ws, limit, shape);
        check_pool(x, weight, y, forward, backward, shape);
        void *all[] = {x, weight, dy, y, dx, dw, ey, ex, ew, one, two, three};
        for (int i = 0; i < 12; i++) free(all[i]);
    }
    printf("%d shapes\n", shapes);
    return 0;
}
