package torch

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

var (
	opDivMode   = Define("aten::div.Tensor_mode(Tensor self, Tensor other, *, str? rounding_mode) -> Tensor")
	opIndex     = Define("aten::index.Tensor(Tensor self, Tensor?[] indices) -> Tensor")
	opAddList   = Define("aten::_foreach_add.ScalarList(Tensor[] self, Scalar[] scalars) -> Tensor[]")
	opNearest   = Define("aten::upsample_nearest2d.vec(Tensor input, SymInt[]? output_size, float[]? scale_factors) -> Tensor")
	opConvBack  = Define("aten::convolution_backward(Tensor grad_output, Tensor input, Tensor weight, SymInt[]? bias_sizes, SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool transposed, SymInt[] output_padding, SymInt groups, bool[3] output_mask) -> (Tensor, Tensor, Tensor)")
	opCudnnConv = Define("aten::cudnn_convolution_relu(Tensor self, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups) -> Tensor")
)

func TestErrorsOfLibtorch(t *testing.T) {
	inScope(t, func() {
		a, b := Zeros([]int64{2, 3}, false), Zeros([]int64{4, 5}, false)
		image := Zeros([]int64{1, 3, 8, 8}, false)
		one := []int64{1, 1}
		conv := func(x, w Tensor) func() { return func() { x.Conv2d(w, Tensor{}, one, one, one, 1) } }
		for _, c := range []struct {
			code  Code
			op    string
			fn    func()
			words []string
		}{
			{Native, "aten::mm", func() { MM(a, b) }, []string{"[2 3]", "[4 5]", "cannot be multiplied"}},
			{Native, "aten::add.Tensor", func() { a.Add(b, 1) }, []string{"[2 3]", "[4 5]"}},
			{Native, "aten::conv2d", conv(image, Zeros([]int64{2, 4, 3, 3}, false)), []string{"[1 3 8 8]", "[2 4 3 3]", "channels"}},
			{Native, "aten::conv2d", conv(image, Zeros([]int64{2, 3, 3, 3}, false).CastTo(Double)), []string{"Double", "[1 3 8 8]"}},
			{Native, "aten::cat", func() { Cat([]Tensor{a, b}, 0) }, []string{"[2 3] [4 5]"}},
			{Native, "aten::view", func() { a.View(4, 2) }, []string{"[2 3]"}},
			{Native, "aten::nll_loss", func() { a.NllLoss(NewTensor([]int64{0, 7}), Tensor{}, ReduceMean, -100) }, []string{"7 is out of bounds"}},
			{Native, "aten::index_select", func() { a.IndexSelect(0, NewTensor([]int64{9})) }, nil},
			{Native, "aten::div.Tensor_mode", func() { opDivMode.One(a, a, "sideways") }, []string{"sideways"}},
			{Native, "Item", func() { a.Item() }, []string{"[2 3]"}},
			{Native, "SetRequiresGrad", func() { NewTensor([]int64{1}).SetRequiresGrad(true) }, nil},
			{Native, "aten::zeros", func() { Zeros([]int64{-1}, false) }, []string{"non-negative"}},
			{Native, "aten::zeros", func() { Zeros([]int64{1 << 62, 1 << 62}, false) }, []string{"overflow"}},
			{OutOfMemory, "aten::zeros", func() { Zeros([]int64{1 << 50}, false) }, nil},
			{Unsupported, "aten::cudnn_convolution_relu", func() { opCudnnConv.One(image, image, nil, one, one, one, 1) }, []string{"CPU"}},
			{Native, "aten::to.dtype_layout", func() { a.To(Device{CUDAType, -1}, Float) }, []string{"cuda"}},
			{Argument, "aten::to.dtype_layout", func() { a.To(Device{CPUType, 3}, Float) }, []string{"no device 3"}},
			{Argument, "aten::to.dtype_layout", func() { a.To(Device{99, 0}, Float) }, []string{"type 99"}},
			{Argument, "aten::to.dtype_layout", func() { a.To(Device{CUDAType, 300}, Float) }, []string{"no device 300"}},
			{Argument, "aten::to.dtype_layout", func() { a.CastTo(77) }, []string{"77 is no dtype"}},
			{Argument, "aten::to.dtype_layout", func() { a.CastTo(-3) }, []string{"-3 is no dtype"}},
			{Argument, "aten::contiguous", func() { a.Contiguous(9) }, []string{"9 is no memory format"}},
			{Argument, "Size", func() { a.Size(2) }, []string{"[2 3]"}},
			{Argument, "Size", func() { a.Size(-3) }, []string{"[2 3]"}},
			{Argument, "ItemInt", func() { a.Sum().ItemInt() }, []string{"Item"}},
			{Argument, "ToSlice", func() { ToSlice[int64](a) }, []string{"float32", "[]int64"}},
			{Argument, "SetGrad", func() { a.SetGrad(b) }, []string{"[2 3]", "[4 5]"}},
			{Argument, "Autocast", func() { Autocast(Float, func() { t.Error("ran") }) }, []string{"float32"}},
			{Argument, "SetNumThreads", func() { SetNumThreads(0) }, []string{"0 threads"}},
		} {
			before := Live()
			wantError(t, c.code, c.op, c.fn, c.words...)
			if extra := Live() - before; extra > 1 { // the tensor that one of the cases makes for its argument
				t.Errorf("%s: %d handles more after the error", c.op, extra)
			}
			wantSlice(t, "a sum after an error of "+c.op, a.Sum(), float32(0))
		}
	})
}

func TestErrorsOfOperators(t *testing.T) {
	inScope(t, func() {
		a := Zeros([]int64{2}, false)
		for _, c := range []struct{ name, schema, want string }{
			{"aten::nonesuch", "aten::nonesuch(Tensor self) -> Tensor", "no such operator"},
			{"relu", "relu(Tensor self) -> Tensor", "no such operator"},
			{"aten::relu.out", "aten::relu.out2(Tensor self) -> Tensor", "no such operator"},
			{"aten::relu", "aten::relu(Tensor self", "no schema"},
			{"aten::relu", "aten::relu(Tensor input) -> Tensor", "this libtorch has aten::relu(Tensor self)"},
			{"aten::relu", "aten::relu(int self) -> Tensor", "this libtorch has"},
			{"aten::relu", "aten::relu(Tensor self, int x=0) -> Tensor", "this libtorch has"},
			{"aten::relu", "aten::relu(Tensor self) -> (Tensor, Tensor)", "this libtorch has"},
			{"aten::mm", "aten::mm(Tensor self) -> Tensor", "this libtorch has"},
		} {
			name, _, _ := strings.Cut(c.schema, "(")
			op := Define(c.schema)
			for range 2 { // a failed look-up is not remembered as a success
				wantError(t, NoOperator, name, func() { op.One(a) }, c.want)
			}
		}
		// Arguments behind those declared are fine when they have defaults.
		if got := Define("aten::argmax(Tensor self) -> Tensor").One(a).ItemInt(); got != 0 {
			t.Errorf("argmax by a shorter schema = %d", got)
		}
		defer func() {
			if recover() == nil {
				t.Error("Define takes a schema without arguments")
			}
		}()
		Define("aten::relu")
	})
}

// TestArguments gives a value of every Go type to an argument of every schema kind: either it is taken, or the error
// comes before libtorch sees it.
func TestArguments(t *testing.T) {
	inScope(t, func() {
		x := Ones([]int64{1, 1, 2, 2}, false)
		index := NewTensor([]int64{0})
		g := NewGenerator(1)
		values := map[string]any{
			"nil": nil, "Tensor": index, "undefined": Tensor{}, "int": 1, "int64": int64(1), "float64": 1.0, "bool": true,
			"string": "floor", "[]Tensor": []Tensor{index}, "[]int64": []int64{2, 2}, "[]float64": []float64{1, 1}, "[]bool": []bool{true, true, false},
			"Dtype": Float, "Device": CPU, "MemoryFormat": Contiguous, "*Generator": g, "nil *Generator": (*Generator)(nil),
			"[]Tensor with a hole": []Tensor{{}, index},
			"int32":                int32(1), "float32": float32(1), "[]int": []int{1}, "struct": struct{}{}, "*int": new(int), "Code": Native,
		}
		two := []int64{1, 1}
		grad := []any{x, x, Ones([]int64{1, 1, 1, 1}, false), nil, two, []int64{0, 0}, two, false, []int64{0, 0}, 1, nil}
		for _, c := range []struct {
			kind string
			op   *Op
			args []any
			i    int
			take string // the Go types it takes, comma separated
		}{
			{"Tensor", opRelu, []any{nil}, 0, "Tensor"},
			{"Tensor?", opLinear, []any{index.View(1, 1), index.View(1, 1), nil}, 2, "Tensor,undefined,nil,nil *Generator"},
			{"Tensor[]", opCat, []any{nil}, 0, "[]Tensor"},
			{"Tensor?[]", opIndex, []any{Ones([]int64{2, 2}, false), nil}, 1, "[]Tensor,[]Tensor with a hole"},
			{"int", opFlatten, []any{x, nil}, 1, "int,int64"},
			{"int?", opArgMax, []any{x, nil}, 1, "int,int64,nil,nil *Generator"},
			{"SymInt[]", opView, []any{x, nil}, 1, "[]int64"},
			{"int[2]", opMaxPool2d, []any{x, nil}, 1, "[]int64,int,int64"},
			{"float", opUniformI, []any{x.Clone(), nil, 5.0}, 1, "float64,int,int64"},
			{"float[]?", opNearest, []any{x, nil, nil}, 2, "[]float64"},
			{"bool", opArgMax, []any{x, 0, nil}, 2, "bool"},
			{"bool[3]", opConvBack, grad, 10, "[]bool"},
			{"Scalar", opAddScalar, []any{x, nil}, 1, "float64,int,int64,bool"},
			{"Scalar?", opClamp, []any{x, nil, 2.0}, 1, "float64,int,int64,bool,nil,nil *Generator"},
			{"Scalar[]", opAddList, []any{[]Tensor{x, x}, nil}, 1, "[]float64"},
			{"str?", opDivMode, []any{x, x, nil}, 2, "string,nil,nil *Generator"},
			{"ScalarType?", opZeros, []any{two, nil}, 1, "Dtype,nil,nil *Generator"},
			{"Layout?", opZeros, []any{two, nil, nil}, 2, "nil,nil *Generator"},
			{"Device?", opZeros, []any{two, nil, nil, nil}, 3, "Device,nil,nil *Generator"},
			{"MemoryFormat", opContiguous, []any{x, nil}, 1, "MemoryFormat"},
			{"Generator?", opRandPerm, []any{3, nil}, 1, "*Generator,nil,nil *Generator"},
		} {
			for name, v := range values {
				args := append([]any(nil), c.args...)
				args[c.i] = v
				taken := false
				for want := range strings.SplitSeq(c.take, ",") {
					taken = taken || want == name
				}
				before := Live()
				err := Try(func() { c.op.Call(args...) })
				var e *Error
				switch {
				case c.kind == "float[]?" && strings.HasPrefix(name, "nil"): // allowed, but libtorch wants one of the two lists
				case taken && err != nil:
					t.Errorf("%s refuses %s: %v", c.kind, name, err)
				case taken:
				case !errors.As(err, &e):
					t.Errorf("%s takes %s: %v", c.kind, name, err)
				case e.Code != Argument && (e.Code != Handle || !strings.Contains(e.Msg, "undefined")):
					t.Errorf("%s given %s: code %d, %v", c.kind, name, e.Code, e)
				case strings.Contains(e.Error(), "INTERNAL ASSERT"), !strings.Contains(e.Error(), c.op.name), !strings.Contains(e.Error(), fmt.Sprintf("argument %d", c.i+1)):
					t.Errorf("%s given %s: %v", c.kind, name, e)
				case Live() != before:
					t.Errorf("%s given %s: %d handles made", c.kind, name, Live()-before)
				}
			}
		}
		wantError(t, Argument, "aten::relu", func() { opRelu.One() }, "argument 1 (Tensor self) is missing")
		wantError(t, Argument, "aten::relu", func() { opRelu.One(x, x) }, "2 arguments")
		wantError(t, Argument, "aten::relu", func() { opRelu.One(make([]any, 25)...) }, "25 arguments")
		wantError(t, Argument, "aten::equal", func() { opEqual.One(x, x) }, "result 1 is no tensor")
		wantError(t, Argument, "aten::relu", func() { opRelu.Two(x) }, "result 2 is no tensor")
		wantError(t, Argument, "Grad", func() { Grad(nil, []Tensor{x}) })
		wantError(t, Argument, "VectorJacobian", func() { VectorJacobian([]Tensor{x, x}, []Tensor{x}, []Tensor{x}, false) }, "1 weights for 2 outputs")
	})
}

// TestErrorsOfHandles uses freed, undefined and foreign handles in every way there is.
func TestErrorsOfHandles(t *testing.T) {
	inScope(t, func() {
		ok := Ones([]int64{1}, true)
		freed := Ones([]int64{1}, false)
		freed.Free()
		var ended Tensor
		Scope(func() { ended = Ones([]int64{1}, false) })
		g := NewGenerator(1)
		state := g.State()
		dead := NewGenerator(1)
		dead.Free()
		uses := map[string]func(x Tensor){
			"aten::relu": func(x Tensor) { x.Relu() }, "aten::cat": func(x Tensor) { Cat([]Tensor{ok, x}, 0) },
			"aten::copy_": func(x Tensor) { ok.CopyI(x) }, "Shape": func(x Tensor) { x.Shape() }, "Strides": func(x Tensor) { x.Strides() },
			"Dim": func(x Tensor) { x.Dim() }, "Size": func(x Tensor) { x.Size(0) }, "Numel": func(x Tensor) { x.Numel() },
			"Dtype": func(x Tensor) { x.Dtype() }, "Device": func(x Tensor) { x.Device() }, "IsContiguous": func(x Tensor) { x.IsContiguous(Contiguous) },
			"RequiresGrad": func(x Tensor) { x.RequiresGrad() }, "IsLeaf": func(x Tensor) { x.IsLeaf() },
			"SetRequiresGrad": func(x Tensor) { x.SetRequiresGrad(true) }, "Backward": func(x Tensor) { x.Backward() },
			"Grad": func(x Tensor) { x.Grad() }, "SetGrad": func(x Tensor) { x.SetGrad(ok) }, "ToSlice": func(x Tensor) { ToSlice[float32](x) },
			"Bytes": func(x Tensor) { x.Bytes() }, "Item": func(x Tensor) { x.Item() }, "Generator.SetState": func(x Tensor) { g.SetState(x) },
		}
		for op, use := range uses {
			for what, x := range map[string]Tensor{"freed": freed, "ended": ended, "undefined": {}, "generator": {g.h}, "foreign": {1<<40 | 77}, "far": {1<<32 | 0xffffffff}} {
				word := map[string]string{"undefined": "undefined", "generator": "is a generator"}[what]
				if word == "" {
					word = "freed"
				}
				wantError(t, Handle, op, func() { use(x) }, word)
			}
		}
		for op, use := range map[string]func(x Tensor){
			"Free": func(x Tensor) { x.Free() }, "Keep": func(x Tensor) { Keep(x) }, "Own": func(x Tensor) { Own(ok, x) },
		} {
			wantError(t, Handle, op, func() { use(freed) }, "freed")
			wantError(t, Handle, op, func() { use(ended) }, "freed")
			wantError(t, Handle, op, func() { use(Tensor{}) }, "undefined")
		}
		ok.Free() // owned by the lines above
		for op, use := range map[string]func(x *Generator){
			"Generator.State": func(x *Generator) { x.State() }, "Generator.SetState": func(x *Generator) { x.SetState(state) },
			"Seeded":                   func(x *Generator) { Seeded(x, func() { t.Error("Seeded runs with no generator") }) },
			"aten::randperm.generator": func(x *Generator) { opRandPerm.One(3, x) }, "Free": func(x *Generator) { x.Free() },
		} {
			wantError(t, Handle, op, func() { use(dead) }, "freed")
			if op != "Free" {
				wantError(t, Handle, op, func() { use(&Generator{state.h}) }, "not a generator")
			}
		}
		if got := freed.String(); !strings.Contains(got, "freed") {
			t.Errorf("a freed tensor describes itself as %q", got)
		}
		// The shapes of an error: nil for the freed one.
		var e *Error
		if err := Try(func() { state.Add(freed, 1) }); !errors.As(err, &e) || len(e.Shapes) != 2 || e.Shapes[0] == nil || e.Shapes[1] != nil || !strings.Contains(err.Error(), "(shapes [5056] none)") {
			t.Errorf("error %v", err)
		}
	})
}

func TestErrorsOfScopes(t *testing.T) {
	var owned Tensor
	Scope(func() {
		owned = Ones([]int64{2}, false)
		wantError(t, NoScope, "Keep", func() { Keep(owned) }, "no scope above")
		wantSlice(t, "a tensor that could not be kept", owned, float32(1), 1)
		Own(owned)
	})
	defer owned.Free()
	before := Live()
	wantError(t, NoScope, "aten::zeros", func() { Zeros([]int64{1}, false) }, "torch.Run", "torch.Scope")
	wantError(t, NoScope, "FromSlice", func() { FromSlice([]float32{1}) }, "torch.Run")
	wantError(t, NoScope, "NewGenerator", func() { NewGenerator(0) }, "torch.Run")
	wantError(t, NoScope, "aten::relu", func() { owned.Relu() }, "torch.Run")
	if Live() != before {
		t.Errorf("%d handles made outside scopes", Live()-before)
	}
	if !Equal(owned, owned) || owned.Numel() != 2 {
		t.Error("reading an owned tensor needs no scope")
	}
	// A tensor of another thread's scope can be used there, but neither kept nor owned.
	Scope(func() {
		x := Ones([]int64{2}, false)
		done := make(chan struct{})
		go func() {
			defer close(done)
			Scope(func() {
				Scope(func() {
					wantSlice(t, "a tensor of another goroutine", x.Add(x, 1), float32(2), 2)
					wantError(t, NoScope, "Keep", func() { Keep(x) }, "another thread")
					wantError(t, NoScope, "Own", func() { Own(x) }, "another thread")
				})
			})
		}()
		<-done
	})
}

func TestErrorsOfBackward(t *testing.T) {
	inScope(t, func() {
		x := FromSlice([]float32{1, 2}).SetRequiresGrad(true)
		y := x.Square().Sum()
		y.Backward()
		wantError(t, Native, "Backward", y.Backward, "a second time")
		wantError(t, Native, "Grad", func() { Grad([]Tensor{y}, []Tensor{x}) }, "a second time")
		saved := x.MulScalar(3)
		loss := saved.Square().Sum()
		saved.AddI(Ones([]int64{2}, false), 1)
		wantError(t, Native, "Backward", loss.Backward, "modified by an inplace operation")
		wantError(t, Native, "Backward", Ones([]int64{1}, false).Backward, "does not require grad")
		wantError(t, Native, "Backward", x.Square().Backward, "scalar outputs")
		wantError(t, Native, "aten::add_.Tensor", func() { x.AddI(x, 1) }, "leaf", "in-place")
		wantError(t, Native, "SetRequiresGrad", func() { saved.SetRequiresGrad(false) }, "leaf")
		// None of this harms what comes next.
		wantSlice(t, "the gradient so far", x.Grad(), float32(2), 4)
		x.SetGrad(Tensor{})
		x.MulScalar(5).Sum().Backward()
		wantSlice(t, "the gradient after errors", x.Grad(), float32(5), 5)
	})
}

// TestErrorsStayWithTheirCall makes errors in many goroutines at once: each gets its own.
func TestErrorsStayWithTheirCall(t *testing.T) {
	crowd(16, func(i int) {
		Scope(func() {
			a, b := Zeros([]int64{int64(i + 1), 2}, false), Zeros([]int64{3, int64(i + 100)}, false)
			for range 100 {
				if err := Try(func() { MM(a, b) }); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(%dx2 and 3x%d)", i+1, i+100)) {
					t.Errorf("goroutine %d got %v", i, err)
					return
				}
				runtime.Gosched()
			}
		})
	})
}

func TestRunAndTry(t *testing.T) {
	own := errors.New("own")
	if err := Run(CPU, func() error { return own }); !errors.Is(err, own) {
		t.Errorf("Run returns %v", err)
	}
	var e *Error
	if err := Run(CPU, func() error { Zeros([]int64{-1}, false); return nil }); !errors.As(err, &e) || e.Code != Native {
		t.Errorf("Run returns %v for a panic of libtorch's", err)
	}
	if err := Run(Device{CUDAType, 0}, func() error { t.Error("ran"); return nil }); !errors.As(err, &e) || e.Code != Unsupported || !strings.Contains(err.Error(), "cuda:0") {
		t.Errorf("Run on CUDA returns %v", err)
	}
	for _, enter := range []func(func()){func(fn func()) { _ = Try(fn) }, func(fn func()) { _ = Run(CPU, func() error { fn(); return nil }) }} {
		func() {
			defer func() {
				if r := recover(); r != "mine" {
					t.Errorf("a panic of somebody else arrives as %v", r)
				}
			}()
			enter(func() { panic("mine") })
		}()
	}
	if err := LoadLibrary("libnonesuch.so"); err == nil || !strings.Contains(err.Error(), "libnonesuch.so: cannot open") {
		t.Errorf("a missing library: %v", err)
	}
	if err := LoadLibrary("error_test.go"); err == nil || !strings.Contains(err.Error(), "error_test.go") {
		t.Errorf("a library that is none: %v", err)
	}
	if err := LoadLibrary(""); err == nil {
		t.Error("a library without a name loads")
	}
}
