package unlearn

import (
	"context"
	"fmt"
	"math"
	"time"

	"l2ul/torch"
	"l2ul/torch/cuda"
	"l2ul/torch/nn"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	"l2ul/unlearn/kernels"
	"l2ul/unlearn/metrics"
)

// Outcome says how a run ended.
type Outcome string

// The outcomes.
const (
	Reached     Outcome = "reached"     // the goal holds on all of D_f
	Already     Outcome = "already"     // it held before the first step
	Capped      Outcome = "cap"         // passes, steps or seconds ran out
	Diverged    Outcome = "diverged"    // a loss or parameter was not finite, or the network collapsed
	Interrupted Outcome = "interrupted" // the context ended
)

// Task is what a method works on.
type Task struct {
	Net     nn.Module // at θ⁰; changed in place
	Classes int
	Forget  *Examples      // D_f, with y for Misclassify and y* for Relabel
	Driver  metrics.Images // A or D_r; nil when D_f drives
	Anchors []torch.Tensor // Ω̄, for the parameters of Trainable in order; nil without a penalty, and weights of a ladder
	Meter   *data.Meter    // counts reads by phase
	Seed    int64          // of what dropout draws
	Resume  *State         // where an interrupted run of this very task stopped, or nil

	// Judged are the images that the goal is about, where those are more than D_f; nil where they are not. Labels are as those of
	// Forget.
	Judged metrics.Images
	// Reference is what the penalty holds the parameters of Trainable to, where that is not θ⁰; nil where it is. A ladder has no
	// penalty, and begins at θ⁰ in any case.
	Reference []torch.Tensor

	EvalBatch *chunk.Size // images at once in the stop test
	// Witness lets one image of D_f stand for all in a stop test that it settles, where D_f is larger than a forget slice.
	// Runs end at the same step, with the same weights; hits are then counted at fewer steps.
	Witness bool
	// Graphs makes CUDA graphs of the steps, with the same bits. It is nil where they go operator by operator. Networks with
	// dropout have none: a graph would drop the same values each time.
	Graphs cuda.Recorder

	// Observe is told every step. It may be nil.
	Observe func(Record)
	// Save is offered the state after every step, and must take it when force is set: at an interruption and at a cap. An
	// error ends the run. It may be nil. The tensors are views, valid during the call.
	Save func(s *State, force bool) error
}

// judged are the images that the goal is about.
func (t *Task) judged() metrics.Images {
	if t.Judged != nil {
		return t.Judged
	}
	return t.Forget
}

// Record is one step in the log.
type Record struct {
	Step       int     `json:"step"` // from 1
	Pass       int     `json:"pass"` // from 1
	Loss       float64 `json:"loss"` // minimised, without the penalty
	DriverLoss float64 `json:"driver_loss"`
	ForgetLoss float64 `json:"forget_loss"` // signed as it is minimised
	NDriver    int     `json:"n_driver"`
	NForget    int     `json:"n_forget"`
	Sigma      float64 `json:"sigma,omitempty"` // of the rung, on a ladder, which has no loss
	Hits       int64   `json:"hits"`            // on D_f after the step; -1 where they were not counted
	Witness    int     `json:"witness"`         // the image of D_f, from 0, that settled the stop test alone; -1 where none did
}

// State is where a run stands, enough to go on to the same bits.
type State struct {
	Step    int     `json:"step"`    // steps done
	Pass    int     `json:"pass"`    // of the next step, from 0
	Slice   int     `json:"slice"`   // of the driver, of the next step
	Seconds float64 `json:"seconds"` // spent in the loop
	Right   int64   `json:"right"`   // driver's images classified rightly in this pass, for the collapse test
	Seen    int64   `json:"seen"`    // driver's images seen in this pass
	Hits    int64   `json:"hits"`    // on D_f when last counted,
	Counted int     `json:"counted"` // which was after so many steps
	Witness int     `json:"witness"` // the image of D_f that was then furthest from the goal
	// Tensors are parameters and buffers under their names, and "momentum." before the name of each trained one; if a
	// collapse ends the run, also "good." before each, what they were when the last pass stood the test.
	Tensors []nn.Named `json:"-"`
}

// Result is how a run ended. The network holds the last weights, of a run that diverged the last good ones.
type Result struct {
	Outcome  Outcome
	Reason   string // of Diverged; of Capped, the cap: "--max-steps 100"
	Steps    int
	Passes   int     // begun
	Hits     int64   // of the images that the goal is about when last counted: at the end, unless the run was interrupted
	Seconds  float64 // in the loop
	Penalty  float64 // λR at the end; 0 without one
	Distance float64 // ‖θ - θ⁰‖ over the trained parameters, with Reference in place of θ⁰ where the task has one
	NoGraph  string  // why CUDA graphs that the task asked for were not made; else empty
}

// Forget runs a method on a task until the goal holds, a cap is met, the run diverges or ctx ends.
//
// Each step is: forward of the driver's slice, then a separate forward of the forget slice (two updates of the running
// statistics, in that order); gradients of the method's loss; one fused update d = g + λΩ̄(θ-θ⁰) + wd·θ, v = μv + d,
// θ = θ - lr·v; the finite check; the stop test, if due (spec/l2ul.md section 5).
func Forget(ctx context.Context, m *Method, task *Task, o *Options) (res *Result, err error) {
	torch.Scope(func() {
		var l *loop
		if l, err = newLoop(m, task, o); err == nil {
			defer l.free()
			res, err = l.run(ctx)
		}
	})
	return res, err
}

// loop is a run in progress. Its tensors live in the scope of Forget.
type loop struct {
	method *Method
	task   *Task
	o      *Options
	state  State
	began  time.Time

	names     []nn.Named     // trained parameters with their names
	params    []torch.Tensor // the same without
	reference []torch.Tensor // θ⁰ of the same, or what the task has in place of it
	momenta   []torch.Tensor
	live      []torch.Tensor // all parameters and buffers,
	good      []torch.Tensor // and what they were when last known to be good
	direction []torch.Tensor // of a ladder, once it is drawn
	blind     bool           // a logit was not finite when hits were last counted

	driver, forget slot                 // the images of a step
	told           torch.Tensor         // Double [5]: what the step tells
	steps          map[sizes]*cuda.Loop // all but the first
	capture        cuda.Recorder        // makes graphs of them, if the task asks for that, and until it fails
	noGraph        string               // why it does not
}

func newLoop(m *Method, task *Task, o *Options) (*loop, error) {
	driving := 0
	if task.Driver != nil {
		driving = task.Driver.Len()
	}
	if err := o.Check(m, task.Net, task.Forget.X, task.Forget.Len(), driving); err != nil {
		return nil, err
	}
	l := &loop{method: m, task: task, o: o, names: Trainable(task.Net, o.BN), steps: map[sizes]*cuda.Loop{}}
	own := task.Reference == nil || m.Ladder != nil // a ladder stands on θ⁰ wherever a penalty would hold it
	if !own {
		l.reference = task.Reference
	}
	for _, p := range l.names {
		l.params = append(l.params, p.Tensor)
		if own {
			l.reference = append(l.reference, p.Tensor.Detach().Clone())
		}
		if m.Ladder == nil {
			l.momenta = append(l.momenta, p.Tensor.Detach().ZerosLike())
		}
	}
	graphs := task.Graphs
	if graphs != nil && nn.Drops(task.Net) {
		graphs, l.noGraph = nil, "the network drops other values at each step"
	}
	l.capture = graphs.Trying(func(why string) {
		l.noGraph = why
		l.free() // they may leave too little memory for a step by itself
	})
	l.told = l.params[0].Detach().NewZeros([]int64{5}, torch.Double)
	for _, t := range task.Net.Root().StateDict() {
		l.live = append(l.live, t.Tensor)
		l.good = append(l.good, t.Tensor.Detach().Clone())
	}
	if task.Resume != nil {
		if err := l.restore(task.Resume); err != nil {
			return nil, err
		}
	}
	l.began = time.Now().Add(-time.Duration(l.state.Seconds * float64(time.Second)))
	return l, nil
}

func (l *loop) run(ctx context.Context) (*Result, error) {
	if l.state.Step == 0 && l.task.Resume == nil && l.o.LooksFirst(l.method) {
		if err := l.count(); err != nil {
			return nil, err
		}
		if l.goalMet(l.state.Hits) {
			return l.finish(Already, ""), nil
		}
	}
	for {
		if l.state.Slice == l.slices() {
			l.state.Pass, l.state.Slice, l.state.Right, l.state.Seen = l.state.Pass+1, 0, 0, 0
		}
		if reason := l.capped(); reason != "" {
			return l.giveUp(reason)
		}
		if ctx.Err() != nil {
			l.state.Seconds = time.Since(l.began).Seconds()
			if err := l.save(true); err != nil {
				return nil, err
			}
			return l.finish(Interrupted, context.Cause(ctx).Error()), nil
		}
		outcome, reason, err := l.step()
		if err != nil {
			return nil, err
		}
		if outcome != "" {
			return l.finish(outcome, reason), nil
		}
		if err := l.save(false); err != nil {
			return nil, err
		}
	}
}

// capped names the cap that forbids another step, "" if none does. A run that goes on may be beyond a lower cap.
func (l *loop) capped() string {
	switch {
	case l.o.MaxSteps > 0 && l.state.Step >= l.o.MaxSteps:
		return fmt.Sprintf("--max-steps %d", l.o.MaxSteps)
	case l.o.MaxSeconds > 0 && l.state.Seconds >= l.o.MaxSeconds:
		return fmt.Sprintf("--max-seconds %g", l.o.MaxSeconds)
	case l.method.Ladder != nil:
		if rungs := l.method.Ladder.Rungs; l.state.Step >= rungs {
			return fmt.Sprintf("σ = %.4g is the last of %d", l.method.Ladder.Length(rungs-1), rungs)
		}
	case l.state.Pass >= l.o.Passes():
		return fmt.Sprintf("--max-passes %d", l.o.MaxPasses)
	}
	return ""
}

// giveUp ends a run that met a cap. It saves, so that the run can go on under a higher one, and before a count that such a
// run does not do.
func (l *loop) giveUp(reason string) (*Result, error) {
	if err := l.save(true); err != nil {
		return nil, err
	}
	if l.state.Counted < l.state.Step { // a result must say how it ended
		if err := l.count(); err != nil {
			return nil, err
		}
		switch met := l.goalMet(l.state.Hits); {
		case met && !l.o.finite(!l.blind):
			outcome, reason, err := l.diverge(blindSuccess, l.state.Step)
			return l.finish(outcome, reason), err
		case met:
			return l.finish(Reached, ""), nil
		}
	}
	return l.finish(Capped, reason), nil
}

// blindSuccess: the class of an image whose logits are no numbers is 0, which may look like the goal.
const blindSuccess = "after step %d logits are not finite; the weights are the last good ones. Lower --lr or --max-steps"

// step does one step and what is due after it. An outcome ends the run.
func (l *loop) step() (outcome Outcome, reason string, err error) {
	l.task.Meter.Enter(data.PhaseUnlearn)
	rec := Record{Step: l.state.Step + 1, Pass: l.state.Pass + 1, Hits: -1, Witness: -1}
	finite := true
	move := l.update
	if l.method.Ladder != nil {
		move = l.climb
	}
	torch.Scope(func() { finite, err = move(&rec) })
	if err != nil {
		return "", "", err
	}
	if !l.o.finite(finite) {
		return l.diverge("step %d: loss %g, or a parameter, is not finite; the weights are the last good ones. Lower --lr or --max-steps", rec.Step, rec.Loss)
	}
	l.state.Step++
	l.state.Slice++
	l.state.Seconds = time.Since(l.began).Seconds()
	passEnds := l.state.Slice == l.slices()
	collapsed := passEnds && l.collapsed()
	if l.o.check(l.method) == EachStep || passEnds {
		if err = l.test(&rec); err != nil {
			return "", "", err
		}
	}
	met := rec.Hits >= 0 && l.goalMet(rec.Hits)
	if met && !l.o.finite(!l.blind) {
		return l.diverge(blindSuccess, rec.Step)
	}
	if !l.o.StopOnDrop || passEnds && !collapsed { // finite is good, or only what has stood the test
		copyAll(l.good, l.live)
	}
	if l.task.Observe != nil {
		l.task.Observe(rec)
	}
	switch {
	case met:
		return Reached, "", nil
	case collapsed:
		return l.diverge("pass %d: %d of %d driving images are classified rightly, below chance for %d classes; the weights are those of the last pass above it", rec.Pass, l.state.Right, l.state.Seen, l.task.Classes)
	}
	return "", "", nil
}

// anchorReference is θ⁰ where there is a penalty.
func (l *loop) anchorReference() []torch.Tensor {
	if l.task.Anchors == nil {
		return nil
	}
	return l.reference
}

func (l *loop) goalMet(hits int64) bool { return l.o.Goal.Met(hits, int64(l.task.judged().Len())) }

// collapsed reports whether the network does worse than guessing on the images that drive it.
func (l *loop) collapsed() bool {
	return l.o.StopOnDrop && l.state.Seen > 0 && l.state.Right*int64(l.task.Classes) < l.state.Seen
}

// slices is the number of steps in a pass.
func (l *loop) slices() int {
	if l.method.Ladder != nil {
		return l.method.Ladder.Rungs
	}
	n := l.task.Forget.Len()
	if l.task.Driver != nil {
		n = l.task.Driver.Len()
	}
	return l.o.StepsOfPass(l.method, n)
}

// count is the number of slices of size b in n images, the last one maybe short.
func count(n, b int) int { return (n + b - 1) / b }

func slice(i, b, n int) (from, to int) { return i * b, min((i+1)*b, n) }

func (l *loop) finish(outcome Outcome, reason string) *Result {
	l.task.Net.Root().Eval()
	res := &Result{
		Outcome: outcome, Reason: reason, Steps: l.state.Step, Passes: l.state.Pass, Hits: l.state.Hits, Seconds: time.Since(l.began).Seconds(),
		NoGraph: l.noGraph,
	}
	if l.state.Slice > 0 {
		res.Passes++
	}
	torch.NoGrad(func() {
		sums := torch.ToSlice[float64](kernels.AnchorPenalty(l.params, l.reference, l.task.Anchors))
		if l.task.Anchors != nil {
			res.Penalty = l.o.Lambda * sums[0]
		}
		res.Distance = math.Sqrt(sums[1])
	})
	return res
}

var opCopyAll = torch.Define("aten::_foreach_copy_(Tensor(a!)[] self, Tensor[] src, bool non_blocking=False) -> ()")

func copyAll(dst, src []torch.Tensor) { torch.NoGrad(func() { opCopyAll.Do(dst, src) }) }

// diverge goes back to the last good weights, and counts what they get right.
func (l *loop) diverge(reason string, values ...any) (Outcome, string, error) {
	copyAll(l.live, l.good)
	return Diverged, fmt.Sprintf(reason, values...), l.count()
}

func (l *loop) save(force bool) error {
	if l.task.Save == nil {
		return nil
	}
	l.state.Tensors = l.task.Net.Root().StateDict()
	for i, m := range l.momenta {
		l.state.Tensors = append(l.state.Tensors, nn.Named{Name: "momentum." + l.names[i].Name, Tensor: m})
	}
	if l.o.StopOnDrop {
		for i, t := range l.task.Net.Root().StateDict() {
			l.state.Tensors = append(l.state.Tensors, nn.Named{Name: "good." + t.Name, Tensor: l.good[i]})
		}
	}
	return l.task.Save(&l.state, force)
}

// restore puts parameters, buffers, momenta and position where a state was saved.
func (l *loop) restore(s *State) error {
	saved := map[string]torch.Tensor{}
	for _, t := range s.Tensors {
		saved[t.Name] = t.Tensor
	}
	var dst, src []torch.Tensor
	want := func(name string, t torch.Tensor) error {
		from, ok := saved[name]
		if !ok {
			return fmt.Errorf("the checkpoint lacks %s", name)
		}
		dst, src = append(dst, t), append(src, from)
		return nil
	}
	for i, t := range l.task.Net.Root().StateDict() {
		if err := want(t.Name, t.Tensor); err != nil {
			return err
		}
		from := t.Name
		if l.o.StopOnDrop {
			from = "good." + from
		}
		if err := want(from, l.good[i]); err != nil {
			return err
		}
	}
	for i, m := range l.momenta {
		if err := want("momentum."+l.names[i].Name, m); err != nil {
			return err
		}
	}
	if k := l.task.judged().Len(); s.Witness < 0 || s.Witness >= k {
		return fmt.Errorf("the checkpoint's witness is image %d of the %d that the goal is about", s.Witness, k)
	}
	copyAll(dst, src)
	l.state = *s
	l.state.Tensors = nil
	return nil
}

// Check refuses what cannot work, before anything is attacked or changed: settings that leave nothing to train, and slices
// of one image that batch normalisation cannot take. x holds images like those of the task, Float [n, C, H, W]; k are to be
// forgotten, and driving drive the loop unless they are the same.
func (o *Options) Check(m *Method, net nn.Module, x torch.Tensor, k, driving int) error {
	type set struct {
		n, batch int
		bn       BNMode
	}
	if m.Ladder != nil {
		if o.Goal != Misclassify {
			return usagef("--goal %s: noise on the weights, as of --method %s, can make labels wrong but not bring a chosen one about", o.Goal, m.Name)
		}
		return nil
	}
	sets := []set{{k, o.ForgetBatch, o.BN}}
	if m.Driver != ByForget {
		sets = append(sets, set{driving, o.driverBatch(m), o.driverBN()})
	}
	switch {
	case len(Trainable(net, o.BN)) == 0:
		return usagef("--bn %s leaves no parameter to train", o.BN)
	case o.StopOnDrop && m.Driver == ByForget:
		return usagef("--stop-on-collapse: %s has no adversarial or retained images to judge by", m.Name)
	}
	for _, s := range sets {
		if s.n == 0 {
			return usagef("there are no images to learn from")
		}
		if s.bn != BNTrain && s.bn != BNFrozenStats {
			continue
		}
		if err := CheckSlices(net, x, s.n, s.batch); err != nil {
			return err
		}
	}
	return nil
}

// CheckSlices refuses slices of so many of n images where one slice has one image and some layer of net shrinks that to one
// pixel: batch normalisation would see one value a channel. x is as for Check. net is left in evaluation mode.
func CheckSlices(net nn.Module, x torch.Tensor, n, batch int) (err error) {
	if batch > 1 && n%batch != 1 {
		return nil
	}
	defer net.Root().Eval()
	setMode(net, BNFrozenStats)
	torch.Scope(func() {
		err = torch.Try(func() { torch.NoGrad(func() { net.Forward(x.Narrow(0, 0, 1)) }) })
	})
	if err != nil {
		return usagef("a slice of one image (%d images, %d at a time) cannot be batch-normalised: %v. "+
			"Change the batch size, or use running statistics", n, batch, err)
	}
	return nil
}
