package metrics_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	"l2ul/unlearn/metrics"
)

func TestMain(m *testing.M) { reference.TestMain(m) }

// rows is a network whose logits are its input, so that tests choose them.
type rows struct{ nn.Base }

func (*rows) Forward(x torch.Tensor) torch.Tensor { return x.Flatten(1, -1) }

// images have one channel and one row of pixels: the logits.
type images struct {
	x, y torch.Tensor
	fail error
	read [][2]int
}

func (m *images) Len() int { return int(m.y.Size(0)) }

func (m *images) Batch(from, to int) (x, y torch.Tensor, err error) {
	m.read = append(m.read, [2]int{from, to})
	return m.x.Narrow(0, int64(from), int64(to-from)), m.y.Narrow(0, int64(from), int64(to-from)), m.fail
}

func newImages(logits [][]float32, labels []int64) *images {
	var all []float32
	for _, l := range logits {
		all = append(all, l...)
	}
	width := int64(3)
	if len(logits) > 0 {
		width = int64(len(logits[0]))
	}
	return &images{x: torch.FromSlice(all, int64(len(logits)), 1, 1, width), y: torch.FromSlice(labels)}
}

func TestEvaluate(t *testing.T) {
	nan := float32(math.NaN())
	logits := [][]float32{{1, 2, 0}, {2, 2, 2}, {0, 3, 3}, {nan, nan, nan}, {-5, -4, -9}, {0, 0, 1}}
	finite := [][]float32{logits[0], logits[1], logits[2], logits[4], logits[5]}
	torch.Scope(func() {
		// Of equal logits the first counts; of none the first too, so that NaN is never a hit by luck but on class 0.
		for _, c := range []struct {
			labels []int64
			hits   int64
		}{{[]int64{1, 0, 1, 0, 1, 2}, 6}, {[]int64{0, 1, 2, 1, 0, 0}, 0}, {[]int64{1, 2, 2, 2, 1, 2}, 3}} {
			for batch := 1; batch <= 7; batch++ {
				score, err := metrics.Evaluate(t.Context(), (&rows{}).Forward, newImages(logits, c.labels), chunk.Fixed(batch), nil)
				if err != nil || score.Hits != c.hits || score.N != 6 || !math.IsNaN(score.Loss) || score.Accuracy() != float64(c.hits)/6 {
					t.Errorf("labels %v, %d at a time: %+v, %v", c.labels, batch, score, err)
				}
			}
		}
		labels, want := []int64{1, 2, 0, 0, 2}, 0.0
		for i, row := range finite {
			sum := 0.0
			for _, v := range row {
				sum += math.Exp(float64(v))
			}
			want += (math.Log(sum) - float64(row[labels[i]])) / 5
		}
		set, told := newImages(finite, labels), []int{}
		score, err := metrics.Evaluate(t.Context(), (&rows{}).Forward, set, chunk.Fixed(2), func(done int) { told = append(told, done) })
		if err != nil || math.Abs(score.Loss-want) > 1e-6 || score.N != 5 {
			t.Errorf("%+v, want loss %g: %v", score, want, err)
		}
		if !slices.Equal(told, []int{2, 4, 5}) || !slices.Equal(set.read, [][2]int{{0, 2}, {2, 4}, {4, 5}}) {
			t.Errorf("progress %v, reads %v", told, set.read)
		}
	})
}

// Where memory runs out, before the logits or behind them, images are scored fewer at a time, each counted once.
func TestOutOfMemory(t *testing.T) {
	torch.Scope(func() {
		var logits [][]float32
		var labels []int64
		for i := range int64(20) {
			logits, labels = append(logits, []float32{float32(i % 3), 1, float32(i % 5)}), append(labels, i%3)
		}
		want, err := metrics.Evaluate(t.Context(), (&rows{}).Forward, newImages(logits, labels), chunk.Fixed(3), nil)
		if err != nil {
			t.Fatal(err)
		}
		calls := 0
		crowded := func(x torch.Tensor) torch.Tensor {
			if calls++; x.Size(0) > 3 && calls%2 == 0 {
				panic(&torch.Error{Op: "aten::empty", Code: torch.OutOfMemory, Msg: "no memory"})
			}
			return (&rows{}).Forward(x)
		}
		told := 0
		size := chunk.Shrinking(12, func(int, int) { told++ })
		// Of two, the first has its batch done when the second has no memory for it.
		scores, err := metrics.EvaluateAll(t.Context(), []metrics.Classifier{(&rows{}).Forward, crowded}, newImages(logits, labels), size, nil)
		if err != nil || len(scores) != 2 || told == 0 || size.N() > 6 {
			t.Fatalf("%d scores; %d at once in the end: %v", len(scores), size.N(), err)
		}
		for i, got := range scores {
			if got.Hits != want.Hits || got.N != want.N || math.Abs(got.Loss-want.Loss) > 1e-12 {
				t.Errorf("classifier %d: %+v, want %+v", i, got, want)
			}
		}
	})
}

// Ties go to the lowest index whatever the number of classes, so also where libtorch compares several at a time.
func TestTies(t *testing.T) {
	torch.Scope(func() {
		for _, classes := range []int64{2, 3, 7, 8, 9, 16, 31, 100, 1000} {
			for _, first := range []int64{0, 1, classes / 2, classes - 1} {
				logits := torch.Zeros([]int64{1, classes}, false)
				logits.Narrow(1, first, classes-first).FillI(1)
				if metrics.Hits(logits, torch.FromSlice([]int64{first})) != 1 {
					t.Errorf("%d classes, equal from %d on: the winner is %d", classes, first, logits.ArgMax(1, false).ItemInt())
				}
			}
		}
	})
}

func TestEmptySet(t *testing.T) {
	torch.Scope(func() {
		score, err := metrics.Evaluate(t.Context(), (&rows{}).Forward, newImages(nil, nil), chunk.Fixed(4), nil)
		if err != nil || score.Hits != 0 || score.N != 0 || !math.IsNaN(score.Loss) || !math.IsNaN(score.Accuracy()) {
			t.Errorf("%+v, %v", score, err)
		}
	})
}

func TestErrorsAndInterruption(t *testing.T) {
	torch.Scope(func() {
		net := &rows{}
		set := newImages([][]float32{{1, 0}, {0, 1}, {0, 2}}, []int64{0, 1, 1})
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("stopped by a test")
		_, err := metrics.Evaluate(ctx, net.Forward, set, chunk.Fixed(1), func(int) { cancel(stop) })
		if !errors.Is(err, stop) || len(set.read) != 1 {
			t.Errorf("%v after %d reads", err, len(set.read))
		}
		set.fail = errors.New("no such image")
		if _, err := metrics.Evaluate(t.Context(), net.Forward, set, chunk.Fixed(1), nil); !errors.Is(err, set.fail) {
			t.Errorf("%v", err)
		}
	})
}

// The mean that is trained on is that of the scores, and has its gradient.
func TestCrossEntropy(t *testing.T) {
	torch.Scope(func() {
		logits := torch.FromSlice([]float32{0, 0, 1, 3}, 2, 2).SetRequiresGrad(true)
		loss := metrics.CrossEntropy(logits, torch.FromSlice([]int64{0, 1}))
		want := (math.Log(2) + math.Log(1+math.Exp(-2))) / 2
		if math.Abs(loss.Item()-want) > 1e-6 {
			t.Errorf("%g, want %g", loss.Item(), want)
		}
		grad := torch.ToSlice[float32](torch.Grad([]torch.Tensor{loss}, []torch.Tensor{logits})[0])
		p := 1 / (1 + math.Exp(-2))
		for i, w := range []float64{-0.25, 0.25, (1 - p) / 2, (p - 1) / 2} {
			if math.Abs(float64(grad[i])-w) > 1e-6 {
				t.Errorf("gradient %v", grad)
			}
		}
	})
}

// A set that does not fit the device has the scores of one that does, also where memory runs out in between, and an
// interrupted pass leaves nothing at work.
func TestStreamed(t *testing.T) {
	set := &data.Set{Dataset: "noise", Split: "test", Classes: []string{"a", "b", "c"}, C: 3, H: 1, W: 1, Pixels: make([]byte, 3*1001), Labels: make([]int, 1001)}
	draw := rand.New(rand.NewPCG(1, 2))
	for i := range set.Pixels {
		set.Pixels[i] = byte(draw.IntN(256))
	}
	for i := range set.Labels {
		set.Labels[i] = draw.IntN(3)
	}
	torch.Scope(func() {
		var scores [2]metrics.Score
		for i, room := range []int64{math.MaxInt64, 0} {
			l := data.NewLoader(set, torch.CPU, torch.ChannelsLast, room)
			defer l.Free()
			calls := 0
			classify := func(x torch.Tensor) torch.Tensor {
				if calls++; calls%2 == 0 && x.Size(0) > 20 {
					panic(&torch.Error{Op: "conv2d", Code: torch.OutOfMemory})
				}
				return x.Flatten(1, -1)
			}
			var err error
			size := chunk.Shrinking(64, func(int, int) {})
			if scores[i], err = metrics.Evaluate(t.Context(), classify, l.View(data.PartTest, nil, nil), size, nil); err != nil || size.N() > 20 {
				t.Fatalf("%d images at once: %v", size.N(), err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			_, err = metrics.Evaluate(ctx, classify, l.View(data.PartTest, nil, nil), chunk.Fixed(9), func(int) { cancel() })
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
		}
		if scores[0] != scores[1] || scores[0].Hits == 0 {
			t.Errorf("held %+v, streamed %+v", scores[0], scores[1])
		}
	})
}
