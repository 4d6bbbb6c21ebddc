package engine_test

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/models"
	"l2ul/torch/nn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
)

// On a trained network and real images, 100 iterations of the attack end beside those of mode reference, at the same targets.
// Distances are L2, in a ball of 4.
func TestAttackOnRealImages(t *testing.T) {
	shared := os.Getenv("L2UL_SHARED")
	if shared == "" {
		shared = "../../../shared"
	}
	file, err := ckpt.Load(filepath.Join(shared, "weights", "resnet18-cifar10-jpeg.safetensors"))
	if err != nil {
		t.Skipf("no trained weights here (set L2UL_SHARED): %v", err)
	}
	sets, err := data.Open(t.Context(), "imagefolder", data.Source{Dir: filepath.Join(shared, "data", "cifar10-jpeg.tar.zst")}, "test")
	if err != nil {
		t.Skipf("no real images here (set L2UL_SHARED): %v", err)
	}
	err = torch.Run(torch.CPU, func() error {
		net, err := models.New("l2ul-resnet18", models.Options{})
		if err != nil {
			return err
		}
		defer net.Root().Free()
		if err := nn.Restore(net, file, true); err != nil {
			return err
		}
		nn.ToMemoryFormat(net, torch.ChannelsLast)
		loader := data.NewLoader(sets[0], torch.CPU, torch.ChannelsLast, math.MaxInt64)
		defer loader.Free()
		indices := []int{0, 1100, 2200, 3300, 4400, 5500, 6600, 7700, 8800, 9900, 50, 1150}
		x, y := loader.Gather(indices)
		torch.ManualSeed(1)
		start := torch.Rand(x.Shape(), false).Contiguous(torch.ChannelsLast)
		targets := make([]int64, len(indices))
		for i, label := range torch.ToSlice[int64](y) {
			targets[i] = (label + 1 + int64(i)%9) % 10
		}
		target := torch.FromSlice(targets)
		o := &attack.Options{Eps: 4, Step: 0.1, Iters: 100, Norm: "l2", Targeted: true}
		perturb := func(mode engine.Mode) (delta torch.Tensor, reached []bool) {
			frozen := engine.Freeze(net, mode)
			defer frozen.Thaw()
			delta = attack.Perturb(frozen, x, start, target, o)
			if why := frozen.Fallback(); why != "" {
				t.Errorf("mode %s: %s", mode, why)
			}
			return delta, torch.ToSlice[bool](frozen.Logits(x.Add(delta, 1)).ArgMax(1, false).Eq(target))
		}
		want, wantReached := perturb(engine.Reference)
		for _, c := range []struct {
			mode                     engine.Mode
			median, farthest, cosine float64
		}{{engine.Exact, 0.1, 0.5, 0.99}, {engine.BF16, 0.3, 0.9, 0.97}} {
			got, reached := perturb(c.mode)
			var apart []float64
			for i := range indices {
				a, b := got.Select(0, int64(i)), want.Select(0, int64(i))
				norm := func(v torch.Tensor) float64 { return v.Square().Sum().Sqrt().Item() }
				distance, cosine := norm(a.Sub(b, 1)), a.Mul(b).Sum().Item()/(norm(a)*norm(b))
				apart = append(apart, distance)
				t.Logf("mode %s, pair %d: distance %.3f, cosine %.5f", c.mode, i, distance, cosine)
				if !(distance < c.farthest && cosine > c.cosine) || reached[i] != wantReached[i] {
					t.Errorf("mode %s, pair %d: distance %g, cosine %g, target reached %t and %t", c.mode, i, distance, cosine, reached[i], wantReached[i])
				}
			}
			slices.Sort(apart)
			if median := (apart[5] + apart[6]) / 2; !(median < c.median) {
				t.Errorf("mode %s: the median distance is %g", c.mode, median)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// An attack whose iterations are graphs, in full chunks and a shorter last one, finds what it finds without them.
func TestAttackByGraphs(t *testing.T) {
	err := torch.Run(torch.CPU, func() error {
		torch.ManualSeed(2)
		net, err := models.New("cifar-resnet18", models.Options{Classes: 10})
		if err != nil {
			return err
		}
		defer net.Root().Free()
		nn.ToMemoryFormat(net, torch.ChannelsLast)
		x := torch.Rand([]int64{4, 3, 12, 12}, false).Contiguous(torch.ChannelsLast)
		craft := func(graphs bool, norm string) (adv torch.Tensor, events []string) {
			frozen := engine.Freeze(net, engine.Exact)
			defer frozen.Thaw()
			tapes := engine.TapeGraphs(frozen, x, graphs)
			job := &attack.Job{Net: frozen, X: x, Labels: []int{1, 2, 3, 4}, Classes: 10, Seed: 3, Chunk: chunk.Fixed(3), Options: attack.Options{Eps: 1, Step: 0.1, Iters: 4, Num: "2", Norm: norm, Targeted: true}}
			set, err := job.Plan()
			if err != nil {
				t.Fatal(err)
			}
			defer set.Free()
			if err := job.Run(t.Context(), set, nil); err != nil {
				t.Error(err)
			}
			return set.X.Clone(), tapes.Events
		}
		for _, norm := range []string{"l2", "linf"} {
			want, _ := craft(false, norm)
			got, events := craft(true, norm)
			if !torch.Equal(got, want) {
				t.Errorf("%s: other examples", norm)
			}
			r := slices.Repeat([]string{"replay"}, 4)
			once := slices.Concat([]string{"capture"}, r[:3]) // the first iteration of a size is done by itself
			if order := slices.Concat(once, r, once, []string{"free", "free"}); !slices.Equal(events, order) {
				t.Errorf("%s: %v, want %v", norm, events, order)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
