package analysis

import (
	"context"
	"fmt"
	"math"
	"slices"

	"l2ul/unlearn/data"
)

func init() {
	register(&Analysis{
		Name: "labels", Summary: "which labels forgotten images get, and whether there is a pattern in them",
		Source: "Cha et al. 2024; spec/l2ul.md section 8", Reads: "the images to forget, and the targets of the attack",
		Run: runLabels,
	})
}

// Labels is the data of the analysis labels. Entropies are in bits. What is expected is for labels that are drawn, for each image,
// evenly from the other classes.
type Labels struct {
	Classes []string   `json:"classes"`
	Rows    []LabelRow `json:"rows"`
	Counts  [][3]int   `json:"counts"` // label, prediction after, images; what is not listed is 0

	Distinct         int     `json:"distinct"` // labels given after
	ExpectedDistinct float64 `json:"expected_distinct"`
	Entropy          float64 `json:"entropy_bits"` // of the labels given after
	ExpectedEntropy  float64 `json:"expected_entropy_bits"`
	LargestShare     float64 `json:"largest_share"` // of images that got the most frequent label
	RunnerUp         float64 `json:"runner_up_share"`
	ExpectedRunnerUp float64 `json:"expected_runner_up_share"`

	Target         *float64 `json:"target_share"` // of images whose label was a target of their attack; null without attack
	ExpectedTarget *float64 `json:"expected_target_share"`
}

// LabelRow is one image to forget.
type LabelRow struct {
	Index             int     `json:"index"` // in the training set or, of a correction, in its pool
	Label             int     `json:"label"`
	Before            int     `json:"before"` // prediction
	BeforeProbability float64 `json:"before_probability"`
	RunnerUp          int     `json:"runner_up"` // the second best class before
	After             int     `json:"after"`
	AfterProbability  float64 `json:"after_probability"`
}

func runLabels(ctx context.Context, s *Subject) (*Finding, error) {
	if len(s.Classes) < 2 {
		return nil, fmt.Errorf("labels: %s is the only class, so there is no other label to get", s.Classes[0])
	}
	x, err := s.images(data.PartForget, s.Forget.Indices)
	if err != nil {
		return nil, err
	}
	before, err := s.logits(ctx, s.Before, x)
	if err != nil {
		return nil, err
	}
	after, err := s.logits(ctx, s.After, x)
	if err != nil {
		return nil, err
	}
	rows := make([]LabelRow, len(before))
	for i := range rows {
		r := &rows[i]
		r.Index, r.Label = s.Forget.Indices[i], s.Forget.Labels[i]
		r.Before, r.RunnerUp = best(before[i])
		r.After, _ = best(after[i])
		r.BeforeProbability, r.AfterProbability = softmax(before[i])[r.Before], softmax(after[i])[r.After]
	}
	targets := make([]map[int]bool, len(rows))
	if s.Examples != nil {
		for _, p := range s.Examples.Pairs {
			if targets[p.Source] == nil {
				targets[p.Source] = map[int]bool{}
			}
			targets[p.Source][p.Target] = true
		}
	} else {
		targets = nil
	}
	found := countLabels(rows, s.Classes, targets)
	title := "Label of each image to forget, before and after"
	var used, given []int // classes that occur as labels, as predictions
	for _, c := range found.Counts {
		used, given = append(used, c[0]), append(given, c[1])
	}
	used, given = most(used), most(given)
	counts := make([][]int, len(used))
	for i := range counts {
		counts[i] = make([]int, len(given))
	}
	for _, c := range found.Counts {
		i, j := slices.Index(used, c[0]), slices.Index(given, c[1])
		if i >= 0 && j >= 0 {
			counts[i][j] = c[2]
		}
	}
	names := func(classes []int) (out []string) {
		for _, c := range classes {
			out = append(out, s.Classes[c])
		}
		return out
	}
	picture, err := matrixPicture("Predictions for the images to forget", "label", "prediction after", names(used), names(given), counts)
	if err != nil {
		return nil, err
	}
	picture.Name = "labels"
	picture.Alt = fmt.Sprintf("%d images got %d different labels; the most frequent has %s of them. Entropy %.2f bits, %.2f expected of even draws",
		len(rows), found.Distinct, percent(found.LargestShare), found.Entropy, found.ExpectedEntropy)
	return &Finding{
		Title: title, Alt: picture.Alt, Pictures: []Picture{picture}, Data: found,
		Reading: "No pattern is expected: an entropy near the expected one, and shares of runner-up and targets near the expected ones, are what labels drawn evenly " +
			"from the other classes would give for as many images. A much lower entropy means that forgotten images are sent to a few classes.",
	}, nil
}

// mostClasses is how many a heat map has room for.
const mostClasses = 40

// most are the distinct classes of a list in order, and the most frequent of too many.
func most(classes []int) []int {
	times := map[int]int{}
	for _, c := range classes {
		times[c]++
	}
	distinct := slices.Compact(slices.Sorted(slices.Values(classes)))
	slices.SortStableFunc(distinct, func(a, b int) int { return times[b] - times[a] })
	distinct = distinct[:min(len(distinct), mostClasses)]
	slices.Sort(distinct)
	return distinct
}

// countLabels sums rows up. targets holds the targets of each image's attack, nil where there was none.
func countLabels(rows []LabelRow, classes []string, targets []map[int]bool) *Labels {
	k, others := len(rows), len(classes)-1
	l := &Labels{Classes: classes, Rows: rows, ExpectedRunnerUp: 1 / float64(others)}
	labels, given := make([]int, len(classes)), make([]int, len(classes))
	pairs := map[[2]int]int{}
	runnerUp, target, covered := 0, 0, 0
	for i, r := range rows {
		labels[r.Label]++
		given[r.After]++
		pairs[[2]int{r.Label, r.After}]++
		if r.After == r.RunnerUp {
			runnerUp++
		}
		if targets != nil {
			if targets[i][r.After] {
				target++
			}
			covered += len(targets[i])
			if targets[i][r.Label] { // which is not drawn from
				covered--
			}
		}
	}
	for label := range classes {
		for prediction := range classes {
			if n := pairs[[2]int{label, prediction}]; n > 0 {
				l.Counts = append(l.Counts, [3]int{label, prediction, n})
			}
		}
	}
	largest := 0
	for c, n := range given {
		largest = max(largest, n)
		if n > 0 {
			l.Distinct++
			l.Entropy -= share(n, k) * math.Log2(share(n, k))
		}
		// Each image with another label draws class c with probability 1/others, so their number is binomial.
		draws, p := k-labels[c], 1/float64(others)
		for j := 1; j <= draws; j++ {
			l.ExpectedEntropy -= binomial(draws, j, p) * share(j, k) * math.Log2(share(j, k))
		}
		l.ExpectedDistinct += 1 - math.Pow(1-p, float64(draws))
	}
	l.LargestShare, l.RunnerUp = share(largest, k), share(runnerUp, k)
	if targets != nil {
		hit, expected := share(target, k), share(covered, k*others)
		l.Target, l.ExpectedTarget = &hit, &expected
	}
	return l
}

// binomial is the probability of j successes in n trials.
func binomial(n, j int, p float64) float64 {
	if p == 1 {
		if j == n {
			return 1
		}
		return 0
	}
	all, _ := math.Lgamma(float64(n + 1))
	some, _ := math.Lgamma(float64(j + 1))
	rest, _ := math.Lgamma(float64(n - j + 1))
	return math.Exp(all - some - rest + float64(j)*math.Log(p) + float64(n-j)*math.Log1p(-p))
}

// Agreement says how alike the labels are that several runs give to the same images.
type Agreement struct {
	Runs   []string `json:"runs"`
	Images int      `json:"images"` // that all runs forgot
	// Share is that of pairs of runs that give an image the same label, over all images; Expected is what the frequencies of
	// labels in the two runs would give by chance.
	Share    float64 `json:"share"`
	Expected float64 `json:"expected_share"`
}

// Agree compares the labels of runs; nil if they have no image in common.
func Agree(runs []string, all []*Labels) *Agreement {
	after := make([]map[int]int, len(all))
	for r, l := range all {
		after[r] = map[int]int{}
		for _, row := range l.Rows {
			after[r][row.Index] = row.After
		}
	}
	var common []int
	for _, row := range all[0].Rows {
		if !slices.ContainsFunc(after, func(m map[int]int) bool { _, ok := m[row.Index]; return !ok }) {
			common = append(common, row.Index)
		}
	}
	if len(common) == 0 {
		return nil
	}
	a := &Agreement{Runs: runs, Images: len(common)}
	pairs := 0
	for i := range all {
		for j := range i {
			pairs++
			times := [2]map[int]int{{}, {}}
			same := 0
			for _, index := range common {
				first, second := after[i][index], after[j][index]
				times[0][first]++
				times[1][second]++
				if first == second {
					same++
				}
			}
			a.Share += share(same, len(common))
			together := 0
			for c, n := range times[0] {
				together += n * times[1][c]
			}
			a.Expected += share(together, len(common)*len(common))
		}
	}
	a.Share /= float64(pairs)
	a.Expected /= float64(pairs)
	return a
}
