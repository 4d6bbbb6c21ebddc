// Package results reads back what runs wrote: run folders, finished or not, grids of them, and numbers over several seeds.
// Folders may come from anybody: sizes and counts are bounded, and no name in one leads out of it.
package results

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"l2ul/unlearn/run"
	"l2ul/unlearn/run/config"
)

// The most that is read of the files of a run folder. A result names the images to forget, a line of metrics takes some
// 250 bytes.
const (
	maxResult  = 64 << 20
	maxSmall   = 1 << 20
	maxMetrics = 256 << 20
	maxLine    = 64 << 10
)

// A Run is one run folder.
type Run struct {
	Path     string        // of the folder, as it was named
	Verb     string        // forget, train, …; "" where nothing tells it
	Commands []string      // the command lines of argv.txt, one for each start
	Settings []config.Text // the keys of config.yaml, in its order

	Schema      string               // of result.json; "" while the run is not finished
	Result      json.RawMessage      // result.json as it is; nil while the run is not finished
	Forget      *run.Result          // the same of `unlearn forget`, or what a stream comes to as one run; else nil
	Stream      *run.ContinualResult // the same of `unlearn continual`; else nil
	Set         *ForgetSet           // forget.json; nil where there is none
	Environment *run.Environment     // env.json; nil where there is none
}

// ForgetSet is what forget.json says of the images to forget.
type ForgetSet struct {
	Indices []int64 `json:"indices"`
	Labels  []int   `json:"labels"`
	Targets []int   `json:"targets"` // new labels, where the goal has them
}

// A Metric is one line of metrics.jsonl. A value that is not finite is nil.
type Metric struct {
	Time   time.Time           `json:"time"`
	Phase  string              `json:"phase"`
	Step   int64               `json:"step"`
	Values map[string]*float64 `json:"values"`
}

// Open reads the run folder at path.
func Open(path string) (*Run, error) {
	folder, err := OpenFolder(path)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	if !folder.isRun() {
		return nil, fmt.Errorf("%s is no run folder: it has neither argv.txt nor result.json", path)
	}
	return folder.run()
}

func (f *Folder) isRun() bool { return f.has("argv.txt") || f.has("result.json") }

func (f *Folder) run() (*Run, error) {
	r := &Run{Path: f.Path}
	if err := f.optional("argv.txt", maxSmall, func(data []byte) error {
		r.Commands = strings.FieldsFunc(string(data), func(c rune) bool { return c == '\n' })
		return nil
	}); err != nil {
		return nil, err
	}
	if err := f.optional("config.yaml", maxSmall, func(data []byte) (err error) {
		r.Settings, err = config.Texts("config.yaml", data)
		return err
	}); err != nil {
		return nil, err
	}
	for _, file := range []struct {
		name   string
		limit  int64
		target any
	}{{"env.json", maxSmall, &r.Environment}, {"forget.json", maxResult, &r.Set}, {"result.json", maxResult, &r.Result}} {
		if err := f.optional(file.name, file.limit, func(data []byte) error { return json.Unmarshal(data, file.target) }); err != nil {
			return nil, err
		}
	}
	if r.Result != nil {
		if err := r.decode(); err != nil {
			return nil, f.refuse("result.json", err)
		}
	}
	if r.Set != nil && (len(r.Set.Labels) != len(r.Set.Indices) || len(r.Set.Targets) > 0 && len(r.Set.Targets) != len(r.Set.Indices)) {
		return nil, f.refuse("forget.json", fmt.Errorf("%d images, %d labels, %d new labels", len(r.Set.Indices), len(r.Set.Labels), len(r.Set.Targets)))
	}
	r.Verb = r.verb()
	return r, nil
}

// optional hands a file to read, if it is there.
func (f *Folder) optional(name string, limit int64, read func([]byte) error) error {
	data, err := f.Read(name, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := read(data); err != nil {
		return f.refuse(name, err)
	}
	return nil
}

// decode reads the parts of the result that this program knows.
func (r *Run) decode() error {
	var about struct {
		Schema string `json:"schema"`
	}
	if err := json.Unmarshal(r.Result, &about); err != nil {
		return err
	}
	if about.Schema == "" {
		return errors.New("it does not say its schema")
	}
	r.Schema = about.Schema
	switch r.Schema {
	case run.ResultSchema:
		r.Forget = &run.Result{}
		if err := json.Unmarshal(r.Result, r.Forget); err != nil {
			return err
		}
	case run.ContinualSchema:
		r.Stream = &run.ContinualResult{}
		if err := json.Unmarshal(r.Result, r.Stream); err != nil {
			return err
		}
		var err error
		if r.Forget, err = whole(r.Stream); err != nil {
			return err
		}
	default:
		return nil
	}
	if r.Forget.Method == "" || r.Forget.Outcome == "" {
		return errors.New("it names no method or no outcome")
	}
	return checkScores(r.Forget.Before, r.Forget.After)
}

// checkScores refuses accuracies that are no fractions, which means and plots could not take.
func checkScores(all ...*run.Scores) error {
	for _, s := range all {
		if s == nil {
			continue
		}
		for _, score := range []*run.Score{&s.Forget, s.Retain, s.Test} {
			if score != nil && !(score.Accuracy >= 0 && score.Accuracy <= 1) {
				return fmt.Errorf("an accuracy of %v, which is no fraction", score.Accuracy)
			}
		}
	}
	return nil
}

// verb is told by the result, or by the keys of the configuration, of which only forget has a method.
func (r *Run) verb() string {
	if r.Schema == "" && r.Setting("stop-scope") != "" { // which a run by itself has not
		return "continual"
	}
	if r.Schema == run.ResultSchema || r.Schema == "" && r.Setting("method") != "" {
		return "forget"
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(r.Schema, "unlearn."), "/")
	return name
}

// Setting returns the value of a key of config.yaml, "" where it has none.
func (r *Run) Setting(key string) string {
	for _, s := range r.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// Seed returns the seed.
func (r *Run) Seed() int64 {
	if r.Forget != nil {
		return r.Forget.Seed
	}
	seed, _ := strconv.ParseInt(r.Setting("seed"), 10, 64) // 0 is what a run without the key has
	return seed
}

// K returns how many images are to be forgotten; 0 where nothing tells it yet.
func (r *Run) K() int {
	switch {
	case r.Stream != nil:
		return int(r.Forget.After.Forget.N)
	case r.Forget != nil:
		return len(r.Forget.Forget.Indices)
	case r.Set != nil:
		return len(r.Set.Indices)
	}
	return 0
}

// Metrics reads metrics.jsonl of the run, every line that is whole: of a run at work, the last one may not be.
func (r *Run) Metrics() (metrics []Metric, err error) {
	folder, err := OpenFolder(r.Path)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	err = folder.optional("metrics.jsonl", maxMetrics, func(data []byte) error {
		number := 0
		for line := range bytes.Lines(data) {
			number++
			if line[len(line)-1] != '\n' {
				break
			}
			var m Metric
			if err := json.Unmarshal(line, &m); err != nil {
				return fmt.Errorf("line %d: %w", number, err)
			}
			metrics = append(metrics, m)
		}
		return nil
	})
	return metrics, err
}

// Last reads the newest whole line of metrics.jsonl, without those before; nil when there is none.
func (r *Run) Last() (*Metric, error) {
	folder, err := OpenFolder(r.Path)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	tail, err := folder.tail("metrics.jsonl", maxLine)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	lines := bytes.Split(tail, []byte("\n"))
	if len(lines) < 2 { // what follows the last line break is no whole line
		return nil, nil
	}
	last := &Metric{}
	if err := json.Unmarshal(lines[len(lines)-2], last); err != nil {
		return nil, folder.refuse("metrics.jsonl", fmt.Errorf("its last line: %w", err))
	}
	return last, nil
}

// Predictions reads what the network said of the images to forget; nil when the run has no such file.
func (r *Run) Predictions() (*run.Predictions, error) {
	folder, err := OpenFolder(r.Path)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	var p *run.Predictions
	err = folder.optional("predictions.json", maxResult, func(data []byte) error {
		if err := json.Unmarshal(data, &p); err != nil {
			return err
		}
		if p == nil || p.Schema != run.PredictionsSchema {
			return fmt.Errorf("no %s", run.PredictionsSchema)
		}
		return nil
	})
	return p, err
}
