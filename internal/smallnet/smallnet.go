// Package smallnet holds the networks of one block on which the rooms of unlearn test themselves, and the reference values
// that scripts/golden keeps for each: a few thousand parameters, five classes, images of 3x8x8.
package smallnet

import (
	"encoding/json"
	"strings"
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	"l2ul/torch/nn/initializer"
)

// Classes is the number of logits of every network.
const Classes = 5

// Names are the networks: a plain one, and a residual block of each kind the specification's networks are built from.
func Names() []string { return []string{"tiny", "block-a", "block-b-basic", "block-b-bottleneck"} }

// Net is one of the networks, under the keys of the reference's state dict.
type Net struct {
	nn.Base
	stem, body, shortcut nn.Module // stem and shortcut are nil in the plain network
	fc                   *nn.LinearModule
}

// Forward takes x Float [n, 3, h, w] to logits [n, 5].
func (m *Net) Forward(x torch.Tensor) torch.Tensor {
	if m.stem != nil {
		x = m.stem.Forward(x)
	}
	y := m.body.Forward(x)
	if m.shortcut != nil {
		y = y.Add(m.shortcut.Forward(x), 1)
	}
	return m.fc.Forward(y.Relu().AdaptiveAvgPool2d([]int64{1, 1}).Flatten(1, -1))
}

func conv(in, out, kernel, stride int64) nn.Module {
	return nn.Conv2d(in, out, kernel, stride, kernel/2, 1, 1, false, "zeros")
}

func norm(n int64) nn.Module { return nn.BatchNorm2d(n, 1e-5, 0.1, true, true) }

// holder names its children as the reference does; the network calls them itself.
type holder struct{ nn.Base }

func (*holder) Forward(torch.Tensor) torch.Tensor { panic("smallnet: a holder of names is no layer") }

// Tiny makes the plain network with so many classes, else as New.
func Tiny(classes int64) *Net {
	m := &Net{}
	c, b := conv(3, 8, 3, 1), norm(8)
	m.Child("conv", c)
	m.Child("bn", b)
	m.body, m.fc = nn.Sequential(c, b), nn.Linear(8, classes, true)
	m.Child("fc", m.fc)
	return m
}

// New makes the named network, with weights from libtorch's default generator. The caller frees it.
func New(name string) *Net {
	m := &Net{}
	block, width := &holder{}, int64(16)
	switch name {
	case "tiny":
		return Tiny(Classes)
	case "block-a":
		conv1, bn1, conv2, bn2 := conv(8, 16, 3, 2), norm(16), conv(16, 16, 3, 1), norm(16)
		m.body = nn.Sequential(conv1, bn1, nn.ReLU(false), conv2, bn2)
		m.shortcut = nn.Sequential(conv(8, 16, 1, 2), norm(16))
		block.Child("conv1", conv1)
		block.Child("bn1", bn1)
		block.Child("conv2", conv2)
		block.Child("bn2", bn2)
		block.Child("downsample", m.shortcut)
	case "block-b-basic":
		m.body = nn.Sequential(conv(8, 16, 3, 2), norm(16), nn.ReLU(false), conv(16, 16, 3, 1), norm(16))
		m.shortcut = nn.Sequential(conv(8, 16, 1, 2), norm(16))
		block.Child("residual_function", m.body)
		block.Child("shortcut", m.shortcut)
	case "block-b-bottleneck":
		width = 32
		m.body = nn.Sequential(conv(8, 8, 1, 1), norm(8), nn.ReLU(false), conv(8, 8, 3, 2), norm(8), nn.ReLU(false), conv(8, 32, 1, 1), norm(32))
		m.shortcut = nn.Sequential(conv(8, 32, 1, 2), norm(32))
		block.Child("residual_function", m.body)
		block.Child("shortcut", m.shortcut)
	default:
		panic("smallnet: no network " + name)
	}
	m.stem, m.fc = conv(3, 8, 3, 1), nn.Linear(width, Classes, true)
	m.Child("stem", m.stem)
	m.Child("block", block)
	m.Child("fc", m.fc)
	return m
}

// Golden is a file of reference values with the network they were made with.
type Golden struct {
	testing.TB
	Name   string
	File   *ckpt.File
	Format torch.MemoryFormat // of images and weights
	Exact  bool               // made on such a processor: bits must agree
}

// DrawHead gives the last layer of net values if it is zero, as that of a fresh vision transformer: nothing of what is before it would
// show in the logits.
func DrawHead(net nn.Module) {
	params := net.Root().Parameters()
	head := params[len(params)-2]
	torch.Scope(func() {
		if head.Abs().Max().Item() == 0 {
			initializer.Normal(head, 0, 0.02)
		}
	})
}

// live holds the reference values that were made on this machine, now: under `make parity`, of the plain network and of one
// block. Making them takes a while.
var live = map[string]*ckpt.File{"tiny": nil, "block-a": nil}

// Load reads the reference values of the named network.
func Load(t testing.TB, name string) *Golden {
	t.Helper()
	if file, ok := live[name]; ok && reference.Live() {
		if file == nil {
			file = reference.Remake(t, name)
			live[name] = file
		}
		g := wrap(t, name, file)
		if !g.Exact {
			t.Fatal("the processor that Python sees is not the one Go sees")
		}
		return g
	}
	file, err := ckpt.Load(reference.Golden(t, name+".safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	return wrap(t, name, file)
}

func wrap(t testing.TB, name string, file *ckpt.File) *Golden {
	t.Helper()
	made := file.Metadata
	g := &Golden{TB: t, Name: name, File: file}
	if made["format"] == "channels_last" {
		g.Format = torch.ChannelsLast
	}
	g.Exact = reference.MadeHere(made)
	if !g.Exact {
		t.Logf("made by torch %s on %s with %s: compared with tolerance", made["torch"], made["cpu"], made["cpu_capability"])
	}
	return g
}

// ForEach runs a test in a scope of its own for every network.
func ForEach(t *testing.T, fn func(t *testing.T, g *Golden)) {
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			g := Load(t, name)
			torch.Scope(func() { fn(t, g) })
		})
	}
}

// Fresh returns the network as the reference began with it, in its memory format. It is freed when the test ends.
func (g *Golden) Fresh() *Net {
	g.Helper()
	return g.restored(New(g.Name))
}

// FreshTiny is Fresh for a reference made with the plain network of so many classes.
func (g *Golden) FreshTiny(classes int64) *Net {
	g.Helper()
	return g.restored(Tiny(classes))
}

func (g *Golden) restored(net *Net) *Net {
	g.Helper()
	g.Cleanup(net.Free)
	weights := &ckpt.File{}
	for _, t := range g.File.Tensors {
		if name, ok := strings.CutPrefix(t.Name, "net."); ok {
			t.Name = name
			weights.Tensors = append(weights.Tensors, t)
		}
	}
	if err := nn.Restore(net, weights, true); err != nil {
		g.Fatal(err)
	}
	nn.ToMemoryFormat(net, g.Format)
	net.Eval()
	return net
}

// Has reports whether the reference kept a value.
func (g *Golden) Has(name string) bool {
	_, ok := g.File.Lookup(name)
	return ok
}

// Tensor returns a value, images in the reference's memory format, in the current scope.
func (g *Golden) Tensor(name string) torch.Tensor {
	g.Helper()
	t, ok := g.File.Lookup(name)
	if !ok {
		g.Fatalf("the reference has no %s", name)
	}
	named, err := nn.Unpack(&ckpt.File{Tensors: []ckpt.Tensor{*t}})
	if err != nil {
		g.Fatal(err)
	}
	if named[0].Tensor.Dim() == 4 {
		return named[0].Tensor.Contiguous(g.Format)
	}
	return named[0].Tensor
}

// Ints returns a vector of integers.
func (g *Golden) Ints(name string) []int {
	g.Helper()
	var out []int
	for _, v := range torch.ToSlice[int64](g.Tensor(name)) {
		out = append(out, int(v))
	}
	return out
}

// Meta decodes an entry of the metadata.
func (g *Golden) Meta(key string, into any) {
	g.Helper()
	if err := json.Unmarshal([]byte(g.File.Metadata[key]), into); err != nil {
		g.Fatalf("metadata %q: %v", key, err)
	}
}

// Equal holds got against the value of that name: every bit where the reference was made on such a processor, else
// rtol of the largest magnitude.
func (g *Golden) Equal(name string, got torch.Tensor, rtol float64) {
	g.Helper()
	torch.Scope(func() { g.Near(name, got, g.Tensor(name), rtol) })
}

// Near is Equal for two tensors at hand.
func (g *Golden) Near(what string, got, want torch.Tensor, rtol float64) {
	g.Helper()
	torch.Scope(func() {
		got, want := got.Detach().CastTo(torch.Double).Flatten(0, -1), want.CastTo(torch.Double).Flatten(0, -1)
		if got.Numel() != want.Numel() {
			g.Errorf("%s: %d values, want %d", what, got.Numel(), want.Numel())
			return
		}
		if torch.Equal(got, want) {
			return
		}
		diff, scale := got.Sub(want, 1).Abs().Max().Item(), want.Abs().Max().Item()
		if g.Exact || !(diff <= rtol*scale) {
			g.Errorf("%s: differs by up to %g (values up to %g)", what, diff, scale)
		}
	})
}

// Flat joins tensors end to end, row-major, as the reference stores lists.
func Flat(ts []torch.Tensor) torch.Tensor {
	parts := make([]torch.Tensor, len(ts))
	for i, t := range ts {
		parts[i] = t.Detach().Contiguous(torch.Contiguous).View(-1)
	}
	return torch.Cat(parts, 0)
}

// Split cuts a vector into tensors of the parameters' shapes and memory format, the inverse of Flat.
func (g *Golden) Split(all torch.Tensor, params []torch.Tensor) []torch.Tensor {
	var out []torch.Tensor
	at := int64(0)
	for _, p := range params {
		part := all.Narrow(0, at, p.Numel()).View(p.Shape()...)
		if p.Dim() == 4 {
			part = part.Contiguous(g.Format)
		}
		out = append(out, part)
		at += p.Numel()
	}
	return out
}

// Buffers returns running means and variances, and the counts of batches.
func Buffers(net nn.Module) (running, tracked []torch.Tensor) {
	for _, b := range net.Root().NamedBuffers() {
		if strings.HasSuffix(b.Name, "num_batches_tracked") {
			tracked = append(tracked, b.Tensor.Unsqueeze(0))
		} else {
			running = append(running, b.Tensor)
		}
	}
	return running, tracked
}

// State joins everything a network holds, as float64, for comparisons of all of it.
func State(net nn.Module) torch.Tensor {
	var all []torch.Tensor
	for _, t := range net.Root().StateDict() {
		all = append(all, t.Tensor.Detach().CastTo(torch.Double).Contiguous(torch.Contiguous).Reshape(-1))
	}
	return torch.Cat(all, 0)
}
