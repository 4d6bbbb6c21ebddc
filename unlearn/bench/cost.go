package bench

import (
	"cmp"

	"l2ul/unlearn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
	"l2ul/unlearn/results"
	"l2ul/unlearn/run"
	"l2ul/unlearn/train"
)

// load is what a cell computes. How many steps it will take nobody knows before.
type load struct {
	method  string
	pairs   float64 // to attack,
	iters   float64 // so many times each
	set     string  // what tells the adversarial set from others
	step    float64 // images of one step, forward and backward
	usual   float64 // steps
	most    float64 // steps, by the caps
	forward float64 // images of one step that are only classified, as on a ladder
	times   float64 // as often as a stream has requests
}

const (
	// usualSteps are those of a run that reaches its goal, for want of knowing better: the paper's methods take 20 to 600 on
	// CIFAR-10.
	usualSteps = 300
	// usualTraining stands for the number of training images until they are read.
	usualTraining = 50000
	// usualForgotten stands for the number of images that a class, or a file, names.
	usualForgotten = 500
)

// work is how long a cell takes beside others, in passes of one image through the network and back.
func work(c *Cell) float64 {
	l := loadOf(c, usualTraining)
	return l.times * (l.pairs*l.iters + l.step*l.usual + l.forward*l.usual/3)
}

// usualRequests are those of a file of requests, for want of knowing better.
const usualRequests = 8

// loadOf works out the load of a cell from its configuration and the number of training images.
func loadOf(c *Cell, training int) (l load) {
	cfg := c.Config
	l.times = 1
	var o run.ForgetOptions
	var loop unlearn.Options
	var crafting attack.Options
	var recipe train.Options
	for _, target := range []any{&o, &loop, &crafting, &recipe} {
		_ = cfg.Decode(target) // of options that the method has not, nothing is used
	}
	m, err := unlearn.FindMethod(o.Method)
	if err != nil {
		return l // which resolving the cell has refused
	}
	l.method = m.Name
	k := forgotten(o.Forget)
	if s := c.Stream; s != nil {
		l.times = float64(cmp.Or(s.Requests, usualRequests))
		k = cmp.Or(s.Size, usualForgotten)
	}
	switch {
	case m.Scratch:
		l.step = float64(recipe.Batch)
		l.usual = float64(recipe.Epochs) * float64(training) / l.step
		l.most = l.usual
		return l
	case m.Ladder != nil:
		l.forward = float64(k)
		l.usual, l.most = float64(m.Ladder.Rungs)/2, float64(m.Ladder.Rungs)
		return l
	}
	driving, batch := k, 0
	switch m.Driver {
	case unlearn.ByAdversarial:
		n, err := crafting.Repeats(k)
		if err != nil {
			return l // likewise
		}
		driving, batch = n*k, loop.AdvBatch
		l.pairs, l.iters = float64(driving), float64(crafting.Iters)
		l.set = string(marshal([]any{crafting, o.Forget, o.Seed, o.Mode, o.Model, o.Weights}))
		if c.Stream != nil { // whose second request begins with weights that only its method made
			l.set = c.ID
		}
	case unlearn.ByRetain:
		driving, batch = max(training-k, 1), loop.RetainBatch
	case unlearn.ByForget:
	}
	l.step = float64(min(k, loop.ForgetBatch) + min(driving, batch))
	l.most = float64(loop.MaxPasses) * float64(loop.StepsOfPass(m, driving))
	if loop.MaxSteps > 0 {
		l.most = min(l.most, float64(loop.MaxSteps))
	}
	l.usual = min(usualSteps, l.most)
	return l
}

// forgotten is how many images a forget set has, as far as its spec tells.
func forgotten(text string) int {
	spec, err := data.ParseSpec(text)
	if err != nil {
		return usualForgotten
	}
	return cmp.Or(spec.Count(), usualForgotten)
}

// Estimate is what a grid will take, in seconds of one process.
type Estimate struct {
	Cells    int        `json:"cells"`
	Runs     int        `json:"runs"`
	Done     int        `json:"done"`
	Sets     int        `json:"sets"` // of adversarial examples that are left to make; cells share them
	Pairs    int        `json:"pairs"`
	Attack   float64    `json:"attack"`
	Steps    float64    `json:"steps"`    // as many as usual,
	Most     float64    `json:"most"`     // or as the caps allow
	Recorded int        `json:"recorded"` // cells that are done, whose steps tell what is usual
	Scores   float64    `json:"scores"`
	Start    float64    `json:"start"`
	Speed    *run.Speed `json:"speed"`
}

// Total is the seconds of all that is left, with the usual number of steps and with the most.
func (e *Estimate) Total() (usual, most float64) {
	rest := e.Attack + e.Scores + e.Start
	return rest + e.Steps, rest + e.Most
}

// Probed is the cell to measure the device with: the one that computes most of those that have gradient steps; nil where none
// has.
func Probed(cells []Cell) (probed *Cell) {
	for i := range cells {
		l := loadOf(&cells[i], usualTraining)
		if m, err := unlearn.FindMethod(l.method); err != nil || m.Scratch || m.Ladder != nil {
			continue
		}
		if probed == nil || work(&cells[i]) > work(probed) {
			probed = &cells[i]
		}
	}
	return probed
}

// Plan estimates what is left of a grid at the speed that was measured with one of its cells. dir is its folder, "" for none.
func Plan(cells []Cell, dir string, speed *run.Speed) *Estimate {
	e := &Estimate{Cells: len(cells), Speed: speed}
	steps := map[string][]float64{} // of cells that are done, by method
	var left []load
	for _, c := range Runs(cells) {
		e.Runs++
		l := loadOf(&c, speed.Train)
		if dir != "" {
			if r := finished(dir, c.ID, c.Config.Hash()); r != nil {
				e.Done++
				steps[l.method] = append(steps[l.method], float64(r.Steps)/l.times)
				continue
			}
		}
		left = append(left, l)
	}
	e.Recorded = e.Done
	made := map[string]bool{}
	for _, l := range left {
		if l.set != "" && !made[l.set] {
			made[l.set] = true
			e.Sets++
			e.Pairs += int(l.times * l.pairs)
			e.Attack += l.times * l.pairs * l.iters * speed.Attack
		}
		if known := steps[l.method]; len(known) > 0 {
			l.usual = min(results.Summarize(known).Mean, l.most)
		}
		step := l.step*speed.Step + l.forward*speed.Score
		e.Steps += l.times * l.usual * step
		e.Most += l.times * l.most * step
		// After each run, and before each but the first, whose scores before most cells share.
		e.Scores += (2*l.times - 1) * float64(speed.Scored) * speed.Score
		e.Start += speed.Start
	}
	return e
}
