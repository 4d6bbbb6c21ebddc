package run

import (
	"context"
	"slices"
	"strings"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/ckpt/keys"
	"l2ul/torch/models"
	"l2ul/torch/nn"
)

// Inspection is what `unlearn inspect` finds in a checkpoint.
type Inspection struct {
	File      string `json:"file"` // where it is from
	Container string `json:"container"`
	// Wrapper, Class and Prefix are what stands around the tensors, as in ckpt.Format.
	Wrapper  string            `json:"wrapper,omitempty"`
	Class    string            `json:"class,omitempty"`
	Prefix   string            `json:"prefix,omitempty"`
	Keys     keys.Style        `json:"keys,omitempty"` // whose names the tensors have in the file, if not ours
	Metadata map[string]string `json:"metadata,omitempty"`
	Tensors  []TensorInfo      `json:"tensors"`
	Elements int64             `json:"elements"` // of all tensors
	Bytes    int64             `json:"bytes"`
	Hash     string            `json:"sha256"` // of the weights, as in results
	// Network is the built-in one that the tensors are of, "" if they are of none, "a or b" if they are of several, and Classes the
	// number of its classes.
	Network string `json:"network"`
	Classes int    `json:"classes,omitempty"`
}

// TensorInfo describes a tensor of a checkpoint, under its name without the prefix, and as we name it.
type TensorInfo struct {
	Name  string     `json:"name"`
	DType ckpt.DType `json:"dtype"`
	Shape []int64    `json:"shape"`
	Bytes int64      `json:"bytes"`
}

// Inspect reads a checkpoint, which is named as for --weights, and finds out what network it is of. It needs no GPU.
func Inspect(ctx context.Context, c *Console, name string, offline bool) (*Inspection, error) {
	found, err := find(ctx, c, name, offline)
	if err != nil {
		return nil, err
	}
	file, style, err := readWeights(found.Path)
	if err != nil {
		return nil, Inputf("%w", err)
	}
	in := &Inspection{
		File: found.Origin, Keys: style, Container: string(file.Format.Container), Wrapper: file.Format.Wrapper, Class: file.Format.Class, Prefix: file.Format.Prefix,
		Metadata: file.Metadata, Tensors: []TensorInfo{}, Hash: file.Hash(),
	}
	for _, tensors := range [][]ckpt.Tensor{file.Format.Front, file.Tensors} {
		for _, t := range tensors {
			n := int64(len(t.Data))
			in.Tensors = append(in.Tensors, TensorInfo{t.Name, t.DType, t.Shape, n})
			in.Elements += n / int64(t.DType.Size())
			in.Bytes += n
		}
	}
	err = torch.Run(torch.CPU, func() error {
		names, classes := networksOf(file, style)
		in.Network, in.Classes = strings.Join(names, " or "), classes
		return nil
	})
	return in, err
}

// networksOf names the networks that the tensors of a file are of, and the number of classes: none and 0 if there are none,
// several where networks differ in what is not in their tensors, and neither what the file says of itself nor the style of
// its names tells. It builds networks to compare, which takes up to a second.
func networksOf(file *ckpt.File, style keys.Style) (names []string, classes int) {
	for _, candidate := range models.Names() {
		torch.Scope(func() {
			net, err := models.New(candidate, models.Options{Undrawn: true})
			if err != nil {
				return
			}
			defer net.Root().Free()
			if n := classesAs(net, file); n > 0 {
				names, classes = append(names, candidate), n
			}
		})
	}
	if own := file.Metadata[modelKey]; slices.Contains(names, own) {
		return []string{own}, classes
	}
	if style == keys.HF {
		if theirs := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.HasPrefix(n, "hf-") }); len(theirs) > 0 {
			names = theirs
		}
	}
	return names, classes
}

// classesAs returns how many classes the tensors of a file distinguish as those of net, whose own number does not matter; 0 if
// they do not fit.
func classesAs(net models.Classifier, file *ckpt.File) int {
	state := net.Root().StateDict()
	head := state[len(state)-2:] // the weight and the bias of the last layer
	weight, ok1 := file.Lookup(head[0].Name)
	bias, ok2 := file.Lookup(head[1].Name)
	floats := []ckpt.DType{ckpt.F64, ckpt.F32, ckpt.F16, ckpt.BF16}
	if !ok1 || !ok2 || !slices.Contains(floats, weight.DType) || !slices.Contains(floats, bias.DType) ||
		len(weight.Shape) == 0 || !slices.Equal(weight.Shape[1:], head[0].Tensor.Shape()[1:]) || !slices.Equal(bias.Shape, weight.Shape[:1]) {
		return 0
	}
	bad := nn.Compare(net, file)
	if bad != nil && (len(bad.Missing)+len(bad.Unexpected) > 0 ||
		slices.ContainsFunc(bad.Different, func(d nn.Difference) bool { return d.Name != head[0].Name && d.Name != head[1].Name })) {
		return 0
	}
	return int(weight.Shape[0])
}
