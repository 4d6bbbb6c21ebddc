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

static void split_row(const unsigned char* row, int components, int width, unsigned char* r, unsigned char* g,
                      unsigned char* b) {
  if (components == 1) {
    memcpy(r, row, (size_t)width);
    memcpy(g, row, (size_t)width);
    memcpy(b, row, (size_t)width);
    return;
  }
  if (components == 3) {
    for (int x = 0; x < width; x++, row += 3) {
      r[x] = row[0];
      g[x] = row[1];
      b[x] = row[2];
    }
    return;
  }
  // Adobe stores CMYK inverted, and Pillow takes every CMYK JPEG as Adobe's: each value is 255 - ink.
  for (int x = 0; x < width; x++, row += 4) {
    unsigned white = row[3];
    r[x] = (unsigned char)(white - mul255(255u - row[0], white));
    g[x] = (unsigned char)(white - mul255(255u - row[1], white));
    b[x] = (unsigned char)(white - mul255(255u - row[2], white));
  }
}

static void decode_rows(decoder* d, unsigned char* dst, int width, int height) {
  struct jpeg_decompress_struct* cinfo = &d->cinfo;
  int components = cinfo->num_components;
  switch (components) {
    case 1:
      cinfo->out_color_space = JCS_GRAYSCALE;
      break;
    case 3:
      cinfo->out_color_space = JCS_RGB;
      break;
    case 4:
      cinfo->out_color_space = JCS_CMYK;
      break;
    default:
      snprintf(d->result->message, sizeof d->result->message, "%d colour components, need 1, 3 or 4", components);
      longjmp(d->env, 1);
  }
  d->row = malloc((size_t)width * (size_t)components);
  if (d->row == NULL) ERREXIT1(cinfo, JERR_OUT_OF_MEMORY, 0);
  // Defaults of libjpeg: accurate integer DCT, fancy upsampling, smoothing between blocks. They are Pillow's as well.
  jpeg_start_decompress(cinfo);
  size_t plane = (size_t)width * (size_t)height;
  for (size_t at = 0; at < plane; at += (size_t)width) {
    JSAMPROW rows[1] = {d->row};
    jpeg_read_scanlines(cinfo, rows, 1);
    split_row(d->row, components, width, dst + at, dst + plane + at, dst + 2 * plane + at);
  }
}

// Runs with everything the handlers touch in *d, so that no local variable is read after longjmp.
static int run(decoder* d, unsigned char* dst, int width, int height) {
  if (setjmp(d->env) != 0) {
    jpeg_destroy_decompress(&d->cinfo);
    free(d->row);
    return 1;
  }
  open_header(d);
  if (dst != NULL) {
    if (d->result->width != width || d->result->height != height) {
      snprintf(d->result->message, sizeof d->result->message, "the image is %d x %d pixels, need %d x %d",
               d->result->width, d->result->height, width, height);
      longjmp(d->env, 1);
    }
    decode_rows(d, dst, width, height);
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
  return run(&d, NULL, 0, 0);
}

int l2ul_jpeg_decode(const unsigned char* data, size_t size, unsigned char* dst, int width, int height,
                     l2ul_jpeg_result* result) {
  decoder d;
  memset(&d, 0, sizeof d);
  d.cinfo.client_data = &d;
  d.data = data;
  d.size = size;
  d.result = result;
  return run(&d, dst, width, height);
}
