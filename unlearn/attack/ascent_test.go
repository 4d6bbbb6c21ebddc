package attack

import (
	"testing"

	"l2ul/torch"
	"l2ul/torch/models"
	"l2ul/unlearn/engine"
)

// However many sizes of batches an attack meets, it keeps those of the last two.
func TestFewBatchesAreKept(t *testing.T) {
	err := torch.Run(torch.CPU, func() error {
		m, err := models.New("resnet20", models.Options{Classes: 10})
		if err != nil {
			return err
		}
		defer m.Root().Free()
		net := engine.Freeze(m, engine.Fast)
		defer net.Thaw()
		steps := &ascent{net: net, options: &Options{Targeted: true, Eps: 4, Step: 0.1, Norm: "l2"}}
		defer steps.free()
		for _, n := range []int64{6, 5, 4, 6, 3, 2} {
			torch.Scope(func() {
				x := torch.Rand([]int64{n, 3, 32, 32}, false).Contiguous(torch.ChannelsLast)
				err = steps.run(t.Context(), x, x.ZerosLike(), torch.Zeros([]int64{n}, false).CastTo(torch.Long), 1)
			})
			if err != nil {
				return err
			}
		}
		if len(steps.batches) != 2 || steps.batches[0].images != 3 || steps.batches[1].images != 2 {
			t.Errorf("%d batches are kept", len(steps.batches))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
