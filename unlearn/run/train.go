package run

import (
	"context"
	"fmt"
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
	Steps   int64   `json:"steps"`
	Epochs  int64   `json:"epochs"`
	Train   Score   `json:"train"`
	Test    Score   `json:"test"`
	Seconds Seconds `json:"seconds"`
	Limited bool    `json:"limited"`
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
	d.mode = engine.Mode(o.Mode)
	err = d.onDevice(o.ComputeOptions, func() error {
		defer d.close()
		if err := d.openData(ctx, "train", "test"); err != nil {
			return err
		}
		if err := d.begin(ctx); err != nil {
			return err
		}
		job := d.trainJob(recipe, count(d.train.Len()), "", nil)
		if err := checkTraining(job); err != nil {
			return err
		}
		if o.DryRun {
			return d.planRun(o.FolderOptions, d.trainInputs(), [2]string{"steps", planned(job)})
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
	job.Save = func(s *train.State, force bool) error {
		return saver.save(int64(s.Step), force, s.Tensors, trainState{s})
	}
	job.Images = d.loader(d.train)
	d.enter("train")
	if err := d.runTraining(ctx, job); err != nil {
		return nil, interrupted(ctx, saver.last, err)
	}
	d.enter(data.PhaseAfter)
	trained := time.Now()
	result := &TrainResult{Steps: int64(job.Steps()), Epochs: int64(job.Options.Epochs), Limited: o.Limit != ""}
	for _, part := range []struct {
		images *data.Loader
		n      int
		name   string
		score  *Score
	}{{job.Images, d.train.Len(), "train", &result.Train}, {d.loader(d.test), d.test.Len(), "test", &result.Test}} {
		view := part.images.View("", d.limited(count(part.n)), nil)
		if *part.score, err = d.score(ctx, part.name, view); err != nil {
			return nil, interrupted(ctx, saver.last, err)
		}
	}
	file := nn.Snapshot(d.net)
	file.Metadata = map[string]string{"model": d.model.Model, "dataset": d.train.Dataset, "classes": fmt.Sprint(len(d.train.Classes))}
	if err := ckpt.Save(folder.Path("model.safetensors"), file); err != nil {
		return nil, err
	}
	result.About = d.about(TrainSchema, "trained", o.FolderOptions, folder, file.Hash())
	result.Seconds = Seconds{Total: time.Since(began).Seconds(), Eval: time.Since(trained).Seconds()}
	return result, d.conclude(folder, result, unlearn.Outcome(result.Outcome))
}

// trainJob sets up training on some of the training images.
func (d *desk) trainJob(recipe train.Options, indices []int, part data.Part, meter *data.Meter) *train.Job {
	return &train.Job{
		Net: d.net, Indices: indices, Part: part, Meter: meter, Options: recipe, Seed: d.compute.Seed,
	}
}

// checkTraining refuses a job without a single step.
func checkTraining(job *train.Job) error {
	if job.Steps() == 0 {
		return Usagef("%d images are too few to train on", len(job.Indices))
	}
	return nil
}

// planned says how long a training job is.
func planned(job *train.Job) string {
	return fmt.Sprintf("%d: %d epochs of %d images, %d at a time", job.Steps(), job.Options.Epochs, len(job.Indices), job.Options.Batch)
}

// runTraining runs a training job with progress and metrics.
func (d *desk) runTraining(ctx context.Context, job *train.Job) error {
	progress := d.Console.Progress("train", "steps", int64(job.Steps()))
	defer progress.Done()
	if job.Resume != nil {
		progress.Set(int64(job.Resume.Step))
	}
	var right, seen int64
	job.Observe = func(r train.Record) {
		right, seen = right+r.Hits, seen+int64(r.N)
		progress.Note(fmt.Sprintf("epoch %d, loss %.3f, accuracy %.3f", r.Epoch, r.Loss, float64(right)/float64(seen)))
		progress.Set(int64(r.Step))
		d.Console.Emit(Metric{Phase: "train", Step: int64(r.Step), Values: map[string]Number{
			"loss": Number(r.Loss), "accuracy": Number(float64(r.Hits) / float64(r.N)), "lr": Number(r.LR), "epoch": Number(r.Epoch),
		}})
		if r.Step*job.Options.Epochs%r.Steps == 0 {
			right, seen = 0, 0
		}
	}
	defer engine.Accelerate(d.net, d.mode)()
	return job.Run(ctx)
}
