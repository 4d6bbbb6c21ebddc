package run

import (
	"context"
	"slices"
	"strings"
	"time"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/data"
	"l2ul/unlearn/metrics"
)

// What --stop-scope and --anchor say.
const (
	scopeAll    = "all"
	anchorFirst = "first"
)

// turn is what a run that serves one request of a stream has beside a run by itself (spec/l2ul.md section 2.5).
type turn struct {
	set     *data.ForgetSet
	earlier []served
	first   *ckpt.File // θ⁰, where the stream anchors there and the run begins elsewhere; else nil
	result  RequestResult
}

// served is a request whose run has ended.
type served struct {
	id   string
	set  *data.ForgetSet
	said []int // what the network predicted for its images when it ended
}

// regained counts the images that had not their label when the request's run ended, and have it now.
func (e *served) regained(now []Prediction) (n int64) {
	for i, label := range e.set.Labels {
		if e.said[i] != label && now[i].Class == label {
			n++
		}
	}
	return n
}

// judgesAll reports whether the goal is about all requests so far. A run by itself has no turn.
func (t *turn) judgesAll() bool {
	return t != nil && t.result.StopScope == scopeAll && len(t.earlier) > 0
}

// regime is what the method may read: with all requests judged, the earlier ones as well.
func (t *turn) regime(of data.Regime) data.Regime {
	if t.judgesAll() {
		return append(slices.Clone(of), data.PartEarlier)
	}
	return of
}

// inputs are those of the desk, and what the turn depends on beside.
func (f *forgetting) inputs(set *data.ForgetSet) map[string]string {
	inputs := f.desk.inputs(set)
	if t := f.turn; t != nil {
		hashes := make([]string, len(t.earlier))
		for i, e := range t.earlier {
			hashes[i] = e.set.Hash()
		}
		inputs["earlier requests"] = strings.Join(hashes, " ")
		inputs["stop scope"], inputs["anchor"] = t.result.StopScope, t.result.Anchor
	}
	return inputs
}

// judged are the images that the goal is about: D_f, and for --stop-scope all those of the earlier requests behind it.
func (f *forgetting) judged() metrics.Images {
	if f.before == nil {
		return f.tested
	}
	return both{f.tested, f.before}
}

// openEarlier puts the earlier requests' images on the device, where the goal is about them.
func (f *forgetting) openEarlier() {
	if !f.turn.judgesAll() {
		return
	}
	var indices, targets []int
	for _, e := range f.turn.earlier {
		indices, targets = append(indices, e.set.Indices...), append(targets, e.set.Targets...)
	}
	x, y := f.training.Gather(indices)
	if f.loop.Goal == unlearn.Relabel {
		y = f.labels(targets)
	}
	f.before = &unlearn.Examples{X: x, Y: y, Part: data.PartEarlier, Meter: f.meter}
}

// both are two lists of images, one behind the other.
type both struct{ first, second metrics.Images }

func (b both) Len() int { return b.first.Len() + b.second.Len() }

func (b both) Batch(from, to int) (x, y torch.Tensor, err error) {
	n := b.first.Len()
	switch {
	case to <= n:
		return b.first.Batch(from, to)
	case from >= n:
		return b.second.Batch(from-n, to-n)
	}
	x, y, err = b.first.Batch(from, n)
	if err != nil {
		return x, y, err
	}
	x2, y2, err := b.second.Batch(0, to-n)
	if err != nil {
		return x, y, err
	}
	return torch.Cat([]torch.Tensor{x, x2}, 0), torch.Cat([]torch.Tensor{y, y2}, 0), nil
}

// atAnchor calls prepare while the network has the weights that attack and importance refer to, and tells the task where the
// penalty holds it.
func (f *forgetting) atAnchor(task *unlearn.Task, prepare func() error) error {
	if f.turn == nil || f.turn.first == nil {
		return prepare()
	}
	own := f.weights
	if err := f.become(f.turn.first); err != nil {
		return err
	}
	for _, p := range unlearn.Trainable(f.net, f.loop.BN) {
		task.Reference = append(task.Reference, p.Tensor.Detach().Clone())
	}
	if err := prepare(); err != nil {
		return err
	}
	return f.become(own)
}

// become sets the network to weights that were read.
func (f *forgetting) become(weights *ckpt.File) error {
	f.thaw()
	f.weights = weights
	return nn.Restore(f.net, weights, true)
}

// scoreEarlier measures the network on the images of each earlier request.
func (f *forgetting) scoreEarlier(ctx context.Context) error {
	if f.turn == nil {
		return nil
	}
	began := time.Now()
	f.turn.result.Earlier = nil
	for _, e := range f.turn.earlier {
		s, err := f.predicted(ctx, "after: "+e.id, f.training.View(data.PartEarlier, e.set.Indices, f.meter))
		if err != nil {
			return err
		}
		f.turn.result.Earlier = append(f.turn.result.Earlier, EarlierRequest{e.id, s.Score, e.regained(s.Said)})
	}
	f.state.Seconds.Eval += time.Since(began).Seconds()
	return nil
}
