package run

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gofrs/flock"
)

// A run at work is not removed, and what lies outside its folder never is, whatever links there are.
func TestRemoveFolder(t *testing.T) {
	dir := t.TempDir()
	folder, outside := filepath.Join(dir, "run"), filepath.Join(dir, "outside")
	for _, path := range []string{filepath.Join(folder, "argv.txt"), filepath.Join(folder, lockName), filepath.Join(outside, "precious.txt")} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"checkpoints": outside, "result.json": filepath.Join(outside, "precious.txt"), "mine": outside} {
		if err := os.Symlink(to, filepath.Join(folder, link)); err != nil {
			t.Fatal(err)
		}
	}

	job := flock.New(filepath.Join(folder, lockName))
	if err := job.Lock(); err != nil {
		t.Fatal(err)
	}
	if !Working(folder) {
		t.Error("a locked run is not at work")
	}
	if _, err := RemoveFolder(folder); err == nil || !strings.Contains(err.Error(), "another process is working in") {
		t.Errorf("a locked run: %v", err)
	}
	if _, err := os.Stat(filepath.Join(folder, "argv.txt")); err != nil {
		t.Error("a locked run has lost files")
	}
	if err := job.Unlock(); err != nil {
		t.Fatal(err)
	}
	if Working(folder) {
		t.Error("a run that nobody holds is at work")
	}

	left, err := RemoveFolder(folder)
	if err != nil || !slices.Equal(left, []string{"mine"}) {
		t.Errorf("%v stays, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(outside, "precious.txt")); err != nil {
		t.Error("a file outside is gone")
	}
	if _, err := RemoveFolder(folder); ExitCode(err) != 2 {
		t.Errorf("a folder without a run: %v", err)
	}
}

// Of a stream, the runs of its requests go too; what is none of them stays, and so does what links lead to.
func TestRemoveStream(t *testing.T) {
	dir := t.TempDir()
	folder, outside := filepath.Join(dir, "stream"), filepath.Join(dir, "outside")
	for _, path := range []string{
		filepath.Join(folder, "argv.txt"), filepath.Join(folder, recordName), filepath.Join(folder, "requests", "001-a", "argv.txt"),
		filepath.Join(folder, "requests", "001-a", "model.safetensors"), filepath.Join(folder, "requests", "002-b", "argv.txt"),
		filepath.Join(folder, "requests", "002-b", "mine.txt"), filepath.Join(folder, "requests", "notes", "config.yaml"),
		filepath.Join(outside, "argv.txt"), filepath.Join(outside, "result.json"),
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(folder, "requests", "003-c")); err != nil {
		t.Fatal(err)
	}
	left, err := RemoveFolder(folder)
	if err != nil || !slices.Equal(left, []string{"requests"}) {
		t.Errorf("%v stays, %v", left, err)
	}
	var rest []string
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(dir, path)
			rest = append(rest, name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"outside/argv.txt", "outside/result.json", "stream/requests/002-b/mine.txt", "stream/requests/003-c", "stream/requests/notes/config.yaml"}; !slices.Equal(rest, want) {
		t.Errorf("%q stay, want %q", rest, want)
	}

	whole := filepath.Join(dir, "whole")
	for _, name := range []string{"argv.txt", recordName, "requests/001-a/argv.txt"} {
		path := filepath.Join(whole, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := RemoveFolder(whole); err != nil || left != nil {
		t.Errorf("%v stays, %v", left, err)
	}
	if _, err := os.Stat(whole); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder stays: %v", err)
	}
}
