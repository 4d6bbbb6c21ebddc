package data

import (
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Phase is a stretch of a forgetting run (spec/l2ul.md section 1).
type Phase string

// The phases in their order. Before and after everything may be read, to measure; in between only what the regime
// allows.
const (
	PhaseBefore     Phase = "before"
	PhaseAttack     Phase = "attack"
	PhaseImportance Phase = "importance"
	PhaseUnlearn    Phase = "unlearn"
	PhaseStopCheck  Phase = "stop-check"
	PhaseAfter      Phase = "after"
)

// Part is the role samples play in a run.
type Part string

// The forget set, the rest of the training set, and the held-out splits. Counts of the last two appear only where they were
// read: in a stream of requests what earlier ones were about, and in a correction the pool that its images are from.
const (
	PartForget  Part = "forget"
	PartRetain  Part = "retain"
	PartVal     Part = "val"
	PartTest    Part = "test"
	PartEarlier Part = "earlier"
	PartPool    Part = "pool"
)

// Regime is what a method may read between the phases before and after.
type Regime []Part

// The regimes: L2UL and its ablations work from the forget set alone; fine-tuning and retraining read the retain set.
var (
	ForgetOnly = Regime{PartForget}
	WithRetain = Regime{PartForget, PartRetain}
)

// Reads counts samples handed out, by phase and part. A sample read twice counts twice.
type Reads map[Phase]map[Part]int64

// Meter counts the samples that views hand out and refuses those outside the regime, so that a result can prove what
// its method saw. It starts in PhaseBefore and is safe for concurrent use. A nil *Meter counts and refuses nothing.
type Meter struct {
	mu     sync.Mutex
	regime Regime
	phase  Phase
	reads  Reads
}

// NewMeter returns a meter that enforces the regime. Earlier reads, of a run that is resumed, are added up; nil for a
// new run.
func NewMeter(regime Regime, earlier Reads) *Meter {
	m := &Meter{regime: slices.Clone(regime), phase: PhaseBefore, reads: Reads{}}
	for _, phase := range []Phase{PhaseBefore, PhaseAttack, PhaseImportance, PhaseUnlearn, PhaseStopCheck, PhaseAfter} {
		m.reads[phase] = map[Part]int64{PartForget: 0, PartRetain: 0, PartVal: 0, PartTest: 0}
		maps.Copy(m.reads[phase], earlier[phase])
	}
	return m
}

// Enter begins one of the phases above and returns the one that was left, so that a stop check can go back to the loop
// it interrupts.
func (m *Meter) Enter(phase Phase) (left Phase) {
	if m == nil {
		return phase
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	left, m.phase = m.phase, phase
	return left
}

// Read accounts for n samples of a part. It fails with *AccessError, and counts nothing, where the regime forbids the
// read.
func (m *Meter) Read(part Part, n int) error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.phase != PhaseBefore && m.phase != PhaseAfter && !slices.Contains(m.regime, part) {
		return &AccessError{Phase: m.phase, Part: part, N: n, Regime: m.regime}
	}
	m.reads[m.phase][part] += int64(n)
	return nil
}

// Reads returns a copy of the counts so far, zeros included: a result shows what was not read.
func (m *Meter) Reads() Reads {
	if m == nil {
		return Reads{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(Reads, len(m.reads))
	for phase, parts := range m.reads {
		out[phase] = maps.Clone(parts)
	}
	return out
}

// AccessError is a read that the method's regime forbids: a mistake in the method, not in its input.
type AccessError struct {
	Phase  Phase
	Part   Part
	N      int // samples asked for
	Regime Regime
}

func (e *AccessError) Error() string {
	return fmt.Sprintf("%d samples of the %s set asked for in phase %q, where this method may read only %q",
		e.N, e.Part, e.Phase, []Part(e.Regime))
}
