// Package models holds the networks the program knows, one architecture family a file, with the keys and the initial
// weights (same seed, same bits) of the PyTorch code whose checkpoints people have.
//
// Every network takes pixels in [0, 1], [n, 3, h, w] float32, and normalises them itself: (x - mean)/std per channel is
// its first layer, without parameters and without keys, so checkpoints of the bare network fit. Networks come in training
// mode, on the CPU, with weights drawn from libtorch's default generator or that of torch.Seeded.
package models

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"l2ul/internal/nearest"
	"l2ul/torch"
	"l2ul/torch/nn"
	"l2ul/torch/nn/initializer"
)

// Classifier is a network whose last layer classifies features by a linear function: a vector of them, or in SqueezeNet those of
// each place, whose classifications are averaged.
type Classifier interface {
	nn.Module
	// Features gives the input of the last layer, averaged over the places if there are some, [n, width], for images
	// [n, 3, h, w]. Forward gives logits [n, classes].
	Features(x torch.Tensor) torch.Tensor
}

// Options choose what may vary within an architecture. The zero value means the defaults of the network's Card.
type Options struct {
	// Classes is the number of logits.
	Classes int
	// Mean and Std are the normalisation per channel, in units of pixels in [0, 1]; zeros and ones switch it off.
	Mean, Std []float64
	// Undrawn leaves the weights unset, for a network that is given others at once.
	Undrawn bool
}

// Card describes a network and its defaults.
type Card struct {
	Name      string
	Summary   string
	Classes   int       // number of logits
	Size      int       // height and width of its usual input, in pixels; any size the strides allow will do, unless it is
	FixedSize bool      // the only one, since each place in the image has parameters of its own
	Resize    int       // pixels of the shorter side of a picture before the middle, Size x Size, is cut out; 0 where images come in Size
	Mean, Std []float64 // normalisation per channel

	Interpolation string // how pictures are resized: "bilinear" or "bicubic"; "" where they are not

	Parameters int64 // trained values
	MACs       int64 // multiplications, each with an addition, of convolutions, linear layers and attention for an image of that size
}

// architecture is an entry of the registry.
type architecture struct {
	Card
	build func(classes int64, normalise nn.Module) Classifier
}

var registry = map[string]architecture{}

// register enters a network; every architecture file calls it from init.
func register(card Card, build func(classes int64, normalise nn.Module) Classifier) {
	registry[card.Name] = architecture{card, build}
}

// imagenet registers a network for ImageNet, as torchvision names it.
func imagenet(name, summary string, parameters, macs int64, build func(classes int64, normalise nn.Module) Classifier) {
	register(imagenetCard(name, summary, parameters, macs), build)
}

// imagenetCard describes a network for ImageNet with torchvision's usual preparation of images.
func imagenetCard(name, summary string, parameters, macs int64) Card {
	return Card{
		Name: name, Summary: summary, Parameters: parameters, MACs: macs, Classes: 1000, Size: 224, Resize: 256, Interpolation: "bilinear",
		Mean: []float64{0.485, 0.456, 0.406}, Std: []float64{0.229, 0.224, 0.225},
	}
}

// cifar10 registers a network for CIFAR-10.
func cifar10(name, summary string, parameters, macs int64, build func(classes int64, normalise nn.Module) Classifier) {
	register(cifar10Card(name, summary, parameters, macs), build)
}

// cifar10Card describes a network for CIFAR-10.
func cifar10Card(name, summary string, parameters, macs int64) Card {
	return Card{
		Name: name, Summary: summary, Parameters: parameters, MACs: macs, Classes: 10, Size: 32,
		Mean: []float64{0.4914, 0.4822, 0.4465}, Std: []float64{0.2023, 0.1994, 0.2010},
	}
}

// Names lists the networks in alphabetical order.
func Names() []string {
	names := make([]string, 0, len(registry))
	for name := range registry {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Info describes a network. An unknown name is an error that suggests the nearest.
func Info(name string) (Card, error) {
	a, err := lookup(name)
	if err != nil {
		return Card{}, err
	}
	a.Mean, a.Std = slices.Clone(a.Mean), slices.Clone(a.Std)
	return a.Card, nil
}

// New makes a network with fresh weights. It fails on an unknown name, on fewer than one class and on a normalisation
// that does not fit three channels.
func New(name string, o Options) (Classifier, error) {
	a, err := lookup(name)
	if err != nil {
		return nil, err
	}
	if o.Classes == 0 {
		o.Classes = a.Classes
	}
	if o.Mean == nil {
		o.Mean = a.Mean
	}
	if o.Std == nil {
		o.Std = a.Std
	}
	if o.Classes < 1 {
		return nil, fmt.Errorf("network %s with %d classes: use 1 or more", name, o.Classes)
	}
	normalise, err := normalisation(o.Mean, o.Std)
	if err != nil {
		return nil, fmt.Errorf("network %s: %w", name, err)
	}
	if !o.Undrawn {
		return a.build(int64(o.Classes), normalise), nil
	}
	var net Classifier
	initializer.Undrawn(func() { net = a.build(int64(o.Classes), normalise) })
	return net, nil
}

func lookup(name string) (architecture, error) {
	if a, ok := registry[name]; ok {
		return a, nil
	}
	return architecture{}, errors.New(nearest.Unknown("network", name, Names()))
}

// normalised is the layer (x - mean)/std.
type normalised struct {
	nn.Base
	mean, std torch.Tensor // [3, 1, 1]
}

// normalisation makes the first layer of a network: the identity for mean 0 and std 1.
func normalisation(mean, std []float64) (nn.Module, error) {
	if len(mean) != 3 || len(std) != 3 {
		return nil, fmt.Errorf("normalisation with mean %v and std %v: give three numbers each, one per channel", mean, std)
	}
	for c := range mean {
		if math.IsNaN(mean[c]) || math.IsInf(mean[c], 0) || !(std[c] > 0) || math.IsInf(std[c], 0) {
			return nil, fmt.Errorf("normalisation with mean %v and std %v: both must be finite, std above 0", mean, std)
		}
	}
	if slices.Equal(mean, []float64{0, 0, 0}) && slices.Equal(std, []float64{1, 1, 1}) {
		return nn.Sequential(), nil
	}
	m := &normalised{}
	torch.Scope(func() {
		m.mean = m.Constant("mean", perChannel(mean))
		m.std = m.Constant("std", perChannel(std))
	})
	return m, nil
}

func perChannel(values []float64) torch.Tensor {
	data := make([]float32, len(values))
	for i, v := range values {
		data[i] = float32(v)
	}
	return torch.FromSlice(data, int64(len(data)), 1, 1)
}

func (m *normalised) Forward(x torch.Tensor) torch.Tensor { return x.Sub(m.mean, 1).Div(m.std) }

// conv is a convolution without bias whose padding keeps the size at stride 1.
func conv(in, out, kernel, stride int64) *nn.Conv2dModule {
	return nn.Conv2d(in, out, kernel, stride, kernel/2, 1, 1, false, "zeros")
}

// biasedConv is a convolution with a bias.
func biasedConv(in, out, kernel, stride, padding int64) *nn.Conv2dModule {
	return nn.Conv2d(in, out, kernel, stride, padding, 1, 1, true, "zeros")
}

// batchNorm is batch normalisation with PyTorch's defaults.
func batchNorm(channels int64) *nn.BatchNorm2dModule {
	return nn.BatchNorm2d(channels, 1e-5, 0.1, true, true)
}

// transformerMLP is the pair of linear layers of a transformer's block, with torchvision's keys and the draws of its MLPBlock.
func transformerMLP(width int64) *nn.SequentialModule {
	m, first, second := &nn.SequentialModule{}, nn.Linear(width, 4*width, true), nn.Linear(4*width, width, true)
	m.Child("0", first)
	m.Child("1", nn.GELU())
	m.Child("3", second) // 2 and 4 are torchvision's dropout, which is off
	for _, l := range []*nn.LinearModule{first, second} {
		initializer.XavierUniform(l.Weight)
		initializer.Normal(l.Bias, 0, 1e-6)
	}
	return m
}

// dropRates returns a function that gives the probability of each block in turn, from 0 to last.
func dropRates(depths []int, last float64) func() float64 {
	blocks := 0
	for _, depth := range depths {
		blocks += depth
	}
	block := -1
	return func() float64 {
		block++
		return last * float64(block) / float64(blocks-1)
	}
}
