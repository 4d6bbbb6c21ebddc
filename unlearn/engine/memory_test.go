package engine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"l2ul/torch"
)

// What a plan says that it keeps is what the process grows by, to 15 %: at the peak of a gradient, with all that operators
// of libtorch make on the way.
func TestBytes(t *testing.T) {
	const child = "L2UL_MEASURE_PLAN"
	if os.Getenv(child) == "" {
		// malloc gives nothing back below a threshold that it moves; held down, what is in use is what is resident.
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBytes$", "-test.v")
		cmd.Env = append(os.Environ(), child+"=1", "MALLOC_MMAP_THRESHOLD_=65536", "MALLOC_TRIM_THRESHOLD_=65536", "MALLOC_ARENA_MAX=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Log(string(out))
		return
	}
	job(t, func() {
		torch.ManualSeed(1)
		warm, net := newNet(t, "l2ul-resnet18"), newNet(t, "l2ul-resnet18")
		x := torch.Rand([]int64{64, 3, 32, 32}, false).Contiguous(torch.ChannelsLast)
		use := func(n *Network) {
			torch.Scope(func() { n.Logits(x); n.InputGrad(x, loss) })
		}
		first := Freeze(warm, Exact) // what threads and libraries keep for themselves
		use(first)
		first.Thaw()
		before := resident(t, "VmRSS")
		frozen := Freeze(net, Exact)
		defer frozen.Thaw()
		use(frozen)
		if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
			t.Skipf("this system does not forget the peak: %v", err)
		}
		use(frozen)
		took, said := resident(t, "VmHWM")-before, frozen.Bytes()
		t.Logf("%.1f MiB said, %.1f MiB at the peak", float64(said)/(1<<20), float64(took)/(1<<20))
		if ratio := float64(said) / float64(took); !(ratio > 0.85 && ratio < 1.15) {
			t.Errorf("the plan says %d bytes, and takes %d", said, took)
		}
	})
}

// resident is one of the process's sizes in bytes.
func resident(t *testing.T, name string) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skipf("this system does not tell: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		var kilobytes int64
		if _, err := fmt.Sscanf(line, name+": %d kB", &kilobytes); err == nil {
			return kilobytes << 10
		}
	}
	t.Skipf("this system does not tell %s", name)
	return 0
}

// When memory runs out in the middle of a plan, its buffers go, the weights stay, and fewer images are computed as if nothing
// had happened.
func TestOutOfMemory(t *testing.T) {
	job(t, func() {
		torch.ManualSeed(1)
		frozen := Freeze(newNet(t, "l2ul-resnet18"), Exact)
		defer frozen.Thaw()
		x := torch.Rand([]int64{6, 3, 32, 32}, false).Contiguous(torch.ChannelsLast)
		few := x.Narrow(0, 0, 3)
		logits, grad := frozen.Logits(few), frozen.InputGrad(few, loss).Clone()
		weights := frozen.Bytes()
		for _, r := range frozen.plan.runs {
			weights -= r.bytes
		}
		full := &torch.Error{Op: "aten::empty", Code: torch.OutOfMemory, Msg: "no memory"}
		err := torch.Try(func() { frozen.InputGrad(x, func(torch.Tensor) torch.Tensor { panic(full) }) })
		if !errors.Is(err, full) || frozen.Bytes() != weights {
			t.Errorf("%v; %d bytes are kept, %d of them weights", err, frozen.Bytes(), weights)
		}
		if !torch.Equal(logits, frozen.Logits(few)) || !torch.Equal(grad, frozen.InputGrad(few, loss)) {
			t.Error("other logits or gradients")
		}
		// Inside the layout of the buffers: a batch that no machine has room for.
		live := torch.Live()
		huge := &run{images: 1 << 40, gradient: true}
		if err := torch.Try(func() {
			frozen.plan.attempt(func() { frozen.plan.runs = append(frozen.plan.runs, huge); frozen.plan.bind(huge) })
		}); err == nil {
			t.Error("2^40 images found room")
		}
		frozen.Logits(few)
		if frozen.plan.runs[0].images != 3 || torch.Live() > live {
			t.Errorf("%d tensors, %d before", torch.Live(), live)
		}
	})
}

// Footprint bounds what a plan keeps for each image, and is not far from it.
func TestFootprint(t *testing.T) {
	job(t, func() {
		for _, name := range []string{"l2ul-resnet18", "cifar-resnet50"} {
			frozen := Freeze(newNet(t, name), Exact)
			x := torch.Rand([]int64{16, 3, 32, 32}, false).Contiguous(torch.ChannelsLast)
			all, largest := frozen.Footprint(x.Narrow(0, 0, 1))
			frozen.InputGrad(x, loss)
			runs := frozen.plan.runs
			backward := runs[len(runs)-1].bytes / 16
			frozen.Logits(x)
			runs = frozen.plan.runs
			forward := runs[len(runs)-1].bytes / 16
			if backward > all || backward < all/8 || forward > 4*largest || forward < largest {
				t.Errorf("%s: all %d, a plan with gradients %d; the largest value %d, a plan without %d", name, all, backward, largest, forward)
			}
			frozen.Thaw()
		}
	})
}
