package results_test

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"l2ul/torch/ckpt"
	"l2ul/unlearn/results"
)

// tensors makes float32 tensors of these values, by name.
func tensors(shape []int64, of map[string][]float32, names ...string) *ckpt.File {
	file := &ckpt.File{}
	for _, name := range names {
		t := ckpt.Tensor{Name: name, DType: ckpt.F32, Shape: shape}
		for _, v := range of[name] {
			t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(v))
		}
		file.Tensors = append(file.Tensors, t)
	}
	return file
}

func TestDiff(t *testing.T) {
	const steps = `{"time":"2026-01-01T00:00:00Z","phase":"unlearn","step":1,"values":{"loss":0.5,"hits":3}}
{"time":"2026-01-01T00:00:01Z","phase":"unlearn","step":2,"values":{"loss":0.25,"hits":2}}
`
	same := map[string][]float32{"a": {1, 2, 3, 4, 5, 6}, "b": {0, 0, 0, 0, 0, 0}}
	base := map[string]string{"argv.txt": "x\n", "config.yaml": "method: adv\nlr: 0.5\n", "metrics.jsonl": steps}
	a := write(t, base)
	if err := ckpt.Save(filepath.Join(a, "model.safetensors"), tensors([]int64{2, 3}, same, "a", "b")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what    string
		files   map[string]string
		weights *ckpt.File
		want    results.Difference
	}{
		{"only times", map[string]string{"metrics.jsonl": `{"time":"2027-01-01T00:00:00Z","phase":"unlearn","step":1,"values":{"hits":3,"loss":0.5}}
{"time":"2027-01-01T00:00:00Z","phase":"unlearn","step":2,"values":{"loss":0.25,"hits":2}}
`}, tensors([]int64{2, 3}, same, "a", "b"), results.Difference{Steps: 2, Tensors: 2}},
		{"settings", map[string]string{"config.yaml": "seed: 1\nmethod: adv\nlr: 0.25\n"}, tensors([]int64{2, 3}, same, "b", "a"), results.Difference{
			Settings: []results.SettingDifference{{"lr", "0.5", "0.25"}, {"seed", "", "1"}}, Steps: 2, Tensors: 2,
		}},
		{"a number", map[string]string{"metrics.jsonl": steps[:len(steps)-3] + ",\"x\":null}}\n"}, tensors([]int64{2, 3}, same, "a", "b"), results.Difference{
			Step: &results.StepDifference{"unlearn", 2, "x", "none", "not finite"}, Steps: 2, Tensors: 2,
		}},
		{"fewer steps", map[string]string{"metrics.jsonl": steps[:len(steps)/2]}, tensors([]int64{2, 3}, same, "a", "b"), results.Difference{
			Step: &results.StepDifference{Phase: "unlearn", Step: 2, A: "goes on"}, Steps: 1, Tensors: 2,
		}},
		{"weights", nil, tensors([]int64{2, 3}, map[string][]float32{"a": {1, 2, 3, 4, 5.5, 7}, "b": {1, 0, 0, 0, 0, 0}}, "a", "b"), results.Difference{
			Steps: 2, Weights: &results.WeightDifference{2, "a", []int64{1, 1}, "5", "5.5"}, Tensors: 2,
		}},
		{"sign of zero", nil, tensors([]int64{2, 3}, map[string][]float32{"a": same["a"], "b": {0, 0, 0, 0, 0, float32(math.Copysign(0, -1))}}, "a", "b"), results.Difference{
			Steps: 2, Weights: &results.WeightDifference{1, "b", []int64{1, 2}, "0", "-0"}, Tensors: 2,
		}},
		{"shape", nil, tensors([]int64{3, 2}, same, "a", "b"), results.Difference{
			Steps: 2, Weights: &results.WeightDifference{Tensors: 2, Tensor: "a", A: "F32 [2 3]", B: "F32 [3 2]"}, Tensors: 2,
		}},
		{"names", nil, tensors([]int64{2, 3}, map[string][]float32{"a": same["a"], "c": same["b"]}, "a", "c"), results.Difference{
			Steps: 2, Weights: &results.WeightDifference{Tensors: 2, Tensor: "b", A: "F32 [2 3]", B: "none"}, Tensors: 2,
		}},
		{"no weights", nil, nil, results.Difference{Steps: 2, Weights: &results.WeightDifference{Tensor: "all", A: "2 tensors", B: "none"}}},
	} {
		t.Run(c.what, func(t *testing.T) {
			b := write(t, base)
			for name, text := range c.files {
				if err := os.WriteFile(filepath.Join(b, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if c.weights != nil {
				if err := ckpt.Save(filepath.Join(b, "model.safetensors"), c.weights); err != nil {
					t.Fatal(err)
				}
			}
			got, err := results.Diff(open(t, a), open(t, b))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(&c.want, got); d != "" {
				t.Error(d)
			}
			if equal := c.what == "only times"; got.Equal() != equal {
				t.Errorf("equal: %v", got.Equal())
			}
		})
	}
}
