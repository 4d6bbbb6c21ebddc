package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/bench"
	"l2ul/unlearn/run"
)

// probeTime is how long a plan measures.
const probeTime = 5 * time.Second

func (p *program) plan() *cli.Command {
	type options struct {
		run.TerminalOptions
		CellOptions
		Output string `flag:"output,o" config:"no" env:"-" arg:"DIR" help:"folder of the grid, whose finished cells are not counted and tell how many steps are usual"`
	}
	flags, read := simple(options{})
	return &cli.Command{
		Name: "plan", Usage: "what a grid will take on this device", ArgsUsage: "GRID|preset:NAME", Flags: flags,
		Description: "Measures the network on this device for some seconds, and multiplies. Nobody knows before how many steps a cell will take:\n" +
			"the plan says what is usual, and what the caps allow.",
		Action: func(c *cli.Context) error {
			var o options
			if err := read(c, &o); err != nil {
				return err
			}
			_, cells, err := p.cells(c, o.CellOptions)
			if err != nil {
				return err
			}
			ctx, release := run.Signals(c.Context, 0, func(string) string { return "" }, p.abort(o.JSON))
			defer release()
			console := run.NewConsole(o.TerminalOptions, p.stdout, p.stderr)
			return errors.Join(p.planGrid(ctx, console, cells, o.Output), console.Close())
		},
	}
}

// planGrid says what the cells that are left will take.
func (p *program) planGrid(ctx context.Context, console *run.Console, cells []bench.Cell, dir string) error {
	probed := bench.Probed(cells)
	if probed == nil {
		return run.Usagef("no cell of the grid has gradient steps, by which the others could be judged")
	}
	cfg, err := probed.One(p.catalog)
	if err != nil {
		return err
	}
	speed, err := run.Probe(ctx, run.Invocation{Catalog: p.catalog, Config: cfg, Argv: os.Args, Console: console}, probeTime)
	if err != nil {
		return err
	}
	e := bench.Plan(cells, dir, speed)
	if console.JSON() {
		console.Emit(run.Summary{Result: e})
		return nil
	}
	usual, most := e.Total()
	known := "300 steps being usual where none is recorded"
	if e.Recorded > 0 {
		known = fmt.Sprintf("%s that are done tell what is usual", run.Counted(e.Recorded, "cell"))
	}
	steps := fmt.Sprintf("%s, %s; at most %s, by the caps", lasting(e.Steps), known, lasting(e.Most))
	if e.Steps == e.Most && e.Steps > 0 {
		steps = lasting(e.Steps) + ", as many as the caps allow"
	}
	total := fmt.Sprintf("%s for one process", lasting(usual))
	if most > usual {
		total += ", at most " + lasting(most)
	}
	console.Plan("plan", [][2]string{
		{"cells", fmt.Sprintf("%d, which are %s; %d done, %d left", e.Cells, run.Counted(e.Runs, "run"), e.Done, e.Runs-e.Done)},
		{"device", fmt.Sprintf("%s, measured with %s", speed.Device, probed.Labels)},
		{"attack", fmt.Sprintf("%s, %s: %s", run.Counted(e.Sets, "set"), run.Counted(e.Pairs, "pair"), lasting(e.Attack))},
		{"steps", steps},
		{"scores", fmt.Sprintf("%s, %d images of each cell", lasting(e.Scores), speed.Scored)},
		{"start", lasting(e.Start)},
		{"total", total},
		{"memory", fmt.Sprintf("%.1f GiB of each process", float64(speed.Memory)/(1<<30))},
		{"how good", fmt.Sprintf("steps that were measured lie %.0f %% apart; their number is a guess", 100*speed.Spread)},
	})
	return nil
}

// lasting writes seconds as people read them.
func lasting(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Minute:
		return d.Round(time.Second / 10).String()
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Round(time.Minute).Minutes()))
	}
	return fmt.Sprintf("%.0f h", d.Hours())
}
