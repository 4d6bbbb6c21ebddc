#include "shim.h"

// clang-format off: jpeglib.h uses FILE and size_t without including what declares them
#include <stdio.h>
#include <jpeglib.h>
#include <jerror.h>
// clang-format on
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// A progressive file of a few kilobytes can ask for thousands of passes over a large image.
enum { MAX_SCANS = 500 };

typedef struct {
  struct jpeg_decompress_struct cinfo;
  struct jpeg_error_mgr err;
  struct jpeg_progress_mgr progress;
  jmp_buf env;
  const unsigned char* data;
  size_t size;
  l2ul_jpeg_result* result;
  unsigned char* row;
} decoder;

static decoder* owner(j_common_ptr cinfo) { return (decoder*)cinfo->client_data; }

static void fail(j_common_ptr cinfo) {
  decoder* d = owner(cinfo);
  char text[JMSG_LENGTH_MAX];
  (*cinfo->err->format_message)(cinfo, text);
  snprintf(d->result->message, sizeof d->result->message, "%s", text);
  const struct jpeg_source_mgr* src = d->cinfo.src;
  // After the last byte libjpeg reads a made-up end marker outside the data.
  uintptr_t at = src != NULL ? (uintptr_t)src->next_input_byte - (uintptr_t)d->data : 0;
  d->result->offset = at <= d->size ? at : d->size;
  longjmp(d->env, 1);
}

// libjpeg fills what is missing or broken with grey and only warns. Here those images are errors; what harms no pixel
// passes.
static void on_message(j_common_ptr cinfo, int level) {
  if (level >= 0) return;
  switch (cinfo->err->msg_code) {
    case JWRN_EXTRANEOUS_DATA:
    case JWRN_ADOBE_XFORM:
    case JWRN_JFIF_MAJOR:
    case JWRN_BOGUS_ICC:
      return;
    default:
      fail(cinfo);
  }
}

static void on_progress(j_common_ptr cinfo) {
  decoder* d = owner(cinfo);
  if (d->cinfo.input_scan_number <= MAX_SCANS) return;
  snprintf(d->result->message, sizeof d->result->message, "more than %d scans", MAX_SCANS);
  d->result->offset = d->size - d->cinfo.src->bytes_in_buffer;
  longjmp(d->env, 1);
}

static void open_header(decoder* d) {
  d->cinfo.err = jpeg_std_error(&d->err);
  d->err.error_exit = fail;
  d->err.emit_message = on_message;
  jpeg_create_decompress(&d->cinfo);
  d->cinfo.client_data = d;
  d->progress.progress_monitor = on_progress;
  d->cinfo.progress = &d->progress;
  jpeg_mem_src(&d->cinfo, d->data, d->size);
  jpeg_read_header(&d->cinfo, TRUE);
  d->result->width = (int)d->cinfo.image_width;
  d->result->height = (int)d->cinfo.image_height;
}

// Pillow's rounded x * y / 255.
static unsigned mul255(unsigned x, unsigned y) {
  unsigned t = x * y + 128;
  return ((t >> 8) + t) >> 8;
}

// Writes pixels of 1, 3 (with a fourth byte already) or 4 components as red, green, blue.
static void convert(const unsigned char* row, int components, int width, unsigned char* dst) {
  if (components == 3) {
    memcpy(dst, row, 4 * (size_t)width);
    return;
  }
  if (components == 1) {
    for (int x = 0; x < width; x++, dst += 4) dst[0] = dst[1] = dst[2] = row[x];
    return;
  }
  // Adobe stores CMYK inverted, and Pillow takes every CMYK JPEG as Adobe's: each value is 255 - ink.
  for (int x = 0; x < width; x++, row += 4, dst += 4) {
    unsigned white = row[3];
    for (int c = 0; c < 3; c++) dst[c] = (unsigned char)(white - mul255(255u - row[c], white));
  }
}

// Upsampling looks at this many pixels beside each one at most; libjpeg repeats those at the edge of what it is told to
// decode.
enum { BESIDE = 2 };

static void decode_part(decoder* d, unsigned char* dst, l2ul_jpeg_part part) {
  struct jpeg_decompress_struct* cinfo = &d->cinfo;
  int components = cinfo->num_components;
  switch (components) {
    case 1:
      cinfo->out_color_space = JCS_GRAYSCALE;
      break;
    case 3:
      cinfo->out_color_space = JCS_EXT_RGBX;
      break;
    case 4:
      cinfo->out_color_space = JCS_CMYK;
      break;
    default:
      snprintf(d->result->message, sizeof d->result->message, "%d colour components, need 1, 3 or 4", components);
      longjmp(d->env, 1);
  }
  // Defaults of libjpeg: accurate integer DCT, fancy upsampling, smoothing between blocks. They are Pillow's as well.
  jpeg_start_decompress(cinfo);
  JDIMENSION left = 0;
  // Smoothing, which only progressive images have, looks at blocks beside a block.
  if (!cinfo->progressive_mode) {
    JDIMENSION first = part.x > BESIDE ? (JDIMENSION)(part.x - BESIDE) : 0;
    JDIMENSION behind = (JDIMENSION)(part.x + part.width + BESIDE);
    JDIMENSION width = (behind < cinfo->output_width ? behind : cinfo->output_width) - first;
    if (width < cinfo->output_width) {
      jpeg_crop_scanline(cinfo, &first, &width);
      left = first;
    }
    if (part.y > 0) jpeg_skip_scanlines(cinfo, (JDIMENSION)part.y);
  }
  int bytes = cinfo->output_components;
  d->row = malloc((size_t)cinfo->output_width * (size_t)bytes);
  if (d->row == NULL) ERREXIT1(cinfo, JERR_OUT_OF_MEMORY, 0);
  JSAMPROW rows[1] = {d->row};
  while (cinfo->output_scanline < (JDIMENSION)part.y) jpeg_read_scanlines(cinfo, rows, 1);
  for (int y = 0; y < part.height; y++, dst += 4 * (size_t)part.width) {
    jpeg_read_scanlines(cinfo, rows, 1);
    convert(d->row + (size_t)(part.x - (int)left) * (size_t)bytes, components, part.width, dst);
  }
}

// Runs with everything the handlers touch in *d, so that no local variable is read after longjmp.
static int run(decoder* d, unsigned char* dst, l2ul_jpeg_part part) {
  if (setjmp(d->env) != 0) {
    jpeg_destroy_decompress(&d->cinfo);
    free(d->row);
    return 1;
  }
  open_header(d);
  if (dst != NULL) {
    if (part.width > d->result->width - part.x || part.height > d->result->height - part.y) {
      snprintf(d->result->message, sizeof d->result->message, "the image is %d x %d pixels, need %d x %d at (%d, %d)",
               d->result->width, d->result->height, part.width, part.height, part.x, part.y);
      longjmp(d->env, 1);
    }
    decode_part(d, dst, part);
  }
  jpeg_destroy_decompress(&d->cinfo);
  free(d->row);
  return 0;
}

int l2ul_jpeg_size(const unsigned char* data, size_t size, l2ul_jpeg_result* result) {
  decoder d;
  memset(&d, 0, sizeof d);
  d.cinfo.client_data = &d;
  d.data = data;
  d.size = size;
  d.result = result;
  return run(&d, NULL, (l2ul_jpeg_part){0});
}

int l2ul_jpeg_decode(const unsigned char* data, size_t size, unsigned char* dst, l2ul_jpeg_part part,
                     l2ul_jpeg_result* result) {
  decoder d;
  memset(&d, 0, sizeof d);
  d.cinfo.client_data = &d;
  d.data = data;
  d.size = size;
  d.result = result;
  return run(&d, dst, part);
}
