package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	_ "l2ul/unlearn/methods" // whose options cells have
	"l2ul/unlearn/run"
	"l2ul/unlearn/run/config"
)

// The expected combinations are those that GitHub's documentation gives for the same matrices, or that follow from its rules.
func TestCombinations(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"axes": {
			"matrix: {version: [10, 12], os: [a, b]}",
			"version=10 os=a|version=10 os=b|version=12 os=a|version=12 os=b",
		},
		"one value": {"matrix: {a: [x]}", "a=x"},
		"include as documented": {
			`
matrix: {fruit: [apple, pear], animal: [cat, dog]}
include:
  - color: green
  - {color: pink, animal: cat}
  - {fruit: apple, shape: circle}
  - fruit: banana
  - {fruit: banana, animal: cat}`,
			"fruit=apple animal=cat color=pink shape=circle|fruit=apple animal=dog color=green shape=circle|" +
				"fruit=pear animal=cat color=pink|fruit=pear animal=dog color=green|fruit=banana|fruit=banana animal=cat",
		},
		"include alone": {"include: [{site: a, n: 1}, {site: b, n: 2}]", "site=a n=1|site=b n=2"},
		"exclude as documented": {
			`
matrix: {os: [macos, windows], version: [12, 14, 16], environment: [staging, production]}
exclude:
  - {os: macos, version: 12, environment: production}
  - {os: windows, version: 16}`,
			"os=macos version=12 environment=staging|os=macos version=14 environment=staging|os=macos version=14 environment=production|" +
				"os=macos version=16 environment=staging|os=macos version=16 environment=production|os=windows version=12 environment=staging|" +
				"os=windows version=12 environment=production|os=windows version=14 environment=staging|os=windows version=14 environment=production",
		},
		"exclude comes first": {`
matrix: {a: [1, 2]}
exclude: [{a: 2}]
include: [{a: 2, b: x}]`, "a=1|a=2 b=x"},
		"numbers are compared as numbers": {"matrix: {lr: [1e-3, 1e-2]}\nexclude: [{lr: 0.001}]", "lr=1e-2"},
		"a list is one value":             {"matrix: {a: [1]}\ninclude: [{mean: [0.1, 0.2]}]", "a=1 mean=0.1,0.2"},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := Parse("grid", []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range g.combinations() {
				got = append(got, s.String())
			}
			if d := cmp.Diff(strings.Split(c.want, "|"), got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	many := make([]string, 200)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	list := "[" + strings.Join(many, ", ") + "]"
	large := "matrix: {a: " + list + ", b: " + list + ", c: [1]}"
	for text, want := range map[string]string{
		"":                                     "no matrix",
		"name: x":                              "no matrix",
		"matrix: {a: []}":                      "a has no values",
		"matrix: {a: 3}":                       "a list of values is expected",
		"matrix: {a: [1, 1]}":                  "the value 1 twice",
		"matrix: {a: [1e-3, 0.001]}":           "one value twice, as 1e-3 and as 0.001",
		"matrix: {a: [1]}\ncontinual:":         "continual: it has no value",
		"matrix: {a: [1], a: [2]}":             "already defined",
		"matrix: {a: [[1]]}":                   "a value is expected",
		"matrix: {a: [{b: 1}]}":                "a value is expected",
		"matrix: {a: [&x 1, *x]}":              "anchors",
		"matrix: {a: [!!str 1]}":               "tags",
		"matrix: {a: [1]}\nexclude: [{b: 1}]":  "b is no key of the matrix",
		"matrix: {a: [1]}\nexclude: [{}]":      "would exclude everything",
		"matrix: {a: [1]}\nmatrx: {}":          "unknown field",
		"matrix: {a: [1]}\ncolumns: [b]":       "columns: b is no key of the matrix",
		"matrix: {seed: [1]}\ncolumns: [seed]": "means over the seeds",
		"matrix: {a: [1]}\ncolumns: [a, a]":    "a stands there twice",
		"matrix: {a: [1]}\n---\nb: 1":          "2 documents",
		large:                                  "more than 10000 combinations",
		"matrix: {a: [1]}\nchecks: [{}]":       "of one kind",
		"matrix: {a: [1]}\nchecks: [{reached: true, order: a > b}]":                    "of one kind",
		"matrix: {a: [1]}\nchecks: [{order: adv}]":                                     "adv-imp > adv",
		"matrix: {a: [1]}\nchecks: [{reached: true, often: true}]":                     "only an order",
		"matrix: {a: [1]}\nchecks: [{reference: {of: trains, value: 1}}]":              "forget, retain or test",
		"matrix: {a: [1]}\nchecks: [{reference: {of: test, value: 0.5}}]":              "name the source",
		"matrix: {a: [1]}\nchecks: [{attack-success: .nan}]":                           "a fraction up to 1",
		"matrix: {a: [1]}\nchecks: [{attack-success: 95}]":                             "a fraction up to 1",
		"matrix: {a: [1]}\nchecks: [{reference: {of: test, value: 45.44}, source: x}]": "fractions up to 1",
		"matrix: {a: [1]}\nchecks: [{attack-success: high}]":                           "cannot",
	} {
		if _, err := Parse("g.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) || run.ExitCode(err) != run.ExitUsage {
			t.Errorf("%.60q: error %v, want a usage error with %q", text, err, want)
		}
	}
}

func catalog(t testing.TB) config.Catalog {
	t.Helper()
	c, err := run.Catalog()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func cellsOf(t *testing.T, text string, given ...Setting) []Cell {
	t.Helper()
	g, err := Parse("grid", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	cells, err := g.Cells(Sources{Catalog: catalog(t), Given: given})
	if err != nil {
		t.Fatal(err)
	}
	return cells
}

// Every grid that is built in resolves, to as many cells as its axes make, and its checks mean some of them.
func TestPresets(t *testing.T) {
	want := map[string]int{
		"l2ul/table-cifar10": 7 * 5 * 3, "l2ul/table-cifar100": 7 * 4 * 3, "l2ul/table-imagenet": 7 * 4 * 3, "l2ul/table-cifar10-small": 42,
		"l2ul/ablation-imp-alone": 3 * 6, "l2ul/ablation-uniform-anchor": 2 * 6, "l2ul/ablation-lambda": 5 * 6, "l2ul/ablation-eps": 5 * 6,
		"l2ul/ablation-num-adv": 6 * 6, "l2ul/ablation-lr": 4 * 6, "l2ul/ablation-bn": 8 * 6, "l2ul/ablation-loss-weights": 4 * 6,
		"l2ul/ablation-importance": 5 * 6, "l2ul/continual-cifar10-small": 9, "l2ul/continual-cifar10": 9,
		"l2ul/table-cifar100-vit": 7 * 5 * 3, "l2ul/table-utkface": 7 * 5 * 3, "l2ul/table-cifar100-small": 7 * 3, "l2ul/table-imagenet-small": 7 * 3,
	}
	for _, name := range Presets() {
		g, err := Load("preset:" + name)
		if err != nil {
			t.Fatal(err)
		}
		cells, err := g.Cells(Sources{Catalog: catalog(t)})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(cells) != want[name] || len(Runs(cells)) != want[name] {
			t.Errorf("%s: %d cells, %d runs, want %d", name, len(cells), len(Runs(cells)), want[name])
		}
		x := g.Index(cells)
		for _, key := range g.Columns {
			if _, ok := x.Cells[0].Labels[key]; !ok {
				t.Errorf("%s: columns by %s, which no cell has", name, key)
			}
		}
		for _, c := range g.Checks {
			var all []cell
			for _, x := range x.Cells {
				all = append(all, cell{Cell: x})
			}
			if c.decide(all); c.Outcome != Unknown || c.Detail[0] == "no cell of the grid is meant" {
				t.Errorf("%s: %s: %s %v", name, c.Claim(), c.Outcome, c.Detail)
			}
		}
	}
	if len(Presets()) != len(want) {
		t.Errorf("presets %v", Presets())
	}
}

// The grid of UTKFace serves all groupings of the paper: its cells are as many, on another dataset.
func TestPresetGroupings(t *testing.T) {
	g, err := Load("preset:l2ul/table-utkface")
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, grouping := range []string{"MFD", "TNN", "balanced", "groups", "tens"} {
		cells, err := g.Cells(Sources{Catalog: catalog(t), Given: Settings{{"config", []string{"preset:l2ul/utkface-resnet18-" + grouping}}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cells {
			ids[c.ID] = true
		}
	}
	if len(ids) != 5*7*5*3 {
		t.Errorf("%d cells, want %d", len(ids), 5*7*5*3)
	}
}

// What editors are told about configuration files holds for grids: as a file, the settings of each cell are valid, and one more that
// there is not is not.
func TestPresetsFitTheSchema(t *testing.T) {
	text, err := catalog(t).Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("config.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("config.json")
	if err != nil {
		t.Fatal(err)
	}
	value := func(texts []string) any {
		values := make([]any, len(texts))
		for i, text := range texts {
			if json.Unmarshal([]byte(text), &values[i]) != nil { // neither a number nor a truth value
				values[i] = text
			}
		}
		if len(values) == 1 {
			return values[0]
		}
		return values
	}
	for _, name := range Presets() {
		g, err := Load("preset:" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, combination := range g.combinations() {
			file := map[string]any{}
			for _, s := range slices.Concat(g.Base, combination) {
				switch s.Key {
				case "config": // which is a file of its own
				case "k": // short for forget
					file["forget"] = map[string]any{"forget": "random:" + s.Texts[0]}
				default:
					file[s.Key] = value(s.Texts)
				}
			}
			text, err := json.Marshal(file)
			if err != nil {
				t.Fatal(err)
			}
			valid := func(text []byte) error {
				doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
				if err != nil {
					t.Fatal(err)
				}
				return schema.Validate(doc)
			}
			if err := valid(text); err != nil {
				t.Errorf("%s: %s: %v", name, combination, err)
			}
			if valid(bytes.Replace(text, []byte("{"), []byte(`{"lamda":1,`), 1)) == nil {
				t.Errorf("%s: %s with an unknown key is valid", name, combination)
			}
		}
	}
}

const plainGrid = "base: {model: resnet20, dataset: shapes}\nmatrix: {method: [neggrad, adv], k: [2, 4]}"

// The name of a cell is what decides its result: not the order of keys, how numbers are written, what its method has no use for,
// or where its inputs lie.
func TestIdentity(t *testing.T) {
	ids := func(text string, given ...Setting) (ids []string) {
		for _, c := range cellsOf(t, text, given...) {
			ids = append(ids, c.ID)
		}
		return ids
	}
	dir := t.TempDir()
	for _, path := range []string{"a/w", "a/data/x/1", "b/w", "b/data/x/1"} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("same"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	at := func(d string) []Setting {
		return []Setting{{"weights", []string{filepath.Join(dir, d, "w")}}, {"data-dir", []string{filepath.Join(dir, d, "data")}}}
	}
	plain := ids(plainGrid)
	here := ids(plainGrid, at("a")...)
	for name, got := range map[string][]string{
		"order of keys":       ids("base: {dataset: shapes, model: resnet20}\nmatrix: {method: [neggrad, adv], k: [2, 4]}"),
		"as random:K":         ids("base: {dataset: shapes, model: resnet20}\nmatrix: {method: [neggrad, adv], forget: [\"random:2\", \"random:4\"]}"),
		"a number, otherwise": ids("base: {dataset: shapes, model: resnet20, lr: 1e-3}\nmatrix: {method: [neggrad, adv], k: [2, 4]}"),
		"what cannot matter":  ids(plainGrid, Setting{"keep", []string{"7"}}),
	} {
		if d := cmp.Diff(plain, got); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
	if d := cmp.Diff(here, ids(plainGrid, at("b")...)); d != "" {
		t.Errorf("moved:\n%s", d)
	}
	if d := cmp.Diff(plain[:2], ids(plainGrid, Setting{"num-adv", []string{"3"}})[:2]); d != "" {
		t.Errorf("neggrad, with another attack that it does not have:\n%s", d)
	}
	if err := os.WriteFile(filepath.Join(dir, "b", "w"), []byte("else"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a", "data", "x", "2"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]string{
		"other settings":  ids(plainGrid, Setting{"lr", []string{"0.5"}}),
		"inputs":          here,
		"another network": ids(plainGrid, at("b")...),
		"another image":   ids(plainGrid, at("a")...),
	} {
		for i, id := range got {
			others := [][]string{plain}
			if name != "inputs" && name != "other settings" {
				others = append(others, here)
			}
			for _, o := range others {
				if slices.Contains(o, id) {
					t.Errorf("%s: cell %d is %s all the same", name, i, id)
				}
			}
		}
	}
}

// A stream is told from others by how many requests it has, by their size, and by the bytes of its file; and from one run that forgets once.
func TestIdentityOfStreams(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "requests.jsonl")
	write(t, file, "one")
	stream := func(text string) Cell {
		return cellsOf(t, "base: {model: resnet20, dataset: shapes, method: neggrad}\nmatrix: {seed: [3]}\n"+text)[0]
	}
	ids := map[string]bool{}
	for _, text := range []string{"", "continual: {requests: 2, size: 3}", "continual: {requests: 3, size: 2}", "continual: {file: " + file + "}"} {
		ids[stream(text).ID] = true
	}
	write(t, file, "another")
	last := stream("continual: {file: " + file + "}")
	ids[last.ID] = true
	if len(ids) != 5 {
		t.Errorf("5 streams have %d names", len(ids))
	}
	// So do the bytes of what its lines name.
	list := filepath.Join(dir, "list.txt")
	for _, line := range []string{`"forget":"@` + list + `"`, `"forget":"class:1","options":{"pairs":"` + list + `"}`} {
		write(t, file, `{"id":"a",`+line+"}\n")
		write(t, list, "one")
		before := stream("continual: {file: " + file + "}").ID
		if write(t, list, "another"); stream("continual: {file: "+file+"}").ID == before {
			t.Errorf("%s: another file at the same place is the same stream", line)
		}
	}
	line := func(c Cell) string { return strings.Join(c.Args, " ") }
	if got, want := line(last), "continual --model=resnet20 --dataset=shapes --method=neggrad --seed=3 -- "+file; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	drawn := stream("continual: {requests: 2, size: 3}")
	if got, want := line(drawn), "continual --k=3 --requests=2 --model=resnet20 --dataset=shapes --method=neggrad --seed=3"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	one, err := drawn.One(catalog(t))
	if err != nil {
		t.Fatal(err)
	}
	if v, _, _ := one.Get("forget"); v.String() != "random:3" || one.Spec.Verb != "forget" {
		t.Errorf("one request is %s %s", one.Spec.Verb, v)
	}
	if l := loadOf(&drawn, 100); l.times != 2 || l.step != 3 {
		t.Errorf("load %+v", l)
	}
}

// A grid of streams whose file of requests is not there would fail cell by cell.
func TestRequestsMustBeThere(t *testing.T) {
	g, err := Parse("grid", []byte("base: {model: resnet20, dataset: shapes}\nmatrix: {seed: [0]}\ncontinual: {file: /nowhere.jsonl}"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Cells(Sources{Catalog: catalog(t)}); run.ExitCode(err) != run.ExitInput || !strings.Contains(err.Error(), "requests: open /nowhere.jsonl: no such file") {
		t.Error(err)
	}
}

// Every file and folder that a setting names is an input: other bytes in it make another cell, though its path is the same.
func TestIdentityOfFiles(t *testing.T) {
	for key, name := range map[string]string{
		"weights": "w.safetensors", "data-dir": "data/x", "pairs": "pairs.csv", "importance": "importance.safetensors", "pool": "pool/x",
		"forget": "forget.json",
	} {
		path := filepath.Join(t.TempDir(), name)
		setting := Setting{key, []string{path}}
		switch key {
		case "data-dir", "pool":
			setting.Texts[0] = filepath.Dir(path)
		case "forget":
			setting.Texts[0] = "@" + path
		}
		grid := "base: {model: resnet20, dataset: shapes, method: adv-imp, goal: relabel, forget: \"random:2\"}\nmatrix: {seed: [0]}"
		write(t, path, "one")
		before := cellsOf(t, grid, setting)[0].ID
		write(t, path, "another")
		if cellsOf(t, grid, setting)[0].ID == before {
			t.Errorf("%s: another file at the same place is the same cell", key)
		}
	}
}

func TestCellsRefuse(t *testing.T) {
	for text, want := range map[string]string{
		"matrix: {bn-adv: [train, \"\"]}":                 "bn-adv has no value",
		"base: {mean: []}\nmatrix: {k: [2]}":              "mean has no value",
		"matrix: {methd: [adv]}":                          `forget has no key "methd"; did you mean "method"?`,
		"matrix: {output: [a]}":                           `no key "output"`,
		"matrix: {resume: [auto]}":                        `no key "resume"`,
		"matrix: {method: [advv]}":                        "unknown method",
		"matrix: {lr: [-1]}":                              "cell lr=-1: --lr: -1 is not above 0",
		"base: preset:nothing\nmatrix: {lr: [1]}":         `unknown preset "nothing"`,
		"base: {k: 2}\nmatrix: {forget: [\"random:16\"]}": "leave one of the two out",
		"matrix: {lr: [1, 2], unlearn-lr: [3, 4]}":        "lr and unlearn-lr are one key",
		"base: {unlearn-lr: 1, lr: 2}\nmatrix: {k: [2]}":  "unlearn-lr and lr are one key",
	} {
		g, err := Parse("grid", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Cells(Sources{Catalog: catalog(t)}); err == nil || !strings.Contains(err.Error(), want) || run.ExitCode(err) != run.ExitUsage {
			t.Errorf("%s: error %v, want a usage error with %q", text, err, want)
		}
	}
}

// Shares are disjoint, make the whole, deal the same from any order of the cells, and none has more than twice the work of a fair share and
// the longest cell together.
func TestDeal(t *testing.T) {
	cells := cellsOf(t, "base: {model: resnet20, dataset: shapes}\nmatrix: {method: [neggrad, adv, imp, oracle, adv-imp, retrain], k: [2, 16, 64], seed: [0, 1]}")
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfDistinct(rapid.SampledFrom(cells), func(c Cell) string { return c.ID }).Draw(t, "cells")
		count := rapid.IntRange(1, 9).Draw(t, "count")
		shuffled := rapid.Permutation(some).Draw(t, "shuffled")
		seen := map[string]bool{}
		var total, longest float64
		for i := range some {
			total += work(&some[i])
			longest = max(longest, work(&some[i]))
		}
		for i := range count {
			mine := Shard{i, count}.Deal(some)
			var load float64
			for j, c := range mine {
				if seen[c.ID] {
					t.Fatalf("%s is in two shares", c.ID)
				}
				seen[c.ID] = true
				load += work(&c)
				if j > 0 && work(&mine[j-1]) < work(&c) {
					t.Fatal("the longest is not first")
				}
			}
			if load > total/float64(count)+longest {
				t.Fatalf("share %d of %d has %g of %g, the longest cell being %g", i, count, load, total, longest)
			}
			for j, c := range (Shard{i, count}).Deal(shuffled) {
				if c.ID != mine[j].ID {
					t.Fatal("the order of the cells matters")
				}
			}
		}
		if len(seen) != len(some) {
			t.Fatalf("%d of %d cells dealt", len(seen), len(some))
		}
	})
}

func TestParseShard(t *testing.T) {
	env := func(pairs ...string) func(string) (string, bool) {
		return func(name string) (string, bool) {
			for _, kv := range pairs {
				if k, v, _ := strings.Cut(kv, "="); k == name {
					return v, true
				}
			}
			return "", false
		}
	}
	slurm := env("SLURM_ARRAY_TASK_ID=12", "SLURM_ARRAY_TASK_MIN=10", "SLURM_ARRAY_TASK_COUNT=4", "AWS_BATCH_JOB_ARRAY_INDEX=0")
	kubernetes := env("JOB_COMPLETION_INDEX=5")
	for _, c := range []struct {
		text string
		env  func(string) (string, bool)
		want Shard
	}{
		{"", slurm, Shard{0, 1}},
		{"2/3", slurm, Shard{2, 3}},
		{"auto", slurm, Shard{2, 4}},
		{"auto", env("SLURM_ARRAY_TASK_ID=14", "SLURM_ARRAY_TASK_MIN=0", "SLURM_ARRAY_TASK_STEP=2", "SLURM_ARRAY_TASK_COUNT=8"), Shard{7, 8}},
		{"auto/64", kubernetes, Shard{5, 64}},
		{"auto", env("AWS_BATCH_JOB_ARRAY_INDEX=3", "AWS_BATCH_JOB_ARRAY_SIZE=7"), Shard{3, 7}},
		{"auto", env("BATCH_TASK_INDEX=0", "BATCH_TASK_COUNT=2"), Shard{0, 2}},
	} {
		if got, err := ParseShard(c.text, c.env); err != nil || got != c.want {
			t.Errorf("%q: %v, %v, want %v", c.text, got, err, c.want)
		}
	}
	for text, want := range map[string]string{
		"3/3": "counted from 0: those of 3 are 0/3 to 2/3", "-1/3": "counted from 0", "a/3": "is no share", "0/0": "is no share", "2": "write 0/8", "auto": "auto/8 for 8",
	} {
		if _, err := ParseShard(text, kubernetes); err == nil || !strings.Contains(err.Error(), want) || run.ExitCode(err) != run.ExitUsage {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	for want, e := range map[string]func(string) (string, bool){
		"its numbers have gaps":     env("SLURM_ARRAY_TASK_ID=7", "SLURM_ARRAY_TASK_MIN=1", "SLURM_ARRAY_TASK_STEP=1", "SLURM_ARRAY_TASK_COUNT=3"), // --array=1,3,7
		"no places in an array":     env("SLURM_ARRAY_TASK_ID=3", "SLURM_ARRAY_TASK_MIN=0", "SLURM_ARRAY_TASK_STEP=2", "SLURM_ARRAY_TASK_COUNT=8"),
		"STEP=0: these are no plac": env("SLURM_ARRAY_TASK_ID=3", "SLURM_ARRAY_TASK_MIN=0", "SLURM_ARRAY_TASK_STEP=0", "SLURM_ARRAY_TASK_COUNT=8"),
	} {
		if _, err := ParseShard("auto", e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := ParseShard("auto", env()); err == nil || !strings.Contains(err.Error(), "no scheduler") {
		t.Errorf("without a scheduler: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(plainGrid))
	for _, name := range Presets() {
		text, err := presets.ReadFile("presets/" + name + suffix)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("matrix: {a: [1, 2]}\ninclude: [{a: 1, b: 3}, {a: 4}]\nexclude: [{a: 2}]\nchecks: [{reference: {of: test, value: 1}, source: x}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		g, err := Parse("grid", text)
		if err != nil {
			return
		}
		if len(g.combinations()) > 2*maxCells {
			t.Errorf("%d combinations", len(g.combinations()))
		}
		g.Index(nil)
	})
}
