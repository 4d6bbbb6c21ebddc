package torch

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
)

// Op is an operator of libtorch, or of a library loaded with [LoadLibrary], called by name through the dispatcher.
// It picks the implementation by the tensors' device and takes part in autograd and autocast as in PyTorch.
type Op struct {
	schema string
	name   string // "aten::add.Tensor", for errors
	native atomic.Pointer[nativeOp]
}

// Define declares an operator by its schema as libtorch prints it, such as
//
//	var opRelu = torch.Define("aten::relu(Tensor self) -> Tensor")
//
// The operator is looked up at its first call. The linked one must take the same arguments in the same order; it may
// have more of them behind, if those have defaults. Anything else panics with an [Error] of code [NoOperator].
func Define(schema string) *Op {
	name, _, ok := strings.Cut(schema, "(")
	if !ok {
		panic("torch: an operator schema has the form name(arguments) -> results, got " + schema)
	}
	return &Op{schema: schema, name: name}
}

// Schema returns the schema of the operator in the linked libtorch.
func (o *Op) Schema() string { return o.resolve().schema() }

func (o *Op) resolve() nativeOp {
	op, err := o.lookup()
	if err != nil {
		panic(err)
	}
	return op
}

func (o *Op) lookup() (nativeOp, *Error) {
	if p := o.native.Load(); p != nil {
		return *p, nil
	}
	name, overload, _ := strings.Cut(o.name, ".")
	op, err := findOp(name, overload, o.schema)
	if err != nil {
		err.Op = o.name
		return op, err
	}
	o.native.Store(&op)
	return op, nil
}

// Call calls the operator and returns its results as Tensor, int64, float64, bool, string, slices of these, or nil.
//
// Arguments are in the order of the schema: [Tensor], []Tensor, int, int64, float64, bool, string, []int64, []float64,
// []bool, [Dtype], [Device], [MemoryFormat], [*Generator], or nil for none; the zero Tensor is none too. Arguments left
// out at the end take the schema's defaults. A single int stands for a list of fixed length, such as int[2].
func (o *Op) Call(args ...any) []any {
	runtime.LockOSThread() // the results lie in the thread's memory; only tensors need a scope, which locks too
	defer runtime.UnlockOSThread()
	r := o.call(args, 1<<20)
	out := make([]any, len(r.values))
	for i := range out {
		out[i] = r.any(i)
	}
	return out
}

// One calls an operator for its first result, a tensor.
func (o *Op) One(args ...any) Tensor { return o.call(args, 1).tensor(0) }

// Two calls an operator for its first two results, tensors.
func (o *Op) Two(args ...any) (first, second Tensor) {
	r := o.call(args, 2)
	return r.tensor(0), r.tensor(1)
}

// Three calls an operator for its first three results, tensors.
func (o *Op) Three(args ...any) (first, second, third Tensor) {
	r := o.call(args, 3)
	return r.tensor(0), r.tensor(1), r.tensor(2)
}

// Do calls an operator for its effect and drops its results.
func (o *Op) Do(args ...any) { o.call(args, 0) }

func (o *Op) call(args []any, want int) results {
	op := o.resolve()
	var values arguments
	var room [40]uint64
	flat := room[:0]
	if len(args) > len(values) {
		panic(&Error{Op: o.name, Code: Argument, Msg: fmt.Sprintf("%d arguments are too many", len(args))})
	}
	for i, a := range args {
		var ok bool
		if flat, ok = values.encode(i, a, flat); !ok {
			panic(&Error{Op: o.name, Code: Argument, Msg: fmt.Sprintf("argument %d has a Go type that no operator takes", i+1)})
		}
	}
	r, err := op.invoke(o.name, &values, len(args), flat, want)
	if err != nil {
		panic(newError(o.name, err, args))
	}
	if t := tracing.Load(); t.here() {
		t.record(o.name, args, r)
	}
	return r
}

// LoadLibrary loads a library of operators. A bare file name is looked for beside the bridge, in lib/; a path is taken
// as it is. Libraries stay loaded.
func LoadLibrary(name string) error {
	if name == "" {
		return &Error{Op: "LoadLibrary", Code: Argument, Msg: "no file name"}
	}
	if err := loadLibrary(name); err != nil {
		return err
	}
	return nil
}
