package run

import (
	"context"
	"fmt"
	"slices"
	"time"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
	"l2ul/unlearn/seed"
	"l2ul/unlearn/train"
)

// TrainSchema is the schema name of TrainResult.
const TrainSchema = "unlearn.train/1"

// TrainResult is result.json of `unlearn train`.
type TrainResult struct {
	About
	Steps   int64       `json:"steps"`
	Epochs  int64       `json:"epochs"`
	Train   Score       `json:"train"`         // of the images that were trained on
	Val     *Score      `json:"val,omitempty"` // of those held out
	Test    Score       `json:"test"`
	Best    *train.Best `json:"best,omitempty"` // the epoch of model-best.safetensors
	Seconds Seconds     `json:"seconds"`
	Limited bool        `json:"limited"`
}

// trainState is the job's own part of a checkpoint.
type trainState struct {
	Loop *train.State `json:"loop"`
}

// Train trains a network, from --weights or from scratch, and writes the run folder. The result is nil for a dry run.
func Train(ctx context.Context, inv Invocation) (result *TrainResult, err error) {
	d := &desk{Invocation: inv}
	var o TrainOptions
	var recipe train.Options
	if err := inv.Config.Decode(&o); err != nil {
		return nil, err
	}
	if err := inv.Config.Decode(&recipe); err != nil {
		return nil, err
	}
	d.model, d.source, d.compute, d.eval = o.ModelOptions, o.DataOptions, o.ComputeOptions, o.EvalOptions
	d.mode, d.amp = engine.Mode(o.Mode), recipe.AMP
	err = d.onDevice(o.ComputeOptions, func() error {
		defer d.close()
		if err := d.openData(ctx, "train", "test"); err != nil {
			return err
		}
		if err := d.begin(ctx); err != nil {
			return err
		}
		job := d.trainJob(recipe, data.All(d.train.Len()), "", nil)
		if err := d.checkTraining(job); err != nil {
			return err
		}
		if o.DryRun {
			return d.planRun(o.FolderOptions, d.trainInputs(), [2]string{"steps", planned(job)}, [2]string{"update", updates(job.Options.LR, job.Options.Momentum, job.Options.WeightDecay)})
		}
		result, err = d.trainRun(ctx, o, job)
		return err
	})
	return result, interrupted(ctx, "", err)
}

// begin makes the network that training starts from.
func (d *desk) begin(ctx context.Context) error {
	if d.model.Weights != "" {
		return d.load(ctx)
	}
	return d.fresh()
}

// fresh makes the network with weights drawn from the seed.
func (d *desk) fresh() (err error) {
	torch.Scope(func() {
		torch.Seeded(torch.NewGenerator(seed.For(d.compute.Seed, "train/init", 0)), func() { err = d.build(false) })
	})
	return err
}

// trainInputs are the hashes that a resumed training must find again.
func (d *desk) trainInputs() map[string]string {
	inputs := map[string]string{"data": d.train.Fingerprint()}
	if d.weights != nil {
		inputs["weights"] = d.weights.Hash()
	}
	return inputs
}

func (d *desk) trainRun(ctx context.Context, o TrainOptions, job *train.Job) (*TrainResult, error) {
	began := time.Now()
	folder, checkpoint, err := d.open(o.FolderOptions)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	inputs := d.trainInputs()
	saver, err := d.newSaver(ctx, folder, o.FolderOptions, inputs, checkpoint)
	if err != nil {
		return nil, err
	}
	if checkpoint != nil {
		var state trainState
		if err := checkpoint.CheckInputs(inputs); err != nil {
			return nil, err
		}
		if err := checkpoint.Decode(&state); err != nil {
			return nil, err
		}
		if state.Loop.Tensors, err = tensorsOf(checkpoint); err != nil {
			return nil, err
		}
		job.Resume = state.Loop
		began = earlier(began, state.Loop.Seconds)
	}
	if job.Images, err = d.trainOn(ctx, job.Options, func() *data.Loader { return d.loader(d.train) }); err != nil {
		return nil, err
	}
	held := d.held(job.Options)
	if len(held) > 0 {
		job.Val, job.AtOnce = job.Images.View(data.PartVal, held, nil), d.batch()
		d.thaw() // which auto looked at the network for
		job.Validated = func(v train.Validation) error {
			if !v.Best {
				return nil
			}
			return ckpt.Save(folder.Path(bestModel), d.snapshot())
		}
	}
	var best *train.Best
	if job.Resume != nil {
		best = job.Resume.Best
	}
	job.Save = func(s *train.State, force bool) error {
		best = s.Best
		return saver.save(int64(s.Step), force, s.Tensors, trainState{s})
	}
	d.enter("train")
	if err := d.runTraining(ctx, job); err != nil {
		return nil, interrupted(ctx, saver.last, err)
	}
	d.enter(data.PhaseAfter)
	trained := time.Now()
	result := &TrainResult{Steps: int64(job.Steps()), Epochs: int64(job.Options.Epochs), Best: best, Limited: o.Limit != ""}
	if len(held) > 0 {
		result.Val = &Score{}
	}
	for _, part := range []struct {
		images  *data.Loader
		indices []int
		name    string
		score   *Score
	}{
		{job.Images, d.limited(job.Indices), "train", &result.Train},
		{job.Images, held, "val", result.Val},
		{d.loader(d.test), d.limited(data.All(d.test.Len())), "test", &result.Test},
	} {
		if part.score == nil {
			continue
		}
		if *part.score, err = d.score(ctx, part.name, part.images.View("", part.indices, nil)); err != nil {
			return nil, interrupted(ctx, saver.last, err)
		}
	}
	file := d.snapshot()
	if err := ckpt.Save(folder.Path(plainModel), file); err != nil {
		return nil, err
	}
	result.About = d.about(TrainSchema, "trained", o.FolderOptions, folder, file.Hash())
	result.Seconds = Seconds{Total: time.Since(began).Seconds(), Eval: time.Since(trained).Seconds()}
	return result, d.conclude(folder, result, unlearn.Outcome(result.Outcome))
}

// modelKey is where a file of weights names its network.
const modelKey = "model"

// snapshot is the network as a file that says what it is of.
func (d *desk) snapshot() *ckpt.File {
	file := nn.Snapshot(d.net)
	file.Metadata = map[string]string{modelKey: d.model.Model, "dataset": d.train.Dataset, "classes": fmt.Sprint(len(d.train.Classes))}
	return file
}

// bestModel is the file of the weights that scored best on the held-out images.
const bestModel = "model-best.safetensors"

// held are the training images that a recipe holds out.
func (d *desk) held(recipe train.Options) []int {
	if recipe.Val == 0 {
		return nil
	}
	return recipe.HoldOut(d.train.Labels, d.compute.Seed)
}

// trainJob sets up training on some of the training images, but for those that the recipe holds out.
func (d *desk) trainJob(recipe train.Options, indices []int, part data.Part, meter *data.Meter) *train.Job {
	return &train.Job{
		Net: d.net, Indices: without(indices, d.held(recipe)), Part: part, Meter: meter, Options: recipe, Seed: d.compute.Seed,
	}
}

// trainOn brings the images that a recipe trains on to the device. plain does so for those without a margin.
func (d *desk) trainOn(ctx context.Context, recipe train.Options, plain func() *data.Loader) (*data.Loader, error) {
	margin := d.margin(recipe)
	if margin == 0 {
		return plain(), nil
	}
	set, err := d.bordered(ctx, 2*margin)
	if err != nil {
		return nil, err
	}
	set.Margin = margin
	return d.loader(set), nil
}

// margin is how far the crops of a recipe reach beyond the images as they are prepared otherwise. Only the usual preparation of
// the dataset leaves something there.
func (d *desk) margin(recipe train.Options) int {
	if set, _ := data.Lookup(d.source.Dataset); recipe.Augment && set.Preprocess == d.preprocess {
		return set.Margin
	}
	return 0
}

// without are the indices that are not among others, which ascend.
func without(indices, others []int) []int {
	return slices.DeleteFunc(slices.Clone(indices), func(i int) bool {
		_, found := slices.BinarySearch(others, i)
		return found
	})
}

// checkTraining refuses a job without a single step, and one that is to hold out images and would have none.
func (d *desk) checkTraining(job *train.Job) error {
	if val := job.Options.Val; val > 0 && len(d.held(job.Options)) == 0 {
		return Usagef("--val %d: of %d images that is less than one of each class", val, d.train.Len())
	}
	if job.Steps() > 0 {
		return nil
	}
	if val := job.Options.Val; val > 0 {
		return Usagef("%d images are too few to train on; --val holds out %d", len(job.Indices), val)
	}
	return Usagef("%d images are too few to train on", len(job.Indices))
}

// planned says how long a training job is.
func planned(job *train.Job) string {
	return fmt.Sprintf("%d: %s of %s, %d at a time", job.Steps(), Counted(job.Options.Epochs, "epoch"), Counted(len(job.Indices), "image"), job.Options.Batch)
}

// updates says how a step of SGD moves the weights.
func updates(lr, momentum, decay float64) string {
	return fmt.Sprintf("learning rate %g, momentum %g, weight decay %g", lr, momentum, decay)
}

// runTraining runs a training job with progress and metrics.
func (d *desk) runTraining(ctx context.Context, job *train.Job) error {
	progress := d.Console.Progress("train", "steps", int64(job.Steps()))
	defer progress.Done()
	if job.Resume != nil {
		progress.Set(int64(job.Resume.Step))
	}
	var right, seen int64
	var scored string
	job.Observe = func(r train.Record) {
		right, seen = right+r.Hits, seen+int64(r.N)
		progress.Note(fmt.Sprintf("epoch %d, loss %.3f, accuracy %.3f%s", r.Epoch, r.Loss, float64(right)/float64(seen), scored))
		progress.Set(int64(r.Step))
		d.Console.Emit(Metric{Phase: "train", Step: int64(r.Step), Values: map[string]Number{
			"loss": Number(r.Loss), "accuracy": Number(float64(r.Hits) / float64(r.N)), "lr": Number(r.LR), "epoch": Number(r.Epoch),
		}})
		if r.Step*job.Options.Epochs%r.Steps == 0 {
			right, seen = 0, 0
		}
	}
	keep := job.Validated
	job.Validated = func(v train.Validation) error {
		scored = fmt.Sprintf(", held out %.3f", v.Score.Accuracy())
		d.Console.Emit(Metric{Phase: "val", Step: int64(v.Step), Values: map[string]Number{
			"loss": Number(v.Score.Loss), "accuracy": Number(v.Score.Accuracy()), "epoch": Number(v.Epoch),
		}})
		return keep(v)
	}
	if !d.amp { // autocast would not reach our convolutions
		defer engine.Accelerate(d.net, d.mode)()
	}
	return job.Run(ctx)
}
