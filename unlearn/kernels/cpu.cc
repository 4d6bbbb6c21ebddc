//go:build ignore

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <limits>
#include <vector>

#include "bodies.h"

// The loader picks the clone for the machine. A clone may not change bits, so the build forbids contraction
// (-ffp-contract=off) and no loop below lets the compiler reorder a float sum.
#define L2UL_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
// Arguments of an in-place operator may be the very same memory, index for index, but never shifted.
#define L2UL_ELEMENTWISE _Pragma("GCC ivdep")

namespace l2ul {
namespace {

// Work is cut at fixed places, so that results cannot depend on the number of threads; a piece of each of seven
// streams fits in the second-level cache.
constexpr int64_t kPiece = 1 << 14;
// A step of the attack updates and sums blocks of an image, so that the sum reads the first-level cache.
constexpr int64_t kBlock = 1 << 10;

// A sum of float64 terms in a fixed order: term j goes to lane j mod 16, and the lanes are folded in halves. Sixteen
// lanes fill two AVX-512 or four AVX2 registers, enough to hide the latency of an addition.
struct LaneSum {
  static constexpr int kLanes = 16;
  double lane[kLanes] = {};

  // Adds the terms term(0), term(1), … term(n - 1). Only the last call may have an n that is no multiple of kLanes.
  template <class Term>
  L2UL_INLINE void add(int64_t n, Term term) {
    double local[kLanes];
    for (int l = 0; l < kLanes; ++l) local[l] = lane[l];
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      for (int l = 0; l < kLanes; ++l) local[l] += term(i + l);
    }
    for (int l = 0; i + l < n; ++l) local[l] += term(i + l);
    for (int l = 0; l < kLanes; ++l) lane[l] = local[l];
  }

  L2UL_INLINE double total() const {
    double folded[kLanes];
    for (int l = 0; l < kLanes; ++l) folded[l] = lane[l];
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int l = 0; l < half; ++l) folded[l] += folded[l + half];
    }
    return folded[0];
  }
};

L2UL_INLINE void add_squares(LaneSum& sum, const float* v, int64_t n) {
  sum.add(n, [v](int64_t i) { return square(v[i]); });
}

template <class F>
void each_image(int64_t images, int64_t size, const F& f) {
  at::parallel_for(0, images, std::max<int64_t>(1, kPiece / std::max<int64_t>(1, size)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) f(i);
                   });
}

struct Piece {
  size_t item;
  int64_t begin, size;
};

// Cuts a list of tensors into pieces, so that threads share the work evenly whatever the tensors' sizes.
template <class Item>
std::vector<Piece> cut(std::span<const Item> list) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < list.size(); ++i) {
    for (int64_t begin = 0; begin < list[i].size; begin += kPiece) {
      pieces.push_back({i, begin, std::min(kPiece, list[i].size - begin)});
    }
  }
  return pieces;
}

template <class F>
void each_piece(int64_t pieces, const F& f) {
  at::parallel_for(0, pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}

// Eight pixels at a time: one load brings the indices, and values leave in pairs. Twice as fast as one by one and
// faster than AVX2's gather; there is nothing here for wider registers.
void lookup(const uint8_t* in, const float* table, int64_t size, float* out) {
  static_assert(std::endian::native == std::endian::little);
  const auto bits = [table](uint64_t pixel) -> uint64_t { return std::bit_cast<uint32_t>(table[pixel & 255]); };
  int64_t i = 0;
  for (; i + 8 <= size; i += 8) {
    uint64_t pixels;
    std::memcpy(&pixels, in + i, sizeof pixels);
    for (int pair = 0; pair < 8; pair += 2, pixels >>= 16) {
      const uint64_t values = bits(pixels) | bits(pixels >> 8) << 32;
      std::memcpy(out + i + pair, &values, sizeof values);
    }
  }
  for (; i < size; ++i) out[i] = table[in[i]];
}

void gather_planar(const uint8_t* in, const float* table, int64_t channels, int64_t area, float* out) {
  for (int64_t c = 0; c < channels; ++c) lookup(in + c * area, table + 256 * c, area, out + c * area);
}

void gather_interleaved(const uint8_t* in, const float* table, int64_t channels, int64_t area, float* out) {
  const auto gather = [=](int64_t width) __attribute__((always_inline)) {
    for (int64_t p = 0; p < area; ++p) {
      for (int64_t c = 0; c < width; ++c) out[p * width + c] = table[256 * c + in[p * width + c]];
    }
  };
  channels == 3 ? gather(3) : gather(channels);  // a known width unrolls the inner loop
}

// Whether a table says v/255 for all channels, as that of images does. To divide then gives the same bits and is faster
// than to look up: registers hold many pixels, and a load brings one value.
bool divides(const float* table, int64_t channels) {
  for (int64_t i = 0; i < 256 * channels; ++i) {
    if (table[i] != static_cast<float>(i % 256) / 255.0f) return false;
  }
  return true;
}

L2UL_CLONES void divide(const uint8_t* in, int64_t size, float* out) {
  L2UL_ELEMENTWISE for (int64_t i = 0; i < size; ++i) out[i] = static_cast<float>(in[i]) / 255.0f;
}

void mirror(const uint8_t* in, int64_t pixels, int64_t depth, uint8_t* out) {
  const auto copy = [=](int64_t width) __attribute__((always_inline)) {
    for (int64_t p = 0; p < pixels; ++p) {
      for (int64_t c = 0; c < width; ++c) out[(pixels - 1 - p) * width + c] = in[p * width + c];
    }
  };
  depth == 1 ? copy(1) : depth == 3 ? copy(3) : copy(depth);  // as above
}

// Cuts an image down to its crop. What nothing is copied to is padding. The result is good until the thread's next
// call.
const uint8_t* cut_out(const Gather& g, const uint8_t* in, const int64_t* crop) {
  const int64_t planes = g.interleaved ? 1 : g.channels, depth = g.interleaved ? g.channels : 1;
  const int64_t down = crop[0] - g.padding, right = crop[1] - g.padding;
  // The columns of the window that the image has.
  const int64_t begin = std::clamp<int64_t>(-right, 0, g.width), end = std::clamp<int64_t>(g.width - right, 0, g.width);
  static thread_local std::vector<uint8_t> out;
  out.assign(g.channels * g.height * g.width, 0);
  for (int64_t row = 0; begin < end && row < planes * g.height; ++row) {
    const int64_t y = row % g.height + down;
    if (y < 0 || y >= g.height) continue;
    const uint8_t* const from = in + ((row + down) * g.width + begin + right) * depth;
    uint8_t* const to = out.data() + row * g.width * depth;
    if (crop[2] == 1) {
      mirror(from, end - begin, depth, to + (g.width - end) * depth);
    } else {
      std::memcpy(to + begin * depth, from, (end - begin) * depth);
    }
  }
  return out.data();
}

L2UL_CLONES void start_l2(const float* x, const float* start, int64_t size, float eps, float* delta) {
  LaneSum squares;
  for (int64_t at = 0; at < size; at += kBlock) {
    const int64_t n = std::min(kBlock, size - at);
    L2UL_ELEMENTWISE for (int64_t i = at; i < at + n; ++i) delta[i] = start[i] - x[i];
    add_squares(squares, delta + at, n);
  }
  const float factor = shrink(norm(squares.total()), eps);
  L2UL_ELEMENTWISE for (int64_t i = 0; i < size; ++i) { delta[i] = boxed(x[i], delta[i] * factor); }
}

L2UL_CLONES void start_linf(const float* x, const float* start, int64_t size, float eps, float* delta) {
  L2UL_ELEMENTWISE for (int64_t i = 0; i < size; ++i) { delta[i] = boxed(x[i], clamp(start[i] - x[i], -eps, eps)); }
}

L2UL_CLONES void step_l2(float* delta, float* next, const float* grad, const float* x, int64_t size, float alpha,
                         float eps) {
  LaneSum gradient;
  add_squares(gradient, grad, size);
  const float scale = inverse(norm(gradient.total()));
  LaneSum squares;
  for (int64_t at = 0; at < size; at += kBlock) {
    const int64_t n = std::min(kBlock, size - at);
    L2UL_ELEMENTWISE for (int64_t i = at; i < at + n; ++i) delta[i] = l2_moved(delta[i], grad[i], x[i], alpha, scale);
    add_squares(squares, delta + at, n);
  }
  const float factor = shrink(norm(squares.total()), eps);
  L2UL_ELEMENTWISE for (int64_t i = 0; i < size; ++i) {
    delta[i] *= factor;
    next[i] = x[i] + delta[i];
  }
}

L2UL_CLONES void step_linf(float* delta, float* next, const float* grad, const float* x, int64_t size, float alpha,
                           float eps) {
  L2UL_ELEMENTWISE for (int64_t i = 0; i < size; ++i) {
    delta[i] = linf_moved(delta[i], grad[i], x[i], alpha, eps);
    next[i] = x[i] + delta[i];
  }
}

L2UL_CLONES void add_abs(float* omega, const float* grad, int64_t size, float weight, float count) {
  L2UL_ELEMENTWISE for (int64_t i = 0; i < size; ++i) omega[i] = plus_abs(omega[i], grad[i], weight, count);
}

L2UL_CLONES void add_square(float* omega, const float* grad, int64_t size, float weight, float count) {
  L2UL_ELEMENTWISE for (int64_t i = 0; i < size; ++i) omega[i] = plus_square(omega[i], grad[i], weight, count);
}

struct Range {
  float low = std::numeric_limits<float>::infinity(), high = -std::numeric_limits<float>::infinity();
  bool nan = false;
};

// The range over lanes, since one running minimum would be one long dependency (and NaN could drop out of it).
L2UL_CLONES void find_range(const float* v, int64_t size, Range* range) {
  constexpr int kLanes = 16;
  float low[kLanes], high[kLanes];
  std::fill_n(low, kLanes, range->low);
  std::fill_n(high, kLanes, range->high);
  int32_t nan = 0;
  for (int64_t i = 0; i < size; ++i) nan |= v[i] != v[i];
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      low[l] = v[i + l] < low[l] ? v[i + l] : low[l];
      high[l] = v[i + l] > high[l] ? v[i + l] : high[l];
    }
  }
  for (int l = 0; i + l < size; ++l) {
    low[l] = std::min(low[l], v[i + l]);
    high[l] = std::max(high[l], v[i + l]);
  }
  range->low = *std::min_element(low, low + kLanes);
  range->high = *std::max_element(high, high + kLanes);
  range->nan = nan != 0;
}

L2UL_CLONES void complements(const float* omega, int64_t size, float low, float width, float* out) {
  for (int64_t i = 0; i < size; ++i) out[i] = complement(omega[i], low, width);
}

// The four forms of the update share one loop; Anchored and First are known when it is compiled.
template <bool Anchored, bool First>
L2UL_INLINE bool update(const Update& u, const Rates& given) {
  float* const param = u.param;
  float* const momentum = u.momentum;
  const float *const grad = u.grad, *const anchor = u.anchor, *const reference = u.reference;
  const Rates rates = given;
  const int64_t size = u.size;
  int32_t bad = 0;
  L2UL_ELEMENTWISE for (int64_t i = 0; i < size; ++i) {
    float p = param[i], v = First ? 0.0f : momentum[i];
    bad |= !advance<Anchored, First>(p, grad[i], v, Anchored ? anchor[i] : 0.0f, Anchored ? reference[i] : 0.0f, rates);
    momentum[i] = v;
    param[i] = p;
  }
  return bad == 0;
}

L2UL_CLONES bool update_plain(const Update& u, const Rates& rates) { return update<false, false>(u, rates); }
L2UL_CLONES bool update_plain_first(const Update& u, const Rates& rates) { return update<false, true>(u, rates); }
L2UL_CLONES bool update_anchored(const Update& u, const Rates& rates) { return update<true, false>(u, rates); }
L2UL_CLONES bool update_anchored_first(const Update& u, const Rates& rates) { return update<true, true>(u, rates); }

struct Penalty {
  double weighted, plain;
};

L2UL_CLONES void add_penalty(const Drift& d, Penalty* out) {
  const float *const param = d.param, *const reference = d.reference, *const anchor = d.anchor;
  LaneSum plain, weighted;
  plain.add(d.size, [=](int64_t i) { return drift(param[i], reference[i]); });
  if (anchor == nullptr) {
    weighted = plain;
  } else {
    weighted.add(d.size, [=](int64_t i) { return static_cast<double>(anchor[i]) * drift(param[i], reference[i]); });
  }
  *out = {weighted.total(), plain.total()};
}

void gather_lut(const Gather& g, Stream) {
  const int64_t area = g.height * g.width, size = g.channels * area;
  const auto gather = g.interleaved ? gather_interleaved : gather_planar;
  const bool even = divides(g.table, g.channels);
  each_image(g.count, size, [&](int64_t i) {
    const uint8_t* const image = g.pixels + g.index[i] * g.stride;
    float* const out = g.out + i * size;
    const auto look_up = [&](const uint8_t* in) {
      even ? divide(in, size, out) : gather(in, g.table, g.channels, area, out);
    };
    g.crops == nullptr ? look_up(image) : look_up(cut_out(g, image, g.crops + 3 * i));
  });
}

void pgd_start_l2(const float* x, const float* start, int64_t images, int64_t size, float eps, float* delta, Stream) {
  each_image(images, size, [&](int64_t i) { start_l2(x + i * size, start + i * size, size, eps, delta + i * size); });
}

void pgd_start_linf(const float* x, const float* start, int64_t images, int64_t size, float eps, float* delta, Stream) {
  each_image(images, size, [&](int64_t i) { start_linf(x + i * size, start + i * size, size, eps, delta + i * size); });
}

void pgd_l2_step(float* delta, float* next, const float* grad, const float* x, int64_t images, int64_t size,
                 float alpha, float eps, Stream) {
  each_image(images, size, [&](int64_t i) {
    step_l2(delta + i * size, next + i * size, grad + i * size, x + i * size, size, alpha, eps);
  });
}

void pgd_linf_step(float* delta, float* next, const float* grad, const float* x, int64_t images, int64_t size,
                   float alpha, float eps, Stream) {
  each_image(images, size, [&](int64_t i) {
    step_linf(delta + i * size, next + i * size, grad + i * size, x + i * size, size, alpha, eps);
  });
}

void accumulate_abs(std::span<const Importance> list, float weight, float count, Stream) {
  const auto pieces = cut(list);
  each_piece(std::ssize(pieces), [&](int64_t i) {
    const auto& [item, begin, size] = pieces[i];
    add_abs(list[item].omega + begin, list[item].grad + begin, size, weight, count);
  });
}

void accumulate_square(std::span<const Importance> list, float weight, float count, Stream) {
  const auto pieces = cut(list);
  each_piece(std::ssize(pieces), [&](int64_t i) {
    const auto& [item, begin, size] = pieces[i];
    add_square(list[item].omega + begin, list[item].grad + begin, size, weight, count);
  });
}

void anchor_weights(const float* omega, int64_t size, float* out, void* /*scratch*/, Stream) {
  const int64_t count = (size + kPiece - 1) / kPiece;
  const auto length = [&](int64_t i) { return std::min(kPiece, size - i * kPiece); };
  std::vector<Range> ranges(count);
  each_piece(count, [&](int64_t i) { find_range(omega + i * kPiece, length(i), &ranges[i]); });
  Range all;
  for (const Range& r : ranges) {
    all.low = std::min(all.low, r.low);
    all.high = std::max(all.high, r.high);
    all.nan |= r.nan;
  }
  // One NaN makes every weight NaN, as the minimum of the tensor would be.
  const float width = all.nan ? std::numeric_limits<float>::quiet_NaN() : all.high - all.low;
  if (width == 0.0f) {
    std::fill_n(out, size, 1.0f);
    return;
  }
  each_piece(count, [&](int64_t i) { complements(omega + i * kPiece, length(i), all.low, width, out + i * kPiece); });
}

void anchored_sgd(std::span<const Update> list, const Rates& rates, bool first, bool* finite, Stream) {
  const auto pieces = cut(list);
  std::atomic<bool> all_good = true;
  each_piece(std::ssize(pieces), [&](int64_t i) {
    const auto& [item, begin, size] = pieces[i];
    Update u = list[item];
    u.param += begin, u.grad += begin, u.momentum += begin, u.size = size;
    bool good;
    if (u.anchor != nullptr) {
      u.anchor += begin, u.reference += begin;
      good = first ? update_anchored_first(u, rates) : update_anchored(u, rates);
    } else {
      good = first ? update_plain_first(u, rates) : update_plain(u, rates);
    }
    if (!good) all_good.store(false, std::memory_order_relaxed);
  });
  *finite = all_good;
}

void anchor_penalty(std::span<const Drift> list, double* out, void* /*scratch*/, Stream) {
  const auto pieces = cut(list);
  std::vector<Penalty> parts(pieces.size());
  each_piece(std::ssize(pieces), [&](int64_t i) {
    const auto& [item, begin, size] = pieces[i];
    const Drift& d = list[item];
    add_penalty({d.param + begin, d.reference + begin, d.anchor ? d.anchor + begin : nullptr, size}, &parts[i]);
  });
  Penalty sum{};
  for (const Penalty& p : parts) {
    sum.weighted += p.weighted;
    sum.plain += p.plain;
  }
  out[0] = 0.5 * sum.weighted;
  out[1] = sum.plain;
}

// ---- plans ----------------------------------------------------------------------------------------------------------

// Values of whole pixels, from `begin` on.
template <class T>
L2UL_INLINE void finish_pixels(const Finish<T>& given, int64_t begin, int64_t size) {
  const Finish<T> f = given;
  for (int64_t at = begin; at < begin + size; at += f.channels) {
    L2UL_ELEMENTWISE for (int64_t c = 0; c < f.channels; ++c) {
      float v = widen(f.sum[at + c]);
      if (f.bias != nullptr) v = v + f.bias[c];
      if (f.add != nullptr) v = v + widen(f.add[at + c]);
      if (f.relu) v = rectified(v);
      if (f.gate != nullptr) v = gated(v, widen(f.gate[at + c]));
      f.out[at + c] = narrow<T>(v);
    }
  }
}

L2UL_CLONES void finish_part(const Finish<float>& f, int64_t begin, int64_t size) { finish_pixels(f, begin, size); }
L2UL_CLONES void finish_part_bf16(const Finish<BFloat16>& f, int64_t begin, int64_t size) {
  finish_pixels(f, begin, size);
}

template <class T>
void finish(const Finish<T>& f, void (*part)(const Finish<T>&, int64_t, int64_t)) {
  const int64_t step = std::max<int64_t>(1, kPiece / f.channels) * f.channels;
  each_piece((f.size + step - 1) / step, [&](int64_t i) { part(f, i * step, std::min(step, f.size - i * step)); });
}

// The largest values of one window, whose places lie at from, NULL outside the image.
template <class T>
L2UL_INLINE void pool_window(const T* const* from, int64_t taps, int64_t depth, float* best, T* out, uint8_t* code) {
  for (int64_t k = 0; k < depth; ++k) best[k] = -std::numeric_limits<float>::infinity();
  const int64_t inside = std::find_if(from, from + taps, [](const T* v) { return v != nullptr; }) - from;
  std::memset(code, static_cast<int>(inside), depth);
  for (int64_t t = inside; t < taps; ++t) {
    const T* const v = from[t];
    if (v == nullptr) continue;
    for (int64_t k = 0; k < depth; ++k) {
      const float value = widen(v[k]);
      const bool more = larger(value, best[k]);
      best[k] = more ? value : best[k];
      code[k] = more ? static_cast<uint8_t>(t) : code[k];
    }
  }
  for (int64_t k = 0; k < depth; ++k) out[k] = narrow<T>(best[k]);
}

L2UL_CLONES void pool_one(const float* const* from, int64_t taps, int64_t depth, float* best, float* out,
                          uint8_t* code) {
  pool_window(from, taps, depth, best, out, code);
}
L2UL_CLONES void pool_one_bf16(const BFloat16* const* from, int64_t taps, int64_t depth, float* best, BFloat16* out,
                               uint8_t* code) {
  pool_window(from, taps, depth, best, out, code);
}

template <class T>
void max_pool(const Window& w, const MaxPool<T>& p,
              void (*window)(const T* const*, int64_t, int64_t, float*, T*, uint8_t*)) {
  const int64_t taps = w.kernel_h * w.kernel_w;
  at::parallel_for(0, w.images * w.out_h, 4, [&](int64_t begin, int64_t end) {
    std::vector<const T*> from(taps);
    std::vector<float> best(w.depth);
    for (int64_t line = begin; line < end; ++line) {
      for (int64_t column = 0; column < w.out_w; ++column) {
        for (int64_t t = 0; t < taps; ++t) {
          const int64_t h = line % w.out_h * w.stride_h + t / w.kernel_w - w.pad_h;
          const int64_t v = column * w.stride_w + t % w.kernel_w - w.pad_w;
          const bool inside = h >= 0 && h < w.in_h && v >= 0 && v < w.in_w;
          from[t] = inside ? p.x + ((line / w.out_h * w.in_h + h) * w.in_w + v) * w.depth : nullptr;
        }
        const int64_t at = (line * w.out_w + column) * w.depth;
        window(from.data(), taps, w.depth, best.data(), p.out + at, p.code + at);
      }
    }
  });
}

template <class T>
L2UL_INLINE void add_tap(const T* grad, const uint8_t* code, uint8_t tap, int64_t depth, float* sum) {
  for (int64_t k = 0; k < depth; ++k) sum[k] += code[k] == tap ? widen(grad[k]) : 0.0f;
}

L2UL_CLONES void add_where(const float* grad, const uint8_t* code, uint8_t tap, int64_t depth, float* sum) {
  add_tap(grad, code, tap, depth, sum);
}
L2UL_CLONES void add_where_bf16(const BFloat16* grad, const uint8_t* code, uint8_t tap, int64_t depth, float* sum) {
  add_tap(grad, code, tap, depth, sum);
}

template <class T>
void max_pool_gradient(const Window& w, const MaxPoolGradient<T>& p,
                       void (*add)(const T*, const uint8_t*, uint8_t, int64_t, float*)) {
  at::parallel_for(0, w.images * w.in_h, 4, [&](int64_t begin, int64_t end) {
    std::vector<float> sum(w.depth);
    for (int64_t line = begin; line < end; ++line) {
      const int64_t image = line / w.in_h, h = line % w.in_h;
      for (int64_t v = 0; v < w.in_w; ++v) {
        std::ranges::fill(sum, 0.0f);
        for (int64_t t = 0; t < w.kernel_h * w.kernel_w; ++t) {
          const int64_t down = h + w.pad_h - t / w.kernel_w, across = v + w.pad_w - t % w.kernel_w;
          if (down % w.stride_h != 0 || across % w.stride_w != 0) continue;
          const int64_t oh = down / w.stride_h, ow = across / w.stride_w;
          if (oh < 0 || oh >= w.out_h || ow < 0 || ow >= w.out_w) continue;
          const int64_t from = ((image * w.out_h + oh) * w.out_w + ow) * w.depth;
          add(p.grad + from, p.code + from, static_cast<uint8_t>(t), w.depth, sum.data());
        }
        const int64_t at = (line * w.in_w + v) * w.depth;
        for (int64_t k = 0; k < w.depth; ++k) {
          p.out[at + k] = narrow<T>(p.gate == nullptr ? sum[k] : gated(sum[k], widen(p.gate[at + k])));
        }
      }
    }
  });
}

}  // namespace

const Bodies cpu_bodies = {
    .gather_lut = gather_lut,
    .pgd_start_l2 = pgd_start_l2,
    .pgd_start_linf = pgd_start_linf,
    .pgd_l2_step = pgd_l2_step,
    .pgd_linf_step = pgd_linf_step,
    .accumulate_abs = accumulate_abs,
    .accumulate_square = accumulate_square,
    .anchor_weights = anchor_weights,
    .anchored_sgd = anchored_sgd,
    .anchor_penalty = anchor_penalty,
    .scratch = 0,
    .finish = [](const Finish<float>& f, Stream) { finish(f, finish_part); },
    .finish_bf16 = [](const Finish<BFloat16>& f, Stream) { finish(f, finish_part_bf16); },
    .max_pool = [](const Window& w, const MaxPool<float>& p, Stream) { max_pool(w, p, pool_one); },
    .max_pool_bf16 = [](const Window& w, const MaxPool<BFloat16>& p, Stream) { max_pool(w, p, pool_one_bf16); },
    .max_pool_gradient = [](const Window& w, const MaxPoolGradient<float>& p,
                            Stream) { max_pool_gradient(w, p, add_where); },
    .max_pool_gradient_bf16 = [](const Window& w, const MaxPoolGradient<BFloat16>& p,
                                 Stream) { max_pool_gradient(w, p, add_where_bf16); },
};

}  // namespace l2ul
