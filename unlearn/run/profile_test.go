package run

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The timeline of each verb: phases follow each other without a gap from the job's begin to its end, and on a thread every
// step and operator lies in what is around it.
func TestProfile(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(filepath.Join(dir, "cache"))
	for name, c := range map[string]struct {
		job
		phases, steps []string
	}{
		"forget": {
			job{verb: "forget", flags: flags("k", "4", "num-adv", "20", "iters", "2", "max-steps", "3", "limit", "8", "adv-batch", "40")},
			[]string{"load", "before", "attack", "importance", "unlearn", "after"},
			[]string{"before: D_f, images", "before: D_r, images", "before: D_test, images", "attack, pairs", "importance, images", "unlearn, steps", "after: D_f, images"},
		},
		"attack":     {job{verb: "attack", flags: flags("k", "2", "num-adv", "3", "iters", "2")}, []string{"load", "attack"}, []string{"attack, pairs"}},
		"importance": {job{verb: "importance", flags: flags("k", "2")}, []string{"load", "importance"}, []string{"importance, images"}},
		"train":      {job{verb: "train", flags: flags("epochs", "1", "train-batch", "16")}, []string{"load", "train", "after"}, []string{"train, steps", "train, images"}},
		"eval":       {job{verb: "eval", flags: flags("k", "2")}, []string{"load", "eval"}, []string{"forget, images"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.dir = filepath.Join(t.TempDir(), "run")
			path := filepath.Join(t.TempDir(), "profile.json")
			c.flags = with(c.flags, "profile", path)
			if out := c.run(t.Context(), dir, nil); out.err != nil && ExitCode(out.err) != ExitNotReached {
				t.Fatal(out.err)
			}
			var trace struct{ TraceEvents []traceEvent }
			readJSON(t, path, &trace)
			checkTimeline(t, trace.TraceEvents, c.phases)
			for _, want := range append(c.steps, "aten::linear") {
				if !slices.ContainsFunc(trace.TraceEvents, func(e traceEvent) bool { return e.Name == want }) {
					t.Errorf("no %q", want)
				}
			}
			if !slices.ContainsFunc(trace.TraceEvents, func(e traceEvent) bool { return strings.HasPrefix(e.Name, "l2ul::") }) && name != "importance" {
				t.Error("no operator of our own")
			}
		})
	}
}

func checkTimeline(t *testing.T, events []traceEvent, phases []string) {
	t.Helper()
	ns := func(us float64) int64 { return int64(math.Round(us * 1e3)) }
	begin := func(e traceEvent) int64 { return ns(e.Begin) }
	end := func(e traceEvent) int64 { return ns(e.Begin) + ns(e.Duration) }
	var names []string
	at := int64(0)
	for _, e := range events {
		if e.Category == "phase" {
			names = append(names, e.Name)
			if begin(e) != at || end(e) < at {
				t.Errorf("%+v does not begin at %d, where the phase before ends", e, at)
			}
			at = end(e)
		}
	}
	if d := cmp.Diff(phases, names); d != "" {
		t.Errorf("phases (-want +got):\n%s", d)
	}
	// Widest first among those that begin together, so that what is around an event is met before it.
	slices.SortStableFunc(events, func(a, b traceEvent) int {
		if d := begin(a) - begin(b); d != 0 {
			return int(d)
		}
		return int(end(b) - end(a))
	})
	open := map[int][]traceEvent{}
	for _, e := range events {
		if e.Kind != "X" || e.Process != 1 || begin(e) < 0 || end(e) > at {
			t.Errorf("%+v is no span between 0 and %d ns", e, at)
		}
		around := open[e.Thread]
		for len(around) > 0 && end(around[len(around)-1]) <= begin(e) && end(around[len(around)-1]) < end(e) {
			around = around[:len(around)-1]
		}
		if len(around) > 0 && end(e) > end(around[len(around)-1]) {
			t.Errorf("%+v begins in %+v and ends behind it", e, around[len(around)-1])
		}
		if len(around) == 0 && e.Category == "step" {
			t.Errorf("%+v lies in no phase", e)
		}
		open[e.Thread] = append(around, e)
	}
}

// A profile that cannot be written is refused before anything is computed; one of a job that fails is written.
func TestProfileOfFailures(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	j := job{verb: "eval", flags: flags("profile", filepath.Join(t.TempDir(), "no", "such", "folder", "p.json"))}
	out := j.run(t.Context(), dir, nil)
	if ExitCode(out.err) != ExitUsage || !strings.Contains(out.err.Error(), "--profile") || len(out.events) > 0 {
		t.Errorf("%v, after %v", out.err, out.events)
	}
	path := filepath.Join(t.TempDir(), "p.json")
	j.flags = flags("profile", path, "weights", "nowhere.pt")
	if out := j.run(t.Context(), dir, nil); ExitCode(out.err) != ExitInput {
		t.Errorf("%v", out.err)
	}
	var trace struct{ TraceEvents []traceEvent }
	readJSON(t, path, &trace)
	checkTimeline(t, trace.TraceEvents, []string{"load"})
	if names, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}
