package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// Each flag of each command stands, under one of its names or as a key of --set, in a command line of the scripts that has a
// command with that flag, or in one that a test here types.
func TestEveryFlagIsExercised(t *testing.T) {
	app, err := newApp(io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	exercised := map[string]bool{}
	scripts, err := filepath.Glob(filepath.Join("testdata", "script", "*.txtar"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("%d scripts, %v", len(scripts), err)
	}
	for _, script := range scripts {
		for line := range strings.Lines(readFile(t, script)) {
			words := strings.Fields(line)
			if i := slices.Index(words, "unlearn"); i >= 0 && !strings.HasPrefix(line, "#") {
				noteFlags(app, words[i+1:], exercised)
			}
		}
	}
	tests, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	typed := regexp.MustCompile(`"--([a-z0-9.-]+)"`)
	for _, test := range tests {
		for _, m := range typed.FindAllStringSubmatch(readFile(t, test), -1) {
			exercised[m[1]] = true
		}
	}
	var walk func(commands []*cli.Command)
	walk = func(commands []*cli.Command) {
		for _, c := range commands {
			for _, f := range c.Flags {
				if name := flagNames(f)[0]; !exercised[name] {
					t.Errorf("no test gives --%s to %s", name, c.HelpName)
					exercised[name] = true // is said once
				}
			}
			walk(c.Subcommands)
		}
	}
	walk(app.Commands)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// noteFlags notes the main names of the flags of a command line, and the keys that it sets.
func noteFlags(app *cli.App, words []string, exercised map[string]bool) {
	if len(words) > 1 && words[0] == "config" && words[1] == "show" { // of the verb that is shown
		words = words[2:]
	}
	words = permute(app, append([]string{"unlearn"}, words...))[1:]
	at := find(app, words)
	for i, word := range words[at.words:] {
		f, inWord := at.flag(word)
		if f == nil {
			continue
		}
		name := flagNames(f)[0]
		exercised[name] = true
		if _, value, _ := strings.Cut(word, "="); name == "set" {
			if following := words[at.words+i+1:]; !inWord && len(following) > 0 {
				value = following[0]
			}
			key, _, _ := strings.Cut(value, "=")
			exercised[key] = true
		}
	}
}
