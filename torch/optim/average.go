package optim

import (
	"fmt"
	"slices"

	"l2ul/torch"
	"l2ul/torch/nn"
)

// Average is an exponential moving average of the tensors of a network, made by NewAverage.
type Average struct {
	decay float64
	live  []nn.Named
	means []torch.Tensor // nil before the first Update
}

// NewAverage begins an average of tensors, most often a network's state dict. With each Update
//
//	mean = mean + (1-decay)·(tensor - mean)
//
// and the first takes the tensors as they are (torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn and
// use_buffers=True). Of whole numbers, such as counts of batches, it keeps the last, where PyTorch averages and cuts off.
// It panics unless decay is at least 0 and less than 1.
func NewAverage(decay float64, live []nn.Named) *Average {
	if !(decay >= 0 && decay < 1) {
		fail("optim.NewAverage", "decay %g: it must be 0 or more and less than 1", decay)
	}
	return &Average{decay: decay, live: live}
}

// Update takes the tensors as they are now into the average. It belongs inside torch.Scope or torch.Run.
func (a *Average) Update() {
	torch.NoGrad(func() {
		if a.means == nil {
			a.set(a.live)
			return
		}
		var means, live []torch.Tensor
		for i, t := range a.live {
			if isReal(t.Tensor) {
				means, live = append(means, a.means[i]), append(live, t.Tensor)
			} else {
				a.means[i].CopyI(t.Tensor)
			}
		}
		if len(means) > 0 {
			opLerpI.Do(means, live, 1-a.decay)
		}
	})
}

func isReal(t torch.Tensor) bool {
	return slices.Contains([]torch.Dtype{torch.Float, torch.Double, torch.Half, torch.BFloat16}, t.Dtype())
}

// Swap exchanges the values of the tensors and of their average. Before the first Update it does nothing.
func (a *Average) Swap() {
	torch.NoGrad(func() {
		torch.Scope(func() {
			for i, mean := range a.means {
				live := a.live[i].Tensor.Detach()
				was := live.Clone()
				live.CopyI(mean)
				mean.CopyI(was)
			}
		})
	})
}

// State lists the average under the names of the tensors; it is empty before the first Update. They stay the average's.
func (a *Average) State() []nn.Named {
	state := make([]nn.Named, len(a.means))
	for i, mean := range a.means {
		state[i] = nn.Named{Name: a.live[i].Name, Tensor: mean}
	}
	return state
}

// SetState replaces the average by copies of what State gave for the same tensors, in any order. It fails, and changes
// nothing, if they do not fit. It belongs inside torch.Scope or torch.Run.
func (a *Average) SetState(state []nn.Named) error {
	if len(state) != 0 && len(state) != len(a.live) {
		return fmt.Errorf("an average of %d tensors for a network of %d", len(state), len(a.live))
	}
	saved := map[string]torch.Tensor{}
	for _, t := range state {
		saved[t.Name] = t.Tensor
	}
	ordered := make([]nn.Named, len(state))
	for i := range state {
		live := a.live[i]
		t, ok := saved[live.Name]
		if !ok {
			return fmt.Errorf("the average lacks %s", live.Name)
		}
		if got, want := t.Shape(), live.Tensor.Shape(); !slices.Equal(got, want) {
			return fmt.Errorf("the average of %s has shape %v, the tensor %v", live.Name, got, want)
		}
		ordered[i] = nn.Named{Name: live.Name, Tensor: t}
	}
	a.Free()
	torch.NoGrad(func() { a.set(ordered) })
	return nil
}

// set makes the average of copies of tensors, in the order and memory formats of the live ones.
func (a *Average) set(tensors []nn.Named) {
	for i, t := range tensors {
		mean := a.live[i].Tensor.Detach().EmptyLike()
		mean.CopyI(t.Tensor)
		torch.Own(mean)
		a.means = append(a.means, mean)
	}
}

// Free gives up the average. The tensors are not the average's.
func (a *Average) Free() {
	for _, mean := range a.means {
		mean.Free()
	}
	a.means = nil
}
