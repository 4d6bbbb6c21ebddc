package engine

import (
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
	"l2ul/torch/cuda"
)

// noCUDA is why there is no device, nil on a machine with a GPU.
var noCUDA error

func TestMain(m *testing.M) {
	noCUDA = cuda.Open() // before any test makes a tensor
	reference.TestMain(m)
}

func TestOnCUDA(t *testing.T) {
	if noCUDA != nil {
		t.Skip(noCUDA)
	}
	cuda.AllowTF32(false)
	torch.SetDeterministic(true)
	defer torch.SetDeterministic(false)
	testOnDevice(t, torch.CUDA(0))
}

// What CUDA is tested with is itself tested on the CPU.
func TestOnCPU(t *testing.T) { testOnDevice(t, torch.CPU) }

// testOnDevice holds plans by libtorch, in float32 and bfloat16, and loops around them against the network on a device.
func testOnDevice(t *testing.T, device torch.Device) {
	for _, name := range []string{"cifar-resnet18", "resnet18"} { // the second pools
		t.Run(name, func(t *testing.T) {
			err := torch.Run(device, func() error {
				torch.ManualSeed(8)
				net := newNet(t, name)
				net.Root().To(device)
				images := torch.Rand([]int64{6, 3, 40, 40}, false).Contiguous(torch.ChannelsLast).To(device, torch.Float)
				exact, reference := freeze(net, true), Freeze(net, Reference)
				defer exact.Thaw()
				defer reference.Thaw()
				on := func(logits torch.Tensor) torch.Tensor {
					return gradient(logits.To(torch.CPU, torch.Float)).To(device, torch.Float)
				}
				want := reference.InputGrad(images, on)
				if d := distance(exact.Logits(images), reference.Logits(images)); !(d < 1e-4) {
					t.Errorf("logits differ by %g", d)
				}
				if d := distance(exact.InputGrad(images, on), want); !(d < 3e-2) || exact.Fallback() != "" {
					t.Errorf("gradients differ by %g; %s", d, exact.Fallback())
				}
				half, err := lower(net, images, true, torch.BFloat16)
				if err != nil {
					t.Fatal(err)
				}
				defer half.free()
				if d := distance(half.inputGrad(images, on), want); !(d > 1e-3 && d < 0.3) {
					t.Errorf("bfloat16: gradients differ by %g", d)
				}

				weights := torch.Rand([]int64{6, 10}, false).To(device, torch.Float)
				x := images.Clone()
				climb := func(graphs bool) torch.Tensor {
					x.CopyI(images)
					loop := exact.Loop(func() {
						torch.Scope(func() {
							x.AddI(exact.InputGrad(x, func(torch.Tensor) torch.Tensor { return weights }), 1e-3)
						})
					})
					defer loop.Free()
					for range 5 {
						loop.Next()
					}
					if got := loop.rounds.Recorded(); got != (graphs && device != torch.CPU) {
						t.Errorf("a graph: %t; %s", got, exact.NoGraph())
					}
					return x.Clone()
				}
				steps := climb(true)
				exact.noGraph = "for comparison"
				if one := climb(false); !torch.Equal(steps, one) || torch.Equal(steps, images) {
					t.Errorf("steps by a graph end %g from those done one by one", distance(steps, one))
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// With TF32 a plan is accepted as it is without, rounds where it may, and no image changes its class.
func TestTF32OnCUDA(t *testing.T) {
	if noCUDA != nil {
		t.Skip(noCUDA)
	}
	cuda.AllowTF32(true)
	defer cuda.AllowTF32(false)
	err := torch.Run(torch.CUDA(0), func() error {
		torch.ManualSeed(8)
		net := newNet(t, "cifar-resnet18")
		net.Root().To(torch.CUDA(0))
		x := torch.Rand([]int64{64, 3, 32, 32}, false).Contiguous(torch.ChannelsLast).To(torch.CUDA(0), torch.Float)
		coarse, reference := Freeze(net, Exact), Freeze(net, Reference)
		defer coarse.Thaw()
		defer reference.Thaw()
		on := func(logits torch.Tensor) torch.Tensor {
			return gradient(logits.To(torch.CPU, torch.Float)).To(torch.CUDA(0), torch.Float)
		}
		var want, climb torch.Tensor
		cuda.Float32(func() { want, climb = reference.Logits(x), reference.InputGrad(x, on) })
		if d := distance(coarse.Logits(x), want); !(d > 1e-5 && d < float64(coarse.margin)) || coarse.Fallback() != "" {
			t.Errorf("logits differ by %g; %s", d, coarse.Fallback())
		}
		if right := coarse.Logits(x).ArgMax(1, false).Eq(want.ArgMax(1, false)).Sum().ItemInt(); right != 64 {
			t.Errorf("%d of 64 images have the class that they have in float32", right)
		}
		if d := distance(coarse.InputGrad(x, on), climb); !(d < 0.2) {
			t.Errorf("gradients differ by %g", d)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
