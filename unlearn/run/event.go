package run

import (
	"encoding/json"
	"math"
	"strconv"
	"time"
)

// Number is a float64 that is null in JSON when it is not finite, so that a diverged loss does not break a line.
type Number float64

// MarshalJSON writes the shortest text that reads back to the same value.
func (n Number) MarshalJSON() ([]byte, error) {
	x := float64(n)
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return []byte("null"), nil
	}
	return strconv.AppendFloat(nil, x, 'g', -1, 64), nil
}

// An Event is one JSON line: {"event": its name, "time": RFC 3339, …its own fields}. Readers must ignore names and
// fields they do not know.
type Event interface{ eventName() string }

// Start opens a job.
type Start struct {
	Verb       string `json:"verb"`
	Folder     string `json:"folder,omitempty"`
	ConfigHash string `json:"config_hash,omitempty"`
	Resumed    int64  `json:"resumed_step,omitempty"`
}

// ProgressEvent says how far a phase has come; at most one a second.
type ProgressEvent struct {
	Phase   string  `json:"phase"`
	Done    int64   `json:"done"`
	Total   int64   `json:"total,omitempty"`
	Unit    string  `json:"unit"`
	Seconds float64 `json:"seconds"`
	Note    string  `json:"note,omitempty"`
}

// Metric holds numbers of one step of a phase. It is also a line of metrics.jsonl.
type Metric struct {
	Phase  string            `json:"phase"`
	Step   int64             `json:"step"`
	Values map[string]Number `json:"values"`
}

// CheckpointEvent names a checkpoint that is safe on disk.
type CheckpointEvent struct {
	Step int64  `json:"step"`
	Path string `json:"path"`
}

// Warning is something the person should know.
type Warning struct {
	Message string `json:"message"`
}

// Failure is the error that ends the job.
type Failure struct {
	Message string `json:"message"`
	Code    int    `json:"exit_code"`
}

// Summary closes a job that ran; Result is what result.json holds.
type Summary struct {
	Folder string `json:"folder,omitempty"`
	Result any    `json:"result"`
}

// Plan is the summary of a dry run.
type Plan struct {
	Schema string            `json:"schema"` // unlearn.plan/1
	Verb   string            `json:"verb"`
	Plan   map[string]string `json:"plan"`
}

func (Start) eventName() string           { return "start" }
func (ProgressEvent) eventName() string   { return "progress" }
func (Metric) eventName() string          { return "metric" }
func (CheckpointEvent) eventName() string { return "checkpoint" }
func (Warning) eventName() string         { return "warning" }
func (Failure) eventName() string         { return "error" }
func (Summary) eventName() string         { return "summary" }

// encode returns the event as a line with its line break.
func encode(e Event, now time.Time) ([]byte, error) {
	fields, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	line := []byte(`{"event":"` + e.eventName() + `","time":"` + now.UTC().Format("2006-01-02T15:04:05.000Z") + `"`)
	if len(fields) > 2 { // more than {}
		line = append(append(line, ','), fields[1:]...)
	} else {
		line = append(line, '}')
	}
	return append(line, '\n'), nil
}
