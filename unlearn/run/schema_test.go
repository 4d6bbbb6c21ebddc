package run

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	reflector "github.com/invopop/jsonschema"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"l2ul/unlearn"
	"l2ul/unlearn/data"
	"l2ul/unlearn/run/config"
)

var update = flag.Bool("update", false, "write the published schemas anew")

// The published schemas are generated from the structs; the embedded files must be what the structs say today.
func TestPublishedSchemas(t *testing.T) {
	type line struct { // of a record, whose last member is the hash of all before it
		Entry
		Hash string `json:"hash" jsonschema:"pattern=^[0-9a-f]{64}$,description=sha256 of the line without this member"`
	}
	for _, s := range []struct {
		file, id, title string
		of              any
		published       []byte
	}{
		{"schema/continual-1.json", ContinualSchema, "Result of unlearn continual", &ContinualResult{}, ContinualJSONSchema()},
		{"schema/record-1.json", RecordSchema, "Line of the deletion record of unlearn continual", &line{}, RecordJSONSchema()},
		{"schema/result-1.json", ResultSchema, "Result of unlearn forget", &Result{}, ResultJSONSchema()},
		{"schema/eval-1.json", EvalSchema, "Result of unlearn eval", &EvalResult{}, EvalJSONSchema()},
	} {
		r := reflector.Reflector{Anonymous: true, DoNotReference: true, ExpandedStruct: true, AllowAdditionalProperties: true}
		schema := r.Reflect(s.of)
		schema.ID, schema.Title = reflector.ID(s.id), s.title
		// Pointers without omitempty are null when there is nothing to say. A record has scores in any case.
		missing(schema, s.id == ResultSchema)
		if requests, ok := schema.Properties.Get("requests"); ok {
			missing(requests.Items, false)
		}
		got, err := json.MarshalIndent(schema, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		if *update {
			if err := os.WriteFile(s.file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		} else if !bytes.Equal(got, s.published) {
			t.Errorf("%s is not what the struct says; run go test -update", s.file)
		}
	}
}

// missing lets the scores of a result lack splits, and be missing themselves where a run may not have come so far.
func missing(schema *reflector.Schema, scores bool) {
	for _, name := range []string{"before", "after"} {
		node, ok := schema.Properties.Get(name)
		if !ok {
			continue
		}
		for _, split := range []string{"retain", "test"} {
			inner, _ := node.Properties.Get(split)
			node.Properties.Set(split, nullable(inner))
		}
		if scores {
			schema.Properties.Set(name, nullable(node))
		}
	}
}

func nullable(s *reflector.Schema) *reflector.Schema {
	return &reflector.Schema{OneOf: []*reflector.Schema{s, {Type: "null"}}}
}

// The least that consumers were promised, in the promised form.
const promised = `{"schema":"unlearn.result/1","method":"adv-imp","goal":"misclassify","outcome":"reached","reached":true,"steps":123,"passes":62,
 "seconds":{"total":0,"attack":0,"importance":0,"unlearn":0,"eval":0},
 "before":{"forget":{"accuracy":1.0,"hits":16,"n":16},"retain":{"accuracy":0.99,"hits":1,"n":49984},"test":{"accuracy":0.9,"hits":9000,"n":10000}},
 "after":{"forget":{"accuracy":0.0,"hits":0,"n":16},"retain":null,"test":{"accuracy":0.8,"hits":8000,"n":10000}},
 "forget":{"indices":[1,2],"hash":"00"},"hashes":{"weights":"00","data":"00","config":"00"},
 "data_access":{"retain_during_unlearning":false,"reads":{"unlearn":{"forget":0,"retain":0,"val":0,"test":0}}},
 "device":"cpu","precision":"fp32","seed":0,"limited":false,"versions":{"unlearn":"0.1.0","libtorch":"2.11.0"},"unknown":1}`

func compile(t *testing.T, text []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("s.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("s.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestResultsFitTheirSchemas(t *testing.T) {
	validate := func(s *jsonschema.Schema, text []byte) error {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return s.Validate(doc)
	}
	result, eval := compile(t, ResultJSONSchema()), compile(t, EvalJSONSchema())
	if err := validate(result, []byte(promised)); err != nil {
		t.Error(err)
	}
	loss, diverged := Number(0.5), Number(math.Inf(1))
	full := Result{
		Schema: ResultSchema, Precision: "fp32", Method: "neggrad", Goal: "misclassify", Outcome: unlearn.Diverged,
		Before: &Scores{Forget: Score{1, &loss, 16, 16}}, Forget: ForgetSet{Indices: []int64{1}, Hash: "00"},
		DataAccess: DataAccess{Reads: data.Reads{"before": {"test": 3}}}, Penalty: &loss,
	}
	text, err := json.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate(result, text); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	full.Before.Forget.Loss = &diverged
	if text, err = json.Marshal(full); err != nil {
		t.Fatal(err)
	}
	if err := validate(result, text); err != nil {
		t.Errorf("a loss that is not finite: %v\n%s", err, text)
	}
	if text, err = json.Marshal(EvalResult{Schema: EvalSchema, Test: &Score{0.5, &loss, 1, 2}}); err != nil {
		t.Fatal(err)
	}
	if err := validate(eval, text); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]string{
		"percent":  `"accuracy":1.0`,
		"outcome":  `"outcome":"reached"`,
		"no hash":  `"config":"00"`,
		"negative": `"steps":123`,
	} {
		with := map[string]string{"percent": `"accuracy":100`, "outcome": `"outcome":"won"`, "no hash": `"x":1`, "negative": `"steps":-1`}[name]
		if validate(result, bytes.Replace([]byte(promised), []byte(bad), []byte(with), 1)) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What a stream writes is what its schemas say, and what they refuse is no record.
func TestStreamsFitTheirSchemas(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	j := streamOf(t, servedRequests)
	serve(t, dir, j)
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(j.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	validate := func(s *jsonschema.Schema, text []byte) error {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return s.Validate(doc)
	}
	result, line := compile(t, ContinualJSONSchema()), compile(t, RecordJSONSchema())
	if err := validate(result, read("result.json")); err != nil {
		t.Error(err)
	}
	lines := bytes.Split(bytes.TrimSpace(read(recordName)), []byte("\n"))
	if len(lines) != 3 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, text := range lines {
		if err := validate(line, text); err != nil {
			t.Errorf("line %d: %v", i+1, err)
		}
	}
	for from, to := range map[string]string{
		`"position":1`: `"position":0`, `"anchor":"previous"`: `"anchor":"last"`, `"id":`: `"was":`, `"hash":"`: `"hash":"x`, `"stop_scope":"request"`: `"stop_scope":1`,
	} {
		if other := bytes.Replace(lines[0], []byte(from), []byte(to), 1); bytes.Equal(other, lines[0]) || validate(line, other) == nil {
			t.Errorf("%s in place of %s is accepted", to, from)
		}
	}
}

// What editors are told about configuration files, and what the program says about them, is the same: every preset is
// valid, and a file with a mistake is not.
func TestConfigurationFitsItsSchema(t *testing.T) {
	catalog, err := Catalog()
	if err != nil {
		t.Fatal(err)
	}
	text, err := catalog.Schema()
	if err != nil {
		t.Fatal(err)
	}
	schema := compile(t, text)
	validate := func(file []byte) error {
		var doc any
		if err := yaml.UnmarshalWithOptions(file, &doc, yaml.UseJSONUnmarshaler()); err != nil {
			t.Fatal(err)
		}
		asJSON, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(value)
	}
	presets := config.Presets()
	if len(presets) == 0 {
		t.Fatal("there are no presets")
	}
	for _, name := range presets {
		file, err := config.Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(file); err != nil {
			t.Errorf("preset %s: %v", name, err)
		}
		for what, mistake := range map[string]string{"an unknown key": "lamda: 1\n", "a text for a number": "seed: ten\n"} {
			if validate(append([]byte(mistake), file...)) == nil {
				t.Errorf("preset %s with %s is valid", name, what)
			}
		}
	}
	for file, want := range map[string]bool{
		"model: auto\ndataset: imagefolder\nmethod: adv-imp\n": true,
		"model: resnet19\n":                   false,
		"dataset: cifar11\n":                  false,
		"method: adv-im\n":                    false,
		"forget: {dataset: cifar11}\n":        false,
		"retrain: {epochs: 3}\n":              true,
		"retrain: {epochs: three}\n":          false,
		"retrain: {epochs: 3, num-adv: 20}\n": false,
		"eps: [1]\n":                          false,
		"mean: [0.1, 0.2, 0.3]\n":             true,
		"mean: [0.1, red, 0.3]\n":             false,
		"num-adv: 20\n":                       true,
		"num-adv: [20]\n":                     false,
		"grace: 1m30s\n":                      true,
		"grace: soon\n":                       false,
	} {
		if err := validate([]byte(file)); (err == nil) != want {
			t.Errorf("%s: the schema says %v", file, err)
		}
		path := filepath.Join(t.TempDir(), "f.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		var wrong error
		for _, method := range []string{"adv-imp", "retrain"} {
			flags := map[string][]string{"config": {path}}
			if !strings.Contains(file, "method") {
				flags["method"] = []string{method}
			}
			_, err := catalog.Resolve("forget", config.Sources{Flags: flags})
			wrong = errors.Join(wrong, err)
		}
		if (wrong == nil) != want {
			t.Errorf("%s: the program says %v", file, wrong)
		}
	}
	// Every key is described under its verb.
	type node struct {
		Description string
		Properties  map[string]node
		AnyOf       []node
	}
	var root node
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	for _, spec := range catalog {
		section := root.Properties[spec.Verb]
		if n := len(section.AnyOf); n > 0 {
			section = section.AnyOf[n-1]
		}
		for _, f := range spec.Fields() {
			if p, described := section.Properties[f.Name]; described != f.Key || f.Key && p.Description != f.Help {
				t.Errorf("%s of %s is a key: %v; the schema says %q", f.Name, spec.Verb, f.Key, p.Description)
			}
		}
	}
}
