package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"l2ul/unlearn"
	"l2ul/unlearn/bench"
	"l2ul/unlearn/data"
	"l2ul/unlearn/run"
)

// Every variable that the program asks the system for is in the topic, but for keys of options, which it tells of together,
// and those of the machine. Everything the topic names is read by somebody.
func TestEnvironmentTopicIsTrue(t *testing.T) {
	topic := topics["environment"]()
	asked := regexp.MustCompile(`(?:os\.Getenv|os\.LookupEnv|[eE]nv)\("([A-Z][A-Z0-9_]+)"\)|env:"([A-Z_]+)"`)
	var source strings.Builder
	read := map[string]bool{}
	for _, root := range []string{"../../unlearn", "../../torch", "../../cmd"} {
		if err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
			test := strings.HasSuffix(path, "_test.go") || strings.Contains(path, "testdata")
			if err != nil || test || !slices.Contains([]string{".go", ".c", ".cc"}, filepath.Ext(path)) {
				return err
			}
			text, err := os.ReadFile(path)
			source.Write(text)
			for _, m := range asked.FindAllStringSubmatch(string(text), -1) {
				read[m[1]+m[2]] = true
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if len(read) < 10 {
		t.Fatalf("only %v is read", read)
	}
	for name := range read {
		if !strings.Contains(topic, name) && name != "HOME" {
			t.Errorf("%s is read, and help environment does not name it", name)
		}
	}
	byOthers := []string{"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "UNLEARN_", "UNLEARN_EPS", "UNLEARN_OUTPUT", "UNLEARN_SHARD", "OMP_NUM_THREADS"} // net/http, os, options, libgomp
	for _, name := range regexp.MustCompile(`\b[A-Z]{2,}_[A-Z0-9_]*`).FindAllString(topic, -1) {
		if !strings.Contains(source.String(), `"`+name+`"`) && !slices.Contains(byOthers, name) {
			t.Errorf("help environment names %s, and nobody reads it", name)
		}
	}
}

// sources are the Go files of the program without tests, by their paths.
func sources(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, root := range []string{"../../unlearn", "../../cmd"} {
		if err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			texts[path] = string(text)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return texts
}

// found are the first submatches of a pattern in a text, each once and in order.
func found(pattern, text string) (all []string) {
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// The topic tells of the codes that package run has, and of no other, each once.
func TestExitCodesTopicIsTrue(t *testing.T) {
	topic := topics["exit-codes"]()
	codes := found(`\bExit[A-Z]\w* += (\d+)`, sources(t)["../../unlearn/run/exit.go"])
	if len(codes) < 8 {
		t.Fatalf("only %v", codes)
	}
	if d := cmp.Diff(codes, found(`(?m)^ +(\d+)  \w`, topic)); d != "" {
		t.Error(d)
	}
	for _, code := range codes {
		if n := len(regexp.MustCompile(`(?m)^ +`+code+`  `).FindAllString(topic, -1)); n != 1 {
			t.Errorf("%s is told of %d times", code, n)
		}
	}
}

// The topic names the schemas that the program writes or reads, and the datasets, and no others.
func TestFormatsTopicIsTrue(t *testing.T) {
	topic := topics["formats"]()
	var all strings.Builder
	for _, text := range sources(t) {
		all.WriteString(text)
	}
	const schema = `unlearn\.[a-z-]+/[0-9]+`
	if d := cmp.Diff(found(`"(`+schema+`)"`, all.String()), found(`(`+schema+`)`, topic)); d != "" {
		t.Error(d)
	}
	for _, d := range data.Datasets() {
		if !regexp.MustCompile(`[ :]` + d.Name + `[,:; ]`).MatchString(topic) {
			t.Errorf("help formats does not name the dataset %s", d.Name)
		}
	}
	_, folder, _ := strings.Cut(topic, "\nRun folder ")
	folder, _, _ = strings.Cut(folder, "\nStream ")
	for _, file := range found(`([a-z]+\.(?:jsonl|json|yaml|txt|safetensors))`, folder) {
		if !strings.Contains(all.String(), `"`+file+`"`) {
			t.Errorf("help formats names the file %s, and nobody writes it", file)
		}
	}
}

// Each method is told of, with what it may read.
func TestMethodsTopic(t *testing.T) {
	topic := topics["methods"]()
	for _, m := range unlearn.Methods() {
		if !strings.Contains(topic, "\n  "+m.Name+"\n    does    "+m.Summary+"\n    reads   D_") {
			t.Errorf("help methods does not tell of %s", m.Name)
		}
	}
}

// The example of help grids is a grid.
func TestTopicGrids(t *testing.T) {
	_, text, _ := strings.Cut(topicGrids, "\n    title:")
	text, _, _ = strings.Cut("    title:"+text, "\n\n")
	grid, err := bench.Parse("example", []byte(strings.ReplaceAll(text, "\n    ", "\n")[4:]))
	if err != nil {
		t.Fatal(err)
	}
	catalog, err := run.Catalog()
	if err != nil {
		t.Fatal(err)
	}
	cells, err := grid.Cells(bench.Sources{Catalog: catalog, Env: func(string) (string, bool) { return "", false }})
	if err != nil {
		t.Fatal(err)
	}
	if len(cells) != 4 || len(grid.Checks) != 2 { // four of the matrix, one more, one less
		t.Errorf("%d cells, %d checks", len(cells), len(grid.Checks))
	}
}
