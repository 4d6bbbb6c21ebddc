package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/ckpt/keys"
	"l2ul/torch/cuda"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
	"l2ul/unlearn/importance"
	"l2ul/unlearn/metrics"
	"l2ul/unlearn/seed"
	"l2ul/unlearn/train"
)

// forgetState is the job's own part of a checkpoint: what has been done, stage by stage.
type forgetState struct {
	Seconds Seconds         `json:"seconds"`
	Reads   data.Reads      `json:"reads"`
	Before  *Scores         `json:"before,omitempty"`
	Said    []Prediction    `json:"said,omitempty"` // of the images to forget, before
	Pool    *PoolResult     `json:"pool,omitempty"`
	Cached  []string        `json:"cached,omitempty"`  // as in Result
	Crafted float64         `json:"crafted,omitempty"` // seconds that making the adversarial examples took, whoever did it
	Anchors *AnchorSummary  `json:"anchors,omitempty"`
	Tested  bool            `json:"tested"`          // the goal has been tested on θ⁰, and does not hold
	Read    bool            `json:"read"`            // the attack has read D_f
	Pairs   []attack.Pair   `json:"pairs,omitempty"` // of an unfinished attack,
	Made    int             `json:"made,omitempty"`  // whose first so many are in the tensor file,
	AtOnce  int             `json:"at_once"`         // made so many at a time
	Loop    *unlearn.State  `json:"loop,omitempty"`
	Train   *train.State    `json:"train,omitempty"`
	Oracle  *OracleSummary  `json:"oracle,omitempty"`
	Ended   *unlearn.Result `json:"ended,omitempty"` // the loop has ended; only scoring is left
}

// forgetting is a forget job at work.
type forgetting struct {
	desk
	o          ForgetOptions
	loop       unlearn.Options
	ladder     unlearn.LadderOptions
	attack     attack.Options
	importance importance.Options
	recipe     train.Options
	omega      *ckpt.File // of --importance FILE, else nil
	method     *unlearn.Method

	set      *data.ForgetSet
	gone     []int // D_f, behind what earlier requests of a stream forgot
	rest     []int // D_r, all others, in ascending order
	meter    *data.Meter
	images   *unlearn.Examples // D_f with its true labels
	wanted   *unlearn.Examples // D_f with the labels that the goal is about
	tested   metrics.Images    // the same, as the stop test sees it
	training *data.Loader
	retain   *data.View // for scoring; nil when nothing is retained
	test     *data.View

	pool   *pool             // that the images are from, of a correction; else nil
	turn   *turn             // in a stream of requests; nil for a run by itself
	before *unlearn.Examples // what the earlier requests of the stream are about, where the goal is about that as well

	folder  *Folder
	saver   *saver
	state   forgetState
	written string // the file of the weights, if it is there already
	began   time.Time
}

// Forget runs a method on a trained network and writes the run folder (spec/l2ul.md section 2). The result is nil for a dry
// run. A goal that was not reached is an error with exit code 3, after everything is written.
func Forget(ctx context.Context, inv Invocation) (result *Result, err error) {
	f := &forgetting{desk: desk{Invocation: inv}, began: time.Now()}
	if err := f.decode(); err != nil {
		return nil, err
	}
	return f.job(ctx)
}

// job does all that comes after the options.
func (f *forgetting) job(ctx context.Context) (result *Result, err error) {
	err = f.onDevice(f.o.ComputeOptions, func() error {
		defer f.close()
		if err := f.prepare(ctx); err != nil || f.o.DryRun {
			return err
		}
		result, err = f.run(ctx)
		return err
	})
	return result, interrupted(ctx, "", err)
}

func (f *forgetting) decode() (err error) {
	cfg := f.Config
	if err := cfg.Decode(&f.o); err != nil {
		return err
	}
	f.model, f.source, f.compute, f.eval = f.o.ModelOptions, f.o.DataOptions, f.o.ComputeOptions, f.o.EvalOptions
	f.mode = engine.Mode(f.o.Mode)
	if f.method, err = unlearn.FindMethod(f.o.Method); err != nil {
		return err
	}
	if attacks := f.method.Driver == unlearn.ByAdversarial; !attacks && (f.mode == engine.BF16 || f.mode == engine.Fast) {
		return Usagef("--mode %s changes an attack, and %s has none: leave it out", f.mode, f.method.Name)
	}
	parts := []any{&f.loop}
	if f.method.Scratch {
		parts = []any{&f.recipe}
		f.loop.Goal = unlearn.Misclassify
	}
	if f.method.Driver == unlearn.ByAdversarial {
		parts = append(parts, &f.attack)
	}
	if f.method.Ladder != nil {
		parts = append(parts, &f.ladder)
	}
	if f.method.Anchored || f.method.Ladder != nil {
		parts = append(parts, &f.importance)
	}
	for _, p := range parts {
		if err := cfg.Decode(p); err != nil {
			return err
		}
	}
	f.amp, f.clip, f.fed = f.recipe.AMP, f.attack.Clip, f.o.FeedOptions
	return nil
}

// prepare reads and checks every input, and says what is odd about the settings.
func (f *forgetting) prepare(ctx context.Context) error {
	if err := f.read(ctx); err != nil {
		return err
	}
	if len(f.rest) == 0 {
		f.Console.Warn("every training image is to be forgotten: nothing is retained, and there are no numbers for it")
		if f.method.Driver == unlearn.ByRetain {
			return Usagef("--method %s reads retained images, and there are none", f.method.Name)
		}
	}
	if f.loop.Goal == unlearn.Relabel && len(f.set.Targets) == 0 {
		if err := f.drawTargets(); err != nil {
			return err
		}
	}
	if f.method.Driver == unlearn.ByAdversarial {
		if !f.attack.Targeted { // the examples would be labelled with the very class to forget
			return Usagef("--targeted=false: --method %s needs examples of other classes; untargeted ones are for unlearn attack", f.method.Name)
		}
		if f.attack.Exclude != "" && f.loop.Goal != unlearn.Relabel {
			return Usagef("--target-exclude %s: only --goal relabel has new labels to leave out", f.attack.Exclude)
		}
		if err := f.prepareAttack(&f.attack, f.set); err != nil {
			return err
		}
	}
	if err := f.check(); err != nil {
		return err
	}
	if f.o.DryRun {
		return f.tellPlan()
	}
	return nil
}

// read reads data and weights, and says what is to be forgotten and what is retained.
func (f *forgetting) read(ctx context.Context) (err error) {
	if err := f.openData(ctx, "train", "test"); err != nil {
		return err
	}
	switch {
	case f.turn != nil:
		f.set = f.turn.set
		for _, e := range f.turn.earlier {
			f.gone = append(f.gone, e.set.Indices...)
		}
	case f.o.Pool != "":
		f.rest = data.All(f.train.Len())
		if err := f.load(ctx); err != nil {
			return err
		}
		if f.feed.Augment {
			return Usagef("--compat.utk-augment: images of --pool have no border to crop from; set it to off, or leave --pool out")
		}
		return f.openPool(ctx)
	default:
		if f.set, err = f.forgetSet(f.o.Forget); err != nil {
			return err
		}
	}
	f.gone = append(f.gone, f.set.Indices...)
	f.rest = data.Complement(f.train.Len(), f.gone)
	return f.load(ctx)
}

// check refuses settings of the loop, or of training, that cannot work on these images.
func (f *forgetting) check() error {
	k := len(f.set.Indices)
	if f.method.Scratch {
		if known := len(without(f.set.Indices, f.held(f.recipe))); known < k {
			f.Console.Warn(fmt.Sprintf("--val holds out %d of the images to forget: a network of this recipe and seed never learned them", k-known))
		}
		return f.checkTraining(f.trainJob(f.recipe, f.rest, data.PartRetain, nil))
	}
	driving, err := f.driving()
	if err != nil {
		return err
	}
	if err := f.loop.Check(f.method, f.net, f.blank(), k, driving); err != nil || !f.weighs() {
		return err
	}
	if f.ladder.Weighted() && f.importance.Kind == "uniform" { // Ω̂ is 0 everywhere
		return Usagef("--rawp-weight importance with --importance uniform: no parameter is more important than another, so there would be no noise at all; take another estimator, or --rawp-weight none")
	}
	if path := f.importance.File(); path != "" {
		return f.openImportance(path)
	}
	return f.checkImportance(&f.importance, k, f.loop.ForgetBatch)
}

// openImportance reads --importance FILE and refuses what is not of this network.
func (f *forgetting) openImportance(path string) (err error) {
	if f.omega, err = ckpt.Load(path); err != nil {
		return Inputf("--importance %s: %w", path, reason(err))
	}
	d := f.desk
	if f.turn != nil && f.turn.first != nil { // what the run refers to
		d.weights = f.turn.first
	}
	w := &weighing{desk: &d, params: unlearn.Trainable(f.net, f.loop.BN)}
	torch.Scope(func() { _, err = w.unpack(f.omega) })
	if err != nil {
		return Inputf("--importance %s: %w", path, err)
	}
	return nil
}

// weighs reports whether the importance of parameters plays a part.
func (f *forgetting) weighs() bool { return f.method.Anchored || f.ladder.Weighted() }

// driving is how many images drive the loop.
func (f *forgetting) driving() (int, error) {
	switch f.method.Driver {
	case unlearn.ByAdversarial:
		return f.pairCount(&f.attack, f.set)
	case unlearn.ByRetain:
		return len(f.rest), nil
	default:
		return len(f.set.Indices), nil
	}
}

// drawTargets draws the new labels of goal relabel for a forget set that has none of its own.
func (f *forgetting) drawTargets() error {
	targets, err := attack.OtherClasses(f.set.Labels, nil, len(f.train.Classes), seed.For(f.compute.Seed, "relabel/random-other", 0))
	if err != nil {
		return Usagef("--goal relabel: %w", err)
	}
	return f.set.SetTargets(targets, len(f.train.Classes))
}

// tellPlan says what a run would do.
func (f *forgetting) tellPlan() error {
	k := len(f.set.Indices)
	rows := [][2]string{{"method", fmt.Sprintf("%s: %s", f.method.Name, f.method.Summary)}}
	driving, err := f.driving()
	if err != nil {
		return err
	}
	if f.method.Driver == unlearn.ByAdversarial {
		rows = append(rows, [2]string{"attack", fmt.Sprintf("%s, %s each", Counted(driving, "pair"), Counted(f.attack.Iters, "iteration"))})
	}
	var steps, rates string
	if f.method.Scratch {
		rates = updates(f.recipe.LR, f.recipe.Momentum, f.recipe.WeightDecay)
		steps = planned(f.trainJob(f.recipe, f.rest, data.PartRetain, nil))
		if f.cache.Has(oracleCache, f.oracleKey()) {
			steps = "none: the cache has the network of " + steps
		}
	} else if ladder := f.method.Ladder; ladder != nil {
		steps = "at most " + Counted(ladder.Rungs, "step")
		rates = fmt.Sprintf("noise of %.4g to %.4g times the root mean square of each tensor", ladder.Length(0), ladder.Length(ladder.Rungs-1))
	} else {
		rates = updates(f.loop.LR, f.loop.Momentum, f.loop.WeightDecay)
		steps = fmt.Sprintf("at most %s of %s", Counted(f.loop.Passes(), "pass"), Counted(f.loop.StepsOfPass(f.method, driving), "step"))
	}
	if f.loop.MaxSteps > 0 {
		steps += ", and at most " + Counted(f.loop.MaxSteps, "step")
	}
	return f.planRun(f.o.FolderOptions, f.allInputs(), append(rows,
		[2]string{"forget", fmt.Sprintf("%s, goal %s", Counted(k, "image"), f.loop.Goal)},
		[2]string{"steps", steps},
		[2]string{"update", rates},
		[2]string{"scores", fmt.Sprintf("%s to forget, %d retained, %s, before and after",
			Counted(k, "image"), len(f.limited(f.rest)), Counted(len(f.limited(data.All(f.desk.test.Len()))), "test image"))})...)
}

func (f *forgetting) run(ctx context.Context) (*Result, error) {
	folder, checkpoint, err := f.open(f.o.FolderOptions)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	f.folder = folder
	inputs := f.allInputs()
	if f.saver, err = f.newSaver(ctx, folder, f.o.FolderOptions, inputs, checkpoint); err != nil {
		return nil, err
	}
	if err := f.set.Write(folder.Path("forget.json")); err != nil {
		return nil, err
	}
	var saved []nn.Named
	if checkpoint != nil {
		if err := checkpoint.CheckInputs(inputs); err != nil {
			return nil, err
		}
		if err := checkpoint.Decode(&f.state); err != nil {
			return nil, err
		}
		if saved, err = tensorsOf(checkpoint); err != nil {
			return nil, err
		}
		if err := folder.takeBack(); err != nil {
			return nil, err
		}
	}
	if err := f.openViews(); err != nil {
		return nil, err
	}
	if err := f.drawImages(); err != nil {
		return nil, err
	}
	res, err := f.stages(ctx, saved)
	if err != nil {
		return nil, f.interrupted(ctx, err)
	}
	return f.finish(ctx, res)
}

// interrupted saves what was done if a signal stopped a stage that does not save by itself, and returns the error of the
// job. Before the first scores are taken there is nothing to save.
func (f *forgetting) interrupted(ctx context.Context, err error) error {
	stop := interrupted(ctx, f.saver.last, err)
	if stopped := (*Stopped)(nil); !errors.As(stop, &stopped) || f.saver.last != "" || f.state.Before == nil {
		return stop
	}
	if err := f.saver.save(0, true, nil, &f.state); err != nil {
		return err
	}
	return interrupted(ctx, f.saver.last, err)
}

// allInputs are the hashes that a resumed run must find again.
func (f *forgetting) allInputs() map[string]string {
	inputs := f.inputs(f.set)
	if f.omega != nil {
		inputs["importance"] = f.omega.Hash()
	}
	return inputs
}

// openViews puts the data on the device.
func (f *forgetting) openViews() (err error) {
	f.meter = data.NewMeter(f.turn.regime(f.method.Regime), f.state.Reads)
	f.training = f.loader(f.train)
	source := f.training
	if f.pool != nil {
		source = f.pool.loader
	}
	x, _ := source.Gather(f.set.Indices)
	if x, err = f.once(data.PhaseUnlearn, f.set.Indices, x); err != nil {
		return err
	}
	y := f.labels(f.set.Labels)
	f.images = &unlearn.Examples{X: x, Y: y, Part: data.PartForget, Meter: f.meter}
	f.wanted = f.images
	if f.loop.Goal == unlearn.Relabel {
		f.wanted = &unlearn.Examples{X: x, Y: f.labels(f.set.Targets), Part: data.PartForget, Meter: f.meter}
	}
	f.openEarlier()
	f.tested = f.passing(data.PhaseStopCheck, data.PartForget, f.set.Indices, f.wanted.Y, f.wanted)
	if len(f.rest) > 0 {
		f.retain = f.training.View(data.PartRetain, f.limited(f.rest), f.meter)
	}
	f.test = f.loader(f.desk.test).View(data.PartTest, f.limited(data.All(f.desk.test.Len())), f.meter)
	return nil
}

// labels puts labels on the device.
func (f *forgetting) labels(of []int) torch.Tensor {
	values := make([]int64, len(of))
	for i, y := range of {
		values[i] = int64(y)
	}
	return torch.FromSlice(values).To(f.device, torch.Long)
}

// enter begins a phase of the run, in which reads are counted.
func (f *forgetting) enter(phase data.Phase) {
	f.desk.enter(phase)
	f.meter.Enter(phase)
}

// stages does what is left of the work, in order.
func (f *forgetting) stages(ctx context.Context, saved []nn.Named) (*unlearn.Result, error) {
	f.enter(data.PhaseBefore)
	if f.state.Before == nil {
		before, said, err := f.scores(ctx, "before", f.cachedScore)
		if err != nil {
			return nil, err
		}
		if f.state.Pool, err = f.poolBefore(ctx); err != nil {
			return nil, err
		}
		f.state.Before, f.state.Said, f.state.Reads = before, said, f.meter.Reads()
		if f.state.Cached != nil {
			f.Console.Log().Info().Strs("scores", f.state.Cached).Msg("scores before taken from the cache")
		}
	}
	if f.state.Ended != nil { // only the scores after were missing
		return f.state.Ended, f.put(saved)
	}
	if f.method.Scratch {
		return f.retrain(ctx, saved)
	}
	task := &unlearn.Task{
		Net: f.net, Classes: len(f.train.Classes), Forget: f.wanted, Meter: f.meter, EvalBatch: f.batch(),
		Seed: f.compute.Seed, Resume: f.state.Loop, Judged: f.judged(),
	}
	if f.mode != engine.Reference { // which goes operator by operator, and whose log is compared step by step
		task.Witness, task.Graphs = !f.feed.Augment, cuda.NewRecorder(f.device)
	}
	if f.state.Loop != nil {
		f.state.Loop.Tensors = saved
	}
	if !f.state.Tested && f.loop.LooksFirst(f.method) {
		met, err := f.goalHolds(ctx)
		if err != nil {
			return nil, err
		}
		if met { // nothing to attack, nothing to learn
			return &unlearn.Result{Outcome: unlearn.Already}, nil
		}
		f.state.Tested, f.state.Reads = true, f.meter.Reads()
	}
	err := f.atAnchor(task, func() error {
		if err := f.drive(ctx, task, saved); err != nil {
			return err
		}
		f.thaw()
		return f.anchor(ctx, task)
	})
	if err != nil {
		return nil, err
	}
	return f.unlearn(ctx, task)
}

// goalHolds tests the goal before anything is done. That of misclassifying is told by the scores before.
func (f *forgetting) goalHolds(ctx context.Context) (bool, error) {
	if s := f.state.Before.Forget; f.loop.Goal == unlearn.Misclassify && !f.turn.judgesAll() {
		return f.loop.Goal.Met(s.Hits, s.N), nil
	}
	left := f.meter.Enter(data.PhaseStopCheck)
	defer f.meter.Enter(left)
	s, err := metrics.Evaluate(ctx, f.frozen().Logits, f.judged(), f.batch(), nil)
	return f.loop.Goal.Met(s.Hits, s.N), err
}

// drive gives the task the images that drive it.
func (f *forgetting) drive(ctx context.Context, task *unlearn.Task, saved []nn.Named) error {
	switch f.method.Driver {
	case unlearn.ByRetain:
		task.Driver = f.passing(data.PhaseUnlearn, data.PartRetain, f.rest, torch.Tensor{}, f.training.View(data.PartRetain, f.rest, f.meter))
	case unlearn.ByAdversarial:
		f.enter(data.PhaseAttack)
		began := earlier(time.Now(), f.state.Seconds.Attack)
		if !f.state.Read { // the images of an attack that goes on were counted when it began
			if err := f.meter.Read(data.PartForget, f.images.Len()); err != nil {
				return err
			}
			f.state.Read, f.state.Reads = true, f.meter.Reads()
		}
		x, err := f.once(data.PhaseAttack, f.set.Indices, f.images.X)
		if err != nil {
			return err
		}
		c := &crafting{
			desk: &f.desk, job: f.attackJob(f.attack, f.loop.ForgetBatch, f.set, x, f.state.AtOnce), forget: f.set, folder: f.folder,
			unfinished: f.unfinished(saved), seconds: f.state.Seconds.Attack,
		}
		c.saved = func(set *attack.Set) error {
			f.state.Pairs, f.state.Made, f.state.AtOnce = set.Pairs, set.Done, c.job.Chunk.N()
			f.state.Seconds.Attack, f.state.Reads = c.seconds, f.meter.Reads()
			// A cadence in steps counts each chunk as one.
			return f.saver.save(0, ctx.Err() != nil || f.saver.cadence.Steps > 0, madeTensors(set), &f.state)
		}
		set, err := c.run(ctx)
		if err != nil {
			return err
		}
		f.crafted = set
		f.state.Seconds.Attack = time.Since(began).Seconds()
		switch c.from {
		case made:
			f.state.Crafted = c.seconds
		case fromCache:
			f.state.Crafted, f.state.Cached = c.seconds, append(f.state.Cached, "attack")
		case fromFolder:
			f.state.Crafted = cmp.Or(f.state.Crafted, f.state.Seconds.Attack)
		}
		f.state.Pairs, f.state.Made = set.Pairs, 0 // all of it is in a file of its own
		if err := f.drawExamples(set, x); err != nil {
			return err
		}
		task.Driver = &unlearn.Examples{X: set.X, Y: set.Targets().To(f.device, torch.Long)}
	case unlearn.ByForget:
	}
	return nil
}

// unfinished is the part of the attack that an interrupted run had made, or nil.
func (f *forgetting) unfinished(saved []nn.Named) *attack.Set {
	x, ok := named(saved, "x_adv")
	if !ok || f.state.Made == 0 {
		return nil
	}
	return attack.Resumed(f.state.Pairs, f.here(x))
}

// anchor gives the task the weights Ω̄ of the penalty, or those of a ladder, from the run folder where they are there already.
func (f *forgetting) anchor(ctx context.Context, task *unlearn.Task) error {
	if !f.weighs() {
		return nil
	}
	f.enter(data.PhaseImportance)
	began := time.Now()
	trained := unlearn.Trainable(f.net, f.loop.BN)
	omega, err := f.importances(ctx, trained)
	if err != nil {
		return err
	}
	task.Anchors = f.importance.Anchors(omega)
	if f.state.Anchors == nil {
		anchors := summarize(task.Anchors)
		f.state.Anchors = &anchors
	}
	f.state.Seconds.Importance += time.Since(began).Seconds()
	return nil
}

// importances returns Ω of the trained parameters, and keeps it in the run folder, so that a resumed run reads no image twice.
func (f *forgetting) importances(ctx context.Context, trained []nn.Named) ([]torch.Tensor, error) {
	x, err := f.once(data.PhaseImportance, f.set.Indices, f.images.X)
	if err != nil {
		return nil, err
	}
	w := &weighing{
		desk: &f.desk, options: f.importance, params: trained, forget: f.set, slice: f.loop.ForgetBatch,
		images: &unlearn.Examples{X: x, Y: f.images.Y, Part: data.PartForget, Meter: f.meter}, path: f.folder.Path("importance.safetensors"),
	}
	if f.state.Loop != nil {
		if omega, err := w.read(); err == nil {
			return omega, nil
		}
	}
	if f.omega != nil {
		omega, err := w.unpack(f.omega)
		if err != nil {
			return nil, Inputf("--importance %s: %w", f.importance.Kind, err)
		}
		return omega, w.write(omega, f.omega.Metadata["estimator"])
	}
	omega, err := w.run(ctx)
	if w.cached {
		f.state.Cached = append(f.state.Cached, "importance")
	}
	return omega, err
}

// unlearn runs the loop.
func (f *forgetting) unlearn(ctx context.Context, task *unlearn.Task) (*unlearn.Result, error) {
	f.enter(data.PhaseUnlearn)
	progress := f.Console.Progress("unlearn", "steps", 0)
	defer progress.Done()
	counted := "" // what was counted last, and when
	task.Observe = func(r unlearn.Record) {
		note := fmt.Sprintf("loss %.4g", r.Loss)
		values := map[string]Number{"loss": Number(r.Loss), "forget_loss": Number(r.ForgetLoss), "n_forget": Number(r.NForget)}
		if f.method.Ladder != nil {
			note = fmt.Sprintf("σ %.4g", r.Sigma)
			values = map[string]Number{"sigma": Number(r.Sigma)}
		}
		if r.Hits >= 0 {
			now := ", " + f.loop.Goal.Progress(r.Hits, int64(f.judged().Len()))
			note += now
			counted = fmt.Sprintf("%s after step %d", now, r.Step)
		} else {
			note += counted
		}
		progress.Note(note)
		progress.Set(int64(r.Step))
		if r.NDriver > 0 {
			values["driver_loss"], values["n_driver"] = Number(r.DriverLoss), Number(r.NDriver)
		}
		if r.Hits >= 0 {
			values["hits"] = Number(r.Hits)
		}
		if r.Witness >= 0 {
			values["witness"] = Number(r.Witness)
		}
		f.Console.Emit(Metric{Phase: "unlearn", Step: int64(r.Step), Values: values})
	}
	task.Save = func(s *unlearn.State, force bool) error {
		f.state.Loop, f.state.Seconds.Unlearn, f.state.Reads = s, s.Seconds, f.meter.Reads()
		return f.saver.save(int64(s.Step), force, s.Tensors, &f.state)
	}
	if f.state.Loop != nil {
		progress.Set(int64(f.state.Loop.Step))
	}
	defer engine.Accelerate(f.net, f.mode)()
	res, err := unlearn.Forget(ctx, f.method, task, &f.loop)
	if err != nil {
		return nil, err
	}
	f.state.Seconds.Unlearn = res.Seconds
	if res.NoGraph != "" {
		f.Console.Log().Info().Str("reason", res.NoGraph).Msg("unlearning steps are queued operator by operator, without a CUDA graph: same bits, but slower")
	}
	if res.Outcome == unlearn.Interrupted {
		return nil, context.Cause(ctx)
	}
	return res, nil
}

// put sets the network to saved tensors.
func (f *forgetting) put(saved []nn.Named) error {
	f.thaw()
	return nn.Restore(f.net, nn.Pack(saved), false)
}

// scores measures the network on D_f, D_r and D_test.
func (f *forgetting) scores(ctx context.Context, phase string, measure func(ctx context.Context, phase string, p part) (scored, error)) (*Scores, []Prediction, error) {
	began := time.Now()
	first := measure
	if f.pool != nil { // whose labels are predictions, and not those of the files that the cache knows
		first = f.measured
	}
	seen := func(name data.Part, indices []int, plain metrics.Images) metrics.Images {
		return f.passing(data.Phase(phase), name, indices, torch.Tensor{}, plain)
	}
	forget, err := first(ctx, phase, part{data.PartForget, "D_f", f.train, f.set.Indices, seen(data.PartForget, f.set.Indices, f.images)})
	if err != nil {
		return nil, nil, err
	}
	s := &Scores{Forget: forget.Score}
	if f.retain != nil {
		retain, err := measure(ctx, phase, part{data.PartRetain, "D_r", f.train, f.retain.Indices(), seen(data.PartRetain, f.retain.Indices(), f.retain)})
		if err != nil {
			return nil, nil, err
		}
		s.Retain = &retain.Score
	}
	test, err := measure(ctx, phase, part{data.PartTest, "D_test", f.desk.test, f.test.Indices(), f.test})
	if err != nil {
		return nil, nil, err
	}
	s.Test = &test.Score
	f.state.Seconds.Eval += time.Since(began).Seconds()
	return s, forget.Said, nil
}

// part is images to score.
type part struct {
	name    data.Part
	symbol  string
	set     *data.Set
	indices []int // in set
	images  metrics.Images
}

// measured scores the network as it is now.
func (f *forgetting) measured(ctx context.Context, phase string, p part) (scored, error) {
	if p.name == data.PartForget {
		return f.predicted(ctx, phase+": "+p.symbol, p.images)
	}
	score, err := f.score(ctx, phase+": "+p.symbol, p.images)
	return scored{Score: score}, err
}

const scoreCache = "scores"

// cachedScore scores the network as it was read, once for all runs: the same weights, images and settings give the same
// score, bit for bit.
func (f *forgetting) cachedScore(ctx context.Context, phase string, p part) (score scored, err error) {
	size := f.batch().N()
	of := map[string]any{
		"schema": "unlearn.score/2", "weights": f.weights.Hash(), "data": p.set.Fingerprint(), "indices": p.indices, "batch_size": size,
	}
	if f.feed.Augment { // which crops differently in each role
		of["part"] = p.name
	}
	key := f.key(of)
	found, err := f.cache.Get(scoreCache, key, &score, "")
	if err != nil {
		f.Console.Log().Warn().Err(err).Msg("the cache is of no use here")
	}
	if found {
		f.state.Cached = append(f.state.Cached, phase+"."+string(p.name))
		return score, nil
	}
	if score, err = f.measured(ctx, phase, p); err != nil {
		return scored{}, err
	}
	if loss := float64(*score.Loss); math.IsNaN(loss) || math.IsInf(loss, 0) || f.batch().N() != size {
		return score, nil // JSON has no such number, or memory ran out and it is no score of this size
	}
	if err := f.cache.Put(scoreCache, key, score, ""); err != nil {
		f.Console.Log().Info().Err(err).Msg("the scores are not cached")
	}
	return score, nil
}

// plainModel is the file of the weights that a run ends with, unless they are to have another container.
const plainModel = "model.safetensors"

// finish measures, writes the weights and the result, and turns an outcome that is no success into an error.
func (f *forgetting) finish(ctx context.Context, res *unlearn.Result) (*Result, error) {
	f.enter(data.PhaseAfter)
	f.state.Reads = f.meter.Reads()
	if res.Outcome != unlearn.Capped { // which another cap may move: that run goes on from the loop's own checkpoint
		f.state.Ended = res
	}
	after, said, err := f.afterwards(ctx, res)
	if err != nil {
		if StopCause(ctx, "") != nil { // nothing but this was left to do
			if f.state.Ended != nil {
				if err := f.saver.save(int64(res.Steps), true, f.net.Root().StateDict(), &f.state); err != nil {
					return nil, err
				}
			}
			return nil, StopCause(ctx, f.saver.last)
		}
		return nil, err
	}
	name, file := plainModel, f.snapshot()
	if res.Outcome == unlearn.Diverged {
		name = "model-last-finite.safetensors"
	} else if f.o.SaveFormat == "same" {
		file.Format = f.weights.Format
		if style := f.origin.Keys; style != "" {
			var err error
			if file, err = keys.Convert(file, style); err != nil {
				return nil, err
			}
		}
		name = "model." + string(file.Format.Container)
	}
	if name != f.written {
		if err := ckpt.Save(f.folder.Path(name), file); err != nil {
			return nil, err
		}
	}
	f.Console.Log().Info().Msgf("the weights are in %s", f.folder.Path(name))
	if err := f.savePredictions(said); err != nil {
		return nil, err
	}
	f.warnOfCollapse(after)
	result := f.result(res, after)
	if err := f.conclude(f.folder, result, res.Outcome); err != nil {
		return nil, err
	}
	switch res.Outcome {
	case unlearn.Diverged:
		return result, fmt.Errorf("diverged: %s", res.Reason)
	case unlearn.Capped:
		flag, _, _ := strings.Cut(res.Reason, " ")
		advice := fmt.Sprintf("Go on with `%s %s N`, N higher than that", f.folder.again(), flag)
		if ladder := f.method.Ladder; ladder != nil && res.Steps == ladder.Rungs {
			advice = "Another --seed draws other noise"
		}
		return result, NotReachedf("the goal was not reached: %s after %s (%s); the weights are written. %s",
			result.Progress(), Counted(res.Steps, "step"), res.Reason, advice)
	default:
		return result, nil
	}
}

// afterwards scores the network that the run ends with.
func (f *forgetting) afterwards(ctx context.Context, res *unlearn.Result) (after *Scores, said []Prediction, err error) {
	after, said = f.state.Before, f.state.Said
	if res.Outcome != unlearn.Already {
		if after, said, err = f.scores(ctx, "after", f.measured); err != nil {
			return nil, nil, err
		}
	}
	if err := f.poolAfter(ctx); err != nil {
		return nil, nil, err
	}
	return after, said, f.scoreEarlier(ctx)
}

// warnOfCollapse says that the network forgot what it was to keep: more than half of its lead over guessing is gone. That is
// a measure for any number of classes: of two, a network that answers one of them always still has half of the images right.
func (f *forgetting) warnOfCollapse(after *Scores) {
	if f.method.Scratch { // trained anew, so nothing was unlearned
		return
	}
	chance := 1 / float64(len(f.train.Classes))
	for _, s := range []struct {
		symbol        string
		before, after *Score
	}{{"D_r", f.state.Before.Retain, after.Retain}, {"D_test", f.state.Before.Test, after.Test}} {
		if s.before == nil || !(s.before.Accuracy > chance) || (s.after.Accuracy-chance) >= (s.before.Accuracy-chance)/2 {
			continue
		}
		advice := "or fewer images at once"
		if f.method.Ladder == nil {
			advice = "a lower --lr, " + advice
		}
		if f.method.Name != "adv-imp" {
			advice = "--method adv-imp, " + advice
		}
		f.Console.Warn(fmt.Sprintf("the network lost more than it was to forget: its accuracy on %s fell from %.4g to %.4g (chance is %.4g); try %s",
			s.symbol, s.before.Accuracy, s.after.Accuracy, chance, advice))
		return
	}
}

func (f *forgetting) result(res *unlearn.Result, after *Scores) *Result {
	penalty, distance := Number(res.Penalty), Number(res.Distance)
	reads := f.meter.Reads()
	r := &Result{
		Schema: ResultSchema, Name: f.o.Name, Tags: f.o.Tags, Model: f.model.Model, Origin: f.origin, Dataset: f.train.Dataset,
		Method: f.method.Title(), Goal: string(f.loop.Goal), Outcome: res.Outcome, Reached: f.met(after, res),
		Steps: int64(res.Steps), Passes: int64(res.Passes), Seconds: f.state.Seconds, Before: f.state.Before, After: after,
		Forget:     identify(f.set),
		Hashes:     Hashes{Weights: f.weights.Hash(), Data: f.train.Fingerprint(), Config: f.folder.ConfigHash()},
		DataAccess: DataAccess{Reads: reads},
		Anchors:    f.state.Anchors, Oracle: f.state.Oracle, Cached: f.state.Cached,
		Penalty: &penalty, Distance: &distance, PeakMemory: peakMemory(), Device: f.device.String(), Precision: f.precision(), Mode: f.mode, Fallback: f.noteFallback(),
		Threads: f.compute.Threads, Seed: f.compute.Seed, Limited: f.eval.Limit != "", Compat: f.compat(), Preprocess: f.prepared(), Guessed: f.guessed, Warnings: f.warnings, Versions: CurrentVersions(),
	}
	if f.turn != nil {
		r.Request = &f.turn.result
	}
	r.Pool = f.state.Pool
	hits := f.goalHits(after, res)
	r.GoalHits = &hits
	for phase, parts := range reads {
		if phase != data.PhaseBefore && phase != data.PhaseAfter && parts[data.PartRetain] > 0 {
			r.DataAccess.RetainDuringUnlearning = true
		}
	}
	if f.method.Driver == unlearn.ByAdversarial && len(f.state.Pairs) > 0 {
		set := attack.Set{Pairs: f.state.Pairs, Done: len(f.state.Pairs)}
		r.Attack = &AttackSummary{set.Summary(f.set.Labels), f.attack.Store, f.state.Crafted}
	}
	r.Seconds.Total = math.Max(time.Since(f.began).Seconds(), r.Seconds.Attack+r.Seconds.Importance+r.Seconds.Unlearn+r.Seconds.Eval)
	return r
}

// goalHits counts the images that the goal is about.
func (f *forgetting) goalHits(after *Scores, res *unlearn.Result) int64 {
	switch {
	case f.loop.Goal == unlearn.Misclassify && (f.method.Scratch || res.Outcome == unlearn.Already):
		return after.Forget.Hits
	case res.Outcome == unlearn.Already:
		return int64(f.judged().Len())
	default:
		return res.Hits
	}
}

// met reports whether the goal holds at the end. Retraining does not aim at it.
func (f *forgetting) met(after *Scores, res *unlearn.Result) bool {
	if f.method.Scratch {
		return after.Forget.Hits == 0
	}
	return res.Outcome == unlearn.Reached || res.Outcome == unlearn.Already
}
