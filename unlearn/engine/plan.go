package engine

import (
	"slices"

	"l2ul/torch"
	"l2ul/torch/cuda"
)

// plan is a network lowered: its layers in order, and the buffers of the batches that it has met.
type plan struct {
	device        torch.Device
	dtype         torch.Dtype // of the values; images, and the gradient by them, are Float
	half          bool        // our own convolutions multiply bfloat16
	input, output *node
	nodes         []*node
	kept          []torch.Tensor // packed weights and the like
	runs          []*run         // the one used last comes last
	record        cuda.Recorder  // nil where there are no graphs
	freed         int            // runs whose buffers were given back to make room
	recording     bool           // a graph is being captured; if that fails, the work goes on in the same buffers
}

// keep makes a tensor last as long as the plan.
func (p *plan) keep(t torch.Tensor) torch.Tensor {
	torch.Own(t)
	p.kept = append(p.kept, t)
	return t
}

// release gives back a tensor that was kept.
func (p *plan) release(t torch.Tensor) {
	at := slices.Index(p.kept, t)
	p.kept = slices.Delete(p.kept, at, at+1)
	t.Free()
}

func (p *plan) free() {
	p.vacate()
	for _, t := range p.kept {
		t.Free()
	}
	p.kept = nil
}

func (p *plan) bytes() (sum int64) {
	for _, t := range p.kept {
		sum += t.Numel() * int64(t.Dtype().Size())
	}
	for _, r := range p.runs {
		sum += r.bytes
	}
	return sum
}

// attempt runs fn. If that panics, because memory ran out, all buffers are given back: fewer images may then find room.
func (p *plan) attempt(fn func()) {
	done := false
	defer func() {
		if !done && !p.recording {
			p.vacate()
		}
	}()
	fn()
	done = true
}

// vacate gives all buffers back.
func (p *plan) vacate() {
	for _, r := range p.runs {
		r.free()
	}
	p.freed += len(p.runs)
	p.runs = nil
}

func (p *plan) logits(x torch.Tensor) (logits torch.Tensor) {
	r := p.run(x.Size(0), false)
	torch.Scope(func() {
		r.input.CopyI(x)
		r.play(r.forward)
		logits = torch.KeepOne(r.output.Clone().CastTo(torch.Float))
	})
	return logits
}

func (p *plan) inputGrad(x torch.Tensor, gradient func(logits torch.Tensor) torch.Tensor) torch.Tensor {
	r := p.run(x.Size(0), true)
	torch.Scope(func() {
		torch.NoGrad(func() {
			if x != r.input {
				r.input.CopyI(x)
			}
			r.play(r.forward)
			r.outputGrad.CopyI(gradient(r.output.CastTo(torch.Float)))
			r.play(r.backward)
		})
	})
	return r.inputGrad
}

// maxRuns is how many batch sizes keep their buffers: an attack has full chunks and a last one.
const maxRuns = 2

// run returns the buffers for a batch of n images.
func (p *plan) run(n int64, gradient bool) *run {
	at := slices.IndexFunc(p.runs, func(r *run) bool { return r.images == n && r.gradient == gradient })
	if at >= 0 {
		r := p.runs[at]
		p.runs = append(slices.Delete(p.runs, at, at+1), r)
		return r
	}
	if len(p.runs) == maxRuns {
		p.runs[0].free()
		p.runs = slices.Delete(p.runs, 0, 1)
		p.freed++
	}
	r := &run{images: n, gradient: gradient}
	bound := false
	defer func() {
		if !bound { // memory ran out
			r.free()
		}
	}()
	p.bind(r)
	bound = true
	p.runs = append(p.runs, r)
	return r
}

// run is a plan bound to buffers for a number of images.
type run struct {
	images                               int64
	gradient                             bool
	forward, backward                    []func()
	input, output, outputGrad, inputGrad torch.Tensor
	owned                                []torch.Tensor
	bytes                                int64
}

func (r *run) free() {
	for _, t := range r.owned {
		t.Free()
	}
}

// play does the steps, each in a scope for what libtorch makes on the way.
func (r *run) play(steps []func()) {
	for _, step := range steps {
		torch.Scope(step)
	}
}

// value is a buffer to be: of the output of a layer, or of the gradient by it.
type value struct {
	shape       []int64 // without the batch
	dtype       torch.Dtype
	first, last int // the steps that write it first and use it last
	slot        int
	tensor      torch.Tensor
}

// size is the bytes that it takes for each image.
func (v *value) size() int64 {
	n := int64(v.dtype.Size())
	for _, d := range v.shape {
		n *= d
	}
	return n
}

// step is a layer's forward pass, or its backward pass to one input, with the values it takes. in[0] is the gradient of a
// backward step.
type step struct {
	node           *node
	back           bool
	input          int // of a backward step: which input's gradient
	out, add, gate *value
	in             []*value
}

// bind schedules the steps, lays out memory for the run's images so that values that are not needed at the same time share
// it, and binds every step to its buffers.
func (p *plan) bind(r *run) {
	values := map[*node]*value{}
	var steps []step
	var all []*value
	// add makes the value of a layer, or of the gradient by it.
	add := func(of *node) *value {
		v := &value{shape: of.shape, dtype: p.dtype, first: len(steps), last: len(steps)}
		if of == p.input {
			v.dtype = torch.Float
		}
		all = append(all, v)
		return v
	}
	// uses says that the step to come uses these values.
	uses := func(list ...*value) {
		for _, v := range list {
			if v != nil {
				v.last = len(steps)
			}
		}
	}
	for _, layer := range p.nodes {
		s := step{node: layer, out: add(layer)}
		for _, in := range layer.in {
			s.in = append(s.in, values[in])
		}
		uses(s.in...)
		values[layer] = s.out
		steps = append(steps, s)
	}
	forward := len(steps)
	var outputGrad, inputGrad *value
	if r.gradient {
		outputGrad = add(p.output)
		grads, missing := map[*node]*value{p.output: outputGrad}, map[*node]int{}
		shared := map[*value]bool{} // gradients that belong to another layer too, so that nobody may add to them
		for _, layer := range p.nodes {
			for _, in := range layer.in {
				missing[in]++
			}
		}
		for _, layer := range slices.Backward(p.nodes) {
			grad := grads[layer]
			for i, in := range layer.in {
				missing[in]--
				s := step{node: layer, back: true, input: i, add: grads[in], in: []*value{grad}}
				if in.relu && missing[in] == 0 {
					s.gate = values[in]
				}
				if layer.op.passes(i) && s.add == nil && s.gate == nil && grad.dtype == values[in].dtype {
					grads[in], shared[grad] = grad, true
					continue
				}
				if s.out = s.add; s.add == nil || shared[s.add] {
					s.out = add(in)
				}
				uses(s.out, s.add, s.gate, grad)
				grads[in] = s.out
				steps = append(steps, s)
			}
		}
		inputGrad = grads[p.input]
		uses(inputGrad, values[p.input]) // until the end, where the caller may make the next images of both
	}
	uses(values[p.output])

	torch.Scope(func() {
		r.allocate(all, p.device)
		memos := map[*node]torch.Tensor{}
		for i, s := range steps {
			s.bindTo(r, memos, i < forward)
		}
	})
	r.input, r.output = values[p.input].tensor, values[p.output].tensor
	if r.gradient {
		r.outputGrad, r.inputGrad = outputGrad.tensor, inputGrad.tensor
	}
}

// bindTo adds the step to the run.
func (s *step) bindTo(r *run, memos map[*node]torch.Tensor, forward bool) {
	tensors := make([]torch.Tensor, len(s.in))
	for i, v := range s.in {
		tensors[i] = v.tensor
	}
	if !forward {
		to := target{out: s.out.tensor}
		if s.add != nil {
			to.add = s.add.tensor
		}
		if s.gate != nil {
			to.gate = s.gate.tensor
		}
		back := func() { to.put(tensors[0]) }
		if !s.node.op.passes(s.input) {
			back = s.node.op.backward(s.input, to, tensors[0], memos[s.node])
		}
		r.backward = append(r.backward, back)
		return
	}
	if s.node.op.remembers() {
		memo := s.out.tensor.NewEmpty(s.out.tensor.Shape(), torch.Byte).Contiguous(torch.ChannelsLast)
		memos[s.node] = r.own(memo)
		r.bytes += memo.Numel()
	}
	if f := s.node.op.forward(s.out.tensor, tensors, memos[s.node], s.node.relu); f != nil {
		r.forward = append(r.forward, f)
	}
}

func (r *run) own(t torch.Tensor) torch.Tensor {
	torch.Own(t)
	r.owned = append(r.owned, t)
	return t
}

// allocate gives every value a place in one of few slots, such that values that live at the same time have different
// ones: the smallest free slot that is large enough, or else the largest free one, made larger.
func (r *run) allocate(values []*value, device torch.Device) {
	type slot struct {
		size int64
		free bool
	}
	var slots []slot
	slices.SortStableFunc(values, func(a, b *value) int { return a.first - b.first })
	var living []*value
	for _, v := range values {
		living = slices.DeleteFunc(living, func(w *value) bool {
			over := w.last < v.first
			if over {
				slots[w.slot].free = true
			}
			return over
		})
		best := -1
		for i, s := range slots {
			if s.free && (best < 0 || better(s.size, slots[best].size, v.size())) {
				best = i
			}
		}
		if best < 0 {
			best = len(slots)
			slots = append(slots, slot{})
		}
		slots[best].free = false
		slots[best].size = max(slots[best].size, v.size())
		v.slot = best
		living = append(living, v)
	}
	memory := make([]torch.Tensor, len(slots))
	for i, s := range slots {
		memory[i] = opEmpty.One([]int64{s.size * r.images}, torch.Byte, nil, device)
		r.bytes += s.size * r.images
	}
	for _, v := range values {
		flat := opViewAs.One(memory[v.slot].Narrow(0, 0, v.size()*r.images), v.dtype)
		if len(v.shape) == 3 {
			v.tensor = r.own(flat.View(r.images, v.shape[1], v.shape[2], v.shape[0]).Permute(0, 3, 1, 2))
		} else {
			v.tensor = r.own(flat.View(append([]int64{r.images}, v.shape...)...))
		}
	}
}

var (
	opEmpty  = torch.Define("aten::empty.memory_format(SymInt[] size, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None, MemoryFormat? memory_format=None) -> Tensor")
	opViewAs = torch.Define("aten::view.dtype(Tensor(a) self, ScalarType dtype) -> Tensor(a)")
)

// better says that a free slot of size a suits a value better than one of size b.
func better(a, b, value int64) bool {
	if fits := a >= value; fits != (b >= value) {
		return fits
	} else if fits {
		return a < b
	}
	return a > b
}
