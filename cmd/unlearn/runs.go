package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"l2ul/unlearn/results"
	"l2ul/unlearn/run"
)

func (p *program) runs() *cli.Command {
	return &cli.Command{
		Name: "runs", Usage: "look at run folders: list, show, compare, remove",
		Subcommands: []*cli.Command{p.runsList(), p.runsShow(), p.runsDiff(), p.runsRemove()},
	}
}

// openRun reads a run folder that a person named.
func openRun(path string) (*results.Run, error) {
	r, err := results.Open(path)
	if err != nil {
		return nil, run.Inputf("%w", err)
	}
	return r, nil
}

// orders are the columns that runs ls sorts by.
var orders = map[string]func(a, b results.Entry) int{
	"began":   func(a, b results.Entry) int { return a.Began.Compare(b.Began) },
	"run":     func(a, b results.Entry) int { return cmp.Compare(a.Path, b.Path) },
	"method":  func(a, b results.Entry) int { return cmp.Compare(a.Method, b.Method) },
	"k":       func(a, b results.Entry) int { return cmp.Compare(a.K, b.K) },
	"outcome": func(a, b results.Entry) int { return cmp.Compare(a.Outcome, b.Outcome) },
	"forget":  func(a, b results.Entry) int { return compareKnown(a.Forget, b.Forget) },
	"retain":  func(a, b results.Entry) int { return compareKnown(a.Retain, b.Retain) },
	"test":    func(a, b results.Entry) int { return compareKnown(a.Test, b.Test) },
	"seconds": func(a, b results.Entry) int { return compareKnown(a.Seconds, b.Seconds) },
}

// compareKnown puts what is not known last.
func compareKnown(a, b *float64) int {
	switch {
	case a != nil && b != nil:
		return cmp.Compare(*a, *b)
	case a != nil:
		return -1
	case b != nil:
		return 1
	}
	return 0
}

func (p *program) runsList() *cli.Command {
	type options struct {
		JSON bool   `flag:"json" config:"no" help:"JSON on stdout"`
		Sort string `flag:"sort" config:"no" env:"-" default:"began" oneof:"began|run|method|k|outcome|forget|retain|test|seconds" help:"column to sort by, smallest first"`
	}
	return about(&cli.Command{
		Name: "ls", Usage: "the runs below a folder, unfinished ones as well", ArgsUsage: "[DIR]",
		Description: "Without DIR, those below runs. Accuracies are those after forgetting.",
	}, 0, 1, func(_ *cli.Context, o options, args []string) error {
		dir := "runs"
		if len(args) > 0 {
			dir = args[0]
		}
		entries, err := results.List(dir)
		if err != nil {
			return run.Inputf("%w", err)
		}
		slices.SortStableFunc(entries, orders[o.Sort])
		if o.JSON {
			return p.summarize(map[string][]results.Entry{"runs": entries})
		}
		t := newTable("began", "run", "name", "verb", "method", "k", "outcome", "D_f", "D_r", "D_test", "seconds")
		for _, e := range entries {
			began, k, seconds := "", "", ""
			if !e.Began.IsZero() {
				began = e.Began.Local().Format("2006-01-02 15:04")
			}
			if e.K > 0 {
				k = fmt.Sprint(e.K)
			}
			if e.Seconds != nil {
				seconds = fmt.Sprintf("%.1f", *e.Seconds)
			}
			t.AppendRow([]any{
				began, printable(e.Path), printable(e.Name), printable(e.Verb), printable(e.Method), k, printable(e.Outcome),
				fraction(e.Forget), fraction(e.Retain), fraction(e.Test), seconds,
			})
		}
		lines := []string{t.Render()}
		for _, e := range entries {
			if e.Problem != "" {
				lines = append(lines, printable(e.Problem))
			}
		}
		return printLines(p.stdout, lines...)
	})
}

// fraction writes a number of [0, 1] as people read it, nothing where there is none.
func fraction(f *float64) string {
	if f == nil {
		return ""
	}
	return percent(&run.Score{Accuracy: *f})
}

func (p *program) runsShow() *cli.Command {
	return about(&cli.Command{
		Name: "show", Usage: "all that a run folder tells: outcome, scores, settings, environment, command lines", ArgsUsage: "RUN",
	}, 1, 1, func(_ *cli.Context, o lookOptions, args []string) error {
		r, err := openRun(args[0])
		if err != nil {
			return err
		}
		settings := map[string]string{}
		rows := make([][2]string, 0, len(r.Settings))
		for _, s := range r.Settings {
			settings[s.Key] = s.Value
			rows = append(rows, [2]string{printable(s.Key), printable(s.Value)})
		}
		if o.JSON {
			return p.summarize(map[string]any{
				"run": r.Entry(), "commands": r.Commands, "settings": settings, "result": r.Result, "environment": r.Environment,
			})
		}
		environment, err := json.Marshal(r.Environment)
		if err != nil {
			return err
		}
		var text bytes.Buffer
		e := r.Entry()
		fmt.Fprintf(&text, "%s: %s, %s\n", printable(r.Path), printable(cmp.Or(r.Verb, "run")), printable(e.Outcome))
		for _, part := range []struct {
			title string
			rows  [][2]string
		}{{"Result", flat(r.Result)}, {"Settings", rows}, {"Environment", flat(environment)}} {
			if len(part.rows) > 0 {
				fmt.Fprintf(&text, "\n%s:\n", part.title)
				columns(&text, part.rows, width(p.stdout))
			}
		}
		if len(r.Commands) > 0 {
			text.WriteString("\nStarted by:\n")
		}
		for _, c := range r.Commands {
			fmt.Fprintf(&text, "  %s\n", printable(c))
		}
		_, err = p.stdout.Write(text.Bytes())
		return err
	})
}

// flat lists the values of a JSON object by their keys, joined by dots, in its order. Long lists are cut.
func flat(text json.RawMessage) (rows [][2]string) {
	const most = 8
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var walk func(key string) (string, error)
	walk = func(key string) (string, error) {
		token, err := decoder.Token()
		if err != nil {
			return "", err
		}
		switch token {
		case json.Delim('{'):
			for decoder.More() {
				name, err := decoder.Token()
				if err != nil {
					return "", err
				}
				below := strings.TrimPrefix(key+"."+name.(string), ".") // decoder.Token gives keys as texts
				value, err := walk(below)
				if err != nil {
					return "", err
				}
				if value != "" {
					rows = append(rows, [2]string{printable(below), value})
				}
			}
			_, err := decoder.Token()
			return "", err
		case json.Delim('['):
			var values []string
			n := 0
			for ; decoder.More(); n++ {
				value, err := walk(fmt.Sprintf("%s[%d]", key, n))
				if err != nil {
					return "", err
				}
				if n < most && value != "" {
					values = append(values, value)
				}
			}
			if n > most {
				values = append(values, fmt.Sprintf("… %d in all", n))
			}
			_, err := decoder.Token()
			return strings.Join(values, ", "), err
		case nil:
			return "none", nil
		}
		return printable(fmt.Sprint(token)), nil
	}
	if _, err := walk(""); err != nil && !errors.Is(err, io.EOF) {
		return nil // results.Open has read it as JSON
	}
	return rows
}

func (p *program) runsDiff() *cli.Command {
	return about(&cli.Command{
		Name: "diff", Usage: "where two runs part: settings, first step, first weight", ArgsUsage: "A B",
		Description: "Steps are compared without their times, weights bit by bit.",
	}, 2, 2, func(_ *cli.Context, o lookOptions, args []string) error {
		var pair [2]*results.Run
		for i, path := range args {
			var err error
			if pair[i], err = openRun(path); err != nil {
				return err
			}
		}
		d, err := results.Diff(pair[0], pair[1])
		if err != nil {
			return run.Inputf("%w", err)
		}
		if o.JSON {
			return p.summarize(struct {
				Equal bool `json:"equal"`
				*results.Difference
			}{d.Equal(), d})
		}
		return printLines(p.stdout, differences(d)...)
	})
}

// differences are the lines of runs diff.
func differences(d *results.Difference) (lines []string) {
	line := func(what, format string, args ...any) {
		lines = append(lines, fmt.Sprintf("%-9s", what)+fmt.Sprintf(format, args...))
	}
	if d.Settings == nil {
		line("settings", "equal")
	}
	for i, s := range d.Settings {
		what := ""
		if i == 0 {
			what = "settings"
		}
		line(what, "%s: %s and %s", printable(s.Key), cmp.Or(printable(s.A), "not set"), cmp.Or(printable(s.B), "not set"))
	}
	switch s := d.Step; {
	case s == nil:
		line("steps", "equal, all %d", d.Steps)
	case s.Value == "":
		longer := "the first"
		if s.B != "" {
			longer = "the second"
		}
		line("steps", "%d are equal, and %s run goes on with %s %d", d.Steps, longer, printable(s.Phase), s.Step)
	default:
		line("steps", "first at %s %d: %s is %s and %s", printable(s.Phase), s.Step, printable(s.Value), printable(s.A), printable(s.B))
	}
	switch w := d.Weights; {
	case w == nil && d.Tensors == 0:
		line("weights", "neither run has any")
	case w == nil:
		line("weights", "equal, all %d tensors", d.Tensors)
	case d.Tensors == 0:
		line("weights", "%s and %s", w.A, w.B)
	default:
		line("weights", "%d of %d tensors differ, first %s%s: %s and %s", w.Tensors, d.Tensors, printable(w.Tensor), index(w.Index), w.A, w.B)
	}
	if d.Equal() {
		lines = append(lines, "the runs are equal")
	}
	return lines
}

// index is a place in a tensor; a tensor that only one run has, or in another shape, has none.
func index(at []int64) string {
	if at == nil {
		return ""
	}
	return strings.ReplaceAll(fmt.Sprint(at), " ", ", ")
}

func (p *program) runsRemove() *cli.Command {
	type options struct {
		Yes bool `flag:"yes,y" config:"no" env:"-" help:"do not ask"`
	}
	return about(&cli.Command{
		Name: "rm", Usage: "remove run folders", ArgsUsage: "RUN…",
		Description: "Removes what runs wrote, and no other file that lies in their folders. Runs at work are left alone.",
	}, 1, 1000, func(_ *cli.Context, o options, args []string) error {
		for _, path := range args { // all or none
			if err := run.CheckRemovable(path); err != nil {
				return err
			}
		}
		if !o.Yes {
			if !term.IsTerminal(int(os.Stdin.Fd())) {
				return run.Usagef("there is no terminal to ask at whether to remove %s: say so with --yes", run.Counted(len(args), "run folder"))
			}
			fmt.Fprintf(p.stderr, "remove %s? [y/N] ", printable(strings.Join(args, ", ")))
			answer, err := bufio.NewReader(os.Stdin).ReadString('\n')
			if answer = strings.ToLower(strings.TrimSpace(answer)); err != nil || answer != "y" && answer != "yes" {
				return run.Usagef("nothing is removed")
			}
		}
		for _, path := range args {
			left, err := run.RemoveFolder(path)
			if err != nil {
				return err
			}
			line := "removed " + printable(path)
			if len(left) > 0 {
				line = fmt.Sprintf("removed the run in %s, where %s stays", printable(path), printable(strings.Join(left, ", ")))
			}
			if err := printLines(p.stdout, line); err != nil {
				return err
			}
		}
		return nil
	})
}
