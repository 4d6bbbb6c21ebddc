package ckpt

import (
	"fmt"
	"slices"
)

// view is a tensor as pickled: elements of a storage, at an offset and strides counted in elements.
type view struct {
	*storage
	offset         int64
	shape, strides []int64
}

// check reports a view that is impossible or reaches outside its storage.
func (v *view) check() error {
	n, ok := bytesOf(v.dtype, v.shape)
	if !ok || len(v.strides) != len(v.shape) {
		return fmt.Errorf("a tensor of storage %.100q has the impossible shape %v or strides %v", v.key, v.shape, v.strides)
	}
	last := v.offset // the place of the last element
	if last < 0 || last > v.numel {
		return fmt.Errorf("a tensor begins at element %d of storage %.100q, which has %d", v.offset, v.key, v.numel)
	}
	inside := n == 0 || last < v.numel
	for d, stride := range v.strides {
		if stride < 0 {
			return fmt.Errorf("a tensor of storage %.100q has the negative stride %d", v.key, stride)
		}
		if n == 0 || !inside || v.shape[d] == 1 {
			continue
		}
		steps := v.shape[d] - 1
		inside = stride <= (v.numel-1-last)/steps // divided, because a product could overflow
		if inside {
			last += stride * steps
		}
	}
	if !inside {
		return fmt.Errorf("a tensor of shape %v, strides %v and offset %d reaches outside storage %.100q, which has %d elements",
			v.shape, v.strides, v.offset, v.key, v.numel)
	}
	return nil
}

// contiguous reports whether the elements lie in row-major order without gaps.
func (v *view) contiguous() bool {
	step := int64(1)
	for d, n := range slices.Backward(v.shape) {
		if n != 1 && v.strides[d] != step {
			return false
		}
		step *= n
	}
	return true
}

// gather copies a strided array of elements of size bytes into dst, row-major.
func gather(dst, src []byte, shape, strides []int64, size int) {
	var ns, steps []int64
	for d, n := range shape {
		if n != 1 { // each of these would cost a call at every element
			ns, steps = append(ns, n), append(steps, strides[d])
		}
	}
	gatherInto(dst, src, ns, steps, size)
}

// gatherInto is gather without dimensions of one. It returns the rest of dst.
func gatherInto(dst, src []byte, shape, strides []int64, size int) []byte {
	if len(shape) == 0 {
		return dst[copy(dst[:size], src):]
	}
	n, step := int(shape[0]), int(strides[0])*size
	if len(shape) > 1 {
		for i := range n {
			dst = gatherInto(dst, src[i*step:], shape[1:], strides[1:], size)
		}
		return dst
	}
	// The common sizes have loops of their own: whole weights in channels-last order come through here.
	switch size {
	case 4:
		for i := range n {
			*(*[4]byte)(dst[4*i:]) = [4]byte(src[i*step:])
		}
	case 2:
		for i := range n {
			*(*[2]byte)(dst[2*i:]) = [2]byte(src[i*step:])
		}
	case 1:
		for i := range n {
			dst[i] = src[i*step]
		}
	default:
		for i := range n {
			copy(dst[i*size:(i+1)*size], src[i*step:])
		}
	}
	return dst[n*size:]
}
