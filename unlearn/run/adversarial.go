package run

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
)

// attackChunk is how many pairs are attacked at once on the CPU: enough to fill the cores, few enough that the activations
// of a small network stay in the cache. It is no option, because the last bits depend on it.
const attackChunk = 64

const adversarialSchema = "unlearn.adversarial/1"

// attackJob sets up the attack on a forget set.
func (d *desk) attackJob(o attack.Options, forget *data.ForgetSet, x torch.Tensor) *attack.Job {
	return &attack.Job{
		Net: d.net, X: x, Labels: forget.Labels, Classes: len(d.train.Classes), Options: o, Seed: d.compute.Seed,
		Chunk: attackChunk,
	}
}

// attackKey identifies an adversarial set by everything that decides its bits (spec/l2ul.md section 3.4).
func (d *desk) attackKey(job *attack.Job, forget *data.ForgetSet) string {
	build := torch.Build()
	sum := sha256.Sum256(canonical(map[string]any{
		"schema": adversarialSchema, "weights": d.weights.Hash(), "model": d.model.Model, "mean": d.model.Mean, "std": d.model.Std, "data": forget.DataHash, "indices": forget.Indices,
		"options": job.Options, "seed": job.Seed, "chunk": job.Chunk, "threads": d.compute.Threads, "cores": CurrentEnvironment().Cores,
		"channels_last": d.compute.ChannelsLast, "libtorch": build.Version, "kernels": build.CPUCapability, "unlearn": CurrentVersions().Unlearn,
	}))
	return hex.EncodeToString(sum[:])
}

// madeTensors are the finished examples of a set, for a checkpoint.
func madeTensors(set *attack.Set) []nn.Named {
	return []nn.Named{{Name: "x_adv", Tensor: set.X.Narrow(0, 0, int64(set.Done))}}
}

// packAdversarial is the file of a finished set: x_adv, and of each pair the sample's index in the training set, the target
// and the log.
func packAdversarial(set *attack.Set, forget *data.ForgetSet, key string) *ckpt.File {
	file := nn.Pack([]nn.Named{
		{Name: "x_adv", Tensor: set.X},
		{Name: "target", Tensor: set.Targets()},
		{Name: "source", Tensor: column(set, func(p *attack.Pair) int64 { return int64(forget.Indices[p.Source]) })},
		{Name: "position", Tensor: column(set, func(p *attack.Pair) int64 { return int64(p.Source) })},
		{Name: "repeat", Tensor: column(set, func(p *attack.Pair) int64 { return int64(p.Repeat) })},
		{Name: "before", Tensor: column(set, func(p *attack.Pair) int64 { return int64(p.Before) })},
		{Name: "after", Tensor: column(set, func(p *attack.Pair) int64 { return int64(p.After) })},
		{Name: "success", Tensor: column(set, func(p *attack.Pair) bool { return p.Success })},
		{Name: "loss_start", Tensor: column(set, func(p *attack.Pair) float64 { return p.LossStart })},
		{Name: "loss_end", Tensor: column(set, func(p *attack.Pair) float64 { return p.LossEnd })},
		{Name: "norm", Tensor: column(set, func(p *attack.Pair) float64 { return p.Norm })},
	})
	file.Metadata = map[string]string{"schema": adversarialSchema, "key": key}
	return file
}

// column is one value of every pair, as a vector.
func column[T torch.Element](set *attack.Set, of func(p *attack.Pair) T) torch.Tensor {
	values := make([]T, len(set.Pairs))
	for i := range set.Pairs {
		values[i] = of(&set.Pairs[i])
	}
	return torch.FromSlice(values)
}

// unpackAdversarial is the set of a file with the key; nil when the file is of another.
func unpackAdversarial(file *ckpt.File, key string, format torch.MemoryFormat) (*attack.Set, error) {
	if file.Metadata["schema"] != adversarialSchema || file.Metadata["key"] != key {
		return nil, nil
	}
	tensors, err := nn.Unpack(file)
	if err != nil {
		return nil, err
	}
	columns := map[string][]int64{}
	reals := map[string][]float64{}
	set := &attack.Set{}
	for _, t := range tensors {
		switch t.Tensor.Dtype() {
		case torch.Long:
			columns[t.Name] = torch.ToSlice[int64](t.Tensor)
		case torch.Double:
			reals[t.Name] = torch.ToSlice[float64](t.Tensor)
		}
	}
	x, okX := named(tensors, "x_adv")
	success, okS := named(tensors, "success")
	if !okX || !okS || x.Dim() != 4 {
		return nil, fmt.Errorf("an adversarial set without x_adv or success")
	}
	n := int(x.Size(0))
	right := torch.ToSlice[bool](success)
	for _, name := range []string{"target", "position", "repeat", "before", "after"} {
		if len(columns[name]) != n {
			return nil, fmt.Errorf("an adversarial set whose %s has %d values for %d images", name, len(columns[name]), n)
		}
	}
	for _, name := range []string{"loss_start", "loss_end", "norm"} {
		if len(reals[name]) != n {
			return nil, fmt.Errorf("an adversarial set whose %s has %d values for %d images", name, len(reals[name]), n)
		}
	}
	for i := range n {
		set.Pairs = append(set.Pairs, attack.Pair{
			Source: int(columns["position"][i]), Repeat: int(columns["repeat"][i]), Target: int(columns["target"][i]),
			Log: attack.Log{
				Before: int(columns["before"][i]), After: int(columns["after"][i]), Success: right[i],
				LossStart: reals["loss_start"][i], LossEnd: reals["loss_end"][i], Norm: reals["norm"][i],
			},
		})
	}
	set.X, set.Done = x.Contiguous(format), n
	torch.Own(set.X)
	return set, nil
}

// adversarial makes the adversarial set of a forget set, or takes it from the run folder or the cache. unfinished, which may
// be nil, is the part an interrupted run had made; saved is called after each chunk.
func (d *desk) adversarial(ctx context.Context, job *attack.Job, forget *data.ForgetSet, folder *Folder, unfinished *attack.Set, saved func(*attack.Set) error) (*attack.Set, error) {
	key := d.attackKey(job, forget)
	own := folder.Path("adversarial.safetensors")
	cached := ""
	if dir, err := CacheDir(); err == nil {
		cached = filepath.Join(dir, "attacks", key+".safetensors")
	}
	for _, path := range []string{own, cached} {
		if set := d.readAdversarial(path, key); set != nil {
			if unfinished != nil {
				unfinished.Free()
			}
			if path == cached {
				d.Console.Log().Info().Str("file", path).Msg("adversarial examples taken from the cache")
				if err := ckpt.Save(own, packAdversarial(set, forget, key)); err != nil {
					set.Free()
					return nil, err
				}
			}
			return set, nil
		}
	}
	set := unfinished
	if set == nil {
		var err error
		if set, err = job.Plan(); err != nil {
			return nil, err
		}
	}
	progress := d.Console.Progress("attack", "pairs", int64(len(set.Pairs)))
	defer progress.Done()
	progress.Set(int64(set.Done))
	err := job.Run(ctx, set, func() error {
		progress.Set(int64(set.Done))
		return saved(set)
	})
	if err != nil {
		if ctx.Err() != nil && set.Done > 0 { // stopped inside a chunk: the finished ones are worth keeping
			err = cmp.Or(saved(set), err)
		}
		set.Free()
		return nil, err
	}
	file := packAdversarial(set, forget, key)
	if err := ckpt.Save(own, file); err != nil {
		set.Free()
		return nil, err
	}
	if cached != "" {
		if err := saveInCache(cached, file); err != nil {
			d.Console.Log().Debug().Err(err).Msg("the adversarial examples are not cached")
		}
	}
	return set, nil
}

func (d *desk) readAdversarial(path, key string) *attack.Set {
	if path == "" {
		return nil
	}
	file, err := ckpt.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var set *attack.Set
	if err == nil {
		set, err = unpackAdversarial(file, key, d.format())
	}
	if err != nil {
		d.Console.Log().Warn().Err(err).Msg("cannot use these adversarial examples; making them again")
	}
	return set
}

// cacheTag marks a folder that backups may leave out (https://bford.info/cachedir/).
const cacheTag = "Signature: 8a477f597d28d172789f06886806bc55\n# The cache of unlearn; everything in it can be made again.\n"

func saveInCache(path string, file *ckpt.File) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	dir, err := CacheDir()
	if err != nil {
		return err
	}
	tag := filepath.Join(dir, "CACHEDIR.TAG")
	if _, err := os.Stat(tag); errors.Is(err, fs.ErrNotExist) {
		if err := WriteFile(tag, []byte(cacheTag)); err != nil {
			return err
		}
	}
	return ckpt.Save(path, file)
}
