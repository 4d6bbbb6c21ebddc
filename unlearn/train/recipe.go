package train

import (
	"fmt"
	"math"

	"l2ul/torch"
	"l2ul/torch/optim"
)

// Options are a training recipe. The defaults are the paper's for CIFAR (spec/l2ul.md section 6.1).
type Options struct {
	Epochs         int       `flag:"epochs" default:"200" min:"1" group:"training" help:"passes over the training images"`
	Optimizer      string    `flag:"optimizer" default:"sgd" oneof:"sgd|adam|adamw" group:"training" help:"update rule; adam and adamw have betas 0.9 and 0.999, eps 1e-8"`
	LR             float64   `flag:"lr" default:"0.01" above:"0" group:"training" help:"learning rate; the highest of a schedule"`
	Momentum       float64   `flag:"momentum" default:"0.9" min:"0" max:"1" group:"training" help:"momentum of SGD"`
	Nesterov       bool      `flag:"nesterov" group:"training" help:"Nesterov's form of momentum"`
	WeightDecay    float64   `flag:"weight-decay" default:"0.0005" min:"0" group:"training" help:"weight decay: times the weights, added to the gradient; adamw takes it off the weights instead"`
	Schedule       string    `flag:"sched" default:"cosine" oneof:"cosine|multistep|onecycle|constant" group:"training" help:"learning rate: cosine or multistep by epoch, one cycle by step, or constant"`
	CycleMomentum  bool      `flag:"cycle-momentum" group:"training" help:"with one cycle: let momentum (beta1 of Adam) fall from 0.95 to 0.85 while the rate rises, and rise while it falls"`
	Milestones     []float64 `flag:"milestones" arg:"E1,E2" group:"training" help:"epochs after which multistep lowers the rate"`
	Gamma          float64   `flag:"lr-gamma" default:"0.1" above:"0" group:"training" help:"what multistep multiplies the rate by"`
	Warmup         int       `flag:"warmup" default:"0" min:"0" group:"training" help:"epochs in which the rate rises, step by step, from a hundredth of --lr"`
	Batch          int       `flag:"train-batch" default:"128" min:"2" group:"training" help:"images of a step"`
	Accumulate     int       `flag:"accumulate" default:"1" min:"1" group:"training" help:"parts in which the images of a step go through the network, for less memory; batch normalisation sees a part"`
	Augment        bool      `flag:"augment" default:"true" group:"training" help:"random crops of the image with a border of 4 pixels, which are black and of UTKFace its own, and flips"`
	MixUp          float64   `flag:"mixup" default:"0" min:"0" group:"training" help:"alpha of mixup, 0 for none; with --cutmix each step takes one of the two"`
	CutMix         float64   `flag:"cutmix" default:"0" min:"0" group:"training" help:"alpha of cutmix, 0 for none"`
	LabelSmoothing float64   `flag:"label-smoothing" default:"0" min:"0" max:"1" group:"training" help:"share of the label that is spread over all classes"`
	ClipNorm       float64   `flag:"clip-norm" default:"0" min:"0" group:"training" help:"largest norm of all gradients together, 0 for any"`
	ClipValue      float64   `flag:"clip-value" default:"0" min:"0" group:"training" help:"largest magnitude of each gradient's elements, 0 for any"`
	EMA            float64   `flag:"ema" default:"0" min:"0" max:"1" group:"training" help:"decay of an average of the weights over the steps, which is what is validated and kept; 0 for none"`
	AMP            bool      `flag:"amp" group:"training" help:"train in mixed precision: the network computes in bfloat16 where that is safe; weights and updates stay float32"`
	Val            int       `flag:"val" default:"0" min:"0" arg:"N" group:"training" help:"training images to hold out, and to score after each epoch; the weights that did best are kept beside the last"`
	Stratified     bool      `flag:"val-stratified" group:"training" help:"hold out the same share of each class, drawn as by numpy's RandomState of the seed, as programs of the OPTML group do"`
}

// Validate checks what tags cannot say.
func (o *Options) Validate() error {
	if o.Nesterov && (o.Optimizer != "sgd" || o.Momentum == 0) {
		return fmt.Errorf("--nesterov is a form of SGD's momentum: it needs --optimizer sgd and --momentum above 0")
	}
	if (o.Schedule == "multistep") != (len(o.Milestones) > 0) {
		return fmt.Errorf("--sched multistep and --milestones need each other: name the epochs, as in --milestones 91,136")
	}
	before := float64(o.Warmup)
	for _, m := range o.Milestones {
		if m != math.Trunc(m) || m <= before || m >= float64(o.Epochs) {
			return fmt.Errorf("--milestones: %g is no whole number between %g and --epochs %d", m, before, o.Epochs)
		}
		before = m
	}
	if o.Warmup > 0 && o.Schedule == "onecycle" {
		return fmt.Errorf("--warmup %d: --sched onecycle begins with a rise of its own; leave one of the two out", o.Warmup)
	}
	if o.Stratified && o.Val == 0 {
		return fmt.Errorf("--val-stratified says how the images of --val N are drawn; give that too")
	}
	if o.CycleMomentum && o.Schedule != "onecycle" {
		return fmt.Errorf("--cycle-momentum goes with --sched onecycle, not with %s", o.Schedule)
	}
	if o.Warmup >= o.Epochs {
		return fmt.Errorf("--warmup %d must be less than --epochs %d", o.Warmup, o.Epochs)
	}
	if o.EMA == 1 {
		return fmt.Errorf("--ema 1 would never take anything in: use less, such as 0.999")
	}
	return nil
}

// optimizer makes the optimizer of the recipe.
func (o *Options) optimizer() optim.Optimizer {
	const beta1, beta2, eps = 0.9, 0.999, 1e-8
	switch o.Optimizer {
	case "adam":
		return optim.Adam(o.LR, beta1, beta2, eps, o.WeightDecay)
	case "adamw":
		return optim.AdamW(o.LR, beta1, beta2, eps, o.WeightDecay)
	default:
		return optim.SGD(o.LR, o.Momentum, 0, o.WeightDecay, o.Nesterov)
	}
}

// Of the steps of one cycle, the share in which the rate rises.
const cycleShare = 0.3

// momentum gives the momentum of each step, nil where it stays what it is.
func (o *Options) momentum(perEpoch int) optim.Schedule {
	if !o.CycleMomentum {
		return nil
	}
	return optim.OneCycleMomentum(0.85, 0.95, o.Epochs*perEpoch, cycleShare)
}

// warmupStart is the share of the learning rate that a warm-up begins with.
const warmupStart = 0.01

// schedule gives the learning rate of each step.
func (o *Options) schedule(perEpoch int) optim.Schedule {
	epochs := o.Epochs - o.Warmup
	var byEpoch optim.Schedule
	switch o.Schedule {
	case "onecycle":
		return optim.OneCycleLR(o.LR, o.Epochs*perEpoch, cycleShare, 25, 1e4)
	case "constant":
		byEpoch = func(int) float64 { return o.LR }
	case "multistep":
		milestones := make([]int, len(o.Milestones))
		for i, m := range o.Milestones {
			milestones[i] = int(m) - o.Warmup
		}
		byEpoch = optim.MultiStepLR(o.LR, milestones, o.Gamma)
	default:
		byEpoch = optim.CosineAnnealingLR(o.LR, epochs, 0)
	}
	rate := func(step int) float64 { return byEpoch(step / perEpoch) }
	if o.Warmup == 0 {
		return rate
	}
	rising := o.Warmup * perEpoch
	return optim.SequentialLR(optim.LinearLR(o.LR, warmupStart, rising), rising, rate)
}

// forward is the network's logits in the recipe's precision, as Float.
func (j *Job) forward(x torch.Tensor) (logits torch.Tensor) {
	if !j.Options.AMP {
		return j.Net.Forward(x)
	}
	torch.Autocast(torch.BFloat16, func() { logits = j.Net.Forward(x) })
	return logits.CastTo(torch.Float)
}
