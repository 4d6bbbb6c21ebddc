package run

import (
	"cmp"
	"context"
	"slices"
	"time"

	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/data"
	"l2ul/unlearn/train"
)

// An oracle is a network that never saw the images to forget: what exact unlearning would leave, which every method is
// measured by. Training one is the dearest part of a comparison, so it happens once: the cache keeps it for all later runs,
// and who asks while another process trains it waits.
const (
	oracleCache  = "oracles"
	oracleSchema = "unlearn.oracle/1"
)

// oracleNote is kept in the cache beside a network.
type oracleNote struct {
	Seconds float64 `json:"seconds"` // that training it took
}

// oracleKey identifies an oracle by all that decides its bits. The order of the images to forget is not among that, nor is
// the network that forgets them.
func (f *forgetting) oracleKey() string {
	of := map[string]any{
		"schema": oracleSchema, "data": f.train.Fingerprint(), "forget": slices.Sorted(slices.Values(f.gone)),
		"recipe": f.recipe, "seed": f.compute.Seed,
	}
	if margin := f.margin(f.recipe); margin > 0 {
		of["margin"] = margin
	}
	return f.key(of)
}

// retrain makes the network the oracle of the forget set: the one in the cache, or else one trained here.
func (f *forgetting) retrain(ctx context.Context, saved []nn.Named) (*unlearn.Result, error) {
	f.thaw()
	f.net.Root().Free()
	if err := f.fresh(); err != nil {
		return nil, err
	}
	f.enter(data.PhaseUnlearn)
	job := f.trainJob(f.recipe, f.rest, data.PartRetain, f.meter)
	key := f.oracleKey()
	f.state.Oracle = cmp.Or(f.state.Oracle, &OracleSummary{Key: key})
	unlock, err := f.alone(ctx, oracleCache, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	found, err := f.fetchOracle(key)
	if err != nil {
		return nil, err
	}
	if found {
		// It is made of these reads, whoever made it.
		if err := f.meter.Read(data.PartRetain, job.Reads()); err != nil {
			return nil, err
		}
		f.state.Cached = append(f.state.Cached, "oracle")
	} else if err := f.trainOracle(ctx, key, job, saved); err != nil {
		return nil, err
	}
	f.written = plainModel
	return &unlearn.Result{Outcome: unlearn.Reached, Steps: job.Steps(), Passes: f.recipe.Epochs, Seconds: f.state.Seconds.Unlearn}, nil
}

// fetchOracle makes the oracle of the cache appear in the run folder and gives its weights to the network; it reports
// whether there was one.
func (f *forgetting) fetchOracle(key string) (bool, error) {
	path := f.folder.Path(plainModel)
	var note oracleNote
	found, err := f.cache.Get(oracleCache, key, &note, path)
	if err != nil {
		f.Console.Log().Warn().Err(err).Msg("the cache is of no use here")
	}
	if !found {
		return false, nil
	}
	file, err := ckpt.Load(path)
	if err != nil {
		return false, err
	}
	if err := nn.Restore(f.net, file, true); err != nil {
		return false, err
	}
	f.state.Oracle = &OracleSummary{key, note.Seconds}
	f.Console.Log().Info().Float64("seconds", note.Seconds).Msg("retrained network taken from the cache; seconds: what training it took")
	return true, nil
}

// trainOracle trains the network, from where an earlier process stopped if one did, and hands it to the cache.
func (f *forgetting) trainOracle(ctx context.Context, key string, job *train.Job, saved []nn.Named) error {
	var err error
	if job.Images, err = f.trainOn(ctx, f.recipe, func() *data.Loader { return f.training }); err != nil {
		return err
	}
	if f.state.Train != nil {
		f.state.Train.Tensors = saved
		job.Resume = f.state.Train
	}
	job.Save = func(s *train.State, force bool) error {
		f.state.Train, f.state.Seconds.Unlearn, f.state.Reads = s, s.Seconds, f.meter.Reads()
		return f.saver.save(int64(s.Step), force, s.Tensors, &f.state)
	}
	began := earlier(time.Now(), f.state.Seconds.Unlearn)
	if err := f.runTraining(ctx, job); err != nil {
		return err
	}
	f.state.Seconds.Unlearn = time.Since(began).Seconds()
	f.state.Oracle.Seconds = f.state.Seconds.Unlearn
	path := f.folder.Path(plainModel)
	if err := ckpt.Save(path, f.snapshot()); err != nil {
		return err
	}
	if f.state.Oracle.Key != key { // begun elsewhere: neither there nor here it would have got these bits
		f.state.Oracle.Key = ""
		return nil
	}
	if err := f.cache.Put(oracleCache, key, oracleNote{f.state.Oracle.Seconds}, path); err != nil {
		f.Console.Log().Info().Err(err).Msg("the retrained network is not cached")
	}
	return nil
}
