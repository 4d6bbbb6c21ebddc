package analysis

import (
	"math"
	"testing"

	"l2ul/torch"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
)

func TestPrincipal(t *testing.T) {
	scoped(t, func() {
		places, explained, err := principal(matrix(golden(t, "pca.rows")))
		if err != nil {
			t.Fatal(err)
		}
		want := matrix(golden(t, "pca.places"))
		for i := range want {
			near(t, "component 1", places[i][0], want[i][0], 1e-9)
			near(t, "component 2", places[i][1], want[i][1], 1e-9)
		}
		for i, e := range numbers(t, "pca.explained") {
			near(t, "explained", explained[i], e, 1e-9)
		}
	})
	if _, _, err := principal([][]float64{{1, 2}, {math.NaN(), 2}}); err == nil {
		t.Error("features that are no numbers have components")
	}
	if places, explained, err := principal([][]float64{{1, 2}, {1, 2}, {1, 2}}); err != nil || explained != [2]float64{} || places[2] != [2]float64{} {
		t.Errorf("equal features: %v, %v, %v", places, explained, err)
	}
}

// The maps hold every image that was asked for, once, under its kind, and what was read of D_r counts as read after.
func TestEmbedding(t *testing.T) {
	scoped(t, func() {
		net := network(t, 0)
		s := subject(t, net, net)
		s.Examples = &attack.Set{X: torch.Rand([]int64{2, 3, 32, 32}, false), Done: 2, Pairs: []attack.Pair{{Source: 2, Target: 5}, {Source: 1, Target: 6}}}
		e := run(t, "embedding", s).Data.(*Embedding)
		kinds := map[string]int{}
		for _, p := range e.Points {
			kinds[p.Kind]++
			if p.Before != p.After {
				t.Errorf("%s %d of equal networks is at %v and %v", p.Kind, p.Index, p.Before, p.After)
			}
		}
		if kinds["forget"] != 3 || kinds["retain"] != 3 || kinds["test"] != 3 || kinds["adversarial"] != 2 || e.Points[9].Index != 1 || e.Points[9].Class != 5 {
			t.Errorf("%v, %+v", kinds, e.Points[9])
		}
		if reads := s.Meter.Reads()[data.PhaseAfter]; reads[data.PartForget] != 3 || reads[data.PartRetain] != 3 || reads[data.PartTest] != 3 {
			t.Errorf("reads: %v", reads)
		}
	})
}
