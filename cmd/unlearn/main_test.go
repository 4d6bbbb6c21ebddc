package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

var update = flag.Bool("update", false, "write what the scripts compare with anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"unlearn": main})
}

// Whole command lines, as a person or a script types them: testdata/script/*.txtar.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join("testdata", "script"),
		UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("XDG_CONFIG_HOME", filepath.Join(e.WorkDir, ".config"))
			e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, ".cache"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "images": images, "weights": weights, "truncated": truncated, "hostile": hostile,
		},
		Condition: func(name string) (bool, error) {
			if name != "mounts" {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			// A file system of one's own takes a namespace, which containers may forbid.
			return exec.CommandContext(t.Context(), "unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt").Run() == nil, nil
		},
	})
}

// exits CODE COMMAND… runs a command and compares its exit code, which `!` alone does not tell.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND ARGUMENT...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if want, err := strconv.Atoi(args[0]); err != nil || code != want {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

func TestHostileName(t *testing.T) {
	var out, errs bytes.Buffer
	code := start([]string{"unlearn", "inspect", "\x1b[2Jabsent.pt"}, &out, &errs)
	if code != run.ExitInput || !strings.Contains(errs.String(), `\x1b[2Jabsent.pt`) {
		t.Errorf("exit code %d, stderr %q", code, errs.String())
	}
}

func testApp() *cli.App {
	return &cli.App{
		Name: "u",
		Commands: []*cli.Command{
			{
				Name: "forget", Aliases: []string{"f"},
				Flags: []cli.Flag{&cli.IntFlag{Name: "k"}, &cli.BoolFlag{Name: "json"}, &cli.StringFlag{Name: "output", Aliases: []string{"o"}}},
			},
			{Name: "config", Subcommands: []*cli.Command{{Name: "show", Flags: []cli.Flag{&cli.IntFlag{Name: "k"}}}}},
		},
	}
}

func TestPermute(t *testing.T) {
	for in, want := range map[string]string{
		"u":                               "u",
		"u forget a -k 3 b":               "u forget -k 3 a b",
		"u f a --k=3 --json b":            "u f --k=3 --json a b",
		"u forget a -- -k 3":              "u forget -- a -k 3",
		"u forget - -k 3":                 "u forget -k 3 -",
		"u forget x -o forget -vv":        "u forget -o forget -v -v x",
		"u config show a -k 3":            "u config show -k 3 a",
		"u forget config show -k 3":       "u forget -k 3 config show",
		"u forget a -k":                   "u forget -k a",
		"u --help forget":                 "u --help forget",
		"u forget a --unknown 3":          "u forget --unknown a 3",
		"u forget x --output --json more": "u forget --output --json x more",
	} {
		if d := cmp.Diff(strings.Fields(want), permute(testApp(), strings.Fields(in))); d != "" {
			t.Errorf("%s:\n%s", in, d)
		}
	}
}

// permuted is what permute must do to the command lines of testApp, said in another way: mark each word, then sort by the
// marks without changing the order within one.
func permuted(words []string) []string {
	const ( // the order in which they come out
		command = iota
		option
		separator
		positional
	)
	values := map[string][]string{"forget": {"k", "output", "o"}, "f": {"k", "output", "o"}, "config": nil, "config show": {"k"}}
	path, taken := "", 1
	for taken < len(words) {
		next := strings.TrimSpace(path + " " + words[taken])
		if _, known := values[next]; !known {
			break
		}
		path, taken = next, taken+1
	}
	isFlag := regexp.MustCompile(`^--?[^-]|^---`)
	isCount := regexp.MustCompile(`^-v{2,}$`)
	marks := make([]int, 0, len(words))
	var out []string
	mark := func(m int, texts ...string) {
		for _, text := range texts {
			out, marks = append(out, text), append(marks, m)
		}
	}
	mark(command, words[:taken]...)
	rest := words[taken:]
	for i := 0; i < len(rest); i++ {
		switch word := rest[i]; {
		case word == "--":
			mark(separator, word)
			mark(positional, rest[i+1:]...)
			i = len(rest)
		case isCount.MatchString(word):
			mark(option, strings.Split(strings.Repeat("-v ", len(word)-1), " ")[:len(word)-1]...)
		case !isFlag.MatchString(word):
			mark(positional, word)
		default:
			mark(option, word)
			name := regexp.MustCompile(`^--?`).ReplaceAllString(word, "")
			if slices.Contains(values[path], name) && i+1 < len(rest) {
				i++
				mark(option, rest[i])
			}
		}
	}
	order := make([]int, len(out))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return marks[a] - marks[b] })
	sorted := make([]string, len(out))
	for i, at := range order {
		sorted[i] = out[at]
	}
	return sorted
}

func FuzzPermute(f *testing.F) {
	for _, line := range []string{
		"", "u", "u forget a -k 3 -- -x", "u - -- --k= -vvv config show", "u config show a -k 3 --k=4 b", "u f -o - -o=x y -json z",
		"u forget --- -v -- --", "u config -k show", "u forget -k -- a -k", "u forget -= --=3 x",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words := strings.Fields(line)
		if len(words) == 0 {
			words = []string{"u"}
		}
		if d := cmp.Diff(permuted(slices.Clone(words)), permute(testApp(), words)); d != "" {
			t.Errorf("%q:\n%s", words, d)
		}
	})
}

// Every flag of every command has a help text, and no command has a flag twice.
func TestEveryCommand(t *testing.T) {
	app, err := newApp(io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var walk func(path string, commands []*cli.Command)
	walk = func(path string, commands []*cli.Command) {
		for _, c := range commands {
			seen := map[string]bool{"help": true, "h": true}
			if c.Usage == "" || c.OnUsageError == nil || c.Action == nil {
				t.Errorf("%s %s lacks a summary, a handler of usage errors or an action", path, c.Name)
			}
			for _, f := range c.Flags {
				for _, n := range flagNames(f) {
					if seen[n] {
						t.Errorf("%s %s: flag %s twice", path, c.Name, n)
					}
					seen[n] = true
				}
			}
			printCommand(io.Discard, c)
			walk(path+" "+c.Name, c.Subcommands)
		}
	}
	walk("unlearn", app.Commands)
}
