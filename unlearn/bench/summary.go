package bench

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"l2ul/unlearn"
	"l2ul/unlearn/results"
	"l2ul/unlearn/run"
)

// SummarySchema is the schema name of Summary.
const SummarySchema = "unlearn.grid-summary/1"

// Summary is summary.json: the numbers of a grid over its seeds. It has no times, so that a grid that was interrupted has the
// same, byte for byte, as one that was not.
type Summary struct {
	Schema string  `json:"schema"`
	Name   string  `json:"name"`
	Hash   string  `json:"hash"` // as in grid.json
	Groups []Group `json:"groups"`
}

// Group is the runs of a grid that differ in their seed alone, and in their network where each seed has one of its own.
type Group struct {
	Labels        map[string]results.Label `json:"labels"`
	Cells         int                      `json:"cells"`
	N             int                      `json:"n"` // those of them that have a result
	Outcomes      map[unlearn.Outcome]int  `json:"outcomes"`
	Steps         Stat                     `json:"steps"`
	Before        Accuracies               `json:"before"`
	After         Accuracies               `json:"after"`
	AttackSuccess Stat                     `json:"attack_success"`
	RetainReads   int                      `json:"retain_reads"` // runs that read D_r while they unlearned

	runs []*run.Result
}

// Accuracies are fractions.
type Accuracies struct {
	Forget Stat `json:"forget"`
	Retain Stat `json:"retain"`
	Test   Stat `json:"test"`
}

// Stat is results.Stat for JSON, which has no NaN: what is not known is null.
type Stat struct {
	N    int        `json:"n"`
	Mean run.Number `json:"mean"`
	SD   run.Number `json:"sd"`
	Half run.Number `json:"half_width_95"` // of Student's t-interval
}

func stat(values []float64) Stat {
	s := results.Summarize(values)
	return Stat{s.N, run.Number(s.Mean), run.Number(s.SD), run.Number(s.Half)}
}

// cell is a cell of a grid's folder and how it ended.
type cell struct {
	results.Cell
	result *run.Result // nil while it has none, and where it failed
}

// open reads the grid of a folder with what its cells have come to.
func open(dir string) (*results.Grid, []cell, error) {
	g, err := results.OpenGrid(dir)
	if err != nil {
		return nil, nil, run.Inputf("%w", err)
	}
	cells := make([]cell, len(g.Cells))
	for i, c := range g.Cells {
		if !filepath.IsLocal(c.ID) || strings.ContainsAny(c.ID, `/\`) { // names of state
			return nil, nil, run.Inputf("%s: %.60q is no name of a cell", filepath.Join(dir, indexName), c.ID)
		}
		cells[i] = cell{c, finished(dir, c.ID, "")}
		if failed(dir, c.ID) != nil { // as of a stream whose deletion record was changed
			cells[i].result = nil
		}
	}
	return g, cells, nil
}

// grouped puts cells together that have all labels in common but those of the keys that are left out. Weights that belong to a
// seed are left out with it.
func grouped(cells []cell, without ...string) (groups []Group) {
	place := map[string]int{}
	without = append(without, ownNetworks(cells)...)
	for _, c := range cells {
		labels := maps.Clone(c.Labels)
		maps.DeleteFunc(labels, func(key string, _ results.Label) bool { return slices.Contains(without, key) })
		id := labelText(labels)
		at, ok := place[id]
		if !ok {
			at = len(groups)
			place[id], groups = at, append(groups, Group{Labels: labels})
		}
		groups[at].Cells++
		if c.result != nil {
			groups[at].runs = append(groups[at].runs, c.result)
		}
	}
	for i := range groups {
		groups[i].sumUp()
	}
	return groups
}

// ownNetworks is the key of the weights where each seed has a network of its own, which repeats of an experiment mostly have: as
// many networks as seeds, two or more, and always the same two together.
func ownNetworks(cells []cell) []string {
	for _, key := range []string{"weights", "checkpoint"} {
		weights, seeds := map[results.Label]results.Label{}, map[results.Label]results.Label{}
		one := true
		for _, c := range cells {
			seed, w := c.Labels["seed"], c.Labels[key]
			if known, ok := weights[seed]; ok && known != w {
				one = false
			}
			if known, ok := seeds[w]; ok && known != seed {
				one = false
			}
			weights[seed], seeds[w] = w, seed
		}
		if one && len(seeds) > 1 {
			return []string{key}
		}
	}
	return nil
}

func labelText(labels map[string]results.Label) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		parts = append(parts, key+"="+string(labels[key]))
	}
	return strings.Join(parts, " ")
}

func (g *Group) sumUp() {
	g.N, g.Outcomes = len(g.runs), map[unlearn.Outcome]int{}
	var steps, success []float64
	for _, r := range g.runs {
		g.Outcomes[r.Outcome]++
		steps = append(steps, float64(r.Steps))
		if r.Attack != nil {
			success = append(success, r.Attack.Success)
		}
		if r.DataAccess.RetainDuringUnlearning {
			g.RetainReads++
		}
	}
	g.Steps, g.AttackSuccess = stat(steps), stat(success)
	g.Before = accuracies(g.runs, func(r *run.Result) *run.Scores { return r.Before })
	g.After = accuracies(g.runs, func(r *run.Result) *run.Scores { return r.After })
}

func accuracies(runs []*run.Result, of func(*run.Result) *run.Scores) Accuracies {
	var forget, retain, test []float64
	for _, r := range runs {
		s := of(r)
		if s == nil {
			continue
		}
		forget = append(forget, s.Forget.Accuracy)
		if s.Retain != nil {
			retain = append(retain, s.Retain.Accuracy)
		}
		if s.Test != nil {
			test = append(test, s.Test.Accuracy)
		}
	}
	return Accuracies{stat(forget), stat(retain), stat(test)}
}

// Summarize writes the summary of a grid's folder, as far as its cells have come.
func Summarize(dir string) (s *Summary, err error) {
	err = alone(dir, func() error {
		g, cells, err := open(dir)
		if err != nil {
			return err
		}
		s = &Summary{Schema: SummarySchema, Name: g.Name, Hash: g.Hash, Groups: grouped(cells, "seed")}
		return run.WriteJSON(filepath.Join(dir, summaryName), s)
	})
	return s, err
}
