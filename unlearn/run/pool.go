package run

import (
	"context"
	"time"

	"l2ul/unlearn"
	"l2ul/unlearn/data"
	"l2ul/unlearn/metrics"
)

// pool is the images from outside that a correction draws from (spec/l2ul.md section 2.3): those of ImageNet-A, for example.
type pool struct {
	set    *data.Set
	loader *data.Loader
	drawn  *data.Correction
}

// openPool reads the pool, asks the network for its predictions and draws what is to be corrected.
func (f *forgetting) openPool(ctx context.Context) error {
	if f.loop.Goal != unlearn.Relabel {
		return Usagef("--pool: its images are to get their true labels, which is --goal relabel")
	}
	spec, err := data.ParseSpec(f.o.Forget)
	k, ok := spec.Random()
	if err != nil || !ok {
		return Usagef("--pool: say with -k N how many of its images to correct")
	}
	source, err := f.dataSource(ctx)
	if err != nil {
		return err
	}
	source.Dir, source.Label = f.o.Pool, ""
	p := &pool{}
	if p.set, err = data.OpenPool(ctx, source, f.train); err != nil {
		return err
	}
	p.loader = f.loader(p.set)
	images := p.loader.View(data.PartPool, nil, nil)
	progress := f.Console.Progress("pool", "images", int64(images.Len()))
	predicted, err := metrics.Predict(ctx, f.frozen().Logits, images, f.batch(), func(done int) { progress.Set(int64(done)) })
	progress.Done()
	f.thaw() // what follows asks which parameters can be trained
	if err != nil {
		return err
	}
	if p.drawn, err = data.DrawCorrection(p.set, predicted, k, f.o.Forget, f.compute.Seed); err != nil {
		return err
	}
	f.pool, f.set = p, p.drawn.Set
	f.Console.Log().Info().Int("images", p.set.Len()).Int("right", len(p.drawn.Right)).Int("chosen", k).Int("rest", len(p.drawn.Rest)).
		Msg("pool: images, those that the network has right already, those to correct, and other wrong ones")
	return nil
}

// poolBefore scores the pool before anything is changed; nil without one. Its images have been read once for the choice.
func (f *forgetting) poolBefore(ctx context.Context) (*PoolResult, error) {
	if f.pool == nil {
		return nil, nil
	}
	if err := f.meter.Read(data.PartPool, f.pool.set.Len()); err != nil {
		return nil, err
	}
	r := &PoolResult{Images: int64(f.pool.set.Len()), Hash: f.pool.set.Fingerprint()}
	var err error
	if r.Right.Before, err = f.scorePool(ctx, "before", f.pool.drawn.Right); err != nil {
		return nil, err
	}
	r.Rest.Before, err = f.scorePool(ctx, "before", f.pool.drawn.Rest)
	return r, err
}

// poolAfter scores it afterwards.
func (f *forgetting) poolAfter(ctx context.Context) (err error) {
	if f.pool == nil {
		return nil
	}
	if f.state.Pool.Right.After, err = f.scorePool(ctx, "after", f.pool.drawn.Right); err != nil {
		return err
	}
	f.state.Pool.Rest.After, err = f.scorePool(ctx, "after", f.pool.drawn.Rest)
	return err
}

// scorePool scores the network on images of the pool; nil for none.
func (f *forgetting) scorePool(ctx context.Context, phase string, indices []int) (*Score, error) {
	if len(indices) == 0 {
		return nil, nil
	}
	began := time.Now()
	s, err := f.score(ctx, phase+": pool", f.pool.loader.View(data.PartPool, indices, f.meter))
	f.state.Seconds.Eval += time.Since(began).Seconds()
	return &s, err
}
