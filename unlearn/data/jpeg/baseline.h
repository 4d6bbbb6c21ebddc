// Our own decoder of the JPEG files that nearly all photographs are: sequential, Huffman coded, 8 bits, grey or YCbCr
// in one scan. It is faster than libjpeg-turbo and has its pixels, bit for bit.
#ifndef L2UL_JPEG_BASELINE_H
#define L2UL_JPEG_BASELINE_H

#include <stdint.h>

#include "shim.h"

// The width in bits of what tables of codes are looked up by: those of AC coefficients, where the next code or the next
// two are found with their values, and those of DC differences.
enum { L2UL_JPEG_AC_BITS = 11, L2UL_JPEG_DC_BITS = 9 };

// A Huffman table as the file has it, ITU-T T.81 B.2.4.2: how many codes there are of 1, 2, … 16 bits, and their
// symbols.
typedef struct {
  uint8_t counts[16], symbols[256];
} l2ul_jpeg_codes;

// Tables to decode by, and what they were made of: most files have the same, so those of the last file are kept.
typedef struct {
  l2ul_jpeg_codes codes;
  int made;            // whether all here is
  uint32_t limit[17];  // by length: where codes that are longer begin, in the next 16 bits
  int32_t offset[17];  // by length: from a code to the place of its symbol
} l2ul_jpeg_canonical;

typedef struct {
  l2ul_jpeg_canonical canonical;
  uint32_t entries[1 << L2UL_JPEG_AC_BITS];
} l2ul_jpeg_ac;

typedef struct {
  l2ul_jpeg_canonical canonical;
  uint16_t entries[1 << L2UL_JPEG_DC_BITS];
} l2ul_jpeg_dc;

// What one call leaves to the next; zeros at first. Two calls may not have the same at once.
typedef struct {
  l2ul_jpeg_ac ac[4];
  l2ul_jpeg_dc dc[4];
} l2ul_jpeg_tables;

// Whether the processor has what the faster of two ways needs, AVX2 and BMI2. Their pixels are the same.
int l2ul_jpeg_has_avx2(void);

// Decodes a part as l2ul_jpeg_decode does and returns 1, or returns 0 where the file is not as above or anything about
// it is unusual or broken: then what dst holds has no meaning, and l2ul_jpeg_decode decides.
int l2ul_jpeg_baseline(const unsigned char* data, size_t size, unsigned char* dst, l2ul_jpeg_part part,
                       l2ul_jpeg_tables* tables, int avx2);

#endif
