// Package ckpt reads and writes the weights of networks: named tensors in safetensors files and in what torch.save makes of
// state dicts and whole networks (.pt, .pth), as a zip file or, before PyTorch 1.6, as a stream; and arrays of numpy.savez (.npz).
//
// It is pure Go and knows nothing of libtorch. Nothing in a file is ever executed: the pickle inside a .pt is read by package
// pickle with an allow-list of names. Bytes from outside are hostile: every length is checked before memory follows it, and
// what Load allocates is bounded by a small multiple of the file's size.
//
// Whether the numbers make sense (NaN, shapes of the network) is for the caller to judge.
package ckpt

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/google/renameio/v2"
)

// DType is the type of a tensor's elements, by its name in safetensors.
type DType string

// The element types that checkpoints hold; NumPy has no BF16.
const (
	F64  DType = "F64"
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
	I64  DType = "I64"
	I32  DType = "I32"
	I16  DType = "I16"
	I8   DType = "I8"
	U8   DType = "U8"
	Bool DType = "BOOL"
)

// Size returns the bytes of one element, 0 for a type that is none of the above.
func (d DType) Size() int {
	switch d {
	case F64, I64:
		return 8
	case F32, I32:
		return 4
	case F16, BF16, I16:
		return 2
	case I8, U8, Bool:
		return 1
	}
	return 0
}

// Tensor is a named array.
type Tensor struct {
	Name  string
	DType DType
	Shape []int64 // empty for a scalar
	// Data holds the elements, little-endian, in row-major order without gaps. After Load it is for reading only:
	// tensors that share memory in a .pt share it here, and the rest may be slices of one buffer.
	Data []byte
}

// File is the content of a checkpoint.
type File struct {
	Tensors  []Tensor
	Metadata map[string]string // safetensors' __metadata__; a .pt has none
	// Format is how the tensors were stored. Save follows all but its Container, so that a file can go back as it came;
	// the zero Format is the plain one.
	Format Format
}

// Container is a kind of file, by the suffix of its name.
type Container string

// The containers of checkpoints.
const (
	Safetensors Container = "safetensors"
	PT          Container = "pt"  // by torch.save; written is the zip file of PyTorch 1.6 and later
	NPZ         Container = "npz" // of numpy.savez and savez_compressed; written is the former
)

// Format is what Load took off a file to arrive at bare names and tensors.
type Format struct {
	// Container is the kind of file that was read. Save goes by the name of the file instead.
	Container Container
	// Wrapper is the key of the dict that held the state dict, such as "state_dict"; empty if there was none.
	// Other entries of that dict (epoch, optimizer) are not kept. Safetensors files have no wrapper.
	Wrapper string
	// Class is that of a network that was pickled whole, such as "torchvision.models.resnet.ResNet"; Save writes its state dict.
	Class string
	// Prefix was taken off every name: "module." for networks saved from DataParallel, "_orig_mod." from torch.compile, both
	// where both were used, "1." by [File.StripNormalizer].
	Prefix string
	// Front are tensors that StripNormalizer took off the file, under the names they have there.
	Front []Tensor
}

// The prefixes of wrapped networks.
const (
	parallelPrefix   = "module."    // by DataParallel and DistributedDataParallel
	compiledPrefix   = "_orig_mod." // by torch.compile
	sequentialPrefix = "1."         // of the second module of a Sequential
)

// ErrCorrupt is what errors.Is finds in every error of Load and Read that is the fault of the content: damaged, lying or
// cut off, of an unsupported kind, or with names in its pickle that are refused.
var ErrCorrupt = errors.New("not a readable checkpoint")

// contentError is a fault of a file's content.
type contentError struct {
	what string
	err  error // the cause, nil if there is none below
}

// maxMessage bounds what an error quotes of a file in all: names and shapes may be long.
const maxMessage = 1 << 10

func (e *contentError) Error() string {
	text := e.what
	if e.err != nil {
		text += ": " + e.err.Error()
	}
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return text
}

func (e *contentError) Is(target error) bool { return target == ErrCorrupt }
func (e *contentError) Unwrap() error        { return e.err }

func corrupt(format string, args ...any) error {
	return &contentError{what: fmt.Sprintf(format, args...)}
}

// Load reads the checkpoint at path, or all files of the index of shards at path (model.safetensors.index.json), which lie in the
// same folder. The container is told by the bytes, not by the name. Errors name the file and the tensor or offset at fault;
// errors.Is tells ErrCorrupt from the errors of the file system.
func Load(path string) (*File, error) {
	f, size, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	file, err := read(f, size)
	if errors.Is(err, errIndex) {
		file, err = loadShards(f, size, filepath.Dir(path))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	file.stripWrappers()
	return file, nil
}

// Open opens a file for reading, which must be a regular one.
func Open(path string) (f *os.File, size int64, err error) {
	f, err = os.OpenFile(path, readOnly, 0)
	return opened(f, path, err)
}

// opened is the end of opening the file that errors call path.
func opened(f *os.File, path string, err error) (*os.File, int64, error) {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, 0, fmt.Errorf("%s: %w", path, p.Err)
	}
	if err != nil {
		return nil, 0, err
	}
	size, err := sizeOf(f)
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("%s %w", path, err), f.Close())
	}
	return f, size, nil
}

// readOnly opens without waiting for the writer that a pipe may never have.
const readOnly = os.O_RDONLY | syscall.O_NONBLOCK

// sizeOf returns the size of a regular file that can be read as a whole.
func sizeOf(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("cannot be looked at: %w", err)
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("is %s; a checkpoint must be a regular file", kindOf(info.Mode()))
	}
	// A file may have holes, which cost its maker nothing. File systems that compress hold less than a file's size too, and some
	// of the network do not tell.
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Blocks > 0 {
		if held := unfolded(512 * stat.Blocks); info.Size() > held {
			return 0, corrupt("claims %d bytes, of which the disk holds %d: it consists of holes", info.Size(), 512*stat.Blocks)
		}
	}
	var machine syscall.Sysinfo_t
	if err := syscall.Sysinfo(&machine); err != nil {
		return 0, fmt.Errorf("cannot be compared with this machine's memory: %w", err)
	}
	if memory := machine.Totalram * uint64(machine.Unit); uint64(info.Size()) > memory { //nolint:gosec // not negative
		return 0, fmt.Errorf("has %d bytes, more than the %d of this machine's memory", info.Size(), memory)
	}
	return info.Size(), nil
}

func kindOf(mode os.FileMode) string {
	if mode.IsDir() {
		return "a folder"
	}
	return "a device, pipe or socket"
}

// Read reads a checkpoint of size bytes from r, as Load does. It refuses an index of shards.
func Read(r io.ReaderAt, size int64) (*File, error) {
	f, err := read(r, size)
	if err != nil {
		return nil, err
	}
	f.stripWrappers()
	return f, nil
}

// read reads a checkpoint under the names that it has.
func read(r io.ReaderAt, size int64) (*File, error) {
	var head [9]byte
	n, err := r.ReadAt(head[:min(max(size, 0), int64(len(head)))], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case n == 0:
		return nil, corrupt("the file is empty")
	case strings.HasPrefix(string(head[:n]), "PK\x03\x04"), strings.HasPrefix(string(head[:n]), "PK\x05\x06"): // the latter if empty
		return readZip(r, size)
	case isIndex(head[:n]):
		return nil, errIndex
	case n == len(head) && head[8] == '{':
		return readSafetensors(r, size)
	case head[0] == 0x80:
		return readLegacy(r, size)
	}
	return nil, corrupt("is neither safetensors nor a file of torch.save or numpy.savez")
}

// stripWrappers takes the prefixes of wrapped networks off the names, each once and in any order.
func (f *File) stripWrappers() {
	parallel := f.stripPrefix(parallelPrefix)
	if f.stripPrefix(compiledPrefix) && !parallel {
		f.stripPrefix(parallelPrefix)
	}
}

// stripPrefix takes a prefix off the names where all of them have it, and says whether they had.
func (f *File) stripPrefix(prefix string) bool {
	if len(f.Tensors) == 0 || slices.ContainsFunc(f.Tensors, func(t Tensor) bool { return !strings.HasPrefix(t.Name, prefix) }) {
		return false
	}
	f.Format.Prefix += prefix
	for i := range f.Tensors {
		f.Tensors[i].Name = f.Tensors[i].Name[len(prefix):]
	}
	return true
}

// StripNormalizer takes a normalising layer off a network. In nn.Sequential(layer, network) the network's names begin with "1."
// and the layer's, if it has any, are 0.mean and 0.std; a layer inside the network has normalize.mean and normalize.std. Their
// tensors move to Format.Front. Any other file stays as it is. Load does not do this by itself, because such names can be a
// network's own.
func (f *File) StripNormalizer() {
	if f.strip("0.", sequentialPrefix) || f.strip("normalize.", "") {
		f.stripWrappers() // Sequential(layer, DataParallel(network))
	}
}

// strip takes off the mean and std of a layer, and a prefix that all other names must have. It reports whether it found either.
func (f *File) strip(layer, prefix string) bool {
	front := func(t Tensor) bool { return t.Name == layer+"mean" || t.Name == layer+"std" }
	network := slices.DeleteFunc(slices.Clone(f.Tensors), front)
	if slices.ContainsFunc(network, func(t Tensor) bool { return !strings.HasPrefix(t.Name, prefix) }) {
		return false
	}
	for _, t := range f.Tensors {
		if front(t) {
			t.Name = f.Format.Prefix + t.Name
			f.Format.Front = append(f.Format.Front, t)
		}
	}
	found := len(network) < len(f.Tensors)
	f.Tensors = network
	return prefix != "" && f.stripPrefix(prefix) || found
}

// stored is f under the names that its file has.
func (f *File) stored() *File {
	out := &File{Tensors: slices.Clone(f.Format.Front), Metadata: f.Metadata, Format: Format{Wrapper: f.Format.Wrapper}}
	for _, t := range f.Tensors {
		t.Name = f.Format.Prefix + t.Name
		out.Tensors = append(out.Tensors, t)
	}
	return out
}

// Save writes f to path, in the container that the suffix names (.safetensors, .pt, .pth, .npz). The file appears whole or
// not at all: a temporary one in the same folder is written, synced and renamed over path. The bytes depend on f only.
// A .pt opens in Python by torch.load(path, weights_only=True). Tensors whose Data is the same slice share one storage there.
func Save(path string, f *File) error {
	write, err := writerOf(path)
	if err != nil {
		return err
	}
	f = f.stored()
	if err := f.check(); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	pending, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithPermissions(0o644))
	if err != nil {
		return err
	}
	defer pending.Cleanup() //nolint:errcheck // does nothing after the rename, and the write's own error says more
	w := bufio.NewWriterSize(pending, 1<<20)
	err = write(w, f)
	if err = cmp.Or(err, w.Flush()); err != nil {
		return fmt.Errorf("%s was not written: %w", path, err)
	}
	if err := pending.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("%s was not written: %w", path, err)
	}
	return nil
}

func writerOf(path string) (write func(io.Writer, *File) error, err error) {
	switch suffix := strings.ToLower(filepath.Ext(path)); suffix {
	case ".safetensors":
		return writeSafetensors, nil
	case ".pt", ".pth":
		return writePT, nil
	case ".npz":
		return writeNPZ, nil
	default:
		return nil, fmt.Errorf("%s: the suffix %q names no format; use .safetensors, .pt, .pth or .npz", path, suffix)
	}
}

// check reports what would make an unreadable file.
func (f *File) check() error {
	seen := make(map[string]bool, len(f.Tensors))
	for _, t := range f.Tensors {
		if seen[t.Name] {
			return fmt.Errorf("two tensors are named %q", t.Name)
		}
		seen[t.Name] = true
		if !utf8.ValidString(t.Name) || t.Name == metadataKey {
			return fmt.Errorf("%q cannot be the name of a tensor", t.Name)
		}
		if t.DType.Size() == 0 {
			return fmt.Errorf("tensor %q has the unknown type %q", t.Name, t.DType)
		}
		if len(t.Shape) > maxDims {
			return fmt.Errorf("tensor %q has %d dimensions, more than %d", t.Name, len(t.Shape), maxDims)
		}
		if n, ok := bytesOf(t.DType, t.Shape); !ok || n != int64(len(t.Data)) {
			return fmt.Errorf("tensor %q of type %s and shape %v holds %d bytes", t.Name, t.DType, t.Shape, len(t.Data))
		}
	}
	return nil
}

// maxDims is PyTorch's bound on dimensions.
const maxDims = 64

// bytesOf returns the bytes of a tensor. It is not ok for a negative dimension or one too many, an unknown type, or a product
// beyond 63 bits. Zeros do not excuse the other dimensions, so the product of any of them is safe.
func bytesOf(d DType, shape []int64) (n int64, ok bool) {
	n = int64(d.Size())
	if n == 0 || len(shape) > maxDims {
		return 0, false
	}
	empty := false
	for _, s := range shape {
		if s == 0 {
			empty = true
			continue
		}
		if s < 0 || n > math.MaxInt64/s {
			return 0, false
		}
		n *= s
	}
	if empty {
		return 0, true
	}
	return n, true
}

// Lookup returns the tensor with the given name.
func (f *File) Lookup(name string) (*Tensor, bool) {
	for i := range f.Tensors {
		if f.Tensors[i].Name == name {
			return &f.Tensors[i], true
		}
	}
	return nil, false
}

// Hash returns a fingerprint of the weights in hexadecimal: SHA-256 over name, type, shape and bytes of every tensor, sorted
// by name. Container, order, metadata, wrapper and prefix do not enter.
func (f *File) Hash() string {
	sorted := slices.SortedFunc(slices.Values(f.Tensors), func(a, b Tensor) int { return cmp.Compare(a.Name, b.Name) })
	h := sha256.New()
	// Lengths precede the parts of varying length, so that no two checkpoints feed the same bytes.
	number := func(n int) { _ = binary.Write(h, binary.LittleEndian, int64(n)) }
	text := func(s string) { number(len(s)); _, _ = io.WriteString(h, s) }
	for _, t := range sorted {
		text(t.Name)
		text(string(t.DType))
		number(len(t.Shape))
		_ = binary.Write(h, binary.LittleEndian, t.Shape)
		number(len(t.Data))
		_, _ = h.Write(t.Data)
	}
	return hex.EncodeToString(h.Sum(nil))
}
