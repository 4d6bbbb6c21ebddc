package run

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"l2ul/torch"
	"l2ul/unlearn"
	"l2ul/unlearn/run/config"
)

// DemoOptions are those of `unlearn demo`; everything else is in preset:demo.
type DemoOptions struct {
	TerminalOptions
	Output string `flag:"output,o" config:"no" env:"-" arg:"DIR" default:"runs/demo" help:"folder for the run folders"`
	Force  bool   `flag:"force" config:"no" env:"-" help:"train again as well"`
}

// DemoSchema is the schema name of DemoResult.
const DemoSchema = "unlearn.demo/1"

// DemoResult is the summary of `unlearn demo`.
type DemoResult struct {
	Schema  string       `json:"schema"`
	Train   *TrainResult `json:"train"`
	Reused  bool         `json:"reused"`  // the network was trained by an earlier demo
	Skipped int          `json:"skipped"` // images passed over in the choice, because the network has them wrong
	Methods []*Result    `json:"methods"`
}

const (
	demoPreset = "preset:demo"
	demoImages = 16
)

// demoMethods go from the bluntest to the paper's own.
var demoMethods = []string{"neggrad", "adv", "adv-imp"}

// demo is a demonstration under way.
type demo struct {
	Invocation
	o      DemoOptions
	preset string // the configuration of all its jobs
	images int    // to forget
}

// Demo shows the main job on generated images: it trains a small network, chooses images that it has right, and forgets
// them with several methods, each in a run folder of its own under o.Output. The network of an earlier demo is used
// again, and a demo that was interrupted goes on. inv needs no Config.
func Demo(ctx context.Context, inv Invocation, o DemoOptions) (*DemoResult, error) {
	d := &demo{inv, o, demoPreset, demoImages}
	return d.run(ctx)
}

func (d *demo) run(ctx context.Context) (*DemoResult, error) {
	log := d.Console.Log()
	out := &DemoResult{Schema: DemoSchema}
	var err error
	if out.Train, out.Reused, err = d.train(ctx); err != nil {
		return nil, err
	}
	forget, err := d.choose(ctx, out)
	if err != nil {
		return nil, err
	}
	configs, done := make([]*config.Config, len(demoMethods)), make([]*Result, len(demoMethods))
	interrupted := false // the demo before this one
	for i, method := range demoMethods {
		if configs[i], err = d.resolve("forget", method, "method", method, "weights", d.weights(), "forget", forget); err != nil {
			return nil, err
		}
		done[i] = &Result{}
		if !d.finished(method, configs[i], done[i]) || done[i].Hashes.Weights != out.Train.Hashes.Weights {
			done[i], interrupted = nil, true
		}
	}
	for i, method := range demoMethods {
		if done[i] != nil && interrupted && !d.o.Force {
			log.Info().Msgf("%s: done before the interruption", method)
		} else {
			log.Info().Msgf("forget with %s", method)
			job := d.Invocation
			job.Config = configs[i]
			// A method that does not reach its goal has a row in the table like any other.
			if done[i], err = Forget(ctx, job); done[i] == nil {
				return nil, err
			}
		}
		out.Methods = append(out.Methods, done[i])
	}
	d.Console.Emit(Summary{Folder: d.o.Output, Result: out})
	return out, nil
}

// train returns the result of training, now or in an earlier demo.
func (d *demo) train(ctx context.Context) (result *TrainResult, reused bool, err error) {
	cfg, err := d.resolve("train", "train")
	if err != nil {
		return nil, false, err
	}
	result = &TrainResult{}
	if !d.o.Force && d.finished("train", cfg, result) {
		if file, _, err := readWeights(d.weights()); err == nil && file.Hash() == result.Hashes.Weights {
			d.Console.Log().Info().Msgf("the network was trained before: %s", d.weights())
			return result, true, nil
		}
	}
	d.Console.Log().Info().Msg("train a network on generated images")
	job := d.Invocation
	job.Config = cfg
	result, err = Train(ctx, job)
	return result, false, err
}

func (d *demo) weights() string { return filepath.Join(d.o.Output, "train", "model.safetensors") }

// choose returns, as --forget takes them, the first images in the order of random:K that the trained network classifies
// rightly: only what is known can be forgotten.
func (d *demo) choose(ctx context.Context, out *DemoResult) (spec string, err error) {
	cfg, err := d.resolve("forget", "", "weights", d.weights())
	if err != nil {
		return "", err
	}
	f := &forgetting{desk: desk{Invocation: Invocation{Catalog: d.Catalog, Config: cfg, Console: d.Console}}}
	if err := f.decode(); err != nil {
		return "", err
	}
	var ids []string
	err = f.onDevice(f.o.ComputeOptions, func() error {
		defer f.close()
		// A network worth showing has more than half of the images right.
		set, err := f.loadForgetSet(ctx, fmt.Sprintf("random:%d", 2*d.images), "train", "test")
		if err != nil {
			return err
		}
		var right []bool
		x, y := f.loader(f.train).Gather(set.Indices)
		f.net.Root().Eval()
		torch.NoGrad(func() { right = torch.ToSlice[bool](f.net.Forward(x).ArgMax(1, false).Eq(y)) })
		for i, index := range set.Indices {
			switch {
			case len(ids) == d.images:
			case right[i]:
				ids = append(ids, strconv.Itoa(index))
			default:
				out.Skipped++
			}
		}
		if len(ids) < d.images {
			return fmt.Errorf("the trained network has only %d of %d images right: it has not learned enough to forget something; --force trains it again", len(ids), len(right))
		}
		return nil
	})
	return "ids:" + strings.Join(ids, ","), err
}

// resolve is the configuration of one job of the demo: the preset and pairs of flag and text, but nothing of the machine.
// The job goes on with an unfinished run of the same configuration, and replaces what else is in its folder.
func (d *demo) resolve(verb, folder string, pairs ...string) (*config.Config, error) {
	dir := filepath.Join(d.o.Output, folder)
	flags := map[string][]string{"config": {d.preset}, "output": {dir}}
	for pair := range slices.Chunk(pairs, 2) {
		flags[pair[0]] = pair[1:]
	}
	cfg, err := d.Catalog.Resolve(verb, config.Sources{Flags: flags})
	if err != nil {
		return nil, err
	}
	if !d.o.Force && folderAt(dir, cfg).resumable() {
		flags["resume"] = []string{"auto"}
	} else {
		flags["force"] = []string{"true"}
	}
	return d.Catalog.Resolve(verb, config.Sources{Flags: flags})
}

// finished reports whether a folder holds the finished run of a configuration, and reads its result.
func (d *demo) finished(folder string, cfg *config.Config, result any) bool {
	text, err := os.ReadFile(filepath.Join(d.o.Output, folder, "result.json"))
	if err != nil {
		return false
	}
	var stored end
	return json.Unmarshal(text, &stored) == nil && json.Unmarshal(text, result) == nil &&
		stored.Hashes.Config == cfg.Hash() && stored.Outcome != unlearn.Interrupted
}
