package run

import (
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
