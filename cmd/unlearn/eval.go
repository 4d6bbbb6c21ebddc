package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

func (p *program) eval() *cli.Command {
	return p.work("eval", "score a model: accuracy and loss on training, test, forgotten and retained images",
		"Reads only; nothing is changed.",
		func(ctx context.Context, inv run.Invocation) error {
			results, err := run.Evaluate(ctx, inv)
			if results == nil || inv.Console.JSON() {
				return err
			}
			var tables []string
			for _, result := range results {
				t := newTable(result.Weights, "accuracy", "right", "of", "loss")
				for _, row := range []struct {
					name  string
					score *run.Score
				}{{"train", result.Train}, {"forget", result.Forget}, {"retain", result.Retain}, {"test", result.Test}} {
					if s := row.score; s != nil {
						t.AppendRow([]any{row.name, percent(s), s.Hits, s.N, fmt.Sprintf("%.5f", float64(*s.Loss))})
					}
				}
				tables = append(tables, t.Render())
			}
			return errors.Join(printLines(p.stdout, tables...), err) // scores that --output has no room for are still scores
		})
}
