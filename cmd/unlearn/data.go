package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

func (p *program) data() *cli.Command {
	return &cli.Command{
		Name: "data", Usage: "look at datasets: show images, check files, fetch what is published",
		Subcommands: []*cli.Command{p.dataShow(), p.dataCheck(), p.dataFetch()},
	}
}

// aboutData is a subcommand with one argument, whose result is a summary or a text.
func aboutData[Options interface{ Terminal() run.TerminalOptions }, Result any](p *program, cmd *cli.Command,
	do func(context.Context, *run.Console, Options, string) (Result, error), text func(Result) []string,
) *cli.Command {
	return about(cmd, 1, 1, func(c *cli.Context, o Options, args []string) error {
		console := run.NewConsole(o.Terminal(), p.stdout, p.stderr)
		ctx, release := run.Signals(c.Context, time.Second, nil, p.abort(o.Terminal().JSON))
		defer release()
		result, err := do(ctx, console, o, args[0])
		if err == nil && console.JSON() {
			console.Emit(run.Summary{Result: result})
		} else if err == nil {
			err = printLines(p.stdout, text(result)...)
		}
		return errors.Join(err, console.Close())
	})
}

func (p *program) dataShow() *cli.Command {
	return aboutData(p, &cli.Command{
		Name: "show", Usage: "draw chosen images, with index and class below each, into one PNG", ArgsUsage: "NAME|DIR",
		Description: "NAME is a dataset (unlearn ls datasets), DIR a folder or archive of --dataset, by default the one that it looks like.",
	}, run.ShowData, func(s *run.Shown) []string {
		return []string{fmt.Sprintf("%s: %d images of %s, %s, %d x %d pixels", s.File, len(s.Indices), s.Dataset, s.Split, s.Width, s.Height)}
	})
}

func (p *program) dataCheck() *cli.Command {
	check := func(ctx context.Context, c *run.Console, o run.CheckDataOptions, what string) (*run.DataReport, error) {
		report, err := run.CheckData(ctx, c, o, what)
		if err == nil && report.Broken() > 0 {
			if c.JSON() {
				c.Emit(run.Summary{Result: report})
			} else {
				err = printLines(p.stdout, checked(report)...)
			}
			if err == nil {
				err = run.Inputf("%d images of %s cannot be used", report.Broken(), report.Dataset)
			}
		}
		return report, err
	}
	return aboutData(p, &cli.Command{
		Name: "check", Usage: "read a dataset whole: counts, classes, hashes, broken images", ArgsUsage: "NAME|DIR",
		Description: "NAME is a dataset (unlearn ls datasets), DIR a folder or archive of --dataset, by default the one that it looks like. Ends with 4 if images are broken.",
	}, check, checked)
}

// checked are the tables of a report.
func checked(report *run.DataReport) (lines []string) {
	splits := newTable("split", "images", "size", "classes", "labels", "broken", "hash")
	header := []any{"label", "class"}
	for _, s := range report.Splits {
		header = append(header, s.Split)
		splits.AppendRow([]any{
			s.Split, s.Images, fmt.Sprintf("%d x %d", s.Width, s.Height), len(s.Classes), fmt.Sprintf("%d to %d", s.Least, s.Largest), len(s.Broken), s.Hash,
		})
	}
	classes := newTable(header...)
	for i, class := range report.Splits[0].Classes {
		row := []any{i, printable(class.Name)}
		for _, s := range report.Splits {
			row = append(row, s.Classes[i].Images)
		}
		classes.AppendRow(row)
	}
	lines = []string{classes.Render(), "", splits.Render()}
	for _, s := range report.Splits {
		for _, b := range s.Broken {
			lines = append(lines, fmt.Sprintf("%s %d: %s", s.Split, b.Index, printable(b.Problem)))
		}
	}
	return lines
}

func (p *program) dataFetch() *cli.Command {
	return aboutData(p, &cli.Command{
		Name: "fetch", Usage: "download a dataset from its authors into the cache, where it needs no --data-dir", ArgsUsage: "NAME",
		Description: "Every file is verified by its published checksum. What was cut is gone on with.",
	}, run.FetchData, func(f *run.Fetched) []string {
		var names []string
		for _, file := range f.Files {
			names = append(names, file.File)
		}
		return []string{fmt.Sprintf("%s: %s in %s", f.Dataset, strings.Join(names, ", "), f.Folder)}
	})
}
