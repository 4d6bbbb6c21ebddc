package pickle

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Array is a numpy.ndarray of booleans, integers or floats, in C order and little-endian.
type Array struct {
	DType string // kind and bytes as in NumPy's type strings: "b1", "u1", "i8", "f4"
	Shape []int
	Data  []byte
}

// dtype is a numpy.dtype. It counts as big-endian once a pickle says so.
type dtype struct {
	code string
	size int
	big  bool
}

var dtypeSizes = map[string]int{
	"b1": 1, "u1": 1, "u2": 2, "u4": 4, "u8": 8, "i1": 1, "i2": 2, "i4": 4, "i8": 8, "f2": 2, "f4": 4, "f8": 8,
}

// NumPy returns the names by which NumPy 1 and 2 pickle arrays and scalars. Scalars become bool, int64 or float64.
func NumPy() Globals {
	g := Globals{"numpy.ndarray": ndarray{}, "numpy.dtype": Func(newDType)}
	for _, core := range []string{"numpy.core.", "numpy._core."} {
		g[core+"multiarray._reconstruct"] = Func(reconstruct)
		g[core+"multiarray.scalar"] = Func(scalar)
		g[core+"numeric._frombuffer"] = Func(fromBuffer)
	}
	return g
}

// ndarray is the class numpy.ndarray, mentioned but never called.
type ndarray struct{}

// newDType is numpy.dtype(code, align, copy).
func newDType(_ *Budget, args Tuple) (any, error) {
	if len(args) == 0 {
		return nil, errors.New("makes a numpy.dtype of nothing")
	}
	code := Word(args[0])
	size, ok := dtypeSizes[code]
	if !ok {
		return nil, fmt.Errorf("the NumPy type %.20q is not supported; booleans, integers and floats are", code)
	}
	return &dtype{code: code, size: size}, nil
}

// Build takes dtype.__setstate__'s (version, byte order, …).
func (d *dtype) Build(_ *Budget, state any) error {
	t, ok := state.(Tuple)
	if !ok || len(t) < 2 {
		return errors.New("the state of a numpy.dtype is malformed")
	}
	switch order := Word(t[1]); order {
	case "<", "|", "=":
	case ">":
		d.big = true
	default:
		return fmt.Errorf("the byte order %.20q of a numpy.dtype is unknown", order)
	}
	return nil
}

// reconstruct is numpy.core.multiarray._reconstruct(ndarray, (0,), b"b"): an empty array, filled by BUILD.
func reconstruct(_ *Budget, args Tuple) (any, error) {
	if len(args) != 3 || args[0] != any(ndarray{}) {
		return nil, errors.New("reconstructs something else than a numpy.ndarray")
	}
	return &Array{}, nil
}

// Build takes ndarray.__setstate__'s (version, shape, dtype, is Fortran, data).
func (a *Array) Build(b *Budget, state any) error {
	t, ok := state.(Tuple)
	if !ok || len(t) != 5 || a.DType != "" {
		return errors.New("the state of a numpy.ndarray is malformed or comes twice")
	}
	fortran, ok := t[3].(bool)
	if !ok {
		return fmt.Errorf("the order of a numpy.ndarray is %s", TypeName(t[3]))
	}
	return a.fill(b, t[4], t[2], t[1], fortran)
}

// fromBuffer is numpy._core.numeric._frombuffer(data, dtype, shape, order), the form of protocol 5.
func fromBuffer(b *Budget, args Tuple) (any, error) {
	if len(args) != 4 {
		return nil, fmt.Errorf("makes an array of %d arguments", len(args))
	}
	order := Word(args[3])
	if order != "C" && order != "F" {
		return nil, fmt.Errorf("the order %.20q of a numpy.ndarray is unknown", order)
	}
	a := &Array{}
	return a, a.fill(b, args[0], args[1], args[2], order == "F")
}

// fill checks an array's parts against each other and stores them. The data stays where it is unless its order must change.
func (a *Array) fill(b *Budget, data, kind, shape any, fortran bool) error {
	d, ok := kind.(*dtype)
	if !ok {
		return fmt.Errorf("the type of a numpy.ndarray is %s", TypeName(kind))
	}
	if d.big && d.size > 1 {
		return fmt.Errorf("a numpy.ndarray is big-endian (>%s); convert it with astype('<%s')", d.code, d.code)
	}
	raw, ok := data.([]byte)
	if !ok {
		return fmt.Errorf("the data of a numpy.ndarray is %s", TypeName(data))
	}
	if t, ok := shape.(Tuple); !ok || len(t) > 64 {
		return errors.New("the shape of a numpy.ndarray is no tuple of up to 64 numbers")
	} else if err := b.Take(16 * int64(len(t))); err != nil {
		return err
	}
	dims, err := Ints(shape)
	if err != nil {
		return err
	}
	want, zero := int64(d.size), slices.Contains(dims, 0)
	sizes := make([]int, len(dims))
	for i, n := range dims {
		if n < 0 || n > math.MaxInt32 || (!zero && want*n > int64(len(raw))) {
			return fmt.Errorf("a numpy.ndarray of shape %v does not fit its %d bytes", dims, len(raw))
		}
		if !zero {
			want *= n
		}
		sizes[i] = int(n)
	}
	if zero {
		want = 0
	}
	if want != int64(len(raw)) {
		return fmt.Errorf("a numpy.ndarray of shape %v and type %s has %d bytes instead of %d", dims, d.code, len(raw), want)
	}
	if fortran && len(sizes) > 1 && want > 0 {
		if err := b.Take(want); err != nil {
			return err
		}
		raw = toCOrder(raw, sizes, d.size)
	}
	*a = Array{DType: d.code, Shape: sizes, Data: raw}
	return nil
}

// toCOrder copies an array from Fortran order (first index fastest) to C order (last index fastest).
func toCOrder(src []byte, shape []int, size int) []byte {
	shape = slices.DeleteFunc(slices.Clone(shape), func(n int) bool { return n == 1 }) // each would cost time at every element
	strides := make([]int, len(shape))
	step := size
	for i, n := range shape {
		strides[i] = step
		step *= n
	}
	dst := make([]byte, 0, len(src))
	index := make([]int, len(shape))
	at := 0
	for len(dst) < len(src) {
		dst = append(dst, src[at:at+size]...)
		for d := len(shape) - 1; d >= 0; d-- {
			index[d]++
			at += strides[d]
			if index[d] < shape[d] {
				break
			}
			at -= index[d] * strides[d]
			index[d] = 0
		}
	}
	return dst
}

// scalar is numpy.core.multiarray.scalar(dtype, data).
func scalar(_ *Budget, args Tuple) (any, error) {
	if len(args) != 2 {
		return nil, fmt.Errorf("makes a NumPy scalar of %d arguments", len(args))
	}
	d, ok1 := args[0].(*dtype)
	raw, ok2 := args[1].([]byte)
	if !ok1 || !ok2 || len(raw) != d.size || (d.big && d.size > 1) {
		return nil, errors.New("a NumPy scalar is malformed or big-endian")
	}
	var wide [8]byte
	copy(wide[:], raw)
	bits := binary.LittleEndian.Uint64(wide[:])
	shift := 64 - 8*d.size
	switch {
	case d.code == "b1":
		return bits != 0, nil
	case d.code == "f4":
		return float64(math.Float32frombits(uint32(bits))), nil //nolint:gosec // four bytes
	case d.code == "f8":
		return math.Float64frombits(bits), nil
	case d.code[0] == 'i':
		return int64(bits<<shift) >> shift, nil //nolint:gosec // sign extension
	case d.code[0] == 'u' && bits <= math.MaxInt64:
		return int64(bits), nil
	}
	return nil, fmt.Errorf("a NumPy scalar of type %s is not supported", d.code)
}
