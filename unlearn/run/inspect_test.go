package run

import (
	"slices"
	"strings"
	"testing"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/ckpt/keys"
	"l2ul/torch/models"
)

// The tensors of every network tell it and the number of its classes, and no two networks take each other's but DeiT and ViT, which
// are one. Names and shapes are all that is looked at, so only one network is in memory at a time.
func TestNetworkOf(t *testing.T) {
	const classes = 7
	err := torch.Run(torch.CPU, func() error {
		each := func(classes int, fn func(name string, net models.Classifier)) {
			for _, name := range models.Names() {
				torch.Scope(func() {
					net, err := models.New(name, models.Options{Classes: classes, Undrawn: true})
					if err != nil {
						t.Error(err)
						return
					}
					defer net.Root().Free()
					fn(name, net)
				})
			}
		}
		files := map[string]*ckpt.File{}
		each(classes, func(name string, net models.Classifier) {
			files[name] = &ckpt.File{}
			for _, n := range net.Root().StateDict() {
				dtype := ckpt.F32
				if n.Tensor.Dtype() == torch.Long {
					dtype = ckpt.I64
				}
				files[name].Tensors = append(files[name].Tensors, ckpt.Tensor{Name: n.Name, DType: dtype, Shape: n.Tensor.Shape()})
			}
		})
		each(0, func(name string, net models.Classifier) {
			for of, file := range files {
				want := 0
				if as := strings.NewReplacer("deit", "vit", "hf-", ""); as.Replace(of) == as.Replace(name) {
					want = classes
				}
				if got := classesAs(net, file); got != want {
					t.Errorf("the weights of %s have %d classes as %s, want %d", of, got, name, want)
				}
			}
		})
		for of, want := range map[string]string{"resnet20": "resnet20", "vit_s_32": "vit_s_32", "vit_s_16": "deit_s_16 or vit_s_16", "hf-vit_b_16": "deit_b_16 or hf-vit_b_16 or vit_b_16"} {
			if names, n := networksOf(files[of], ""); strings.Join(names, " or ") != want || n != classes {
				t.Errorf("found %q with %d classes, want %s with %d", names, n, want, classes)
			}
		}
		vit := files["hf-vit_b_16"]
		if names, _ := networksOf(vit, keys.HF); !slices.Equal(names, []string{"hf-vit_b_16"}) {
			t.Errorf("with the names of transformers it is taken for %q", names)
		}
		for _, says := range []string{"deit_b_16", "resnet20"} { // one that it can be, one that it cannot
			names, _ := networksOf(&ckpt.File{Tensors: vit.Tensors, Metadata: map[string]string{"model": says}}, "")
			if slices.Equal(names, []string{says}) != (says == "deit_b_16") {
				t.Errorf("it says that it is %s and is taken for %q", says, names)
			}
		}
		for what, spoil := range map[string]func(weight, bias *ckpt.Tensor){
			"a bias of other classes":    func(_, bias *ckpt.Tensor) { bias.Shape = []int64{classes - 1} },
			"a bias of a dimension more": func(_, bias *ckpt.Tensor) { bias.Shape = []int64{classes, 1} },
			"a weight of integers":       func(weight, _ *ckpt.Tensor) { weight.DType = ckpt.I64 },
			"a bias of integers":         func(_, bias *ckpt.Tensor) { bias.DType = ckpt.I64 },
		} {
			file := &ckpt.File{Tensors: slices.Clone(files["resnet20"].Tensors)}
			head := file.Tensors[len(file.Tensors)-2:]
			spoil(&head[0], &head[1])
			if names, _ := networksOf(file, ""); len(names) > 0 {
				t.Errorf("%s passes for %q", what, names)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
