package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/bench"
	"l2ul/unlearn/run"
)

// benchGrace is the time to save after a signal: as long as the cells take, each of which has a bound of its own.
const benchGrace = 0

func (p *program) bench() *cli.Command {
	return &cli.Command{
		Name: "bench", Usage: "run grids of experiments, such as the tables of the paper",
		Subcommands: []*cli.Command{p.benchRun(), p.benchStatus(), p.benchCheck(), p.benchShow(), p.benchLs()},
	}
}

// CellOptions say which cells a grid has.
type CellOptions struct {
	Weights string   `flag:"weights,checkpoint" env:"-" arg:"FILE" help:"the network's weights, for all cells, as of unlearn forget"`
	DataDir string   `flag:"data-dir" env:"-" arg:"DIR" help:"folder or archive the data are read from, for all cells"`
	Dataset string   `flag:"dataset" env:"-" arg:"NAME" help:"dataset, for all cells"`
	Set     []string `flag:"set" env:"-" arg:"KEY=VALUE" help:"set any key of unlearn forget, or of unlearn continual where cells are streams, for all cells; repeatable"`
}

// cells reads the grid that the command line names, and its cells.
func (p *program) cells(c *cli.Context, o CellOptions) (*bench.Grid, []bench.Cell, error) {
	if c.NArg() != 1 {
		return nil, nil, run.Usagef("%s takes one grid: a file, or preset:NAME (`unlearn bench ls`)", c.Command.HelpName)
	}
	grid, err := bench.Load(c.Args().First())
	if err != nil {
		return nil, nil, err
	}
	var settings bench.Settings
	for _, text := range given(c)["set"] {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return nil, nil, run.Usagef("--set %s: expected KEY=VALUE", text)
		}
		settings = settings.With(key, value)
	}
	for _, flag := range [][2]string{{"weights", o.Weights}, {"data-dir", o.DataDir}, {"dataset", o.Dataset}} {
		if flag[1] != "" {
			settings = settings.With(flag[0], flag[1])
		}
	}
	cells, err := grid.Cells(bench.Sources{Catalog: p.catalog, Env: os.LookupEnv, Auto: autoFiles(), Given: settings})
	return grid, cells, err
}

func (p *program) benchRun() *cli.Command {
	type options struct {
		run.TerminalOptions
		CellOptions
		Output string `flag:"output,o" config:"no" env:"-" arg:"DIR" help:"folder of the grid; the same again goes on with what is there"`
		Jobs   int    `flag:"jobs" env:"-" default:"1" min:"1" arg:"N" help:"cells at once; they share the cores, and with other numbers of threads the last bits differ"`
		DryRun bool   `flag:"dry-run,n" config:"no" env:"-" help:"say what is left and how long it will take, as unlearn plan, and stop"`
		Shard  string `flag:"shard" arg:"I/N|auto|auto/N" help:"run the I-th of N shares of the cells, counted from 0; auto: what the scheduler of a job array says"`
	}
	flags, read := simple(options{})
	return &cli.Command{
		Name: "run", Usage: "run the cells of a grid that have no result", ArgsUsage: "GRID|preset:NAME", Flags: flags,
		Description: "Each cell is a run of `unlearn forget`, or a stream of `unlearn continual`, in a folder below that of the grid. Stop it\n" +
			"whenever you like, and start it again: finished cells are passed over, others go on where they were. Several processes\n" +
			"may work on one folder.\n" +
			"unlearn help grids says how to write a grid.\n\n" +
			"  unlearn bench run preset:l2ul/table-cifar10-small --weights r18.pt --data-dir DATA -o grid",
		Action: func(c *cli.Context) error {
			var o options
			if err := read(c, &o); err != nil {
				return err
			}
			grid, cells, err := p.cells(c, o.CellOptions)
			if err != nil {
				return err
			}
			if o.Output == "" {
				return run.Usagef("name the folder of the grid with -o")
			}
			shard, err := bench.ParseShard(o.Shard, os.LookupEnv)
			if err != nil {
				return err
			}
			again := func(string) string { return run.ResumeLine(os.Args, "") }
			ctx, release := run.Signals(c.Context, benchGrace, again, p.abort(o.JSON))
			defer release()
			console := run.NewConsole(o.TerminalOptions, p.stdout, p.stderr)
			defer announceStop(ctx, console)()
			if o.DryRun {
				return errors.Join(p.planGrid(ctx, console, shard.Deal(cells), o.Output), console.Close())
			}
			err = p.runGrid(ctx, console, grid, cells, shard, o.Output, o.Jobs)
			return errors.Join(err, console.Close())
		},
	}
}

func (p *program) runGrid(ctx context.Context, console *run.Console, grid *bench.Grid, cells []bench.Cell, shard bench.Shard, dir string, jobs int) error {
	if err := bench.Prepare(dir, grid.Index(cells)); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	mine := shard.Deal(cells)
	left := bench.Unfinished(dir, mine) // what is done already took no time, and tells nothing of how long the others will
	progress := console.Progress("bench", "cells", int64(len(left)))
	defer progress.Done()
	ended := func(c *bench.Cell) {
		if left[c.ID] {
			progress.Add(1)
		}
	}
	runner := &bench.Runner{
		Dir: dir, Program: program, Env: share(os.Environ(), jobs), Cells: mine, Jobs: jobs,
		Watch: func(e bench.Event) {
			log := console.Log().Info()
			if e.What == bench.Failed {
				log = console.Log().Error()
			}
			log = log.Str("cell", e.Cell.ID).Str("labels", e.Cell.Labels.String())
			switch e.What {
			case bench.Started:
				log.Msg("begins, or goes on")
			case bench.Elsewhere:
				log.Msg("another process runs it; waiting for its end")
			case bench.Again:
				log.Str("reason", e.Failure.Reason).Msg("goes on in another process")
			case bench.Found:
				log.Msg("is there already: " + bench.Outcome(e.Result))
				ended(e.Cell)
			case bench.Done:
				log.Float64("seconds", e.Result.Seconds.Total).Msg(bench.Outcome(e.Result))
				ended(e.Cell)
			case bench.Failed:
				log.Int("exit_code", e.Failure.Code).Msg(e.Failure.Reason)
				ended(e.Cell)
			}
		},
	}
	failures, err := runner.Run(ctx)
	summary, summaryErr := bench.Summarize(dir)
	if err = errors.Join(err, summaryErr); err != nil {
		if stop := run.StopCause(ctx, dir); stop != nil {
			return stop
		}
		return err
	}
	checks, err := bench.Decide(dir)
	if err != nil {
		return err
	}
	if len(checks) > 0 {
		console.Log().Info().Int("held", bench.Count(checks, bench.Held)).Int("did_not_hold", bench.Count(checks, bench.Broken)).
			Int("unknown", bench.Count(checks, bench.Unknown)).Msg("claims checked; unlearn bench check " + run.Quote([]string{dir}) + " says by which numbers")
	}
	console.Emit(run.Summary{Folder: dir, Result: summary})
	if len(failures) > 0 {
		return &bench.Incomplete{Failed: len(failures), Of: len(mine)}
	}
	return nil
}

// share gives each of several processes at once its part of the cores, unless the user has said how many threads there are to
// be. It is a variable and no setting of the cell, which has the same name however many run beside it.
func share(env []string, jobs int) []string {
	const name = "OMP_NUM_THREADS="
	if jobs == 1 || slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, name) }) {
		return env
	}
	return append(env, name+strconv.Itoa(max(runtime.NumCPU()/jobs, 1)))
}

func (p *program) benchLs() *cli.Command {
	return &cli.Command{
		Name: "ls", Usage: "the grids that are built in",
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			t := newTable("GRID", "TITLE")
			for _, name := range bench.Presets() {
				grid, err := bench.Load("preset:" + name)
				if err != nil {
					return err
				}
				t.AppendRow([]any{"preset:" + name, grid.Title})
			}
			return printLines(p.stdout, t.Render())
		},
	}
}

func (p *program) benchShow() *cli.Command {
	flags, read := simple(CellOptions{})
	return &cli.Command{
		Name: "show", Usage: "the cells of a grid, without running them", ArgsUsage: "GRID|preset:NAME", Flags: flags,
		Action: func(c *cli.Context) error {
			var o CellOptions
			if err := read(c, &o); err != nil {
				return err
			}
			grid, cells, err := p.cells(c, o)
			if err != nil {
				return err
			}
			index := grid.Index(cells)
			header := []any{"ID"}
			for _, a := range index.Axes {
				header = append(header, a.Key)
			}
			t := newTable(header...)
			for _, cell := range index.Cells {
				row := []any{cell.ID}
				for _, a := range index.Axes {
					row = append(row, string(cell.Labels[a.Key]))
				}
				t.AppendRow(row)
			}
			return printLines(p.stdout, t.Render(), "", fmt.Sprintf("%s: %s, %s", cmp.Or(grid.Title, grid.Name), run.Counted(len(cells), "cell"), run.Counted(len(bench.Runs(cells)), "run")))
		},
	}
}

func (p *program) benchStatus() *cli.Command {
	return about(&cli.Command{
		Name: "status", Usage: "how far a grid has come", ArgsUsage: "DIR",
		Description: "DIR is the folder that unlearn bench run was given with -o.",
	}, 1, 1, func(_ *cli.Context, o lookOptions, args []string) error {
		s, err := bench.Status(args[0])
		if err != nil {
			return err
		}
		if o.JSON {
			return p.summarize(s)
		}
		lines := []string{fmt.Sprintf("%s: %d done, %d running, %d failed, %d left", printable(s.Name), s.Done, len(s.Running), len(s.Failed), s.Left)}
		if s.Seconds > 0 {
			how := "of work for one process"
			if n := len(s.Running); n > 0 {
				how = fmt.Sprintf("left with %d at once", n)
			}
			lines = append(lines, fmt.Sprintf("about %s %s, going by the latest cells", lasting(s.Seconds/float64(max(len(s.Running), 1))), how))
		}
		for _, r := range s.Running {
			lines = append(lines, "running  "+printable(r))
		}
		for _, f := range s.Failed {
			lines = append(lines, "failed   "+printable(f))
		}
		return printLines(p.stdout, lines...)
	})
}

func (p *program) benchCheck() *cli.Command {
	return about(&cli.Command{
		Name: "check", Usage: "compare the results of a grid with what is claimed of them", ArgsUsage: "DIR",
		Description: "The claims are those of the grid file: orders of methods, published numbers and their tolerances. Exits 6 where one does\n" +
			"not hold. Numbers are means over the seeds, with the standard deviation.",
	}, 1, 1, func(_ *cli.Context, o lookOptions, args []string) error {
		checks, err := bench.Verify(args[0])
		if checks == nil {
			return err
		}
		if o.JSON {
			return errors.Join(p.summarize(map[string]any{"checks": checks}), err)
		}
		for _, check := range checks {
			lines := []string{fmt.Sprintf("%s: %s", printable(check.Claim()), check.Outcome)}
			if check.Source != "" {
				lines = append(lines, "     source: "+printable(check.Source))
			}
			for _, d := range check.Detail {
				lines = append(lines, "     "+printable(d))
			}
			if printErr := printLines(p.stdout, append(lines, "")...); printErr != nil {
				return printErr
			}
		}
		return err
	})
}
