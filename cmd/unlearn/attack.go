package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

func (p *program) attack() *cli.Command {
	return p.work("attack", "make adversarial examples of chosen training images",
		"Writes adversarial.safetensors into the run folder: x_adv, and the source, target and log of each.",
		func(ctx context.Context, inv run.Invocation) error {
			result, err := run.Attack(ctx, inv)
			if err != nil || result == nil || inv.Console.JSON() {
				return err
			}
			s := result.Summary
			return printLines(p.stdout, fmt.Sprintf("%s, %.2f %% successful, mean cross-entropy to the target %.3g, L2 norm %.3g to %.3g, %.1f s",
				run.Counted(s.Pairs, "example"), 100*s.Success, s.MeanLoss, s.Norm.Min, s.Norm.Max, result.Seconds))
		})
}
