//go:build ignore

#include "conv.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#define L2UL_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#define L2UL_INLINE __attribute__((always_inline)) inline

namespace l2ul::cpu {
namespace {

// ---- the inner loop ------------------------------------------------------------------------------------------------

// Pixels of a tile: as many as AVX-512 has registers for, beside two panels of weights.
constexpr int kRows = 12;

// Numbers that one element holds.
template <class Number>
constexpr int64_t kWidth = std::is_same_v<Number, Pair> ? 2 : 1;

template <class Number>
using Rows = std::array<const Number*, kRows>;

// A tile of a product: c[r, p, l] (+)= the sum over taps t and channels k of a[t][r][k] * w[p][t, k, l]. Number is
// float, or Pair: then k counts pairs of channels, of which the second is added first, as the processor's instruction
// does.
template <class Number>
struct Tile {
  const Rows<Number>* a;  // a[t][0] null says that tap t is outside for all rows
  int64_t taps, depth;
  int64_t rows;  // that count, of kRows: the others are valid to read, and to write in c
  const Number* w;
  int64_t panels, panel;  // one or two, and the distance between them
  float* c;
  int64_t pitch;  // of c's rows
  bool fresh;     // c holds nothing yet
};

constexpr uint32_t kSecond = 0xffff0000;  // of a pair; the float of a bfloat16 is the same bits before 16 zeros
L2UL_INLINE float first_of(Pair v) { return std::bit_cast<float>(v << 16); }
L2UL_INLINE float second_of(Pair v) { return std::bit_cast<float>(v & kSecond); }

// Six rows of one panel: twelve registers hold the sums, as many as the latency of an addition needs.
template <class Number, int kHalf>
__attribute__((target("avx2,fma"))) void half_avx2(const Tile<Number>& tile, const Number* w, float* c) {
  constexpr int kSix = kRows / 2;
  __m256 sum[kSix][2];
  c += kHalf * kSix * tile.pitch;
#pragma GCC unroll 6
  for (int r = 0; r < kSix; ++r) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      sum[r][i] = tile.fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(c + r * tile.pitch + i * 8);
    }
  }
  for (int64_t t = 0; t < tile.taps; ++t) {
    const Rows<Number>& row = tile.a[t];
    if (row[0] == nullptr) {
      w += tile.depth * kPanel;
      continue;
    }
    const Number* from[kSix];
    std::copy_n(row.begin() + kHalf * kSix, kSix, from);
    for (int64_t k = 0; k < tile.depth; ++k, w += kPanel) {
      if constexpr (std::is_same_v<Number, float>) {
        const __m256 low = _mm256_loadu_ps(w), high = _mm256_loadu_ps(w + 8);
#pragma GCC unroll 6
        for (int r = 0; r < kSix; ++r) {
          const __m256 v = _mm256_broadcast_ss(from[r] + k);
          sum[r][0] = _mm256_fmadd_ps(v, low, sum[r][0]);
          sum[r][1] = _mm256_fmadd_ps(v, high, sum[r][1]);
        }
      } else {
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + i * 8));
          const __m256 second = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(int(kSecond))));
          const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
#pragma GCC unroll 6
          for (int r = 0; r < kSix; ++r) {
            sum[r][i] = _mm256_fmadd_ps(_mm256_set1_ps(second_of(from[r][k])), second, sum[r][i]);
            sum[r][i] = _mm256_fmadd_ps(_mm256_set1_ps(first_of(from[r][k])), first, sum[r][i]);
          }
        }
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kSix; ++r) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) _mm256_storeu_ps(c + r * tile.pitch + i * 8, sum[r][i]);
  }
}

template <class Number>
void multiply_avx2(const Tile<Number>& tile) {
  for (int64_t p = 0; p < tile.panels; ++p) {
    half_avx2<Number, 0>(tile, tile.w + p * tile.panel, tile.c + p * kPanel);
    if (tile.rows > kRows / 2) half_avx2<Number, 1>(tile, tile.w + p * tile.panel, tile.c + p * kPanel);
  }
}

constexpr int kAhead = 16;

// R rows of P panels. For floats the compiler uses nothing of avx512bf16 beyond avx512bw, which that includes.
template <class Number, int R, int P>
__attribute__((target("avx512f,avx512bw,avx512bf16"))) void tile_avx512(const Tile<Number>& tile) {
  __m512 sum[R][P];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) {
      sum[r][p] = tile.fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(tile.c + r * tile.pitch + p * kPanel);
    }
  }
  const Number* w = tile.w;
  for (int64_t t = 0; t < tile.taps; ++t) {
    if (tile.a[t][0] == nullptr) {
      w += tile.depth * kPanel;
      continue;
    }
    const Number* from[R];
    std::copy_n(tile.a[t].begin(), R, from);
    for (int64_t k = 0; k < tile.depth; ++k, w += kPanel) {
      __m512 weights[P];
#pragma GCC unroll 2
      for (int p = 0; p < P; ++p) {
        weights[p] = _mm512_loadu_ps(w + p * tile.panel);
        _mm_prefetch(reinterpret_cast<const char*>(w + p * tile.panel + kAhead * kPanel), _MM_HINT_T0);
      }
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        const __m512 v = _mm512_set1_ps(std::bit_cast<float>(from[r][k]));
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p) {
          if constexpr (std::is_same_v<Number, float>) {
            sum[r][p] = _mm512_fmadd_ps(v, weights[p], sum[r][p]);
          } else {
            sum[r][p] = _mm512_dpbf16_ps(sum[r][p], (__m512bh)v, (__m512bh)weights[p]);
          }
        }
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) _mm512_storeu_ps(tile.c + r * tile.pitch + p * kPanel, sum[r][p]);
  }
}

template <class Number>
void multiply_avx512(const Tile<Number>& tile) {
  if (tile.rows > kRows / 2) {
    tile.panels == 2 ? tile_avx512<Number, kRows, 2>(tile) : tile_avx512<Number, kRows, 1>(tile);
  } else {
    tile.panels == 2 ? tile_avx512<Number, kRows / 2, 2>(tile) : tile_avx512<Number, kRows / 2, 1>(tile);
  }
}

L2UL_INLINE float add_product(float a, float w, float sum) { return std::fma(a, w, sum); }
L2UL_INLINE float add_product(Pair a, Pair w, float sum) {
  return std::fma(first_of(a), first_of(w), std::fma(second_of(a), second_of(w), sum));
}

template <class Number>
void multiply_any(const Tile<Number>& tile) {
  for (int64_t r = 0; r < tile.rows; ++r) {
    for (int64_t l = 0; l < tile.panels * kPanel; ++l) {
      const Number* const w = tile.w + l / kPanel * tile.panel + l % kPanel;
      float sum = tile.fresh ? 0.0f : tile.c[r * tile.pitch + l];
      for (int64_t t = 0; t < tile.taps; ++t) {
        if (tile.a[t][0] == nullptr) continue;
        for (int64_t k = 0; k < tile.depth; ++k) {
          sum = add_product(tile.a[t][r][k], w[(t * tile.depth + k) * kPanel], sum);
        }
      }
      tile.c[r * tile.pitch + l] = sum;
    }
  }
}

// The instructions to use: what the processor has, within what libtorch uses. ATEN_CPU_CAPABILITY lowers both.
enum class Level { kAny, kAvx2, kAvx512 };
const Level level = [] {
  const std::string capability = at::get_cpu_capability();
  if (capability == "AVX512" && __builtin_cpu_supports("avx512bw")) return Level::kAvx512;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return avx2 && (capability == "AVX512" || capability == "AVX2") ? Level::kAvx2 : Level::kAny;
}();

template <class Number>
void multiply(const Tile<Number>& tile) {
  static const bool wide =
      level == Level::kAvx512 && (std::is_same_v<Number, float> || __builtin_cpu_supports("avx512bf16"));
  if (wide) return multiply_avx512(tile);
  level == Level::kAny ? multiply_any(tile) : multiply_avx2(tile);
}

// c[r, p, l] (+)= the sum over k of a[k, r] * b[k, p, l], for kOuter rows and one or two panels: the inner loop of a
// gradient by weights.
constexpr int kOuter = 8;

struct Outer {
  const float *a, *b;
  int64_t a_pitch, b_pitch, depth, panels;
  float* c;
  int64_t pitch;
  bool fresh;
};

// Four rows of one panel.
__attribute__((target("avx2,fma"))) void outer_four(const Outer& o, const float* a, const float* b, float* c) {
  __m256 sum[4][2];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    sum[r][0] = o.fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(c + r * o.pitch);
    sum[r][1] = o.fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(c + r * o.pitch + 8);
  }
  for (int64_t k = 0; k < o.depth; ++k, a += o.a_pitch, b += o.b_pitch) {
    const __m256 low = _mm256_loadu_ps(b), high = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const __m256 v = _mm256_broadcast_ss(a + r);
      sum[r][0] = _mm256_fmadd_ps(v, low, sum[r][0]);
      sum[r][1] = _mm256_fmadd_ps(v, high, sum[r][1]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    _mm256_storeu_ps(c + r * o.pitch, sum[r][0]);
    _mm256_storeu_ps(c + r * o.pitch + 8, sum[r][1]);
  }
}

void outer_avx2(const Outer& o) {
  for (int64_t p = 0; p < o.panels; ++p) {
    for (int r = 0; r < kOuter; r += 4) outer_four(o, o.a + r, o.b + p * kPanel, o.c + r * o.pitch + p * kPanel);
  }
}

template <int P>
__attribute__((target("avx512f"))) void outer_panels(const Outer& o) {
  __m512 sum[kOuter][P];
#pragma GCC unroll 8
  for (int r = 0; r < kOuter; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) {
      sum[r][p] = o.fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(o.c + r * o.pitch + p * kPanel);
    }
  }
  const float *a = o.a, *b = o.b;
  for (int64_t k = 0; k < o.depth; ++k, a += o.a_pitch, b += o.b_pitch) {
    __m512 row[P];
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) row[p] = _mm512_loadu_ps(b + p * kPanel);
#pragma GCC unroll 8
    for (int r = 0; r < kOuter; ++r) {
      const __m512 v = _mm512_set1_ps(a[r]);
#pragma GCC unroll 2
      for (int p = 0; p < P; ++p) sum[r][p] = _mm512_fmadd_ps(v, row[p], sum[r][p]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kOuter; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) _mm512_storeu_ps(o.c + r * o.pitch + p * kPanel, sum[r][p]);
  }
}

void outer_avx512(const Outer& o) { o.panels == 2 ? outer_panels<2>(o) : outer_panels<1>(o); }

void outer_any(const Outer& o) {
  for (int r = 0; r < kOuter; ++r) {
    for (int64_t l = 0; l < o.panels * kPanel; ++l) {
      float sum = o.fresh ? 0.0f : o.c[r * o.pitch + l];
      for (int64_t k = 0; k < o.depth; ++k) sum = std::fma(o.a[k * o.a_pitch + r], o.b[k * o.b_pitch + l], sum);
      o.c[r * o.pitch + l] = sum;
    }
  }
}

void outer(const Outer& o) {
  if (level == Level::kAvx512) return outer_avx512(o);
  level == Level::kAny ? outer_any(o) : outer_avx2(o);
}

// Memory for one thread's intermediate values, kept for its next call.
float* scratch(int64_t size) {
  static thread_local std::vector<float> memory;
  if (std::ssize(memory) < size) {
    memory = {};  // so that growing copies nothing
    memory.resize(size);
  }
  return memory.data();
}

using Vec = float __attribute__((vector_size(32)));
constexpr int64_t kLanes = 8;

L2UL_INLINE Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

L2UL_INLINE void store(float* p, const Vec& v) { std::memcpy(p, &v, sizeof v); }

// ---- what happens to finished sums ---------------------------------------------------------------------------------

// Stores `count` channels of one pixel, whose first is number `channel` of all and at `at` in the output. Comparisons
// let NaN through, as libtorch's ReLU and its gradient do. What is left out is tested here and not for each value.
template <bool kBias, bool kAdd, bool kGate, bool kRelu>
L2UL_INLINE void store_as(const Epilogue& e, const float* sum, int64_t channel, int64_t at, int64_t count, float* out) {
  const auto values = [&](auto v, const auto& read, int64_t l) __attribute__((always_inline)) {
    if (kBias) v += read(e.bias + channel + l);
    if (kAdd) v += read(e.add + at + l);
    if (kRelu) v = v < 0.0f ? decltype(v){} : v;
    if (kGate) v = read(e.gate + at + l) <= 0.0f ? decltype(v){} : v;
    return v;
  };
  const auto eight = [](const float* p) __attribute__((always_inline)) { return load(p); };
  const auto one = [](const float* p) __attribute__((always_inline)) { return *p; };
  int64_t l = 0;
  // In vectors by hand: compilers unroll this loop first, and then find no vectors in it.
  for (; l + kLanes <= count; l += kLanes) store(out + at + l, values(load(sum + l), eight, l));
  for (; l < count; ++l) out[at + l] = values(sum[l], one, l);
}

L2UL_INLINE void store_some(const Epilogue& e, const float* sum, int64_t channel, int64_t at, int64_t count,
                            float* out) {
  const bool bias = e.bias != nullptr, add = e.add != nullptr, gate = e.gate != nullptr;
  const auto as = [&]<bool kBias, bool kAdd>() __attribute__((always_inline)) {
    if (gate) return store_as<kBias, kAdd, true, false>(e, sum, channel, at, count, out);
    e.relu ? store_as<kBias, kAdd, false, true>(e, sum, channel, at, count, out)
           : store_as<kBias, kAdd, false, false>(e, sum, channel, at, count, out);
  };
  if (bias) {
    add ? as.template operator()<true, true>() : as.template operator()<true, false>();
  } else {
    add ? as.template operator()<false, true>() : as.template operator()<false, false>();
  }
}

// Stores kCount channels, or fewer at the end of the pixel's `width`. The usual count is known when this is compiled.
template <int64_t kCount>
L2UL_INLINE void store(const Epilogue& e, const float* sum, int64_t channel, int64_t at, int64_t width, float* out) {
  if (channel + kCount <= width) {
    store_some(e, sum, channel, at, kCount, out);
  } else {
    store_some(e, sum, channel, at, width - channel, out);
  }
}

L2UL_CLONES void store_rows(const Epilogue& e, const float* sums, int64_t pitch, const int64_t* pixel, int64_t rows,
                            int64_t channel, int64_t width, float* out) {
  for (int64_t r = 0; r < rows; ++r) {
    store<kPanel>(e, sums + r * pitch, channel, pixel[r] * width + channel, width, out);
  }
}

// ---- direct sums ---------------------------------------------------------------------------------------------------

// For each output pixel of an image, in the order of work, which input pixel each tap reads; -1: none.
struct Taps {
  std::vector<int64_t> pixel;   // the output pixels
  std::vector<int64_t> source;  // [pixels, taps]
};

Taps taps_of(const Conv& c) {
  Taps taps;
  // In a gradient with strides, only every stride-th pixel has a given tap. Those that share their taps go together, so
  // that the inner loop can leave the others out.
  const int64_t step_h = c.gradient ? c.stride_h : 1, step_w = c.gradient ? c.stride_w : 1;
  for (int64_t h0 = 0; h0 < step_h; ++h0) {
    for (int64_t w0 = 0; w0 < step_w; ++w0) {
      for (int64_t h = h0; h < c.out_h; h += step_h) {
        for (int64_t w = w0; w < c.out_w; w += step_w) taps.pixel.push_back(h * c.out_w + w);
      }
    }
  }
  // The place in the input along one axis, or -1.
  const auto from = [&](int64_t out, int64_t tap, int64_t stride, int64_t pad, int64_t size) {
    int64_t in = out * stride + tap - pad;
    if (c.gradient) {
      in = out - tap + pad;
      if (in % stride != 0) return int64_t{-1};
      in /= stride;
    }
    return in >= 0 && in < size ? in : int64_t{-1};
  };
  for (const int64_t p : taps.pixel) {
    for (int64_t kh = 0; kh < c.kernel_h; ++kh) {
      const int64_t h = from(p / c.out_w, kh, c.stride_h, c.pad_h, c.in_h);
      for (int64_t kw = 0; kw < c.kernel_w; ++kw) {
        const int64_t w = from(p % c.out_w, kw, c.stride_w, c.pad_w, c.in_w);
        taps.source.push_back(h < 0 || w < 0 ? -1 : h * c.in_w + w);
      }
    }
  }
  return taps;
}

constexpr int64_t kGroups = 8;          // groups of rows that share a visit to panels of weights
constexpr int64_t kDepthOfVisit = 256;  // whose part of that many channels stays in the first-level cache
constexpr int64_t kBlock = kGroups * kRows;
constexpr int64_t kShallow = 8;  // with fewer channels a tap is too short for the inner loop

}  // namespace

void pack_direct(const float* weight, const Conv& c, float* packed) {
  const int64_t taps = c.kernel_h * c.kernel_w;
  at::parallel_for(0, panels(c.width), 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      for (int64_t t = 0; t < taps; ++t) {
        for (int64_t k = 0; k < c.depth; ++k) {
          float* const to = packed + ((p * taps + t) * c.depth + k) * kPanel;
          for (int64_t l = 0; l < kPanel; ++l) {
            const int64_t n = p * kPanel + l;
            const int64_t from = c.gradient ? k * c.width + n : n * c.depth + k;
            to[l] = n < c.width ? weight[from * taps + t] : 0.0f;
          }
        }
      }
    }
  });
}

template <class Number>
void conv_direct(const Conv& c, const Number* x, const Number* packed, const Epilogue& epilogue, float* out) {
  const Taps taps = taps_of(c);
  const int64_t count = c.kernel_h * c.kernel_w, area = c.out_h * c.out_w, total = c.images * area;
  const int64_t channels = c.depth / kWidth<Number>;
  // Shallow taps of a pixel are copied side by side and count as one.
  const bool joined = channels < kShallow;
  const int64_t steps = joined ? 1 : count, depth = joined ? count * channels : channels;
  const int64_t visit = std::max<int64_t>(1, kDepthOfVisit / depth);
  const std::vector<Number> nothing(channels, Number{});

  at::parallel_for(0, (total + kBlock - 1) / kBlock, 1, [&](int64_t begin, int64_t end) {
    std::vector<Rows<Number>> source(kGroups * count);
    std::vector<int64_t> pixel(kBlock);
    constexpr int64_t pitch = 2 * kPanel;
    float* const sums = scratch(kBlock * (pitch + (joined ? depth : 0)));
    Number* const patches = reinterpret_cast<Number*>(sums + kBlock * pitch);
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kBlock, rows = std::min(kBlock, total - first);
      const int64_t groups = (rows + kRows - 1) / kRows;
      for (int64_t i = 0; i < groups * kRows; ++i) {
        Rows<Number>* const row = &source[i / kRows * count];
        const int64_t image = (first + i) / area, place = (first + i) % area;
        const int64_t* const from = &taps.source[place * count];
        const Number* const pixels = x + image * c.in_h * c.in_w * channels;
        for (int64_t t = 0; t < count; ++t) {
          row[t][i % kRows] = i >= rows || from[t] < 0 ? nothing.data() : pixels + from[t] * channels;
        }
        if (i < rows) pixel[i] = image * area + taps.pixel[place];
      }
      if (joined) {
        for (int64_t g = 0; g < groups; ++g) {
          Rows<Number> patch;
          for (int r = 0; r < kRows; ++r) {
            Number* const to = patches + (g * kRows + r) * depth;
            for (int64_t t = 0; t < count; ++t) {
              for (int64_t k = 0; k < channels; ++k) to[t * channels + k] = source[g * count + t][r][k];
            }
            patch[r] = to;
          }
          source[g] = patch;  // where a tap of an earlier group was, which is copied by now
        }
      } else {
        for (Rows<Number>& row : source) {
          if (std::ranges::all_of(row, [&](const Number* from) { return from == nothing.data(); })) row[0] = nullptr;
        }
      }
      const int64_t panel = steps * depth * kPanel;
      for (int64_t p = 0; p < panels(c.width); p += 2) {
        const int64_t together = std::min<int64_t>(2, panels(c.width) - p);
        for (int64_t t = 0; t < steps; t += visit) {
          for (int64_t g = 0; g < groups; ++g) {
            multiply(Tile<Number>{&source[g * steps + t], std::min(visit, steps - t), depth,
                                  std::min<int64_t>(kRows, rows - g * kRows), packed + p * panel + t * depth * kPanel,
                                  together, panel, sums + g * kRows * pitch, pitch, t == 0});
          }
        }
        for (int64_t i = 0; i < together; ++i) {
          store_rows(epilogue, sums + i * kPanel, pitch, pixel.data(), rows, (p + i) * kPanel, c.width, out);
        }
      }
    }
  });
}

template void conv_direct(const Conv&, const float*, const float*, const Epilogue&, float*);
template void conv_direct(const Conv&, const Pair*, const Pair*, const Epilogue&, float*);

// ---- Winograd ------------------------------------------------------------------------------------------------------

namespace {

// The nearest bfloat16 of each, of two the even one; NaN stays NaN.
L2UL_INLINE void store(Half* p, const Vec& v) {
  using Bits = uint32_t __attribute__((vector_size(32)));
  using Halves = Half __attribute__((vector_size(16)));
  const Bits bits = std::bit_cast<Bits>(v), rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Halves halves = __builtin_convertvector(v == v ? rounded : Bits{} + 0x7fc0, Halves);
  std::memcpy(p, &halves, sizeof halves);
}

// The one-dimensional transforms of Lavin and Gray, section 4: G of a kernel, B^T of the input, A^T of the output, and
// the transposed ones of the first and the last. Steps are distances between the elements.
template <int kTile>
struct Transform;

template <>
struct Transform<2> {
  static L2UL_INLINE void kernel(const Vec* w, int from, Vec* out, int to) {
    const Vec even = 0.5f * (w[0] + w[2 * from]), odd = 0.5f * w[from];
    out[0] = w[0];
    out[to] = even + odd;
    out[2 * to] = even - odd;
    out[3 * to] = w[2 * from];
  }
  static L2UL_INLINE void kernel_adjoint(const Vec* u, int from, Vec* out, int to) {
    const Vec plus = 0.5f * (u[from] + u[2 * from]), minus = 0.5f * (u[from] - u[2 * from]);
    out[0] = u[0] + plus;
    out[to] = minus;
    out[2 * to] = plus + u[3 * from];
  }
  static L2UL_INLINE void input(const Vec* d, int from, Vec* out, int to) {
    out[0] = d[0] - d[2 * from];
    out[to] = d[from] + d[2 * from];
    out[2 * to] = d[2 * from] - d[from];
    out[3 * to] = d[from] - d[3 * from];
  }
  static L2UL_INLINE void output(const Vec* m, int from, Vec* out, int to) {
    out[0] = m[0] + m[from] + m[2 * from];
    out[to] = m[from] - m[2 * from] - m[3 * from];
  }
  static L2UL_INLINE void output_adjoint(const Vec* g, int from, Vec* out, int to) {
    out[0] = g[0];
    out[to] = g[0] + g[from];
    out[2 * to] = g[0] - g[from];
    out[3 * to] = -g[from];
  }
};

template <>
struct Transform<4> {
  static L2UL_INLINE void kernel(const Vec* w, int from, Vec* out, int to) {
    const Vec even = w[0] + w[2 * from], wide = w[0] + 4.0f * w[2 * from];
    out[0] = w[0] / 4.0f;
    out[to] = (even + w[from]) / -6.0f;
    out[2 * to] = (even - w[from]) / -6.0f;
    out[3 * to] = (wide + 2.0f * w[from]) / 24.0f;
    out[4 * to] = (wide - 2.0f * w[from]) / 24.0f;
    out[5 * to] = w[2 * from];
  }
  static L2UL_INLINE void kernel_adjoint(const Vec* u, int from, Vec* out, int to) {
    const Vec near = (u[from] + u[2 * from]) / -6.0f, far = (u[3 * from] + u[4 * from]) / 24.0f;
    out[0] = u[0] / 4.0f + near + far;
    out[to] = (u[from] - u[2 * from]) / -6.0f + (u[3 * from] - u[4 * from]) / 12.0f;
    out[2 * to] = near + 4.0f * far + u[5 * from];
  }
  static L2UL_INLINE void input(const Vec* d, int from, Vec* out, int to) {
    const Vec d1 = d[from], d2 = d[2 * from], d3 = d[3 * from], d4 = d[4 * from];
    const Vec a = d4 - 4.0f * d2, b = d3 - 4.0f * d1, c = d4 - d2, e = 2.0f * (d3 - d1);
    out[0] = 4.0f * d[0] - 5.0f * d2 + d4;
    out[to] = a + b;
    out[2 * to] = a - b;
    out[3 * to] = c + e;
    out[4 * to] = c - e;
    out[5 * to] = 4.0f * d1 - 5.0f * d3 + d[5 * from];
  }
  static L2UL_INLINE void output(const Vec* m, int from, Vec* out, int to) {
    const Vec a = m[from] + m[2 * from], b = m[from] - m[2 * from];
    const Vec c = m[3 * from] + m[4 * from], d = m[3 * from] - m[4 * from];
    out[0] = m[0] + a + c;
    out[to] = b + 2.0f * d;
    out[2 * to] = a + 4.0f * c;
    out[3 * to] = b + 8.0f * d + m[5 * from];
  }
  static L2UL_INLINE void output_adjoint(const Vec* g, int from, Vec* out, int to) {
    const Vec g1 = g[from], g2 = g[2 * from], g3 = g[3 * from];
    const Vec a = g[0] + g2, b = g1 + g3, c = g[0] + 4.0f * g2, d = 2.0f * g1 + 8.0f * g3;
    out[0] = g[0];
    out[to] = a + b;
    out[2 * to] = a - b;
    out[3 * to] = c + d;
    out[4 * to] = c - d;
    out[5 * to] = g3;
  }
};

// Applies a one-dimensional transform to a kFrom x kFrom square, its columns first, then its rows: kTo x kTo values.
template <auto kTransform, int kFrom, int kTo>
L2UL_INLINE void transform(const Vec* in, Vec* out) {
  Vec half[kTo * kFrom];
#pragma GCC unroll 6
  for (int j = 0; j < kFrom; ++j) kTransform(in + j, kFrom, half + j, kFrom);
#pragma GCC unroll 6
  for (int i = 0; i < kTo; ++i) kTransform(half + i * kFrom, 1, out + i * kTo, 1);
}

// Where tile number `index` of all tiles begins.
struct Place {
  int64_t image, h, w;
};

struct Tiling {
  int64_t down, across, total;
  int tile;

  Tiling(const Conv& c, int tile)
      : down((c.out_h + tile - 1) / tile),
        across((c.out_w + tile - 1) / tile),
        total(c.images * down * across),
        tile(tile) {}
  L2UL_INLINE Place place(int64_t index) const {
    const int64_t inside = index % (down * across);
    return {index / (down * across), inside / across * tile, inside % across * tile};
  }
};

// Tiles first … first + count - 1 to v [points, rows, depth].
template <int kTile, class Value>
L2UL_INLINE void transform_input(const Conv& c, const Tiling& tiling, const float* x, const float* nothing,
                                 int64_t first, int64_t count, int64_t rows, Value* v) {
  constexpr int kPoints = kTile + 2;
  // The gradient of a padded 3x3 convolution is one with the complementary padding.
  const int64_t pad_h = c.gradient ? 2 - c.pad_h : c.pad_h, pad_w = c.gradient ? 2 - c.pad_w : c.pad_w;
  for (int64_t t = 0; t < count; ++t) {
    const Place at = tiling.place(first + t);
    const float* from[kPoints * kPoints];
    for (int i = 0; i < kPoints; ++i) {
      for (int j = 0; j < kPoints; ++j) {
        const int64_t h = at.h + i - pad_h, w = at.w + j - pad_w;
        const bool inside = h >= 0 && h < c.in_h && w >= 0 && w < c.in_w;
        from[i * kPoints + j] = inside ? x + ((at.image * c.in_h + h) * c.in_w + w) * c.depth : nothing;
      }
    }
    for (int64_t k = 0; k < c.depth; k += kLanes) {
      Vec pixels[kPoints * kPoints], points[kPoints * kPoints];
#pragma GCC unroll 36
      for (int i = 0; i < kPoints * kPoints; ++i) pixels[i] = load(from[i] + k);
      transform<Transform<kTile>::input, kPoints, kPoints>(pixels, points);
#pragma GCC unroll 36
      for (int i = 0; i < kPoints * kPoints; ++i) store(v + (i * rows + t) * c.depth + k, points[i]);
    }
  }
}

// The same tiles from m [points, rows, pitch] to the output.
template <int kTile>
L2UL_INLINE void transform_output(const Conv& c, const Tiling& tiling, const float* m, int64_t first, int64_t count,
                                  int64_t rows, int64_t pitch, const Epilogue& e, float* out) {
  constexpr int kPoints = kTile + 2;
  for (int64_t t = 0; t < count; ++t) {
    const Place at = tiling.place(first + t);
    const int64_t height = std::min<int64_t>(kTile, c.out_h - at.h), width = std::min<int64_t>(kTile, c.out_w - at.w);
    const int64_t corner = ((at.image * c.out_h + at.h) * c.out_w + at.w) * c.width;
    for (int64_t n = 0; n < c.width; n += kLanes) {
      Vec points[kPoints * kPoints], sums[kTile * kTile];
#pragma GCC unroll 36
      for (int i = 0; i < kPoints * kPoints; ++i) points[i] = load(m + (i * rows + t) * pitch + n);
      transform<Transform<kTile>::output, kPoints, kTile>(points, sums);
      for (int64_t i = 0; i < height; ++i) {
        for (int64_t j = 0; j < width; ++j) {
          float sum[kLanes];
          std::memcpy(sum, &sums[i * kTile + j], sizeof sum);
          store<kLanes>(e, sum, n, corner + (i * c.out_w + j) * c.width + n, c.width, out);
        }
      }
    }
  }
}

L2UL_CLONES void input2(const Conv& c, const Tiling& tiling, const float* x, const float* nothing, int64_t first,
                        int64_t count, int64_t rows, float* v) {
  transform_input<2>(c, tiling, x, nothing, first, count, rows, v);
}
L2UL_CLONES void input2_half(const Conv& c, const Tiling& tiling, const float* x, const float* nothing, int64_t first,
                             int64_t count, int64_t rows, Half* v) {
  transform_input<2>(c, tiling, x, nothing, first, count, rows, v);
}
L2UL_CLONES void input4(const Conv& c, const Tiling& tiling, const float* x, const float* nothing, int64_t first,
                        int64_t count, int64_t rows, float* v) {
  transform_input<4>(c, tiling, x, nothing, first, count, rows, v);
}
L2UL_CLONES void input4_half(const Conv& c, const Tiling& tiling, const float* x, const float* nothing, int64_t first,
                             int64_t count, int64_t rows, Half* v) {
  transform_input<4>(c, tiling, x, nothing, first, count, rows, v);
}
L2UL_CLONES void output2(const Conv& c, const Tiling& tiling, const float* m, int64_t first, int64_t count,
                         int64_t rows, int64_t pitch, const Epilogue& e, float* out) {
  transform_output<2>(c, tiling, m, first, count, rows, pitch, e, out);
}
L2UL_CLONES void output4(const Conv& c, const Tiling& tiling, const float* m, int64_t first, int64_t count,
                         int64_t rows, int64_t pitch, const Epilogue& e, float* out) {
  transform_output<4>(c, tiling, m, first, count, rows, pitch, e, out);
}

// Tiles of one piece of work: enough to pay for a visit to all weights, few enough that what is between the transforms
// stays in the second-level cache, and a share for every thread.
int64_t tiles_at_once(const Conv& c, const Tiling& tiling) {
  const int64_t bytes = (tiling.tile + 2) * (tiling.tile + 2) * (c.depth + panels(c.width) * kPanel) * sizeof(float);
  const int64_t fitting = std::clamp<int64_t>((1 << 20) / bytes, 2 * kRows, 8 * kRows);
  const int64_t share = (tiling.total + at::get_num_threads() - 1) / at::get_num_threads();
  return (std::min(fitting, share) + kRows - 1) / kRows * kRows;
}

// The kernels of depths k … k + 7 to one panel of channels.
template <int kTile>
L2UL_INLINE void pack_block(const float* weight, const Strides& s, const Conv& c, int64_t p, int64_t k, float* packed) {
  constexpr int kPoints = kTile + 2;
  // Lanes are channels of the output: one of the two is contiguous in memory at best, so they are gathered first.
  const int64_t lane = c.gradient ? s.in : s.out, row = c.gradient ? s.out : s.in;
  const int64_t lanes = std::min(kPanel, c.width - p * kPanel);
  float w[kLanes][9][kPanel] = {};
  for (int64_t l = 0; l < lanes; ++l) {
    const float* const from = weight + (p * kPanel + l) * lane + k * row;
    for (int t = 0; t < 9; ++t) {
      // A gradient's kernel is turned half around, with its channels exchanged.
      const float* const tap = from + (c.gradient ? 8 - t : t) * s.tap;
      for (int64_t i = 0; i < kLanes; ++i) w[i][t][l] = tap[i * row];
    }
  }
  for (int64_t i = 0; i < kLanes; ++i) {
    for (int64_t l = 0; l < kPanel; l += kLanes) {
      Vec taps[9], points[kPoints * kPoints];
#pragma GCC unroll 9
      for (int t = 0; t < 9; ++t) taps[t] = load(&w[i][t][l]);
      transform<Transform<kTile>::kernel, 3, kPoints>(taps, points);
#pragma GCC unroll 36
      for (int j = 0; j < kPoints * kPoints; ++j) {
        store(packed + ((j * panels(c.width) + p) * c.depth + k + i) * kPanel + l, points[j]);
      }
    }
  }
}

L2UL_CLONES void pack2(const float* weight, const Strides& s, const Conv& c, int64_t p, int64_t k, float* packed) {
  pack_block<2>(weight, s, c, p, k, packed);
}
L2UL_CLONES void pack4(const float* weight, const Strides& s, const Conv& c, int64_t p, int64_t k, float* packed) {
  pack_block<4>(weight, s, c, p, k, packed);
}

}  // namespace

void pack_winograd(const float* weight, const Strides& strides, const Conv& c, int tile, float* packed) {
  const int64_t blocks = c.depth / kLanes;
  at::parallel_for(0, panels(c.width) * blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      (tile == 2 ? pack2 : pack4)(weight, strides, c, i / blocks, i % blocks * kLanes, packed);
    }
  });
}

void pack_pairs(const float* packed, int64_t rows, Pair* pairs) {
  at::parallel_for(0, rows / 2, 64, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      Half halves[2 * kPanel];
      for (int64_t i = 0; i < 2 * kPanel; i += kLanes) store(halves + i, load(packed + 2 * k * kPanel + i));
      for (int64_t l = 0; l < kPanel; ++l) pairs[k * kPanel + l] = halves[l] | Pair{halves[kPanel + l]} << 16;
    }
  });
}

template <class Number>
void conv_winograd(const Conv& c, int tile, const float* x, const Number* packed, const Epilogue& epilogue,
                   float* out) {
  const Tiling tiling(c, tile);
  const int64_t points = (tile + 2) * (tile + 2), pitch = panels(c.width) * kPanel;
  const int64_t rows = tiles_at_once(c, tiling), depth = c.depth / kWidth<Number>;
  const std::vector<float> nothing(c.depth, 0.0f);
  at::parallel_for(0, (tiling.total + rows - 1) / rows, 1, [&](int64_t begin, int64_t end) {
    float* const m = scratch(points * rows * (depth + pitch));
    Number* const v = reinterpret_cast<Number*>(m + points * rows * pitch);
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t first = piece * rows, count = std::min(rows, tiling.total - first);
      if constexpr (std::is_same_v<Number, float>) {
        (tile == 2 ? input2 : input4)(c, tiling, x, nothing.data(), first, count, rows, v);
      } else {
        (tile == 2 ? input2_half : input4_half)(c, tiling, x, nothing.data(), first, count, rows,
                                                reinterpret_cast<Half*>(v));
      }
      for (int64_t point = 0; point < points; ++point) {
        for (int64_t p = 0; p < panels(c.width); p += 2) {
          for (int64_t r = 0; r < count; r += kRows) {
            Rows<Number> source;  // behind the last tile there is room, and what comes of it is not read
            for (int i = 0; i < kRows; ++i) source[i] = v + (point * rows + r + i) * depth;
            multiply(Tile<Number>{&source, 1, depth, std::min<int64_t>(kRows, count - r),
                                  packed + (point * panels(c.width) + p) * depth * kPanel,
                                  std::min<int64_t>(2, panels(c.width) - p), depth * kPanel,
                                  m + (point * rows + r) * pitch + p * kPanel, pitch, true});
          }
        }
      }
      (tile == 2 ? output2 : output4)(c, tiling, m, first, count, rows, pitch, epilogue, out);
    }
  });
}

template void conv_winograd(const Conv&, int, const float*, const float*, const Epilogue&, float*);
template void conv_winograd(const Conv&, int, const float*, const Pair*, const Epilogue&, float*);

namespace {

// Tiles first … first + count - 1 of the gradient by the output to m [points, rows, pitch].
template <int kTile>
L2UL_INLINE void transform_gradient(const Conv& c, const Tiling& tiling, const float* grad, const float* nothing,
                                    int64_t first, int64_t count, int64_t rows, int64_t pitch, float* m) {
  constexpr int kPoints = kTile + 2;
  for (int64_t t = 0; t < count; ++t) {
    const Place at = tiling.place(first + t);
    const float* from[kTile * kTile];
    for (int i = 0; i < kTile; ++i) {
      for (int j = 0; j < kTile; ++j) {
        const int64_t h = at.h + i, w = at.w + j;
        const bool inside = h < c.out_h && w < c.out_w;
        from[i * kTile + j] = inside ? grad + ((at.image * c.out_h + h) * c.out_w + w) * c.width : nothing;
      }
    }
    for (int64_t n = 0; n < c.width; n += kLanes) {
      Vec pixels[kTile * kTile], points[kPoints * kPoints];
#pragma GCC unroll 16
      for (int i = 0; i < kTile * kTile; ++i) pixels[i] = load(from[i] + n);
      transform<Transform<kTile>::output_adjoint, kTile, kPoints>(pixels, points);
#pragma GCC unroll 36
      for (int i = 0; i < kPoints * kPoints; ++i) store(m + (i * rows + t) * pitch + n, points[i]);
    }
  }
}

L2UL_CLONES void gradient2(const Conv& c, const Tiling& tiling, const float* grad, const float* nothing, int64_t first,
                           int64_t count, int64_t rows, int64_t pitch, float* m) {
  transform_gradient<2>(c, tiling, grad, nothing, first, count, rows, pitch, m);
}
L2UL_CLONES void gradient4(const Conv& c, const Tiling& tiling, const float* grad, const float* nothing, int64_t first,
                           int64_t count, int64_t rows, int64_t pitch, float* m) {
  transform_gradient<4>(c, tiling, grad, nothing, first, count, rows, pitch, m);
}

// The gradients by the kernels from the channels k … k + 7 to the channels n … n + 7, from u [points, depth, pitch].
template <int kTile>
L2UL_INLINE void unpack_kernels(const Conv& c, const float* u, int64_t k, int64_t n, int64_t pitch, const Strides& s,
                                float* out) {
  constexpr int kPoints = kTile + 2;
  float taps[kLanes][9][kLanes];
  for (int64_t row = 0; row < kLanes; ++row) {
    Vec points[kPoints * kPoints], kernel[9];
#pragma GCC unroll 36
    for (int i = 0; i < kPoints * kPoints; ++i) points[i] = load(u + (i * c.depth + k + row) * pitch + n);
    transform<Transform<kTile>::kernel_adjoint, kPoints, 3>(points, kernel);
    std::memcpy(taps[row], kernel, sizeof kernel);
  }
  // Rows last: in channels-last weights they lie side by side.
  for (int64_t l = 0; l < kLanes; ++l) {
    for (int t = 0; t < 9; ++t) {
      float* const to = out + (n + l) * s.out + k * s.in + t * s.tap;
      for (int64_t row = 0; row < kLanes; ++row) to[row * s.in] = taps[row][t][l];
    }
  }
}

L2UL_CLONES void unpack2(const Conv& c, const float* u, int64_t k, int64_t n, int64_t pitch, const Strides& s,
                         float* out) {
  unpack_kernels<2>(c, u, k, n, pitch, s, out);
}
L2UL_CLONES void unpack4(const Conv& c, const float* u, int64_t k, int64_t n, int64_t pitch, const Strides& s,
                         float* out) {
  unpack_kernels<4>(c, u, k, n, pitch, s, out);
}

}  // namespace

void winograd_weight_gradient(const Conv& c, int tile, const float* x, const float* grad, const Strides& strides,
                              float* out) {
  const Tiling tiling(c, tile);
  const int64_t points = (tile + 2) * (tile + 2), pitch = panels(c.width) * kPanel;
  // A block's transforms stay in the third-level cache. Blocks follow one another, and a thread owns its sums: bits
  // do not depend on the number of threads.
  const int64_t fitting = (int64_t{8} << 20) / static_cast<int64_t>(points * (c.depth + pitch) * sizeof(float));
  const int64_t rows = std::clamp<int64_t>(fitting, 32, std::max<int64_t>(tiling.total, 32));
  float* const v = scratch(points * (rows * (c.depth + pitch) + c.depth * pitch));
  float* const m = v + points * rows * c.depth;
  float* const u = m + points * rows * pitch;
  const std::vector<float> nothing(std::max(c.depth, c.width), 0.0f);
  for (int64_t first = 0; first < tiling.total; first += rows) {
    const int64_t count = std::min(rows, tiling.total - first);
    at::parallel_for(0, count, 4, [&](int64_t begin, int64_t end) {
      (tile == 2 ? input2 : input4)(c, tiling, x, nothing.data(), first + begin, end - begin, rows,
                                    v + begin * c.depth);
      (tile == 2 ? gradient2 : gradient4)(c, tiling, grad, nothing.data(), first + begin, end - begin, rows, pitch,
                                          m + begin * pitch);
    });
    const int64_t pairs = (panels(c.width) + 1) / 2;
    at::parallel_for(0, points * pairs, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t point = i / pairs, p = i % pairs * 2;
        for (int64_t k = 0; k < c.depth; k += kOuter) {
          outer({v + point * rows * c.depth + k, m + point * rows * pitch + p * kPanel, c.depth, pitch, count,
                 std::min<int64_t>(2, panels(c.width) - p), u + (point * c.depth + k) * pitch + p * kPanel, pitch,
                 first == 0});
        }
      }
    });
  }
  at::parallel_for(0, c.depth / kLanes, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin * kLanes; k < end * kLanes; k += kLanes) {
      for (int64_t n = 0; n < c.width; n += kLanes) (tile == 2 ? unpack2 : unpack4)(c, u, k, n, pitch, strides, out);
    }
  });
}

}  // namespace l2ul::cpu
