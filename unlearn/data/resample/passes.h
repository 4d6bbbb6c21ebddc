// The loops over pixels.
#ifndef L2UL_RESAMPLE_PASSES_H
#define L2UL_RESAMPLE_PASSES_H

#include <stdint.h>

// Pixel i of a result is the sum of count[i] pixels from from[i] on, times weights[i * taps], weights[i * taps + 1], …,
// which have 22 bits behind the point; it is rounded and clamped to a byte.

// Makes rows of three planes, width bytes each, from rows of `in` pixels of four bytes.
void l2ul_resample_rows(unsigned char* dst, const unsigned char* src, int in, int rows, int width, const int32_t* from,
                        const int32_t* count, const int32_t* weights, int taps);

// Bytes that the second pass may touch behind its rows, whatever they hold.
enum { L2UL_RESAMPLE_MARGIN = 64 };

// Makes three planes of height rows from rows of three planes. src has the margin behind it; line is room for a row of
// three planes with the margin.
void l2ul_resample_columns(unsigned char* dst, const unsigned char* src, int width, int height, const int32_t* from,
                           const int32_t* count, const int32_t* weights, int taps, unsigned char* line);

#endif
