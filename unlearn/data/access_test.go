package data

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMeterRefusesRetain(t *testing.T) {
	m := NewMeter(ForgetOnly, nil)
	for _, phase := range []Phase{PhaseBefore, PhaseAfter} {
		m.Enter(phase)
		if err := m.Read(PartRetain, 3); err != nil {
			t.Errorf("measuring in phase %s: %v", phase, err)
		}
	}
	for _, phase := range []Phase{PhaseAttack, PhaseImportance, PhaseUnlearn, PhaseStopCheck} {
		m.Enter(phase)
		if err := m.Read(PartForget, 2); err != nil {
			t.Errorf("forget set in phase %s: %v", phase, err)
		}
		for _, part := range []Part{PartRetain, PartVal, PartTest} {
			var denied *AccessError
			if err := m.Read(part, 7); !errors.As(err, &denied) || denied.Part != part || denied.Phase != phase || denied.N != 7 {
				t.Errorf("reading %s in phase %s: got error %v, want *AccessError", part, phase, err)
			} else if !strings.Contains(err.Error(), string(part)) {
				t.Errorf("message does not name the part: %v", err)
			}
		}
	}
	want := Reads{
		PhaseBefore:     {PartForget: 0, PartRetain: 3, PartVal: 0, PartTest: 0},
		PhaseAttack:     {PartForget: 2, PartRetain: 0, PartVal: 0, PartTest: 0},
		PhaseImportance: {PartForget: 2, PartRetain: 0, PartVal: 0, PartTest: 0},
		PhaseUnlearn:    {PartForget: 2, PartRetain: 0, PartVal: 0, PartTest: 0},
		PhaseStopCheck:  {PartForget: 2, PartRetain: 0, PartVal: 0, PartTest: 0},
		PhaseAfter:      {PartForget: 0, PartRetain: 3, PartVal: 0, PartTest: 0},
	}
	if diff := cmp.Diff(want, m.Reads()); diff != "" {
		t.Errorf("refused reads must not count (-want +got):\n%s", diff)
	}
}

func TestMeterWithRetain(t *testing.T) {
	m := NewMeter(WithRetain, nil)
	m.Enter(PhaseUnlearn)
	if err := m.Read(PartRetain, 1); err != nil {
		t.Error(err)
	}
	if m.Read(PartTest, 1) == nil {
		t.Error("the test set was readable while unlearning")
	}
}

func TestMeterPhases(t *testing.T) {
	m := NewMeter(ForgetOnly, Reads{PhaseUnlearn: {PartForget: 10}})
	m.Enter(PhaseUnlearn)
	back := m.Enter(PhaseStopCheck)
	if back != PhaseUnlearn {
		t.Fatalf("Enter returned %q, want the phase left", back)
	}
	m.Enter(back)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				_ = m.Read(PartForget, 1)
				_ = m.Reads()
			}
		})
	}
	wg.Wait()
	if got := m.Reads()[PhaseUnlearn][PartForget]; got != 810 {
		t.Errorf("%d reads, want 10 earlier ones + 800", got)
	}
}

func TestNilMeter(t *testing.T) {
	var m *Meter
	m.Enter(PhaseUnlearn)
	if err := m.Read(PartRetain, 1); err != nil || len(m.Reads()) != 0 {
		t.Errorf("nil meter: error %v, reads %v", err, m.Reads())
	}
}
