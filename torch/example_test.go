package torch_test

import (
	"errors"
	"fmt"
	"log"

	"l2ul/torch"
)

// Fits a line to points by gradient descent, with nothing but tensors and autograd.
func Example() {
	err := torch.Run(torch.CPU, func() error {
		x := torch.Linspace(-1, 1, 21, false)
		y := x.MulScalar(3).AddScalar(0.5)
		slope, offset := torch.Zeros([]int64{1}, true), torch.Zeros([]int64{1}, true)
		parameters := []torch.Tensor{slope, offset}
		for step := range 201 {
			torch.Scope(func() { // frees what a step makes
				loss := x.Mul(slope).Add(offset, 1).Sub(y, 1).Square().Mean()
				for i, g := range torch.Grad([]torch.Tensor{loss}, parameters) {
					torch.NoGrad(func() { parameters[i].AddI(g, -0.1) })
				}
				if step%100 == 0 {
					fmt.Printf("step %3d: loss %.4f\n", step, loss.Item())
				}
			})
		}
		fmt.Printf("y = %.2f x + %.2f\n", slope.Item(), offset.Item())
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// step   0: loss 3.5500
	// step 100: loss 0.0000
	// step 200: loss 0.0000
	// y = 3.00 x + 0.50
}

func ExampleScope() {
	torch.Scope(func() {
		before := torch.Live()
		var total torch.Tensor
		torch.Scope(func() {
			squares := torch.FromSlice([]float32{1, 2, 3}).Square()
			total = torch.KeepOne(squares.Sum())
		})
		fmt.Println(total.Item(), "in", torch.Live()-before, "tensor")
	})
	// Output: 14 in 1 tensor
}

func ExampleTry() {
	torch.Scope(func() {
		a, b := torch.Zeros([]int64{2, 3}, false), torch.Zeros([]int64{4, 5}, false)
		err := torch.Try(func() { torch.MM(a, b) })
		fmt.Println(err)

		b.Free()
		err = torch.Try(func() { a.Add(b, 1) })
		var e *torch.Error
		if errors.As(err, &e) && e.Code == torch.Handle {
			fmt.Println("a freed tensor was given to", e.Op)
		}
	})
	// Output:
	// aten::mm: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5) (shapes [2 3] [4 5])
	// a freed tensor was given to aten::add.Tensor
}

var opCumSum = torch.Define("aten::cumsum(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor")

// Calls an operator that has no method.
func ExampleDefine() {
	torch.Scope(func() {
		x := torch.NewTensor([]int{1, 2, 3, 4})
		fmt.Println(torch.ToSlice[int64](opCumSum.One(x, 0)))
		fmt.Println(torch.ToSlice[float64](opCumSum.One(x, 0, torch.Double)))
	})
	// Output:
	// [1 3 6 10]
	// [1 3 6 10]
}

func ExampleSeeded() {
	torch.Scope(func() {
		torch.Seeded(torch.NewGenerator(0), func() {
			fmt.Println(torch.ToSlice[int64](torch.RandPerm(5))) // torch.randperm(5) after torch.manual_seed(0)
		})
	})
	// Output: [4 0 1 3 2]
}

func ExampleVectorJacobian() {
	torch.Scope(func() {
		x := torch.FromSlice([]float32{1, 2, 3}).SetRequiresGrad(true)
		weights := torch.FromSlice([]float32{1, 10, 100})
		grads := torch.VectorJacobian([]torch.Tensor{x.Square()}, []torch.Tensor{weights}, []torch.Tensor{x}, false)
		fmt.Println(torch.ToSlice[float32](grads[0]))
	})
	// Output: [2 40 600]
}
