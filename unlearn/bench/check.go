package bench

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"l2ul/unlearn"
	"l2ul/unlearn/results"
	"l2ul/unlearn/run"
)

// Check is a claim about the results of a grid, of one kind: the field that is set. Accuracies are fractions.
type Check struct {
	Reached       bool       `yaml:"reached" json:"reached,omitempty"`               // every run met its goal
	Order         string     `yaml:"order" json:"order,omitempty"`                   // "adv-imp > adv": of methods, by mean accuracy on D_r and on D_test
	FallsWith     string     `yaml:"falls-with" json:"falls-with,omitempty"`         // a key: as its value grows, both accuracies fall
	AttackSuccess float64    `yaml:"attack-success" json:"attack-success,omitempty"` // at least
	NoRetainReads bool       `yaml:"no-retain-reads" json:"no-retain-reads,omitempty"`
	Reference     *Reference `yaml:"reference" json:"reference,omitempty"`

	Often  bool     `yaml:"often" json:"often,omitempty"` // an order that is claimed for more than half of its comparisons alone
	Where  Settings `yaml:"where" json:"where,omitempty"` // labels that cells must have; all cells without
	Source string   `yaml:"source" json:"source,omitempty"`

	Says    string   `yaml:"-" json:"claim,omitempty"` // the check as a sentence, for readers of grid.json
	Outcome Verdict  `yaml:"-" json:"outcome,omitempty"`
	Detail  []string `yaml:"-" json:"detail,omitempty"` // the numbers that decided it
}

// Reference is a published number.
type Reference struct {
	Of         string  `yaml:"of" json:"of"`               // forget, retain or test: the accuracy on it afterwards
	Value      float64 `yaml:"value" json:"value"`         // mean over seeds
	Tolerance  float64 `yaml:"tolerance" json:"tolerance"` // either way
	SecondHand bool    `yaml:"second-hand" json:"second_hand,omitempty"`
}

// Verdict is what came of a check.
type Verdict string

// The verdicts.
const (
	Held    Verdict = "held"
	Broken  Verdict = "did not hold"
	Unknown Verdict = "unknown" // cells that it needs have no result
)

func (c *Check) validate() error {
	kinds := 0
	for _, set := range []bool{c.Reached, c.Order != "", c.FallsWith != "", c.AttackSuccess != 0, c.NoRetainReads, c.Reference != nil} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return errors.New("each is of one kind: reached, order, falls-with, attack-success, no-retain-reads or reference")
	case c.Order != "" && len(c.ranks()) < 2:
		return fmt.Errorf("order %q: write as in adv-imp > adv", c.Order)
	case c.Often && c.Order == "":
		return errors.New("often: only an order may hold often")
	case c.Reference != nil && references[c.Reference.Of].of == nil:
		return fmt.Errorf("reference: of %q; write forget, retain or test", c.Reference.Of)
	case c.AttackSuccess != 0 && !(c.AttackSuccess > 0 && c.AttackSuccess <= 1):
		return fmt.Errorf("attack-success %g: write a fraction up to 1", c.AttackSuccess)
	case c.Reference != nil && !(c.Reference.Value >= 0 && c.Reference.Value <= 1 && c.Reference.Tolerance >= 0 && c.Reference.Tolerance <= 1):
		return fmt.Errorf("reference: %g ± %g; accuracies are fractions up to 1", c.Reference.Value, c.Reference.Tolerance)
	case c.Reference != nil && c.Source == "":
		return errors.New("reference: name the source of the number")
	}
	return nil
}

func (c *Check) ranks() (names []string) {
	for name := range strings.SplitSeq(c.Order, ">") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Claim is the check as a sentence.
func (c *Check) Claim() string {
	var text string
	switch {
	case c.Reached:
		text = "every run reaches its goal"
	case c.Order != "":
		text = c.Order + " on D_r and D_test"
		if c.Often {
			text += ", more often than not"
		}
	case c.FallsWith != "":
		text = "accuracy on D_r and D_test falls as " + c.FallsWith + " grows"
	case c.AttackSuccess != 0:
		text = fmt.Sprintf("attack success >= %g", c.AttackSuccess)
	case c.NoRetainReads:
		text = "no image of D_r is read while unlearning"
	case c.Reference != nil:
		text = fmt.Sprintf("%s %g ± %g", references[c.Reference.Of].symbol, c.Reference.Value, c.Reference.Tolerance)
		if c.Reference.SecondHand {
			text += " (second-hand)"
		}
	}
	if len(c.Where) > 0 {
		text += "; " + c.Where.String()
	}
	return text
}

// decide compares the claim with the cells. A claim is about all of them, so that one counterexample decides it, whatever is
// missing; and what is missing keeps it from being held. Means are compared once all their runs are there.
func (c *Check) decide(cells []cell) {
	cells = slices.DeleteFunc(slices.Clone(cells), func(x cell) bool {
		return slices.ContainsFunc(c.Where, func(s Setting) bool {
			return !slices.ContainsFunc(s.Texts, func(t string) bool { return same(t, string(x.Labels[s.Key])) })
		})
	})
	c.Says, c.Outcome, c.Detail = c.Claim(), Held, nil
	if len(cells) == 0 {
		c.Outcome, c.Detail = Unknown, []string{"no cell of the grid is meant"}
		return
	}
	missing := 0
	for _, x := range cells {
		if x.result == nil {
			missing++
		}
	}
	none := "" // why nothing could be compared
	switch {
	case c.Reached:
		c.reached(cells)
	case c.Order != "":
		none = c.order(cells)
	case c.FallsWith != "":
		none = c.fallsWith(cells)
	case c.AttackSuccess != 0:
		none = "no cell has an attack"
		for _, g := range complete(grouped(cells, "seed")) {
			if g.AttackSuccess.N > 0 {
				none = ""
				c.note(float64(g.AttackSuccess.Mean) >= c.AttackSuccess, "%s: %s", labelText(g.Labels), g.AttackSuccess)
			}
		}
	case c.NoRetainReads:
		c.noRetainReads(cells)
	case c.Reference != nil:
		none = "no cell has that accuracy"
		for _, g := range complete(grouped(cells, "seed")) {
			s := references[c.Reference.Of].of(&g)
			if s.N == 0 {
				continue
			}
			none = ""
			c.note(math.Abs(float64(s.Mean)-c.Reference.Value) <= c.Reference.Tolerance, "%s: %s", labelText(g.Labels), s)
		}
	}
	switch {
	case missing > 0:
		if c.Outcome == Held || c.Often {
			c.Outcome = Unknown
		}
		c.Detail = append(c.Detail, fmt.Sprintf("%d of %s have no result", missing, run.Counted(len(cells), "cell")))
	case none != "":
		c.Outcome, c.Detail = Unknown, []string{none}
	}
}

// complete are the groups whose runs are all there.
func complete(groups []Group) []Group {
	return slices.DeleteFunc(groups, func(g Group) bool { return g.N < g.Cells })
}

// note adds a comparison and whether it held.
func (c *Check) note(held bool, format string, args ...any) {
	mark := "yes"
	if !held {
		mark, c.Outcome = "NO ", Broken
	}
	c.Detail = append(c.Detail, mark+"  "+fmt.Sprintf(format, args...))
}

func (c *Check) reached(cells []cell) {
	done := 0
	for _, x := range cells {
		if x.result == nil {
			continue
		}
		done++
		if o := x.result.Outcome; o != unlearn.Reached && o != unlearn.Already {
			c.note(false, "%s: %s", labelText(x.Labels), Outcome(x.result))
		}
	}
	if c.Detail == nil && done > 0 {
		c.note(true, "%s", run.Counted(done, "run"))
	}
}

func (c *Check) noRetainReads(cells []cell) {
	done := 0
	for _, g := range grouped(cells, "seed") {
		done += g.N
		if g.RetainReads > 0 {
			c.note(false, "%s: %d of %s read it", labelText(g.Labels), g.RetainReads, run.Counted(g.N, "run"))
		}
	}
	if c.Detail == nil && done > 0 {
		c.note(true, "%s", run.Counted(done, "run"))
	}
}

// accuracy is one of the three that groups have.
type accuracy struct {
	symbol string
	of     func(*Group) Stat
}

// references are the accuracies that may have a published number.
var references = map[string]accuracy{
	"forget": {"D_f", func(g *Group) Stat { return g.After.Forget }},
	"retain": {"D_r", func(g *Group) Stat { return g.After.Retain }},
	"test":   {"D_test", func(g *Group) Stat { return g.After.Test }},
}

// kept are those that orders are about.
var kept = []accuracy{references["retain"], references["test"]}

// order compares methods wherever all else but the seed is the same, and says why it could compare nothing. What only some of them
// have is not compared.
func (c *Check) order(cells []cell) (none string) {
	ranks := c.ranks()
	compared, held := 0, 0
	groups := grouped(cells, "seed")
	for _, rest := range grouped(cells, "seed", "method") {
		var line []Group
		for _, name := range ranks {
			for _, g := range groups {
				if string(g.Labels["method"]) == name && labelText(rest.Labels) == labelText(without(g.Labels, "method")) {
					line = append(line, g)
				}
			}
		}
		if len(line) < len(ranks) {
			continue
		}
		for _, k := range kept {
			if falls, ok := c.descends(rest.Labels, k.symbol, line, k.of, func(g *Group) string { return string(g.Labels["method"]) }); ok {
				compared++
				if falls {
					held++
				}
			}
		}
	}
	if c.Often && 2*held > compared {
		c.Outcome = Held
	}
	if compared == 0 {
		return "nothing in the grid is the same for all of them"
	}
	return ""
}

// descends notes whether an accuracy becomes less and less along the complete groups of a line; ok is false where fewer than two of them are.
func (c *Check) descends(of map[string]results.Label, symbol string, line []Group, accuracy func(*Group) Stat, name func(*Group) string) (falls, ok bool) {
	falls = true
	before := math.Inf(1)
	var texts []string
	for _, g := range complete(slices.Clone(line)) {
		s := accuracy(&g)
		if s.N == 0 { // nothing was left to retain
			continue
		}
		texts = append(texts, name(&g)+" "+s.String())
		falls = falls && float64(s.Mean) < before
		before = float64(s.Mean)
	}
	if len(texts) < 2 {
		return false, false
	}
	c.note(falls, "%s", strings.TrimSpace(fmt.Sprintf("%s %s: %s", labelText(of), symbol, strings.Join(texts, ", "))))
	return falls, true
}

func without(labels map[string]results.Label, key string) map[string]results.Label {
	rest := maps.Clone(labels)
	delete(rest, key)
	return rest
}

// fallsWith follows a key through its values in ascending order, and says why it could compare nothing.
func (c *Check) fallsWith(cells []cell) (none string) {
	key := c.FallsWith
	none = "the grid has fewer than two values of " + key
	groups := grouped(cells, "seed")
	for _, rest := range grouped(cells, "seed", key) {
		var line []Group
		for _, g := range groups {
			if _, ok := g.Labels[key]; ok && labelText(without(g.Labels, key)) == labelText(rest.Labels) {
				line = append(line, g)
			}
		}
		slices.SortStableFunc(line, func(a, b Group) int { return cmp.Compare(number(a.Labels[key]), number(b.Labels[key])) })
		for _, k := range kept {
			if _, ok := c.descends(rest.Labels, k.symbol, line, k.of, func(g *Group) string { return key + "=" + string(g.Labels[key]) }); ok {
				none = ""
			}
		}
	}
	return none
}

// number reads a label as a number; what is none comes last.
func number(l results.Label) float64 {
	x, err := strconv.ParseFloat(string(l), 64)
	if err != nil {
		return math.Inf(1)
	}
	return x
}

// String is the mean with the standard deviation, which is said: in tables ± is half of an interval.
func (s Stat) String() string {
	if s.N < 2 {
		return fmt.Sprintf("%.4f", float64(s.Mean))
	}
	return fmt.Sprintf("%.4f (sd %.4f)", float64(s.Mean), float64(s.SD))
}

// Outside is the error of a grid whose results are not what was claimed.
type Outside struct{ Broken, Of int }

func (e *Outside) Error() string {
	return fmt.Sprintf("%d of %s did not hold", e.Broken, run.Counted(e.Of, "check"))
}

// ExitCode is that of results outside the tolerance.
func (*Outside) ExitCode() int { return run.ExitOutside }

// Decide decides the checks of a grid's folder and writes what came of them into its grid.json.
func Decide(dir string) (checks []Check, err error) {
	if _, err := results.OpenGrid(dir); err != nil {
		return nil, run.Inputf("%w", err)
	}
	err = alone(dir, func() error {
		g, cells, err := open(dir)
		if err != nil || len(g.Checks) == 0 {
			return err
		}
		checks = make([]Check, len(g.Checks))
		for i := range checks {
			c := &checks[i]
			if err := errors.Join(json.Unmarshal(g.Checks[i], c), c.validate()); err != nil {
				return run.Inputf("%s: check %d: %w", filepath.Join(dir, indexName), i+1, err)
			}
			c.decide(cells)
			g.Checks[i] = marshal(c)
		}
		return run.WriteJSON(filepath.Join(dir, indexName), g)
	})
	return checks, err
}

// Count is how many checks came to an outcome.
func Count(checks []Check, outcome Verdict) (n int) {
	for _, c := range checks {
		if c.Outcome == outcome {
			n++
		}
	}
	return n
}

// Verify is Decide with an error that tells what came of the checks: an *Outside where one did not hold, and an input error where
// results are missing.
func Verify(dir string) ([]Check, error) {
	checks, err := Decide(dir)
	switch {
	case err != nil:
		return nil, err
	case len(checks) == 0:
		return nil, run.Usagef("%s: the grid has no checks", dir)
	}
	if broken := Count(checks, Broken); broken > 0 {
		return checks, &Outside{broken, len(checks)}
	}
	if unknown := Count(checks, Unknown); unknown > 0 {
		return checks, run.Inputf("%d of %s cannot be decided yet", unknown, run.Counted(len(checks), "check"))
	}
	return checks, nil
}

// MarshalJSON writes the settings as an object of lists.
func (s Settings) MarshalJSON() ([]byte, error) {
	all := map[string][]string{}
	for _, p := range s {
		all[p.Key] = p.Texts
	}
	return json.Marshal(all)
}

// UnmarshalJSON reads them back, sorted by key.
func (s *Settings) UnmarshalJSON(data []byte) error {
	var all map[string][]string
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	*s = nil
	for key, texts := range all {
		*s = append(*s, Setting{key, texts})
	}
	slices.SortFunc(*s, func(a, b Setting) int { return strings.Compare(a.Key, b.Key) })
	return nil
}
