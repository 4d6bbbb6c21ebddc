package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"l2ul/internal/tinyimages"
)

// process runs a command line and calls on with each event; it returns the exit code (-1 when killed) and stderr.
func process(t *testing.T, dir string, on func(event map[string]any, p *os.Process), args ...string) (code int, stderr string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "unlearn", args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "UNLEARN_CACHE="+filepath.Join(dir, "cache"), "XDG_CONFIG_HOME="+dir)
	var complaint bytes.Buffer
	c.Stderr = &complaint
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var event map[string]any
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			continue // a last line cut short by a kill
		}
		on(event, c.Process)
	}
	var exit *exec.ExitError
	if err := c.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), complaint.String()
}

// A training job that is stopped by SIGTERM, then killed without warning, ends with the weights of one that was left alone.
// L2UL_LONG=1 does it again and again, at other steps each time.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	if err := tinyimages.Write(filepath.Join(dir, "data"), 3); err != nil {
		t.Fatal(err)
	}
	nothing := func(map[string]any, *os.Process) {}
	job := func(output string, more ...string) []string {
		return append([]string{
			"train", "--json", "-q", "-m", "resnet20", "--dataset", "imagefolder", "--data-dir", "data", "--threads", "1",
			"--epochs", "20", "--train-batch", "12", "--save-every", "10", "-o", output,
		}, more...)
	}
	if code, stderr := process(t, dir, nothing, job("whole")...); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	want, err := os.ReadFile(filepath.Join(dir, "whole", "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	// at sends a signal when the metrics of a step appear.
	at := func(step float64, signal os.Signal) func(map[string]any, *os.Process) {
		return func(e map[string]any, p *os.Process) {
			if e["event"] == "metric" && e["step"] == step {
				if err := p.Signal(signal); err != nil {
					t.Error(err)
				}
			}
		}
	}
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 1 + 30*min(1, len(os.Getenv("L2UL_LONG"))) {
		output := fmt.Sprint("cut", round)
		first, second := float64(1+random.IntN(25)), float64(30+random.IntN(20))
		code, stderr := process(t, dir, at(first, syscall.SIGTERM), job(output)...)
		if code != 75 || !strings.Contains(stderr, "stopped by SIGTERM; go on with `unlearn train --json ") || !strings.Contains(stderr, " --resume "+output+"`") {
			t.Fatalf("SIGTERM at step %g: exit code %d: %s", first, code, stderr)
		}
		if round == 0 {
			code, stderr = process(t, dir, nothing, job(output)...)
			if code != 2 || !strings.Contains(stderr, "holds an unfinished run") {
				t.Errorf("started anew in the folder: exit code %d: %s", code, stderr)
			}
			code, stderr = process(t, dir, nothing, job(output, "--resume", "auto", "--lr", "0.5")...)
			if code != 2 || !strings.Contains(stderr, "was run with another configuration: lr") {
				t.Errorf("resumed with another configuration: exit code %d: %s", code, stderr)
			}
		}
		if code, stderr = process(t, dir, at(second, syscall.SIGKILL), job(output, "--resume", "auto")...); code != -1 {
			t.Fatalf("SIGKILL at step %g: exit code %d: %s", second, code, stderr)
		}
		if code, stderr = process(t, dir, nothing, job(output, "--resume", output)...); code != 0 {
			t.Fatalf("after SIGKILL at step %g: exit code %d: %s", second, code, stderr)
		}
		got, err := os.ReadFile(filepath.Join(dir, output, "model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("SIGTERM at step %g, SIGKILL at step %g: other weights", first, second)
		}
	}
}

// A job that does not come to its end in time is ended; its last checkpoint is still good, and it says so.
func TestGraceRunsOut(t *testing.T) {
	dir := t.TempDir()
	if err := tinyimages.Write(filepath.Join(dir, "data"), 3); err != nil {
		t.Fatal(err)
	}
	job := []string{
		"train", "--json", "-q", "-m", "resnet18", "--img-size", "native", "--dataset", "imagefolder", "--data-dir", "data", "--threads", "1",
		"--epochs", "100", "--train-batch", "36", "--save-every", "2", "--grace", "1ns", "-o", "run",
	}
	var events []map[string]any
	code, stderr := process(t, dir, func(e map[string]any, p *os.Process) {
		events = append(events, e)
		if e["event"] == "checkpoint" && len(events) > 8 {
			if err := p.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
	}, job...)
	if code != 75 || !strings.Contains(stderr, "--grace 1ns -o run --resume run`") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if !slices.ContainsFunc(events, func(e map[string]any) bool { return e["event"] == "error" && e["exit_code"] == 75. }) {
		t.Errorf("no event tells of the end; the last is %v", events[len(events)-1])
	}
}

// The demo's log is for people, whatever stderr is, and so is the line that goes on; JSON is for those who ask.
func TestLogOfTheDemo(t *testing.T) {
	for _, c := range []struct{ format, said, not string }{
		{"auto", " INF train a network on generated images\n", `"level"`},
		{"json", `{"level":"info",`, " INF "},
	} {
		code, stderr := process(t, t.TempDir(), func(e map[string]any, p *os.Process) {
			if e["event"] == "start" {
				if err := p.Signal(syscall.SIGTERM); err != nil {
					t.Error(err)
				}
			}
		}, "demo", "--json", "--log-format", c.format, "-o", "shown")
		if code != 75 || !strings.Contains(stderr, c.said) || strings.Contains(stderr, c.not) ||
			!strings.HasSuffix(stderr, "stopped by SIGTERM; go on with `unlearn demo --json --log-format "+c.format+" -o shown`\n") {
			t.Errorf("--log-format %s: exit code %d: %s", c.format, code, stderr)
		}
	}
}
