package torch

import (
	"fmt"
	"reflect"
	"unsafe"
)

// Tensor is a handle of a libtorch tensor: an array of numbers of one dtype on one device. The zero value is undefined
// and stands for "no tensor" where an operator takes an optional one. Handles are compared by identity; copies of a
// handle are the same tensor. A handle belongs to a scope, which frees it: see the package documentation.
type Tensor struct{ h uint64 }

// Element is a Go type that a tensor's elements can be copied from and to.
type Element interface {
	~uint8 | ~int8 | ~int16 | ~int32 | ~int64 | ~float32 | ~float64 | ~bool
}

// Defined reports whether t is a tensor at all. It says nothing about its being freed.
func (t Tensor) Defined() bool { return t.h != 0 }

// Shape returns the sizes of all dimensions.
func (t Tensor) Shape() []int64 { return t.metaOf("Shape").shape() }

// Strides returns the step of each dimension in elements.
func (t Tensor) Strides() []int64 { return t.metaOf("Strides").strides() }

// Dim returns the number of dimensions.
func (t Tensor) Dim() int { return t.metaOf("Dim").dim() }

// Size returns the size of dimension d, counted from the end when negative.
func (t Tensor) Size(d int) int64 {
	m := t.metaOf("Size")
	if d < 0 {
		d += m.dim()
	}
	if d < 0 || d >= m.dim() {
		panic(&Error{Op: "Size", Code: Argument, Msg: "no such dimension", Shapes: [][]int64{m.shape()}})
	}
	return m.size(d)
}

// Numel returns the number of elements.
func (t Tensor) Numel() int64 { return t.metaOf("Numel").numel() }

// Dtype returns the type of the elements.
func (t Tensor) Dtype() Dtype { return t.metaOf("Dtype").dtype() }

// Device returns where the elements are.
func (t Tensor) Device() Device { return t.metaOf("Device").device() }

// IsContiguous reports whether the elements lie densely in the order of the format.
func (t Tensor) IsContiguous(f MemoryFormat) bool {
	m := t.metaOf("IsContiguous")
	if f == ChannelsLast {
		return m.channelsLast()
	}
	return m.contiguous()
}

// String describes the tensor, not its elements: "float32[16 3 32 32]".
func (t Tensor) String() string {
	if !t.Defined() {
		return "undefined"
	}
	m, err := t.tryMeta()
	if err != nil {
		return newError("String", err, nil).Msg
	}
	return fmt.Sprintf("%v%v", m.dtype(), m.shape())
}

// NewTensor makes a tensor from a number, a bool, or nested slices or arrays of them, all of one shape, as
// [][]float32{{1, 2}, {3, 4}}. Ints become Long. For large data use [FromSlice].
func NewTensor(data any) Tensor {
	v := reflect.ValueOf(data)
	if !v.IsValid() {
		panic(&Error{Op: "NewTensor", Code: Argument, Msg: "no data"})
	}
	shape := []int64{}
	for w := v; w.Kind() == reflect.Slice || w.Kind() == reflect.Array; w = w.Index(0) {
		shape = append(shape, int64(w.Len()))
		if w.Len() == 0 {
			break
		}
	}
	leaf := v.Type()
	for leaf.Kind() == reflect.Slice || leaf.Kind() == reflect.Array {
		leaf = leaf.Elem()
	}
	switch leaf.Kind() {
	case reflect.Uint8:
		return fromSlice("NewTensor", flatten[uint8](v, shape), shape)
	case reflect.Int8:
		return fromSlice("NewTensor", flatten[int8](v, shape), shape)
	case reflect.Int16:
		return fromSlice("NewTensor", flatten[int16](v, shape), shape)
	case reflect.Int32:
		return fromSlice("NewTensor", flatten[int32](v, shape), shape)
	case reflect.Int64, reflect.Int:
		return fromSlice("NewTensor", flatten[int64](v, shape), shape)
	case reflect.Float32:
		return fromSlice("NewTensor", flatten[float32](v, shape), shape)
	case reflect.Float64:
		return fromSlice("NewTensor", flatten[float64](v, shape), shape)
	case reflect.Bool:
		return fromSlice("NewTensor", flatten[bool](v, shape), shape)
	default:
		panic(&Error{Op: "NewTensor", Code: Argument, Msg: fmt.Sprintf("no dtype for elements of Go type %v", leaf)})
	}
}

func flatten[T Element](v reflect.Value, shape []int64) []T {
	if len(shape) == 0 {
		return []T{v.Convert(reflect.TypeFor[T]()).Interface().(T)}
	}
	if int64(v.Len()) != shape[0] {
		panic(&Error{Op: "NewTensor", Code: Argument, Msg: fmt.Sprintf("ragged data: %d elements where the first row has %d", v.Len(), shape[0])})
	}
	var out []T
	for i := range v.Len() {
		out = append(out, flatten[T](v.Index(i), shape[1:])...)
	}
	return out
}

// FromSlice copies data, in row-major order, into a new tensor on the CPU. Without a shape it is one-dimensional.
func FromSlice[T Element](data []T, shape ...int64) Tensor {
	if len(shape) == 0 {
		shape = []int64{int64(len(data))}
	}
	return fromSlice("FromSlice", data, shape)
}

func fromSlice[T Element](op string, data []T, shape []int64) Tensor {
	return fromHost(op, dtypeOf[T](), unsafe.Pointer(unsafe.SliceData(data)), len(data)*int(unsafe.Sizeof(*new(T))), shape)
}

// FromBytes copies the little-endian bytes of a row-major array into a new tensor on the CPU. It serves dtypes that Go
// has no type for, such as BFloat16. The number of bytes must fit the shape; no shape means a scalar.
func FromBytes(d Dtype, data []byte, shape ...int64) Tensor {
	return fromHost("FromBytes", d, unsafe.Pointer(unsafe.SliceData(data)), len(data), shape)
}

// ToSlice copies the elements out in row-major order, from any device. T must be the Go type of the dtype.
func ToSlice[T Element](t Tensor) []T {
	m := t.metaOf("ToSlice")
	if m.dtype() != dtypeOf[T]() {
		panic(&Error{Op: "ToSlice", Code: Argument, Msg: fmt.Sprintf("a %v tensor into %T; use CastTo first", m.dtype(), []T(nil))})
	}
	out := make([]T, m.numel())
	t.toHost(unsafe.Pointer(unsafe.SliceData(out)), len(out)*int(unsafe.Sizeof(*new(T))))
	return out
}

// Bytes copies the elements out as little-endian bytes in row-major order, from any device and of any dtype.
func (t Tensor) Bytes() []byte {
	m := t.metaOf("Bytes")
	if _, ok := dtypes[m.dtype()]; !ok {
		panic(&Error{Op: "Bytes", Code: Unsupported, Msg: fmt.Sprintf("a tensor of %v; use CastTo first", m.dtype())})
	}
	out := make([]byte, m.numel()*int64(m.dtype().Size()))
	t.toHost(unsafe.Pointer(unsafe.SliceData(out)), len(out))
	return out
}

// Memory returns the memory of a contiguous tensor of the CPU: what is written there, the tensor holds. The caller sees to
// it that nobody uses it after the tensor was freed, and that nobody computes with the tensor meanwhile.
func (t Tensor) Memory() []byte { return t.memory() }

// Item returns the value of a tensor with one element.
func (t Tensor) Item() float64 {
	switch v := t.item().(type) {
	case float64:
		return v
	case int64:
		return float64(v)
	default:
		return float64(word(v.(bool)))
	}
}

// ItemInt returns the value of an integer or bool tensor with one element.
func (t Tensor) ItemInt() int64 {
	switch v := t.item().(type) {
	case int64:
		return v
	case bool:
		return int64(word(v))
	default:
		panic(&Error{Op: "ItemInt", Code: Argument, Msg: "the element is not an integer; use Item"})
	}
}

// Free gives the tensor back before its scope ends, or ends an owned one. Other handles of the same memory, and
// autograd's own references, are not affected. Using t afterwards is an [Error] of code [Handle].
func (t Tensor) Free() { t.free() }

// Borrow makes a tensor of this package from a C++ at::Tensor that somebody else holds, sharing its memory. p points
// to the at::Tensor and is only read during the call.
func Borrow(p unsafe.Pointer) Tensor { return borrow(p) }
