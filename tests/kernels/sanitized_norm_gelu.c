// Batch norms with GELU of random shapes and their gradients, against plain loops in double: argv[1] shapes.
#include "norm_gelu.c"
#include "sanitized.h"

static double phi(double z) { return 0.5 * erfc(-z / sqrt(2)); }
static double slope(double z) { return phi(z) + z * exp(-z * z / 2) / sqrt(2 * M_PI); }

int main(int count, char **given) {
    const int shapes = count > 1 ? atoi(given[1]) : 1;
    const float eps = 1e-5f;
    for (int shape = 0; shape < shapes; shape++) {
        const int rows = draw(0, 3) ? draw(3, 150) : draw(3, 700), c = draw(0, 9) ? draw(1, 40) : draw(1, 600);
        const int bf16 = HAS_BF16 && draw(0, 1);
        const Maps m = {rows, c, draw(0, 3) > 0, draw(1, 3), bf16};
        const long size = (long)rows * c;
        float *x = noise(size), *dy = noise(size), *bias = noise(c), *y = memory(size), *dx = memory(size);
        float *plain = memory(size), *sloped = memory(size), *dbias = memory(c), *statistics = memory(4L * c);
        float *one = memory(fastconv_norm_floats(&m)), *two = memory(fastconv_norm_floats(&m));
        const double limit = bf16 ? 0.01 : 2e-5;
        if (bf16) round_all(x, size), round_all(dy, size);
        double *ey = zeros(size), *ex = zeros(size), *eb = zeros(c), *eg = zeros(size), *es = zeros(size);
        for (int j = 0; j < c; j++) {
            double mean = 0, squares = 0, product = 0;
            for (int i = 0; i < rows; i++) mean += x[(long)i * c + j] / (double)rows;
            for (int i = 0; i < rows; i++) squares += pow(x[(long)i * c + j] - mean, 2) / rows;
            const double scale = 1 / sqrt(squares + eps);
            for (int i = 0; i < rows; i++) {
                const long at = (long)i * c + j;
                const double n = (x[at] - mean) * scale, e = dy[at] * slope(n + bias[j]);
                ey[at] = (n + bias[j]) * phi(n + bias[j]), eb[j] += e, product += e * n;
                eg[at] = x[at] * phi(x[at]), es[at] = dy[at] * slope(x[at]);
            }
            for (int i = 0; i < rows; i++) {
                const long at = (long)i * c + j;
                const double n = (x[at] - mean) * scale, e = dy[at] * slope(n + bias[j]);
                ex[at] = scale * (m.training ? e - eb[j] / rows - n * product / rows : e);
            }
        }
        void *of = stored(dy, size, bf16), *from = stored(x, size, bf16), *to[4];
        float *results[] = {y, dx, plain, sloped};
        for (int i = 0; i < 4; i++) to[i] = stored(results[i], size, bf16);
        fastconv_norm_statistics(from, statistics, one, &m, eps);
        fastconv_norm_gelu(from, bias, statistics, to[0], &m);
        fastconv_norm_gelu_gradient(of, from, bias, statistics, to[1], dbias, two, &m);
        fastconv_gelu(from, to[2], size, m.threads, bf16);
        fastconv_gelu_gradient(of, from, to[3], size, m.threads, bf16);
        for (int i = 0; i < 4; i++) take(results[i], to[i], size, bf16);
        free(of), free(from);
        compare("output", y, ey, size, limit, shape), compare("gradient", dx, ex, size, limit, shape);
        compare("bias's gradient", dbias, eb, c, 2e-5, shape);
        compare("GELU", plain, eg, size, limit, shape), compare("GELU's gradient", sloped, es, size, limit, shape);
        void *all[] = {x, dy, bias, y, dx, plain, sloped, dbias, statistics, one, two, ey, ex, eb, eg, es};
        for (int i = 0; i < 16; i++) free(all[i]);
    }
    printf("%d shapes\n", shapes);
    return 0;
}
