package run

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"l2ul/internal/tinyimages"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/unlearn/engine"
	"l2ul/unlearn/run/config"
	"l2ul/unlearn/train"
)

// material makes what the jobs of these tests work on, once: 48 images of 4 classes and a resnet20 trained on them.
var material = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "unlearn-run"); err != nil {
		return "", err
	}
	materialDir = dir
	os.Setenv("UNLEARN_CACHE", filepath.Join(dir, "cache"))
	if err := tinyimages.Write(filepath.Join(dir, "images"), 4); err != nil {
		return "", err
	}
	trained := job{verb: "train", dir: filepath.Join(dir, "trained"), flags: flags("epochs", "8", "train-batch", "8", "augment", "false")}
	return dir, trained.run(context.Background(), dir, nil).err
})

var materialDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if materialDir != "" {
		os.RemoveAll(materialDir)
	}
	if n := torch.Live(); n != 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "%d tensors or generators were never freed\n", n)
		code = 1
	}
	os.Exit(code)
}

// job is one command line in this process.
type job struct {
	verb  string
	dir   string // run folder
	flags map[string][]string
	args  []string
}

// outcome is what a job did.
type outcome struct {
	err    error
	events []map[string]any
}

// run runs the job. on is told the number of each event as it is written, in the job's own thread.
func (j job) run(ctx context.Context, material string, on func(i int, event map[string]any)) outcome {
	var out outcome
	catalog, err := Catalog()
	if err != nil {
		return outcome{err: err}
	}
	all := flags("dataset", "imagefolder", "data-dir", filepath.Join(material, "images"), "model", "resnet20", "threads", "1")
	if j.verb != "split" && j.verb != "eval" {
		all["output"] = []string{j.dir}
	}
	if j.verb == "split" {
		delete(all, "model")
		delete(all, "threads")
	} else if j.verb != "train" {
		all["weights"] = []string{filepath.Join(material, "trained", "model.safetensors")}
	}
	for name, texts := range j.flags {
		all[name] = texts
	}
	cfg, err := catalog.Resolve(j.verb, config.Sources{Flags: all})
	if err != nil {
		return outcome{err: err}
	}
	lines := lineWriter(func(line []byte) {
		var event map[string]any
		if err := json.Unmarshal(line, &event); err != nil {
			panic(fmt.Sprintf("not JSON on stdout: %s", line))
		}
		out.events = append(out.events, event)
		if on != nil {
			on(len(out.events)-1, event)
		}
	})
	console := NewConsole(TerminalOptions{JSON: true, Quiet: true}, lines, &bytes.Buffer{})
	console.now = func() time.Time { return time.Unix(0, 0) } // progress is told at the end of each phase only
	inv := Invocation{Catalog: catalog, Config: cfg, Argv: []string{"unlearn", j.verb}, Args: j.args, Console: console}
	switch j.verb {
	case "continual":
		_, err = Continual(ctx, inv)
	case "train":
		_, err = Train(ctx, inv)
	case "forget":
		_, err = Forget(ctx, inv)
	case "attack":
		_, err = Attack(ctx, inv)
	case "importance":
		_, err = Importance(ctx, inv)
	case "eval":
		_, err = Evaluate(ctx, inv)
	case "split":
		_, err = Split(ctx, inv)
	}
	out.err = errors.Join(err, console.Close())
	return out
}

// lineWriter is called with each line; the console writes whole ones.
type lineWriter func(line []byte)

func (w lineWriter) Write(p []byte) (int, error) {
	for line := range bytes.Lines(p) {
		w(line)
	}
	return len(p), nil
}

// left is what a run leaves behind, without what differs from run to run.
func left(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, name := range []string{"model.safetensors", "model-best.safetensors", "adversarial.safetensors", "importance.safetensors", "forget.json"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			files[name] = string(text)
		}
	}
	var result map[string]any
	readJSON(t, filepath.Join(dir, "result.json"), &result)
	delete(result, "seconds")
	delete(result, "peak_memory_bytes")
	for _, part := range []string{"attack", "oracle"} {
		if made, ok := result[part].(map[string]any); ok {
			delete(made, "seconds")
		}
	}
	text, err := json.MarshalIndent(result, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	files["result.json"] = string(text)
	metrics, err := os.ReadFile(filepath.Join(dir, "metrics.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(metrics) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatal(err)
		}
		delete(m, "time")
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		files["metrics.jsonl"] += string(text) + "\n"
	}
	return files
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// resumable are the jobs that must go on to the same bits, with settings that visit every stage several times: 80 pairs are
// more than one chunk of the attack.
var resumable = map[string]job{
	"train": {verb: "train", flags: flags("epochs", "2", "train-batch", "16", "save-every", "2")},
	"recipe": {verb: "train", flags: flags("epochs", "3", "train-batch", "16", "optimizer", "adamw", "lr", "0.003", "sched", "multistep",
		"milestones", "2", "warmup", "1", "mixup", "0.2", "label-smoothing", "0.1", "clip-norm", "1", "ema", "0.8", "val", "9", "save-every", "2")},
	"attack":  {verb: "attack", flags: flags("k", "4", "num-adv", "20", "iters", "2", "save-every", "1")},
	"adv-imp": {verb: "forget", flags: flags("method", "adv-imp", "k", "4", "num-adv", "20", "iters", "2", "batch-size", "8", "adv-batch", "8", "lr", "0.0003", "max-steps", "4", "limit", "8", "save-every", "2")},
	"neggrad": {verb: "forget", flags: flags("method", "neggrad", "k", "10", "forget-batch", "4", "lr", "0.0001", "max-steps", "4", "limit", "8", "save-every", "1")},
	"retrain": {verb: "forget", flags: flags("method", "retrain", "k", "4", "epochs", "2", "train-batch", "16", "limit", "8", "save-every", "2")},
}

// A job that is stopped at any event, by a signal or by a power cut, goes on to the bits of one that is not: weights,
// result, metrics. By default one event of each kind is tried;
// L2UL_LONG=1 tries them all.
func TestInterruptAndResume(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	for name, j := range resumable {
		t.Run(name, func(t *testing.T) {
			os.RemoveAll(filepath.Join(dir, "cache")) // or there would be nothing to attack
			j.dir = filepath.Join(t.TempDir(), "whole")
			whole := j.run(t.Context(), dir, nil)
			if code := ExitCode(whole.err); code != ExitOK && code != ExitNotReached {
				t.Fatal(whole.err)
			}
			want := left(t, j.dir)
			for _, i := range sample(whole.events) {
				interrupt(t, dir, j, i, whole, want)
				if event := whole.events[i]["event"]; long() || event == "checkpoint" || event == "metric" {
					powerCut(t, dir, j, i, whole, want)
				}
			}
		})
	}
}

func long() bool { return os.Getenv("L2UL_LONG") != "" }

// sample chooses the events to stop at: one of each kind and phase.
func sample(events []map[string]any) []int {
	kinds := map[string][]int{}
	for i, e := range events[:len(events)-1] { // behind the summary nothing is left to stop
		kind := fmt.Sprint(e["event"], e["phase"])
		kinds[kind] = append(kinds[kind], i)
	}
	var chosen []int
	for _, at := range kinds {
		if !long() {
			at = []int{at[len(at)/2]}
		}
		chosen = append(chosen, at...)
	}
	slices.Sort(chosen)
	return slices.Compact(chosen)
}

// interrupt stops the job with a signal at event i, resumes it and compares.
func interrupt(t *testing.T, material string, j job, i int, whole outcome, want map[string]string) {
	t.Helper()
	os.RemoveAll(filepath.Join(material, "cache"))
	j.dir = filepath.Join(t.TempDir(), "run")
	ctx, stop := context.WithCancelCause(t.Context())
	defer stop(nil)
	cut := j.run(ctx, material, func(at int, _ map[string]any) {
		if at == i {
			stop(&Stopped{Signal: syscall.SIGTERM})
		}
	})
	what := fmt.Sprintf("SIGTERM at event %d, %v", i, describe(whole.events[i]))
	switch code := ExitCode(cut.err); code {
	case ExitCode(whole.err): // it came too late to stop anything
	case ExitResumable:
		if _, err := os.Stat(filepath.Join(j.dir, "result.json")); err == nil {
			t.Errorf("%s: the stopped run has a result", what)
		}
		j.flags = with(j.flags, "resume", "auto")
		if again := j.run(t.Context(), material, nil); ExitCode(again.err) != ExitCode(whole.err) {
			t.Fatalf("%s: resumed: %v", what, again.err)
		}
	case ExitTerminated:
		if names, _ := filepath.Glob(filepath.Join(j.dir, "checkpoints", "step-*")); names != nil {
			t.Errorf("%s: says that nothing was saved, but %v was", what, names)
		}
		os.RemoveAll(filepath.Join(material, "cache")) // scores taken before the signal would be found there
		if again := j.run(t.Context(), material, nil); ExitCode(again.err) != ExitCode(whole.err) {
			t.Fatalf("%s: started again: %v", what, again.err)
		}
	default:
		t.Fatalf("%s: exit code %d: %v", what, code, cut.err)
	}
	if d := cmp.Diff(want, left(t, j.dir)); d != "" {
		t.Errorf("%s: another result:\n%.3000s", what, d)
	}
}

// powerCut takes the run folder as it is at event i, which is what a process leaves that ends there at once, goes on in
// the copy and compares.
func powerCut(t *testing.T, material string, j job, i int, whole outcome, want map[string]string) {
	t.Helper()
	os.RemoveAll(filepath.Join(material, "cache"))
	first := j
	first.dir = filepath.Join(t.TempDir(), "run")
	j.dir = filepath.Join(t.TempDir(), "copy")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	first.run(ctx, material, func(at int, _ map[string]any) {
		if at == i {
			if _, err := os.Stat(first.dir); err != nil {
				return // before there is a folder
			}
			if err := os.CopyFS(j.dir, os.DirFS(first.dir)); err != nil {
				t.Error(err)
			}
			stop()
		}
	})
	os.RemoveAll(filepath.Join(material, "cache"))
	j.flags = with(j.flags, "resume", "auto")
	what := fmt.Sprintf("power cut at event %d, %v", i, describe(whole.events[i]))
	if again := j.run(t.Context(), material, nil); ExitCode(again.err) != ExitCode(whole.err) {
		t.Fatalf("%s: resumed: %v", what, again.err)
	}
	if d := cmp.Diff(want, left(t, j.dir)); d != "" {
		t.Errorf("%s: another result:\n%.3000s", what, d)
	}
}

// The seconds of a resumed job are those of all its processes. The checkpoint of a stopped one is made to say that it took
// an hour.
func TestSecondsOfResumedJobs(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	for name, j := range resumable {
		t.Run(name, func(t *testing.T) {
			os.RemoveAll(filepath.Join(dir, "cache"))
			j.dir = filepath.Join(t.TempDir(), "run")
			ctx, stop := context.WithCancelCause(t.Context())
			defer stop(nil)
			cut := j.run(ctx, dir, func(_ int, e map[string]any) {
				if e["event"] == "checkpoint" {
					stop(&Stopped{Signal: syscall.SIGTERM})
				}
			})
			var stopped *Stopped
			if !errors.As(cut.err, &stopped) || stopped.Checkpoint == "" {
				t.Fatal(cut.err)
			}
			text, err := os.ReadFile(stopped.Checkpoint)
			if err != nil {
				t.Fatal(err)
			}
			spent := regexp.MustCompile(`"(seconds|eval)": [0-9.e-]+`)
			if !spent.Match(text) {
				t.Fatalf("the checkpoint knows no seconds: %s", text)
			}
			if err := os.WriteFile(stopped.Checkpoint, spent.ReplaceAll(text, []byte(`"$1": 3600`)), 0o644); err != nil {
				t.Fatal(err)
			}
			j.flags = with(j.flags, "resume", "auto")
			if again := j.run(t.Context(), dir, nil); again.err != nil && ExitCode(again.err) != ExitNotReached {
				t.Fatal(again.err)
			}
			var result struct {
				Seconds any `json:"seconds"`
			}
			readJSON(t, filepath.Join(j.dir, "result.json"), &result)
			total, ok := result.Seconds.(float64)
			if !ok {
				total = result.Seconds.(map[string]any)["total"].(float64)
			}
			if total < 3600 {
				t.Errorf("%g seconds in all, an hour of them before it was stopped", total)
			}
		})
	}
}

func describe(event map[string]any) string {
	return fmt.Sprint(event["event"], " ", event["phase"], " ", event["step"])
}

func with(f map[string][]string, pairs ...string) map[string][]string {
	out := maps.Clone(f)
	maps.Copy(out, flags(pairs...))
	return out
}

// A second run on the same weights evaluates and attacks nothing again, says so, and gives the same result.
func TestCache(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "cache")
	os.RemoveAll(folder)
	j := job{verb: "forget", flags: flags("k", "4", "num-adv", "5", "iters", "2", "lr", "0.0003", "max-steps", "2", "limit", "8")}
	type numbers struct {
		Result
		scored map[string]bool // the sets
		files  map[string]string
	}
	run := func(more ...string) (n numbers) {
		t.Helper()
		j := j
		j.dir, j.flags = filepath.Join(t.TempDir(), "run"), with(j.flags, more...)
		out := j.run(t.Context(), dir, nil)
		if code := ExitCode(out.err); code != ExitOK && code != ExitNotReached {
			t.Fatal(out.err)
		}
		readJSON(t, filepath.Join(j.dir, "result.json"), &n.Result)
		n.scored = map[string]bool{}
		for _, e := range out.events {
			if phase, _ := e["phase"].(string); strings.HasPrefix(phase, "before: ") || phase == "attack" {
				n.scored[strings.TrimPrefix(phase, "before: ")] = true
			}
		}
		n.files = left(t, j.dir)
		delete(n.files, "result.json")
		shared, err := os.Stat(filepath.Join(j.dir, "adversarial.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		cached, err := filepath.Glob(filepath.Join(folder, "attacks", "*.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(cached, func(path string) bool {
			info, err := os.Stat(path)
			return err == nil && os.SameFile(info, shared)
		}) {
			t.Error("the adversarial examples are on the disk twice")
		}
		return n
	}
	nothing := map[string]bool{}
	all := map[string]bool{"D_f": true, "D_r": true, "D_test": true, "attack": true}
	first := run()
	if d := cmp.Diff(all, first.scored); d != "" || first.Cached != nil {
		t.Errorf("first run: cached %v, scored\n%s", first.Cached, d)
	}
	second := run()
	if d := cmp.Diff(nothing, second.scored); d != "" {
		t.Errorf("second run: scored\n%s", d)
	}
	if d := cmp.Diff([]string{"before.forget", "before.retain", "before.test", "attack", "importance"}, second.Cached); d != "" {
		t.Errorf("second run: cached\n%s", d)
	}
	if reads := second.DataAccess.Reads["before"]; reads["forget"]+reads["retain"]+reads["test"] != 0 {
		t.Errorf("reads before: %v", reads)
	}
	if first.Attack.Seconds <= 0 || second.Attack.Seconds != first.Attack.Seconds {
		t.Errorf("making the attack took %g s, in the second run %g s", first.Attack.Seconds, second.Attack.Seconds)
	}
	second.scored, second.Cached, second.DataAccess.Reads["before"] = first.scored, nil, first.DataAccess.Reads["before"]
	second.Seconds, second.PeakMemory = first.Seconds, first.PeakMemory
	if d := cmp.Diff(first, second, cmp.AllowUnexported(numbers{})); d != "" {
		t.Errorf("second run:\n%s", d)
	}
	// What can change the bits is evaluated anew; what it does not touch is not.
	if d := cmp.Diff(map[string]bool{"D_r": true, "D_test": true}, run("limit", "9").scored); d != "" {
		t.Errorf("another limit: scored\n%s", d)
	}
	if d := cmp.Diff(map[string]bool{"D_f": true, "D_r": true, "D_test": true}, run("batch-size", "7").scored); d != "" {
		t.Errorf("another batch size: scored\n%s", d)
	}
	if d := cmp.Diff(map[string]bool{"D_f": true, "D_r": true, "attack": true}, run("k", "3").scored); d != "" {
		t.Errorf("another forget set: scored\n%s", d)
	}
	if d := cmp.Diff(all, run("mean", "0.4,0.5,0.6").scored); d != "" {
		t.Errorf("another normalisation: scored\n%s", d)
	}
	t.Setenv("OMP_NUM_THREADS", "1")
	if d := cmp.Diff(all, run().scored); d != "" {
		t.Errorf("other threads: scored\n%s", d)
	}
}

// A network is retrained once for a recipe, data, images to forget and a seed, whatever order they are named in and whatever
// network is to forget them.
func TestOracle(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "cache")
	os.RemoveAll(folder)
	base := job{verb: "forget", flags: flags("method", "retrain", "epochs", "2", "train-batch", "16", "limit", "8")}
	type run struct {
		Result
		trained bool
		model   string // path
	}
	do := func(more ...string) (r run) {
		t.Helper()
		j := base
		j.dir, j.flags = filepath.Join(t.TempDir(), "run"), with(j.flags, more...)
		out := j.run(t.Context(), dir, nil)
		if out.err != nil {
			t.Fatal(out.err)
		}
		r.model = filepath.Join(j.dir, "model.safetensors")
		readJSON(t, filepath.Join(j.dir, "result.json"), &r.Result)
		r.trained = slices.ContainsFunc(out.events, func(e map[string]any) bool { return e["event"] == "metric" })
		if cached := slices.Contains(r.Cached, "oracle"); cached == r.trained || r.Oracle == nil || r.Oracle.Seconds <= 0 {
			t.Errorf("%v: trained %t, the result says %t and %+v", more, r.trained, cached, r.Oracle)
		}
		return r
	}
	first := do("forget", "ids:1,5,9")
	if !first.trained || !first.DataAccess.RetainDuringUnlearning {
		t.Errorf("the first run: %+v", first)
	}
	want, err := os.Stat(first.model)
	if err != nil {
		t.Fatal(err)
	}
	for _, more := range [][]string{
		{"forget", "ids:1,5,9"},
		{"forget", "ids:9,1,5"},
		{"forget", "ids:1,5,9", "name", "again", "batch-size", "7", "limit", "9"},
		{"forget", "ids:1,5,9", "weights", first.model},
	} {
		r := do(more...)
		if r.trained || *r.Oracle != *first.Oracle {
			t.Errorf("%v: trained %t, oracle %+v, was %+v", more, r.trained, r.Oracle, first.Oracle)
		}
		if got, err := os.Stat(r.model); err != nil || !os.SameFile(got, want) {
			t.Errorf("%v: another file: %v", more, err)
		}
		if r.Steps != first.Steps || !maps.Equal(r.DataAccess.Reads["unlearn"], first.DataAccess.Reads["unlearn"]) || r.After.Forget.Hits != first.After.Forget.Hits {
			t.Errorf("%v: %d steps, reads %v, %d hits; the first run had %d, %v, %d", more, r.Steps, r.DataAccess.Reads["unlearn"],
				r.After.Forget.Hits, first.Steps, first.DataAccess.Reads["unlearn"], first.After.Forget.Hits)
		}
	}
	for _, more := range [][]string{
		{"forget", "ids:1,5"}, {"forget", "ids:1,5,9", "lr", "0.02"}, {"forget", "ids:1,5,9", "seed", "1"}, {"forget", "ids:1,5,9", "val", "3"},
	} {
		if r := do(more...); !r.trained || r.Oracle.Key == first.Oracle.Key {
			t.Errorf("%v: the oracle of other settings was taken", more)
		}
	}
	plan := func(more ...string) (steps string) {
		j := base
		j.dir, j.flags = filepath.Join(t.TempDir(), "run"), with(j.flags, append(more, "dry-run", "true")...)
		out := j.run(t.Context(), dir, nil)
		if out.err != nil {
			t.Fatal(out.err)
		}
		return out.events[len(out.events)-1]["result"].(map[string]any)["plan"].(map[string]any)["steps"].(string)
	}
	if had, lacked := plan("forget", "ids:5,1,9"), plan("forget", "ids:2"); !strings.HasPrefix(had, "none: the cache has") || strings.Contains(lacked, "cache") {
		t.Errorf("planned %q and %q", had, lacked)
	}
	// What somebody wrote into a run folder is not handed on.
	if err := os.WriteFile(first.model, []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := do("forget", "ids:1,5,9"); !r.trained {
		t.Error("a damaged entry was taken")
	}
}

// A retrained network holds out the same images as the original, and says when some of them are to be forgotten.
func TestHeldOut(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(filepath.Join(dir, "cache"))
	original := job{verb: "train", dir: filepath.Join(t.TempDir(), "run"), flags: flags("epochs", "2", "train-batch", "16", "val", "20")}
	if out := original.run(t.Context(), dir, nil); out.err != nil {
		t.Fatal(out.err)
	}
	var r TrainResult
	readJSON(t, filepath.Join(original.dir, "result.json"), &r)
	if r.Train.N != 28 || r.Val.N != 20 || r.Test.N != 20 || r.Best == nil || r.Best.N != 20 || r.Best.Hits < r.Val.Hits {
		t.Errorf("scores of %d, %d and %d images, the best %+v", r.Train.N, r.Val.N, r.Test.N, r.Best)
	}
	best, err := ckpt.Load(filepath.Join(original.dir, "model-best.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	last, err := ckpt.Load(filepath.Join(original.dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	if same := best.Hash() == last.Hash(); same != (r.Best.Epoch == 2) {
		t.Errorf("the best epoch is %d, its weights are the last: %t", r.Best.Epoch, same)
	}
	retrain := job{verb: "forget", dir: filepath.Join(t.TempDir(), "run"), flags: flags("method", "retrain", "k", "10", "epochs", "2", "train-batch", "16", "val", "20")}
	out := retrain.run(t.Context(), dir, nil)
	if out.err != nil {
		t.Fatal(out.err)
	}
	var result Result
	readJSON(t, filepath.Join(retrain.dir, "result.json"), &result)
	held := (&train.Options{Val: 20}).HoldOut(make([]int, 48), 0)
	both := 0
	for _, i := range result.Forget.Indices {
		if slices.Contains(held, int(i)) {
			both++
		}
	}
	warned := slices.ContainsFunc(out.events, func(e map[string]any) bool {
		return strings.Contains(fmt.Sprint(e["message"]), fmt.Sprintf("--val holds out %d of the images to forget", both))
	})
	if reads := result.DataAccess.Reads["unlearn"]["retain"]; both == 0 || !warned || reads != int64(2*(28-10+both)) {
		t.Errorf("%d of the images to forget are held out, warned %t, %d reads", both, warned, reads)
	}
	original.dir, original.flags = filepath.Join(t.TempDir(), "run"), with(original.flags, "val", "48")
	if out := original.run(t.Context(), dir, nil); ExitCode(out.err) != ExitUsage || !strings.Contains(out.err.Error(), "--val holds out 48") {
		t.Errorf("holding out everything: %v", out.err)
	}
}

// Imported pairs and starts are attacked as they stand in the file: the examples of a run, started where it ended, do not
// move without iterations; its pairs give its examples again.
func TestPairs(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(filepath.Join(dir, "cache"))
	attacked := func(more ...string) (string, *ckpt.File) {
		t.Helper()
		j := job{verb: "attack", dir: filepath.Join(t.TempDir(), "run"), flags: with(flags("forget", "ids:5,2,40", "num-adv", "2", "iters", "2"), more...)}
		if out := j.run(t.Context(), dir, nil); out.err != nil {
			t.Fatal(out.err)
		}
		path := filepath.Join(j.dir, "adversarial.safetensors")
		file, err := ckpt.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		return path, file
	}
	column := func(f *ckpt.File, name string) string {
		x, ok := f.Lookup(name)
		if !ok {
			t.Fatalf("no %s", name)
		}
		return fmt.Sprint(x.DType, x.Shape) + string(x.Data)
	}
	path, drawn := attacked()
	_, again := attacked("pairs", path)
	for _, name := range []string{"x_adv", "source", "target", "position", "repeat"} {
		if column(drawn, name) != column(again, name) {
			t.Errorf("the imported pairs have another %s", name)
		}
	}
	i := slices.IndexFunc(drawn.Tensors, func(t ckpt.Tensor) bool { return t.Name == "x_adv" })
	drawn.Tensors[i].Name = "start"
	path = filepath.Join(t.TempDir(), "pairs.safetensors")
	if err := ckpt.Save(path, drawn); err != nil {
		t.Fatal(err)
	}
	_, still := attacked("pairs", path, "iters", "0")
	start, _ := drawn.Lookup("start")
	x, _ := still.Lookup("x_adv")
	for i := 0; i < len(x.Data); i += 4 {
		from := math.Float32frombits(binary.LittleEndian.Uint32(start.Data[i:]))
		to := math.Float32frombits(binary.LittleEndian.Uint32(x.Data[i:]))
		if math.Abs(float64(from-to)) > 1e-6 {
			t.Fatalf("value %d began at %g and is %g", i/4, from, to)
		}
	}
}

// Every job tells its begin and its end as events, and what it writes fits the published schema.
func TestEventsOfJobs(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	for name, j := range map[string]job{
		"train":      {verb: "train", flags: flags("epochs", "1", "train-batch", "16")},
		"attack":     {verb: "attack", flags: flags("k", "2", "num-adv", "3", "iters", "2")},
		"importance": {verb: "importance", flags: flags("k", "2", "importance", "fisher-emp")},
		"eval":       {verb: "eval", flags: flags("k", "2", "output", filepath.Join(t.TempDir(), "eval.json"))},
		"split":      {verb: "split", flags: flags("k", "2", "output", filepath.Join(t.TempDir(), "forget.json"))},
		"adv-imp":    {verb: "forget", flags: flags("k", "2", "num-adv", "3", "iters", "2", "max-steps", "2", "importance", "mas-batch")},
		"all":        {verb: "forget", flags: flags("k", "48", "method", "neggrad", "max-steps", "2")},
		"relabel":    {verb: "forget", flags: flags("k", "2", "method", "imp", "goal", "relabel", "lr", "0.01")},
		"oracle":     {verb: "forget", flags: flags("k", "2", "method", "oracle", "max-steps", "2")},
		"retrain":    {verb: "forget", flags: flags("k", "2", "method", "retrain", "epochs", "1", "train-batch", "16")},
	} {
		t.Run(name, func(t *testing.T) {
			j.dir = filepath.Join(t.TempDir(), "run")
			out := j.run(t.Context(), dir, nil)
			if code := ExitCode(out.err); code != ExitOK && code != ExitNotReached {
				t.Fatal(out.err)
			}
			first, last := out.events[0], out.events[len(out.events)-1]
			for first["event"] == "warning" {
				out.events = out.events[1:]
				first = out.events[0]
			}
			if first["event"] != "start" || first["verb"] != j.verb || len(first["config_hash"].(string)) != 64 {
				t.Errorf("the first event is %v", first)
			}
			result, ok := last["result"].(map[string]any)
			if last["event"] != "summary" || !ok {
				t.Fatalf("the last event is %v", last)
			}
			for _, e := range out.events {
				if _, err := time.Parse(time.RFC3339, e["time"].(string)); err != nil {
					t.Error(err)
				}
			}
			schema := map[string][]byte{"forget": ResultJSONSchema(), "eval": EvalJSONSchema()}[j.verb]
			if schema != nil {
				if err := compile(t, schema).Validate(result); err != nil {
					t.Error(err)
				}
			}
			if j.verb == "forget" {
				reads := result["data_access"].(map[string]any)
				reader := j.flags["method"] != nil && (j.flags["method"][0] == "oracle" || j.flags["method"][0] == "retrain")
				if reads["retain_during_unlearning"] != reader {
					t.Errorf("data_access: %v", reads)
				}
				// One test before the first step and one after each: the scores before tell whether the goal holds already.
				tests := reads["reads"].(map[string]any)["stop-check"].(map[string]any)["forget"]
				if name == "adv-imp" && tests != 2*(1+result["steps"].(float64)) {
					t.Errorf("%v reads of the 2 images to test for the goal, with %v steps", tests, result["steps"])
				}
			}
			if name == "relabel" && !slices.ContainsFunc(out.events, func(e map[string]any) bool {
				note, _ := e["note"].(string)
				return strings.HasSuffix(note, "of 2 images have their new label")
			}) {
				t.Error("the progress does not say how many images have their new label")
			}
			if j.verb != "eval" && j.verb != "split" {
				var stored map[string]any
				readJSON(t, filepath.Join(j.dir, "result.json"), &stored)
				if d := cmp.Diff(result, stored); d != "" {
					t.Errorf("result.json is not the summary:\n%s", d)
				}
			}
		})
	}
}

// The log says at which steps the hits were counted and at which one image settled the stop test; in mode reference they
// are counted at each. Either way the run is the same.
func TestWitnessInTheLog(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	ends := map[string]Result{}
	for _, mode := range []string{"exact", "reference"} {
		j := job{verb: "forget", dir: filepath.Join(t.TempDir(), "run"), flags: flags("method", "imp", "k", "12", "forget-batch", "4", "lr", "0.0001", "max-steps", "6", "limit", "8", "mode", mode)}
		out := j.run(t.Context(), dir, nil)
		if ExitCode(out.err) != ExitNotReached {
			t.Fatal(out.err)
		}
		var told []string
		note := ""
		for _, e := range out.events {
			if e["phase"] != "unlearn" {
				continue
			}
			if values, ok := e["values"].(map[string]any); ok {
				for _, name := range []string{"hits", "witness"} {
					if values[name] != nil {
						told = append(told, name)
					}
				}
			}
			if text, ok := e["note"].(string); ok {
				note = text
			}
		}
		want := slices.Repeat([]string{"hits"}, 6)
		if mode == "exact" {
			want = slices.Repeat([]string{"witness"}, 6)
		}
		if d := cmp.Diff(want, told); d != "" {
			t.Errorf("mode %s: the log's stop tests (-want +got):\n%s", mode, d)
		}
		if mode == "reference" && !strings.HasSuffix(note, " of 12 images keep their label") {
			t.Errorf("mode %s: progress says %q", mode, note)
		}
		var r Result
		readJSON(t, filepath.Join(j.dir, "result.json"), &r)
		if r.GoalHits == nil || *r.GoalHits != r.After.Forget.Hits {
			t.Errorf("mode %s: the run gave up at other hits than the scores tell: %v, %d", mode, r.GoalHits, r.After.Forget.Hits)
		}
		ends[mode] = Result{Outcome: r.Outcome, Steps: r.Steps, GoalHits: r.GoalHits}
	}
	if d := cmp.Diff(ends["reference"], ends["exact"]); d != "" {
		t.Errorf("the run ended otherwise (-reference +exact):\n%s", d)
	}
}

// Several weights are scored in one pass, with a result for each, which is that of scoring it alone.
func TestEvaluateSeveral(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	fresh := job{verb: "train", dir: filepath.Join(t.TempDir(), "fresh"), flags: flags("epochs", "1", "train-batch", "8", "lr", "1e-6")}
	if err := fresh.run(t.Context(), dir, nil).err; err != nil {
		t.Fatal(err)
	}
	weights := []string{filepath.Join(dir, "trained", "model.safetensors"), filepath.Join(fresh.dir, "model.safetensors")}
	results := func(weights ...string) (list []map[string]any) {
		output := filepath.Join(t.TempDir(), "eval.json")
		out := job{verb: "eval", flags: map[string][]string{"weights": weights, "k": {"3"}, "batch-size": {"7"}, "output": {output}}}.run(t.Context(), dir, nil)
		if out.err != nil {
			t.Fatal(out.err)
		}
		for _, e := range out.events {
			if e["event"] == "summary" {
				list = append(list, e["result"].(map[string]any))
			}
		}
		text, err := os.ReadFile(output)
		if err != nil {
			t.Fatal(err)
		}
		var written any
		if err := json.Unmarshal(text, &written); err != nil {
			t.Fatal(err)
		}
		if one, ok := written.(map[string]any); ok {
			written = []any{one}
		}
		for i, r := range list {
			if d := cmp.Diff(r, written.([]any)[i]); d != "" {
				t.Errorf("--output has another result (-event +file):\n%s", d)
			}
			delete(r, "seconds")
		}
		return list
	}
	both := results(weights...)
	if len(both) != 2 {
		t.Fatalf("%d results", len(both))
	}
	for i, path := range weights {
		if both[i]["weights"] != path {
			t.Errorf("result %d is of %v", i, both[i]["weights"])
		}
		delete(both[i], "weights")
		if d := cmp.Diff(results(path)[0], both[i]); d != "" {
			t.Errorf("%s (-alone +both):\n%s", path, d)
		}
	}
	if cmp.Equal(both[0]["retain"], both[1]["retain"]) {
		t.Error("both networks have the same scores")
	}
	out := job{verb: "eval", flags: map[string][]string{"weights": {weights[0], filepath.Join(dir, "none.pt")}}}.run(t.Context(), dir, nil)
	if ExitCode(out.err) != ExitInput || !strings.Contains(out.err.Error(), "none.pt") {
		t.Errorf("one that is not there: %v", out.err)
	}
}

// --batch-size auto chooses a size and says which; scores are those of any other. What is no size is refused.
func TestBatchSizeAuto(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	scores := map[string]map[string]any{}
	for _, size := range []string{"auto", "1", "256"} {
		out := job{verb: "eval", flags: flags("batch-size", size)}.run(t.Context(), dir, nil)
		if out.err != nil {
			t.Fatal(out.err)
		}
		result := out.events[len(out.events)-1]["result"].(map[string]any)
		scores[size] = map[string]any{}
		for _, split := range []string{"train", "test"} {
			s := result[split].(map[string]any)
			scores[size][split] = fmt.Sprintf("%v of %v, loss %.4f", s["hits"], s["n"], s["loss"])
		}
	}
	for _, size := range []string{"1", "256"} {
		if d := cmp.Diff(scores[size], scores["auto"]); d != "" {
			t.Errorf("-%s +auto:\n%s", size, d)
		}
	}
	j := job{verb: "forget", dir: filepath.Join(t.TempDir(), "run"), flags: flags("k", "2", "method", "neggrad", "max-steps", "1", "limit", "8", "batch-size", "auto")}
	if out := j.run(t.Context(), dir, nil); out.err != nil && ExitCode(out.err) != ExitNotReached {
		t.Fatal(out.err)
	}
	log, err := os.ReadFile(filepath.Join(j.dir, "log.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`"images":\d+,.*--batch-size auto`).Match(log) {
		t.Errorf("the log does not say which size: %s", log)
	}
	for _, size := range []string{"0", "-1", "many", ""} {
		out := job{verb: "eval", flags: flags("batch-size", size)}.run(t.Context(), dir, nil)
		if ExitCode(out.err) != ExitUsage || !strings.Contains(out.err.Error(), "auto") {
			t.Errorf("--batch-size %q: %v", size, out.err)
		}
	}
}

func TestTF32IsForGPUs(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[string]string{"exact": "runs on the CPU: leave it out", "reference": "leave one of them out"} {
		out := job{verb: "eval", flags: flags("tf32", "true", "device", "cpu", "mode", mode)}.run(t.Context(), dir, nil)
		if ExitCode(out.err) != ExitUsage || !strings.Contains(out.err.Error(), want) {
			t.Errorf("--tf32 --mode %s: %v", mode, out.err)
		}
	}
	for want, d := range map[string]desk{
		"fp32": {mode: engine.Fast}, "tf32": {compute: ComputeOptions{TF32: true}}, "bf16": {mode: engine.BF16},
		"bf16+tf32": {mode: engine.BF16, compute: ComputeOptions{TF32: true}},
	} {
		if got := d.precision(); got != want {
			t.Errorf("precision %s, want %s", got, want)
		}
	}
}

// A size that shrinks warns, once each time, with both numbers.
func TestShrinkingWarns(t *testing.T) {
	stdout, stderr := &bytes.Buffer{}, &bytes.Buffer{}
	d := &desk{Invocation: Invocation{Console: NewConsole(TerminalOptions{JSON: true, LogFormat: "json"}, stdout, stderr)}}
	tries := 0
	_, err := d.shrinking(64).Do(64, func(int) error {
		if tries++; tries < 3 {
			panic(&torch.Error{Code: torch.OutOfMemory})
		}
		return nil
	})
	for name, text := range map[string]string{"stdout": stdout.String(), "stderr": stderr.String()} {
		for _, want := range []string{"with 64 images at once; going on with 32", "with 32 images at once; going on with 16"} {
			if strings.Count(text, want) != 1 || strings.Count(text, "\n") != 2 || err != nil {
				t.Errorf("%s: %q: %v", name, text, err)
			}
		}
	}
}
