package run

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/cuda"
	"l2ul/torch/models"
	"l2ul/torch/nn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/chunk"
	"l2ul/unlearn/data"
	"l2ul/unlearn/engine"
	"l2ul/unlearn/kernels"
	"l2ul/unlearn/metrics"
	"l2ul/unlearn/run/cache"
	"l2ul/unlearn/run/config"
)

// Invocation is one command line, resolved.
type Invocation struct {
	Catalog config.Catalog
	Config  *config.Config
	Argv    []string
	Args    []string // positional arguments, of verbs that have them
	Console *Console
}

// desk is what a job works with: device, data, network. It exists inside torch.Run, whose scope owns what it holds.
type desk struct {
	Invocation
	model   ModelOptions
	source  DataOptions
	compute ComputeOptions
	eval    EvalOptions

	preprocess  data.Preprocess // of image files
	sized       bool            // the dataset has such
	warnings    []string        // that the result tells
	guessed     []string        // what auto stood for, likewise
	clip        string          // --compat.vit-clip
	fed         FeedOptions
	feed        feed         // what that comes to, once the network is known
	borders     *data.Loader // of the training images with what crops are cut from; nil without crops
	larger      []int        // labels of --compat.utk-subset; nil without
	cache       *cache.Cache
	train, test *data.Set
	device      torch.Device
	loaders     []*data.Loader
	net         models.Classifier
	mode        engine.Mode
	amp         bool            // training is in mixed precision
	still       *engine.Network // the network while it is frozen, nil before and after
	fallback    string          // how it ran in place of the mode that was asked for, and why
	scoring     *chunk.Size     // images at once when scoring; nil before the first
	memory      int64           // that the device has to offer, as it was when the data had been read
	ungraphed   bool            // it has been said that there are no CUDA graphs
	weights     *ckpt.File      // as read, under our names; nil for a fresh network
	origin      *Origin         // of the weights, likewise
	pairs       *importedPairs
	crafted     *attack.Set // that drives the loop
}

// onDevice runs fn as a job on the device that the options ask for.
func (d *desk) onDevice(o ComputeOptions, fn func() error) error {
	return d.profiled(o.Profile, func() (err error) {
		if d.device, err = findDevice(o.Device); err != nil {
			return err
		}
		if err := d.allowTF32(o.TF32); err != nil {
			return err
		}
		if o.Threads > 0 {
			torch.SetNumThreads(o.Threads)
		}
		torch.SetDeterministic(o.Deterministic)
		if err := kernels.Load(); err != nil {
			return err
		}
		return torch.Run(d.device, fn)
	})
}

// enter begins a phase of the job, for --profile.
func (d *desk) enter(phase data.Phase) { d.Console.profile.enter(string(phase)) }

// findDevice resolves --device and opens what it needs, which must happen before the first tensor is made. "auto" is the
// first GPU of a machine that has all that computing on one takes, and the CPU elsewhere.
func findDevice(name string) (torch.Device, error) {
	if name == "auto" {
		name = "cpu"
		if cuda.Open() == nil {
			name = "cuda"
		}
	}
	device, err := torch.NewDevice(name)
	if err != nil {
		return device, Usagef("--device: %w", err)
	}
	if device.Type == torch.CPUType {
		return torch.CPU, nil
	}
	if err := cuda.Open(); err != nil {
		return device, Devicef("--device %s: %w", name, err)
	}
	devices, err := cuda.Devices()
	if err != nil {
		return device, Devicef("--device %s: %w", name, err)
	}
	device.Index = max(device.Index, 0)
	if device.Index >= len(devices) {
		return device, Devicef("--device %s: there are %d GPUs, counted from 0", name, len(devices))
	}
	return device, nil
}

// allowTF32 decides whether the GPU's products round to TF32, which libtorch does for some unless it is told.
func (d *desk) allowTF32(on bool) error {
	if on && d.mode == engine.Reference {
		return Usagef("--tf32 rounds, and --mode reference has the bits of float32: leave one of them out")
	}
	if d.device.Type == torch.CPUType {
		if on {
			return Usagef("--tf32 is arithmetic of GPUs, and this job runs on the CPU: leave it out")
		}
		return nil
	}
	cuda.AllowTF32(on) // which every GPU that cuda.Open accepts has
	return nil
}

func (d *desk) format() torch.MemoryFormat {
	if d.compute.ChannelsLast {
		return torch.ChannelsLast
	}
	return torch.Contiguous
}

// openData reads splits, the first of which is "train" and a second "test", unless they have been read before.
func (d *desk) openData(ctx context.Context, splits ...string) error {
	source, err := d.dataSource(ctx)
	if err != nil {
		return err
	}
	if d.train == nil {
		sets, err := data.Open(ctx, d.source.Dataset, source, splits...)
		if err != nil {
			return err
		}
		d.train = sets[0]
		if len(sets) > 1 {
			d.test = sets[1]
			if set, _ := data.Lookup(d.source.Dataset); set.Whole {
				d.Console.Warn(d.source.Dataset + " is not divided: the test images are the training images, those to forget among them")
			}
		}
	}
	d.memory = d.unused()
	return nil
}

// dataSource says where the dataset is and how it is to be read.
func (d *desk) dataSource(ctx context.Context) (source data.Source, err error) {
	dir := d.source.DataDir
	if dir == "" && d.source.Dataset == autoDataset {
		return source, Usagef("say where the data is with --data-dir, or name it with --dataset (unlearn ls datasets)")
	}
	if dir == "" {
		dir = fetched(d.source.Dataset)
	} else if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && !strings.Contains(dir, "{") { // a pattern, which webdataset and parquet know
		return source, Inputf("--data-dir %s: no such file or directory", dir)
	}
	if d.source.Dataset == autoDataset {
		if err := d.guessDataset(ctx); err != nil {
			return source, err
		}
	}
	if d.cache, err = openCache(); err != nil {
		return source, err
	}
	source = data.Source{Dir: dir, Workers: d.source.Workers, Note: d.Console.Warn, Watch: d.watchDecoding}
	if err := d.keepDecoded(&source); err != nil {
		return source, err
	}
	if err := d.choosePreprocess(ctx); err != nil {
		return source, err
	}
	source.Label, source.Preprocess = d.source.Label, d.preprocess
	return source, nil
}

// bordered reads the training images once more, so many pixels higher and wider than they are prepared otherwise.
func (d *desk) bordered(ctx context.Context, pixels int) (*data.Set, error) {
	source, err := d.dataSource(ctx)
	if err != nil {
		return nil, err
	}
	source.Preprocess.Crop += pixels
	sets, err := data.Open(ctx, d.source.Dataset, source, "train")
	if err != nil {
		return nil, err
	}
	return sets[0], nil
}

// autoDataset in place of a dataset's name is the one that --data-dir looks like.
const autoDataset = "auto"

// guessDataset finds out which dataset that is. Where several could be meant, the user is asked.
func (d *desk) guessDataset(ctx context.Context) error {
	dir := d.source.DataDir
	switch names := data.Guess(ctx, dir); len(names) {
	case 0:
		return Usagef("%s looks like no dataset that is known; name it with --dataset (unlearn help formats tells what lies where)", dir)
	case 1:
		if whole := filepath.Dir(filepath.Clean(dir)); names[0] == "folder" && isSplit(dir) && slices.Contains(data.Guess(ctx, whole), "imagefolder") {
			return Usagef("%s is a part of the dataset in %s: name that one, or say --dataset folder if these images are all there are", dir, whole)
		}
		d.source.Dataset = names[0]
	default:
		return Usagef("%s could be %s: which is it? Say so with --dataset", dir, strings.Join(names, " or "))
	}
	d.guess("dataset", d.source.Dataset)
	return nil
}

// isSplit reports whether a folder is called as the splits of an image folder are.
func isSplit(dir string) bool {
	return slices.Contains([]string{"train", "test", "val"}, filepath.Base(dir))
}

// guess notes what auto stood for, which the result tells too.
func (d *desk) guess(what, name string) {
	d.guessed = append(d.guessed, what+": "+name)
	d.Console.Log().Info().Msgf("--%s auto: taken for %s", what, name)
}

// watchDecoding shows how many images of a split are decoded.
func (d *desk) watchDecoding(_ string, images int) (decoded func(n int), end func()) {
	progress := d.Console.Progress("decode", "images", int64(images))
	return func(n int) { progress.Add(int64(n)) }, progress.Done
}

// keepDecoded says where decoded images are kept, and how much of them.
func (d *desk) keepDecoded(source *data.Source) (err error) {
	if text := os.Getenv("UNLEARN_CACHE_IMAGES"); text != "" {
		if source.CacheSize, err = cache.ParseSize(text); err != nil {
			return Usagef("UNLEARN_CACHE_IMAGES: %w", err)
		}
		if source.CacheSize == 0 {
			return nil
		}
	}
	if source.Cache, err = d.cache.Folder("decoded"); err != nil {
		d.Console.Warn("decoded images are not kept: " + err.Error())
	}
	return nil
}

// openCache opens the cache of earlier runs. A user without a folder for it has none.
func openCache() (*cache.Cache, error) {
	limit, err := cache.ParseSize(cmp.Or(os.Getenv("UNLEARN_CACHE_SIZE"), defaultCacheSize))
	if err != nil {
		return nil, Usagef("UNLEARN_CACHE_SIZE: %w", err)
	}
	dir, err := CacheDir()
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // a nil cache holds nothing and takes nothing
	}
	return cache.New(dir, limit), nil
}

// defaultCacheSize holds a few hundred adversarial sets of CIFAR, or one of ImageNet with few images to forget.
const defaultCacheSize = "8G"

// alone keeps other processes from making an entry of the cache until unlock is called, waiting while one does.
func (d *desk) alone(ctx context.Context, kind, key string) (unlock func(), err error) {
	unlock, err = d.cache.Lock(ctx, kind, key, func() {
		d.Console.Log().Info().Str("kind", kind).Str("key", key).Msg("another process makes this very entry of the cache; waiting for it")
	})
	if err := context.Cause(ctx); err != nil {
		if unlock != nil {
			unlock()
		}
		return nil, err
	}
	if err != nil {
		d.Console.Log().Warn().Err(err).Msg("the cache cannot be locked: another process may make the same")
		unlock = func() {}
	}
	return unlock, nil
}

// forgetSet resolves what --forget or -k says.
func (d *desk) forgetSet(text string) (*data.ForgetSet, error) {
	if text == "" {
		return nil, Usagef("say what to forget: -k 16 for 16 random training images, or --forget with class:3, ids:1,5,9, @names.txt or @forget.json")
	}
	spec, err := data.ParseSpec(text)
	if err != nil {
		return nil, err
	}
	return spec.Resolve(d.train, d.compute.Seed)
}

// loader brings a split to the device; close gives back what that took.
func (d *desk) loader(set *data.Set) *data.Loader {
	room, _ := d.room()
	if d.device.Type == torch.CUDAType {
		room = min(room, chunk.Memory(os.DirFS("/"))) // the host's, which what goes to a GPU passes through
	}
	l := data.NewLoader(set, d.device, d.format(), room)
	d.loaders = append(d.loaders, l)
	torch.Scope(func() {
		if table := d.table(set.C); table.Defined() {
			l.Remap(table)
		}
	})
	return l
}

// close gives back what no scope owns.
func (d *desk) close() {
	for _, l := range d.loaders {
		l.Free()
	}
	d.thaw()
	if d.net != nil {
		d.net.Root().Free()
	}
	if d.crafted != nil {
		d.crafted.Free()
	}
}

// noteFallback remembers, and says once, that the network does not run as --mode asks, or not as fast.
func (d *desk) noteFallback() string {
	if d.still != nil && d.fallback == "" && d.still.Fallback() != "" {
		d.fallback = d.still.Fallback()
		d.Console.Log().Info().Str("reason", d.fallback).Msgf("not all of the network runs as --mode %s says", d.mode)
	}
	if d.still != nil && !d.ungraphed && d.still.NoGraph() != "" {
		d.ungraphed = true
		d.Console.Log().Info().Str("reason", d.still.NoGraph()).Msg("the attack's steps are queued one by one, without a CUDA graph: same bits, but slower")
	}
	return d.fallback
}

// precision is that of products, of the attack's or of training first.
func (d *desk) precision() string {
	var names []string
	if d.amp || d.mode == engine.BF16 && d.noteFallback() == "" {
		names = append(names, "bf16")
	}
	if d.compute.TF32 {
		names = append(names, "tf32")
	}
	return cmp.Or(strings.Join(names, "+"), "fp32")
}

// frozen is the network for many runs with the weights it has now.
func (d *desk) frozen() *engine.Network {
	if d.still == nil {
		d.still = engine.Freeze(d.net, d.mode)
	}
	return d.still
}

// batch is how many images are scored at once: what --batch-size says or, for auto, what cache and memory hold.
func (d *desk) batch() *chunk.Size {
	if d.scoring != nil {
		return d.scoring
	}
	n, err := d.eval.batch()
	if err != nil {
		panic(err) // Validate has refused it
	}
	if d.scoring = chunk.Fixed(n); n == 0 {
		_, largest := d.frozen().Footprint(d.blank())
		memory, cache := d.room()
		// What a layer reads, what it writes, and a residual wait at a time.
		d.scoring = d.shrinking(chunk.Fit(3*largest, memory, cache))
		d.Console.Log().Info().Int("images", d.scoring.N()).Msg("--batch-size auto: images at once when scoring")
	}
	return d.scoring
}

// shrinking is a size that says so when it shrinks.
func (d *desk) shrinking(n int) *chunk.Size {
	return chunk.Shrinking(n, func(before, after int) {
		d.Console.Warn(fmt.Sprintf("out of memory with %d images at once; going on with %d, which may change the last bits", before, after))
	})
}

// gpuCache is less than the second-level caches of GPUs with much memory.
const gpuCache = 32 << 20

// room is what memory and cache the device has to offer, in bytes. Of memory it is what there was before anything was
// computed: what a phase gives back stays with the process and looks used, and which phases a run has depends on the cache.
func (d *desk) room() (memory, cache int64) {
	if d.device.Type == torch.CUDAType {
		return d.memory, gpuCache
	}
	return d.memory, chunk.Cache(os.DirFS("/"))
}

// unused is the memory that the device has to offer now.
func (d *desk) unused() int64 {
	if d.device.Type == torch.CUDAType {
		m := cuda.MemoryOf(d.device)
		return m.Free + m.Reserved - m.Allocated
	}
	return chunk.Memory(os.DirFS("/"))
}

// thaw ends that; it comes before any change of the weights.
func (d *desk) thaw() {
	if d.still == nil {
		return
	}
	d.noteFallback()
	d.Console.Log().Debug().Int64("bytes", d.still.Bytes()).Msg("the plan of the frozen network is given back")
	d.still.Thaw()
	d.still = nil
}

// classes is the number of classes of the data, which the network must have.
func (d *desk) classes() (int, error) {
	n := len(d.train.Classes)
	if asked := d.model.NumClasses; asked != 0 && asked != n {
		return 0, Inputf("--num-classes %d: %s has %d classes", asked, d.source.Dataset, n)
	}
	return n, nil
}

// autoModel in place of a network's name is the network that the weights fit.
const autoModel = "auto"

// build makes the network, with fresh weights unless it is to be given others.
func (d *desk) build(undrawn bool) error {
	switch d.model.Model {
	case "", autoModel:
		return Usagef("name the network with --model (`unlearn ls models` lists them), or with --weights a checkpoint to tell it from")
	}
	classes, err := d.classes()
	if err != nil {
		return err
	}
	card, err := models.Info(d.model.Model)
	if err != nil {
		return Usagef("--model: %w", err)
	}
	if card.FixedSize && (d.train.H != card.Size || d.train.W != card.Size) {
		return Usagef("--model %s knows positions in images of %d x %d pixels alone, and those of %s have %d x %d: take another network, or --img-size %d for image files",
			card.Name, card.Size, card.Size, d.source.Dataset, d.train.H, d.train.W, card.Size)
	}
	d.compareCard(card)
	if err := d.chooseFeed(card); err != nil {
		return err
	}
	o := models.Options{Classes: classes, Mean: d.model.Mean, Std: d.model.Std, Undrawn: undrawn}
	if d.feed.Clip { // what it gets is normalised
		o.Mean, o.Std = []float64{0, 0, 0}, []float64{1, 1, 1}
	}
	d.net, err = models.New(d.model.Model, o)
	if err != nil {
		return Usagef("--model: %w", err)
	}
	nn.ToMemoryFormat(d.net, d.format())
	d.net.Root().To(d.device)
	return nil
}

// checkNormalization refuses weights that were saved behind a layer which normalises in another way than the network does.
func (d *desk) checkNormalization(file *ckpt.File) error {
	card, err := models.Info(d.model.Model)
	if err != nil {
		return err
	}
	mean, std := d.normalisation(card)
	ours := map[string][]float64{"mean": mean, "std": std}
	layer, err := nn.Unpack(&ckpt.File{Tensors: file.Format.Front})
	if err != nil {
		return Inputf("%s: %w", d.model.Weights, err)
	}
	for _, t := range layer {
		name := t.Name[strings.LastIndexByte(t.Name, '.')+1:]
		theirs := torch.ToSlice[float64](t.Tensor.CastTo(torch.Double))
		same := slices.EqualFunc(theirs, ours[name], func(a, b float64) bool { return math.Abs(a-b) < 1e-5 })
		if !same {
			return Inputf("%s was trained behind a layer whose %s is %.6g, and %s has %.6g: set --mean and --std to those of the checkpoint",
				d.model.Weights, t.Name, theirs, d.model.Model, ours[name])
		}
	}
	return nil
}

// normalisation is what the network does to pixels first: what the user says, else what its card does.
func (d *desk) normalisation(card models.Card) (mean, std []float64) {
	mean, std = card.Mean, card.Std
	if d.model.Mean != nil {
		mean = d.model.Mean
	}
	if d.model.Std != nil {
		std = d.model.Std
	}
	return mean, std
}

// score evaluates the network on images, with progress under the name of a phase.
func (d *desk) score(ctx context.Context, phase string, images metrics.Images) (Score, error) {
	scores, err := scoreAll(ctx, phase, images, d)
	if err != nil {
		return Score{}, err
	}
	return scores[0], nil
}

// scoreAll evaluates the networks of several desks in one pass over the images.
func scoreAll(ctx context.Context, phase string, images metrics.Images, desks ...*desk) ([]Score, error) {
	classifiers := make([]metrics.Classifier, len(desks))
	for i, d := range desks {
		classifiers[i] = d.frozen().Logits
	}
	return desks[0].scoreEach(ctx, phase, images, classifiers...)
}

// scoreEach evaluates classifiers in one pass over the images.
func (d *desk) scoreEach(ctx context.Context, phase string, images metrics.Images, classifiers ...metrics.Classifier) ([]Score, error) {
	progress := d.Console.Progress(phase, "images", int64(images.Len()))
	defer progress.Done()
	measured, err := metrics.EvaluateAll(ctx, classifiers, images, d.batch(), func(done int) { progress.Set(int64(done)) })
	if err != nil {
		return nil, err
	}
	scores := make([]Score, len(measured))
	for i, s := range measured {
		loss := Number(s.Loss)
		scores[i] = Score{Accuracy: s.Accuracy(), Loss: &loss, Hits: s.Hits, N: s.N}
	}
	return scores, nil
}

// limited cuts a list of samples as --limit says.
func (d *desk) limited(indices []int) []int {
	limit, err := data.ParseLimit(d.eval.Limit)
	if err != nil {
		return indices // Validate has refused it
	}
	return limit.Of(indices)
}

func (inv *Invocation) opening(o FolderOptions) Opening {
	return Opening{Catalog: inv.Catalog, Config: inv.Config, Options: o, Argv: inv.Argv, Now: time.Now()}
}

// open makes or finds the run folder and says that the job begins.
func (inv *Invocation) open(o FolderOptions) (*Folder, *Checkpoint, error) {
	if err := inv.checkTracking(o.TrackOptions); err != nil {
		return nil, nil, err
	}
	folder, checkpoint, err := OpenFolder(inv.opening(o))
	if err != nil {
		return nil, nil, err
	}
	if err := inv.Console.Attach(folder); err != nil {
		return nil, nil, errors.Join(err, folder.Close())
	}
	if err := inv.track(folder, o); err != nil {
		return nil, nil, errors.Join(err, folder.Close())
	}
	if err := WriteJSON(folder.Path("env.json"), CurrentEnvironment()); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("cannot write into the run folder: %w", err), folder.Close())
	}
	if o.Resume == "auto" && checkpoint == nil {
		inv.Console.Log().Info().Str("folder", folder.Path()).Msg("--resume auto: nothing to go on with, so the run begins")
	}
	start := Start{Verb: inv.Config.Spec.Verb, Folder: folder.Path(), ConfigHash: folder.ConfigHash()}
	if checkpoint != nil {
		start.Resumed = checkpoint.Step
		inv.Console.Log().Info().Int64("step", checkpoint.Step).Msg("going on from " + checkpoint.TensorFile())
		if elsewhere := checkpoint.Elsewhere(); elsewhere != "" {
			inv.Console.Warn(elsewhere)
		}
	}
	inv.Console.Emit(start)
	return folder, checkpoint, nil
}

// saver saves checkpoints at the cadence of --save-every.
type saver struct {
	inv      *Invocation
	folder   *Folder
	keep     int
	cadence  Cadence
	inputs   map[string]string
	announce func(checkpoint string)

	savedStep int64
	savedAt   time.Time
	last      string // manifest of the newest checkpoint, "" for none
}

func (inv *Invocation) newSaver(ctx context.Context, f *Folder, o FolderOptions, inputs map[string]string, resumed *Checkpoint) (*saver, error) {
	cadence, err := ParseCadence(o.SaveEvery)
	if err != nil {
		return nil, err
	}
	s := &saver{inv: inv, folder: f, keep: o.Keep, cadence: cadence, inputs: inputs, announce: announcer(ctx), savedAt: time.Now()}
	if resumed != nil {
		s.savedStep = resumed.Step
		s.last = strings.TrimSuffix(resumed.TensorFile(), ".safetensors") + ".json"
		s.announce(s.last)
	}
	return s, nil
}

// save writes a checkpoint if it is due or forced.
func (s *saver) save(step int64, force bool, tensors []nn.Named, state any) error {
	if !force && !s.cadence.Due(step, s.savedStep, time.Now(), s.savedAt) {
		return nil
	}
	manifest, err := s.folder.SaveCheckpoint(step, s.keep, func(path string) error { return ckpt.Save(path, nn.Pack(tensors)) }, s.inputs, state)
	if err != nil {
		return err
	}
	s.savedStep, s.savedAt, s.last = step, time.Now(), manifest
	s.announce(manifest)
	s.inv.Console.Emit(CheckpointEvent{Step: step, Path: manifest})
	return nil
}

// described names the weights that were read.
func (d *desk) described() string {
	return fmt.Sprintf("weights %s (hash of its tensors %.12s)", d.model.Weights, d.weights.Hash())
}

// plan tells what a job would do, for --dry-run: data, network, and what the verb adds.
func (d *desk) plan(rows ...[2]string) {
	network := d.model.Model + ", fresh weights"
	if d.weights != nil {
		network = d.model.Model + ", " + d.described()
	}
	all := [][2]string{
		{"data", fmt.Sprintf("%s: %s of %d classes, %s", d.train.Dataset, Counted(d.train.Len(), "training image"), len(d.train.Classes), Counted(d.test.Len(), "test image"))},
		{"network", network},
	}
	if card, err := models.Info(d.model.Model); err == nil { // of eval, several networks may have none in common
		mean, std := d.normalisation(card)
		all = append(all, [2]string{"pixels", fmt.Sprintf("in [0, 1], less the mean %v, over the deviation %v", mean, std)})
	}
	if quirks := d.compat(); quirks != nil {
		all = append(all, [2]string{"compat", quirks.String()})
	}
	d.Console.Plan(d.Config.Spec.Verb, append(all, rows...))
}

// planRun is plan for a job with a run folder. It fails where the run would refuse the folder, or its inputs beside those of
// the checkpoint that it would go on from.
func (d *desk) planRun(o FolderOptions, inputs map[string]string, rows ...[2]string) error {
	opening := d.opening(o)
	opening.Now = time.Time{} // the run will have another
	found, err := PreviewFolder(opening)
	if err != nil {
		return err
	}
	folder := found.Path
	switch {
	case found.Checkpoint != nil:
		if err := found.Checkpoint.CheckInputs(inputs); err != nil {
			return err
		}
		folder += fmt.Sprintf(", going on from step %d", found.Checkpoint.Step)
	case found.Replaces:
		folder += ", replacing the run that is there"
	}
	d.plan(append(rows, [2]string{"folder", folder})...)
	return nil
}

// about fills in About; weights is the hash of the network that the result is about.
func (d *desk) about(schema, outcome string, o FolderOptions, f *Folder, weights string) About {
	return About{
		Schema: schema, Name: o.Name, Tags: o.Tags, Model: d.model.Model, Origin: d.origin, Dataset: d.train.Dataset, Outcome: outcome,
		Hashes: Hashes{Weights: weights, Data: d.train.Fingerprint(), Config: f.ConfigHash()},
		Device: d.device.String(), Precision: d.precision(), Mode: d.mode, Fallback: d.noteFallback(), Threads: d.compute.Threads, Seed: d.compute.Seed,
		Compat: d.compat(), Preprocess: d.prepared(), Guessed: d.guessed, Warnings: d.warnings, Versions: CurrentVersions(),
	}
}

// earlier is when a job would have begun that has worked for so many seconds before, in processes that were stopped.
func earlier(began time.Time, seconds float64) time.Time {
	return began.Add(-time.Duration(seconds * float64(time.Second)))
}

// tensorsOf reads the tensors of a checkpoint into the current scope.
func tensorsOf(c *Checkpoint) ([]nn.Named, error) {
	file, err := ckpt.Load(c.TensorFile())
	if err != nil {
		return nil, Inputf("checkpoint: %w", err)
	}
	return nn.Unpack(file)
}

// interrupted returns the error of a job that a signal stopped, or err itself.
func interrupted(ctx context.Context, checkpoint string, err error) error {
	if stop := StopCause(ctx, checkpoint); stop != nil && (errors.Is(err, context.Cause(ctx)) || errors.Is(err, context.Canceled)) {
		return stop
	}
	return err
}

// peakMemory is the largest resident size of the process in bytes, 0 where the system does not tell.
func peakMemory() int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			var kilobytes int64
			if _, err := fmt.Sscanf(rest, "%d kB", &kilobytes); err == nil {
				return kilobytes << 10
			}
		}
	}
	return 0
}

// canonical is the JSON of v, the text that hashes are taken of. v holds nothing that JSON cannot.
func canonical(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

func named(tensors []nn.Named, name string) (torch.Tensor, bool) {
	i := slices.IndexFunc(tensors, func(t nn.Named) bool { return t.Name == name })
	if i < 0 {
		return torch.Tensor{}, false
	}
	return tensors[i].Tensor, true
}
