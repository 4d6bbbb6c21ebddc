//go:build ignore

// The operators of conv.cc: schemas, argument checks and derivatives. All images are float32, channels-last.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <utility>
#include <vector>

#include "checks.h"
#include "conv.h"

namespace l2ul {
namespace {

using at::IntArrayRef;

// A tensor of the output's shape that is read where the output is written, or null.
const float* check_beside(const Name& name, const std::optional<Tensor>& t, const Tensor& out) {
  if (!t.has_value() || !t->defined()) return nullptr;
  check_images(name, *t);
  check_like(name, *t, out, "out");
  check_overlap(name, *t, out, "out");
  return t->const_data_ptr<float>();
}

void check_tile(const Name& name, int64_t tile) {
  TORCH_CHECK(tile == 0 || tile == 2 || tile == 4, name, " is ", tile, "; it must be 0 (direct), 2 or 4");
}

// Weights [out, in, h, w] whose taps lie at even distances, as contiguous and channels-last ones do. A dimension of one
// tap has a stride too, which may be any number.
Tensor evenly_spaced(const Tensor& weight) {
  const bool line = weight.size(2) == 1 || weight.size(3) == 1;
  return line || weight.stride(2) == weight.size(3) * weight.stride(3) ? weight : weight.contiguous();
}

cpu::Strides strides_of(const Tensor& weight) {
  return {weight.stride(0), weight.stride(1), weight.stride(weight.size(3) > 1 ? 3 : 2)};
}

// The most pixels of padding or stride: enough for any network, and sums of them are whole numbers.
constexpr int64_t kFarthest = int64_t{1} << 24;

void check_geometry(const char* op, IntArrayRef stride, IntArrayRef padding) {
  for (const int64_t v : {stride[0], stride[1], padding[0], padding[1]}) {
    TORCH_CHECK(v <= kFarthest, "l2ul::", op, ": stride ", stride, " and padding ", padding, " may be at most ",
                kFarthest);
  }
}

// Packed weights as pairs of bfloat16: [..., depth / 2, kPanel, 2].
Tensor pairs_of(const Tensor& packed) {
  auto shape = packed.sizes().vec();
  const int64_t rows = packed.numel() / cpu::kPanel;
  TORCH_CHECK(shape[shape.size() - 2] % 2 == 0, "l2ul::conv_pack: bfloat16 is multiplied in pairs; there are ",
              shape[shape.size() - 2], " channels to sum over");
  shape[shape.size() - 2] /= 2;
  shape.push_back(2);
  Tensor pairs = at::empty(shape, packed.options().dtype(at::kBFloat16));
  cpu::pack_pairs(packed.const_data_ptr<float>(), rows, static_cast<cpu::Pair*>(pairs.mutable_data_ptr()));
  return pairs;
}

Tensor conv_pack(const Tensor& weight, int64_t tile, bool gradient, bool half) {
  constexpr auto op = "conv_pack";
  check_type({op, "weight"}, weight, at::kFloat);
  TORCH_CHECK(weight.dim() == 4 && weight.numel() > 0, "l2ul::conv_pack: weight has shape ", weight.sizes(),
              "; it must be [out, in, h, w], none of them 0");
  check_tile({op, "tile"}, tile);
  const Tensor w = evenly_spaced(weight);
  cpu::Conv conv = {};
  conv.depth = w.size(gradient ? 0 : 1), conv.width = w.size(gradient ? 1 : 0);
  conv.kernel_h = w.size(2), conv.kernel_w = w.size(3);
  conv.gradient = gradient;
  const int64_t panels = cpu::panels(conv.width);
  if (tile == 0) {
    Tensor packed = at::empty({panels, conv.kernel_h, conv.kernel_w, conv.depth, cpu::kPanel}, w.options());
    cpu::pack_direct(w.const_data_ptr<float>(), strides_of(w), conv, packed.mutable_data_ptr<float>());
    return half ? pairs_of(packed) : packed;
  }
  TORCH_CHECK(conv.kernel_h == 3 && conv.kernel_w == 3 && conv.depth % 8 == 0, "l2ul::conv_pack: weight has shape ",
              weight.sizes(), "; tile ", tile, " needs a 3x3 kernel and channels summed over in multiples of 8");
  Tensor packed = at::empty({tile + 2, tile + 2, panels, conv.depth, cpu::kPanel}, w.options());
  cpu::pack_winograd(w.const_data_ptr<float>(), strides_of(w), conv, static_cast<int>(tile),
                     packed.mutable_data_ptr<float>());
  return half ? pairs_of(packed) : packed;
}

Tensor& conv_(Tensor& out, const Tensor& x, const Tensor& packed, int64_t tile, IntArrayRef kernel, IntArrayRef stride,
              IntArrayRef padding, bool gradient, const std::optional<Tensor>& bias, const std::optional<Tensor>& add,
              const std::optional<Tensor>& gate, bool relu) {
  constexpr auto op = "conv_";
  const Image from = check_images({op, "x"}, x), to = check_images({op, "out"}, out);
  check_written_images(op, "out", out, "x", x);
  check_tile({op, "tile"}, tile);
  const auto [kernel_h, kernel_w] = check_pair({op, "kernel"}, kernel, 1);
  const auto [stride_h, stride_w] = check_pair({op, "stride"}, stride, 1);
  const auto [pad_h, pad_w] = check_pair({op, "padding"}, padding, 0);
  check_geometry(op, stride, padding);
  // The images before and after the forward pass.
  const Image before = gradient ? to : from, after = gradient ? from : to;
  const auto fits = [](int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t pad) {
    return in + 2 * pad >= kernel && out == (in + 2 * pad - kernel) / stride + 1;
  };
  TORCH_CHECK(from.count == to.count && fits(before.height, after.height, kernel_h, stride_h, pad_h) &&
                  fits(before.width, after.width, kernel_w, stride_w, pad_w),
              "l2ul::conv_: out has shape ", out.sizes(), ", x ", x.sizes(), "; they do not fit kernel ", kernel,
              ", stride ", stride, ", padding ", padding, gradient ? " of a gradient" : "");
  const cpu::Conv conv = {from.count, from.height, from.width, from.channels, to.height, to.width, to.channels,
                          kernel_h,   kernel_w,    stride_h,   stride_w,      pad_h,     pad_w,    gradient};
  const bool half = packed.scalar_type() == at::kBFloat16;
  check_type({op, "packed"}, packed, half ? at::kBFloat16 : at::kFloat);
  check_written_images(op, "out", out, "packed", packed);
  const int64_t panels = cpu::panels(conv.width);
  std::vector<int64_t> shape =
      tile == 0 ? std::vector{panels, kernel_h, kernel_w} : std::vector{tile + 2, tile + 2, panels};
  if (half) {
    shape.insert(shape.end(), {conv.depth / 2, cpu::kPanel, 2});
  } else {
    shape.insert(shape.end(), {conv.depth, cpu::kPanel});
  }
  TORCH_CHECK(packed.is_contiguous() && packed.sizes() == IntArrayRef(shape) && (!half || conv.depth % 2 == 0),
              "l2ul::conv_: packed has shape ", packed.sizes(), "; what conv_pack makes for x and out is ",
              IntArrayRef(shape));
  TORCH_CHECK(tile == 0 || (kernel_h == 3 && kernel_w == 3 && stride_h == 1 && stride_w == 1 && pad_h <= 2 &&
                            pad_w <= 2 && conv.depth % 8 == 0),
              "l2ul::conv_: tile ", tile,
              " needs a 3x3 kernel, stride 1, padding of at most 2, and channels summed over in multiples of 8");
  cpu::Epilogue epilogue = {nullptr, check_beside({op, "add"}, add, out), check_beside({op, "gate"}, gate, out), relu};
  TORCH_CHECK(!relu || epilogue.gate == nullptr, "l2ul::conv_: relu and gate exclude each other");
  if (bias.has_value() && bias->defined()) {
    check_type({op, "bias"}, *bias, at::kFloat);
    TORCH_CHECK(bias->dim() == 1 && bias->size(0) == conv.width && bias->is_contiguous(),
                "l2ul::conv_: bias has shape ", bias->sizes(), "; out needs [", conv.width, "]");
    check_written_images(op, "out", out, "bias", *bias);
    epilogue.bias = bias->const_data_ptr<float>();
  }
  if (out.numel() == 0) return out;
  const float* const in = x.const_data_ptr<float>();
  float* const to_out = out.mutable_data_ptr<float>();
  const auto* const w = packed.const_data_ptr();
  if (tile != 0) {
    half ? cpu::conv_winograd(conv, static_cast<int>(tile), in, static_cast<const cpu::Pair*>(w), epilogue, to_out)
         : cpu::conv_winograd(conv, static_cast<int>(tile), in, static_cast<const float*>(w), epilogue, to_out);
  } else if (half) {
    const Tensor rounded = x.to(at::kBFloat16);
    cpu::conv_direct(conv, static_cast<const cpu::Pair*>(rounded.const_data_ptr()), static_cast<const cpu::Pair*>(w),
                     epilogue, to_out);
  } else {
    cpu::conv_direct(conv, in, static_cast<const float*>(w), epilogue, to_out);
  }
  return out;
}

// A convolution that can be trained: all three passes are sums tap by tap, or all three go by Winograd.

cpu::Conv check_trained(const Tensor& x, const Tensor& weight, int64_t tile, IntArrayRef stride, IntArrayRef padding) {
  constexpr auto op = "conv2d";
  const Image from = check_images({op, "x"}, x);
  check_type({op, "weight"}, weight, at::kFloat);
  check_device({op, "weight"}, weight, x, "x");
  check_tile({op, "tile"}, tile);
  const auto [stride_h, stride_w] = check_pair({op, "stride"}, stride, 1);
  const auto [pad_h, pad_w] = check_pair({op, "padding"}, padding, 0);
  check_geometry(op, stride, padding);
  const int64_t multiple = tile == 0 ? cpu::kPanel : 8;
  TORCH_CHECK(weight.dim() == 4 && weight.size(1) == from.channels && weight.numel() > 0 &&
                  weight.size(0) % multiple == 0 && weight.size(1) % multiple == 0,
              "l2ul::conv2d: weight has shape ", weight.sizes(), " for x ", x.sizes(),
              "; it must be [out, in, h, w], both channels multiples of ", multiple);
  TORCH_CHECK(
      tile == 0 ||
          (weight.size(2) == 3 && weight.size(3) == 3 && stride_h == 1 && stride_w == 1 && pad_h <= 2 && pad_w <= 2),
      "l2ul::conv2d: tile ", tile, " needs a 3x3 kernel, stride 1 and padding of at most 2; the weight has shape ",
      weight.sizes(), ", stride is ", stride, ", padding ", padding);
  const int64_t room_h = from.height + 2 * pad_h - weight.size(2), room_w = from.width + 2 * pad_w - weight.size(3);
  TORCH_CHECK(from.height > 0 && from.width > 0 && room_h >= 0 && room_w >= 0, "l2ul::conv2d: padding is ", padding,
              " for x ", x.sizes(), " and weight ", weight.sizes(), "; no image would be left");
  return {from.count,
          from.height,
          from.width,
          from.channels,
          room_h / stride_h + 1,
          room_w / stride_w + 1,
          weight.size(0),
          weight.size(2),
          weight.size(3),
          stride_h,
          stride_w,
          pad_h,
          pad_w,
          false};
}

// One pass: forward, or with conv.gradient to the input.
Tensor convolve(const cpu::Conv& conv, int64_t tile, const Tensor& x, const Tensor& weight) {
  const Tensor packed = conv_pack(weight, tile, conv.gradient, /*half=*/false);
  Tensor out = at::empty({conv.images, conv.width, conv.out_h, conv.out_w},
                         x.options().memory_format(at::MemoryFormat::ChannelsLast));
  if (out.numel() == 0) return out;
  const float *const from = x.const_data_ptr<float>(), *const w = packed.const_data_ptr<float>();
  float* const to = out.mutable_data_ptr<float>();
  tile == 0 ? cpu::conv_direct(conv, from, w, {}, to)
            : cpu::conv_winograd(conv, static_cast<int>(tile), from, w, {}, to);
  return out;
}

// The gradient by weight, in its memory format.
Tensor weight_gradient(const cpu::Conv& conv, int64_t tile, const Tensor& x, const Tensor& grad, const Tensor& weight) {
  if (conv.images == 0) return at::zeros_like(weight);
  const float *const from = x.const_data_ptr<float>(), *const by = grad.const_data_ptr<float>();
  if (tile == 0) {
    const Tensor out = at::empty(weight.sizes(), weight.options().memory_format(at::MemoryFormat::ChannelsLast));
    cpu::direct_weight_gradient(conv, from, by, out.mutable_data_ptr<float>());
    return weight.is_contiguous(at::MemoryFormat::ChannelsLast) ? out : out.contiguous();
  }
  Tensor out = at::empty_like(weight, weight.suggest_memory_format());
  cpu::winograd_weight_gradient(conv, static_cast<int>(tile), from, by, strides_of(out), out.mutable_data_ptr<float>());
  return out;
}

Tensor conv2d(const Tensor& x, const Tensor& weight, int64_t tile, IntArrayRef stride, IntArrayRef padding) {
  return convolve(check_trained(x, weight, tile, stride, padding), tile, x, weight);
}

struct TrainedConv2d : torch::autograd::Function<TrainedConv2d> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& weight, int64_t tile,
                        std::vector<int64_t> stride, std::vector<int64_t> padding) {
    const at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({x, weight});
    Tensor out = conv2d(x, weight, tile, stride, padding);
    context->saved_data["tile"] = tile;
    context->saved_data["stride"] = std::move(stride);
    context->saved_data["padding"] = std::move(padding);
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled(), "l2ul::conv2d has no second derivative");
    const at::AutoDispatchBelowADInplaceOrView below;
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], grad = grads[0].contiguous(at::MemoryFormat::ChannelsLast);
    const int64_t tile = context->saved_data["tile"].toInt();
    cpu::Conv conv = check_trained(x, weight, tile, context->saved_data["stride"].toIntVector(),
                                   context->saved_data["padding"].toIntVector());
    Tensor by_x, by_weight;
    if (context->needs_input_grad(1)) by_weight = weight_gradient(conv, tile, x, grad, weight);
    if (context->needs_input_grad(0)) {
      std::swap(conv.in_h, conv.out_h);
      std::swap(conv.in_w, conv.out_w);
      std::swap(conv.depth, conv.width);
      conv.gradient = true;
      by_x = convolve(conv, tile, grad, weight);
    }
    return {by_x, by_weight, Tensor(), Tensor(), Tensor()};
  }
};

Tensor conv2d_autograd(const Tensor& x, const Tensor& weight, int64_t tile, IntArrayRef stride, IntArrayRef padding) {
  return TrainedConv2d::apply(x, weight, tile, stride.vec(), padding.vec());
}

TORCH_LIBRARY_FRAGMENT(l2ul, m) {
  m.def("conv_pack(Tensor weight, int tile, bool gradient, bool half) -> Tensor");
  m.def(
      "conv_(Tensor(a!) out, Tensor x, Tensor packed, int tile, int[2] kernel, int[2] stride, int[2] padding, "
      "bool gradient, Tensor? bias, Tensor? add, Tensor? gate, bool relu) -> Tensor(a!)");
  m.def("conv2d(Tensor x, Tensor weight, int tile, int[2] stride, int[2] padding) -> Tensor");
}

TORCH_LIBRARY_IMPL(l2ul, CPU, m) {
  m.impl("conv_pack", conv_pack);
  m.impl("conv_", conv_);
  m.impl("conv2d", conv2d);
}

TORCH_LIBRARY_IMPL(l2ul, Autograd, m) {
  for (const char* op : {"conv_pack", "conv_"}) {
    m.impl(op, torch::autograd::autogradNotImplementedFallback());
  }
  m.impl("conv2d", conv2d_autograd);
}

TORCH_LIBRARY_IMPL(l2ul, ADInplaceOrView, m) {
  m.impl("conv_", torch::autograd::autogradNotImplementedInplaceOrViewFallback());
}

}  // namespace
}  // namespace l2ul
