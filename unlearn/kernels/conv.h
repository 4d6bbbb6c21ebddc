// Convolutions on the CPU. For frozen networks: weights packed once, bias, residual, ReLU and its gradient's mask
// applied where a value is still in a register; for training: the gradient by the weights. Images are channels-last.
// Like the bodies of bodies.h these know no tensors.
//
// Every output is one chain of fused multiply-adds in a fixed order, so bits depend neither on the number of threads,
// nor on the instruction set (but see Pair), nor, while weights are finite, but for the sign of a 0, on which other
// images share the batch.
#pragma once

#include <cstdint>

namespace l2ul::cpu {

// Columns of a packed weight: one step of the inner loop serves so many output channels.
constexpr int64_t kPanel = 16;

inline int64_t panels(int64_t width) { return (width + kPanel - 1) / kPanel; }

// A convolution from [images, in_h, in_w, depth] to [images, out_h, out_w, width]; `gradient`: that of a convolution by
// its input, so stride and padding are the ones of the forward pass, whose output is this one's input.
struct Conv {
  int64_t images, in_h, in_w, depth, out_h, out_w, width;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
  bool gradient;
};

// What becomes of a sum v before it is stored: v + bias[channel] + add, then either max(v, 0), with relu, or 0 where
// gate, the output of a ReLU, is not positive. Null pointers are left out; add and gate have the shape of the output.
struct Epilogue {
  const float* bias;
  const float* add;
  const float* gate;
  bool relu;
};

// A bfloat16, and two of neighbouring channels, the first in the lower half: what processors multiply at once. Sums of
// their products are float32; processors without an instruction for it compute the same, except that the instruction
// takes any number below 2^-126, a factor, a product or a sum, for 0.
using Half = uint16_t;
using Pair = uint32_t;

// Where the weight from channel i to channel o lies: at o·out + i·in + tap·tap.
struct Strides {
  int64_t out, in, tap;
};

// Taps summed one by one. packed is [panels, kernel_h, kernel_w, depth, kPanel]. Number is float or Pair: then depth is
// even, x bfloat16, and packed what pack_pairs makes.
void pack_direct(const float* weight, const Strides& strides, const Conv& conv, float* packed);
template <class Number>
void conv_direct(const Conv& conv, const Number* x, const Number* packed, const Epilogue& epilogue, float* out);

// Rounds packed weights, [rows, kPanel] with the channels summed over last among the rows, to [rows / 2, kPanel] pairs.
void pack_pairs(const float* packed, int64_t rows, Pair* pairs);

// The gradient by the weights: x is the input of the (forward) convolution, grad the gradient by its output, out is
// channels-last, [width, kernel_h, kernel_w, depth]. depth is a multiple of kPanel, width of 8.
void direct_weight_gradient(const Conv& conv, const float* x, const float* grad, float* out);

// Winograd's F(tile x tile, 3x3) for stride 1 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
// 2016), tile 2 or 4: 2.25 and 4 times fewer multiplications, rounding a few times larger than that of direct sums.
// depth is a multiple of 8. packed is [tile + 2, tile + 2, panels, depth, kPanel].
void pack_winograd(const float* weight, const Strides& strides, const Conv& conv, int tile, float* packed);
// With pairs the transformed input is rounded to bfloat16, and nothing else.
template <class Number>
void conv_winograd(const Conv& conv, int tile, const float* x, const Number* packed, const Epilogue& epilogue,
                   float* out);
// The gradient by the weights, in the same way; both numbers of channels are multiples of 8, and there is an image.
void winograd_weight_gradient(const Conv& conv, int tile, const float* x, const float* grad, const Strides& strides,
                              float* out);

}  // namespace l2ul::cpu
