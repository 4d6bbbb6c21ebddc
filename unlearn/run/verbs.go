package run

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"l2ul/torch/models"
	"l2ul/unlearn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
	"l2ul/unlearn/importance"
	"l2ul/unlearn/run/config"
	"l2ul/unlearn/train"
)

// ModelOptions name a network and its weights.
type ModelOptions struct {
	NetworkOptions
	LoadOptions
	Weights string `flag:"weights,checkpoint" group:"model and data" arg:"FILE" result:"no" help:"its weights: .safetensors, .pt, .pth, .npz or an index of shards; or https://…#sha256=…, hf:org/repo[@revision][:file], torchvision:resnet50.IMAGENET1K_V2 (unlearn help formats)"`
}

// NetworkOptions name a network.
type NetworkOptions struct {
	Model      string    `flag:"model,m" default:"auto" group:"model and data" arg:"NAME" help:"network; unlearn ls models lists them; auto: the one that the weights fit"`
	NumClasses int       `flag:"num-classes" min:"1" deftext:"as the dataset" group:"model and data" help:"number of classes"`
	Mean       []float64 `flag:"mean" group:"model and data" deftext:"as the network" arg:"R,G,B" help:"mean of each channel, pixels in [0, 1]"`
	Std        []float64 `flag:"std" group:"model and data" deftext:"as the network" arg:"R,G,B" help:"standard deviation of each channel"`
}

// Choices are the networks, and what stands for the one that the weights fit.
func (NetworkOptions) Choices() map[string][]string {
	return map[string][]string{"model": append(models.Names(), autoModel)}
}

// DataOptions name a dataset.
type DataOptions struct {
	Dataset string `flag:"dataset" default:"auto" group:"model and data" arg:"NAME" help:"dataset; unlearn ls datasets lists them; auto: the one that --data-dir looks like"`
	DataDir string `flag:"data-dir" env:"UNLEARN_DATA" group:"model and data" arg:"DIR|FILE" result:"no" help:"folder or archive it is read from"`
	Label   string `flag:"label" group:"model and data" arg:"COLUMN" help:"what the classes are, where a dataset has several to choose from (celeba; cifar100: fine or coarse; webdataset: a field of .json; parquet)"`

	ImgSize       string  `flag:"img-size" deftext:"as the network" arg:"N|native" group:"model and data" help:"height and width that images are given; native: files as they are, all of one size"`
	CropPct       float64 `flag:"crop-pct" min:"0.1" max:"1" deftext:"as the network" arg:"SHARE" group:"model and data" help:"share of the resized image's shorter side that the middle has which is cut out"`
	Interpolation string  `flag:"interpolation" oneof:"bilinear|bicubic" deftext:"as the network" group:"model and data" help:"how images are resized, antialiased as by Pillow"`

	Workers int `flag:"workers,j" min:"1" deftext:"one a core" group:"model and data" result:"no" help:"goroutines that decode or draw images"`
}

// Choices are the datasets, and what stands for the one that the files look like.
func (DataOptions) Choices() map[string][]string {
	names := []string{autoDataset}
	for _, d := range data.Datasets() {
		names = append(names, d.Name)
	}
	return map[string][]string{"dataset": names}
}

// SetOptions name the samples to forget.
type SetOptions struct {
	Forget string `flag:"forget" group:"model and data" arg:"SPEC" help:"what to forget: random:16, class:3[:K], ids:1,5,9, several of these joined by +, @forget.json, @names.txt or, with new labels, @labels.csv"`
	K      int    `flag:"k" min:"1" config:"no" env:"-" means:"forget=random:%s" group:"model and data" arg:"N" help:"short for --forget random:N"`
}

// check is called by the options that embed SetOptions.
func (o *SetOptions) check() error {
	if o.Forget == "" {
		return nil
	}
	_, err := data.ParseSpec(o.Forget)
	return err
}

// ComputeOptions say where and how to compute.
type ComputeOptions struct {
	Device        string `flag:"device" default:"auto" group:"computing" arg:"auto|cpu|cuda[:N]" help:"where to compute"`
	Threads       int    `flag:"threads" min:"0" deftext:"one a core" group:"computing" help:"threads of one operator; changes the last bits"`
	Seed          int64  `flag:"seed" default:"0" group:"computing" help:"seed of everything random"`
	Deterministic bool   `flag:"deterministic" default:"true" group:"computing" help:"only algorithms that repeat bit for bit"`
	Profile       string `flag:"profile" config:"no" env:"-" arg:"FILE" group:"computing" help:"write a timeline of phases, steps and operators, for chrome://tracing or ui.perfetto.dev"`
	TF32          bool   `flag:"tf32" group:"computing" help:"on a GPU, round what convolutions and matrix products multiply to TF32's 10 bits, several times as fast; what scores and the stop test count is decided in float32 all the same"`
	ChannelsLast  bool   `flag:"channels-last" default:"true" group:"computing" help:"keep images with the channels innermost; changes the last bits"`
}

// EngineOptions hold for verbs that run or train a network many times.
type EngineOptions struct {
	Mode string `flag:"mode" default:"exact" oneof:"exact|reference" group:"computing" help:"arithmetic of attack, scores and training; exact: our own convolutions, which differ from PyTorch by rounding; reference: operator by operator PyTorch's bits"`
}

// CraftOptions are EngineOptions for verbs that attack.
type CraftOptions struct {
	Mode string `flag:"mode" default:"exact" oneof:"exact|bf16|fast|reference" group:"computing" help:"arithmetic of attack, scores and training; exact: our own convolutions, which differ from PyTorch by rounding; bf16: the attack's multiply bfloat16; fast: the attack leaves pairs alone once their target is sure, which makes other examples; reference: operator by operator PyTorch's bits"`
}

// CompatOptions choose what of the published code's behaviour is taken over. Its parts are settings of attack, importance
// and loop, compat.….
type CompatOptions struct {
	Compat string `flag:"compat" oneof:"|official-b8b335b|official-5fb777b" preset:"compat/%s" deftext:"none" group:"compatibility" help:"do as the published code did, at one of its commits, where that differs from its description: sets the --compat.… flags (unlearn help compat)"`
	FeedOptions
}

// EvalOptions hold for every verb that scores a model.
type EvalOptions struct {
	BatchSize string `flag:"batch-size,b" default:"256" result:"no" arg:"N|auto" group:"computing" help:"images at once when scoring; auto: what cache and memory hold, and half of it where memory runs out; changes no result of forgetting"`
	Limit     string `flag:"limit" arg:"N|0.1" group:"computing" help:"score only that many evenly spaced samples of what is not forgotten"`
}

// check is called by the options that embed EvalOptions.
func (o *EvalOptions) check() error {
	if _, err := o.batch(); err != nil {
		return err
	}
	_, err := data.ParseLimit(o.Limit)
	return err
}

// batch returns the number that --batch-size says, 0 for auto.
func (o *EvalOptions) batch() (int, error) {
	if o.BatchSize == "auto" {
		return 0, nil
	}
	n, err := strconv.Atoi(o.BatchSize)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("--batch-size %q: give a number of at least 1, or auto", o.BatchSize)
	}
	return n, nil
}

// ForgetOptions are those of `unlearn forget` beside the loop's and the method's own.
type ForgetOptions struct {
	TerminalOptions
	ConfigOptions
	FolderOptions
	ModelOptions
	DataOptions
	SetOptions
	ComputeOptions
	CompatOptions
	CraftOptions
	EvalOptions
	Method     string `flag:"method" default:"adv-imp" group:"unlearning" arg:"NAME" help:"how to forget; unlearn ls methods lists them"`
	Pool       string `flag:"pool" group:"unlearning" arg:"DIR" help:"correct the network on images from outside, DIR/CLASS/*.jpg with classes named as the dataset's: -k N of those that it has wrong get their true label (--goal relabel)"`
	SaveFormat string `flag:"save-format" default:"safetensors" oneof:"safetensors|same" result:"no" help:"container of the unlearned weights; same: as they came"`
}

// Validate checks what tags cannot say.
func (o *ForgetOptions) Validate() error {
	if err := o.FolderOptions.Validate(); err != nil {
		return err
	}
	if err := o.DataOptions.checkImages(); err != nil {
		return err
	}
	if err := o.SetOptions.check(); err != nil {
		return err
	}
	return o.EvalOptions.check()
}

// ContinualOptions are those of `unlearn continual` beside the loop's and the method's own. They hold for every request whose line
// says nothing else.
type ContinualOptions struct {
	TerminalOptions
	ConfigOptions
	ModelOptions
	DataOptions
	ComputeOptions
	CraftOptions
	EvalOptions
	Method    string        `flag:"method" default:"adv-imp" group:"unlearning" arg:"NAME" help:"how to forget; unlearn ls methods lists them"`
	Anchor    string        `flag:"anchor" default:"previous" oneof:"previous|first" group:"unlearning" help:"the weights that attack, importance and penalty of a request refer to: those that it begins with, or those that the first one began with"`
	StopScope string        `flag:"stop-scope" default:"request" oneof:"request|all" group:"unlearning" help:"test the goal on the request's images, or on those of all requests so far"`
	Requests  int           `flag:"requests,T" default:"8" min:"1" config:"no" env:"-" group:"model and data" arg:"T" help:"without a file: this many requests"`
	K         int           `flag:"k" default:"16" min:"1" config:"no" env:"-" group:"model and data" arg:"N" help:"without a file: images in each; request t has places (t-1)N to tN-1 of the permutation of --forget random"`
	Output    string        `flag:"output,o" config:"no" env:"-" arg:"DIR" help:"folder of the stream; name it again to go on, or to serve what has been added to the file"`
	DryRun    bool          `flag:"dry-run,n" config:"no" env:"-" help:"resolve everything, check the files, print the plan, stop"`
	SaveEvery string        `flag:"save-every" default:"60s" result:"no" arg:"N|TIME" help:"checkpoint every N steps or every such time; 0 for none before the end"`
	Keep      int           `flag:"keep" default:"2" min:"1" result:"no" arg:"N" help:"checkpoints to keep"`
	Grace     time.Duration `flag:"grace" default:"20s" min:"0" result:"no" help:"time to save after a signal; 0 for no bound"`
}

// Validate checks what tags cannot say.
func (o *ContinualOptions) Validate() error {
	if _, err := ParseCadence(o.SaveEvery); err != nil {
		return err
	}
	if err := o.DataOptions.checkImages(); err != nil {
		return err
	}
	return o.EvalOptions.check()
}

// AttackOptions are those of `unlearn attack` beside the attack's own.
type AttackOptions struct {
	TerminalOptions
	ConfigOptions
	FolderOptions
	ModelOptions
	DataOptions
	SetOptions
	ComputeOptions
	CompatOptions
	CraftOptions
	ForgetBatch int `flag:"forget-batch" default:"32" min:"1" group:"attack" help:"images of a call, which some --compat.… flags look at"`
}

// Validate checks what tags cannot say.
func (o *AttackOptions) Validate() error {
	if err := o.FolderOptions.Validate(); err != nil {
		return err
	}
	if err := o.DataOptions.checkImages(); err != nil {
		return err
	}
	return o.SetOptions.check()
}

// ImportanceOptions are those of `unlearn importance` beside the estimator's own.
type ImportanceOptions struct {
	TerminalOptions
	ConfigOptions
	FolderOptions
	ModelOptions
	DataOptions
	SetOptions
	ComputeOptions
	CompatOptions
	ForgetBatch int `flag:"forget-batch" default:"32" min:"1" group:"importance" help:"images whose gradient is taken at once, for mas-batch"`
}

// Validate checks what tags cannot say.
func (o *ImportanceOptions) Validate() error {
	if err := o.FolderOptions.Validate(); err != nil {
		return err
	}
	if err := o.DataOptions.checkImages(); err != nil {
		return err
	}
	return o.SetOptions.check()
}

// TrainOptions are those of `unlearn train` beside the recipe's own.
type TrainOptions struct {
	TerminalOptions
	ConfigOptions
	FolderOptions
	ModelOptions
	DataOptions
	ComputeOptions
	EngineOptions
	EvalOptions
}

// Validate checks what tags cannot say.
func (o *TrainOptions) Validate() error {
	if err := o.FolderOptions.Validate(); err != nil {
		return err
	}
	if err := o.DataOptions.checkImages(); err != nil {
		return err
	}
	return o.EvalOptions.check()
}

// EvaluateOptions are those of `unlearn eval`.
type EvaluateOptions struct {
	TerminalOptions
	ConfigOptions
	NetworkOptions
	LoadOptions
	DataOptions
	SetOptions
	ComputeOptions
	EngineOptions
	EvalOptions
	Weights []string `flag:"weights,checkpoint" group:"model and data" arg:"FILE" result:"no" help:"the network's weights: .safetensors, .pt, .pth, .npz or an index of shards; or https://…#sha256=…, hf:org/repo[@revision][:file], torchvision:resnet50.IMAGENET1K_V2; repeatable, to score several in one pass over the images"`
	Splits  []string `flag:"splits" sep:"," oneof:"train|test|forget|retain" deftext:"train,test, or forget,retain,test with a forget set" group:"model and data" help:"what to score"`
	Output  string   `flag:"output,o" config:"no" arg:"FILE" help:"write the result there as well"`
	DryRun  bool     `flag:"dry-run,n" config:"no" env:"-" help:"resolve everything, check the files, print the plan, stop"`
}

// Validate checks what tags cannot say, and chooses the splits.
func (o *EvaluateOptions) Validate() error {
	if err := o.DataOptions.checkImages(); err != nil {
		return err
	}
	if err := o.SetOptions.check(); err != nil {
		return err
	}
	given := o.Forget != ""
	if len(o.Splits) == 0 {
		o.Splits = []string{"train", "test"}
		if given {
			o.Splits = []string{"forget", "retain", "test"}
		}
	}
	for _, s := range o.Splits {
		if !given && (s == "forget" || s == "retain") {
			return fmt.Errorf("--splits %s: say what to forget with --forget or -k", strings.Join(o.Splits, ","))
		}
	}
	return o.EvalOptions.check()
}

// SplitOptions are those of `unlearn split`.
type SplitOptions struct {
	TerminalOptions
	ConfigOptions
	DataOptions
	SetOptions
	Seed   int64  `flag:"seed" default:"0" help:"seed of the draw"`
	Output string `flag:"output,o" config:"no" arg:"FILE" default:"forget.json" help:"file to write; - for stdout"`
}

// Validate checks what tags cannot say.
func (o *SplitOptions) Validate() error {
	if err := o.DataOptions.checkImages(); err != nil {
		return err
	}
	return o.SetOptions.check()
}

// idle are the options of the loop that a method has no use for.
func idle(m *unlearn.Method) []string {
	var names []string
	if m.Ladder != nil {
		names = append(names, "lr", "momentum", "weight-decay", "bn", "stop-check", "max-passes", "compat.cap-plus-one", "compat.cycle-shared")
	}
	if !m.Anchored {
		names = append(names, "reg-lambda")
	}
	if m.Driver != unlearn.ByAdversarial {
		names = append(names, "adv-batch", "loss-weights")
	}
	if m.Driver != unlearn.ByRetain {
		names = append(names, "retain-batch")
	}
	if m.Driver == unlearn.ByForget {
		names = append(names, "bn-adv", "stop-on-collapse")
	}
	return names
}

// Catalog lists the options of every verb that has keys. The options of a method are those of the parts it uses: the
// loop, and the attack and the importance if it has them; retraining has those of training.
func Catalog() (config.Catalog, error) {
	variants := map[string][]any{}
	borrows := map[string]string{}
	for _, m := range unlearn.Methods() {
		if m.Scratch {
			variants[m.Name], borrows[m.Name] = []any{train.Options{}}, "train"
			continue
		}
		parts := []any{unlearn.Options{}}
		if m.Driver == unlearn.ByAdversarial {
			parts = append(parts, attack.Options{})
		}
		if m.Ladder != nil {
			parts = append(parts, unlearn.LadderOptions{})
		}
		if m.Anchored || m.Ladder != nil {
			parts = append(parts, importance.Options{})
		}
		variants[m.Name] = parts
	}
	var catalog config.Catalog
	for _, verb := range []struct {
		name     string
		common   []any
		by       string
		variants map[string][]any
	}{
		{"forget", []any{ForgetOptions{}}, "method", variants},
		{"continual", []any{ContinualOptions{}}, "method", variants},
		{"train", []any{TrainOptions{}, train.Options{}}, "", nil},
		{"attack", []any{AttackOptions{}, attack.Options{}}, "", nil},
		{"importance", []any{ImportanceOptions{}, importance.Options{}}, "", nil},
		{"eval", []any{EvaluateOptions{}}, "", nil},
		{"split", []any{SplitOptions{}}, "", nil},
	} {
		spec, err := config.NewSpec(verb.name, verb.common, verb.by, verb.variants)
		if err != nil {
			return nil, err
		}
		if verb.by != "" {
			spec.Borrows, spec.Like = borrows, "forget"
			for _, m := range unlearn.Methods() {
				spec.Variants[m.Name] = slices.DeleteFunc(spec.Variants[m.Name], func(f *config.Field) bool { return slices.Contains(idle(m), f.Name) })
			}
		}
		catalog = append(catalog, spec)
	}
	return catalog, nil
}
