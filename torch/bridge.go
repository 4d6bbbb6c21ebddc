package torch

// All of cgo is in this file. Nothing of Go's memory stays with C after a call: arguments are encoded into flat buffers
// without pointers, which lets the compiler keep them on the stack (noescape, nocallback).

/*
#cgo LDFLAGS: -L${SRCDIR}/../lib -ltorchgo -Wl,-rpath,$ORIGIN/../lib -Wl,-rpath,${SRCDIR}/../lib
#cgo LDFLAGS: -Wl,--unresolved-symbols=ignore-in-shared-libs
#cgo noescape tg_call
#cgo nocallback tg_call
#cgo noescape tg_meta_of
#cgo nocallback tg_meta_of
#cgo nocallback tg_scope_push
#cgo nocallback tg_scope_pop
#include "csrc/torchgo.h"
#include <stdlib.h>
*/
import "C"

import (
	"fmt"
	"math"
	"runtime"
	"unsafe"
)

// raise panics with the error a call of the bridge returned, if any.
func raise(op string, e *C.tg_error, args ...any) {
	if e != nil {
		panic(newError(op, e, args))
	}
}

func newError(op string, e *C.tg_error, args []any) *Error {
	msg := C.GoString((*C.char)(unsafe.Pointer(uintptr(unsafe.Pointer(e)) + unsafe.Sizeof(e.code))))
	err := &Error{Op: op, Code: Code(e.code), Msg: withoutOp(op, msg)}
	C.tg_error_free(e)
	for _, a := range args {
		switch x := a.(type) {
		case Tensor:
			err.addShape(x)
		case []Tensor:
			for _, t := range x {
				err.addShape(t)
			}
		}
	}
	return err
}

// nativeOp is an operator of the linked libtorch.
type nativeOp struct{ p *C.tg_op }

func findOp(name, overload, declared string) (nativeOp, *Error) {
	cname, coverload, cdeclared := C.CString(name), C.CString(overload), C.CString(declared)
	defer C.free(unsafe.Pointer(cname))
	defer C.free(unsafe.Pointer(coverload))
	defer C.free(unsafe.Pointer(cdeclared))
	var op nativeOp
	if e := C.tg_find(cname, coverload, cdeclared, &op.p); e != nil {
		return op, newError(declared, e, nil)
	}
	return op, nil
}

func (op nativeOp) schema() string { return C.GoString(C.tg_schema(op.p)) }

// arguments are laid out as the bridge reads them. They live on the caller's stack; only long lists reach the heap.
type arguments [24]C.tg_value

// encode writes argument i, and the elements of a list behind flat, which it returns: stored in arguments, flat would go
// to the heap. It reports false for a Go type that no operator takes.
func (a *arguments) encode(i int, arg any, flat []uint64) ([]uint64, bool) {
	v := &a[i]
	switch x := arg.(type) {
	case nil:
	case Tensor:
		v.tag, v.v = C.TG_TENSOR, C.uint64_t(x.h)
	case int:
		v.tag, v.v = C.TG_INT, C.uint64_t(x)
	case int64:
		v.tag, v.v = C.TG_INT, C.uint64_t(x)
	case float64:
		v.tag, v.v = C.TG_DOUBLE, C.uint64_t(math.Float64bits(x))
	case bool:
		v.tag, v.v = C.TG_BOOL, C.uint64_t(word(x))
	case Dtype:
		v.tag, v.v = C.TG_DTYPE, C.uint64_t(x)
	case MemoryFormat:
		v.tag, v.v = C.TG_FORMAT, C.uint64_t(x)
	case Device:
		v.tag, v.v = C.TG_DEVICE, C.uint64_t(packDevice(x))
	case *Generator:
		if x != nil {
			v.tag, v.v = C.TG_GENERATOR, C.uint64_t(x.h)
		}
	case string:
		v.tag, v.n, v.v = C.TG_STRING, C.int32_t(len(x)), C.uint64_t(len(flat))
		for len(x) > 0 {
			var w [8]byte
			x = x[copy(w[:], x):]
			flat = append(flat, *(*uint64)(unsafe.Pointer(&w)))
		}
	case []Tensor:
		v.tag, v.n, v.v = C.TG_TENSORS, C.int32_t(len(x)), C.uint64_t(len(flat))
		for _, t := range x {
			flat = append(flat, t.h)
		}
	case []int64:
		v.tag, v.n, v.v = C.TG_INTS, C.int32_t(len(x)), C.uint64_t(len(flat))
		for _, i := range x {
			flat = append(flat, uint64(i))
		}
	case []float64:
		v.tag, v.n, v.v = C.TG_DOUBLES, C.int32_t(len(x)), C.uint64_t(len(flat))
		for _, f := range x {
			flat = append(flat, math.Float64bits(f))
		}
	case []bool:
		v.tag, v.n, v.v = C.TG_BOOLS, C.int32_t(len(x)), C.uint64_t(len(flat))
		for _, b := range x {
			flat = append(flat, word(b))
		}
	default:
		return flat, false
	}
	return flat, true
}

func word(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// results are what an operator returned: views of the bridge's memory, valid until this thread's next call.
type results struct {
	op     string // for errors
	values []C.tg_value
	flat   []uint64
}

// tensor returns result i, which must be a tensor, perhaps an undefined one.
func (r results) tensor(i int) Tensor {
	if i >= len(r.values) || r.values[i].tag != C.TG_TENSOR && r.values[i].tag != C.TG_NONE {
		panic(&Error{Op: r.op, Code: Argument, Msg: fmt.Sprintf("result %d is no tensor; use Call", i+1)})
	}
	return Tensor{uint64(r.values[i].v)}
}

func (r results) any(i int) any {
	v := r.values[i]
	list := func() []uint64 { return r.flat[v.v : int(v.v)+int(v.n)] }
	switch v.tag {
	case C.TG_TENSOR:
		return Tensor{uint64(v.v)}
	case C.TG_INT:
		return int64(v.v)
	case C.TG_DOUBLE:
		return math.Float64frombits(uint64(v.v))
	case C.TG_BOOL:
		return v.v != 0
	case C.TG_STRING:
		words := r.flat[v.v:]
		return string(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), v.n))
	case C.TG_TENSORS:
		return mapped(list(), func(w uint64) Tensor { return Tensor{w} })
	case C.TG_INTS:
		return mapped(list(), func(w uint64) int64 { return int64(w) })
	case C.TG_DOUBLES:
		return mapped(list(), math.Float64frombits)
	case C.TG_BOOLS:
		return mapped(list(), func(w uint64) bool { return w != 0 })
	default:
		return nil
	}
}

func mapped[T any](words []uint64, f func(uint64) T) []T {
	out := make([]T, len(words))
	for i, w := range words {
		out[i] = f(w)
	}
	return out
}

// invoke runs the operator on this thread. want limits how many results become tensors.
func (op nativeOp) invoke(name string, args *arguments, n int, flat []uint64, want int) (results, *C.tg_error) {
	var out C.tg_results
	words := (*C.uint64_t)(unsafe.Pointer(unsafe.SliceData(flat)))
	if err := C.tg_call(op.p, &args[0], C.int32_t(n), words, C.int32_t(len(flat)), C.int32_t(want), &out); err != nil {
		return results{}, err
	}
	r := results{op: name, values: unsafe.Slice(out.values, out.n)}
	r.flat = unsafe.Slice((*uint64)(unsafe.Pointer(out.flat)), out.nflat)
	return r, nil
}

func loadLibrary(path string) *Error {
	cpath := C.CString(path)
	defer C.free(unsafe.Pointer(cpath))
	if e := C.tg_load_library(cpath); e != nil {
		return newError("LoadLibrary "+path, e, nil)
	}
	return nil
}

// ---- scopes and modes: each caller has locked its thread ----

func scopePush()               { C.tg_scope_push() }
func scopePop()                { C.tg_scope_pop() }
func live() int                { return int(C.tg_live()) }
func setThreads(n int)         { C.tg_set_threads(C.int32_t(n)) }
func setGradMode(on bool) bool { return C.tg_set_grad_mode(C.int32_t(word(on))) != 0 }
func seededEnter(g uint64)     { raise("Seeded", C.tg_seeded_enter(C.tg_handle(g))) }
func seededLeave()             { C.tg_seeded_leave() }
func setDeterministic(on bool) { C.tg_set_deterministic(C.int32_t(word(on))) }
func manualSeed(seed int64)    { C.tg_manual_seed(C.int64_t(seed)) }
func shutdown()                { C.tg_shutdown() }

// withAutocast runs fn with autocast on, and restores what was before.
func withAutocast(d Dtype, fn func()) {
	before := C.tg_autocast_enter(C.tg_autocast{enabled: 1, dtype: C.int32_t(d)})
	defer C.tg_autocast_leave(before)
	fn()
}

func buildInfo() BuildInfo {
	config := C.tg_config()
	defer C.free(unsafe.Pointer(config))
	return BuildInfo{
		Version:       C.GoString(C.tg_version()),
		CPUCapability: C.GoString(C.tg_cpu_capability()),
		Config:        C.GoString(config),
	}
}

// ---- tensors ----

func (t Tensor) handle() C.tg_handle { return C.tg_handle(t.h) }

func (t Tensor) keep() { raise("Keep", C.tg_keep(t.handle()), t) }
func (t Tensor) own()  { raise("Own", C.tg_own(t.handle()), t) }
func (t Tensor) free() { raise("Free", C.tg_free(t.handle())) }

func borrow(p unsafe.Pointer) Tensor {
	var h C.tg_handle
	raise("Borrow", C.tg_borrow(p, &h))
	return Tensor{uint64(h)}
}

// lend returns the at::Tensor behind t, which lives as long as t: what another holder would give to [Borrow].
func (t Tensor) lend() unsafe.Pointer { return C.tg_lend(t.handle()) }

func fromHost(op string, d Dtype, data unsafe.Pointer, bytes int, shape []int64) Tensor {
	var h C.tg_handle
	var pin runtime.Pinner
	defer pin.Unpin()
	if data != nil {
		pin.Pin(data)
	}
	sizes := (*C.int64_t)(unsafe.Pointer(unsafe.SliceData(shape)))
	raise(op, C.tg_from_host(data, C.int64_t(bytes), C.int32_t(d), sizes, C.int32_t(len(shape)), &h))
	return Tensor{uint64(h)}
}

func (t Tensor) toHost(dst unsafe.Pointer, bytes int) {
	raise("ToSlice", C.tg_to_host(t.handle(), dst, C.int64_t(bytes)), t)
	t.noteRead()
}

func (t Tensor) memory() []byte {
	var data unsafe.Pointer
	var bytes C.int64_t
	raise("Memory", C.tg_memory(t.handle(), &data, &bytes), t)
	return unsafe.Slice((*byte)(data), int(bytes))
}

// meta is what libtorch knows of a tensor without looking at its elements.
type meta struct{ c C.tg_meta }

func (t Tensor) metaOf(op string) meta {
	m, err := t.tryMeta()
	if err != nil {
		raise(op, err)
	}
	return m
}

func (t Tensor) tryMeta() (meta, *C.tg_error) {
	var m meta
	err := C.tg_meta_of(t.handle(), &m.c)
	return m, err
}

func (t Tensor) shapeOrNil() []int64 {
	m, err := t.tryMeta()
	if err != nil {
		C.tg_error_free(err)
		return nil
	}
	return m.shape()
}

func (m meta) dim() int           { return int(m.c.dim) }
func (m meta) numel() int64       { return int64(m.c.numel) }
func (m meta) dtype() Dtype       { return Dtype(m.c.dtype) }
func (m meta) device() Device     { return Device{DeviceType(m.c.device_type), int(m.c.device_index)} }
func (m meta) requiresGrad() bool { return m.c.requires_grad != 0 }
func (m meta) isLeaf() bool       { return m.c.is_leaf != 0 }
func (m meta) shape() []int64     { return copyInts(m.c.sizes, m.c.dim) }
func (m meta) strides() []int64   { return copyInts(m.c.strides, m.c.dim) }
func (m meta) contiguous() bool   { return m.c.contiguous != 0 }
func (m meta) channelsLast() bool { return m.c.channels_last != 0 }
func (m meta) size(d int) int64 {
	return int64(unsafe.Slice(m.c.sizes, m.c.dim)[d])
}

func copyInts(p *C.int64_t, n C.int32_t) []int64 {
	out := make([]int64, n)
	copy(out, unsafe.Slice((*int64)(unsafe.Pointer(p)), n))
	return out
}

func (t Tensor) item() any {
	var v C.tg_value
	raise("Item", C.tg_item(t.handle(), &v), t)
	t.noteRead()
	return results{values: []C.tg_value{v}}.any(0)
}

// ---- autograd ----

func (t Tensor) backward() { raise("Backward", C.tg_backward(t.handle()), t) }

func gradOf(outputs, inputs, seeds []Tensor, retain, create bool) []Tensor {
	if len(outputs) == 0 || len(inputs) == 0 {
		panic(&Error{Op: "Grad", Code: Argument, Msg: fmt.Sprintf("%d outputs and %d inputs", len(outputs), len(inputs))})
	}
	out := make([]Tensor, len(inputs))
	raise("Grad", C.tg_grad(handles(outputs), C.int32_t(len(outputs)), handles(inputs), C.int32_t(len(inputs)), handles(seeds),
		C.int32_t(word(retain)), C.int32_t(word(create)), handles(out)), outputs, inputs)
	return out
}

// handles views tensors as the bridge's handles: a Tensor is nothing but one.
func handles(ts []Tensor) *C.tg_handle { return (*C.tg_handle)(unsafe.Pointer(unsafe.SliceData(ts))) }

func (t Tensor) grad() Tensor {
	var h C.tg_handle
	raise("Grad", C.tg_grad_of(t.handle(), &h), t)
	return Tensor{uint64(h)}
}

func (t Tensor) setGrad(g Tensor) { raise("SetGrad", C.tg_set_grad(t.handle(), g.handle()), t, g) }

func (t Tensor) setRequiresGrad(on bool) {
	raise("SetRequiresGrad", C.tg_set_requires_grad(t.handle(), C.int32_t(word(on))), t)
}

// ---- generators ----

func newGenerator(seed int64, device Device) uint64 {
	var h C.tg_handle
	raise("NewGenerator", C.tg_generator_new(C.int64_t(seed), C.uint64_t(packDevice(device)), &h))
	return uint64(h)
}

func packDevice(d Device) uint64 { return uint64(d.Type)<<32 | uint64(uint32(d.Index+1)) }

func generatorState(h uint64) Tensor {
	var out C.tg_handle
	raise("Generator.State", C.tg_generator_state(C.tg_handle(h), &out))
	return Tensor{uint64(out)}
}

func setGeneratorState(h uint64, state Tensor) {
	raise("Generator.SetState", C.tg_generator_set_state(C.tg_handle(h), state.handle()), state)
}

// ---- the timeline ----

func profileBegin(limit int) { raise("Profile", C.tg_profile_begin(C.int64_t(limit))) }

func profileEnd() (spans []Span, lost int) {
	var first *C.tg_span
	var n, more C.int64_t
	C.tg_profile_end(&first, &n, &more)
	names := map[*C.char]string{}
	spans = make([]Span, n)
	for i, s := range unsafe.Slice(first, n) {
		name, ok := names[s.name]
		if !ok {
			name = C.GoString(s.name)
			names[s.name] = name
		}
		spans[i] = Span{name, int(s.thread), int64(s.begin), int64(s.end)}
	}
	return spans, int(more)
}

// benchmarkDispatch measures at::relu in C++, direct and boxed, in nanoseconds per call.
func benchmarkDispatch(t Tensor, n int) (direct, boxed float64) {
	raise("bench", C.tg_bench(t.handle(), C.int32_t(n), (*C.double)(&direct), (*C.double)(&boxed)))
	return direct, boxed
}
