// Vectors of the processor's length, by the compiler.
#include <stddef.h>
#include <string.h>

#ifndef LANES // of a vector; the compiler's vectors are the processor's if it has some of this length
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))

INLINE long up(long value, long step) { return (value + step - 1) / step * step; }
INLINE int least(long a, long b) { return (int)(a < b ? a : b); }

INLINE vec load(const float *from) { return *(const loose *)from; }
INLINE void store(float *to, vec value) { *(loose *)to = value; }
// The first `count` lanes: for the last channels of a pixel, if they do not fill a vector.
INLINE vec load_some(const float *from, int count) {
    if (count == LANES) return load(from);
    vec value = {0};
    memcpy(&value, from, 4 * (size_t)count);
    return value;
}
INLINE void store_some(float *to, vec value, int count) {
    if (count == LANES) store(to, value);
    else memcpy(to, &value, 4 * (size_t)count);
}
