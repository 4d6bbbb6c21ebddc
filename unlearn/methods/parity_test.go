package methods_test

import (
	"fmt"
	"testing"

	"l2ul/internal/reference"
	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/models"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
	"l2ul/unlearn/importance"
)

// script forgets 4 images with a network of full size: 2 examples each, 3 iterations, 2 steps.
const script = `
import l2ul, nets
torch.manual_seed(0)
base = nets.new("%s").to(memory_format=torch.channels_last).eval()
head = list(base.parameters())[-2]
if not head.any():
    nn.init.normal_(head, std=0.02)
g = torch.Generator().manual_seed(1)
x = torch.rand(4, 3, 32, 32, generator=g).contiguous(memory_format=torch.channels_last)
with torch.no_grad():
    y = base(x).argmax(1)
pairs = l2ul.draw_pairs(y, (3, 32, 32), 10, 2, seed=5)
adversarial = l2ul.attack(base, x, pairs, 4.0, 0.1, 3)
anchor = l2ul.anchors(l2ul.importance(base, x, y))
save("x", x), save("y", y), save("x_adv", adversarial.x_adv), save("target", adversarial.target)
for i, a in enumerate(anchor):
    save(f"anchor.{i}", a)
import copy
for method in ("neggrad", "adv", "imp", "adv-imp", "oracle", "rawp"):
    model = copy.deepcopy(base)
    if method == "rawp":
        out = l2ul.rawp(model, x, y, 0, max_steps=2)
        save("rawp.loss", torch.zeros(2, dtype=torch.float64)), save("rawp.hits", torch.tensor(out.hits))
        for n, t in model.net.state_dict().items():
            save(f"rawp.{n}", t)
        continue
    settings = l2ul.Settings(method=method, b_f=3, b_a=5, lr=1e-5, passes=2, max_steps=2, check="step")
    out = l2ul.unlearn(model, x, y, settings, adversarial, anchor, (x.flip(3).contiguous(memory_format=torch.channels_last), y))
    save(f"{method}.loss", torch.tensor(out.loss, dtype=torch.float64))
    save(f"{method}.hits", torch.tensor(out.hits, dtype=torch.int64))
    for n, t in model.net.state_dict().items():
        save(f"{method}.{n}", t)
`

// The whole job on networks of full size, one of them without batch normalisation, has the bits of the reference, which runs
// beside it.
func TestNetworksAreTheReferences(t *testing.T) {
	for _, name := range []string{"l2ul-resnet18", "cifar-vit-ti"} {
		t.Run(name, func(t *testing.T) { testNetworkIsTheReferences(t, name) })
	}
}

func testNetworkIsTheReferences(t *testing.T, name string) {
	want := reference.Run(t, fmt.Sprintf(script, name))
	torch.Scope(func() {
		torch.ManualSeed(0)
		base := newNet(t, name)
		nn.ToMemoryFormat(base, torch.ChannelsLast)
		start := nn.Snapshot(base)
		g := torch.NewGenerator(1)
		var x torch.Tensor
		torch.Seeded(g, func() { x = torch.Rand([]int64{4, 3, 32, 32}, false) })
		x = x.Contiguous(torch.ChannelsLast)
		base.Root().Eval()
		y := base.Forward(x).ArgMax(1, false)
		reference.Equal(t, want, "x", rowMajor(x))
		reference.Equal(t, want, "y", y)

		labels := make([]int, 0, 4)
		for _, v := range torch.ToSlice[int64](y) {
			labels = append(labels, int(v))
		}
		frozen := engine.Freeze(base, engine.Reference)
		job := &attack.Job{Net: frozen, X: x, Labels: labels, Classes: 10, Seed: 5, Chunk: chunk.Fixed(64), Options: attack.Options{Eps: 4, Step: 0.1, Iters: 3, Num: "2", Norm: "l2", Targeted: true}}
		set, err := job.Plan()
		if err != nil {
			t.Fatal(err)
		}
		defer set.Free()
		if err := job.Run(t.Context(), set, nil); err != nil {
			t.Fatal(err)
		}
		frozen.Thaw()
		reference.Equal(t, want, "x_adv", rowMajor(set.X))
		reference.Equal(t, want, "target", set.Targets())

		forget := &unlearn.Examples{X: x, Y: y, Part: data.PartForget}
		omega, err := (&importance.Job{Net: base, Params: base.Root().Parameters(), Images: forget, Options: importance.Options{Kind: "mas"}}).Run(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		anchors := (&importance.Options{}).Anchors(omega)
		for i, a := range anchors {
			reference.Equal(t, want, fmt.Sprintf("anchor.%d", i), rowMajor(a))
		}
		for _, m := range unlearn.Methods() {
			if m.Scratch {
				continue
			}
			task := &unlearn.Task{Net: base, Classes: 10, Forget: forget, EvalBatch: chunk.Fixed(1024)}
			switch m.Driver {
			case unlearn.ByForget:
			case unlearn.ByAdversarial:
				task.Driver = &unlearn.Examples{X: set.X, Y: set.Targets()}
			case unlearn.ByRetain:
				task.Driver = &unlearn.Examples{X: flipped(x), Y: y}
			}
			if m.Anchored {
				task.Anchors = anchors
			}
			torch.Scope(func() { compareMethod(t, want, m, task, start) })
		}
	})
}

func compareMethod(t *testing.T, want *ckpt.File, m *unlearn.Method, task *unlearn.Task, start *ckpt.File) {
	if err := nn.Restore(task.Net, start, true); err != nil {
		t.Fatal(err)
	}
	var losses []float64
	var hits []int64
	task.Observe = func(r unlearn.Record) { losses, hits = append(losses, r.Loss), append(hits, r.Hits) }
	if _, err := unlearn.Forget(t.Context(), m, task, &unlearn.Options{
		Goal: unlearn.Misclassify, LR: 1e-5, Momentum: 0.9, WeightDecay: 1e-4, Lambda: 1, ForgetBatch: 3, AdvBatch: 5, RetainBatch: 5,
		LossWeights: unlearn.BySample, BN: unlearn.BNTrain, StopCheck: "step", MaxPasses: 2, MaxSteps: 2,
	}); err != nil {
		t.Fatal(err)
	}
	reference.Equal(t, want, m.Name+".loss", torch.FromSlice(losses))
	reference.Equal(t, want, m.Name+".hits", torch.FromSlice(hits))
	for _, tensor := range task.Net.Root().StateDict() {
		reference.Equal(t, want, m.Name+"."+tensor.Name, rowMajor(tensor.Tensor))
	}
}

func newNet(t *testing.T, name string) models.Classifier {
	t.Helper()
	net, err := models.New(name, models.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(net.Root().Free)
	smallnet.DrawHead(net)
	return net
}

// Without batch normalisation every method takes its steps, the same ones whatever normalisation is asked for.
func TestWithoutBatchNorm(t *testing.T) {
	for _, m := range unlearn.Methods() {
		if m.Loss == nil {
			continue
		}
		t.Run(m.Name, func(t *testing.T) {
			torch.Scope(func() {
				torch.ManualSeed(0)
				net := newNet(t, "cifar-vit-ti")
				start, first := nn.Snapshot(net), ""
				x := torch.Rand([]int64{4, 3, 32, 32}, false)
				y := net.Forward(x).ArgMax(1, false)
				for _, mode := range []unlearn.BNMode{unlearn.BNTrain, unlearn.BNFrozenStats, unlearn.BNEval, unlearn.BNFrozen} {
					task := &unlearn.Task{Net: net, Classes: 10, EvalBatch: chunk.Fixed(4), Forget: &unlearn.Examples{X: x, Y: y, Part: data.PartForget}}
					switch m.Driver {
					case unlearn.ByForget:
					case unlearn.ByAdversarial:
						task.Driver = &unlearn.Examples{X: flipped(x), Y: y}
					case unlearn.ByRetain:
						task.Driver = &unlearn.Examples{X: flipped(x), Y: y, Part: data.PartRetain}
					}
					if m.Anchored {
						for _, p := range unlearn.Trainable(net, mode) {
							task.Anchors = append(task.Anchors, p.Tensor.OnesLike().MulScalar(0.5))
						}
					}
					if err := nn.Restore(net, start, true); err != nil {
						t.Fatal(err)
					}
					res, err := unlearn.Forget(t.Context(), m, task, &unlearn.Options{
						Goal: unlearn.Misclassify, LR: 1e-3, Momentum: 0.9, Lambda: 1, ForgetBatch: 2, AdvBatch: 2, RetainBatch: 2,
						LossWeights: unlearn.BySample, BN: mode, StopCheck: "pass", MaxPasses: 1,
					})
					if err != nil || res.Steps != 2 {
						t.Fatalf("%s: %d steps, %v", mode, res.Steps, err)
					}
					after := nn.Snapshot(net).Hash()
					if first == "" {
						first = after
					}
					if after == start.Hash() || after != first {
						t.Errorf("%s: no step was taken, or another than in mode train", mode)
					}
				}
			})
		})
	}
}

func rowMajor(t torch.Tensor) torch.Tensor { return t.Detach().Contiguous(torch.Contiguous) }

func flipped(x torch.Tensor) torch.Tensor {
	w := x.Size(3)
	order := make([]int64, w)
	for i := range order {
		order[i] = w - 1 - int64(i)
	}
	return x.IndexSelect(3, torch.FromSlice(order)).Contiguous(torch.ChannelsLast)
}
