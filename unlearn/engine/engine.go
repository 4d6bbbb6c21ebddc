// Package engine runs a network whose weights stay as they are, thousands of times: the attack's forward and backward
// passes, and evaluation. In mode Exact it lowers the network once into a plan: batch normalisation folded into
// convolutions, bias, residual and ReLU applied while a sum is in a register, 3x3 convolutions by Winograd's algorithm,
// an explicit backward pass for the gradient of the input alone, and buffers laid out once and used again. The algorithm
// is the same; results differ from libtorch's by rounding. On CUDA libtorch convolves, with folded weights, and one kernel
// of ours does what follows; a plan is free of autograd, so that a [Loop] around it becomes a CUDA graph. In mode
// Reference every operator is libtorch's, called as PyTorch would, and bits agree with it.
//
// The plan comes from a trace of the network's own Forward, so no network describes itself twice. A network with an
// operator that is not known here, or whose plan does not reproduce the network on a probe, runs as in mode Reference (in
// mode BF16 as in Exact, where that is possible), and [Network.Fallback] says why. The probe is the same for all networks of a shape, so that the answer depends on the
// weights alone.
//
// [Accelerate] is for a network that learns: its weights change, and only the convolutions go another way.
package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"l2ul/torch"
	"l2ul/torch/cuda"
	"l2ul/torch/nn"
)

// Mode says how closely the arithmetic of a frozen network follows PyTorch's.
type Mode string

const (
	// Exact is the same algorithm in float32; sums are taken in another order, normalisation is folded.
	Exact Mode = "exact"
	// BF16 is Exact but for the gradient by the images, whose convolutions multiply bfloat16 and add up float32
	// (spec/l2ul.md section 5). On the CPU values between them stay float32, on CUDA they are bfloat16 too.
	BF16 Mode = "bf16"
	// Fast is Exact for a network. An attack on it leaves out pairs that are done: another algorithm (package attack).
	Fast Mode = "fast"
	// Reference is operator by operator what PyTorch computes, to the bit.
	Reference Mode = "reference"
)

// Network is a classifier that is frozen: in evaluation mode, its parameters not tracked by autograd. It is used on one
// thread. The weights must not change before [Network.Thaw].
type Network struct {
	net     nn.Module
	mode    Mode
	library bool // convolve by libtorch on the CPU too, as on other devices: for tests
	coarse  bool // products may round to TF32, which may exchange logits within
	margin  float32
	tracked []torch.Tensor
	shape   []int64 // of the images that the rest is about
	plan    *plan   // nil: operator by operator
	climb   *plan   // that gradients go by: plan, or in mode BF16 one of their own; nil: operator by operator
	back    verdict // on it
	why     string
	noGraph string // why Loop does without a CUDA graph
}

// verdict says what a comparison of plan and network came to.
type verdict uint8

const (
	untried verdict = iota
	accepted
	refused
)

// Freeze freezes net.
func Freeze(net nn.Module, mode Mode) *Network {
	net.Root().Eval()
	n := &Network{net: net, mode: mode, coarse: cuda.TF32() && mode != Reference}
	for _, p := range net.Root().Parameters() {
		if p.RequiresGrad() {
			n.tracked = append(n.tracked, p)
			p.SetRequiresGrad(false)
		}
	}
	return n
}

// Thaw gives the plan's memory back and tracks the parameters again that were tracked before. The network stays in
// evaluation mode.
func (n *Network) Thaw() {
	n.drop()
	for _, p := range n.tracked {
		p.SetRequiresGrad(true)
	}
	n.tracked = nil
}

// Logits computes the network's output for images x, Float [n, C, H, W], without gradients. The class of the largest logit
// is in all modes the same: images whose two largest rounding might exchange are computed again by libtorch in float32, and
// with them the whole batch where even libtorch's bits, which depend on the batch, might decide.
func (n *Network) Logits(x torch.Tensor) (logits torch.Tensor) {
	torch.NoGrad(func() {
		p := n.planFor(x, false)
		if p == nil {
			logits = n.net.Forward(x)
		} else {
			p.attempt(func() { logits = p.logits(x) })
		}
		margin := float32(closeMargin)
		if n.coarse {
			margin = n.margin
		} else if p == nil {
			return
		}
		cuda.Float32(func() { logits = n.decided(x, logits, margin) })
	})
	return logits
}

// decided computes by libtorch again where logits leave the class open.
func (n *Network) decided(x, logits torch.Tensor, margin float32) torch.Tensor {
	tie := false
	torch.Scope(func() {
		if rows := closeCalls(logits, margin); len(rows) > 0 {
			index := torch.FromSlice(rows).To(x.Device(), torch.Long)
			again := n.net.Forward(x.IndexSelect(0, index).Contiguous(torch.ChannelsLast))
			logits.IndexCopyI(0, index, again)
			tie = len(closeCalls(again, tieMargin)) > 0
		}
	})
	if tie {
		return n.net.Forward(x)
	}
	return logits
}

// Margins are distances of the two largest logits over the largest magnitude: one that a plan which check accepts cannot
// have moved them by, and one that libtorch does not differ by between batches, where 1e-6 was seen. What TF32 cannot have moved
// is that many times what it moves a logit of the probe by at most: twice, since a lead is of two logits, twice, since of a
// million values that spread like a normal distribution's the largest is about twice that of the probe's hundred, and twice for
// images unlike the probe's.
const (
	closeMargin = 20 * logitTolerance
	tieMargin   = 1e-5
	coarseSlack = 2 * 2 * 2
)

// coarseMargin judges on the images of the probe what TF32 does to this network's logits.
func (n *Network) coarseMargin(images torch.Tensor) (margin float32) {
	compute := n.net.Forward
	if n.plan != nil {
		compute = n.plan.logits
	}
	torch.Scope(func() {
		torch.NoGrad(func() {
			rounded := compute(images).Clone()
			cuda.Float32(func() {
				logits := compute(images)
				largest, _ := logits.Abs().MaxDim(1, false)
				moved, _ := rounded.Sub(logits, 1).Abs().MaxDim(1, false)
				margin = float32(moved.Div(largest).Max().Item())
			})
		})
	})
	return max(closeMargin, coarseSlack*margin) // NaN stays, and then all images are decided in float32
}

// closeCalls lists the rows of logits [n, C] whose two largest are within margin.
func closeCalls(logits torch.Tensor, margin float32) (rows []int64) {
	if logits.Size(1) < 2 {
		return nil
	}
	torch.Scope(func() {
		top, _ := torch.TopK(logits, 2, 1, true, true)
		scale, _ := logits.Abs().MaxDim(1, false)
		apart := torch.ToSlice[float32](top.Select(1, 0).Sub(top.Select(1, 1), 1))
		for i, s := range torch.ToSlice[float32](scale) {
			if !(apart[i] > margin*s) { // NaN too
				rows = append(rows, int64(i))
			}
		}
	})
	return rows
}

// InputGrad is the gradient by the images x, Float [n, C, H, W], of a scalar function of the logits, whose gradient by
// the logits, Float [n, classes], the caller gives as a function of them. It may be overwritten by the next call.
func (n *Network) InputGrad(x torch.Tensor, gradient func(logits torch.Tensor) torch.Tensor) (grad torch.Tensor) {
	if p := n.planFor(x, true); p != nil {
		p.attempt(func() { grad = p.inputGrad(x, gradient) })
		return grad
	}
	input := x.Detach().SetRequiresGrad(true)
	logits := n.net.Forward(input)
	return torch.VectorJacobian([]torch.Tensor{logits}, []torch.Tensor{gradient(logits.Detach())}, []torch.Tensor{input}, false)[0]
}

// Input returns a tensor for images like x, Float [n, C, H, W], which InputGrad then reads where they are. Its values
// are not defined. It is the network's own, or the current scope's, and good until the network meets other shapes.
func (n *Network) Input(x torch.Tensor) (input torch.Tensor) {
	if p := n.planFor(x, true); p != nil {
		p.attempt(func() { input = p.run(x.Size(0), true).input })
		return input
	}
	return x.EmptyLike()
}

// Fallback says how the network, or its gradient, runs in place of the mode that was asked for, and why: operator by operator,
// or of BF16, as in mode Exact. It is empty where nothing is amiss, and before the first images came.
func (n *Network) Fallback() string { return n.why }

// Bytes is the memory that plans keep: weights and the buffers of the batch sizes it has met last. Each thread's room
// for transforms, at most some megabytes, is beside it.
func (n *Network) Bytes() (sum int64) {
	if n.plan != nil {
		sum = n.plan.bytes()
	}
	if n.climb != nil && n.climb != n.plan {
		sum += n.climb.bytes()
	}
	return sum
}

// Footprint is what operators make of one image, x Float [1, C, H, W], on its way to the logits, in bytes: all of it, as
// libtorch keeps it for a gradient, and the largest value alone. A plan takes less.
func (n *Network) Footprint(x torch.Tensor) (all, largest int64) {
	torch.Scope(func() {
		torch.NoGrad(func() {
			for _, c := range torch.Trace(func() { n.net.Forward(x) }) {
				for _, t := range c.Results {
					size := t.Numel() * int64(t.Dtype().Size())
					all, largest = all+size, max(largest, size)
				}
			}
		})
	})
	return all, largest
}

func (n *Network) drop() {
	if n.climb != nil && n.climb != n.plan {
		n.climb.free()
	}
	if n.plan != nil {
		n.plan.free()
	}
	n.shape, n.plan, n.climb, n.back, n.why = nil, nil, nil, untried, ""
}

// planFor returns the plan for images like x, or nil where there is none. Images of another size need another plan.
func (n *Network) planFor(x torch.Tensor, gradient bool) *plan {
	if n.mode == Reference || x.Size(0) == 0 {
		return nil
	}
	library := n.library || x.Device() != torch.CPU
	if shape := x.Shape()[1:]; n.shape == nil || !slices.Equal(n.shape, shape) {
		n.drop()
		n.judge(shape, x.Device(), func(images torch.Tensor) (err error) {
			if n.plan, err = lower(n.net, images, library, torch.Float); err == nil {
				err = n.plan.check(n.net, images)
			}
			if err != nil {
				n.drop()
				return byOperators(err)
			}
			return nil
		})
		if n.coarse {
			torch.Scope(func() { n.margin = n.coarseMargin(probe(shape).To(x.Device(), torch.Float)) })
		}
		n.shape = shape
	}
	if n.plan == nil || !gradient {
		return n.plan
	}
	if n.back == untried {
		n.judge(n.shape, x.Device(), func(images torch.Tensor) error {
			var half error
			if n.mode == BF16 {
				if half = n.tryHalf(images, library); half == nil {
					return nil
				}
			}
			if err := n.plan.checkGradient(n.net, images, gradientTolerance); err != nil {
				n.back = refused
				return byOperators(err)
			}
			n.climb, n.back = n.plan, accepted
			if half != nil {
				return fmt.Errorf("gradients in float32, as in mode exact: %w", half)
			}
			return nil
		})
	}
	if n.back == refused {
		return nil
	}
	return n.climb
}

// tryHalf makes a plan of bfloat16 products that gradients go by from now on, or says why there is none.
func (n *Network) tryHalf(images torch.Tensor, library bool) error {
	p, err := lower(n.net, images, library, torch.BFloat16)
	if err != nil {
		return err
	}
	defer func() {
		if n.climb != p { // refused, or memory ran out and it will be asked again
			p.free()
		}
	}()
	if err := p.checkGradient(n.net, images, halfTolerance); err != nil {
		return err
	}
	n.climb, n.back = p, accepted
	return nil
}

func byOperators(err error) error {
	return fmt.Errorf("operator by operator in float32, as in mode reference: %w", err)
}

// judge shows a comparison of plan and network the images of the probe, and remembers what it objects. Whether a plan is
// the network's does not depend on TF32, whose rounding would hide what is wrong.
func (n *Network) judge(shape []int64, device torch.Device, compare func(images torch.Tensor) error) {
	cuda.Float32(func() {
		torch.Scope(func() {
			torch.EnableGrad(func() {
				if err := compare(probe(shape).To(device, torch.Float)); err != nil {
					n.why = err.Error()
				}
			})
		})
	})
}

// probe makes the images that plan and network are compared on: always the same, and not only such as pixels are.
func probe(shape []int64) torch.Tensor {
	const images = 8
	random := rand.New(rand.NewPCG(1, 2))
	values := make([]float32, images*shape[0]*shape[1]*shape[2])
	for i := range values {
		values[i] = 2*random.Float32() - 0.5
	}
	return torch.FromSlice(values, append([]int64{images}, shape...)...).Contiguous(torch.ChannelsLast)
}

// A plan is refused where it differs from the network by more than rounding does. Measured on ResNets, logits differ by
// 3e-7 to 2e-6 of their norm. The gradient of most images differs by as little; now and then a ReLU falls the other way
// and moves that of one image by 1e-2, so the median of the probe's images counts.
const (
	logitTolerance    = 2e-5
	gradientTolerance = 1e-2
	// Products of bfloat16 move the gradient of a ResNet by 0.05 to 0.3 of its norm, and that of another network by 1.4.
	halfTolerance = 0.6
)

// check compares the logits of plan and network.
func (p *plan) check(net nn.Module, x torch.Tensor) error {
	// Written so that NaN, which no comparison holds for, is refused too.
	if d := distance(p.logits(x), net.Forward(x).Detach()); !(d <= logitTolerance) {
		return fmt.Errorf("the plan's logits are not the network's: they differ by %.2g of their norm", d)
	}
	return nil
}

// checkGradient compares the gradients of plan and network.
func (p *plan) checkGradient(net nn.Module, x torch.Tensor, tolerance float64) error {
	wave := func(logits torch.Tensor) torch.Tensor { // of a loss that every logit has another part in
		weights := make([]float32, logits.Numel())
		for i := range weights {
			weights[i] = float32(i%7) - 3
		}
		return torch.FromSlice(weights, logits.Shape()...).To(logits.Device(), torch.Float)
	}
	input := x.Detach().SetRequiresGrad(true)
	logits := net.Forward(input)
	want := torch.VectorJacobian([]torch.Tensor{logits}, []torch.Tensor{wave(logits.Detach())}, []torch.Tensor{input}, false)[0]
	got := p.inputGrad(x, wave)
	var apart []float64
	for i := range x.Size(0) {
		apart = append(apart, distance(got.Select(0, i), want.Select(0, i)))
	}
	slices.Sort(apart) // NaN comes first
	if d := apart[len(apart)/2]; !(d <= tolerance) || math.IsNaN(apart[0]) {
		return fmt.Errorf("the plan's gradient is not the network's: they differ by %.2g of its norm", d)
	}
	return nil
}

// distance is the norm of got - want over that of want.
func distance(got, want torch.Tensor) float64 {
	norm := func(t torch.Tensor) float64 { return t.CastTo(torch.Double).Square().Sum().Sqrt().Item() }
	return norm(got.Sub(want, 1)) / max(norm(want), 1e-30)
}
