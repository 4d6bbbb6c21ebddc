package engine

import (
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
		warm, net := newNet(t, "resnet20"), newNet(t, "l2ul-resnet18")
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
