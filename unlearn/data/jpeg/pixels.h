// From coefficients to pixels: the inverse DCT, upsampling and colour of libjpeg-turbo on x86, bit for bit. What AVX2
// makes faster than a compiler does is there twice.
#ifndef L2UL_JPEG_PIXELS_H
#define L2UL_JPEG_PIXELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __x86_64__
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,bmi,bmi2"))) static
#define AVX2_INLINE __attribute__((always_inline, target("avx2,bmi,bmi2"))) static inline
#endif

INLINE uint8_t clamp(int16_t v) { return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v); }

// ---- inverse DCT (A.3.3) ----
// The flow graph of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) in integers, with factors of 13 bits behind the
// point: first the columns, which keep 2 more bits than their results, then the rows. With c(k) = sqrt(2) cos(k pi /
// 16), the factors are sums and differences of these, rounded before they are added up.
//
// Dequantised coefficients have 16 bits, and so have sums of two before a rotation: what does not fit is cut off.
// Results of columns that do not fit become the nearest that do, except where all rows but the first are 0: then they
// are cut off too. So libjpeg-turbo has it on x86, and only images that no encoder makes show it.
enum {
  C6 = 4433,
  C2_LESS_C6 = 6270,
  C2_AND_C6 = 15137,
  C3 = 9633,
  C3_LESS_C5 = 3196,
  C3_AND_C5 = 16069,
  C3_LESS_C7 = 7373,
  C1_AND_C3 = 20995,
  S1 = 12299,  // c(1) + c(3) - c(5) - c(7)
  S3 = 25172,  // c(1) + c(3) + c(5) - c(7)
  S5 = 16819,  // c(1) + c(3) - c(5) + c(7)
  S7 = 2446,   // -c(1) + c(3) + c(5) - c(7)
  FACTOR_BITS = 13,
  COLUMN_BITS = 2,
  COLUMN_SHIFT = FACTOR_BITS - COLUMN_BITS,
  ROW_SHIFT = FACTOR_BITS + COLUMN_BITS + 3,
};

// Distance between coefficients of blocks: there is room behind each.
enum { BLOCK = 64 + 8 };

static int16_t narrow(int32_t v) { return (int16_t)(v < INT16_MIN ? INT16_MIN : v > INT16_MAX ? INT16_MAX : v); }

// Transforms the columns of an 8 x 8 matrix, and transposes it. No sum is as large as 2^31.
INLINE void dct_any(int16_t m[64], int shift) {
  int16_t out[64];
  const int32_t half = 1 << (shift - 1);
  for (int i = 0; i < 8; i++) {
    const int16_t x1 = m[8 + i], x2 = m[16 + i], x3 = m[24 + i], x5 = m[40 + i], x6 = m[48 + i], x7 = m[56 + i];
    const int16_t sum = (int16_t)(m[i] + m[32 + i]), difference = (int16_t)(m[i] - m[32 + i]);
    const int16_t s = (int16_t)(x7 + x3), t = (int16_t)(x5 + x1);
    const int32_t e0 = sum * (1 << FACTOR_BITS) + half, e1 = difference * (1 << FACTOR_BITS) + half;
    const int32_t r0 = x2 * (C6 + C2_LESS_C6) + x6 * C6, r1 = x2 * C6 + x6 * (C6 - C2_AND_C6);
    const int32_t z3 = s * (C3 - C3_AND_C5) + t * C3, z4 = s * C3 + t * (C3 - C3_LESS_C5);
    const int32_t even[4] = {e0 + r0, e1 + r1, e1 - r1, e0 - r0};
    const int32_t odd[4] = {
        x1 * (S1 - C3_LESS_C7) - x7 * C3_LESS_C7 + z4,
        x3 * (S3 - C1_AND_C3) - x5 * C1_AND_C3 + z3,
        x5 * (S5 - C1_AND_C3) - x3 * C1_AND_C3 + z4,
        x7 * (S7 - C3_LESS_C7) - x1 * C3_LESS_C7 + z3,
    };
    for (int k = 0; k < 4; k++) {
      out[8 * k + i] = narrow((even[k] + odd[k]) >> shift);
      out[8 * (7 - k) + i] = narrow((even[k] - odd[k]) >> shift);
    }
  }
  for (int y = 0; y < 8; y++) {
    for (int x = 0; x < 8; x++) m[8 * x + y] = out[8 * y + x];
  }
}

static void block_any(const int16_t* coefficients, const uint16_t* quantisation, uint8_t* dst, ptrdiff_t stride) {
  int16_t m[64];
  int low = 0;
  for (int i = 8; i < 64; i++) low |= coefficients[i];
  for (int i = 0; i < 64; i++) m[i] = (int16_t)((uint32_t)coefficients[i] * quantisation[i]);
  // Bits that are cut off after the columns are cut off before, where all rows but the first are 0.
  for (int i = 0; low == 0 && i < 8; i++) m[i] = (int16_t)((uint32_t)m[i] << COLUMN_BITS) >> COLUMN_BITS;
  dct_any(m, COLUMN_SHIFT);
  dct_any(m, ROW_SHIFT);
  for (int y = 0; y < 8; y++, dst += stride) {
    for (int x = 0; x < 8; x++) dst[x] = clamp((int16_t)(m[8 * y + x] + 128));
  }
}

// Makes 8 rows of 16 samples of two blocks, each shifted up by 128 and clamped.
static void blocks_any(const int16_t* coefficients, const uint16_t* quantisation, uint8_t* dst, ptrdiff_t stride) {
  block_any(coefficients, quantisation, dst, stride);
  block_any(coefficients + BLOCK, quantisation, dst + 8, stride);
}

#ifdef __x86_64__

// In all registers the lower half is of the first block and the upper half of the second.
AVX2_INLINE void dct_avx2(__m256i v[8], int shift) {
  const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (shift - 1));
#define PAIR(a, b) _mm256_set1_epi32((int)((uint32_t)(b) << 16 | (uint16_t)(a)))
  const __m256i rotate26[2] = {PAIR(C6 + C2_LESS_C6, C6), PAIR(C6, C6 - C2_AND_C6)};
  const __m256i rotate_sums[2] = {PAIR(C3 - C3_AND_C5, C3), PAIR(C3, C3 - C3_LESS_C5)};
  const __m256i rotate17[2] = {PAIR(S1 - C3_LESS_C7, -C3_LESS_C7), PAIR(-C3_LESS_C7, S7 - C3_LESS_C7)};
  const __m256i rotate35[2] = {PAIR(S3 - C1_AND_C3, -C1_AND_C3), PAIR(-C1_AND_C3, S5 - C1_AND_C3)};
#undef PAIR
  const __m256i sum = _mm256_add_epi16(v[0], v[4]), difference = _mm256_sub_epi16(v[0], v[4]);
  const __m256i s = _mm256_add_epi16(v[7], v[3]), t = _mm256_add_epi16(v[5], v[1]);
  __m256i out[2][8];
#pragma GCC unroll 2
  for (int h = 0; h < 2; h++) {
#define SPREAD(a, b) (h == 0 ? _mm256_unpacklo_epi16(a, b) : _mm256_unpackhi_epi16(a, b))
    __m256i x26 = SPREAD(v[2], v[6]), sums = SPREAD(s, t), x17 = SPREAD(v[1], v[7]), x35 = SPREAD(v[3], v[5]);
    __m256i e0 = _mm256_add_epi32(_mm256_srai_epi32(SPREAD(zero, sum), 16 - FACTOR_BITS), half);
    __m256i e1 = _mm256_add_epi32(_mm256_srai_epi32(SPREAD(zero, difference), 16 - FACTOR_BITS), half);
#undef SPREAD
    __m256i r0 = _mm256_madd_epi16(x26, rotate26[0]), r1 = _mm256_madd_epi16(x26, rotate26[1]);
    __m256i z3 = _mm256_madd_epi16(sums, rotate_sums[0]), z4 = _mm256_madd_epi16(sums, rotate_sums[1]);
    __m256i even[4] = {_mm256_add_epi32(e0, r0), _mm256_add_epi32(e1, r1), _mm256_sub_epi32(e1, r1),
                       _mm256_sub_epi32(e0, r0)};
    __m256i odd[4] = {_mm256_add_epi32(_mm256_madd_epi16(x17, rotate17[0]), z4),
                      _mm256_add_epi32(_mm256_madd_epi16(x35, rotate35[0]), z3),
                      _mm256_add_epi32(_mm256_madd_epi16(x35, rotate35[1]), z4),
                      _mm256_add_epi32(_mm256_madd_epi16(x17, rotate17[1]), z3)};
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      out[h][i] = _mm256_srai_epi32(_mm256_add_epi32(even[i], odd[i]), shift);
      out[h][7 - i] = _mm256_srai_epi32(_mm256_sub_epi32(even[i], odd[i]), shift);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) v[i] = _mm256_packs_epi32(out[0][i], out[1][i]);
}

AVX2_INLINE void transpose(__m256i v[8]) {
  __m256i a[8], b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    a[2 * i] = _mm256_unpacklo_epi16(v[i], v[i + 4]);
    a[2 * i + 1] = _mm256_unpackhi_epi16(v[i], v[i + 4]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    b[2 * i] = _mm256_unpacklo_epi16(a[i], a[i + 4]);
    b[2 * i + 1] = _mm256_unpackhi_epi16(a[i], a[i + 4]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    v[2 * i] = _mm256_unpacklo_epi16(b[i], b[i + 4]);
    v[2 * i + 1] = _mm256_unpackhi_epi16(b[i], b[i + 4]);
  }
}

AVX2_INLINE void blocks_avx2(const int16_t* coefficients, const uint16_t* quantisation, uint8_t* dst,
                             ptrdiff_t stride) {
  __m256i v[8], q[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    const __m128i* row = (const __m128i*)(coefficients + 8 * i);
    const __m128i* row2 = (const __m128i*)(coefficients + BLOCK + 8 * i);
    v[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(row)), _mm_loadu_si128(row2), 1);
    q[i] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)(quantisation + 8 * i)));
  }
  __m256i low = _mm256_or_si256(_mm256_or_si256(_mm256_or_si256(v[1], v[2]), _mm256_or_si256(v[3], v[4])),
                                _mm256_or_si256(_mm256_or_si256(v[5], v[6]), v[7]));
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) v[i] = _mm256_mullo_epi16(v[i], q[i]);
  // Bits that are cut off after the columns are cut off before, where all rows but the first are 0.
  __m256i cut = _mm256_srai_epi16(_mm256_slli_epi16(v[0], COLUMN_BITS), COLUMN_BITS);
  bool flat = _mm_testz_si128(_mm256_castsi256_si128(low), _mm256_castsi256_si128(low));
  bool flat2 = _mm_testz_si128(_mm256_extracti128_si256(low, 1), _mm256_extracti128_si256(low, 1));
  __m256i which = _mm256_setr_epi64x(-flat, -flat, -flat2, -flat2);
  v[0] = _mm256_blendv_epi8(v[0], cut, which);
  dct_avx2(v, COLUMN_SHIFT);
  transpose(v);
  dct_avx2(v, ROW_SHIFT);
  transpose(v);
  const __m256i middle = _mm256_set1_epi8((char)128);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2, dst += 2 * stride) {
    __m256i two = _mm256_xor_si256(_mm256_packs_epi16(v[i], v[i + 1]), middle);
    two = _mm256_permute4x64_epi64(two, 0xd8);
    _mm_storeu_si128((__m128i*)dst, _mm256_castsi256_si128(two));
    _mm_storeu_si128((__m128i*)(dst + stride), _mm256_extracti128_si256(two, 1));
  }
}

#endif

// ---- upsampling ----
// Each sample weighs 3/4 and the next nearest 1/4, in each direction that was subsampled; at an edge a sample is its
// own neighbour. Halves are rounded up and down in turn.

// n sums 3 near + far, or near itself where there are no rows between.
INLINE void weigh_rows(const uint8_t* near, const uint8_t* far, int n, uint16_t* sums) {
  if (far == NULL) {
    for (int i = 0; i < n; i++) sums[i] = near[i];
  } else {
    for (int i = 0; i < n; i++) sums[i] = (uint16_t)(3 * near[i] + far[i]);
  }
}

// Two samples of each of n sums, which have neighbours before and behind.
INLINE void widen(const uint16_t* sums, int n, int shift, int round_left, int round_right, uint8_t* dst) {
  for (int i = 0; i < n; i++) {
    dst[2 * i] = (uint8_t)((3 * sums[i] + sums[i - 1] + round_left) >> shift);
    dst[2 * i + 1] = (uint8_t)((3 * sums[i] + sums[i + 1] + round_right) >> shift);
  }
}

INLINE void divide(const uint16_t* sums, int n, int round, uint8_t* dst) {
  for (int i = 0; i < n; i++) dst[i] = (uint8_t)((sums[i] + round) >> 2);
}

// ---- colour ----
// Of JFIF (ITU-T T.871): R = Y + 1.402 Cr, G = Y - 0.344136 Cb - 0.714136 Cr, B = Y + 1.772 Cb, with 16 bits behind the
// point. These factors of Cr, Cr and Cb less 1, -1 and 2 fit 16 bits.
enum { R_CR = 91881 - (1 << 16), G_CB = -22554, G_CR = -46802 + (1 << 16), B_CB = 116130 - (2 << 16) };

// How many pixels are coloured at once.
enum { COLOURS = 16 };

INLINE void colour_strip(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int n, uint8_t* dst) {
  uint8_t r[COLOURS], g[COLOURS], b[COLOURS];
  for (int i = 0; i < n; i++) {
    const int16_t blue = (int16_t)(cb[i] - 128), red = (int16_t)(cr[i] - 128);
    const int32_t half = 1 << 15;
    r[i] = clamp((int16_t)(y[i] + red + ((R_CR * red + half) >> 16)));
    g[i] = clamp((int16_t)(y[i] - red + ((G_CB * blue + G_CR * red + half) >> 16)));
    b[i] = clamp((int16_t)(y[i] + 2 * blue + ((B_CB * blue + half) >> 16)));
  }
  for (int i = 0; i < n; i++, dst += 4) dst[0] = r[i], dst[1] = g[i], dst[2] = b[i], dst[3] = 255;
}

INLINE void colour_any(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int n, uint8_t* dst) {
  int i = 0;
  for (; i + COLOURS <= n; i += COLOURS) colour_strip(y + i, cb + i, cr + i, COLOURS, dst + 4 * i);
  colour_strip(y + i, cb + i, cr + i, n - i, dst + 4 * i);
}

#ifdef __x86_64__

AVX2_INLINE void colour16(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, uint8_t* dst) {
  const __m256i middle = _mm256_set1_epi16(128), one = _mm256_set1_epi16(1);
#define LOAD(p) _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(p)))
  __m256i light = LOAD(y), blue = _mm256_sub_epi16(LOAD(cb), middle), red = _mm256_sub_epi16(LOAD(cr), middle);
#undef LOAD
  // A product shifted by 15, plus 1, halved is rounded as if shifted by 16.
  __m256i blue2 = _mm256_add_epi16(blue, blue), red2 = _mm256_add_epi16(red, red);
  __m256i r = _mm256_mulhi_epi16(red2, _mm256_set1_epi16(R_CR));
  __m256i b = _mm256_mulhi_epi16(blue2, _mm256_set1_epi16(B_CB));
  r = _mm256_add_epi16(_mm256_srai_epi16(_mm256_add_epi16(r, one), 1), red);
  b = _mm256_add_epi16(_mm256_srai_epi16(_mm256_add_epi16(b, one), 1), blue2);
  const __m256i half = _mm256_set1_epi32(1 << 15);
  const __m256i factors = _mm256_set1_epi32((int)((uint32_t)G_CR << 16 | (uint16_t)G_CB));
  __m256i g0 = _mm256_madd_epi16(_mm256_unpacklo_epi16(blue, red), factors);
  __m256i g1 = _mm256_madd_epi16(_mm256_unpackhi_epi16(blue, red), factors);
  __m256i g = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(g0, half), 16),
                                 _mm256_srai_epi32(_mm256_add_epi32(g1, half), 16));
  g = _mm256_sub_epi16(g, red);
  __m256i rb = _mm256_packus_epi16(_mm256_add_epi16(light, r), _mm256_add_epi16(light, b));
  __m256i gx = _mm256_packus_epi16(_mm256_add_epi16(light, g), _mm256_set1_epi16(255));
  __m256i rg = _mm256_unpacklo_epi8(rb, gx), bx = _mm256_unpackhi_epi8(rb, gx);
  __m256i first = _mm256_unpacklo_epi16(rg, bx), second = _mm256_unpackhi_epi16(rg, bx);
  _mm256_storeu_si256((__m256i*)dst, _mm256_permute2x128_si256(first, second, 0x20));
  _mm256_storeu_si256((__m256i*)(dst + 32), _mm256_permute2x128_si256(first, second, 0x31));
}

AVX2_INLINE void colour_avx2(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int n, uint8_t* dst) {
  if (n < COLOURS) {
    colour_any(y, cb, cr, n, dst);
    return;
  }
  for (int i = 0; i < n; i += COLOURS) {
    int at = i + COLOURS <= n ? i : n - COLOURS;  // the last ones overlap
    colour16(y + at, cb + at, cr + at, dst + 4 * at);
  }
}

#endif
#endif
