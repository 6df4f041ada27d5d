// Vectors of the processor's length, by the compiler, and how they are loaded and stored.
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

// Maps are in fp32 or, where the processor has instructions for it, in bf16.
#if defined(__AVX512BF16__) && LANES == 16
#include <immintrin.h>
#define HAS_BF16 1
INLINE __m256i rounded(vec d) { return (__m256i)_mm512_cvtneps_pbh((__m512)d); }
INLINE vec load_map(const void *map, long at, int count, int bf16) {
    if (!bf16) return load_some((const float *)map + at, count);
    __m256i value = _mm256_setzero_si256();
    if (count == LANES) value = _mm256_loadu_si256((const void *)((const short *)map + at));
    else memcpy(&value, (const short *)map + at, 2 * (size_t)count);
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(value), 16);
}
INLINE void store_map(void *map, long at, vec d, int count, int bf16) {
    const __m256i value = rounded(d);
    if (!bf16) store_some((float *)map + at, d, count);
    else if (count == LANES) _mm256_storeu_si256((void *)((short *)map + at), value);
    else memcpy((short *)map + at, &value, 2 * (size_t)count);
}
#else
#define HAS_BF16 0
INLINE vec load_map(const void *map, long at, int count, int bf16) {
    return (void)bf16, load_some((const float *)map + at, count);
}
INLINE void store_map(void *map, long at, vec d, int count, int bf16) {
    (void)bf16, store_some((float *)map + at, d, count);
}
#endif
// The map from a value on.
INLINE void *map_from(const void *map, long at, int bf16) { return (char *)map + at * (bf16 ? 2 : 4); }
