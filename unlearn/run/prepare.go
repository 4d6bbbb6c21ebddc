package run

import (
	"context"
	"fmt"
	"time"

	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
	"l2ul/unlearn/importance"
)

// AttackResult is result.json of `unlearn attack`; the examples are in adversarial.safetensors.
type AttackResult struct {
	Schema   string         `json:"schema"` // unlearn.attack/1
	Name     string         `json:"name,omitempty"`
	Tags     []string       `json:"tags,omitempty"`
	Model    string         `json:"model"`
	Dataset  string         `json:"dataset"`
	Outcome  string         `json:"outcome"` // always "attacked"
	Summary  attack.Summary `json:"attack"`
	Forget   ForgetSet      `json:"forget"`
	Hashes   Hashes         `json:"hashes"`
	Seconds  float64        `json:"seconds"`
	Device   string         `json:"device"`
	Seed     int64          `json:"seed"`
	Versions Versions       `json:"versions"`
}

// attackState is the job's own part of a checkpoint; the first Made examples are in the tensor file.
type attackState struct {
	Pairs []attack.Pair `json:"pairs"`
	Made  int           `json:"made"`
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
	d.model, d.source, d.compute = o.ModelOptions, o.DataOptions, o.ComputeOptions
	err = d.onDevice(o.ComputeOptions, func() error {
		defer d.close()
		forget, err := d.loadForgetSet(ctx, o.Forget)
		if err != nil {
			return err
		}
		for _, w := range settings.Warnings() {
			d.Console.Warn(w)
		}
		if o.DryRun {
			n, err := settings.Repeats(len(forget.Indices))
			if err != nil {
				return err
			}
			d.plan(o.FolderOptions, [2]string{"attack", fmt.Sprintf("%d pairs of %d images, %d iterations each", n*len(forget.Indices), len(forget.Indices), settings.Iters)})
			return nil
		}
		result, err = d.attackRun(ctx, o, settings, forget)
		return err
	})
	return result, interrupted(ctx, "", err)
}

// loadForgetSet reads data and weights and resolves the forget set.
func (d *desk) loadForgetSet(ctx context.Context, text string) (*data.ForgetSet, error) {
	if err := d.openData(ctx); err != nil {
		return nil, err
	}
	set, err := d.forgetSet(text)
	if err != nil {
		return nil, err
	}
	return set, d.load()
}

func (d *desk) attackRun(ctx context.Context, o AttackOptions, settings attack.Options, forget *data.ForgetSet) (*AttackResult, error) {
	began := time.Now()
	folder, checkpoint, err := d.open(o.FolderOptions)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	inputs := d.inputs(forget)
	saver, err := d.newSaver(folder, o.FolderOptions, inputs, checkpoint)
	if err != nil {
		return nil, err
	}
	if err := forget.Write(folder.Path("forget.json")); err != nil {
		return nil, err
	}
	var unfinished *attack.Set
	if checkpoint != nil {
		var state attackState
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
			unfinished = attack.Resumed(state.Pairs, x.Contiguous(d.format()))
		}
	}
	x, _ := d.resident(d.train).Gather(forget.Indices)
	set, err := d.adversarial(ctx, d.attackJob(settings, forget, x), forget, folder, unfinished, func(set *attack.Set) error {
		return saver.save(int64(set.Done), ctx.Err() != nil, madeTensors(set), attackState{set.Pairs, set.Done})
	})
	if err != nil {
		return nil, interrupted(ctx, saver.last, err)
	}
	defer set.Free()
	result := &AttackResult{
		Schema: "unlearn.attack/1", Name: o.Name, Tags: o.Tags, Model: d.model.Model, Dataset: d.train.Dataset, Outcome: "attacked",
		Summary: set.Summary(forget.Labels), Forget: identify(forget), Hashes: d.hashes(folder),
		Seconds: time.Since(began).Seconds(), Device: d.device.String(), Seed: d.compute.Seed, Versions: CurrentVersions(),
	}
	return result, d.conclude(folder, result, unlearn.Outcome(result.Outcome))
}

// ImportanceResult is result.json of `unlearn importance`; Ω is in importance.safetensors under the parameters' names.
type ImportanceResult struct {
	Schema    string     `json:"schema"` // unlearn.importance/1
	Name      string     `json:"name,omitempty"`
	Tags      []string   `json:"tags,omitempty"`
	Model     string     `json:"model"`
	Dataset   string     `json:"dataset"`
	Outcome   string     `json:"outcome"` // always "estimated"
	Estimator string     `json:"estimator"`
	Quantiles [5]float64 `json:"anchor_quantiles"` // of Ω̄ over all parameters: least, quartiles, greatest
	Forget    ForgetSet  `json:"forget"`
	Hashes    Hashes     `json:"hashes"`
	Seconds   float64    `json:"seconds"`
	Device    string     `json:"device"`
	Seed      int64      `json:"seed"`
	Versions  Versions   `json:"versions"`
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
	d.model, d.source, d.compute = o.ModelOptions, o.DataOptions, o.ComputeOptions
	err = d.onDevice(o.ComputeOptions, func() error {
		defer d.close()
		forget, err := d.loadForgetSet(ctx, o.Forget)
		if err != nil {
			return err
		}
		if o.DryRun {
			d.plan(o.FolderOptions, [2]string{"importance", fmt.Sprintf("%s over %d images", settings.Kind, len(forget.Indices))})
			return nil
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
	x, y := d.resident(d.train).Gather(forget.Indices)
	params := unlearn.Trainable(d.net, unlearn.BNTrain)
	omega, err := d.estimate(ctx, settings, params, &unlearn.Examples{X: x, Y: y}, o.ForgetBatch)
	if err != nil {
		return nil, interrupted(ctx, "", err)
	}
	if err := saveImportance(folder.Path("importance.safetensors"), params, omega, settings.Kind, d.weights.Hash()); err != nil {
		return nil, err
	}
	result := &ImportanceResult{
		Schema: importanceSchema, Name: o.Name, Tags: o.Tags, Model: d.model.Model, Dataset: d.train.Dataset, Outcome: "estimated",
		Estimator: settings.Kind, Quantiles: quantiles(importance.Anchors(omega)), Forget: identify(forget), Hashes: d.hashes(folder),
		Seconds: time.Since(began).Seconds(), Device: d.device.String(), Seed: d.compute.Seed, Versions: CurrentVersions(),
	}
	return result, d.conclude(folder, result, unlearn.Outcome(result.Outcome))
}

// estimate runs an estimator with progress.
func (d *desk) estimate(ctx context.Context, o importance.Options, params []nn.Named, images *unlearn.Examples, slice int) ([]torch.Tensor, error) {
	job := &importance.Job{Net: d.net, Images: images, Slice: slice, Seed: d.compute.Seed, Options: o}
	for _, p := range params {
		job.Params = append(job.Params, p.Tensor)
	}
	progress := d.Console.Progress("importance", "images", int64(images.Len()))
	defer progress.Done()
	return job.Run(ctx, func(done int) { progress.Set(int64(done)) })
}

// quantiles returns least, quartiles and greatest of all values.
func quantiles(tensors []torch.Tensor) (q [5]float64) {
	torch.Scope(func() {
		flat := make([]torch.Tensor, len(tensors))
		for i, t := range tensors {
			flat[i] = t.Reshape(-1)
		}
		sorted := opSort.One(torch.Cat(flat, 0))
		last := sorted.Numel() - 1
		for i := range q {
			q[i] = sorted.Select(0, last*int64(i)/4).Item()
		}
	})
	return q
}

var opSort = torch.Define("aten::sort(Tensor self, int dim=-1, bool descending=False) -> (Tensor values, Tensor indices)")

// inputs are the hashes that a resumed job must find again.
func (d *desk) inputs(forget *data.ForgetSet) map[string]string {
	return map[string]string{"weights": d.weights.Hash(), "data": d.train.Fingerprint(), "forget set": forget.Hash()}
}

func (d *desk) hashes(f *Folder) Hashes {
	return Hashes{Weights: d.weights.Hash(), Data: d.train.Fingerprint(), Config: f.ConfigHash()}
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
