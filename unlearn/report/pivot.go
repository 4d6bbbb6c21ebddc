package report

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"l2ul/unlearn/results"
	"l2ul/unlearn/run"
)

// Pivot is the table of a grid as papers print it: a row for each experiment, and the three accuracies side by side for each value
// of the keys that its columns are by. It shows the rows of Table in another place, and has no numbers of its own.
type Pivot struct {
	Keys    []string // what tells its rows apart
	Columns []string // titles, of three accuracies each
	Rows    []PivotRow

	runs int // the most of a cell
}

// PivotRow is a line of a Pivot.
type PivotRow struct {
	Labels  []string // under Keys
	Cells   []*Row   // under Columns; nil where no run has finished
	Section bool     // the first of rows that began with the same networks, which is what was before
}

// maxPivot bounds the cells of a Pivot, most of which may be empty: a small file can name a row and a column for each of many cells.
const maxPivot = 100_000

// newPivot lays the table of a grid out by its columns; nil of a grid that names none, and where that would be too large to be read.
func newPivot(g *results.Grid, t *Table) *Pivot {
	if g == nil || len(g.Columns) == 0 {
		return nil
	}
	p := &Pivot{Keys: rowKeys(g, t)}
	of := map[string]*Row{} // by the path of a run
	befores := map[int]*Row{}
	for i := range t.Rows {
		row := &t.Rows[i]
		if row.Runs == nil {
			befores[row.Block] = row
			continue
		}
		p.runs = max(p.runs, row.N)
		for _, r := range row.Runs {
			of[r.Path] = row
		}
	}
	var rows []PivotRow
	columns, lines := map[string]int{}, map[string]int{} // their places
	for _, c := range g.Cells {
		title, labels := columnTitle(g.Columns, c), p.labels(g, c)
		if _, ok := columns[title]; !ok {
			columns[title] = len(columns)
			p.Columns = append(p.Columns, title)
		}
		id := fmt.Sprintf("%q", labels)
		if _, ok := lines[id]; !ok {
			lines[id] = len(lines)
			rows = append(rows, PivotRow{Labels: labels})
		}
	}
	if len(columns)*len(rows) > maxPivot {
		return nil
	}
	for i := range rows {
		rows[i].Cells = make([]*Row, len(columns))
	}
	for _, c := range g.Cells {
		if row := of[filepath.Join(g.Path, filepath.FromSlash(c.Folder))]; row != nil {
			rows[lines[fmt.Sprintf("%q", p.labels(g, c))]].Cells[columns[columnTitle(g.Columns, c)]] = row
		}
	}
	p.sections(rows, befores)
	return p
}

// Parts are the table in pieces of so many columns, for those who see no more side by side.
func (p *Pivot) Parts(columns int) (parts []*Pivot) {
	at := 0
	for some := range slices.Chunk(p.Columns, columns) {
		part := &Pivot{Keys: p.Keys, Columns: some, runs: p.runs}
		for _, r := range p.Rows {
			part.Rows = append(part.Rows, PivotRow{r.Labels, r.Cells[at : at+len(some)], r.Section})
		}
		parts, at = append(parts, part), at+len(some)
	}
	return parts
}

// rowKeys are the axes that are no columns. What runs are averaged over is not among them, and neither is the goal where the
// names of methods tell it.
func rowKeys(g *results.Grid, t *Table) (keys []string) {
	names, pairs := map[string]bool{}, map[string]bool{}
	for _, c := range g.Cells {
		name := methodLabel(c.Labels["method"], c.Labels["goal"])
		names[name], pairs[name+" "+string(c.Labels["goal"])] = true, true
	}
	told := len(names) > 1 && len(names) == len(pairs)
	for _, a := range g.Axes {
		averaged := a.Key == "seed" || t.own && slices.Contains([]string{"weights", "checkpoint"}, a.Key)
		if averaged || slices.Contains(g.Columns, a.Key) || a.Key == "goal" && told {
			continue
		}
		keys = append(keys, a.Key)
	}
	return keys
}

// methodLabel is what reports call a method with a goal.
func methodLabel(method, goal results.Label) string {
	return MethodName(&run.Result{Method: string(method), Goal: string(goal)})
}

// labels tell the row of a cell from others. A method keeps its name where columns tell the goal.
func (p *Pivot) labels(g *results.Grid, c results.Cell) []string {
	labels := make([]string, len(p.Keys))
	for i, key := range p.Keys {
		if labels[i] = string(c.Labels[key]); key == "method" {
			goal := c.Labels["goal"]
			if slices.Contains(g.Columns, "goal") {
				goal = ""
			}
			labels[i] = methodLabel(c.Labels[key], goal)
		}
	}
	return labels
}

// columnTitle tells the columns of a cell from others.
func columnTitle(keys []string, c results.Cell) string {
	var parts []string
	for _, key := range keys {
		if value, ok := c.Labels[key]; ok {
			parts = append(parts, key+" = "+string(value))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "other")
}

// sections puts rows together that began with the same networks, each below what was before.
func (p *Pivot) sections(rows []PivotRow, befores map[int]*Row) {
	type section struct {
		blocks []int // by column, -1 where it has no run yet
		rows   []PivotRow
	}
	var all []*section
	for _, r := range rows {
		blocks := make([]int, len(r.Cells))
		for i, c := range r.Cells {
			if blocks[i] = -1; c != nil {
				blocks[i] = c.Block
			}
		}
		at := slices.IndexFunc(all, func(s *section) bool { return fits(s.blocks, blocks) })
		if at < 0 {
			at, all = len(all), append(all, &section{blocks: slices.Repeat([]int{-1}, len(blocks))})
		}
		s := all[at]
		for i, b := range blocks {
			s.blocks[i] = max(s.blocks[i], b)
		}
		s.rows = append(s.rows, r)
	}
	for _, s := range all {
		first := PivotRow{Labels: make([]string, len(p.Keys)), Cells: make([]*Row, len(s.blocks)), Section: true}
		if at := max(slices.Index(p.Keys, "method"), 0); len(p.Keys) > 0 {
			first.Labels[at] = before
		}
		for i, b := range s.blocks {
			if b >= 0 {
				first.Cells[i] = befores[b]
			}
		}
		p.Rows = append(append(p.Rows, first), s.rows...)
	}
}

// fits reports whether two rows differ in no block that both have.
func fits(a, b []int) bool {
	for i := range a {
		if a[i] >= 0 && b[i] >= 0 && a[i] != b[i] {
			return false
		}
	}
	return true
}

// metrics are the three accuracies of each column.
var metrics = []string{"D_f %", "D_r %", "D_test %"}

// Headers are the titles of its columns in one line.
func (p *Pivot) Headers() []string {
	headers := slices.Clone(p.Keys)
	for _, c := range p.Columns {
		for _, m := range metrics {
			headers = append(headers, c+": "+m)
		}
	}
	return headers
}

// numeric says of each column whether it holds numbers.
func (p *Pivot) numeric() []bool {
	return append(make([]bool, len(p.Keys)), slices.Repeat([]bool{true}, len(metrics)*len(p.Columns))...)
}

// Texts are those of a row, under Headers, with pm between a mean and half of its interval.
func (p *Pivot) Texts(r PivotRow, pm string) []string {
	texts := slices.Clone(r.Labels)
	for _, c := range r.Cells {
		if c == nil {
			texts = append(texts, "-", "-", "-")
			continue
		}
		forget := interval(c.Forget, percent, pm)
		if c.missed() {
			forget += " †"
		}
		if c.N != p.runs {
			forget += fmt.Sprintf(" (n = %d)", c.N)
		}
		texts = append(texts, forget, interval(c.Retain, percent, pm), interval(c.Test, percent, pm))
	}
	return texts
}

// best says of each text of a row whether it is the best of its column.
func (p *Pivot) best(r PivotRow) []bool {
	best := make([]bool, len(r.Labels))
	for _, c := range r.Cells {
		if c == nil {
			c = &Row{}
		}
		best = append(best, c.Best.Forget, c.Best.Retain, c.Best.Test)
	}
	return best
}

// missed says whether some run of the row did not reach its goal.
func (r *Row) missed() bool {
	return slices.ContainsFunc(r.Runs, func(one *results.Run) bool { return !one.Forget.Reached })
}

// Notes are the sentences that its readers need beside those of the table.
func (p *Pivot) Notes() (notes []string) {
	if slices.ContainsFunc(p.Rows, func(r PivotRow) bool {
		return slices.ContainsFunc(r.Cells, func(c *Row) bool { return c != nil && c.missed() })
	}) {
		notes = append(notes, "†: not every run reached its goal.")
	}
	return append(notes, fmt.Sprintf("n = %d in each cell that does not say it.", p.runs))
}
