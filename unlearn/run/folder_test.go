package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"l2ul/unlearn"
	"l2ul/unlearn/run/config"
)

type jobOptions struct {
	ConfigOptions
	FolderOptions
	LR    float64 `flag:"lr" default:"0.1" above:"0" help:"learning rate"`
	Steps int     `flag:"max-steps" min:"0" result:"cap" help:"steps"`
}

func opening(t *testing.T, flags map[string][]string) Opening {
	t.Helper()
	spec, err := config.NewSpec("forget", []any{jobOptions{}}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	c := config.Catalog{spec}
	cfg, err := c.Resolve("forget", config.Sources{Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	var o jobOptions
	if err := cfg.Decode(&o); err != nil {
		t.Fatal(err)
	}
	return Opening{c, cfg, o.FolderOptions, []string{"unlearn", "forget", "--name", "it's"}, time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)}
}

func flags(pairs ...string) map[string][]string {
	m := map[string][]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = []string{pairs[i+1]}
	}
	return m
}

func mustOpen(t *testing.T, o Opening) (*Folder, *Checkpoint) {
	t.Helper()
	preview, previewErr := PreviewFolder(o)
	f, c, err := OpenFolder(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if d := cmp.Diff(c, preview.Checkpoint, cmpopts.IgnoreUnexported(Checkpoint{})); previewErr != nil || preview.Path != f.Path() || d != "" {
		t.Errorf("preview: %s, want %s; %v; checkpoint (-want +got):\n%s", preview.Path, f.Path(), previewErr, d)
	}
	return f, c
}

func refuse(t *testing.T, o Opening, code int, words ...string) {
	t.Helper()
	_, previewErr := PreviewFolder(o)
	_, _, err := OpenFolder(o)
	if fmt.Sprint(previewErr) != fmt.Sprint(err) && !errors.Is(err, syscall.ENOSPC) { // which shows in writing alone
		t.Errorf("preview: %v, want: %v", previewErr, err)
	}
	if err == nil || ExitCode(err) != code {
		t.Fatalf("error = %v (exit code %d), want exit code %d", err, ExitCode(err), code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error = %q, want %q in it", err, w)
		}
	}
}

func save(t *testing.T, f *Folder, step int64, text string) string {
	t.Helper()
	path, err := f.SaveCheckpoint(step, 2, func(path string) error { return os.WriteFile(path, []byte(text), 0o644) },
		map[string]string{"weights": "aa"}, map[string]int64{"pass": step})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestNewRun(t *testing.T) {
	t.Chdir(t.TempDir())
	o := opening(t, nil)
	f, c := mustOpen(t, o)
	if want := "runs/20261123-010203-forget-" + o.Config.ResumeHash()[:8]; f.Path() != want || c != nil {
		t.Errorf("folder %s, want %s; checkpoint %v", f.Path(), want, c)
	}
	if d := cmp.Diff([]string{".lock", "argv.txt", "checkpoints", "config.yaml"}, list(t, f.Path())); d != "" {
		t.Error(d)
	}
	if argv, err := os.ReadFile(f.Path("argv.txt")); err != nil || string(argv) != "unlearn forget --name 'it'\\''s'\n" {
		t.Errorf("argv.txt = %q, %v", argv, err)
	}
	o.Options.Output = f.Path()
	refuse(t, o, ExitFailed, "another process is working")
}

func TestFinishedRunIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r")
	f, _ := mustOpen(t, opening(t, flags("output", dir)))
	save(t, f, 1, "x")
	if err := f.Finish(Result{Outcome: unlearn.Reached}, unlearn.Reached); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if d := cmp.Diff([]string{".lock", "argv.txt", "config.yaml", "result.json"}, list(t, dir)); d != "" {
		t.Error(d)
	}
	refuse(t, opening(t, flags("output", dir)), ExitUsage, "finished run", "--force")
	refuse(t, opening(t, flags("output", dir, "resume", "auto")), ExitUsage, "finished run")
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f, _ = mustOpen(t, opening(t, flags("output", dir, "force", "true")))
	if d := cmp.Diff([]string{".lock", "argv.txt", "checkpoints", "config.yaml", "notes.txt"}, list(t, f.Path())); d != "" {
		t.Error(d)
	}
}

func TestForeignFolderIsKept(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, force := range []string{"false", "true"} {
		refuse(t, opening(t, flags("output", dir, "force", force)), ExitUsage, "thesis.tex", "--output")
	}
}

func TestResume(t *testing.T) {
	t.Chdir(t.TempDir())
	f, _ := mustOpen(t, opening(t, nil))
	for step := range int64(4) {
		save(t, f, step, strings.Repeat("x", int(step)))
	}
	if d := cmp.Diff([]string{"last", "step-000000002.json", "step-000000002.safetensors", "step-000000003.json", "step-000000003.safetensors"},
		list(t, f.Path("checkpoints"))); d != "" {
		t.Error(d)
	}
	metrics := `{"event":"metric","phase":"unlearn","step":3,"values":{}}` + "\n"
	text := metrics + `{"event":"metric","phase":"unlearn","step":4,"values":{}}` + "\n" + `{"event":"met`
	if err := os.WriteFile(f.Path("metrics.jsonl"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.Finish(Result{Outcome: unlearn.Interrupted}, unlearn.Interrupted); err != nil {
		t.Fatal(err)
	}
	f.Close()
	dir := f.Path()

	refuse(t, opening(t, flags("output", dir)), ExitUsage, "unfinished run (step 3)", "`unlearn forget -c "+dir+"/config.yaml --resume "+dir+"`")
	refuse(t, opening(t, flags("output", dir, "resume", "auto", "lr", "0.5")), ExitUsage, "lr (0.1 there, 0.5 here)",
		"`unlearn forget -c "+dir+"/config.yaml --resume "+dir+"`")
	refuse(t, opening(t, flags("resume", dir, "lr", "0.5")), ExitUsage, "lr (0.1 there, 0.5 here)")
	refuse(t, opening(t, flags("resume", "nowhere")), ExitInput, "nowhere")
	refuse(t, opening(t, flags("resume", dir, "output", "elsewhere")), ExitUsage, "leave one of them out")

	for name, fl := range map[string]map[string][]string{
		"auto": flags("resume", "auto"), "auto in output": flags("resume", "auto", "output", dir), "folder": flags("resume", dir),
		"harmless key": flags("resume", "auto", "keep", "7"), "another cap": flags("resume", "auto", "max-steps", "7"),
	} {
		f, c := mustOpen(t, opening(t, fl))
		if c == nil || c.Step != 3 || f.Path() != dir {
			t.Fatalf("%s: folder %s, checkpoint %+v", name, f.Path(), c)
		}
		var state struct{ Pass int64 }
		if err := c.Decode(&state); err != nil || state.Pass != 3 {
			t.Errorf("%s: state %+v, %v", name, state, err)
		}
		if got, err := os.ReadFile(f.Path("metrics.jsonl")); err != nil || string(got) != metrics {
			t.Errorf("%s: metrics.jsonl = %q, %v", name, got, err)
		}
		if err := c.CheckInputs(map[string]string{"weights": "aa"}); err != nil {
			t.Error(err)
		}
		if err := c.CheckInputs(map[string]string{"weights": "bb"}); ExitCode(err) != ExitUsage {
			t.Errorf("%s: other weights: %v", name, err)
		}
		f.Close()
	}
	older := filepath.Join(dir, "checkpoints", "step-000000002.json")
	f, c := mustOpen(t, opening(t, flags("resume", older)))
	if c.Step != 2 {
		t.Errorf("step %d, want the one that was named", c.Step)
	}
	f.Close()

	// A torn tensor file: the one before it counts. Both torn: begin again, or say so.
	if err := os.WriteFile(filepath.Join(dir, "checkpoints", "step-000000003.safetensors"), []byte("xx"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, c = mustOpen(t, opening(t, flags("resume", "auto")))
	if c.Step != 2 {
		t.Errorf("step %d after the newest was damaged, want 2", c.Step)
	}
	f.Close()
	if err := os.WriteFile(older, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	refuse(t, opening(t, flags("resume", dir)), ExitInput, "no valid checkpoint")
	refuse(t, opening(t, flags("resume", older)), ExitInput, "step-000000002.json")
	f, c = mustOpen(t, opening(t, flags("resume", "auto")))
	if c != nil || f.Path() != dir+"x" && c != nil {
		t.Errorf("resumed from %+v, which is damaged", c)
	}
}

// A run that met a cap keeps its newest checkpoint, from which it goes on under another cap and under no other change.
func TestResumeAfterCap(t *testing.T) {
	t.Chdir(t.TempDir())
	o := opening(t, flags("max-steps", "2"))
	f, _ := mustOpen(t, o)
	save(t, f, 1, "x")
	save(t, f, 2, "xx")
	if err := f.Finish(Result{Outcome: unlearn.Capped, Hashes: Hashes{Config: o.Config.Hash()}}, unlearn.Capped); err != nil {
		t.Fatal(err)
	}
	f.Close()
	dir := f.Path()
	if d := cmp.Diff([]string{"last", "step-000000002.json", "step-000000002.safetensors"}, list(t, f.Path("checkpoints"))); d != "" {
		t.Error(d)
	}
	refuse(t, opening(t, flags("output", dir, "max-steps", "9")), ExitUsage, "met a cap", "--resume "+dir, "--force")
	refuse(t, opening(t, flags("resume", dir, "max-steps", "2")), ExitUsage, "met a cap; go on with `unlearn forget -c ")
	refuse(t, opening(t, flags("resume", dir, "max-steps", "9", "lr", "0.5")), ExitUsage, ": lr (0.1 there, 0.5 here);")
	for _, steps := range []string{"0", "1", "9"} {
		f, c := mustOpen(t, opening(t, flags("resume", "auto", "max-steps", steps)))
		if f.Path() != dir || c == nil || c.Step != 2 {
			t.Fatalf("--max-steps %s: folder %s, checkpoint %+v", steps, f.Path(), c)
		}
		f.Close()
	}
	if err := os.RemoveAll(filepath.Join(dir, "checkpoints")); err != nil {
		t.Fatal(err)
	}
	refuse(t, opening(t, flags("output", dir, "resume", "auto", "max-steps", "9")), ExitInput, "no valid checkpoint in "+dir)
	if d := cmp.Diff([]string{".lock", "argv.txt", "config.yaml", "result.json"}, list(t, dir)); d != "" {
		t.Error(d)
	}
}

func TestResumeLine(t *testing.T) {
	for line, want := range map[string]string{
		"":                                   "--resume r",
		"unlearn train --lr 2":               "unlearn train --lr 2 --resume r",
		"u train --force -o r --resume auto": "u train -o r --resume r",
		"u train --resume=auto -force=true":  "u train --resume r",
	} {
		for _, path := range []string{"r", "r/checkpoints/step-000000001.json"} {
			if got := ResumeLine(strings.Fields(line), path); got != want {
				t.Errorf("%q, %s: %q, want %q", line, path, got, want)
			}
		}
	}
	if got, want := ResumeLine([]string{"unlearn", "demo", "--force", "-o", "a b"}, ""), "unlearn demo -o 'a b'"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A write that fails half way leaves the checkpoint before it and no trace of its own.
func TestFailedCheckpoint(t *testing.T) {
	f, _ := mustOpen(t, opening(t, flags("output", filepath.Join(t.TempDir(), "r"))))
	save(t, f, 1, "good")
	before := list(t, f.Path("checkpoints"))
	_, err := f.SaveCheckpoint(2, 2, func(path string) error {
		return errors.Join(os.WriteFile(path, []byte("ha"), 0o644), syscall.ENOSPC)
	}, nil, nil)
	if !errors.Is(err, syscall.ENOSPC) || ExitCode(err) != ExitFailed || !strings.Contains(err.Error(), "step 2") {
		t.Errorf("error = %v", err)
	}
	if d := cmp.Diff(before, list(t, f.Path("checkpoints"))); d != "" {
		t.Error(d)
	}
	if _, err := f.SaveCheckpoint(2, 2, func(path string) error { return os.WriteFile(path, nil, 0o644) }, nil, func() {}); err == nil {
		t.Error("a state that is no JSON was saved")
	}
}

// On a file system that is full, WriteFile keeps the old file and leaves no temporary one.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("cannot mount a small file system here: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	path := filepath.Join(dir, "result.json")
	if err := WriteFile(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, make([]byte, 1<<20)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error = %v, want no space", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "old" {
		t.Errorf("old file = %q, %v", data, err)
	}
	if d := cmp.Diff([]string{"result.json"}, list(t, dir)); d != "" {
		t.Error(d)
	}
	if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 1<<20), 0o644); err == nil {
		t.Fatal("the file system is not full")
	}
	refuse(t, opening(t, flags("output", filepath.Join(dir, "r"))), ExitFailed, "no space")
	if d := cmp.Diff([]string{"ballast", "result.json"}, list(t, dir)); d != "" {
		t.Error(d)
	}
}

func TestUnwritableOutput(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	refuse(t, opening(t, flags("output", filepath.Join(file, "r"))), ExitFailed, "cannot make the run folder")
}

func FuzzReadCheckpoint(f *testing.F) {
	good, err := json.Marshal(Checkpoint{Schema: checkpointSchema, Step: 1, State: json.RawMessage("{}")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"step":1e99}`))
	f.Fuzz(func(t *testing.T, manifest []byte) {
		path := filepath.Join(t.TempDir(), "step-000000001.json")
		if err := os.WriteFile(path, manifest, 0o644); err != nil {
			t.Fatal(err)
		}
		if c, err := readCheckpoint(path); err == nil {
			t.Fatalf("accepted without tensors: %+v", c)
		}
	})
}

// Names that a run uses may be somebody's own files: only a folder that a run began is a run's to clear.
func TestFilesOfOthersAreKept(t *testing.T) {
	for _, more := range [][]string{nil, {"force", "true"}, {"resume", "auto"}} {
		dir := t.TempDir()
		theirs := []string{"model.safetensors", "config.yaml", "checkpoints/epoch10.pt", "notes.txt"}
		for _, name := range theirs {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte("theirs"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		refuse(t, opening(t, flags(append([]string{"output", dir}, more...)...)), ExitUsage, "is not a run folder", "choose another --output")
		for _, name := range theirs {
			if content, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(content) != "theirs" {
				t.Errorf("%v: %s is gone: %v", more, name, err)
			}
		}
	}
}
