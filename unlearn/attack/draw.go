package attack

import (
	"fmt"

	"l2ul/torch"
	"l2ul/unlearn/seed"
)

// The purposes of the attack's random streams (spec/l2ul.md section 3.3).
const (
	targetStream = "attack/targets"
	startStream  = "attack/starts"
)

// Plan draws the targets of all pairs of k labelled images, in the published order: repeat by repeat, image by image.
// Untargeted pairs have the label itself, the class to leave.
func (j *Job) Plan() (*Set, error) {
	k := len(j.Labels)
	repeats, err := j.Options.Repeats(k)
	if err != nil {
		return nil, err
	}
	labels := make([]int, 0, repeats*k)
	for range repeats {
		labels = append(labels, j.Labels...)
	}
	targets := labels
	if j.Options.Targeted {
		if targets, err = OtherClasses(labels, j.Classes, seed.For(j.Seed, targetStream, 0)); err != nil {
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
func OtherClasses(labels []int, classes int, streamSeed int64) ([]int, error) {
	if classes < 2 {
		return nil, fmt.Errorf("a network with %d class has no other class to aim at", classes)
	}
	var u []float32
	torch.Scope(func() {
		torch.Seeded(torch.NewGenerator(streamSeed), func() {
			u = torch.ToSlice[float32](torch.Rand([]int64{int64(len(labels))}, false))
		})
	})
	out := make([]int, len(labels))
	for i, label := range labels {
		out[i] = otherClass(u[i], label, classes)
	}
	return out, nil
}

// otherClass turns u, uniform in [0, 1), into a class: t = trunc(u·(C-1)) in float32, clamped to C-2, and from the label on
// one more.
func otherClass(u float32, label, classes int) int {
	t := min(int(u*float32(classes-1)), classes-2)
	if t >= label {
		t++
	}
	return t
}

// starts draws the starting images of the pairs one after the other, uniform in [0, 1). One value takes one output of the
// generator whatever the size of the call, so the stream is that of the sequential loop.
type starts struct {
	generator *torch.Generator
	like      torch.Tensor
}

// newStarts returns the starts of the pairs behind the first skip ones. It lives in the current scope.
func (j *Job) newStarts(skip int) *starts {
	s := &starts{torch.NewGenerator(seed.For(j.Seed, startStream, 0)), j.X}
	for skip > 0 {
		n := min(skip, j.Chunk)
		torch.Scope(func() { s.next(n) })
		skip -= n
	}
	return s
}

// next draws n starting images, in the memory format and on the device of the images.
func (s *starts) next(n int) (u torch.Tensor) {
	shape := s.like.Shape()
	shape[0] = int64(n)
	torch.Seeded(s.generator, func() { u = torch.Rand(shape, false) })
	return u.To(s.like.Device(), torch.Float).Contiguous(formatOf(s.like))
}
