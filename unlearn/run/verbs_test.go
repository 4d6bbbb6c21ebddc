package run

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "l2ul/unlearn/methods"
	"l2ul/unlearn/run/config"
)

// pretrained are presets of networks that come with their weights.
var pretrained = map[string]bool{"l2ul/imagenet-resnet50": true, "l2ul/cifar100-vit": true}

// Every preset resolves for every verb and method: all of its keys and values are known.
func TestPresets(t *testing.T) {
	catalog, err := Catalog()
	if err != nil {
		t.Fatal(err)
	}
	if len(config.Presets()) == 0 {
		t.Fatal("no presets")
	}
	for _, preset := range config.Presets() {
		for _, spec := range catalog {
			methods := []string{""}
			for name := range spec.Variants {
				methods = append(methods, name)
			}
			for _, method := range methods {
				flags := map[string][]string{"config": {"preset:" + preset}}
				if method != "" {
					flags["method"] = []string{method}
				}
				cfg, err := catalog.Resolve(spec.Verb, config.Sources{Flags: flags})
				if err != nil {
					t.Errorf("%s, %s %s: %v", preset, spec.Verb, method, err)
					continue
				}
				model, _, _ := cfg.Get("model")
				if whole := model.String() != autoModel && !pretrained[preset]; whole && (method == "retrain" || spec.Verb == "train") {
					if v, o, _ := cfg.Get("epochs"); !strings.HasPrefix(o.String(), "preset:") {
						t.Errorf("%s, %s %s: epochs = %s from %s", preset, spec.Verb, method, v, o)
					}
				}
			}
		}
	}
}

// published are the recipes of spec section 6.
var published = map[string]map[string]string{
	"l2ul/cifar10-resnet18":          {"lr": "0.01", "weight-decay": "0.0005", "epochs": "200", "train-batch": "128", "sched": "cosine", "seed": "1"},
	"l2ul/cifar100-resnet50":         {"lr": "0.01", "weight-decay": "0.0005", "epochs": "200", "train-batch": "128", "sched": "cosine", "seed": "1"},
	"l2ul/utkface-resnet18-TNN":      {"lr": "0.005", "weight-decay": "0.0001", "epochs": "100", "optimizer": "adam", "sched": "onecycle", "clip-value": "0.1"},
	"l2ul/utkface-resnet18-MFD":      {"lr": "0.0001", "weight-decay": "0", "train-batch": "128", "cycle-momentum": "true", "seed": "0"},
	"l2ul/utkface-resnet18-balanced": {"lr": "0.001", "weight-decay": "0"},
	"l2ul/utkface-resnet18-groups":   {"lr": "0.001", "weight-decay": "0.0001"},
	"l2ul/utkface-resnet18-tens":     {"lr": "0.001", "weight-decay": "0.001"},
}

// What spec section 6 says, for the keys that decide the paper's tables.
func TestPublishedValues(t *testing.T) {
	catalog, err := Catalog()
	if err != nil {
		t.Fatal(err)
	}
	for preset, want := range map[string]map[string]string{
		"l2ul/cifar10-resnet18": {
			"model": "l2ul-resnet18", "eps": "4", "step": "0.1", "iters": "100", "num-adv": "20", "reg-lambda": "1", "lr": "0.001",
			"forget-batch": "32", "adv-batch": "256", "batch-size": "1024", "max-passes": "1000", "momentum": "0.9",
			"weight-decay": "0.0001", "mean": "0.4914,0.4822,0.4465", "std": "0.2023,0.1994,0.201", "bn": "train", "importance": "mas",
		},
		"l2ul/cifar100-resnet50": {
			"model": "cifar-resnet50", "num-adv": "200", "max-passes": "100", "num-classes": "100", "lr": "0.001",
			"mean": "0.5071,0.4867,0.4408", "std": "0.2675,0.2565,0.2761",
		},
		"l2ul/imagenet-resnet50": {
			"model": "resnet50", "num-adv": "200", "max-passes": "100", "num-classes": "1000", "forget-batch": "16", "adv-batch": "128",
			"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225", "eps": "4", "batch-size": "1024",
		},
		"l2ul/cifar100-vit": {
			"model": "hf-vit_b_16", "num-adv": "200", "max-passes": "1000", "num-classes": "100", "forget-batch": "32", "adv-batch": "512",
			"batch-size": "512", "img-size": "224",
		},
		"l2ul/utkface-resnet18-TNN":      {"num-classes": "9", "dataset": "utkface-tnn", "eps": "2", "num-adv": "300", "forget-batch": "128", "adv-batch": "128"},
		"l2ul/utkface-resnet18-MFD":      {"num-classes": "3", "dataset": "utkface", "mean": "0,0,0", "std": "1,1,1", "batch-size": "128"},
		"l2ul/utkface-resnet18-balanced": {"num-classes": "4", "dataset": "utkface-balanced", "max-passes": "1000"},
		"l2ul/utkface-resnet18-groups":   {"num-classes": "7", "dataset": "utkface-groups", "reg-lambda": "1"},
		"l2ul/utkface-resnet18-tens":     {"num-classes": "12", "dataset": "utkface-tens", "lr": "0.001"},
		"l2ul/structguard": {
			"forget-batch": "128", "adv-batch": "128", "batch-size": "128", "max-passes": "100", "compat.num-target-classes": "0",
			"compat.target-fallback": "half", "importance": "mas-batch", "compat.cap-plus-one": "true", "compat.rng": "streams",
		},
		"compat/official-b8b335b": {"compat.num-target-classes": "10", "compat.generation-order": "repeat-major", "compat.start-check": "adv"},
		"compat/official-5fb777b": {"compat.generation-order": "batch-major", "compat.rng": "official-cuda", "compat.nan-guard": "off"},
	} {
		cfg, err := catalog.Resolve("forget", config.Sources{Flags: map[string][]string{"config": {"preset:" + preset}}})
		if err != nil {
			t.Fatal(err)
		}
		for key, w := range want {
			if v, _, _ := cfg.Get(key); v.String() != w {
				t.Errorf("%s: %s = %s, want %s", preset, key, v, w)
			}
		}
		cfg, err = catalog.Resolve("train", config.Sources{Flags: map[string][]string{"config": {"preset:" + preset}}})
		if err != nil {
			t.Fatal(err)
		}
		for key, w := range published[preset] {
			if v, _, _ := cfg.Get(key); v.String() != w {
				t.Errorf("%s: train: %s = %s, want %s", preset, key, v, w)
			}
		}
	}
}

// What a run writes into config.yaml can be read back, for every preset, verb and method.
func TestConfigYAML(t *testing.T) {
	catalog, err := Catalog()
	if err != nil {
		t.Fatal(err)
	}
	for _, preset := range config.Presets() {
		for _, spec := range catalog {
			methods := append(slices.Collect(maps.Keys(spec.Variants)), "")
			for _, method := range methods {
				flags := map[string][]string{"config": {"preset:" + preset}}
				if method != "" {
					flags["method"] = []string{method}
				}
				cfg, err := catalog.Resolve(spec.Verb, config.Sources{Flags: flags})
				if err != nil {
					t.Fatal(err)
				}
				text, err := cfg.YAML()
				if err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(t.TempDir(), "config.yaml")
				if err := os.WriteFile(path, text, 0o644); err != nil {
					t.Fatal(err)
				}
				again, err := catalog.Resolve(spec.Verb, config.Sources{Flags: map[string][]string{"config": {path}}})
				if err != nil {
					t.Errorf("%s, %s %s: %v", preset, spec.Verb, method, err)
				} else if again.Hash() != cfg.Hash() {
					t.Errorf("%s, %s %s: %v", preset, spec.Verb, method, again.Differences(cfg))
				}
			}
		}
	}
}
