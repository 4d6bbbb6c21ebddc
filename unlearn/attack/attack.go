// Package attack makes adversarial examples: targeted and untargeted projected gradient descent inside an L2 or Linf
// ball (spec/l2ul.md section 3). All (image, target) pairs are attacked in large batches, with frozen parameters and
// gradients of the input only; targets and starting points are those of the published sequential loop, bit for bit.
package attack

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"

	"l2ul/torch"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/engine"
	"l2ul/unlearn/kernels"
)

// Options are the settings of an attack. Eps and Step are in pixel units, images being in [0, 1].
type Options struct {
	Eps      float64 `flag:"eps,pgd-eps" default:"4" min:"0" group:"attack" help:"radius of the perturbation ball, in pixel units"`
	Step     float64 `flag:"step,pgd-alpha" default:"0.1" min:"0" group:"attack" help:"length of a step, in pixel units"`
	Iters    int     `flag:"iters,pgd-iter" default:"100" min:"0" group:"attack" help:"iterations, all of which are done"`
	Num      string  `flag:"num-adv,num-adv-images" default:"auto" arg:"N|auto" group:"attack" help:"adversarial examples of each image; auto: ceil(1024/k)"`
	Norm     string  `flag:"norm" default:"l2" oneof:"l2|linf" group:"attack" help:"ball of the perturbation"`
	Targeted bool    `flag:"targeted" default:"true" group:"attack" help:"toward a random other class; false: away from the label"`
	Exclude  string  `flag:"target-exclude" deftext:"only the label" oneof:"|goal" group:"attack" help:"goal: aim at no image's new label of goal relabel either"`
	Pairs    string  `flag:"pairs" arg:"FILE" group:"attack" help:"attack these pairs, in place of --num-adv random classes of each image: lines of SOURCE,TARGET or SOURCE,REPEAT,TARGET, or a .safetensors file with source, target and perhaps repeat and start"`
	Store    string  `flag:"adv-store" default:"f32" oneof:"f32|f16" group:"attack" help:"keep the examples as they are, or rounded to half the size, which changes bits"`
	Compat
}

// Repeats returns N, the number of examples to make of each of k images.
func (o *Options) Repeats(k int) (int, error) {
	if o.Num == "auto" {
		return (1024 + k - 1) / k, nil
	}
	n, err := strconv.Atoi(o.Num)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("--num-adv %q: give a number of at least 1, or auto", o.Num)
	}
	return n, nil
}

// Validate checks what the tags cannot say.
func (o *Options) Validate() error {
	switch {
	case o.Pairs != "" && !o.Targeted:
		return fmt.Errorf("--pairs %s: pairs name the classes to reach; leave --targeted=false out", o.Pairs)
	case o.Exclude != "" && (o.Pairs != "" || !o.Targeted):
		return fmt.Errorf("--target-exclude %s: no targets are drawn; leave it out", o.Exclude)
	}
	if err := o.checkCompat(); err != nil {
		return err
	}
	_, err := o.Repeats(1)
	return err
}

// Warnings tells what is allowed but probably not meant.
func (o *Options) Warnings() []string {
	var w []string
	reach := o.Step * float64(o.Iters)
	switch {
	case o.Eps == 0:
		w = append(w, "eps is 0: the adversarial examples are the images themselves")
	case reach == 0:
		w = append(w, "step or iters is 0: the adversarial examples are the projected starting points")
	case reach < o.Eps:
		w = append(w, fmt.Sprintf("step·iters = %.6g is less than eps = %g: the attack cannot cross the ball", reach, o.Eps))
	}
	return w
}

// Pair is one adversarial example to make, and what became of it.
type Pair struct {
	Source int // position in the set of images
	Repeat int // 0..N-1
	Target int // the class to reach; untargeted, the class to leave
	Log
}

// Log says how the attack on a pair went.
type Log struct {
	Before    int     // class predicted for the image
	After     int     // class predicted for the adversarial example
	Success   bool    // After is the target (untargeted: is not the label)
	LossStart float64 // cross-entropy to Target at the starting point
	LossEnd   float64 // and of the adversarial example
	Norm      float64 // L2 norm of the perturbation
}

// Set is the adversarial examples of a job, in call order: pair p is of image p mod k, in repeat p / k.
type Set struct {
	Pairs []Pair       // all that are planned
	Done  int          // how many of them, from the first on, are made
	X     torch.Tensor // Float or Half [len(Pairs), C, H, W], owned by the set, its first Done images written; undefined before the first
}

// Targets returns the targets of all pairs, Long [len(Pairs)], on the CPU and in the current scope.
func (s *Set) Targets() torch.Tensor {
	targets := make([]int64, len(s.Pairs))
	for i, p := range s.Pairs {
		targets[i] = int64(p.Target)
	}
	return torch.FromSlice(targets)
}

// Free gives the examples back.
func (s *Set) Free() {
	if s.X.Defined() {
		s.X.Free()
		s.X = torch.Tensor{}
	}
}

// Summary is the outcome of a whole set.
type Summary struct {
	Pairs    int     `json:"pairs" jsonschema:"minimum=0"`
	Success  float64 `json:"success" jsonschema:"minimum=0,maximum=1,description=share of pairs whose attack succeeded"`
	MeanLoss float64 `json:"mean_loss" jsonschema:"description=mean cross-entropy to the target at the end"`
	Norm     Norms   `json:"norm"`
	OnLabel  int     `json:"target_is_label" jsonschema:"minimum=0,description=pairs whose target is the image's own label"`
}

// Norms are the L2 norms of the perturbations; quantiles are interpolated between neighbours.
type Norms struct {
	Min    float64 `json:"min" jsonschema:"minimum=0"`
	Q05    float64 `json:"q05" jsonschema:"minimum=0"`
	Median float64 `json:"median" jsonschema:"minimum=0"`
	Mean   float64 `json:"mean" jsonschema:"minimum=0"`
	Q95    float64 `json:"q95" jsonschema:"minimum=0"`
	Max    float64 `json:"max" jsonschema:"minimum=0"`
}

// Summary sums up the finished pairs; labels are those of the images.
func (s *Set) Summary(labels []int) Summary {
	n := s.Done
	if n == 0 {
		return Summary{}
	}
	sum, norms, successes := Summary{Pairs: n}, make([]float64, n), 0
	for i, p := range s.Pairs[:n] {
		if p.Success {
			successes++
		}
		sum.MeanLoss += p.LossEnd / float64(n)
		sum.Norm.Mean += p.Norm / float64(n)
		norms[i] = p.Norm
		if p.Target == labels[p.Source] {
			sum.OnLabel++
		}
	}
	sum.Success = float64(successes) / float64(n)
	slices.Sort(norms)
	at := func(q float64) float64 {
		below, part := math.Modf(q * float64(n-1))
		low, high := norms[int(below)], norms[min(int(below)+1, n-1)]
		return low + part*(high-low)
	}
	sum.Norm.Min, sum.Norm.Q05, sum.Norm.Median, sum.Norm.Q95, sum.Norm.Max = at(0), at(0.05), at(0.5), at(0.95), at(1)
	return sum
}

// Job is an attack on k images.
type Job struct {
	Net     *engine.Network
	X       torch.Tensor // Float [k, C, H, W] in [0, 1]
	Labels  []int        // of the images
	Classes int
	Slice   int          // images of a call, for some quirks of Options.Compat; 0 for all
	Of      []int        // labels of a larger set, whose first images these are, and for all of which is drawn; nil for these alone
	Avoid   []int        // of each image, a class that is not aimed at beside its label; nil for none
	Pairs   []Pair       // to attack in place of drawn ones; nil to draw
	Starts  torch.Tensor // of Pairs, Float [len(Pairs), C, H, W] in [0, 1]; undefined to draw
	Options Options
	Fast    bool // leave pairs alone once they are done, which makes other examples than Options.Iters steps do
	Seed    int64
	Chunk   *chunk.Size // pairs attacked at once; does not change the stream of targets and starts
}

// Run attacks all pairs of the job, beginning behind those that set has finished, and adds them to set. After each chunk
// it calls saved, which may be nil. When ctx ends, at most one iteration later it returns the context's cause; set then
// holds all finished chunks.
func (j *Job) Run(ctx context.Context, set *Set, saved func() error) (err error) {
	torch.Scope(func() {
		var starts *starts
		if starts, err = j.newStarts(set.Done); err != nil {
			return
		}
		defer func() { starts.free() }()
		var classes []int64
		if classes, err = j.classes(); err != nil {
			return
		}
		steps := &ascent{net: j.Net, options: &j.Options}
		defer steps.free()
		for set.Done < len(set.Pairs) && err == nil {
			_, err = j.Chunk.Do(len(set.Pairs)-set.Done, func(n int) error {
				if starts.done != set.Done { // drawn for a chunk that memory had no room for
					starts.free()
					if starts, err = j.newStarts(set.Done); err != nil {
						return err
					}
				}
				return j.chunk(ctx, set, n, starts, classes, steps)
			})
			if err == nil && saved != nil {
				err = saved()
			}
		}
	})
	return err
}

// classes returns the class predicted for each image.
func (j *Job) classes() (classes []int64, err error) {
	for len(classes) < len(j.Labels) && err == nil {
		from := len(classes)
		_, err = j.Chunk.Do(len(j.Labels)-from, func(n int) error {
			torch.Scope(func() {
				x := j.X.Narrow(0, int64(from), int64(n))
				classes = append(classes, torch.ToSlice[int64](j.Net.Logits(x).ArgMax(1, false))...)
			})
			return nil
		})
	}
	return classes, err
}

// chunk attacks the next n pairs and adds them to the set. before is the class predicted for each image.
func (j *Job) chunk(ctx context.Context, set *Set, n int, starts *starts, before []int64, steps *ascent) (err error) {
	pairs := set.Pairs[set.Done : set.Done+n]
	torch.Scope(func() {
		source, target := make([]int64, n), make([]int64, n)
		for i, p := range pairs {
			source[i], target[i] = int64(p.Source), int64(p.Target)
		}
		x := j.X.IndexSelect(0, torch.FromSlice(source).To(j.X.Device(), torch.Long)).Contiguous(formatOf(j.X))
		y := torch.FromSlice(target).To(j.X.Device(), torch.Long)
		delta := begin(x, starts.next(n), &j.Options)
		_, lossStart := j.predict(x.Add(delta, 1), y)
		climb := steps.run
		if j.Fast {
			climb = steps.hurry
		}
		if err = climb(ctx, x, delta, y, j.Options.Iters); err != nil {
			return
		}
		adv := x.Add(delta, 1).Clamp(0, 1)
		if j.Options.Store == "f16" {
			adv = adv.CastTo(torch.Half)
		}
		after, lossEnd := j.predict(adv.CastTo(torch.Float), y)
		norms := torch.ToSlice[float64](delta.CastTo(torch.Double).Square().SumDim([]int64{1, 2, 3}, false).Sqrt())
		for i := range pairs {
			p := &pairs[i]
			// Whatever was not finite on the way, a gradient or a logit, is not finite here.
			if !finite(norms[i]) || !finite(lossStart[i]) || !finite(lossEnd[i]) {
				err = fmt.Errorf("attack: a gradient or logit of pair %d (image %d toward class %d) is not finite; check the weights", set.Done+i, p.Source, p.Target)
				return
			}
			p.Log = Log{
				Before: int(before[p.Source]), After: int(after[i]), Success: (int(after[i]) == p.Target) == j.Options.Targeted,
				LossStart: lossStart[i], LossEnd: lossEnd[i], Norm: norms[i],
			}
		}
		set.add(adv)
	})
	return err
}

// Perturb returns the perturbation of a batch of images x, Float [n, C, H, W] in [0, 1], after exactly o.Iters steps of
// projected gradient descent (spec/l2ul.md section 3.1): ascent on -CE to the classes y, Long [n]; untargeted, on CE of the
// labels y. It begins at the images start, like x, projected to the ball.
func Perturb(net *engine.Network, x, start, y torch.Tensor, o *Options) torch.Tensor {
	steps := &ascent{net: net, options: o}
	defer steps.free()
	delta := begin(x, start, o)
	_ = steps.run(context.Background(), x, delta, y, o.Iters) // fails only when its context ends
	return delta
}

// begin returns the perturbation that an attack of x begins with.
func begin(x, start torch.Tensor, o *Options) torch.Tensor {
	if o.Arithmetic == aten {
		return startATen(x, start, o.Eps)
	}
	return kernels.PGDStart(x, start, o.Eps, o.Norm)
}

// predict returns the class and the cross-entropy to y of each image.
func (j *Job) predict(x, y torch.Tensor) (classes []int64, losses []float64) {
	torch.Scope(func() {
		logits := j.Net.Logits(x)
		classes = torch.ToSlice[int64](logits.ArgMax(1, false))
		losses = torch.ToSlice[float64](logits.CrossEntropy(y, torch.Tensor{}, torch.ReduceNone, -100).CastTo(torch.Double))
	})
	return classes, losses
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

var opEmpty = torch.Define("aten::empty.memory_format(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor")

// add stores finished examples behind the others.
func (s *Set) add(x torch.Tensor) {
	if !s.X.Defined() {
		shape := x.Shape()
		shape[0] = int64(len(s.Pairs))
		s.X = opEmpty.One(shape, x.Dtype(), nil, x.Device(), nil, formatOf(x))
		torch.Own(s.X)
	}
	n := x.Size(0)
	s.X.Narrow(0, int64(s.Done), n).CopyI(x)
	s.Done += int(n)
}

func formatOf(t torch.Tensor) torch.MemoryFormat {
	if t.IsContiguous(torch.ChannelsLast) {
		return torch.ChannelsLast
	}
	return torch.Contiguous
}

// Resumed is the set of a job whose first pairs are done: x holds their examples, Float or Half [done, C, H, W].
func Resumed(pairs []Pair, x torch.Tensor) *Set {
	s := &Set{Pairs: pairs}
	s.add(x)
	return s
}
