package results

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"l2ul/unlearn/run"
)

// Group is runs that repeat each other.
type Group struct {
	Values []string // of the keys that they were grouped by
	Runs   []*Run   // in ascending order of their seeds
}

// GroupBy puts runs together whose values of keys are the same, in the order in which each first comes. A key is one of
// config.yaml, or k.
func GroupBy(runs []*Run, keys ...string) []Group {
	return group(runs, func(r *Run) []string {
		values := make([]string, len(keys))
		for i, key := range keys {
			values[i] = r.Value(key)
		}
		return values
	})
}

// Value returns the value of a key of config.yaml, or of k, the number of images to forget.
func (r *Run) Value(key string) string {
	if key == "k" {
		return strconv.Itoa(r.K())
	}
	return r.Setting(key)
}

// Repeats puts runs together that are the same but for the seed: the settings that can change a result, and the weights and
// data that they began with.
func Repeats(runs []*Run) ([]Group, error) {
	catalog, err := run.Catalog()
	if err != nil {
		return nil, err
	}
	idle := map[string]map[string]bool{} // by verb, the keys that cannot change a result
	for _, spec := range catalog {
		idle[spec.Verb] = map[string]bool{"seed": true}
		for _, f := range spec.Fields() {
			if !f.Result {
				idle[spec.Verb][f.Name] = true
			}
		}
	}
	return group(runs, func(r *Run) []string {
		same := []string{r.Verb}
		for _, s := range r.Settings {
			if !idle[r.Verb][s.Key] {
				same = append(same, s.Key+"="+s.Value)
			}
		}
		slices.Sort(same[1:])
		if r.Forget != nil {
			same = append(same, r.Forget.Hashes.Weights, r.Forget.Hashes.Data)
		} else { // which has no hashes yet
			same = append(same, r.Setting("weights"), r.Setting("data-dir"))
		}
		return same
	}), nil
}

func group(runs []*Run, values func(*Run) []string) (groups []Group) {
	place := map[string]int{}
	for _, r := range runs {
		v := values(r)
		id := ""
		for _, s := range v {
			id += strconv.Quote(s)
		}
		at, ok := place[id]
		if !ok {
			at = len(groups)
			place[id] = at
			groups = append(groups, Group{Values: v})
		}
		groups[at].Runs = append(groups[at].Runs, r)
	}
	for _, g := range groups {
		slices.SortStableFunc(g.Runs, func(a, b *Run) int {
			return cmp.Or(cmp.Compare(a.Seed(), b.Seed()), strings.Compare(a.Path, b.Path))
		})
	}
	return groups
}
