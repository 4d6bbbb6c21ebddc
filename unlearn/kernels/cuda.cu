// The CUDA bodies of the l2ul operators: kernels over raw pointers, queued on the stream that ops.cc gives.
//
// A block of kThreads threads works on one image, or on one piece of a tensor. Values move four at a time where all
// pointers allow. Sums run in an order that depends on the sizes alone: no atomics.

#include <cuda_runtime.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "bodies.h"

namespace l2ul {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
// A list of tensors is cut into pieces of this many values, a block each: eight rounds of four values a thread.
constexpr int64_t kPiece = 8 * 4 * kThreads;
// Reductions leave one part a block, of so few blocks that one more block can fold them, a thread each.
constexpr int kParts = kThreads;
// What of an image a block holds in shared memory between two passes: enough for 3 x 32 x 32, and little enough for as
// many blocks as a processor's threads make.
constexpr int64_t kHeld = 4096;
// The channels whose rows of a lookup table a block copies to shared memory.
constexpr int kRows = 4;

// ---- launching ------------------------------------------------------------------------------------------------------

void check(cudaError_t status, const char* kernel) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("l2ul: the CUDA kernel ") + kernel +
                           " cannot start: " + cudaGetErrorString(status));
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), int64_t blocks, Stream stream,
            const Arguments&... arguments) {
  if (blocks == 0) return;
  if (blocks > std::numeric_limits<int>::max()) {
    throw std::runtime_error(std::string("l2ul: the CUDA kernel ") + name + " would need " + std::to_string(blocks) +
                             " blocks, more than a grid holds; give it less at a time");
  }
  const cudaLaunchConfig_t config = {.gridDim = dim3(static_cast<unsigned>(blocks)),
                                     .blockDim = dim3(kThreads),
                                     .dynamicSmemBytes = 0,
                                     .stream = static_cast<cudaStream_t>(stream),
                                     .attrs = nullptr,
                                     .numAttrs = 0};
  check(cudaLaunchKernelEx(&config, kernel, arguments...), name);
}

int64_t pieces_of(int64_t size) { return (size + kPiece - 1) / kPiece; }

// ---- inside a block -------------------------------------------------------------------------------------------------

// W values that move together.
template <class T, int W>
struct alignas(sizeof(T) * W) Pack {
  T at[W];
};

template <int W, class T>
__device__ __forceinline__ Pack<T, W> load(const T* from) {
  return *reinterpret_cast<const Pack<T, W>*>(from);
}

template <class T, int W>
__device__ __forceinline__ void store(T* to, const Pack<T, W>& values) {
  *reinterpret_cast<Pack<T, W>*>(to) = values;
}

template <int W = 4, class... T>
__host__ __device__ __forceinline__ bool fit_packs(const T*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % (W * sizeof(T)) == 0) && ...);
}

// How many values of a type move together: 16 bytes.
template <class T>
constexpr int kWide = 16 / sizeof(T);

template <int W>
struct Width {
  static constexpr int value = W;
};

// Shares [0, n) out among the threads: f(i, Width<W>) is to deal with the W values from i on. A thread sees its places
// in rising order, and the same ones in every call with the same n and `packs`.
template <int W = 4, class F>
__device__ __forceinline__ void each(int64_t n, bool packs, const F& f) {
  const int64_t in_packs = packs ? n - n % W : 0;
  for (int64_t i = W * threadIdx.x; i < in_packs; i += W * kThreads) f(i, Width<W>());
  for (int64_t i = in_packs + threadIdx.x; i < n; i += kThreads) f(i, Width<1>());
}

// The sum of every thread's v, for all threads. Warps fold in halves, then the first warp folds their sums.
__device__ double block_sum(double v) {
  __shared__ double sums[kThreads / kWarp];
  const auto fold = [](double v) {
    for (int half = kWarp / 2; half > 0; half /= 2) v += __shfl_xor_sync(~0u, v, half);
    return v;
  };
  v = fold(v);
  __syncthreads();  // an earlier sum has been read
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = v;
  __syncthreads();
  return fold(threadIdx.x % kWarp < kThreads / kWarp ? sums[threadIdx.x % kWarp] : 0.0);
}

// ---- batches --------------------------------------------------------------------------------------------------------

// The crop of one image, for a block that works on a piece of it: the way from a row and a column of the window to
// those of the image, the image's size, the bytes of a pixel, and the place where the piece begins. All is unsigned, so
// that what lies before the image wraps round and is beyond it too.
struct Crop {
  uint32_t down, right;
  bool flip;
  uint32_t height, width, depth;
  uint32_t row, column, channel;
};

__device__ __forceinline__ Crop crop_at(const Gather& g, const int64_t* crop, int64_t depth, int64_t begin) {
  const int64_t top = crop[0], left = crop[1], flip = crop[2], most = 2 * g.padding;
  assert(top >= 0 && top <= most && left >= 0 && left <= most && (flip == 0 || flip == 1) &&
         "l2ul::gather_lut: a crop is outside the padded image");
  const auto narrow = [](int64_t v) { return static_cast<uint32_t>(v); };
  const int64_t pixel = begin / depth;
  return {.down = narrow(top - g.padding),
          .right = narrow(left - g.padding),
          .flip = flip == 1,
          .height = narrow(g.height),
          .width = narrow(g.width),
          .depth = narrow(depth),
          .row = narrow(pixel / g.width),
          .column = narrow(pixel % g.width),
          .channel = narrow(begin % depth)};
}

// The W bytes from byte `i` of the piece on.
template <int W>
__device__ __forceinline__ Pack<uint8_t, W> load_cropped(const uint8_t* image, const Crop& crop, int64_t i) {
  uint32_t channel = crop.channel + static_cast<uint32_t>(i), column = crop.column + channel / crop.depth;
  uint32_t row = crop.row + column / crop.width;
  channel %= crop.depth, column %= crop.width;
  Pack<uint8_t, W> bytes;
  for (int k = 0; k < W; ++k) {
    const uint32_t y = row + crop.down, x = (crop.flip ? crop.width - 1 - column : column) + crop.right;
    const bool inside = y < crop.height && x < crop.width;
    bytes.at[k] = inside ? image[(static_cast<int64_t>(y) * crop.width + x) * crop.depth + channel] : 0;
    if (++channel < crop.depth) continue;
    channel = 0;
    if (++column < crop.width) continue;
    column = 0;
    ++row;
  }
  return bytes;
}

// A block looks up one piece of one image: of a channel's plane where images are planar, whose table row is then the
// same for all, or of the whole image where channels alternate.
template <bool Interleaved, bool Cropped>
__global__ void __launch_bounds__(kThreads) gather_lut(const Gather g) {
  __shared__ float rows[256 * kRows];
  const int64_t depth = Interleaved ? g.channels : 1, planes = Interleaved ? 1 : g.channels;
  const int64_t plane = g.height * g.width * depth, pieces = (plane + kPiece - 1) / kPiece;
  const int64_t block = blockIdx.x / pieces, begin = blockIdx.x % pieces * kPiece;
  const int64_t image = block / planes, channel = block % planes;
  const int64_t which = g.index[image];
  assert(which >= 0 && which < g.images && "l2ul::gather_lut: an index is outside the images");
  Crop crop = {};
  if constexpr (Cropped) crop = crop_at(g, g.crops + 3 * image, depth, begin);

  const float* lookup = g.table + 256 * channel;
  if (depth <= kRows) {
    for (int64_t i = threadIdx.x; i < 256 * depth; i += kThreads) rows[i] = lookup[i];
    __syncthreads();
    lookup = rows;
  }
  const uint8_t* const from = g.pixels + which * g.stride + channel * plane;
  float* const to = g.out + block * plane + begin;
  const auto phase = static_cast<uint32_t>(begin % depth), period = static_cast<uint32_t>(depth);
  const bool packs = fit_packs(to) && (Cropped || fit_packs(from + begin));
  each(min(kPiece, plane - begin), packs, [&](int64_t i, auto width) {
    constexpr int W = decltype(width)::value;
    Pack<uint8_t, W> in;
    if constexpr (Cropped) {
      in = load_cropped<W>(from, crop, i);
    } else {
      in = load<W>(from + begin + i);
    }
    Pack<float, W> values;
    for (int k = 0; k < W; ++k) {
      const uint32_t c = Interleaved ? (phase + static_cast<uint32_t>(i) + k) % period : 0;
      values.at[k] = lookup[256 * c + in.at[k]];
    }
    store(to + i, values);
  });
}

// ---- the attack -----------------------------------------------------------------------------------------------------

// A block works on one image. Between the passes what is not yet delta lies in shared memory where an image fits, and
// else in delta itself; every thread meets its own values only.
__global__ void __launch_bounds__(kThreads)
    start_l2(const float* x, const float* start, int64_t size, float eps, float* delta) {
  alignas(16) __shared__ float held[kHeld];
  const int64_t at = blockIdx.x * size;
  x += at, start += at, delta += at;
  float* const work = size <= kHeld ? held : delta;
  const bool packs = fit_packs(x, start, delta);
  double squares = 0;
  each(size, packs, [&](int64_t i, auto width) {
    constexpr int W = decltype(width)::value;
    const auto image = load<W>(x + i);
    auto d = load<W>(start + i);
    for (int k = 0; k < W; ++k) {
      d.at[k] -= image.at[k];
      squares += square(d.at[k]);
    }
    store(work + i, d);
  });
  const float factor = shrink(norm(block_sum(squares)), eps);
  each(size, packs, [&](int64_t i, auto width) {
    constexpr int W = decltype(width)::value;
    const auto image = load<W>(x + i);
    auto d = load<W>(work + i);
    for (int k = 0; k < W; ++k) d.at[k] = boxed(image.at[k], d.at[k] * factor);
    store(delta + i, d);
  });
}

__global__ void __launch_bounds__(kThreads)
    step_l2(float* delta, float* next, const float* grad, const float* x, int64_t size, float alpha, float eps) {
  alignas(16) __shared__ float held[kHeld];
  const int64_t at = blockIdx.x * size;
  delta += at, next += at, grad += at, x += at;
  float* const work = size <= kHeld ? held : delta;
  const bool packs = fit_packs(delta, next, grad, x);
  double squares = 0;
  each(size, packs, [&](int64_t i, auto width) {
    constexpr int W = decltype(width)::value;
    const auto g = load<W>(grad + i);
    for (int k = 0; k < W; ++k) squares += square(g.at[k]);
  });
  const float scale = inverse(norm(block_sum(squares)));
  squares = 0;
  each(size, packs, [&](int64_t i, auto width) {
    constexpr int W = decltype(width)::value;
    const auto g = load<W>(grad + i), image = load<W>(x + i);
    auto d = load<W>(delta + i);
    for (int k = 0; k < W; ++k) {
      d.at[k] = l2_moved(d.at[k], g.at[k], image.at[k], alpha, scale);
      squares += square(d.at[k]);
    }
    store(work + i, d);
  });
  const float factor = shrink(norm(block_sum(squares)), eps);
  each(size, packs, [&](int64_t i, auto width) {
    constexpr int W = decltype(width)::value;
    auto image = load<W>(x + i), d = load<W>(work + i);
    for (int k = 0; k < W; ++k) {
      d.at[k] *= factor;
      image.at[k] += d.at[k];
    }
    store(delta + i, d);
    store(next + i, image);
  });
}

__global__ void __launch_bounds__(kThreads)
    start_linf(const float* x, const float* start, int64_t size, float eps, float* delta) {
  const int64_t at = blockIdx.x * kPiece;
  x += at, start += at, delta += at;
  each(min(kPiece, size - at), fit_packs(x, start, delta), [&](int64_t i, auto width) {
    constexpr int W = decltype(width)::value;
    const auto image = load<W>(x + i);
    auto d = load<W>(start + i);
    for (int k = 0; k < W; ++k) d.at[k] = boxed(image.at[k], clamp(d.at[k] - image.at[k], -eps, eps));
    store(delta + i, d);
  });
}

__global__ void __launch_bounds__(kThreads)
    step_linf(float* delta, float* next, const float* grad, const float* x, int64_t size, float alpha, float eps) {
  const int64_t at = blockIdx.x * kPiece;
  delta += at, next += at, grad += at, x += at;
  each(min(kPiece, size - at), fit_packs(delta, next, grad, x), [&](int64_t i, auto width) {
    constexpr int W = decltype(width)::value;
    const auto g = load<W>(grad + i);
    auto image = load<W>(x + i), d = load<W>(delta + i);
    for (int k = 0; k < W; ++k) {
      d.at[k] = linf_moved(d.at[k], g.at[k], image.at[k], alpha, eps);
      image.at[k] += d.at[k];
    }
    store(delta + i, d);
    store(next + i, image);
  });
}

// ---- lists of tensors -----------------------------------------------------------------------------------------------

// Part of a list, small enough to travel as a kernel's argument (32,764 bytes): one launch serves a whole network.
template <class Item>
struct Batch {
  static constexpr int kItems = 512;
  int count = 0;
  int first[kItems + 1] = {};  // each item's first piece, and behind the last the number of pieces
  Item items[kItems];

  __host__ __device__ int pieces() const { return first[count]; }
};

// Calls f with batches that together hold all the list's values.
template <class Item, class F>
void each_batch(std::span<const Item> list, const F& f) {
  Batch<Item> batch;
  const auto flush = [&] {
    if (batch.count > 0) f(batch);
    batch.count = 0;
  };
  for (const Item& item : list) {
    const int64_t pieces = pieces_of(item.size);
    if (pieces == 0) continue;
    if (batch.count == Batch<Item>::kItems || batch.first[batch.count] + pieces > std::numeric_limits<int>::max()) {
      flush();
    }
    batch.items[batch.count] = item;
    batch.first[batch.count + 1] = static_cast<int>(batch.first[batch.count] + pieces);
    ++batch.count;
  }
  flush();
}

// Anchors come for all items or for none, but where there are no values any pointer may be NULL.
template <class Item>
bool has_anchors(std::span<const Item> list) {
  return std::ranges::any_of(list, [](const Item& item) { return item.anchor != nullptr; });
}

// The item that a piece belongs to, and where in the item the piece begins.
template <class Item>
__device__ __forceinline__ const Item& item_of(const Batch<Item>& batch, int piece, int64_t* begin) {
  int low = 0, high = batch.count;  // the last item whose first piece is at or before this one
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (batch.first[middle] <= piece ? low : high) = middle;
  }
  *begin = (piece - batch.first[low]) * kPiece;
  return batch.items[low];
}

template <bool Square>
__global__ void __launch_bounds__(kThreads)
    accumulate(const __grid_constant__ Batch<Importance> batch, float weight, float count) {
  int64_t begin;
  const Importance& item = item_of(batch, blockIdx.x, &begin);
  float* const omega = item.omega + begin;
  const float* const grad = item.grad + begin;
  each(min(kPiece, item.size - begin), fit_packs(omega, grad), [&](int64_t i, auto width) {
    constexpr int W = decltype(width)::value;
    const auto g = load<W>(grad + i);
    auto o = load<W>(omega + i);
    for (int k = 0; k < W; ++k) {
      o.at[k] = Square ? plus_square(o.at[k], g.at[k], weight, count) : plus_abs(o.at[k], g.at[k], weight, count);
    }
    store(omega + i, o);
  });
}

template <bool Anchored, bool First>
__global__ void __launch_bounds__(kThreads)
    update(const __grid_constant__ Batch<Update> batch, const Rates rates, bool* finite) {
  int64_t begin;
  const Update& item = item_of(batch, blockIdx.x, &begin);
  float *const param = item.param + begin, *const momentum = item.momentum + begin;
  const float* const grad = item.grad + begin;
  // What is not read is replaced by something readable: its values do not matter.
  const float* const anchor = Anchored ? item.anchor + begin : grad;
  const float* const reference = Anchored ? item.reference + begin : grad;
  bool good = true;
  each(min(kPiece, item.size - begin), fit_packs(param, momentum, grad, anchor, reference), [&](int64_t i, auto width) {
    constexpr int W = decltype(width)::value;
    auto p = load<W>(param + i);
    const auto g = load<W>(grad + i), a = load<W>(anchor + i), r = load<W>(reference + i);
    auto v = First ? g : load<W>(momentum + i);
    for (int k = 0; k < W; ++k) {
      good &= advance<Anchored, First>(p.at[k], g.at[k], v.at[k], a.at[k], r.at[k], rates);
    }
    store(param + i, p);
    store(momentum + i, v);
  });
  if (!good) *finite = false;  // whoever writes, writes the same
}

struct Penalty {
  double weighted, plain;
};

// Each of at most kParts blocks adds every kParts-th piece to its part.
template <bool Anchored>
__global__ void __launch_bounds__(kThreads) penalty_parts(const __grid_constant__ Batch<Drift> batch, Penalty* parts) {
  double weighted = 0, plain = 0;
  for (int piece = blockIdx.x; piece < batch.pieces(); piece += kParts) {
    int64_t begin;
    const Drift& item = item_of(batch, piece, &begin);
    const float *const param = item.param + begin, *const reference = item.reference + begin;
    const float* const anchor = Anchored ? item.anchor + begin : param;
    each(min(kPiece, item.size - begin), fit_packs(param, reference, anchor), [&](int64_t i, auto width) {
      constexpr int W = decltype(width)::value;
      const auto p = load<W>(param + i), r = load<W>(reference + i), a = load<W>(anchor + i);
      for (int k = 0; k < W; ++k) {
        const double d = drift(p.at[k], r.at[k]);
        plain += d;
        weighted += Anchored ? static_cast<double>(a.at[k]) * d : d;
      }
    });
  }
  weighted = block_sum(weighted);
  plain = block_sum(plain);
  if (threadIdx.x > 0) return;
  parts[blockIdx.x].weighted += weighted;
  parts[blockIdx.x].plain += plain;
}

__global__ void __launch_bounds__(kThreads) penalty_total(const Penalty* parts, double* out) {
  const double weighted = block_sum(parts[threadIdx.x].weighted);
  const double plain = block_sum(parts[threadIdx.x].plain);
  if (threadIdx.x > 0) return;
  out[0] = 0.5 * weighted;
  out[1] = plain;
}

// ---- anchor weights -------------------------------------------------------------------------------------------------

struct Range {
  float low, high;
  bool nan;
};

__device__ __forceinline__ Range no_range() { return {INFINITY, -INFINITY, false}; }

// The range of all threads' ranges, for all threads.
__device__ Range block_range(Range mine) {
  __shared__ Range ranges[kThreads];
  ranges[threadIdx.x] = mine;
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x >= half) continue;
    const Range other = ranges[threadIdx.x + half];
    mine = {min(mine.low, other.low), max(mine.high, other.high), mine.nan || other.nan};
    ranges[threadIdx.x] = mine;
  }
  __syncthreads();
  return ranges[0];
}

__global__ void __launch_bounds__(kThreads) range_parts(const float* omega, int64_t size, Range* parts) {
  Range range = no_range();
  for (int64_t at = blockIdx.x * kPiece; at < size; at += kParts * kPiece) {
    each(min(kPiece, size - at), fit_packs(omega), [&](int64_t i, auto width) {
      constexpr int W = decltype(width)::value;
      const auto v = load<W>(omega + at + i);
      for (int k = 0; k < W; ++k) {
        range.low = min(range.low, v.at[k]);  // min and max pass NaN over
        range.high = max(range.high, v.at[k]);
        range.nan |= v.at[k] != v.at[k];
      }
    });
  }
  range = block_range(range);
  if (threadIdx.x == 0) parts[blockIdx.x] = range;
}

__global__ void __launch_bounds__(kThreads)
    complements(const float* omega, int64_t size, const Range* parts, float* out) {
  const Range range = block_range(threadIdx.x * kPiece < size ? parts[threadIdx.x] : no_range());
  // One NaN makes every weight NaN, as the minimum of the tensor would be.
  const float width = range.nan ? NAN : range.high - range.low;
  const int64_t at = blockIdx.x * kPiece;
  omega += at, out += at;
  each(min(kPiece, size - at), fit_packs(omega, out), [&](int64_t i, auto w) {
    constexpr int W = decltype(w)::value;
    auto v = load<W>(omega + i);
    for (int k = 0; k < W; ++k) v.at[k] = width == 0.0f ? 1.0f : complement(v.at[k], range.low, width);
    store(out + i, v);
  });
}

// ---- plans ----------------------------------------------------------------------------------------------------------

// W values of any type at `from`, which may be NULL for zeros, as float32.
template <int W, class T>
__device__ __forceinline__ Pack<float, W> widened(const T* from) {
  Pack<float, W> wide = {};
  if (from == nullptr) return wide;
  const auto values = load<W>(from);
  for (int k = 0; k < W; ++k) wide.at[k] = widen(values.at[k]);
  return wide;
}

template <class T, int W>
__device__ __forceinline__ void store_narrow(T* to, const Pack<float, W>& values) {
  Pack<T, W> narrowed;
  for (int k = 0; k < W; ++k) narrowed.at[k] = narrow<T>(values.at[k]);
  store(to, narrowed);
}

template <class T>
__device__ __forceinline__ const T* beyond(const T* pointer, int64_t distance) {
  return pointer == nullptr ? nullptr : pointer + distance;
}

// A block finishes one piece.
template <class T>
__global__ void __launch_bounds__(kThreads) finish(const Finish<T> f) {
  constexpr int kPack = kWide<T>;
  const int64_t begin = blockIdx.x * kPiece;
  const auto phase = static_cast<uint32_t>(begin % f.channels), period = static_cast<uint32_t>(f.channels);
  each<kPack>(min(kPiece, f.size - begin), fit_packs<kPack>(f.out, f.sum, f.add, f.gate), [&](int64_t i, auto width) {
    constexpr int W = decltype(width)::value;
    const int64_t at = begin + i;
    auto v = widened<W>(f.sum + at);
    const auto add = widened<W>(beyond(f.add, at)), gate = widened<W>(beyond(f.gate, at));
    uint32_t c = (phase + static_cast<uint32_t>(i)) % period;
    for (int k = 0; k < W; ++k) {
      if (f.bias != nullptr) v.at[k] = v.at[k] + f.bias[c];
      if (f.add != nullptr) v.at[k] = v.at[k] + add.at[k];
      if (f.relu) v.at[k] = rectified(v.at[k]);
      if (f.gate != nullptr) v.at[k] = gated(v.at[k], gate.at[k]);
      c = c + 1 == period ? 0 : c + 1;
    }
    store_narrow(f.out + at, v);
  });
}

// Where the W values of a thread lie: in the channels from `channel` on of one pixel. Neighbours share a pixel, so that
// they read side by side.
struct Spot {
  int64_t image, row, column, channel;
  bool inside;
};

template <int W>
__device__ __forceinline__ Spot spot(const Window& w, int64_t height, int64_t width) {
  int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t groups = w.depth / W, channel = i % groups * W;
  i /= groups;
  const int64_t column = i % width;
  i /= width;
  return {i / height, i % height, column, channel, i / height < w.images};
}

// A thread looks for the largest values of one window.
template <class T, int W>
__global__ void __launch_bounds__(kThreads) max_pool(const Window w, const MaxPool<T> p) {
  const Spot at = spot<W>(w, w.out_h, w.out_w);
  if (!at.inside) return;
  Pack<float, W> best = {};
  Pack<uint8_t, W> code = {};
  bool first = true;
  for (int64_t t = 0; t < w.kernel_h * w.kernel_w; ++t) {
    const int64_t h = at.row * w.stride_h + t / w.kernel_w - w.pad_h;
    const int64_t v = at.column * w.stride_w + t % w.kernel_w - w.pad_w;
    if (h < 0 || h >= w.in_h || v < 0 || v >= w.in_w) continue;
    const auto values = widened<W>(p.x + ((at.image * w.in_h + h) * w.in_w + v) * w.depth + at.channel);
    for (int k = 0; k < W; ++k) {
      if (!first && !larger(values.at[k], best.at[k])) continue;
      best.at[k] = values.at[k];
      code.at[k] = static_cast<uint8_t>(t);
    }
    first = false;
  }
  const int64_t to = ((at.image * w.out_h + at.row) * w.out_w + at.column) * w.depth + at.channel;
  store_narrow(p.out + to, best);
  store(p.code + to, code);
}

// A thread looks at the windows that see its pixel, so that nobody else adds to its sum.
template <class T, int W>
__global__ void __launch_bounds__(kThreads) max_pool_gradient(const Window w, const MaxPoolGradient<T> p) {
  const Spot at = spot<W>(w, w.in_h, w.in_w);
  if (!at.inside) return;
  Pack<float, W> sum = {};
  for (int64_t t = 0; t < w.kernel_h * w.kernel_w; ++t) {
    const int64_t down = at.row + w.pad_h - t / w.kernel_w, across = at.column + w.pad_w - t % w.kernel_w;
    if (down < 0 || across < 0 || down % w.stride_h != 0 || across % w.stride_w != 0) continue;
    const int64_t row = down / w.stride_h, column = across / w.stride_w;
    if (row >= w.out_h || column >= w.out_w) continue;
    const int64_t from = ((at.image * w.out_h + row) * w.out_w + column) * w.depth + at.channel;
    const auto grad = widened<W>(p.grad + from);
    const auto code = load<W>(p.code + from);
    for (int k = 0; k < W; ++k) sum.at[k] += code.at[k] == t ? grad.at[k] : 0.0f;
  }
  const int64_t to = ((at.image * w.in_h + at.row) * w.in_w + at.column) * w.depth + at.channel;
  const auto gate = widened<W>(beyond(p.gate, to));
  for (int k = 0; k < W; ++k) {
    if (p.gate != nullptr) sum.at[k] = gated(sum.at[k], gate.at[k]);
  }
  store_narrow(p.out + to, sum);
}

template <class T>
void launch_finish(const Finish<T>& f, Stream stream) {
  launch("finish", finish<T>, pieces_of(f.size), stream, f);
}

// Threads that are needed for `pixels` pixels, in blocks.
int64_t blocks_of(int64_t pixels, const Window& w, int width) {
  return (pixels * (w.depth / width) + kThreads - 1) / kThreads;
}

template <class T>
void launch_pool(const Window& w, const MaxPool<T>& p, Stream stream) {
  constexpr int kPack = kWide<T>;
  const bool packs = w.depth % kPack == 0 && fit_packs<kPack>(p.x, p.out, p.code);
  launch("max_pool", packs ? max_pool<T, kPack> : max_pool<T, 1>,
         blocks_of(w.images * w.out_h * w.out_w, w, packs ? kPack : 1), stream, w, p);
}

template <class T>
void launch_pool_gradient(const Window& w, const MaxPoolGradient<T>& p, Stream stream) {
  constexpr int kPack = kWide<T>;
  const bool packs = w.depth % kPack == 0 && fit_packs<kPack>(p.grad, p.code, p.gate, p.out);
  launch("max_pool_gradient", packs ? max_pool_gradient<T, kPack> : max_pool_gradient<T, 1>,
         blocks_of(w.images * w.in_h * w.in_w, w, packs ? kPack : 1), stream, w, p);
}

}  // namespace

// ---- the table ------------------------------------------------------------------------------------------------------

const Bodies cuda_bodies = {
    .gather_lut =
        [](const Gather& g, Stream stream) {
          const int64_t area = g.height * g.width;
          const int64_t blocks =
              g.count * (g.interleaved ? pieces_of(g.channels * area) : g.channels * pieces_of(area));
          const bool cropped = g.crops != nullptr;
          launch("gather_lut",
                 g.interleaved ? (cropped ? gather_lut<true, true> : gather_lut<true, false>)
                               : (cropped ? gather_lut<false, true> : gather_lut<false, false>),
                 blocks, stream, g);
        },
    .pgd_start_l2 = [](const float* x, const float* start, int64_t images, int64_t size, float eps, float* delta,
                       Stream stream) { launch("start_l2", start_l2, images, stream, x, start, size, eps, delta); },
    .pgd_start_linf =
        [](const float* x, const float* start, int64_t images, int64_t size, float eps, float* delta, Stream stream) {
          launch("start_linf", start_linf, pieces_of(images * size), stream, x, start, images * size, eps, delta);
        },
    .pgd_l2_step =
        [](float* delta, float* next, const float* grad, const float* x, int64_t images, int64_t size, float alpha,
           float eps,
           Stream stream) { launch("step_l2", step_l2, images, stream, delta, next, grad, x, size, alpha, eps); },
    .pgd_linf_step =
        [](float* delta, float* next, const float* grad, const float* x, int64_t images, int64_t size, float alpha,
           float eps, Stream stream) {
          launch("step_linf", step_linf, pieces_of(images * size), stream, delta, next, grad, x, images * size, alpha,
                 eps);
        },
    .accumulate_abs =
        [](std::span<const Importance> list, float weight, float count, Stream stream) {
          each_batch(list, [&](const Batch<Importance>& batch) {
            launch("accumulate_abs", accumulate<false>, batch.pieces(), stream, batch, weight, count);
          });
        },
    .accumulate_square =
        [](std::span<const Importance> list, float weight, float count, Stream stream) {
          each_batch(list, [&](const Batch<Importance>& batch) {
            launch("accumulate_square", accumulate<true>, batch.pieces(), stream, batch, weight, count);
          });
        },
    .anchor_weights =
        [](const float* omega, int64_t size, float* out, void* scratch, Stream stream) {
          Range* const parts = static_cast<Range*>(scratch);
          launch("range_parts", range_parts, std::min<int64_t>(kParts, pieces_of(size)), stream, omega, size, parts);
          launch("complements", complements, pieces_of(size), stream, omega, size, parts, out);
        },
    .anchored_sgd =
        [](std::span<const Update> list, const Rates& rates, bool first, bool* finite, Stream stream) {
          check(cudaMemsetAsync(finite, true, sizeof *finite, static_cast<cudaStream_t>(stream)), "memset");
          const auto kernel = has_anchors(list) ? (first ? update<true, true> : update<true, false>)
                                                : (first ? update<false, true> : update<false, false>);
          each_batch(list, [&](const Batch<Update>& batch) {
            launch("anchored_sgd", kernel, batch.pieces(), stream, batch, rates, finite);
          });
        },
    .anchor_penalty =
        [](std::span<const Drift> list, double* out, void* scratch, Stream stream) {
          Penalty* const parts = static_cast<Penalty*>(scratch);
          check(cudaMemsetAsync(parts, 0, kParts * sizeof *parts, static_cast<cudaStream_t>(stream)), "memset");
          each_batch(list, [&](const Batch<Drift>& batch) {
            launch("penalty_parts", has_anchors(list) ? penalty_parts<true> : penalty_parts<false>,
                   std::min(kParts, batch.pieces()), stream, batch, parts);
          });
          launch("penalty_total", penalty_total, 1, stream, parts, out);
        },
    .scratch = kParts * static_cast<int64_t>(std::max(sizeof(Range), sizeof(Penalty))),
    .finish = launch_finish<float>,
    .finish_bf16 = launch_finish<BFloat16>,
    .max_pool = launch_pool<float>,
    .max_pool_bf16 = launch_pool<BFloat16>,
    .max_pool_gradient = launch_pool_gradient<float>,
    .max_pool_gradient_bf16 = launch_pool_gradient<BFloat16>,
};

}  // namespace l2ul
