package unlearn_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	"l2ul/unlearn/metrics"
)

// stopTry runs neggrad, which tests after each step, on a network and labelled images.
func stopTry(t *testing.T, net nn.Module, x, y torch.Tensor, goal unlearn.Goal, witness bool, o unlearn.Options) (*unlearn.Result, []unlearn.Record, int64) {
	t.Helper()
	m, err := unlearn.FindMethod("neggrad")
	if err != nil {
		t.Fatal(err)
	}
	meter := data.NewMeter(m.Regime, nil)
	var log []unlearn.Record
	o.Goal, o.LossWeights, o.BN, o.StopCheck = goal, unlearn.BySample, unlearn.BNTrain, "step"
	res, err := unlearn.Forget(t.Context(), m, &unlearn.Task{
		Net: net, Classes: int(net.Root().Parameters()[0].Size(0)), EvalBatch: chunk.Fixed(5), Meter: meter, Witness: witness,
		Forget:  &unlearn.Examples{X: x, Y: y, Part: data.PartForget, Meter: meter},
		Observe: func(r unlearn.Record) { log = append(log, r) },
	}, &o)
	if err != nil {
		t.Fatal(err)
	}
	res.Seconds = 0
	return res, log, meter.Reads()[data.PhaseStopCheck][data.PartForget]
}

// linear is the smallest classifier of images.
type linear struct{ nn.Base }

func (m *linear) Forward(x torch.Tensor) torch.Tensor {
	return x.Flatten(1, -1).Linear(m.Parameters()[0], torch.Tensor{})
}

// On random networks, images, labels and settings, a run that asks a witness first is the run that counts each time: the
// same end, at the same step, with the same weights; where it counts it counts the same, and where it does not, the goal
// is not met.
func TestWitness(t *testing.T) {
	asked, reached := int64(0), map[unlearn.Goal]int{}
	for seed := range uint64(60) {
		torch.Scope(func() {
			random := rand.New(rand.NewPCG(seed, 0))
			classes, k := 2+random.IntN(4), 5+random.IntN(12)
			torch.ManualSeed(int64(seed))
			x := torch.RandN([]int64{int64(k), 1, 2, 3}, false)
			weight := torch.RandN([]int64{int64(classes), 6}, false)
			y := x.Flatten(1, -1).Linear(weight, torch.Tensor{}).ArgMax(1, false)
			goal := unlearn.Misclassify
			if seed%2 == 1 {
				goal = unlearn.Relabel
				y = x.Flatten(1, -1).Linear(weight.Neg(), torch.Tensor{}).ArgMax(1, false) // the class least of all
			}
			o := unlearn.Options{
				LR: 0.02 + 0.5*random.Float64(), Momentum: 0.9 * random.Float64(), ForgetBatch: 1 + random.IntN(k),
				MaxPasses: 1 + random.IntN(60), MaxSteps: random.IntN(2) * (1 + random.IntN(60)),
			}
			run := func(witness bool) (*unlearn.Result, []unlearn.Record, int64, torch.Tensor) {
				net := &linear{}
				w := net.Param("weight", weight.Clone())
				defer net.Free()
				res, log, reads := stopTry(t, net, x, y, goal, witness, o)
				return res, log, reads, w.Detach().Clone()
			}
			want, counted, _, wantWeight := run(false)
			got, log, reads, gotWeight := run(true)
			what := fmt.Sprintf("seed %d, %s, k %d, %+v", seed, goal, k, o)
			if d := cmp.Diff(want, got); d != "" || !torch.Equal(wantWeight, gotWeight) {
				t.Errorf("%s: other weights, or another end (-want +got):\n%s", what, d)
			}
			seen := int64(k) // before the first step
			for i, r := range log {
				full := counted[i]
				if r.Witness >= 0 {
					seen++
					asked++
					if r.Hits != -1 || goal.Met(full.Hits, int64(k)) {
						t.Errorf("%s: step %d: a witness, and hits %d, %d of them counted", what, r.Step, r.Hits, full.Hits)
					}
					r.Hits, r.Witness = full.Hits, -1
				} else if seen += int64(k); k > o.ForgetBatch {
					seen++ // it was asked, and could not tell
				}
				if d := cmp.Diff(full, r); d != "" {
					t.Errorf("%s: step %d (-want +got):\n%s", what, r.Step, d)
				}
			}
			if got.Outcome == unlearn.Reached {
				reached[goal]++
			}
			if n := len(log); got.Outcome == unlearn.Capped && log[n-1].Witness >= 0 {
				seen += int64(k) // so that the result says how it ended
			}
			if reads != seen {
				t.Errorf("%s: %d reads, of which the log tells %d", what, reads, seen)
			}
		})
	}
	if asked < 100 || reached[unlearn.Misclassify] < 5 || reached[unlearn.Relabel] < 5 {
		t.Errorf("%d steps with a witness, goals reached: %v: too few to tell", asked, reached)
	}
}

// hair is a network for which all images are of class 0 by a hundredth, at first. Alone an image is by a little more, as if
// it had been convolved by other loops.
type hair struct{ nn.Base }

func (m *hair) Forward(x torch.Tensor) torch.Tensor {
	start := []float32{1.01, 1}
	if x.Size(0) == 1 {
		start[0] += 4e-4
	}
	return x.Reshape(-1, 1).MulScalar(0).Add(torch.FromSlice(start), 1).Add(m.Parameters()[0], 1)
}

// A witness that is against the goal by no more than rounding might move it decides nothing.
func TestWitnessCloseCall(t *testing.T) {
	for goal, label := range map[unlearn.Goal]int64{unlearn.Misclassify: 0, unlearn.Relabel: 1} {
		torch.Scope(func() {
			run := func(witness bool) (*unlearn.Result, []unlearn.Record) {
				net := &hair{}
				net.Param("weight", torch.Zeros([]int64{2}, false))
				defer net.Free()
				x, y := torch.Zeros([]int64{4, 1, 1, 1}, false), torch.FromSlice([]int64{label, label, label, label})
				// The lead falls by about 1e-4 a step, so that it is a close call for several.
				res, log, _ := stopTry(t, net, x, y, goal, witness, unlearn.Options{LR: 1e-4, ForgetBatch: 2, MaxPasses: 100})
				return res, log
			}
			want, _ := run(false)
			got, log := run(true)
			if d := cmp.Diff(want, got); d != "" || got.Outcome != unlearn.Reached {
				t.Errorf("%s: (-want +got):\n%s", goal, d)
			}
			witnessed := 0
			for _, r := range log {
				if r.Witness >= 0 {
					witnessed++
				}
			}
			if witnessed == 0 || witnessed > got.Steps-5 {
				t.Errorf("%s: %d of %d tests by a witness: none was a close call, or all", goal, witnessed, got.Steps)
			}
		})
	}
}

// A run that diverges tells the hits of the weights it leaves, however its stop test was done.
func TestDivergedHits(t *testing.T) {
	onTiny(t, func(g *smallnet.Golden) {
		var hits []int64
		for _, witness := range []bool{false, true} {
			r := newTry(t, g, "adv")
			r.o.LR, r.o.MaxPasses = 1, 3
			r.task.Witness = witness
			x := g.Tensor("attack.x_adv").Clone()
			x.Select(0, 23).FillI(math.NaN())
			r.task.Driver = &unlearn.Examples{X: x, Y: g.Tensor("attack.target")}
			res := r.run()
			var found int64
			torch.NoGrad(func() { found = metrics.Hits(r.task.Net.Forward(r.task.Forget.X), r.task.Forget.Y) })
			if res.Outcome != unlearn.Diverged || res.Hits != found {
				t.Errorf("witness %t: %+v; the weights get %d right", witness, res, found)
			}
			hits = append(hits, res.Hits)
		}
		if hits[0] != hits[1] {
			t.Errorf("hits %v", hits)
		}
	})
}
