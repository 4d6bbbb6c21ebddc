package bench

import (
	"cmp"

	"l2ul/unlearn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
	"l2ul/unlearn/run"
	"l2ul/unlearn/train"
)

// usualSteps are those of a run that reaches its goal, for want of knowing better: runs of the paper's methods on CIFAR-10 took
// 100 to 600.
const usualSteps = 300

// load is what a cell computes, in passes of one image through the network and back. How many steps it will take nobody knows
// before.
type load struct {
	attack  float64 // pairs times iterations
	step    float64 // images of one step
	steps   float64 // usual
	most    float64 // steps, by the caps
	pairs   float64
	scratch bool // steps and most are exact
}

// work is how long a cell takes beside others, in such passes.
func work(c *Cell) float64 {
	l := loadOf(c)
	return l.attack + l.step*l.steps
}

// samples stands for the size of training sets that retraining goes through, which is known when they are read.
const samples = 50000

// loadOf works out the load of a cell from its configuration alone.
func loadOf(c *Cell) (l load) {
	var o run.ForgetOptions
	var loop unlearn.Options
	var crafting attack.Options
	var recipe train.Options
	for _, target := range []any{&o, &loop, &crafting, &recipe} {
		_ = c.Config.Decode(target) // which was checked when the cell was resolved
	}
	m, err := unlearn.FindMethod(o.Method)
	if err != nil {
		return l
	}
	k := float64(forgotten(o.Forget))
	if m.Scratch {
		l.scratch, l.step = true, float64(recipe.Batch)
		l.steps = float64(recipe.Epochs) * samples / max(l.step, 1)
		l.most = l.steps
		return l
	}
	driving := k
	forget := min(k, float64(loop.ForgetBatch))
	l.step = forget
	switch m.Driver {
	case unlearn.ByAdversarial:
		n, err := crafting.Repeats(max(int(k), 1))
		if err != nil {
			n = 1
		}
		l.pairs = k * float64(n)
		l.attack = l.pairs * float64(crafting.Iters)
		driving = l.pairs
		l.step += min(driving, float64(loop.AdvBatch))
	case unlearn.ByRetain:
		driving = samples
		l.step += float64(loop.RetainBatch)
	case unlearn.ByForget:
	}
	l.most = float64(loop.MaxPasses) * float64(loop.StepsOfPass(m, int(driving)))
	if loop.MaxSteps > 0 {
		l.most = min(l.most, float64(loop.MaxSteps))
	}
	l.steps = min(usualSteps, l.most)
	return l
}

// unknownForgotten stands for the number of images that a whole class, or a file, names.
const unknownForgotten = 500

// forgotten is how many images a forget set has, as far as its spec tells.
func forgotten(text string) int {
	spec, err := data.ParseSpec(text)
	if err != nil {
		return unknownForgotten
	}
	return cmp.Or(spec.Count(), unknownForgotten)
}
