package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// At a terminal a person is asked before a run is removed.
func TestRunsRemoveAsks(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "one"), 0o755); err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(dir, "one", "argv.txt")
	if err := os.WriteFile(mark, []byte("unlearn train\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("unlearn")
	if err != nil {
		t.Fatal(err)
	}
	enter, seen := shell(t, dir, "dumb", program, "runs", "rm", "one")
	seen("remove one? [y/N]")
	enter("\n")
	seen("nothing is removed")
	if _, err := os.Stat(mark); err != nil {
		t.Error("the answer was no, and the run is gone")
	}
	enter, seen = shell(t, dir, "dumb", program, "runs", "rm", "one")
	seen("remove one? [y/N]")
	enter("y\n")
	seen("removed one")
	if _, err := os.Stat(filepath.Dir(mark)); !os.IsNotExist(err) {
		t.Errorf("the run is still there: %v", err)
	}
}
