package run

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/gofrs/flock"

	"l2ul/internal/nearest"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	"l2ul/unlearn"
	"l2ul/unlearn/analysis"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
	"l2ul/unlearn/run/config"
)

// AnalyzeOptions are those of `unlearn analyze`. All else is as the run was configured.
type AnalyzeOptions struct {
	TerminalOptions
	analysis.Options
	Only      []string `flag:"only" sep:"," arg:"NAME,…" group:"analyses" help:"these alone; unlearn ls analyses lists them"`
	Weights   string   `flag:"weights,checkpoint" env:"-" deftext:"those of the run" arg:"FILE" group:"model and data" help:"the weights that the run began with, where they are now"`
	DataDir   string   `flag:"data-dir" env:"-" deftext:"that of the run" arg:"DIR" group:"model and data" help:"the run's data, where it is now"`
	Pool      string   `flag:"pool" env:"-" deftext:"that of the run" arg:"DIR" group:"model and data" help:"of a correction, the pool that its images are from, where it is now"`
	Device    string   `flag:"device" default:"auto" group:"computing" arg:"auto|cpu|cuda[:N]" help:"where to compute"`
	Threads   int      `flag:"threads" min:"0" deftext:"one a core" group:"computing" help:"threads of one operator; changes the last bits"`
	BatchSize string   `flag:"batch-size,b" default:"256" arg:"N|auto" group:"computing" help:"images at once"`
}

// Validate checks what tags cannot say.
func (o *AnalyzeOptions) Validate() error {
	for _, name := range o.Only {
		if !slices.ContainsFunc(analysis.All(), func(a *analysis.Analysis) bool { return a.Name == name }) {
			var known []string
			for _, a := range analysis.All() {
				known = append(known, a.Name)
			}
			return fmt.Errorf("--only: %s", nearest.Unknown("analysis", name, known))
		}
	}
	return (&EvalOptions{BatchSize: o.BatchSize}).check()
}

// AnalysisSchema is the schema name of AnalysisResult.
const AnalysisSchema = "unlearn.analysis/1"

// analysesFolder is where a run folder has its analyses.
const analysesFolder = "analyses"

// AnalysisResult is analyses/NAME.json of a run folder.
type AnalysisResult struct {
	Schema   string            `json:"schema"`
	Name     string            `json:"name"`
	Title    string            `json:"title"`
	Reading  string            `json:"reading"` // how to read it
	Alt      string            `json:"alt"`     // the outcome in words
	Pictures []AnalysisPicture `json:"pictures"`
	Source   string            `json:"source,omitempty"`
	Key      string            `json:"key"` // of all that it was made from: the same key is not made again
	Options  *analysis.Options `json:"options,omitempty"`
	Seed     int64             `json:"seed"`
	Reads    data.Reads        `json:"reads,omitempty"` // samples, as in data_access of a result
	Seconds  float64           `json:"seconds"`
	Versions Versions          `json:"versions"`
	Data     any               `json:"data"`

	kept bool // by an earlier call
}

// AnalysisPicture is a picture beside the JSON.
type AnalysisPicture struct {
	File  string `json:"file"` // PNG
	SVG   string `json:"svg"`  // the same
	Title string `json:"title"`
	Alt   string `json:"alt"`
}

// Analyzed is what `unlearn analyze` did with one run.
type Analyzed struct {
	Run      string            `json:"run"`
	Analyses []AnalysisSummary `json:"analyses"`
}

// AnalysisSummary names an analysis that is there.
type AnalysisSummary struct {
	Name string `json:"name"`
	File string `json:"file"`
	Alt  string `json:"alt"`
	Kept bool   `json:"kept"` // it was there before, made from the same things
}

// analyzing is the work on one run.
type analyzing struct {
	forgetting
	o      AnalyzeOptions
	folder *Folder
	files  map[string]string // hashes of what the run left
	after  *desk
	omega  []nn.Named
	tests  *data.Loader

	forgotten *data.Loader // that the images to forget are of
}

// Analyze makes analyses of finished runs of `unlearn forget` and writes them into their folders. Those that are there, made
// from the same things, are kept. What one analysis or one run fails at does not keep the others from being made.
func Analyze(ctx context.Context, inv Invocation, o AnalyzeOptions, runs []string) (done []*Analyzed, err error) {
	var labels []*analysis.Labels
	var failed []error
	prints := map[string]bool{} // of the training images of labels
	runs = distinct(runs)
	for _, run := range runs {
		a := &analyzing{forgetting: forgetting{desk: desk{Invocation: inv}}, o: o}
		results, err := a.run(ctx, run)
		out := &Analyzed{Run: run, Analyses: []AnalysisSummary{}}
		for _, r := range results {
			out.Analyses = append(out.Analyses, AnalysisSummary{r.Name, filepath.Join(run, analysesFolder, r.Name+".json"), r.Alt, r.kept})
			if l, ok := r.Data.(*analysis.Labels); ok {
				labels = append(labels, l)
				prints[a.set.DataHash] = true
			}
		}
		done = append(done, out)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", run, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	switch {
	case len(failed) > 0 || len(labels) < 2:
		return done, errors.Join(failed...)
	case len(prints) > 1:
		inv.Console.Warn("the runs are of different training images, so there is no agreement of labels to tell")
		return done, nil
	}
	return done, agree(inv.Console, runs, labels, done)
}

// distinct are run folders, each once.
func distinct(runs []string) (once []string) {
	var infos []os.FileInfo
	for _, run := range runs {
		info, err := os.Stat(run) // what is not there is told of later
		if err == nil && slices.ContainsFunc(infos, func(i os.FileInfo) bool { return os.SameFile(i, info) }) {
			continue
		}
		if err == nil {
			infos = append(infos, info)
		}
		once = append(once, filepath.Clean(run))
	}
	return once
}

// agree writes into each run how alike the labels are that the runs give.
func agree(c *Console, runs []string, labels []*analysis.Labels, done []*Analyzed) error {
	var names []string
	for _, r := range runs {
		names = append(names, filepath.Base(r))
	}
	if slices.Sort(names); len(slices.Compact(names)) < len(runs) { // folders of the same name
		names = runs
	}
	found := analysis.Agree(names, labels)
	if found == nil {
		c.Warn("the runs forgot no image in common, so there is no agreement of labels to tell")
		return nil
	}
	result := &AnalysisResult{
		Schema: AnalysisSchema, Name: "agreement", Title: "Agreement of the labels that runs give", Pictures: []AnalysisPicture{},
		Reading: "A share near the expected one means that runs send an image to labels that have nothing to do with each other; a share near 1, that the image decides.",
		Alt: fmt.Sprintf("%d runs give %d images the same label in %.3g of all pairs of runs, %.3g expected by chance",
			len(runs), found.Images, found.Share, found.Expected),
		Versions: CurrentVersions(), Data: found,
	}
	for i, run := range runs {
		path := filepath.Join(run, analysesFolder, "agreement.json")
		if err := WriteJSON(path, result); err != nil {
			return fmt.Errorf("cannot write into the run folder: %w", err)
		}
		done[i].Analyses = append(done[i].Analyses, AnalysisSummary{Name: result.Name, File: path, Alt: result.Alt})
	}
	return nil
}

func (a *analyzing) run(ctx context.Context, run string) (results []*AnalysisResult, err error) {
	end, err := finishedRun(run)
	if err != nil {
		return nil, err
	}
	a.folder = &Folder{path: run, lock: flock.New(filepath.Join(run, lockName))}
	if locked, err := a.folder.lock.TryLock(); err != nil {
		return nil, fmt.Errorf("cannot lock the run folder: %w", err)
	} else if !locked {
		return nil, a.folder.busy()
	}
	defer a.folder.Close()
	if err := a.configure(); err != nil {
		return nil, err
	}
	announcer(ctx)(a.folder.Path(analysesFolder)) // where a second call goes on
	err = a.onDevice(a.compute, func() error {
		defer a.close()
		defer func() {
			if a.after != nil {
				a.after.close()
			}
		}()
		if err := a.open(ctx, end); err != nil {
			return err
		}
		results, err = a.all(ctx)
		return err
	})
	saved := ""
	if len(results) > 0 {
		saved = a.folder.Path(analysesFolder)
	}
	return results, interrupted(ctx, saved, err)
}

// finishedRun reads how a run of `unlearn forget` ended.
func finishedRun(run string) (*end, error) {
	if info, err := os.Stat(run); err != nil {
		return nil, Inputf("no run folder here: %w", reason(err))
	} else if !info.IsDir() {
		return nil, Usagef("this is a file; name the run folder")
	}
	var found struct {
		Schema string `json:"schema"`
		end
	}
	text, err := readBounded(filepath.Join(run, "result.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, Inputf("there is no result.json, so no run has come to its end here")
	case err != nil:
		return nil, Inputf("result.json: %w", err)
	}
	if err := json.Unmarshal(text, &found); err != nil {
		return nil, Inputf("result.json is damaged: %w", err)
	}
	switch {
	case found.Schema != ResultSchema:
		return nil, Inputf("result.json is %.40q, and only runs of `unlearn forget` (%s) can be analyzed", found.Schema, ResultSchema)
	case found.Outcome == unlearn.Interrupted:
		return nil, Inputf("the run was interrupted; go on with it first")
	case found.Outcome == unlearn.Diverged:
		return nil, Inputf("the run diverged, so there is no network after it")
	}
	return &found.end, nil
}

// readBounded reads a file of JSON that no run makes larger.
func readBounded(path string) ([]byte, error) {
	const most = 256 << 20
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(text) > most {
		err = fmt.Errorf("it has more than %d bytes", most)
	}
	return text, err
}

// configure takes the run's configuration, with what the options say in its place.
func (a *analyzing) configure() error {
	flags := map[string][]string{
		"config": {a.folder.Path("config.yaml")}, "device": {a.o.Device}, "batch-size": {a.o.BatchSize}, "threads": {strconv.Itoa(a.o.Threads)},
		"tf32": {"false"}, // which a CPU has not, wherever the run was
	}
	for name, value := range map[string]string{"weights": a.o.Weights, "data-dir": a.o.DataDir, "pool": a.o.Pool} {
		if value != "" {
			flags[name] = []string{value}
		}
	}
	var err error
	if a.Config, err = a.Catalog.Resolve("forget", config.Sources{Flags: flags}); err != nil {
		return Inputf("its configuration: %w", err)
	}
	if err := a.decode(); err != nil {
		return Inputf("its configuration: %w", err)
	}
	a.clip = "off"                  // analyses are in pixels, whatever the run's attack was in
	if a.mode != engine.Reference { // an attack of an analysis is that of mode exact
		a.mode = engine.Exact
	}
	if a.method.Driver == unlearn.ByAdversarial {
		return nil
	}
	defaults, err := a.Catalog.Resolve("attack", config.Sources{})
	if err != nil {
		return err
	}
	return defaults.Decode(&a.attack)
}

// open reads data, both networks and what the run left, and checks that they are the run's.
func (a *analyzing) open(ctx context.Context, end *end) (err error) {
	if a.forgetting.o.Pool != "" {
		err = a.forgetting.read(ctx)
	} else if a.set, err = a.loadForgetSet(ctx, "@"+a.folder.Path("forget.json"), "train", "test"); err == nil {
		a.rest = data.Complement(a.train.Len(), a.set.Indices)
	}
	if err != nil {
		return err
	}
	if hash := a.weights.Hash(); hash != end.Hashes.Weights {
		return Inputf("the run began with weights of hash %.12s, and %s has %.12s; name the right file with --weights", end.Hashes.Weights, a.model.Weights, hash)
	}
	if hash := a.train.Fingerprint(); hash != end.Hashes.Data {
		return Inputf("the run's data has hash %.12s, and that of %s is %.12s; name the right one with --data-dir", end.Hashes.Data, a.source.Dataset, hash)
	}
	if hash := a.set.Hash(); hash != end.Forget.Hash {
		if a.pool == nil {
			return Inputf("forget.json is not that of the run (hash %.12s there, %.12s in result.json)", hash, end.Forget.Hash)
		}
		return Inputf("the run corrected other images than --pool %s gives now (hash %.12s, and now %.12s); name the right one with --pool", a.forgetting.o.Pool, end.Forget.Hash, hash)
	}
	path, err := a.folder.model()
	if err != nil {
		return err
	}
	after := a.desk
	after.weights, after.origin, after.net, after.still, after.scoring, after.loaders = nil, nil, nil, nil, nil, nil
	after.model.Weights, after.model.Strict = path, true
	a.after = &after
	if err := after.load(ctx); err != nil {
		return err
	}
	a.files = map[string]string{"before": a.weights.Hash(), "after": after.weights.Hash()}
	if err := a.openExamples(end.Compat["vit-clip"] == "on"); err != nil {
		return Inputf("adversarial.safetensors: %w", err)
	}
	if err := a.openImportance(); err != nil {
		return Inputf("importance.safetensors: %w", err)
	}
	return nil
}

// model finds the file of the weights after.
func (f *Folder) model() (string, error) {
	for _, name := range []string{plainModel, "model.pt", "model.npz"} {
		if _, err := os.Stat(f.Path(name)); err == nil {
			return f.Path(name), nil
		}
	}
	return "", Inputf("there is no %s, the network after it", plainModel)
}

// openExamples reads the examples that the method worked with, if it did with any, and makes pixels of normalised ones.
func (a *analyzing) openExamples(normalised bool) error {
	file, err := ckpt.Load(a.folder.Path("adversarial.safetensors"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	set, err := a.unpackAdversarial(file, file.Metadata["key"])
	if err != nil {
		return err
	}
	if set == nil {
		return fmt.Errorf("it holds no adversarial examples (schema %.40q)", file.Metadata["schema"])
	}
	a.crafted = set
	if shape := set.X.Shape(); !slices.Equal(shape[1:], []int64{int64(a.train.C), int64(a.train.H), int64(a.train.W)}) {
		return fmt.Errorf("images of shape %v are not the data's", shape)
	}
	for i, p := range set.Pairs {
		if p.Source < 0 || p.Source >= len(a.set.Indices) || p.Target < 0 || p.Target >= len(a.train.Classes) {
			return fmt.Errorf("pair %d is of image %d of %d toward class %d of %d", i, p.Source, len(a.set.Indices), p.Target, len(a.train.Classes))
		}
	}
	a.files["adversarial"] = file.Hash()
	if normalised {
		torch.Scope(func() {
			mean, std := a.constants()
			channels := func(t torch.Tensor) torch.Tensor { return t.Reshape(1, -1, 1, 1).To(a.device, torch.Float) }
			pixels := a.here(set.X.CastTo(torch.Float).Mul(channels(std)).Add(channels(mean), 1))
			set.Free()
			set.X = pixels
			torch.Own(set.X)
		})
	}
	return nil
}

// openImportance reads Ω, if the method has one.
func (a *analyzing) openImportance() error {
	file, err := ckpt.Load(a.folder.Path("importance.safetensors"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if a.omega, err = nn.Unpack(file); err != nil {
		return err
	}
	for _, p := range a.net.Root().NamedParameters() {
		if o, ok := named(a.omega, p.Name); ok && !slices.Equal(o.Shape(), p.Tensor.Shape()) {
			return fmt.Errorf("%s has shape %v, and the network's has %v", p.Name, o.Shape(), p.Tensor.Shape())
		}
	}
	a.files["importance"] = file.Hash()
	return nil
}

// all makes the analyses that were asked for.
func (a *analyzing) all(ctx context.Context) (results []*AnalysisResult, err error) {
	if err := os.MkdirAll(a.folder.Path(analysesFolder), 0o755); err != nil {
		return nil, fmt.Errorf("cannot write into the run folder: %w", err)
	}
	a.training, a.tests = a.loader(a.train), a.loader(a.desk.test)
	a.forgotten = a.training
	if a.pool != nil {
		a.forgotten = a.pool.loader
	}
	var failed []error
	for _, which := range analysis.All() {
		if len(a.o.Only) > 0 && !slices.Contains(a.o.Only, which.Name) {
			continue
		}
		key := a.keyOf(which)
		result := a.kept(which.Name, key)
		if result == nil {
			if result, err = a.make(ctx, which, key); err != nil {
				if ctx.Err() != nil {
					return results, err
				}
				failed = append(failed, fmt.Errorf("%s: %w", which.Name, err))
				continue
			}
		}
		results = append(results, result)
	}
	return results, errors.Join(failed...)
}

// keyOf is the hash of all that decides an analysis, but for the machine, whose part is in the last bits.
func (a *analyzing) keyOf(which *analysis.Analysis) string {
	sum := sha256.Sum256(canonical(map[string]any{
		"schema": AnalysisSchema, "name": which.Name, "options": a.o.Options, "files": a.files, "train": a.train.Fingerprint(), "test": a.desk.test.Fingerprint(),
		"forget": a.set.Hash(), "attack": a.attack, "feed": a.feed, "mode": a.mode, "seed": a.compute.Seed, "unlearn": CurrentVersions().Unlearn,
	}))
	return hex.EncodeToString(sum[:])
}

// kept is an analysis that is there, whole and of the key; else nil.
func (a *analyzing) kept(name, key string) *AnalysisResult {
	text, err := readBounded(a.folder.Path(analysesFolder, name+".json"))
	if err != nil {
		return nil
	}
	found := &AnalysisResult{kept: true}
	if name == "labels" { // agree goes on with it
		found.Data = &analysis.Labels{}
	}
	if json.Unmarshal(text, found) != nil || found.Key != key {
		return nil
	}
	for _, p := range found.Pictures {
		for _, file := range []string{p.File, p.SVG} {
			if _, err := os.Stat(a.folder.Path(analysesFolder, filepath.Base(file))); err != nil {
				return nil
			}
		}
	}
	return found
}

// make computes an analysis and writes it, the JSON last.
func (a *analyzing) make(ctx context.Context, which *analysis.Analysis, key string) (*AnalysisResult, error) {
	began := time.Now()
	meter := data.NewMeter(a.method.Regime, nil)
	meter.Enter(data.PhaseAfter)
	subject := &analysis.Subject{
		Before: analysis.Network{Classifier: a.net, Frozen: a.frozen()}, After: analysis.Network{Classifier: a.after.net, Frozen: a.after.frozen()},
		Classes: a.train.Classes, Forget: a.set, Rest: a.rest, Train: a.training, Test: a.tests, Forgotten: a.forgotten, TestLen: a.desk.test.Len(),
		Shape: [3]int64{int64(a.train.C), int64(a.train.H), int64(a.train.W)}, Device: a.device, Format: a.format(),
		Meter: meter, Examples: a.crafted, Cropped: a.feed.Augment, Attack: a.attack, Importance: a.omega, Seed: a.compute.Seed, Batch: a.batch(), Options: a.o.Options,
		Progress: func(phase, unit string, total int) (func(done int), func()) {
			p := a.Console.Progress(phase, unit, int64(total))
			return func(done int) { p.Set(int64(done)) }, p.Done
		},
	}
	var found *analysis.Finding
	var err error
	if failed := torch.Try(func() {
		torch.Scope(func() {
			subject.Pairs = a.attackJob(attack.Options{}, 0, a.set, torch.Tensor{}, 0).Chunk
			found, err = which.Run(ctx, subject)
		})
	}); failed != nil {
		return nil, failed
	}
	if err != nil {
		return nil, err
	}
	result := &AnalysisResult{
		Schema: AnalysisSchema, Name: which.Name, Title: found.Title, Reading: found.Reading, Alt: found.Alt, Pictures: []AnalysisPicture{},
		Source: which.Source, Key: key, Options: &a.o.Options, Seed: a.compute.Seed, Reads: data.Reads{data.PhaseAfter: meter.Reads()[data.PhaseAfter]},
		Versions: CurrentVersions(), Data: found.Data,
	}
	if err := a.write(result, found.Pictures, began); err != nil {
		return nil, fmt.Errorf("cannot write into the run folder: %w", err)
	}
	return result, nil
}

// write replaces an analysis: what described the old pictures goes first.
func (a *analyzing) write(r *AnalysisResult, pictures []analysis.Picture, began time.Time) error {
	path := func(file string) string { return a.folder.Path(analysesFolder, file) }
	if err := removeIfThere(path(r.Name + ".json")); err != nil {
		return err
	}
	for _, suffix := range []string{"png", "svg"} { // an earlier call may have drawn more
		old, err := filepath.Glob(path(r.Name + "-*." + suffix))
		if err != nil {
			return err
		}
		for _, file := range old {
			if err := removeIfThere(file); err != nil {
				return err
			}
		}
	}
	for _, p := range pictures {
		file := AnalysisPicture{File: p.Name + ".png", SVG: p.Name + ".svg", Title: p.Title, Alt: p.Alt}
		if err := errors.Join(WriteFile(path(file.File), p.PNG), WriteFile(path(file.SVG), p.SVG)); err != nil {
			return err
		}
		r.Pictures = append(r.Pictures, file)
	}
	r.Seconds = time.Since(began).Seconds()
	text, err := json.Marshal(r) // on one line: grids of numbers would take three times the room
	if err != nil {
		return err
	}
	return WriteFile(path(r.Name+".json"), append(text, '\n'))
}
