package unlearn

import (
	"l2ul/torch"
)

// Ladder is what a method without gradients does in place of steps: it moves all parameters from θ⁰ along one direction, a
// rung further each time, until the goal holds. Buffers stay as they are, and the network is in evaluation mode.
type Ladder struct {
	Rungs  int
	Length func(rung int) float64 // σ of a rung, from 0

	// Direction returns where each parameter goes per unit of length, in its shape. Weights are Ω̂, importance in [0, 1],
	// likewise, or nil.
	Direction func(theta, weights []torch.Tensor, seed int64) []torch.Tensor
}

// LadderOptions are the settings of a ladder.
type LadderOptions struct {
	Weight string `flag:"rawp-weight" default:"none" oneof:"none|importance" group:"unlearning" help:"importance: perturb parameters by their importance for the images to forget (--importance), the most important ones most"`
}

// Weighted reports whether Ω̂ is asked for.
func (o *LadderOptions) Weighted() bool { return o.Weight == "importance" }

// climb puts the parameters on the next rung, θ⁰ + σ·direction.
func (l *loop) climb(rec *Record) (finite bool, err error) {
	if l.direction == nil {
		l.direction = l.method.Ladder.Direction(l.reference, hats(l.task.Anchors), l.task.Seed)
		torch.Keep(l.direction...) // in the scope of the run
	}
	rec.Sigma = l.method.Ladder.Length(l.state.Step)
	torch.NoGrad(func() {
		for i, p := range l.params {
			p.CopyI(l.reference[i].Add(l.direction[i].MulScalar(rec.Sigma), 1))
		}
	})
	return true, nil
}

// hats returns Ω̂ = 1 - Ω̄.
func hats(anchors []torch.Tensor) []torch.Tensor {
	var weights []torch.Tensor
	for _, a := range anchors {
		weights = append(weights, a.OnesLike().Sub(a, 1))
	}
	return weights
}
