package models

import (
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
)

// An image that is no square has maps of one window in one direction and of several in the other, where alone they are shifted.
func TestSwinOblong(t *testing.T) {
	want := reference.Run(t, `
import nets
torch.manual_seed(7)
net = nets.new("swin_t", 10).eval()
x = torch.rand(2, 3, 32, 80, generator=torch.Generator().manual_seed(1)).requires_grad_()
z = net(x)
save("logits", z)
save("gradient", torch.autograd.grad(z.square().sum(), x)[0])
`)
	torch.ManualSeed(7)
	m := newModel(t, "swin_t", Options{Classes: 10})
	run(t, func() {
		m.Root().Eval()
		var x torch.Tensor
		torch.Seeded(torch.NewGenerator(1), func() { x = torch.Rand([]int64{2, 3, 32, 80}, false).SetRequiresGrad(true) })
		z := m.Forward(x)
		reference.Equal(t, want, "logits", z)
		reference.Equal(t, want, "gradient", torch.Grad([]torch.Tensor{z.Square().Sum()}, []torch.Tensor{x})[0])
	})
}
