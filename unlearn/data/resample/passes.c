#include "passes.h"

#include <immintrin.h>
#include <stddef.h>

#define INLINE __attribute__((always_inline)) static inline
#define AVX2 __attribute__((target("avx2"))) static

enum { PRECISION = 22, HALF = 1 << (PRECISION - 1) };

int l2ul_resample_has_avx2(void) { return __builtin_cpu_supports("avx2"); }

INLINE unsigned char clamp(int32_t sum) {
  sum >>= PRECISION;
  return (unsigned char)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static void pixel_any(unsigned char* dst, const unsigned char* src, const int32_t* w, int taps) {
  int32_t sum[3] = {HALF, HALF, HALF};
  for (int k = 0; k < taps; k++, src += 4) {
    for (int c = 0; c < 3; c++) sum[c] += src[c] * w[k];
  }
  for (int c = 0; c < 3; c++) dst[c] = clamp(sum[c]);
}

// Two taps at a time, four bytes of a pixel each.
AVX2 void pixel_avx2(unsigned char* dst, const unsigned char* src, const int32_t* w, int taps) {
  const __m256i spread = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
  __m256i two = _mm256_setzero_si256();
  int k = 0;
  for (; k + 2 <= taps; k += 2) {
    __m256i pixels = _mm256_cvtepu8_epi32(_mm_loadu_si64(src + 4 * k));
    __m256i weights = _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(_mm_loadu_si64(w + k)), spread);
    two = _mm256_add_epi32(two, _mm256_mullo_epi32(pixels, weights));
  }
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
  if (k < taps) {
    __m128i last = _mm_cvtepu8_epi32(_mm_loadu_si32(src + 4 * k));
    sum = _mm_add_epi32(sum, _mm_mullo_epi32(last, _mm_set1_epi32(w[k])));
  }
  sum = _mm_srai_epi32(_mm_add_epi32(sum, _mm_set1_epi32(HALF)), PRECISION);
  sum = _mm_packus_epi32(sum, sum);
  _mm_storeu_si32(dst, _mm_packus_epi16(sum, sum));
}

typedef void (*pixel_function)(unsigned char* dst, const unsigned char* src, const int32_t* w, int taps);

INLINE void rows_by(pixel_function pixel, unsigned char* dst, const unsigned char* src, int in, int rows, int width,
                    l2ul_resample_axis axis) {
  for (int y = 0; y < rows; y++, src += 4 * (size_t)in) {
    const int32_t* w = axis.weights;
    for (int x = 0; x < width; x++, dst += 4, w += axis.taps) pixel(dst, src + 4 * (size_t)axis.from[x], w, axis.taps);
  }
}

AVX2 void rows_avx2(unsigned char* dst, const unsigned char* src, int in, int rows, int width,
                    l2ul_resample_axis axis) {
  rows_by(pixel_avx2, dst, src, in, rows, width, axis);
}

void l2ul_resample_rows(unsigned char* dst, const unsigned char* src, int in, int rows, int width,
                        l2ul_resample_axis axis, int avx2) {
  if (avx2) {
    rows_avx2(dst, src, in, rows, width, axis);
  } else {
    rows_by(pixel_any, dst, src, in, rows, width, axis);
  }
}

// One row of the result. The sums of a strip stay in registers.
static void row_any(unsigned char* line, const unsigned char* src, size_t row, const int32_t* w, int taps) {
  enum { STRIP = L2UL_RESAMPLE_MARGIN };
  for (size_t x = 0; x < row; x += STRIP) {
    int32_t sum[STRIP];
    for (int i = 0; i < STRIP; i++) sum[i] = HALF;
    for (int k = 0; k < taps; k++) {
      for (int i = 0; i < STRIP; i++) sum[i] += src[(size_t)k * row + x + (size_t)i] * w[k];
    }
    for (int i = 0; i < STRIP; i++) line[x + (size_t)i] = clamp(sum[i]);
  }
}

AVX2 void row_avx2(unsigned char* line, const unsigned char* src, size_t row, const int32_t* w, int taps) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (size_t x = 0; x < row; x += 32) {
    __m256i sum[4];
    for (int i = 0; i < 4; i++) sum[i] = _mm256_set1_epi32(HALF);
    for (int k = 0; k < taps; k++) {
      const unsigned char* pixels = src + (size_t)k * row + x;
      __m256i weight = _mm256_set1_epi32(w[k]);
      for (int i = 0; i < 4; i++) {
        __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadu_si64(pixels + 8 * i));
        sum[i] = _mm256_add_epi32(sum[i], _mm256_mullo_epi32(bytes, weight));
      }
    }
    for (int i = 0; i < 4; i++) sum[i] = _mm256_srai_epi32(sum[i], PRECISION);
    __m256i low = _mm256_packus_epi32(sum[0], sum[1]), high = _mm256_packus_epi32(sum[2], sum[3]);
    __m256i all = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
    _mm256_storeu_si256((__m256i*)(line + x), all);
  }
}

typedef void (*row_function)(unsigned char* line, const unsigned char* src, size_t row, const int32_t* w, int taps);

INLINE void columns_by(row_function make, unsigned char* dst, const unsigned char* src, int width, int height,
                       l2ul_resample_axis axis, unsigned char* line) {
  size_t row = 4 * (size_t)width, plane = (size_t)width * (size_t)height;
  const int32_t* w = axis.weights;
  for (int y = 0; y < height; y++, w += axis.taps, dst += width) {
    make(line, src + (size_t)axis.from[y] * row, row, w, axis.taps);
    for (int x = 0; x < width; x++) {
      dst[x] = line[4 * x];
      dst[plane + (size_t)x] = line[4 * x + 1];
      dst[2 * plane + (size_t)x] = line[4 * x + 2];
    }
  }
}

AVX2 void columns_avx2(unsigned char* dst, const unsigned char* src, int width, int height, l2ul_resample_axis axis,
                       unsigned char* line) {
  columns_by(row_avx2, dst, src, width, height, axis, line);
}

void l2ul_resample_columns(unsigned char* dst, const unsigned char* src, int width, int height, l2ul_resample_axis axis,
                           unsigned char* line, int avx2) {
  if (avx2) {
    columns_avx2(dst, src, width, height, axis, line);
  } else {
    columns_by(row_any, dst, src, width, height, axis, line);
  }
}
