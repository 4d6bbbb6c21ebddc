package results

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"sync"

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

// Decides says whether a key of a verb's configuration can change a result. One that this program does not know may.
func Decides(verb, key string) bool {
	keys, _ := idle()
	return !keys[verb][key]
}

// idle are, by verb, the keys that cannot change a result.
var idle = sync.OnceValues(func() (map[string]map[string]bool, error) {
	catalog, err := run.Catalog()
	if err != nil {
		return nil, err
	}
	idle := map[string]map[string]bool{}
	for _, spec := range catalog {
		idle[spec.Verb] = map[string]bool{}
		for _, f := range spec.Fields() {
			if !f.Result {
				idle[spec.Verb][f.Name] = true
			}
		}
	}
	return idle, nil
})

// OwnNetworks tells of each run whether its network belongs to its seed, as where an experiment is repeated with networks that were
// trained apart: among the runs on the same data with the same kind of network there are two networks or more, as many as
// seeds, and each seed always has the same one.
func OwnNetworks(runs []*Run) map[*Run]bool {
	type kind struct{ model, dataset, data string }
	type side struct {
		kind
		of string
	}
	weights, seeds, count, mixed := map[side]string{}, map[side]string{}, map[kind]int{}, map[kind]bool{}
	kindOf := func(r *Run) kind { return kind{r.Forget.Model, r.Forget.Dataset, r.Forget.Hashes.Data} }
	for _, r := range runs {
		if r.Forget == nil {
			continue
		}
		k, seed, w := kindOf(r), strconv.FormatInt(r.Seed(), 10), r.Forget.Hashes.Weights
		bySeed, byWeights := side{k, seed}, side{k, w}
		if known, ok := weights[bySeed]; ok && known != w {
			mixed[k] = true
		}
		if known, ok := seeds[byWeights]; !ok {
			count[k]++
		} else if known != seed {
			mixed[k] = true
		}
		weights[bySeed], seeds[byWeights] = w, seed
	}
	own := map[*Run]bool{}
	for _, r := range runs {
		if r.Forget != nil {
			own[r] = count[kindOf(r)] > 1 && !mixed[kindOf(r)]
		}
	}
	return own
}

// Repeats puts runs together that are the same but for the seed, and for the network that belongs to it: the settings that can
// change a result, and the weights and data that they began with.
func Repeats(runs []*Run) ([]Group, error) {
	if _, err := idle(); err != nil {
		return nil, err
	}
	own := OwnNetworks(runs)
	return group(runs, func(r *Run) []string {
		same := []string{r.Verb}
		for _, s := range r.Settings {
			if Decides(r.Verb, s.Key) && s.Key != "seed" {
				same = append(same, s.Key+"="+s.Value)
			}
		}
		slices.Sort(same[1:])
		if r.Forget != nil {
			weights := r.Forget.Hashes.Weights
			if own[r] {
				weights = "of the seed"
			}
			same = append(same, weights, r.Forget.Hashes.Data, r.Requests())
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
