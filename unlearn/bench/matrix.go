package bench

import (
	"slices"
	"strconv"
)

// combinations lists what the matrix makes of its axes, the last axis changing fastest, with the meaning of exclude and
// include that GitHub Actions documents ("Running variations of jobs in a workflow"): a combination is excluded where it has
// all values of an entry; then each entry of include is added to every combination whose values of the matrix it would leave
// as they are, and becomes one more of its own where there is none.
func (g *Grid) combinations() []Settings {
	made := []Settings{nil}
	if len(g.Matrix) == 0 {
		made = nil
	}
	for _, a := range g.Matrix {
		var longer []Settings
		for _, c := range made {
			for _, v := range a.Values {
				longer = append(longer, append(slices.Clone(c), Setting{a.Key, []string{v}}))
			}
		}
		made = longer
	}
	made = slices.DeleteFunc(made, func(c Settings) bool {
		return slices.ContainsFunc(g.Exclude, func(e Settings) bool { return agree(c, e) })
	})
	original := slices.Clone(made)
	var alone []Settings
	for _, e := range g.Include {
		added := false
		for i := range made {
			if agree(original[i], e) {
				added = true
				for _, s := range e {
					made[i] = made[i].With(s.Key, s.Texts...)
				}
			}
		}
		if !added {
			alone = append(alone, e)
		}
	}
	return append(made, alone...)
}

// agree reports whether a combination has the values of an entry, for the keys that both have.
func agree(combination, entry Settings) bool {
	for _, s := range entry {
		if texts, ok := combination.Get(s.Key); ok && !slices.EqualFunc(texts, s.Texts, same) {
			return false
		}
	}
	return true
}

// same reports whether two texts are one value: 1e-3 is 0.001.
func same(a, b string) bool {
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	return a == b || errX == nil && errY == nil && x == y
}
