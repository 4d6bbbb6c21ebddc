package keys

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"l2ul/torch/ckpt"
)

// network is the state dict of a network as its own project makes it: scripts/golden/keys.py.
type network struct {
	Family  string
	Style   Style
	Tensors []struct {
		Name  string
		Shape []int64
	}
}

// UnmarshalJSON reads [name, shape] pairs.
func (n *network) UnmarshalJSON(text []byte) error {
	var raw struct {
		Family  string
		Style   Style
		Tensors [][2]json.RawMessage
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return err
	}
	n.Family, n.Style = raw.Family, raw.Style
	n.Tensors = make([]struct {
		Name  string
		Shape []int64
	}, len(raw.Tensors))
	for i, pair := range raw.Tensors {
		if err := json.Unmarshal(pair[0], &n.Tensors[i].Name); err != nil {
			return err
		}
		if err := json.Unmarshal(pair[1], &n.Tensors[i].Shape); err != nil {
			return err
		}
	}
	return nil
}

func golden(t testing.TB) (networks []network) {
	t.Helper()
	text, err := os.ReadFile("testdata/keys.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &networks); err != nil {
		t.Fatal(err)
	}
	return networks
}

// noise is what the tensors of tests are windows of: most of VGG's are large.
var noise = func() []byte {
	data := make([]byte, 1<<27)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}()

func tensor(name string, shape []int64, at int) ckpt.Tensor {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return ckpt.Tensor{Name: name, DType: ckpt.U8, Shape: shape, Data: noise[at : at+int(n)]}
}

// file fills a network with numbers. What Swin's tables of positions imply is as it must be.
func (n network) file(t testing.TB) *ckpt.File {
	t.Helper()
	f := &ckpt.File{}
	for i, x := range n.Tensors {
		made := tensor(x.Name, x.Shape, 1000*i)
		if table, is := strings.CutSuffix(x.Name, "index"); is && n.Family == "swin" {
			of := f.Tensors[slices.IndexFunc(f.Tensors, func(y ckpt.Tensor) bool { return y.Name == table+"bias_table" })]
			index, err := relativePositions(&of)
			if err != nil {
				t.Fatal(err)
			}
			made = *index
			made.Name = x.Name
		}
		f.Tensors = append(f.Tensors, made)
	}
	if n.Style == SalUn {
		f.Format.Front = []ckpt.Tensor{tensor("normalize.mean", []int64{3}, 0), tensor("normalize.std", []int64{3}, 0)}
	}
	return f
}

func shapes(f *ckpt.File) map[string]string {
	out := map[string]string{}
	for _, x := range f.Tensors {
		out[x.Name] = fmt.Sprint(x.Shape)
	}
	return out
}

// TestConvert converts each project's network to each other project's names, and back.
func TestConvert(t *testing.T) {
	networks := golden(t)
	for _, from := range networks {
		for _, to := range networks {
			if from.Family != to.Family {
				continue
			}
			file := from.file(t)
			got, err := Convert(file, to.Style)
			if err != nil {
				t.Errorf("%s, %s to %s: %v", from.Family, from.Style, to.Style, err)
				continue
			}
			if diff := cmp.Diff(shapes(to.file(t)), shapes(got)); diff != "" {
				t.Errorf("%s, %s to %s (-want +got):\n%s", from.Family, from.Style, to.Style, diff)
			}
			back, err := Convert(got, from.Style)
			if err != nil || back.Hash() != file.Hash() {
				t.Errorf("%s, %s to %s and back is another file: %v", from.Family, from.Style, to.Style, err)
			}
		}
	}
}

// TestRecognise tells the styles that need no more than the names, and gives them ours.
func TestRecognise(t *testing.T) {
	networks := golden(t)
	own := map[string]Style{"cifar-resnet": Weiaicunzai, "small-resnet": Akamaster}
	for _, n := range networks {
		i := slices.IndexFunc(networks, func(o network) bool {
			return o.Family == n.Family && (o.Style == own[n.Family] || own[n.Family] == "" && o.Style == Torchvision)
		})
		want := n.Style
		if maps.Equal(shapes(n.file(t)), shapes(networks[i].file(t))) {
			want = ""
		}
		got, style, err := Recognise(n.file(t))
		if err != nil || style != want {
			t.Errorf("%s of %s is taken for %q, want %q: %v", n.Family, n.Style, style, want, err)
			continue
		}
		if diff := cmp.Diff(names(networks[i].file(t)), names(got)); diff != "" {
			t.Errorf("%s of %s (-want +got):\n%s", n.Family, n.Style, diff)
		}
	}
}

func names(f *ckpt.File) []string { return slices.Sorted(maps.Keys(shapes(f))) }

func TestQueryKeyValue(t *testing.T) {
	const layer = "vit.encoder.layer.3.attention.attention."
	f := &ckpt.File{Tensors: []ckpt.Tensor{
		{Name: layer + "value.bias", DType: ckpt.U8, Shape: []int64{2}, Data: []byte{5, 6}}, // files of safetensors are sorted
		{Name: layer + "key.bias", DType: ckpt.U8, Shape: []int64{2}, Data: []byte{3, 4}},
		{Name: layer + "query.bias", DType: ckpt.U8, Shape: []int64{2}, Data: []byte{1, 2}},
	}}
	got, style, err := Recognise(f)
	if err != nil || style != HF || len(got.Tensors) != 1 {
		t.Fatalf("%v, %q, %v", got, style, err)
	}
	want := ckpt.Tensor{Name: "encoder.layers.encoder_layer_3.self_attention.in_proj_bias", DType: ckpt.U8, Shape: []int64{6}, Data: []byte{1, 2, 3, 4, 5, 6}}
	if diff := cmp.Diff(want, got.Tensors[0]); diff != "" {
		t.Error(diff)
	}
}

// TestRelativePositions compares with the index of a window of 2 x 2 as worked out by hand: the row is 3·(Δy+1) + Δx+1.
func TestRelativePositions(t *testing.T) {
	table := tensor("t", []int64{9, 3}, 0)
	got, err := relativePositions(&table)
	if err != nil {
		t.Fatal(err)
	}
	want := []byte{4, 3, 1, 0, 5, 4, 2, 1, 7, 6, 4, 3, 8, 7, 5, 4}
	for i, w := range want {
		if got.Data[8*i] != w || string(got.Data[8*i+1:8*i+8]) != "\x00\x00\x00\x00\x00\x00\x00" {
			t.Errorf("place %d: % x, want %d", i, got.Data[8*i:8*i+8], w)
		}
	}
	for _, shape := range [][]int64{{}, {9}, {0, 3}, {8, 3}, {16, 1}, {1 << 20, 1}, {math.MaxInt64, 0}, {9, 0}, {65 * 65, 1}} {
		if _, err := relativePositions(&ckpt.Tensor{Shape: shape}); err == nil {
			t.Errorf("shape %v is a table", shape)
		}
	}
}

// TestDerivedBound gives many small tables of the largest window.
func TestDerivedBound(t *testing.T) {
	f := &ckpt.File{}
	for i := range 8 {
		f.Tensors = append(f.Tensors, tensor(fmt.Sprintf("layers.0.blocks.%d.attn.relative_position_bias_table", i), []int64{63 * 63, 1}, i))
	}
	if _, _, err := Recognise(f); err == nil || !strings.Contains(err.Error(), "larger than all weights") {
		t.Errorf("64 MiB follow from %d tables of 16 KiB: %v", len(f.Tensors), err)
	}
	f.Tensors = f.Tensors[:1]
	if _, style, err := Recognise(f); err != nil || style != Timm {
		t.Errorf("one table: %q, %v", style, err)
	}
}

func TestRefuses(t *testing.T) {
	const layer = "vit.encoder.layer.0.attention.attention."
	bias := func(name string, n int64) ckpt.Tensor { return tensor(layer+name+".bias", []int64{n}, 0) }
	empty := func(name string) ckpt.Tensor { return tensor(layer+name+".weight", []int64{1 << 62, 0}, 0) }
	for _, c := range []struct {
		tensors []ckpt.Tensor
		to      Style
		want    string
	}{
		{[]ckpt.Tensor{tensor("strange", nil, 0)}, Timm, `of no style that is known (torchvision, torchvision-old, timm, hf, l2ul, salun, weiaicunzai, akamaster): the first is "strange"`},
		{nil, Timm, "there are no tensors"},
		{[]ckpt.Tensor{bias("query", 2)}, "keras", `there is no style "keras"`},
		{[]ckpt.Tensor{bias("query", 2)}, Timm, "the names are those of hf, but a part of encoder.layers.encoder_layer_0.self_attention.in_proj_bias is missing, vit.encoder.layer.#.attention.attention.key.*"},
		{[]ckpt.Tensor{bias("query", 2), bias("key", 3), bias("value", 2)}, Timm, "they should be alike"},
		{[]ckpt.Tensor{bias("query", 2), bias("query", 2)}, Timm, "would both be"},
		{[]ckpt.Tensor{empty("query"), empty("key"), empty("value")}, Timm, "[4611686018427387904 0] should be a part of a tensor"},
		{[]ckpt.Tensor{tensor("blocks.0.attn.qkv.bias", []int64{7}, 0)}, HF, "cannot be cut into 3 parts"},
		{[]ckpt.Tensor{tensor("conv1.0.weight", []int64{1}, 0)}, Timm, "the names are those of l2ul, weiaicunzai, and timm has no such network"},
		{[]ckpt.Tensor{tensor("pre_logits.fc1.weight", []int64{7}, 0)}, Torchvision, "cannot have the shape [-1 25088]"},
		{[]ckpt.Tensor{tensor("features.1.0.attn.relative_position_bias_table", []int64{9, 1}, 0), tensor("features.1.0.attn.relative_position_index", []int64{16}, 0)}, Timm, "not those that the others imply"},
	} {
		_, err := Convert(&ckpt.File{Tensors: c.tensors}, c.to)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("to %s: error %v, want one with %q", c.to, err, c.want)
		}
	}
}

// FuzzConvert converts files of any names and shapes: what comes out is whole, and goes back to what it was.
func FuzzConvert(f *testing.F) {
	for _, n := range golden(f) {
		if n.Family == "vgg" {
			continue // too large to be fast
		}
		var text strings.Builder
		for _, x := range n.Tensors[:min(len(n.Tensors), 40)] {
			fmt.Fprintf(&text, "%s %s\n", x.Name, strings.Trim(fmt.Sprint(x.Shape), "[]"))
		}
		f.Add(text.String(), string(Timm))
	}
	f.Fuzz(func(t *testing.T, text, to string) {
		file := &ckpt.File{}
		seen := map[string]bool{}
		for line := range strings.Lines(text) {
			name, dims, _ := strings.Cut(strings.TrimSpace(line), " ")
			x := ckpt.Tensor{Name: name, DType: ckpt.U8}
			n := int64(1)
			for d := range strings.FieldsSeq(dims) {
				var size int64
				if _, err := fmt.Sscan(d, &size); err != nil || size < 0 || size > 1000 || n*size > 1<<16 || len(x.Shape) > 8 {
					return
				}
				n *= size
				x.Shape = append(x.Shape, size)
			}
			if x.Data = noise[:n]; seen[name] {
				return
			}
			seen[name] = true
			file.Tensors = append(file.Tensors, x)
		}
		if _, _, err := Recognise(file); err != nil {
			return
		}
		got, err := Convert(file, Style(to))
		if err != nil {
			return
		}
		for _, x := range got.Tensors {
			n := int64(x.DType.Size())
			for _, d := range x.Shape {
				n *= d
			}
			if n != int64(len(x.Data)) {
				t.Errorf("%s of shape %v has %d bytes", x.Name, x.Shape, len(x.Data))
			}
		}
	})
}
