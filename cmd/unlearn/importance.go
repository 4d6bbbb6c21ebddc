package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

func (p *program) importance() *cli.Command {
	return p.work("importance", "estimate how much each parameter matters for chosen images",
		"Writes importance.safetensors into the run folder, under the names of the parameters.",
		func(ctx context.Context, inv run.Invocation) error {
			result, err := run.Importance(ctx, inv)
			if err != nil || result == nil || inv.Console.JSON() {
				return err
			}
			a := result.Anchors
			return printLines(p.stdout, fmt.Sprintf("%s over %s in %.1f s; anchor weights: least %.3f, median %.3f, mean %.3f, greatest %.3f; %.2f %% are 1",
				result.Estimator, run.Counted(len(result.Forget.Indices), "image"), result.Seconds, a.Min, a.Median, a.Mean, a.Max, 100*a.Ones))
		})
}
