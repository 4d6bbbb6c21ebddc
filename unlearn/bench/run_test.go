package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"l2ul/unlearn/results"
	"l2ul/unlearn/run"
)

const threeCells = "base: {model: resnet20, dataset: shapes, k: 2}\nmatrix: {method: [neggrad], seed: [0, 1, 2]}"

// folder makes the folder of a grid, and the results of its cells: hash is that of their configuration.
func folder(t *testing.T, grid string, result func(c *Cell) string) (dir string, cells []Cell) {
	t.Helper()
	g, err := Parse("grid", []byte(grid))
	if err != nil {
		t.Fatal(err)
	}
	if cells, err = g.Cells(Sources{Catalog: catalog(t)}); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "grid")
	if err := Prepare(dir, g.Index(cells)); err != nil {
		t.Fatal(err)
	}
	for i := range cells {
		if text := result(&cells[i]); text != "" {
			write(t, filepath.Join(dir, cellsName, cells[i].ID, "result.json"), text)
		}
	}
	return dir, cells
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// result is a result.json of a cell.
func result(c *Cell, outcome string, retain, test, success float64) string {
	return fmt.Sprintf(`{"schema":"unlearn.result/1","method":"m","goal":"misclassify","outcome":%q,"steps":7,"goal_hits":1,"seconds":{"total":10},
		"before":{"forget":{"accuracy":1},"retain":{"accuracy":1},"test":{"accuracy":0.9}},"after":{"forget":{"accuracy":0},"retain":{"accuracy":%g},"test":{"accuracy":%g}},
		"attack":{"success":%g},"forget":{"indices":[4,2]},"hashes":{"config":%q}}`, outcome, retain, test, success, c.Config.Hash())
}

// Cells end in every way: the script in place of our program is told by the seed what to do.
func TestRunner(t *testing.T) {
	none := func(*Cell) string { return "" }
	for name, c := range map[string]struct {
		script string
		want   []What
		reason string
	}{
		"well":                  {`finish`, []What{Started, Done}, ""},
		"at a cap":              {`finish; exit 3`, []What{Started, Done}, ""},
		"killed once":           {`[ -e "$out/tried" ] && finish && exit 0; touch "$out/tried"; kill -9 $$`, []What{Started, Again, Done}, ""},
		"stopped from outside":  {`[ -e "$out/tried" ] && finish && exit 0; touch "$out/tried"; exit 75`, []What{Started, Again, Done}, ""},
		"killed every time":     {`kill -9 $$`, []What{Started, Again, Again, Failed}, "ended by a signal (killed), as systems do that are out of memory"},
		"a wrong input":         {`echo '{"level":"info"}' >&2; echo "unlearn: no such weights" >&2; exit 4`, []What{Started, Failed}, "no such weights"},
		"a crash":               {`printf 'panic: oh\n\ngoroutine 1\n' >&2; exit 2`, []What{Started, Failed}, "panic: oh"},
		"without a word":        {`exit 1`, []What{Started, Failed}, "said nothing"},
		"well without a result": {`exit 0`, []What{Started, Failed}, "without writing a result"},
		"another's result":      {`hash=0; finish`, []What{Started, Failed}, "without writing a result"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, cells := folder(t, strings.Replace(threeCells, "0, 1, 2", "0", 1), none)
			program := filepath.Join(t.TempDir(), "program")
			write(t, program, `#!/bin/sh
while [ "$1" != -o ]; do shift; done
out=$2 hash=`+cells[0].Config.Hash()+`
mkdir -p "$out"
finish() { echo '{"schema":"unlearn.result/1","method":"m","outcome":"cap","goal_hits":1,"hashes":{"config":"'$hash'"}}' > "$out/result.json"; }
`+c.script+"\n")
			var got []What
			r := Runner{Dir: dir, Program: program, Cells: cells, Watch: func(e Event) { got = append(got, e.What) }}
			failures, err := r.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
			stored := failed(dir, cells[0].ID)
			if d := cmp.Diff(failures[cells[0].ID], stored); d != "" {
				t.Errorf("stored:\n%s", d)
			}
			if (stored == nil) != (c.reason == "") || stored != nil && !strings.Contains(stored.Reason, c.reason) {
				t.Errorf("failure %v, want %q", stored, c.reason)
			}
			s, err := Status(dir)
			if err != nil || s.Done != 1-len(failures) || len(s.Failed) != len(failures) || s.Left+len(s.Running) != 0 {
				t.Errorf("status %+v, %v", s, err)
			}
		})
	}
}

// Who stops the grid stops its processes, and waits for them.
func TestRunnerStops(t *testing.T) {
	dir, cells := folder(t, threeCells, func(*Cell) string { return "" })
	program := filepath.Join(t.TempDir(), "program")
	write(t, program, `#!/bin/sh
while [ "$1" != -o ]; do shift; done
mkdir -p "$2"
trap 'touch "$2/saved"; exit 75' TERM
touch "$2/begun"
while :; do sleep 0.05; done
`)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	r := Runner{Dir: dir, Program: program, Cells: cells, Jobs: 2, Watch: func(Event) {}}
	go func() {
		for {
			if begun, _ := filepath.Glob(filepath.Join(dir, cellsName, "*", "begun")); len(begun) == 2 {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if s, err := Status(dir); err != nil || len(s.Running) != 2 || s.Left != 1 {
			t.Errorf("status %+v, %v", s, err)
		}
		cancel(stop)
	}()
	if _, err := r.Run(ctx); !errors.Is(err, stop) {
		t.Errorf("error %v", err)
	}
	if saved, _ := filepath.Glob(filepath.Join(dir, cellsName, "*", "saved")); len(saved) != 2 {
		t.Errorf("%d processes saved", len(saved))
	}
	if s, err := Status(dir); err != nil || s.Left != 3 {
		t.Errorf("status %+v, %v", s, err)
	}
}

// The sd and the interval are those that a table gives: t(0.975, 2) = 4.303.
func TestSummarize(t *testing.T) {
	test := map[string]float64{"0": 0.5, "1": 0.6, "2": 0.7}
	dir, _ := folder(t, threeCells, func(c *Cell) string {
		seed, _ := c.Labels.Get("seed")
		return result(c, "reached", 0.25, test[seed[0]], 1)
	})
	s, err := Summarize(dir)
	if err != nil || len(s.Groups) != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
	g := s.Groups[0]
	near := func(name string, got run.Number, want float64) {
		if math.Abs(float64(got)-want) > 1e-4 {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	near("mean", g.After.Test.Mean, 0.6)
	near("sd", g.After.Test.SD, 0.1)
	near("half width", g.After.Test.Half, 4.303*0.1/math.Sqrt(3))
	near("sd of equals", g.After.Retain.SD, 0)
	near("before", g.Before.Test.Mean, 0.9)
	if g.N != 3 || g.Cells != 3 || g.Outcomes["reached"] != 3 || g.Steps.Mean != 7 || labelText(g.Labels) != "method=neggrad" {
		t.Errorf("%+v", g)
	}
	text, err := os.ReadFile(filepath.Join(dir, summaryName))
	if err != nil || strings.Contains(string(text), "seconds") {
		t.Errorf("summary.json has times, or is not there: %v", err)
	}
}

// A network for each seed belongs to the seed; two for one seed are a setting like others.
func TestSummarizeNetworksOfSeeds(t *testing.T) {
	for include, want := range map[string]string{
		"{seed: 0, weights: a}, {seed: 1, weights: b}, {seed: 2, weights: c}": "method=neggrad",
		"{seed: 0, weights: a}, {seed: 1, weights: a}, {seed: 2, weights: c}": "method=neggrad weights=a|method=neggrad weights=c",
	} {
		dir, _ := folder(t, threeCells+"\ninclude: ["+include+"]", func(c *Cell) string { return result(c, "reached", 0.25, 0.5, 1) })
		s, err := Summarize(dir)
		if err != nil {
			t.Fatal(err)
		}
		var labels []string
		for _, g := range s.Groups {
			labels = append(labels, labelText(g.Labels))
		}
		if got := strings.Join(labels, "|"); got != want {
			t.Errorf("%s: %s, want %s", include, got, want)
		}
	}
}

// Each claim, on numbers on which it holds and on numbers on which it does not.
func TestVerify(t *testing.T) {
	const grid = `
base: {model: resnet20, dataset: shapes}
matrix: {method: [neggrad, adv, adv-imp], k: [2, 16], seed: [0, 1]}
`
	// accuracy on D_r and D_test by method and k: the seeds lie 0.01 either way
	good := map[string]float64{"neggrad 2": 0.4, "neggrad 16": 0.3, "adv 2": 0.6, "adv 16": 0.5, "adv-imp 2": 0.8, "adv-imp 16": 0.7}
	for name, c := range map[string]struct {
		check  string
		change func(of map[string]float64, outcome map[string]string)
		want   Verdict
		detail string
	}{
		"reached":                   {"reached: true", nil, Held, "yes  12 runs"},
		"not reached":               {"reached: true", func(_ map[string]float64, o map[string]string) { o["adv 16"] = "cap" }, Broken, "NO   k=16 method=adv seed=0: cap after 7 steps, 1 of 2 images keep their label"},
		"not meant":                 {"reached: true, where: {method: [neggrad, adv-imp]}", func(_ map[string]float64, o map[string]string) { o["adv 16"] = "cap" }, Held, "yes  8 runs"},
		"order":                     {"order: adv-imp > adv > neggrad", nil, Held, "yes  k=16 D_test: adv-imp 0.7000 (sd 0.0141), adv 0.5000 (sd 0.0141), neggrad 0.3000 (sd 0.0141)"},
		"order the other way":       {"order: adv > adv-imp", nil, Broken, "NO   k=2 D_r: adv 0.6000 (sd 0.0141), adv-imp 0.8000 (sd 0.0141)"},
		"order of equals":           {"order: adv-imp > adv", func(a map[string]float64, _ map[string]string) { a["adv 2"] = 0.8 }, Broken, "NO   k=2 D_r"},
		"half is not often":         {"order: adv-imp > adv, often: true", func(a map[string]float64, _ map[string]string) { a["adv 2"] = 0.9 }, Broken, "NO   k=2 D_r"},
		"order of the absent":       {"order: adv-imp > oracle", nil, Unknown, "nothing in the grid"},
		"falls":                     {"falls-with: k", nil, Held, "yes  method=adv D_r: k=2 0.6000 (sd 0.0141), k=16 0.5000 (sd 0.0141)"},
		"rises":                     {"falls-with: k", func(a map[string]float64, _ map[string]string) { a["adv 16"] = 0.61 }, Broken, "NO   method=adv D_test"},
		"falls with one value":      {"falls-with: k, where: {k: 2}", nil, Unknown, "fewer than two values of k"},
		"falls with nothing":        {"falls-with: lr", nil, Unknown, "fewer than two values of lr"},
		"success":                   {"attack-success: 0.95", nil, Held, "yes  k=2 method=adv: 0.9600"},
		"less success":              {"attack-success: 0.97", nil, Broken, "NO   k=2 method=adv: 0.9600"},
		"reads":                     {"no-retain-reads: true", nil, Held, "yes  12 runs"},
		"reference":                 {"reference: {of: test, value: 0.72, tolerance: 0.021}, where: {method: adv-imp, k: 16}, source: s", nil, Held, "yes  k=16 method=adv-imp: 0.7000"},
		"reference missed":          {"reference: {of: test, value: 0.72, tolerance: 0.019}, where: {method: adv-imp, k: 16}, source: s", nil, Broken, "NO   k=16 method=adv-imp: 0.7000"},
		"reference of retain":       {"reference: {of: retain, value: 0.7, tolerance: 1e-9}, where: {method: adv-imp, k: 16}, source: s", nil, Held, "yes"},
		"reference of forget":       {"reference: {of: forget, value: 0.7, tolerance: 0.6}, source: s", nil, Broken, "NO"},
		"no such cell":              {"reached: true, where: {method: oracle}", nil, Unknown, "no cell of the grid is meant"},
		"results are missing":       {"reached: true", func(_ map[string]float64, o map[string]string) { o["adv 2"] = "" }, Unknown, "2 of 12 cells have no result"},
		"missing, yet decided":      {"reached: true", func(_ map[string]float64, o map[string]string) { o["adv 2"], o["adv 16"] = "", "cap" }, Broken, "NO   k=16 method=adv seed=0: cap after 7 steps, 1 of 2 images keep their label\nNO   k=16 method=adv seed=1: cap after 7 steps, 1 of 2 images keep their label\n2 of 12 cells have no result"},
		"order, the third missing":  {"order: adv-imp > adv > neggrad", func(a map[string]float64, o map[string]string) { o["neggrad 2"], a["adv 2"] = "", 0.9 }, Broken, "NO   k=2 D_r: adv-imp 0.8000 (sd 0.0141), adv 0.9000 (sd 0.0141)\n"},
		"order, one of two missing": {"order: adv-imp > adv", func(_ map[string]float64, o map[string]string) { o["adv 2"] = "" }, Unknown, "yes  k=16 D_test: adv-imp"},
		"nothing yet":               {"order: adv-imp > adv", func(_ map[string]float64, o map[string]string) { clear(o) }, Unknown, "12 of 12 cells have no result"},
		"often, some missing":       {"order: adv > adv-imp, often: true", func(_ map[string]float64, o map[string]string) { o["adv 2"] = "" }, Unknown, "NO   k=16 D_r: adv 0.5"},
		"success, some missing":     {"attack-success: 0.97", func(_ map[string]float64, o map[string]string) { o["adv 2"] = "" }, Broken, "NO   k=16 method=adv: 0.9600"},
		"reference, some missing":   {"reference: {of: test, value: 0.1, tolerance: 0.1}, source: s", func(_ map[string]float64, o map[string]string) { o["adv 2"] = "" }, Broken, "NO   k=16 method=adv: 0.5000"},
		"falls, one missing":        {"falls-with: k", func(_ map[string]float64, o map[string]string) { o["adv 2"] = "" }, Unknown, "yes  method=neggrad D_r: k=2"},
		"rises, others missing":     {"falls-with: k", func(a map[string]float64, o map[string]string) { o["adv 2"], a["neggrad 16"] = "", 0.5 }, Broken, "NO   method=neggrad D_test"},
		"missing, and not meant":    {"order: adv-imp > neggrad, where: {k: 16}", func(_ map[string]float64, o map[string]string) { o["adv 2"] = "" }, Held, "yes"},
	} {
		t.Run(name, func(t *testing.T) {
			accuracy, outcome := map[string]float64{}, map[string]string{}
			for key, a := range good {
				accuracy[key], outcome[key] = a, "reached"
			}
			if c.change != nil {
				c.change(accuracy, outcome)
			}
			dir, _ := folder(t, grid+"checks:\n  - {"+c.check+"}\n", func(cell *Cell) string {
				method, _ := cell.Labels.Get("method")
				k, _ := cell.Labels.Get("k")
				seed, _ := cell.Labels.Get("seed")
				key := method[0] + " " + k[0]
				if outcome[key] == "" {
					return ""
				}
				a := accuracy[key] + map[string]float64{"0": 0.01, "1": -0.01}[seed[0]]
				return result(cell, outcome[key], a, a, 0.96)
			})
			checks, err := Verify(dir)
			if want := map[Verdict]int{Held: 0, Broken: run.ExitOutside, Unknown: run.ExitInput}[c.want]; run.ExitCode(err) != want {
				t.Errorf("exit code %d, want %d: %v", run.ExitCode(err), want, err)
			}
			if len(checks) != 1 || checks[0].Outcome != c.want || !strings.Contains(strings.Join(checks[0].Detail, "\n"), c.detail) {
				t.Errorf("%+v, want %s with %q", checks, c.want, c.detail)
			}
			g, err := results.OpenGrid(dir)
			if err != nil {
				t.Fatal(err)
			}
			if claims, err := g.Claims(); err != nil || len(claims) != 1 || claims[0].Claim != checks[0].Claim() || claims[0].Outcome != string(c.want) {
				t.Errorf("in grid.json: %+v, %v", claims, err)
			}
			again, _ := Verify(dir)
			if d := cmp.Diff(checks, again); d != "" {
				t.Errorf("read back and decided again:\n%s", d)
			}
		})
	}
}

// The numbers are worked out by hand from the definitions of the options.
func TestPlan(t *testing.T) {
	dir, cells := folder(t, `
base: {model: resnet20, dataset: shapes, max-passes: 10, iters: 5, num-adv: 3, adv-batch: 4, forget-batch: 2, retain-batch: 8, epochs: 2, train-batch: 50}
matrix: {method: [neggrad, adv, adv-imp, oracle, rawp, retrain], k: [4]}`, func(c *Cell) string {
		if m, _ := c.Labels.Get("method"); m[0] == "adv" {
			return result(c, "reached", 1, 1, 1) // after 7 steps
		}
		return ""
	})
	want := map[string]load{
		"neggrad": {step: 2, usual: 20, most: 20},                          // 2 slices a pass
		"adv":     {pairs: 12, iters: 5, step: 4 + 2, usual: 30, most: 30}, // 3 slices
		"adv-imp": {pairs: 12, iters: 5, step: 4 + 2, usual: 30, most: 30}, //
		"oracle":  {step: 8 + 2, usual: 120, most: 120},                    // of 96 images
		"rawp":    {forward: 4, usual: 24.5, most: 49},                     // rungs
		"retrain": {step: 50, usual: 4, most: 4},                           // of 100 images
	}
	sets := map[string]bool{}
	for _, c := range cells {
		got := loadOf(&c, 100)
		if got.set != "" {
			sets[got.set] = true
		}
		w := want[got.method]
		w.method, w.set, w.times = got.method, got.set, 1
		if got != w {
			t.Errorf("%s: %+v, want %+v", got.method, got, w)
		}
	}
	if len(sets) != 1 {
		t.Errorf("%d adversarial sets, which two cells share", len(sets))
	}
	e := Plan(cells, dir, &run.Speed{Attack: 1, Step: 10, Score: 100, Start: 3, Scored: 2, Train: 100})
	if e.Runs != 6 || e.Done != 1 || e.Recorded != 1 || e.Sets != 1 || e.Pairs != 12 || e.Attack != 12*5 || e.Scores != 5*2*100 || e.Start != 5*3 {
		t.Errorf("%+v", e)
	}
	if usual, most := 10*(2*20+6*30+10*120+50*4)+100*4*24.5, 10*(2*20+6*30+10*120+50*4)+100*4*49.; e.Steps != usual || e.Most != most {
		t.Errorf("steps %g, at most %g, want %g, %g", e.Steps, e.Most, usual, most)
	}
	if p := Probed(cells); p == nil || loadOf(p, usualTraining).method != "oracle" {
		t.Errorf("probed %v", p)
	}
}

// Who writes about the whole grid waits for whoever does.
func TestGridHasOneWriter(t *testing.T) {
	dir, _ := folder(t, threeCells, func(*Cell) string { return "" })
	for name, do := range map[string]func() error{
		"Summarize": func() error { _, err := Summarize(dir); return err },
		"Decide":    func() error { _, err := Decide(dir); return err },
	} {
		ended := make(chan error, 1)
		if err := alone(dir, func() error {
			go func() { ended <- do() }()
			select {
			case err := <-ended:
				return fmt.Errorf("it did not wait: %w", err)
			case <-time.After(200 * time.Millisecond):
				return nil
			}
		}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A stream computes all for each of its requests, and shares no adversarial examples. The numbers are worked out as in TestPlan.
func TestPlanOfStreams(t *testing.T) {
	dir, cells := folder(t, `
continual: {requests: 2, size: 4}
base: {model: resnet20, dataset: shapes, max-passes: 10, iters: 5, num-adv: 3, adv-batch: 4, forget-batch: 2}
matrix: {method: [neggrad, adv], lr: [0.1, 0.2]}`, func(c *Cell) string {
		if c.Labels.String() != "method=neggrad lr=0.1" {
			return ""
		}
		request := func(steps int) string {
			const scores = `{"forget":{"accuracy":0}}`
			return fmt.Sprintf(`{"outcome":"reached","steps":%d,"settings":{"method":"neggrad"},"before":%s,"after":%s}`, steps, scores, scores)
		}
		return `{"schema":"unlearn.continual/1","requests":[` + request(3) + "," + request(4) + `]}`
	})
	e := Plan(cells, dir, &run.Speed{Attack: 1, Step: 10, Score: 100, Start: 3, Scored: 2, Train: 100})
	if e.Runs != 4 || e.Done != 1 || e.Sets != 2 || e.Pairs != 2*2*12 || e.Attack != 2*2*12*5 || e.Scores != 3*(2+1)*2*100 || e.Start != 3*3 {
		t.Errorf("%+v", e)
	}
	if usual, most := 10*(2*3.5*2+2*2*30*6), 10*(2*20*2+2*2*30*6.); e.Steps != usual || e.Most != most {
		t.Errorf("steps %g, at most %g, want %g, %g", e.Steps, e.Most, usual, most)
	}
}

// Whoever decides the checks has read the index, and writes it again: nobody changes it meanwhile.
func TestPrepareWaitsForOthers(t *testing.T) {
	dir, cells := folder(t, threeCells, func(*Cell) string { return "" })
	g := &Grid{Name: "grid"}
	ended := make(chan error)
	if err := alone(dir, func() error {
		go func() { ended <- Prepare(dir, (&Grid{}).Index(cells)) }()
		select {
		case err := <-ended:
			return fmt.Errorf("it did not wait: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
		return run.WriteJSON(filepath.Join(dir, indexName), g.Index(cells)) // that of another grid
	}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; run.ExitCode(err) != run.ExitUsage {
		t.Errorf("it wrote over the index of another grid: %v", err)
	}
}

// Processes begin at once, and one is killed before it has written the index: the folder is a grid's all the same.
func TestPrepareGoesOn(t *testing.T) {
	for name, ok := range map[string]bool{"cells/a": true, "state/grid.lock": true, ".grid.json123": true, "grid.yaml": false, "cells.json": false} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, name), "")
		if err := Prepare(dir, (&Grid{}).Index(nil)); (err == nil) != ok {
			t.Errorf("a folder with %s: %v", name, err)
		}
	}
}

// A stream whose record does not verify has failed, whatever its result says, in the summary and for claims as well.
func TestFailedCellsDoNotCount(t *testing.T) {
	dir, cells := folder(t, threeCells+"\nchecks: [{reached: true}]", func(c *Cell) string { return result(c, "reached", 1, 1, 1) })
	if err := run.WriteJSON(statePath(dir, cells[0].ID, ".json"), Failure{run.ExitInput, "its deletion record"}); err != nil {
		t.Fatal(err)
	}
	if s, err := Summarize(dir); err != nil || len(s.Groups) != 1 || s.Groups[0].N != 2 || s.Groups[0].Cells != 3 {
		t.Errorf("%+v, %v", s, err)
	}
	if checks, err := Decide(dir); err != nil || checks[0].Outcome != Unknown {
		t.Errorf("%+v, %v", checks, err)
	}
}

// Where nothing is left to retain there is no accuracy on it, and a number for it neither holds nor fails.
func TestReferenceOfNothing(t *testing.T) {
	dir, _ := folder(t, threeCells+"\nchecks: [{reference: {of: retain, value: 0.5, tolerance: 0.5}, source: s}]", func(c *Cell) string {
		return strings.ReplaceAll(result(c, "reached", 1, 1, 1), `"retain":{"accuracy":1},`, "")
	})
	checks, err := Decide(dir)
	if err != nil || checks[0].Outcome != Unknown || checks[0].Claim() != "D_r 0.5 ± 0.5" || strings.Join(checks[0].Detail, "") != "no cell has that accuracy" {
		t.Errorf("%+v, %v", checks, err)
	}
}

// A cell that failed, and that somebody finished since, is done.
func TestRunnerForgetsFailures(t *testing.T) {
	dir, cells := folder(t, threeCells, func(c *Cell) string { return result(c, "reached", 1, 1, 1) })
	if err := run.WriteJSON(statePath(dir, cells[0].ID, ".json"), Failure{1, "once"}); err != nil {
		t.Fatal(err)
	}
	if s, err := Status(dir); err != nil || s.Done != 2 || len(s.Failed) != 1 {
		t.Errorf("before: %+v, %v", s, err)
	}
	r := Runner{Dir: dir, Program: "/nonexistent", Cells: cells, Watch: func(Event) {}}
	if failures, err := r.Run(t.Context()); err != nil || len(failures) != 0 {
		t.Errorf("%v, %v", failures, err)
	}
	if s, err := Status(dir); err != nil || s.Done != 3 || len(s.Failed) != 0 {
		t.Errorf("after: %+v, %v", s, err)
	}
}

// Two cells are left. The latest five that are done took 10 seconds each; what older ones took does not count.
func TestStatusGoesByTheLatestCells(t *testing.T) {
	dir, cells := folder(t, strings.Replace(threeCells, "0, 1, 2", "0, 1, 2, 3, 4, 5, 6, 7, 8", 1), func(c *Cell) string {
		switch seed, _ := c.Labels.Get("seed"); seed[0] {
		case "7", "8":
			return ""
		case "0", "1":
			return strings.Replace(result(c, "reached", 1, 1, 1), `"total":10`, `"total":1000`, 1)
		}
		return result(c, "reached", 1, 1, 1)
	})
	for i, c := range cells[:7] {
		at := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, cellsName, c.ID, "result.json"), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := Status(dir); err != nil || s.Done != 7 || s.Left != 2 || s.Seconds != 20 {
		t.Errorf("%+v, %v", s, err)
	}
	if left := Unfinished(dir, cells); len(left) != 2 || !left[cells[7].ID] || !left[cells[8].ID] {
		t.Errorf("unfinished %v", left)
	}
}
