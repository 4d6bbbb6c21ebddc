package cuda_test

import (
	"slices"
	"testing"

	"l2ul/internal/tape"
	"l2ul/torch"
	"l2ul/torch/cuda"
)

func TestLoop(t *testing.T) {
	tapes := &tape.Tape{}
	loop := cuda.NewLoop(func() { tapes.Note("work") })
	never := func(func()) cuda.Recording { return nil }
	for _, c := range []struct {
		record cuda.Recorder
		want   []string
	}{
		{tapes.Record, []string{"work"}}, // the first time by itself
		{never, []string{"work"}},
		{tapes.Record, []string{"capture", "work", "replay"}},
		{never, []string{"work", "replay"}}, // what is recorded stays so
	} {
		tapes.Events = nil
		if loop.Next(c.record); !slices.Equal(tapes.Events, c.want) {
			t.Errorf("%v, want %v", tapes.Events, c.want)
		}
	}
	tapes.Events = nil
	loop.Free()
	loop.Next(tapes.Record) // all that it meets is no longer new
	loop.Free()
	loop.Free()
	if want := []string{"free", "capture", "work", "replay", "free"}; !slices.Equal(tapes.Events, want) || loop.Recorded() {
		t.Errorf("%v, want %v; recorded %t", tapes.Events, want, loop.Recorded())
	}
}

// The first failure is told, and nothing is tried after it.
func TestTrying(t *testing.T) {
	var told []string
	tell := func(why string) { told = append(told, why) }
	if record := cuda.Recorder(nil).Trying(tell); record(func() {}) != nil {
		t.Error("a recorder that is none records")
	}
	tapes, asked := &tape.Tape{}, 0
	record := cuda.Recorder(func(work func()) cuda.Recording {
		if asked++; asked == 2 {
			panic(&torch.Error{Op: "capture", Msg: "no memory"})
		}
		return tapes.Record(work)
	}).Trying(tell)
	first, second, third := record(func() {}), record(func() {}), record(func() {})
	if first == nil || second != nil || third != nil || asked != 2 || !slices.Equal(told, []string{"capture: no memory"}) {
		t.Errorf("%v, %v, %v after %d tries; told %q", first, second, third, asked, told)
	}
}

func TestNoRecorderOnTheCPU(t *testing.T) {
	if cuda.NewRecorder(torch.CPU) != nil {
		t.Error("the CPU has graphs")
	}
}
