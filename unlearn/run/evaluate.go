package run

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
)

// Evaluate scores a network on the splits asked for, once for each of --weights and all of them in one pass. There are no
// results of a dry run.
func Evaluate(ctx context.Context, inv Invocation) (results []*EvalResult, err error) {
	d := &desk{Invocation: inv}
	var o EvaluateOptions
	if err := inv.Config.Decode(&o); err != nil {
		return nil, err
	}
	d.model.NetworkOptions, d.model.LoadOptions = o.NetworkOptions, o.LoadOptions
	d.source, d.compute, d.eval = o.DataOptions, o.ComputeOptions, o.EvalOptions
	d.mode = engine.Mode(o.Mode)
	err = d.onDevice(o.ComputeOptions, func() error {
		results, err = d.evaluate(ctx, o)
		return interrupted(ctx, "", err)
	})
	if err != nil || results == nil {
		return nil, err
	}
	for _, r := range results {
		inv.Console.Emit(Summary{Result: r})
	}
	if o.Output != "" {
		var content any = results
		if len(results) == 1 {
			content = results[0]
		}
		if err := WriteJSON(o.Output, content); err != nil {
			return results, fmt.Errorf("cannot write --output: %w", err)
		}
	}
	return results, nil
}

func (d *desk) evaluate(ctx context.Context, o EvaluateOptions) ([]*EvalResult, error) {
	began := time.Now()
	if len(o.Weights) == 0 {
		o.Weights = []string{""} // load knows what to say
	}
	d.model.Weights = o.Weights[0] // whose network says how images are prepared
	if err := d.openData(ctx, "train", "test"); err != nil {
		return nil, err
	}
	var forget *data.ForgetSet
	if o.Forget != "" {
		var err error
		if forget, err = d.forgetSet(o.Forget); err != nil {
			return nil, err
		}
	}
	var desks []*desk // one for each network; they share the data
	for _, path := range o.Weights {
		one := *d
		one.model.Weights = path
		defer one.close()
		if err := one.load(ctx); err != nil {
			return nil, err
		}
		desks = append(desks, &one)
	}
	first := desks[0]
	if o.DryRun {
		rows := [][2]string{{"scores", strings.Join(o.Splits, ", ")}}
		for _, other := range desks[1:] {
			rows = append(rows, [2]string{"also", other.described()})
		}
		if o.Output != "" {
			rows = append(rows, [2]string{"output", o.Output})
		}
		first.plan(rows...)
		return nil, nil
	}
	d.enter("eval")
	d.Console.Emit(Start{Verb: d.Config.Spec.Verb, ConfigHash: d.Config.Hash()})
	results := make([]*EvalResult, len(desks))
	for i, one := range desks {
		results[i] = &EvalResult{
			Schema: EvalSchema, Model: one.model.Model, Dataset: d.train.Dataset, Device: d.device.String(), Precision: d.precision(), Mode: d.mode, Limited: o.Limit != "",
			Hashes: Hashes{Weights: one.weights.Hash(), Data: d.train.Fingerprint(), Config: d.Config.Hash()},
			Origin: one.origin, Preprocess: one.prepared(), Guessed: one.guessed, Warnings: one.warnings, Versions: CurrentVersions(),
		}
		if len(desks) > 1 {
			results[i].Weights = one.model.Weights
		}
	}
	var training *data.Loader
	for _, split := range o.Splits {
		set, indices, out := d.train, data.All(d.train.Len()), func(r *EvalResult) **Score { return &r.Train }
		switch split {
		case "test":
			set, indices, out = d.test, data.All(d.test.Len()), func(r *EvalResult) **Score { return &r.Test }
		case "forget":
			indices, out = forget.Indices, func(r *EvalResult) **Score { return &r.Forget }
		case "retain":
			indices, out = data.Complement(d.train.Len(), forget.Indices), func(r *EvalResult) **Score { return &r.Retain }
		}
		if split != "forget" {
			indices = d.limited(indices)
		}
		if len(indices) == 0 {
			d.Console.Warn("nothing is retained: there is no score for it")
			continue
		}
		loader := training
		if set == d.test || loader == nil {
			loader = first.loader(set)
		}
		if set == d.train {
			training = loader
		}
		scores, err := scoreAll(ctx, split, loader.View("", indices, nil), desks...)
		if err != nil {
			return nil, err
		}
		for i := range scores {
			*out(results[i]) = &scores[i]
		}
	}
	for i, one := range desks {
		results[i].Fallback = one.noteFallback()
		results[i].Seconds = time.Since(began).Seconds()
	}
	return results, nil
}

// replaceable refuses to write a forget set over something else.
func replaceable(path string) error {
	text, err := os.ReadFile(path)
	var there struct {
		Schema string `json:"schema"`
	}
	if err == nil && (json.Unmarshal(text, &there) != nil || there.Schema != data.ForgetSchema) {
		return Usagef("--output %s: the file that is there is no forget set; choose another name", path)
	}
	return nil
}

// Split draws a forget set and writes it to --output.
func Split(ctx context.Context, inv Invocation) (*data.ForgetSet, error) {
	d := &desk{Invocation: inv}
	var o SplitOptions
	if err := inv.Config.Decode(&o); err != nil {
		return nil, err
	}
	d.source, d.compute.Seed = o.DataOptions, o.Seed
	d.Console.Emit(Start{Verb: inv.Config.Spec.Verb, ConfigHash: inv.Config.Hash()})
	if err := d.openData(ctx, "train"); err != nil {
		return nil, interrupted(ctx, "", err)
	}
	set, err := d.forgetSet(o.Forget)
	if err != nil {
		return nil, err
	}
	if o.Output != "-" {
		if err := replaceable(o.Output); err != nil {
			return nil, err
		}
		if err := set.Write(o.Output); err != nil {
			return nil, err
		}
	}
	inv.Console.Emit(Summary{Result: set})
	return set, nil
}
