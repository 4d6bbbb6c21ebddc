package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

func (p *program) train() *cli.Command {
	return p.work("train", "train or fine-tune a classifier",
		"Trains from scratch, or from --weights, and writes model.safetensors into the run folder; with --val, beside it\n"+
			"model-best.safetensors, the weights of the epoch that did best on the images held out.",
		func(ctx context.Context, inv run.Invocation) error {
			result, err := run.Train(ctx, inv)
			if err != nil || result == nil || inv.Console.JSON() {
				return err
			}
			held := ""
			if result.Val != nil && result.Best != nil {
				best := &run.Score{Accuracy: float64(result.Best.Hits) / float64(result.Best.N)}
				held = fmt.Sprintf(", held out %s (best %s, after epoch %d)", percent(result.Val), percent(best), result.Best.Epoch)
			}
			return printLines(p.stdout, fmt.Sprintf("%s on %s: train %s%s, test %s after %s, %.1f s", result.Model, result.Dataset,
				percent(&result.Train), held, percent(&result.Test), run.Counted(int(result.Epochs), "epoch"), result.Seconds.Total))
		})
}
