package ckpt

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"

	"l2ul/torch/ckpt/pickle"
)

// The zip files of torch.save hold, below one folder of any name, the pickle data.pkl, the raw bytes of each storage in data/KEY,
// byteorder and version. The pickle calls torch._utils._rebuild_tensor_v2 for each tensor, with a persistent id that names a
// storage, and an offset, sizes and strides in elements into it.

const (
	maxPickle       = 64 << 20  // bytes of data.pkl: some 500,000 tensors
	maxPickleMemory = 512 << 20 // what its values may take
)

// wrappers are the keys under which training scripts put the state dict.
var wrappers = []string{"state_dict", "model_state_dict", "model_state", "model", "net"}

// storageClasses are the element types that torch's storage classes stand for.
var storageClasses = map[string]DType{
	"DoubleStorage": F64, "FloatStorage": F32, "HalfStorage": F16, "BFloat16Storage": BF16,
	"LongStorage": I64, "IntStorage": I32, "ShortStorage": I16, "CharStorage": I8, "ByteStorage": U8, "BoolStorage": Bool,
}

// storage is the memory that one or more tensors look into.
type storage struct {
	key   string
	dtype DType
	numel int64
	data  []byte // nil until a tensor needs it
}

func readPT(r io.ReaderAt, size int64) (*File, error) {
	a, err := openArchive(r, size)
	if err != nil {
		return nil, err
	}
	p := &ptReader{archive: a, storages: map[string]*storage{}, copies: copyFactor*size + copySlack}
	root, err := p.unpickle()
	if err != nil {
		return nil, err
	}
	dict, wrapper, err := findStateDict(root)
	if err != nil {
		return nil, err
	}
	f := &File{Format: Format{Container: PT, Wrapper: wrapper}}
	for key, value := range dict.All() {
		name, _ := pickle.Text(key) // findStateDict has seen to the types
		v := value.(*view)
		data, err := p.elements(v)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		f.Tensors = append(f.Tensors, Tensor{Name: name, DType: v.dtype, Shape: v.shape, Data: data})
	}
	return f, nil
}

// findStateDict returns the dict of tensors: the root itself, or what stands under one of the usual keys.
func findStateDict(root any) (dict *pickle.Dict, wrapper string, err error) {
	top, ok := root.(*pickle.Dict)
	if !ok {
		return nil, "", corrupt("holds %s instead of a state dict; save model.state_dict()", typeName(root))
	}
	var found []string
	for _, key := range wrappers {
		if v, _ := top.Get(key); isStateDict(v) {
			found = append(found, key)
		}
	}
	switch {
	case len(found) > 1:
		return nil, "", corrupt("holds several state dicts, under %q; save the one that is meant alone", found)
	case len(found) == 1:
		v, _ := top.Get(found[0])
		return v.(*pickle.Dict), found[0], nil
	}
	for key, value := range top.All() {
		name, ok := pickle.Text(key)
		if !ok {
			return nil, "", corrupt("is no state dict: one of its keys is %s", typeName(key))
		}
		if _, ok := value.(*view); !ok {
			return nil, "", corrupt("is no state dict: entry %.100q is %s, not a tensor, and none of the entries %q is a dict of tensors",
				name, typeName(value), wrappers)
		}
	}
	return top, "", nil
}

// isStateDict reports whether v is a dict from strings to tensors, with one at least.
func isStateDict(v any) bool {
	d, ok := v.(*pickle.Dict)
	if !ok || d.Len() == 0 {
		return false
	}
	for key, value := range d.All() {
		_, text := pickle.Text(key)
		if _, tensor := value.(*view); !text || !tensor {
			return false
		}
	}
	return true
}

func typeName(v any) string {
	switch v.(type) {
	case *view:
		return "torch.Tensor"
	case *storage:
		return "torch.Storage"
	}
	return pickle.TypeName(v)
}

// archive is the zip file: its entries below the one folder.
type archive struct {
	r       io.ReaderAt
	size    int64
	entries map[string]*zip.File
	unread  int64 // bytes that may still be read: entries that lie about their place cannot multiply the file
}

func openArchive(r io.ReaderAt, size int64) (*archive, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		if path := (*fs.PathError)(nil); errors.As(err, &path) {
			return nil, err
		}
		return nil, &contentError{"the zip directory at the end of the file cannot be read; the file was cut off or damaged", err}
	}
	folder := ""
	for _, f := range z.File {
		if dir, ok := strings.CutSuffix(f.Name, "/data.pkl"); ok && !strings.Contains(dir, "/") {
			folder = dir + "/"
			break
		}
	}
	if folder == "" {
		return nil, corrupt("is a zip file without FOLDER/data.pkl, so torch.save did not make it")
	}
	a := &archive{r: r, size: size, entries: make(map[string]*zip.File, len(z.File)), unread: size}
	for _, f := range z.File {
		// Names are never used as paths here. A file with these was made to deceive, or is none of torch.save's.
		name, ok := strings.CutPrefix(f.Name, folder)
		if !ok || strings.ContainsAny(name, "\\\x00") || slices.Contains(strings.Split(f.Name, "/"), "..") {
			return nil, corrupt("zip entry %.100q is outside the folder %.100q", f.Name, folder)
		}
		if a.entries[name] != nil {
			return nil, corrupt("zip entry %.100q stands twice", f.Name)
		}
		a.entries[name] = f
	}
	if a.entries["constants.pkl"] != nil {
		return nil, corrupt("is a TorchScript program; load it in Python and save its state_dict()")
	}
	return a, nil
}

// read returns the bytes of an entry, which must be want of them unless want is negative, and limit at most.
func (a *archive) read(name string, want, limit int64) ([]byte, error) {
	f := a.entries[name]
	if f == nil {
		return nil, corrupt("zip entry %.100q is missing", name)
	}
	if f.Method != zip.Store || f.CompressedSize64 != f.UncompressedSize64 || f.Flags&1 != 0 {
		return nil, corrupt("zip entry %.100q is compressed or encrypted, which torch.save never does; save the file again in Python", name)
	}
	if want >= 0 && f.UncompressedSize64 != uint64(want) {
		return nil, corrupt("zip entry %.100q has %d bytes instead of %d", name, f.UncompressedSize64, want)
	}
	if limit = min(limit, a.unread); f.UncompressedSize64 > uint64(limit) { //nolint:gosec // not negative
		return nil, corrupt("zip entry %.100q claims %d bytes; %d are possible", name, f.UncompressedSize64, limit)
	}
	n := int64(f.UncompressedSize64) //nolint:gosec // at most limit
	offset, err := f.DataOffset()
	if err != nil {
		return nil, &contentError{fmt.Sprintf("zip entry %.100q", name), err}
	}
	if offset < 0 || offset > a.size-n {
		return nil, corrupt("zip entry %.100q at offset %d reaches beyond the end of the file", name, offset)
	}
	a.unread -= n
	data := make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(a.r, offset, n), data); err != nil {
		return nil, err
	}
	// torch.serialization.set_crc32_options(False) writes zeros instead of checksums.
	if sum := crc32.ChecksumIEEE(data); f.CRC32 != 0 && sum != f.CRC32 {
		return nil, corrupt("zip entry %.100q at offset %d has checksum %08x instead of %08x; the file is damaged", name, offset, sum, f.CRC32)
	}
	return data, nil
}

// ptReader turns the pickle of an archive into views, and views into bytes.
type ptReader struct {
	*archive
	storages map[string]*storage
	copies   int64 // bytes that tensors may still take beyond those of the storages
}

// Tensors that are no contiguous part of their storage are copied. Expanded ones (stride 0) may need more than the file has, but a
// small file must not ask for the whole memory.
const (
	copyFactor = 4
	copySlack  = 1 << 20
)

func (p *ptReader) unpickle() (any, error) {
	if p.entries["byteorder"] != nil {
		order, err := p.read("byteorder", -1, 64)
		if err != nil {
			return nil, err
		}
		if string(order) != "little" {
			return nil, corrupt("was written in byte order %q; only little can be read", order)
		}
	}
	data, err := p.read("data.pkl", -1, maxPickle)
	if err != nil {
		return nil, err
	}
	globals := pickle.Globals{
		"torch._utils._rebuild_tensor_v2": pickle.Func(rebuildTensor),
		"torch._utils._rebuild_parameter": pickle.Func(rebuildParameter),
		"torch.Size":                      pickle.Func(newSize),
		"torch.device":                    pickle.Func(newDevice),
	}
	for name, dtype := range storageClasses {
		globals["torch."+name] = dtype
	}
	maps.Copy(globals, pickle.NumPy()) // scalars such as a best accuracy stand beside many state dicts
	root, err := pickle.Load(bytes.NewReader(data), pickle.Options{
		Globals: globals, Persistent: p.persistent, MaxMemory: maxPickleMemory,
	})
	if err == nil {
		return root, nil
	}
	what := "data.pkl"
	var e *pickle.Error
	if errors.As(err, &e) && e.Global != "" {
		what += " is more than a state dict (save model.state_dict() alone to avoid this)"
	}
	return nil, &contentError{what, err}
}

// persistent resolves ("storage", class, key, location, numel).
func (p *ptReader) persistent(id any) (any, error) {
	t, _ := id.(pickle.Tuple)
	if len(t) != 5 || t[0] != any("storage") {
		return nil, errors.New("a persistent id is not that of a storage")
	}
	dtype, ok1 := t[1].(DType)
	key, ok2 := pickle.Text(t[2])
	numel, ok3 := t[4].(int64)
	if !ok1 || !ok2 || !ok3 || numel < 0 || numel > math.MaxInt64/8 {
		return nil, fmt.Errorf("a storage is malformed: class %s, key %s, %v elements", typeName(t[1]), typeName(t[2]), t[4])
	}
	s := p.storages[key]
	if s == nil {
		s = &storage{key: key, dtype: dtype, numel: numel}
		p.storages[key] = s
	}
	if s.dtype != dtype || s.numel != numel {
		return nil, fmt.Errorf("storage %.100q is %d elements of %s here, but was %d of %s", key, numel, dtype, s.numel, s.dtype)
	}
	return s, nil
}

// rebuildTensor is torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]).
func rebuildTensor(_ *pickle.Budget, args pickle.Tuple) (any, error) {
	if len(args) != 6 && len(args) != 7 {
		return nil, fmt.Errorf("makes a tensor of %d arguments", len(args))
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
		ns, err := pickle.Ints(t)
		if err != nil {
			return nil, err
		}
		*to = ns
	}
	return v, v.check()
}

// rebuildParameter is torch._utils._rebuild_parameter(data, requires_grad, hooks).
func rebuildParameter(_ *pickle.Budget, args pickle.Tuple) (any, error) {
	if len(args) == 3 {
		if v, ok := args[0].(*view); ok {
			return v, nil
		}
	}
	return nil, errors.New("makes a parameter of something else than a tensor")
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
	if v.data == nil {
		data, err := p.read("data/"+v.key, v.numel*size, math.MaxInt64)
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
	if n > p.copies {
		return nil, corrupt("shape %v with strides %v unfolds to %d bytes, too many for a file of this size", v.shape, v.strides, n)
	}
	p.copies -= n
	dst := make([]byte, n)
	gather(dst, v.data[v.offset*size:], v.shape, v.strides, int(size))
	return dst, nil
}
