package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

// work is a verb that runs a job. do prints for people unless the console speaks JSON. A verb takes the arguments that its
// ArgsUsage says, at most one.
func (p *program) work(verb, usage, description string, do func(context.Context, run.Invocation) error) *cli.Command {
	spec := p.catalog.Find(verb)
	return &cli.Command{
		Name: verb, Usage: usage, Description: description, Flags: optionFlags(spec.Fields()),
		Action: func(c *cli.Context) error {
			if c.Command.ArgsUsage == "" {
				if err := noArguments(c); err != nil {
					return err
				}
			} else if c.Args().Len() > 1 {
				return run.Usagef("%s takes one argument, %s, not %d", c.Command.HelpName, c.Command.ArgsUsage, c.Args().Len())
			}
			cfg, err := p.resolve(c, verb)
			if err != nil {
				return err
			}
			var terminal run.TerminalOptions
			if err := cfg.Decode(&terminal); err != nil {
				return err
			}
			var bound struct { // verbs that save nothing have no --grace
				Grace time.Duration `flag:"grace"`
			}
			if err := cfg.Decode(&bound); err != nil {
				return err
			}
			_, _, resumes := cfg.Get("resume")
			again := func(checkpoint string) string {
				if !resumes { // it finds its folder by itself
					checkpoint = ""
				}
				return run.ResumeLine(os.Args, checkpoint)
			}
			ctx, release := run.Signals(c.Context, bound.Grace, again, p.abort(terminal.JSON))
			defer release()
			console := run.NewConsole(terminal, p.stdout, p.stderr)
			defer announceStop(ctx, console)()
			for _, name := range cfg.Unused {
				console.Warn(fmt.Sprintf("--%s has no effect here", name))
			}
			err = do(ctx, run.Invocation{Catalog: p.catalog, Config: cfg, Argv: os.Args, Args: c.Args().Slice(), Console: console})
			return errors.Join(err, console.Close())
		},
	}
}

// announceStop says that a signal has been heard, which a job may take seconds to follow.
func announceStop(ctx context.Context, console *run.Console) (release func() bool) {
	return context.AfterFunc(ctx, func() {
		if run.StopCause(ctx, "") != nil {
			console.Log().Warn().Msg("stopping as soon as what is done is saved; Ctrl-C once more ends at once, without saving")
		}
	})
}

// abort ends the program while a job is still at work, and says whether it can be resumed.
func (p *program) abort(asJSON bool) func(*run.Stopped, int) {
	return func(stopped *run.Stopped, code int) {
		report(stopped, code, asJSON, p.stdout, p.stderr)
		os.Exit(code)
	}
}

// percent writes a fraction as people read it; the files hold fractions.
func percent(s *run.Score) string {
	if s == nil || math.IsNaN(s.Accuracy) {
		return "-"
	}
	return fmt.Sprintf("%.2f %%", 100*s.Accuracy)
}

// newTable is the look of every table.
func newTable(header ...any) table.Writer {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.Style().Options = table.OptionsNoBordersAndSeparators
	t.Style().Format.Header = text.FormatDefault // D_f, not D_F
	t.AppendHeader(header)
	return t
}

func printLines(w io.Writer, lines ...string) error {
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n"))
	return err
}
