package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"l2ul/unlearn/results"
)

// Progress is how far a grid has come. Cells that are one run count once.
type Progress struct {
	Name    string   `json:"name"`
	Done    int      `json:"done"`
	Running []string `json:"running"` // labels, and what they are doing
	Failed  []string `json:"failed"`  // labels, and why
	Left    int      `json:"left"`    // that nobody has begun, or whose process was stopped
	Seconds float64  `json:"seconds"` // of work that is left to one process, going by the latest cells; 0 where none is done
}

// latest are how many cells tell how long others will take: older ones may be from when the machine had more, or less, to do beside.
const latest = 5

// took is how long a cell took, and when it was done.
type took struct {
	done    time.Time
	seconds float64
}

// expected is how long a cell takes, going by the latest of some.
func expected(cells []took) float64 {
	slices.SortFunc(cells, func(a, b took) int { return b.done.Compare(a.done) })
	var seconds []float64
	for _, c := range cells[:min(len(cells), latest)] {
		seconds = append(seconds, c.seconds)
	}
	return results.Summarize(seconds).Mean
}

// Status reads how far the grid of a folder has come.
func Status(dir string) (*Progress, error) {
	g, cells, err := open(dir)
	if err != nil {
		return nil, err
	}
	p := &Progress{Name: g.Name, Running: []string{}, Failed: []string{}}
	seen := map[string]bool{}
	known := map[results.Label][]took{} // by method; "" is all
	var open []cell
	for _, c := range cells {
		if seen[c.ID] {
			continue
		}
		seen[c.ID] = true
		if c.result != nil {
			p.Done++
			info, err := os.Stat(filepath.Join(dir, filepath.FromSlash(c.Folder), "result.json"))
			if err != nil {
				continue // gone since
			}
			one := took{info.ModTime(), c.result.Seconds.Total}
			known[""] = append(known[""], one)
			if method := c.Labels["method"]; method != "" {
				known[method] = append(known[method], one)
			}
			continue
		}
		open = append(open, c)
	}
	for _, c := range open {
		failure := failed(dir, c.ID)
		switch {
		case held(dir, c.ID):
			p.Running = append(p.Running, labelText(c.Labels)+": "+doing(dir, c.Folder))
		case failure != nil:
			p.Failed = append(p.Failed, labelText(c.Labels)+": "+failure.Reason)
			continue
		default:
			p.Left++
		}
		of := known[c.Labels["method"]]
		if len(of) == 0 {
			of = known[""]
		}
		if len(of) > 0 {
			p.Seconds += expected(of)
		}
	}
	return p, nil
}

// Unfinished are the cells that have no result yet, by ID.
func Unfinished(dir string, cells []Cell) map[string]bool {
	left := map[string]bool{}
	for _, c := range cells {
		if finished(dir, c.ID, c.Config.Hash()) == nil {
			left[c.ID] = true
		}
	}
	return left
}

// held reports whether some process has the lock of a cell.
func held(dir, id string) bool {
	f, err := os.Open(statePath(dir, id, ".lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == unix.EWOULDBLOCK
}

// doing says what a run that is at work did last.
func doing(dir, folder string) string {
	r, err := results.Open(filepath.Join(dir, filepath.FromSlash(folder)))
	if err != nil {
		return "begins"
	}
	at := ""
	if r.Verb == "continual" {
		newest, err := r.Newest()
		if err != nil || newest == nil {
			return "at work"
		}
		r, at = newest, filepath.Base(newest.Path)+": "
	}
	last, err := r.Last()
	if err != nil || last == nil {
		return "at work"
	}
	return fmt.Sprintf("%s%s, step %d", at, last.Phase, last.Step)
}
