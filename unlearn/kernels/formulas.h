// The arithmetic of the l2ul operators for one value, the same text for the CPU's loops and the CUDA kernels. Each
// float operation is rounded on its own: both compilers are told to fuse none.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define L2UL_INLINE __device__ __forceinline__
#else
// For helpers of cloned loops: without it the helper would be compiled once, for the baseline.
#define L2UL_INLINE __attribute__((always_inline)) inline
#endif

namespace l2ul {

// A bfloat16: the upper half of a float32.
struct BFloat16 {
  uint16_t bits;
};

L2UL_INLINE float widen(float v) { return v; }
L2UL_INLINE float widen(BFloat16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float wide;
  memcpy(&wide, &bits, sizeof wide);
  return wide;
}

// Rounds to the nearest, ties to even, as libtorch does.
template <class T>
L2UL_INLINE T narrow(float v);
template <>
L2UL_INLINE float narrow<float>(float v) {
  return v;
}
template <>
L2UL_INLINE BFloat16 narrow<BFloat16>(float v) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return {static_cast<uint16_t>(v == v ? bits : 0x7fc0)};
}

// What a ReLU makes of a value, and the gradient that it lets through where its own value was `gate`. NaN passes both,
// so that broken weights show.
L2UL_INLINE float rectified(float v) { return v < 0.0f ? 0.0f : v; }
L2UL_INLINE float gated(float v, float gate) { return gate <= 0.0f ? 0.0f : v; }

// Whether v is the largest of a window so far: the first of equals, and NaN is larger than any number.
L2UL_INLINE bool larger(float v, float best) { return v > best || v != v; }

L2UL_INLINE double square(float v) { return static_cast<double>(v) * static_cast<double>(v); }

// The norm everywhere in this project: float32(sqrt(sum of float64 squares)).
L2UL_INLINE float norm(double squares) { return static_cast<float>(std::sqrt(squares)); }

// Comparisons are written so that NaN passes through, as torch.clamp lets it.
L2UL_INLINE float clamp(float v, float low, float high) {
  v = v < low ? low : v;
  return v > high ? high : v;
}

// clampbox of the specification, section 3.1.
L2UL_INLINE float clamp_box(float x, float d) { return clamp(x + d, 0.0f, 1.0f) - x; }

// The factor min(eps / n, 1) of project. eps / n is reciprocal times eps, as Python's `eps / tensor` is, and 1 where
// n is 0 or NaN, as the reference has it. The test of eps keeps 0 * inf (a denormal n) from becoming NaN.
L2UL_INLINE float shrink(float n, float eps) {
  if (!(n > 0.0f)) return 1.0f;
  if (eps == 0.0f) return 0.0f;
  const float factor = (1.0f / n) * eps;
  return factor > 1.0f ? 1.0f : factor;
}

// What brings a gradient of norm n to norm one.
L2UL_INLINE float inverse(float n) { return 1.0f / (n < 1e-6f ? 1e-6f : n); }

// The steps of the attack before the projection on the L2 ball, and whole for Linf.
L2UL_INLINE float l2_moved(float delta, float grad, float x, float alpha, float scale) {
  return clamp_box(x, delta + alpha * (grad * scale));
}

L2UL_INLINE float linf_moved(float delta, float grad, float x, float alpha, float eps) {
  // grad - grad is 0 for a finite gradient and NaN otherwise: a bad gradient shows in delta, where a sign would hide
  // it.
  const float sign = static_cast<float>(grad > 0.0f) - static_cast<float>(grad < 0.0f);
  return clamp_box(x, clamp(delta + (alpha * sign + (grad - grad)), -eps, eps));
}

// The start of the attack once it lies in the ball.
L2UL_INLINE float boxed(float x, float delta) { return clamp_box(x, clamp_box(x, delta)); }

L2UL_INLINE float plus_abs(float omega, float grad, float weight, float count) {
  return omega + (weight * std::fabs(grad)) / count;
}

L2UL_INLINE float plus_square(float omega, float grad, float weight, float count) {
  return omega + (weight * (grad * grad)) / count;
}

L2UL_INLINE float complement(float omega, float low, float width) { return 1.0f - (omega - low) / width; }

struct Rates {
  float lr, momentum, weight_decay, lam;
};

// One parameter's update, in place. Returns whether it stays finite. Without Anchored, anchor and reference are not
// used; with First, what momentum held is not.
template <bool Anchored, bool First>
L2UL_INLINE bool advance(float& param, float grad, float& momentum, float anchor, float reference, const Rates& rates) {
  if constexpr (Anchored) grad = grad + (rates.lam * anchor) * (param - reference);
  float v = grad + rates.weight_decay * param;
  if constexpr (!First) v = momentum * rates.momentum + v;
  momentum = v;
  param = param - rates.lr * v;
  return param - param == 0.0f;  // infinite and NaN parameters give NaN
}

// The squared drift of one parameter.
L2UL_INLINE double drift(float param, float reference) {
  const double d = static_cast<double>(param) - static_cast<double>(reference);
  return d * d;
}

}  // namespace l2ul
