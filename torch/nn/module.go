// Package nn holds neural network modules in the manner of gotorch and PyTorch: layers, containers, their parameters and
// buffers, and the way from a module to a checkpoint and back.
//
// A module is a struct that embeds Base and registers what it owns in the order of its PyTorch counterpart, so that
// StateDict has the same keys in the same order as a .pt file:
//
//	type MLP struct {
//		nn.Base
//		fc1, fc2 *nn.LinearModule
//	}
//
//	func NewMLP() *MLP {
//		m := &MLP{fc1: nn.Linear(784, 128, true), fc2: nn.Linear(128, 10, true)}
//		m.Child("fc1", m.fc1)
//		m.Child("fc2", m.fc2)
//		return m
//	}
//
//	func (m *MLP) Forward(x torch.Tensor) torch.Tensor { return m.fc2.Forward(m.fc1.Forward(x).Relu()) }
//
// Parameters and buffers are owned by their module: no scope frees them, Free does. Constructors may be called anywhere;
// Forward belongs inside torch.Scope or torch.Run and returns tensors of that scope.
//
// Differences from gotorch: children are registered by name (gotorch found the fields by reflection and walked maps, so
// the order was random); keys are PyTorch's; memory is freed by Free and not by the garbage collector.
package nn

import (
	"fmt"
	"iter"
	"strings"

	"l2ul/torch"
)

// Module is a layer or a network.
type Module interface {
	// Forward computes the output for a batch.
	Forward(x torch.Tensor) torch.Tensor
	// Root gives the embedded Base, where parameters, buffers and children are registered.
	Root() *Base
}

// Named is a tensor with its state-dict key, such as "layer1.0.conv1.weight".
type Named struct {
	Name   string
	Tensor torch.Tensor
}

// Base is what a module embeds: the registry of its parameters, buffers and children. The zero value is an empty module
// in training mode. A Base is not safe for concurrent use.
type Base struct {
	params, buffers, constants []Named
	children                   []child
	evaluating                 bool
	batchNorm                  BatchNormMode
}

type child struct {
	name   string
	module Module
}

// Root returns b; embedding promotes it, which makes a struct with Forward a Module.
func (b *Base) Root() *Base { return b }

// Param registers a trainable leaf tensor, takes ownership of it and returns it. An undefined tensor (a layer without
// bias) is passed through unregistered.
func (b *Base) Param(name string, t torch.Tensor) torch.Tensor {
	if !t.Defined() {
		return t
	}
	b.checkName(name)
	t.SetRequiresGrad(true)
	torch.Own(t)
	b.params = append(b.params, Named{name, t})
	return t
}

// Buffer registers a tensor that is saved with the module but not trained, takes ownership of it and returns it.
func (b *Base) Buffer(name string, t torch.Tensor) torch.Tensor {
	b.checkName(name)
	torch.Own(t)
	b.buffers = append(b.buffers, Named{name, t})
	return t
}

// Constant registers a tensor that moves and dies with the module but is not part of its state (PyTorch: a buffer with
// persistent=False), takes ownership of it and returns it.
func (b *Base) Constant(name string, t torch.Tensor) torch.Tensor {
	b.checkName(name)
	torch.Own(t)
	b.constants = append(b.constants, Named{name, t})
	return t
}

// Child registers a module whose keys get the prefix name and a dot.
func (b *Base) Child(name string, m Module) {
	b.checkName(name)
	b.children = append(b.children, child{name, m})
}

// checkName refuses what would make keys ambiguous.
func (b *Base) checkName(name string) {
	taken := func(list []Named) bool {
		for _, n := range list {
			if n.Name == name {
				return true
			}
		}
		return false
	}
	clash := taken(b.params) || taken(b.buffers) || taken(b.constants)
	for _, c := range b.children {
		clash = clash || c.name == name
	}
	switch {
	case name == "" || strings.Contains(name, "."):
		fail("nn.Base", "%q cannot name a tensor or a child: names are not empty and hold no dot", name)
	case clash:
		fail("nn.Base", "the name %q is taken in this module", name)
	}
}

// Modules iterates over m and everything below it, parents first, in order of registration, with the key prefix of each
// ("" for m itself, "layer1.0.conv1" without a trailing dot below it). It is PyTorch's named_modules().
func Modules(m Module) iter.Seq2[string, Module] {
	return func(yield func(string, Module) bool) { walk("", m, yield) }
}

func walk(prefix string, m Module, yield func(string, Module) bool) bool {
	if !yield(prefix, m) {
		return false
	}
	for _, c := range m.Root().children {
		if !walk(join(prefix, c.name), c.module, yield) {
			return false
		}
	}
	return true
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

// each calls fn for b and every Base below it, parents first.
func (b *Base) each(prefix string, fn func(prefix string, b *Base)) {
	fn(prefix, b)
	for _, c := range b.children {
		c.module.Root().each(join(prefix, c.name), fn)
	}
}

// collect lists the tensors that pick chooses from every Base, with full names.
func (b *Base) collect(pick func(*Base) []Named) []Named {
	var out []Named
	b.each("", func(prefix string, b *Base) {
		for _, n := range pick(b) {
			out = append(out, Named{join(prefix, n.Name), n.Tensor})
		}
	})
	return out
}

// Parameters lists all trainable tensors in the order of registration, as an optimizer wants them.
func (b *Base) Parameters() []torch.Tensor {
	named := b.NamedParameters()
	out := make([]torch.Tensor, len(named))
	for i, n := range named {
		out[i] = n.Tensor
	}
	return out
}

// NamedParameters lists all trainable tensors with their keys.
func (b *Base) NamedParameters() []Named {
	return b.collect(func(b *Base) []Named { return b.params })
}

// NamedBuffers lists all saved tensors that are not trained, with their keys.
func (b *Base) NamedBuffers() []Named {
	return b.collect(func(b *Base) []Named { return b.buffers })
}

// StateDict lists parameters and buffers in PyTorch's order: those of a module, parameters first, then its children's.
func (b *Base) StateDict() []Named {
	return b.collect(func(b *Base) []Named { return append(b.params[:len(b.params):len(b.params)], b.buffers...) })
}

// Train switches this module and all below it to training (true) or evaluation (false). Batch normalisation goes to
// BatchNormTrain or BatchNormEval with it.
func (b *Base) Train(on bool) {
	mode := BatchNormTrain
	if !on {
		mode = BatchNormEval
	}
	b.each("", func(_ string, b *Base) { b.evaluating, b.batchNorm = !on, mode })
}

// Eval is Train(false).
func (b *Base) Eval() { b.Train(false) }

// Training says whether the module is in training mode, which it is when made.
func (b *Base) Training() bool { return !b.evaluating }

// ZeroGrad drops the gradients of all parameters, so that the next Backward starts new ones.
func (b *Base) ZeroGrad() {
	b.each("", func(_ string, b *Base) {
		for _, p := range b.params {
			p.Tensor.SetGrad(torch.Tensor{})
		}
	})
}

// Free gives up every tensor of this module and of those below it. The module must not be used afterwards, except that a
// second Free does nothing.
func (b *Base) Free() {
	b.each("", func(_ string, b *Base) {
		for _, list := range [][]Named{b.params, b.buffers, b.constants} {
			for _, n := range list {
				n.Tensor.Free()
			}
		}
	})
	b.each("", func(_ string, b *Base) { b.params, b.buffers, b.constants = nil, nil, nil })
}

// To moves every tensor of the module to dev. The tensors keep their identity, so optimizers need no new list; gradients
// are dropped.
func (b *Base) To(dev torch.Device) {
	b.replaceData(func(t torch.Tensor) torch.Tensor {
		if t.Device() == dev {
			return t
		}
		return t.To(dev, t.Dtype())
	})
}

var (
	opSetData = torch.Define("aten::set_data(Tensor(a!) self, Tensor new_data) -> ()")
	opToCopy  = torch.Define("aten::_to_copy(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, bool non_blocking=False, MemoryFormat? memory_format=None) -> Tensor")
)

// ToMemoryFormat lays the four-dimensional tensors of m (the weights of convolutions) out in the given format, as
// module.to(memory_format=…) does. Values and shapes stay; gradients are dropped.
func ToMemoryFormat(m Module, format torch.MemoryFormat) {
	m.Root().replaceData(func(t torch.Tensor) torch.Tensor {
		if t.Dim() != 4 {
			return t
		}
		// Contiguous would keep the strides of 1x1 weights, which fit both formats, and leave the choice of the
		// convolution's layout to chance; a copy says it.
		return opToCopy.One(t, nil, nil, nil, nil, false, format)
	})
}

// replaceData sets the data of every tensor to what fn makes of it.
func (b *Base) replaceData(fn func(torch.Tensor) torch.Tensor) {
	b.ZeroGrad()
	torch.NoGrad(func() {
		b.each("", func(_ string, b *Base) {
			for _, list := range [][]Named{b.params, b.buffers, b.constants} {
				for _, n := range list {
					torch.Scope(func() {
						if t := fn(n.Tensor); t != n.Tensor {
							opSetData.Do(n.Tensor, t)
						}
					})
				}
			}
		})
	})
}

// fail panics as the numeric code of torch does, so that torch.Run and torch.Try turn it into an error.
func fail(op, format string, args ...any) {
	panic(&torch.Error{Op: op, Code: torch.Argument, Msg: fmt.Sprintf(format, args...)})
}
