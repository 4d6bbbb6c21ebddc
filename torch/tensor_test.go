package torch

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"
)

func roundTrip[T Element](t *testing.T, d Dtype, data ...T) {
	x := FromSlice(data, int64(len(data)), 1)
	if x.Dtype() != d || !slices.Equal(x.Shape(), []int64{int64(len(data)), 1}) {
		t.Errorf("%v holds %T", x, data)
	}
	wantSlice(t, d.String(), x, data...)
	if again := FromBytes(d, x.Bytes(), x.Shape()...); !Equal(again, x) || len(x.Bytes()) != len(data)*d.Size() {
		t.Errorf("%v does not survive as bytes", d)
	}
	wantSlice(t, "empty", FromSlice([]T{}), []T{}...)
	wantSlice(t, "nil", FromSlice[T](nil), []T{}...)
	wantSlice(t, "empty with a shape", FromSlice([]T(nil), 0, 3), []T{}...)
	if got := FromBytes(d, x.Bytes()[:d.Size()]); got.Dim() != 0 || !Equal(got, x.Select(0, 0).Select(0, 0)) {
		t.Errorf("a scalar of %v is %v", d, got)
	}
}

func TestHostCopies(t *testing.T) {
	inScope(t, func() {
		roundTrip(t, Byte, uint8(0), 7, 255)
		roundTrip(t, Char, int8(-128), 0, 127)
		roundTrip(t, Short, int16(-32768), 0, 32767)
		roundTrip(t, Int, int32(math.MinInt32), 0, math.MaxInt32)
		roundTrip(t, Long, int64(math.MinInt64), 0, math.MaxInt64)
		roundTrip(t, Float, float32(-1.5), 0, math.MaxFloat32)
		roundTrip(t, Double, -1.5, 0, math.MaxFloat64)
		roundTrip(t, Bool, true, false, true)

		x := Arange(0, 24, 1, false).View(2, 3, 2, 2)
		want := ToSlice[float32](x)
		last := x.Contiguous(ChannelsLast)
		if last.IsContiguous(Contiguous) || !last.IsContiguous(ChannelsLast) || !slices.Equal(last.Strides(), []int64{12, 1, 6, 3}) {
			t.Errorf("channels last has strides %v", last.Strides())
		}
		wantSlice(t, "channels last", last, want...)
		wantSlice(t, "transposed", x.View(4, 6).Transpose(0, 1).Select(0, 1), float32(1), 7, 13, 19)
		wantSlice(t, "expanded", FromSlice([]int64{7}).Expand(3), int64(7), 7, 7)
		wantSlice(t, "narrow", x.View(24).Narrow(0, 20, 3), float32(20), 21, 22)
		wantSlice(t, "a tracked tensor", x.Clone().SetRequiresGrad(true).MulScalar(1), want...)

		// 1, -2, 2⁻¹³³ (a subnormal), +Inf as bfloat16, little endian.
		raw := []byte{0x80, 0x3f, 0x00, 0xc0, 0x01, 0x00, 0x80, 0x7f}
		half := FromBytes(BFloat16, raw, 2, 2)
		if !bytes.Equal(half.Bytes(), raw) {
			t.Errorf("bfloat16 bytes %x", half.Bytes())
		}
		wantSlice(t, "bfloat16", half.CastTo(Float), float32(1), -2, 0x1p-133, float32(math.Inf(1)))
		if got := half.Transpose(0, 1).Bytes(); !bytes.Equal(got, []byte{0x80, 0x3f, 0x01, 0x00, 0x00, 0xc0, 0x80, 0x7f}) {
			t.Errorf("transposed bfloat16 bytes %x", got)
		}
		wantSlice(t, "half", FromBytes(Half, []byte{0x00, 0x3c}).CastTo(Float), float32(1))
		wantSlice(t, "bools of any byte", FromBytes(Bool, []byte{0, 1, 2, 255}, 4), false, true, true, true)

		data := []float32{1, 2}
		y := FromSlice(data)
		data[0] = 9
		ToSlice[float32](y)[1] = 9
		y.Bytes()[0] = 9
		wantSlice(t, "a tensor after its source and copies changed", y, float32(1), 2)

		for _, c := range []struct {
			op string
			fn func()
		}{
			{"FromSlice", func() { FromSlice([]float32{1, 2, 3}, 2, 2) }},
			{"FromSlice", func() { FromSlice([]float32{1}, 1<<40) }},
			{"FromSlice", func() { FromSlice([]float32{1}, 1<<62, 1<<62) }},
			{"FromSlice", func() { FromSlice([]float32{1}, -1) }},
			{"FromSlice", func() { FromSlice([]float32{1, 2}, -1, -2) }},
			{"FromSlice", func() { FromSlice([]float32{}, 1) }},
			{"FromBytes", func() { FromBytes(Float, []byte{1, 2, 3}, 1) }},
			{"FromBytes", func() { FromBytes(Float, nil) }},
			{"FromBytes", func() { FromBytes(77, []byte{1}, 1) }},
			{"FromBytes", func() { FromBytes(-1, []byte{1}, 1) }},
		} {
			wantError(t, Argument, c.op, c.fn)
		}
		wantError(t, Unsupported, "Bytes", func() { y.CastTo(9).Bytes() }, "dtype 9")
	})
}

func TestNewTensor(t *testing.T) {
	type kelvin float32
	inScope(t, func() {
		for _, c := range []struct {
			data  any
			dtype Dtype
			shape []int64
			sum   float64
		}{
			{3.5, Double, []int64{}, 3.5},
			{true, Bool, []int64{}, 1},
			{7, Long, []int64{}, 7},
			{kelvin(2), Float, []int64{}, 2},
			{[]int{1, 2, 3}, Long, []int64{3}, 6},
			{[]uint8{1, 255}, Byte, []int64{2}, 256},
			{[]int8{-1}, Char, []int64{1}, -1},
			{[]int16{-1, 1000}, Short, []int64{2}, 999},
			{[]int32{5}, Int, []int64{1}, 5},
			{[][]float32{{1, 2}, {3, 4}, {5, 6}}, Float, []int64{3, 2}, 21},
			{[2][1][]kelvin{{{1, 2, 3}}, {{4, 5, 6}}}, Float, []int64{2, 1, 3}, 21},
			{[]float64{}, Double, []int64{0}, 0},
			{[][]float64{{}, {}}, Double, []int64{2, 0}, 0},
			{[][]bool{{true}, {true}}, Bool, []int64{2, 1}, 2},
		} {
			x := NewTensor(c.data)
			if x.Dtype() != c.dtype || !slices.Equal(x.Shape(), c.shape) || x.Sum().Item() != c.sum {
				t.Errorf("NewTensor(%v) is %v with sum %v", c.data, x, x.Sum().Item())
			}
		}
		wantSlice(t, "rows", NewTensor([][]int{{1, 2}, {3, 4}}).Select(0, 1), int64(3), 4)
		for _, bad := range []any{nil, "text", []string{"a"}, 1i, map[int]int{}, [][]int{{1, 2}, {3}}, [][]int{{}, {1}}, [][][]int{{{1}}, {}}, []uint{1}} {
			wantError(t, Argument, "NewTensor", func() { NewTensor(bad) })
		}
	})
}

func TestItems(t *testing.T) {
	inScope(t, func() {
		for _, c := range []struct {
			x    Tensor
			f    float64
			i    int64
			text string
		}{
			{NewTensor(-2.5), -2.5, 0, "float64[]"},
			{NewTensor([]int{math.MaxInt64}), math.MaxInt64, math.MaxInt64, "int64[1]"},
			{NewTensor([][]bool{{true}}), 1, 1, "bool[1 1]"},
			{NewTensor(1.0).CastTo(BFloat16), 1, 0, "bfloat16[]"},
			{NewTensor([]uint8{200}), 200, 200, "uint8[1]"},
		} {
			if c.x.Item() != c.f || fmt.Sprint(c.x) != c.text {
				t.Errorf("%v holds %v, want %s with %v", c.x, c.x.Item(), c.text, c.f)
			}
			if c.i != 0 && c.x.ItemInt() != c.i {
				t.Errorf("%v holds %d", c.x, c.x.ItemInt())
			}
		}
		var none Tensor
		if none.Defined() || none.String() != "undefined" {
			t.Errorf("the zero tensor is %v", none)
		}
		x := Zeros([]int64{2, 3, 4}, false)
		if x.Size(0) != 2 || x.Size(-1) != 4 || x.Dim() != 3 || x.Numel() != 24 || x.Device() != CPU || !slices.Equal(x.Strides(), []int64{12, 4, 1}) {
			t.Errorf("%v on %v with strides %v", x, x.Device(), x.Strides())
		}
	})
}

func TestBorrow(t *testing.T) {
	inScope(t, func() {
		var borrowed Tensor
		Scope(func() {
			x := FromSlice([]float32{1, 2})
			borrowed = KeepOne(Borrow(x.lend()))
			x.FillI(7)
		})
		wantSlice(t, "borrowed memory after its owner is gone", borrowed, float32(7), 7)
		wantError(t, Argument, "Borrow", func() { Borrow(nil) }, "null")
		if x := borrowed; Borrow(x.lend()) == x {
			t.Error("a borrowed tensor has the handle of its lender")
		}
	})
}

func TestMemory(t *testing.T) {
	inScope(t, func() {
		x := FromSlice([]uint8{1, 2, 3, 4, 5, 6}, 2, 3)
		m := x.Memory()
		if !slices.Equal(m, []byte{1, 2, 3, 4, 5, 6}) {
			t.Errorf("memory %v", m)
		}
		m[4] = 50
		wantSlice(t, "what was written to its memory", x, uint8(1), 2, 3, 4, 50, 6)
		wantSlice(t, "a part of it", FromBytes(Byte, x.Narrow(0, 1, 1).Memory(), 3), uint8(4), 50, 6)
		if n := len(Zeros([]int64{0, 3}, false).Memory()); n != 0 {
			t.Errorf("%d bytes of nothing", n)
		}
		wantError(t, Argument, "Memory", func() { x.Transpose(0, 1).Memory() }, "contiguous", "[1, 3]")
		wantError(t, Handle, "Memory", func() { Tensor{}.Memory() })
	})
}

func TestNames(t *testing.T) {
	for d, want := range map[Dtype]string{Byte: "uint8", Half: "float16", BFloat16: "bfloat16", Bool: "bool", Long: "int64", 99: "dtype 99"} {
		if d.String() != want {
			t.Errorf("%d is called %s", d, d)
		}
	}
	for name, want := range map[string]Device{"cpu": CPU, "cuda": {CUDAType, -1}, "cuda:1": {CUDAType, 1}, "cpu:0": {CPUType, 0}} {
		if d, err := NewDevice(name); err != nil || d != want || d.String() != name {
			t.Errorf("%s is %v (%v)", name, d, err)
		}
	}
	for _, name := range []string{"", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:128", "CPU"} {
		if d, err := NewDevice(name); err == nil {
			t.Errorf("%q is %v", name, d)
		}
	}
}
