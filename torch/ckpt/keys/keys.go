// Package keys renames the tensors of a network between the names that different projects give them.
//
// A table holds what one project's names are in ours, which are those of package models: for most networks torchvision's.
// Nothing but names, and where a project cuts or shapes the same numbers in another way, their cuts and shapes, changes.
package keys

import (
	"fmt"
	"slices"
	"strings"

	"l2ul/torch/ckpt"
)

// Style is a way to name tensors, after the project that has it.
type Style string

// The styles. Where two of them name a family of networks alike, a file of that family has both.
const (
	Torchvision Style = "torchvision"
	// TorchvisionOld is what some files have that torchvision publishes, and what it renames itself when it loads them.
	TorchvisionOld Style = "torchvision-old"
	Timm           Style = "timm"
	HF             Style = "hf"          // transformers
	L2UL           Style = "l2ul"        // csm9493/L2UL
	SalUn          Style = "salun"       // OPTML-Group/Unlearn-Saliency and its relatives
	Weiaicunzai    Style = "weiaicunzai" // pytorch-cifar100
	Akamaster      Style = "akamaster"   // pytorch_resnet_cifar10
)

// Styles lists them all.
func Styles() []Style {
	return []Style{Torchvision, TorchvisionOld, Timm, HF, L2UL, SalUn, Weiaicunzai, Akamaster}
}

// Recognise returns f under our names and the style that it had. Where its names are ours already, or none that are known for
// sure, it returns f itself and "".
func Recognise(f *ckpt.File) (*ckpt.File, Style, error) {
	for _, t := range tables {
		if t.certain == nil || !t.certain(f) || !t.matches(f, theirs) {
			continue
		}
		ours, err := t.toOurs(f)
		if err != nil {
			return nil, "", fmt.Errorf("the names are those of %s, but %w", t.style, err)
		}
		return ours, t.style, nil
	}
	return f, "", nil
}

// Convert returns f in a style. It fails where the names of f are of no style that is known, or no network in this style has
// them.
func Convert(f *ckpt.File, to Style) (*ckpt.File, error) {
	if !slices.Contains(Styles(), to) {
		return nil, fmt.Errorf("there is no style %q of names; known are %s", to, list(Styles()))
	}
	var known []Style
	for _, from := range tables {
		if !from.matches(f, theirs) {
			continue
		}
		known = append(known, from.style)
		i := slices.IndexFunc(tables, func(t *table) bool { return t.family == from.family && t.style == to })
		if i < 0 {
			continue
		}
		ours, err := from.toOurs(f)
		if err != nil {
			return nil, fmt.Errorf("the names are those of %s, but %w", from.style, err)
		}
		return tables[i].toTheirs(ours)
	}
	if len(known) == 0 {
		return nil, fmt.Errorf("the names are of no style that is known (%s)%s", list(Styles()), example(f))
	}
	slices.Sort(known)
	return nil, fmt.Errorf("the names are those of %s, and %s has no such network", list(slices.Compact(known)), to)
}

func list(styles []Style) string {
	texts := make([]string, len(styles))
	for i, s := range styles {
		texts[i] = string(s)
	}
	return strings.Join(texts, ", ")
}

func example(f *ckpt.File) string {
	if len(f.Tensors) == 0 {
		return ": there are no tensors"
	}
	return fmt.Sprintf(": the first is %.100q", f.Tensors[0].Name)
}
