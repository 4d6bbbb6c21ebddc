package methods_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"l2ul/internal/reference"
	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
)

// rawp is a run of the method on the first k images of a small network, weighted by importance or not.
func rawp(g *smallnet.Golden, weighted bool, k int64) (*unlearn.Method, *unlearn.Task) {
	m, err := unlearn.FindMethod("rawp")
	if err != nil {
		g.Fatal(err)
	}
	task := &unlearn.Task{
		Net: g.Fresh(), Classes: smallnet.Classes, EvalBatch: chunk.Fixed(1024), Seed: 5,
		Forget: &unlearn.Examples{X: g.Tensor("x").Narrow(0, 0, k), Y: g.Tensor("y").Narrow(0, 0, k), Part: data.PartForget},
	}
	if weighted {
		task.Anchors = g.Split(g.Tensor("anchor.mas"), task.Net.Root().Parameters())
	}
	return m, task
}

// checkedIn is a reference as it is in scripts/golden, also where others are made live: what is made from it is.
func checkedIn(t *testing.T, name string) *ckpt.File {
	t.Helper()
	file, err := ckpt.Load(reference.Golden(t, name+".safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// The noise, its ladder and where it ends are the reference's; buffers stay as they were.
func TestRAWP(t *testing.T) {
	file := checkedIn(t, "rawp")
	if reference.Live() {
		file = reference.Remake(t, "rawp")
	}
	outcomes := map[unlearn.Outcome]int{}
	for _, name := range []string{"tiny", "block-a"} {
		for _, weight := range []string{"none", "importance"} {
			for _, k := range []int64{2, 6} {
				torch.Scope(func() {
					net := &smallnet.Golden{TB: t, Name: name, File: checkedIn(t, name), Format: torch.ChannelsLast}
					g := &smallnet.Golden{TB: t, Name: name, File: file, Format: torch.ChannelsLast, Exact: reference.MadeHere(file.Metadata)}
					m, task := rawp(net, weight == "importance", k)
					before, _ := smallnet.Buffers(net.Fresh())
					hits := []int64{}
					task.Observe = func(r unlearn.Record) { hits = append(hits, r.Hits) }
					res, err := unlearn.Forget(t.Context(), m, task, &unlearn.Options{Goal: unlearn.Misclassify})
					if err != nil {
						t.Fatal(err)
					}
					at := fmt.Sprintf("%s.%s.%d", name, weight, k)
					var want struct {
						Outcome unlearn.Outcome
						Steps   int
					}
					if err := json.Unmarshal([]byte(file.Metadata[at]), &want); err != nil {
						t.Fatal(err)
					}
					if res.Outcome != want.Outcome || res.Steps != want.Steps || res.Passes != 1 {
						t.Errorf("%s: %s after %d steps in %d passes, want %s after %d in 1", at, res.Outcome, res.Steps, res.Passes, want.Outcome, want.Steps)
						return
					}
					outcomes[res.Outcome]++
					if w := torch.ToSlice[int64](g.Tensor(at + ".hits")); !slices.Equal(hits, w) {
						t.Errorf("%s: hits %v, want %v", at, hits, w)
					}
					g.Equal(at+".parameters", smallnet.Flat(task.Net.Root().Parameters()), 1e-6)
					if after, _ := smallnet.Buffers(task.Net); !torch.Equal(smallnet.Flat(after), smallnet.Flat(before)) {
						t.Errorf("%s: running statistics have moved", at)
					}
				})
			}
		}
	}
	if outcomes[unlearn.Reached] == 0 || outcomes[unlearn.Capped] == 0 {
		t.Errorf("outcomes %v: both are to occur", outcomes)
	}
}

// A climb that was interrupted at a rung goes on to the same bits.
func TestRAWPResumes(t *testing.T) {
	g := smallnet.Load(t, "tiny")
	torch.Scope(func() {
		m, whole := rawp(g, true, 2)
		o := &unlearn.Options{Goal: unlearn.Misclassify}
		want, err := unlearn.Forget(t.Context(), m, whole, o)
		if err != nil {
			t.Fatal(err)
		}
		_, part := rawp(g, true, 2)
		var saved unlearn.State
		part.Save = func(s *unlearn.State, _ bool) error {
			if s.Step == 7 && saved.Step == 0 {
				saved = *s
				for i, named := range s.Tensors {
					saved.Tensors[i] = nn.Named{Name: named.Name, Tensor: named.Tensor.Detach().Clone()}
					torch.Own(saved.Tensors[i].Tensor)
				}
			}
			return nil
		}
		if _, err := unlearn.Forget(t.Context(), m, part, o); err != nil {
			t.Fatal(err)
		}
		_, rest := rawp(g, true, 2)
		rest.Resume = &saved
		got, err := unlearn.Forget(t.Context(), m, rest, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, named := range saved.Tensors {
			if strings.HasPrefix(named.Name, "momentum.") {
				t.Errorf("%s is saved, and there is no momentum", named.Name)
			}
			named.Tensor.Free()
		}
		if saved.Step != 7 || got.Steps != want.Steps || !torch.Equal(smallnet.State(rest.Net), smallnet.State(whole.Net)) {
			t.Errorf("resumed at %d: %d steps, want %d, or other weights", saved.Step, got.Steps, want.Steps)
		}
	})
}

// The noise is put on the weights that the network has, also where the task would have a penalty refer to others, as a stream
// of requests does under --anchor first.
func TestRAWPBeginsWhereTheNetworkIs(t *testing.T) {
	g := smallnet.Load(t, "tiny")
	torch.Scope(func() {
		m, plain := rawp(g, false, 2)
		_, anchored := rawp(g, false, 2)
		for _, p := range anchored.Net.Root().Parameters() {
			anchored.Reference = append(anchored.Reference, p.Detach().MulScalar(2))
		}
		for _, task := range []*unlearn.Task{plain, anchored} {
			if _, err := unlearn.Forget(t.Context(), m, task, &unlearn.Options{Goal: unlearn.Misclassify}); err != nil {
				t.Fatal(err)
			}
		}
		if !torch.Equal(smallnet.State(anchored.Net), smallnet.State(plain.Net)) {
			t.Error("the ladder stands on the weights that a penalty refers to")
		}
	})
}

// Noise cannot choose labels, so a goal that does is refused.
func TestRAWPRefuses(t *testing.T) {
	g := smallnet.Load(t, "tiny")
	torch.Scope(func() {
		m, task := rawp(g, false, 2)
		_, err := unlearn.Forget(t.Context(), m, task, &unlearn.Options{Goal: unlearn.Relabel})
		if err == nil || !strings.HasPrefix(err.Error(), "--goal relabel: noise on the weights") {
			t.Errorf("goal relabel: %v", err)
		}
	})
}
