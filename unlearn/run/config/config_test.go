package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"
)

type attackOptions struct {
	Eps  float64 `flag:"eps,pgd-eps" default:"4" min:"0" help:"radius"`
	Norm string  `flag:"norm" default:"l2" oneof:"l2|linf" help:"norm"`
	kept int
}

type advOptions struct {
	Attack attackOptions `group:"Attack"`
	LR     float64       `flag:"lr,unlearn-lr" default:"0.001" above:"0" help:"learning rate"`
	Cache  map[string]int
}

type negOptions struct {
	LR float64 `flag:"lr,unlearn-lr" default:"0.01" above:"0" help:"learning rate"`
}

type common struct {
	Config  []string      `flag:"config,c" config:"no" help:"files"`
	Set     []string      `flag:"set" config:"no" env:"-" help:"keys"`
	Method  string        `flag:"method" default:"adv" help:"method"`
	Seed    int64         `flag:"seed" default:"0" help:"seed"`
	Workers int           `flag:"workers,j" min:"0" max:"64" result:"no" help:"workers"`
	Mean    []float64     `flag:"mean" help:"channel means"`
	Metrics []string      `flag:"metrics" sep:"," oneof:"acc|mia" help:"metrics"`
	Grace   time.Duration `flag:"grace" default:"20s" min:"0" result:"no" help:"grace"`
	Fast    bool          `flag:"fast" help:"fast"`
	Verbose int           `flag:"verbose,v" count:"yes" result:"no" help:"more"`
	Data    string        `flag:"data-dir" env:"UNLEARN_DATA" result:"no" help:"data"`
	Start   string        `flag:"compat.start-check" help:"dotted"`
	Forget  string        `flag:"forget" help:"what"`
	Steps   int           `flag:"max-steps" min:"0" result:"cap" help:"steps"`
	K       int           `flag:"k" min:"1" config:"no" env:"-" means:"forget=random:%s" help:"random"`
}

type other struct {
	Epochs int `flag:"epochs" default:"1" help:"epochs"`
}

func catalog(t testing.TB) Catalog {
	forget, err := NewSpec("forget", []any{common{}}, "method",
		map[string][]any{"adv": {&advOptions{}}, "neggrad": {negOptions{}}, "plain": nil})
	if err != nil {
		t.Fatal(err)
	}
	train, err := NewSpec("train", []any{other{}}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return Catalog{forget, train}
}

func write(t *testing.T, name, text string) string {
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func env(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
}

// Every layer beats all weaker ones, and each value knows its origin.
func TestPrecedence(t *testing.T) {
	first := write(t, "a.yaml", "eps: 1\nseed: 1\nmean: [.1, .2]\nepochs: 9 # another verb's\n")
	second := write(t, "b.yaml", "# comment\nseed: 2\ncompat:\n  start-check: off\n")
	auto := write(t, "auto.yaml", "workers: 3\nseed: 7\n")
	cfg, err := catalog(t).Resolve("forget", Sources{
		Flags: map[string][]string{"config": {first, second}, "set": {"lr=0.5", "norm=linf"}, "norm": {"l2"}},
		Env:   env(map[string]string{"UNLEARN_LR": "0.25", "UNLEARN_DATA": "/d", "UNLEARN_SEED": "3"}),
		Auto:  []string{auto, filepath.Join(t.TempDir(), "absent.yaml")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][2]string{
		"norm":               {"l2", "flag --norm"},
		"lr":                 {"0.5", "--set"},
		"seed":               {"3", "env UNLEARN_SEED"},
		"data-dir":           {"/d", "env UNLEARN_DATA"},
		"compat.start-check": {"off", second + ":4"},
		"eps":                {"1", first + ":1"},
		"mean":               {"0.1,0.2", first + ":3"},
		"workers":            {"3", auto + ":1"},
		"grace":              {"20s", "default"},
	} {
		v, o, ok := cfg.Get(name)
		if got := [2]string{v.String(), o.String()}; !ok || got != want {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	var c common
	var a advOptions
	a.Attack.kept = 5
	if err := errors.Join(cfg.Decode(&c), cfg.Decode(&a)); err != nil {
		t.Fatal(err)
	}
	if c.Seed != 3 || !slices.Equal(c.Mean, []float64{.1, .2}) || c.Grace != 20*time.Second || a.LR != .5 || a.Attack.Eps != 1 || a.Attack.kept != 5 {
		t.Errorf("decoded %+v %+v", c, a)
	}
}

// A section holds for its verb or variant only, and beats the keys outside it within one file.
func TestSections(t *testing.T) {
	file := write(t, "a.yaml", "forget: {seed: 2, lr: 3, method: neggrad}\nlr: 1\nneggrad:\n  lr: 4\ntrain: {epochs: 5, lr: 7}\nadv: {eps: 9}\n")
	c := catalog(t)
	train, err := NewSpec("train", []any{other{}, negOptions{}}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	c[1] = train
	for _, want := range []struct{ verb, method, lr string }{
		{"forget", "", "4"}, {"forget", "neggrad", "4"}, {"forget", "adv", "3"}, {"train", "", "7"},
	} {
		flags := map[string][]string{"config": {file}}
		if want.method != "" {
			flags["method"] = []string{want.method}
		}
		cfg, err := c.Resolve(want.verb, Sources{Flags: flags})
		if err != nil {
			t.Fatal(err)
		}
		if v, _, _ := cfg.Get("lr"); v.String() != want.lr {
			t.Errorf("%s %s: lr = %s, want %s", want.verb, want.method, v, want.lr)
		}
	}
	c[0].Borrows = map[string]string{"adv": "train"}
	cfg, err := c.Resolve("forget", Sources{Flags: map[string][]string{"config": {file}, "method": {"adv"}}})
	if err != nil {
		t.Fatal(err)
	}
	if v, _, _ := cfg.Get("lr"); v.String() != "7" {
		t.Errorf("lr = %s, want 7 of the verb that is borrowed from", v)
	}
	bad := write(t, "b.yaml", "train:\n  epsilon: 1\n")
	if _, err := c.Resolve("forget", Sources{Flags: map[string][]string{"config": {bad}}}); err == nil || !strings.Contains(err.Error(), `b.yaml:2: unknown key "epsilon"`) {
		t.Errorf("error = %v", err)
	}
}

// A verb that is like another has that one's sections, under its own; what is derived has the sources, and of the flags those that
// are keys of the verb.
func TestDerive(t *testing.T) {
	all := catalog(t)
	stream, err := NewSpec("stream", []any{common{}, struct {
		Anchor string `flag:"anchor" default:"previous" help:"anchor"`
	}{}}, "method", map[string][]any{"adv": {&advOptions{}}, "neggrad": {negOptions{}}, "plain": nil})
	if err != nil {
		t.Fatal(err)
	}
	stream.Like = "forget"
	all = append(all, stream)
	file := write(t, "a.yaml", "seed: 1\nforget:\n  seed: 2\n  lr: 0.5\n  eps: 3\nstream:\n  lr: 0.25\n")
	from, err := all.Resolve("stream", Sources{Flags: map[string][]string{
		"config": {file}, "anchor": {"first"}, "k": {"3"}, "set": {"workers=2", "anchor=previous"}, "mean": {"1", "2"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	once, err := all.Derive(from, "forget", map[string][]string{"forget": {"ids:1"}, "method": {"neggrad"}})
	if err != nil {
		t.Fatal(err)
	}
	twice, err := all.Derive(once, "forget", map[string][]string{"eps": {"9"}, "method": {"adv"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cfg  *Config
		want map[string]string
	}{
		{from, map[string]string{"seed": "2", "lr": "0.25", "eps": "3", "anchor": "first", "forget": "random:3"}},
		{once, map[string]string{"seed": "2", "lr": "0.5", "workers": "2", "mean": "1,2", "forget": "ids:1", "method": "neggrad"}},
		{twice, map[string]string{"seed": "2", "lr": "0.5", "workers": "2", "mean": "1,2", "forget": "ids:1", "method": "adv", "eps": "9"}},
	} {
		for name, want := range c.want {
			if v, _, ok := c.cfg.Get(name); !ok || v.String() != want {
				t.Errorf("%s: %s is %q, want %q", c.cfg.Spec.Verb, name, v, want)
			}
		}
	}
	if _, _, ok := once.Get("anchor"); ok {
		t.Error("forget has an anchor")
	}
}

func TestUsageErrors(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags map[string][]string
		file  string
		want  []string
	}{
		{"range", map[string][]string{"eps": {"-1"}}, "", []string{"--eps: -1 is below 0"}},
		{"above", map[string][]string{"lr": {"0"}}, "", []string{"--lr: 0 is not above 0"}},
		{"max", map[string][]string{"workers": {"65"}}, "", []string{"65 is above 64"}},
		{"nan", map[string][]string{"eps": {"NaN"}}, "", []string{`"NaN" is not a finite number`}},
		{"not a number", map[string][]string{"eps": {"four"}}, "", []string{`--eps: "four" is not a number`}},
		{"whole", map[string][]string{"seed": {"1.5"}}, "", []string{"not a whole number"}},
		{"k", map[string][]string{"k": {"0"}}, "", []string{"-k: 0 is below 1"}},
		{"k and forget", map[string][]string{"k": {"3"}, "forget": {"class:1"}}, "", []string{"-k means --forget random:3"}},
		{"twice", map[string][]string{"seed": {"1", "2"}}, "", []string{"--seed: takes one value, 2 were given"}},
		{"variant", map[string][]string{"method": {"negrad"}}, "", []string{`unknown method "negrad"; did you mean "neggrad"?`}},
		{"one of", map[string][]string{"norm": {"l3"}}, "", []string{`--norm: "l3" is unknown; did you mean "l2"? one of: l2, linf`}},
		{"list element", map[string][]string{"metrics": {"acc,mai"}}, "", []string{`"mai" is unknown; did you mean "mia"?`}},
		{"duration", map[string][]string{"grace": {"5"}}, "", []string{`"5" is not a duration such as 30s`}},
		{"bool", map[string][]string{"fast": {"yes"}}, "", []string{`"yes" is neither true nor false`}},
		{"set", map[string][]string{"set": {"esp=1"}}, "", []string{`forget has no key "esp"; did you mean "eps"?`}},
		{"set other verb", map[string][]string{"set": {"epochs=1"}}, "", []string{`forget has no key "epochs"`}},
		{"set shape", map[string][]string{"set": {"eps"}}, "", []string{"expected KEY=VALUE"}},
		{"set list", map[string][]string{"set": {"eps=[1,2]"}}, "", []string{"--set eps: a list was given"}},
		{"unused is checked", map[string][]string{"method": {"neggrad"}, "eps": {"-1"}}, "", []string{"-1 is below 0"}},
		{"unknown key", nil, "seed: 1\nnrom: l2\n", []string{":2: unknown key \"nrom\"; did you mean \"norm\"?"}},
		{"alias as key", nil, "unlearn-lr: 1\n", []string{`unknown key "unlearn-lr"; did you mean "lr"?`}},
		{"flag only", nil, "config: x\n", []string{`unknown key "config"`}},
		{"duplicate", nil, "seed: 1\nlr: 1\nseed: 2\n", []string{"seed", "1"}},
		{"null", nil, "seed:\n", []string{":1:", "no value"}},
		{"syntax", nil, "seed: [1\n", []string{"f.yaml", "[1:7]"}},
		{"anchor", nil, "seed: &a 1\n", []string{":1:", "anchor"}},
		{"tag", nil, "seed: !!int 1\n", []string{":1:", "tag"}},
		{"nested list", nil, "mean: [[1]]\n", []string{":1:", "a list"}},
		{"top level", nil, "- 1\n", []string{":1:", "key: value"}},
		{"value in file", nil, "eps: -2\n", []string{"f.yaml:1: eps: -2 is below 0"}},
		{"preset", map[string][]string{"config": {"preset:dmeo"}}, "", []string{`unknown preset "dmeo"; did you mean "demo"?`}},
		{"preset without prefix", map[string][]string{"config": {"demo"}}, "", []string{"does not exist; did you mean preset:demo?"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			flags := c.flags
			if c.file != "" {
				flags = map[string][]string{"config": {write(t, "f.yaml", c.file)}}
			}
			_, err := catalog(t).Resolve("forget", Sources{Flags: flags})
			var usage *Error
			if !errors.As(err, &usage) || usage.ExitCode() != 2 {
				t.Fatalf("error = %v, want a usage error", err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error = %q, want %q in it", err, want)
				}
			}
		})
	}
}

func TestValuesThatWork(t *testing.T) {
	cfg, err := catalog(t).Resolve("forget", Sources{Flags: map[string][]string{
		"set": {"mean=[.1, .2]", "compat.start-check=a=b,c"}, "verbose": {"true", "true"}, "fast": {"false"},
		"config": {write(t, "c.yaml", "forget: class:3\n")}, "k": {"5"}, "metrics": {"acc,mia", "acc"}, "method": {"neggrad"}, "eps": {"2"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var c common
	var n negOptions
	if err := errors.Join(cfg.Decode(&c), cfg.Decode(&n)); err != nil {
		t.Fatal(err)
	}
	if c.Forget != "random:5" || c.K != 0 {
		t.Errorf("-k 5 gives forget %q, k %d", c.Forget, c.K)
	}
	if c.Verbose != 2 || c.Start != "a=b,c" || !slices.Equal(c.Metrics, []string{"acc", "mia", "acc"}) || n.LR != .01 {
		t.Errorf("decoded %+v %+v", c, n)
	}
	if !slices.Equal(cfg.Unused, []string{"eps"}) {
		t.Errorf("unused = %v, want eps", cfg.Unused)
	}
}

// The hash changes with every key that can change a result and with no other; that for resuming does not change with caps.
func TestHash(t *testing.T) {
	resolve := func(flags map[string][]string) *Config {
		t.Helper()
		cfg, err := catalog(t).Resolve("forget", Sources{Flags: flags})
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	base := resolve(nil)
	for name, value := range map[string]string{"workers": "2", "grace": "1s", "data-dir": "/x", "eps": "4.0", "set": "norm=l2"} {
		if cfg := resolve(map[string][]string{name: {value}}); cfg.Hash() != base.Hash() || cfg.ResumeHash() != base.ResumeHash() {
			t.Errorf("%s=%s changes a hash", name, value)
		}
	}
	for name, value := range map[string]string{"seed": "1", "eps": "4.5", "method": "neggrad", "mean": "1", "fast": "true"} {
		if cfg := resolve(map[string][]string{name: {value}}); cfg.Hash() == base.Hash() || cfg.ResumeHash() == base.ResumeHash() {
			t.Errorf("%s=%s does not change a hash", name, value)
		}
	}
	if cfg := resolve(map[string][]string{"max-steps": {"3"}}); cfg.Hash() == base.Hash() || cfg.ResumeHash() != base.ResumeHash() {
		t.Error("a cap leaves the hash as it is, or changes that for resuming")
	}
}

// What YAML writes resolves to the same configuration.
func TestYAMLRoundTrip(t *testing.T) {
	c := catalog(t)
	rapid.Check(t, func(r *rapid.T) {
		flags := map[string][]string{
			"eps":                {Value{kind: Float, number: rapid.Float64Range(0, 1e9).Draw(r, "eps")}.String()},
			"seed":               {Value{kind: Int, integer: rapid.Int64().Draw(r, "seed")}.String()},
			"mean":               {Value{kind: Floats, numbers: rapid.SliceOfN(rapid.Float64Range(-1, 1), 1, 4).Draw(r, "mean")}.String()},
			"method":             {rapid.SampledFrom([]string{"adv", "neggrad", "plain"}).Draw(r, "method")},
			"compat.start-check": {rapid.SampledFrom([]string{"true", "1", "null", "a: b", "- x", "", "#", "'\"", "é", "~", " a ", "1e5", "0x1"}).Draw(r, "text")},
		}
		cfg, err := c.Resolve("forget", Sources{Flags: flags})
		if err != nil {
			r.Fatal(err)
		}
		text, err := cfg.YAML()
		if err != nil {
			r.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, text, 0o644); err != nil {
			r.Fatal(err)
		}
		again, err := c.Resolve("forget", Sources{Flags: map[string][]string{"config": {path}}})
		if err != nil {
			r.Fatalf("%v\n%s", err, text)
		}
		if again.Hash() != cfg.Hash() {
			r.Fatalf("%v\n%s", again.Differences(cfg), text)
		}
	})
}

func TestDifferences(t *testing.T) {
	c := catalog(t)
	was, err := c.Resolve("forget", Sources{Flags: map[string][]string{"eps": {"1"}, "workers": {"2"}, "max-steps": {"3"}}})
	if err != nil {
		t.Fatal(err)
	}
	is, err := c.Resolve("forget", Sources{Flags: map[string][]string{"mean": {"1,2"}, "method": {"neggrad"}}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range is.Differences(was) {
		got = append(got, d.String())
	}
	want := []string{
		"method (adv there, neggrad here)", "mean (not set there, 1,2 here)", "lr (0.001 there, 0.01 here)",
		"eps (1 there, not set here)", "norm (l2 there, not set here)",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestBadDeclarations(t *testing.T) {
	type twice struct {
		A string `flag:"x" help:"a"`
		B string `flag:"y,x" help:"b"`
	}
	type silent struct {
		A string `flag:"x"`
	}
	type kind struct {
		A map[string]int `flag:"x" help:"a"`
	}
	type bad struct {
		A float64 `flag:"x" default:"-1" min:"0" help:"a"`
	}
	for _, s := range []any{twice{}, silent{}, kind{}, bad{}, 3} {
		if _, err := Fields(s); err == nil {
			t.Errorf("%T: no error", s)
		}
	}
	type text struct {
		LR string `flag:"lr" help:"a"`
	}
	if _, err := NewSpec("v", []any{common{}}, "method", map[string][]any{"a": {negOptions{}}, "b": {text{}}}); err == nil {
		t.Error("two kinds under one name: no error")
	}
	if _, err := NewSpec("v", []any{common{}}, "method", map[string][]any{"a": {struct {
		J int `flag:"jobs,j" help:"a"`
	}{}}}); err == nil {
		t.Error("an alias of two options: no error")
	}
}

func TestSchema(t *testing.T) {
	text, err := catalog(t).Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s schemaNode
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	if p := s.Properties; p["config"] != nil || p["epochs"] == nil || *p["lr"].Above != 0 || p["mean"].Items.Type != "number" ||
		!slices.Equal(p["method"].Enum, []string{"adv", "neggrad", "plain"}) {
		t.Errorf("schema:\n%s", text)
	}

	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("s.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("s.json")
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]bool{
		`{"eps": 1, "forget": {"lr": 1, "forget": "class:1"}, "train": {"epochs": 2}, "adv": {"norm": "linf"}}`: true,
		`{"forget": "random:3", "grace": "1m30s", "mean": [1, 2]}`:                                              true,
		`{"eps": -1}`:               false,
		`{"forget": {"norm": "x"}}`: false,
		`{"train": {"lr": 1}}`:      false,
		`{"grace": "5"}`:            false,
	} {
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); (err == nil) != want {
			t.Errorf("%s: %v", file, err)
		}
		// The program agrees with the schema.
		_, err = catalog(t).Resolve("forget", Sources{Flags: map[string][]string{"config": {write(t, "f.yaml", file)}}})
		if (err == nil) != want {
			t.Errorf("%s: the program says %v", file, err)
		}
	}
}

func FuzzParseYAML(f *testing.F) {
	for _, s := range []string{"a: 1\n", "a: {b: [1, x]}\n", "{\"a\": 1}", "a: &x 1\nb: *x\n", "? [a]\n: b\n", "a: |\n  t\n", "--- \n...\n", "<<: {a: 1}", "\x00", "a:\n- b\n -c"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := parseYAML("f", data, FromFile)
		if err != nil {
			var usage *Error
			if !errors.As(err, &usage) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		for _, e := range entries {
			if !e.list && len(e.texts) != 1 {
				t.Fatalf("%+v", e)
			}
		}
	})
}
