// Package report shows what runs found: as a table (text, Markdown, CSV, LaTeX), as plots, as one HTML file that needs no
// network, and live while runs are at work. It only reads; names and texts from run folders are data everywhere, never markup.
package report

import (
	"errors"
	"fmt"
	"io/fs"

	"l2ul/unlearn/results"
)

// Report is what is shown of some runs.
type Report struct {
	Title string
	Grid  *results.Grid // when it is of one grid
	Table *Table

	Runs  []*results.Run // finished, of `unlearn forget`
	Open  []*results.Run // of `unlearn forget`, not finished
	Other []*results.Run // of other verbs
	Ahead int            // cells of grids that have not begun
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
		if len(runs) == 0 && r.Ahead == 0 {
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
	if r.Grid != nil && r.Grid.Title != "" {
		r.Title = r.Grid.Title
	}
	var err error
	r.Table, err = newTable(r.Runs)
	return r, err
}

func (r *Report) load(path string) (runs []*results.Run, err error) {
	grid, err := results.OpenGrid(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if grid != nil {
		r.Grid = grid
		for _, c := range grid.Cells {
			run, err := grid.Run(c)
			if err != nil {
				return nil, err
			}
			if run == nil {
				r.Ahead++
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
		if err != nil {
			return nil, err
		}
		runs = append(runs, run)
	}
	return runs, nil
}

func (r *Report) add(run *results.Run) {
	switch {
	case run.Forget != nil:
		r.Runs = append(r.Runs, run)
	case run.Verb == "forget" && run.Result == nil:
		r.Open = append(r.Open, run)
	default:
		r.Other = append(r.Other, run)
	}
}

// Left says in a sentence what the table does not have; "" when it has everything.
func (r *Report) Left() string {
	text := ""
	add := func(n int, what string) {
		if n > 0 {
			if text != "" {
				text += "; "
			}
			text += fmt.Sprintf("%d %s", n, what)
		}
	}
	add(len(r.Open), "not finished")
	add(r.Ahead, "not begun")
	add(len(r.Other), "of other commands than forget")
	if text == "" {
		return ""
	}
	return "Not in the table: runs that are " + text + "."
}
