// Package report shows what runs found: as a table (text, Markdown, CSV, LaTeX), as plots, as one HTML file that needs no
// network, and live while runs are at work. It only reads; names and texts from run folders are data everywhere, never markup.
package report

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"l2ul/unlearn/results"
	"l2ul/unlearn/run"
)

// Report is what is shown of some runs.
type Report struct {
	Title string
	Grid  *results.Grid // when it is of one grid
	Table *Table
	Pivot *Pivot // the same as a grid wants it; nil without columns of a grid

	Claims []results.Claim // of grids, and what came of them
	Broken []string        // run folders that cannot be read, and why

	Runs  []*results.Run // finished, of `unlearn forget` and `unlearn continual`
	Open  []*results.Run // of these, not finished
	Other []*results.Run // of other verbs
	Ahead int            // cells of grids that have not begun

	Failed []string // why cells of grids failed that have no run
}

// Load reads runs: each path is a run folder, a folder of a grid, or one below which run folders lie.
func Load(paths ...string) (*Report, error) {
	r := &Report{Title: "unlearn report"}
	seen := map[string]bool{}
	for _, path := range paths {
		runs, err := r.load(path)
		if err != nil {
			return nil, err
		}
		if len(runs) == 0 && r.Ahead == 0 && r.Failed == nil && r.Broken == nil {
			return nil, fmt.Errorf("%s: no run folder in it or below it", path)
		}
		for _, run := range runs {
			if !seen[run.Path] {
				seen[run.Path] = true
				r.add(run)
			}
		}
	}
	if r.Grid != nil && len(paths) > 1 {
		r.Grid = nil
	}
	if r.Grid != nil {
		r.Title = cmp.Or(r.Grid.Title, r.Grid.Name, r.Title)
	}
	var err error
	if r.Table, err = newTable(r.Runs); err != nil {
		return nil, err
	}
	r.Pivot = newPivot(r.Grid, r.Table)
	return r, nil
}

func (r *Report) load(path string) (runs []*results.Run, err error) {
	grid, err := results.OpenGrid(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if grid != nil {
		r.Grid = grid
		found, err := claims(grid)
		if err != nil {
			return nil, err
		}
		r.Claims = append(r.Claims, found...)
		for _, c := range grid.Cells {
			run, err := grid.Run(c)
			if err != nil {
				r.Broken = append(r.Broken, err.Error())
				continue
			}
			if run == nil {
				if why := grid.Failed(c); why != "" {
					r.Failed = append(r.Failed, why)
				} else {
					r.Ahead++
				}
				continue
			}
			runs = append(runs, run)
		}
		return runs, nil
	}
	found, err := results.Find(path)
	if err != nil {
		return nil, err
	}
	for _, p := range found {
		run, err := results.Open(p)
		if err != nil && p == path {
			return nil, err
		}
		if err != nil { // which the others need not wait for
			r.Broken = append(r.Broken, err.Error())
			continue
		}
		runs = append(runs, run)
	}
	return runs, nil
}

func (r *Report) add(run *results.Run) {
	switch {
	case run.Forget != nil:
		r.Runs = append(r.Runs, run)
	case run.Result == nil && (run.Verb == "forget" || run.Verb == "continual"):
		r.Open = append(r.Open, run)
	default:
		r.Other = append(r.Other, run)
	}
}

// Left says in a sentence what the table does not have; "" when it has everything.
func (r *Report) Left() string {
	var left []string
	for _, l := range []struct {
		n    int
		what string
	}{{len(r.Open), "not finished"}, {r.Ahead, "not begun"}, {len(r.Failed), "that failed"}, {len(r.Other), "of another command than forget and continual"}, {len(r.Broken), "that cannot be read"}} {
		if l.n > 0 {
			left = append(left, fmt.Sprintf("%s %s", run.Counted(l.n, "run"), l.what))
		}
	}
	if left == nil {
		return ""
	}
	text := "Not in the table: " + strings.Join(left, ", ") + "."
	if r.Failed != nil {
		text += " The first that failed: " + oneLine(r.Failed[0]) + "."
	}
	if r.Broken != nil {
		text += " The first that cannot be read: " + oneLine(r.Broken[0]) + "."
	}
	return text
}
