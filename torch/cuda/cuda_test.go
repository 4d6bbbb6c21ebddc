package cuda

import (
	"slices"
	"strings"
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
)

// absent is why the device tests below are skipped, nil on a machine with a GPU.
var absent error

func TestMain(m *testing.M) {
	absent = Open() // before any test makes a tensor
	reference.TestMain(m)
}

// onGPU runs fn as a job on the first GPU.
func onGPU(t *testing.T, fn func(dev torch.Device)) {
	t.Helper()
	if absent != nil {
		t.Skip(absent)
	}
	dev := torch.CUDA(0)
	if err := torch.Run(dev, func() error { fn(dev); return nil }); err != nil {
		t.Fatal(err)
	}
}

func TestWithoutCUDA(t *testing.T) {
	if absent == nil {
		t.Skip("this machine has CUDA")
	}
	if Opened() {
		t.Error("Opened although Open failed")
	}
	if again := Open(); again != absent { //nolint:errorlint // the very same
		t.Errorf("the second Open says %v, the first said %v", again, absent)
	}
	err := torch.Run(torch.CUDA(0), func() error { t.Error("a job ran on CUDA"); return nil })
	if err == nil || !strings.Contains(err.Error(), "CUDA is not open") {
		t.Errorf("Run on CUDA says %v", err)
	}
}

func TestMissing(t *testing.T) {
	const loader = ": cannot open shared object file: No such file or directory"
	for reason, want := range map[string]string{
		Library + loader:                "libtorchgo_cuda.so is not beside the program's other libraries; `make cuda` builds it",
		"libcudnn.so.9" + loader:        "libcudnn.so.9 is missing, a part of libtorch for CUDA; `make cuda-libtorch` gets it",
		"x.so: undefined symbol: _ZN1x": "libtorchgo_cuda.so does not fit the libraries around it: x.so: undefined symbol: _ZN1x",
	} {
		if got := missing(reason).Error(); got != want {
			t.Errorf("%q becomes %q, want %q", reason, got, want)
		}
	}
}

func TestStreamsAndEvents(t *testing.T) {
	onGPU(t, func(dev torch.Device) {
		before, s := CurrentStream(dev), NewStream(dev)
		var sum torch.Tensor
		var first, last *Event
		s.On(func() {
			if CurrentStream(dev) != s {
				t.Error("On runs on another stream")
			}
			first = s.Record()
			x := torch.Ones([]int64{1 << 12, 1 << 12}, false).To(dev, torch.Float)
			sum = torch.MM(x, x).Sum()
			last = s.Record()
		})
		if CurrentStream(dev) != before {
			t.Error("On left its stream behind")
		}
		before.Wait(last)
		if got := sum.Item(); got != 1<<36 {
			t.Errorf("the sum is %v, want 2^36", got)
		}
		last.Synchronize()
		if !last.Done() || first.Until(last) <= 0 {
			t.Errorf("done %v, %v after the first event", last.Done(), first.Until(last))
		}
		first.Free()
		last.Free()
	})
}

func TestTF32(t *testing.T) {
	if TF32() {
		t.Error("TF32 is allowed before anybody asked")
	}
	calls := 0
	Float32(func() { calls++ })
	if calls != 1 || TF32() {
		t.Errorf("%d calls, TF32 %t", calls, TF32())
	}
	onGPU(t, func(dev torch.Device) {
		defer AllowTF32(false)
		x := torch.Ones([]int64{1 << 10, 1 << 10}, false).MulScalar(1+1.0/(1<<12)).To(dev, torch.Float) // TF32 rounds it to 1
		exact := func() bool { return torch.MM(x, x).Select(0, 0).Select(0, 0).Item() > 1<<10 }
		AllowTF32(true)
		if exact() || !TF32() {
			t.Error("products are exact where TF32 is allowed")
		}
		Float32(func() {
			if !exact() || TF32() {
				t.Error("products round to TF32 in Float32")
			}
		})
		if exact() || !TF32() {
			t.Error("TF32 is no longer allowed after Float32")
		}
	})
}

func TestGraph(t *testing.T) {
	onGPU(t, func(dev torch.Device) {
		x := torch.Zeros([]int64{1000}, false).To(dev, torch.Float)
		var y torch.Tensor
		work := func() { torch.Scope(func() { y = torch.KeepOne(x.Mul(x).Add(x, 1)) }) }
		work()
		g := Capture(dev, nil, work)
		defer g.Free()
		for v := range 5 {
			x.FillI(float64(v))
			g.Replay()
			got := torch.ToSlice[float32](y)
			if i := slices.IndexFunc(got, func(f float32) bool { return f != float32(v*v+v) }); i >= 0 {
				t.Fatalf("replay with %d gave %v at %d", v, got[i], i)
			}
		}
	})
}

// A backward pass becomes part of a graph with its forward pass, and graphs share memory whatever the order they are
// replayed in.
func TestGraphOfGradients(t *testing.T) {
	onGPU(t, func(dev torch.Device) {
		w := torch.RandN([]int64{64, 64}, false).To(dev, torch.Float).SetRequiresGrad(true)
		x, got := torch.RandN([]int64{256, 64}, false).To(dev, torch.Float), w.Detach().ZerosLike()
		gradient := func(rows int64) torch.Tensor {
			loss := x.Narrow(0, 0, rows).Linear(w, torch.Tensor{}).Tanh().Square().Sum()
			return torch.Grad([]torch.Tensor{loss}, []torch.Tensor{w})[0]
		}
		record := NewRecorder(dev)
		loops := map[int64]*Loop{}
		for _, rows := range []int64{256, 100} {
			loops[rows] = NewLoop(func() { torch.Scope(func() { got.CopyI(gradient(rows)) }) })
			defer loops[rows].Free()
		}
		for i, rows := range []int64{256, 100, 256, 100, 100, 256, 256, 100} {
			x.CopyI(torch.RandN([]int64{256, 64}, false).To(dev, torch.Float))
			loops[rows].Next(record)
			torch.Scope(func() { // a loss that lived on would tie later captures to this stream
				if !torch.Equal(got, gradient(rows)) {
					t.Errorf("round %d, %d rows: another gradient", i, rows)
				}
			})
		}
		if !loops[256].Recorded() || !loops[100].Recorded() {
			t.Error("no graphs")
		}
	})
}

func TestCaptureThatFailsLeavesTheDeviceUsable(t *testing.T) {
	onGPU(t, func(dev torch.Device) {
		x := torch.Ones([]int64{3}, false).To(dev, torch.Float)
		double := func() { x.AddI(x, 1) }
		double()
		before := Capture(dev, nil, double)
		defer before.Free()
		draw := torch.Define("aten::uniform_(Tensor(a!) self, float from=0, float to=1, *, Generator? generator=None) -> Tensor(a!)")
		for what, work := range map[string]func(){
			"waits for the device": func() { x.Sum().Item() },
			"draws, and then waits": func() {
				torch.Scope(func() { draw.Do(x.Clone(), 0.0, 1.0) })
				x.Sum().Item()
			},
			"panics": func() { panic(&torch.Error{Op: "test", Msg: "no"}) },
		} {
			for _, like := range []*Graph{nil, before} {
				if err := torch.Try(func() { Capture(dev, like, work) }); err == nil {
					t.Errorf("work that %s was captured", what)
				}
			}
			torch.Scope(func() { // random draws, and memory of the host that the device reads
				draw.Do(x.Clone(), 0.0, 1.0)
				Copy(x, Pin(torch.Ones([]int64{3}, false)))
			})
			before.Replay()
			after := Capture(dev, before, double)
			after.Replay()
			if got := x.Sum().Item(); got != 12 {
				t.Errorf("%s: the sum is %v afterwards, want 12", what, got)
			}
			after.Free()
		}
	})
}

func TestMemory(t *testing.T) {
	onGPU(t, func(dev torch.Device) {
		const bytes = 64 << 20
		ResetPeaks(dev)
		before := MemoryOf(dev)
		torch.Scope(func() {
			torch.Zeros([]int64{bytes / 4}, false).To(dev, torch.Float)
			if got := MemoryOf(dev).Allocated - before.Allocated; got != bytes {
				t.Errorf("a tensor of %d bytes takes %d", bytes, got)
			}
		})
		after := MemoryOf(dev)
		if after.Allocated != before.Allocated || after.PeakAllocated < before.Allocated+bytes {
			t.Errorf("before %+v, after %+v", before, after)
		}
		EmptyCache()
		if now := MemoryOf(dev); now.Reserved > after.Reserved-bytes {
			t.Errorf("EmptyCache left %d of %d bytes", now.Reserved, after.Reserved)
		}
	})
}

func TestPinnedCopies(t *testing.T) {
	onGPU(t, func(dev torch.Device) {
		want := make([]float32, 1<<20)
		for i := range want {
			want[i] = float32(i)
		}
		host := Pin(torch.FromSlice(want))
		there := torch.Zeros([]int64{1 << 20}, false).To(dev, torch.Float)
		back := Pin(torch.Zeros([]int64{1 << 20}, false))
		Copy(there, host)
		Copy(back, there)
		CurrentStream(dev).Synchronize()
		if !slices.Equal(torch.ToSlice[float32](back), want) {
			t.Error("values changed on the way there and back")
		}
	})
}
