package nn

import (
	"fmt"

	"l2ul/torch"
	F "l2ul/torch/nn/functional"
)

// BatchNormMode says which statistics batch normalisation uses and whether it updates the running ones
// (spec/l2ul.md §5; its fourth mode, frozen, is BatchNormEval with weight and bias left out of the optimizer).
type BatchNormMode uint8

// The modes. In each of them gradients flow to weight and bias.
const (
	// BatchNormTrain normalises with the statistics of the batch and updates the running ones.
	BatchNormTrain BatchNormMode = iota
	// BatchNormFrozenStats normalises with the statistics of the batch and leaves the running ones alone.
	BatchNormFrozenStats
	// BatchNormEval normalises with the running statistics and leaves them alone.
	BatchNormEval
)

// String names the mode as the command line does: train, frozen-stats or eval.
func (m BatchNormMode) String() string {
	switch m {
	case BatchNormTrain:
		return "train"
	case BatchNormFrozenStats:
		return "frozen-stats"
	case BatchNormEval:
		return "eval"
	}
	return fmt.Sprintf("BatchNormMode(%d)", uint8(m))
}

// SetBatchNorm sets the mode of every batch normalisation in m and leaves all else as it is. The next Train or Eval sets
// it back.
func SetBatchNorm(m Module, mode BatchNormMode) {
	if mode > BatchNormEval {
		fail("nn.SetBatchNorm", "%v is no mode", mode)
	}
	m.Root().each("", func(_ string, b *Base) { b.batchNorm = mode })
}

// BatchNorm2dModule normalises the channels of images, made by BatchNorm2d.
type BatchNorm2dModule struct {
	Base
	Weight, Bias            torch.Tensor // undefined without affine; all tensors are owned by the module
	RunningMean, RunningVar torch.Tensor // undefined without trackRunningStats, as is the next
	NumBatchesTracked       torch.Tensor // int64, no dimensions
	eps, momentum           float64
}

var opAddScalarI = torch.Define("aten::add_.Scalar(Tensor(a!) self, Scalar other, Scalar alpha=1) -> Tensor(a!)")

// BatchNorm2d makes batch normalisation over images [n, numFeatures, h, w] (Ioffe and Szegedy, 2015). With affine it has
// the parameters weight (ones) and bias (zeros); with trackRunningStats the buffers running_mean, running_var and
// num_batches_tracked (int64), updated as running = (1-momentum)·running + momentum·batch. Without running statistics it
// uses those of the batch in every mode. PyTorch's defaults are eps 1e-5, momentum 0.1, true, true.
func BatchNorm2d(numFeatures int64, eps, momentum float64, affine, trackRunningStats bool) *BatchNorm2dModule {
	if numFeatures < 1 || !(eps >= 0) || !(momentum >= 0 && momentum <= 1) {
		fail("nn.BatchNorm2d", "%d features, eps %g, momentum %g: features must be 1 or more, eps 0 or more, momentum in [0, 1]",
			numFeatures, eps, momentum)
	}
	m := &BatchNorm2dModule{eps: eps, momentum: momentum}
	shape := []int64{numFeatures}
	torch.Scope(func() {
		if affine {
			m.Weight = m.Param("weight", torch.Ones(shape, false))
			m.Bias = m.Param("bias", torch.Zeros(shape, false))
		}
		if trackRunningStats {
			m.RunningMean = m.Buffer("running_mean", torch.Zeros(shape, false))
			m.RunningVar = m.Buffer("running_var", torch.Ones(shape, false))
			m.NumBatchesTracked = m.Buffer("num_batches_tracked", torch.FromBytes(torch.Long, make([]byte, 8)))
		}
	})
	return m
}

// Forward normalises x [n, numFeatures, h, w] according to the mode.
func (m *BatchNorm2dModule) Forward(x torch.Tensor) torch.Tensor {
	if dim := x.Dim(); dim != 4 {
		fail("nn.BatchNorm2d", "the input must be [n, channels, h, w], got %d dimensions", dim)
	}
	mode := m.batchNorm
	if !m.RunningMean.Defined() {
		mode = BatchNormFrozenStats
	}
	switch mode {
	case BatchNormTrain:
		y := F.BatchNorm(x, m.RunningMean, m.RunningVar, m.Weight, m.Bias, true, m.momentum, m.eps)
		opAddScalarI.Do(m.NumBatchesTracked, 1)
		return y
	case BatchNormFrozenStats:
		return F.BatchNorm(x, torch.Tensor{}, torch.Tensor{}, m.Weight, m.Bias, true, m.momentum, m.eps)
	default:
		return F.BatchNorm(x, m.RunningMean, m.RunningVar, m.Weight, m.Bias, false, m.momentum, m.eps)
	}
}
