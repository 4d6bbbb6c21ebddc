package report

import (
	"bytes"
	"cmp"
	"context"
	_ "embed" // for the page
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"l2ul/unlearn"
	"l2ul/unlearn/results"
)

//go:embed page/live.html
var liveHTML string

//go:embed page/live.js
var liveJS string

var liveTemplate = template.Must(template.New("live").Parse(liveHTML))

// Serve shows the runs of some folders while they are at work, until ctx ends. It answers three addresses, reads nothing
// but run folders, changes nothing, and listens on the loopback alone. ready is told where.
func Serve(ctx context.Context, address string, paths []string, ready func(url string)) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is no HOST:PORT, as 127.0.0.1:0: %w", address, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("%q is not the loopback, as 127.0.0.1 is: others could read the runs; forward a port instead (ssh -L)", host)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	bound := listener.Addr().(*net.TCPAddr)
	server := &http.Server{
		Handler:           newHandler(bound.Port, paths),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
		MaxHeaderBytes: 16 << 10,
	}
	ready("http://" + bound.String() + "/")
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return errors.Join(server.Close(), closed(<-ended)) // somebody is still being answered: they will not miss the rest
	}
	return closed(<-ended)
}

// closed returns what a server ended with, but for its being told to.
func closed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// handler answers requests. Run folders are read at most once a second, and the whole report is made once for each state of theirs, however
// many ask.
type handler struct {
	paths []string
	hosts []string // the values of Host that are ours

	mu   sync.Mutex
	at   time.Time
	last []byte

	making sync.Mutex // of the report
	state  string     // of the folders that made is of
	made   []byte
}

func newHandler(port int, paths []string) http.Handler {
	h := &handler{paths: paths}
	for _, host := range []string{"127.0.0.1", "localhost", "::1"} {
		h.hosts = append(h.hosts, net.JoinHostPort(host, strconv.Itoa(port)))
	}
	return h
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	for name, value := range map[string]string{
		"Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
		"Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
		"Cache-Control": "no-store",
	} {
		head.Set(name, value)
	}
	// A name of somebody else's that resolves to this machine must not reach us (DNS rebinding).
	if !slices.Contains(h.hosts, strings.ToLower(r.Host)) {
		http.Error(w, "this host name is not served", http.StatusMisdirectedRequest)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		head.Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	switch r.URL.Path {
	case "/":
		h.live(w)
	case "/status.json":
		head.Set("Content-Type", "application/json")
		_, _ = w.Write(h.status())
	case "/report":
		h.report(w)
	default:
		http.NotFound(w, r)
	}
}

// live is the page that asks for the status again and again.
func (h *handler) live(w http.ResponseWriter) {
	rules := policy(pageCSS, liveJS, "; connect-src 'self'; frame-ancestors 'none'")
	h.page(w, rules, func(b *bytes.Buffer) error {
		return liveTemplate.Execute(b, map[string]any{"CSS": template.CSS(pageCSS), "JS": template.JS(liveJS), "Columns": statusColumns}) //nolint:gosec // our own
	})
}

// report is the whole report of what has finished.
func (h *handler) report(w http.ResponseWriter) {
	h.page(w, policy(pageCSS, pageJS, "; frame-ancestors 'none'"), func(b *bytes.Buffer) error {
		text, err := h.current()
		b.Write(text)
		return err
	})
}

// current is the report of the folders as they are now.
func (h *handler) current() ([]byte, error) {
	h.making.Lock()
	defer h.making.Unlock()
	state := "" // before they are read: what changes meanwhile makes it another
	for _, p := range h.paths {
		one, err := results.State(p)
		if err != nil { // Load says what is wrong, and what is too large is made each time
			h.made = nil
		}
		state += one
	}
	if h.made != nil && state == h.state {
		return h.made, nil
	}
	r, err := Load(h.paths...)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := r.HTML(&b); err != nil {
		return nil, err
	}
	h.state, h.made = state, b.Bytes()
	return h.made, nil
}

func (h *handler) page(w http.ResponseWriter, rules string, write func(*bytes.Buffer) error) {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Security-Policy", rules)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(b.Bytes())
}

// status is the JSON of all runs as they are now.
type status struct {
	Runs  [][]string `json:"runs"` // texts under statusColumns
	Left  string     `json:"left"`
	Error string     `json:"error,omitempty"`
}

var statusColumns = []string{"run", "method", "k", "seed", "state", "D_f %", "D_r %", "D_test %", "seconds"}

func (h *handler) status() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last != nil && time.Since(h.at) < time.Second {
		return h.last
	}
	s := status{Runs: [][]string{}}
	if r, err := Load(h.paths...); err != nil {
		s.Error = err.Error()
	} else {
		s.Left = strings.TrimPrefix((&Report{Ahead: r.Ahead, Failed: r.Failed, Broken: r.Broken}).Left(), "Not in the table: ")
		runs := slices.Concat(r.Open, r.Runs)
		slices.SortStableFunc(runs, func(a, b *results.Run) int { return strings.Compare(a.Path, b.Path) })
		for _, one := range runs {
			s.Runs = append(s.Runs, statusRow(one))
		}
	}
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // texts have JSON
	}
	h.at, h.last = time.Now(), text
	return text
}

func statusRow(r *results.Run) []string {
	name := filepath.Base(r.Path)
	if f := r.Forget; f != nil {
		row := &Row{}
		row.score(after([]*results.Run{r}))
		return []string{
			name, MethodName(f), strconv.Itoa(r.K()), strconv.FormatInt(r.Seed(), 10), progress(r),
			interval(row.Forget, percent, ""), interval(row.Retain, percent, ""), interval(row.Test, percent, ""), seconds(f.Seconds.Total),
		}
	}
	k := ""
	if r.Set != nil {
		k = strconv.Itoa(r.K())
	}
	return []string{
		name, r.Setting("method"), k, strconv.FormatInt(r.Seed(), 10), progress(r), "", "", "", "",
	}
}

// progress says how far a run has come; a stream is where the run of its newest request is.
func progress(r *results.Run) string {
	if r.Forget != nil {
		return fmt.Sprintf("%s after step %d", r.Forget.Outcome, r.Forget.Steps)
	}
	if r.Verb == "continual" {
		newest, err := r.Newest()
		switch {
		case err != nil:
			return err.Error()
		case newest == nil:
			return "before its first request"
		}
		return filepath.Base(newest.Path) + ": " + progress(newest)
	}
	last, err := r.Last()
	switch {
	case err != nil:
		return err.Error()
	case last == nil:
		return "before its first step"
	}
	text := fmt.Sprintf("%s, step %d", last.Phase, last.Step)
	if loss := last.Values["loss"]; loss != nil {
		text += fmt.Sprintf(", loss %.4g", *loss)
	}
	if hits := last.Values["hits"]; hits != nil {
		text += ", " + unlearn.Goal(cmp.Or(r.Setting("goal"), string(unlearn.Misclassify))).Progress(int64(*hits), int64(r.K()))
	}
	if quiet := time.Since(last.Time).Round(time.Second); quiet > 30*time.Second {
		text += fmt.Sprintf("; nothing new for %v", quiet)
	}
	return text
}
