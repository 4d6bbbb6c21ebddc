package run

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"github.com/vbauerster/mpb/v8"
	"golang.org/x/term"

	"l2ul/unlearn/track"
)

// Console is where a job speaks: log lines and progress on stderr, JSON events on stdout when asked for, and copies of
// both in the run folder. It may be used from any goroutine.
type Console struct {
	log  zerolog.Logger
	json bool
	mode string // bar, plain or none

	profile *profile // of the job that speaks; nil for none

	mu      sync.Mutex
	stdout  io.Writer
	stderr  io.Writer
	pretty  io.Writer // stderr through zerolog's console format, or nil for JSON
	level   zerolog.Level
	bars    *mpb.Progress // while a phase shows one,
	showing int           // and how many do
	logFile *os.File
	metrics *os.File
	sinks   []track.Sink // of the run at work, beside those files
	ended   bool         // that run has a result
	failed  error        // first error of a file of the run folder
	now     func() time.Time
}

// NewConsole opens a console on the two streams. Bars and colours are for terminals only; NO_COLOR turns colours off
// and CLICOLOR_FORCE on.
func NewConsole(o TerminalOptions, stdout, stderr io.Writer) *Console {
	c := &Console{json: o.JSON, stdout: stdout, stderr: stderr, mode: o.Progress, level: zerolog.InfoLevel, now: time.Now}
	terminal := isTerminal(stderr)
	switch {
	case o.Quiet:
		c.mode, c.level = "none", zerolog.WarnLevel
	case o.Verbose == 1:
		c.level = zerolog.DebugLevel
	case o.Verbose > 1:
		c.level = zerolog.TraceLevel
	}
	if c.mode == "auto" || c.mode == "" {
		c.mode = "plain"
		if terminal && columns(stderr) > 0 { // some hosts of containers give a terminal no size, and bars would not show
			c.mode = "bar"
		}
	}
	if o.LogFormat == "console" || o.LogFormat != "json" && terminal {
		colour := terminal && os.Getenv("NO_COLOR") == "" || os.Getenv("CLICOLOR_FORCE") == "1"
		c.pretty = zerolog.ConsoleWriter{Out: stderrOf{c}, NoColor: !colour, TimeFormat: "15:04:05", FormatPrepare: func(event map[string]any) error {
			if message, ok := event[zerolog.MessageFieldName].(string); ok {
				event[zerolog.MessageFieldName] = Visible(message)
			}
			return nil
		}}
	}
	c.log = zerolog.New(sink{c}).Level(zerolog.TraceLevel).With().Timestamp().Logger()
	return c
}

// Visible keeps control characters, which names in archives and files may have, off a terminal: it writes them as Go does. Tabs
// and the ends of lines stay.
func Visible(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r == '\n' || r == '\t' || strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// columns is the width of a terminal, 0 where there is none.
func columns(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil {
			return n
		}
	}
	return 0
}

// Log returns the logger. All of it goes to log.jsonl, what --quiet and --verbose leave to stderr.
func (c *Console) Log() *zerolog.Logger { return &c.log }

// JSON reports whether stdout belongs to JSON lines.
func (c *Console) JSON() bool { return c.json }

// Stdout is the stream for people's results; with --json nothing but events may be written there.
func (c *Console) Stdout() io.Writer { return c.stdout }

// Warn logs a warning and emits its event.
func (c *Console) Warn(message string) {
	c.log.Warn().Msg(message)
	c.Emit(Warning{message})
}

// Emit writes the event on stdout when --json was given, and metrics into metrics.jsonl.
func (c *Console) Emit(e Event) {
	now := c.now()
	line, err := encode(e, now)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.fail(err)
		return
	}
	if c.json {
		if _, err := c.stdout.Write(line); err != nil {
			c.fail(err)
		}
	}
	if _, metric := e.(Metric); metric && c.metrics != nil {
		if _, err := c.metrics.Write(line); err != nil {
			c.fail(err)
		}
	}
	if len(c.sinks) > 0 {
		c.tell(e, now)
	}
	if _, summary := e.(Summary); summary {
		c.ended = true
	}
}

// tell hands the numbers of an event on; c.mu is held.
func (c *Console) tell(e Event, now time.Time) {
	p, ok := trackedOf(e, now)
	if !ok {
		return
	}
	for _, s := range c.sinks {
		if err := s.Add(p); err != nil {
			c.fail(err)
		}
	}
}

// track hands the numbers of the run to a further sink.
func (c *Console) track(s track.Sink) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sinks = append(c.sinks, s)
}

// release closes the sinks of the run that was. They may have warnings to give meanwhile, so c.mu is not held.
func (c *Console) release() {
	c.mu.Lock()
	sinks, ended := c.sinks, c.ended
	c.sinks, c.ended = nil, false
	c.mu.Unlock()
	for _, s := range sinks {
		if err := s.Close(ended); err != nil {
			c.mu.Lock()
			c.fail(err)
			c.mu.Unlock()
		}
	}
}

// Plan tells what a job would do, in rows of a heading and a sentence: on stdout for people, as the summary under --json.
func (c *Console) Plan(verb string, rows [][2]string) {
	if c.json {
		plan := Plan{Schema: "unlearn.plan/1", Verb: verb, Plan: map[string]string{}}
		for _, r := range rows {
			plan.Plan[r[0]] = r[1]
		}
		c.Emit(Summary{Result: plan})
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range rows {
		if _, err := fmt.Fprintf(c.stdout, "%-10s %s\n", r[0], r[1]); err != nil {
			c.fail(err)
		}
	}
}

// fail keeps the first error; c.mu is held.
func (c *Console) fail(err error) {
	if c.failed == nil {
		c.failed = err
	}
}

// Attach copies everything from now on into log.jsonl and metrics.jsonl of the folder, and no longer into those of the
// folder before.
func (c *Console) Attach(f *Folder) error {
	open := func(name string) (*os.File, error) {
		return os.OpenFile(f.Path(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	}
	log, err := open("log.jsonl")
	if err != nil {
		return err
	}
	metrics, err := open("metrics.jsonl")
	if err != nil {
		log.Close()
		return err
	}
	c.release()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.detach()
	c.logFile, c.metrics = log, metrics
	return nil
}

// detach closes the files of the run folder; c.mu is held.
func (c *Console) detach() {
	for _, f := range []*os.File{c.logFile, c.metrics} {
		if f == nil {
			continue
		}
		if err := f.Close(); err != nil {
			c.fail(err)
		}
	}
	c.logFile, c.metrics = nil, nil
}

// show returns where to add a bar.
func (c *Console) show() *mpb.Progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bars == nil {
		c.bars = mpb.New(mpb.WithOutput(c.stderr), mpb.WithWidth(40), mpb.WithRefreshRate(120*time.Millisecond),
			mpb.WithAutoRefresh()) // --progress bar means bars, whatever stderr is
	}
	c.showing++
	return c.bars
}

// settle says that a bar has come to its end. The last one leaves its line as it is: bars that went on being drawn would
// erase what is written below them meanwhile, such as the result.
func (c *Console) settle() {
	c.mu.Lock()
	c.showing--
	bars := c.bars
	if c.showing > 0 {
		bars = nil
	} else {
		c.bars = nil
	}
	c.mu.Unlock()
	if bars != nil {
		bars.Wait()
	}
}

// Close ends the bars and closes the files. It returns the first error of any write, so that a full disk is not
// taken for success.
func (c *Console) Close() error {
	c.release()
	c.mu.Lock()
	bars := c.bars
	c.bars = nil
	c.mu.Unlock()
	if bars != nil { // of a phase that did not come to its end
		bars.Shutdown()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.detach()
	return c.failed
}

// sink sends log lines to stderr and to the run folder.
type sink struct{ c *Console }

func (s sink) Write(line []byte) (int, error) { return s.WriteLevel(zerolog.NoLevel, line) }

// WriteLevel never returns an error: zerolog would print it in the middle of a bar. Close reports it.
func (s sink) WriteLevel(level zerolog.Level, line []byte) (int, error) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.c.logFile != nil {
		if _, err := s.c.logFile.Write(line); err != nil {
			s.c.fail(err)
		}
	}
	if level >= s.c.level {
		var err error
		if s.c.pretty != nil {
			_, err = s.c.pretty.Write(line)
		} else {
			_, err = stderrOf(s).Write(line)
		}
		if err != nil {
			s.c.fail(err)
		}
	}
	return len(line), nil
}

// stderrOf writes above the bars while there are any; c.mu is held.
type stderrOf struct{ c *Console }

func (w stderrOf) Write(p []byte) (int, error) {
	if w.c.bars != nil {
		if n, err := w.c.bars.Write(p); err == nil {
			return n, nil
		}
	}
	return w.c.stderr.Write(p)
}
