package results

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"time"

	"l2ul/unlearn/run"
)

// Entry is what a list of runs says of one.
type Entry struct {
	Path    string    `json:"path"`
	Began   time.Time `json:"began,omitzero"` // when its first line of the log was written
	Name    string    `json:"name,omitempty"`
	Verb    string    `json:"verb,omitempty"`
	Method  string    `json:"method,omitempty"`
	K       int       `json:"k,omitempty"` // images to forget
	Outcome string    `json:"outcome"`     // as in result.json; else running, unfinished, or unreadable
	Problem string    `json:"problem,omitempty"`
	Forget  *float64  `json:"forget,omitempty"` // accuracies after forgetting
	Retain  *float64  `json:"retain,omitempty"`
	Test    *float64  `json:"test,omitempty"`
	Seconds *float64  `json:"seconds,omitempty"`
}

// List describes all runs at or below dir, unfinished and broken ones as well, sorted by path.
func List(dir string) ([]Entry, error) {
	paths, err := Find(dir)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(paths))
	for _, path := range paths {
		r, err := Open(path)
		if err != nil {
			entries = append(entries, Entry{Path: path, Outcome: "unreadable", Problem: err.Error()})
			continue
		}
		entries = append(entries, r.Entry())
	}
	return entries, nil
}

// Entry describes the run as a list does.
func (r *Run) Entry() Entry {
	e := Entry{Path: r.Path, Began: r.began(), Verb: r.Verb, Method: r.Setting("method"), K: r.K()}
	if r.Result == nil {
		e.Outcome = "unfinished"
		if run.Working(r.Path) {
			e.Outcome = "running"
		}
		return e
	}
	var about struct {
		Name, Outcome string
		Seconds       json.RawMessage
	}
	if json.Unmarshal(r.Result, &about) == nil {
		e.Name, e.Outcome, e.Seconds = about.Name, about.Outcome, total(about.Seconds)
	}
	if r.Stream != nil {
		e.Outcome, e.Seconds = string(r.Forget.Outcome), &r.Forget.Seconds.Total
	}
	if r.Forget != nil {
		e.Method = r.Forget.Method
		if after := r.Forget.After; after != nil {
			e.Forget = &after.Forget.Accuracy
			for _, s := range []struct {
				to   **float64
				from *run.Score
			}{{&e.Retain, after.Retain}, {&e.Test, after.Test}} {
				if s.from != nil {
					*s.to = &s.from.Accuracy
				}
			}
		}
	}
	return e
}

// total is the number of seconds, which some results divide into phases.
func total(seconds json.RawMessage) *float64 {
	var phases struct{ Total *float64 }
	if json.Unmarshal(seconds, &phases) == nil {
		return phases.Total
	}
	var all *float64
	if json.Unmarshal(seconds, &all) != nil {
		return nil
	}
	return all
}

// began is the time of the first line of the log, the zero time where there is none.
func (r *Run) began() time.Time {
	folder, err := OpenFolder(r.Path)
	if err != nil {
		return time.Time{}
	}
	defer folder.Close()
	head, err := folder.read("log.jsonl", func(file *os.File, _ int64) ([]byte, error) {
		return io.ReadAll(io.LimitReader(file, maxLine))
	})
	if err != nil {
		return time.Time{}
	}
	line, _, _ := bytes.Cut(head, []byte("\n"))
	var first struct{ Time time.Time }
	if json.Unmarshal(line, &first) != nil {
		return time.Time{}
	}
	return first.Time
}
