// The transforms of Winograd's convolutions, one dimension of a tile at a time.
// One dimension of each transform, in place, of the vectors d[0], d[s], d[2 s], ...
// Tiles of 4x4 interpolate at 0, +-P, +-2 P and infinity. The paper has P = 1; with 3/4, results err half as much: the
// powers of the points are closer to 1 (Alam et al. 2022, arXiv 2201.10369, search for such points).
#define P 0.75f
#define P2 (P * P)
#define P3 (P * P2)
#define P4 (P2 * P2)

INLINE void input_1d(vec *d, int s, int m) { // B'
    vec a = d[0], b = d[s], c = d[2 * s], e = d[3 * s];
    if (m == 2) {
        d[0] = a - c, d[s] = b + c, d[2 * s] = c - b, d[3 * s] = b - e;
    } else {
        vec f = d[4 * s], g = d[5 * s], p = f - 4 * P2 * c, q = P * e - 4 * P3 * b, r = f - P2 * c, t = 2 * P * e - 2 * P3 * b;
        d[0] = 4 * P4 * a - 5 * P2 * c + f, d[s] = p + q, d[2 * s] = p - q, d[3 * s] = r + t, d[4 * s] = r - t;
        d[5 * s] = 4 * P4 * b - 5 * P2 * e + g;
    }
}
INLINE void output_1d(vec *d, int s, int m) { // A'
    vec a = d[0], b = d[s], c = d[2 * s], e = d[3 * s];
    if (m == 2) {
        d[0] = a + b + c, d[s] = b - c - e;
    } else {
        vec f = d[4 * s], g = d[5 * s], p = b + c, q = b - c, r = e + f, t = e - f;
        d[0] = a + p + r, d[s] = P * q + 2 * P * t, d[2 * s] = P2 * p + 4 * P2 * r, d[3 * s] = P3 * q + 8 * P3 * t + g;
    }
}
INLINE void gradient_1d(vec *d, int s, int m) { // A
    vec a = d[0], b = d[s];
    if (m == 2) {
        d[s] = a + b, d[2 * s] = a - b, d[3 * s] = -b;
    } else {
        vec c = d[2 * s], e = d[3 * s], p = a + P2 * c, q = P * b + P3 * e, r = a + 4 * P2 * c, t = 2 * P * b + 8 * P3 * e;
        d[s] = p + q, d[2 * s] = p - q, d[3 * s] = r + t, d[4 * s] = r - t, d[5 * s] = e;
    }
}
INLINE void weight_1d(vec *d, int s, int m) { // G
    vec a = d[0], b = d[s], c = d[2 * s];
    if (m == 2) {
        vec p = 0.5f * (a + c), q = 0.5f * b;
        d[s] = p + q, d[2 * s] = p - q, d[3 * s] = c;
    } else {
        vec p = a * (-1 / (6 * P4)) + c * (-1 / (6 * P2)), q = b * (1 / (6 * P3));
        vec r = a * (1 / (24 * P4)) + c * (1 / (6 * P2)), t = b * (1 / (12 * P3));
        d[0] = a * (1 / (4 * P4)), d[s] = p - q, d[2 * s] = p + q, d[3 * s] = r + t, d[4 * s] = r - t, d[5 * s] = c;
    }
}
INLINE void weight_gradient_1d(vec *d, int s, int m) { // G'
    vec a = d[0], p = d[s] + d[2 * s], q = d[s] - d[2 * s];
    if (m == 2) {
        d[0] = a + 0.5f * p, d[s] = 0.5f * q, d[2 * s] = 0.5f * p + d[3 * s];
    } else {
        vec r = d[3 * s] + d[4 * s], t = d[3 * s] - d[4 * s];
        d[0] = a * (1 / (4 * P4)) - p * (1 / (6 * P4)) + r * (1 / (24 * P4));
        d[s] = t * (1 / (12 * P3)) - q * (1 / (6 * P3)), d[2 * s] = (r - p) * (1 / (6 * P2)) + d[5 * s];
    }
}
