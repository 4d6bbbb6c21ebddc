// The face of libjpeg-turbo that Go sees. Every function returns instead of aborting, whatever the bytes are.
#ifndef L2UL_JPEG_SHIM_H
#define L2UL_JPEG_SHIM_H

#include <stddef.h>

enum { L2UL_JPEG_MESSAGE = 256 };

typedef struct {
  int width, height;
  size_t offset;                    // bytes consumed when the error came
  char message[L2UL_JPEG_MESSAGE];  // the error, when the call returned non-zero
} l2ul_jpeg_result;

// A rectangle of an image's pixels.
typedef struct {
  int x, y, width, height;
} l2ul_jpeg_part;

// Reads the header alone.
int l2ul_jpeg_size(const unsigned char* data, size_t size, l2ul_jpeg_result* result);

// Decodes a part to width * height pixels of four bytes at dst: red, green, blue and one without meaning. An image that
// does not hold the part is an error before anything is decoded.
int l2ul_jpeg_decode(const unsigned char* data, size_t size, unsigned char* dst, l2ul_jpeg_part part,
                     l2ul_jpeg_result* result);

#endif
