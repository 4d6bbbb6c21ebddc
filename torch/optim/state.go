package optim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"l2ul/torch"
	"l2ul/torch/nn"
)

// core is what every optimizer keeps: the parameters, the learning rate, and of each parameter the tensors of its state.
type core struct {
	lr     float64
	params []torch.Tensor
	names  []string         // of a parameter's tensors in the state
	state  [][]torch.Tensor // of each parameter, in the order of names; nil before its first step
}

// stepName is the one tensor of a state that has no dimensions: how many steps a parameter has done.
const stepName = "step"

// AddParameters implements Optimizer.
func (c *core) AddParameters(params []torch.Tensor) {
	c.params = append(c.params, params...)
	c.state = append(c.state, make([][]torch.Tensor, len(params))...)
}

// ZeroGrad implements Optimizer.
func (c *core) ZeroGrad() {
	for _, p := range c.params {
		p.SetGrad(torch.Tensor{})
	}
}

// LR implements Optimizer.
func (c *core) LR() float64 { return c.lr }

// SetLR implements Optimizer.
func (c *core) SetLR(lr float64) { c.lr = lr }

// withGrad lists the parameters that have a gradient: their places, themselves, their gradients.
func (c *core) withGrad() (index []int, params, grads []torch.Tensor) {
	for i, p := range c.params {
		if g := p.Grad(); g.Defined() {
			index, params, grads = append(index, i), append(params, p), append(grads, g)
		}
	}
	return index, params, grads
}

// State implements Optimizer. The names are "N.NAME" for parameter N, counted from 0, and PyTorch's name of the tensor.
func (c *core) State() []nn.Named {
	var state []nn.Named
	for i, tensors := range c.state {
		for k, t := range tensors {
			state = append(state, nn.Named{Name: strconv.Itoa(i) + "." + c.names[k], Tensor: t})
		}
	}
	return state
}

// SetState implements Optimizer.
func (c *core) SetState(state []nn.Named) error {
	sources := make([][]torch.Tensor, len(c.params))
	for _, n := range state {
		digits, name, _ := strings.Cut(n.Name, ".")
		i, err := strconv.Atoi(digits)
		k := slices.Index(c.names, name)
		if k < 0 || err != nil || i < 0 || i >= len(c.params) {
			return fmt.Errorf("optimizer state %q belongs to none of the %d parameters, which have %q", n.Name, len(c.params), c.names)
		}
		want := c.params[i].Shape()
		if name == stepName {
			want = nil
		}
		if got := n.Tensor.Shape(); !slices.Equal(got, want) {
			return fmt.Errorf("optimizer state %q has shape %v; its parameter asks for %v", n.Name, got, want)
		}
		if sources[i] == nil {
			sources[i] = make([]torch.Tensor, len(c.names))
		}
		sources[i][k] = n.Tensor
	}
	for i, tensors := range sources {
		for k, t := range tensors {
			if !t.Defined() {
				return fmt.Errorf("optimizer state \"%d.%s\" is missing", i, c.names[k])
			}
		}
	}
	c.Free()
	torch.NoGrad(func() {
		for i, tensors := range sources {
			for k, t := range tensors {
				to := torch.Zeros(nil, false)
				if c.names[k] != stepName {
					// The layout of the parameter, not that of the copy, keeps Step fast and its bits the same.
					to = c.params[i].EmptyLike()
				}
				to.CopyI(t)
				c.keep(i, to)
			}
		}
	})
	return nil
}

// keep makes a tensor the next one of parameter i's state.
func (c *core) keep(i int, t torch.Tensor) {
	torch.Own(t)
	c.state[i] = append(c.state[i], t)
}

// Free implements Optimizer.
func (c *core) Free() {
	for i, tensors := range c.state {
		for _, t := range tensors {
			t.Free()
		}
		c.state[i] = nil
	}
}

// fail panics as the numeric code of torch does, so that torch.Run and torch.Try turn it into an error.
func fail(op, format string, args ...any) {
	panic(&torch.Error{Op: op, Code: torch.Argument, Msg: fmt.Sprintf(format, args...)})
}
