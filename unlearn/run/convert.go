package run

import (
	"context"
	"fmt"
	"os"

	"l2ul/torch/ckpt"
	"l2ul/torch/ckpt/keys"
)

// ConvertOptions are those of `unlearn convert`.
type ConvertOptions struct {
	JSON    bool   `flag:"json" config:"no" help:"JSON on stdout"`
	Keys    string `flag:"keys" config:"no" oneof:"torchvision|torchvision-old|timm|hf|l2ul|salun|weiaicunzai|akamaster" help:"name the tensors as that project does"`
	Force   bool   `flag:"force" config:"no" env:"-" help:"replace a file that is already there"`
	Offline bool   `flag:"offline" help:"open no connection"`
}

// Conversion is what `unlearn convert` did.
type Conversion struct {
	Source  string     `json:"source"`
	File    string     `json:"file"`
	Keys    keys.Style `json:"keys,omitempty"` // that were asked for
	Tensors int        `json:"tensors"`
	Hash    string     `json:"sha256"` // of the tensors, as in results
}

// Convert reads weights, which are named as for --weights, and writes them to a file whose suffix names the container. Without
// --keys the tensors keep the names they have; with it nothing stays around them, neither prefix nor dict.
func Convert(ctx context.Context, c *Console, o ConvertOptions, from, to string) (*Conversion, error) {
	if _, err := os.Lstat(to); err == nil && !o.Force {
		return nil, Usagef("%s is already there; --force replaces it", to)
	}
	found, err := find(ctx, c, from, o.Offline)
	if err != nil {
		return nil, err
	}
	file, err := ckpt.Load(found.Path)
	if err != nil {
		return nil, Inputf("%w", err)
	}
	style := keys.Style(o.Keys)
	if style != "" {
		file.StripNormalizer()
		renamed, err := keys.Convert(file, style)
		if err != nil {
			return nil, Inputf("%s: %w", found.Path, err)
		}
		file = &ckpt.File{Tensors: renamed.Tensors, Metadata: renamed.Metadata}
	}
	if err := ckpt.Save(to, file); err != nil {
		return nil, fmt.Errorf("cannot convert: %w", err)
	}
	return &Conversion{Source: found.Origin, File: to, Keys: style, Tensors: len(file.Tensors), Hash: file.Hash()}, nil
}
