package run

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"l2ul/torch/ckpt"
	"l2ul/torch/ckpt/keys"
	"l2ul/torch/nn"
	"l2ul/unlearn/fetch"
	"l2ul/unlearn/weights"
)

// LoadOptions say how weights are read.
type LoadOptions struct {
	Strict  bool `flag:"strict" default:"true" group:"model and data" result:"no" help:"refuse weights that lack tensors of the network or hold others; --strict=false draws what they lack from the seed, leaves out the others, and lists both in the result"`
	Offline bool `flag:"offline" group:"model and data" result:"no" help:"open no connection: weights must be on the disk or in a cache"`
}

// Origin says where weights came from, and what was done to make them those of the network.
type Origin struct {
	Source     string     `json:"source" jsonschema:"description=what --weights named\\, without secrets; of a branch or tag the commit"`
	SHA256     string     `json:"sha256" jsonschema:"description=of the file\\, or of the index of shards\\, in hex"`
	Keys       keys.Style `json:"keys,omitempty" jsonschema:"description=the project whose names the tensors had\\, if they were converted"`
	Missing    []string   `json:"missing,omitempty" jsonschema:"description=tensors that the file lacks and the seed drew (--strict=false)"`
	Unexpected []string   `json:"unexpected,omitempty" jsonschema:"description=tensors of the file that were left out (--strict=false)"`
}

// find finds the file of weights that a user names.
func find(ctx context.Context, c *Console, name string, offline bool) (*weights.File, error) {
	source, err := weights.Parse(name)
	if err != nil {
		return nil, Usagef("%w", err)
	}
	finder := &weights.Finder{
		Client: fetch.Client{Offline: offline || weights.HubOffline()}, Folder: func() (string, error) { return cacheFolder("downloads") },
		Progress: func(file string) (func(done, total int64), func()) { return downloading(c, file) },
	}
	found, err := finder.Find(ctx, source)
	if err != nil && ctx.Err() == nil {
		err = Inputf("%w", err)
	}
	return found, err
}

// cacheFolder makes a folder of the cache for files of the network that no other program's cache has a place for.
func cacheFolder(name string) (string, error) {
	c, err := openCache()
	if err != nil {
		return "", err
	}
	folder, err := c.Folder(name)
	if err == nil && folder == "" {
		err = fmt.Errorf("there is no cache to keep a download in: set UNLEARN_CACHE, and UNLEARN_CACHE_SIZE not to 0, or fetch the file yourself")
	}
	return folder, err
}

// downloading shows how far a download is. It begins with the first bytes, which tell how many there will be.
func downloading(c *Console, file string) (progress func(done, total int64), end func()) {
	var p *Progress
	progress = func(done, total int64) {
		if p == nil {
			c.Log().Info().Str("file", file).Int64("bytes", total).Msg("downloading")
			p = c.Progress("download", "bytes", total)
		}
		p.Set(done)
	}
	end = func() {
		if p != nil {
			p.Done()
		}
	}
	return progress, end
}

// readWeights reads a checkpoint of a network, without a normalising layer before it and under our names. style is whose names
// they were, "" if ours.
func readWeights(path string) (file *ckpt.File, style keys.Style, err error) {
	file, err = ckpt.Load(path)
	if err != nil {
		return nil, "", err
	}
	file.StripNormalizer()
	if file, style, err = keys.Recognise(file); err != nil {
		return nil, "", fmt.Errorf("%s: %w", path, err)
	}
	return file, style, nil
}

// openWeights reads what --weights names, once, and finds out for --model auto what network it is of.
func (d *desk) openWeights(ctx context.Context) error {
	if d.weights != nil {
		return nil
	}
	if d.model.Weights == "" {
		return Usagef("name the checkpoint with --weights; `unlearn train` makes one")
	}
	found, err := find(ctx, d.Console, d.model.Weights, d.model.Offline)
	if err != nil {
		return fmt.Errorf("--weights: %w", err)
	}
	file, style, err := readWeights(found.Path)
	if err != nil {
		return Inputf("--weights: %w", err)
	}
	d.weights, d.origin = file, &Origin{Source: found.Origin, SHA256: found.SHA256, Keys: style}
	if found.Path != d.model.Weights {
		d.model.Weights = found.Origin // for people: it holds no secrets
		d.Console.Log().Info().Str("source", found.Origin).Str("file", found.Path).Str("sha256", found.SHA256).Msg("weights found")
	}
	if prefix := file.Format.Prefix; prefix != "" {
		d.Console.Log().Info().Str("prefix", prefix).Msg("stripped a prefix from the checkpoint's keys")
	}
	if style != "" {
		d.Console.Log().Info().Str("style", string(style)).Msg("the checkpoint's keys are named as another project does; they were converted to ours")
	}
	if d.model.Model == autoModel {
		names, _ := networksOf(file, style)
		switch len(names) {
		case 0:
			return Inputf("--model auto: %s holds the weights of none of the networks that `unlearn ls models` lists; `unlearn inspect` shows its tensors", d.model.Weights)
		case 1:
		default:
			return Usagef("--model auto: %s holds weights that fit %s, which want images prepared differently: name one of them",
				d.model.Weights, strings.Join(names, " and "))
		}
		d.model.Model = names[0]
		d.guess("model", names[0])
	}
	return nil
}

// load makes the network and gives it the weights of --weights.
func (d *desk) load(ctx context.Context) (err error) {
	if err := d.openWeights(ctx); err != nil {
		return err
	}
	if d.model.Strict {
		err = d.build(true)
	} else {
		err = d.fresh()
	}
	if err != nil {
		return err
	}
	if err := d.checkNormalization(d.weights); err != nil {
		return err
	}
	if err := d.restore(d.weights); err != nil {
		return err
	}
	return d.openBorders(ctx)
}

// restore sets the network to the weights of a file.
func (d *desk) restore(file *ckpt.File) error {
	if bad := nn.Compare(d.net, file); bad != nil {
		if names, _ := networksOf(file, d.origin.Keys); len(names) > 0 && !slices.Contains(names, d.model.Model) {
			return Inputf("%s holds the weights of another network than %s: they fit --model %s", d.model.Weights, d.model.Model, strings.Join(names, " or "))
		}
		if d.model.Strict || len(bad.Different) > 0 || len(bad.Unexpected) == len(file.Tensors) {
			return Inputf("%s as %s with %d classes: %w", d.model.Weights, d.model.Model, len(d.train.Classes), bad)
		}
		d.origin.Missing, d.origin.Unexpected = bad.Missing, bad.Unexpected
		d.Console.Warn(fmt.Sprintf("--strict=false: what is missing was drawn from the seed, what is unexpected left out: %v", bad))
	}
	if err := nn.Restore(d.net, file, d.model.Strict); err != nil {
		return Inputf("%s as %s: %w", d.model.Weights, d.model.Model, err)
	}
	return nil
}
