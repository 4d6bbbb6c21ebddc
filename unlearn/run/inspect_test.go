package run

import (
	"testing"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/models"
	"l2ul/torch/nn"
)

// The tensors of every network tell it and the number of its classes. No two networks take each other's: each is compared
// with the file of each other, which networkOf of them all would do more slowly.
func TestNetworkOf(t *testing.T) {
	const classes = 7
	err := torch.Run(torch.CPU, func() error {
		nets, files := map[string]models.Classifier{}, map[string]*ckpt.File{}
		for _, name := range models.Names() {
			usual, err := models.New(name, models.Options{})
			if err != nil {
				return err
			}
			defer usual.Root().Free()
			nets[name] = usual
			torch.Scope(func() {
				other, err := models.New(name, models.Options{Classes: classes})
				if err != nil {
					t.Error(err)
					return
				}
				defer other.Root().Free()
				files[name] = nn.Snapshot(other)
			})
		}
		for name, net := range nets {
			for of, file := range files {
				want := 0
				if of == name {
					want = classes
				}
				if got := classesAs(net, file); got != want {
					t.Errorf("the weights of %s have %d classes as %s, want %d", of, got, name, want)
				}
			}
		}
		if name, n := networkOf(files["resnet20"]); name != "resnet20" || n != classes {
			t.Errorf("found %q with %d classes, want resnet20 with %d", name, n, classes)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
