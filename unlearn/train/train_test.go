package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"l2ul/internal/reference"
	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	"l2ul/torch/optim"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	"l2ul/unlearn/metrics"
	"l2ul/unlearn/seed"
)

func TestMain(m *testing.M) { reference.TestMain(m) }

// newSet is n images of five classes that are easy to tell apart: each class has a colour and a bright corner.
func newSet(n int) *data.Set {
	s := &data.Set{Dataset: "test", Split: "train", Classes: make([]string, smallnet.Classes), C: 3, H: 8, W: 8}
	for i := range n {
		label := i * 3 % smallnet.Classes
		s.Labels = append(s.Labels, label)
		for c := range 3 {
			for p := range 64 {
				value := (i*31 + c*17 + p*7) % 60
				if c == label%3 {
					value += 100
				}
				if label > 2 && p < 16 {
					value += 90
				}
				s.Pixels = append(s.Pixels, byte(value))
			}
		}
	}
	return s
}

func newJob(t *testing.T, n int, o Options) *Job { return newJobOn(t, newSet(n), o) }

func newJobOn(t *testing.T, set *data.Set, o Options) *Job {
	t.Helper()
	torch.ManualSeed(3)
	net := smallnet.New("tiny")
	t.Cleanup(net.Free)
	nn.ToMemoryFormat(net, torch.ChannelsLast)
	images := data.NewLoader(set, torch.CPU, torch.ChannelsLast, math.MaxInt64)
	t.Cleanup(images.Free)
	indices := make([]int, set.Len())
	for i := range indices {
		indices[i] = i
	}
	return &Job{Net: net, Images: images, Indices: indices, Part: data.PartRetain, Options: o, Seed: 11}
}

func recipe() Options {
	return Options{Epochs: 2, LR: 0.05, Momentum: 0.9, WeightDecay: 5e-4, Schedule: "cosine", Batch: 4, Augment: true}
}

// Images that do not fit the device make the same network.
func TestStreamed(t *testing.T) {
	var ends [2][]byte
	for i, room := range []int64{math.MaxInt64, 0} {
		set := newSet(11) // the last batch has 3
		job := newJobOn(t, set, recipe())
		job.Images = data.NewLoader(set, torch.CPU, torch.ChannelsLast, room)
		t.Cleanup(job.Images.Free)
		job.Save = func(s *State, _ bool) error { ends[i] = pack(s); return nil }
		if err := job.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(ends[0], ends[1]) {
		t.Error("other weights, statistics or momenta")
	}
}

// everything is a recipe that uses all there is.
func everything() Options {
	o := recipe()
	o.Optimizer, o.LR, o.Warmup, o.Accumulate, o.MixUp, o.CutMix = "adamw", 0.01, 1, 2, 0.2, 1
	o.LabelSmoothing, o.ClipNorm, o.EMA, o.Val = 0.1, 0.5, 0.8, 3
	return o
}

// A run that is interrupted after any step, or while it scores an epoch, and resumed has the bits of one that is not:
// parameters, running statistics, state of optimizer and average, log, with dropout too.
func TestResume(t *testing.T) {
	oneCycle := recipe()
	oneCycle.Schedule, oneCycle.Nesterov = "onecycle", true
	for name, o := range map[string]Options{"cosine": recipe(), "one cycle": oneCycle, "everything": everything()} {
		start := func() *Job {
			job := newJob(t, 10+o.Val, o)
			job.Net = nn.Sequential(job.Net, nn.Dropout(0.2))
			holdOut(job)
			return job
		}
		type entry struct {
			Record
			Validation
		}
		follow := func(job *Job, log *[]entry) {
			job.Observe = func(r Record) { *log = append(*log, entry{Record: r}) }
			job.Validated = func(v Validation) error { *log = append(*log, entry{Validation: v}); return nil }
		}
		whole := start()
		var log []entry
		follow(whole, &log)
		var last []byte
		whole.Save = func(s *State, _ bool) error { last = pack(s); return nil }
		if err := whole.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if want := 6 + min(2, 2*o.Val); len(log) != want || whole.Steps() != 6 {
			t.Fatalf("%d entries for %d steps, want %d for 6", len(log), whole.Steps(), want)
		}
		for stop := range 6 + min(1, o.Val) {
			ctx, cancel := context.WithCancelCause(t.Context())
			signal := errors.New("stopped by a test")
			if stop == 0 {
				cancel(signal)
			}
			job, state := start(), State{}
			var file *ckpt.File
			var logged []entry
			follow(job, &logged)
			if stop == 6 { // while the last epoch is scored
				job.Val, job.AtOnce = &stopping{job.Val, func() {
					if len(logged) == 7 {
						cancel(signal)
					}
				}}, chunk.Fixed(1)
			}
			job.Save = func(s *State, force bool) error {
				if s.Step == stop && stop < 6 {
					cancel(signal)
				}
				if force {
					state, file = *s, nn.Pack(s.Tensors)
				}
				return nil
			}
			if err := job.Run(ctx); !errors.Is(err, signal) || file == nil || state.Step != stop {
				t.Fatalf("%s stopped after step %d: %v, state of step %d", name, stop, err, state.Step)
			}
			torch.Scope(func() {
				again := start()
				var err error
				if state.Tensors, err = nn.Unpack(file); err != nil {
					t.Fatal(err)
				}
				again.Resume = &state
				var end []byte
				follow(again, &logged)
				again.Save = func(s *State, _ bool) error { end = pack(s); return nil }
				if err := again.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(log, logged); diff != "" {
					t.Errorf("%s stopped after step %d: log (-want +got):\n%s", name, stop, diff)
				}
				if !slices.Equal(last, end) {
					t.Errorf("%s stopped after step %d: another state", name, stop)
				}
			})
			cancel(nil)
		}
	}
}

// stopping are images that tell when a batch of them is taken.
type stopping struct {
	metrics.Images
	stop func()
}

func (s *stopping) Batch(from, to int) (x, y torch.Tensor, err error) {
	s.stop()
	return s.Images.Batch(from, to)
}

func pack(s *State) []byte {
	out := fmt.Appendf(nil, "%d %d %+v", s.Step, s.Validated, s.Best)
	for _, n := range nn.Pack(s.Tensors).Tensors {
		out = append(append(out, n.Name...), n.Data...)
	}
	return out
}

func TestResumeNeedsEveryTensor(t *testing.T) {
	job := newJob(t, 8, recipe())
	job.Resume = &State{Step: 1}
	if err := job.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "conv.weight") {
		t.Errorf("an empty state: %v", err)
	}
}

// The steps are those of a loop written out with the optimizer, over the order that the seed gives.
func TestStepsAreSGD(t *testing.T) {
	o := recipe()
	o.Augment, o.Nesterov = false, true
	job := newJob(t, 10, o)
	if err := job.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	set := newSet(10)
	plain := newJobOn(t, set, o)
	torch.Scope(func() {
		opt := optim.SGD(o.LR, o.Momentum, 0, o.WeightDecay, true)
		defer opt.Free()
		opt.AddParameters(plain.Net.Root().Parameters())
		plain.Net.Root().Train(true)
		for epoch := range o.Epochs {
			var order []int64
			torch.Seeded(torch.NewGenerator(seed.For(11, "train/shuffle", epoch)), func() { order = torch.ToSlice[int64](torch.RandPerm(10)) })
			opt.SetLR([]float64{0.05, 0.025}[epoch])
			for from := 0; from < 10; from += 4 {
				batch := order[from:min(from+4, 10)]
				var pixels []float32
				var labels []int64
				for _, i := range batch {
					for _, p := range set.Image(int(i)) {
						pixels = append(pixels, float32(p)/255)
					}
					labels = append(labels, int64(set.Labels[i]))
				}
				x := torch.FromSlice(pixels, int64(len(batch)), 3, 8, 8).Contiguous(torch.ChannelsLast)
				opt.ZeroGrad()
				metrics.CrossEntropy(plain.Net.Forward(x), torch.FromSlice(labels)).Backward()
				opt.Step()
			}
		}
		opt.ZeroGrad()
		if !torch.Equal(smallnet.State(job.Net), smallnet.State(plain.Net)) {
			t.Error("training differs from the loop written out")
		}
	})
}

// The crops of a step are those that PyTorch draws:
//
//	g = torch.Generator().manual_seed(l2ul.stream_seed(11, "train/augment", 7))
//	torch.cat([torch.randint(0, 9, (8, 2), generator=g), torch.randint(0, 2, (8, 1), generator=g)], 1)
//
// They depend on the step alone, and reach every window and both flips.
func TestCrops(t *testing.T) {
	job := newJob(t, 8, recipe())
	draw := func(n, step int) (crops []int64) {
		torch.Scope(func() { crops = torch.ToSlice[int64](job.crops(n, step)) })
		return crops
	}
	want := []int64{6, 5, 1, 4, 3, 0, 1, 4, 0, 3, 4, 0, 1, 7, 1, 3, 2, 1, 3, 0, 1, 1, 2, 0}
	if got := draw(8, 7); !slices.Equal(got, want) {
		t.Errorf("crops %v, want %v", got, want)
	}
	many := draw(500, 7)
	if slices.Equal(many, draw(500, 8)) {
		t.Error("two steps have the same crops")
	}
	var tops, lefts [2*padding + 1]int
	flips := 0
	for i := range 500 {
		tops[many[3*i]]++
		lefts[many[3*i+1]]++
		flips += int(many[3*i+2])
	}
	if slices.Min(tops[:]) < 25 || slices.Min(lefts[:]) < 25 || flips < 200 || flips > 300 {
		t.Errorf("windows %v, %v, %d flips of 500", tops, lefts, flips)
	}
}

// A batch is the crops that were drawn for its step, of images that are padded with black; without augmentation it is the
// images.
func TestImages(t *testing.T) {
	set := newSet(8)
	job := newJobOn(t, set, recipe())
	torch.Scope(func() {
		batch, none := []int{5, 0, 7}, []int64{padding, padding, 0}
		for _, augment := range []bool{true, false} {
			job.Options.Augment = augment
			crops := slices.Repeat(none, len(batch))
			if augment {
				crops = torch.ToSlice[int64](job.crops(len(batch), 3))
			}
			b := job.images(batch, 3)
			x, y := b.x, b.y
			if !x.IsContiguous(torch.ChannelsLast) {
				t.Error("the batch is not in the memory format of the loader")
			}
			var want []float32
			for i, sample := range batch {
				top, left, flip := int(crops[3*i]), int(crops[3*i+1]), crops[3*i+2] == 1
				for at, image := 0, set.Image(sample); at < len(image); at++ {
					plane, h, w := at/64, at/8%8+top-padding, at%8
					if flip {
						w = 7 - w
					}
					w += left - padding
					value := float32(0)
					if h >= 0 && h < 8 && w >= 0 && w < 8 {
						value = float32(image[64*plane+8*h+w]) / 255
					}
					want = append(want, value)
				}
			}
			if !slices.Equal(torch.ToSlice[float32](x), want) {
				t.Errorf("augment %t: other images than the crops %v", augment, crops)
			}
			if labels := torch.ToSlice[int64](y); !slices.Equal(labels, []int64{0, 0, 1}) {
				t.Errorf("labels %v", labels)
			}
		}
	})
}

// A batch of CIFAR's size.
func BenchmarkImages(b *testing.B) {
	const n = 1024
	set := &data.Set{C: 3, H: 32, W: 32, Pixels: make([]byte, n*3*32*32), Labels: make([]int, n)}
	images := data.NewLoader(set, torch.CPU, torch.ChannelsLast, math.MaxInt64)
	defer images.Free()
	batch := make([]int, 128)
	for i := range batch {
		batch[i] = i * 7
	}
	for _, augment := range []bool{false, true} {
		b.Run(fmt.Sprintf("augment=%t", augment), func(b *testing.B) {
			job := &Job{Images: images, Options: Options{Augment: augment}}
			for b.Loop() {
				torch.Scope(func() { job.images(batch, 3) })
			}
		})
	}
}

// Cosine holds its rate for an epoch; one cycle moves with every step.
func TestSchedules(t *testing.T) {
	file, err := ckpt.Load(reference.Golden(t, "streams.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	rates := func(name string) (out []float64) {
		torch.Scope(func() { out = torch.ToSlice[float64]((&smallnet.Golden{TB: t, File: file}).Tensor("rates." + name)) })
		return out
	}
	near := func(got, want float64) bool { return math.Abs(got-want) <= 1e-7*want+1e-18 }
	job := newJob(t, 10, Options{Epochs: 200, LR: 0.01, Batch: 4, Schedule: "cosine"})
	rate, want := job.Options.schedule(job.perEpoch()), rates("cosine")
	for step := range job.Steps() {
		if !near(rate(step), want[step/3]) {
			t.Errorf("cosine, step %d: %g, want %g", step, rate(step), want[step/3])
		}
	}
	job = newJob(t, 8, Options{Epochs: 100, LR: 0.005, Batch: 4, Schedule: "onecycle"})
	rate, want = job.Options.schedule(job.perEpoch()), rates("onecycle") // pairs of rate and momentum
	for step := range 200 {
		if !near(rate(step), want[2*step]) {
			t.Errorf("one cycle, step %d: %g, want %g", step, rate(step), want[2*step])
		}
	}
	job.Options.Schedule = "constant"
	if got := job.Options.schedule(2)(123); got != 0.005 {
		t.Errorf("constant: %g", got)
	}
}

// Every image once an epoch, in an order of its own; a last batch of one image is dropped; reads are counted.
func TestEpochs(t *testing.T) {
	for _, c := range []struct {
		n, batch, steps int
		sizes           []int
		reads           int64
	}{
		{8, 4, 4, []int{4, 4, 4, 4}, 16}, {9, 4, 4, []int{4, 4, 4, 4}, 16}, {10, 4, 6, []int{4, 4, 2, 4, 4, 2}, 20}, {3, 4, 2, []int{3, 3}, 6},
	} {
		o := recipe()
		o.Batch = c.batch
		job := newJob(t, c.n, o)
		job.Meter = data.NewMeter(data.WithRetain, nil)
		job.Meter.Enter(data.PhaseUnlearn)
		var sizes []int
		job.Observe = func(r Record) {
			sizes = append(sizes, r.N)
			if r.Steps != c.steps || r.Step != len(sizes) || r.Epoch != (r.Step-1)/(c.steps/2)+1 {
				t.Errorf("%+v", r)
			}
		}
		if err := job.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := job.Meter.Reads()[data.PhaseUnlearn][data.PartRetain]; !slices.Equal(sizes, c.sizes) || got != c.reads {
			t.Errorf("%d images in batches of %d: batches %v, %d reads; want %v, %d", c.n, c.batch, sizes, got, c.sizes, c.reads)
		}
		first, second := job.shuffle(0), job.shuffle(1)
		if c.n > 3 && (slices.Equal(first, second) || slices.IsSorted(first)) {
			t.Errorf("epochs in the orders %v and %v", first, second)
		}
		slices.Sort(first)
		if !slices.Equal(first, job.Indices) {
			t.Errorf("an epoch has the images %v", first)
		}
	}
	for _, n := range []int{0, 1} {
		if err := newJob(t, n, recipe()).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "too few") {
			t.Errorf("training on %d images: %v", n, err)
		}
	}
}

// Parts give the gradient of the whole where nothing depends on the company; dropout sees each part.
func TestAccumulate(t *testing.T) {
	var ends [2]torch.Tensor
	torch.Scope(func() {
		for i, parts := range []int{1, 3} {
			o := recipe()
			o.Accumulate, o.Batch, o.Epochs = parts, 8, 3
			job := newJob(t, 11, o) // 8 images in parts of 2, 3 and 3, and 3 in one
			net := nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1, 1, 1, true, "zeros"), nn.Flatten(), nn.Linear(4*64, smallnet.Classes, true))
			job.Net = net
			torch.Seeded(torch.NewGenerator(5), func() {
				torch.NoGrad(func() {
					for _, p := range net.Root().Parameters() {
						p.NormalI(0, 0.1)
					}
				})
			})
			var seen []int
			job.Observe = func(r Record) { seen = append(seen, r.N) }
			if err := job.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(seen, []int{8, 3, 8, 3, 8, 3}) {
				t.Errorf("steps of %v images", seen)
			}
			ends[i] = smallnet.State(net)
			net.Root().Free()
		}
		if torch.Equal(ends[0], ends[1]) || !torch.AllClose(ends[0], ends[1], 1e-4, 1e-6) {
			t.Errorf("weights differ by up to %g", ends[0].Sub(ends[1], 1).Abs().Max().Item())
		}
	})
}

// What mixing makes: each image is its own share and the rest of one other, and the labels have the same shares.
func TestMix(t *testing.T) {
	set := newSet(64)
	for kind, o := range map[string]Options{"mixup": {MixUp: 1}, "cutmix": {CutMix: 1}} {
		job := newJobOn(t, set, o)
		torch.Scope(func() {
			plain, labels := job.Images.Gather(job.Indices)
			shares, whole := 0., 0
			for step := range 100 {
				b := job.images(job.Indices, step)
				shares += b.share / 100
				if !torch.Equal(b.y, labels) || !b.x.IsContiguous(torch.ChannelsLast) {
					t.Fatalf("%s, step %d: other labels, or another memory format", kind, step)
				}
				if kind == "mixup" {
					// The mean over all images is that of the plain ones, since every image is somebody's partner.
					if diff := b.x.Mean().Item() - plain.Mean().Item(); math.Abs(diff) > 1e-5 {
						t.Errorf("step %d: the mean moved by %g", step, diff)
					}
					continue
				}
				// Everywhere the pixels are those of the image or of another, and the share of its own is in the labels. Of
				// the three channels at most one can be the same by chance.
				own := b.x.Sub(plain, 1).Abs().Sum()
				same := b.x.Eq(plain).CastTo(torch.Float).Mean().Item()
				if same < b.share-1e-6 {
					t.Errorf("step %d: %g of the pixels are kept, the share is %g", step, same, b.share)
				}
				if own.Item() == 0 {
					whole++
				} else if b.share == 1 {
					t.Errorf("step %d: a share of 1, and other pixels", step)
				}
			}
			// The mean of Beta(1, 1) is 1/2; borders cut boxes off.
			if low := map[string]float64{"mixup": 0.4, "cutmix": 0.65}[kind]; shares < low || shares > low+0.2 || whole > 20 {
				t.Errorf("%s: a mean share of %g, %d steps of 100 without change", kind, shares, whole)
			}
		})
	}
}

// Mixed precision computes otherwise, and learns all the same; the weights stay float32.
func TestAMP(t *testing.T) {
	o := recipe()
	o.Epochs, o.Batch, o.LR, o.Augment, o.AMP = 60, 10, 0.1, false, true
	job := newJob(t, 40, o)
	first, last := ends(t, job)
	if last.Loss > 0.2*first.Loss || last.Hits < 9 || job.Net.Root().Parameters()[0].Dtype() != torch.Float {
		t.Errorf("from %+v to %+v", first, last)
	}
	o.AMP = false
	plain := newJob(t, 40, o)
	plain.Observe = func(r Record) {
		if r.Step == 1 && (r.Loss == first.Loss || math.Abs(r.Loss-first.Loss) > 0.02*r.Loss) {
			t.Errorf("the first loss is %.9g, in mixed precision %.9g", r.Loss, first.Loss)
		}
	}
	if err := plain.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// The held-out images depend on the seed and on how many there are, and there are no more than that. The best epoch is the
// first of those with the most hits.
func TestHoldOut(t *testing.T) {
	draw := func(n, val int, seed int64) []int { return (&Options{Val: val}).HoldOut(make([]int, n), seed) }
	held := draw(100, 10, 3)
	if len(held) != 10 || !slices.IsSorted(held) || len(slices.Compact(slices.Clone(held))) != 10 || held[9] >= 100 {
		t.Errorf("%v", held)
	}
	if !slices.Equal(held, draw(100, 10, 3)) || slices.Equal(held, draw(100, 10, 4)) || len(draw(5, 9, 3)) != 5 {
		t.Error("not decided by the seed and the count")
	}
	o := recipe()
	o.Val, o.Epochs = 4, 6
	job := newJob(t, 20, o)
	holdOut(job)
	var state State
	job.Save = func(s *State, _ bool) error { state = *s; return nil }
	var hits []int64
	job.Validated = func(v Validation) error {
		if best := len(hits) == 0 || v.Score.Hits > slices.Max(hits); v.Best != best || v.Epoch != len(hits)+1 || v.Score.N != 4 {
			t.Errorf("%+v after scores of %v", v, hits)
		}
		hits = append(hits, v.Score.Hits)
		return nil
	}
	if err := job.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if most := slices.Max(hits); *state.Best != (Best{Epoch: slices.Index(hits, most) + 1, Hits: most, N: 4}) || len(hits) != 6 {
		t.Errorf("scores of %v have the best %+v", hits, state.Best)
	}
	full := errors.New("no space left")
	job.Validated = func(Validation) error { return full }
	if err := job.Run(t.Context()); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
}

func TestValidate(t *testing.T) {
	for want, change := range map[string]func(o *Options){
		"--nesterov":                           func(o *Options) { o.Nesterov, o.Momentum = true, 0 },
		"--optimizer sgd":                      func(o *Options) { o.Nesterov, o.Optimizer = true, "adam" },
		"--milestones 91,136":                  func(o *Options) { o.Schedule = "multistep" },
		"need each other":                      func(o *Options) { o.Milestones = []float64{1} },
		"1.5 is no whole number between 0":     func(o *Options) { o.Schedule, o.Milestones = "multistep", []float64{1.5} },
		"2 is no whole number between 0":       func(o *Options) { o.Schedule, o.Milestones = "multistep", []float64{2} },
		"1 is no whole number between 1":       func(o *Options) { o.Schedule, o.Milestones, o.Warmup = "multistep", []float64{1}, 1 },
		"leave one of the two out":             func(o *Options) { o.Schedule, o.Warmup = "onecycle", 1 },
		"--warmup 2 must be less than":         func(o *Options) { o.Warmup = 2 },
		"--ema 1 would never take anything in": func(o *Options) { o.EMA = 1 },
	} {
		o := recipe()
		if err := o.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&o)
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// Only the images that are named are trained on, as retraining without the forgotten ones needs it.
func TestTrainsOnItsIndicesAlone(t *testing.T) {
	o := recipe()
	o.Augment = false
	run := func(spoil int) torch.Tensor {
		set := newSet(10)
		for i := range 192 {
			set.Pixels[spoil*192+i] = 255
		}
		job := newJobOn(t, set, o)
		job.Indices = []int{8, 1, 2, 3, 9, 6}
		if err := job.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		return smallnet.State(job.Net)
	}
	torch.Scope(func() {
		a, b, c := run(0), run(7), run(6)
		if !torch.Equal(a, b) {
			t.Error("an image outside the indices has an influence")
		}
		if torch.Equal(a, c) {
			t.Error("an image among the indices has none")
		}
	})
}

func TestForbiddenRead(t *testing.T) {
	job := newJob(t, 8, recipe())
	job.Meter = data.NewMeter(data.ForgetOnly, nil)
	job.Meter.Enter(data.PhaseUnlearn)
	var forbidden *data.AccessError
	if err := job.Run(t.Context()); !errors.As(err, &forbidden) || forbidden.Part != data.PartRetain {
		t.Errorf("%v", err)
	}
}

func TestDiverged(t *testing.T) {
	for _, epochs := range []int{1, 5} {
		o := recipe()
		o.LR, o.WeightDecay, o.Epochs, o.Batch = 1e38, 1000, epochs, 8 // the first step overflows the parameters
		err := newJob(t, 8, o).Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "diverged") || !strings.Contains(err.Error(), "1e+38") {
			t.Errorf("%d steps with lr 1e38: %v", epochs, err)
		}
		if epochs > 1 && !strings.Contains(err.Error(), "step 2") {
			t.Errorf("the step is not named: %v", err)
		}
	}
}

// ends runs a job and returns what its first and its last step told.
func ends(t *testing.T, job *Job) (first, last Record) {
	t.Helper()
	job.Observe = func(r Record) {
		if r.Step == 1 {
			first = r
		}
		last = r
	}
	if err := job.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return first, last
}

func TestLearns(t *testing.T) {
	o := recipe()
	o.Epochs, o.Batch, o.LR, o.Augment = 60, 10, 0.1, false
	job := newJob(t, 40, o)
	first, last := ends(t, job)
	if job.Net.Root().Training() {
		t.Error("the network ends in training mode")
	}
	if last.Loss > 0.2*first.Loss || last.Hits < 9 {
		t.Errorf("from %+v to %+v", first, last)
	}
}

func TestErrorsOfSaveEndTheRun(t *testing.T) {
	full := errors.New("no space left")
	job := newJob(t, 8, recipe())
	job.Save = func(*State, bool) error { return full }
	if err := job.Run(t.Context()); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
}
