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

func newJob(t *testing.T, n int, o Options) *Job {
	t.Helper()
	torch.ManualSeed(3)
	net := smallnet.New("tiny")
	t.Cleanup(net.Free)
	nn.ToMemoryFormat(net, torch.ChannelsLast)
	indices := make([]int, n)
	for i := range indices {
		indices[i] = i
	}
	return &Job{Net: net, Set: newSet(n), Indices: indices, Part: data.PartRetain, Format: torch.ChannelsLast, Options: o, Seed: 11}
}

func recipe() Options {
	return Options{Epochs: 2, LR: 0.05, Momentum: 0.9, WeightDecay: 5e-4, Schedule: "cosine", Batch: 4, Augment: true}
}

// A run that is interrupted after any step and resumed has the bits of one that is not: parameters, running statistics,
// momenta, log.
func TestResume(t *testing.T) {
	for _, schedule := range []string{"cosine", "onecycle"} {
		o := recipe()
		o.Schedule, o.Nesterov = schedule, schedule == "onecycle"
		whole := newJob(t, 10, o)
		var log []Record
		whole.Observe = func(r Record) { log = append(log, r) }
		var last []byte
		whole.Save = func(s *State, _ bool) error { last = pack(s); return nil }
		if err := whole.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(log) != 6 || whole.Steps() != 6 {
			t.Fatalf("%d steps, want 6", len(log))
		}
		for stop := range 6 {
			ctx, cancel := context.WithCancelCause(t.Context())
			signal := errors.New("stopped by a test")
			if stop == 0 {
				cancel(signal)
			}
			job, state := newJob(t, 10, o), State{}
			var file *ckpt.File
			var logged []Record
			job.Observe = func(r Record) { logged = append(logged, r) }
			job.Save = func(s *State, force bool) error {
				if s.Step == stop {
					cancel(signal)
				}
				if force {
					state, file = *s, nn.Pack(s.Tensors)
				}
				return nil
			}
			if err := job.Run(ctx); !errors.Is(err, signal) || file == nil || state.Step != stop {
				t.Fatalf("stopped after step %d: %v, state of step %d", stop, err, state.Step)
			}
			torch.Scope(func() {
				again := newJob(t, 10, o)
				var err error
				if state.Tensors, err = nn.Unpack(file); err != nil {
					t.Fatal(err)
				}
				again.Resume = &state
				var end []byte
				again.Observe = func(r Record) { logged = append(logged, r) }
				again.Save = func(s *State, _ bool) error { end = pack(s); return nil }
				if err := again.Run(t.Context()); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(log, logged); diff != "" {
					t.Errorf("%s stopped after step %d: log (-want +got):\n%s", schedule, stop, diff)
				}
				if !slices.Equal(last, end) {
					t.Errorf("%s stopped after step %d: other weights, statistics or momenta", schedule, stop)
				}
			})
			cancel(nil)
		}
	}
}

func pack(s *State) []byte {
	out := fmt.Appendf(nil, "%d", s.Step)
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
	plain := newJob(t, 10, o)
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
					for _, p := range plain.Set.Image(int(i)) {
						pixels = append(pixels, float32(p)/255)
					}
					labels = append(labels, int64(plain.Set.Labels[i]))
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

// Every window and flip of a crop, against an image that is really padded.
func TestCrop(t *testing.T) {
	const c, h, w = 2, 5, 6
	src := make([]uint8, c*h*w)
	for i := range src {
		src[i] = uint8(i + 1)
	}
	padded := func(plane, y, x int) uint8 {
		y, x = y-padding, x-padding
		if y < 0 || y >= h || x < 0 || x >= w {
			return 0
		}
		return src[(plane*h+y)*w+x]
	}
	for top := range 2*padding + 1 {
		for left := range 2*padding + 1 {
			for _, flip := range []bool{false, true} {
				dst := make([]uint8, c*h*w)
				crop(dst, src, c, h, w, top, left, flip)
				for i := range dst {
					plane, y, x := i/(h*w), i/w%h, i%w
					if flip {
						x = w - 1 - x
					}
					if want := padded(plane, y+top, x+left); dst[i] != want {
						t.Fatalf("window (%d, %d), flip %t: pixel %d is %d, want %d", top, left, flip, i, dst[i], want)
					}
				}
			}
		}
	}
}

// The numbers that augment are drawn for each step alone, and reach every window and both flips.
func TestDraws(t *testing.T) {
	job := newJob(t, 8, recipe())
	a := job.draws(500, 7)
	if !slices.Equal(a, job.draws(500, 7)) || slices.Equal(a, job.draws(500, 8)) {
		t.Error("the draws do not follow the step")
	}
	var tops, lefts [2*padding + 1]int
	flips := 0
	for i := range 500 {
		tops[a[3*i]]++
		lefts[a[3*i+1]]++
		flips += int(a[3*i+2])
	}
	if slices.Min(tops[:]) < 25 || slices.Min(lefts[:]) < 25 || flips < 200 || flips > 300 {
		t.Errorf("windows %v, %v, %d flips of 500", tops, lefts, flips)
	}
	job.Options.Augment = false
	if job.draws(4, 1) != nil {
		t.Error("draws without augmentation")
	}
}

// A batch is the crops its draws say, as pixels in [0, 1]; what is padded is 0 before the network normalises.
func TestImages(t *testing.T) {
	job := newJob(t, 8, recipe())
	torch.Scope(func() {
		batch := []int{5, 0, 7}
		x, y := job.images(batch, 3, data.PixelTable(3))
		if !x.IsContiguous(torch.ChannelsLast) {
			t.Error("the batch is not in the job's memory format")
		}
		draw, got := job.draws(3, 3), torch.ToSlice[float32](x.Contiguous(torch.Contiguous))
		for i, sample := range batch {
			want := make([]uint8, 3*8*8)
			crop(want, job.Set.Image(sample), 3, 8, 8, int(draw[3*i]), int(draw[3*i+1]), draw[3*i+2] == 1)
			for p, v := range want {
				if got[i*192+p] != float32(v)/255 {
					t.Fatalf("image %d, pixel %d: %g, want %g", i, p, got[i*192+p], float32(v)/255)
				}
			}
		}
		if labels := torch.ToSlice[int64](y); !slices.Equal(labels, []int64{0, 0, 1}) {
			t.Errorf("labels %v", labels)
		}
	})
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
	rate, want := job.schedule(job.perEpoch()), rates("cosine")
	for step := range job.Steps() {
		if !near(rate(step), want[step/3]) {
			t.Errorf("cosine, step %d: %g, want %g", step, rate(step), want[step/3])
		}
	}
	job = newJob(t, 8, Options{Epochs: 100, LR: 0.005, Batch: 4, Schedule: "onecycle"})
	rate, want = job.schedule(job.perEpoch()), rates("onecycle") // pairs of rate and momentum
	for step := range 200 {
		if !near(rate(step), want[2*step]) {
			t.Errorf("one cycle, step %d: %g, want %g", step, rate(step), want[2*step])
		}
	}
	job.Options.Schedule = "constant"
	if got := job.schedule(2)(123); got != 0.005 {
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

// Only the images that are named are trained on, as retraining without the forgotten ones needs it.
func TestTrainsOnItsIndicesAlone(t *testing.T) {
	o := recipe()
	o.Augment = false
	run := func(spoil int) torch.Tensor {
		job := newJob(t, 10, o)
		job.Indices = []int{8, 1, 2, 3, 9, 6}
		for i := range 192 {
			job.Set.Pixels[spoil*192+i] = 255
		}
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

func TestLearns(t *testing.T) {
	o := recipe()
	o.Epochs, o.Batch, o.LR, o.Augment = 60, 10, 0.1, false
	job := newJob(t, 40, o)
	var first, last Record
	job.Observe = func(r Record) {
		if r.Step == 1 {
			first = r
		}
		last = r
	}
	if err := job.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
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
