package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

func (p *program) analyze() *cli.Command {
	flags, read := simple(run.AnalyzeOptions{})
	return &cli.Command{
		Name: "analyze", Aliases: []string{"analyse"}, Usage: "look at what finished runs of forget did to the network", ArgsUsage: "RUN...", Flags: flags,
		Description: "Labels of forgotten images, similarity of layers, decision boundary, distance to it, weights, features (unlearn ls analyses).\n" +
			"Writes RUN/analyses/NAME.json and pictures (PNG and SVG). What is there already, made from the same things, is kept, so that\n" +
			"an interrupted call goes on. Of several runs it also tells how alike the labels are that they give.\n\n" +
			"  unlearn analyze runs/first\n" +
			"  unlearn analyze runs/seed-* --only labels,cka --data-dir DATA",
		Action: func(c *cli.Context) error {
			var o run.AnalyzeOptions
			if err := read(c, &o); err != nil {
				return err
			}
			if !c.Args().Present() {
				return run.Usagef("name the run folders to analyze: unlearn analyze RUN…")
			}
			again := func(string) string { return run.ResumeLine(os.Args, "") }
			ctx, release := run.Signals(c.Context, 20*time.Second, again, p.abort(o.JSON))
			defer release()
			console := run.NewConsole(o.TerminalOptions, p.stdout, p.stderr)
			defer announceStop(ctx, console)()
			done, err := run.Analyze(ctx, run.Invocation{Catalog: p.catalog, Argv: os.Args, Console: console}, o, c.Args().Slice())
			var printed error
			if console.JSON() && err == nil {
				console.Emit(run.Summary{Result: map[string]any{"runs": done}})
			} else if lines := analyzed(done); !console.JSON() && len(lines) > 0 { // also of an analysis that another's error did not keep from being made
				printed = printLines(p.stdout, lines...)
			}
			return errors.Join(err, printed, console.Close())
		},
	}
}

// analyzed tells what was made, and what was there.
func analyzed(done []*run.Analyzed) (lines []string) {
	for _, d := range done {
		for _, a := range d.Analyses {
			note := ""
			if a.Kept {
				note = " (kept)"
			}
			lines = append(lines, fmt.Sprintf("%s%s: %s", a.File, note, a.Alt))
		}
	}
	return lines
}
