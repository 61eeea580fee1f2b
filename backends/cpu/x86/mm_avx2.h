/* SPDX-License-Identifier: MIT */
/* Products with vectors of 256 bits: what AVX2 and AVX-VNNI share beside mm_vf.h, which asks for
 * it. */
#ifndef SOBRE_MM_AVX2_H
#define SOBRE_MM_AVX2_H

static inline int32_t vi_largest(vi a)
{
    __m128i b = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    b = _mm_max_epi32(b, _mm_shuffle_epi32(b, 0x4e));
    b = _mm_max_epi32(b, _mm_shuffle_epi32(b, 0xb1));
    return _mm_cvtsi128_si32(b);
}

static inline void store_block(const vi *q, int8_t *to, int32_t *ret_halves)
{
    __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    /* Sums of 8 bytes each, made unsigned. */
    const __m256i flip = _mm256_set1_epi8((char)-128);
    int64_t sums[4];
    _mm256_storeu_si256((__m256i *)to, bytes);
    _mm256_storeu_si256((__m256i *)sums,
                        _mm256_sad_epu8(_mm256_xor_si256(bytes, flip), _mm256_setzero_si256()));
    ret_halves[0] = (int32_t)(sums[0] + sums[1]) - 16 * 128;
    ret_halves[1] = (int32_t)(sums[2] + sums[3]) - 16 * 128;
}

#endif
