package run

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/data"
	"l2ul/unlearn/importance"
)

const (
	importanceSchema = "unlearn.importance/1"
	importanceCache  = "importances"
)

// weighing is the estimating of Ω of parameters of the network as it was read.
type weighing struct {
	*desk
	options importance.Options
	params  []nn.Named
	forget  *data.ForgetSet
	images  *unlearn.Examples
	slice   int    // images whose gradient --importance mas-batch takes at once
	path    string // in the run folder
	cached  bool   // Ω is of an earlier run
}

// run estimates Ω and writes it into the run folder, or takes it from the cache.
func (w *weighing) run(ctx context.Context) ([]torch.Tensor, error) {
	if w.options.Kind == "uniform" { // quicker made than found
		return w.make(ctx)
	}
	key := w.key()
	unlock, err := w.alone(ctx, importanceCache, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	found, err := w.cache.Get(importanceCache, key, &struct{}{}, w.path)
	if err != nil {
		w.Console.Log().Warn().Err(err).Msg("the cache is of no use here")
	}
	if found {
		if omega, err := w.read(); err == nil {
			w.cached = true
			w.Console.Log().Info().Msg("importance taken from the cache")
			return omega, w.images.Meter.Read(data.PartForget, w.images.Len()) // it is made of these reads, whoever made it
		}
	}
	omega, err := w.make(ctx)
	if err != nil {
		return nil, err
	}
	if err := w.cache.Put(importanceCache, key, struct{}{}, w.path); err != nil {
		w.Console.Log().Info().Err(err).Msg("the importance is not cached")
	}
	return omega, nil
}

// key identifies Ω by all that decides its bits.
func (w *weighing) key() string {
	names := make([]string, len(w.params))
	for i, p := range w.params {
		names[i] = p.Name
	}
	parts := map[string]any{
		"schema": importanceSchema, "weights": w.weights.Hash(), "data": w.forget.DataHash, "indices": w.forget.Indices,
		"options": w.options, "parameters": names, "seed": w.compute.Seed,
	}
	if w.options.Kind == "mas-batch" {
		parts["slice"] = w.slice
	}
	return w.desk.key(parts)
}

func (w *weighing) make(ctx context.Context) ([]torch.Tensor, error) {
	omega, err := w.estimate(ctx, w.options, w.params, w.images, w.slice)
	if err != nil {
		return nil, err
	}
	return omega, w.write(omega, w.options.Kind)
}

// write writes Ω into the run folder, under the names of the parameters.
func (w *weighing) write(omega []torch.Tensor, estimator string) error {
	tensors := make([]nn.Named, len(omega))
	for i, o := range omega {
		tensors[i] = nn.Named{Name: w.params[i].Name, Tensor: o}
	}
	file := nn.Pack(tensors)
	file.Metadata = map[string]string{"schema": importanceSchema, "estimator": estimator, "weights": w.weights.Hash()}
	if fed := w.feed.images(); fed != "" {
		file.Metadata["compat"] = fed
	}
	return ckpt.Save(w.path, file)
}

// read reads Ω from the run folder.
func (w *weighing) read() ([]torch.Tensor, error) {
	file, err := ckpt.Load(w.path)
	if err != nil {
		return nil, err
	}
	return w.unpack(file)
}

// unpack returns the Ω of the parameters that a file holds, if it is of this network and these weights.
func (w *weighing) unpack(file *ckpt.File) ([]torch.Tensor, error) {
	if schema := file.Metadata["schema"]; schema != importanceSchema {
		return nil, fmt.Errorf("its schema is %.40q, not %q: take the importance.safetensors of `unlearn importance`", schema, importanceSchema)
	}
	if made := file.Metadata["weights"]; made != w.weights.Hash() {
		return nil, fmt.Errorf("it was estimated with other weights (%.12s, these are %.12s)", made, w.weights.Hash())
	}
	if made, now := file.Metadata["compat"], w.feed.images(); made != now {
		return nil, fmt.Errorf("it was estimated with %s, and this run has %s: images are fed in another way", cmp.Or(made, "no quirk of --compat"), cmp.Or(now, "none"))
	}
	stored, err := nn.Unpack(file)
	if err != nil {
		return nil, err
	}
	omega := make([]torch.Tensor, len(w.params))
	for i, p := range w.params {
		t, ok := named(stored, p.Name)
		switch {
		case !ok:
			return nil, fmt.Errorf("it lacks %s", p.Name)
		case t.Dtype() != torch.Float || !slices.Equal(t.Shape(), p.Tensor.Shape()):
			return nil, fmt.Errorf("%s is %v %v, the parameter %v %v", p.Name, t.Dtype(), t.Shape(), torch.Float, p.Tensor.Shape())
		case !(t.Min().Item() >= 0 && t.Max().Item() <= math.MaxFloat32): // not-a-number is neither
			return nil, fmt.Errorf("%s has values that are negative or not finite", p.Name)
		}
		omega[i] = p.Tensor.Detach().EmptyLike() // the memory format of the parameter
		omega[i].CopyI(t)
	}
	return omega, nil
}
