package run

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"strings"
	"time"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/cuda"
	"l2ul/torch/nn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
)

// How many pairs are attacked at once: enough to fill the device and, on the CPU, few enough that what the layers of a small
// network make stays in the cache. It is no option, because the last bits depend on it.
const (
	attackChunk    = 64
	gpuAttackChunk = 512
)

const adversarialSchema = "unlearn.adversarial/1"

// attackJob sets up the attack on a forget set. slice is how many of its images unlearning takes at once; before is how many pairs were attacked at once before an interruption, or 0.
func (d *desk) attackJob(o attack.Options, slice int, forget *data.ForgetSet, x torch.Tensor, before int) *attack.Job {
	job := &attack.Job{
		Net: d.frozen(), X: x, Labels: forget.Labels, Classes: len(d.train.Classes), Options: o, Slice: slice, Of: d.larger, Fast: d.mode == engine.Fast, Seed: d.compute.Seed,
	}
	// An attack keeps what all layers make. Linux ends a process that takes more than there is, so that cannot be left to
	// running out of it.
	all, _ := job.Net.Footprint(d.blank())
	memory, _ := d.room()
	usual := attackChunk
	if d.device.Type == torch.CUDAType {
		usual = gpuAttackChunk
	}
	usual = cmp.Or(before, usual)
	job.Chunk = d.shrinking(min(usual, chunk.Fit(all, memory, math.MaxInt64)))
	if n := job.Chunk.N(); n < usual {
		d.Console.Log().Info().Int("pairs", n).Int64("bytes", memory).Msg("memory holds fewer pairs at once than usual, which may change the last bits")
	}
	if o.Exclude == excludeGoal {
		job.Avoid = forget.Targets
	}
	if d.pairs != nil {
		job.Pairs, job.Starts = d.pairs.pairs, d.pairs.starts
	}
	return job
}

const excludeGoal = "goal"

// key identifies something that was computed, by everything that decides its bits: the architecture, what computes, and
// parts, the weights among them where they matter.
func (d *desk) key(parts map[string]any) string {
	env := CurrentEnvironment()
	maps.DeleteFunc(env.Variables, func(name, _ string) bool { return strings.HasPrefix(name, "UNLEARN_") }) // known by their effect
	all := map[string]any{
		"model": d.model.Model, "mean": d.model.Mean, "std": d.model.Std,
		"device": d.computer(), "tf32": d.compute.TF32, "mode": d.mode, "threads": d.compute.Threads, "channels_last": d.compute.ChannelsLast,
		"deterministic": d.compute.Deterministic, "cores": env.Cores, "processor": env.Processor, "kernels": env.Kernels, "operators": env.Operators,
		"variables": env.Variables, "libtorch": env.Versions.Libtorch, "unlearn": env.Versions.Unlearn,
	}
	if d.feed != (feed{}) {
		all["feed"], all["crops"] = d.feed, d.compute.Seed
	}
	maps.Copy(all, parts)
	sum := sha256.Sum256(canonical(all))
	return hex.EncodeToString(sum[:])
}

// computer names the kind of device that computes: other GPUs give other bits.
func (d *desk) computer() string {
	if d.device.Type != torch.CPUType {
		if devices, err := cuda.Devices(); err == nil && d.device.Index < len(devices) {
			return devices[d.device.Index].Name
		}
	}
	return d.device.String()
}

// attackKey identifies an adversarial set (spec/l2ul.md section 3.4).
func (d *desk) attackKey(job *attack.Job, forget *data.ForgetSet) string {
	parts := map[string]any{
		"schema": adversarialSchema, "weights": d.weights.Hash(), "data": forget.DataHash, "indices": forget.Indices, "avoid": job.Avoid, "of": job.Of,
		"seed": job.Seed, "chunk": job.Chunk.N(),
	}
	options := job.Options
	if d.pairs != nil {
		options.Pairs, parts["pairs"] = "", d.pairs.hash // wherever they are read from
	}
	if options.CallsMatter() {
		parts["slice"] = job.Slice
	}
	parts["options"] = options
	return d.key(parts)
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
func (d *desk) unpackAdversarial(file *ckpt.File, key string) (*attack.Set, error) {
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
	set.X, set.Done = d.here(x), n
	torch.Own(set.X)
	return set, nil
}

// origin says where an adversarial set is from.
type origin uint8

const (
	made       origin = iota // by this run
	fromFolder               // by this run, before it was resumed
	fromCache                // by another
)

// crafting is the making of an adversarial set.
type crafting struct {
	*desk
	job        *attack.Job
	forget     *data.ForgetSet
	folder     *Folder
	unfinished *attack.Set // what an interrupted run had made; may be nil
	seconds    float64     // what that took, and in the end what the whole set took, if it is not from the folder
	from       origin

	// saved is called after each chunk.
	saved func(*attack.Set) error
}

// adversarialNote is kept in the cache beside a set.
type adversarialNote struct {
	Seconds float64 `json:"seconds"` // that making it took
}

const attackCache = "attacks"

// run makes the set, or takes it from the run folder or the cache.
func (c *crafting) run(ctx context.Context) (*attack.Set, error) {
	key := c.attackKey(c.job, c.forget)
	own := c.folder.Path("adversarial.safetensors")
	if set := c.read(own, key); set != nil {
		c.from = fromFolder
		return set, nil
	}
	unlock, err := c.alone(ctx, attackCache, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if set := c.fetch(own, key); set != nil {
		c.from = fromCache
		return set, nil
	}
	set, err := c.make(ctx)
	if err != nil {
		return nil, err
	}
	if err := ckpt.Save(own, packAdversarial(set, c.forget, key)); err != nil {
		set.Free()
		return nil, err
	}
	if c.attackKey(c.job, c.forget) != key {
		return set, nil // memory ran out on the way: these are not the examples of one size
	}
	if err := c.cache.Put(attackCache, key, adversarialNote{c.seconds}, own); err != nil {
		c.Console.Log().Info().Err(err).Msg("the adversarial examples are not cached")
	}
	return set, nil
}

// fetch makes the set of the cache appear in the run folder and reads it there; nil when there is none.
func (c *crafting) fetch(own, key string) *attack.Set {
	var note adversarialNote
	found, err := c.cache.Get(attackCache, key, &note, own)
	if err != nil {
		c.Console.Log().Warn().Err(err).Msg("the cache is of no use here")
	}
	if !found {
		return nil
	}
	set := c.read(own, key)
	if set != nil {
		c.seconds = note.Seconds
		c.Console.Log().Info().Float64("seconds", note.Seconds).Msg("adversarial examples taken from the cache; seconds: what making them took")
	}
	return set
}

// make attacks the pairs that are left.
func (c *crafting) make(ctx context.Context) (*attack.Set, error) {
	began := earlier(time.Now(), c.seconds)
	set := c.unfinished
	if set == nil {
		var err error
		if set, err = c.job.Plan(); err != nil {
			return nil, err
		}
	}
	c.unfinished = nil
	progress := c.Console.Progress("attack", "pairs", int64(len(set.Pairs)))
	defer progress.Done()
	progress.Set(int64(set.Done))
	err := c.job.Run(ctx, set, func() error {
		progress.Set(int64(set.Done))
		c.seconds = time.Since(began).Seconds()
		return c.saved(set)
	})
	if err != nil {
		if ctx.Err() != nil && set.Done > 0 { // stopped inside a chunk: the finished ones are worth keeping
			err = cmp.Or(c.saved(set), err)
		}
		set.Free()
		return nil, err
	}
	return set, nil
}

// read reads the set of a file; nil when there is none, or one of another attack.
func (c *crafting) read(path, key string) *attack.Set {
	file, err := ckpt.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var set *attack.Set
	if err == nil {
		set, err = c.unpackAdversarial(file, key)
	}
	if err != nil {
		c.Console.Log().Warn().Err(err).Msg("cannot use these adversarial examples; making them again")
	}
	if set != nil && c.unfinished != nil { // it is whole, and the part of no more use
		c.unfinished.Free()
		c.unfinished = nil
	}
	return set
}
