package data

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
)

// Report is what [Check] finds in a split.
type Report struct {
	Split    string      `json:"split"`
	Images   int         `json:"images"`
	Channels int         `json:"channels"`
	Height   int         `json:"height"`
	Width    int         `json:"width"`
	Least    int         `json:"least_label"`
	Largest  int         `json:"largest_label"`
	Classes  []ClassSize `json:"classes"`
	// Hash is the fingerprint that results call hashes.data; "" where images are broken.
	Hash   string   `json:"hash,omitempty"`
	Broken []Broken `json:"broken"` // images that cannot be decoded or have another size, in the order of samples
}

// ClassSize is a class and how many images the split has of it.
type ClassSize struct {
	Name   string `json:"name"`
	Images int    `json:"images"`
}

// Broken is an image that cannot be used.
type Broken struct {
	Index   int    `json:"index"`
	Name    string `json:"name"`
	Problem string `json:"problem"`
}

// Check reads a split as [Open] does, but goes on where an image is broken, and keeps none. progress hears how many images of
// all were read. What makes a split unreadable as a whole is an error, as for Open.
func Check(ctx context.Context, dataset string, src Source, split string, progress func(done, total int)) (*Report, error) {
	var guard sync.Mutex
	r := &Report{Broken: []Broken{}}
	src.broken = func(i int, err error) {
		guard.Lock()
		defer guard.Unlock()
		r.Broken = append(r.Broken, Broken{Index: i, Problem: err.Error()})
	}
	sets, err := Open(ctx, dataset, src, split)
	if err != nil {
		return nil, err
	}
	s := sets[0]
	digest, size := s.newDigest(), s.C*s.H*s.W
	chunk := min(s.Len(), max(roundBytes/size, src.workers()))
	pixels := make([]byte, chunk*size)
	indices := All(s.Len())
	for some := range slices.Chunk(indices, chunk) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.Read(pixels, some); err != nil {
			return nil, err
		}
		digest.Write(pixels[:len(some)*size])
		progress(some[len(some)-1]+1, s.Len())
	}
	if len(r.Broken) == 0 {
		s.once.Do(func() { s.fingerprint = digest.fingerprint() })
		r.Hash = s.Fingerprint()
	}
	slices.SortFunc(r.Broken, func(a, b Broken) int { return cmp.Compare(a.Index, b.Index) })
	for i := range r.Broken {
		r.Broken[i].Name = s.Name(r.Broken[i].Index)
	}
	r.Split, r.Images, r.Channels, r.Height, r.Width = split, s.Len(), s.C, s.H, s.W
	r.Least, r.Largest = slices.Min(s.Labels), slices.Max(s.Labels)
	for _, name := range s.Classes {
		r.Classes = append(r.Classes, ClassSize{Name: name})
	}
	for _, y := range s.Labels {
		r.Classes[y].Images++
	}
	return r, nil
}

// tolerates reports whether a broken image is to be passed over; its pixels are then black.
func (s Source) tolerates(i int, err error) bool {
	var input *InputError
	if s.broken == nil || !errors.As(err, &input) {
		return false
	}
	s.broken(i, input)
	return true
}
