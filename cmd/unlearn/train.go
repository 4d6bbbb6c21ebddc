package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

func (p *program) train() *cli.Command {
	return p.work("train", "train or fine-tune a classifier",
		"Trains from scratch, or from --weights, and writes model.safetensors into the run folder.",
		func(ctx context.Context, inv run.Invocation) error {
			result, err := run.Train(ctx, inv)
			if err != nil || result == nil || inv.Console.JSON() {
				return err
			}
			return printLines(p.stdout, fmt.Sprintf("%s on %s: train %s, test %s after %d epochs, %.1f s", result.Model, result.Dataset,
				percent(&result.Train), percent(&result.Test), result.Epochs, result.Seconds.Total))
		})
}
