// Command ours is contestant U of `make bench`: a row of scripts/bench/README.md, done with this project's engine.
//
//	ours ROW INPUTS_DIR [THREADS [SAVE]]
//
// It sets up, warms up, prints "ready", and answers every line "run" on stdin with a line of JSON. In rows of the attack
// another argument names the file that takes x_adv.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/cuda"
	"l2ul/torch/models"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	"l2ul/unlearn/data/resample"
	"l2ul/unlearn/engine"
	"l2ul/unlearn/importance"
	"l2ul/unlearn/kernels"
	_ "l2ul/unlearn/methods"
	"l2ul/unlearn/metrics"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ours:", err)
		os.Exit(1)
	}
}

// repeat does the work of a row once: the seconds of what counts, and numbers that prove the work, as README.md has them.
type repeat func() (seconds float64, proof check)

type check map[string]float64

var rows = map[string]func(*inputs) repeat{
	"C1": attacked(engine.Exact), "C1-bf16": attacked(engine.BF16), "C1-reference": attacked(engine.Reference),
	"C2": evaluation, "C3": step, "C4": batches, "C5": pictures, "C6": update,
	"C8": parity(engine.Reference), "C8-exact": parity(engine.Exact), "C8-bf16": parity(engine.BF16),
	"mas": estimate("mas"), "mas-batch": estimate("mas-batch"),
}

func run(args []string) error {
	if len(args) < 2 || rows[args[0]] == nil {
		return fmt.Errorf("usage: ours %s INPUTS_DIR [THREADS [SAVE]]", strings.Join(slices.Sorted(maps.Keys(rows)), "|"))
	}
	threads := 2
	if len(args) > 2 {
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		threads = n
	}
	torch.SetNumThreads(threads)
	torch.SetDeterministic(true) // as the program does by default
	in, err := open(args[1])
	if err != nil {
		return err
	}
	return torch.Run(in.device, func() error {
		if len(args) > 3 {
			in.save = args[3]
		}
		once := rows[args[0]](in)
		once()
		once()
		fmt.Println("ready")
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			seconds, proof := once()
			line, err := json.Marshal(map[string]any{"seconds": seconds, "check": proof, "variant": "engine"})
			if err != nil {
				return err
			}
			fmt.Println(string(line))
		}
		return lines.Err()
	})
}

// inputs are the tensors that all contestants read, and what work is made of them.
type inputs struct {
	folder string
	file   *ckpt.File
	device torch.Device
	work   work
	save   string
}

// work is work.json; prepare.py says what its entries mean.
type work struct {
	Network    string `json:"network"`
	Device     string `json:"device"`
	Size       int    `json:"size"`
	TF32       bool   `json:"tf32"`
	Pairs      int64  `json:"pairs"`
	Iterations int    `json:"iterations"`
	Tests      int    `json:"tests"`
	EvalBatch  int    `json:"eval_batch"`
}

// open reads a folder of inputs, and opens the device before the first tensor is made.
func open(folder string) (*inputs, error) {
	in := &inputs{folder: folder}
	text, err := os.ReadFile(filepath.Join(folder, "work.json")) //nolint:gosec // the folder is the command's argument
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &in.work); err != nil {
		return nil, err
	}
	if in.device, err = torch.NewDevice(in.work.Device); err != nil {
		return nil, err
	}
	if in.device.Type == torch.CPUType {
		in.device = torch.CPU
	} else {
		if err := cuda.Open(); err != nil {
			return nil, err
		}
		in.device.Index = max(in.device.Index, 0)
		cuda.AllowTF32(in.work.TF32)
	}
	in.file, err = ckpt.Load(filepath.Join(folder, "inputs.safetensors"))
	return in, err
}

func (in *inputs) tensor(name string) torch.Tensor {
	t, ok := in.file.Lookup(name)
	if !ok {
		panic("inputs.safetensors has no " + name)
	}
	named, err := nn.Unpack(&ckpt.File{Tensors: []ckpt.Tensor{*t}})
	if err != nil {
		panic(err)
	}
	tensor := named[0].Tensor.To(in.device, named[0].Tensor.Dtype())
	if tensor.Dim() == 4 {
		return tensor.Contiguous(torch.ChannelsLast)
	}
	return tensor
}

func (in *inputs) network() models.Classifier {
	net, err := models.New(in.work.Network, models.Options{})
	if err != nil {
		panic(err)
	}
	in.reset(net)
	nn.ToMemoryFormat(net, torch.ChannelsLast)
	net.Root().To(in.device)
	return net
}

// reset sets a network to the prepared weights.
func (in *inputs) reset(net nn.Module) {
	weights := &ckpt.File{}
	for _, t := range in.file.Tensors {
		if len(t.Name) > 8 && t.Name[:8] == "weights." {
			t.Name = t.Name[8:]
			weights.Tensors = append(weights.Tensors, t)
		}
	}
	if err := nn.Restore(net, weights, true); err != nil {
		panic(err)
	}
}

// set is the prepared images as a split in host memory.
func (in *inputs) set(pixels string, labels []int64) *data.Set {
	t, _ := in.file.Lookup(pixels)
	set := &data.Set{Split: "train", Classes: make([]string, in.classes()), C: 3, H: in.work.Size, W: in.work.Size, Pixels: t.Data}
	for _, y := range labels {
		set.Labels = append(set.Labels, int(y))
	}
	return set
}

// classes is the number of the network's own, which its prepared weights have.
func (in *inputs) classes() int {
	card, err := models.Info(in.work.Network)
	if err != nil {
		panic(err)
	}
	return card.Classes
}

func (in *inputs) forget() *data.Set {
	return in.set("forget.pixels", torch.ToSlice[int64](in.tensor("forget.labels")))
}

func (in *inputs) all(set *data.Set) (x, y torch.Tensor) {
	loader := data.NewLoader(set, in.device, torch.ChannelsLast, math.MaxInt64)
	defer loader.Free()
	x, y, err := loader.View("", nil, nil).Batch(0, set.Len())
	if err != nil {
		panic(err)
	}
	return x, y
}

// pairs are the first n prepared pairs: images, starting images, targets.
func (in *inputs) pairs(n int64) (x, start, y torch.Tensor) {
	images, _ := in.all(in.forget())
	repeated := torch.Cat(slices.Repeat([]torch.Tensor{images}, int((n-1)/images.Size(0)+1)), 0)
	return repeated.Narrow(0, 0, n).Contiguous(torch.ChannelsLast), in.tensor("pair.start").Narrow(0, 0, n), in.tensor("pair.target").Narrow(0, 0, n)
}

// timed is how long work takes, on a GPU until the device is done.
func (in *inputs) timed(work func()) float64 {
	in.wait()
	began := time.Now()
	work()
	in.wait()
	return time.Since(began).Seconds()
}

// wait lets a GPU finish what it was given.
func (in *inputs) wait() {
	if in.device != torch.CPU {
		cuda.Synchronize(in.device)
	}
}

func sum(t torch.Tensor) float64 { return t.CastTo(torch.Double).Sum().Item() }

// norm is the Euclidean norm of all tensors together.
func norm(tensors []torch.Tensor) float64 {
	total := 0.0
	torch.NoGrad(func() {
		for _, t := range tensors {
			total += t.CastTo(torch.Double).Square().Sum().Item()
		}
	})
	return math.Sqrt(total)
}

// distance is how far tensors are from others of their shapes.
func distance(tensors, from []torch.Tensor) float64 {
	apart := make([]torch.Tensor, len(tensors))
	torch.NoGrad(func() {
		for i, t := range tensors {
			apart[i] = t.CastTo(torch.Double).Sub(from[i].CastTo(torch.Double), 1)
		}
	})
	return norm(apart)
}

// C1: the attack.
func attacked(mode engine.Mode) func(*inputs) repeat {
	return func(in *inputs) repeat { return pgd(in, mode, in.work.Pairs, in.work.Iterations) }
}

// C8: 100 iterations on 12 pairs; the examples go to a file, to be compared bit for bit.
func parity(mode engine.Mode) func(*inputs) repeat {
	return func(in *inputs) repeat { return pgd(in, mode, 12, 100) }
}

func pgd(in *inputs, mode engine.Mode, pairs int64, iterations int) repeat {
	x, start, y := in.pairs(pairs)
	plain := in.network()
	plain.Root().Eval()
	net := engine.Freeze(in.network(), mode)
	o := &attack.Options{Eps: 4, Step: 0.1, Iters: iterations, Norm: "l2", Targeted: true}
	return func() (seconds float64, proof check) {
		torch.Scope(func() {
			var adv torch.Tensor
			seconds = in.timed(func() { adv = x.Add(attack.Perturb(net, x, start, y, o), 1).Clamp(0, 1) })
			proof = attained(plain, x, x.Add(kernels.PGDStart(x, start, o.Eps, o.Norm), 1), adv, y)
			if in.save != "" {
				if err := ckpt.Save(in.save, nn.Pack([]nn.Named{{Name: "x_adv", Tensor: adv}})); err != nil {
					panic(err)
				}
			}
		})
		return seconds, proof
	}
}

// attained is what adversarial examples of images x are to a network, by the operators of libtorch, beside what they were at
// the start.
func attained(net nn.Module, x, start, adv, y torch.Tensor) check {
	var logits torch.Tensor
	loss := func(x torch.Tensor) float64 {
		torch.NoGrad(func() { logits = net.Forward(x) })
		return metrics.CrossEntropy(logits, y).Item()
	}
	began, ended := loss(start), loss(adv)
	far := torch.ToSlice[float64](adv.Sub(x, 1).CastTo(torch.Double).Square().SumDim([]int64{1, 2, 3}, false).Sqrt())
	proof := check{"reached": float64(metrics.Hits(logits, y)), "cross_entropy": ended, "descent": began - ended, "farthest": slices.Max(far)}
	for _, d := range far {
		proof["distance"] += d
	}
	return proof
}

// C2: scores.
func evaluation(in *inputs) repeat {
	labels := torch.ToSlice[int64](in.tensor("test.labels"))
	loader := data.NewLoader(in.set("test.pixels", labels), in.device, torch.ChannelsLast, math.MaxInt64)
	first := make([]int, in.work.Tests)
	for i := range first {
		first[i] = i
	}
	view, net := loader.View("", first, nil), engine.Freeze(in.network(), engine.Exact)
	return func() (seconds float64, proof check) {
		seconds = in.timed(func() {
			score, err := metrics.Evaluate(context.Background(), net.Logits, view, chunk.Fixed(in.work.EvalBatch), nil)
			if err != nil {
				panic(err)
			}
			proof = check{"loss": score.Loss, "hits": float64(score.Hits)}
		})
		return seconds, proof
	}
}

// C3: a step late enough for a graph on CUDA, where the second goes by itself and the third is captured: two forwards,
// backward, penalty, update, stop test. The run goes on from a state before its first step, which sets the weights apart from
// those that the penalty holds on to.
func step(in *inputs) repeat {
	const steps = 4
	method, err := unlearn.FindMethod("adv-imp")
	if err != nil {
		panic(err)
	}
	net := in.network()
	engine.Accelerate(net, engine.Exact)
	x, y := in.all(in.forget())
	task := &unlearn.Task{
		Net: net, Classes: in.classes(), Forget: &unlearn.Examples{X: x, Y: y},
		Driver: &unlearn.Examples{X: in.tensor("adv.images"), Y: in.tensor("adv.labels")}, EvalBatch: chunk.Fixed(256),
		Graphs: cuda.NewRecorder(in.device),
	}
	var params, reference, first []torch.Tensor
	for _, p := range net.Root().NamedParameters() {
		task.Anchors = append(task.Anchors, in.tensor("anchor."+p.Name))
		params, reference, first = append(params, p.Tensor), append(reference, in.tensor("moved."+p.Name)), append(first, p.Tensor.Detach().Clone())
	}
	state := in.state(net)
	o := &unlearn.Options{
		Goal: unlearn.Misclassify, LR: 1e-5, Momentum: 0.9, WeightDecay: 1e-4, Lambda: 1, ForgetBatch: 32, AdvBatch: 256, RetainBatch: 256,
		LossWeights: unlearn.BySample, BN: unlearn.BNTrain, StopCheck: "step", MaxPasses: 10, MaxSteps: steps,
	}
	return func() (seconds float64, proof check) {
		torch.NoGrad(func() {
			for i, p := range params {
				p.CopyI(reference[i])
			}
		})
		task.Resume = &unlearn.State{Tensors: state}
		var began time.Time
		var loss float64
		task.Observe = func(r unlearn.Record) {
			in.wait()
			seconds, loss = time.Since(began).Seconds(), r.Loss
		}
		task.Save = func(s *unlearn.State, _ bool) error { // all that is left of a step
			if s.Step == steps {
				var momenta []torch.Tensor
				for _, t := range s.Tensors {
					if strings.HasPrefix(t.Name, "momentum.") {
						momenta = append(momenta, t.Tensor)
					}
				}
				torch.Scope(func() { proof = check{"loss": loss, "moved": distance(params, first), "momentum": norm(momenta)} })
			}
			began = time.Now()
			return nil
		}
		if _, err := unlearn.Forget(context.Background(), method, task, o); err != nil {
			panic(err)
		}
		if proof == nil {
			panic(fmt.Sprintf("the goal was reached before step %d, so there is nothing to measure: prepare other inputs", steps))
		}
		return seconds, proof
	}
}

// state is a network's, with the prepared weights and momenta that are zero.
func (in *inputs) state(net nn.Module) (state []nn.Named) {
	for _, t := range net.Root().StateDict() {
		state = append(state, nn.Named{Name: t.Name, Tensor: in.tensor("weights." + t.Name)})
	}
	for _, p := range net.Root().NamedParameters() {
		state = append(state, nn.Named{Name: "momentum." + p.Name, Tensor: p.Tensor.Detach().ZerosLike()})
	}
	return state
}

// C4: 6,144 images in batches of 256, in a given order.
func batches(in *inputs) repeat {
	labels := torch.ToSlice[int64](in.tensor("test.labels"))
	loader := data.NewLoader(in.set("test.pixels", labels), in.device, torch.ChannelsLast, math.MaxInt64)
	var order []int
	for _, i := range torch.ToSlice[int64](in.tensor("test.order")) {
		order = append(order, int(i))
	}
	view := loader.View("", order, nil)
	return func() (seconds float64, proof check) {
		for from := 0; from < len(order); from += 256 {
			torch.Scope(func() {
				began := time.Now()
				x, _, err := view.Batch(from, min(from+256, len(order)))
				seconds += time.Since(began).Seconds()
				if err != nil {
					panic(err)
				}
				if from+256 >= len(order) {
					proof = check{"sum": sum(x)}
				}
			})
		}
		return seconds, proof
	}
}

// C5: files of photographs to pixels of 224 x 224.
func pictures(in *inputs) repeat {
	source := data.Source{
		Dir: filepath.Join(in.folder, "c5"), Workers: 1,
		Preprocess: data.Preprocess{Resize: 256, Crop: 224, Filter: resample.Bilinear},
	}
	return func() (seconds float64, proof check) {
		began := time.Now()
		sets, err := data.Open(context.Background(), "folder", source, "train")
		seconds = time.Since(began).Seconds()
		if err != nil {
			panic(err)
		}
		total := 0.0
		for _, v := range sets[0].Pixels {
			total += float64(v)
		}
		return seconds, check{"mean": total / float64(len(sets[0].Pixels))}
	}
}

// C6: penalty, weight decay, momentum and step over the parameters of ResNet-18.
func update(in *inputs) repeat {
	net := in.network()
	lists := map[string][]torch.Tensor{}
	for _, p := range net.Root().NamedParameters() {
		for _, prefix := range []string{"moved.", "momentum.", "grad.", "anchor.", "weights."} {
			lists[prefix] = append(lists[prefix], in.tensor(prefix+p.Name))
		}
	}
	net.Root().Free()
	var params, momenta []torch.Tensor
	for i := range lists["moved."] {
		params, momenta = append(params, lists["moved."][i].Clone()), append(momenta, lists["momentum."][i].Clone())
	}
	return func() (seconds float64, proof check) {
		torch.Scope(func() {
			for i := range params {
				params[i].CopyI(lists["moved."][i])
				momenta[i].CopyI(lists["momentum."][i])
			}
			seconds = in.timed(func() {
				kernels.AnchoredSGD(params, lists["grad."], momenta, lists["anchor."], lists["weights."], 0.001, 0.9, 1e-4, 1, false)
			})
			proof = check{"moved": distance(params, lists["moved."]), "momentum": norm(momenta)}
		})
		return seconds, proof
	}
}

// The importance of all parameters for the forget set, normalised.
func estimate(kind string) func(*inputs) repeat {
	return func(in *inputs) repeat {
		net := in.network()
		x, y := in.all(in.forget())
		job := &importance.Job{
			Net: net, Params: net.Root().Parameters(), Images: &unlearn.Examples{X: x, Y: y}, Slice: 32,
			Options: importance.Options{Kind: kind, Accumulate: true}, Graphs: cuda.NewRecorder(in.device),
		}
		return func() (seconds float64, proof check) {
			torch.Scope(func() {
				var anchors []torch.Tensor
				seconds = in.timed(func() {
					omega, err := job.Run(context.Background(), nil)
					if err != nil {
						panic(err)
					}
					anchors = (&importance.Options{}).Anchors(omega)
				})
				free := 0.0
				for _, a := range anchors {
					free += float64(a.Numel()) - sum(a)
				}
				proof = check{"free": free}
			})
			return seconds, proof
		}
	}
}
