package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"l2ul/unlearn"
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
	byOthers := []string{"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "UNLEARN_", "UNLEARN_EPS", "UNLEARN_OUTPUT"} // net/http, os, options
	for _, name := range regexp.MustCompile(`\b[A-Z]{2,}_[A-Z0-9_]*`).FindAllString(topic, -1) {
		if !strings.Contains(source.String(), `"`+name+`"`) && !slices.Contains(byOthers, name) {
			t.Errorf("help environment names %s, and nobody reads it", name)
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
