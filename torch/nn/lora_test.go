package nn

import (
	"slices"
	"strings"
	"testing"

	"l2ul/torch"
	F "l2ul/torch/nn/functional"
)

// adapted lists the layers that LoRA takes, with an input for each.
var adapted = []struct {
	name  string
	layer func() Module
	input []int64
}{
	{"linear", func() Module { return Linear(6, 5, true) }, []int64{4, 6}},
	{"sequence", func() Module { return Linear(6, 5, false) }, []int64{2, 3, 6}},
	{"convolution", func() Module { return Conv2d(3, 5, 3, 2, 1, 1, 1, true, "zeros") }, []int64{2, 3, 8, 8}},
	{"dilated convolution", func() Module { return Conv2d(3, 5, 3, 1, 2, 2, 1, false, "zeros") }, []int64{2, 3, 8, 8}},
}

// Nothing changes at first; then A and B alone have gradients, those of the formula.
func TestLoRA(t *testing.T) {
	const rank, alpha = 2, 3
	for _, tt := range adapted {
		t.Run(tt.name, func(t *testing.T) {
			layer := tt.layer()
			before := Snapshot(layer)
			run(t, func() {
				x := torch.RandN(tt.input, false).CastTo(torch.Double)
				plain := layer.Forward(x.CastTo(torch.Float))
				m := LoRA(layer, rank, alpha)
				defer m.Free()
				if !torch.Equal(m.Forward(x.CastTo(torch.Float)), plain) {
					t.Error("a fresh adaptation changes what the layer makes")
				}
				trained := strings.Join(names(m.NamedParameters()), " ")
				if trained != "lora_A.weight lora_B.weight" {
					t.Errorf("trained: %s", trained)
				}
				if got := names(m.StateDict()); got[0] != "base_layer.weight" || len(got) != len(before.Tensors)+2 {
					t.Errorf("state: %s", got)
				}

				m.replaceData(func(t torch.Tensor) torch.Tensor { return t.CastTo(torch.Double) })
				a, b := m.Parameters()[0], m.Parameters()[1]
				torch.NoGrad(func() { b.NormalI(0, 1) })
				loss := m.Forward(x).Square().Sum()
				grads := torch.Grad([]torch.Tensor{loss}, []torch.Tensor{a, b})
				// The same from W + (α/r)·ΣB·A, written out as a sum over the rank.
				weight := m.StateDict()[0].Tensor
				for r := range int64(rank) {
					column := b.Narrow(1, r, 1).Reshape(append([]int64{-1}, slices.Repeat([]int64{1}, weight.Dim()-1)...)...)
					weight = weight.Add(column.Mul(a.Narrow(0, r, 1)).MulScalar(alpha/float64(rank)), 1)
				}
				var y torch.Tensor
				switch l := layer.(type) {
				case *LinearModule:
					y = F.Linear(x, weight, l.Bias)
				case *Conv2dModule:
					y = F.Conv2d(x, weight, l.Bias, l.stride, l.padding, l.dilation, 1)
				}
				if !torch.AllClose(m.Forward(x), y, 1e-12, 1e-12) || !torch.AllClose(m.Weight(), weight, 1e-12, 1e-12) {
					t.Error("not the layer of the weight W + (α/r)·B·A")
				}
				for i, want := range torch.Grad([]torch.Tensor{y.Square().Sum()}, []torch.Tensor{a, b}) {
					if !torch.AllClose(grads[i], want, 1e-11, 1e-11) {
						t.Errorf("another gradient of %s", m.NamedParameters()[i].Name)
					}
				}
				for _, n := range m.NamedBuffers() {
					if n.Tensor.RequiresGrad() {
						t.Errorf("%s is trained", n.Name)
					}
				}
			})
		})
	}
}

// Merged, it computes the same; afterwards it has the bits it had.
func TestLoRAMerge(t *testing.T) {
	for _, tt := range adapted {
		t.Run(tt.name, func(t *testing.T) {
			m := LoRA(tt.layer(), 2, 3)
			defer m.Free()
			run(t, func() {
				m.replaceData(func(t torch.Tensor) torch.Tensor { return t.CastTo(torch.Double) })
				a, b := m.Parameters()[0], m.Parameters()[1]
				torch.NoGrad(func() { b.NormalI(0, 1) })
				x, state := torch.RandN(tt.input, false).CastTo(torch.Double), Snapshot(m).Hash()
				unmerged := m.Forward(x)
				m.Merge()
				merged := m.Forward(x)
				if !torch.AllClose(merged, unmerged, 1e-12, 1e-12) || merged.RequiresGrad() {
					t.Error("merging changes the result, or leaves a gradient")
				}
				torch.NoGrad(func() { a.MulScalarI(2) })
				if !torch.Equal(m.Forward(x), merged) {
					t.Error("a merged layer heeds what A becomes")
				}
				m.Merge()
				if torch.AllClose(m.Forward(x), merged, 1e-3, 1e-3) {
					t.Error("merging again does not heed A")
				}
				torch.NoGrad(func() { a.MulScalarI(0.5) })
				m.Unmerge()
				if Snapshot(m).Hash() != state || !torch.Equal(m.Forward(x), unmerged) {
					t.Error("not the bits from before")
				}
			})
		})
	}
}

func TestLoRARefuses(t *testing.T) {
	grouped, plain := Conv2d(4, 4, 3, 1, 1, 1, 4, false, "zeros"), Linear(2, 2, true)
	defer grouped.Free()
	defer plain.Free()
	for _, tt := range []struct {
		layer Module
		rank  int64
		want  string
	}{
		{grouped, 2, "a convolution with 4 groups"},
		{ReLU(false), 2, "a *nn.FunctionalModule cannot be adapted"},
		{plain, 0, "rank 0, alpha 1"},
	} {
		if err := torch.Try(func() { LoRA(tt.layer, tt.rank, 1) }); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
	if !plain.Weight.RequiresGrad() {
		t.Error("a refused layer is frozen")
	}
}
