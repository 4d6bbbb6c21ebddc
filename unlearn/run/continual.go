package run

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"l2ul/torch/ckpt"
	"l2ul/unlearn"
	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
	"l2ul/unlearn/importance"
	"l2ul/unlearn/run/cache"
	"l2ul/unlearn/run/config"
)

// ContinualSchema is the schema name of ContinualResult.
const ContinualSchema = "unlearn.continual/1"

// ContinualResult is result.json of `unlearn continual`: what the record says of the requests that were served.
type ContinualResult struct {
	Schema   string    `json:"schema" jsonschema:"enum=unlearn.continual/1"`
	Model    string    `json:"model"`
	Dataset  string    `json:"dataset"`
	Requests []*Entry  `json:"requests"`
	Record   RecordEnd `json:"record"`
}

// RecordEnd is where a deletion record ends.
type RecordEnd struct {
	Requests int    `json:"requests" jsonschema:"minimum=0"`
	Head     string `json:"head" jsonschema:"description=hash of the last line"`
}

// Method is how the request was served.
func (e *Entry) Method() string { return fmt.Sprint(e.Settings["method"]) }

// stream is a continual job at work: requests that are served one by one, each by a run of its own that begins with the weights
// that the one before ended with (spec/l2ul.md section 2.5).
type stream struct {
	desk
	o        ContinualOptions
	requests []Request
	sets     []*data.ForgetSet // what each asks for, with the targets that its run had if it has been served
	configs  []*config.Config  // of each run, without what depends on the folder
	folder   *Folder
	record   *record
}

// Continual serves a stream of deletion requests, those of the file that is the argument or drawn ones, and writes the folder of
// the stream: a run folder for each request and the deletion record. Requests that were served before are passed over. The result
// is nil for a dry run. Requests that did not reach their goal are an error with exit code 3, after all have been served.
func Continual(ctx context.Context, inv Invocation) (*ContinualResult, error) {
	s := &stream{desk: desk{Invocation: inv}}
	if err := inv.Config.Decode(&s.o); err != nil {
		return nil, err
	}
	s.model, s.source, s.compute, s.eval, s.mode = s.o.ModelOptions, s.o.DataOptions, s.o.ComputeOptions, s.o.EvalOptions, engine.Mode(s.o.Mode)
	if err := s.prepare(ctx); err != nil {
		return nil, interrupted(ctx, "", err)
	}
	opening := inv.opening(FolderOptions{Output: s.o.Output})
	if s.o.DryRun {
		return nil, s.plan(opening)
	}
	var err error
	if s.folder, _, err = opening.open(requestsFolder, examineStream); err != nil {
		return nil, err
	}
	defer s.folder.Close()
	if s.record, err = openRecord(s.folder); err != nil {
		return nil, err
	}
	if err := s.compare(s.record.entries); err != nil {
		return nil, err
	}
	inv.Console.Emit(Start{Verb: inv.Config.Spec.Verb, Folder: s.folder.Path(), ConfigHash: s.folder.ConfigHash()})
	if n := len(s.record.entries); n > 0 {
		inv.Console.Log().Info().Msgf("served before: %s of %d", Counted(n, "request"), len(s.requests))
	}
	for len(s.record.entries) < len(s.requests) {
		if err := s.serve(ctx); err != nil {
			return nil, s.stopped(ctx, err)
		}
	}
	return s.finish()
}

// prepare reads the requests and the data, finds out what each request asks for, and refuses two that ask for the same.
func (s *stream) prepare(ctx context.Context) (err error) {
	if s.o.Output == "" {
		return Usagef("name the folder of the stream with --output: the next start goes on there")
	}
	if len(s.Args) > 0 {
		if s.requests, err = readRequests(s.Args[0]); err != nil {
			return err
		}
	}
	if err := s.openData(ctx, "train", "test"); err != nil {
		return err
	}
	if s.requests == nil {
		if s.requests, err = drawRequests(s.o.Requests, s.o.K, s.train, s.compute.Seed); err != nil {
			return err
		}
	}
	owner := make([]int, s.train.Len()) // by sample, the position of the request that asks for it
	for i := range s.requests {
		r := &s.requests[i]
		set, err := r.resolve(s.train, s.compute.Seed)
		if err != nil {
			return fmt.Errorf("%s: request %q: %w", r.where, r.ID, err)
		}
		for _, n := range set.Indices {
			if other := owner[n]; other != 0 {
				return Inputf("%s: request %q asks for sample %d (%s), which request %q asks for already: requests must be disjoint",
					r.where, r.ID, n, s.train.Name(n), s.requests[other-1].ID)
			}
			owner[n] = i + 1
		}
		cfg, err := s.configure(r)
		if err != nil {
			return fmt.Errorf("%s: request %q: %w", r.where, r.ID, err)
		}
		if v, _, ok := cfg.Get("compat.utk-subset"); ok && v.String() != "off" { // it could hold for the first request alone
			return Usagef("%s: request %q: --compat.utk-subset %s: the published code knows no streams of requests; leave it out", r.where, r.ID, v)
		}
		s.sets, s.configs = append(s.sets, set), append(s.configs, cfg)
	}
	if err := s.checkScope(); err != nil {
		return err
	}
	if begun, err := s.begun(); err == nil && !begun { // else [stream.compare] knows how far it came
		if err := s.checkImportance(0); err != nil {
			return err
		}
	}
	return s.openWeights(ctx)
}

// begun reports whether the folder of the stream tells of requests that were served.
func (s *stream) begun() (bool, error) {
	if _, err := os.Stat(filepath.Join(s.o.Output, recordName)); !errors.Is(err, fs.ErrNotExist) {
		return true, err
	}
	lines, err := entryFiles(s.o.Output) // one of which the record may lack yet
	return len(lines) > 0, err
}

// configure resolves the options of a request's run: those of the stream, and what its line says.
func (s *stream) configure(r *Request) (*config.Config, error) {
	flags, err := r.flags(s.Catalog.Find("forget"))
	if err != nil {
		return nil, Inputf("%w", err)
	}
	asked := make([]string, 0, len(flags))
	for name := range flags {
		asked = append(asked, name)
	}
	if flags["forget"] = []string{r.Forget}; r.Forget == "" {
		text, err := r.spec(s.train)
		if err != nil {
			return nil, err
		}
		flags["forget"] = []string{text}
	}
	flags["save-format"] = []string{"safetensors"} // which the next request reads
	cfg, err := s.Catalog.Derive(s.Config, "forget", flags)
	if err != nil {
		return nil, err
	}
	for _, name := range cfg.Unused {
		if slices.Contains(asked, name) {
			s.Console.Warn(fmt.Sprintf("%s: request %q: %s has no effect with method %s", r.where, r.ID, name, cfg.Variant))
		}
	}
	return cfg, nil
}

// checkScope refuses a goal about all requests where they have different ones.
func (s *stream) checkScope() error {
	if s.o.StopScope != scopeAll {
		return nil
	}
	goal := ""
	for i, cfg := range s.configs {
		if is := goalOf(cfg); i == 0 {
			goal = is
		} else if is != goal {
			return Usagef("--stop-scope all: request %q has goal %s and request %q goal %s: all must have the same", s.requests[0].ID, goal, s.requests[i].ID, is)
		}
	}
	return nil
}

// goalOf is the goal of a run; retraining, which has none of its own, is judged as one that makes the network misclassify.
func goalOf(cfg *config.Config) string {
	if v, _, ok := cfg.Get("goal"); ok {
		return v.String()
	}
	return string(unlearn.Misclassify)
}

// examineStream finds out what is in the folder of a stream.
func examineStream(f *Folder, o Opening) (*Checkpoint, bool, error) {
	names, err := os.ReadDir(f.path)
	if err != nil {
		return nil, false, err
	}
	holds := func(name string) bool {
		return slices.ContainsFunc(names, func(n fs.DirEntry) bool { return n.Name() == name })
	}
	if holds("checkpoints") || holds("result.json") && !holds(recordName) {
		return nil, false, Usagef("%s holds a run that is no stream; choose another --output", f.path)
	}
	for _, n := range names {
		if !holds(runMark) && n.Name() != lockName && n.Name() != "config.yaml" {
			return nil, false, Usagef("%s is not the folder of a stream (it holds %s); choose another --output", f.path, n.Name())
		}
	}
	if !holds(runMark) {
		return nil, false, nil
	}
	keys, err := f.differences(o)
	if err == nil && len(keys) > 0 {
		err = errors.New(strings.Join(keys, ", "))
	}
	if err != nil {
		return nil, false, Usagef("%s has another configuration: %w; options of new requests belong into their lines, others into a stream with another --output", f.path, err)
	}
	return nil, false, nil
}

// compare checks that the requests which were served before are those that are asked for now, and made from the same data and
// weights, and reads back what their runs forgot.
func (s *stream) compare(entries []*Entry) error {
	for i, e := range entries {
		if i == len(s.requests) || s.requests[i].ID != e.ID {
			return Inputf("request %d was %q when it was served, and is no longer in its place: what has been served cannot be taken back or moved; only add lines behind it", i+1, e.ID)
		}
		r := &s.requests[i]
		switch {
		case r.Hash() != e.Request:
			return Inputf("%s: request %q has been served, and its line changed since: put it back, and ask for more in a new line", r.where, r.ID)
		case e.Data != s.train.Fingerprint():
			return Inputf("request %q was served with other training data (hash %.12s… there, %.12s… here)", r.ID, e.Data, s.train.Fingerprint())
		case i == 0 && e.WeightsBefore != s.weights.Hash():
			return Inputf("--weights %s: the stream began with other weights (hash %.12s… there, %.12s… here)", s.model.Weights, e.WeightsBefore, s.weights.Hash())
		}
		if err := s.readBack(i, e); err != nil {
			return err
		}
	}
	return s.checkImportance(len(entries))
}

// checkImportance refuses files of importance for weights that nobody has yet: with --anchor previous a request refers to those that the
// one before it leaves.
func (s *stream) checkImportance(served int) error {
	for i := served + 1; i < len(s.configs) && s.o.Anchor != anchorFirst; i++ {
		var o importance.Options
		if _, _, ok := s.configs[i].Get("importance"); !ok {
			continue
		}
		if err := s.configs[i].Decode(&o); err != nil {
			return err
		}
		if path := o.File(); path != "" {
			return Usagef("%s: request %q: --importance %s cannot be of the weights that it will begin with, since request %q comes first; take --anchor first, an estimator, or ask for it once that one is served",
				s.requests[i].where, s.requests[i].ID, path, s.requests[i-1].ID)
		}
	}
	return nil
}

// readBack takes the forget set of a request from the folder of its run, where it has the targets that goal relabel drew.
func (s *stream) readBack(i int, e *Entry) error {
	spec, err := data.ParseSpec("@" + filepath.Join(s.o.Output, e.Folder, "forget.json"))
	if err != nil {
		return err
	}
	set, err := spec.Resolve(s.train, s.compute.Seed)
	if err != nil {
		return fmt.Errorf("request %q: %w", e.ID, err)
	}
	if set.Hash() != e.Forget || !slices.Equal(set.Indices, s.sets[i].Indices) {
		return Inputf("request %q asks for other samples than when it was served, or its forget.json was changed", e.ID)
	}
	s.sets[i] = set
	return nil
}

// serve runs the next request, or takes the result of a run that ended without getting into the record, and records it.
func (s *stream) serve(ctx context.Context) error {
	i := len(s.record.entries)
	r := &s.requests[i]
	if err := context.Cause(ctx); err != nil {
		return err
	}
	s.Console.Log().Info().Msgf("request %d of %d: %s, %s", i+1, len(s.requests), r.ID, Counted(len(s.sets[i].Indices), "image"))
	f, err := s.turn(i)
	if err != nil {
		return fmt.Errorf("%s: request %q: %w", r.where, r.ID, err)
	}
	result, err := s.finished(f)
	if err == nil && result == nil {
		result, err = f.job(ctx)
	}
	if attached := s.Console.Attach(s.folder); attached != nil { // no longer to the folder of the run
		return attached
	}
	switch {
	case result == nil:
		return err
	case result.Outcome == unlearn.Diverged:
		return fmt.Errorf("%s: request %q: %w; change its options and start again: the requests before it stay served", r.where, r.ID, err)
	}
	entry, err := s.entry(f, result)
	if err != nil {
		return err
	}
	return s.record.append(entry)
}

// turn sets up the run of a request.
func (s *stream) turn(i int) (*forgetting, error) {
	weights := map[string][]string{}
	for name, text := range s.previous() {
		weights[name] = []string{text}
	}
	cfg, err := s.Catalog.Derive(s.configs[i], "forget", weights)
	if err != nil {
		return nil, err
	}
	inv := s.Invocation
	inv.Config = cfg
	f := &forgetting{desk: desk{Invocation: inv, train: s.train, test: s.test}, began: time.Now()}
	if err := f.decode(); err != nil {
		return nil, err
	}
	f.o.Output = s.folder.Path(requestFolder(i+1, s.requests[i].ID))
	if folderAt(f.o.Output, cfg).resumable() {
		f.o.Resume = "auto"
	} else {
		f.o.Force = true // there is nothing, or what an earlier version of the line left
	}
	f.turn = &turn{set: s.sets[i], result: RequestResult{ID: s.requests[i].ID, Position: i + 1, StopScope: s.o.StopScope}}
	for j, e := range s.record.entries {
		before, err := s.said(j, e)
		if err != nil {
			return nil, err
		}
		f.turn.earlier = append(f.turn.earlier, served{e.ID, s.sets[j], before})
	}
	if s.o.Anchor == anchorFirst && i > 0 {
		f.turn.first, f.turn.result.Anchor = s.weights, s.weights.Hash()
	}
	return f, nil
}

// said is what the network predicted for the images of a request when its run ended.
func (s *stream) said(i int, e *Entry) (classes []int, err error) {
	path := s.folder.Path(e.Folder, predictionsName)
	text, err := readBounded(path)
	var p Predictions
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return nil, Inputf("request %q: %s: %w", e.ID, path, reason(err))
	}
	sum := sha256.Sum256(text)
	if want := e.Files[predictionsName]; want != "" && hex.EncodeToString(sum[:]) != want { // records of earlier versions do not tell
		return nil, Inputf("request %q: %s was changed since it was recorded", e.ID, path)
	}
	indices := s.sets[i].Indices
	for n, image := range p.Images {
		if n < len(indices) && image.Index == indices[n] && image.After != nil {
			classes = append(classes, image.After.Class)
		}
	}
	if len(p.Images) != len(indices) || len(classes) != len(indices) {
		return nil, Inputf("request %q: %s does not tell of the images that it asks for", e.ID, path)
	}
	return classes, nil
}

// previous are the flags about the weights that the next request begins with.
func (s *stream) previous() map[string]string {
	last := s.record.last()
	if last == nil {
		return nil
	}
	return map[string]string{"weights": s.folder.Path(last.Folder, plainModel), "model": s.model.Model}
}

// finished is the result of a run that ended, under this very configuration and with these inputs, or nil.
func (s *stream) finished(f *forgetting) (*Result, error) {
	path := filepath.Join(f.o.Output, "result.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	result := &Result{}
	if json.Unmarshal(text, result) != nil {
		return nil, nil //nolint:nilerr // not written by this program, so there is no result
	}
	before := s.weights.Hash()
	if last := s.record.last(); last != nil {
		before = last.WeightsAfter
	}
	same := result.Hashes == Hashes{Weights: before, Data: s.train.Fingerprint(), Config: f.Config.Hash()}
	ended := result.Outcome == unlearn.Reached || result.Outcome == unlearn.Already || result.Outcome == unlearn.Capped
	set := f.turn.set
	asked := len(result.Forget.Indices) == len(set.Indices) && (set.Targets == nil || result.Forget.Hash == set.Hash())
	for i := 0; asked && i < len(set.Indices); i++ {
		asked = result.Forget.Indices[i] == int64(set.Indices[i])
	}
	if !same || !ended || !asked || result.Request == nil {
		return nil, nil
	}
	return result, nil
}

// entry is what the record says of a run.
func (s *stream) entry(f *forgetting, result *Result) (*Entry, error) {
	r := &s.requests[result.Request.Position-1]
	e := &Entry{
		ID: r.ID, Time: time.Now().UTC().Format(time.RFC3339), Folder: requestFolder(result.Request.Position, r.ID), Request: r.Hash(),
		Data: result.Hashes.Data, Forget: result.Forget.Hash, Images: len(result.Forget.Indices), WeightsBefore: result.Hashes.Weights,
		Config: result.Hashes.Config, Settings: f.Config.Settings(), Anchor: s.o.Anchor, StopScope: s.o.StopScope,
		Outcome: result.Outcome, Steps: result.Steps, Seconds: result.Seconds.Total, Before: result.Before, After: result.After, Earlier: result.Request.Earlier,
		Reads: result.DataAccess.Reads, Versions: result.Versions, Files: map[string]string{},
	}
	weights, err := ckpt.Load(filepath.Join(f.o.Output, plainModel))
	if err != nil {
		return nil, err
	}
	e.WeightsAfter = weights.Hash()
	for _, file := range recordedFiles {
		sum, err := cache.HashFile(filepath.Join(f.o.Output, file.name))
		switch {
		case file.spare && errors.Is(err, fs.ErrNotExist): // the method makes none
		case err != nil:
			return nil, err
		default:
			e.Files[file.name] = sum
		}
	}
	return e, s.readBack(result.Request.Position-1, e)
}

// stopped is the error of a stream that a signal ended. What has been served is kept, so it can go on.
func (s *stream) stopped(ctx context.Context, err error) error {
	stop := (*Stopped)(nil)
	if errors.As(interrupted(ctx, "", err), &stop) && stop.Checkpoint == "" && len(s.record.entries) > 0 {
		return StopCause(ctx, s.folder.Path(recordName))
	}
	return interrupted(ctx, "", err)
}

// finish writes the result, and turns goals that were not reached into an error.
func (s *stream) finish() (*ContinualResult, error) {
	entries := s.record.entries
	result := &ContinualResult{ContinualSchema, s.model.Model, s.train.Dataset, entries, RecordEnd{len(entries), s.record.head()}}
	if err := WriteJSON(s.folder.Path("result.json"), result); err != nil {
		return nil, fmt.Errorf("cannot write the result: %w", err)
	}
	if hits, regained, n := s.record.last().Again(); regained > 0 {
		s.Console.Warn(fmt.Sprintf("by the last weights %d of %d images of earlier requests have their label, %d of them regained after they were forgotten; "+
			"with --stop-scope all a request ends only when they are forgotten, too", hits, n, regained))
	}
	s.Console.Emit(Summary{Folder: s.folder.Path(), Result: result})
	var capped []string
	for _, e := range entries {
		if e.Outcome == unlearn.Capped {
			capped = append(capped, e.ID)
		}
	}
	if len(capped) > 0 {
		return result, NotReachedf("%d of %s did not reach their goal (%s); their weights are written, and later requests began with them",
			len(capped), Counted(len(entries), "request"), strings.Join(capped, ", "))
	}
	return result, nil
}

// plan tells what a run would do.
func (s *stream) plan(o Opening) error {
	f := folderAt(s.o.Output, s.Config)
	var entries []*Entry
	if _, err := os.Stat(s.o.Output); err == nil {
		if _, _, err := examineStream(f, o); err != nil {
			return err
		}
		var err error
		if _, entries, _, err = readRecord(f.Path(recordName)); err != nil {
			return err
		}
		if err := s.compare(entries); err != nil {
			return err
		}
	} else if err := creatable(s.o.Output); err != nil {
		return err
	}
	rows := [][2]string{{"stream", fmt.Sprintf("%s, served before: %d", Counted(len(s.requests), "request"), len(entries))}}
	for i := len(entries); i < len(s.requests); i++ {
		cfg := s.configs[i]
		rows = append(rows, [2]string{s.requests[i].ID, fmt.Sprintf("%s, goal %s, method %s", Counted(len(s.sets[i].Indices), "image"), goalOf(cfg), cfg.Variant)})
	}
	s.desk.plan(append(rows, [2]string{"folder", s.o.Output})...)
	return nil
}
