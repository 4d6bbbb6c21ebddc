package torch

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

// TestGenerators compares streams with torch.Generator of PyTorch 2.11.0 in Python.
func TestGenerators(t *testing.T) {
	inScope(t, func() {
		for _, c := range []struct {
			n    int64
			want []int64
		}{
			{50000, []int64{36044, 49165, 37807, 11341, 6091, 16904}},
			{1281167, []int64{1069931, 571398, 762430, 399643, 899707, 226472}},
			{18966, []int64{3632, 7340, 2071, 7866, 5031, 5566}},
		} {
			Seeded(NewGenerator(0), func() {
				wantSlice(t, "randperm", RandPerm(c.n).Narrow(0, 0, int64(len(c.want))), c.want...)
			})
			ManualSeed(0)
			wantSlice(t, "randperm of the process's generator", RandPerm(c.n).Narrow(0, 0, int64(len(c.want))), c.want...)
			wantSlice(t, "randperm of a given generator", opRandPerm.One(c.n, NewGenerator(0)).Narrow(0, 0, int64(len(c.want))), c.want...)
		}
		uniforms := []float32{.49625659, .76822180, .08847743, .13203049}
		Seeded(NewGenerator(0), func() { wantSlice(t, "uniforms", Rand([]int64{4}, false), uniforms...) })
		ManualSeed(0)
		wantSlice(t, "uniforms of the process's generator", Rand([]int64{4}, false), uniforms...)

		g := NewGenerator(7)
		sum := sha256.Sum256(NewGenerator(0).State().Bytes())
		if got := hex.EncodeToString(sum[:]); got != "1ccf17250133dec5e96478acd63e13d728d0dbbabb30389415a302c6f872f81f" {
			t.Errorf("the state of seed 0 has the hash %s", got)
		}
		Seeded(g, func() {
			wantSlice(t, "normals", RandN([]int64{20}, false).Narrow(0, 0, 4), float32(-0.82013452), 0.39563116, 0.89890850, -1.3884039)
			u := Empty([]int64{3}, false)
			u.UniformI(-1, 1)
			wantSlice(t, "uniforms in place", u, float32(-0.22251606), -0.55710709, -0.25159585)
			var state Tensor
			draw := func() []Tensor {
				x := Empty([]int64{5}, false).CastTo(Double)
				x.NormalI(2, 3)
				return []Tensor{x, RandN([]int64{3}, false), RandPerm(10)}
			}
			state = g.State()
			first := draw()
			second := draw()
			g.SetState(state)
			again := draw()
			for i := range first {
				if !Equal(first[i], again[i]) || Equal(first[i], second[i]) {
					t.Errorf("draw %d does not go on where the state was taken", i)
				}
			}
			other := NewGenerator(99)
			other.SetState(g.State())
			Seeded(other, func() {
				for i, x := range draw() {
					if !Equal(x, second[i]) {
						t.Errorf("draw %d of another generator in the same state differs", i)
					}
				}
			})
		})

		// Seeded nests, and each generator goes on with its own stream.
		a, b := NewGenerator(0), NewGenerator(0)
		Seeded(a, func() {
			x := Rand([]int64{2}, false)
			Seeded(b, func() { wantSlice(t, "the inner stream", Rand([]int64{2}, false), uniforms[:2]...) })
			wantSlice(t, "the outer stream", Cat([]Tensor{x, Rand([]int64{2}, false)}, 0), uniforms...)
			wantSlice(t, "a given generator inside Seeded", opRandPerm.One(18966, NewGenerator(0)).Narrow(0, 0, 2), int64(3632), 7340)
			a.Free()
			Seeded(b, func() { Rand([]int64{1}, false) })
			Rand([]int64{1}, false) // a is freed, but its stream lasts as long as Seeded
		})

		// Owned generators outlive their scope.
		var kept *Generator
		Scope(func() {
			kept = NewGenerator(0)
			kept.Own()
		})
		Seeded(kept, func() { wantSlice(t, "an owned generator", Rand([]int64{1}, false), uniforms[0]) })
		kept.Free()
	})
}
