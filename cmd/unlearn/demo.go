package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

// demoGrace is the time to save after a signal.
const demoGrace = 20 * time.Second

func (p *program) demo() *cli.Command {
	flags, read := simple(run.DemoOptions{})
	return &cli.Command{
		Name: "demo", Usage: "see it work: train a small network, then make it forget 16 images", Flags: flags,
		Description: "Takes minutes on two cores and no data of yours: the images are generated. Trains once; later demos use the network\n" +
			"again, and an interrupted one goes on where it was. The settings are in preset:demo.",
		Action: func(c *cli.Context) error {
			var o run.DemoOptions
			if err := read(c, &o); err != nil {
				return err
			}
			if err := noArguments(c); err != nil {
				return err
			}
			if o.LogFormat == "auto" {
				o.LogFormat = "console" // a demo is for people, through a pipe as well
			}
			again := func(string) string { return run.ResumeLine(os.Args, "") }
			ctx, release := run.Signals(c.Context, demoGrace, again, p.abort(o.JSON))
			defer release()
			console := run.NewConsole(o.TerminalOptions, p.stdout, p.stderr)
			defer announceStop(ctx, console)()
			result, err := run.Demo(ctx, run.Invocation{Catalog: p.catalog, Argv: os.Args, Console: console}, o)
			err = errors.Join(err, console.Close())
			if err != nil || o.JSON {
				return err
			}
			return p.printDemo(result, o.Output)
		},
	}
}

// printDemo shows what forgetting did.
func (p *program) printDemo(r *run.DemoResult, output string) error {
	t := newTable("", "D_f", "D_r", "D_test", "seconds")
	row := func(name string, s *run.Scores, seconds float64) {
		t.AppendRow([]any{name, percent(&s.Forget), percent(s.Retain), percent(s.Test), fmt.Sprintf("%.1f", seconds)})
	}
	row("before", r.Methods[0].Before, r.Train.Seconds.Total)
	for _, m := range r.Methods {
		attack := m.Seconds.Attack
		if m.Attack != nil { // what the examples cost, though a method before this one may have paid
			attack = m.Attack.Seconds
		}
		row(m.Method, m.After, attack+m.Seconds.Importance+m.Seconds.Unlearn)
	}
	k := len(r.Methods[0].Forget.Indices)
	images := fmt.Sprintf("the first %d of a random order", k)
	if r.Skipped > 0 {
		images += fmt.Sprintf(" that the network has right; passed over: %d", r.Skipped)
	}
	network := "trained now"
	if r.Reused {
		network = "trained by an earlier demo"
	}
	return printLines(p.stdout, t.Render(), "",
		fmt.Sprintf("D_f      %d training images to forget: %s", k, images),
		fmt.Sprintf("D_r      the other training images, %d of them scored", r.Methods[0].After.Retain.N),
		fmt.Sprintf("D_test   %d images the network never saw", r.Methods[0].After.Test.N),
		"seconds  before: of training; then of attack, importance and unlearning, without scoring; an attack taken from the",
		"         cache counts with the seconds that it took",
		"",
		fmt.Sprintf("%s, %s: %s", r.Train.Model, network, filepath.Join(output, "train")),
		fmt.Sprintf("Run folders with results and weights: %s", filepath.Join(output, "{neggrad,adv,adv-imp}")))
}
