package optim_test

import (
	"fmt"
	"log"

	"l2ul/torch"
	"l2ul/torch/nn"
	F "l2ul/torch/nn/functional"
	"l2ul/torch/optim"
)

// MLP is the network of gotorch's MNIST example.
type MLP struct {
	nn.Base
	fc1, fc2 *nn.LinearModule
}

func newMLP() *MLP {
	net := &MLP{fc1: nn.Linear(28*28, 32, true), fc2: nn.Linear(32, 10, true)}
	net.Child("fc1", net.fc1)
	net.Child("fc2", net.fc2)
	return net
}

func (n *MLP) Forward(x torch.Tensor) torch.Tensor {
	x = x.View(-1, 28*28)
	x = n.fc1.Forward(x).Tanh()
	return n.fc2.Forward(x).LogSoftmax(1)
}

// digits stands in for MNIST: class c is a bright bar in rows 2c+4 and 2c+5, at a random place, in noise.
type digits struct{ size int64 }

func (d digits) minibatch() (data, target torch.Tensor) {
	data = torch.Rand([]int64{d.size, 1, 28, 28}, false).MulScalar(0.2)
	target = torch.RandPerm(d.size)
	places := torch.ToSlice[int64](torch.RandPerm(d.size))
	labels := torch.ToSlice[int64](target)
	for i := range labels {
		labels[i] %= 10
		bar := data.Select(0, int64(i)).Narrow(1, 2*labels[i]+4, 2).Narrow(2, places[i]%20, 8)
		bar.FillI(1)
	}
	return data, torch.FromSlice(labels)
}

// The MNIST training loop as gotorch has it. Scope frees the tensors of each step where gotorch called torch.GC.
func Example_mnist() {
	torch.ManualSeed(1)
	err := torch.Run(torch.CPU, func() error {
		net := newMLP()
		defer net.Free()
		opt := optim.SGD(0.1, 0.5, 0, 0, false)
		defer opt.Free()
		opt.AddParameters(net.Parameters())
		loader := digits{64}

		for range 100 {
			torch.Scope(func() {
				data, label := loader.minibatch()
				opt.ZeroGrad()
				loss := F.NllLoss(net.Forward(data), label, torch.Tensor{}, -100, "mean")
				loss.Backward()
				opt.Step()
			})
		}

		net.Eval()
		torch.NoGrad(func() {
			data, label := digits{500}.minibatch()
			right := net.Forward(data).ArgMax(1, false).Eq(label).Sum().ItemInt()
			fmt.Println("more than 95 % of the test images right:", right > 475)
		})
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: more than 95 % of the test images right: true
}

// A schedule is a function of the step, asked before each one.
func ExampleCosineAnnealingLR() {
	schedule := optim.CosineAnnealingLR(0.1, 4, 0)
	for epoch := range 4 {
		fmt.Printf("%.4f ", schedule(epoch))
	}
	// Output: 0.1000 0.0854 0.0500 0.0146
}
