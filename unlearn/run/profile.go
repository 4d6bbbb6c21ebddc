package run

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"l2ul/torch"
)

// profileLimit bounds the operators of a profile, and its steps: some minutes of a small network, 100 MB as a file.
const profileLimit = 1_000_000

// profile is the timeline of a job (--profile): its phases one behind the other, in them the steps or chunks that progress
// is told of, and in those the operators of libtorch. A nil profile takes no notes.
type profile struct {
	mu            sync.Mutex
	phases, steps []torch.Span
}

// monotonic is the clock of [torch.Span].
func monotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // every Linux has it
	return now.Nano()
}

// enter ends the phase that the job was in, if any, and begins the next.
func (p *profile) enter(phase string) {
	if p == nil {
		return
	}
	now := p.leave()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phases = append(p.phases, torch.Span{Name: phase, Thread: unix.Gettid(), Begin: now})
}

// leave ends the last phase, if any, and returns when that was.
func (p *profile) leave() (now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now = monotonic()
	if n := len(p.phases); n > 0 {
		p.phases[n-1].End = now
	}
	return now
}

// step notes what a phase did since begin, and returns when the next step begins. What another thread than the job's tells
// would not nest with operators.
func (p *profile) step(name string, begin int64) (now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now = monotonic()
	if thread := unix.Gettid(); len(p.steps) < profileLimit && thread == p.phases[0].Thread {
		p.steps = append(p.steps, torch.Span{Name: name, Thread: thread, Begin: begin, End: now})
	}
	return now
}

// profiled runs fn, with a profile written to path at its end, however it ends. Without a path it runs fn.
func (d *desk) profiled(path string, fn func() error) (err error) {
	if path == "" {
		return fn()
	}
	file, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithPermissions(0o644)) // now, not in an hour, is when a wrong path is found
	if err != nil {
		return Usagef("--profile %s: %w", path, reason(err))
	}
	defer func() { err = errors.Join(err, file.Cleanup()) }()
	runtime.LockOSThread() // the phases outside torch.Run are on its thread too
	defer runtime.UnlockOSThread()
	p := &profile{}
	operators, lost := torch.Profile(profileLimit, func() {
		d.Console.profile = p
		defer func() { d.Console.profile = nil }()
		p.enter("load")
		err = fn()
		p.leave()
	})
	if lost > 0 {
		d.Console.Log().Warn().Msgf("--profile: only the first %d operators are in %s; %d more ran", len(operators), path, lost)
	}
	out := bufio.NewWriter(file)
	return errors.Join(err, p.write(out, operators), out.Flush(), file.CloseAtomicallyReplace())
}

// traceEvent is a span in the Trace Event Format, which chrome://tracing and Perfetto read. Times are in microseconds.
type traceEvent struct {
	Name     string  `json:"name"`
	Category string  `json:"cat"`
	Kind     string  `json:"ph"` // X: begin and duration in one
	Begin    float64 `json:"ts"`
	Duration float64 `json:"dur"`
	Process  int     `json:"pid"`
	Thread   int     `json:"tid"`
}

// write writes the timeline; time is 0 where the first phase begins.
func (p *profile) write(out *bufio.Writer, operators []torch.Span) error {
	fmt.Fprint(out, `{"displayTimeUnit":"ms","traceEvents":[`)
	start, comma := p.phases[0].Begin, ""
	for _, list := range []struct {
		category string
		spans    []torch.Span
	}{{"phase", p.phases}, {"step", p.steps}, {"operator", operators}} {
		for _, s := range list.spans {
			line, err := json.Marshal(traceEvent{
				Name: s.Name, Category: list.category, Kind: "X", Process: 1, Thread: s.Thread,
				Begin: float64(s.Begin-start) / 1e3, Duration: float64(s.End-s.Begin) / 1e3,
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "%s\n%s", comma, line)
			comma = ","
		}
	}
	fmt.Fprint(out, "\n]}\n") // an error of a write is that of Flush
	return nil
}
