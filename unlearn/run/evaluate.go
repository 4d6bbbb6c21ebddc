package run

import (
	"context"
	"fmt"
	"strings"
	"time"

	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
)

// Evaluate scores a network on the splits asked for. The result is nil for a dry run.
func Evaluate(ctx context.Context, inv Invocation) (result *EvalResult, err error) {
	d := &desk{Invocation: inv}
	var o EvaluateOptions
	if err := inv.Config.Decode(&o); err != nil {
		return nil, err
	}
	d.model, d.source, d.compute, d.eval = o.ModelOptions, o.DataOptions, o.ComputeOptions, o.EvalOptions
	d.mode = engine.Mode(o.Mode)
	err = d.onDevice(o.ComputeOptions, func() error {
		defer d.close()
		result, err = d.evaluate(ctx, o)
		return interrupted(ctx, "", err)
	})
	if err != nil || result == nil {
		return nil, err
	}
	inv.Console.Emit(Summary{Result: result})
	if o.Output != "" {
		if err := WriteJSON(o.Output, result); err != nil {
			return result, fmt.Errorf("cannot write --output: %w", err)
		}
	}
	return result, nil
}

func (d *desk) evaluate(ctx context.Context, o EvaluateOptions) (*EvalResult, error) {
	began := time.Now()
	if err := d.openData(ctx); err != nil {
		return nil, err
	}
	var forget *data.ForgetSet
	if o.Forget != "" {
		var err error
		if forget, err = d.forgetSet(o.Forget); err != nil {
			return nil, err
		}
	}
	if err := d.load(); err != nil {
		return nil, err
	}
	if o.DryRun {
		rows := [][2]string{{"scores", strings.Join(o.Splits, ", ")}}
		if o.Output != "" {
			rows = append(rows, [2]string{"output", o.Output})
		}
		d.plan(rows...)
		return nil, nil
	}
	d.enter("eval")
	d.Console.Emit(Start{Verb: d.Config.Spec.Verb, ConfigHash: d.Config.Hash()})
	result := &EvalResult{
		Schema: EvalSchema, Model: d.model.Model, Dataset: d.train.Dataset, Device: d.device.String(), Mode: d.mode, Limited: o.Limit != "",
		Hashes:   Hashes{Weights: d.weights.Hash(), Data: d.train.Fingerprint(), Config: d.Config.Hash()},
		Versions: CurrentVersions(),
	}
	var training *data.Loader
	for _, split := range o.Splits {
		set, indices, out := d.train, count(d.train.Len()), &result.Train
		switch split {
		case "test":
			set, indices, out = d.test, count(d.test.Len()), &result.Test
		case "forget":
			indices, out = forget.Indices, &result.Forget
		case "retain":
			indices, out = data.Complement(d.train.Len(), forget.Indices), &result.Retain
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
			loader = d.loader(set)
		}
		if set == d.train {
			training = loader
		}
		score, err := d.score(ctx, split, loader.View("", indices, nil))
		if err != nil {
			return nil, err
		}
		*out = &score
	}
	result.Fallback = d.noteFallback()
	result.Seconds = time.Since(began).Seconds()
	return result, nil
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
	if err := d.openData(ctx); err != nil {
		return nil, interrupted(ctx, "", err)
	}
	set, err := d.forgetSet(o.Forget)
	if err != nil {
		return nil, err
	}
	if o.Output != "-" {
		if err := set.Write(o.Output); err != nil {
			return nil, err
		}
	}
	inv.Console.Emit(Summary{Result: set})
	return set, nil
}
