package attack_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"l2ul/internal/reference"
	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/engine"
)

func TestMain(m *testing.M) { reference.TestMain(m) }

// settings are those of the reference: six images, four examples of each.
func settings(iters int) attack.Options {
	return attack.Options{Eps: 1.5, Step: 0.1, Iters: iters, Num: "4", Norm: "l2", Targeted: true}
}

func newJob(g *smallnet.Golden, o attack.Options, atOnce int) *attack.Job {
	net := engine.Freeze(g.Fresh(), engine.Reference)
	g.Cleanup(net.Thaw)
	return &attack.Job{
		Net: net, X: g.Tensor("x"), Labels: g.Ints("y"), Classes: smallnet.Classes, Chunk: chunk.Fixed(atOnce), Options: o,
	}
}

// run attacks all pairs of the job. The set is freed when the test ends.
func run(g *smallnet.Golden, job *attack.Job) *attack.Set {
	g.Helper()
	set, err := job.Plan()
	if err != nil {
		g.Fatal(err)
	}
	g.Cleanup(set.Free)
	if err := job.Run(context.Background(), set, nil); err != nil {
		g.Fatal(err)
	}
	return set
}

// sources returns the image of each pair.
func sources(g *smallnet.Golden) torch.Tensor {
	return g.Tensor("x").IndexSelect(0, g.Tensor("pair.source")).Contiguous(g.Format)
}

// The perturbations of both norms after 0, 1, 10 and 100 iterations, and at the edges, are the reference's.
func TestPerturbationsAreTheReferences(t *testing.T) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		net := g.Fresh()
		frozen := engine.Freeze(net, engine.Reference)
		defer frozen.Thaw()
		var cases map[string][4]any
		g.Meta("pgd", &cases)
		compared := 0
		for name, c := range cases {
			o := attack.Options{Eps: c[0].(float64), Step: c[1].(float64), Norm: c[3].(string), Targeted: true}
			// Iterations amplify rounding where the processor differs.
			for iters, rtol := range map[int]float64{0: 1e-6, 1: 1e-5, 10: 1e-3, 100: 0.5} {
				want := fmt.Sprintf("pgd.%s.delta%d", name, iters)
				if !g.Has(want) {
					continue
				}
				compared++
				o.Iters = iters
				torch.Scope(func() {
					g.Equal(want, attack.Perturb(frozen, sources(g), g.Tensor("pair.start").Contiguous(g.Format), g.Tensor("pair.target"), &o), rtol)
				})
			}
		}
		if compared < 12 {
			t.Errorf("only %d perturbations in the reference", compared)
		}
	})
}

// A whole job draws the targets and starts of the published sequential loop, and its log says what the network says.
func TestAttackIsTheReferences(t *testing.T) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		set := run(g, newJob(g, settings(100), 64))
		g.Equal("attack.x_adv", set.X, 0.5)
		g.Equal("attack.target", set.Targets(), 0)
		if !torch.Equal(set.Targets(), g.Tensor("attack.target")) {
			t.Error("integers depend on no processor")
		}
		var source, repeat []int
		var loss, norm []float64
		var success []bool
		for _, p := range set.Pairs {
			source, repeat = append(source, p.Source), append(repeat, p.Repeat)
			loss, norm, success = append(loss, p.LossEnd), append(norm, p.Norm), append(success, p.Success)
		}
		if !slices.Equal(source, g.Ints("pair.source")) || !slices.Equal(repeat, g.Ints("pair.repeat")) {
			t.Errorf("pairs are of images %v in repeats %v", source, repeat)
		}
		if want := torch.ToSlice[bool](g.Tensor("attack.success")); g.Exact && !slices.Equal(success, want) {
			t.Errorf("success %v, want %v", success, want)
		}
		g.Equal("attack.loss", torch.FromSlice(loss).CastTo(torch.Float), 0.5)
		g.Equal("attack.norm", torch.FromSlice(norm).CastTo(torch.Float), 1e-3)
	})
}

// Every entry of the log, worked out again from the examples alone.
func TestLogSaysWhatTheNetworkSays(t *testing.T) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		for _, targeted := range []bool{true, false} {
			for _, norm := range []string{"l2", "linf"} {
				o := settings(20)
				o.Targeted, o.Norm = targeted, norm
				if norm == "linf" {
					o.Eps, o.Step = 0.06, 0.01
				}
				job := newJob(g, o, 24)
				set := run(g, job)
				x := sources(g)
				logits := job.Net.Logits(set.X).Detach()
				classes, before := torch.ToSlice[int64](logits.ArgMax(1, false)), torch.ToSlice[int64](job.Net.Logits(x).ArgMax(1, false))
				delta := set.X.Sub(x, 1)
				norms := torch.ToSlice[float64](delta.CastTo(torch.Double).Square().SumDim([]int64{1, 2, 3}, false).Sqrt())
				largest := torch.ToSlice[float32](largestOf(delta))
				logp := torch.ToSlice[float32](logits.LogSoftmax(1))
				hits, mean, onLabel := 0, 0.0, 0
				for i, p := range set.Pairs {
					label := job.Labels[p.Source]
					reached := int(classes[i]) == p.Target
					if !targeted {
						reached = int(classes[i]) != label
					}
					if !targeted && p.Target != label || targeted && p.Target == label {
						t.Fatalf("pair %d of label %d has target %d", i, label, p.Target)
					}
					if p.Target == label {
						onLabel++
					}
					if p.Success != reached || p.After != int(classes[i]) || p.Before != int(before[i]) {
						t.Errorf("pair %d: %+v, but the network says %d before, %d after", i, p, before[i], classes[i])
					}
					loss := -float64(logp[i*smallnet.Classes+p.Target])
					if math.Abs(p.LossEnd-loss) > 1e-5*max(1, loss) || math.Abs(p.Norm-norms[i]) > 1e-5 {
						t.Errorf("pair %d: loss %g, norm %g, want %g, %g", i, p.LossEnd, p.Norm, loss, norms[i])
					}
					if better := p.LossEnd < p.LossStart; better != targeted && targeted {
						t.Errorf("pair %d: the loss went from %g to %g", i, p.LossStart, p.LossEnd)
					}
					if norm == "l2" && norms[i] > o.Eps*(1+1e-5) || norm == "linf" && float64(largest[i]) > o.Eps+1e-6 {
						t.Errorf("pair %d: the perturbation leaves the ball: %g, %g", i, norms[i], largest[i])
					}
					if reached {
						hits++
					}
					mean += loss / float64(len(set.Pairs))
				}
				if lo, hi := set.X.Min().Item(), set.X.Max().Item(); lo < 0 || hi > 1 {
					t.Errorf("pixels from %g to %g", lo, hi)
				}
				sum := set.Summary(job.Labels)
				if sum.Pairs != 24 || math.Abs(sum.Success-float64(hits)/24) > 1e-12 || math.Abs(sum.MeanLoss-mean) > 1e-5*max(1, mean) || sum.OnLabel != onLabel {
					t.Errorf("summary %+v: want %d hits, mean loss %g, %d on label", sum, hits, mean, onLabel)
				}
				if math.Abs(sum.Norm.Max-slices.Max(norms)) > 1e-5 || math.Abs(sum.Norm.Min-slices.Min(norms)) > 1e-5 {
					t.Errorf("norms of the summary: %+v", sum)
				}
			}
		}
	})
}

func TestEdgesOfTheSettings(t *testing.T) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		for _, norm := range []string{"l2", "linf"} {
			still := settings(3)
			still.Norm, still.Eps = norm, 0
			if set := run(g, newJob(g, still, 5)); !torch.Equal(set.X, sources(g)) {
				t.Errorf("%s: with eps 0 the examples are not the images", norm)
			}
			none, zero := settings(0), settings(7)
			none.Norm, zero.Norm, zero.Step = norm, norm, 0
			a, b := run(g, newJob(g, none, 24)), run(g, newJob(g, zero, 24))
			if norm == "linf" && !torch.Equal(a.X, b.X) {
				t.Error("linf: step 0 moves the start")
			}
			// Projecting again what lies on the sphere may round.
			if !torch.AllClose(a.X, b.X, 0, 1e-6) {
				t.Errorf("%s: step 0 differs from no iteration by %g", norm, a.X.Sub(b.X, 1).Abs().Max().Item())
			}
		}
	})
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct {
		o    attack.Options
		want string
	}{
		{attack.Options{Eps: 4, Step: 0.1, Iters: 100}, ""},
		{attack.Options{Eps: 0, Step: 0.1, Iters: 100}, "eps is 0"},
		{attack.Options{Eps: 4, Step: 0, Iters: 100}, "step or iters is 0"},
		{attack.Options{Eps: 4, Step: 0.1, Iters: 0}, "step or iters is 0"},
		{attack.Options{Eps: 4, Step: 0.01, Iters: 100}, "cannot cross"},
	} {
		got := strings.Join(c.o.Warnings(), "; ")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%+v: warnings %q, want %q", c.o, got, c.want)
		}
	}
}

func TestRepeats(t *testing.T) {
	for _, c := range []struct {
		num     string
		k, want int
	}{{"auto", 1, 1024}, {"auto", 16, 64}, {"auto", 1000, 2}, {"auto", 1024, 1}, {"auto", 5000, 1}, {"20", 16, 20}} {
		if got, err := (&attack.Options{Num: c.num}).Repeats(c.k); err != nil || got != c.want {
			t.Errorf("%s examples of %d images: %d, %v; want %d", c.num, c.k, got, err, c.want)
		}
	}
	for _, num := range []string{"0", "-1", "many", "", "1.5"} {
		o := attack.Options{Num: num}
		if o.Validate() == nil {
			t.Errorf("--num-adv %q is accepted", num)
		}
	}
}

// Pairs depend neither on how they are cut into chunks nor on interruptions: on the plain network to the bit, unless a pair
// is attacked alone. libtorch convolves one small image by other loops than several, which round differently.
func TestChunksAndInterruptions(t *testing.T) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		whole := run(g, newJob(g, settings(3), 24))
		if g.Name != "tiny" {
			for _, cut := range []struct{ before, stop, after int }{{5, 0, 5}, {1, 0, 1}, {7, 10, 9}} {
				cutAndCompare(t, g, whole, cut.before, cut.stop, cut.after)
			}
			return
		}
		rapid.Check(t, func(rt *rapid.T) {
			size := rapid.IntRange(1, 24)
			cutAndCompare(rt, g, whole, size.Draw(rt, "chunk"), rapid.IntRange(0, 23).Draw(rt, "stop"), size.Draw(rt, "chunk after"))
		})
	})
}

// cutAndCompare attacks in chunks, is stopped once more than stop pairs are done, goes on from a copy in other chunks, and
// compares with the whole.
func cutAndCompare(t rapid.TB, g *smallnet.Golden, whole *attack.Set, before, stop, after int) {
	var alone []bool // pairs attacked alone
	stepped := func(set *attack.Set) {
		n := set.Done - len(alone)
		for range n {
			alone = append(alone, n == 1)
		}
	}
	job := newJob(g, settings(3), before)
	set, err := job.Plan()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	err = job.Run(ctx, set, func() error {
		if stepped(set); set.Done > stop {
			cancel()
		}
		return nil
	})
	if err != nil && !errors.Is(err, context.Canceled) || set.Done <= stop {
		t.Fatalf("%v after %d pairs", err, set.Done)
	}
	torch.Scope(func() {
		// As a checkpoint does it: only the finished examples are kept.
		again := attack.Resumed(slices.Clone(set.Pairs), set.X.Narrow(0, 0, int64(set.Done)).Clone())
		defer again.Free()
		set.Free()
		job.Chunk = chunk.Fixed(after)
		if err := job.Run(context.Background(), again, func() error { stepped(again); return nil }); err != nil {
			t.Fatal(err)
		}
		for i, p := range again.Pairs {
			w := whole.Pairs[i]
			if p.Target != w.Target || p.Source != w.Source || p.Success != w.Success {
				t.Errorf("pair %d is %+v, want %+v", i, p, w)
			}
			diff := again.X.Select(0, int64(i)).Sub(whole.X.Select(0, int64(i)), 1).Abs().Max().Item()
			if diff > 1e-5 || g.Name == "tiny" && !alone[i] && (diff != 0 || p != w) {
				t.Errorf("pair %d differs by up to %g (attacked alone: %t)", i, diff, alone[i])
			}
		}
	})
}

// crowded is a network on a machine whose memory is short: more than room images at once fail, at every third forward.
type crowded struct {
	nn.Module
	room, forwards int64
}

func (m *crowded) Forward(x torch.Tensor) torch.Tensor {
	if m.forwards++; x.Size(0) > m.room && m.forwards%3 == 0 {
		panic(&torch.Error{Op: "aten::empty", Code: torch.OutOfMemory, Msg: "no memory"})
	}
	return m.Module.Forward(x)
}

// Where memory runs out, before an attack or in the middle of one, chunks halve, and the examples are those of an attack that
// had enough, whether its starts are drawn or given.
func TestOutOfMemory(t *testing.T) {
	g := smallnet.Load(t, "tiny")
	torch.Scope(func() {
		for _, given := range []bool{false, true} {
			attacked := func(room int64, atOnce *chunk.Size) (*attack.Set, error) {
				job := newJob(g, settings(3), 24)
				job.Net, job.Chunk = engine.Freeze(&crowded{Module: g.Fresh(), room: room}, engine.Reference), atOnce
				set, err := job.Plan()
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(set.Free)
				if given {
					shape := job.X.Shape()
					shape[0] = int64(len(set.Pairs))
					torch.Seeded(torch.NewGenerator(5), func() { job.Starts = torch.Rand(shape, false) })
				}
				return set, job.Run(t.Context(), set, nil)
			}
			want, err := attacked(1000, chunk.Fixed(24))
			if err != nil {
				t.Fatal(err)
			}
			size, shrunk := 24, 0
			got, err := attacked(4, chunk.Shrinking(size, func(before, after int) {
				if after != before/2 {
					t.Errorf("%d after %d", after, before)
				}
				size, shrunk = after, shrunk+1
			}))
			if err != nil || size > 4 || shrunk < 2 {
				t.Errorf("shrunk %d times to %d: %v", shrunk, size, err)
			}
			if d := cmp.Diff(want.Pairs, got.Pairs); d != "" || !torch.Equal(want.X, got.X) {
				t.Errorf("given starts %t: other examples:\n%s", given, d)
			}
			_, err = attacked(4, chunk.Fixed(24))
			var native *torch.Error
			if !errors.As(err, &native) || native.Code != torch.OutOfMemory {
				t.Errorf("a size that is fixed: %v", err)
			}
		}
	})
}

// A gradient that is not finite names its pair, and nothing of the chunk is stored.
func TestNonFiniteWeights(t *testing.T) {
	g := smallnet.Load(t, "tiny")
	torch.Scope(func() {
		for _, norm := range []string{"l2", "linf"} {
			for _, iters := range []int{0, 5} {
				for _, bad := range []float64{math.NaN(), math.Inf(1)} {
					o := settings(iters)
					o.Norm = norm
					job := newJob(g, o, 5)
					net := g.Fresh()
					torch.NoGrad(func() { net.Root().Parameters()[0].FillI(bad) })
					job.Net = engine.Freeze(net, engine.Exact) // no plan of such weights agrees with the network
					set, err := job.Plan()
					if err != nil {
						t.Fatal(err)
					}
					err = job.Run(t.Context(), set, func() error { t.Error("a chunk was stored"); return nil })
					if err == nil || !strings.Contains(err.Error(), "pair 0 (image 0 toward class") {
						t.Errorf("%s, weights %g, %d iterations: %v", norm, bad, iters, err)
					}
					if set.Done != 0 || set.X.Defined() {
						t.Errorf("%d pairs stored", set.Done)
					}
				}
			}
		}
	})
}

// One pair's gradient overflows while the others are fine: it is the one that is named.
func TestOnePairOverflows(t *testing.T) {
	torch.Scope(func() {
		// One image is so bright that its logits overflow.
		net := &pixels{}
		defer net.Free()
		net.Param("weight", torch.Full([]int64{1}, 1e20, false))
		x := torch.Zeros([]int64{4, 3, 1, 1}, false)
		x.Select(0, 2).FillI(1)
		job := &attack.Job{Net: engine.Freeze(net, engine.Reference), X: x, Labels: []int{0, 0, 0, 0}, Classes: 3, Chunk: chunk.Fixed(4), Options: attack.Options{Eps: 0, Step: 0.1, Iters: 1, Num: "1", Norm: "l2", Targeted: true}}
		set, err := job.Plan()
		if err != nil {
			t.Fatal(err)
		}
		err = job.Run(t.Context(), set, nil)
		if err == nil || !strings.Contains(err.Error(), "pair 2 (image 2") || set.Done != 0 {
			t.Errorf("%v, %d pairs stored", err, set.Done)
		}
	})
}

type pixels struct{ nn.Base }

func (m *pixels) Forward(x torch.Tensor) torch.Tensor {
	return x.Flatten(1, -1).Mul(m.Parameters()[0]).Square()
}

// Targets and starts are those of the published loop, call by call in slices of 32, which the stream does not know unless the order is
// slice by slice: 70 images of 3x2x2, ten classes, three repeats.
func TestStreamsAreTheReferences(t *testing.T) {
	file, err := ckpt.Load(reference.Golden(t, "streams.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	torch.Scope(func() {
		g := &smallnet.Golden{TB: t, File: file}
		labels := make([]int, 70)
		for i := range labels {
			labels[i] = i % 10
		}
		net := &pixels{}
		defer net.Free()
		net.Param("weight", torch.Ones([]int64{1}, false))
		for _, c := range []struct {
			order, like string
			slice       int
		}{{"", "repeat-major", 0}, {"repeat-major", "repeat-major", 32}, {"batch-major", "batch-major", 32}} {
			// In a ball this large and after no iteration, an example is its start.
			job := &attack.Job{
				Net: engine.Freeze(net, engine.Reference), X: torch.Zeros([]int64{70, 3, 2, 2}, false), Labels: labels, Classes: 10, Seed: 7,
				Chunk: chunk.Fixed(31), Slice: c.slice, Options: attack.Options{Eps: 1000, Num: "3", Norm: "l2", Targeted: true},
			}
			job.Options.Order = c.order
			set := run(g, job)
			source, repeat, target := columns(set)
			for name, got := range map[string][]int{"source": source, "repeat": repeat, "target": target} {
				if !slices.Equal(got, g.Ints("pairs."+c.like+"."+name)) {
					t.Errorf("%q, %s: %v", c.order, name, got)
				}
			}
			if !torch.Equal(set.X, g.Tensor("pairs."+c.like+".start")) {
				t.Errorf("%q: the starts differ", c.order)
			}
		}
	})
}

// columns are targets, sources and repeats of a set.
func columns(set *attack.Set) (source, repeat, target []int) {
	for _, p := range set.Pairs {
		source, repeat, target = append(source, p.Source), append(repeat, p.Repeat), append(target, p.Target)
	}
	return source, repeat, target
}

func TestOtherClasses(t *testing.T) {
	if _, err := attack.OtherClasses([]int{0}, nil, 1, 1); err == nil {
		t.Error("one class has another class")
	}
	two, err := attack.OtherClasses([]int{0, 1, 1, 0, 1}, nil, 2, 9)
	if err != nil || !slices.Equal(two, []int{1, 0, 0, 1, 0}) {
		t.Errorf("two classes: %v, %v", two, err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		classes := rapid.IntRange(2, 1000).Draw(rt, "classes")
		labels := rapid.SliceOfN(rapid.IntRange(0, classes-1), 0, 50).Draw(rt, "labels")
		got, err := attack.OtherClasses(labels, nil, classes, rapid.Int64Min(0).Draw(rt, "seed"))
		if err != nil || len(got) != len(labels) {
			rt.Fatalf("%d targets for %d labels: %v", len(got), len(labels), err)
		}
		for i, c := range got {
			if c == labels[i] || c < 0 || c >= classes {
				rt.Errorf("label %d of %d has target %d", labels[i], classes, c)
			}
		}
	})
}

// With one more class to avoid, all others are drawn, about equally often; avoiding the label itself changes nothing.
func TestOtherClassesAvoided(t *testing.T) {
	const n, classes = 3000, 5
	labels, avoid := make([]int, n), make([]int, n)
	for i := range labels {
		labels[i], avoid[i] = i%classes, (i+1+i/classes%4)%classes
	}
	got, err := attack.OtherClasses(labels, avoid, classes, 3)
	if err != nil {
		t.Fatal(err)
	}
	drawn := map[[3]int]int{}
	for i, c := range got {
		if c == labels[i] || c == avoid[i] {
			t.Fatalf("label %d, to avoid %d: target %d", labels[i], avoid[i], c)
		}
		drawn[[3]int{labels[i], avoid[i], c}]++
	}
	if len(drawn) != classes*4*3 { // of 150 draws each, for 3 classes
		t.Errorf("%d combinations drawn, not %d", len(drawn), classes*4*3)
	}
	for combination, times := range drawn {
		if times < 25 || times > 80 {
			t.Errorf("label, avoided and target %v: %d of 150", combination, times)
		}
	}
	plain, err := attack.OtherClasses(labels, nil, classes, 3)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := attack.OtherClasses(labels, labels, classes, 3); err != nil || !slices.Equal(same, plain) {
		t.Errorf("avoiding the label: %v", err)
	}
	if _, err := attack.OtherClasses([]int{0}, []int{1}, 2, 3); err == nil {
		t.Error("a third of two classes was drawn")
	}
}

// Imported pairs give what the same pairs give when they are drawn; other starts give other examples. Examples kept as
// halves are the others, rounded.
func TestImportedPairsAndHalves(t *testing.T) {
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		job := newJob(g, settings(3), 5)
		drawn := run(g, job)
		for _, p := range drawn.Pairs {
			job.Pairs = append(job.Pairs, attack.Pair{Source: p.Source, Repeat: p.Repeat, Target: p.Target})
		}
		imported := run(g, job)
		if !torch.Equal(drawn.X, imported.X) {
			t.Error("imported pairs give other examples")
		}
		shape := drawn.X.Shape()
		job.Starts = torch.Zeros(shape, false).Contiguous(g.Format)
		dark := run(g, job)
		if torch.Equal(drawn.X, dark.X) {
			t.Error("the starts have no effect")
		}
		for i := range dark.Pairs { // the start of each pair is its own
			job.Starts.Select(0, int64(i)).FillI(float64(i) / float64(len(dark.Pairs)))
		}
		graded := run(g, job)
		job.Chunk = chunk.Fixed(24)
		if whole := run(g, job); !torch.AllClose(graded.X, whole.X, 1e-5, 1e-5) {
			t.Error("the starts of later chunks are not those of their pairs")
		}
		job.Pairs, job.Starts, job.Chunk, job.Options.Store = nil, torch.Tensor{}, chunk.Fixed(5), "f16"
		half := run(g, job)
		if half.X.Dtype() != torch.Half || !torch.Equal(half.X, drawn.X.CastTo(torch.Half)) {
			t.Errorf("halves: %v", half.X.Dtype())
		}
	})
}

// In mode fast a pair ends where it is sure when it is looked at: at the example that so many steps make, whatever the others
// do.
func TestFast(t *testing.T) {
	const look, all = 5, 40
	smallnet.ForEach(t, func(t *testing.T, g *smallnet.Golden) {
		options := settings(6)
		options.Iters, options.Eps = all, 3
		fast := newJob(g, options, 7)
		fast.Fast = true
		got := run(g, fast)
		ended := map[int]int{}
		done := make([]bool, len(got.Pairs))
		for steps := look; steps <= all; steps += look {
			options.Iters = steps
			want := run(g, newJob(g, options, 7))
			for i, p := range want.Pairs {
				if done[i] || steps < all && math.Exp(-p.LossEnd) < 0.99 {
					continue
				}
				done[i] = true
				ended[steps]++
				if a, b := got.X.Select(0, int64(i)), want.X.Select(0, int64(i)); !torch.AllClose(a, b, 1e-4, 1e-4) {
					t.Errorf("pair %d, done after %d steps: pixels differ by %g", i, steps, a.Sub(b, 1).Abs().Max().Item())
				}
			}
		}
		if len(ended) < 2 || ended[all] == len(done) {
			t.Errorf("pairs by the steps they take: %v: too alike to tell", ended)
		}
	})
}

func TestErrorsOfSavedStopTheAttack(t *testing.T) {
	g := smallnet.Load(t, "tiny")
	torch.Scope(func() {
		job := newJob(g, settings(1), 5)
		set, err := job.Plan()
		if err != nil {
			t.Fatal(err)
		}
		defer set.Free()
		full := errors.New("no space left")
		if err := job.Run(t.Context(), set, func() error { return full }); !errors.Is(err, full) || set.Done != 5 {
			t.Errorf("%v after %d pairs", err, set.Done)
		}
	})
}

func TestSummaryOfNothing(t *testing.T) {
	if got := (&attack.Set{}).Summary(nil); got != (attack.Summary{}) {
		t.Errorf("%+v: a result cannot hold infinity", got)
	}
}

// The quantiles are numpy.quantile's.
func TestNormQuantiles(t *testing.T) {
	for _, c := range []struct {
		norms []float64
		want  attack.Norms
	}{
		{[]float64{3, 10, 1, 4, 2}, attack.Norms{Min: 1, Q05: 1.2, Median: 3, Mean: 4, Q95: 8.8, Max: 10}},
		{[]float64{4, 1, 3, 2}, attack.Norms{Min: 1, Q05: 1.15, Median: 2.5, Mean: 2.5, Q95: 3.85, Max: 4}},
		{[]float64{7}, attack.Norms{Min: 7, Q05: 7, Median: 7, Mean: 7, Q95: 7, Max: 7}},
	} {
		set := &attack.Set{Done: len(c.norms)}
		for _, n := range c.norms {
			set.Pairs = append(set.Pairs, attack.Pair{Log: attack.Log{Norm: n}})
		}
		if d := cmp.Diff(c.want, set.Summary([]int{0}).Norm, cmpopts.EquateApprox(0, 1e-12)); d != "" {
			t.Errorf("%v:\n%s", c.norms, d)
		}
	}
}

// largestOf is the largest magnitude in each image.
func largestOf(t torch.Tensor) torch.Tensor {
	values, _ := t.Abs().Reshape(t.Size(0), -1).MaxDim(1, false)
	return values
}

// A share of all is 1 and not a little more, which the schema of results forbids.
func TestSummaryOfSuccesses(t *testing.T) {
	set := &attack.Set{Done: 320, Pairs: make([]attack.Pair, 320)}
	for i := range set.Pairs {
		set.Pairs[i] = attack.Pair{Target: 1, Log: attack.Log{Success: true}}
	}
	if got := set.Summary([]int{0}).Success; got != 1 {
		t.Errorf("%d of %d pairs are a share of %v", set.Done, set.Done, got)
	}
}
