package weights

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"l2ul/internal/nearest"
	"l2ul/unlearn/fetch"
)

// published is a file of torchvision's, under https://download.pytorch.org/models. The digits before the suffix are the first
// of its sha256 (torch.hub.load_state_dict_from_url with check_hash).
type published struct{ network, weights, file string }

// files are the weights of torchvision 0.26.0, torchvision/models/*.py, for the networks that we have. Those for images of 384
// pixels (SWAG_E2E) are left out.
var files = []published{
	{"convnext_base", "IMAGENET1K_V1", "convnext_base-6075fbad.pth"},
	{"convnext_small", "IMAGENET1K_V1", "convnext_small-0c510722.pth"},
	{"convnext_tiny", "IMAGENET1K_V1", "convnext_tiny-983f1562.pth"},
	{"densenet121", "IMAGENET1K_V1", "densenet121-a639ec97.pth"},
	{"mobilenet_v2", "IMAGENET1K_V1", "mobilenet_v2-b0353104.pth"},
	{"mobilenet_v2", "IMAGENET1K_V2", "mobilenet_v2-7ebf99e0.pth"},
	{"resnet101", "IMAGENET1K_V1", "resnet101-63fe2227.pth"},
	{"resnet101", "IMAGENET1K_V2", "resnet101-cd907fc2.pth"},
	{"resnet152", "IMAGENET1K_V1", "resnet152-394f9c45.pth"},
	{"resnet152", "IMAGENET1K_V2", "resnet152-f82ba261.pth"},
	{"resnet18", "IMAGENET1K_V1", "resnet18-f37072fd.pth"},
	{"resnet34", "IMAGENET1K_V1", "resnet34-b627a593.pth"},
	{"resnet50", "IMAGENET1K_V1", "resnet50-0676ba61.pth"},
	{"resnet50", "IMAGENET1K_V2", "resnet50-11ad3fa6.pth"},
	{"squeezenet1_0", "IMAGENET1K_V1", "squeezenet1_0-b66bff10.pth"},
	{"squeezenet1_1", "IMAGENET1K_V1", "squeezenet1_1-b8a52dc0.pth"},
	{"swin_b", "IMAGENET1K_V1", "swin_b-68c6b09e.pth"},
	{"swin_s", "IMAGENET1K_V1", "swin_s-5e29d889.pth"},
	{"swin_t", "IMAGENET1K_V1", "swin_t-704ceda3.pth"},
	{"vgg11", "IMAGENET1K_V1", "vgg11-8a719046.pth"},
	{"vgg11_bn", "IMAGENET1K_V1", "vgg11_bn-6002323d.pth"},
	{"vgg13", "IMAGENET1K_V1", "vgg13-19584684.pth"},
	{"vgg13_bn", "IMAGENET1K_V1", "vgg13_bn-abd245e5.pth"},
	{"vgg16", "IMAGENET1K_V1", "vgg16-397923af.pth"},
	{"vgg16_bn", "IMAGENET1K_V1", "vgg16_bn-6c64b313.pth"},
	{"vgg19", "IMAGENET1K_V1", "vgg19-dcbb9e9d.pth"},
	{"vgg19_bn", "IMAGENET1K_V1", "vgg19_bn-c79401a0.pth"},
	{"vit_b_16", "IMAGENET1K_V1", "vit_b_16-c867db91.pth"},
	{"vit_b_16", "IMAGENET1K_SWAG_LINEAR_V1", "vit_b_16_lc_swag-4e70ced5.pth"},
	{"vit_b_32", "IMAGENET1K_V1", "vit_b_32-d86f8d99.pth"},
	{"vit_l_16", "IMAGENET1K_V1", "vit_l_16-852ce7e3.pth"},
	{"vit_l_16", "IMAGENET1K_SWAG_LINEAR_V1", "vit_l_16_lc_swag-4d563306.pth"},
	{"wide_resnet101_2", "IMAGENET1K_V1", "wide_resnet101_2-32ee1156.pth"},
	{"wide_resnet101_2", "IMAGENET1K_V2", "wide_resnet101_2-d733dc28.pth"},
	{"wide_resnet50_2", "IMAGENET1K_V1", "wide_resnet50_2-95faca4d.pth"},
	{"wide_resnet50_2", "IMAGENET1K_V2", "wide_resnet50_2-9ba9bcbe.pth"},
}

func (p published) String() string { return "torchvision:" + p.network + "." + p.weights }

// sum is the digits of the sha256 in the name.
func (p published) sum() string {
	stem := strings.TrimSuffix(p.file, ".pth")
	return stem[strings.LastIndexByte(stem, '-')+1:]
}

func parseTorchvision(text string) (Source, error) {
	network, weights, _ := strings.Cut(text, ".")
	var of []string
	for _, p := range files {
		if p.network == network && p.weights == weights {
			return p, nil
		}
		if p.network == network {
			of = append(of, p.String())
		}
	}
	if of != nil {
		return nil, fmt.Errorf("torchvision:%s: the weights of %s are %s", text, network, strings.Join(of, ", "))
	}
	var networks []string
	for _, p := range files {
		networks = append(networks, p.network)
	}
	networks = slices.Compact(networks)
	return nil, fmt.Errorf("torchvision:%s: %sthere are weights of torchvision's %s; write torchvision:resnet50.IMAGENET1K_V2", text,
		nearest.Hint(network, networks), strings.Join(networks, ", "))
}

// download is where torchvision's files are; tests have another place.
var download = "https://download.pytorch.org/models"

// find looks into the cache of torch.hub first, which is not written.
func (p published) find(ctx context.Context, f *Finder) (*File, error) {
	torch, err := home("TORCH_HOME", "torch")
	if err != nil {
		return nil, err
	}
	theirs := filepath.Join(torch, "hub", "checkpoints", p.file)
	if _, err := os.Stat(theirs); err == nil {
		return described(theirs, p.String(), p.sum())
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return f.fetched(ctx, p.file, p.String(), fetch.Source{URL: download + "/" + p.file, SHA256: p.sum(), Limit: maxBytes})
}
