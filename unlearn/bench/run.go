package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"l2ul/unlearn"
	"l2ul/unlearn/run"
)

// Runner runs cells, each in a process of its own, so that one that crashes or runs out of memory takes nothing with it.
type Runner struct {
	Dir     string
	Program string   // the executable to call
	Env     []string // of its processes
	Cells   []Cell   // each run once, the longest first
	Jobs    int      // processes at once
	Watch   func(Event)
}

// Event is what happened to a cell.
type Event struct {
	Cell    *Cell
	What    What
	Result  *run.Result // of a cell that is done
	Failure *Failure    // of one that is not
}

// What happens to cells.
type What string

// The events, in the order in which a cell has them.
const (
	Elsewhere What = "elsewhere" // another process has it, and is waited for
	Started   What = "started"
	Again     What = "again" // its process was ended from outside, and goes on in another
	Found     What = "found" // done, by somebody else or before
	Done      What = "done"
	Failed    What = "failed"
)

// attempts are how many processes a cell gets whose processes are ended from outside, as by a system that is out of memory.
const attempts = 3

// Run runs the cells that have no result and returns how each ended that failed, by ID. When ctx ends, the cells that run save
// what they have and end too, and the error is the cause of ctx.
func (r *Runner) Run(ctx context.Context) (map[string]*Failure, error) {
	var (
		mu    sync.Mutex
		fails = map[string]*Failure{}
		first error // of our own files
		busy  []*Cell
		queue = make(chan *Cell, len(r.Cells))
		wg    sync.WaitGroup
	)
	for i := range r.Cells {
		queue <- &r.Cells[i]
	}
	close(queue)
	work := func(c *Cell, wait bool) {
		f, taken, err := r.cell(ctx, c, wait)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err != nil:
			first = errors.Join(first, err)
		case !taken:
			busy = append(busy, c)
		case f != nil:
			fails[c.ID] = f
		}
	}
	for range max(r.Jobs, 1) {
		wg.Go(func() {
			for c := range queue {
				if ctx.Err() == nil {
					work(c, false)
				}
			}
		})
	}
	wg.Wait()
	// What others had begun is theirs; who is left over after them sees to it.
	late := busy
	busy = nil
	limit := make(chan struct{}, max(r.Jobs, 1))
	for _, c := range late {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			work(c, true)
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return fails, context.Cause(ctx)
	}
	return fails, first
}

// cell runs a cell unless it has a result. taken is false for one that another process has, unless it is to be waited for.
func (r *Runner) cell(ctx context.Context, c *Cell, wait bool) (f *Failure, taken bool, err error) {
	if found, err := r.found(c); found {
		return nil, true, err
	}
	held, err := lock(r.Dir, c.ID)
	if err != nil {
		return nil, true, err
	}
	if held == nil && !wait {
		return nil, false, nil
	}
	if held == nil {
		r.Watch(Event{Cell: c, What: Elsewhere})
	}
	for held == nil {
		select {
		case <-ctx.Done():
			return nil, true, nil
		case <-time.After(time.Second):
		}
		if held, err = lock(r.Dir, c.ID); err != nil {
			return nil, true, err
		}
	}
	defer held.Close()
	if found, err := r.found(c); found { // made while we took the lock
		return nil, true, err
	}
	r.Watch(Event{Cell: c, What: Started})
	for try := 1; ; try++ {
		f = r.process(ctx, c, held)
		if ctx.Err() != nil {
			return nil, true, nil
		}
		if result := finished(r.Dir, c.ID, c.Config.Hash()); result != nil {
			if f = r.verify(c); f == nil {
				r.Watch(Event{Cell: c, What: Done, Result: result})
				return nil, true, removed(statePath(r.Dir, c.ID, ".json"))
			}
		}
		if !f.outside() || try == attempts {
			break
		}
		r.Watch(Event{Cell: c, What: Again, Failure: f})
	}
	r.Watch(Event{Cell: c, What: Failed, Failure: f})
	return f, true, run.WriteJSON(statePath(r.Dir, c.ID, ".json"), f)
}

// verify checks the deletion record of a stream.
func (r *Runner) verify(c *Cell) *Failure {
	if c.Stream == nil {
		return nil
	}
	if _, err := run.Verify(run.NewConsole(run.TerminalOptions{Quiet: true}, io.Discard, io.Discard), filepath.Join(r.Dir, cellsName, c.ID), ""); err != nil {
		return &Failure{Code: run.ExitCode(err), Reason: "its deletion record: " + err.Error()}
	}
	return nil
}

// found reports whether a cell has a result. Why it failed before is then forgotten.
func (r *Runner) found(c *Cell) (bool, error) {
	result := finished(r.Dir, c.ID, c.Config.Hash())
	if result == nil || r.verify(c) != nil { // in which case its process is to say what is wrong
		return false, nil
	}
	r.Watch(Event{Cell: c, What: Found, Result: result})
	return true, removed(statePath(r.Dir, c.ID, ".json"))
}

// outside reports whether a signal ended the process.
func (f *Failure) outside() bool {
	return f.Code < 0 || f.Code == run.ExitResumable || f.Code == run.ExitInterrupted || f.Code == run.ExitTerminated
}

// process runs a cell once, from where an earlier process stopped if one did, and says how that failed if it left no result.
func (r *Runner) process(ctx context.Context, c *Cell, held *os.File) *Failure {
	folder := filepath.Join(r.Dir, cellsName, c.ID)
	args := []string{c.Args[0], "-o", folder, "-q", "--progress", "none", "--log-format", "json"}
	if c.Stream == nil { // which always goes on
		going := []string{"--resume", "auto"}
		if _, err := os.Stat(filepath.Join(folder, "result.json")); err == nil { // one that nobody can read, or of another configuration
			going = []string{"--force"}
		}
		args = append(args, going...)
	}
	cmd := exec.CommandContext(ctx, r.Program, append(args, c.Args[1:]...)...) //nolint:gosec // this program, and the settings of a grid
	cmd.Env = r.Env
	said := &tail{}
	cmd.Stderr = said
	cmd.ExtraFiles = []*os.File{held}
	// A group of its own, so that Ctrl-C at the terminal reaches it once, through us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	// The signal that our end sends to the process is sent at the end of the thread that made it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return &Failure{Reason: "its process ended well without writing a result"}
	case !errors.As(err, &exit):
		return &Failure{Code: run.ExitFailed, Reason: err.Error()}
	}
	reason := said.last()
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		reason = fmt.Sprintf("its process was ended by a signal (%s)", status.Signal())
		if status.Signal() == syscall.SIGKILL {
			reason += ", as systems do that are out of memory"
		}
	}
	return &Failure{Code: exit.ExitCode(), Reason: reason}
}

// tail keeps the end of what a process says.
type tail struct{ text []byte }

const maxTail = 64 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	if over := len(t.text) - maxTail; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

// last is the last thing said that is no log line: the error, or where a crash tells of itself its first line.
func (t *tail) last() string {
	said := ""
	for line := range bytes.Lines(t.text) {
		text := strings.TrimSpace(string(line))
		if rest, ok := strings.CutPrefix(text, "unlearn: "); ok {
			said = rest
		}
		for _, crash := range []string{"panic: ", "fatal error: ", "terminate called "} {
			if strings.HasPrefix(text, crash) {
				return text
			}
		}
	}
	if said == "" {
		said = "its process said nothing that tells why"
	}
	return said
}

func removed(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Incomplete is the error of a grid of which cells failed.
type Incomplete struct{ Failed, Of int }

func (e *Incomplete) Error() string {
	return fmt.Sprintf("%d of %s failed; the list says why, and the same command tries them again", e.Failed, run.Counted(e.Of, "cell"))
}

// ExitCode is that of a job which finished without reaching its goal.
func (*Incomplete) ExitCode() int { return run.ExitNotReached }

// Outcome says how a cell ended, as people read it.
func Outcome(r *run.Result) string {
	text := fmt.Sprintf("%s after %s", r.Outcome, run.Counted(int(r.Steps), "step"))
	if r.Outcome == unlearn.Capped && r.GoalHits != nil {
		text += ", " + r.Progress()
	}
	return text
}
