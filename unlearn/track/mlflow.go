package track

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// MLflow tells a tracking server of a run, by its REST interface (mlflow.org/docs/latest/rest-api.html). What it is told waits
// in memory for a goroutine of its own, and a server that is slow, dead or refuses costs the run nothing but a warning.
type MLflow struct {
	o      MLflowOptions
	base   string
	points chan Point
	cancel context.CancelFunc
	ended  chan struct{} // the goroutine has; finished was set before points was closed

	finished bool
}

// MLflowOptions say where to and what about.
type MLflowOptions struct {
	URL    string
	Token  string              // sent as bearer token; "" for none
	Name   string              // of the run
	Tags   map[string]string   // of the run
	Params map[string]string   // its settings
	State  MLflowState         // of an earlier start of the same run; zero for a new one
	Saved  func(MLflowState)   // is told what the server has; called by another goroutine
	Warn   func(reason string) // is told, once, why the server was given up; likewise
}

// MLflowState is what the server has of a run.
type MLflowState struct {
	RunID  string           `json:"run_id"`
	Logged map[string]int64 `json:"logged"` // the last step, by phase
}

// Bounds of waiting and of what waits.
const (
	waitingPoints  = 10_000
	attempts       = 3
	requestTimeout = 10 * time.Second
	closeTimeout   = 10 * time.Second
	gather         = time.Second // how long points wait for company
	maxMetrics     = 1000        // of a request, as the server has it
	maxParams      = 100         // likewise
	maxParamBytes  = 500         // of older servers
	maxAnswer      = 1 << 20
)

// CheckMLflow says what is wrong with the address of a server.
func CheckMLflow(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return fmt.Errorf("%q is no address", address)
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("%q is no address of a server such as http://localhost:5000", address)
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%q is more than the address of a server such as http://localhost:5000", address)
	case u.User != nil:
		return errors.New("leave name and password out of the address, which is kept with the run; MLFLOW_TRACKING_TOKEN is not")
	}
	return nil
}

// StartMLflow begins to tell a server, without waiting for it. The address must be good.
func StartMLflow(o MLflowOptions) *MLflow {
	ctx, cancel := context.WithCancel(context.Background())
	m := &MLflow{o: o, base: strings.TrimRight(o.URL, "/") + "/api/2.0/mlflow/", points: make(chan Point, waitingPoints), cancel: cancel, ended: make(chan struct{})}
	m.o.State.Logged = maps.Clone(o.State.Logged)
	if m.o.State.Logged == nil {
		m.o.State.Logged = map[string]int64{}
	}
	go func() {
		defer close(m.ended)
		if err := m.tell(ctx); err != nil {
			m.o.Warn(fmt.Sprintf("%v; the run goes on without it", err))
		}
	}()
	return m
}

// Add lets the numbers wait for the server. Where too many wait already, they are dropped.
func (m *MLflow) Add(p Point) error {
	select {
	case m.points <- p:
	default:
	}
	return nil
}

// Close gives the server some seconds for what waits.
func (m *MLflow) Close(finished bool) error {
	m.finished = finished
	close(m.points)
	select {
	case <-m.ended:
	case <-time.After(closeTimeout):
	}
	m.cancel()
	<-m.ended
	return nil
}

// tell sends all there is to send, until points is closed or the server is to be given up.
func (m *MLflow) tell(ctx context.Context) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	for more := true; more; {
		var metrics []metric
		if metrics, more = m.next(); len(metrics) == 0 {
			continue
		}
		for batch := range slices.Chunk(metrics, maxMetrics) {
			if err := m.post(ctx, "runs/log-batch", map[string]any{"run_id": m.o.State.RunID, "metrics": batch}, nil); err != nil {
				return err
			}
		}
		for _, x := range metrics {
			if x.Step > 0 { // scores have no step, and a run that goes on after a cap has others
				m.o.State.Logged[x.phase] = max(m.o.State.Logged[x.phase], x.Step)
			}
		}
		m.saved()
	}
	status := "FAILED"
	if m.finished {
		status = "FINISHED"
	}
	return m.post(ctx, "runs/update", map[string]any{"run_id": m.o.State.RunID, "status": status, "end_time": time.Now().UnixMilli()}, nil)
}

func (m *MLflow) saved() {
	m.o.Saved(MLflowState{m.o.State.RunID, maps.Clone(m.o.State.Logged)})
}

type pair struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

func pairs(of map[string]string) (list []pair) {
	for _, k := range slices.Sorted(maps.Keys(of)) {
		v := of[k]
		if len(v) > maxParamBytes {
			v = strings.ToValidUTF8(v[:maxParamBytes], "")
		}
		list = append(list, pair{k, v})
	}
	return list
}

// begin makes the run, or goes on with it.
func (m *MLflow) begin(ctx context.Context) error {
	if id := m.o.State.RunID; id != "" {
		return m.post(ctx, "runs/update", map[string]any{"run_id": id, "status": "RUNNING"}, nil)
	}
	var made struct {
		Run struct {
			Info struct {
				RunID string `json:"run_id"`
			} `json:"info"`
		} `json:"run"`
	}
	if err := m.post(ctx, "runs/create", map[string]any{
		"experiment_id": "0", "run_name": m.o.Name, "start_time": time.Now().UnixMilli(), "tags": pairs(m.o.Tags),
	}, &made); err != nil {
		return err
	}
	m.o.State.RunID = made.Run.Info.RunID
	if m.o.State.RunID == "" {
		return fmt.Errorf("%s: the answer names no run, so this is no MLflow", m.o.URL)
	}
	m.saved()
	for batch := range slices.Chunk(pairs(m.o.Params), maxParams) {
		if err := m.post(ctx, "runs/log-batch", map[string]any{"run_id": m.o.State.RunID, "params": batch}, nil); err != nil {
			return err
		}
	}
	return nil
}

type metric struct {
	Key       string  `json:"key"`
	Value     float64 `json:"value"`
	Timestamp int64   `json:"timestamp"`
	Step      int64   `json:"step"`

	phase string
}

// next waits for numbers that the server does not have, and for others that come soon after; more is false when there will be none.
func (m *MLflow) next() (metrics []metric, more bool) {
	var soon <-chan time.Time
	for len(metrics) < maxMetrics {
		select {
		case p, ok := <-m.points:
			if !ok {
				return metrics, false
			}
			if last, has := m.o.State.Logged[p.Phase]; has && p.Step <= last {
				continue
			}
			for _, name := range slices.Sorted(maps.Keys(p.Values)) {
				if x := p.Values[name]; !math.IsNaN(x) && !math.IsInf(x, 0) { // which JSON cannot say
					metrics = append(metrics, metric{p.Phase + "/" + name, x, p.Time.UnixMilli(), p.Step, p.Phase})
				}
			}
			if soon == nil {
				soon = time.After(gather)
			}
		case <-soon:
			return metrics, true
		}
	}
	return metrics, true
}

// post sends a request, again where that may help.
func (m *MLflow) post(ctx context.Context, method string, body, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		again, err := m.try(ctx, method, text, answer)
		if err == nil {
			return nil
		}
		if !again || attempt == attempts || ctx.Err() != nil {
			return fmt.Errorf("MLflow at %s: %w", m.o.URL, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(attempt) * time.Second / 2):
		}
	}
}

func (m *MLflow) try(ctx context.Context, method string, body []byte, answer any) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, m.base+method, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	request.Header.Set("Content-Type", "application/json")
	if m.o.Token != "" {
		request.Header.Set("Authorization", "Bearer "+m.o.Token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return true, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return true, err
	}
	if response.StatusCode != http.StatusOK {
		return response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests, fmt.Errorf("%s: %s: %.200q", method, response.Status, text)
	}
	if answer != nil && json.Unmarshal(text, answer) != nil {
		return false, fmt.Errorf("%s: the answer is no JSON, so this is no MLflow", method)
	}
	return false, nil
}
