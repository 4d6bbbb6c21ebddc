package results_test

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	_ "l2ul/unlearn/methods" // whose settings group runs
	"l2ul/unlearn/results"
)

const small = `{"schema":"unlearn.result/1","method":"adv","goal":"misclassify","outcome":"reached","steps":3,"seed":%SEED,
"forget":{"indices":[4,2]},"hashes":{"weights":"w","data":"d","config":"c"},"precision":"fp32","mode":"exact"}`

// write makes files below a new folder.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func result(seed string) string { return strings.ReplaceAll(small, "%SEED", seed) }

func open(t *testing.T, path string) *results.Run {
	t.Helper()
	r, err := results.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestOpenReadsFinishedRun(t *testing.T) {
	dir := write(t, map[string]string{
		"argv.txt":    "unlearn forget -k 2\nunlearn forget -k 2 --resume auto\n",
		"config.yaml": "method: adv\nseed: 7\nmean:\n- 0.1\n- 0.2\n",
		"env.json":    `{"platform":"linux/amd64","cores":2}`,
		"forget.json": `{"indices":[4,2],"labels":[1,0]}`,
		"result.json": result("7"),
	})
	r := open(t, dir)
	if r.Verb != "forget" || r.Seed() != 7 || r.K() != 2 || r.Forget.Steps != 3 || r.Environment.Cores != 2 {
		t.Errorf("read %+v", r)
	}
	if r.Setting("mean") != "0.1,0.2" || r.Value("k") != "2" || len(r.Commands) != 2 {
		t.Errorf("settings %v, commands %q", r.Settings, r.Commands)
	}
	if diff := cmp.Diff(&results.ForgetSet{Indices: []int64{4, 2}, Labels: []int{1, 0}}, r.Set); diff != "" {
		t.Error(diff)
	}
}

func TestOpenReadsRunAtWork(t *testing.T) {
	dir := write(t, map[string]string{
		"argv.txt":      "unlearn forget\n",
		"config.yaml":   "method: neggrad\nseed: 3\n",
		"metrics.jsonl": `{"event":"metric","time":"2026-01-02T03:04:05Z","phase":"unlearn","step":1,"values":{"loss":2.5}}` + "\n" + `{"event":"metric","time":"2026-01-02T03:04:06Z","phase":"unlearn","step":2,"values":{"loss":null}}` + "\n" + `{"event":"me`,
	})
	r := open(t, dir)
	if r.Verb != "forget" || r.Seed() != 3 || r.Result != nil || r.Forget != nil {
		t.Errorf("read %+v", r)
	}
	metrics, err := r.Metrics()
	if err != nil || len(metrics) != 2 || *metrics[0].Values["loss"] != 2.5 || metrics[1].Values["loss"] != nil {
		t.Errorf("metrics %v, %v", metrics, err)
	}
	last, err := r.Last()
	if err != nil || last.Step != 2 {
		t.Errorf("last %v, %v", last, err)
	}
}

func TestOpenOtherVerb(t *testing.T) {
	r := open(t, write(t, map[string]string{"result.json": `{"schema":"unlearn.train/1","seed":1}`}))
	if r.Verb != "train" || r.Forget != nil || r.Result == nil {
		t.Errorf("read %+v", r)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no run":           {map[string]string{"a": ""}, "is no run folder"},
		"no schema":        {map[string]string{"result.json": "{}"}, "result.json: it does not say its schema"},
		"no JSON":          {map[string]string{"result.json": "x"}, "result.json: invalid character"},
		"no method":        {map[string]string{"result.json": `{"schema":"unlearn.result/1"}`}, "names no method"},
		"labels":           {map[string]string{"argv.txt": "", "forget.json": `{"indices":[1],"labels":[]}`}, "forget.json: 1 images, 0 labels"},
		"configuration":    {map[string]string{"argv.txt": "", "config.yaml": "a: &x 1"}, "anchor"},
		"large":            {map[string]string{"argv.txt": strings.Repeat("x", 1<<20+1)}, "argv.txt: more than the 1048576 bytes"},
		"folder for a run": {map[string]string{"result.json": `{"schema":"unlearn.train/1"}`, "env.json/x": ""}, "env.json: not a file"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := results.Open(write(t, c.files)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestNothingOutsideIsRead(t *testing.T) {
	outside := write(t, map[string]string{"env.json": `{"platform":"secret"}`})
	dir := write(t, map[string]string{"argv.txt": "unlearn forget\n"})
	if err := os.Symlink(filepath.Join(outside, "env.json"), filepath.Join(dir, "env.json")); err != nil {
		t.Fatal(err)
	}
	if r, err := results.Open(dir); err == nil {
		t.Errorf("followed a link out of the folder: %+v", r.Environment)
	}
}

func TestPipeDoesNotBlock(t *testing.T) {
	dir := write(t, map[string]string{"argv.txt": "unlearn forget\n"})
	if err := syscall.Mkfifo(filepath.Join(dir, "result.json"), 0o644); err != nil {
		t.Skip(err)
	}
	if _, err := results.Open(dir); err == nil || !strings.Contains(err.Error(), "not a file") {
		t.Errorf("error %v", err)
	}
}

func TestFind(t *testing.T) {
	dir := write(t, map[string]string{
		"b/run2/argv.txt": "", "b/run1/result.json": "{}", "b/run1/cells/x/argv.txt": "", "a/argv.txt": "",
		".hidden/argv.txt": "", "c/note.txt": "", "d/e/f/g/h/i/j/argv.txt": "",
	})
	if err := os.Symlink(filepath.Join(dir, "a"), filepath.Join(dir, "linked")); err != nil {
		t.Fatal(err)
	}
	found, err := results.Find(dir)
	want := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b", "run1"), filepath.Join(dir, "b", "run2")}
	if err != nil || !cmp.Equal(want, found) {
		t.Errorf("found %v (%v), want %v", found, err, want)
	}
}

func TestGrid(t *testing.T) {
	dir := write(t, map[string]string{
		"grid.json": `{"schema":"unlearn.grid/1","name":"small","axes":[{"key":"method","values":["adv"]},{"key":"k","values":[2,4]}],
			"rows":["method"],"columns":["k"],"cells":[
			{"id":"1","labels":{"method":"adv","k":2},"folder":"cells/1"},{"id":"2","labels":{"method":"adv","k":"4"},"folder":"cells/2"}]}`,
		"cells/1/argv.txt": "", "cells/1/result.json": result("0"),
	})
	g, err := results.OpenGrid(dir)
	if err != nil {
		t.Fatal(err)
	}
	if g.Axes[0].Values[0] != "adv" || g.Axes[1].Values[1] != "4" || g.Cells[0].Labels["k"] != "2" || g.Cells[1].Labels["k"] != "4" {
		t.Errorf("axes %v, cells %v", g.Axes, g.Cells)
	}
	done, err := g.Run(g.Cells[0])
	if err != nil || done == nil || done.Forget.Method != "adv" || done.Path != filepath.Join(dir, "cells", "1") {
		t.Errorf("cell 1: %+v, %v", done, err)
	}
	if waits, err := g.Run(g.Cells[1]); err != nil || waits != nil {
		t.Errorf("cell 2, which has not begun: %+v, %v", waits, err)
	}
	if _, err := results.OpenGrid(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder without grid: %v", err)
	}
	for _, folder := range []string{"../out", "/etc", "cells/../../out", "", "."} {
		bad := write(t, map[string]string{"grid.json": `{"schema":"unlearn.grid/1","cells":[{"folder":"` + folder + `"}]}`})
		if _, err := results.OpenGrid(bad); err == nil || !strings.Contains(err.Error(), "no folder below") {
			t.Errorf("folder %q: error %v", folder, err)
		}
	}
}

func TestGroups(t *testing.T) {
	run := func(seed, config string) *results.Run {
		return open(t, write(t, map[string]string{"argv.txt": "", "config.yaml": config + "seed: " + seed + "\n", "result.json": result(seed)}))
	}
	one := run("1", "method: adv\nlr: 0.1\nkeep: 2\n")
	zero := run("0", "lr: 0.1\nmethod: adv\nkeep: 5\n") // keep cannot change a result, nor can the order
	other := run("0", "method: adv\nlr: 0.2\n")
	groups, err := results.Repeats([]*results.Run{one, other, zero})
	if err != nil || len(groups) != 2 || len(groups[0].Runs) != 2 || groups[0].Runs[0] != zero || groups[1].Runs[0] != other {
		t.Errorf("repeats: %+v, %v", groups, err)
	}
	by := results.GroupBy([]*results.Run{one, other, zero}, "method", "k")
	if len(by) != 1 || !cmp.Equal(by[0].Values, []string{"adv", "2"}) || len(by[0].Runs) != 3 {
		t.Errorf("by method and k: %+v", by)
	}
}

// The quantiles are those of printed tables (for example the NIST handbook, 1.3.6.7.2).
func TestStat(t *testing.T) {
	for n, quantile := range map[int]float64{2: 12.706, 3: 4.303, 4: 3.182, 6: 2.571, 11: 2.228, 31: 2.042, 101: 1.984, 100001: 1.960} {
		values := make([]float64, n)
		for i := range values {
			values[i] = float64(i)
		}
		s := results.Summarize(values)
		variance := float64(n) * float64(n+1) / 12 // of 0 … n-1, with n - 1
		if math.Abs(s.Mean-float64(n-1)/2) > 1e-9*float64(n) || math.Abs(s.SD-math.Sqrt(variance)) > 1e-9*float64(n) {
			t.Errorf("n = %d: mean %v, sd %v, want %v, %v", n, s.Mean, s.SD, float64(n-1)/2, math.Sqrt(variance))
		}
		if got := s.Half * math.Sqrt(float64(n)) / s.SD; math.Abs(got-quantile) > 6e-4 {
			t.Errorf("n = %d: quantile %v, want %v", n, got, quantile)
		}
	}
	if s := results.Summarize([]float64{3}); s.Mean != 3 || !math.IsNaN(s.SD) || !math.IsNaN(s.Half) {
		t.Errorf("one value: %+v", s)
	}
	if s := results.Summarize([]float64{2, 2, 2}); s.SD != 0 || s.Half != 0 {
		t.Errorf("equal values: %+v", s)
	}
}

// FuzzOpen reads folders whose files are anything.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(result("1")), []byte("method: adv\n"), []byte(`{"phase":"unlearn","step":1,"values":{"loss":1}}`+"\n"), []byte(`{"schema":"unlearn.grid/1","cells":[{"folder":"."}]}`))
	f.Fuzz(func(t *testing.T, result, config, metrics, grid []byte) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{"argv.txt": nil, "result.json": result, "config.yaml": config, "metrics.jsonl": metrics, "grid.json": grid} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := results.Open(dir); err == nil {
			_, _ = r.Metrics()
			_, _ = r.Last()
			_, _ = results.Repeats([]*results.Run{r})
		}
		if g, err := results.OpenGrid(dir); err == nil {
			for _, c := range g.Cells {
				_, _ = g.Run(c)
			}
		}
	})
}
