package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"l2ul/unlearn/bench"
)

// The recipes of scripts/batch can be read, each starts one grid that there is, with flags that there are, on the share that its
// system names; what is stopped may be tried again, and Kubernetes gives up on what would fail again.
func TestBatchRecipes(t *testing.T) {
	dir := filepath.Join("..", "..", "scripts", "batch")
	// at walks a document to where the recipe has its words.
	at := func(doc any, path ...any) any {
		for _, step := range path {
			switch s := step.(type) {
			case string:
				m, _ := doc.(map[string]any)
				doc = m[s]
			case int:
				list, _ := doc.([]any)
				if s >= len(list) {
					return nil
				}
				doc = list[s]
			}
		}
		return doc
	}
	words := map[string]func(doc any) any{
		"k8s-indexed-job.yaml": func(doc any) any { return at(doc, "spec", "template", "spec", "containers", 0, "args") },
		"aws-batch.json":       func(doc any) any { return at(doc, "containerProperties", "command") },
		"gcp-batch.json": func(doc any) any {
			return at(doc, "taskGroups", 0, "taskSpec", "runnables", 0, "container", "commands")
		},
		"sky.yaml":   func(doc any) any { return at(doc, "run") },
		"dstack.yml": func(doc any) any { return at(doc, "commands", 0) },
		"slurm-array.sbatch": func(doc any) any {
			for line := range strings.Lines(doc.(string)) {
				if rest, ok := strings.CutPrefix(line, "srun "); ok {
					return strings.Replace(rest, `"$1"`, "preset:l2ul/table-cifar10", 1)
				}
			}
			return nil
		},
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := f.Name()
		if name == "README.md" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		var doc any = string(text)
		switch filepath.Ext(name) {
		case ".json":
			err = json.Unmarshal(text, &doc)
		case ".yaml", ".yml":
			err = yaml.Unmarshal(text, &doc)
		}
		if err != nil || words[name] == nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var line []string
		switch w := words[name](doc).(type) {
		case string:
			line = strings.Fields(w)[1:] // without the program
		case []any:
			for _, word := range w {
				line = append(line, word.(string))
			}
		}
		checkBenchRun(t, name, line)
	}
	if len(files) != len(words)+1 {
		t.Errorf("%d files, want %d recipes and README.md", len(files), len(words))
	}
	for name, path := range map[string][]any{
		"k8s-indexed-job.yaml": {"spec", "podFailurePolicy", "rules", 1, "onExitCodes", "values"},
		"gcp-batch.json":       {"taskGroups", 0, "taskSpec", "lifecyclePolicies", 0, "actionCondition", "exitCodes"},
	} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		var doc any
		if err := yaml.Unmarshal(text, &doc); err != nil { // JSON is YAML
			t.Fatal(err)
		}
		resumable := slices.ContainsFunc(at(doc, path...).([]any), func(v any) bool { return v == uint64(75) })
		if resumable != (name == "gcp-batch.json") { // which lists what to retry, Kubernetes what not to
			t.Errorf("%s: 75 is to be tried again", name)
		}
	}
}

// The script of Slurm starts one step with its arguments as they are, comes back after a stop and after nothing else, not for ever, and
// says how it is used.
func TestSlurmScript(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash on this machine: the script of Slurm is not run")
	}
	script, err := filepath.Abs(filepath.Join("..", "..", "scripts", "batch", "slurm-array.sbatch"))
	if err != nil {
		t.Fatal(err)
	}
	// run runs it beside a srun and a scontrol that write down their words, one a line.
	run := func(step string, args []string, env ...string) (code int, said string) {
		t.Helper()
		dir := t.TempDir()
		for name, text := range map[string]string{
			"srun": "printf '%s\\n' \"cores $SRUN_CPUS_PER_TASK\" \"cache $UNLEARN_CACHE\" \"$@\"\n" + step, "scontrol": "echo scontrol \"$@\"\n",
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		c := exec.CommandContext(t.Context(), bash, append([]string{script}, args...)...)
		c.Env = append([]string{"PATH=" + dir + ":" + os.Getenv("PATH"), "SLURM_CPUS_PER_TASK=8", "SLURM_JOB_ID=50"}, env...)
		out, err := c.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return c.ProcessState.ExitCode(), string(out)
	}
	words := []string{"my grid.yaml", "/out put/$(touch x)", "w*.pt", "/data dir"}
	started := "cores 8\ncache /out put/$(touch x)-cache\nunlearn\nbench\nrun\nmy grid.yaml\n-o\n/out put/$(touch x)\n--weights\nw*.pt\n--data-dir\n/data dir\n" +
		"--shard\nauto\n--progress\nnone\n"
	array := []string{"SLURM_ARRAY_JOB_ID=42", "SLURM_ARRAY_TASK_ID=3"}
	for name, c := range map[string]struct {
		step string
		args []string
		env  []string
		code int
		said string
	}{
		"done":            {"exit 0", words, array, 0, started},
		"cells failed":    {"exit 3", words, array, 3, started},
		"out of memory":   {"exit 137", words, array, 137, started},
		"stopped":         {"exit 75", words, array, 0, started + "scontrol requeue 42_3\n"},
		"no array":        {"exit 75", words, nil, 0, started + "scontrol requeue 50\n"},
		"stopped always":  {"exit 75", words, append([]string{"SLURM_RESTART_COUNT=100"}, array...), 75, started},
		"signal to shell": {"kill -TERM $PPID; sleep 0.2; exit 75", words, array, 0, started + "scontrol requeue 42_3\n"},
		"no arguments":    {"exit 0", nil, array, 2, "usage: sbatch --array=0-7 slurm-array.sbatch GRID OUTPUT WEIGHTS DATA\n"},
	} {
		if code, said := run(c.step, c.args, c.env...); code != c.code || said != c.said {
			t.Errorf("%s: exit code %d, want %d:\n%s", name, code, c.code, cmp.Diff(c.said, said))
		}
	}
}

// checkBenchRun parses a command line as the program would, up to where it would run.
func checkBenchRun(t *testing.T, recipe string, line []string) {
	t.Helper()
	app, err := newApp(io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ran := false
	for _, c := range app.Commands {
		if c.Name != "bench" {
			continue
		}
		for _, c := range c.Subcommands {
			if c.Name != "run" {
				continue
			}
			c.Action = func(ctx *cli.Context) error {
				ran = true
				if _, err := bench.Load(ctx.Args().First()); err != nil || ctx.NArg() != 1 {
					t.Errorf("%s: %d grids, %v", recipe, ctx.NArg(), err)
				}
				texts := given(ctx)
				if texts["output"] == nil || texts["weights"] == nil || texts["data-dir"] == nil {
					t.Errorf("%s: flags %v", recipe, texts)
				}
				if shard := texts["shard"]; shard != nil {
					env := func(name string) (string, bool) {
						v, ok := map[string]string{
							"slurm-array.sbatch SLURM_ARRAY_TASK_ID": "1", "slurm-array.sbatch SLURM_ARRAY_TASK_MIN": "0", "slurm-array.sbatch SLURM_ARRAY_TASK_COUNT": "8",
							"k8s-indexed-job.yaml JOB_COMPLETION_INDEX": "1",
							"aws-batch.json AWS_BATCH_JOB_ARRAY_INDEX":  "1", "aws-batch.json AWS_BATCH_JOB_ARRAY_SIZE": "8",
							"gcp-batch.json BATCH_TASK_INDEX": "1", "gcp-batch.json BATCH_TASK_COUNT": "8",
						}[recipe+" "+name]
						return v, ok
					}
					if s, err := bench.ParseShard(shard[0], env); err != nil || s != (bench.Shard{Index: 1, Count: 8}) {
						t.Errorf("%s: share %v, %v", recipe, s, err)
					}
				}
				return nil
			}
		}
	}
	args := append([]string{"unlearn"}, line...)
	if err := app.Run(permute(app, args)); err != nil || !ran {
		t.Errorf("%s: `%s`: %v", recipe, strings.Join(args, " "), err)
	}
}
