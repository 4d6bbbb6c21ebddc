// Package reference lets tests compare themselves with Python's PyTorch: with values checked in under scripts/golden, and
// with a Python that runs live on the same machine. Bits depend on the instruction set and on the number of threads, so
// only the live comparison asks for equality.
package reference

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"l2ul/torch"
	"l2ul/torch/ckpt"
)

// Threads is how many threads either side computes with.
const Threads = 2

// TestMain runs the tests of a package that computes, and fails if they leave tensors behind.
func TestMain(m *testing.M) {
	torch.SetNumThreads(Threads)
	code := m.Run()
	if n := torch.Live(); n != 0 && code == 0 {
		fmt.Fprintf(os.Stderr, "%d tensors or generators were never freed\n", n)
		code = 1
	}
	torch.Shutdown()
	os.Exit(code)
}

// prelude comes before every script. save collects what Run returns; of a large tensor, only the hash.
const prelude = `
import hashlib, sys, torch
from torch import nn
from torch.nn import functional as F
sys.path.insert(0, sys.argv[2])
torch.set_num_threads(int(sys.argv[3]))
result = {}
def save(name, tensor):
    tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
    if tensor.numel() > 10000:
        name, tensor = name + "#sha256", torch.tensor(list(hashlib.sha256(tensor.numpy().tobytes()).digest()), dtype=torch.uint8)
    result[name] = tensor
`

const epilogue = `
from safetensors.torch import save_file
save_file(result, sys.argv[1])
`

// Run runs a Python script, which imports the networks of scripts/golden as nets and calls save(name, tensor), and returns
// what it saved. It skips the test where there is no Python with the torch that is linked here.
func Run(t *testing.T, script string) *ckpt.File {
	t.Helper()
	dir := t.TempDir()
	source, out := filepath.Join(dir, "reference.py"), filepath.Join(dir, "reference.safetensors")
	if err := os.WriteFile(source, []byte(prelude+script+epilogue), 0o600); err != nil {
		t.Fatal(err)
	}
	return python(t, out, source, out, Golden(t, ""), fmt.Sprint(Threads))
}

// Live reports whether `make parity` asks for values of a Python that runs on this machine now.
func Live() bool { return os.Getenv("L2UL_PYTHON") != "" }

// Remake makes a checked-in reference again, the file of scripts/golden with that name and ".safetensors".
func Remake(t testing.TB, name string) *ckpt.File {
	t.Helper()
	dir := t.TempDir()
	return python(t, filepath.Join(dir, name+".safetensors"), Golden(t, "make.py"), "--out", dir, "--threads", fmt.Sprint(Threads), name)
}

// python runs Python and returns the file that it writes to out.
func python(t testing.TB, out string, args ...string) *ckpt.File {
	t.Helper()
	program, err := interpreter()
	if err != nil {
		t.Skipf("no live comparison with PyTorch: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "OMP_WAIT_POLICY=passive", "PYTHONDONTWRITEBYTECODE=1")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, text)
	}
	f, err := ckpt.Load(out)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Equal fails the test unless got has the dtype, shape and every bit of the tensor that the script saved under name.
func Equal(t *testing.T, want *ckpt.File, name string, got torch.Tensor) {
	t.Helper()
	if w, ok := want.Lookup(name + "#sha256"); ok {
		if sum := sha256.Sum256(got.Bytes()); !bytes.Equal(w.Data, sum[:]) {
			t.Errorf("%s: %v has other bits than PyTorch's", name, got)
		}
		return
	}
	w, ok := want.Lookup(name)
	if !ok {
		t.Fatalf("the reference script did not save %s", name)
	}
	if fmt.Sprint(w.Shape) != fmt.Sprint(got.Shape()) {
		t.Errorf("%s: shape %v, PyTorch has %v", name, got.Shape(), w.Shape)
		return
	}
	data := got.Bytes()
	if bytes.Equal(data, w.Data) {
		return
	}
	if len(data) != len(w.Data) {
		t.Errorf("%s: %v, PyTorch has %s", name, got, w.DType)
		return
	}
	size := w.DType.Size()
	first, different := -1, 0
	for i := 0; i < len(data); i += size {
		if !bytes.Equal(data[i:i+size], w.Data[i:i+size]) {
			if different++; first < 0 {
				first = i / size
			}
		}
	}
	t.Errorf("%s: %d of %d elements have other bits than PyTorch's, the first is %d", name, different, len(data)/size, first)
}

// MadeHere says that a reference with this metadata comes from a processor and a libtorch like these, so that its bits should
// be had again. Which loops oneDNN and MKL choose depends on more than the instruction set.
func MadeHere(made map[string]string) bool {
	build := torch.Build()
	return made["cpu"] == cpu() && made["cpu_capability"] == build.CPUCapability && strings.HasPrefix(made["torch"], build.Version)
}

// cpu is the processor's name as the system gives it, or "unknown".
func cpu() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(info)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimLeft(strings.TrimSpace(name), ": \t")
		}
	}
	return "unknown"
}

// alike are networks that differ from a smaller one of their family by numbers alone.
var alike = []string{
	"resnet101", "resnet152", "wide_resnet101_2", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
	"vit_s_16", "vit_s_32", "vit_b_16", "hf-vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "deit_ti_16", "deit_s_16", "deit_b_16", "cifar-vit-s",
	"swin_s", "swin_b", "convnext_small", "convnext_base",
}

// Spared says that time is short, and that the test of this large network shows nothing which that of a smaller one does not.
func Spared(network string) bool {
	return slices.Contains(alike, network) && os.Getenv("L2UL_LONG") == ""
}

// Golden is the path of a checked-in reference, a file of scripts/golden (its README says what they hold).
func Golden(t testing.TB, name string) string {
	t.Helper()
	root, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "scripts", "golden", name)
}

// interpreter finds Python with the pinned torch: $L2UL_PYTHON, else python3.
var interpreter = sync.OnceValues(func() (string, error) {
	python := os.Getenv("L2UL_PYTHON")
	if python == "" {
		python = "python3"
	}
	path, err := exec.LookPath(python)
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(context.Background(), path, "-c", "import safetensors, torch; print(torch.__version__)").Output()
	if err != nil {
		return "", fmt.Errorf("%s has no torch with safetensors", path)
	}
	version, _, _ := strings.Cut(strings.TrimSpace(string(out)), "+")
	if linked := torch.Build().Version; version != linked {
		return "", fmt.Errorf("%s has torch %s, linked is %s", path, version, linked)
	}
	return path, nil
})

// repository is the folder of go.mod above the test.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", errors.New("the test does not run inside the repository")
		}
		dir = filepath.Dir(dir)
	}
}
