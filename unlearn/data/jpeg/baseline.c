#include "baseline.h"

#include <stdlib.h>

// Compiled into both ways, with AVX2 and without.
#define INLINE __attribute__((always_inline)) static inline

#include "huffman.h"
#include "pixels.h"

// ---- headers (B.2) ----

typedef struct {
  uint8_t id, quantisation, dc, ac;
  int h, v;           // sampling factors
  int width, height;  // in samples
  uint8_t* samples;   // a ring of rows: row y is at y % rows
  int stride, rows;
  int first;  // its first block in a group
  int prediction;
} component;

typedef struct {
  int width, height, components;
  component component[3];
  int h, v;               // the largest sampling factors
  int columns, mcu_rows;  // of MCUs
  int restart;            // MCUs between markers, 0 for no markers
  uint16_t quantisation[4][64];
  bool quantised[4];
  l2ul_jpeg_codes dc[4], ac[4];
  const uint8_t *scan, *end;
} frame;

enum {
  SOF0 = 0xc0,
  SOF1 = 0xc1,
  DHT = 0xc4,
  RST0 = 0xd0,
  SOI = 0xd8,
  SOS = 0xda,
  DQT = 0xdb,
  DRI = 0xdd,
  APP0 = 0xe0,
  APP14 = 0xee,
  APP15 = 0xef,
  COM = 0xfe,
};

static int two_bytes(const uint8_t* p) { return p[0] << 8 | p[1]; }

static bool read_quantisation(frame* f, const uint8_t* p, const uint8_t* end) {
  while (p < end) {
    int wide = *p >> 4, table = *p & 15;
    p++;
    if (wide > 1 || table > 3 || end - p < 64 << wide) return false;
    for (int i = 0; i < 64; i++, p += 1 + wide) {
      f->quantisation[table][zigzag[i]] = (uint16_t)(wide ? two_bytes(p) : *p);
    }
    f->quantised[table] = true;
  }
  return true;
}

static bool read_codes(frame* f, const uint8_t* p, const uint8_t* end) {
  while (p < end) {
    int table = *p & 15, total = 0;
    if (*p >> 4 > 1 || table > 3 || end - p < 17) return false;
    l2ul_jpeg_codes* codes = &(*p >> 4 == 0 ? f->dc : f->ac)[table];
    p++;
    memset(codes, 0, sizeof *codes);
    memcpy(codes->counts, p, 16);
    p += 16;
    for (int i = 0; i < 16; i++) total += codes->counts[i];
    if (total > 256 || end - p < total) return false;
    memcpy(codes->symbols, p, (size_t)total);
    p += total;
  }
  return true;
}

static bool read_frame(frame* f, const uint8_t* p, const uint8_t* end) {
  if (f->components != 0 || end - p < 6 || p[0] != 8) return false;
  f->height = two_bytes(p + 1);
  f->width = two_bytes(p + 3);
  f->components = p[5];
  if (f->height == 0 || f->height > 65500 || f->width == 0 || f->width > 65500) return false;
  if ((f->components != 1 && f->components != 3) || end - p != 6 + 3 * f->components) return false;
  p += 6;
  for (int i = 0; i < f->components; i++, p += 3) {
    component* c = &f->component[i];
    *c = (component){.id = p[0], .h = p[1] >> 4, .v = p[1] & 15, .quantisation = p[2]};
    int most = i == 0 ? f->components == 1 ? 4 : 2 : 1;
    if (c->h < 1 || c->h > most || c->v < 1 || c->v > most || c->quantisation > 3) return false;
    // A component that is alone has MCUs of one block (A.2.2).
    if (f->components == 1) c->h = c->v = 1;
  }
  f->h = f->component[0].h;
  f->v = f->component[0].v;
  f->columns = (f->width + 8 * f->h - 1) / (8 * f->h);
  f->mcu_rows = (f->height + 8 * f->v - 1) / (8 * f->v);
  return true;
}

// A scan of all components in the order of the frame, that is the only one.
static bool read_scan(frame* f, const uint8_t* p, const uint8_t* end) {
  if (f->components == 0 || end - p != 4 + 2 * f->components || *p++ != f->components) return false;
  for (int i = 0; i < f->components; i++, p += 2) {
    component* c = &f->component[i];
    c->dc = p[1] >> 4;
    c->ac = p[1] & 15;
    if (p[0] != c->id || c->dc > 3 || c->ac > 3 || !f->quantised[c->quantisation]) return false;
  }
  return p[0] == 0 && p[1] == 63 && p[2] == 0;
}

// Reads all up to the scan's data.
static bool read_headers(frame* f, const uint8_t* p, const uint8_t* end) {
  bool jfif = false, rgb = false;
  if (end - p < 2 || p[0] != 0xff || p[1] != SOI) return false;
  for (p += 2;;) {
    if (end - p < 4 || p[0] != 0xff) return false;
    int marker = p[1];
    if (marker == 0xff) {  // a byte to fill
      p++;
      continue;
    }
    int length = two_bytes(p + 2);
    if (length < 2 || length > end - p - 2) return false;
    const uint8_t* next = p + 2 + length;
    p += 4;
    bool good = true;
    switch (marker) {
      case SOF0:
      case SOF1:
        good = read_frame(f, p, next);
        break;
      case DHT:
        good = read_codes(f, p, next);
        break;
      case DQT:
        good = read_quantisation(f, p, next);
        break;
      case DRI:
        good = next - p == 2;
        if (good) f->restart = two_bytes(p);
        break;
      case APP0:
        jfif = jfif || (next - p >= 14 && memcmp(p, "JFIF", 5) == 0);
        break;
      case APP14:
        rgb = rgb || (next - p >= 12 && memcmp(p, "Adobe", 5) == 0 && p[11] == 0);
        break;
      case SOS:
        if (!read_scan(f, p, next)) return false;
        // Without JFIF, components may be called R, G and B.
        rgb = rgb || (f->components == 3 && f->component[0].id == 'R');
        f->scan = next;
        f->end = end;
        return f->components == 1 || jfif || !rgb;
      default:
        good = marker == COM || (marker >= APP0 && marker <= APP15);
    }
    if (!good) return false;
    p = next;
  }
}

// ---- decoding ----
// MCUs are decoded in groups of two, so that blocks come in pairs that lie side by side; the second MCU of the last
// group of a row may be missing. Of the samples, those of one row of MCUs are kept, or of two where upsampling looks at
// rows above and below.

// Where a block of an MCU goes, and by what.
typedef struct {
  const l2ul_jpeg_dc* dc;
  const l2ul_jpeg_ac* ac;
  int* prediction;
  int16_t* coefficients;
} coded_block;

typedef struct {
  frame f;
  l2ul_jpeg_part part;
  uint8_t* dst;
  int blocks;  // of an MCU
  coded_block plan[2][MCU_BLOCKS];
  uint16_t* sums;         // of a row of a component, with one more before and behind
  uint8_t* upsampled[2];  // rows of chrominance
  int left;               // MCUs before the next restart marker, or -1
  int restarts;
  int16_t coefficients[2 * MCU_BLOCKS * BLOCK];
  bit_stream stream;
} decoder;

typedef void (*blocks_function)(const int16_t* coefficients, const uint16_t* quantisation, uint8_t* dst,
                                ptrdiff_t stride);
typedef void (*colour_function)(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int n, uint8_t* dst);

// Goes over a restart marker (F.2.2.4 and E.2.4): what is coded before it ends within the last byte before.
static bool restart(decoder* d) {
  bit_stream* s = &d->stream;
  if (!s->marker) slide(s);
  if (!s->marker || unused(s) >= 8) return false;
  if (*s->source != RST0 + d->restarts) return false;
  s->source++;
  d->restarts = (d->restarts + 1) % 8;
  d->left = d->f.restart;
  for (int i = 0; i < d->f.components; i++) d->f.component[i].prediction = 0;
  begin(s);
  return true;
}

// Decodes the coefficients of MCU number m of a group.
INLINE bool decode_mcu(decoder* d, int m) {
  if (d->left == 0 && !restart(d)) return false;
  if (!ready(&d->stream)) return false;
  bit_reader r = d->stream.reader;
  const coded_block* end = d->plan[m] + d->blocks;
  for (const coded_block* b = d->plan[m]; b < end; b++) {
    clear(b->coefficients);
    if (!decode_dc(&r, b->dc, b->prediction)) return false;
    b->coefficients[0] = (int16_t)*b->prediction;
    if (!decode_ac(&r, b->ac, b->coefficients)) return false;
  }
  d->stream.reader = r;
  d->left--;
  return unused(&d->stream) >= 0;
}

// Decodes a row of MCUs.
INLINE bool decode_row(decoder* d, int row, blocks_function blocks) {
  const frame* f = &d->f;
  // What upsampling looks at is beside the part by a sample at most, which is two pixels.
  int from = d->part.x - 2, to = d->part.x + d->part.width + 2, width = 8 * f->h;
  bool needed = (row + 1) * 8 * f->v + 2 > d->part.y;
  for (int at = 0; at < f->columns; at += 2) {
    if (!decode_mcu(d, 0) || (at + 1 < f->columns && !decode_mcu(d, 1))) return false;
    if (!needed || (at + 2) * width <= from || at * width >= to) continue;
    for (int i = 0; i < f->components; i++) {
      const component* c = &f->component[i];
      for (int y = 0; y < c->v; y++) {
        uint8_t* samples = c->samples + (ptrdiff_t)((row * c->v + y) * 8 % c->rows) * c->stride + at * c->h * 8;
        for (int x = 0; x < c->h; x++) {
          blocks(d->coefficients + (c->first + 2 * (y * c->h + x)) * BLOCK, f->quantisation[c->quantisation],
                 samples + 16 * x, c->stride);
        }
      }
    }
  }
  return true;
}

static const uint8_t* sample_row(const component* c, int y) {
  y = y < 0 ? 0 : y >= c->height ? c->height - 1 : y;
  return c->samples + (ptrdiff_t)(y % c->rows) * c->stride;
}

// The row of chrominance for row y of pixels, from the part's first pixel on.
INLINE const uint8_t* chrominance(decoder* d, const component* c, int y, uint8_t* upsampled) {
  const frame* f = &d->f;
  int x = d->part.x, n = d->part.width;
  if (f->h == 1 && f->v == 1) return sample_row(c, y) + x;
  const uint8_t *near = sample_row(c, y / f->v), *far = f->v == 1 ? NULL : sample_row(c, y / 2 + (y % 2 == 0 ? -1 : 1));
  if (f->h == 1) {
    weigh_rows(near + x, far + x, n, d->sums);
    divide(d->sums, n, y % 2 == 0 ? 1 : 2, upsampled);
    return upsampled;
  }
  int first = x / 2, last = (x + n - 1) / 2;
  int before = first > 0 ? first - 1 : 0, behind = last + 1 < c->width ? last + 1 : last;
  uint16_t* sums = d->sums + 1;  // that of `first`
  uint16_t* from = sums - (first - before);
  weigh_rows(near + before, far != NULL ? far + before : NULL, behind + 1 - before, from);
  if (before == first) sums[-1] = sums[0];
  if (behind == last) sums[last - first + 1] = sums[last - first];
  if (far == NULL) {
    widen(sums, last - first + 1, 2, 1, 2, upsampled);
  } else {
    widen(sums, last - first + 1, 4, 8, 7, upsampled);
  }
  return upsampled + x % 2;
}

// Writes row y of the image's pixels.
INLINE void emit(decoder* d, int y, colour_function colour) {
  const component* c = d->f.component;
  int n = d->part.width;
  uint8_t* dst = d->dst + 4 * (ptrdiff_t)n * (y - d->part.y);
  const uint8_t* light = sample_row(&c[0], y) + d->part.x;
  if (d->f.components == 1) {
    for (int i = 0; i < n; i++) dst[4 * i] = dst[4 * i + 1] = dst[4 * i + 2] = dst[4 * i + 3] = light[i];
    return;
  }
  const uint8_t *cb = chrominance(d, &c[1], y, d->upsampled[0]), *cr = chrominance(d, &c[2], y, d->upsampled[1]);
  colour(light, cb, cr, n, dst);
}

INLINE bool decode_by(decoder* d, blocks_function blocks, colour_function colour) {
  const frame* f = &d->f;
  int next = d->part.y, end = d->part.y + d->part.height;
  begin(&d->stream);
  for (int row = 0; next < end; row++) {
    if (!decode_row(d, row, blocks)) return false;
    // The last row of a row of MCUs waits for the next one where that has rows that it is made of.
    int made = row + 1 == f->mcu_rows ? f->height : (row + 1) * 8 * f->v - (f->v - 1);
    for (; next < made && next < end; next++) emit(d, next, colour);
  }
  return true;
}

static bool decode_any(decoder* d) { return decode_by(d, blocks_any, colour_any); }

#ifdef __x86_64__
int l2ul_jpeg_has_avx2(void) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
AVX2 bool decode_avx2(decoder* d) { return decode_by(d, blocks_avx2, colour_avx2); }
#else
int l2ul_jpeg_has_avx2(void) { return 0; }
static bool decode_avx2(decoder* d) { return decode_any(d); }
#endif

// Reads what is before the data, and lays out what decoding needs in *work.
static bool prepare(decoder* d, l2ul_jpeg_tables* tables, uint8_t** work) {
  frame* f = &d->f;
  if (d->part.width > f->width - d->part.x || d->part.height > f->height - d->part.y) return false;
  // libjpeg repeats samples of chrominance where a row has no more than two.
  if (f->h == 2 && f->width <= 4) return false;
  size_t bytes = 0;
  int first = 0, columns = (f->columns + 1) / 2 * 2;
  for (int i = 0; i < f->components; i++) {
    component* c = &f->component[i];
    if (!make_dc(&tables->dc[c->dc], &f->dc[c->dc]) || !make_ac(&tables->ac[c->ac], &f->ac[c->ac])) return false;
    c->width = (f->width * c->h + f->h - 1) / f->h;
    c->height = (f->height * c->v + f->v - 1) / f->v;
    c->stride = columns * c->h * 8;
    c->rows = 8 * c->v * f->v;
    bytes += (size_t)c->stride * (size_t)c->rows;
    c->first = first;
    first += 2 * c->h * c->v;
    for (int block = 0; block < c->h * c->v; block++, d->blocks++) {
      for (int m = 0; m < 2; m++) {
        int at = c->first + (2 * (block / c->h) + m) * c->h + block % c->h;
        d->plan[m][d->blocks] =
            (coded_block){&tables->dc[c->dc], &tables->ac[c->ac], &c->prediction, d->coefficients + at * BLOCK};
      }
    }
  }
  size_t row = (size_t)columns * (size_t)f->h * 8 + 32;
  *work = malloc(2 * row + 2 * row + bytes);
  if (*work == NULL) return false;
  d->sums = (uint16_t*)*work;
  d->upsampled[0] = *work + 2 * row;
  d->upsampled[1] = d->upsampled[0] + row;
  uint8_t* samples = d->upsampled[1] + row;
  for (int i = 0; i < f->components; i++) {
    f->component[i].samples = samples;
    samples += (size_t)f->component[i].stride * (size_t)f->component[i].rows;
  }
  d->left = f->restart > 0 ? f->restart : -1;
  d->stream.source = f->scan;
  d->stream.end = f->end;
  return true;
}

int l2ul_jpeg_baseline(const unsigned char* data, size_t size, unsigned char* dst, l2ul_jpeg_part part,
                       l2ul_jpeg_tables* tables, int avx2) {
  decoder d;
  memset(&d, 0, offsetof(decoder, stream));
  d.part = part;
  d.dst = dst;
  uint8_t* work = NULL;
  bool done =
      read_headers(&d.f, data, data + size) && prepare(&d, tables, &work) && (avx2 ? decode_avx2(&d) : decode_any(&d));
  free(work);
  return done;
}
