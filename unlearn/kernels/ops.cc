//go:build ignore

// The operator library l2ul: schemas, argument checks, memory layouts, and what autograd is told, for every kind of
// device. The arithmetic is in bodies behind bodies.h; formulas and shapes are documented with the Go wrappers in
// kernels.go.
//
// Raw pointers hide changes from autograd, so each operator says that it has no derivative (Autograd) and each in-place
// one bumps the version of what it changed (ADInplaceOrView): a backward pass that needed the old values then raises
// instead of giving wrong gradients.

#include "ops.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "checks.h"

namespace l2ul {
namespace {

using at::IntArrayRef;

// `t` in the memory order of `model`, which is dense: itself where it is so already, else a copy.
Tensor arranged(const Tensor& t, const Tensor& model) {
  if (same_layout(t, model)) return t;
  return at::empty_strided(model.sizes(), model.strides(), t.options()).copy_(t);
}

// Whether images follow one another without gaps, each in any order of its own (contiguous, channels-last, …).
bool dense_images(const Tensor& t) {
  if (!t.is_non_overlapping_and_dense()) return false;
  return t.size(0) < 2 || t.numel() == 0 || t.stride(0) == t.numel() / t.size(0);
}

// A tensor to be written through a pointer. Where its own memory order will not do, the loop gets a copy, and finish
// brings the values home.
class Written {
 public:
  Written(const Tensor& t, bool direct) : home_(t), work_(direct ? t : t.contiguous()) {}
  // In the memory order of `model`.
  Written(const Tensor& t, const Tensor& model) : home_(t), work_(arranged(t, model)) {}

  const Tensor& work() const { return work_; }
  float* data() const { return work_.mutable_data_ptr<float>(); }
  void finish() const {
    if (!work_.is_same(home_)) home_.copy_(work_);
  }

 private:
  Tensor home_, work_;
};

const float* data(const Tensor& t) { return t.const_data_ptr<float>(); }

struct Implementation {
  const Bodies* bodies;
  Stream (*current_stream)(c10::DeviceIndex);
};
std::array<Implementation, c10::COMPILE_TIME_MAX_DEVICE_TYPES> implementations;

// The bodies for the device of `t`, which becomes the current one, and the stream they run on.
class Place {
 public:
  explicit Place(const Tensor& t) : Place(t.device(), implementations.at(static_cast<size_t>(t.device().type()))) {}

  const Bodies& bodies;
  const Stream stream;

  // Memory for a body to compute in. It may go back at once: the device reuses it behind what the stream holds.
  Tensor scratch(const Tensor& like) const { return at::empty({bodies.scratch}, like.options().dtype(at::kByte)); }

 private:
  Place(c10::Device device, const Implementation& i)
      : bodies(*i.bodies), stream(i.current_stream(device.index())), guard_(device) {}

  c10::DeviceGuard guard_;
};

// The settings of an image batch [n, …]: count and values per image.
struct Images {
  int64_t count, size;
};

Images check_batch(const Name& name, const Tensor& t) {
  check_type(name, t, at::kFloat);
  TORCH_CHECK(t.dim() >= 2, name, " has shape ", t.sizes(), "; it must be [n, …], one image a row");
  return {t.size(0), t.size(0) == 0 ? 0 : t.numel() / t.size(0)};
}

// The crops of `count` images, as bodies read them.
Tensor check_crops(const Tensor& crops, int64_t padding, const Tensor& pixels, int64_t count) {
  constexpr auto op = "gather_lut";
  check_type({op, "crops"}, crops, at::kLong);
  check_device({op, "crops"}, crops, pixels, "pixels");
  TORCH_CHECK(crops.dim() == 2 && crops.size(0) == count && crops.size(1) == 3, "l2ul::gather_lut: crops has shape ",
              crops.sizes(), "; an index of ", count, " images needs [", count, ", 3]");
  // Bodies may count the rows and columns of a padded image in 32 bits.
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  const int64_t side = std::max(pixels.size(2), pixels.size(3));
  TORCH_CHECK(padding >= 0 && padding <= most && side + 2 * padding <= most, "l2ul::gather_lut: padding is ", padding,
              "; it must be at least 0, and a side of ", side, " pixels no longer than ", most, " with it");
  const Tensor windows = crops.contiguous();
  const int64_t* const at = windows.const_data_ptr<int64_t>();
  for (int64_t i = 0; pixels.is_cpu() && i < count; ++i) {  // elsewhere the body checks, as with the index
    const int64_t top = at[3 * i], left = at[3 * i + 1], flip = at[3 * i + 2];
    TORCH_CHECK_INDEX(top >= 0 && top <= 2 * padding && left >= 0 && left <= 2 * padding && (flip == 0 || flip == 1),
                      "l2ul::gather_lut: crops[", i, "] is [", top, ", ", left, ", ", flip, "]; with padding ", padding,
                      " top and left must be in [0, ", 2 * padding, "], and flip 0 or 1");
  }
  return windows;
}

Tensor gather_lut(const Tensor& pixels, const Tensor& index, const Tensor& table, const std::optional<Tensor>& crops,
                  int64_t padding) {
  constexpr auto op = "gather_lut";
  check_type({op, "pixels"}, pixels, at::kByte);
  check_type({op, "index"}, index, at::kLong);
  check_type({op, "table"}, table, at::kFloat);
  check_device({op, "index"}, index, pixels, "pixels");
  check_device({op, "table"}, table, pixels, "pixels");
  TORCH_CHECK(pixels.dim() == 4, "l2ul::gather_lut: pixels has shape ", pixels.sizes(), "; it must be [n, C, H, W]");
  TORCH_CHECK(index.dim() == 1, "l2ul::gather_lut: index has shape ", index.sizes(), "; it must be [k]");
  const int64_t images = pixels.size(0), channels = pixels.size(1), height = pixels.size(2), width = pixels.size(3);
  TORCH_CHECK(table.dim() == 2 && table.size(0) == channels && table.size(1) == 256,
              "l2ul::gather_lut: table has shape ", table.sizes(), "; pixels of ", channels, " channels need [",
              channels, ", 256]");

  const Tensor where = index.contiguous(), values = table.contiguous();
  const int64_t* const at = where.const_data_ptr<int64_t>();
  const int64_t count = where.numel();
  // Elsewhere the body checks: to read the index here would wait for all that is queued on the device.
  for (int64_t i = 0; pixels.is_cpu() && i < count; ++i) {
    TORCH_CHECK_INDEX(at[i] >= 0 && at[i] < images, "l2ul::gather_lut: index[", i, "] is ", at[i], "; there are ",
                      images, " images, so it must be in [0, ", images, ")");
  }
  TORCH_CHECK(crops || padding == 0, "l2ul::gather_lut: padding is ", padding, " without crops; it must be 0");
  const Tensor windows = crops ? check_crops(*crops, padding, pixels, count) : Tensor();

  // Only the order inside an image matters: the images themselves may lie apart. The result keeps that order.
  const auto dense = [&](int64_t c, int64_t h, int64_t w) {
    const auto unit = [&](int64_t d, int64_t stride) { return pixels.size(d) == 1 || pixels.stride(d) == stride; };
    return unit(1, c) && unit(2, h) && unit(3, w);
  };
  const bool planar = dense(height * width, width, 1);
  const bool interleaved = !planar && dense(1, width * channels, channels);
  const Tensor source = planar || interleaved ? pixels : pixels.contiguous();
  const auto format = interleaved ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  Tensor out = at::empty({count, channels, height, width}, table.options().memory_format(format));
  if (out.numel() > 0) {
    const Place place(pixels);
    place.bodies.gather_lut({.pixels = source.const_data_ptr<uint8_t>(),
                             .images = images,
                             .stride = source.stride(0),
                             .index = at,
                             .count = count,
                             .crops = crops ? windows.const_data_ptr<int64_t>() : nullptr,
                             .padding = padding,
                             .table = data(values),
                             .channels = channels,
                             .height = height,
                             .width = width,
                             .interleaved = interleaved,
                             .out = out.mutable_data_ptr<float>()},
                            place.stream);
  }
  return out;
}

Tensor pgd_start(const Tensor& x, const Tensor& start, double eps, c10::string_view norm) {
  constexpr auto op = "pgd_start";
  const auto [count, size] = check_batch({op, "x"}, x);
  check_like({op, "start"}, start, x, "x");
  const float radius = check_setting({op, "eps"}, eps);
  const bool l2 = norm == "l2";
  TORCH_CHECK(l2 || norm == "linf", "l2ul::pgd_start: norm is \"", norm, "\"; it must be \"l2\" or \"linf\"");

  const Tensor image = dense_images(x) ? x : x.contiguous();
  const Tensor from = arranged(start, image);
  Tensor delta = at::empty_strided(image.sizes(), image.strides(), image.options());
  const Place place(x);
  (l2 ? place.bodies.pgd_start_l2 : place.bodies.pgd_start_linf)(data(image), data(from), count, size, radius,
                                                                 delta.mutable_data_ptr<float>(), place.stream);
  return delta;
}

std::tuple<Tensor&, Tensor&> pgd_step(const char* op, Step* Bodies::* step, Tensor& delta, Tensor& next,
                                      const Tensor& grad, const Tensor& x, double alpha, double eps) {
  const auto [count, size] = check_batch({op, "delta"}, delta);
  check_written({op, "delta"}, delta);
  check_like({op, "next"}, next, delta, "delta");
  check_written({op, "next"}, next);
  check_overlap({op, "next"}, next, delta, "delta", /*distinct=*/true);
  check_like({op, "grad"}, grad, delta, "delta");
  check_overlap({op, "grad"}, grad, delta, "delta");
  check_overlap({op, "grad"}, grad, next, "next", /*distinct=*/true);
  check_like({op, "x"}, x, delta, "delta");
  check_overlap({op, "x"}, x, delta, "delta");
  check_overlap({op, "x"}, x, next, "next", /*distinct=*/true);
  const float length = check_setting({op, "alpha"}, alpha), radius = check_setting({op, "eps"}, eps);

  const Written target(delta, dense_images(delta)), images(next, target.work());
  const Tensor gradient = arranged(grad, target.work()), image = arranged(x, target.work());
  const Place place(delta);
  (place.bodies.*step)(target.data(), images.data(), data(gradient), data(image), count, size, length, radius,
                       place.stream);
  target.finish();
  images.finish();
  return {delta, next};
}

std::tuple<Tensor&, Tensor&> pgd_l2_step_(Tensor& delta, Tensor& next, const Tensor& grad, const Tensor& x,
                                          double alpha, double eps) {
  return pgd_step("pgd_l2_step_", &Bodies::pgd_l2_step, delta, next, grad, x, alpha, eps);
}

std::tuple<Tensor&, Tensor&> pgd_linf_step_(Tensor& delta, Tensor& next, const Tensor& grad, const Tensor& x,
                                            double alpha, double eps) {
  return pgd_step("pgd_linf_step_", &Bodies::pgd_linf_step, delta, next, grad, x, alpha, eps);
}

// Lists of tensors as the loops want them: written ones in their own order, the rest arranged to match, and every
// temporary kept until the loop is done.
struct Arranged {
  std::vector<Written> written;
  std::vector<Tensor> read;

  const float* in(const Tensor& t, const Tensor& model) {
    read.push_back(arranged(t, model));
    return data(read.back());
  }
  void finish() const {
    for (const Written& w : written) w.finish();
  }
};

void accumulate(const char* op, Accumulate* Bodies::* body, TensorList omega, TensorList grads, double weight,
                double count) {
  check_length({op, "grads"}, grads, omega.size(), "omega");
  const float factor = check_setting({op, "weight"}, weight), divisor = check_setting({op, "count"}, count);
  TORCH_CHECK(divisor > 0, Name{op, "count"}, " is 0; the estimate is divided by it");
  for (int64_t i = 0; i < std::ssize(omega); ++i) {
    check_type({op, "omega", i}, omega[i], at::kFloat);
    check_device({op, "omega", i}, omega[i], omega[0], "omega[0]");
    check_written({op, "omega", i}, omega[i]);
    check_like({op, "grads", i}, grads[i], omega[i], "its omega");
    check_overlap({op, "grads", i}, grads[i], omega[i], "its omega");
  }
  Arranged memory;
  std::vector<Importance> list;
  for (size_t i = 0; i < omega.size(); ++i) {
    const Written& o = memory.written.emplace_back(omega[i], omega[i].is_non_overlapping_and_dense());
    list.push_back({o.data(), memory.in(grads[i], o.work()), omega[i].numel()});
  }
  const Place place(omega[0]);
  (place.bodies.*body)(list, factor, divisor, place.stream);
  memory.finish();
}

void accumulate_abs_(TensorList omega, TensorList grads, double weight, double count) {
  accumulate("accumulate_abs_", &Bodies::accumulate_abs, omega, grads, weight, count);
}

void accumulate_square_(TensorList omega, TensorList grads, double weight, double count) {
  accumulate("accumulate_square_", &Bodies::accumulate_square, omega, grads, weight, count);
}

Tensor anchor_weights(const Tensor& omega) {
  check_type({"anchor_weights", "omega"}, omega, at::kFloat);
  const Tensor source = omega.is_non_overlapping_and_dense() ? omega : omega.contiguous();
  Tensor out = at::empty_strided(source.sizes(), source.strides(), source.options());
  const Place place(omega);
  place.bodies.anchor_weights(data(source), source.numel(), out.mutable_data_ptr<float>(),
                              place.scratch(omega).mutable_data_ptr(), place.stream);
  return out;
}

Tensor anchored_sgd_(TensorList params, TensorList grads, TensorList momenta, TensorList anchors, TensorList reference,
                     double lr, double momentum, double weight_decay, double lam, bool first) {
  constexpr auto op = "anchored_sgd_";
  const Rates rates = {check_setting({op, "lr"}, lr), check_setting({op, "momentum"}, momentum),
                       check_setting({op, "weight_decay"}, weight_decay), check_setting({op, "lam"}, lam)};
  check_length({op, "grads"}, grads, params.size(), "params");
  check_length({op, "momenta"}, momenta, params.size(), "params");
  // Without a penalty nobody reads the reference, so it may be absent or there for later.
  if (!anchors.empty()) check_length({op, "anchors"}, anchors, params.size(), "params");
  if (!anchors.empty() || !reference.empty()) check_length({op, "reference"}, reference, params.size(), "params");
  const bool anchored = !anchors.empty() && rates.lam != 0;
  for (int64_t i = 0; i < std::ssize(params); ++i) {
    const Tensor& p = params[i];
    check_type({op, "params", i}, p, at::kFloat);
    check_device({op, "params", i}, p, params[0], "params[0]");
    check_written({op, "params", i}, p);
    check_like({op, "grads", i}, grads[i], p, "its parameter");
    check_overlap({op, "grads", i}, grads[i], p, "its parameter", /*distinct=*/true);
    check_like({op, "momenta", i}, momenta[i], p, "its parameter");
    check_written({op, "momenta", i}, momenta[i]);
    check_overlap({op, "momenta", i}, momenta[i], p, "its parameter", /*distinct=*/true);
    check_overlap({op, "grads", i}, grads[i], momenta[i], "its momentum", /*distinct=*/true);
    if (!anchors.empty()) {
      check_like({op, "anchors", i}, anchors[i], p, "its parameter");
      check_overlap({op, "anchors", i}, anchors[i], p, "its parameter", /*distinct=*/true);
    }
    if (!reference.empty()) {
      check_like({op, "reference", i}, reference[i], p, "its parameter");
      check_overlap({op, "reference", i}, reference[i], p, "its parameter", /*distinct=*/true);
    }
  }
  Arranged memory;
  std::vector<Update> list;
  for (size_t i = 0; i < params.size(); ++i) {
    const Written p(params[i], params[i].is_non_overlapping_and_dense()), v(momenta[i], p.work());
    memory.written.insert(memory.written.end(), {p, v});
    list.push_back({p.data(), memory.in(grads[i], p.work()), v.data(),
                    anchored ? memory.in(anchors[i], p.work()) : nullptr,
                    anchored ? memory.in(reference[i], p.work()) : nullptr, params[i].numel()});
  }
  Tensor finite = at::empty({}, params[0].options().dtype(at::kBool));
  const Place place(params[0]);
  place.bodies.anchored_sgd(list, rates, first, finite.mutable_data_ptr<bool>(), place.stream);
  memory.finish();
  return finite;
}

Tensor anchor_penalty(TensorList params, TensorList reference, TensorList anchors) {
  constexpr auto op = "anchor_penalty";
  check_length({op, "reference"}, reference, params.size(), "params");
  if (!anchors.empty()) check_length({op, "anchors"}, anchors, params.size(), "params");
  Arranged memory;
  std::vector<Drift> list;
  for (int64_t i = 0; i < std::ssize(params); ++i) {
    const Tensor& p = params[i];
    check_type({op, "params", i}, p, at::kFloat);
    check_device({op, "params", i}, p, params[0], "params[0]");
    check_like({op, "reference", i}, reference[i], p, "its parameter");
    if (!anchors.empty()) check_like({op, "anchors", i}, anchors[i], p, "its parameter");
    const Tensor model = p.is_non_overlapping_and_dense() ? p : p.contiguous();
    list.push_back({memory.in(p, model), memory.in(reference[i], model),
                    anchors.empty() ? nullptr : memory.in(anchors[i], model), p.numel()});
  }
  Tensor out = at::empty({2}, params[0].options().dtype(at::kDouble));
  const Place place(params[0]);
  place.bodies.anchor_penalty(list, out.mutable_data_ptr<double>(), place.scratch(out).mutable_data_ptr(),
                              place.stream);
  return out;
}

// ---- plans ----------------------------------------------------------------------------------------------------------

// What plans compute on: float32 or bfloat16.
void check_value(const Name& name, const Tensor& t) {
  TORCH_CHECK(t.defined(), name, " is undefined");
  TORCH_CHECK(t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16, name, " has dtype ", t.scalar_type(),
              "; it must be Float or BFloat16");
}

// Calls f with a value of the type that bodies know the elements of t by.
template <class F>
void with_type(const Tensor& t, const F& f) {
  t.scalar_type() == at::kFloat ? f(float()) : f(BFloat16());
}

// The body for what bodies take, `Of` the type of the elements.
template <class Single, class Brain, template <class> class Of, class T>
auto pick(Single single, Brain brain, const Of<T>&) {
  if constexpr (std::is_same_v<T, float>) {
    return single;
  } else {
    return brain;
  }
}

template <class T>
const T* values(const Tensor& t) {
  return t.defined() ? static_cast<const T*>(t.const_data_ptr()) : nullptr;
}

template <class T>
T* places(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// A tensor that goes element by element with out, and comes back in its memory order; undefined where it is absent.
Tensor beside(const Name& name, const std::optional<Tensor>& t, const Tensor& out) {
  if (!t.has_value() || !t->defined()) return {};
  check_type(name, *t, out.scalar_type());
  check_device(name, *t, out, "out");
  TORCH_CHECK(t->sizes() == out.sizes(), name, " has shape ", t->sizes(), ", out ", out.sizes(),
              "; the shapes must be equal");
  check_overlap(name, *t, out, "out");
  return arranged(*t, out);
}

Tensor& finish_(Tensor& out, const Tensor& sum, const std::optional<Tensor>& bias, const std::optional<Tensor>& add,
                const std::optional<Tensor>& gate, bool relu) {
  constexpr auto op = "finish_";
  check_value({op, "out"}, out);
  check_type({op, "out"}, out, out.scalar_type());
  TORCH_CHECK(
      out.dim() == 4 ? out.is_contiguous(at::MemoryFormat::ChannelsLast) : out.dim() == 2 && out.is_contiguous(),
      "l2ul::finish_: out has shape ", out.sizes(), " and strides ", out.strides(),
      "; it must be [n, C, H, W], channels-last, or [n, C], contiguous");
  TORCH_CHECK(sum.defined(), "l2ul::finish_: sum is undefined");
  TORCH_CHECK(!relu || !gate.has_value() || !gate->defined(), "l2ul::finish_: relu and gate exclude each other");
  const Tensor from = beside({op, "sum"}, sum, out), addend = beside({op, "add"}, add, out),
               gates = beside({op, "gate"}, gate, out);
  const float* per_channel = nullptr;
  if (bias.has_value() && bias->defined()) {
    check_type({op, "bias"}, *bias, at::kFloat);
    check_device({op, "bias"}, *bias, out, "out");
    check_overlap({op, "bias"}, *bias, out, "out", /*distinct=*/true);
    TORCH_CHECK(bias->dim() == 1 && bias->size(0) == out.size(1) && bias->is_contiguous(),
                "l2ul::finish_: bias has shape ", bias->sizes(), "; out needs [", out.size(1), "]");
    per_channel = data(*bias);
  }
  if (out.numel() == 0) return out;
  const Place place(out);
  with_type(out, [&]<class T>(T) {
    const Finish<T> f = {places<T>(out),   values<T>(from), per_channel, values<T>(addend),
                         values<T>(gates), out.numel(),     out.size(1), relu};
    pick(place.bodies.finish, place.bodies.finish_bf16, f)(f, place.stream);
  });
  return out;
}

Window check_window(const char* op, const Image& in, const Image& out, IntArrayRef kernel, IntArrayRef stride,
                    IntArrayRef padding) {
  const auto [kernel_h, kernel_w] = check_pair({op, "kernel"}, kernel, 1);
  const auto [stride_h, stride_w] = check_pair({op, "stride"}, stride, 1);
  const auto [pad_h, pad_w] = check_pair({op, "padding"}, padding, 0);
  TORCH_CHECK(kernel_h * kernel_w <= 256, "l2ul::", op, ": kernel ", kernel, " has more than 256 places");
  // Each window must see an image: with padding below the kernel's size, this much suffices.
  const auto fits = [](int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t pad) {
    return pad < kernel && out >= 1 && (out - 1) * stride < in + pad;
  };
  TORCH_CHECK(in.count == out.count && in.channels == out.channels &&
                  fits(in.height, out.height, kernel_h, stride_h, pad_h) &&
                  fits(in.width, out.width, kernel_w, stride_w, pad_w),
              "l2ul::", op, ": pooling to [", out.count, ", ", out.channels, ", ", out.height, ", ", out.width,
              "] from [", in.count, ", ", in.channels, ", ", in.height, ", ", in.width, "] does not fit kernel ",
              kernel, ", stride ", stride, ", padding ", padding);
  return {in.count, in.height, in.width, in.channels, out.height, out.width,
          kernel_h, kernel_w,  stride_h, stride_w,    pad_h,      pad_w};
}

std::tuple<Tensor&, Tensor&> max_pool_(Tensor& out, Tensor& code, const Tensor& x, IntArrayRef kernel,
                                       IntArrayRef stride, IntArrayRef padding) {
  constexpr auto op = "max_pool_";
  check_value({op, "x"}, x);
  const Image from = check_images({op, "x"}, x, x.scalar_type()), to = check_images({op, "out"}, out, x.scalar_type());
  check_written_images(op, "out", out, "x", x);
  check_images({op, "code"}, code, at::kByte);
  check_written_images(op, "code", code, "x", x);
  check_written_images(op, "out", out, "code", code);
  TORCH_CHECK(code.sizes() == out.sizes(), "l2ul::max_pool_: code has shape ", code.sizes(), ", out ", out.sizes());
  const Window window = check_window(op, from, to, kernel, stride, padding);
  const Place place(x);
  with_type(x, [&]<class T>(T) {
    const MaxPool<T> pool = {values<T>(x), places<T>(out), places<uint8_t>(code)};
    pick(place.bodies.max_pool, place.bodies.max_pool_bf16, pool)(window, pool, place.stream);
  });
  return {out, code};
}

Tensor& max_pool_gradient_(Tensor& out, const Tensor& grad, const Tensor& code, IntArrayRef kernel, IntArrayRef stride,
                           IntArrayRef padding, const std::optional<Tensor>& gate) {
  constexpr auto op = "max_pool_gradient_";
  check_value({op, "grad"}, grad);
  const Image from = check_images({op, "grad"}, grad, grad.scalar_type()),
              to = check_images({op, "out"}, out, grad.scalar_type());
  check_written_images(op, "out", out, "grad", grad);
  check_images({op, "code"}, code, at::kByte);
  check_written_images(op, "out", out, "code", code);
  TORCH_CHECK(code.sizes() == grad.sizes(), "l2ul::max_pool_gradient_: code has shape ", code.sizes(), ", grad ",
              grad.sizes());
  const Window window = check_window(op, to, from, kernel, stride, padding);
  const Tensor gates = beside({op, "gate"}, gate, out);
  const Place place(grad);
  with_type(grad, [&]<class T>(T) {
    const MaxPoolGradient<T> pool = {values<T>(grad), values<uint8_t>(code), values<T>(gates), places<T>(out)};
    pick(place.bodies.max_pool_gradient, place.bodies.max_pool_gradient_bf16, pool)(window, pool, place.stream);
  });
  return out;
}

// Calls f with every tensor of the call's arguments, and whether the operator changes it.
template <class F>
void each_tensor(const c10::OperatorHandle& op, const torch::jit::Stack& stack, const F& f) {
  const auto& arguments = op.schema().arguments();
  const auto values = torch::jit::last(stack, arguments.size());
  for (size_t i = 0; i < arguments.size(); ++i) {
    const bool changed = arguments[i].alias_info() != nullptr && arguments[i].alias_info()->isWrite();
    if (values[i].isTensor()) f(values[i].toTensor(), changed);
    if (values[i].isTensorList()) {
      for (const Tensor& t : values[i].toTensorVector()) f(t, changed);
    }
  }
}

// Autograd for the operators that change lists. libtorch's fallback ties the history of a changed tensor to the
// operator's results, and a list is no result; so what would need a derivative is refused here, before anything
// changes.
void refuse_gradient(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  if (at::GradMode::is_enabled()) {
    each_tensor(op, *stack, [&](const Tensor& t, bool) {
      TORCH_CHECK_NOT_IMPLEMENTED(!t.defined() || !t.requires_grad(), op.operator_name(),
                                  " has no derivative, and an argument requires grad; call it with gradients off");
    });
  }
  const at::AutoDispatchBelowAutograd below;
  op.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
}

// ADInplaceOrView for the same operators: libtorch's fallback bumps versions of results only.
void bump_versions(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  std::vector<Tensor> written;
  each_tensor(op, *stack, [&](const Tensor& t, bool changed) {
    if (changed && t.defined() && !t.is_inference()) written.push_back(t);
  });
  {
    const at::AutoDispatchBelowADInplaceOrView below;
    op.redispatchBoxed(keys & c10::after_ADInplaceOrView_keyset, stack);
  }
  for (const Tensor& t : written) t.unsafeGetTensorImpl()->bump_version();
}

TORCH_LIBRARY(l2ul, m) {
  m.def("gather_lut(Tensor pixels, Tensor index, Tensor table, Tensor? crops=None, int padding=0) -> Tensor");
  m.def("pgd_start(Tensor x, Tensor start, float eps, str norm) -> Tensor");
  m.def(
      "pgd_l2_step_(Tensor(a!) delta, Tensor(b!) next, Tensor grad, Tensor x, float alpha, float eps) -> "
      "(Tensor(a!), Tensor(b!))");
  m.def(
      "pgd_linf_step_(Tensor(a!) delta, Tensor(b!) next, Tensor grad, Tensor x, float alpha, float eps) -> "
      "(Tensor(a!), Tensor(b!))");
  m.def("accumulate_abs_(Tensor(a!)[] omega, Tensor[] grads, float weight, float count) -> ()");
  m.def("accumulate_square_(Tensor(a!)[] omega, Tensor[] grads, float weight, float count) -> ()");
  m.def("anchor_weights(Tensor omega) -> Tensor");
  m.def(
      "anchored_sgd_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momenta, Tensor[] anchors, Tensor[] reference, "
      "float lr, float momentum, float weight_decay, float lam, bool first) -> Tensor");
  m.def("anchor_penalty(Tensor[] params, Tensor[] reference, Tensor[] anchors) -> Tensor");
  m.def(
      "finish_(Tensor(a!) out, Tensor sum, Tensor? bias, Tensor? add, Tensor? gate, bool relu) -> "
      "Tensor(a!)");
  m.def(
      "max_pool_(Tensor(a!) out, Tensor(b!) code, Tensor x, int[2] kernel, int[2] stride, int[2] padding) -> "
      "(Tensor(a!), Tensor(b!))");
  m.def(
      "max_pool_gradient_(Tensor(a!) out, Tensor grad, Tensor code, int[2] kernel, int[2] stride, int[2] padding, "
      "Tensor? gate) -> Tensor(a!)");
}

TORCH_LIBRARY_IMPL(l2ul, CPU, m) {
  implement(m, at::kCPU, cpu_bodies, [](c10::DeviceIndex) -> Stream { return nullptr; });
}

TORCH_LIBRARY_IMPL(l2ul, Autograd, m) {
  for (const char* op : {"gather_lut", "pgd_start", "pgd_l2_step_", "pgd_linf_step_", "anchor_weights",
                         "anchor_penalty", "finish_", "max_pool_", "max_pool_gradient_"}) {
    m.impl(op, torch::autograd::autogradNotImplementedFallback());
  }
  for (const char* op : {"accumulate_abs_", "accumulate_square_", "anchored_sgd_"}) {
    m.impl(op, torch::CppFunction::makeFromBoxedFunction<&refuse_gradient>());
  }
}

TORCH_LIBRARY_IMPL(l2ul, ADInplaceOrView, m) {
  for (const char* op : {"pgd_l2_step_", "pgd_linf_step_", "finish_", "max_pool_", "max_pool_gradient_"}) {
    m.impl(op, torch::autograd::autogradNotImplementedInplaceOrViewFallback());
  }
  for (const char* op : {"accumulate_abs_", "accumulate_square_", "anchored_sgd_"}) {
    m.impl(op, torch::CppFunction::makeFromBoxedFunction<&bump_versions>());
  }
}

}  // namespace

void implement(torch::Library& library, c10::DeviceType kind, const Bodies& bodies,
               Stream (*current_stream)(c10::DeviceIndex)) {
  implementations.at(static_cast<size_t>(kind)) = {&bodies, current_stream};
  library.impl("gather_lut", gather_lut);
  library.impl("pgd_start", pgd_start);
  library.impl("pgd_l2_step_", pgd_l2_step_);
  library.impl("pgd_linf_step_", pgd_linf_step_);
  library.impl("accumulate_abs_", accumulate_abs_);
  library.impl("accumulate_square_", accumulate_square_);
  library.impl("anchor_weights", anchor_weights);
  library.impl("anchored_sgd_", anchored_sgd_);
  library.impl("anchor_penalty", anchor_penalty);
  library.impl("finish_", finish_);
  library.impl("max_pool_", max_pool_);
  library.impl("max_pool_gradient_", max_pool_gradient_);
}

}  // namespace l2ul
