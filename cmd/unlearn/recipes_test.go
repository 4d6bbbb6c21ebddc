package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"l2ul/internal/tinyimages"
	"l2ul/unlearn/run/config"
)

// blackCIFAR writes both CIFAR datasets in the sizes of the real ones, as files without content: black images of the first
// class.
func blackCIFAR(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string, size int64) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, max(size, int64(len(content)))); err != nil {
			t.Fatal(err)
		}
	}
	names := func(n int) (text string) {
		for i := range n {
			text += fmt.Sprintf("class %d\n", i)
		}
		return text
	}
	write("cifar-10-batches-bin/batches.meta.txt", names(10), 0)
	for _, batch := range []string{"data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"} {
		write("cifar-10-batches-bin/"+batch+".bin", "", 10000*(1+3072))
	}
	write("cifar-100-binary/fine_label_names.txt", names(100), 0)
	write("cifar-100-binary/train.bin", "", 50000*(2+3072))
	write("cifar-100-binary/test.bin", "", 10000*(2+3072))
	return dir
}

// Every preset trains what its source says.
func TestPresetsTrain(t *testing.T) {
	want := map[string]string{
		"demo":                   "628: 4 epochs of 5000 images, 32 at a time",
		"fast/cifar10-resnet18":  "5880: 30 epochs of 50000 images, 256 at a time",
		"l2ul/cifar10-resnet18":  "78200: 200 epochs of 50000 images, 128 at a time",
		"l2ul/cifar100-vit":      "78200: 200 epochs of 50000 images, 128 at a time", // enlarged; it comes trained, and has no recipe
		"l2ul/cifar100-resnet50": "78200: 200 epochs of 50000 images, 128 at a time",
		"optml/cifar10-resnet18": "32032: 182 epochs of 45000 images, 256 at a time", "optml/cifar100-resnet18": "32032: 182 epochs of 45000 images, 256 at a time",
	}
	data := blackCIFAR(t)
	for _, preset := range config.Presets() {
		if text, err := config.Preset(preset); err != nil {
			t.Fatal(err)
		} else if !strings.Contains(string(text), "\ndataset: cifar") && preset != "demo" {
			continue // it names no data, or some that no test has
		}
		var steps string
		args := []string{"train", "-c", "preset:" + preset, "--dry-run", "--json", "--threads", "1"}
		if preset != "demo" {
			args = append(args, "--data-dir", data)
		}
		code, stderr := process(t, t.TempDir(), func(e map[string]any, _ *os.Process) {
			if result, ok := e["result"].(map[string]any); ok {
				steps = fmt.Sprint(result["plan"].(map[string]any)["steps"])
			}
		}, args...)
		if code != 0 || steps != want[preset] {
			t.Errorf("%s: exit code %d, steps %q, want %q\n%s", preset, code, steps, want[preset], stderr)
		}
	}
}

// Two processes that ask for the same retrained network at once train it once: one waits, and takes it from the cache.
func TestOracleOnce(t *testing.T) {
	dir := t.TempDir()
	if err := tinyimages.Write(filepath.Join(dir, "data"), 3); err != nil {
		t.Fatal(err)
	}
	common := []string{"--json", "-m", "resnet20", "--dataset", "imagefolder", "--data-dir", "data", "--threads", "1", "--train-batch", "12"}
	code, stderr := process(t, dir, func(map[string]any, *os.Process) {}, append([]string{"train", "--epochs", "1", "-o", "original"}, common...)...)
	if code != 0 {
		t.Fatal(stderr)
	}
	var wg sync.WaitGroup
	var trained, waited [2]bool
	for i, output := range []string{"a", "b"} {
		wg.Go(func() {
			code, stderr := process(t, dir, func(e map[string]any, _ *os.Process) {
				if e["event"] == "metric" {
					trained[i] = true
				}
			}, append([]string{
				"forget", "--method", "retrain", "--epochs", "40", "-k", "3", "--weights", "original/model.safetensors", "-o", output, "--log-format", "json",
			}, common...)...)
			if code != 0 {
				t.Errorf("%s: exit code %d: %s", output, code, stderr)
			}
			waited[i] = strings.Contains(stderr, "another process makes this very entry of the cache")
		})
	}
	wg.Wait()
	if trained[0] == trained[1] || waited[0] == waited[1] || trained[0] == waited[0] {
		t.Errorf("trained %v, waited %v", trained, waited)
	}
	a, errA := os.Stat(filepath.Join(dir, "a", "model.safetensors"))
	b, errB := os.Stat(filepath.Join(dir, "b", "model.safetensors"))
	if errA != nil || errB != nil || !os.SameFile(a, b) {
		t.Errorf("two files: %v, %v", errA, errB)
	}
}
