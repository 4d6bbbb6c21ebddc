package run

import (
	"context"
	"fmt"
	"time"

	"l2ul/torch"
	"l2ul/torch/cuda"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
	"l2ul/unlearn/importance"
)

// AttackResult is result.json of `unlearn attack`; the examples are in adversarial.safetensors.
type AttackResult struct {
	About
	Summary AttackSummary `json:"attack"`
	Cached  []string      `json:"cached,omitempty"` // ["attack"] if the examples are those of an earlier run
	Forget  ForgetSet     `json:"forget"`
	Seconds float64       `json:"seconds"`
}

// attackState is the job's own part of a checkpoint; the first Made examples are in the tensor file.
type attackState struct {
	Pairs   []attack.Pair `json:"pairs"`
	Made    int           `json:"made"`
	AtOnce  int           `json:"at_once"` // pairs that were attacked at once
	Seconds float64       `json:"seconds"` // spent on the attack, by all processes
}

// Attack makes adversarial examples of a forget set and writes the run folder. The result is nil for a dry run.
func Attack(ctx context.Context, inv Invocation) (result *AttackResult, err error) {
	d := &desk{Invocation: inv}
	var o AttackOptions
	var settings attack.Options
	if err := inv.Config.Decode(&o); err != nil {
		return nil, err
	}
	if err := inv.Config.Decode(&settings); err != nil {
		return nil, err
	}
	d.model, d.source, d.compute, d.mode = o.ModelOptions, o.DataOptions, o.ComputeOptions, engine.Mode(o.Mode)
	d.clip, d.fed = settings.Clip, o.FeedOptions
	err = d.onDevice(o.ComputeOptions, func() error {
		defer d.close()
		forget, err := d.loadForgetSet(ctx, o.Forget, "train", "test")
		if err != nil {
			return err
		}
		if err := d.prepareAttack(&settings, forget); err != nil {
			return err
		}
		if o.DryRun {
			n, err := d.pairCount(&settings, forget)
			if err != nil {
				return err
			}
			return d.planRun(o.FolderOptions, d.inputs(forget), [2]string{"attack", fmt.Sprintf("%s of %s, %s each", Counted(n, "pair"), Counted(len(forget.Indices), "image"), Counted(settings.Iters, "iteration"))})
		}
		result, err = d.attackRun(ctx, o, settings, forget)
		return err
	})
	return result, interrupted(ctx, "", err)
}

// prepareAttack refuses an attack that this data does not allow, warns of what is odd about its settings, and reads --pairs.
func (d *desk) prepareAttack(o *attack.Options, forget *data.ForgetSet) (err error) {
	classes := len(d.train.Classes)
	switch {
	case o.Targeted && classes < 2:
		return Usagef("the attack aims at another class, and %s has only %s", d.source.Dataset, d.train.Classes[0])
	case o.Exclude == excludeGoal && len(forget.Targets) == 0:
		return Usagef("--target-exclude goal: the images to forget have no new labels; use --goal relabel")
	case o.Exclude == excludeGoal && classes < 3:
		return Usagef("--target-exclude goal: %s has two classes, the label and the new label; none is left to aim at", d.source.Dataset)
	}
	if err := o.CheckCompat(forget.Labels, classes, d.device); err != nil {
		return Usagef("%w", err)
	}
	for _, w := range o.Warnings() {
		d.Console.Warn(w)
	}
	if o.Pairs != "" {
		d.pairs, err = d.loadPairs(o.Pairs, forget)
		return err
	}
	d.larger, err = d.subset(o, forget)
	return err
}

// pairCount is how many pairs the attack on a forget set has.
func (d *desk) pairCount(o *attack.Options, forget *data.ForgetSet) (int, error) {
	if d.pairs != nil {
		return len(d.pairs.pairs), nil
	}
	n, err := o.Repeats(max(len(forget.Indices), len(d.larger)))
	return n * len(forget.Indices), err
}

// checkImportance refuses slices of the k images to forget that the network cannot normalise.
func (d *desk) checkImportance(o *importance.Options, k, slice int) error {
	if o.Kind != "mas-batch" || o.BN == "eval" {
		return nil
	}
	if err := unlearn.CheckSlices(d.net, d.blank(), k, slice); err != nil {
		return fmt.Errorf("--importance mas-batch: %w", err)
	}
	return nil
}

// blank is an image like those of the data, to try a network with.
func (d *desk) blank() torch.Tensor {
	return d.here(torch.Zeros([]int64{1, int64(d.train.C), int64(d.train.H), int64(d.train.W)}, false))
}

// here puts images where the network computes, in the layout it wants.
func (d *desk) here(x torch.Tensor) torch.Tensor {
	return x.To(d.device, x.Dtype()).Contiguous(d.format())
}

// loadForgetSet reads splits, as openData, and weights and resolves the forget set.
func (d *desk) loadForgetSet(ctx context.Context, text string, splits ...string) (*data.ForgetSet, error) {
	if err := d.openData(ctx, splits...); err != nil {
		return nil, err
	}
	set, err := d.forgetSet(text)
	if err != nil {
		return nil, err
	}
	return set, d.load(ctx)
}

func (d *desk) attackRun(ctx context.Context, o AttackOptions, settings attack.Options, forget *data.ForgetSet) (*AttackResult, error) {
	began := time.Now()
	folder, checkpoint, err := d.open(o.FolderOptions)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	inputs := d.inputs(forget)
	saver, err := d.newSaver(ctx, folder, o.FolderOptions, inputs, checkpoint)
	if err != nil {
		return nil, err
	}
	if err := forget.Write(folder.Path("forget.json")); err != nil {
		return nil, err
	}
	x, _ := d.loader(d.train).Gather(forget.Indices)
	if x, err = d.once(data.PhaseAttack, forget.Indices, x); err != nil {
		return nil, err
	}
	c := &crafting{desk: d, forget: forget, folder: folder}
	c.saved = func(set *attack.Set) error {
		state := attackState{set.Pairs, set.Done, c.job.Chunk.N(), c.seconds}
		return saver.save(int64(set.Done), ctx.Err() != nil, madeTensors(set), state)
	}
	var state attackState
	if checkpoint != nil {
		if err := checkpoint.CheckInputs(inputs); err != nil {
			return nil, err
		}
		if err := checkpoint.Decode(&state); err != nil {
			return nil, err
		}
		tensors, err := tensorsOf(checkpoint)
		if err != nil {
			return nil, err
		}
		if x, ok := named(tensors, "x_adv"); ok {
			c.unfinished = attack.Resumed(state.Pairs, d.here(x))
		}
		c.seconds, began = state.Seconds, earlier(began, state.Seconds)
	}
	c.job = d.attackJob(settings, o.ForgetBatch, forget, x, state.AtOnce)
	d.enter(data.PhaseAttack)
	set, err := c.run(ctx)
	if err != nil {
		return nil, interrupted(ctx, saver.last, err)
	}
	defer set.Free()
	result := &AttackResult{
		About:   d.about("unlearn.attack/1", "attacked", o.FolderOptions, folder, d.weights.Hash()),
		Summary: AttackSummary{set.Summary(forget.Labels), settings.Store, c.seconds}, Forget: identify(forget), Seconds: time.Since(began).Seconds(),
	}
	if c.from == fromCache {
		result.Cached = []string{"attack"}
	}
	return result, d.conclude(folder, result, unlearn.Outcome(result.Outcome))
}

// ImportanceResult is result.json of `unlearn importance`; Ω is in importance.safetensors under the parameters' names.
type ImportanceResult struct {
	About
	Estimator string        `json:"estimator"`
	Anchors   AnchorSummary `json:"anchors"`
	Cached    []string      `json:"cached,omitempty"` // ["importance"] if it is that of an earlier run
	Forget    ForgetSet     `json:"forget"`
	Seconds   float64       `json:"seconds"`
}

// Importance estimates the importance of all parameters for a forget set and writes the run folder. The result is nil for a
// dry run.
func Importance(ctx context.Context, inv Invocation) (result *ImportanceResult, err error) {
	d := &desk{Invocation: inv}
	var o ImportanceOptions
	var settings importance.Options
	if err := inv.Config.Decode(&o); err != nil {
		return nil, err
	}
	if err := inv.Config.Decode(&settings); err != nil {
		return nil, err
	}
	if path := settings.File(); path != "" {
		return nil, Usagef("--importance %s: this verb makes such a file; name an estimator", path)
	}
	d.model, d.source, d.compute, d.fed = o.ModelOptions, o.DataOptions, o.ComputeOptions, o.FeedOptions
	err = d.onDevice(o.ComputeOptions, func() error {
		defer d.close()
		forget, err := d.loadForgetSet(ctx, o.Forget, "train", "test")
		if err != nil {
			return err
		}
		if err := d.checkImportance(&settings, len(forget.Indices), o.ForgetBatch); err != nil {
			return err
		}
		if o.DryRun {
			return d.planRun(o.FolderOptions, nil, [2]string{"importance", fmt.Sprintf("%s over %s", settings.Kind, Counted(len(forget.Indices), "image"))})
		}
		result, err = d.importanceRun(ctx, o, settings, forget)
		return err
	})
	return result, interrupted(ctx, "", err)
}

func (d *desk) importanceRun(ctx context.Context, o ImportanceOptions, settings importance.Options, forget *data.ForgetSet) (*ImportanceResult, error) {
	began := time.Now()
	folder, _, err := d.open(o.FolderOptions)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	if err := forget.Write(folder.Path("forget.json")); err != nil {
		return nil, err
	}
	x, y := d.loader(d.train).Gather(forget.Indices)
	if x, err = d.once(data.PhaseImportance, forget.Indices, x); err != nil {
		return nil, err
	}
	params := unlearn.Trainable(d.net, unlearn.BNTrain)
	d.enter(data.PhaseImportance)
	w := &weighing{
		desk: d, options: settings, params: params, forget: forget, images: &unlearn.Examples{X: x, Y: y}, slice: o.ForgetBatch,
		path: folder.Path("importance.safetensors"),
	}
	omega, err := w.run(ctx)
	if err != nil {
		return nil, interrupted(ctx, "", err)
	}
	result := &ImportanceResult{
		About:     d.about(importanceSchema, "estimated", o.FolderOptions, folder, d.weights.Hash()),
		Estimator: settings.Kind, Anchors: summarize(settings.Anchors(omega)), Forget: identify(forget),
		Seconds: time.Since(began).Seconds(),
	}
	if w.cached {
		result.Cached = []string{"importance"}
	}
	return result, d.conclude(folder, result, unlearn.Outcome(result.Outcome))
}

// estimate runs an estimator with progress.
func (d *desk) estimate(ctx context.Context, o importance.Options, params []nn.Named, images *unlearn.Examples, slice int) ([]torch.Tensor, error) {
	job := &importance.Job{Net: d.net, Images: images, Slice: slice, Seed: d.compute.Seed, Options: o}
	for _, p := range params {
		job.Params = append(job.Params, p.Tensor)
	}
	if d.mode != engine.Reference {
		job.Graphs = cuda.NewRecorder(d.device)
	}
	progress := d.Console.Progress("importance", "images", int64(images.Len()))
	defer progress.Done()
	omega, err := job.Run(ctx, func(done int) { progress.Set(int64(done)) })
	if job.NoGraph != "" {
		d.Console.Log().Info().Str("reason", job.NoGraph).Msg("gradients for the importance are queued operator by operator, without a CUDA graph: same bits, but slower")
	}
	return omega, err
}

// summarize describes Ω̄ over all parameters.
func summarize(anchors []torch.Tensor) (s AnchorSummary) {
	torch.Scope(func() {
		flat := make([]torch.Tensor, len(anchors))
		for i, t := range anchors {
			flat[i] = t.Reshape(-1)
		}
		all := torch.Cat(flat, 0)
		s = AnchorSummary{
			Min: Number(all.Min().Item()), Median: Number(opMedian.One(all).Item()), Mean: Number(all.CastTo(torch.Double).Mean().Item()),
			Max: Number(all.Max().Item()), Ones: all.Eq(all.OnesLike()).CastTo(torch.Double).Mean().Item(),
		}
	})
	return s
}

var opMedian = torch.Define("aten::median(Tensor self) -> Tensor")

// inputs are the hashes that a resumed job must find again.
func (d *desk) inputs(forget *data.ForgetSet) map[string]string {
	inputs := map[string]string{"weights": d.weights.Hash(), "data": d.train.Fingerprint(), "forget set": forget.Hash()}
	if d.pairs != nil {
		inputs["pairs"] = d.pairs.hash
	}
	return inputs
}

// conclude writes the result and says so.
func (inv *Invocation) conclude(f *Folder, result any, outcome unlearn.Outcome) error {
	if err := f.Finish(result, outcome); err != nil {
		return err
	}
	inv.Console.Emit(Summary{Folder: f.Path(), Result: result})
	return nil
}

// identify names a forget set in a result.
func identify(set *data.ForgetSet) ForgetSet {
	out := ForgetSet{Hash: set.Hash(), Spec: set.Spec}
	for _, i := range set.Indices {
		out.Indices = append(out.Indices, int64(i))
	}
	return out
}
