package attack

import (
	"fmt"
	"slices"
	"testing"

	"l2ul/internal/reference"
	"l2ul/internal/smallnet"
	"l2ul/torch"
	"l2ul/torch/ckpt"
)

// The table of the specification, and every class with uniforms on the edges of its bins.
func TestOtherClass(t *testing.T) {
	var got []int
	for i, u := range []float32{.49625659, .76822180, .08847743, .13203049} {
		label := []int{4, 4, 0, 9}[i]
		c, err := otherClass(u, label, label, 10)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, c)
	}
	if !slices.Equal(got, []int{5, 7, 1, 1}) {
		t.Errorf("targets %v, the specification has 5 7 1 1", got)
	}
	got = nil
	for i, u := range []float32{.49625659, .76822180, .08847743, .13203049} {
		got = append(got, halfClass(u, []int{4, 4, 0, 9}[i], 10))
	}
	if !slices.Equal(got, []int{5, 7, 5, 1}) {
		t.Errorf("rule half: targets %v, the specification has 5 7 5 1", got)
	}
	file, err := ckpt.Load(reference.Golden(t, "streams.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	torch.Scope(func() {
		g := &smallnet.Golden{TB: t, File: file}
		uniforms := torch.ToSlice[float32](g.Tensor("targets.grid.uniforms"))
		for _, classes := range []int{2, 3, 5, 10, 100} {
			for i, want := range g.Ints(fmt.Sprintf("targets.grid.%d", classes)) {
				if got, err := otherClass(uniforms[i], i%classes, i%classes, classes); err != nil || got != want {
					t.Errorf("u %g, label %d of %d: target %d, want %d", uniforms[i], i%classes, classes, got, want)
				}
			}
		}
	})
}
