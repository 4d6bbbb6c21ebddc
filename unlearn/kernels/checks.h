// What the operators of this library demand of their arguments, and how they say so.
#pragma once

#include <ATen/MemoryOverlap.h>
#include <ATen/core/Tensor.h>

#include <array>
#include <cmath>

namespace l2ul {

using at::Tensor;
using at::TensorList;

// An argument as errors name it: "l2ul::anchored_sgd_: momenta[3]".
struct Name {
  const char* op;
  const char* argument;
  int64_t index = -1;
};

inline std::ostream& operator<<(std::ostream& out, const Name& name) {
  out << "l2ul::" << name.op << ": " << name.argument;
  if (name.index >= 0) out << '[' << name.index << ']';
  return out;
}

inline void check_type(const Name& name, const Tensor& t, at::ScalarType want) {
  TORCH_CHECK(t.defined(), name, " is undefined");
  TORCH_CHECK(t.layout() == at::kStrided, name, " has layout ", t.layout(), "; only dense tensors work");
  TORCH_CHECK(t.scalar_type() == want, name, " has dtype ", t.scalar_type(), "; it must be ", want);
}

inline void check_device(const Name& name, const Tensor& t, const Tensor& other, const char* other_name) {
  TORCH_CHECK(t.device() == other.device(), name, " is on ", t.device(), ", ", other_name, " on ", other.device(),
              "; they must share a device");
}

// A float32 operand that goes element by element with `model`.
inline void check_like(const Name& name, const Tensor& t, const Tensor& model, const char* model_name) {
  check_type(name, t, at::kFloat);
  check_device(name, t, model, model_name);
  TORCH_CHECK(t.sizes() == model.sizes(), name, " has shape ", t.sizes(), ", ", model_name, " ", model.sizes(),
              "; the shapes must be equal");
}

// A tensor that the operator writes: its elements must be distinct places in memory.
inline void check_written(const Name& name, const Tensor& t) {
  TORCH_CHECK(at::has_internal_overlap(t) != at::MemOverlap::Yes, name,
              " has several elements in one place of memory (an expanded tensor?); clone it first");
}

// `t` may be the written tensor itself, index for index, unless `distinct`; it may never overlap it otherwise.
inline void check_overlap(const Name& name, const Tensor& t, const Tensor& written, const char* written_name,
                          bool distinct = false) {
  const auto status = at::get_overlap_status(t, written);
  TORCH_CHECK(status != at::MemOverlapStatus::Partial && !(distinct && status == at::MemOverlapStatus::Full), name,
              " shares memory with ", written_name, ", which the operator changes; clone one of them");
}

inline void check_length(const Name& name, TensorList list, size_t want, const char* model_name) {
  TORCH_CHECK(list.size() == want, name, " has ", list.size(), " tensors, ", model_name, " ", want,
              "; the lists must have equal length");
}

// A setting that must be a finite number >= 0, also once rounded to float32, in which the loops compute.
inline float check_setting(const Name& name, double value) {
  const float rounded = static_cast<float>(value);
  TORCH_CHECK(std::isfinite(rounded) && value >= 0, name, " is ", value,
              "; it must be a number >= 0 that float32 can hold");
  return rounded;
}

// Images [n, C, H, W], channels-last.
struct Image {
  int64_t count, channels, height, width;
};

inline Image check_images(const Name& name, const Tensor& t, at::ScalarType type = at::kFloat) {
  check_type(name, t, type);
  TORCH_CHECK(t.dim() == 4, name, " has shape ", t.sizes(), "; it must be [n, C, H, W]");
  TORCH_CHECK(t.is_contiguous(at::MemoryFormat::ChannelsLast), name, " is not channels-last");
  return {t.size(0), t.size(1), t.size(2), t.size(3)};
}

// A height and a width.
inline std::array<int64_t, 2> check_pair(const Name& name, at::IntArrayRef v, int64_t least) {
  TORCH_CHECK(v.size() == 2 && v[0] >= least && v[1] >= least, name, " is ", v, "; it must be two numbers of ", least,
              " or more");
  return {v[0], v[1]};
}

// A tensor that is written while `read` is.
inline void check_written_images(const char* op, const char* name, const Tensor& t, const char* read_name,
                                 const Tensor& read) {
  check_device({op, name}, t, read, read_name);
  check_written({op, name}, t);
  check_overlap({op, read_name}, read, t, name, /*distinct=*/true);
}

inline bool same_layout(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) != 1 && a.stride(d) != b.stride(d)) return a.numel() == 0;
  }
  return true;
}

}  // namespace l2ul
