package run

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"l2ul/torch/ckpt"
	"l2ul/unlearn/analysis"
	"l2ul/unlearn/data"
)

// analyze makes analyses with settings as on a command line.
func analyze(t *testing.T, ctx context.Context, o AnalyzeOptions, runs ...string) ([]*Analyzed, error) { //nolint:revive // t goes first, as in all helpers
	t.Helper()
	catalog, err := Catalog()
	if err != nil {
		t.Fatal(err)
	}
	o.Options = analysis.Options{Samples: max(o.Samples, 6), Images: 2, Grid: max(o.Grid, 5)}
	o.Device, o.BatchSize, o.Threads = "cpu", "16", 1
	console := NewConsole(TerminalOptions{Quiet: true}, &bytes.Buffer{}, &bytes.Buffer{})
	done, err := Analyze(ctx, Invocation{Catalog: catalog, Console: console}, o, runs)
	return done, errors.Join(err, console.Close())
}

// forgotten is a finished run of three images, and the folder of what it began with.
func forgotten(t *testing.T, more ...string) (began, run string) {
	t.Helper()
	began, err := material()
	if err != nil {
		t.Fatal(err)
	}
	run = filepath.Join(t.TempDir(), "run")
	settings := flags(append([]string{"forget", "random:3", "lr", "0.02", "max-passes", "30"}, more...)...)
	if err := (job{verb: "forget", dir: run, flags: settings}).run(t.Context(), began, nil).err; err != nil && ExitCode(err) != ExitNotReached {
		t.Fatal(err)
	}
	return began, run
}

// All analyses are written with what readers go by; a second call keeps them, and one with another setting makes them anew.
func TestAnalyze(t *testing.T) {
	_, run := forgotten(t, "num-adv", "3", "iters", "4")
	done, err := analyze(t, t.Context(), AnalyzeOptions{}, run)
	if err != nil {
		t.Fatal(err)
	}
	if len(done) != 1 || len(done[0].Analyses) != len(analysis.All()) {
		t.Fatalf("%+v", done)
	}
	stamps := map[string]string{}
	for _, a := range done[0].Analyses {
		var found AnalysisResult
		readJSON(t, a.File, &found)
		if a.Kept || found.Schema != AnalysisSchema || found.Name != a.Name || found.Title == "" || found.Reading == "" || found.Alt != a.Alt ||
			len(found.Pictures) == 0 || found.Data == nil || len(found.Key) != 64 {
			t.Errorf("%+v", found)
		}
		reads := found.Reads[data.PhaseAfter]
		if want := int64(3); found.Name == "embedding" && reads[data.PartRetain] != want || found.Name != "embedding" && reads[data.PartRetain] != 0 {
			t.Errorf("%s: read %v", found.Name, found.Reads)
		}
		for _, p := range found.Pictures {
			for file, begin := range map[string]string{p.File: "\x89PNG", p.SVG: "<?xml"} {
				text, err := os.ReadFile(filepath.Join(run, "analyses", file))
				if err != nil || !strings.HasPrefix(string(text), begin) || p.Title == "" || p.Alt == "" {
					t.Errorf("%s: %v", file, err)
				}
			}
		}
		text, err := os.ReadFile(a.File)
		if err != nil {
			t.Fatal(err)
		}
		stamps[a.Name] = string(text)
	}

	done, err = analyze(t, t.Context(), AnalyzeOptions{}, run)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range done[0].Analyses {
		if text, err := os.ReadFile(a.File); err != nil || !a.Kept || string(text) != stamps[a.Name] {
			t.Errorf("%s was not kept: %v", a.Name, err)
		}
	}
	if err := os.Remove(filepath.Join(run, "analyses", "cka.png")); err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(run, "analyses", "boundary-99.png")
	if err := WriteFile(stale, nil); err != nil {
		t.Fatal(err)
	}
	done, err = analyze(t, t.Context(), AnalyzeOptions{Only: []string{"cka", "labels"}}, run)
	if err != nil || len(done[0].Analyses) != 2 || done[0].Analyses[0].Kept || !done[0].Analyses[1].Kept {
		t.Errorf("a picture was gone: %+v, %v", done[0].Analyses, err)
	}
	done, err = analyze(t, t.Context(), AnalyzeOptions{Only: []string{"boundary"}, Options: analysis.Options{Grid: 7}}, run)
	if err != nil || done[0].Analyses[0].Kept {
		t.Errorf("another grid: %+v, %v", done[0].Analyses, err)
	}
	if _, err := os.Stat(stale); err == nil {
		t.Error("a picture that belongs to no analysis any more is still there")
	}
}

// Runs of the same images agree with themselves; a method without attack or importance is analyzed too.
func TestAnalyzeSeveral(t *testing.T) {
	_, first := forgotten(t, "method", "neggrad")
	second := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(second, os.DirFS(first)); err != nil {
		t.Fatal(err)
	}
	done, err := analyze(t, t.Context(), AnalyzeOptions{Only: []string{"labels", "boundary", "weights"}}, first, second)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range done {
		i := slices.IndexFunc(d.Analyses, func(a AnalysisSummary) bool { return a.Name == "agreement" })
		if i < 0 {
			t.Fatalf("no agreement: %+v", d)
		}
		var found struct{ Data analysis.Agreement }
		readJSON(t, d.Analyses[i].File, &found)
		if found.Data.Share != 1 || found.Data.Images != 3 || len(found.Data.Runs) != 2 {
			t.Errorf("%+v", found)
		}
	}
}

// A run that is named twice is one, what one run fails at does not keep the others from being analyzed, and runs of other
// images are not compared.
func TestAnalyzeRunsApart(t *testing.T) {
	began, run := forgotten(t, "method", "neggrad")
	o := AnalyzeOptions{Only: []string{"labels"}}
	done, err := analyze(t, t.Context(), o, run, run+"/.")
	if err != nil || len(done) != 1 || len(done[0].Analyses) != 1 {
		t.Errorf("twice the same run: %+v, %v", done, err)
	}
	done, err = analyze(t, t.Context(), o, filepath.Join(began, "nowhere"), run)
	if ExitCode(err) != ExitInput || len(done) != 2 || len(done[1].Analyses) != 1 {
		t.Errorf("behind a run that is not there: %+v, %v", done, err)
	}
	moved := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(moved, os.DirFS(filepath.Join(began, "images"))); err != nil {
		t.Fatal(err)
	}
	images, err := filepath.Glob(filepath.Join(moved, "train", "*", "*.png"))
	if err != nil || len(images) < 2 {
		t.Fatal(images, err)
	}
	if err := os.Rename(images[0], images[1]); err != nil {
		t.Fatal(err)
	}
	_, other := forgotten(t, "method", "neggrad", "data-dir", moved)
	done, err = analyze(t, t.Context(), o, run, other)
	if err != nil || len(done) != 2 || len(done[0].Analyses) != 1 || len(done[1].Analyses) != 1 {
		t.Errorf("other images: %+v, %v", done, err)
	}
}

// What is missing or belongs to another run is refused with what to do, and the right exit code.
func TestAnalyzeRefuses(t *testing.T) {
	material, run := forgotten(t, "num-adv", "3", "iters", "4")
	file := func(name string) string { return filepath.Join(run, name) }
	other := filepath.Join(t.TempDir(), "other.safetensors")
	weights, err := ckpt.Load(filepath.Join(material, "trained", "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	weights.Tensors[0].Data[0] ^= 1
	if err := ckpt.Save(other, weights); err != nil {
		t.Fatal(err)
	}
	keep := func(name string) func() {
		text, err := os.ReadFile(file(name))
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := WriteFile(file(name), text); err != nil {
				t.Fatal(err)
			}
		}
	}
	edit := func(name, from, to string) {
		text, err := os.ReadFile(file(name))
		if err != nil || !strings.Contains(string(text), from) {
			t.Fatalf("%s: %v", name, err)
		}
		if err := WriteFile(file(name), []byte(strings.Replace(string(text), from, to, 1))); err != nil {
			t.Fatal(err)
		}
	}
	cut := func(name string) func() {
		return func() {
			if err := os.Truncate(file(name), 900); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func() {
		return func() {
			if err := os.Remove(file(name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name, touched string
		change        func()
		o             AnalyzeOptions
		run           string
		says          string
		code          int
	}{
		{name: "no folder", run: file("nowhere"), says: "no run folder here: no such file", code: ExitInput},
		{name: "a file", run: file("result.json"), says: "name the run folder", code: ExitUsage},
		{name: "no result", touched: "result.json", change: remove("result.json"), says: "no result.json", code: ExitInput},
		{name: "damaged result", touched: "result.json", change: func() { edit("result.json", "{", "[") }, says: "damaged", code: ExitInput},
		{name: "diverged", touched: "result.json", change: func() { edit("result.json", `"outcome": "`, `"outcome": "diverged", "was": "`) }, says: "diverged", code: ExitInput},
		{name: "a pool", o: AnalyzeOptions{Pool: "pictures"}, says: "--pool", code: ExitUsage},
		{name: "another forget set", touched: "forget.json", change: func() {
			edit("forget.json", `"indices":[`, `"indices":[40,`)
			edit("forget.json", `"labels":[`, `"labels":[3,`)
		}, says: "forget.json", code: ExitInput},
		{name: "another verb's", run: filepath.Join(material, "trained"), says: "only runs of `unlearn forget`", code: ExitInput},
		{name: "other weights", o: AnalyzeOptions{Weights: other}, says: "the right file with --weights", code: ExitInput},
		{name: "no weights", o: AnalyzeOptions{Weights: "gone.pt"}, says: "--weights", code: ExitInput},
		{name: "no data", o: AnalyzeOptions{DataDir: "gone"}, says: "--data-dir gone: no such file", code: ExitInput},
		{name: "no network", touched: "model.safetensors", change: remove("model.safetensors"), says: "there is no model.safetensors", code: ExitInput},
		{name: "damaged network", touched: "model.safetensors", change: cut("model.safetensors"), says: "model.safetensors", code: ExitInput},
		{name: "damaged examples", touched: "adversarial.safetensors", change: cut("adversarial.safetensors"), says: "adversarial.safetensors", code: ExitInput},
		{name: "damaged importance", touched: "importance.safetensors", change: cut("importance.safetensors"), says: "importance.safetensors", code: ExitInput},
		{name: "odd configuration", touched: "config.yaml", change: func() { edit("config.yaml", "model: ", "modell: ") }, says: "configuration", code: ExitInput},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.touched != "" {
				defer keep(tt.touched)()
				tt.change()
			}
			if tt.run == "" {
				tt.run = run
			}
			_, err := analyze(t, t.Context(), tt.o, tt.run)
			if err == nil || !strings.Contains(err.Error(), tt.says) || ExitCode(err) != tt.code {
				t.Errorf("%v (exit code %d), want %q and %d", err, ExitCode(err), tt.says, tt.code)
			}
			if _, err := os.Stat(file("analyses/labels.json")); err == nil {
				t.Error("an analysis was written")
			}
		})
	}
	o := AnalyzeOptions{Only: []string{"lables"}, BatchSize: "16"}
	if err := o.Validate(); err == nil || !strings.Contains(err.Error(), `did you mean "labels"`) {
		t.Errorf("--only lables: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := analyze(t, ctx, AnalyzeOptions{Only: []string{"distance"}}, run); err == nil {
		t.Error("a call that was stopped before it began made an analysis")
	}
	if _, err := os.Stat(file("analyses/distance.json")); err == nil {
		t.Error("a stopped analysis was written")
	}
}

// Analyses of a correction look at images of its pool: their labels are what the network said, and became the true ones.
func TestAnalyzeCorrection(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	outside, run := poolOf(t, dir), filepath.Join(t.TempDir(), "run")
	j := job{verb: "forget", dir: run, flags: flags("goal", "relabel", "pool", outside, "k", "5", "seed", "3", "method", "adv-imp", "num-adv", "2", "iters", "2",
		"lr", "0.01", "max-steps", "300")}
	if out := j.run(t.Context(), dir, nil); out.err != nil {
		t.Fatal(out.err)
	}
	var set data.ForgetSet
	readJSON(t, filepath.Join(run, "forget.json"), &set)
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(outside, moved); err != nil {
		t.Fatal(err)
	}
	if _, err := analyze(t, t.Context(), AnalyzeOptions{}, run); ExitCode(err) != ExitInput || !strings.Contains(err.Error(), outside) {
		t.Errorf("the pool is gone: %v", err)
	}
	done, err := analyze(t, t.Context(), AnalyzeOptions{Pool: moved, Options: analysis.Options{Samples: 100}}, run)
	if err != nil || len(done[0].Analyses) != len(analysis.All()) {
		t.Fatal(err, done)
	}
	labels := AnalysisResult{Data: &analysis.Labels{}}
	readJSON(t, filepath.Join(run, "analyses", "labels.json"), &labels)
	for i, row := range labels.Data.(*analysis.Labels).Rows {
		if row.Index != set.Indices[i] || row.Label != set.Labels[i] || row.Before != set.Labels[i] || row.After != set.Targets[i] {
			t.Errorf("row %d: %+v; the pool has image %d, said to be %d, truly %d", i, row, set.Indices[i], set.Labels[i], set.Targets[i])
		}
	}
	if n := labels.Reads[data.PhaseAfter][data.PartForget]; n != 5 {
		t.Errorf("%d images to forget read", n)
	}
	embedding := AnalysisResult{Data: &analysis.Embedding{}}
	readJSON(t, filepath.Join(run, "analyses", "embedding.json"), &embedding)
	retained := 0
	for _, p := range embedding.Data.(*analysis.Embedding).Points {
		if p.Kind == string(data.PartRetain) {
			retained++
		}
	}
	if retained != 48 { // all training images: none of them is corrected
		t.Errorf("%d retained images on the map", retained)
	}
	if err := os.Rename(filepath.Join(moved, "class2"), filepath.Join(moved, "class3")); err != nil {
		t.Fatal(err)
	}
	if _, err := analyze(t, t.Context(), AnalyzeOptions{Pool: moved}, run); ExitCode(err) != ExitInput || !strings.Contains(err.Error(), "name the right one with --pool") {
		t.Errorf("another pool: %v", err)
	}
}
