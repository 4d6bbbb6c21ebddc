package results

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"l2ul/torch/ckpt"
)

// Difference is what two runs differ in. What they agree in is empty.
type Difference struct {
	Settings []SettingDifference `json:"settings,omitempty"` // in the order of config.yaml
	Step     *StepDifference     `json:"step,omitempty"`     // the first line of metrics.jsonl that differs
	Steps    int                 `json:"steps"`              // lines that were compared
	Weights  *WeightDifference   `json:"weights,omitempty"`
	Tensors  int                 `json:"tensors"` // that were compared; 0 where a run has no weights
}

// Equal reports whether settings, steps and weights are the same.
func (d *Difference) Equal() bool { return d.Settings == nil && d.Step == nil && d.Weights == nil }

// SettingDifference is a key of config.yaml; "" is one that a run does not have.
type SettingDifference struct {
	Key string `json:"key"`
	A   string `json:"a"`
	B   string `json:"b"`
}

// StepDifference is a number of a step. Value is "" where one of the runs has no such step any more, and its A or B is "".
type StepDifference struct {
	Phase string `json:"phase"`
	Step  int64  `json:"step"`
	Value string `json:"value,omitempty"`
	A     string `json:"a"`
	B     string `json:"b"`
}

// WeightDifference is the first element of the first tensor that differs, and how many tensors do. A tensor that one run lacks,
// or has in another shape, has no index.
type WeightDifference struct {
	Tensors int     `json:"tensors"`
	Tensor  string  `json:"tensor"`
	Index   []int64 `json:"index,omitempty"`
	A       string  `json:"a"`
	B       string  `json:"b"`
}

// Diff compares two runs: settings, steps without their times, and the weights they ended with. Those of streams are those of the runs of
// their requests, one after the other.
func Diff(a, b *Run) (*Difference, error) {
	d := &Difference{Settings: diffSettings(a, b)}
	was, lastA, err := a.steps()
	if err != nil {
		return nil, err
	}
	is, lastB, err := b.steps()
	if err != nil {
		return nil, err
	}
	d.Steps = min(len(was), len(is))
	d.Step = diffSteps(was, is)
	before, err := lastA.Weights()
	if err != nil {
		return nil, err
	}
	after, err := lastB.Weights()
	if err != nil {
		return nil, err
	}
	switch {
	case before == nil && after == nil:
	case before == nil || after == nil:
		d.Weights = &WeightDifference{Tensor: "all", A: present(before), B: present(after)}
	default:
		d.Weights, d.Tensors = diffWeights(before, after), len(before)
	}
	return d, nil
}

// steps are the metrics of a run, and which run has its weights: of a stream, the last one, and phases have the names of the others
// before them.
func (r *Run) steps() (metrics []Metric, last *Run, err error) {
	if r.Verb != "continual" {
		metrics, err = r.Metrics()
		return metrics, r, err
	}
	runs, err := r.served(func(folders []string) []string { return folders })
	if err != nil {
		return nil, nil, err
	}
	last = r
	for _, one := range runs {
		some, err := one.Metrics()
		if err != nil {
			return nil, nil, err
		}
		for _, m := range some {
			m.Phase = filepath.Base(one.Path) + " " + m.Phase
			metrics = append(metrics, m)
		}
		last = one
	}
	return metrics, last, nil
}

func present(tensors []ckpt.Tensor) string {
	if tensors == nil {
		return "none"
	}
	return fmt.Sprintf("%d tensors", len(tensors))
}

func diffSettings(a, b *Run) (list []SettingDifference) {
	seen := map[string]bool{}
	for _, s := range append(slices.Clone(a.Settings), b.Settings...) {
		if was, is := a.Setting(s.Key), b.Setting(s.Key); was != is && !seen[s.Key] {
			list = append(list, SettingDifference{s.Key, was, is})
		}
		seen[s.Key] = true
	}
	return list
}

func diffSteps(a, b []Metric) *StepDifference {
	for i := range max(len(a), len(b)) {
		switch {
		case i >= len(a):
			return &StepDifference{Phase: b[i].Phase, Step: b[i].Step, B: "goes on"}
		case i >= len(b):
			return &StepDifference{Phase: a[i].Phase, Step: a[i].Step, A: "goes on"}
		}
		was, is := a[i], b[i]
		if was.Phase != is.Phase || was.Step != is.Step {
			return &StepDifference{Phase: was.Phase, Step: was.Step, Value: "step", A: fmt.Sprintf("%s %d", was.Phase, was.Step), B: fmt.Sprintf("%s %d", is.Phase, is.Step)}
		}
		names := slices.Sorted(maps.Keys(was.Values))
		for name := range is.Values {
			if _, both := was.Values[name]; !both {
				names = append(names, name)
			}
		}
		for _, name := range names {
			if x, y := number(was.Values, name), number(is.Values, name); x != y {
				return &StepDifference{was.Phase, was.Step, name, x, y}
			}
		}
	}
	return nil
}

func number(values map[string]*float64, name string) string {
	x, ok := values[name]
	switch {
	case !ok:
		return "none"
	case x == nil:
		return "not finite"
	}
	return strconv.FormatFloat(*x, 'g', -1, 64)
}

// Weights reads the weights that a run ended with; nil when it has none.
func (r *Run) Weights() ([]ckpt.Tensor, error) {
	folder, err := OpenFolder(r.Path)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	for _, name := range []string{"model.safetensors", "model.pt", "model.npz"} {
		var weights *ckpt.File
		_, err := folder.read(name, func(file *os.File, size int64) (_ []byte, err error) {
			weights, err = ckpt.Read(file, size)
			return nil, err
		})
		if !errors.Is(err, fs.ErrNotExist) {
			if err != nil {
				return nil, err
			}
			return weights.Tensors, nil
		}
	}
	return nil, nil
}

// diffWeights compares tensors by their names, bit by bit.
func diffWeights(a, b []ckpt.Tensor) *WeightDifference {
	others := map[string]ckpt.Tensor{}
	for _, t := range b {
		others[t.Name] = t
	}
	var first *WeightDifference
	differ := 0
	note := func(d WeightDifference) {
		if differ++; first == nil {
			first = &d
		}
	}
	for _, t := range a {
		o, both := others[t.Name]
		delete(others, t.Name)
		switch {
		case !both:
			note(WeightDifference{Tensor: t.Name, A: shape(t), B: "none"})
		case t.DType != o.DType || !slices.Equal(t.Shape, o.Shape):
			note(WeightDifference{Tensor: t.Name, A: shape(t), B: shape(o)})
		case !bytes.Equal(t.Data, o.Data):
			size := t.DType.Size()
			i := 0
			for bytes.Equal(t.Data[i*size:(i+1)*size], o.Data[i*size:(i+1)*size]) {
				i++
			}
			note(WeightDifference{Tensor: t.Name, Index: unravel(i, t.Shape), A: element(t, i), B: element(o, i)})
		}
	}
	for _, t := range b {
		if _, left := others[t.Name]; left {
			note(WeightDifference{Tensor: t.Name, A: "none", B: shape(t)})
		}
	}
	if first != nil {
		first.Tensors = differ
	}
	return first
}

func shape(t ckpt.Tensor) string { return fmt.Sprintf("%s %v", t.DType, t.Shape) }

// unravel turns a place in row-major order into one index for each dimension.
func unravel(i int, shape []int64) []int64 {
	index := make([]int64, len(shape))
	for d := len(shape) - 1; d >= 0; d-- {
		index[d], i = int64(i)%shape[d], i/int(shape[d])
	}
	return index
}

// element is an element as text: a number for the types that weights have, else its bytes.
func element(t ckpt.Tensor, i int) string {
	data := t.Data[i*t.DType.Size():][:t.DType.Size()]
	switch t.DType {
	case ckpt.F32:
		return strconv.FormatFloat(float64(math.Float32frombits(binary.LittleEndian.Uint32(data))), 'g', -1, 32)
	case ckpt.F64:
		return strconv.FormatFloat(math.Float64frombits(binary.LittleEndian.Uint64(data)), 'g', -1, 64)
	case ckpt.I64:
		return strconv.FormatInt(int64(binary.LittleEndian.Uint64(data)), 10)
	default:
		return "0x" + hex.EncodeToString(data)
	}
}
