package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"l2ul/internal/tinyimages"
)

const killedGrid = `
base: {config: net/config.yaml, weights: net/model.safetensors, k: 4, num-adv: 3, iters: 60, lr: 0.003, save-every: 3, max-steps: 60}
matrix:
  method: [neggrad, adv, adv-imp]
  seed: [0, 1]
checks:
  - no-retain-reads: true
`

// A grid whose process is ended at random, again and again, has the results of one that was left alone: the summary byte for
// byte, and those of the cells but for times and for what they found in the cache.
func TestGridKilled(t *testing.T) {
	dir := t.TempDir()
	if err := tinyimages.Write(filepath.Join(dir, "data"), 3); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "grid.yaml"), []byte(killedGrid), 0o644); err != nil {
		t.Fatal(err)
	}
	nothing := func(map[string]any, *os.Process) {}
	code, stderr := process(t, dir, nothing, "train", "--json", "-m", "resnet20", "--dataset", "imagefolder", "--data-dir", "data",
		"--threads", "1", "--epochs", "6", "--train-batch", "12", "--augment=false", "-o", "net")
	if code != 0 {
		t.Fatal(stderr)
	}
	// grid runs it with a cache of its own, and ends its process by a signal after a while.
	grid := func(output string, after time.Duration, signal os.Signal) (code int, stderr string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), "unlearn", "bench", "run", "grid.yaml", "-o", output)
		c.Dir = dir
		c.Env = append(os.Environ(), "UNLEARN_CACHE="+filepath.Join(dir, "cache-"+output), "XDG_CONFIG_HOME="+dir)
		var said bytes.Buffer
		c.Stderr = &said
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if signal != nil {
			defer time.AfterFunc(after, func() { _ = c.Process.Signal(signal) }).Stop()
		}
		var exit *exec.ExitError
		if err := c.Wait(); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return c.ProcessState.ExitCode(), said.String()
	}
	began := time.Now()
	if code, stderr := grid("whole", 0, nil); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	took := time.Since(began)
	kills := 2
	if os.Getenv("L2UL_LONG") != "" {
		kills = 10
	}
	random := rand.New(rand.NewPCG(1, 2))
	ended := 0
	for range kills {
		signal := []os.Signal{syscall.SIGKILL, syscall.SIGTERM}[random.IntN(2)]
		code, stderr := grid("cut", time.Duration(float64(took)*(0.1+0.4*random.Float64())), signal)
		switch {
		case code == 0: // it was done before
		case code == -1 && signal == syscall.SIGKILL, code == 75 && signal == syscall.SIGTERM:
			ended++
		default:
			t.Fatalf("%s: exit code %d: %s", signal, code, stderr)
		}
	}
	if ended == 0 {
		t.Error("every process came to its end before it was to be ended")
	}
	if code, stderr := grid("cut", 0, nil); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	read := func(parts ...string) []byte {
		text, err := os.ReadFile(filepath.Join(append([]string{dir}, parts...)...))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for _, name := range []string{"summary.json", "grid.json"} {
		if d := cmp.Diff(string(read("whole", name)), string(read("cut", name))); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
	cells, err := os.ReadDir(filepath.Join(dir, "whole", "cells"))
	if err != nil || len(cells) != 6 {
		t.Fatalf("%d cells, %v", len(cells), err)
	}
	for _, c := range cells {
		if d := cmp.Diff(timeless(t, read("whole", "cells", c.Name(), "result.json")), timeless(t, read("cut", "cells", c.Name(), "result.json"))); d != "" {
			t.Errorf("cell %s:\n%s", c.Name(), d)
		}
		if !bytes.Equal(read("whole", "cells", c.Name(), "model.safetensors"), read("cut", "cells", c.Name(), "model.safetensors")) {
			t.Errorf("cell %s has other weights", c.Name())
		}
	}
}

// timeless is a result without times, memory and what the cache had.
func timeless(t *testing.T, text []byte) map[string]any {
	t.Helper()
	var r map[string]any
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"seconds", "peak_memory_bytes", "cached"} {
		delete(r, key)
	}
	if a, ok := r["attack"].(map[string]any); ok {
		delete(a, "seconds")
	}
	delete(r["data_access"].(map[string]any)["reads"].(map[string]any), "before")
	return r
}

// Two processes that work on one grid do each cell once.
func TestGridShared(t *testing.T) {
	dir := t.TempDir()
	if err := tinyimages.Write(filepath.Join(dir, "data"), 3); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "grid.yaml"), []byte(killedGrid), 0o644); err != nil {
		t.Fatal(err)
	}
	nothing := func(map[string]any, *os.Process) {}
	code, stderr := process(t, dir, nothing, "train", "--json", "-m", "resnet20", "--dataset", "imagefolder", "--data-dir", "data",
		"--threads", "1", "--epochs", "1", "--train-batch", "12", "-o", "net")
	if code != 0 {
		t.Fatal(stderr)
	}
	said := make(chan string)
	for range 2 {
		go func() {
			code, stderr := process(t, dir, nothing, "bench", "run", "grid.yaml", "--json", "-o", "grid")
			said <- fmt.Sprintln(code) + stderr
		}()
	}
	begun := 0
	for range 2 {
		text := <-said
		if !bytes.HasPrefix([]byte(text), []byte("0\n")) {
			t.Error(text)
		}
		begun += bytes.Count([]byte(text), []byte(`"begins`))
	}
	argvs, err := filepath.Glob(filepath.Join(dir, "grid", "cells", "*", "argv.txt"))
	if err != nil || len(argvs) != 6 || begun != 6 {
		t.Errorf("%d cells, begun %d times (%v)", len(argvs), begun, err)
	}
}
