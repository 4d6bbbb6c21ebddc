package report_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	_ "l2ul/unlearn/methods" // whose order rows have
	"l2ul/unlearn/report"
	"l2ul/unlearn/run"
)

var update = flag.Bool("update", false, "write the golden files anew")

const runs = "testdata/runs"

func load(t *testing.T, paths ...string) *report.Report {
	t.Helper()
	r, err := report.Load(paths...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func page(t *testing.T, r *report.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.HTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	r := load(t, runs)
	for name, write := range map[string]func(io.Writer) error{
		"table.md": r.Markdown, "table.csv": r.Table.CSV, "table.tex": r.LaTeX,
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), b.String()); diff != "" {
			t.Errorf("%s: -want +got\n%s", path, diff)
		}
	}
}

// The runs of adv have 80, 82 and 84 of 100 test images right: mean 82, standard deviation 2, and 4.303 the quantile of t with
// two degrees of freedom, so half of the interval is 4.303·2/√3 = 4.97.
func TestTable(t *testing.T) {
	r := load(t, runs)
	cells := map[string][]string{}
	best := map[string]report.Best{}
	for _, row := range r.Table.Rows {
		if row.K == 4 {
			cells[row.Method] = r.Table.Cells(row, "±")
			best[row.Method] = row.Best
		}
	}
	for method, want := range map[string][]string{
		"adv":     {"4", "adv", "0.001", "0.00±0.00", "87.50±0.00", "82.00±4.97", "3", "reached", "110.0±24.8", "12.0±5.0"},
		"oracle":  {"4", "oracle", "0.001", "0.00", "93.75", "88.00", "1", "reached", "50", "9.0"},
		"correct": {"4", "correct", "0.001", "0.00", "62.50", "60.00", "1", "reached", "12", "4.0"},
		// Three forget sets, of which that of seed 0 was scored by five methods.
		"before": {"4", "before", "", "100.00±0.00", "96.00±0.00", "90.00±0.00", "3", "-", "-", "-"},
	} {
		if diff := cmp.Diff(want, cells[method]); diff != "" {
			t.Errorf("%s: -want +got\n%s", method, diff)
		}
	}
	for method, want := range map[string]report.Best{
		"adv": {Forget: true}, "adv-imp": {Forget: true, Retain: true, Test: true}, "correct": {}, // the only one of its goal
		"oracle": {}, "neggrad": {}, "before": {}, // which read D_r, missed the goal once, forgot nothing
	} {
		if best[method] != want {
			t.Errorf("%s is the best in %+v, want %+v", method, best[method], want)
		}
	}
	if want := "Not in the table: 1 run not finished, 1 run of another command than forget and continual."; r.Left() != want {
		t.Errorf("left %q, want %q", r.Left(), want)
	}
}

func TestMethodName(t *testing.T) {
	for _, c := range []struct{ method, goal, want string }{
		{"adv", "misclassify", "adv"},
		{"neggrad", "relabel", "correct"},
		{"adv", "relabel", "correct-adv"},
		{"imp", "relabel", "correct-imp"},
		{"adv-imp", "relabel", "correct-adv-imp"},
		{"oracle", "relabel", "oracle"},
		{"rawp", "misclassify", "rawp (project definition)"},
	} {
		if got := report.MethodName(&run.Result{Method: c.method, Goal: c.goal}); got != c.want {
			t.Errorf("%s with goal %s: %q, want %q", c.method, c.goal, got, c.want)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	if _, err := report.Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no run folder in it or below it") {
		t.Errorf("an empty folder: %v", err)
	}
	if _, err := report.Load(filepath.Join(t.TempDir(), "absent")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no folder: %v", err)
	}
}

func TestGridCounts(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "cells", "a"), os.DirFS(runs+"/adv-0")); err != nil {
		t.Fatal(err)
	}
	grid := `{"schema":"unlearn.grid/1","name":"g","title":"A small grid","cells":[{"id":"a","folder":"cells/a"},{"id":"b","folder":"cells/b"}]}`
	if err := os.WriteFile(filepath.Join(dir, "grid.json"), []byte(grid), 0o644); err != nil {
		t.Fatal(err)
	}
	r := load(t, dir)
	if r.Title != "A small grid" || len(r.Runs) != 1 || r.Ahead != 1 || r.Left() != "Not in the table: 1 run not begun." {
		t.Errorf("title %q, %d runs, %d ahead, %q", r.Title, len(r.Runs), r.Ahead, r.Left())
	}
}

// The numbers of a grid's table are those of TestTable, with rows and columns as the grid wants them: those of adv are means over
// three seeds; the run of neggrad with seed 1 did not reach its goal; oracle with k = 16 has not begun.
func TestPivot(t *testing.T) {
	dir := gridOf(t, `"columns":["k"],"axes":[{"key":"method"},{"key":"goal"},{"key":"k"},{"key":"seed"}]`, []string{
		"oracle misclassify 4 0 oracle-0", "oracle misclassify 16 0 none",
		"neggrad misclassify 4 0 neggrad-0", "neggrad misclassify 4 1 neggrad-1", "neggrad misclassify 16 0 many-0",
		"neggrad relabel 4 0 correct-0", "adv misclassify 4 0 adv-0", "adv misclassify 4 1 adv-1", "adv misclassify 4 2 adv-2",
	})
	r := load(t, dir)
	if d := cmp.Diff([]string{"method", "k = 4: D_f %", "k = 4: D_r %", "k = 4: D_test %", "k = 16: D_f %", "k = 16: D_r %", "k = 16: D_test %"}, r.Pivot.Headers()); d != "" {
		t.Errorf("headers: -want +got\n%s", d)
	}
	var rows []string
	for _, row := range r.Pivot.Rows {
		rows = append(rows, strings.Join(r.Pivot.Texts(row, "±"), " | "))
	}
	if d := cmp.Diff([]string{
		"before | 100.00±0.00 | 96.00±0.00 | 90.00±0.00 | 100.00 (n = 1) | 96.00 | 90.00",
		"oracle | 0.00 (n = 1) | 93.75 | 88.00 | - | - | -",
		"neggrad | 12.50±158.83 † (n = 2) | 62.50±158.83 | 55.00±190.59 | 0.00 (n = 1) | 25.00 | 20.00",
		"correct | 0.00 (n = 1) | 62.50 | 60.00 | - | - | -",
		"adv | 0.00±0.00 | 87.50±0.00 | 82.00±4.97 | - | - | -",
	}, rows); d != "" {
		t.Errorf("rows: -want +got\n%s", d)
	}
	var parts []string
	for _, part := range r.Pivot.Parts(1) {
		parts = append(parts, strings.Join(part.Texts(part.Rows[2], "±"), " | "))
	}
	if d := cmp.Diff([]string{"neggrad | 12.50±158.83 † (n = 2) | 62.50±158.83 | 55.00±190.59", "neggrad | 0.00 (n = 1) | 25.00 | 20.00"}, parts); d != "" {
		t.Errorf("in parts: -want +got\n%s", d)
	}
	var tex, md strings.Builder
	if err := errors.Join(r.LaTeX(&tex), r.Markdown(&md)); err != nil {
		t.Fatal(err)
	}
	for form, want := range map[string][]string{
		tex.String(): {
			"\\begin{tabular}{lrrrrrr}\n\\toprule\n& \\multicolumn{3}{c}{k = 4} & \\multicolumn{3}{c}{k = 16} \\\\\n\\cmidrule(lr){2-4}\\cmidrule(lr){5-7}\n",
			"neggrad & 12.50 $\\pm$ 158.83 $\\dagger$ (n = 2) & 62.50", "% †: not every run reached its goal.",
		},
		md.String(): {"| oracle | 0.00 (n = 1) | 93.75 | 88.00 | - | - | - |\n", "| 4 | oracle | 0.00 | 93.75 |"},
		page(t, r):  {`<th scope="colgroup" colspan="3" class="group">k = 16</th>`, `<th scope="row">correct</th>`},
	} {
		for _, w := range want {
			if !strings.Contains(form, w) {
				t.Errorf("%q is not in\n%.3000s", w, form)
			}
		}
	}
	if p := load(t, runs).Pivot; p != nil {
		t.Errorf("runs without a grid are laid out as %+v", p)
	}
}

// Rows that began with other networks are a section of their own, with what was before above it; a key that is no column is one of rows.
func TestPivotSections(t *testing.T) {
	dir := gridOf(t, `"columns":["seed"],"axes":[{"key":"k"},{"key":"lr"},{"key":"seed"}]`, []string{
		"4 1e-3 0 adv-0", "16 1e-3 0 many-0", "16 5e-4 0 many-1",
	})
	p := load(t, dir).Pivot
	var rows []string
	for _, row := range p.Rows {
		rows = append(rows, strings.Join(row.Labels, " "))
	}
	if d := cmp.Diff([]string{"before ", "4 1e-3", "before ", "16 1e-3", "16 5e-4"}, rows); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// After \\ and \midrule, TeX takes a bracket or a star for theirs.
func TestLaTeXRowsBeginWithText(t *testing.T) {
	var tex strings.Builder
	if err := load(t, gridOf(t, `"columns":["k"],"axes":[{"key":"a"},{"key":"k"}]`, []string{"[2pt] 4 adv-0", "*x 4 adv-1"})).LaTeX(&tex); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\n{[}2pt] & ", "\n{*}x & "} {
		if !strings.Contains(tex.String(), want) {
			t.Errorf("%q is not in\n%s", want, &tex)
		}
	}
}

// A grid of a row and a column for each of many cells is a small file, and no table that anybody could read.
func TestPivotIsBounded(t *testing.T) {
	cells := make([]string, 400)
	for i := range cells {
		cells[i] = fmt.Sprintf("%d %d none", i, i)
	}
	about := `"columns":["b"],"axes":[{"key":"a"},{"key":"b"}]`
	if p := load(t, gridOf(t, about, cells)).Pivot; p != nil {
		t.Errorf("%d columns", len(p.Columns))
	}
	if p := load(t, gridOf(t, about, cells[:300])).Pivot; p == nil || len(p.Columns) != 300 {
		t.Errorf("300 columns: %v", p)
	}
}

// The images of later requests were scored first when a method had changed the network already: no row of before has their accuracy.
// Streams of other portions are other rows.
func TestStreamsHaveNoScoreOfBefore(t *testing.T) {
	dir := t.TempDir()
	for name, sizes := range map[string][2]int{"a": {2, 6}, "b": {4, 4}} {
		var requests []string
		for i, n := range sizes {
			scores := fmt.Sprintf(`{"forget":{"accuracy":0.5,"hits":%d,"n":%d},"retain":{"accuracy":0.9,"n":90},"test":{"accuracy":0.8,"n":10}}`, n/2, n)
			earlier := ""
			if i > 0 {
				earlier = fmt.Sprintf(`{"id":"r","accuracy":0.5,"hits":%d,"n":%d}`, sizes[0]/2, sizes[0])
			}
			requests = append(requests, fmt.Sprintf(`{"id":"r","images":%d,"outcome":"reached","settings":{"method":"adv","seed":0},"weights_before":"w%d","forget":"%s%d","before":%s,"after":%s,"earlier":[%s]}`, n, i, name, i, scores, scores, earlier))
		}
		text := `{"schema":"unlearn.continual/1","model":"m","dataset":"d","requests":[` + strings.Join(requests, ",") + `]}`
		if err := errors.Join(os.Mkdir(filepath.Join(dir, name), 0o755), os.WriteFile(filepath.Join(dir, name, "result.json"), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	table := load(t, dir).Table
	var rows []string
	for _, r := range table.Rows {
		rows = append(rows, strings.Join(table.Cells(r, "±")[:7], " | "))
	}
	if d := cmp.Diff([]string{"8 | before |  | - | 90.00±0.00 | 80.00±0.00 | 2", "8 | adv | 2+6 | 50.00 | 90.00 | 80.00 | 1", "8 | adv | 2 of 4 | 50.00 | 90.00 | 80.00 | 1"}, rows); d != "" {
		t.Errorf("%v: -want +got\n%s", table.Keys, d)
	}
}

// edit replaces a text of a file that has it.
func edit(t *testing.T, path, from, to string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(text, []byte(from)) {
		t.Fatalf("%s: %q is not in it (%v)", path, from, err)
	}
	if err := os.WriteFile(path, bytes.Replace(text, []byte(from), []byte(to), 1), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The best forgot most and kept most.
func TestBestIsLowestOnForgetSet(t *testing.T) {
	dir := gridOf(t, `"axes":[{"key":"method"}]`, []string{"adv adv-0", "neggrad neggrad-0"})
	edit(t, filepath.Join(dir, "cells", "adv-0", "result.json"), `"accuracy": 0,`, `"accuracy": 0.25,`)
	got := map[string]report.Best{}
	for _, r := range load(t, dir).Table.Rows {
		got[r.Method] = r.Best
	}
	if d := cmp.Diff(map[string]report.Best{"before": {}, "adv": {Retain: true, Test: true}, "neggrad": {Forget: true}}, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// A network that belongs to its seed makes no row of its own.
func TestPivotOfOwnNetworks(t *testing.T) {
	dir := gridOf(t, `"columns":["method"],"axes":[{"key":"method"},{"key":"weights"},{"key":"seed"}]`, []string{"adv a.pt 0 adv-0", "adv b.pt 1 adv-1"})
	for _, name := range []string{"adv-0", "adv-1"} {
		edit(t, filepath.Join(dir, "cells", name, "result.json"), "0123456789abcdef", strings.Repeat(name[4:], 16))
	}
	if p := load(t, dir).Pivot; len(p.Keys) != 0 || len(p.Rows) != 2 || p.Rows[1].Cells[0].N != 2 {
		t.Errorf("rows by %v: %+v", p.Keys, p.Rows)
	}
}

// A cell that failed before it had a run folder is told from one that nobody has begun, and its reason is told.
func TestFailedCells(t *testing.T) {
	dir := gridOf(t, `"axes":[{"key":"seed"}]`, []string{"0 adv-0", "1 none", "2 other"})
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "state"), 0o755),
		os.WriteFile(filepath.Join(dir, "state", "other.json"), []byte(`{"exit_code":2,"reason":"too\nmany"}`), 0o644)); err != nil {
		t.Fatal(err)
	}
	if got, want := load(t, dir).Left(), "Not in the table: 1 run not begun, 1 run that failed. The first that failed: too many."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Where goals are columns, a method is one row.
func TestPivotByGoals(t *testing.T) {
	p := load(t, gridOf(t, `"columns":["goal"],"axes":[{"key":"method"},{"key":"goal"}]`, []string{"neggrad misclassify neggrad-0", "neggrad relabel correct-0"})).Pivot
	var rows []string
	for _, row := range p.Rows {
		rows = append(rows, strings.Join(p.Texts(row, "±"), " | "))
	}
	if d := cmp.Diff([]string{"before | 100.00 | 96.00 | 90.00 | 100.00 | 96.00 | 90.00", "neggrad | 0.00 | 50.00 | 40.00 | 0.00 | 62.50 | 60.00"}, rows); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

// gridOf writes a grid whose cells are the values of its axes, in their order, and a run folder of the test data, or none.
func gridOf(t *testing.T, about string, cells []string) string {
	t.Helper()
	var g struct {
		Axes []struct{ Key string }
	}
	if err := json.Unmarshal([]byte("{"+about+"}"), &g); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var list []string
	for _, c := range cells {
		words := strings.Fields(c)
		name := words[len(words)-1]
		if _, err := os.Stat(runs + "/" + name); err == nil {
			if err := os.CopyFS(filepath.Join(dir, "cells", name), os.DirFS(runs+"/"+name)); err != nil {
				t.Fatal(err)
			}
		}
		labels := map[string]string{}
		for i, a := range g.Axes {
			labels[a.Key] = words[i]
		}
		text, err := json.Marshal(map[string]any{"id": name, "folder": "cells/" + name, "labels": labels})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, string(text))
	}
	grid := `{"schema":"unlearn.grid/1","name":"g",` + about + `,"cells":[` + strings.Join(list, ",") + `]}`
	if err := os.WriteFile(filepath.Join(dir, "grid.json"), []byte(grid), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What came of the claims of a grid stands in every form that people read, as text.
func TestClaims(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "cells", "a"), os.DirFS(runs+"/adv-0")); err != nil {
		t.Fatal(err)
	}
	grid := `{"schema":"unlearn.grid/1","name":"g","cells":[{"id":"a","folder":"cells/a"}],"checks":[
		{"claim":"every run reaches its goal","outcome":"held","source":"the paper","detail":["yes  1 run"]},
		{"claim":"adv > <b>neggrad</b>","outcome":"did not hold","detail":["NO   k=4 D_r: adv 0.5, neggrad 0.6"]},
		{"claim":"D_test 0.5 ± 0.1"},{"claim":"c","outcome":"*held*<i>"},{"order":"of a version that wrote no sentence"}]}`
	if err := os.WriteFile(filepath.Join(dir, "grid.json"), []byte(grid), 0o644); err != nil {
		t.Fatal(err)
	}
	r := load(t, dir)
	tally := "Of 4 claims: 1 held, 1 did not hold, 2 not decided. Decide with unlearn bench check."
	var md strings.Builder
	if err := r.Markdown(&md); err != nil {
		t.Fatal(err)
	}
	for form, want := range map[string][]string{
		strings.Join(r.ClaimLines(), "\n"): {tally, "  held          every run reaches its goal", "  did not hold  adv > <b>neggrad</b>", "  not decided   D_test"},
		md.String():                        {tally, "- **held**: every run reaches its goal (the paper)\n  - yes 1 run\n", "- **did not hold**: adv > &lt;b>neggrad&lt;/b>", "NO k=4 D_r: adv"},
		page(t, r):                         {tally, "<strong>did not hold</strong>: adv &gt; &lt;b&gt;neggrad", "<li>NO   k=4 D_r: adv 0.5, neggrad 0.6</li>", "the paper"},
	} {
		for _, w := range want {
			if !strings.Contains(form, w) {
				t.Errorf("%q is not in\n%.3000s", w, form)
			}
		}
	}
	if l := load(t, runs+"/adv-0").ClaimLines(); l != nil {
		t.Errorf("claims without a grid: %q", l)
	}
}

// A run that cannot be read is named and leaves the others alone, in a folder and in a grid; asked for by itself it is an error.
func TestBrokenRunIsNamed(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"adv-0", "adv-1"} {
		if err := os.CopyFS(filepath.Join(dir, "cells", name), os.DirFS(runs+"/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cells", "adv-1", "result.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		r := load(t, dir)
		if len(r.Runs) != 1 || !strings.Contains(r.Left(), "1 run that cannot be read. The first that cannot be read: "+filepath.Join(dir, "cells", "adv-1")) {
			t.Errorf("%d runs, %q", len(r.Runs), r.Left())
		}
	}
	check()
	grid := `{"schema":"unlearn.grid/1","name":"g","cells":[{"id":"a","folder":"cells/adv-0"},{"id":"b","folder":"cells/adv-1"}]}`
	if err := os.WriteFile(filepath.Join(dir, "grid.json"), []byte(grid), 0o644); err != nil {
		t.Fatal(err)
	}
	check()
	if _, err := report.Load(filepath.Join(dir, "cells", "adv-1")); err == nil {
		t.Error("a broken run alone is no error")
	}
}

// Where each seed has a network of its own, runs of one method are one row over both; where a network serves two seeds, none is.
func TestNetworkOfEachSeed(t *testing.T) {
	table := func(weights ...string) *report.Table {
		dir := t.TempDir()
		for i, w := range weights {
			run := filepath.Join(dir, strconv.Itoa(i))
			if err := os.CopyFS(run, os.DirFS(fmt.Sprintf("%s/adv-%d", runs, i))); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(filepath.Join(run, "result.json"))
			if err != nil {
				t.Fatal(err)
			}
			text = bytes.Replace(text, []byte("0123456789abcdef"), []byte(w), 1)
			if err := os.WriteFile(filepath.Join(run, "result.json"), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return load(t, dir).Table
	}
	rows := func(table *report.Table) (texts []string) {
		for _, r := range table.Rows {
			texts = append(texts, fmt.Sprintf("%s %d", r.Method, r.N))
		}
		return texts
	}
	own := table("aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc")
	if d := cmp.Diff([]string{"before 3", "adv 3"}, rows(own)); d != "" || slices.Contains(own.Keys, "weights") {
		t.Errorf("a network each: %s, columns %v", d, own.Keys)
	}
	if !slices.Contains(own.Notes(), "Each seed began with a network of its own.") {
		t.Errorf("notes %q", own.Notes())
	}
	shared := table("aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaa", "cccccccccccccccc")
	if d := cmp.Diff([]string{"before 2", "adv 2", "before 1", "adv 1"}, rows(shared)); d != "" || !slices.Contains(shared.Keys, "weights") {
		t.Errorf("two networks for three seeds: %s, columns %v", d, shared.Keys)
	}
}

// What is small of an analysis's numbers is on the page, in its order; what is large is not.
func TestNumbersOfAnalyses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.CopyFS(dir, os.DirFS(runs+"/adv-0")); err != nil {
		t.Fatal(err)
	}
	many := strings.TrimSuffix(strings.Repeat(`{"index":777777},`, 25), ",")
	text := `{"title":"A","data":{"zeta":3,"entropy_bits":1.23456789,"none":null,"points":[[1,2]],"many":[` + many + `],
		"splits":[{"split":"<forget>","n":4,"layers":[{"layer":"stem","cka":0.998404},{"layer":"head","cka":null}]}]}}`
	if err := os.WriteFile(filepath.Join(dir, "analyses", "labels.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	source := page(t, load(t, dir))
	parse(t, source)
	at := 0
	for _, want := range []string{
		"<tr><td>zeta</td><td>3</td></tr>", "<tr><td>entropy bits</td><td>1.235</td></tr>", "<tr><td>none</td><td>-</td></tr>",
		"<caption>splits</caption>", "<tr><td>&lt;forget&gt;</td><td>4</td></tr>", "<caption>&lt;forget&gt; 4, layers</caption>",
		`<th scope="col">layer</th><th scope="col">cka</th>`, "<tr><td>stem</td><td>0.9984</td></tr>", "<tr><td>head</td><td>-</td></tr>",
	} {
		next := strings.Index(source[at:], want)
		if next < 0 {
			t.Fatalf("%q is not on the page, or not in its place", want)
		}
		at += next
	}
	if strings.Contains(source, "777777") {
		t.Error("a long list is on the page")
	}
}

// hostile is a text that is markup everywhere.
const hostile = `</script><script>alert(1)</script>"'><img src=x onerror=alert(2)> | $x_1^2$ & \input{/etc/passwd} %`

// hostileRuns is a run folder whose names are markup.
func hostileRuns(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "runs")
	if err := os.CopyFS(dir, os.DirFS(runs+"/adv-0")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"result.json", "config.yaml", "predictions.json", "analyses/labels.json", "env.json", "argv.txt"} {
		path := filepath.Join(dir, name)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		quoted := strconv.Quote(hostile) // which is JSON and YAML as well
		changed := string(text)
		for _, old := range []string{`"adv"`, `"reached"`, `"resnet20"`, `"cat & dog"`, `"Predicted labels"`, `"Each bar is a class."`, `"a processor"`, `"Two bars of the same height"`} {
			changed = strings.Replace(changed, old, quoted, 1)
		}
		changed = strings.Replace(changed, "method: adv\n", "method: "+quoted+"\n", 1)
		if name == "argv.txt" {
			changed = hostile + "\n"
		}
		if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestHostileNamesStayText(t *testing.T) {
	r := load(t, hostileRuns(t))
	tree := parse(t, page(t, r))
	scripts := 0
	for n := range tree.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		if n.Data == "script" {
			scripts++
		}
		for _, a := range n.Attr {
			if strings.HasPrefix(a.Key, "on") {
				t.Errorf("<%s %s=%q>", n.Data, a.Key, a.Val)
			}
		}
		if n.Data == "img" && attribute(n, "src") == "x" {
			t.Error("an image was injected")
		}
	}
	if scripts != 1 {
		t.Errorf("%d scripts, where the page has one", scripts)
	}
	if got := text(find(tree, "h3")); !strings.Contains(got, hostile) {
		t.Errorf("the method is shown as %q", got)
	}
	if n := find(tree, "svg"); !strings.Contains(text(n), "</script>") {
		t.Errorf("the legend of the plot lacks the method: %q", text(n))
	}
	var b bytes.Buffer
	if err := r.LaTeX(&b); err != nil {
		t.Fatal(err)
	}
	want := `\textless{}/script\textgreater{}\textless{}script\textgreater{}alert(1)\textless{}/script\textgreater{}\textquotedbl{}'\textgreater{}\textless{}img src=x onerror=alert(2)\textgreater{} | \$x\_1\textasciicircum{}2\$ \& \textbackslash{}input\{/etc/passwd\} \%`
	if !strings.Contains(b.String(), want) {
		t.Errorf("LaTeX:\n%s", b.String())
	}
	b.Reset()
	if err := r.Markdown(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "<") || !strings.Contains(b.String(), `alert(2)> \| \$x\_1^2\$ &amp; \\input`) {
		t.Errorf("Markdown:\n%s", b.String())
	}
}

func TestSpreadsheetsSeeNoFormula(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "runs")
	if err := os.CopyFS(dir, os.DirFS(runs+"/adv-0")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "result.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.Replace(data, []byte(`"method": "adv"`), []byte(`"method": "=HYPERLINK(1)"`), 1)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := load(t, dir).Table.CSV(&b); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil || rows[2][1] != "'=HYPERLINK(1)" {
		t.Errorf("rows %q, %v", rows, err)
	}
}

// TestPage checks what every page must be: one file, well-formed, and usable without a mouse or eyes.
func TestPage(t *testing.T) {
	source := page(t, load(t, runs))
	tree := parse(t, source)
	ids := map[string]bool{}
	links := []string{}
	level, images, headers := 0, 0, 0
	for n := range tree.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		if id := attribute(n, "id"); id != "" {
			if ids[id] {
				t.Errorf("id %q stands twice", id)
			}
			ids[id] = true
		}
		for _, a := range n.Attr {
			switch a.Key {
			case "src", "href", "srcset", "action", "data", "poster", "xlink:href":
				if a.Key == "href" && strings.HasPrefix(a.Val, "#") {
					links = append(links, a.Val[1:])
				} else if !strings.HasPrefix(a.Val, "data:image/") {
					t.Errorf("<%s %s=%q> points out of the file", n.Data, a.Key, a.Val)
				}
			case "style":
				t.Errorf("<%s style=%q>: the page's own policy forbids it", n.Data, a.Val)
			}
		}
		switch n.Data {
		case "h1", "h2", "h3", "h4":
			if next := int(n.Data[1] - '0'); next > level+1 {
				t.Errorf("<%s> %q follows a heading of level %d", n.Data, text(n), level)
			} else {
				level = next
			}
		case "img":
			images++
			if attribute(n, "alt") == "" {
				t.Errorf("an image without alt: %.60s", attribute(n, "src"))
			}
		case "svg":
			if p := n.Parent; attribute(p, "role") != "img" || attribute(p, "aria-label") == "" {
				t.Error("a plot without words")
			}
		case "th":
			headers++
			if attribute(n, "scope") == "" {
				t.Errorf("<th> %q without scope", text(n))
			}
		case "link", "iframe", "object", "embed", "base", "form":
			t.Errorf("<%s> has no place here", n.Data)
		}
	}
	for _, l := range links {
		if !ids[l] {
			t.Errorf("a link to #%s, which is not there", l)
		}
	}
	if images != 7 || headers == 0 { // two forgotten images of three pictures each, and one analysis
		t.Errorf("%d images, %d headers", images, headers)
	}
	if regexp.MustCompile(`url\(|@import`).MatchString(source) {
		t.Error("the style loads something")
	}
	for _, want := range []string{
		"read images to forget 400 times, and no retained image", "unlearn forget --method adv -k 4 --seed 0 -o adv-0",
		"before cat &amp; dog (99.0 %)", "Every forgotten image is now called", "0123456789abcdef", "a processor", "retained images 640 times", "nan-guard off, utk-scale on",
	} {
		if !strings.Contains(source, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestPageIsTheSameEachTime(t *testing.T) {
	r := load(t, runs)
	first := page(t, r)
	if again := page(t, r); again != first || page(t, load(t, runs)) != first {
		t.Error("two pages of the same runs differ")
	}
}

// A picture that is none, or lies elsewhere, is left out.
func TestPicturesComeFromTheRunAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.CopyFS(dir, os.DirFS(runs+"/adv-0")); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(filepath.Dir(dir), "secret.png")
	png, err := os.ReadFile(runs + "/adv-0/analyses/labels.png")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secret, png, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"../../secret.png", secret, "../result.json", "absent.png"} {
		text := `{"title":"A","pictures":[{"file":` + strconv.Quote(file) + `,"alt":"outside"}]}`
		if err := os.WriteFile(filepath.Join(dir, "analyses", "labels.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(page(t, load(t, dir)), `alt="outside"`) {
			t.Errorf("%s is on the page", file)
		}
	}
}

func TestPlots(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "plots")
	if err := load(t, runs).WritePlots(dir); err != nil {
		t.Fatal(err)
	}
	for name, magic := range map[string]string{"tradeoff.png": "\x89PNG", "tradeoff.svg": "<?xml", "05-k4-adv-hits.svg": "<?xml", "05-k4-adv-accuracies.png": "\x89PNG"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.HasPrefix(data, []byte(magic)) {
			t.Errorf("%s: %.10q, %v", name, data, err)
		}
	}
}

// A curve of one point, as where hits were counted once, is to be seen: a line from it to itself is not.
func TestSinglePointIsMarked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.CopyFS(dir, os.DirFS(runs+"/adv-0")); err != nil {
		t.Fatal(err)
	}
	marks := func(lines string) int {
		if err := os.WriteFile(filepath.Join(dir, "metrics.jsonl"), []byte(lines), 0o644); err != nil {
			t.Fatal(err)
		}
		plots, err := load(t, dir).Plots()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range plots {
			if strings.HasSuffix(p.Name, "-hits") {
				svg, err := p.SVG()
				if err != nil {
					t.Fatal(err)
				}
				return bytes.Count(svg, []byte("fill:#2B83C4"))
			}
		}
		return 0
	}
	if n := marks(`{"phase":"unlearn","step":9,"values":{"hits":2}}` + "\n"); n != 1 {
		t.Errorf("%d marks of one point", n)
	}
}

// Numbers of a run that diverged, or that somebody made up, are drawn or left out.
func TestExtremeNumbersAreNoPanic(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.CopyFS(dir, os.DirFS(runs+"/adv-0")); err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for _, values := range []string{`1e308`, `-1e308`, `1e99`, `-1e99`, `5e-324`, `null`, `0`} {
		for _, step := range []string{"-5", "0", "9223372036854775807"} {
			lines.WriteString(`{"phase":"unlearn","step":` + step + `,"values":{"forget_loss":` + values + `,"hits":` + values + "}}\n")
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "metrics.jsonl"), []byte(lines.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	parse(t, page(t, load(t, dir)))
}

func parse(t *testing.T, source string) *html.Node {
	t.Helper()
	tree, err := html.Parse(strings.NewReader(source))
	if err != nil {
		t.Fatal(err)
	}
	balanced(t, source)
	return tree
}

// balanced wants every element closed in its order, which browsers would mend in silence.
func balanced(t *testing.T, source string) {
	t.Helper()
	void := []string{"meta", "input", "br", "img", "link"}
	var open []string
	tokens := html.NewTokenizer(strings.NewReader(source))
	for {
		switch tokens.Next() {
		case html.ErrorToken:
			if len(open) > 0 {
				t.Errorf("left open: %v", open)
			}
			return
		case html.StartTagToken:
			if name, _ := tokens.TagName(); !slices.Contains(void, string(name)) {
				open = append(open, string(name))
			}
		case html.EndTagToken:
			name, _ := tokens.TagName()
			if len(open) == 0 || open[len(open)-1] != string(name) {
				t.Fatalf("</%s> closes %v", name, open)
			}
			open = open[:len(open)-1]
		}
	}
}

func attribute(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

func find(tree *html.Node, name string) *html.Node {
	for n := range tree.Descendants() {
		if n.Type == html.ElementNode && n.Data == name {
			return n
		}
	}
	return nil
}

func text(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return b.String()
}
