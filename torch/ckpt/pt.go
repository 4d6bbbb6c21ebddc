package ckpt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"l2ul/torch/ckpt/pickle"
)

// torch.save pickles a call of torch._utils._rebuild_tensor_v2 for each tensor, with a persistent id that names a storage, and an
// offset, sizes and strides in elements into it. Since PyTorch 1.6 it makes a zip file (readPT), before one stream
// (readLegacy).

const (
	// Bytes of data.pkl, and what its values may take: some 15,000 tensors, an optimiser's among them. Whole networks for images
	// take a tenth.
	maxPickle = 48 << 20
	// What an honest pickle takes for each of its bytes, and in all if it is a short one: a small file must not ask for more.
	pickleFactor = 64
	pickleSlack  = 1 << 20
)

// storageClasses are the element types that torch's storage classes stand for.
var storageClasses = map[string]DType{
	"DoubleStorage": F64, "FloatStorage": F32, "HalfStorage": F16, "BFloat16Storage": BF16,
	"LongStorage": I64, "IntStorage": I32, "ShortStorage": I16, "CharStorage": I8, "ByteStorage": U8, "BoolStorage": Bool,
}

// foreignSizes are the bytes of an element in storages of types that weights here do not have. Where such a tensor stands beside the
// weights, its storage is passed over.
var foreignSizes = map[pickle.Inert]int64{
	"torch.ComplexFloatStorage": 8, "torch.ComplexDoubleStorage": 16, "torch.QInt8Storage": 1, "torch.QUInt8Storage": 1,
	"torch.QInt32Storage": 4, "torch.QUInt4x2Storage": 1, "torch.QUInt2x4Storage": 1, "torch.storage.UntypedStorage": 1,
}

// ptGlobals is what names mean in the pickles of torch.save. What NumPy pickles is inert: there are no weights in it.
var ptGlobals = func() pickle.Globals {
	globals := pickle.Globals{
		"torch._utils._rebuild_tensor":               pickle.Func(rebuildTensor),
		"torch._utils._rebuild_tensor_v2":            pickle.Func(rebuildTensor),
		"torch._utils._rebuild_parameter":            pickle.Func(rebuildParameter),
		"torch._utils._rebuild_parameter_with_state": pickle.Func(rebuildParameter),
		"torch._tensor._rebuild_from_type_v2":        pickle.Func(rebuildFromType),
		"torch.Size":                                 pickle.Func(newSize),
		"torch.device":                               pickle.Func(newDevice),
	}
	for name, dtype := range storageClasses {
		globals["torch."+name] = dtype
	}
	return globals
}()

// harmful are modules and functions through which a pickle runs commands or code. Whole networks and what stands beside weights
// (argparse.Namespace, optimisers) name classes of any program, and come out as inert objects. A file that names one of
// these is refused all the same: we would run nothing, but Python would, and who has such a file should hear of it.
var harmful = []string{
	"builtins.__import__", "builtins.breakpoint", "builtins.compile", "builtins.eval", "builtins.exec", "builtins.execfile",
	"builtins.open", "_pickle", "cPickle", "code", "commands", "ctypes", "importlib", "marshal", "nt", "os", "pickle", "posix", "pty",
	"runpy", "shutil", "socket", "subprocess", "sys", "timeit", "webbrowser",
}

func inert(module, name string) bool {
	if module == "__builtin__" { // as Python 2 called it, and protocol 2 still does
		module = "builtins"
	}
	top, _, _ := strings.Cut(module, ".")
	first, _, _ := strings.Cut(name, ".")
	return !slices.Contains(harmful, top) && !slices.Contains(harmful, module+"."+first) &&
		// A module has those that it imports for attributes: torch.serialization and os.system.
		!slices.ContainsFunc(strings.Split(name, "."), func(part string) bool { return part == "builtins" || slices.Contains(harmful, part) })
}

// storage is the memory that one or more tensors look into.
type storage struct {
	key   string
	dtype DType // or the class of a foreign one
	size  int64 // of an element
	numel int64
	data  []byte // nil until a tensor needs it
}

func (s *storage) bytes() int64 { return s.numel * s.size }

// ptReader turns a pickle of torch.save into views, and views into bytes.
type ptReader struct {
	fetch    func(*storage) ([]byte, error) // the bytes of a storage
	storages map[string]*storage
	left     int64 // bytes that tensors may still have
}

// unfolded is how many bytes the tensors of a file of size bytes may have, taken one by one. They may share storages, repeat
// elements (stride 0) and be compressed, but a small file must ask for no long work, here or of whoever reads every tensor. Weights
// compress little; pruned ones, mostly zeros, some ten times.
func unfolded(size int64) int64 { return 16*size + 8<<20 }

func newPTReader(size int64, fetch func(*storage) ([]byte, error)) *ptReader {
	return &ptReader{fetch: fetch, storages: map[string]*storage{}, left: unfolded(size)}
}

// readPT reads the zip files of torch.save. They hold, below one folder of any name, the pickle data.pkl, the raw bytes of each
// storage in data/KEY, byteorder and version.
func readPT(a *archive, folder string) (*File, error) {
	for _, f := range a.files {
		if !strings.HasPrefix(f.Name, folder) {
			return nil, corrupt("zip entry %.100q is outside the folder %.100q", f.Name, folder)
		}
	}
	if a.byName[folder+"constants.pkl"] != nil {
		return nil, corrupt("is a TorchScript program; load it in Python and save its state_dict()")
	}
	if a.byName[folder+"byteorder"] != nil {
		order, err := a.read(folder+"byteorder", 64)
		if err != nil {
			return nil, err
		}
		if string(order) != "little" {
			return nil, corrupt("was written in byte order %q; only little can be read", order)
		}
	}
	program, err := a.read(folder+"data.pkl", maxPickle)
	if err != nil {
		return nil, err
	}
	p := newPTReader(a.size, func(s *storage) ([]byte, error) {
		data, err := a.read(folder+"data/"+s.key, math.MaxInt64)
		// The bytes behind the last whole element are of a storage that was made under another type.
		if rest := int64(len(data)) - s.bytes(); err == nil && (rest < 0 || rest >= s.size) {
			err = corrupt("storage %.100q has %d bytes instead of %d", s.key, len(data), s.bytes())
		}
		return data, err
	})
	root, err := p.unpickle(bytes.NewReader(program), int64(len(program)), "data.pkl")
	if err != nil {
		return nil, err
	}
	return p.file(root)
}

// unpickle reads one pickle of at most size bytes; what names it in errors.
func (p *ptReader) unpickle(r io.Reader, size int64, what string) (any, error) {
	v, err := pickle.Load(r, pickle.Options{
		Globals: ptGlobals, Inert: inert, Persistent: p.persistent,
		MaxMemory: min(maxPickle, pickleSlack+pickleFactor*min(size, maxPickle)),
	})
	if e, ok := errors.AsType[*pickle.Error](err); ok {
		if e.Global != "" {
			what += " would run code where Python loads it"
		}
		return nil, &contentError{what, err}
	}
	return v, err
}

// file takes the weights out of what was pickled.
func (p *ptReader) file(root any) (*File, error) {
	weights, format, err := findWeights(root)
	if err != nil {
		return nil, err
	}
	f := &File{Format: format}
	seen := make(map[string]bool, len(weights))
	for _, w := range weights {
		if seen[w.name] {
			return nil, corrupt("two tensors are named %.200q", w.name)
		}
		seen[w.name] = true
		data, err := p.elements(w.view)
		if err != nil {
			return nil, fmt.Errorf("tensor %.200q: %w", w.name, err)
		}
		f.Tensors = append(f.Tensors, Tensor{Name: w.name, DType: w.dtype, Shape: w.shape, Data: data})
	}
	return f, nil
}

// persistent resolves ("storage", class, key, location, numel), to which streams add the metadata of a view, and the
// ("module", class, source file, source) of streams.
func (p *ptReader) persistent(id any) (any, error) {
	t, _ := id.(pickle.Tuple)
	kind := ""
	if len(t) > 0 {
		kind = pickle.Word(t[0])
	}
	switch {
	case kind == "module" && len(t) == 4:
		return t[1], nil
	case kind == "storage" && len(t) == 6 && t[5] != nil:
		return nil, errors.New("a storage is a part of another one, as before PyTorch 0.4; load the file in Python and save it again")
	case kind != "storage" || len(t) != 5 && len(t) != 6:
		return nil, errors.New("a persistent id is not that of a storage")
	}
	dtype, ok1 := t[1].(DType)
	size := int64(dtype.Size())
	class, foreign := t[1].(pickle.Inert)
	if foreign {
		dtype, size = DType(class), foreignSizes[class]
	}
	key := pickle.Word(t[2])
	numel, ok2 := t[4].(int64)
	if !ok1 && !foreign || key == "" || !ok2 || numel < 0 || numel > math.MaxInt64/16 {
		return nil, fmt.Errorf("a storage is malformed: class %s, key %s, %s (%d) elements", typeName(t[1]), typeName(t[2]), typeName(t[4]), numel)
	}
	s := p.storages[key]
	if s == nil {
		s = &storage{key: key, dtype: dtype, size: size, numel: numel}
		p.storages[key] = s
	}
	if s.dtype != dtype || s.numel != numel {
		return nil, fmt.Errorf("storage %.100q is %d elements of %s here, but was %d of %s", key, numel, dtype, s.numel, s.dtype)
	}
	if foreign {
		return &pickle.Object{Class: class}, nil
	}
	return s, nil
}

// rebuildTensor is torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]), or
// _rebuild_tensor, which has the first four.
func rebuildTensor(b *pickle.Budget, args pickle.Tuple) (any, error) {
	if len(args) != 4 && len(args) != 6 && len(args) != 7 {
		return nil, fmt.Errorf("makes a tensor of %d arguments", len(args))
	}
	if o, ok := args[0].(*pickle.Object); ok {
		return o, nil
	}
	s, ok1 := args[0].(*storage)
	offset, ok2 := args[1].(int64)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("makes a tensor of %s at %s", typeName(args[0]), typeName(args[1]))
	}
	v := &view{storage: s, offset: offset}
	for place, to := range []*[]int64{&v.shape, &v.strides} {
		t, ok := args[2+place].(pickle.Tuple)
		if !ok || len(t) > maxDims {
			return nil, fmt.Errorf("the shape or strides of a tensor are %s of more than %d numbers, or no tuple", typeName(args[2+place]), maxDims)
		}
		if err := b.Take(48 + 8*int64(len(t))); err != nil { // the numbers and half of the view
			return nil, err
		}
		ns, err := pickle.Ints(t)
		if err != nil {
			return nil, err
		}
		*to = ns
	}
	if len(args) == 7 {
		if err := unmarked(b, args[6]); err != nil {
			return nil, err
		}
	}
	return v, v.check()
}

// unmarked reports marks, such as {"neg": True}, by which a tensor's values are other than those of its storage.
func unmarked(b *pickle.Budget, metadata any) error {
	if metadata == nil {
		return nil
	}
	marks, ok := metadata.(*pickle.Dict)
	if !ok {
		return fmt.Errorf("the metadata of a tensor is %s", typeName(metadata))
	}
	if err := b.Take(int64(marks.Len())); err != nil {
		return err
	}
	for mark, value := range marks.All() {
		if value != any(false) {
			return fmt.Errorf("a tensor is stored with the mark %q, so its values are not those in the file; save it after resolve_neg() and resolve_conj()",
				pickle.Word(mark))
		}
	}
	return nil
}

// rebuildParameter is torch._utils._rebuild_parameter(data, requires_grad, hooks), or _rebuild_parameter_with_state, which adds
// the attributes.
func rebuildParameter(_ *pickle.Budget, args pickle.Tuple) (any, error) {
	if len(args) == 3 || len(args) == 4 {
		switch v := args[0].(type) {
		case *view, *pickle.Object:
			return v, nil
		}
	}
	return nil, errors.New("makes a parameter of something else than a tensor")
}

// rebuildFromType is torch._tensor._rebuild_from_type_v2(function, type, arguments, state): a tensor with attributes.
func rebuildFromType(b *pickle.Budget, args pickle.Tuple) (any, error) {
	if len(args) != 4 {
		return nil, fmt.Errorf("makes a tensor with attributes of %d arguments", len(args))
	}
	inner, ok := args[2].(pickle.Tuple)
	if class, inert := args[0].(pickle.Inert); ok && inert {
		return &pickle.Object{Class: class}, nil
	}
	f, callable := args[0].(pickle.Func)
	if ok && callable && len(inner) > 0 {
		if _, nested := inner[0].(pickle.Func); !nested { // else the depth of the pickle's tuples would be that of our calls
			return f(b, inner)
		}
	}
	return nil, fmt.Errorf("makes a tensor with attributes of %s and %s", typeName(args[0]), typeName(args[2]))
}

// newSize is torch.Size(tuple), which stands beside state dicts, not in them.
func newSize(_ *pickle.Budget, args pickle.Tuple) (any, error) {
	if len(args) == 1 {
		if t, ok := args[0].(pickle.Tuple); ok {
			return t, nil
		}
	}
	return nil, errors.New("makes a torch.Size of something else than a tuple")
}

// newDevice is torch.device(type, index), of which nothing is kept.
func newDevice(*pickle.Budget, pickle.Tuple) (any, error) { return nil, nil }

// elements returns the bytes of a tensor in row-major order: a slice of its storage where they lie so, else a copy.
func (p *ptReader) elements(v *view) ([]byte, error) {
	size := int64(v.dtype.Size())
	n, _ := bytesOf(v.dtype, v.shape)
	if n > p.left {
		return nil, corrupt("shape %v with strides %v unfolds to %d bytes, with the tensors before it too many for a file of this size", v.shape, v.strides, n)
	}
	p.left -= n
	if v.data == nil {
		data, err := p.fetch(v.storage)
		if err != nil {
			return nil, err
		}
		v.data = data
	}
	if n == 0 {
		return []byte{}, nil
	}
	if v.contiguous() {
		begin := v.offset * size
		return v.data[begin : begin+n : begin+n], nil
	}
	dst := make([]byte, n)
	gather(dst, v.data[v.offset*size:], v.shape, v.strides, int(size))
	return dst, nil
}
