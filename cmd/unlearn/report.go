package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	reports "l2ul/unlearn/report"
	"l2ul/unlearn/run"
)

func (p *program) report() *cli.Command {
	type options struct {
		Markdown bool   `flag:"md" config:"no" env:"-" help:"the table as Markdown"`
		CSV      bool   `flag:"csv" config:"no" env:"-" help:"the table as CSV, with standard deviations"`
		LaTeX    bool   `flag:"latex" config:"no" env:"-" help:"the table as LaTeX for the package booktabs, the best in bold"`
		HTML     string `flag:"html" config:"no" env:"-" arg:"FILE" help:"write one HTML file with table, plots, images, settings and hashes, which needs no network"`
		Serve    string `flag:"serve" config:"no" env:"-" arg:"HOST:PORT" help:"show the runs in a browser while they are at work, on the loopback, until Ctrl-C; port 0 takes a free one"`
		Plot     string `flag:"plot" config:"no" env:"-" arg:"DIR" help:"write each plot there, as PNG and as SVG"`
	}
	flags, read := simple(options{})
	return &cli.Command{
		Name: "report", Usage: "runs and grids as tables, plots, one HTML file, or live", ArgsUsage: "RUN|GRID|FOLDER…", Flags: flags,
		Description: "Shows run folders of unlearn forget and unlearn continual, whole grids, and everything below a folder. Runs that differ in\n" +
			"nothing but the seed make one row: their mean and half of its 95 % interval.\n\n" +
			"  unlearn report runs/\n" +
			"  unlearn report runs/ --latex > table.tex\n" +
			"  unlearn report runs/ --html report.html\n" +
			"  unlearn report runs/ --serve 127.0.0.1:0",
		Action: func(c *cli.Context) error {
			var o options
			if err := read(c, &o); err != nil {
				return err
			}
			write, err := tableWriter(o.Markdown, o.CSV, o.LaTeX)
			if err != nil {
				return err
			}
			if c.Args().Len() == 0 {
				return run.Usagef("report takes the folder of a run, of a grid or of several runs: none is named")
			}
			if o.Serve != "" {
				return p.serve(c, o.Serve)
			}
			r, err := reports.Load(c.Args().Slice()...)
			if err != nil {
				return run.Inputf("%w", err)
			}
			if err := write(r, p.stdout); err != nil {
				return err
			}
			if o.HTML != "" {
				var page bytes.Buffer
				if err := r.HTML(&page); err != nil {
					return err
				}
				if err := run.WriteFile(o.HTML, page.Bytes()); err != nil {
					return fmt.Errorf("cannot write the report: %w", err)
				}
			}
			if o.Plot != "" {
				if err := r.WritePlots(o.Plot); err != nil {
					return fmt.Errorf("cannot write the plots: %w", err)
				}
			}
			if left := r.Left(); left != "" {
				return printLines(p.stderr, left)
			}
			return nil
		},
	}
}

// serve ends without an error when it is told to.
func (p *program) serve(c *cli.Context, address string) error {
	ctx, release := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
	defer release()
	err := reports.Serve(ctx, address, c.Args().Slice(), func(url string) {
		fmt.Fprintf(p.stderr, "%s shows the runs; Ctrl-C ends it\n", url)
	})
	if err != nil {
		return run.Usagef("--serve: %w", err)
	}
	return nil
}

// tableWriter is how a table is to be printed.
func tableWriter(md, csv, latex bool) (func(*reports.Report, io.Writer) error, error) {
	write, chosen := printTable, 0
	for _, format := range []struct {
		wanted bool
		write  func(*reports.Report, io.Writer) error
	}{
		{md, (*reports.Report).Markdown},
		{csv, func(r *reports.Report, w io.Writer) error { return r.Table.CSV(w) }},
		{latex, (*reports.Report).LaTeX},
	} {
		if format.wanted {
			write, chosen = format.write, chosen+1
		}
	}
	if chosen > 1 {
		return nil, run.Usagef("--md, --csv and --latex: choose one of them")
	}
	return write, nil
}

// printTable is the tables for people at a terminal, with the claims of grids below them.
func printTable(r *reports.Report, w io.Writer) error {
	var lines []string
	if r.Pivot != nil {
		for _, p := range r.Pivot.Parts(sideBySide(r.Pivot)) {
			t := newTable(printables(p.Headers())...)
			for i, row := range p.Rows {
				if i > 0 && row.Section {
					t.AppendSeparator()
				}
				t.AppendRow(printables(p.Texts(row, " ± ")))
			}
			lines = append(lines, t.Render(), "")
		}
		lines = append(lines, strings.Join(r.Pivot.Notes(), "\n"), "")
	}
	rows := r.Table
	t := newTable(printables(rows.Headers())...)
	for i, row := range rows.Rows {
		if i > 0 && rows.Rows[i-1].Block != row.Block {
			t.AppendSeparator()
		}
		t.AppendRow(printables(rows.Cells(row, " ± ")))
	}
	lines = append(lines, t.Render(), "", strings.Join(rows.Notes(), "\n"))
	if claims := r.ClaimLines(); claims != nil {
		lines = append(append(lines, ""), claims...)
	}
	return printLines(w, lines...)
}

// sideBySide is how many columns of a grid's table, of three accuracies each, a terminal shows beside the names of rows.
func sideBySide(p *reports.Pivot) int {
	const width, gap = 120, 2
	widest := 0
	for _, h := range p.Headers() {
		widest = max(widest, len(h)+gap)
	}
	return max(width/(3*widest), 1)
}

// printables are texts from run folders that cannot move the cursor of a terminal.
func printables(texts []string) []any {
	safe := make([]any, len(texts))
	for i, s := range texts {
		safe[i] = printable(s)
	}
	return safe
}
