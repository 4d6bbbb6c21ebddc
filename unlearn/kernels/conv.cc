//go:build ignore

#include "conv.h"

#include <ATen/Parallel.h>
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

// Vectors are passed between functions that are always inlined, so that their ABI does not matter.
#pragma GCC diagnostic ignored "-Wpsabi"

#define L2UL_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#define L2UL_INLINE __attribute__((always_inline)) inline

namespace l2ul::cpu {
namespace {

// ---- the inner loop ------------------------------------------------------------------------------------------------

// c[r, l] (+)= sum over taps t and channels k of a[t][r][k] * w[t, k, l], for kRows rows and kPanel columns: twelve
// AVX2 registers hold the sums, as many as their latency needs. a[t][0] null says that tap t is outside for all rows.

constexpr int kRows = 6;

using Rows = std::array<const float*, kRows>;
using Tile = void(const Rows* a, int64_t taps, int64_t depth, const float* w, float* c, int64_t pitch, bool fresh);

__attribute__((target("avx2,fma"))) void tile_avx2(const Rows* a, int64_t taps, int64_t depth, const float* w, float* c,
                                                   int64_t pitch, bool fresh) {
  __m256 sum[kRows][2];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    sum[r][0] = fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(c + r * pitch);
    sum[r][1] = fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(c + r * pitch + 8);
  }
  for (int64_t t = 0; t < taps; ++t) {
    const Rows row = a[t];
    if (row[0] == nullptr) {
      w += depth * kPanel;
      continue;
    }
    for (int64_t k = 0; k < depth; ++k, w += kPanel) {
      const __m256 low = _mm256_loadu_ps(w), high = _mm256_loadu_ps(w + 8);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) {
        const __m256 v = _mm256_broadcast_ss(row[r] + k);
        sum[r][0] = _mm256_fmadd_ps(v, low, sum[r][0]);
        sum[r][1] = _mm256_fmadd_ps(v, high, sum[r][1]);
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    _mm256_storeu_ps(c + r * pitch, sum[r][0]);
    _mm256_storeu_ps(c + r * pitch + 8, sum[r][1]);
  }
}

__attribute__((target("avx512f"))) void tile_avx512(const Rows* a, int64_t taps, int64_t depth, const float* w,
                                                    float* c, int64_t pitch, bool fresh) {
  __m512 sum[kRows];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) sum[r] = fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(c + r * pitch);
  for (int64_t t = 0; t < taps; ++t) {
    const Rows row = a[t];
    if (row[0] == nullptr) {
      w += depth * kPanel;
      continue;
    }
    for (int64_t k = 0; k < depth; ++k, w += kPanel) {
      const __m512 weights = _mm512_loadu_ps(w);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) sum[r] = _mm512_fmadd_ps(_mm512_set1_ps(row[r][k]), weights, sum[r]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) _mm512_storeu_ps(c + r * pitch, sum[r]);
}

void tile_any(const Rows* a, int64_t taps, int64_t depth, const float* w, float* c, int64_t pitch, bool fresh) {
  for (int r = 0; r < kRows; ++r) {
    for (int64_t l = 0; l < kPanel; ++l) {
      float sum = fresh ? 0.0f : c[r * pitch + l];
      for (int64_t t = 0; t < taps; ++t) {
        if (a[t][0] == nullptr) continue;
        for (int64_t k = 0; k < depth; ++k) sum = std::fma(a[t][r][k], w[(t * depth + k) * kPanel + l], sum);
      }
      c[r * pitch + l] = sum;
    }
  }
}

Tile* pick_tile() {
  if (__builtin_cpu_supports("avx512f")) return tile_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return tile_avx2;
  return tile_any;
}
Tile* const multiply = pick_tile();

// c[r, l] (+)= sum over k of a[k, r] * b[k, l], for R rows and kPanel columns: the inner loop of a gradient by weights.
template <int R>
__attribute__((target("avx2,fma"))) void outer_avx2(const float* a, int64_t a_pitch, const float* b, int64_t b_pitch,
                                                    int64_t depth, float* c, int64_t c_pitch, bool fresh) {
  __m256 sum[R][2];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    sum[r][0] = fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(c + r * c_pitch);
    sum[r][1] = fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(c + r * c_pitch + 8);
  }
  for (int64_t k = 0; k < depth; ++k, a += a_pitch, b += b_pitch) {
    const __m256 low = _mm256_loadu_ps(b), high = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const __m256 v = _mm256_broadcast_ss(a + r);
      sum[r][0] = _mm256_fmadd_ps(v, low, sum[r][0]);
      sum[r][1] = _mm256_fmadd_ps(v, high, sum[r][1]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    _mm256_storeu_ps(c + r * c_pitch, sum[r][0]);
    _mm256_storeu_ps(c + r * c_pitch + 8, sum[r][1]);
  }
}

template <int R>
void outer_any(const float* a, int64_t a_pitch, const float* b, int64_t b_pitch, int64_t depth, float* c,
               int64_t c_pitch, bool fresh) {
  for (int r = 0; r < R; ++r) {
    for (int64_t l = 0; l < kPanel; ++l) {
      float sum = fresh ? 0.0f : c[r * c_pitch + l];
      for (int64_t k = 0; k < depth; ++k) sum = std::fma(a[k * a_pitch + r], b[k * b_pitch + l], sum);
      c[r * c_pitch + l] = sum;
    }
  }
}

// The kernel for `rows` rows: 2, 4 or 6.
decltype(&outer_any<2>) outer(int64_t rows) {
  static const bool wide = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  switch (rows) {
    case 2:
      return wide ? outer_avx2<2> : outer_any<2>;
    case 4:
      return wide ? outer_avx2<4> : outer_any<4>;
    default:
      return wide ? outer_avx2<6> : outer_any<6>;
  }
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

// ---- what happens to finished sums ---------------------------------------------------------------------------------

// Stores `count` channels of one pixel, whose first is number `channel` of all and at `at` in the output. Comparisons
// let NaN through, as libtorch's ReLU and its gradient do. What is left out is tested here and not for each value.
template <bool kBias, bool kAdd, bool kGate, bool kRelu>
L2UL_INLINE void store_as(const Epilogue& e, const float* sum, int64_t channel, int64_t at, int64_t count, float* out) {
  const float* const bias = e.bias + channel;
  const float* const add = e.add + at;
  const float* const gate = e.gate + at;
#pragma GCC ivdep
  for (int64_t l = 0; l < count; ++l) {
    float v = sum[l];
    if (kBias) v += bias[l];
    if (kAdd) v += add[l];
    if (kRelu) v = v < 0.0f ? 0.0f : v;
    if (kGate) v = gate[l] <= 0.0f ? 0.0f : v;
    out[at + l] = v;
  }
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

L2UL_CLONES void store_rows(const Epilogue& e, const float* sums, const int64_t* pixel, int64_t rows, int64_t channel,
                            int64_t width, float* out) {
  for (int64_t r = 0; r < rows; ++r) {
    store<kPanel>(e, sums + r * kPanel, channel, pixel[r] * width + channel, width, out);
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

constexpr int64_t kGroups = 16;         // groups of rows that share a visit to a panel of weights
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

void conv_direct(const Conv& c, const float* x, const float* packed, const Epilogue& epilogue, float* out) {
  const Taps taps = taps_of(c);
  const int64_t count = c.kernel_h * c.kernel_w, area = c.out_h * c.out_w, total = c.images * area;
  // Shallow taps of a pixel are copied side by side and count as one.
  const bool joined = c.depth < kShallow;
  const int64_t steps = joined ? 1 : count, depth = joined ? count * c.depth : c.depth;
  const int64_t visit = std::max<int64_t>(1, kDepthOfVisit / depth);
  const std::vector<float> nothing(c.depth, 0.0f);

  at::parallel_for(0, (total + kBlock - 1) / kBlock, 1, [&](int64_t begin, int64_t end) {
    std::vector<Rows> source(kGroups * count);
    std::vector<int64_t> pixel(kBlock);
    float* const sums = scratch(kBlock * (kPanel + (joined ? depth : 0)));
    float* const patches = sums + kBlock * kPanel;
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kBlock, rows = std::min(kBlock, total - first);
      const int64_t groups = (rows + kRows - 1) / kRows;
      for (int64_t i = 0; i < groups * kRows; ++i) {
        Rows* const row = &source[i / kRows * count];
        const int64_t image = (first + i) / area, place = (first + i) % area;
        const int64_t* const from = &taps.source[place * count];
        const float* const pixels = x + image * c.in_h * c.in_w * c.depth;
        for (int64_t t = 0; t < count; ++t) {
          row[t][i % kRows] = i >= rows || from[t] < 0 ? nothing.data() : pixels + from[t] * c.depth;
        }
        if (i < rows) pixel[i] = image * area + taps.pixel[place];
      }
      if (joined) {
        for (int64_t g = 0; g < groups; ++g) {
          Rows patch;
          for (int r = 0; r < kRows; ++r) {
            float* const to = patches + (g * kRows + r) * depth;
            for (int64_t t = 0; t < count; ++t) {
              for (int64_t k = 0; k < c.depth; ++k) to[t * c.depth + k] = source[g * count + t][r][k];
            }
            patch[r] = to;
          }
          source[g] = patch;  // where a tap of an earlier group was, which is copied by now
        }
      } else {
        for (Rows& row : source) {
          if (std::ranges::all_of(row, [&](const float* from) { return from == nothing.data(); })) row[0] = nullptr;
        }
      }
      for (int64_t p = 0; p < panels(c.width); ++p) {
        const float* const panel = packed + p * steps * depth * kPanel;
        for (int64_t t = 0; t < steps; t += visit) {
          for (int64_t g = 0; g < groups; ++g) {
            multiply(&source[g * steps + t], std::min(visit, steps - t), depth, panel + t * depth * kPanel,
                     sums + g * kRows * kPanel, kPanel, t == 0);
          }
        }
        store_rows(epilogue, sums, pixel.data(), rows, p * kPanel, c.width, out);
      }
    }
  });
}

// ---- Winograd ------------------------------------------------------------------------------------------------------

namespace {

using Vec = float __attribute__((vector_size(32)));
constexpr int64_t kLanes = 8;

L2UL_INLINE Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

L2UL_INLINE void store(float* p, const Vec& v) { std::memcpy(p, &v, sizeof v); }

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
template <int kTile>
L2UL_INLINE void transform_input(const Conv& c, const Tiling& tiling, const float* x, const float* nothing,
                                 int64_t first, int64_t count, int64_t rows, float* v) {
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
L2UL_CLONES void input4(const Conv& c, const Tiling& tiling, const float* x, const float* nothing, int64_t first,
                        int64_t count, int64_t rows, float* v) {
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
  const int64_t fitting = std::clamp<int64_t>((1 << 20) / bytes, 4 * kRows, 16 * kRows);
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

void conv_winograd(const Conv& c, int tile, const float* x, const float* packed, const Epilogue& epilogue, float* out) {
  const Tiling tiling(c, tile);
  const int64_t points = (tile + 2) * (tile + 2), pitch = panels(c.width) * kPanel;
  const int64_t rows = tiles_at_once(c, tiling);
  const std::vector<float> nothing(c.depth, 0.0f);
  at::parallel_for(0, (tiling.total + rows - 1) / rows, 1, [&](int64_t begin, int64_t end) {
    float* const v = scratch(points * rows * (c.depth + pitch));
    float* const m = v + points * rows * c.depth;
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t first = piece * rows, count = std::min(rows, tiling.total - first);
      (tile == 2 ? input2 : input4)(c, tiling, x, nothing.data(), first, count, rows, v);
      for (int64_t point = 0; point < points; ++point) {
        for (int64_t p = 0; p < panels(c.width); ++p) {
          const float* const panel = packed + (point * panels(c.width) + p) * c.depth * kPanel;
          for (int64_t r = 0; r < count; r += kRows) {
            Rows source;  // behind the last tile there is room, and what comes of it is not read
            for (int i = 0; i < kRows; ++i) source[i] = v + (point * rows + r + i) * c.depth;
            multiply(&source, 1, c.depth, panel, m + (point * rows + r) * pitch + p * kPanel, pitch, true);
          }
        }
      }
      (tile == 2 ? output2 : output4)(c, tiling, m, first, count, rows, pitch, epilogue, out);
    }
  });
}

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
    at::parallel_for(0, points * panels(c.width), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t point = i / panels(c.width), column = i % panels(c.width) * kPanel;
        for (int64_t k = 0; k < c.depth; k += kRows) {
          outer(std::min<int64_t>(kRows, c.depth - k))(v + point * rows * c.depth + k, c.depth,
                                                       m + point * rows * pitch + column, pitch, count,
                                                       u + (point * c.depth + k) * pitch + column, pitch, first == 0);
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
