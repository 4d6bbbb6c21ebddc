// The CPU bodies of the l2ul operators: plain loops over raw pointers and sizes. What the numbers mean, and that the
// pointers are sound, is settled by ops.cc; this file pair knows no tensors.
//
// Every body gives the same bits on every instruction set (AVX-512, AVX2, baseline) and for every number of threads:
// each float operation is rounded on its own, and float64 sums run in a fixed order.
#pragma once

#include <cstdint>
#include <span>

namespace l2ul::cpu {

// out[i,c,p] = table[c, pixels[index[i],c,p]], images planar (c outermost) or interleaved (p outermost). `stride` is
// the distance between images in `pixels`; `area` the number of pixels of an image.
void gather_lut(const uint8_t* pixels, int64_t stride, const int64_t* index, int64_t count, const float* table,
                int64_t channels, int64_t area, bool interleaved, float* out);

// The attack works on `images` images of `size` values each, one behind the other.
void pgd_start_l2(const float* x, const float* start, int64_t images, int64_t size, float eps, float* delta);
void pgd_start_linf(const float* x, const float* start, int64_t images, int64_t size, float eps, float* delta);
void pgd_l2_step(float* delta, const float* grad, const float* x, int64_t images, int64_t size, float alpha, float eps);
void pgd_linf_step(float* delta, const float* grad, const float* x, int64_t images, int64_t size, float alpha,
                   float eps);

// One parameter tensor's share of an importance estimate.
struct Importance {
  float* omega;
  const float* grad;
  int64_t size;
};
void accumulate_abs(std::span<const Importance> list, float weight, float count);
void accumulate_square(std::span<const Importance> list, float weight, float count);

void anchor_weights(const float* omega, int64_t size, float* out);

// One parameter tensor of the anchored update; anchor is null where there is no penalty.
struct Update {
  float* param;
  const float* grad;
  float* momentum;
  const float* anchor;
  const float* reference;
  int64_t size;
};
struct Rates {
  float lr, momentum, weight_decay, lam;
};
// Returns whether every new parameter is finite. `first`: the momenta hold nothing yet.
bool anchored_sgd(std::span<const Update> list, const Rates& rates, bool first);

// One parameter tensor's share of the penalty; anchor is null for weight one.
struct Drift {
  const float* param;
  const float* reference;
  const float* anchor;
  int64_t size;
};
struct Penalty {
  double weighted, plain;  // the sums of a (p - ref)^2 and of (p - ref)^2
};
Penalty anchor_penalty(std::span<const Drift> list);

}  // namespace l2ul::cpu
