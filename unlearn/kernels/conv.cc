//go:build ignore

#include "conv.h"

#include <ATen/Parallel.h>
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

// Vectors are passed between functions that are always inlined, so that their ABI does not matter.
#pragma GCC diagnostic ignored "-Wpsabi"

#define L2UL_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#define L2UL_INLINE __attribute__((always_inline)) inline

namespace l2ul::cpu {
namespace {

// ---- the inner loop --------------------------------------------------------------------------------------------------
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

// Memory for one thread's intermediate values, kept for its next call.
float* scratch(int64_t size) {
  static thread_local std::vector<float> memory;
  if (std::ssize(memory) < size) memory.resize(size);
  return memory.data();
}

// ---- what happens to finished sums ---------------------------------------------------------------------------------

// Stores `count` channels of one pixel, whose first is number `channel` of all and at `at` in the output. Comparisons let
// NaN through, as libtorch's ReLU and its gradient do. What is left out is tested here and not for each value.
template <bool kBias, bool kAdd, bool kGate, bool kRelu>
L2UL_INLINE void store_as(const Epilogue& e, const float* sum, int64_t channel, int64_t at, int64_t count,
                          float* out) {
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

L2UL_INLINE void store(const Epilogue& e, const float* sum, int64_t channel, int64_t at, int64_t count, float* out) {
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

L2UL_CLONES void store_rows(const Epilogue& e, const float* sums, const int64_t* pixel, int64_t rows, int64_t channel,
                            int64_t width, float* out) {
  const int64_t count = std::min(kPanel, width - channel);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = pixel[r] * width + channel;
    if (count == kPanel) {
      store(e, sums + r * kPanel, channel, at, kPanel, out);
    } else {
      store(e, sums + r * kPanel, channel, at, count, out);
    }
  }
}

// ---- direct sums -----------------------------------------------------------------------------------------------------

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

// ---- Winograd --------------------------------------------------------------------------------------------------------

namespace {

using Vec = float __attribute__((vector_size(32)));
constexpr int64_t kLanes = 8;

L2UL_INLINE Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

L2UL_INLINE void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

// The one-dimensional transforms of Lavin and Gray, section 4; steps are distances between the elements.
template <int kTile>
struct Transform;

template <>
struct Transform<2> {
  static constexpr double kKernel[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
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
};

template <>
struct Transform<4> {
  static constexpr double kKernel[6][3] = {{1.0 / 4, 0, 0},
                                           {-1.0 / 6, -1.0 / 6, -1.0 / 6},
                                           {-1.0 / 6, 1.0 / 6, -1.0 / 6},
                                           {1.0 / 24, 1.0 / 12, 1.0 / 6},
                                           {1.0 / 24, -1.0 / 12, 1.0 / 6},
                                           {0, 0, 1}};
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
};

// Where tile number `index` of all tiles begins.
struct Place {
  int64_t image, h, w;
};

struct Tiling {
  int64_t down, across, total;
  int tile;

  Tiling(const Conv& c, int tile)
      : down((c.out_h + tile - 1) / tile), across((c.out_w + tile - 1) / tile), total(c.images * down * across),
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
      Vec half[kPoints * kPoints];
#pragma GCC unroll 6
      for (int j = 0; j < kPoints; ++j) {
        Vec column[kPoints];
#pragma GCC unroll 6
        for (int i = 0; i < kPoints; ++i) column[i] = load(from[i * kPoints + j] + k);
        Transform<kTile>::input(column, 1, half + j, kPoints);
      }
#pragma GCC unroll 6
      for (int i = 0; i < kPoints; ++i) {
        Vec row[kPoints];
        Transform<kTile>::input(half + i * kPoints, 1, row, 1);
#pragma GCC unroll 6
        for (int j = 0; j < kPoints; ++j) store(v + ((i * kPoints + j) * rows + t) * c.depth + k, row[j]);
      }
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
      Vec half[kTile * kPoints], sums[kTile * kTile];
#pragma GCC unroll 6
      for (int j = 0; j < kPoints; ++j) {
        Vec column[kPoints];
#pragma GCC unroll 6
        for (int i = 0; i < kPoints; ++i) column[i] = load(m + ((i * kPoints + j) * rows + t) * pitch + n);
        Transform<kTile>::output(column, 1, half + j, kPoints);
      }
#pragma GCC unroll 4
      for (int i = 0; i < kTile; ++i) Transform<kTile>::output(half + i * kPoints, 1, sums + i * kTile, 1);
      for (int64_t i = 0; i < height; ++i) {
        for (int64_t j = 0; j < width; ++j) {
          float sum[kLanes];
          std::memcpy(sum, &sums[i * kTile + j], sizeof sum);
          const int64_t to = corner + (i * c.out_w + j) * c.width + n;
          if (n + kLanes <= c.width) {
            store(e, sum, n, to, kLanes, out);
          } else {
            store(e, sum, n, to, c.width - n, out);
          }
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

template <int kTile>
void pack(const float* weight, const Conv& c, float* packed) {
  constexpr int kPoints = kTile + 2;
  const auto& g = Transform<kTile>::kKernel;
  at::parallel_for(0, panels(c.width) * c.depth, 16, [&](int64_t begin, int64_t end) {
    for (int64_t pk = begin; pk < end; ++pk) {
      const int64_t p = pk / c.depth, k = pk % c.depth;
      for (int64_t l = 0; l < kPanel; ++l) {
        const int64_t n = p * kPanel + l;
        double w[3][3] = {};
        for (int t = 0; t < 9 && n < c.width; ++t) {
          // A gradient's kernel is turned half around, with its channels exchanged.
          w[t / 3][t % 3] = c.gradient ? weight[(k * c.width + n) * 9 + 8 - t] : weight[(n * c.depth + k) * 9 + t];
        }
        for (int i = 0; i < kPoints; ++i) {
          double row[3] = {};
          for (int t = 0; t < 9; ++t) row[t % 3] += g[i][t / 3] * w[t / 3][t % 3];
          for (int j = 0; j < kPoints; ++j) {
            const double u = row[0] * g[j][0] + row[1] * g[j][1] + row[2] * g[j][2];
            const int64_t to = ((i * kPoints + j) * panels(c.width) + p) * c.depth + k;
            packed[to * kPanel + l] = static_cast<float>(u);
          }
        }
      }
    }
  });
}

}  // namespace

void pack_winograd(const float* weight, const Conv& conv, int tile, float* packed) {
  (tile == 2 ? pack<2> : pack<4>)(weight, conv, packed);
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

// ---- pooling ---------------------------------------------------------------------------------------------------------

namespace {

L2UL_CLONES void pool_pixel(const float* const* from, int64_t taps, int64_t depth, float* out, uint8_t* code) {
  for (int64_t k = 0; k < depth; ++k) out[k] = -std::numeric_limits<float>::infinity();
  if (code != nullptr) std::memset(code, 0, depth);
  for (int64_t t = 0; t < taps; ++t) {
    const float* const v = from[t];
    if (v == nullptr) continue;
    if (code == nullptr) {
      for (int64_t k = 0; k < depth; ++k) out[k] = v[k] > out[k] || v[k] != v[k] ? v[k] : out[k];
    } else {
      for (int64_t k = 0; k < depth; ++k) {
        const bool larger = v[k] > out[k] || v[k] != v[k];
        out[k] = larger ? v[k] : out[k];
        code[k] = larger ? static_cast<uint8_t>(t) : code[k];
      }
    }
  }
}

L2UL_CLONES void add_where(const float* grad, const uint8_t* code, uint8_t tap, int64_t depth, float* out) {
  for (int64_t k = 0; k < depth; ++k) out[k] += code[k] == tap ? grad[k] : 0.0f;
}

L2UL_CLONES void close_gate(const float* gate, int64_t depth, float* out) {
  for (int64_t k = 0; k < depth; ++k) out[k] = gate[k] <= 0.0f ? 0.0f : out[k];
}

}  // namespace

void max_pool(const Window& w, const float* x, float* out, uint8_t* code) {
  const int64_t taps = w.kernel_h * w.kernel_w;
  at::parallel_for(0, w.images * w.out_h, 4, [&](int64_t begin, int64_t end) {
    std::vector<const float*> from(taps);
    for (int64_t line = begin; line < end; ++line) {
      for (int64_t column = 0; column < w.out_w; ++column) {
        for (int64_t t = 0; t < taps; ++t) {
          const int64_t h = line % w.out_h * w.stride_h + t / w.kernel_w - w.pad_h;
          const int64_t v = column * w.stride_w + t % w.kernel_w - w.pad_w;
          const bool inside = h >= 0 && h < w.in_h && v >= 0 && v < w.in_w;
          from[t] = inside ? x + ((line / w.out_h * w.in_h + h) * w.in_w + v) * w.depth : nullptr;
        }
        const int64_t at = (line * w.out_w + column) * w.depth;
        pool_pixel(from.data(), taps, w.depth, out + at, code == nullptr ? nullptr : code + at);
      }
    }
  });
}

void max_pool_gradient(const Window& w, const float* grad, const uint8_t* code, const float* gate, float* out) {
  at::parallel_for(0, w.images * w.in_h, 4, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t image = line / w.in_h, h = line % w.in_h;
      for (int64_t v = 0; v < w.in_w; ++v) {
        const int64_t at = (line * w.in_w + v) * w.depth;
        std::fill_n(out + at, w.depth, 0.0f);
        for (int64_t t = 0; t < w.kernel_h * w.kernel_w; ++t) {
          const int64_t down = h + w.pad_h - t / w.kernel_w, across = v + w.pad_w - t % w.kernel_w;
          if (down % w.stride_h != 0 || across % w.stride_w != 0) continue;
          const int64_t oh = down / w.stride_h, ow = across / w.stride_w;
          if (oh < 0 || oh >= w.out_h || ow < 0 || ow >= w.out_w) continue;
          const int64_t from = ((image * w.out_h + oh) * w.out_w + ow) * w.depth;
          add_where(grad + from, code + from, static_cast<uint8_t>(t), w.depth, out + at);
        }
        if (gate != nullptr) close_gate(gate + at, w.depth, out + at);
      }
    }
  });
}

}  // namespace l2ul::cpu
