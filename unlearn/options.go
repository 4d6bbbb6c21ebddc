package unlearn

import "fmt"

// Options are the settings of the loop, the same for all methods (spec/l2ul.md sections 2 and 5).
type Options struct {
	Goal        Goal        `flag:"goal" default:"misclassify" oneof:"misclassify|relabel" group:"unlearning" help:"no image keeps its label, or every image gets its new label"`
	LR          float64     `flag:"lr,unlearn-lr" default:"0.001" above:"0" group:"unlearning" help:"learning rate"`
	Momentum    float64     `flag:"momentum" default:"0.9" min:"0" max:"1" group:"unlearning" help:"momentum of SGD"`
	WeightDecay float64     `flag:"weight-decay" default:"0.0001" min:"0" group:"unlearning" help:"weight decay of SGD, on all parameters"`
	Lambda      float64     `flag:"reg-lambda,reg-lamb" default:"1" min:"0" group:"unlearning" help:"weight of the penalty that holds important parameters"`
	ForgetBatch int         `flag:"forget-batch" default:"32" min:"1" group:"unlearning" help:"images to forget in each step, and whose gradient --importance mas-batch takes at once"`
	AdvBatch    int         `flag:"adv-batch" default:"256" min:"1" group:"unlearning" help:"adversarial examples in each step"`
	RetainBatch int         `flag:"retain-batch" default:"256" min:"1" group:"unlearning" help:"retained images in each step, for methods that read them"`
	LossWeights LossWeights `flag:"loss-weights" default:"sample" oneof:"sample|sum" group:"unlearning" help:"weigh two loss terms by their numbers of images, or not at all"`
	BN          BNMode      `flag:"bn" default:"train" oneof:"train|frozen-stats|eval|frozen" group:"unlearning" help:"batch normalisation while unlearning: its statistics and whether it is trained"`
	BNDriver    BNMode      `flag:"bn-adv" deftext:"as --bn" oneof:"|train|frozen-stats|eval|frozen" group:"unlearning" help:"the same for the forward of adversarial or retained images"`
	StopCheck   string      `flag:"stop-check" default:"auto" oneof:"auto|step|pass" group:"unlearning" help:"test the goal after each step or each pass; auto: as published for the method"`
	StopOnDrop  bool        `flag:"stop-on-collapse" group:"unlearning" help:"stop as diverged when the accuracy on the images that a method walks through (adversarial examples, retained images) falls below chance over a pass"`
	MaxPasses   int         `flag:"max-passes" default:"1000" min:"1" result:"cap" group:"unlearning" help:"passes over the images that a method walks through (adversarial examples, retained images, or those to forget) before giving up"`
	MaxSteps    int         `flag:"max-steps" min:"0" result:"cap" group:"unlearning" help:"steps before giving up; 0 for no bound"`
	MaxSeconds  float64     `flag:"max-seconds" min:"0" result:"cap" group:"unlearning" help:"seconds of unlearning before giving up; 0 for no bound"`
	Compat
}

// Compat are quirks of the published code's loop (spec/l2ul.md section 7). None holds by default.
type Compat struct {
	PlusOne    bool   `flag:"compat.cap-plus-one" group:"compatibility" help:"one pass more than --max-passes, since the published code compares after it has counted"`
	StartCheck string `flag:"compat.start-check" default:"all" oneof:"all|adv|none" group:"compatibility" help:"methods that look first whether the goal holds already: all, those with adversarial examples, none; others take a step"`
	NaNGuard   string `flag:"compat.nan-guard" default:"on" oneof:"on|off" group:"compatibility" help:"off: go on with losses and weights that are not finite, which can end as success: what is no number is classified as class 0"`
	CycleStart int    `flag:"compat.cycle-shared" min:"0" group:"compatibility" help:"steps of the methods before, whose position in the slices of --forget-batch carries over to this one"`
}

// LooksFirst reports whether a run of the method begins with a test of its goal.
func (c *Compat) LooksFirst(m *Method) bool {
	return c.StartCheck != "none" && (c.StartCheck != "adv" || m.Driver == ByAdversarial)
}

// finite passes what the published code does not look at.
func (c *Compat) finite(is bool) bool { return is || c.NaNGuard == "off" }

// Passes is how many passes --max-passes allows.
func (o *Options) Passes() int {
	if o.PlusOne {
		return o.MaxPasses + 1
	}
	return o.MaxPasses
}

// Goal is what forgetting means.
type Goal string

// The goals.
const (
	Misclassify Goal = "misclassify" // argmax g(x) ≠ y on all of D_f
	Relabel     Goal = "relabel"     // argmax g(x) = y* on all of D_f
)

// Met reports whether the goal holds, given the hits of n images on y (misclassify) or y* (relabel).
func (g Goal) Met(hits, n int64) bool {
	if g == Relabel {
		return hits == n
	}
	return hits == 0
}

// Progress says how near the goal is, given the same hits: "3 of 16 images keep their label".
func (g Goal) Progress(hits, n int64) string {
	switch {
	case g == Relabel && n == 1:
		return fmt.Sprintf("%d of 1 image has its new label", hits)
	case g == Relabel:
		return fmt.Sprintf("%d of %d images have their new label", hits, n)
	case n == 1:
		return fmt.Sprintf("%d of 1 image keeps its label", hits)
	}
	return fmt.Sprintf("%d of %d images keep their label", hits, n)
}

// BNMode says which statistics batch normalisation uses while unlearning, whether its running ones are updated, and
// whether its weights and biases are trained.
type BNMode string

// The modes. The paper's is BNTrain.
const (
	BNTrain       BNMode = "train"        // batch statistics, running ones updated by every forward; trained
	BNFrozenStats BNMode = "frozen-stats" // batch statistics, running ones untouched; trained
	BNEval        BNMode = "eval"         // running statistics, untouched; trained
	BNFrozen      BNMode = "frozen"       // running statistics, untouched; not trained, so out of Ω and the penalty too
)

func (o *Options) driverBN() BNMode {
	if o.BNDriver != "" {
		return o.BNDriver
	}
	return o.BN
}

// driverBatch is how many images of its driver a method sees in a step.
func (o *Options) driverBatch(m *Method) int {
	switch m.Driver {
	case ByAdversarial:
		return o.AdvBatch
	case ByRetain:
		return o.RetainBatch
	default:
		return o.ForgetBatch
	}
}

// StepsOfPass is how many steps a pass over so many driving images takes.
func (o *Options) StepsOfPass(m *Method, driving int) int { return count(driving, o.driverBatch(m)) }

func (o *Options) check(m *Method) Check {
	if o.StopCheck == "auto" || m.Ladder != nil {
		return m.Check
	}
	return Check(o.StopCheck)
}
