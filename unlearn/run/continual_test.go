package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"l2ul/torch/ckpt"
	"l2ul/unlearn/data"
)

// servedRequests are what the stream of a test asks for: samples, names and a class, an option of its own and another goal.
const servedRequests = `{"id": "alice", "indices": [1, 13, 25]}

{"id": "bob/2", "names": ["class1/05.png", "train/class0/07.png"], "options": {"lr": 0.002}}
{"id": "carol", "forget": "class:3:2", "goal": "relabel", "targets": [0, 1], "options": {"method": "neggrad"}}
`

func streamOf(t *testing.T, requests string, more ...string) job {
	t.Helper()
	file := filepath.Join(t.TempDir(), "requests.jsonl")
	if err := os.WriteFile(file, []byte(requests), 0o644); err != nil {
		t.Fatal(err)
	}
	return job{
		verb: "continual", dir: filepath.Join(t.TempDir(), "stream"), args: []string{file},
		flags: with(flags("method", "adv-imp", "num-adv", "3", "iters", "2", "adv-batch", "4", "batch-size", "8", "lr", "0.001", "max-steps", "6", "save-every", "2"), more...),
	}
}

func recordOf(t *testing.T, dir string) []*Entry {
	t.Helper()
	_, entries, rest, err := readRecord(filepath.Join(dir, recordName))
	if err != nil || len(rest) > 0 {
		t.Fatal(err, string(rest))
	}
	return entries
}

func resultOf(t *testing.T, dir string, e *Entry) (r Result) {
	t.Helper()
	readJSON(t, filepath.Join(dir, e.Folder, "result.json"), &r)
	return r
}

// serve runs a stream to its end, whether all goals are reached or not.
func serve(t *testing.T, material string, j job) []*Entry {
	t.Helper()
	out := j.run(t.Context(), material, nil)
	if code := ExitCode(out.err); code != ExitOK && code != ExitNotReached {
		t.Fatal(out.err)
	}
	return recordOf(t, j.dir)
}

// A stream does what `unlearn forget` does when it is started by hand for each request with the weights that the one before left,
// and its scores are those of `unlearn eval`.
func TestContinual(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	j := streamOf(t, servedRequests)
	entries := serve(t, dir, j)
	if len(entries) != 3 {
		t.Fatalf("%d entries", len(entries))
	}
	sets := []string{"ids:1,13,25", "ids:17,7", "ids:36,37"}
	options := [][]string{nil, {"lr", "0.002"}, {"method", "neggrad", "goal", "relabel"}}
	weights := filepath.Join(dir, "trained", "model.safetensors")
	gone := 0
	for i, e := range entries {
		set := sets[i]
		if i == 2 { // the targets are in a file
			set = filepath.Join(t.TempDir(), "forget.json")
			text := `{"schema": "unlearn.forget/1", "indices": [36, 37], "targets": [0, 1]}`
			if err := os.WriteFile(set, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			set = "@" + set
		}
		hand := job{verb: "forget", dir: filepath.Join(t.TempDir(), "run"), flags: with(j.flags, "forget", set, "weights", weights)}
		hand.flags = with(hand.flags, options[i]...)
		if out := hand.run(t.Context(), dir, nil); out.err != nil && ExitCode(out.err) != ExitNotReached {
			t.Fatal(out.err)
		}
		weights = filepath.Join(j.dir, e.Folder, plainModel)
		var want Result
		readJSON(t, filepath.Join(hand.dir, "result.json"), &want)
		got := resultOf(t, j.dir, e)
		if a, b := left(t, hand.dir)[plainModel], left(t, filepath.Join(j.dir, e.Folder))[plainModel]; a != b {
			t.Errorf("%s: not the weights of a run by hand", e.ID)
		}
		if got.Steps != want.Steps || got.Outcome != want.Outcome || got.After.Forget.Hits != want.After.Forget.Hits || got.Goal != want.Goal {
			t.Errorf("%s: %s after %d steps, by hand %s after %d", e.ID, got.Outcome, got.Steps, want.Outcome, want.Steps)
		}
		gone += e.Images
		if e.After.Retain.N != int64(48-gone) || e.Before.Retain.N != int64(48-gone) {
			t.Errorf("%s: %d images retained, after %d of 48 were asked for", e.ID, e.After.Retain.N, gone)
		}
		if len(e.Earlier) != i {
			t.Errorf("%s: %d earlier requests", e.ID, len(e.Earlier))
		}
		for n, earlier := range e.Earlier {
			score := job{verb: "eval", flags: flags("weights", weights, "forget", sets[n], "splits", "forget", "output", filepath.Join(t.TempDir(), "eval.json"))}
			if out := score.run(t.Context(), dir, nil); out.err != nil {
				t.Fatal(out.err)
			}
			var eval EvalResult
			readJSON(t, score.flags["output"][0], &eval)
			if eval.Forget.Hits != earlier.Hits {
				t.Errorf("%s: %+v of %s, eval counts %d hits", e.ID, earlier, earlier.ID, eval.Forget.Hits)
			}
			regained := int64(0)
			for _, image := range resultOf(t, j.dir, entries[n]).Forget.Indices {
				if !right(t, dir, filepath.Join(j.dir, entries[n].Folder, plainModel), image) && right(t, dir, weights, image) {
					regained++
				}
			}
			if earlier.Regained != regained {
				t.Errorf("%s: %d images of %s regained, asked one by one %d are", e.ID, earlier.Regained, earlier.ID, regained)
			}
		}
		if n := e.Reads["after"]["earlier"]; n != int64(gone-e.Images) {
			t.Errorf("%s: %d reads of earlier requests", e.ID, n)
		}
	}

	// A stream that has come to its end is passed over; what is added is served, and nothing else.
	before := left(t, filepath.Join(j.dir, entries[0].Folder))
	record, err := os.ReadFile(filepath.Join(j.dir, recordName))
	if err != nil {
		t.Fatal(err)
	}
	serve(t, dir, j)
	if again, _ := os.ReadFile(filepath.Join(j.dir, recordName)); string(again) != string(record) {
		t.Error("a finished stream has another record when it is started again")
	}
	if err := os.WriteFile(j.args[0], []byte(servedRequests+`{"id": "dave", "forget": "ids:2"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	entries = serve(t, dir, j)
	if len(entries) != 4 || entries[3].ID != "dave" || entries[3].Earlier[2].ID != "carol" {
		t.Errorf("after a line was added: %d entries", len(entries))
	}
	if text, _ := os.ReadFile(filepath.Join(j.dir, recordName)); !strings.HasPrefix(string(text), string(record)) {
		t.Error("lines of the record were changed when one was added")
	}
	if d := cmp.Diff(before, left(t, filepath.Join(j.dir, entries[0].Folder))); d != "" {
		t.Errorf("a served request was served again: %s", d)
	}

	// What has been served cannot be changed any more.
	for name, c := range map[string]struct{ requests, flag, value, want string }{
		"other samples":   {requests: strings.Replace(servedRequests, "13", "14", 1), want: `request "alice" has been served, and its line changed`},
		"other options":   {requests: strings.Replace(servedRequests, "0.002", "0.003", 1), want: `request "bob/2" has been served, and its line changed`},
		"a line is gone":  {requests: servedRequests, want: `request 4 was "dave"`},
		"another order":   {requests: servedRequests[strings.Index(servedRequests, "\n\n")+2:] + servedRequests[:40], want: `request 1 was "alice"`},
		"other settings":  {requests: servedRequests, flag: "iters", value: "3", want: "iters (2 there, 3 here)"},
		"another network": {requests: servedRequests + `{"id": "dave", "forget": "ids:2"}`, flag: "weights", value: filepath.Join(j.dir, entries[0].Folder, plainModel), want: "the stream began with other weights"},
	} {
		j := j
		if c.flag != "" {
			j.flags = with(j.flags, c.flag, c.value)
		}
		if err := os.WriteFile(j.args[0], []byte(c.requests), 0o644); err != nil {
			t.Fatal(err)
		}
		if out := j.run(t.Context(), dir, nil); out.err == nil || !strings.Contains(out.err.Error(), c.want) {
			t.Errorf("%s: %v", name, out.err)
		}
	}
}

// right asks `unlearn eval` whether a network has a training image right.
func right(t *testing.T, material, weights string, image int64) bool {
	t.Helper()
	score := job{verb: "eval", flags: flags("weights", weights, "forget", fmt.Sprintf("ids:%d", image), "splits", "forget", "output", filepath.Join(t.TempDir(), "eval.json"))}
	if out := score.run(t.Context(), material, nil); out.err != nil {
		t.Fatal(out.err)
	}
	var eval EvalResult
	readJSON(t, score.flags["output"][0], &eval)
	return eval.Forget.Hits == 1
}

// What comes back is counted image by image: one that is lost meanwhile does not hide it.
func TestRegained(t *testing.T) {
	said := func(classes ...int) (p []Prediction) {
		for _, c := range classes {
			p = append(p, Prediction{Class: c})
		}
		return p
	}
	e := served{set: &data.ForgetSet{Labels: []int{0, 1, 2, 0}}, said: []int{3, 1, 1, 0}} // the second and the last are right
	for _, c := range []struct {
		now  []Prediction
		want int64
	}{
		{said(3, 1, 1, 0), 0},
		{said(0, 0, 1, 3), 1}, // one back, two lost
		{said(0, 1, 2, 0), 2},
		{said(1, 0, 0, 1), 0},
	} {
		if got := e.regained(c.now); got != c.want {
			t.Errorf("%v: %d regained, want %d", c.now, got, c.want)
		}
	}
}

// A file of importance belongs to the weights that it was estimated with: with --anchor first every request refers to those, else the first
// alone, which is said before anything is done.
func TestContinualImportanceFile(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	omega := job{verb: "importance", dir: filepath.Join(t.TempDir(), "omega"), flags: flags("forget", "ids:1,13")}
	if out := omega.run(t.Context(), dir, nil); out.err != nil {
		t.Fatal(out.err)
	}
	file := filepath.Join(omega.dir, "importance.safetensors")
	requests := `{"id": "a", "forget": "ids:1,13"}
{"id": "b", "forget": "ids:2,14"}`
	j := streamOf(t, requests, "method", "imp", "importance", file, "anchor", "first", "lr", "0.0001", "max-steps", "3")
	entries := serve(t, dir, j)
	want, err := ckpt.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		got, err := ckpt.Load(filepath.Join(j.dir, e.Folder, "importance.safetensors"))
		if err != nil || got.Hash() != want.Hash() {
			t.Errorf("%s: another importance than the file's, %v", e.ID, err)
		}
	}
	if entries[0].WeightsAfter == entries[0].WeightsBefore {
		t.Error("the first request changed nothing, so the second shows nothing")
	}
	j = streamOf(t, requests, "method", "imp", "importance", file, "lr", "0.01", "max-steps", "20")
	out := j.run(t.Context(), dir, nil)
	if ExitCode(out.err) != ExitUsage || !strings.Contains(out.err.Error(), `request "b": --importance `) {
		t.Errorf("--anchor previous: %v", out.err)
	}
	if _, err := os.Stat(j.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a folder, where what the advice says would be another configuration: %v", err)
	}
	plan := j
	plan.flags = with(j.flags, "dry-run", "true")
	if again := plan.run(t.Context(), dir, nil); fmt.Sprint(again.err) != fmt.Sprint(out.err) {
		t.Errorf("a dry run: %v", again.err)
	}
}

// A request that is unlike the others in nothing but its place needs no file: the requests are parts of one permutation.
func TestContinualDraws(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	j := streamOf(t, "", "method", "neggrad", "max-steps", "1", "requests", "3", "k", "2", "seed", "5")
	j.args = nil
	var got []int64
	for _, e := range serve(t, dir, j) {
		got = append(got, resultOf(t, j.dir, e).Forget.Indices...)
	}
	split := job{verb: "split", flags: flags("forget", "random:6", "seed", "5", "output", filepath.Join(t.TempDir(), "forget.json"))}
	if out := split.run(t.Context(), dir, nil); out.err != nil {
		t.Fatal(out.err)
	}
	var want struct{ Indices []int64 }
	readJSON(t, split.flags["output"][0], &want)
	if !slices.Equal(got, want.Indices) {
		t.Errorf("drawn %v, random:6 is %v", got, want.Indices)
	}
}

// --anchor first refers to the weights that the stream began with, --stop-scope all to every image so far.
func TestContinualScopes(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	j := streamOf(t, `{"id": "a", "forget": "ids:1,13,25"}
{"id": "b", "forget": "ids:2,14"}`, "anchor", "first", "stop-scope", "all", "lr", "0.01", "max-steps", "200")
	entries := serve(t, dir, j)
	second := resultOf(t, j.dir, entries[1])
	for verb, file := range map[string]string{"attack": "adversarial.safetensors", "importance": "importance.safetensors"} {
		first := job{verb: verb, dir: filepath.Join(t.TempDir(), "run"), flags: flags("forget", "ids:2,14")}
		if verb == "attack" {
			first.flags = with(first.flags, "num-adv", "3", "iters", "2")
		}
		if out := first.run(t.Context(), dir, nil); out.err != nil {
			t.Fatal(out.err)
		}
		if left(t, first.dir)[file] != left(t, filepath.Join(j.dir, entries[1].Folder))[file] {
			t.Errorf("%s: not that of the first weights", file)
		}
	}
	if second.Request.Anchor != entries[0].WeightsBefore {
		t.Errorf("the anchor is %q", second.Request.Anchor)
	}
	if entries[1].Outcome != "reached" {
		t.Fatalf("outcome %s", entries[1].Outcome)
	}
	// Reached means all five images, and each look at the two was one at the three.
	if e := entries[1].Earlier[0]; e.Hits != 0 {
		t.Errorf("%d images of the first request are right again, and the goal was about all", e.Hits)
	}
	if r := entries[1].Reads["stop-check"]; r["forget"] == 0 || r["earlier"]*2 != r["forget"]*3 {
		t.Errorf("reads of the stop test: %v", r)
	}
	if r := entries[0].Reads["stop-check"]; r["earlier"] != 0 {
		t.Errorf("reads of the first stop test: %v", r)
	}

	// The penalty is about the distance from the first weights: held hard there, the second run comes back towards them.
	held := streamOf(t, `{"id": "a", "forget": "ids:1,13,25", "options": {"method": "neggrad", "lr": 0.01}}
{"id": "b", "forget": "ids:2,14", "options": {"method": "imp", "importance": "uniform", "reg-lambda": 50, "max-steps": 5}}`, "anchor", "first")
	distance := func(anchor string) float64 {
		held.dir, held.flags = filepath.Join(t.TempDir(), anchor), with(held.flags, "anchor", anchor)
		penalty := resultOf(t, held.dir, serve(t, dir, held)[1]).Penalty
		return float64(*penalty)
	}
	if first, previous := distance("first"), distance("previous"); first <= previous {
		t.Errorf("λR %g with the anchor at the first weights, %g at those that the request began with", first, previous)
	}
}

// A stream that is stopped in any request, by a signal or by a power cut, ends with the bits of one that is not.
func TestContinualResumes(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	resumesAnywhere(t, dir, streamOf(t, servedRequests), "signal", "power")
	resumesAnywhere(t, dir, streamOf(t, servedRequests, "anchor", anchorFirst), "signal")
}

func resumesAnywhere(t *testing.T, dir string, j job, cuts ...string) {
	t.Helper()
	os.RemoveAll(filepath.Join(dir, "cache"))
	whole := j.run(t.Context(), dir, nil)
	if code := ExitCode(whole.err); code != ExitOK && code != ExitNotReached {
		t.Fatal(whole.err)
	}
	source := regexp.MustCompile(`("source": ")[^"]*/(?:requests|trained)/`) // where streams lie differs
	results := func(stream string) map[string]map[string]string {
		all := map[string]map[string]string{}
		for _, e := range recordOf(t, stream) {
			all[e.Folder] = left(t, filepath.Join(stream, e.Folder))
			all[e.Folder]["result.json"] = source.ReplaceAllString(all[e.Folder]["result.json"], "$1")
		}
		return all
	}
	want := results(j.dir)
	for _, i := range sample(whole.events) {
		for _, cut := range cuts {
			what := fmt.Sprintf("%s at event %d, %s", cut, i, describe(whole.events[i]))
			os.RemoveAll(filepath.Join(dir, "cache"))
			j.dir = filepath.Join(t.TempDir(), "stream")
			again := j
			again.dir = j.dir + "-copy"
			ctx, stop := context.WithCancelCause(t.Context())
			j.run(ctx, dir, func(at int, _ map[string]any) {
				if at != i {
					return
				}
				if _, err := os.Stat(j.dir); err == nil && cut == "power" {
					if err := os.CopyFS(again.dir, os.DirFS(j.dir)); err != nil {
						t.Error(err)
					}
				}
				stop(&Stopped{Signal: syscall.SIGTERM})
			})
			stop(nil)
			if cut == "signal" {
				again.dir = j.dir
			}
			os.RemoveAll(filepath.Join(dir, "cache"))
			if out := again.run(t.Context(), dir, nil); ExitCode(out.err) != ExitCode(whole.err) {
				t.Fatalf("%s: started again: %v", what, out.err)
			}
			if d := cmp.Diff(want, results(again.dir)); d != "" {
				t.Errorf("%s: another result:\n%.3000s", what, d)
			}
		}
	}
}

func TestRequestsThatCannotBeServed(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		requests, want string
		code           int
	}{
		{`{"id": "a", "forget": "ids:1,2"}` + "\n" + `{"id": "b", "indices": [7, 2]}`, `line 2: request "b" asks for sample 2 (train/class0/02.png), which request "a" asks for already`, ExitInput},
		{`{"id": "a", "forget": "ids:1"}` + "\n" + `{"id": "a", "forget": "ids:2"}`, `line 2: the id "a" is that of line 1 already`, ExitInput},
		{`{"id": "a"}`, `say what to forget by one of forget, indices and names; it has 0 of them`, ExitInput},
		{`{"id": "a", "indices": []}`, `it has 0 of them`, ExitInput},
		{`{"id": "a", "forget": "ids:1", "names": ["x"]}`, `it has 2 of them`, ExitInput},
		{`{"forget": "ids:1"}`, `it has no id`, ExitInput},
		{`{"id": "a", "forget": "ids:1", "lr": 0.1}`, `unknown field "lr"`, ExitInput},
		{`{"id": "a", "forget": "ids:1", "options": {"lrr": 0.1}}`, `"lrr" is no option of a request; did you mean "lr"? it can have method, and the options of methods`, ExitInput},
		{`{"id": "a", "forget": "ids:1", "options": {"weights": "x.pt"}}`, `"weights" is no option of a request; it can have method`, ExitInput},
		{`{"id": "a", "forget": "ids:1", "options": {"lr": -1}}`, `--lr`, ExitUsage},
		{`{"id": "a", "forget": "ids:99"}`, `line 1: request "a": forget set "ids:99": index 99 is outside`, ExitUsage},
		{`{"id": "a", "names": ["nobody.png"]}`, `no sample of the train split is named "nobody.png"`, ExitInput},
		{`{"id": "a", "names": ["#x"]}`, `name 1, "#x", is no file name`, ExitInput},
		{`{"id": "a", "forget": "ids:1", "targets": [0]}`, `target 0 of sample 1 is its true label`, ExitInput},
		{
			`{"id": "a", "forget": "random:2"}` + "\n" + `{"id": "b", "forget": "class:1:1", "options": {"compat.utk-subset": 9}}`,
			`line 2: request "b": --compat.utk-subset 9: the published code knows no streams`, ExitUsage,
		},
		{`{"id": "a", "forget": "ids:1"} {}`, `more than one JSON value`, ExitInput},
		{`[1]`, `not a request`, ExitInput},
		{"\n\n", `no requests in it`, ExitInput},
	} {
		j := streamOf(t, c.requests)
		out := j.run(t.Context(), dir, nil)
		if out.err == nil || !strings.Contains(out.err.Error(), c.want) || ExitCode(out.err) != c.code {
			t.Errorf("%s: exit code %d, %v", c.requests, ExitCode(out.err), out.err)
		}
		if _, err := os.Stat(j.dir); err == nil {
			t.Errorf("%s: there is a folder", c.requests)
		}
	}
}

func FuzzRequests(f *testing.F) {
	f.Add([]byte(servedRequests))
	f.Add([]byte(`{"id":"a","forget":"random:3","options":{"x":[1,true,"a",null,{}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := parseRequests("requests", text)
		if err != nil {
			return
		}
		for _, r := range list { // what was read is what its canonical form says
			again, err := parseRequests("again", canonical(r))
			if err != nil || again[0].Hash() != r.Hash() {
				t.Fatalf("%s: read again: %v", canonical(r), err)
			}
			for _, v := range r.Options {
				_, _ = flagTexts(v)
			}
		}
	})
}

func FuzzRecord(f *testing.F) {
	first := Entry{Schema: RecordSchema, Position: 1, ID: "a", Folder: requestFolder(1, "a"), Before: &Scores{}, After: &Scores{}}
	f.Add(first.line())
	f.Add(append(first.line(), first.line()...))
	f.Add(first.line()[:100])
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, rest, err := parseRecord("record", text)
		if err != nil {
			return
		}
		// Whatever is taken for a record is one chain: every line but the first names the hash of the one before.
		lines := strings.SplitAfter(strings.TrimSuffix(string(text), string(rest)), "\n")
		for i, e := range entries {
			var said struct{ Previous, Hash string }
			if err := json.Unmarshal([]byte(lines[i]), &said); err != nil {
				t.Fatal(err)
			}
			if said.Hash != e.Hash || i > 0 && said.Previous != entries[i-1].Hash || strings.Contains(e.Folder, "..") && strings.Contains(e.Folder[9:], "/") {
				t.Fatalf("line %d: %+v", i+1, e)
			}
		}
	})
}
