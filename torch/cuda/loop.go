package cuda

import "l2ul/torch"

// Loop is work that is done many times on the same tensors: the first time by itself, so that all that it meets for the
// first time is behind it, the second time recorded, and replayed from then on. What the work reads and writes must stay
// where it is: give it new values by copying into its tensors.
type Loop struct {
	work      func()
	done      bool // once by itself
	recording Recording
}

// Recording is work that can be done again by the device alone: a [Graph], or in tests what stands in for one.
type Recording interface {
	Replay()
	Free()
}

// Recorder records work without doing it, or returns nil where that is not possible.
type Recorder func(work func()) Recording

// NewRecorder returns what captures the work of a job on a device into graphs, which share their memory: nothing that one
// makes may be needed once another is replayed. Where there are no graphs, it is nil.
func NewRecorder(dev torch.Device) Recorder {
	if dev.Type != torch.CUDAType {
		return nil
	}
	var last *Graph
	return func(work func()) Recording {
		last = Capture(dev, last, work)
		return last
	}
}

// Trying returns a recorder like r that gives up at the first failure, after which it says why and records no more. Of a nil r
// it is one that never records.
func (r Recorder) Trying(failed func(why string)) Recorder {
	return func(work func()) (recording Recording) {
		if r == nil {
			return nil
		}
		if err := torch.Try(func() { recording = r(work) }); err != nil {
			r = nil
			failed(err.Error())
		}
		return recording
	}
}

// NewLoop returns the work as a loop. The caller frees it.
func NewLoop(work func()) *Loop { return &Loop{work: work} }

// Next does the work once. On a device it may only have been queued when Next returns.
func (l *Loop) Next(record Recorder) {
	if l.recording == nil && l.done {
		l.recording = record(l.work)
	}
	if l.recording != nil {
		l.recording.Replay()
		return
	}
	l.work()
	l.done = true
}

// Recorded reports whether the next Next replays.
func (l *Loop) Recorded() bool { return l.recording != nil }

// Free gives the recording back. Another Next records anew.
func (l *Loop) Free() {
	if l.recording != nil {
		l.recording.Free()
		l.recording = nil
	}
}
