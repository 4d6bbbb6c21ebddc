package attack

import (
	"fmt"
	"strconv"

	"l2ul/torch"
	"l2ul/unlearn/seed"
)

// What the published code does in other ways than the specification (spec/l2ul.md section 7). Nothing of it holds by
// default; presets of --compat put it together.

// Compat are the quirks of an attack.
type Compat struct {
	Fallback   string `flag:"compat.target-fallback" default:"other" oneof:"other|half" group:"compatibility" help:"half: a class drawn on the label falls back to half the number of classes, which may be the label itself; other: all other classes are equally likely"`
	Pool       int    `flag:"compat.num-target-classes" min:"0" deftext:"all" group:"compatibility" help:"aim at the first so many classes alone; the published code knows 10, for every dataset"`
	Order      string `flag:"compat.generation-order" default:"repeat-major" oneof:"repeat-major|batch-major" group:"compatibility" help:"order of the examples: all images once, then again; or all examples of one slice (--forget-batch) first"`
	RNG        string `flag:"compat.rng" default:"streams" oneof:"streams|official-cpu|official-cuda" group:"compatibility" help:"official-cpu: targets and starting points in turn from one generator with the raw seed; official-cuda: targets from that, starting points from the GPU's"`
	Clip       string `flag:"compat.vit-clip" default:"off" oneof:"off|on|auto" group:"compatibility" help:"on: the attack keeps normalised values in [0, 1], not pixels, and measures perturbations of those; auto: for ViT and DeiT"`
	Subset     string `flag:"compat.utk-subset" default:"off" arg:"N|auto" group:"compatibility" help:"targets and starting points as for the first N images of --forget random, of which those to forget are the first; auto: 256 for UTKFace"`
	Arithmetic string `flag:"compat.norms" default:"float64" oneof:"float64|aten" group:"compatibility" help:"sums of squares in the attack; aten: PyTorch's operators in float32, as the library that the published code calls"`
}

const (
	half         = "half"
	aten         = "aten"
	officialCPU  = "official-cpu"
	officialCUDA = "official-cuda"
)

// SubsetOf is how many images targets and starting points are drawn for, where that is not those of the job alone; most is what auto
// stands for.
func (o *Options) SubsetOf(most int) (of int, on bool, err error) {
	switch o.Subset {
	case "", "off":
		return 0, false, nil
	case "auto":
		return most, true, nil
	}
	if of, err = strconv.Atoi(o.Subset); err != nil || of < 1 {
		return 0, false, fmt.Errorf("--compat.utk-subset %q: give a number of at least 1, auto or off", o.Subset)
	}
	return of, true, nil
}

// checkCompat refuses quirks that contradict others, or the other settings.
func (o *Options) checkCompat() error {
	switch {
	case o.Fallback == half && o.Exclude != "":
		return fmt.Errorf("--target-exclude %s: --compat.target-fallback half looks at the label alone; leave one of them out", o.Exclude)
	case o.Arithmetic == aten && o.Norm != "l2":
		return fmt.Errorf("--compat.norms aten: --norm %s takes no norms; leave one of them out", o.Norm)
	case o.shared() && !o.Targeted:
		return fmt.Errorf("--compat.rng %s: the published code draws targets, and --targeted=false needs none; leave one of them out", o.RNG)
	}
	_, on, err := o.SubsetOf(1)
	if on && o.Subset != "auto" && o.Pairs != "" {
		return fmt.Errorf("--compat.utk-subset %s: --pairs says which examples there are, and none is drawn; leave one of them out", o.Subset)
	}
	return err
}

// CheckCompat refuses quirks that images of these labels, this many classes or this device do not allow.
func (o *Options) CheckCompat(labels []int, classes int, device torch.Device) error {
	if o.RNG == officialCUDA && o.Pairs == "" && device.Type != torch.CUDAType {
		return fmt.Errorf("--compat.rng official-cuda: the starting points are those of a GPU's generator, and this job runs on the CPU; take --compat.rng official-cpu")
	}
	if o.Pool > classes {
		return fmt.Errorf("--compat.num-target-classes %d: there are only %d classes", o.Pool, classes)
	}
	if o.Pool == 1 {
		for i, y := range labels {
			if y == 0 {
				return fmt.Errorf("--compat.num-target-classes 1: image %d of those to forget is of class 0, and there is no other to aim at", i)
			}
		}
	}
	return nil
}

// CallsMatter reports whether the slices in which images are taken have a say in the examples or their order.
func (o *Options) CallsMatter() bool {
	return o.Order == "batch-major" || o.Fallback == half || o.shared()
}

// pool is the number of classes that targets are drawn from.
func (j *Job) pool() int {
	if j.Options.Pool > 0 {
		return j.Options.Pool
	}
	return j.Classes
}

// halfClass is rule half: t = trunc(u·K), and floor(K/2) where that is the label.
func halfClass(u float32, label, classes int) int {
	if t := int(u * float32(classes)); t != label {
		return t
	}
	return classes / 2
}

// population are the labels of the images that are drawn for.
func (j *Job) population() []int {
	if j.Of != nil {
		return j.Of
	}
	return j.Labels
}

// call is what the published loop attacks at once: images from to to-1, for the repeat-th time.
type call struct{ repeat, from, to int }

// calls lists the calls of a job in their order.
func (j *Job) calls() ([]call, error) {
	k := len(j.population())
	repeats, err := j.Options.Repeats(k)
	if err != nil {
		return nil, err
	}
	size := j.Slice
	if size < 1 {
		size = k
	}
	var list []call
	slice := func(repeat, from int) { list = append(list, call{repeat, from, min(from+size, k)}) }
	if j.Options.Order == "batch-major" {
		for from := 0; from < k; from += size {
			for r := range repeats {
				slice(r, from)
			}
		}
		return list, nil
	}
	for r := range repeats {
		for from := 0; from < k; from += size {
			slice(r, from)
		}
	}
	return list, nil
}

// shared reports whether starting points are drawn call by call, as the published code does.
func (o *Options) shared() bool { return o.RNG == officialCPU || o.RNG == officialCUDA }

// targetSeed is that of the generator which targets come from.
func (j *Job) targetSeed() int64 {
	if j.Options.shared() {
		return j.Seed
	}
	return seed.For(j.Seed, targetStream, 0)
}

// skip passes over what a call draws from the generator of targets behind the first uniform of each image.
func (j *Job) skip(g *torch.Generator, c call) {
	n := int64(c.to - c.from)
	if j.Options.Fallback == half {
		uniforms(g, torch.CPU, n) // which the published code draws and drops
	}
	if j.Options.RNG == officialCPU {
		uniforms(g, torch.CPU, n, j.X.Shape()[1:]...)
	}
}

// startGenerator is the generator of starting points.
func (j *Job) startGenerator() *torch.Generator {
	switch j.Options.RNG {
	case officialCUDA:
		return torch.NewGeneratorOn(j.X.Device(), j.Seed)
	case officialCPU:
		return torch.NewGenerator(j.Seed)
	}
	return torch.NewGenerator(seed.For(j.Seed, startStream, 0))
}

// drawCall draws the starting images of a call, and returns those of the job's own images, its first ones.
func (j *Job) drawCall(g *torch.Generator, c call) torch.Tensor {
	n, device := int64(c.to-c.from), torch.CPU
	switch j.Options.RNG {
	case officialCUDA:
		device = j.X.Device()
	case officialCPU: // whose generator gives the targets, too
		uniforms(g, device, n)
		if j.Options.Fallback == half {
			uniforms(g, device, n)
		}
	}
	own := max(0, min(c.to, len(j.Labels))-c.from)
	return uniforms(g, device, n, j.X.Shape()[1:]...).Narrow(0, 0, int64(own))
}

// In arithmetic aten a norm is that of the library which the published code calls, with PyTorch's operators in float32.

var (
	opReciprocal = torch.Define("aten::reciprocal(Tensor self) -> Tensor")
	opPow        = torch.Define("aten::pow.Tensor_Scalar(Tensor self, Scalar exponent) -> Tensor")
	opMinimum    = torch.Define("aten::minimum(Tensor self, Tensor other) -> Tensor")
	opMaximum    = torch.Define("aten::maximum(Tensor self, Tensor other) -> Tensor")
)

// normsATen is (Σ|v|²)^½ of each image, Float [n, 1, 1, 1].
func normsATen(v torch.Tensor) torch.Tensor {
	sums := opPow.One(v.Abs(), 2).Flatten(1, -1).SumDim([]int64{1}, false)
	return opPow.One(sums, 0.5).Reshape(-1, 1, 1, 1)
}

// projectATen is v·min(eps/‖v‖, 1), not a number where both are 0.
func projectATen(v torch.Tensor, eps float64) torch.Tensor {
	norms := normsATen(v)
	return v.Mul(opMinimum.One(opReciprocal.One(norms).MulScalar(eps), norms.OnesLike()))
}

func clampBox(x, v torch.Tensor) torch.Tensor { return x.Add(v, 1).Clamp(0, 1).Sub(x, 1) }

// startATen is [kernels.PGDStart], with such norms.
func startATen(x, start torch.Tensor, eps float64) torch.Tensor {
	return clampBox(x, clampBox(x, projectATen(start.Sub(x, 1), eps)))
}

// stepATen is [kernels.PGDL2Step], with such norms.
func stepATen(delta, next, grad, x torch.Tensor, alpha, eps float64) {
	norms := normsATen(grad)
	norms = opMaximum.One(norms, norms.OnesLike().MulScalar(1e-6))
	step := grad.Mul(opReciprocal.One(norms))
	delta.CopyI(projectATen(clampBox(x, delta.Add(step.MulScalar(alpha), 1)), eps))
	next.CopyI(x.Add(delta, 1))
}
