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

// Plan draws the targets of all pairs of k labelled images, call by call (spec/l2ul.md section 3.3): by default repeat by
// repeat, slice by slice. Untargeted pairs have the label itself, the class to leave. A job with Pairs has those.
func (j *Job) Plan() (set *Set, err error) {
	if j.Pairs != nil {
		return &Set{Pairs: slices.Clone(j.Pairs)}, nil
	}
	calls, err := j.calls()
	if err != nil {
		return nil, err
	}
	set = &Set{}
	torch.Scope(func() {
		targets := torch.NewGenerator(j.targetSeed())
		for _, c := range calls {
			var drawn []float32
			torch.Scope(func() {
				drawn = torch.ToSlice[float32](uniforms(targets, torch.CPU, int64(c.to-c.from)))
				j.skip(targets, c)
			})
			for i := c.from; i < min(c.to, len(j.Labels)); i++ {
				target := j.Labels[i]
				if j.Options.Targeted {
					if target, err = j.target(drawn[i-c.from], i); err != nil {
						return
					}
				}
				set.Pairs = append(set.Pairs, Pair{Source: i, Repeat: c.repeat, Target: target})
			}
		}
	})
	return set, err
}

// target is the class that image i is driven to, given its uniform.
func (j *Job) target(u float32, i int) (int, error) {
	if j.Options.Fallback == half {
		return halfClass(u, j.Labels[i], j.pool()), nil
	}
	avoid := j.Labels[i]
	if j.Avoid != nil {
		avoid = j.Avoid[i]
	}
	return otherClass(u, j.Labels[i], avoid, j.pool())
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
		other := label
		if len(avoid) > 0 {
			other = avoid[i]
		}
		var err error
		if out[i], err = otherClass(u[i], label, other, classes); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// otherClass turns u, uniform in [0, 1), into one of the C classes without the excluded ones, the label and perhaps one to
// avoid: with e of them below C, t = trunc(u·(C-e)) in float32, clamped to C-e-1, and one more for each that t reaches,
// ascending. C may be below the number of classes (section 3.2).
func otherClass(u float32, label, avoid, classes int) (int, error) {
	excluded := []int{label}
	if avoid != label {
		excluded = []int{min(label, avoid), max(label, avoid)}
	}
	excluded = slices.DeleteFunc(excluded, func(e int) bool { return e >= classes })
	left := classes - len(excluded)
	if left <= 0 {
		return 0, fmt.Errorf("of %d classes none is left to aim at beside %v", classes, excluded)
	}
	t := min(int(u*float32(left)), left-1)
	for _, e := range excluded {
		if t >= e {
			t++
		}
	}
	return t, nil
}

// starts draws the starting images of the pairs one after the other, uniform in [0, 1). One value takes one output of a
// CPU's generator whatever the size of the call, so the stream is that of the sequential loop. Given ones are handed out
// instead.
type starts struct {
	job       *Job
	generator *torch.Generator
	done      int // handed out, or skipped

	calls   []call       // still to be drawn, where a call is drawn as a whole
	pending torch.Tensor // of the call that was drawn last, what has not been handed out; owned
}

// newStarts returns the starts of the pairs behind the first skip ones. It lives in the current scope; free it.
func (j *Job) newStarts(skip int) (s *starts, err error) {
	s = &starts{job: j}
	switch {
	case j.Starts.Defined():
		s.done = skip
		return s, nil
	case j.Pairs != nil:
		s.generator = torch.NewGenerator(seed.For(j.Seed, startStream, 0))
	case !j.Options.shared() && j.Of == nil: // where calls begin and end has no say
		s.generator = j.startGenerator()
	default:
		s.generator = j.startGenerator()
		if s.calls, err = j.calls(); err != nil {
			return nil, err
		}
	}
	for s.done < skip {
		torch.Scope(func() { s.next(min(skip-s.done, j.Chunk.N())) })
	}
	return s, nil
}

// next returns n starting images, in the memory format and on the device of the images.
func (s *starts) next(n int) (u torch.Tensor) {
	first := s.done
	s.done += n // also where memory runs out: who knows what has been drawn then
	switch like := s.job.X; {
	case s.job.Starts.Defined():
		u = s.job.Starts.Narrow(0, int64(first), int64(n))
	case s.calls != nil:
		u = s.gather(int64(n))
	default:
		u = uniforms(s.generator, torch.CPU, int64(n), like.Shape()[1:]...)
	}
	return u.To(s.job.X.Device(), torch.Float).Contiguous(formatOf(s.job.X))
}

// gather hands out n images of calls that are drawn as a whole.
func (s *starts) gather(n int64) torch.Tensor {
	var parts []torch.Tensor
	for n > 0 {
		for !s.pending.Defined() || s.pending.Size(0) == 0 {
			s.free()
			s.pending = s.job.drawCall(s.generator, s.calls[0])
			torch.Own(s.pending)
			s.calls = s.calls[1:]
		}
		take := min(n, s.pending.Size(0))
		parts = append(parts, s.pending.Narrow(0, 0, take).Clone())
		rest := s.pending.Narrow(0, take, s.pending.Size(0)-take).Clone()
		s.free()
		s.pending = rest
		torch.Own(s.pending)
		n -= take
	}
	return torch.Cat(parts, 0)
}

func (s *starts) free() {
	if s.pending.Defined() {
		s.pending.Free()
		s.pending = torch.Tensor{}
	}
}

var opRand = torch.Define("aten::rand.generator(SymInt[] size, *, Generator? generator, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None) -> Tensor")

// uniforms draws n times so many values in [0, 1) on a device, whose generator g is.
func uniforms(g *torch.Generator, device torch.Device, n int64, shape ...int64) torch.Tensor {
	return opRand.One(append([]int64{n}, shape...), g, torch.Float, nil, device, nil)
}
