package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

func (p *program) split() *cli.Command {
	return p.work("split", "draw a forget set and write it to a file",
		"random:K takes the first K of torch.randperm(n) under the seed, so sets of one seed are nested.",
		func(ctx context.Context, inv run.Invocation) error {
			set, err := run.Split(ctx, inv)
			if err != nil || inv.Console.JSON() {
				return err
			}
			output, _, _ := inv.Config.Get("output")
			if output.String() == "-" {
				text, err := json.Marshal(set)
				if err != nil {
					return err
				}
				return printLines(p.stdout, string(text))
			}
			return printLines(p.stdout, fmt.Sprintf("%s: %d of %d samples of %s", output, len(set.Indices), set.N, set.Dataset))
		})
}
