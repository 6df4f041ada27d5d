// Convolutions of random shapes and their gradients, against plain loops in double: argv[1] shapes.
#include "winograd.c"
#include "sanitized.h"

int main(int count, char **given) {
    const int shapes = count > 1 ? atoi(given[1]) : 1;
    for (int shape = 0; shape < shapes; shape++) {
        const int padding = draw(0, 1), m = draw(0, 1) ? 2 : 4, threads = draw(1, 3), block = draw(1, 50);
        const int n = draw(1, 5), h = draw(3 - 2 * padding, 14), w = draw(3 - 2 * padding, 14);
        const int c = draw(0, 9) ? draw(1, 40) : draw(1, 600), k = draw(0, 9) ? draw(1, 40) : draw(1, 600);
        const int oh = h + 2 * padding - 2, ow = w + 2 * padding - 2;
        const long xs = (long)n * h * w * c, ys = (long)n * oh * ow * k, ws = 9L * c * k;
        float *x = noise(xs), *weight = noise(ws), *dy = noise(ys), *y = memory(ys), *dx = memory(xs), *dw = memory(ws);
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
        Problem forward = {n, h, w, c, k, padding, m, block, threads};
        Problem backward = {n, oh, ow, k, c, 2 - padding, m, block, threads};
        float *one = memory(fastconv_convolve_floats(&forward)), *two = memory(fastconv_convolve_floats(&backward));
        float *three = memory(fastconv_weight_gradient_floats(&forward));
        fastconv_convolve(x, weight, y, one, &forward, 0);
        fastconv_convolve(dy, weight, dx, two, &backward, 1);
        fastconv_weight_gradient(x, dy, dw, three, &forward);
        compare("output", y, ey, ys, shape), compare("gradient", dx, ex, xs, shape);
        compare("weights' gradient", dw, ew, ws, shape);
        void *all[] = {x, weight, dy, y, dx, dw, ey, ex, ew, one, two, three};
        for (int i = 0; i < 12; i++) free(all[i]);
    }
    printf("%d shapes\n", shapes);
    return 0;
}
