package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"l2ul/unlearn"
	"l2ul/unlearn/results"
	"l2ul/unlearn/run"
)

// Table is the paper's table: how a network does on D_f, D_r and D_test before and after each method, block by block.
type Table struct {
	Keys []string // settings that tell rows apart beside k and method, as columns of their own
	Rows []Row

	own bool // some rows have a network of its own for each seed
}

// Row is one method in one block, over the seeds that it was run with.
type Row struct {
	Block  int // rows of one block began with the same network and are comparable
	K      int // images to forget
	Method string
	Values []string // of the table's keys

	N                    int          // runs
	Forget, Retain, Test results.Stat // accuracies in percent; of no runs where nothing was measured
	Steps, Seconds       results.Stat // of no runs in the row of what was before
	Outcome              string
	Best                 Best

	Runs []*results.Run // in ascending order of their seeds; nil in the row of what was before
}

// Best tells which accuracies are the best of a row's block and goal: the lowest on D_f, the highest elsewhere, of the methods that
// reached the goal in every run and read no retained image.
type Best struct{ Forget, Retain, Test bool }

// before names the row of the network as it was.
const before = "before"

// block is what the rows of a block have in common.
type block struct {
	model, dataset, weights, limit string // no weights where each seed has its own
	k                              int
}

// newTable makes the table of finished runs of `unlearn forget`.
func newTable(runs []*results.Run) (*Table, error) {
	groups, err := results.Repeats(runs)
	if err != nil {
		return nil, err
	}
	own := results.OwnNetworks(runs)
	blocks := map[block][]results.Group{}
	for _, g := range groups {
		b := blockOf(g.Runs[0], own[g.Runs[0]])
		blocks[b] = append(blocks[b], g)
	}
	order := slices.SortedFunc(maps.Keys(blocks), func(a, b block) int {
		return cmp.Or(strings.Compare(a.dataset, b.dataset), strings.Compare(a.model, b.model),
			strings.Compare(a.weights, b.weights), strings.Compare(a.limit, b.limit), cmp.Compare(a.k, b.k))
	})
	t := &Table{Keys: differing(order, blocks)}
	for _, mine := range own {
		t.own = t.own || mine
	}
	for i, b := range order {
		slices.SortStableFunc(blocks[b], func(x, y results.Group) int { return compareMethods(x.Runs[0].Forget, y.Runs[0].Forget) })
		rows := []Row{t.rowBefore(blocks[b])}
		for _, g := range blocks[b] {
			rows = append(rows, t.row(g))
		}
		markBest(rows)
		for _, r := range rows {
			r.Block, r.K = i, b.k
			t.Rows = append(t.Rows, r)
		}
	}
	return t, nil
}

func blockOf(r *results.Run, own bool) block {
	weights := r.Forget.Hashes.Weights
	if own {
		weights = ""
	}
	return block{r.Forget.Model, r.Forget.Dataset, weights, r.Setting("limit"), r.K()}
}

// requestsKey is the column that tells streams of other numbers of requests apart.
const requestsKey = "requests"

// common are the settings that all rows of a block share.
var common = []string{"dataset", "limit", "model", "weights"}

// differing lists the settings without which two rows could not be told apart: what blocks of one size differ in, and what
// rows of one method in one block do.
func differing(order []block, blocks map[block][]results.Group) (keys []string) {
	differ := map[string]bool{}
	for _, key := range common {
		for _, b := range order {
			one, other := value(key, blocks[b][0].Runs[0]), value(key, blocks[order[0]][0].Runs[0])
			if key == "weights" { // of the block: none where each seed has its own
				one, other = b.weights, order[0].weights
			}
			if one != other {
				differ[key] = true
			}
		}
	}
	for _, b := range order {
		first := map[string]*results.Run{} // of each method
		for _, g := range blocks[b] {
			r := g.Runs[0]
			name := MethodName(r.Forget)
			if first[name] == nil {
				first[name] = r
			}
			if r.Requests() != first[name].Requests() {
				differ[requestsKey] = true
			}
			for _, s := range slices.Concat(r.Settings, first[name].Settings) {
				if s.Key != "seed" && results.Decides("forget", s.Key) && value(s.Key, r) != value(s.Key, first[name]) {
					differ[s.Key] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(differ))
}

// value is what a column of settings shows. Weights are told by their hash: the same file may lie in many places.
func value(key string, r *results.Run) string {
	switch key {
	case "weights":
		return short(r.Forget.Hashes.Weights)
	case "model":
		return r.Forget.Model
	case "dataset":
		return r.Forget.Dataset
	case requestsKey:
		return r.Requests()
	}
	return r.Setting(key)
}

// short is the beginning of a hash, enough to tell two apart.
func short(hash string) string { return hash[:min(len(hash), 8)] }

func (t *Table) values(r *results.Run) []string {
	values := make([]string, len(t.Keys))
	for i, key := range t.Keys {
		values[i] = value(key, r)
	}
	return values
}

// rowBefore is the row of the networks before: each counts once with each forget set, however many methods forgot it. Streams score the
// images of a request when its turn comes, by a network that their own method has changed by then: that is no D_f of before.
func (t *Table) rowBefore(groups []results.Group) Row {
	seen := map[string]bool{}
	var scores, untouched []*run.Scores
	for _, g := range groups {
		for _, r := range g.Runs {
			// Not by its hash, which new labels are part of.
			set := fmt.Sprint(r.Forget.Forget.Indices, r.Forget.Hashes.Weights)
			if r.Stream != nil {
				set = fmt.Sprint(r.Forget.Forget.Hash, r.Forget.Hashes.Weights)
			}
			if !seen[set] && r.Forget.Before != nil {
				seen[set] = true
				scores = append(scores, r.Forget.Before)
				if r.Stream == nil {
					untouched = append(untouched, r.Forget.Before)
				}
			}
		}
	}
	row := Row{Method: before, N: len(scores), Values: make([]string, len(t.Keys))}
	for i, key := range t.Keys {
		if slices.Contains(common, key) {
			row.Values[i] = value(key, groups[0].Runs[0])
		}
	}
	row.score(scores)
	var forget Row
	forget.score(untouched)
	row.Forget = forget.Forget
	return row
}

func (t *Table) row(g results.Group) Row {
	row := Row{Method: MethodName(g.Runs[0].Forget), N: len(g.Runs), Values: t.values(g.Runs[0]), Runs: g.Runs}
	var steps, seconds []float64
	outcomes := map[string]int{}
	for _, r := range g.Runs {
		steps = append(steps, float64(r.Forget.Steps))
		seconds = append(seconds, r.Forget.Seconds.Total)
		outcomes[string(r.Forget.Outcome)]++
	}
	row.score(after(g.Runs))
	row.Steps, row.Seconds = results.Summarize(steps), results.Summarize(seconds)
	row.Outcome = tally(outcomes)
	return row
}

// after are the scores that runs ended with.
func after(runs []*results.Run) []*run.Scores {
	scores := make([]*run.Scores, len(runs))
	for i, r := range runs {
		scores[i] = r.Forget.After
	}
	return scores
}

// tally writes counts of words: the word alone when there is but one.
func tally(counts map[string]int) string {
	words := slices.Collect(maps.Keys(counts))
	if len(words) == 1 {
		return words[0]
	}
	slices.SortFunc(words, func(a, b string) int { return cmp.Or(counts[b]-counts[a], strings.Compare(a, b)) })
	for i, w := range words {
		words[i] = strconv.Itoa(counts[w]) + " " + w
	}
	return strings.Join(words, ", ")
}

func (r *Row) score(scores []*run.Scores) {
	var forget, retain, test []float64
	add := func(to *[]float64, s *run.Score) {
		if s != nil {
			*to = append(*to, 100*s.Accuracy)
		}
	}
	for _, s := range scores {
		if s != nil {
			add(&forget, &s.Forget)
			add(&retain, s.Retain)
			add(&test, s.Test)
		}
	}
	r.Forget, r.Retain, r.Test = results.Summarize(forget), results.Summarize(retain), results.Summarize(test)
}

// compete says whether a row may be the best.
func (r *Row) compete() bool {
	return len(r.Runs) > 0 && !slices.ContainsFunc(r.Runs, func(run *results.Run) bool {
		return !run.Forget.Reached || run.Forget.DataAccess.RetainDuringUnlearning
	})
}

func markBest(rows []Row) {
	for _, column := range []struct {
		stat func(*Row) results.Stat
		sign float64
		mark func(*Row)
	}{
		{func(r *Row) results.Stat { return r.Forget }, -1, func(r *Row) { r.Best.Forget = true }},
		{func(r *Row) results.Stat { return r.Retain }, 1, func(r *Row) { r.Best.Retain = true }},
		{func(r *Row) results.Stat { return r.Test }, 1, func(r *Row) { r.Best.Test = true }},
	} {
		best, rivals := map[string]float64{}, map[string]int{} // by goal
		for i := range rows {
			if s := column.stat(&rows[i]); rows[i].compete() && s.N > 0 {
				goal := rows[i].Runs[0].Forget.Goal
				if rivals[goal]++; rivals[goal] == 1 || column.sign*s.Mean > best[goal] {
					best[goal] = column.sign * s.Mean
				}
			}
		}
		for i := range rows {
			if s := column.stat(&rows[i]); rows[i].compete() && s.N > 0 {
				// Equal as they are printed is equal.
				if goal := rows[i].Runs[0].Forget.Goal; rivals[goal] > 1 && percent(s.Mean) == percent(column.sign*best[goal]) {
					column.mark(&rows[i])
				}
			}
		}
	}
}

// relabelled are the names of methods with goal relabel (spec/l2ul.md section 2.3). The oracle keeps its own.
var relabelled = map[string]string{
	"neggrad": "correct", "adv": "correct-adv", "imp": "correct-imp", "adv-imp": "correct-adv-imp",
}

// MethodName is what reports call the method of a result.
func MethodName(r *run.Result) string {
	switch name := relabelled[r.Method]; {
	case r.Method == "rawp":
		return "rawp (project definition)" // section 2.4
	case r.Goal == string(unlearn.Relabel) && name != "":
		return name
	}
	return r.Method
}

// compareMethods orders methods by what they take: those that train anew, those of D_f alone, with D_r, with adversarial
// examples; each plain and then anchored. Methods of other versions come last.
func compareMethods(a, b *run.Result) int {
	rank := func(r *run.Result) []int {
		m, err := unlearn.FindMethod(r.Method)
		if err != nil {
			return []int{4, 0, 0}
		}
		drivers := map[unlearn.Driver]int{unlearn.ByForget: 1, unlearn.ByRetain: 2, unlearn.ByAdversarial: 3}
		kind := drivers[m.Driver]
		if m.Scratch {
			kind = 0
		}
		return []int{kind, number(r.Goal == string(unlearn.Relabel)), number(m.Anchored)}
	}
	return cmp.Or(slices.Compare(rank(a), rank(b)), strings.Compare(a.Method, b.Method))
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Headers are the titles of the columns; units are said in them.
func (t *Table) Headers() []string {
	headers := append([]string{"k", "method"}, t.Keys...)
	return append(headers, "D_f %", "D_r %", "D_test %", "n", "outcome", "steps", "seconds")
}

// Cells are the texts of a row, under Headers, with pm between a mean and half of its interval.
func (t *Table) Cells(r Row, pm string) []string {
	cells := append([]string{strconv.Itoa(r.K), r.Method}, r.Values...)
	return append(cells, interval(r.Forget, percent, pm), interval(r.Retain, percent, pm), interval(r.Test, percent, pm),
		strconv.Itoa(r.N), cmp.Or(r.Outcome, "-"), interval(r.Steps, count(r.Steps), pm), interval(r.Seconds, seconds, pm))
}

// numeric says of each column of a table whether it holds numbers.
func (t *Table) numeric() []bool {
	columns := append([]bool{true, false}, make([]bool, len(t.Keys))...)
	return append(columns, true, true, true, true, false, true, true)
}

func percent(x float64) string { return strconv.FormatFloat(x, 'f', 2, 64) }
func seconds(x float64) string { return strconv.FormatFloat(x, 'f', 1, 64) }

// count writes steps: those of one run are a whole number.
func count(s results.Stat) func(float64) string {
	if s.N == 1 {
		return func(x float64) string { return strconv.FormatFloat(x, 'f', 0, 64) }
	}
	return seconds
}

// interval writes a mean and, of several runs, half the width of its interval.
func interval(s results.Stat, write func(float64) string, pm string) string {
	switch s.N {
	case 0:
		return "-"
	case 1:
		return write(s.Mean)
	default:
		return write(s.Mean) + pm + write(s.Half)
	}
}

// Notes are the sentences that a reader of the table needs.
func (t *Table) Notes() []string {
	notes := []string{
		"D_f, D_r, D_test: accuracy in percent on the images to forget, the retained and the test images; n: runs.",
	}
	if slices.ContainsFunc(t.Rows, func(r Row) bool { return r.N > 1 }) {
		notes = append(notes, "±: half of the 95 % interval of the mean over runs (Student's t).")
	}
	if t.own {
		notes = append(notes, "Each seed began with a network of its own.")
	}
	if slices.ContainsFunc(t.Rows, func(r Row) bool {
		return slices.ContainsFunc(r.Runs, func(one *results.Run) bool { return one.Stream != nil })
	}) {
		notes = append(notes, "Streams of requests: k is the images of all; after are the scores of the last weights, on the images of all requests, too.")
	}
	if scored := t.scored(); scored != "" {
		notes = append(notes, scored)
	}
	return append(notes, "seconds: of the whole run, with attack and scores; what came from the cache is not in them.")
}

// scored says how many images the accuracies on D_r and D_test are of, before as after.
func (t *Table) scored() string {
	var retain, test []int64
	limited, whole := false, false
	for _, r := range t.Rows {
		for _, one := range r.Runs {
			if one.Forget.Limited {
				limited = true
			} else {
				whole = true
			}
			for _, s := range []*run.Scores{one.Forget.Before, one.Forget.After} {
				if s != nil && s.Retain != nil {
					retain = append(retain, s.Retain.N)
				}
				if s != nil && s.Test != nil {
					test = append(test, s.Test.N)
				}
			}
		}
	}
	var parts []string
	for _, p := range []struct {
		counts []int64
		what   string
	}{{retain, "retained"}, {test, "test"}} {
		if len(p.counts) == 0 {
			continue
		}
		least, most := slices.Min(p.counts), slices.Max(p.counts)
		text := strconv.FormatInt(least, 10)
		if most > least {
			text += " to " + strconv.FormatInt(most, 10)
		}
		parts = append(parts, text+" "+p.what)
	}
	if parts == nil {
		return ""
	}
	text := "Scored before and after: " + strings.Join(parts, " and ") + " images"
	switch {
	case limited && whole:
		text += ", in some runs a part of them (--limit)"
	case limited:
		text += ", a part of them (--limit)"
	}
	return text + "."
}
