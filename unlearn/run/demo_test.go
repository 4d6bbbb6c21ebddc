package run

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const tinyDemo = `
dataset: imagefolder
data-dir: %s
model: resnet20
threads: 1
eps: 4
step: 0.1
iters: 4
num-adv: 3
forget:
  lr: 0.01
train:
  epochs: 8
  train-batch: 8
  augment: false
`

// The demonstration on a small scale: it forgets what it says with every method, uses its network and its adversarial
// examples again, and goes on to the same results when it is interrupted.
func TestDemo(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(filepath.Join(dir, "cache"))
	preset := filepath.Join(t.TempDir(), "demo.yaml")
	if err := os.WriteFile(preset, fmt.Appendf(nil, tinyDemo, filepath.Join(dir, "images")), 0o644); err != nil {
		t.Fatal(err)
	}
	catalog, err := Catalog()
	if err != nil {
		t.Fatal(err)
	}
	const images = 4
	show := func(ctx context.Context, output string, on func(event map[string]any)) (*DemoResult, string, error) {
		var log bytes.Buffer
		lines := lineWriter(func(line []byte) {
			var event map[string]any
			if err := json.Unmarshal(line, &event); err != nil {
				t.Errorf("%s: %v", line, err)
			}
			on(event)
		})
		console := NewConsole(TerminalOptions{JSON: true, Progress: "none"}, lines, &log)
		d := &demo{Invocation{Catalog: catalog, Argv: []string{"unlearn", "demo"}, Console: console}, DemoOptions{Output: output}, preset, images}
		result, err := d.run(ctx)
		if err := console.Close(); err != nil {
			t.Error(err)
		}
		return result, log.String(), err
	}
	// What adv-imp shows as the cost of its attack is what adv paid for it.
	honest := func(r *DemoResult) {
		t.Helper()
		adv, imp := r.Methods[1], r.Methods[2]
		if adv.Attack.Seconds <= 0 || imp.Attack.Seconds != adv.Attack.Seconds || !slices.Contains(imp.Cached, "attack") {
			t.Errorf("adv: %+v; adv-imp: %+v, cached %v", adv.Attack, imp.Attack, imp.Cached)
		}
	}
	count := map[any]int{}
	output := t.TempDir()
	first, log, err := show(t.Context(), output, func(e map[string]any) { count[e["event"]]++ })
	if err != nil {
		t.Fatal(err)
	}
	if count["start"] != 4 || count["summary"] != 5 {
		t.Errorf("events: %v", count)
	}
	if first.Reused || strings.Count(log, "examples taken from the cache") != 1 { // of adv, by adv-imp
		t.Errorf("reused %v, log:\n%s", first.Reused, log)
	}
	for i, m := range first.Methods {
		if m.Method != demoMethods[i] || m.Before.Forget.Hits != images || m.Before.Forget.N != images || m.After.Forget.Hits != 0 {
			t.Errorf("%s: %+v before, %+v after", m.Method, m.Before.Forget, m.After.Forget)
		}
	}
	honest(first)
	same := cmp.Options{
		cmpopts.IgnoreFields(Result{}, "Seconds", "PeakMemory", "Cached", "DataAccess", "Attack.Seconds"), cmpopts.IgnoreFields(Origin{}, "Source"), cmpopts.IgnoreFields(TrainResult{}, "Seconds"),
		cmpopts.IgnoreFields(DemoResult{}, "Reused"),
	}
	second, log, err := show(t.Context(), output, func(map[string]any) {})
	if err != nil {
		t.Fatal(err)
	}
	if !second.Reused || strings.Count(log, "examples taken from the cache") != 2 {
		t.Errorf("second time: reused %v, log:\n%s", second.Reused, log)
	}
	honest(second)
	if d := cmp.Diff(first, second, same); d != "" {
		t.Errorf("second time:\n%s", d)
	}

	// Interrupted once in training and once in the second method.
	output = t.TempDir()
	for _, at := range []struct {
		phase string
		step  float64
	}{{"train", 20}, {"unlearn", 2}} {
		seen := 0
		ctx, stop := context.WithCancelCause(t.Context())
		_, _, err := show(ctx, output, func(e map[string]any) {
			if e["event"] == "metric" && e["phase"] == at.phase && e["step"] == at.step {
				if seen++; seen == 2 || at.phase == "train" {
					stop(&Stopped{Signal: syscall.SIGTERM})
				}
			}
		})
		stop(nil)
		if ExitCode(err) != ExitResumable {
			t.Fatalf("%s: %v", at.phase, err)
		}
	}
	third, log, err := show(t.Context(), output, func(map[string]any) {})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log, "neggrad: done before the interruption") || !strings.Contains(log, "going on from ") {
		t.Errorf("log of the resumed demo:\n%s", log)
	}
	if d := cmp.Diff(first, third, same); d != "" {
		t.Errorf("resumed:\n%s", d)
	}
}
