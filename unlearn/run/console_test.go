package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"l2ul/internal/pty"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	"l2ul/unlearn/data"
)

func lines(t *testing.T, text string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(text) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, m)
	}
	return all
}

// A terminal without a size gets lines, for people.
func TestTerminalWithoutSize(t *testing.T) {
	_, terminal := pty.Open(t)
	for _, c := range []struct {
		size unix.Winsize
		mode string
	}{{unix.Winsize{}, "plain"}, {unix.Winsize{Row: 24, Col: 80}, "bar"}} {
		if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &c.size); err != nil {
			t.Fatal(err)
		}
		got := NewConsole(TerminalOptions{Progress: "auto", LogFormat: "auto"}, io.Discard, terminal)
		if got.mode != c.mode || got.pretty == nil {
			t.Errorf("%d columns: %s, want %s; log for people: %t", c.size.Col, got.mode, c.mode, got.pretty != nil)
		}
	}
}

// When a phase is over its bar is drawn no more: whatever is written then, such as a result, would be erased. A phase whose
// end nobody knows shows what is done, and one that has done nothing yet tells no time.
func TestBarsRest(t *testing.T) {
	for _, c := range []struct {
		total, done int64
		last, never string
	}{
		{4, 4, "4 / 4 pairs  done well", "left"},
		{0, 33, "33 pairs  done well", "33 /"},
		{9, 0, "0 / 9 pairs  done well", "left"},
	} {
		var errs bytes.Buffer
		console := NewConsole(TerminalOptions{Progress: "bar"}, io.Discard, &errs)
		p := console.Progress("attack", "pairs", c.total)
		p.Note("done well")
		p.Set(c.done)
		p.Done()
		drawn := errs.String()
		if !strings.Contains(drawn, c.last) || strings.Contains(drawn, c.never) {
			t.Errorf("%d of %d: %q", c.done, c.total, drawn)
		}
		time.Sleep(300 * time.Millisecond)
		if more := errs.String(); more != drawn {
			t.Errorf("drawn after the end: %q", more[len(drawn):])
		}
		if err := console.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestEvents(t *testing.T) {
	var out, errs bytes.Buffer
	c := NewConsole(TerminalOptions{JSON: true, LogFormat: "console"}, &out, &errs)
	now := time.Date(2026, 11, 23, 1, 2, 3, 4e6, time.UTC)
	c.now = func() time.Time { return now }
	f, _ := mustOpen(t, opening(t, flags("output", filepath.Join(t.TempDir(), "r"))))
	if err := c.Attach(f); err != nil {
		t.Fatal(err)
	}
	c.Emit(Start{Verb: "forget"})
	c.Warn("odd")
	c.Emit(Metric{"unlearn", 3, map[string]Number{"loss": 0.5, "bad": Number(math.NaN())}})
	p := c.Progress("attack", "pairs", 100)
	for range 30 { // 15 s in steps of half a second
		now = now.Add(500 * time.Millisecond)
		p.Note("loss 1")
		p.Add(2)
	}
	p.Done()
	c.Emit(Summary{Result: EvalResult{Schema: EvalSchema}})
	c.Log().Debug().Msg("hidden")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	events := lines(t, out.String())
	var names []string
	for _, e := range events {
		names = append(names, e["event"].(string))
	}
	want := "start warning metric" + strings.Repeat(" progress", 15+1) + " summary"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("events: %s", got)
	}
	if events[0]["time"] != "2026-11-23T01:02:03.004Z" {
		t.Errorf("time %v", events[0]["time"])
	}
	if v := events[2]["values"].(map[string]any); v["loss"] != 0.5 || v["bad"] != nil {
		t.Errorf("metric %v", events[2])
	}
	if e := errs.String(); !strings.Contains(e, "odd") || strings.Count(e, "attack: ") != 1 || !strings.Contains(e, "attack: 40 of 100 pairs, 15s left") ||
		strings.Contains(e, "hidden") || strings.Contains(e, "\x1b") {
		t.Errorf("stderr:\n%s", e)
	}
	log, err := os.ReadFile(f.Path("log.jsonl"))
	if err != nil || !strings.Contains(string(log), "hidden") {
		t.Errorf("log.jsonl = %s, %v", log, err)
	}
	metrics, err := os.ReadFile(f.Path("metrics.jsonl"))
	if err != nil || len(lines(t, string(metrics))) != 1 {
		t.Errorf("metrics.jsonl = %s, %v", metrics, err)
	}
}

func TestQuietAndColour(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("CLICOLOR_FORCE", "1")
	var out, errs bytes.Buffer
	c := NewConsole(TerminalOptions{Quiet: true, LogFormat: "console"}, &out, &errs)
	c.Log().Info().Msg("info")
	c.Warn("odd")
	c.Emit(Start{Verb: "forget"})
	if e := errs.String(); out.Len() > 0 || strings.Contains(e, "info") || !strings.Contains(e, "odd") || !strings.Contains(e, "\x1b") {
		t.Errorf("stdout %q, stderr %q", out.String(), e)
	}
}

// What stands in the names of files moves no cursor and writes no line over.
func TestHostileMessage(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	var out, errs bytes.Buffer
	c := NewConsole(TerminalOptions{LogFormat: "console"}, &out, &errs)
	c.Warn("a\x1b[2Jb\r\x07\u202eé\xff\tc\nd")
	if e := errs.String(); !strings.Contains(e, `a\x1b[2Jb\r\a\u202eé`+"\ufffd\tc\nd") {
		t.Errorf("stderr %q", e)
	}
}

func TestBar(t *testing.T) {
	var out, errs bytes.Buffer
	c := NewConsole(TerminalOptions{Progress: "bar"}, &out, &errs)
	for _, n := range []int64{10, 4} { // complete, and given up
		p := c.Progress("attack", "pairs", 10)
		p.Set(n)
		c.Log().Info().Msg("beside the bar")
		p.Done()
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(errs.String(), "beside the bar"); n != 2 {
		t.Errorf("%d log lines beside the bar, want 2", n)
	}
}

func TestFullStdout(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	c := NewConsole(TerminalOptions{JSON: true}, full, &bytes.Buffer{})
	c.Emit(Start{Verb: "forget"})
	if err := c.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Close = %v, want no space", err)
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{Usagef("x"), 2},
		{NotReachedf("x"), 3},
		{Inputf("x: %w", os.ErrNotExist), 4},
		{fmt.Errorf("while loading: %w", Inputf("x")), 4},
		{Devicef("x"), 5},
		{&Stopped{Signal: os.Interrupt, Checkpoint: "c"}, 75},
		{&Stopped{Signal: os.Interrupt}, 130},
		{&Stopped{Signal: syscall.SIGTERM}, 143},
		{&Stopped{Signal: syscall.SIGUSR1}, 143},
		{errors.Join(errors.New("y"), Inputf("x")), 4},
		{fmt.Errorf("x: %w", &data.InputError{Path: "x", Msg: "torn"}), 4},
		{&data.UsageError{Msg: "x"}, 2},
		{fmt.Errorf("x: %w", ckpt.ErrCorrupt), 4},
		{&nn.MismatchError{}, 4},
		{&nn.NonFiniteError{}, 4},
		{&torch.Error{Code: torch.OutOfMemory}, 5},
		{&torch.Error{Code: torch.Native}, 1},
		{os.ErrNotExist, 1},
	} {
		if got := ExitCode(c.err); got != c.want {
			t.Errorf("ExitCode(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}

func TestCadence(t *testing.T) {
	at := time.Unix(100, 0)
	for text, want := range map[string][3]bool{ // after 5 steps in 1 s, 10 steps in 1 s, 5 steps in 60 s
		"10": {false, true, false}, "60s": {false, false, true}, "0": {}, "0.5s": {true, true, true},
	} {
		c, err := ParseCadence(text)
		if err != nil {
			t.Fatal(err)
		}
		got := [3]bool{
			c.Due(5, 0, at.Add(time.Second), at), c.Due(10, 0, at.Add(time.Second), at), c.Due(5, 0, at.Add(time.Minute), at),
		}
		if got != want {
			t.Errorf("%s: due %v, want %v", text, got, want)
		}
	}
	for _, text := range []string{"", "-1", "x", "-3s", "1.5"} {
		if _, err := ParseCadence(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

// The test binary plays the job: it waits for the signal and, unless told to hang, returns what StopCause says.
func TestSignals(t *testing.T) {
	if mode := os.Getenv("L2UL_SIGNAL_TEST"); mode != "" {
		grace, checkpoint := time.Duration(0), ""
		if strings.HasPrefix(mode, "grace") {
			grace = 100 * time.Millisecond
		}
		ctx, release := Signals(context.Background(), grace, nil, func(s *Stopped, code int) {
			fmt.Println(s)
			os.Exit(code)
		})
		switch {
		case strings.HasSuffix(mode, ", saved"):
			announcer(ctx)(os.Args[0]) // a file that is there
		case strings.HasSuffix(mode, ", finished"):
			announcer(ctx)(os.Args[0] + ".gone")
		}
		fmt.Println("ready")
		<-ctx.Done()
		fmt.Println("stopping")
		switch mode {
		case "none":
		case "saves":
			checkpoint = "c.json"
		default:
			select {}
		}
		release()
		os.Exit(ExitCode(StopCause(ctx, checkpoint)))
	}
	for _, c := range []struct {
		mode    string
		signals []os.Signal
		want    int
	}{
		{"saves", []os.Signal{syscall.SIGTERM}, 75},
		{"saves", []os.Signal{syscall.SIGUSR1}, 75},
		{"saves", []os.Signal{os.Interrupt}, 75},
		{"none", []os.Signal{os.Interrupt}, 130},
		{"none", []os.Signal{syscall.SIGTERM}, 143},
		{"hang", []os.Signal{os.Interrupt, os.Interrupt}, 130},
		{"hang", []os.Signal{syscall.SIGTERM, os.Interrupt}, 130},
		{"hang, saved", []os.Signal{os.Interrupt, os.Interrupt}, 130},
		{"grace", []os.Signal{syscall.SIGTERM}, 143},
		{"grace", []os.Signal{os.Interrupt}, 130},
		{"grace, saved", []os.Signal{syscall.SIGTERM}, 75},
		{"grace, saved", []os.Signal{os.Interrupt}, 75},
		{"grace, finished", []os.Signal{syscall.SIGTERM}, 143}, // and nothing is left to resume
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSignals$")
		cmd.Env = append(os.Environ(), "L2UL_SIGNAL_TEST="+c.mode)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 64)
		for _, s := range c.signals {
			if _, err := out.Read(line); err != nil { // "ready", then "stopping"
				t.Fatal(err)
			}
			if err := cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
		rest, err := io.ReadAll(out)
		if err != nil {
			t.Fatal(err)
		}
		if says := strings.Contains(string(rest), "--resume "+os.Args[0]); says != strings.HasSuffix(c.mode, ", saved") {
			t.Errorf("%s, %v: %s", c.mode, c.signals, rest)
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != c.want {
			t.Errorf("%s, %v: %v, want exit code %d", c.mode, c.signals, err, c.want)
		}
	}
}
