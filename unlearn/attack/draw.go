package attack

import (
	"fmt"
	"slices"

	"l2ul/torch"
	"l2ul/unlearn/seed"
)

// The purposes of the attack's random streams (spec/l2ul.md section 3.3).
const (
	targetStream = "attack/targets"
	startStream  = "attack/starts"
)

// Plan draws the targets of all pairs of k labelled images, in the published order: repeat by repeat, image by image.
// Untargeted pairs have the label itself, the class to leave. A job with Pairs has those.
func (j *Job) Plan() (*Set, error) {
	if j.Pairs != nil {
		return &Set{Pairs: slices.Clone(j.Pairs)}, nil
	}
	k := len(j.Labels)
	repeats, err := j.Options.Repeats(k)
	if err != nil {
		return nil, err
	}
	labels := slices.Repeat(j.Labels, repeats)
	targets := labels
	if j.Options.Targeted {
		if targets, err = OtherClasses(labels, slices.Repeat(j.Avoid, repeats), j.Classes, seed.For(j.Seed, targetStream, 0)); err != nil {
			return nil, err
		}
	}
	set := &Set{Pairs: make([]Pair, len(labels))}
	for p := range set.Pairs {
		set.Pairs[p] = Pair{Source: p % k, Repeat: p / k, Target: targets[p]}
	}
	return set, nil
}

// OtherClasses draws, for each label, one of the other classes, all equally likely (rule `other`, spec/l2ul.md section 3.2).
// avoid, if it is not empty, is one more class for each label that is not drawn (--target-exclude, section 2.3).
func OtherClasses(labels, avoid []int, classes int, streamSeed int64) ([]int, error) {
	var u []float32
	torch.Scope(func() {
		torch.Seeded(torch.NewGenerator(streamSeed), func() {
			u = torch.ToSlice[float32](torch.Rand([]int64{int64(len(labels))}, false))
		})
	})
	out := make([]int, len(labels))
	for i, label := range labels {
		excluded := []int{label}
		if len(avoid) > 0 && avoid[i] != label {
			excluded = []int{min(label, avoid[i]), max(label, avoid[i])}
		}
		if len(excluded) >= classes {
			return nil, fmt.Errorf("of %d classes none is left to aim at beside %v", classes, excluded)
		}
		out[i] = otherClass(u[i], excluded, classes)
	}
	return out, nil
}

// otherClass turns u, uniform in [0, 1), into one of the C classes without the excluded ones, which ascend: with e of them,
// t = trunc(u·(C-e)) in float32, clamped to C-e-1, and one more for each excluded class that t reaches.
func otherClass(u float32, excluded []int, classes int) int {
	left := classes - len(excluded)
	t := min(int(u*float32(left)), left-1)
	for _, e := range excluded {
		if t >= e {
			t++
		}
	}
	return t
}

// starts draws the starting images of the pairs one after the other, uniform in [0, 1). One value takes one output of the
// generator whatever the size of the call, so the stream is that of the sequential loop. Given ones are handed out instead.
type starts struct {
	generator *torch.Generator
	like      torch.Tensor
	given     torch.Tensor
	done      int // handed out, or skipped
}

// newStarts returns the starts of the pairs behind the first skip ones. It lives in the current scope.
func (j *Job) newStarts(skip int) *starts {
	if j.Starts.Defined() {
		return &starts{like: j.X, given: j.Starts, done: skip}
	}
	s := &starts{generator: torch.NewGenerator(seed.For(j.Seed, startStream, 0)), like: j.X}
	for s.done < skip {
		torch.Scope(func() { s.next(min(skip-s.done, j.Chunk.N())) })
	}
	return s
}

// next returns n starting images, in the memory format and on the device of the images.
func (s *starts) next(n int) (u torch.Tensor) {
	first := s.done
	s.done += n // also where memory runs out: who knows what has been drawn then
	if s.given.Defined() {
		u = s.given.Narrow(0, int64(first), int64(n))
	} else {
		shape := s.like.Shape()
		shape[0] = int64(n)
		torch.Seeded(s.generator, func() { u = torch.Rand(shape, false) })
	}
	return u.To(s.like.Device(), torch.Float).Contiguous(formatOf(s.like))
}
