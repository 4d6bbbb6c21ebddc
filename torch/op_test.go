package torch

import (
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestResults reads results of every kind that operators of libtorch have.
func TestResults(t *testing.T) {
	inScope(t, func() {
		x := FromSlice([]float32{0, 1, 2, 3, 4, 5}, 2, 3)
		rows := Define("aten::unbind.int(Tensor(a -> *) self, int dim=0) -> Tensor(a)[]").Call(x)[0].([]Tensor)
		if len(rows) != 2 {
			t.Fatalf("%d rows", len(rows))
		}
		wantSlice(t, "row 1", rows[1], float32(3), 4, 5)
		q := Define("aten::_choose_qparams_per_tensor(Tensor self, bool reduce_range=False) -> (float, int)").Call(x)
		if scale, ok := q[0].(float64); !ok || math.Abs(scale-5./255) > 1e-6 || q[1] != int64(0) {
			t.Errorf("quantization parameters %v", q)
		}
		canCast := Define("aten::can_cast(ScalarType from_, ScalarType to) -> bool")
		if canCast.Call(Float, Long)[0] != false || canCast.Call(Long, Float)[0] != true {
			t.Error("can_cast is wrong")
		}
		if got := Define("aten::size.int(Tensor self, int dim) -> int").Call(x, -1)[0]; got != int64(3) {
			t.Errorf("size = %v", got)
		}
		if got := Define("aten::result_type.Scalar(Tensor tensor, Scalar other) -> ScalarType").Call(x, 2.5)[0]; got != int64(Float) {
			t.Errorf("result type = %v", got)
		}
		a, b, c := Define("aten::native_batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training, float momentum, float eps) -> (Tensor, Tensor, Tensor)").
			Three(x, nil, nil, nil, nil, true, 0.1, 0.0)
		wantSlice(t, "batch means", b, 1.5, 2.5, float32(3.5))
		if !AllClose(c, Full([]int64{3}, 1/1.5, false), 1e-5, 0) || a.Size(1) != 3 {
			t.Errorf("batch norm gives %v %v", a, ToSlice[float32](c))
		}
		if got := Live(); opFillI.Call(x.Clone(), 7) == nil || Live() != got+2 { // the clone and its alias
			t.Errorf("a call for its results makes %d handles", Live()-got)
		}
		before := Live()
		opFillI.Do(x, 7)
		if Live() != before {
			t.Error("Do makes handles")
		}
	})
}

// TestResultWords reads the kinds of results that only operators of other libraries have.
func TestResultWords(t *testing.T) {
	r := results{flat: []uint64{3, math.Float64bits(0.5), 1, 0x0068637a727578, 0}}
	r.values = slices.Grow(r.values, 5)[:5]
	for i, v := range [][3]uint64{{5, 7, 3}, {6, 1, 0}, {7, 1, 1}, {8, 2, 2}, {5, 0, 5}} {
		r.values[i].tag = int32Of(r.values[i].tag, v[0])
		r.values[i].n = int32Of(r.values[i].n, v[1])
		*(*uint64)(&r.values[i].v) = v[2]
	}
	if s := r.any(0); s != "xurzch\x00" {
		t.Errorf("string %q", s)
	}
	if l, ok := r.any(1).([]int64); !ok || !slices.Equal(l, []int64{3}) {
		t.Errorf("ints %v", l)
	}
	if l, ok := r.any(2).([]float64); !ok || !slices.Equal(l, []float64{0.5}) {
		t.Errorf("floats %v", l)
	}
	if l, ok := r.any(3).([]bool); !ok || !slices.Equal(l, []bool{true, true}) {
		t.Errorf("bools %v", l)
	}
	if s := r.any(4); s != "" {
		t.Errorf("an empty string reads %q", s)
	}
}

func int32Of[T ~int32](_ T, v uint64) T { return T(v) }

// TestLists covers lists with holes, masked results, strings and long lists.
func TestLists(t *testing.T) {
	inScope(t, func() {
		x := FromSlice([]float32{0, 1, 2, 3, 4, 5}, 2, 3)
		wantSlice(t, "x[:, [2 0]]", opIndex.One(x, []Tensor{{}, NewTensor([]int64{2, 0})}), float32(2), 0, 5, 3)
		wantSlice(t, "x[[1 0], [2 0]]", opIndex.One(x, []Tensor{NewTensor([]int64{1, 0}), NewTensor([]int64{2, 0})}), float32(5), 0)
		wantSlice(t, "floor division", opDivMode.One(x, Full([]int64{1}, 2, false), "floor"), float32(0), 0, 1, 1, 2, 2)
		wantSlice(t, "true division", opDivMode.One(x, Full([]int64{1}, 2, false), nil), float32(0), .5, 1, 1.5, 2, 2.5)

		image, weight := Ones([]int64{1, 1, 3, 3}, false), Ones([]int64{1, 1, 2, 2}, false)
		for mask := range 8 {
			want := []bool{mask&1 > 0, mask&2 > 0, mask&4 > 0}
			grads := opConvBack.Call(Ones([]int64{1, 1, 2, 2}, false), image, weight, []int64{1}, []int64{1, 1}, []int64{0, 0}, []int64{1, 1}, false,
				[]int64{0, 0}, 1, want)
			for i, g := range grads {
				if g.(Tensor).Defined() != want[i] {
					t.Errorf("mask %v: gradient %d is %v", want, i, g)
				}
			}
			if want[2] {
				wantSlice(t, "bias gradient", grads[2].(Tensor), float32(4))
			}
		}

		many := make([]Tensor, 1000)
		want := make([]float32, len(many))
		for i := range many {
			many[i], want[i] = FromSlice([]float32{float32(i)}), float32(i)
		}
		wantSlice(t, "a long list", Cat(many, 0), want...)
		wantSlice(t, "whole multiples of integers", NewTensor([]int64{5}).Add(NewTensor([]int64{2}), -3), int64(-1))
		wantSlice(t, "other multiples of floats", x.Sub(x, .5).Sum(), float32(7.5))
	})
}

// TestNoAllocations: a call of an operator makes no garbage in Go.
func TestNoAllocations(t *testing.T) {
	inScope(t, func() {
		x, other := Ones([]int64{1, 4, 8, 8}, false), Ones([]int64{1, 4, 8, 8}, false)
		w, b := Ones([]int64{4, 4, 3, 3}, false), Ones([]int64{4}, false)
		stride, padding, dilation := []int64{1, 1}, []int64{1, 1}, []int64{1, 1}
		for name, fn := range map[string]func(){
			"relu":    func() { opRelu.One(x).Free() },
			"Relu":    func() { x.Relu().Free() },
			"Add":     func() { x.Add(other, 1).Free() },
			"AddI":    func() { x.AddI(other, 0.5) },
			"Conv2d":  func() { x.Conv2d(w, b, stride, padding, dilation, 1).Free() },
			"View":    func() { x.View(4, -1).Free() },
			"MaxDim":  func() { v, i := x.MaxDim(1, false); v.Free(); i.Free() },
			"RandN":   func() { RandN(stride, false).Free() },
			"Size":    func() { x.Size(1) },
			"Scope":   func() { Scope(func() { x.Relu().Sum() }) },
			"NoGrad":  func() { NoGrad(func() { x.Relu().Free() }) },
			"SumDim":  func() { x.SumDim(stride[:1], true).Free() },
			"Softmax": func() { x.Softmax(1).Free() },
		} {
			if n := testing.AllocsPerRun(50, fn); n != 0 {
				t.Errorf("%s allocates %v times", name, n)
			}
		}
	})
}

// TestDeterministic: asking for determinism makes libtorch warn about an operator that has none, and refuses nothing.
func TestDeterministic(t *testing.T) {
	put := Define("aten::put_(Tensor(a!) self, Tensor index, Tensor source, bool accumulate=False) -> Tensor(a!)")
	warnings := func(on bool) string {
		SetDeterministic(on)
		defer SetDeterministic(false)
		return captureStderr(t, func() {
			Scope(func() { put.Do(Zeros([]int64{3}, false), NewTensor([]int64{1}), Ones([]int64{1}, false)) })
		})
	}
	if got := warnings(false); got != "" {
		t.Errorf("without determinism libtorch says %q", got)
	}
	if got := warnings(true); !strings.Contains(got, "put_") {
		t.Errorf("with determinism libtorch says %q", got)
	}
}

func captureStderr(t *testing.T, fn func()) string {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	saved, err := syscall.Dup(2)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Dup3(int(file.Fd()), 2, 0); err != nil {
		t.Fatal(err)
	}
	fn()
	Shutdown()
	if err := syscall.Dup3(saved, 2, 0); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Close(saved)
	text, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestBuild(t *testing.T) {
	b := Build()
	if !strings.HasPrefix(b.Version, "2.") || b.CPUCapability == "" || !strings.Contains(b.Config, "at::get_num_threads()") {
		t.Errorf("%+v", b)
	}
	if runtime.GOARCH == "amd64" && !slices.Contains([]string{"DEFAULT", "AVX2", "AVX512"}, strings.ToUpper(b.CPUCapability)) {
		t.Errorf("instruction set %q", b.CPUCapability)
	}
}
