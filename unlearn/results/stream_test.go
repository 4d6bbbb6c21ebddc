package results

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"l2ul/unlearn/data"
	"l2ul/unlearn/run"
)

// A stream of a request of 2 images and one of 6, worked out by hand: 1 of 2 and 3 of 6 images had their label, 0 and 2 kept it,
// and 1 of the first got it back.
const stream = `{"schema":"unlearn.continual/1","model":"m","dataset":"d","record":{"requests":2,"head":"h"},"requests":[
	{"id":"a","outcome":"reached","steps":3,"seconds":1.5,"settings":{"method":"adv","goal":"misclassify","seed":7},"weights_before":"w0","weights_after":"w1","data":"x","forget":"f1",
	 "before":{"forget":{"accuracy":0.5,"hits":1,"n":2},"retain":{"accuracy":0.9,"n":90},"test":{"accuracy":0.8,"n":10}},
	 "after":{"forget":{"accuracy":0,"hits":0,"n":2},"retain":{"accuracy":0.7,"n":90},"test":{"accuracy":0.6,"n":10}},
	 "reads":{"before":{"retain":90},"unlearn":{"forget":20}}},
	{"id":"b","outcome":"cap","steps":4,"seconds":2,"settings":{"method":"adv","goal":"misclassify","seed":7},"weights_before":"w1","weights_after":"w2","data":"x","forget":"f2",
	 "before":{"forget":{"accuracy":0.5,"hits":3,"n":6},"retain":{"accuracy":0.7,"n":84},"test":{"accuracy":0.6,"n":10}},
	 "after":{"forget":{"accuracy":0.3333,"hits":2,"n":6},"retain":{"accuracy":0.4,"n":84},"test":{"accuracy":0.3,"n":10}},
	 "earlier":[{"id":"a","accuracy":0.5,"hits":1,"n":2,"regained":1}],
	 "reads":{"after":{"retain":84},"unlearn":{"forget":30,"earlier":5}}}]}`

// A stream that serves its tenth request is where the run of that one is. Its folder may be anybody's.
func TestNewest(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("argv.txt", "unlearn continual\n")
	write("config.yaml", "method: adv\nstop-scope: request\n")
	newest := func() (string, error) {
		t.Helper()
		r, err := Open(dir)
		if err != nil || r.Verb != "continual" || r.Requests() != "" {
			t.Fatalf("%+v, %v", r, err)
		}
		n, err := r.Newest()
		if n == nil {
			return "", err
		}
		return n.Path, err
	}
	if got, err := newest(); got != "" || err != nil {
		t.Errorf("before the first request: %q, %v", got, err)
	}
	for _, name := range []string{"999-c", "1000-d", "002-b"} {
		write("requests/"+name+"/argv.txt", "unlearn continual\n")
	}
	if got, err := newest(); got != filepath.Join(dir, "requests", "1000-d") || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "requests")), os.Symlink(t.TempDir(), filepath.Join(dir, "requests"))); err != nil {
		t.Fatal(err)
	}
	if got, err := newest(); err == nil {
		t.Errorf("a link leads to %q", got)
	}
}

// Streams differ where the runs of their requests do, though the folders of the streams have neither steps nor weights.
func TestDiffOfStreams(t *testing.T) {
	stream := func(losses map[string]string) *Run {
		dir := t.TempDir()
		for name, text := range map[string]string{"argv.txt": "unlearn continual\n", "config.yaml": "stop-scope: request\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for name, loss := range losses {
			folder := filepath.Join(dir, "requests", name)
			line := `{"phase":"unlearn","step":1,"values":{"loss":` + loss + "}}\n"
			if err := errors.Join(os.MkdirAll(folder, 0o755), os.WriteFile(filepath.Join(folder, "argv.txt"), nil, 0o644),
				os.WriteFile(filepath.Join(folder, "metrics.jsonl"), []byte(line), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		r, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	a := stream(map[string]string{"001-a": "1", "002-b": "2"})
	if d, err := Diff(a, stream(map[string]string{"001-a": "1", "002-b": "2"})); err != nil || !d.Equal() || d.Steps != 2 {
		t.Errorf("equal streams: %+v, %v", d, err)
	}
	for other, want := range map[*Run]StepDifference{
		stream(map[string]string{"001-a": "1", "002-b": "3"}): {"002-b unlearn", 1, "loss", "2", "3"},
		stream(map[string]string{"001-a": "1", "002-c": "2"}): {"002-b unlearn", 1, "step", "002-b unlearn 1", "002-c unlearn 1"},
		stream(map[string]string{"001-a": "1"}):               {"002-b unlearn", 1, "", "goes on", ""},
	} {
		d, err := Diff(a, other)
		if err != nil || d.Step == nil || *d.Step != want {
			t.Errorf("%+v, %v, want %+v", d, err, want)
		}
	}
}

// Streams that ask for as many images in other portions are no repeats of each other.
func TestRepeatsOfStreams(t *testing.T) {
	var all []*Run
	for _, sizes := range []string{"2 6", "2 6", "4 4"} {
		text := stream
		one, other, _ := strings.Cut(sizes, " ")
		text = strings.Replace(text, `"id":"a"`, `"id":"a","images":`+one, 1)
		text = strings.Replace(text, `"id":"b"`, `"id":"b","images":`+other, 1)
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "result.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	groups, err := Repeats(all)
	if err != nil || len(groups) != 2 || len(groups[0].Runs) != 2 || groups[0].Runs[0].Requests() != "2+6" || groups[1].Runs[0].Requests() != "2 of 4" {
		t.Errorf("%+v, %v", groups, err)
	}
}

func TestStream(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "result.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(stream)
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := r.Forget
	want := &run.Scores{
		Forget: run.Score{Accuracy: 0.5, Hits: 4, N: 8}, Retain: &run.Score{Accuracy: 0.9, N: 90}, Test: &run.Score{Accuracy: 0.8, N: 10},
	}
	if d := cmp.Diff(want, f.Before); d != "" {
		t.Errorf("before: -want +got\n%s", d)
	}
	want = &run.Scores{
		Forget: run.Score{Accuracy: 0.375, Hits: 3, N: 8}, Retain: &run.Score{Accuracy: 0.4, N: 84}, Test: &run.Score{Accuracy: 0.3, N: 10},
	}
	if d := cmp.Diff(want, f.After); d != "" {
		t.Errorf("after: -want +got\n%s", d)
	}
	if r.Verb != "continual" || r.K() != 8 || r.Seed() != 7 || f.Method != "adv" || f.Outcome != "cap" || f.Reached || f.Steps != 7 || f.Seconds.Total != 3.5 ||
		f.Hashes.Weights != "w0" || f.Limited || f.DataAccess.RetainDuringUnlearning || f.DataAccess.Reads[data.PhaseUnlearn][data.PartForget] != 55 {
		t.Errorf("%s of %d: %+v", r.Verb, r.K(), f)
	}
	if e := r.Entry(); e.Outcome != "cap" || e.Method != "adv" || *e.Seconds != 3.5 || *e.Test != 0.3 {
		t.Errorf("in a list: %+v", e)
	}
	write(strings.Replace(stream, `"unlearn":{"forget":30,"earlier":5}`, `"unlearn":{"retain":1}`, 1))
	if r, err = Open(dir); err != nil || !r.Forget.DataAccess.RetainDuringUnlearning {
		t.Errorf("a stream that read D_r: %v", err)
	}
	write(strings.Replace(stream, `"settings":{"method":"adv"`, `"settings":{"method":"neggrad"`, 1))
	if r, err = Open(dir); err != nil || r.Forget.Method != MixedMethod {
		t.Errorf("a stream of two methods: %v", err)
	}
	for text, want := range map[string]string{
		`{"schema":"unlearn.continual/1"}`:                                         "without requests",
		`{"schema":"unlearn.continual/1","requests":[null]}`:                       "without requests",
		strings.Replace(stream, `"after":{"forget"`, `"x":{"f"`, 1):                "request 1 has no scores",
		strings.Replace(stream, `"accuracy":0.7,"n":90`, `"accuracy":7,"n":90`, 1): "request 1: an accuracy of 7",
		strings.Replace(stream, `"accuracy":0.3,`, `"accuracy":3,`, 1):             "no fraction",
	} {
		write(text)
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v, want %q", text, err, want)
		}
	}
}
