package run

import (
	"context"

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
		if omega := w.read(); omega != nil {
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
	tensors := make([]nn.Named, len(omega))
	for i, o := range omega {
		tensors[i] = nn.Named{Name: w.params[i].Name, Tensor: o}
	}
	file := nn.Pack(tensors)
	file.Metadata = map[string]string{"schema": importanceSchema, "estimator": w.options.Kind, "weights": w.weights.Hash()}
	return omega, ckpt.Save(w.path, file)
}

// read reads Ω from the run folder; nil where it is not there, or is not that of these parameters.
func (w *weighing) read() []torch.Tensor {
	file, err := ckpt.Load(w.path)
	if err != nil || file.Metadata["weights"] != w.weights.Hash() {
		return nil
	}
	stored, err := nn.Unpack(file)
	if err != nil {
		return nil
	}
	omega := make([]torch.Tensor, len(w.params))
	for i, p := range w.params {
		t, ok := named(stored, p.Name)
		if !ok {
			return nil
		}
		omega[i] = p.Tensor.Detach().EmptyLike() // the memory format of the parameter
		omega[i].CopyI(t)
	}
	return omega
}
