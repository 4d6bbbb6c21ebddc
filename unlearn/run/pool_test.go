package run

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"l2ul/unlearn/data"
	"l2ul/unlearn/run/config"
)

// poolOf copies training images into a pool in which two classes have each other's name, so that the network has all of
// theirs wrong and those of the others right.
func poolOf(t *testing.T, material string) string {
	t.Helper()
	dir := t.TempDir()
	for from, to := range map[string]string{"class0": "class1", "class1": "class0", "class2": "class2"} {
		if err := os.CopyFS(filepath.Join(dir, to), os.DirFS(filepath.Join(material, "images", "train", from))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A correction gives images of a pool their true labels, and says what became of the others. Its scores are those of
// `unlearn eval` of the pool as a dataset of its own.
func TestCorrection(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	outside := poolOf(t, dir)
	j := job{verb: "forget", dir: filepath.Join(t.TempDir(), "run"), flags: flags("goal", "relabel", "pool", outside, "k", "5", "seed", "3",
		"method", "adv-imp", "num-adv", "3", "iters", "2", "lr", "0.01", "max-steps", "300")}
	if out := j.run(t.Context(), dir, nil); out.err != nil {
		t.Fatal(out.err)
	}
	var r Result
	readJSON(t, filepath.Join(j.dir, "result.json"), &r)
	var set data.ForgetSet
	readJSON(t, filepath.Join(j.dir, "forget.json"), &set)

	// class0 and class1 are the first 24 of the pool's images, and wrong; class2 is the rest, and right.
	if r.Pool.Images != 36 || r.Pool.Right.Before.N != 12 || r.Pool.Right.Before.Hits != 12 || r.Pool.Rest.Before.N != 19 || r.Pool.Rest.Before.Hits != 0 {
		t.Errorf("the pool before: %+v %+v", r.Pool.Right.Before, r.Pool.Rest.Before)
	}
	if r.Outcome != "reached" || *r.GoalHits != 5 || r.Before.Forget.Hits != 5 || r.After.Forget.Hits != 0 || r.Before.Retain.N != 48 {
		t.Errorf("%s, %d of 5 corrected, %+v", r.Outcome, *r.GoalHits, r.After)
	}
	for i, n := range set.Indices {
		if class := n / 12; n >= 24 || set.Targets[i] != class || set.Labels[i] != 1-class {
			t.Errorf("sample %d, said to be %s: label %d, target %d", n, set.Names[i], set.Labels[i], set.Targets[i])
		}
	}
	split := job{verb: "split", flags: flags("dataset", "folder", "data-dir", outside, "forget", "random:5", "seed", "3", "output", filepath.Join(t.TempDir(), "f.json"))}
	if err := os.RemoveAll(filepath.Join(outside, "class2")); err != nil { // what is left are the wrong ones
		t.Fatal(err)
	}
	if out := split.run(t.Context(), dir, nil); out.err != nil {
		t.Fatal(out.err)
	}
	var drawn data.ForgetSet
	readJSON(t, split.flags["output"][0], &drawn)
	if !slices.Equal(drawn.Indices, set.Indices) {
		t.Errorf("drawn %v, random:5 of the wrong ones is %v", set.Indices, drawn.Indices)
	}

	outside = poolOf(t, dir)
	class3 := filepath.Join("train", "class3") // without which a dataset does not have the network's classes
	if err := os.CopyFS(filepath.Join(outside, "class3"), os.DirFS(filepath.Join(dir, "images", class3))); err != nil {
		t.Fatal(err)
	}
	hits := func(indices []int) int64 {
		eval := job{verb: "eval", flags: flags("dataset", "folder", "data-dir", outside, "weights", filepath.Join(j.dir, plainModel),
			"forget", idsOf(indices), "splits", "forget", "output", filepath.Join(t.TempDir(), "eval.json"))}
		if out := eval.run(t.Context(), dir, nil); out.err != nil {
			t.Fatal(out.err)
		}
		var e EvalResult
		readJSON(t, eval.flags["output"][0], &e)
		return e.Forget.Hits
	}
	var rest, right []int
	for n := range 36 {
		switch {
		case n >= 24:
			right = append(right, n)
		case !slices.Contains(set.Indices, n):
			rest = append(rest, n)
		}
	}
	if got := hits(set.Indices); got != 5 {
		t.Errorf("eval counts %d of 5 corrected", got)
	}
	if got := hits(rest); got != r.Pool.Rest.After.Hits {
		t.Errorf("%d of the rest right, eval counts %d", r.Pool.Rest.After.Hits, got)
	}
	if got := hits(right); got != r.Pool.Right.After.Hits {
		t.Errorf("%d of those that were right, eval counts %d", r.Pool.Right.After.Hits, got)
	}
	// Once for the choice, then before and after without those to correct.
	if b, a := r.DataAccess.Reads["before"]["pool"], r.DataAccess.Reads["after"]["pool"]; b != 36+31 || a != 31 || r.DataAccess.RetainDuringUnlearning {
		t.Errorf("%d and %d reads of the pool", b, a)
	}
}

func TestCorrectionResumes(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	j := job{verb: "forget", dir: filepath.Join(t.TempDir(), "whole"), flags: flags("goal", "relabel", "pool", poolOf(t, dir), "k", "5",
		"method", "neggrad", "lr", "0.0001", "max-steps", "4", "save-every", "1")}
	os.RemoveAll(filepath.Join(dir, "cache"))
	whole := j.run(t.Context(), dir, nil)
	if ExitCode(whole.err) != ExitNotReached {
		t.Fatal(whole.err)
	}
	want := left(t, j.dir)
	for _, i := range sample(whole.events) {
		interrupt(t, dir, j, i, whole, want)
	}
}

func TestPoolsThatCannotBeUsed(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	outside := poolOf(t, dir)
	strange := poolOf(t, dir)
	if err := os.Rename(filepath.Join(strange, "class2"), filepath.Join(strange, "n01234567")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		flags []string
		want  string
		code  int
	}{
		{[]string{"pool", outside, "k", "5"}, "--pool: its images are to get their true labels, which is --goal relabel", ExitUsage},
		{[]string{"pool", outside, "goal", "relabel"}, "--pool: say with -k N", ExitUsage},
		{[]string{"pool", outside, "goal", "relabel", "forget", "ids:1"}, "--pool: say with -k N", ExitUsage},
		{[]string{"pool", outside, "goal", "relabel", "k", "25"}, `the network has only 24 of the pool's 36 images wrong`, ExitUsage},
		{[]string{"pool", strange, "goal", "relabel", "k", "5"}, `the folder "n01234567" has the name of no class of imagefolder; the classes are class0, class1, class2, class3`, ExitInput},
		{[]string{"pool", filepath.Join(outside, "none"), "goal", "relabel", "k", "5"}, "no such file or directory", ExitInput},
	} {
		j := job{verb: "forget", dir: filepath.Join(t.TempDir(), "run"), flags: flags(append(c.flags, "method", "neggrad")...)}
		out := j.run(t.Context(), dir, nil)
		if out.err == nil || !strings.Contains(out.err.Error(), c.want) || ExitCode(out.err) != c.code {
			t.Errorf("%v: exit code %d, %v", c.flags, ExitCode(out.err), out.err)
		}
	}
}

// What is measured for a plan are training and test images, of which a pool may have fewer.
func TestProbeOfACorrection(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	outside := poolOf(t, dir)
	for _, class := range []string{"class1", "class2"} {
		if err := os.RemoveAll(filepath.Join(outside, class)); err != nil {
			t.Fatal(err)
		}
	}
	catalog, err := Catalog()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := catalog.Resolve("forget", config.Sources{Flags: flags("dataset", "imagefolder", "data-dir", filepath.Join(dir, "images"), "model", "resnet20",
		"threads", "1", "weights", filepath.Join(dir, "trained", "model.safetensors"), "goal", "relabel", "pool", outside, "k", "3", "method", "oracle")})
	if err != nil {
		t.Fatal(err)
	}
	console := NewConsole(TerminalOptions{Quiet: true}, &bytes.Buffer{}, &bytes.Buffer{})
	defer console.Close()
	s, err := Probe(t.Context(), Invocation{Catalog: catalog, Config: cfg, Console: console}, time.Millisecond)
	if err != nil || s.Train != 48 || s.Scored != 3+48+20 {
		t.Errorf("%+v, %v", s, err)
	}
}
