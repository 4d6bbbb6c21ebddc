package unlearn_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"l2ul/internal/smallnet"
	"l2ul/internal/tape"
	"l2ul/torch"
	"l2ul/torch/cuda"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/metrics"
)

// course is all that a run shows.
type course struct {
	Result *unlearn.Result
	Log    []unlearn.Record
	States []string // after each step, and the weights at the end
}

// course runs to the end, with graphs of steps unless these are nil.
func (r *try) course(graphs cuda.Recorder) (c course) {
	r.Helper()
	r.task.Graphs = graphs
	r.task.Save = func(s *unlearn.State, _ bool) error { c.States = append(c.States, string(pack(r.T, s))); return nil }
	c.Result = r.run()
	c.Result.Seconds, c.Log = 0, r.log
	c.States = append(c.States, string(pack(r.T, &unlearn.State{Tensors: r.task.Net.Root().StateDict()})))
	return c
}

// differ says how two courses differ. States are too long to print.
func differ(want, got course) string {
	if d := cmp.Diff(want.Result, got.Result) + cmp.Diff(want.Log, got.Log); d != "" {
		return "(-want +got):\n" + d
	}
	if len(want.States) != len(got.States) {
		return fmt.Sprintf("%d states, want %d", len(got.States), len(want.States))
	}
	for i, s := range want.States {
		if s != got.States[i] {
			return fmt.Sprintf("other parameters, statistics or momenta in state %d of %d", i+1, len(want.States))
		}
	}
	return ""
}

// to moves what a run works on to a device.
func (r *try) to(device torch.Device) {
	there := func(t torch.Tensor) torch.Tensor { return t.To(device, t.Dtype()) }
	r.task.Net.Root().To(device)
	r.task.Forget.X, r.task.Forget.Y = there(r.task.Forget.X), there(r.task.Forget.Y)
	if driver, ok := r.task.Driver.(*unlearn.Examples); ok {
		driver.X, driver.Y = there(driver.X), there(driver.Y)
	}
	for i, a := range r.task.Anchors {
		r.task.Anchors[i] = there(a)
	}
}

// turning is a set that hands out something else after so many batches.
type turning struct {
	metrics.Images
	batches int
	turn    func(x, y torch.Tensor) (torch.Tensor, torch.Tensor)
}

func (s *turning) Batch(from, to int) (x, y torch.Tensor, err error) {
	x, y, err = s.Images.Batch(from, to)
	if s.batches--; s.batches < 0 {
		x, y = s.turn(x, y)
	}
	return x, y, err
}

// Steps that are graphs have the bits of steps that are not: records, parameters, running statistics and momenta after each,
// and the end of the run, be it a cap, the goal, a loss that is not finite or a collapse.
func TestRecordedSteps(t *testing.T) { testRecordedSteps(t, torch.CPU) }

func TestRecordedStepsOnCUDA(t *testing.T) {
	if noCUDA != nil {
		t.Skip(noCUDA)
	}
	cuda.AllowTF32(false)
	torch.SetDeterministic(true)
	defer torch.SetDeterministic(false)
	testRecordedSteps(t, torch.CUDA(0))
}

func testRecordedSteps(t *testing.T, device torch.Device) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		turn := func(r *try, turn func(x, y torch.Tensor) (torch.Tensor, torch.Tensor)) {
			r.task.Driver = &turning{r.task.Driver, 9, turn} // three passes
		}
		for _, c := range []struct {
			what, method string
			change       func(r *try)
			ends         string // the outcome, and words of the reason
		}{
			{"neggrad", "neggrad", func(*try) {}, "cap"},
			{"adv-imp", "adv-imp", func(*try) {}, "cap"},
			{"oracle", "oracle", func(*try) {}, "cap"},
			{"other statistics", "adv", func(r *try) { r.o.BN, r.o.BNDriver = unlearn.BNEval, unlearn.BNTrain }, "cap"},
			{"the goal", "neggrad", func(r *try) {
				r.o.Goal, r.task.Forget.Y = unlearn.Relabel, r.g.Tensor("goal").To(device, torch.Long)
				r.o.LR, r.o.MaxPasses = 0.05, 300
			}, "reached"},
			{"no collapse", "adv", func(r *try) { r.o.StopOnDrop = true }, "cap"},
			{"a collapse", "adv", func(r *try) {
				r.o.StopOnDrop = true
				turn(r, func(x, y torch.Tensor) (torch.Tensor, torch.Tensor) {
					wrong := torch.ToSlice[int64](y)
					for i := range wrong {
						wrong[i] = (wrong[i] + 1) % smallnet.Classes
					}
					return x, torch.FromSlice(wrong).To(device, torch.Long)
				})
			}, "diverged pass 4:"},
			{"no number", "adv-imp", func(r *try) {
				turn(r, func(x, y torch.Tensor) (torch.Tensor, torch.Tensor) { return x.MulScalar(math.NaN()), y })
			}, "diverged step 10: loss NaN"},
		} {
			start := func() *try {
				r := newTry(t, g, c.method)
				r.o.LR, r.o.MaxPasses = 0.001, 4
				r.to(device)
				c.change(r)
				return r
			}
			tapes := &tape.Tape{Graphs: cuda.NewRecorder(device)}
			want, got := start().course(nil), start().course(tapes.Record)
			if d := differ(want, got); d != "" {
				t.Errorf("%s: %s", c.what, d)
			}
			if end := fmt.Sprintf("%s %s", got.Result.Outcome, got.Result.Reason); !strings.HasPrefix(end, c.ends) {
				t.Errorf("%s: %s, want %s", c.what, end, c.ends)
			}
			captured, freed := count(tapes, "capture"), count(tapes, "free")
			if replayed := count(tapes, "replay"); captured == 0 || replayed <= captured || freed != captured {
				t.Errorf("%s: %d graphs captured, %d replays, %d freed", c.what, captured, replayed, freed)
			}
		}
	})
}

func count(tapes *tape.Tape, event string) (n int) {
	for _, e := range tapes.Events {
		if e == event {
			n++
		}
	}
	return n
}

// Slices of 10, 10 and 4 adversarial images go with slices of 4 and 2 to forget. The very first step does not count, the next
// of each pair of sizes goes by itself, with no graph to take its memory, and those after it replay.
func TestWhenStepsAreRecorded(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		r, tapes := newTry(t, g, "adv"), &tape.Tape{}
		r.o.MaxPasses, r.task.Graphs = 4, tapes.Record
		r.task.Observe = func(rec unlearn.Record) {
			tapes.Note(fmt.Sprintf("%d: %d+%d", rec.Step, rec.NDriver, rec.NForget))
		}
		res := r.run()
		want := []string{
			"1: 10+4",
			"2: 10+2",
			"3: 4+4",
			"capture", "replay", "4: 10+2",
			"free", "5: 10+4",
			"6: 4+2",
			"capture", "replay", "7: 10+4",
			"capture", "replay", "8: 10+2",
			"capture", "replay", "9: 4+4",
			"replay", "10: 10+2",
			"replay", "11: 10+4",
			"capture", "replay", "12: 4+2",
			"free", "free", "free", "free",
		}
		if d := cmp.Diff(want, tapes.Events); d != "" || res.NoGraph != "" {
			t.Errorf("NoGraph %q, (-want +got):\n%s", res.NoGraph, d)
		}
	})
}

// Where a step cannot be captured, the graphs there are make room, the run goes on to the same bits, and its result says why.
func TestStepsThatCannotBeRecorded(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		start := func() *try {
			r := newTry(t, g, "adv-imp")
			r.o.LR, r.o.MaxPasses = 0.001, 4
			return r
		}
		for allowed, want := range [][]string{
			nil,
			{"capture", "replay", "free"}, // for the first step of other sizes
			{"capture", "replay", "free", "capture", "replay", "free"},
		} {
			tapes, asked := &tape.Tape{}, 0
			record := func(work func()) cuda.Recording {
				if asked++; asked > allowed {
					panic(&torch.Error{Op: "aten::empty", Code: torch.OutOfMemory, Msg: "no memory"})
				}
				return tapes.Record(work)
			}
			plain, got := start().course(nil), start().course(record)
			if why := got.Result.NoGraph; !strings.Contains(why, "no memory") {
				t.Errorf("%d allowed: NoGraph says %q", allowed, why)
			}
			got.Result.NoGraph = ""
			if d := differ(plain, got); d != "" || asked != allowed+1 || !slices.Equal(tapes.Events, want) {
				t.Errorf("%d allowed, %d asked for: %v, want %v; %s", allowed, asked, tapes.Events, want, d)
			}
		}
	})
}

// A network with dropout drops other values at each step and for each seed, so that there are no graphs of its steps.
func TestDropoutIsNotRecorded(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		run := func(seed int64, graphs cuda.Recorder) course {
			r := newTry(t, g, "neggrad")
			r.o.LR, r.task.Seed = 0.001, seed
			r.task.Net = nn.Sequential(r.task.Net, nn.Dropout(0.2))
			return r.course(graphs)
		}
		tapes := &tape.Tape{}
		plain, asked, other := run(1, nil), run(1, tapes.Record), run(2, nil)
		if !strings.Contains(asked.Result.NoGraph, "drops") || tapes.Events != nil {
			t.Errorf("NoGraph says %q after %v", asked.Result.NoGraph, tapes.Events)
		}
		asked.Result.NoGraph = ""
		if d := differ(plain, asked); d != "" {
			t.Error(d)
		}
		if plain.Log[0].Loss == other.Log[0].Loss || plain.Log[0].Loss == plain.Log[2].Loss {
			t.Errorf("losses %v and %v: the same values are dropped", plain.Log, other.Log)
		}
	})
}

// A run that is interrupted between graphs, and one that ends by an error, gives them back; resumed, it captures anew, to the
// bits of a run without graphs or interruption.
func TestResumeRecordedSteps(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		start := func() *try {
			r := newTry(t, g, "adv-imp")
			r.o.LR, r.o.MaxPasses = 0.001, 4
			return r
		}
		whole := start().course(nil)
		for _, stop := range []int{1, 4, 7, 10} {
			r, tapes := start(), &tape.Tape{}
			r.task.Graphs = tapes.Record
			again := start()
			again.task.Resume = r.stopAfter(stop)
			got := again.course(tapes.Record)
			want := course{whole.Result, whole.Log[stop:], whole.States[stop:]}
			if d := differ(want, got); d != "" || count(tapes, "capture") == 0 || count(tapes, "free") != count(tapes, "capture") {
				t.Errorf("stopped after step %d: %v; %s", stop, tapes.Events, d)
			}
		}

		r, tapes, full := start(), &tape.Tape{}, errors.New("no space left")
		r.task.Graphs = tapes.Record
		r.task.Save = func(s *unlearn.State, _ bool) error {
			if s.Step == 8 {
				return full
			}
			return nil
		}
		if _, err := unlearn.Forget(t.Context(), r.m, r.task, r.o); !errors.Is(err, full) || count(tapes, "free") != count(tapes, "capture") {
			t.Errorf("%v; %v", err, tapes.Events)
		}
	})
}
