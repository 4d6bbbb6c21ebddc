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

template <class Number, int R>
void rows_avx512(const Tile<Number>& tile) {
  tile.panels == 2 ? tile_avx512<Number, R, 2>(tile) : tile_avx512<Number, R, 1>(tile);
}

template <class Number>
void multiply_avx512(const Tile<Number>& tile) {
  if (tile.rows > 8) return rows_avx512<Number, kRows>(tile);
  tile.rows > 4 ? rows_avx512<Number, 8>(tile) : rows_avx512<Number, 4>(tile);
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

// c[r, l] (+)= the sum over rows k of a[k][r] * b[k][l], for kOuter r and one or two panels of l: the inner loop of a
// gradient by weights.
constexpr int kOuter = 8;

struct Outer {
  const float *const *a, *const *b;  // rows, of which the columns from a_at and b_at on are meant
  int64_t a_at, b_at, rows, panels;
  float* c;
  int64_t pitch;
  bool fresh;
};

// Four rows of one panel of c.
template <int kHalf>
__attribute__((target("avx2,fma"))) void outer_avx2(const Outer& o, int64_t p) {
  float* const c = o.c + kHalf * 4 * o.pitch + p * kPanel;
  const int64_t a_at = o.a_at + kHalf * 4, b_at = o.b_at + p * kPanel;
  __m256 sum[4][2];
#pragma GCC unroll 4
  for (int r = 0; r < 4; ++r) {
    sum[r][0] = o.fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(c + r * o.pitch);
    sum[r][1] = o.fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(c + r * o.pitch + 8);
  }
  for (int64_t k = 0; k < o.rows; ++k) {
    const float *const a = o.a[k] + a_at, *const b = o.b[k] + b_at;
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

template <int P>
__attribute__((target("avx512f"))) void outer_avx512(const Outer& o) {
  __m512 sum[kOuter][P];
#pragma GCC unroll 8
  for (int r = 0; r < kOuter; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) {
      sum[r][p] = o.fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(o.c + r * o.pitch + p * kPanel);
    }
  }
  for (int64_t k = 0; k < o.rows; ++k) {
    const float *const a = o.a[k] + o.a_at, *const b = o.b[k] + o.b_at;
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

void outer_any(const Outer& o) {
  for (int r = 0; r < kOuter; ++r) {
    for (int64_t l = 0; l < o.panels * kPanel; ++l) {
      float sum = o.fresh ? 0.0f : o.c[r * o.pitch + l];
      for (int64_t k = 0; k < o.rows; ++k) sum = std::fma(o.a[k][o.a_at + r], o.b[k][o.b_at + l], sum);
      o.c[r * o.pitch + l] = sum;
    }
  }
}

void outer(const Outer& o) {
  if (level == Level::kAny) return outer_any(o);
  if (level == Level::kAvx512) return o.panels == 2 ? outer_avx512<2>(o) : outer_avx512<1>(o);
  for (int64_t p = 0; p < o.panels; ++p) {
    outer_avx2<0>(o, p);
    outer_avx2<1>(o, p);
  }
}

// Work cut into pieces that differ by one at most, none larger than `most`, and as many for each thread.
struct Pieces {
  int64_t total, count;

  Pieces(int64_t total, int64_t most) : total(total) {
    const int64_t threads = at::get_num_threads(), round = threads * most;
    count = std::min(total, (total + round - 1) / round * threads);
  }
  int64_t begin(int64_t piece) const { return piece * total / count; }
  int64_t largest() const { return (total + count - 1) / count; }
};

// Memory for one thread's intermediate values, kept for its next call, at a cache line's beginning.
float* scratch(int64_t size) {
  constexpr int64_t kLine = 64 / sizeof(float);
  static thread_local std::vector<float> memory;
  if (std::ssize(memory) < size + kLine) {
    memory = {};  // so that growing copies nothing
    memory.resize(size + kLine);
  }
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
}

// Vectors of N numbers, as many as a loop over channels takes at once. (In `using` g++ forgets a size that depends on
// N.)
template <int N>
struct Lanes {
  typedef float Floats __attribute__((vector_size(N * sizeof(float))));
  typedef uint32_t Bits __attribute__((vector_size(N * sizeof(uint32_t))));
  typedef Half Halves __attribute__((vector_size(N * sizeof(Half))));
};
template <int N>
using Vec = typename Lanes<N>::Floats;
constexpr int64_t kEight = 8;  // what channels come in multiples of

template <int N>
L2UL_INLINE Vec<N> load(const float* p) {
  Vec<N> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class V>
L2UL_INLINE void store(float* p, const V& v) {
  std::memcpy(p, &v, sizeof v);
}

template <class Body>
__attribute__((target("avx512f,avx512bw"))) void sixteen_lanes(const Body& body) {
  body.template operator()<16>();
}
template <class Body>
__attribute__((target("avx2"))) void eight_lanes(const Body& body) {
  body.template operator()<8>();
}

// Calls body.operator()<N>, inlined, with the instructions that go with N lanes, of which `channels` is a multiple.
template <class Body>
void vectorised(int64_t channels, const Body& body) {
  if (level == Level::kAvx512 && channels % 16 == 0) return sixteen_lanes(body);
  level == Level::kAny ? body.template operator()<8>() : eight_lanes(body);
}

// ---- weights, as they come and as loops take them ------------------------------------------------------------------

// Exchanges rows and columns of a square, in three perfect shuffles.
L2UL_INLINE void transpose(Vec<8>* square) {
  using Bits = Lanes<8>::Bits;
  for (int round = 0; round < 3; ++round) {
    Vec<8> next[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      next[2 * i] = __builtin_shuffle(square[i], square[i + 4], Bits{0, 8, 1, 9, 2, 10, 3, 11});
      next[2 * i + 1] = __builtin_shuffle(square[i], square[i + 4], Bits{4, 12, 5, 13, 6, 14, 7, 15});
    }
    std::memcpy(square, next, sizeof next);
  }
}

// to[i][l] = from[i * row + l * lane], for up to eight rows and up to kPanel lanes, the others 0. Weights in either
// memory format have one of the two distances 1, or neither.
L2UL_INLINE void gather(const float* from, int64_t row, int64_t lane, int64_t rows, int64_t lanes,
                        float (*to)[kPanel]) {
  if (rows == kEight && lanes == kPanel && lane == 1) {
    for (int64_t i = 0; i < kEight; ++i) std::memcpy(to[i], from + i * row, sizeof to[i]);
  } else if (rows == kEight && lanes == kPanel && row == 1) {
    for (int64_t l = 0; l < kPanel; l += kEight) {
      Vec<8> square[kEight];
#pragma GCC unroll 8
      for (int64_t i = 0; i < kEight; ++i) square[i] = load<8>(from + (l + i) * lane);
      transpose(square);
#pragma GCC unroll 8
      for (int64_t i = 0; i < kEight; ++i) store(to[i] + l, square[i]);
    }
  } else {
    std::memset(to, 0, rows * sizeof to[0]);
    for (int64_t l = 0; l < lanes; ++l) {
      for (int64_t i = 0; i < rows; ++i) to[i][l] = from[i * row + l * lane];
    }
  }
}

// ---- what happens to finished sums ---------------------------------------------------------------------------------

// Stores `count` channels of one pixel, whose first is number `channel` of all and at `at` in the output. Comparisons
// let NaN through, as libtorch's ReLU and its gradient do. What is left out is tested here and not for each value.
template <int N, bool kBias, bool kAdd, bool kGate, bool kRelu>
L2UL_INLINE void store_as(const Epilogue& e, const float* sum, int64_t channel, int64_t at, int64_t count, float* out) {
  const auto values = [&](auto v, const auto& read, int64_t l) __attribute__((always_inline)) {
    if (kBias) v += read(e.bias + channel + l);
    if (kAdd) v += read(e.add + at + l);
    if (kRelu) v = v < 0.0f ? decltype(v){} : v;
    if (kGate) v = read(e.gate + at + l) <= 0.0f ? decltype(v){} : v;
    return v;
  };
  const auto many = [](const float* p) __attribute__((always_inline)) { return load<N>(p); };
  const auto one = [](const float* p) __attribute__((always_inline)) { return *p; };
  int64_t l = 0;
  // In vectors by hand: compilers unroll this loop first, and then find no vectors in it.
  for (; l + N <= count; l += N) store(out + at + l, values(load<N>(sum + l), many, l));
  for (; l < count; ++l) out[at + l] = values(sum[l], one, l);
}

template <int N>
L2UL_INLINE void store_some(const Epilogue& e, const float* sum, int64_t channel, int64_t at, int64_t count,
                            float* out) {
  const bool bias = e.bias != nullptr, add = e.add != nullptr, gate = e.gate != nullptr;
  const auto as = [&]<bool kBias, bool kAdd>() __attribute__((always_inline)) {
    if (gate) return store_as<N, kBias, kAdd, true, false>(e, sum, channel, at, count, out);
    e.relu ? store_as<N, kBias, kAdd, false, true>(e, sum, channel, at, count, out)
           : store_as<N, kBias, kAdd, false, false>(e, sum, channel, at, count, out);
  };
  if (bias) {
    add ? as.template operator()<true, true>() : as.template operator()<true, false>();
  } else {
    add ? as.template operator()<false, true>() : as.template operator()<false, false>();
  }
}

// Stores kCount channels, or fewer at the end of the pixel's `width`. The usual count is known when this is compiled.
template <int N, int64_t kCount>
L2UL_INLINE void store(const Epilogue& e, const float* sum, int64_t channel, int64_t at, int64_t width, float* out) {
  if (channel + kCount <= width) {
    store_some<N>(e, sum, channel, at, kCount, out);
  } else {
    store_some<N>(e, sum, channel, at, width - channel, out);
  }
}

void store_rows(const Epilogue& e, const float* sums, int64_t pitch, const int64_t* pixel, int64_t rows,
                int64_t channel, int64_t width, float* out) {
  vectorised(kPanel, [&]<int N>() __attribute__((always_inline)) {
    for (int64_t r = 0; r < rows; ++r) {
      store<N, kPanel>(e, sums + r * pitch, channel, pixel[r] * width + channel, width, out);
    }
  });
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
  for (int64_t h0 = 0; h0 < std::min(step_h, c.out_h); ++h0) {
    for (int64_t w0 = 0; w0 < std::min(step_w, c.out_w); ++w0) {
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

constexpr int64_t kBlock = 8 * kRows;   // rows that share a visit to panels of weights
constexpr int64_t kDepthOfVisit = 256;  // whose part of that many channels stays in the first-level cache
constexpr int64_t kShallow = 8;         // with fewer channels a tap is too short for the inner loop
constexpr int64_t kSmall = 64;          // pixels of a small map

}  // namespace

void pack_direct(const float* weight, const Strides& s, const Conv& c, float* packed) {
  const int64_t taps = c.kernel_h * c.kernel_w, lane = c.gradient ? s.in : s.out, row = c.gradient ? s.out : s.in;
  at::parallel_for(0, panels(c.width) * taps, 1, [&](int64_t begin, int64_t end) {
    vectorised(kPanel, [&]<int N>() __attribute__((always_inline)) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / taps * kPanel;
        for (int64_t k = 0; k < c.depth; k += kEight) {
          gather(weight + n * lane + i % taps * s.tap + k * row, row, lane, std::min(kEight, c.depth - k),
                 std::min(kPanel, c.width - n),
                 reinterpret_cast<float (*)[kPanel]>(packed + (i * c.depth + k) * kPanel));
        }
      }
    });
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

  // On small maps most taps of a pixel are outside, or with strides not there. Pixels at one place in all images share
  // those that are, so they go together; on large maps neighbours do, and share the pixels they read as well.
  const bool by_place = area <= kSmall;
  // Whole groups of rows make a block: which rows share a group, and leave out the same taps, hangs on no number of
  // threads.
  const Pieces blocks((total + kRows - 1) / kRows, kBlock / kRows);
  at::parallel_for(0, blocks.count, 1, [&](int64_t begin, int64_t end) {
    std::vector<Rows<Number>> source(kBlock / kRows * count);
    std::vector<int64_t> pixel(kBlock);
    constexpr int64_t pitch = 2 * kPanel;
    float* const sums = scratch(kBlock * (pitch + (joined ? depth : 0)));
    Number* const patches = reinterpret_cast<Number*>(sums + kBlock * pitch);
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = blocks.begin(block) * kRows,
                    rows = std::min(blocks.begin(block + 1) * kRows, total) - first;
      const int64_t groups = (rows + kRows - 1) / kRows;
      for (int64_t i = 0; i < groups * kRows; ++i) {
        Rows<Number>* const row = &source[i / kRows * count];
        const int64_t number = std::min(first + i, total - 1);
        const int64_t image = by_place ? number % c.images : number / area;
        const int64_t place = by_place ? number / c.images : number % area;
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

void direct_weight_gradient(const Conv& c, const float* x, const float* grad, float* out) {
  // Each tap multiplies the input pixels that it reads by the gradients of the pixels that it reads them for. A block
  // of these rows stays in the first-level cache, the columns of one tap and two panels with it.
  constexpr int64_t kRowsOfBlock = 128;
  const Taps taps = taps_of(c);
  const int64_t count = c.kernel_h * c.kernel_w, area = c.out_h * c.out_w, pairs = (panels(c.depth) + 1) / 2;
  at::parallel_for(0, count * pairs, 1, [&](int64_t begin, int64_t end) {
    std::vector<const float*> read, by;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / pairs, k = i % pairs * 2 * kPanel;
      if (i == begin || i % pairs == 0) {
        read.clear(), by.clear();
        for (int64_t image = 0; image < c.images; ++image) {
          for (int64_t p = 0; p < area; ++p) {
            const int64_t from = taps.source[p * count + t];
            if (from < 0) continue;
            read.push_back(x + (image * c.in_h * c.in_w + from) * c.depth);
            by.push_back(grad + (image * area + taps.pixel[p]) * c.width);
          }
        }
      }
      int64_t first = 0;
      do {  // once if no pixel reads this tap: its gradient is 0
        const int64_t rows = std::min<int64_t>(kRowsOfBlock, std::ssize(read) - first);
        for (int64_t n = 0; n < c.width; n += kOuter) {
          outer({by.data() + first, read.data() + first, n, k, rows, std::min<int64_t>(2, panels(c.depth) - k / kPanel),
                 out + (n * count + t) * c.depth + k, count * c.depth, first == 0});
        }
        first += rows;
      } while (first < std::ssize(read));
    }
  });
}

template void conv_direct(const Conv&, const float*, const float*, const Epilogue&, float*);
template void conv_direct(const Conv&, const Pair*, const Pair*, const Epilogue&, float*);

// ---- Winograd ------------------------------------------------------------------------------------------------------

namespace {

// The nearest bfloat16 of each, of two the even one; NaN stays NaN.
template <class V>
L2UL_INLINE void store(Half* p, const V& v) {
  using Of = Lanes<sizeof(V) / sizeof(float)>;
  using Bits = typename Of::Bits;
  const Bits bits = std::bit_cast<Bits>(v), rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Bits number = v == v ? rounded : Bits{} + 0x7fc0;
  const auto halves = __builtin_convertvector(number, typename Of::Halves);
  std::memcpy(p, &halves, sizeof halves);
}

// The one-dimensional transforms of Lavin and Gray, section 4: G of a kernel, B^T of the input, A^T of the output, and
// the transposed ones of the first and the last. Steps are distances between the elements.
template <int kTile>
struct Transform;

template <>
struct Transform<2> {
  template <class V>
  static L2UL_INLINE void kernel(const V* w, int from, V* out, int to) {
    const V even = 0.5f * (w[0] + w[2 * from]), odd = 0.5f * w[from];
    out[0] = w[0];
    out[to] = even + odd;
    out[2 * to] = even - odd;
    out[3 * to] = w[2 * from];
  }
  template <class V>
  static L2UL_INLINE void kernel_adjoint(const V* u, int from, V* out, int to) {
    const V plus = 0.5f * (u[from] + u[2 * from]), minus = 0.5f * (u[from] - u[2 * from]);
    out[0] = u[0] + plus;
    out[to] = minus;
    out[2 * to] = plus + u[3 * from];
  }
  template <class V>
  static L2UL_INLINE void input(const V* d, int from, V* out, int to) {
    out[0] = d[0] - d[2 * from];
    out[to] = d[from] + d[2 * from];
    out[2 * to] = d[2 * from] - d[from];
    out[3 * to] = d[from] - d[3 * from];
  }
  template <class V>
  static L2UL_INLINE void output(const V* m, int from, V* out, int to) {
    out[0] = m[0] + m[from] + m[2 * from];
    out[to] = m[from] - m[2 * from] - m[3 * from];
  }
  template <class V>
  static L2UL_INLINE void output_adjoint(const V* g, int from, V* out, int to) {
    out[0] = g[0];
    out[to] = g[0] + g[from];
    out[2 * to] = g[0] - g[from];
    out[3 * to] = -g[from];
  }
};

template <>
struct Transform<4> {
  template <class V>
  static L2UL_INLINE void kernel(const V* w, int from, V* out, int to) {
    const V even = w[0] + w[2 * from], wide = w[0] + 4.0f * w[2 * from];
    out[0] = w[0] / 4.0f;
    out[to] = (even + w[from]) / -6.0f;
    out[2 * to] = (even - w[from]) / -6.0f;
    out[3 * to] = (wide + 2.0f * w[from]) / 24.0f;
    out[4 * to] = (wide - 2.0f * w[from]) / 24.0f;
    out[5 * to] = w[2 * from];
  }
  template <class V>
  static L2UL_INLINE void kernel_adjoint(const V* u, int from, V* out, int to) {
    const V near = (u[from] + u[2 * from]) / -6.0f, far = (u[3 * from] + u[4 * from]) / 24.0f;
    out[0] = u[0] / 4.0f + near + far;
    out[to] = (u[from] - u[2 * from]) / -6.0f + (u[3 * from] - u[4 * from]) / 12.0f;
    out[2 * to] = near + 4.0f * far + u[5 * from];
  }
  template <class V>
  static L2UL_INLINE void input(const V* d, int from, V* out, int to) {
    const V d1 = d[from], d2 = d[2 * from], d3 = d[3 * from], d4 = d[4 * from];
    const V a = d4 - 4.0f * d2, b = d3 - 4.0f * d1, c = d4 - d2, e = 2.0f * (d3 - d1);
    out[0] = 4.0f * d[0] - 5.0f * d2 + d4;
    out[to] = a + b;
    out[2 * to] = a - b;
    out[3 * to] = c + e;
    out[4 * to] = c - e;
    out[5 * to] = 4.0f * d1 - 5.0f * d3 + d[5 * from];
  }
  template <class V>
  static L2UL_INLINE void output(const V* m, int from, V* out, int to) {
    const V a = m[from] + m[2 * from], b = m[from] - m[2 * from];
    const V c = m[3 * from] + m[4 * from], d = m[3 * from] - m[4 * from];
    out[0] = m[0] + a + c;
    out[to] = b + 2.0f * d;
    out[2 * to] = a + 4.0f * c;
    out[3 * to] = b + 8.0f * d + m[5 * from];
  }
  template <class V>
  static L2UL_INLINE void output_adjoint(const V* g, int from, V* out, int to) {
    const V g1 = g[from], g2 = g[2 * from], g3 = g[3 * from];
    const V a = g[0] + g2, b = g1 + g3, c = g[0] + 4.0f * g2, d = 2.0f * g1 + 8.0f * g3;
    out[0] = g[0];
    out[to] = a + b;
    out[2 * to] = a - b;
    out[3 * to] = c + d;
    out[4 * to] = c - d;
    out[5 * to] = g3;
  }
};

// Applies a one-dimensional transform to a kFrom x kFrom square, its columns first, then its rows: kTo x kTo values.
template <auto kTransform, int kFrom, int kTo, class V>
L2UL_INLINE void transform(const V* in, V* out) {
  V half[kTo * kFrom];
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

// The distance between the values of two points, `size` numbers each. Often that is a power of two, and all points of a
// tile would fall into the same few places of a cache: hence a line more.
constexpr int64_t apart(int64_t size) { return size + 16; }

// Tiles first … first + count - 1 to v [points, tiles, depth], whose points are `stride` apart.
template <int kTile, int N, class Value>
L2UL_INLINE void transform_input(const Conv& c, const Tiling& tiling, const float* x, const float* nothing,
                                 int64_t first, int64_t count, int64_t stride, Value* v) {
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
    for (int64_t k = 0; k < c.depth; k += N) {
      Vec<N> pixels[kPoints * kPoints], points[kPoints * kPoints];
#pragma GCC unroll 36
      for (int i = 0; i < kPoints * kPoints; ++i) pixels[i] = load<N>(from[i] + k);
      transform<Transform<kTile>::template input<Vec<N>>, kPoints, kPoints>(pixels, points);
#pragma GCC unroll 36
      for (int i = 0; i < kPoints * kPoints; ++i) store(v + i * stride + t * c.depth + k, points[i]);
    }
  }
}

// The same tiles from m [points, tiles, pitch] to the output.
template <int kTile, int N>
L2UL_INLINE void transform_output(const Conv& c, const Tiling& tiling, const float* m, int64_t first, int64_t count,
                                  int64_t stride, int64_t pitch, const Epilogue& e, float* out) {
  constexpr int kPoints = kTile + 2;
  for (int64_t t = 0; t < count; ++t) {
    const Place at = tiling.place(first + t);
    const int64_t height = std::min<int64_t>(kTile, c.out_h - at.h), width = std::min<int64_t>(kTile, c.out_w - at.w);
    const int64_t corner = ((at.image * c.out_h + at.h) * c.out_w + at.w) * c.width;
    for (int64_t n = 0; n < c.width; n += N) {
      Vec<N> points[kPoints * kPoints], sums[kTile * kTile];
#pragma GCC unroll 36
      for (int i = 0; i < kPoints * kPoints; ++i) points[i] = load<N>(m + i * stride + t * pitch + n);
      transform<Transform<kTile>::template output<Vec<N>>, kPoints, kTile>(points, sums);
      for (int64_t i = 0; i < height; ++i) {
        for (int64_t j = 0; j < width; ++j) {
          float sum[N];
          std::memcpy(sum, &sums[i * kTile + j], sizeof sum);
          store<N, N>(e, sum, n, corner + (i * c.out_w + j) * c.width + n, c.width, out);
        }
      }
    }
  }
}

template <class Value>
void input(const Conv& c, const Tiling& tiling, const float* x, const float* nothing, int64_t first, int64_t count,
           int64_t stride, Value* v) {
  vectorised(c.depth, [&]<int N>() __attribute__((always_inline)) {
    tiling.tile == 2 ? transform_input<2, N>(c, tiling, x, nothing, first, count, stride, v)
                     : transform_input<4, N>(c, tiling, x, nothing, first, count, stride, v);
  });
}

void output(const Conv& c, const Tiling& tiling, const float* m, int64_t first, int64_t count, int64_t stride,
            int64_t pitch, const Epilogue& e, float* out) {
  vectorised(pitch, [&]<int N>() __attribute__((always_inline)) {
    tiling.tile == 2 ? transform_output<2, N>(c, tiling, m, first, count, stride, pitch, e, out)
                     : transform_output<4, N>(c, tiling, m, first, count, stride, pitch, e, out);
  });
}

// The most tiles of one piece of work: enough to pay for a visit to all weights, few enough that what is between the
// transforms stays in the second-level cache.
int64_t tiles_at_once(const Conv& c, const Tiling& tiling) {
  const int64_t bytes = (tiling.tile + 2) * (tiling.tile + 2) * (c.depth + panels(c.width) * kPanel) * sizeof(float);
  return std::clamp<int64_t>((int64_t{5} << 18) / bytes / kRows, 3, 8) * kRows;
}

// The kernels of depths k … k + 7 to one panel of channels.
template <int kTile, int N>
L2UL_INLINE void pack_block(const float* weight, const Strides& s, const Conv& c, int64_t p, int64_t k, float* packed) {
  constexpr int kPoints = kTile + 2;
  // Lanes are channels of the output.
  const int64_t lane = c.gradient ? s.in : s.out, row = c.gradient ? s.out : s.in;
  const int64_t lanes = std::min(kPanel, c.width - p * kPanel);
  const float* const from = weight + p * kPanel * lane + k * row;
  float w[9][kEight][kPanel];
  for (int t = 0; t < 9; ++t) {
    // A gradient's kernel is turned half around, with its channels exchanged.
    gather(from + (c.gradient ? 8 - t : t) * s.tap, row, lane, kEight, lanes, w[t]);
  }
  for (int64_t i = 0; i < kEight; ++i) {
    for (int64_t l = 0; l < kPanel; l += N) {
      Vec<N> taps[9], points[kPoints * kPoints];
#pragma GCC unroll 9
      for (int t = 0; t < 9; ++t) taps[t] = load<N>(&w[t][i][l]);
      transform<Transform<kTile>::template kernel<Vec<N>>, 3, kPoints>(taps, points);
#pragma GCC unroll 36
      for (int j = 0; j < kPoints * kPoints; ++j) {
        store(packed + ((j * panels(c.width) + p) * c.depth + k + i) * kPanel + l, points[j]);
      }
    }
  }
}

}  // namespace

void pack_winograd(const float* weight, const Strides& strides, const Conv& c, int tile, float* packed) {
  const int64_t blocks = c.depth / kEight;
  at::parallel_for(0, panels(c.width) * blocks, 4, [&](int64_t begin, int64_t end) {
    vectorised(kPanel, [&]<int N>() __attribute__((always_inline)) {
      for (int64_t i = begin; i < end; ++i) {
        tile == 2 ? pack_block<2, N>(weight, strides, c, i / blocks, i % blocks * kEight, packed)
                  : pack_block<4, N>(weight, strides, c, i / blocks, i % blocks * kEight, packed);
      }
    });
  });
}

void pack_pairs(const float* packed, int64_t rows, Pair* pairs) {
  at::parallel_for(0, rows / 2, 64, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      Half halves[2 * kPanel];
      for (int64_t i = 0; i < 2 * kPanel; i += kEight) store(halves + i, load<kEight>(packed + 2 * k * kPanel + i));
      for (int64_t l = 0; l < kPanel; ++l) pairs[k * kPanel + l] = halves[l] | Pair{halves[kPanel + l]} << 16;
    }
  });
}

template <class Number>
void conv_winograd(const Conv& c, int tile, const float* x, const Number* packed, const Epilogue& epilogue,
                   float* out) {
  const Tiling tiling(c, tile);
  const int64_t points = (tile + 2) * (tile + 2), pitch = panels(c.width) * kPanel;
  const Pieces pieces(tiling.total, tiles_at_once(c, tiling));
  const int64_t rows = (pieces.largest() + kRows - 1) / kRows * kRows, depth = c.depth / kWidth<Number>;
  const int64_t from_m = apart(rows * pitch), from_v = apart(rows * depth);
  const std::vector<float> nothing(c.depth, 0.0f);
  at::parallel_for(0, pieces.count, 1, [&](int64_t begin, int64_t end) {
    float* const m = scratch(points * (from_m + from_v));
    Number* const v = reinterpret_cast<Number*>(m + points * from_m);
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t first = pieces.begin(piece), count = pieces.begin(piece + 1) - first;
      if constexpr (std::is_same_v<Number, float>) {
        input(c, tiling, x, nothing.data(), first, count, from_v, v);
      } else {
        input(c, tiling, x, nothing.data(), first, count, 2 * from_v, reinterpret_cast<Half*>(v));
      }
      for (int64_t point = 0; point < points; ++point) {
        for (int64_t p = 0; p < panels(c.width); p += 2) {
          for (int64_t r = 0; r < count; r += kRows) {
            Rows<Number> source;  // behind the last tile there is room, and what comes of it is not read
            for (int i = 0; i < kRows; ++i) source[i] = v + point * from_v + (r + i) * depth;
            multiply(Tile<Number>{&source, 1, depth, std::min<int64_t>(kRows, count - r),
                                  packed + (point * panels(c.width) + p) * depth * kPanel,
                                  std::min<int64_t>(2, panels(c.width) - p), depth * kPanel,
                                  m + point * from_m + r * pitch + p * kPanel, pitch, true});
          }
        }
      }
      output(c, tiling, m, first, count, from_m, pitch, epilogue, out);
    }
  });
}

template void conv_winograd(const Conv&, int, const float*, const float*, const Epilogue&, float*);
template void conv_winograd(const Conv&, int, const float*, const Pair*, const Epilogue&, float*);

namespace {

// Tiles first … first + count - 1 of the gradient by the output to m [points, tiles, pitch].
template <int kTile, int N>
L2UL_INLINE void transform_gradient(const Conv& c, const Tiling& tiling, const float* grad, const float* nothing,
                                    int64_t first, int64_t count, int64_t stride, int64_t pitch, float* m) {
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
    for (int64_t n = 0; n < c.width; n += N) {
      Vec<N> pixels[kTile * kTile], points[kPoints * kPoints];
#pragma GCC unroll 16
      for (int i = 0; i < kTile * kTile; ++i) pixels[i] = load<N>(from[i] + n);
      transform<Transform<kTile>::template output_adjoint<Vec<N>>, kTile, kPoints>(pixels, points);
#pragma GCC unroll 36
      for (int i = 0; i < kPoints * kPoints; ++i) store(m + i * stride + t * pitch + n, points[i]);
    }
  }
}

void gradient(const Conv& c, const Tiling& tiling, const float* grad, const float* nothing, int64_t first,
              int64_t count, int64_t stride, int64_t pitch, float* m) {
  vectorised(c.width, [&]<int N>() __attribute__((always_inline)) {
    tiling.tile == 2 ? transform_gradient<2, N>(c, tiling, grad, nothing, first, count, stride, pitch, m)
                     : transform_gradient<4, N>(c, tiling, grad, nothing, first, count, stride, pitch, m);
  });
}

// The gradients by the kernels from the channels k … k + 7 to the N channels from n on, from u [points, depth, pitch].
template <int kTile, int N>
L2UL_INLINE void unpack_kernels(const Conv& c, const float* u, int64_t k, int64_t n, int64_t pitch, const Strides& s,
                                float* out) {
  constexpr int kPoints = kTile + 2;
  float taps[9][kEight][N];
  for (int64_t row = 0; row < kEight; ++row) {
    Vec<N> points[kPoints * kPoints], kernel[9];
#pragma GCC unroll 36
    for (int i = 0; i < kPoints * kPoints; ++i) points[i] = load<N>(u + (i * c.depth + k + row) * pitch + n);
    transform<Transform<kTile>::template kernel_adjoint<Vec<N>>, kPoints, 3>(points, kernel);
#pragma GCC unroll 9
    for (int t = 0; t < 9; ++t) store(taps[t][row], kernel[t]);
  }
  for (int t = 0; t < 9; ++t) {
    for (int64_t l = 0; l < N; l += kEight) {
      Vec<8> square[kEight];
#pragma GCC unroll 8
      for (int64_t row = 0; row < kEight; ++row) square[row] = load<8>(taps[t][row] + l);
      transpose(square);
      for (int64_t i = 0; i < kEight; ++i) {
        float* const to = out + (n + l + i) * s.out + k * s.in + t * s.tap;
        if (s.in == 1) {
          store(to, square[i]);
        } else {
          for (int64_t row = 0; row < kEight; ++row) to[row * s.in] = square[i][row];
        }
      }
    }
  }
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
  const int64_t from_v = apart(rows * c.depth), from_m = apart(rows * pitch);
  float* const v = scratch(points * (from_v + from_m + c.depth * pitch));
  float* const m = v + points * from_v;
  float* const u = m + points * from_m;
  const std::vector<float> nothing(std::max(c.depth, c.width), 0.0f);
  for (int64_t first = 0; first < tiling.total; first += rows) {
    const int64_t count = std::min(rows, tiling.total - first);
    at::parallel_for(0, count, 4, [&](int64_t begin, int64_t end) {
      input(c, tiling, x, nothing.data(), first + begin, end - begin, from_v, v + begin * c.depth);
      gradient(c, tiling, grad, nothing.data(), first + begin, end - begin, from_m, pitch, m + begin * pitch);
    });
    const int64_t pairs = (panels(c.width) + 1) / 2;
    at::parallel_for(0, points * pairs, 1, [&](int64_t begin, int64_t end) {
      std::vector<const float*> from(count), by(count);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t point = i / pairs, p = i % pairs * 2;
        for (int64_t t = 0; t < count; ++t) {
          from[t] = v + point * from_v + t * c.depth;
          by[t] = m + point * from_m + t * pitch;
        }
        for (int64_t k = 0; k < c.depth; k += kOuter) {
          outer({from.data(), by.data(), k, p * kPanel, count, std::min<int64_t>(2, panels(c.width) - p),
                 u + (point * c.depth + k) * pitch + p * kPanel, pitch, first == 0});
        }
      }
    });
  }
  at::parallel_for(0, c.depth / kEight, 1, [&](int64_t begin, int64_t end) {
    vectorised(c.width, [&]<int N>() __attribute__((always_inline)) {
      for (int64_t k = begin * kEight; k < end * kEight; k += kEight) {
        for (int64_t n = 0; n < c.width; n += N) {
          tile == 2 ? unpack_kernels<2, N>(c, u, k, n, pitch, strides, out)
                    : unpack_kernels<4, N>(c, u, k, n, pitch, strides, out);
        }
      }
    });
  });
}

}  // namespace l2ul::cpu
