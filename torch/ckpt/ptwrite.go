package ckpt

import (
	"io"
	"slices"
	"strconv"
)

// writePT writes f as torch.save would, in pickle protocol 2.
func writePT(w io.Writer, f *File) error {
	z := newStoredZip(w)
	entry := func(name string, data []byte) error { return z.entry("archive/"+name, data) }
	program, storages := pickleStateDict(f)
	if err := entry("data.pkl", program); err != nil {
		return err
	}
	if err := entry("byteorder", []byte("little")); err != nil {
		return err
	}
	for i, data := range storages {
		if err := entry("data/"+strconv.Itoa(i), data); err != nil {
			return err
		}
	}
	if err := entry("version", []byte("3\n")); err != nil {
		return err
	}
	return z.Close()
}

// pickleStateDict returns the pickle of an OrderedDict of tensors and the storages that it refers to by number.
func pickleStateDict(f *File) (program []byte, storages [][]byte) {
	type identity struct {
		first *byte
		n     int
		dtype DType
	}
	shared := map[identity]int{}
	classes := map[DType]string{}
	for class, dtype := range storageClasses {
		classes[dtype] = class
	}

	w := &pickleWriter{}
	w.op("\x80\x02") // PROTO 2
	if f.Format.Wrapper != "" {
		w.op("}").text(f.Format.Wrapper)
	}
	w.op("ccollections\nOrderedDict\n)R(")
	for _, t := range f.Tensors {
		key := len(storages)
		if len(t.Data) > 0 {
			id := identity{&t.Data[0], len(t.Data), t.DType}
			if k, ok := shared[id]; ok {
				key = k
			}
			shared[id] = key
		}
		if key == len(storages) {
			storages = append(storages, t.Data)
		}
		strides := make([]int64, len(t.Shape))
		step := int64(1)
		for d, n := range slices.Backward(t.Shape) {
			strides[d] = step
			step *= max(n, 1)
		}
		w.text(t.Name)
		w.op("ctorch._utils\n_rebuild_tensor_v2\n((").text("storage").op("ctorch\n" + classes[t.DType] + "\n")
		w.text(strconv.Itoa(key)).text("cpu").integer(int64(len(t.Data) / t.DType.Size())).op("tQ")
		w.integer(0).tuple(t.Shape).tuple(strides)
		w.op("\x89ccollections\nOrderedDict\n)RtR") // requires_grad=False, no hooks, call
	}
	w.op("u")
	if f.Format.Wrapper != "" {
		w.op("s")
	}
	w.op(".")
	return w.b, storages
}

// pickleWriter appends opcodes of protocol 2.
type pickleWriter struct{ b []byte }

func (w *pickleWriter) op(ops string) *pickleWriter {
	w.b = append(w.b, ops...)
	return w
}

func (w *pickleWriter) text(s string) *pickleWriter {
	n := len(s)
	w.b = append(w.b, 'X', byte(n), byte(n>>8), byte(n>>16), byte(n>>24)) //nolint:gosec // names are far shorter than 4 GiB
	w.b = append(w.b, s...)
	return w
}

func (w *pickleWriter) integer(n int64) *pickleWriter {
	if n == int64(int32(n)) { //nolint:gosec // the test is the purpose
		w.b = append(w.b, 'J', byte(n), byte(n>>8), byte(n>>16), byte(n>>24)) //nolint:gosec // bytes of n
		return w
	}
	w.b = append(w.b, 0x8a, 8) // LONG1
	for range 8 {
		w.b = append(w.b, byte(n)) //nolint:gosec // bytes of n
		n >>= 8
	}
	return w
}

func (w *pickleWriter) tuple(ns []int64) *pickleWriter {
	w.op("(")
	for _, n := range ns {
		w.integer(n)
	}
	return w.op("t")
}
