package track

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func at(seconds float64) time.Time { return time.UnixMilli(int64(seconds * 1000)) }

func TestTensorBoardWritesWhatTensorBoardDoes(t *testing.T) {
	want, err := os.ReadFile("testdata/events.tfevents") // by scripts/golden/events.py
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "tb")
	first := Point{at(1767225600.5), "unlearn", 0, map[string]float64{"loss": 2.25, "hits": 16}}
	for start := range 2 { // the second start of a run knows what the first has said
		var before []Point
		if start == 1 {
			before = []Point{first}
		}
		w, err := OpenTensorBoard(dir, at(1767225600), before)
		if err != nil {
			t.Fatal(err)
		}
		if start == 0 {
			err = w.Add(first)
		}
		for _, p := range []Point{
			{at(1767225601.25), "unlearn", 1, map[string]float64{"loss": -0.1, "hits": 0}},
			{at(1767225602), "train", 300, map[string]float64{"accuracy": 1.0 / 3}},
			{at(1767225603), "train", 1 << 40, map[string]float64{"loss": math.Inf(1)}},
		} {
			if err == nil {
				err = w.Add(p)
			}
		}
		if err == nil {
			err = w.Close(true)
		}
		if err != nil {
			t.Fatal(err)
		}
		files, err := os.ReadDir(dir)
		if err != nil || len(files) != 1 {
			t.Fatalf("%v, %v", files, err)
		}
		got, err := os.ReadFile(filepath.Join(dir, files[0].Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("start %d: %x\nwant %x", start, got, want)
		}
	}
}

// server is an MLflow that keeps what it is told. answer, if there is one, answers in its place.
type server struct {
	mu      sync.Mutex
	calls   []string // paths
	token   string
	params  map[string]string
	values  map[string]float64 // by key@step
	status  string
	largest int
	answer  func(w http.ResponseWriter, r *http.Request, call int) bool
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.calls = append(s.calls, strings.TrimPrefix(r.URL.Path, "/api/2.0/mlflow/"))
	s.token = r.Header.Get("Authorization")
	call := len(s.calls)
	answer := s.answer
	s.mu.Unlock()
	if answer != nil && answer(w, r, call) {
		return
	}
	var body struct {
		RunID   string `json:"run_id"`
		Status  string
		Params  []pair
		Metrics []metric
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case strings.HasSuffix(r.URL.Path, "/runs/create"):
		_, _ = w.Write([]byte(`{"run":{"info":{"run_id":"abc"}}}`))
		return
	case body.RunID != "abc":
		http.Error(w, `{"error_code":"RESOURCE_DOES_NOT_EXIST"}`, http.StatusNotFound)
		return
	}
	s.largest = max(s.largest, len(body.Metrics))
	for _, p := range body.Params {
		s.params[p.Key] = p.Value
	}
	for _, m := range body.Metrics {
		s.values[m.Key] = m.Value
	}
	if body.Status != "" {
		s.status = body.Status
	}
	_, _ = w.Write([]byte("{}"))
}

// follow tells a server of 3 steps and returns what was saved and warned of.
func follow(t *testing.T, s *server, state MLflowState, finished bool, steps ...Point) (saved MLflowState, warnings []string) {
	t.Helper()
	s.params, s.values = map[string]string{}, map[string]float64{}
	host := httptest.NewServer(s)
	defer host.Close()
	m := StartMLflow(MLflowOptions{
		URL: host.URL + "/", Token: "secret", Name: "a run", Params: map[string]string{"lr": "0.5", "long": strings.Repeat("é", 300)}, State: state,
		Saved: func(s MLflowState) { saved = s }, Warn: func(text string) { warnings = append(warnings, text) },
	})
	for _, p := range steps {
		if err := m.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(finished); err != nil {
		t.Fatal(err)
	}
	return saved, warnings
}

func step(n int64) Point {
	return Point{at(float64(n)), "unlearn", n, map[string]float64{"loss": float64(n) / 2, "nan": math.NaN()}}
}

func TestMLflow(t *testing.T) {
	s := &server{}
	saved, warnings := follow(t, s, MLflowState{}, true, step(1), step(2))
	if d := cmp.Diff([]string{"runs/create", "runs/log-batch", "runs/log-batch", "runs/update"}, s.calls); d != "" {
		t.Error(d)
	}
	if s.token != "Bearer secret" || s.status != "FINISHED" || s.params["lr"] != "0.5" || len(s.params["long"]) != maxParamBytes || warnings != nil {
		t.Errorf("%+v, %v", s, warnings)
	}
	if d := cmp.Diff(map[string]float64{"unlearn/loss": 1}, s.values); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(MLflowState{"abc", map[string]int64{"unlearn": 2}}, saved); d != "" {
		t.Error(d)
	}

	// The run goes on: what the server has is not said again.
	s = &server{}
	saved, warnings = follow(t, s, saved, false, step(2), step(3))
	if d := cmp.Diff([]string{"runs/update", "runs/log-batch", "runs/update"}, s.calls); d != "" || s.status != "FAILED" || s.largest != 1 || warnings != nil {
		t.Errorf("%s%+v, %v", d, s, warnings)
	}
	if saved.Logged["unlearn"] != 3 {
		t.Errorf("%+v", saved)
	}

	// Many steps go together.
	s = &server{}
	var many []Point
	for i := range int64(2500) {
		many = append(many, step(i+1))
	}
	saved, _ = follow(t, s, MLflowState{}, true, many...)
	if s.largest != maxMetrics || saved.Logged["unlearn"] != 2500 || len(s.calls) != 6 {
		t.Errorf("largest batch %d, saved %+v, calls %v", s.largest, saved, s.calls)
	}
}

// A server that fails is asked again where that may help, and else given up with one warning, in bounded time.
func TestMLflowServersThatFail(t *testing.T) {
	for name, c := range map[string]struct {
		answer  func(w http.ResponseWriter, r *http.Request, call int) bool
		warning string
		calls   int
	}{
		"once": {func(w http.ResponseWriter, _ *http.Request, call int) bool {
			if call == 2 {
				http.Error(w, "busy", http.StatusServiceUnavailable)
			}
			return call == 2
		}, "", 5},
		"always": {func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			http.Error(w, "broken\x1b[2J", http.StatusInternalServerError)
			return true
		}, `runs/create: 500 Internal Server Error: "broken\x1b[2J\n"; the run goes on without it`, attempts},
		"refuses": {func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return true
		}, "401 Unauthorized", 1},
		"another program": {func(w http.ResponseWriter, _ *http.Request, _ int) bool {
			_, _ = w.Write([]byte("<html>"))
			return true
		}, "so this is no MLflow", 1},
	} {
		s := &server{answer: c.answer}
		began := time.Now()
		_, warnings := follow(t, s, MLflowState{}, true, step(1), step(2))
		if (c.warning == "") != (warnings == nil) || len(warnings) > 1 || len(warnings) == 1 && !strings.Contains(warnings[0], c.warning) {
			t.Errorf("%s: %q", name, warnings)
		}
		if len(s.calls) != c.calls {
			t.Errorf("%s: %v", name, s.calls)
		}
		if took := time.Since(began); took > closeTimeout {
			t.Errorf("%s: %v", name, took)
		}
	}
}

// Neither a server that never answers nor one that is not there keeps the run from its end.
func TestMLflowServersThatSayNothing(t *testing.T) {
	release := make(chan struct{})
	s := &server{answer: func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	}}
	host := httptest.NewServer(s)
	defer host.Close()
	defer close(release)
	for _, address := range []string{host.URL, "http://127.0.0.1:1"} {
		var warnings []string
		m := StartMLflow(MLflowOptions{URL: address, Saved: func(MLflowState) {}, Warn: func(text string) { warnings = append(warnings, text) }})
		began := time.Now()
		for i := range int64(3 * waitingPoints) {
			if err := m.Add(step(i)); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: adding took %v", address, took)
		}
		if err := m.Close(true); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > closeTimeout+5*time.Second || len(warnings) != 1 {
			t.Errorf("%s: %v, %q", address, took, warnings)
		}
	}
}

func TestCheckMLflow(t *testing.T) {
	var good []string
	for _, address := range []string{"http://localhost:5000", "https://mlflow.example/sub/", "file:///tmp", "localhost:5000", "http://", "http://me:pass@host", "http://host?token=x", "http://host/#x", "http://%zz"} {
		if CheckMLflow(address) == nil {
			good = append(good, address)
		}
	}
	if !slices.Equal(good, []string{"http://localhost:5000", "https://mlflow.example/sub/"}) {
		t.Error(good)
	}
}
