// Package importance estimates how much each parameter matters for a set of images: Memory Aware Synapses and the
// diagonal of the Fisher information (spec/l2ul.md section 4). Gradients are accumulated image by image or slice by
// slice; what is held is one number for each parameter, never one for each image and parameter.
package importance

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"l2ul/torch"
	"l2ul/torch/cuda"
	"l2ul/torch/nn"
	"l2ul/unlearn/kernels"
	"l2ul/unlearn/metrics"
	"l2ul/unlearn/seed"
)

// Options choose the estimator.
type Options struct {
	Kind       string `flag:"importance" default:"mas" arg:"NAME|FILE" group:"importance" help:"estimator of the importance of parameters: mas, mas-batch, fisher-emp, fisher-true or uniform; or the importance.safetensors of a run with the same weights"`
	Norm       string `flag:"importance-norm" deftext:"squared; plain for mas-batch" oneof:"|squared|plain" group:"importance" help:"what MAS differentiates: the squared or the plain L2 norm of the logits"`
	BN         string `flag:"importance-bn" deftext:"eval; train for mas-batch" oneof:"|eval|train" group:"importance" help:"statistics batch normalisation uses; train only with mas-batch"`
	Accumulate bool   `flag:"importance-accumulate" default:"true" group:"importance" help:"mas-batch adds up the gradients of successive slices, as the published code does"`
	Samples    int    `flag:"fisher-samples" min:"0" group:"importance" help:"classes drawn for each image by fisher-true; 0 sums over all classes"`
	MASBatch   string `flag:"compat.mas" config:"no" env:"-" oneof:"batch" means:"importance=mas-%s" group:"compatibility" help:"batch: short for --importance mas-batch, the estimator of the published code"`
	Guard      string `flag:"compat.minmax-guard" default:"on" oneof:"on|off" group:"compatibility" help:"off: a tensor whose importance is the same everywhere gets weights that are not a number, as 0/0 is, in place of ones"`
}

var estimators = []string{"mas", "mas-batch", "fisher-emp", "fisher-true", "uniform"}

const fileSuffix = ".safetensors"

// File is the file that importance is read from in place of an estimate, or "".
func (o *Options) File() string {
	if strings.HasSuffix(o.Kind, fileSuffix) {
		return o.Kind
	}
	return ""
}

// Validate checks what the tags cannot say.
func (o *Options) Validate() error {
	if o.File() == "" && !slices.Contains(estimators, o.Kind) {
		return fmt.Errorf("--importance %q: choose one of %s, or a file whose name ends in %s", o.Kind, strings.Join(estimators, ", "), fileSuffix)
	}
	if o.BN == "train" && o.Kind != "mas-batch" {
		return fmt.Errorf("--importance-bn train: %s takes one image at a time, whose batch statistics mean nothing; use --importance mas-batch", o.Kind)
	}
	return nil
}

// Job is an estimate over k images.
type Job struct {
	Net     nn.Module
	Params  []torch.Tensor // the parameters to estimate, each tracked by autograd
	Images  metrics.Images // the images and labels, in order
	Slice   int            // images of a slice, for mas-batch; others take one at a time
	Seed    int64          // of the classes that fisher-true draws
	Options Options
	// Graphs makes CUDA graphs of the passes, with the same bits; nil where they go operator by operator. The passes of
	// fisher-true read the probabilities of classes, so that it has none.
	Graphs cuda.Recorder

	// NoGraph says, after Run, why graphs that were asked for were not made; else it is empty.
	NoGraph string
}

// Run returns the importance Ω of every parameter, in the order and shapes of Params, in the current scope. progress, which
// may be nil, is told the number of images done. Running statistics of net are left as they were; net is left in
// evaluation mode.
func (j *Job) Run(ctx context.Context, progress func(done int)) ([]torch.Tensor, error) {
	omega := make([]torch.Tensor, len(j.Params))
	for i, p := range j.Params {
		omega[i] = p.Detach().ZerosLike()
	}
	if j.Options.Kind == "uniform" {
		for _, o := range omega {
			o.FillI(1)
		}
		return omega, nil
	}
	if j.Options.Kind == "fisher-true" && j.Options.Samples > 0 {
		var err error
		torch.Seeded(torch.NewGenerator(seed.For(j.Seed, "fisher/samples", 0)), func() { err = j.accumulate(ctx, omega, progress) })
		return omega, err
	}
	err := j.accumulate(ctx, omega, progress)
	if j.Options.Kind == "mas-batch" {
		count := (j.Images.Len()/j.Slice + 1) * j.Slice // more than there are, as published; it cancels in Ω̄
		for _, o := range omega {
			opDivScalarI.Do(o, count)
		}
	}
	return omega, err
}

var opDivScalarI = torch.Define("aten::div_.Scalar(Tensor(a!) self, Scalar other) -> Tensor(a!)")

// accumulate adds the share of every image to omega.
func (j *Job) accumulate(ctx context.Context, omega []torch.Tensor, progress func(done int)) error {
	estimate, size := j.perSample, 1
	if j.Options.Kind == "mas-batch" {
		estimate, size = j.newBatch(), j.Slice
	}
	j.Net.Root().Eval()
	if j.Options.Kind == "mas-batch" && j.Options.BN != "eval" {
		nn.SetBatchNorm(j.Net, nn.BatchNormFrozenStats)
		defer j.Net.Root().Eval()
	}
	graphs := j.Graphs
	if j.Options.Kind == "fisher-true" {
		graphs = nil
	}
	record := graphs.Trying(func(why string) { j.NoGraph = why })
	passes := map[int]*pass{} // by the number of images
	defer func() {
		for _, p := range passes {
			p.Free()
		}
	}()
	for from := 0; from < j.Images.Len(); from += size {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		to := min(from+size, j.Images.Len())
		var err error
		torch.Scope(func() {
			var x, y torch.Tensor
			if x, y, err = j.Images.Batch(from, to); err != nil {
				return
			}
			p := passes[to-from]
			if p == nil {
				p = &pass{x: torch.KeepOne(x.Clone()), y: torch.KeepOne(y.Clone())}
				p.Loop = cuda.NewLoop(func() { torch.Scope(func() { estimate(omega, j.Net.Forward(p.x), p.y) }) })
				passes[to-from] = p
			} else {
				p.x.CopyI(x)
				p.y.CopyI(y)
			}
			p.Next(record)
		})
		if err != nil {
			return err
		}
		if progress != nil {
			progress(to)
		}
	}
	return nil
}

// pass is what is done with so many images, which it finds in the same place each time.
type pass struct {
	x, y torch.Tensor
	*cuda.Loop
}

// perSample adds one image's share: |∂‖g‖²/∂θ|/k for MAS, Σ_c w_c (∂ log p_c/∂θ)²/k for the Fisher diagonals.
func (j *Job) perSample(omega []torch.Tensor, logits, y torch.Tensor) {
	k := float64(j.Images.Len())
	if j.Options.Kind == "mas" {
		grads := torch.Grad([]torch.Tensor{norm(logits, j.Options.Norm != "plain")}, j.Params)
		kernels.AccumulateAbs(omega, j.zeroed(grads), 1, k)
		return
	}
	logp := logits.LogSoftmax(1).Select(0, 0)
	if j.Options.Kind == "fisher-emp" { // without reading the label, so that a graph can hold the pass
		ofLabel := opIndexFill.One(logp.Detach().ZerosLike(), 0, y, 1)
		grads := torch.VectorJacobian([]torch.Tensor{logp}, []torch.Tensor{ofLabel}, j.Params, false)
		kernels.AccumulateSquare(omega, j.zeroed(grads), 1, k)
		return
	}
	one := torch.Ones(nil, false)
	for c, w := range j.classWeights(logp) {
		if w == 0 {
			continue
		}
		torch.Scope(func() {
			output := logp.Select(0, int64(c))
			grads := torch.VectorJacobian([]torch.Tensor{output}, []torch.Tensor{one}, j.Params, true)
			kernels.AccumulateSquare(omega, j.zeroed(grads), w, k)
		})
	}
}

// zeroed puts zeros where the logits do not depend on a parameter.
func (j *Job) zeroed(grads []torch.Tensor) []torch.Tensor {
	for i, g := range grads {
		if !g.Defined() {
			grads[i] = j.Params[i].Detach().ZerosLike()
		}
	}
	return grads
}

var opIndexFill = torch.Define("aten::index_fill_.int_Scalar(Tensor(a!) self, int dim, Tensor index, Scalar value) -> Tensor(a!)")

var opMultinomial = torch.Define("aten::multinomial(Tensor self, SymInt num_samples, bool replacement=False, *, Generator? generator=None) -> Tensor")

// classWeights is what each class counts: its predicted probability, or how often it was drawn.
func (j *Job) classWeights(logp torch.Tensor) []float64 {
	weights := make([]float64, logp.Numel())
	if j.Options.Samples == 0 {
		for c, p := range torch.ToSlice[float32](logp.Detach().Exp()) {
			weights[c] = float64(p)
		}
		return weights
	}
	for _, c := range torch.ToSlice[int64](opMultinomial.One(logp.Detach().Exp(), j.Options.Samples, true)) {
		weights[c]++
	}
	for c := range weights {
		weights[c] /= float64(j.Options.Samples)
	}
	return weights
}

// newBatch returns the published code's estimator: the gradient of the mean norm of a slice's logits, whose absolute value
// counts for every image of the slice. The gradient is that of all slices so far, since that code never clears it.
func (j *Job) newBatch() func(omega []torch.Tensor, logits, y torch.Tensor) {
	sum := make([]torch.Tensor, len(j.Params))
	for i, p := range j.Params {
		sum[i] = p.Detach().ZerosLike()
	}
	return func(omega []torch.Tensor, logits, _ torch.Tensor) {
		n := logits.Size(0)
		mean := rowNorms(logits, j.Options.Norm == "squared").Mean()
		for i, g := range j.zeroed(torch.Grad([]torch.Tensor{mean}, j.Params)) {
			if !j.Options.Accumulate {
				sum[i].ZeroI()
			}
			sum[i].AddI(g, 1)
		}
		kernels.AccumulateAbs(omega, sum, float64(n), 1)
	}
}

var opVectorNorm = torch.Define("aten::norm.ScalarOpt_dim(Tensor self, Scalar? p, int[1] dim, bool keepdim=False) -> Tensor")

// rowNorms is the L2 norm of each row of logits, squared or not. The gradient of the plain norm at zero is zero.
func rowNorms(logits torch.Tensor, squared bool) torch.Tensor {
	if squared {
		return logits.Square().SumDim([]int64{1}, false)
	}
	return opVectorNorm.One(logits, 2, []int64{1})
}

func norm(logits torch.Tensor, squared bool) torch.Tensor { return rowNorms(logits, squared).Sum() }

// Anchors returns Ω̄ = 1 - (Ω - min Ω)/(max Ω - min Ω) for each tensor, and ones where all of Ω is equal: near 1 a parameter
// is held where it was, near 0 it may move (spec/l2ul.md section 4.2). Without the guard of compat.minmax-guard the ones are NaN.
func (o *Options) Anchors(omega []torch.Tensor) []torch.Tensor {
	anchors := make([]torch.Tensor, len(omega))
	for i, t := range omega {
		anchors[i] = kernels.AnchorWeights(t)
		if o.Guard == "off" && t.Min().Item() == t.Max().Item() {
			anchors[i].FillI(math.NaN())
		}
	}
	return anchors
}
