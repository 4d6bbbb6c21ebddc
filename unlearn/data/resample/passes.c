#include "passes.h"

#include <stddef.h>
#include <string.h>

#define CLONES __attribute__((target_clones("avx2", "sse4.1", "default")))

enum { PRECISION = 22, HALF = 1 << (PRECISION - 1) };

typedef unsigned char bytes4 __attribute__((vector_size(4)));
typedef int32_t ints4 __attribute__((vector_size(16)));

static inline unsigned char clamp(int32_t sum) {
  sum >>= PRECISION;
  return sum < 0 ? 0 : sum > 255 ? 255 : (unsigned char)sum;
}

CLONES void l2ul_resample_rows(unsigned char* dst, const unsigned char* src, int in, int rows, int width,
                               const int32_t* from, const int32_t* count, const int32_t* weights, int taps) {
  for (int y = 0; y < rows; y++, src += 4 * (size_t)in, dst += 3 * (size_t)width) {
    for (int x = 0; x < width; x++) {
      const unsigned char* pixel = src + 4 * (size_t)from[x];
      const int32_t* w = weights + (size_t)x * (size_t)taps;
      ints4 sum = {HALF, HALF, HALF, HALF};
      for (int k = 0; k < count[x]; k++, pixel += 4) {
        bytes4 p;
        memcpy(&p, pixel, sizeof p);
        sum += __builtin_convertvector(p, ints4) * w[k];
      }
      for (int c = 0; c < 3; c++) dst[c * width + x] = clamp(sum[c]);
    }
  }
}

CLONES void l2ul_resample_columns(unsigned char* dst, const unsigned char* src, int width, int height,
                                  const int32_t* from, const int32_t* count, const int32_t* weights, int taps,
                                  unsigned char* line) {
  enum { STRIP = L2UL_RESAMPLE_MARGIN };  // bytes of a row whose sums stay in registers
  size_t row = 3 * (size_t)width, plane = (size_t)width * (size_t)height;
  for (int y = 0; y < height; y++) {
    const int32_t* w = weights + (size_t)y * (size_t)taps;
    for (size_t x = 0; x < row; x += STRIP) {
      const unsigned char* pixel = src + (size_t)from[y] * row + x;
      int32_t sum[STRIP];
      for (int i = 0; i < STRIP; i++) sum[i] = HALF;
      for (int k = 0; k < count[y]; k++, pixel += row) {
        for (int i = 0; i < STRIP; i++) sum[i] += pixel[i] * w[k];
      }
      unsigned char result[STRIP];
      for (int i = 0; i < STRIP; i++) result[i] = clamp(sum[i]);
      memcpy(line + x, result, STRIP);
    }
    for (size_t c = 0; c < 3; c++) memcpy(dst + c * plane + (size_t)y * (size_t)width, line + c * (size_t)width, (size_t)width);
  }
}
