package results

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"l2ul/unlearn"
	"l2ul/unlearn/data"
	"l2ul/unlearn/run"
)

// MixedMethod names the method of a stream whose requests were served by several.
const MixedMethod = "mixed"

// whole is what a stream of requests comes to, as one run that forgot the images of all: from the weights that its first request
// began with to those that its last one ended with. D_f before is scored right before the run of each request, D_f after by the last
// weights. No list of its images is known here, and the hash of the forget set is one over those of the requests.
func whole(s *run.ContinualResult) (*run.Result, error) {
	if len(s.Requests) == 0 || s.Requests[0] == nil {
		return nil, fmt.Errorf("a stream without requests")
	}
	first, last := s.Requests[0], s.Requests[len(s.Requests)-1]
	r := &run.Result{
		Schema: s.Schema, Model: s.Model, Dataset: s.Dataset, Method: first.Method(), Outcome: unlearn.Reached, Reached: true,
		Before: &run.Scores{}, After: &run.Scores{}, Hashes: run.Hashes{Weights: first.WeightsBefore, Data: first.Data},
		DataAccess: run.DataAccess{Reads: data.Reads{}}, Versions: last.Versions,
	}
	text := func(key string) string {
		if v := first.Settings[key]; v != nil {
			return fmt.Sprint(v)
		}
		return ""
	}
	if r.Goal = text("goal"); r.Goal == "" {
		r.Goal = string(unlearn.Misclassify)
	}
	if seed, ok := first.Settings["seed"].(float64); ok { // as JSON has it
		r.Seed = int64(seed)
	}
	limit := text("limit")
	r.Limited = limit != "" && limit != "0"
	hash := sha256.New()
	for i, e := range s.Requests {
		if e == nil || e.Before == nil || e.After == nil {
			return nil, fmt.Errorf("request %d has no scores", i+1)
		}
		if err := checkScores(e.Before, e.After); err != nil {
			return nil, fmt.Errorf("request %d: %w", i+1, err)
		}
		if e.Method() != r.Method {
			r.Method = MixedMethod
		}
		if e.Outcome != unlearn.Reached && e.Outcome != unlearn.Already {
			r.Outcome, r.Reached = e.Outcome, false
		}
		r.Steps += e.Steps
		r.Seconds.Total += e.Seconds
		pool(&r.Before.Forget, e.Before.Forget)
		for phase, parts := range e.Reads {
			if r.DataAccess.Reads[phase] == nil {
				r.DataAccess.Reads[phase] = map[data.Part]int64{}
			}
			for part, n := range parts {
				if part == data.PartEarlier { // which the stream was to forget, too
					part = data.PartForget
				}
				r.DataAccess.Reads[phase][part] += n
				around := slices.Contains([]data.Phase{data.PhaseBefore, data.PhaseAfter}, phase)
				r.DataAccess.RetainDuringUnlearning = r.DataAccess.RetainDuringUnlearning || n > 0 && part == data.PartRetain && !around
			}
		}
		fmt.Fprintln(hash, e.Forget)
	}
	pool(&r.After.Forget, last.After.Forget)
	hits, _, n := last.Again()
	pool(&r.After.Forget, run.Score{Hits: hits, N: n})
	r.Before.Retain, r.Before.Test, r.After.Retain, r.After.Test = first.Before.Retain, first.Before.Test, last.After.Retain, last.After.Test
	r.Forget.Hash = hex.EncodeToString(hash.Sum(nil))
	return r, nil
}

// Requests says how many requests of how many images a stream had; "" of another run. Its configuration does not tell.
func (r *Run) Requests() string {
	if r.Stream == nil {
		return ""
	}
	var sizes []string
	for _, e := range r.Stream.Requests {
		sizes = append(sizes, strconv.Itoa(e.Images))
	}
	if len(slices.Compact(slices.Clone(sizes))) == 1 {
		return fmt.Sprintf("%d of %s", len(sizes), sizes[0])
	}
	return strings.Join(sizes, "+")
}

// Newest returns the run of the request that a stream came to last, nil where it has begun none.
func (r *Run) Newest() (*Run, error) {
	runs, err := r.served(func(folders []string) []string { return folders[max(0, len(folders)-1):] })
	if len(runs) == 0 {
		return nil, err
	}
	return runs[0], nil
}

// served reads some of the runs of a stream's requests; which is told their folders, in the order of the requests.
func (r *Run) served(which func(folders []string) []string) (runs []*Run, err error) {
	stream, err := OpenFolder(r.Path)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	const below = "requests"
	folders, err := stream.list(below, maxNames, fs.DirEntry.IsDir)
	if err != nil {
		return nil, err
	}
	place := func(name string) int {
		number, _, _ := strings.Cut(name, "-")
		n, _ := strconv.Atoi(number) // 0 of what is none of a stream
		return n
	}
	slices.SortStableFunc(folders, func(a, b string) int { return cmp.Compare(place(a), place(b)) })
	for _, name := range which(folders) {
		one, err := stream.below(filepath.Join(below, name))
		if err != nil {
			return nil, err
		}
		if one != nil {
			runs = append(runs, one)
		}
	}
	return runs, nil
}

// below reads a run folder in the folder; nil where it is none.
func (f *Folder) below(name string) (*Run, error) {
	root, err := f.root.OpenRoot(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, f.refuse(name, bare(err))
	}
	folder := &Folder{filepath.Join(f.Path, name), root}
	defer folder.Close()
	if !folder.isRun() {
		return nil, nil
	}
	return folder.run()
}

// pool adds a score of other images.
func pool(to *run.Score, s run.Score) {
	to.Hits, to.N = to.Hits+s.Hits, to.N+s.N
	if to.N > 0 {
		to.Accuracy = float64(to.Hits) / float64(to.N)
	}
}
