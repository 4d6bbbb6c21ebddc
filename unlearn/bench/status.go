package bench

import (
	"fmt"
	"os"
	"path/filepath"

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
	Seconds float64  `json:"seconds"` // of work that is left to one process, going by the cells that are done; 0 where none is
}

// Status reads how far the grid of a folder has come.
func Status(dir string) (*Progress, error) {
	g, cells, err := open(dir)
	if err != nil {
		return nil, err
	}
	p := &Progress{Name: g.Name, Running: []string{}, Failed: []string{}}
	seen := map[string]bool{}
	took := map[results.Label][]float64{} // seconds of cells that are done, by method; "" is all
	var open []cell
	for _, c := range cells {
		if seen[c.ID] {
			continue
		}
		seen[c.ID] = true
		if c.result != nil && failed(dir, c.ID) == nil { // a result that failed is not the cell's
			p.Done++
			for _, method := range []results.Label{"", c.Labels["method"]} {
				took[method] = append(took[method], c.result.Seconds.Total)
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
		of := took[c.Labels["method"]]
		if len(of) == 0 {
			of = took[""]
		}
		if len(of) > 0 {
			p.Seconds += results.Summarize(of).Mean
		}
	}
	return p, nil
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
	last, err := r.Last()
	if err != nil || last == nil {
		return "at work"
	}
	return fmt.Sprintf("%s, step %d", last.Phase, last.Step)
}
