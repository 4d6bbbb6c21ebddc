// The bodies of the l2ul operators: plain loops over raw pointers and sizes, one table of them for each kind of device.
// What the numbers mean, and that the pointers are sound, is settled by ops.cc; behind this header nobody knows
// tensors.
//
// A body gives the same bits for every number of threads and on every instruction set: each float operation is rounded
// on its own, and float64 sums run in a fixed order. That order alone differs between CPU and CUDA.
#pragma once

#include <cstdint>
#include <span>

#include "formulas.h"

namespace l2ul {

// Where a body queues its work: a cudaStream_t. A body of the CPU gets NULL and is done when it returns.
using Stream = void*;

// A batch from resident images: out[i,c,p] = table[c, pixels[index[i],c,p]], images planar (c outermost) or interleaved
// (p outermost). With crops, an image is first padded by `padding` zero bytes on every side, cut to the window of its
// own size at (top, left), and mirrored where flip is 1.
struct Gather {
  const uint8_t* pixels;
  int64_t images, stride;  // how many there are, and the distance between them
  const int64_t* index;
  int64_t count;         // images of the batch
  const int64_t* crops;  // top, left and flip for each image of the batch, or NULL
  int64_t padding;
  const float* table;
  int64_t channels, height, width;
  bool interleaved;
  float* out;
};

// One parameter tensor's share of an importance estimate.
struct Importance {
  float* omega;
  const float* grad;
  int64_t size;
};

// One parameter tensor of the anchored update; anchor and reference are NULL where there is no penalty.
struct Update {
  float* param;
  const float* grad;
  float* momentum;
  const float* anchor;
  const float* reference;
  int64_t size;
};

// One parameter tensor's share of the penalty; anchor is NULL for weight one.
struct Drift {
  const float* param;
  const float* reference;
  const float* anchor;
  int64_t size;
};

// What becomes of a convolution's sums while they go to out, T being float or BFloat16, in float32 arithmetic:
// sum + bias[channel] + add, then what a ReLU makes of it, with relu, or what the ReLU with the value gate lets
// through. Channels are innermost. Null pointers are left out.
template <class T>
struct Finish {
  T* out;
  const T* sum;
  const float* bias;
  const T* add;
  const T* gate;
  int64_t size, channels;
  bool relu;
};

// A window that slides over images, [images, in_h, in_w, depth] to [images, out_h, out_w, depth].
struct Window {
  int64_t images, in_h, in_w, depth, out_h, out_w;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
};

// The largest value of each window; code gets its place in the window.
template <class T>
struct MaxPool {
  const T* x;
  T* out;
  uint8_t* code;
};

// The gradient by x: each window's gradient goes to the place in code. gate is that of Finish.
template <class T>
struct MaxPoolGradient {
  const T* grad;
  const uint8_t* code;
  const T* gate;
  T* out;
};

// Steps of the attack on `images` images of `size` values each, one behind the other.
using Start = void(const float* x, const float* start, int64_t images, int64_t size, float eps, float* delta, Stream);
// A step writes x + delta, the images that the network sees next, to next.
using Step = void(float* delta, float* next, const float* grad, const float* x, int64_t images, int64_t size,
                  float alpha, float eps, Stream);
using Accumulate = void(std::span<const Importance> list, float weight, float count, Stream);

struct Bodies {
  void (*gather_lut)(const Gather&, Stream);
  Start *pgd_start_l2, *pgd_start_linf;
  Step *pgd_l2_step, *pgd_linf_step;
  Accumulate *accumulate_abs, *accumulate_square;
  // scratch has the bytes that the table asks for.
  void (*anchor_weights)(const float* omega, int64_t size, float* out, void* scratch, Stream);
  // Tells in *finite whether every new parameter is finite. `first`: the momenta hold nothing yet.
  void (*anchored_sgd)(std::span<const Update> list, const Rates& rates, bool first, bool* finite, Stream);
  // out[0] = half the sum of a (p - ref)^2, out[1] = the sum of (p - ref)^2.
  void (*anchor_penalty)(std::span<const Drift> list, double* out, void* scratch, Stream);
  int64_t scratch;

  // The operators of plans.
  void (*finish)(const Finish<float>&, Stream);
  void (*finish_bf16)(const Finish<BFloat16>&, Stream);
  void (*max_pool)(const Window&, const MaxPool<float>&, Stream);
  void (*max_pool_bf16)(const Window&, const MaxPool<BFloat16>&, Stream);
  void (*max_pool_gradient)(const Window&, const MaxPoolGradient<float>&, Stream);
  void (*max_pool_gradient_bf16)(const Window&, const MaxPoolGradient<BFloat16>&, Stream);
};

extern const Bodies cpu_bodies;
extern const Bodies cuda_bodies;

}  // namespace l2ul
