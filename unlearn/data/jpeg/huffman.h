// Huffman codes of sequential JPEG: ITU-T T.81, annexes C and F.
#ifndef L2UL_JPEG_HUFFMAN_H
#define L2UL_JPEG_HUFFMAN_H

#include <stdbool.h>
#include <string.h>

#include "baseline.h"

// ---- the bits of a scan ----

enum {
  WINDOW = 16 << 10,  // bytes
  MCU_BLOCKS = 6,     // 2 x 2 of luminance and one of each chrominance
  // An MCU has no more bytes than this, at 64 codes of 16 bits with values of 15 bits a block; and what is read ahead.
  MCU_BYTES = MCU_BLOCKS * 64 * 31 / 8 + 16,
};

typedef struct {
  const uint8_t* next;
  uint64_t bits;  // those before *next, the first on top
  int count;      // how many of them there are; behind them are those of *next already, or zeros
} bit_reader;

// The coded bits between two markers. They pass through a window without the zeros that stand behind each 0xFF
// (B.1.1.5), so that who decodes an MCU need not look for those, nor for the end: there are MCU_BYTES in the window, or
// the marker came and as many zeros stand behind the last byte.
typedef struct {
  bit_reader reader;            // of the window
  const uint8_t* last;          // behind the last byte in the window
  const uint8_t *source, *end;  // what is not in the window yet
  bool marker;                  // source is at the code of a marker
  uint8_t window[WINDOW + MCU_BYTES];
} bit_stream;

// Begins at the source, behind a marker.
static void begin(bit_stream* s) {
  s->reader = (bit_reader){.next = s->window};
  s->last = s->window;
  s->marker = false;
}

// Fills the window.
static void slide(bit_stream* s) {
  size_t left = (size_t)(s->last - s->reader.next);
  memmove(s->window, s->reader.next, left);
  uint8_t *to = s->window + left, *full = s->window + WINDOW;
  while (to < full && s->source < s->end) {
    size_t most = (size_t)(s->end - s->source), room = (size_t)(full - to);
    if (most > room) most = room;
    const uint8_t* found = memchr(s->source, 0xff, most);
    size_t plain = found != NULL ? (size_t)(found - s->source) : most;
    memcpy(to, s->source, plain);
    to += plain;
    s->source += plain;
    if (found == NULL) continue;
    const uint8_t* code = s->source + 1;
    if (code < s->end && *code == 0) {
      *to++ = 0xff;
      s->source += 2;
      continue;
    }
    while (code < s->end && *code == 0xff) code++;  // a marker may have more of them before
    if (code < s->end && *code != 0) {
      s->source = code;
      s->marker = true;
      memset(to, 0, MCU_BYTES);
    }
    break;
  }
  s->reader.next = s->window;
  s->last = to;
}

// Whether the next MCU can be decoded without looking for the end of the window. False where no marker ends the data.
INLINE bool ready(bit_stream* s) {
  if (__builtin_expect(s->last - s->reader.next >= MCU_BYTES || s->marker, true)) return true;
  slide(s);
  return s->last - s->reader.next >= MCU_BYTES || s->marker;
}

// The bits before the next marker that were not used, negative where more were used than there were.
INLINE int64_t unused(const bit_stream* s) { return 8 * (int64_t)(s->last - s->reader.next) + s->reader.count; }

INLINE uint64_t big_endian(const uint8_t* p) {
  uint64_t v;
  memcpy(&v, p, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  v = __builtin_bswap64(v);
#endif
  return v;
}

// Makes 56 bits or more valid.
INLINE void refill(bit_reader* r) {
  r->bits |= big_endian(r->next) >> r->count;
  r->next += (63 - r->count) >> 3;
  r->count |= 56;
}

INLINE void drop(bit_reader* r, unsigned n) {
  r->bits <<= n;
  r->count -= (int)n;
}

// The next n bits, 0 to 15, as RECEIVE and EXTEND make a value of them (F.2.2.1): those that begin with 0 are negative.
INLINE int value(uint64_t bits, unsigned n) {
  int v = (int)(bits >> 1 >> (63 - n)), negative = (int)((int64_t)~bits >> 63);
  return v + (negative & (1 - (1 << n)));
}

// ---- tables ----

// Sets where codes begin and end (C.2, F.2.2.3). False if there are none, or more of a length than there can be.
static bool canonical(l2ul_jpeg_canonical* t) {
  uint32_t code = 0;
  int place = 0;
  for (int length = 1; length <= 16; length++) {
    int n = t->codes.counts[length - 1];
    t->offset[length] = place - (int)code;
    code += (uint32_t)n;
    place += n;
    if (code >= 1u << length) return false;  // no code is all ones
    t->limit[length] = code << (16 - length);
    code <<= 1;
  }
  return place > 0;
}

// Finds the next code, whatever its length, and returns that: DECODE of F.2.2.3. 0 where there is no such code.
__attribute__((noinline, cold)) static unsigned find(const l2ul_jpeg_canonical* t, uint64_t bits, unsigned* symbol) {
  uint32_t next = (uint32_t)(bits >> 48);
  for (unsigned length = 1; length <= 16; length++) {
    if (next < t->limit[length]) {
      *symbol = t->codes.symbols[(int)(next >> (16 - length)) + t->offset[length]];
      return length;
    }
  }
  return 0;
}

// What the next bits are: a code, and the value behind it. code is 0 where they are fewer than the code has, and whole
// says that they are enough for both.
typedef struct {
  int16_t value;
  uint8_t symbol;  // its lower four bits are how many the value has
  uint8_t code;    // how many bits the code has
  bool whole;
} spelling;

// Fills a table of 2^width entries, in which canonical codes follow each other.
INLINE void spell(const l2ul_jpeg_codes* codes, unsigned width, spelling* table) {
  memset(table, 0, sizeof *table << width);
  const uint8_t* symbol = codes->symbols;
  for (unsigned length = 1; length <= width; length++) {
    for (int n = codes->counts[length - 1]; n > 0; n--, symbol++) {
      unsigned size = *symbol & 15, room = width - length;
      for (uint64_t rest = 0; rest < 1u << room; rest++, table++) {
        *table = (spelling){.symbol = *symbol, .code = (uint8_t)length, .whole = size <= room};
        if (table->whole) table->value = (int16_t)value(rest << 1 << (63 - room), size);
      }
    }
  }
}

// Whether a table is of these codes already; else takes them.
static bool made(l2ul_jpeg_canonical* t, const l2ul_jpeg_codes* codes) {
  if (t->made && memcmp(&t->codes, codes, sizeof *codes) == 0) return true;
  t->codes = *codes;
  t->made = false;
  return false;
}

// An entry for a difference is a code's length (8 bits) and its symbol (8). No length: the code is longer.
static bool make_dc(l2ul_jpeg_dc* t, const l2ul_jpeg_codes* codes) {
  if (made(&t->canonical, codes)) return true;
  if (!canonical(&t->canonical)) return false;
  // A difference has 15 bits at most.
  for (int i = 0; i < 256; i++) {
    if (codes->symbols[i] > 15) return false;
  }
  spelling all[1 << L2UL_JPEG_DC_BITS];
  spell(codes, L2UL_JPEG_DC_BITS, all);
  for (int i = 0; i < 1 << L2UL_JPEG_DC_BITS; i++) t->entries[i] = (uint16_t)(all[i].code | all[i].symbol << 8);
  t->canonical.made = true;
  return true;
}

// An entry for AC coefficients holds one of them or two, from the lowest bit on: how many bits they have (6), SLOW, END
// if the block ends with them, how many places on the first one is, less 1 (4), how many more the second one is (4),
// and the two values (8 each). Where there is no second one it is the first once more; where there is none at all it is
// a 0.
//
// SLOW entries hold a code's length (6) and, from bit 8 on, its symbol. No length: the code is longer.
enum { SLOW = 1 << 6, END = 1 << 7 };

INLINE uint32_t entry(unsigned bits, unsigned first, unsigned second, int value1, int value2) {
  return bits | (first - 1) << 8 | second << 12 | (uint32_t)(uint8_t)value1 << 16 | (uint32_t)(uint8_t)value2 << 24;
}

// How many places on a symbol goes (F.1.2.2): over zeros to a coefficient, over 16 zeros, or to the end.
INLINE unsigned places(unsigned symbol) { return (symbol & 15) != 0 || symbol == 0xf0 ? (symbol >> 4) + 1 : END; }

static bool make_ac(l2ul_jpeg_ac* t, const l2ul_jpeg_codes* codes) {
  if (made(&t->canonical, codes)) return true;
  if (!canonical(&t->canonical)) return false;
  enum { WIDTH = L2UL_JPEG_AC_BITS, MASK = (1 << WIDTH) - 1 };
  spelling all[1 << WIDTH];
  spell(codes, WIDTH, all);
  for (unsigned i = 0; i <= MASK; i++) {
    const spelling* one = &all[i];
    unsigned bits = one->code + (one->symbol & 15u), first = places(one->symbol);
    if (!one->whole || one->value != (int8_t)one->value) {
      t->entries[i] = one->code | SLOW | (unsigned)one->symbol << 8;
      continue;
    }
    if (first == END) {
      t->entries[i] = entry(bits, 1, 0, 0, 0) | END;
      continue;
    }
    const spelling* two = &all[i << bits & MASK];
    unsigned both = bits + two->code + (two->symbol & 15u), second = places(two->symbol);
    bool fits = two->whole && both <= WIDTH && two->value == (int8_t)two->value;
    if (fits && second == END) {
      t->entries[i] = entry(both, first, 0, one->value, one->value) | END;
    } else if (fits && second <= 15) {
      t->entries[i] = entry(both, first, second, one->value, two->value);
    } else {
      t->entries[i] = entry(bits, first, 0, one->value, one->value);
    }
  }
  t->canonical.made = true;
  return true;
}

// ---- blocks ----

// The places of coefficients in the order of their codes (figure A.6). Those that would be behind the last one go
// behind the block, so that nobody needs to look before.
static const uint8_t zigzag[96] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34,
    27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63, 64, 64, 64, 64, 64, 64, 64, 64,
    64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64,
};

// memset of so little is slow as GCC makes it.
INLINE void clear(int16_t block[64]) {
  typedef int16_t many __attribute__((vector_size(32), aligned(2), may_alias));
  for (int i = 0; i < 64; i += 16) *(many*)(block + i) = (many){0};
}

// Decodes the difference to the DC coefficient of the block before (F.2.2.1).
INLINE bool decode_dc(bit_reader* r, const l2ul_jpeg_dc* t, int* dc) {
  refill(r);
  uint32_t e = t->entries[r->bits >> (64 - L2UL_JPEG_DC_BITS)];
  unsigned length = e & 255, size = e >> 8;
  if (__builtin_expect(length == 0, false)) {
    length = find(&t->canonical, r->bits, &size);
    if (length == 0) return false;
  }
  int difference = value(r->bits << length, size);
  drop(r, length + size);
  *dc += difference;
  return *dc == (int16_t)*dc;
}

// Decodes the other coefficients of a block (F.2.2.2), which are 0 before. False where they cannot be decoded.
INLINE bool decode_ac(bit_reader* r, const l2ul_jpeg_ac* t, int16_t* block) {
  unsigned k = 0;  // the place of the last coefficient, and END
  uint64_t before;
  uint32_t e;
  do {
    refill(r);
    // So many entries can be used with what is valid: a slow one of 16 + 15 bits may be the last of them.
    for (int more = (56 - 31) / L2UL_JPEG_AC_BITS; more >= 0; more--) {
      before = r->bits;
      e = t->entries[before >> (64 - L2UL_JPEG_AC_BITS)];
      drop(r, e & 63);
      if (__builtin_expect(e & SLOW, false)) {
        unsigned symbol = e >> 8 & 255;
        if ((e & 63) == 0) {
          unsigned length = find(&t->canonical, r->bits, &symbol);
          if (length == 0) return false;
          drop(r, length);
        }
        k += places(symbol);
        if (k > 63) break;
        block[zigzag[k]] = (int16_t)value(r->bits, symbol & 15);
        drop(r, symbol & 15);
        break;
      }
      k += (e >> 8 & 15) + 1;
      block[zigzag[k]] = (int8_t)(e >> 16);
      k += e >> 12 & 15;
      block[zigzag[k]] = (int16_t)((int32_t)e >> 24);
      k += e & END;
      if (k >= 63) break;
    }
  } while (k < 63);
  if (k == 63 || (k >= END && k < END + 63)) return true;
  // If the first coefficient of two was the last of the block, the second or the end belongs to the next block.
  if ((e & SLOW) != 0) return false;
  unsigned symbol = 0, bits = find(&t->canonical, before, &symbol);
  if (places(symbol) == END) return true;
  if (k - (e >> 12 & 15) - (e & END) != 63) return false;
  bits += symbol & 15;
  r->bits = before << bits;
  r->count += (int)((e & 63) - bits);
  return true;
}

#endif
