package bench

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"l2ul/unlearn"
	"l2ul/unlearn/results"
	"l2ul/unlearn/run"
)

const (
	indexName   = "grid.json"
	summaryName = "summary.json"
	cellsName   = "cells"
	stateName   = "state" // locks, and why cells failed
)

// Index is grid.json: which run of the folder is which cell of the grid.
func (g *Grid) Index(cells []Cell) *results.Grid {
	x := &results.Grid{Schema: results.GridSchema, Name: g.Name, Title: g.Title, Columns: g.Columns}
	for _, a := range g.Matrix {
		x.Axes = append(x.Axes, results.Axis{Key: a.Key})
	}
	for _, c := range cells {
		labels := map[string]results.Label{}
		for _, s := range c.Labels {
			at := slices.IndexFunc(x.Axes, func(a results.Axis) bool { return a.Key == s.Key })
			if at < 0 { // of include
				at, x.Axes = len(x.Axes), append(x.Axes, results.Axis{Key: s.Key})
			}
			value := results.Label(strings.Join(s.Texts, ","))
			if !slices.Contains(x.Axes[at].Values, value) {
				x.Axes[at].Values = append(x.Axes[at].Values, value)
			}
			labels[s.Key] = value
		}
		x.Cells = append(x.Cells, results.Cell{ID: c.ID, Labels: labels, Folder: cellsName + "/" + c.ID})
	}
	x.Axes = slices.DeleteFunc(x.Axes, func(a results.Axis) bool { return len(a.Values) == 0 })
	for _, c := range g.Checks {
		c.Says = c.Claim()
		x.Checks = append(x.Checks, marshal(c))
	}
	sum := sha256.Sum256(marshal(x.Cells))
	x.Hash = hex.EncodeToString(sum[:])
	return x
}

// marshal is the JSON of what holds nothing that JSON has not.
func marshal(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

// Prepare makes the folder of a grid and writes its index. It refuses a folder that holds something else, or another grid.
func Prepare(dir string, x *results.Grid) error {
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return run.Usagef("--output %s: %w", dir, err)
	}
	// Of another process that is about to write the index, or was killed before it had.
	names = slices.DeleteFunc(names, func(n fs.DirEntry) bool {
		return n.Name() == cellsName || n.Name() == stateName || strings.HasPrefix(n.Name(), "."+indexName)
	})
	old, err := results.OpenGrid(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(names) > 0:
		return run.Usagef("%s is not the folder of a grid (it holds %s); choose another --output", dir, names[0].Name())
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case old.Name != x.Name:
		return otherGrid(dir, old, x)
	}
	for _, name := range []string{cellsName, stateName} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return fmt.Errorf("cannot make the grid's folder: %w", err)
		}
	}
	return alone(dir, func() error {
		// Others may have written theirs since.
		if old, err := results.OpenGrid(dir); err == nil && old.Name != x.Name {
			return otherGrid(dir, old, x)
		}
		return run.WriteJSON(filepath.Join(dir, indexName), x)
	})
}

func otherGrid(dir string, old, x *results.Grid) error {
	return run.Usagef("%s holds the grid %s, and this is %s; choose another --output", dir, old.Name, x.Name)
}

// finished reads how a cell ended; nil where it did not, or nothing that can be read says how. hash is that of the
// configuration that it must have had, "" for any.
func finished(dir, id, hash string) *run.Result {
	r, err := results.Open(filepath.Join(dir, cellsName, id))
	if err != nil || r.Forget == nil {
		return nil
	}
	// Of a stream, whose runs have configurations of their own, the name of the cell alone tells it.
	if r.Stream == nil && hash != "" && r.Forget.Hashes.Config != hash {
		return nil
	}
	switch r.Forget.Outcome {
	case unlearn.Reached, unlearn.Already, unlearn.Capped, unlearn.Diverged:
		return r.Forget
	}
	return nil
}

// Failure is why a cell has no result.
type Failure struct {
	Code   int    `json:"exit_code"` // -1 for a process that a signal ended
	Reason string `json:"reason"`
}

func statePath(dir, id, suffix string) string { return filepath.Join(dir, stateName, id+suffix) }

// failed reads why a cell failed when it was last tried; nil if it did not.
func failed(dir, id string) *Failure {
	text, err := os.ReadFile(statePath(dir, id, ".json"))
	f := &Failure{}
	if err != nil || json.Unmarshal(text, f) != nil {
		return nil
	}
	return f
}

// lock takes the lock of a cell, which keeps other processes from running it; nil if one of them has it. The process of the
// cell holds it too, so that it outlives ours.
func lock(dir, id string) (*os.File, error) {
	f, err := os.OpenFile(statePath(dir, id, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, fmt.Errorf("cannot lock a cell of the grid: %s: %w", f.Name(), err)
	}
	return f, nil
}

// alone does something about the whole grid while no other process does: what it read is not old when it is written.
func alone(dir string, do func() error) error {
	if err := os.MkdirAll(filepath.Join(dir, stateName), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, stateName, "grid.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return fmt.Errorf("cannot lock the grid: %s: %w", f.Name(), err)
	}
	return do()
}
