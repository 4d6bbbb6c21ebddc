package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

func (p *program) forget() *cli.Command {
	return p.work("forget", "unlearn chosen training images from a checkpoint",
		"Changes a trained network until it misclassifies (or relabels) every image to forget, and measures what that did to the\n"+
			"rest. The default method reads no image that is kept. The run folder gets the new weights (model.safetensors), the\n"+
			"numbers (result.json) and what was forgotten (forget.json). Interrupt it whenever you like; --resume auto goes on.\n\n"+
			"  unlearn forget -m resnet18 --weights resnet18.pt --dataset cifar10 --data-dir DATA -k 16 -o runs/first\n"+
			"  unlearn forget -c preset:l2ul/cifar10-resnet18 --weights r18.pt --data-dir DATA --forget @forget.json\n"+
			"  unlearn forget -m resnet50 --weights r50.pt --dataset imagenet --data-dir DATA --goal relabel --pool imagenet-a/ -k 64",
		func(ctx context.Context, inv run.Invocation) error {
			result, err := run.Forget(ctx, inv)
			if result == nil || inv.Console.JSON() {
				return err
			}
			first := cmp.Or(result.Before, result.After, &run.Scores{})
			t := newTable("", of("to forget", &first.Forget), of("retained", first.Retain), of("test", first.Test))
			for _, row := range []struct {
				name   string
				scores *run.Scores
			}{{"before", result.Before}, {"after", result.After}} {
				if row.scores != nil {
					t.AppendRow([]any{row.name, percent(&row.scores.Forget), percent(row.scores.Retain), percent(row.scores.Test)})
				}
			}
			if printErr := printLines(p.stdout, t.Render(), pooled(result.Pool), fmt.Sprintf("%s: %s after %s, %.1f s; %s",
				result.Method, result.Outcome, run.Counted(int(result.Steps), "step"), result.Seconds.Total, result.Progress())); printErr != nil {
				return printErr
			}
			return err
		})
}

// of says how many images a column's shares are of.
func of(what string, s *run.Score) string {
	if s == nil {
		return what
	}
	return fmt.Sprintf("%s (%d)", what, s.N)
}

// pooled says what a correction did to the rest of its pool; it is empty for other runs.
func pooled(r *run.PoolResult) string {
	if r == nil {
		return ""
	}
	line := fmt.Sprintf("\npool of %d images", r.Images)
	for _, part := range []struct {
		name   string
		scores run.PoolScores
	}{{"right before", r.Right}, {"other wrong ones", r.Rest}} {
		if s := part.scores; s.Before != nil && s.After != nil {
			line += fmt.Sprintf("; %s: %d, of which right now %d", part.name, s.Before.N, s.After.Hits)
		}
	}
	return line + "\n"
}
