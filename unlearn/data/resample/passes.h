// The loops over pixels.
#ifndef L2UL_RESAMPLE_PASSES_H
#define L2UL_RESAMPLE_PASSES_H

#include <stdint.h>

// Whether the processor has AVX2. The passes are told whether to use it; their results are the same.
int l2ul_resample_has_avx2(void);

// Result i of a pass is the sum of taps pixels from from[i] on, times weights[i * taps], weights[i * taps + 1], …,
// which have 22 bits behind the point; it is rounded and clamped to a byte. Pixels have four bytes.
typedef struct {
  const int32_t *from, *weights;
  int taps;
} l2ul_resample_axis;

// Makes rows of width pixels from rows of `in`.
void l2ul_resample_rows(unsigned char* dst, const unsigned char* src, int in, int rows, int width,
                        l2ul_resample_axis axis, int avx2);

// Bytes that the second pass may touch behind its rows, whatever they hold.
enum { L2UL_RESAMPLE_MARGIN = 64 };

// Makes height rows from rows of width pixels, as three planes. src has the margin behind it; line is room for a row
// with the margin.
void l2ul_resample_columns(unsigned char* dst, const unsigned char* src, int width, int height, l2ul_resample_axis axis,
                           unsigned char* line, int avx2);

#endif
