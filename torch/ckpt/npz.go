package ckpt

import (
	"archive/zip"
	"encoding/binary"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// numpy.savez and savez_compressed make a zip file with an entry NAME.npy for each array: a magic string, the version, the length
// of a header, the header (a Python dict of type, order and shape), and the elements (numpy.lib.format).

const (
	npySuffix = ".npy"
	npyMagic  = "\x93NUMPY"
	npyAlign  = 64

	maxNPYHeader = 10_000 // NumPy's own bound
)

var (
	// A shape of one number keeps its comma, and Python 2 wrote 3L for 3.
	npyHeader = regexp.MustCompile(`\A\{\s*'descr':\s*'([^']*)',\s*'fortran_order':\s*(True|False),\s*` +
		`'shape':\s*\((|[0-9]+L?,|[0-9]+L?(?:,\s*[0-9]+L?)+,?)\),?\s*\}\s*\z`)
	npyDim = regexp.MustCompile(`[0-9]+`)
)

// numpyTypes are NumPy's codes without their byte order.
var numpyTypes = map[string]DType{
	"f8": F64, "f4": F32, "f2": F16, "i8": I64, "i4": I32, "i2": I16, "i1": I8, "u1": U8, "b1": Bool,
}

func readNPZ(a *archive) (*File, error) {
	f := &File{Format: Format{Container: NPZ}}
	left := unfolded(a.size)
	for _, e := range a.files {
		name, ok := strings.CutSuffix(e.Name, npySuffix)
		if !ok {
			return nil, corrupt("is a zip file with the entry %.100q, so neither torch.save (FOLDER/data.pkl) nor numpy.savez (NAME.npy) made it", e.Name)
		}
		t, err := readEntry(e, left)
		if err != nil {
			return nil, fmt.Errorf("array %.200q: %w", name, err)
		}
		left -= int64(len(t.Data))
		t.Name = name
		f.Tensors = append(f.Tensors, t)
	}
	return f, nil
}

// readEntry reads an array, stored or compressed, of at most limit bytes.
func readEntry(e *zip.File, limit int64) (t Tensor, err error) {
	if e.Flags&1 != 0 {
		return t, corrupt("is encrypted")
	}
	r, err := e.Open()
	if err != nil {
		return t, damaged("cannot be opened", err)
	}
	defer r.Close()
	if t, err = readNPY(r, e.UncompressedSize64, limit); err != nil {
		return t, err
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF { // the end comes bare, and after the checksum
		return t, damaged("has more bytes than its shape says, or the wrong checksum", err)
	}
	return t, nil
}

// readNPY reads a file of numpy.save, of size bytes. No memory is taken for the elements, limit bytes at most, before the header
// agrees with the size. The tensor has no name.
func readNPY(r io.Reader, size uint64, limit int64) (t Tensor, err error) {
	head := make([]byte, len(npyMagic)+2+4) // with the length of the header, which takes 2 bytes or 4
	if _, err := io.ReadFull(r, head[:len(npyMagic)+2+2]); err != nil {
		return t, damaged("ends in its header", err)
	}
	if magic := string(head[:len(npyMagic)]); magic != npyMagic {
		return t, corrupt("begins with %q instead of %q", magic, npyMagic)
	}
	switch version := head[len(npyMagic)]; version {
	case 1:
		head = head[:len(head)-2]
	case 2, 3:
		if _, err := io.ReadFull(r, head[len(head)-2:]); err != nil {
			return t, damaged("ends in its header", err)
		}
	default:
		return t, corrupt("is of version %d of NumPy's format; 1 to 3 can be read", version)
	}
	var wide [4]byte
	copy(wide[:], head[len(npyMagic)+2:])
	length := binary.LittleEndian.Uint32(wide[:])
	if length > maxNPYHeader {
		return t, corrupt("claims a header of %d bytes; %d are allowed", length, maxNPYHeader)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(r, text); err != nil {
		return t, damaged("ends in its header", err)
	}
	t, fortran, err := parseNPY(text)
	if err != nil {
		return t, err
	}
	n, ok := bytesOf(t.DType, t.Shape)
	if begin := uint64(len(head)) + uint64(length); !ok || size < begin || uint64(n) != size-begin { //nolint:gosec // not negative
		return t, corrupt("of type %s and shape %v has %d bytes with its header", t.DType, t.Shape, size)
	}
	if n > limit {
		return t, corrupt("would take %d bytes, too many for a file of this size", n)
	}
	t.Data = make([]byte, n)
	if _, err := io.ReadFull(r, t.Data); err != nil {
		return t, damaged("cannot be unpacked", err)
	}
	if fortran && n > 0 {
		strides := make([]int64, len(t.Shape))
		step := int64(1)
		for d, n := range t.Shape {
			strides[d] = step
			step *= n
		}
		columns := t.Data
		t.Data = make([]byte, n)
		gather(t.Data, columns, t.Shape, strides, t.DType.Size())
	}
	return t, nil
}

// parseNPY reads the header of an array: its type and shape, and whether the first index is the fastest.
func parseNPY(header []byte) (t Tensor, fortran bool, err error) {
	match := npyHeader.FindSubmatch(header)
	if match == nil {
		return t, false, corrupt("has the header %q; arrays of numbers and booleans can be read", header[:min(len(header), 100)])
	}
	descr := string(match[1])
	var ok bool
	if t.DType, ok = numpyTypes[strings.TrimLeft(descr, "<|=>")]; !ok {
		return t, false, corrupt("has the NumPy type %.20q, which is not supported", descr)
	}
	if descr[0] == '>' && t.DType.Size() > 1 {
		return t, false, corrupt("is big-endian (%s); convert it with astype('<%s')", descr, descr[1:])
	}
	t.Shape = []int64{}
	for _, dim := range npyDim.FindAll(match[3], -1) {
		n, err := strconv.ParseInt(string(dim), 10, 64)
		if err != nil || len(t.Shape) == maxDims {
			return t, false, corrupt("has the impossible shape (%.100s)", match[3])
		}
		t.Shape = append(t.Shape, n)
	}
	return t, string(match[2]) == "True", nil
}

// writeNPZ writes f as numpy.savez would.
func writeNPZ(w io.Writer, f *File) error {
	codes := map[DType]string{}
	for code, dtype := range numpyTypes {
		codes[dtype] = code
	}
	z := newStoredZip(w)
	for _, t := range f.Tensors {
		code, ok := codes[t.DType]
		if !ok {
			return fmt.Errorf("tensor %q is %s, which NumPy lacks; use .safetensors or .pt", t.Name, t.DType)
		}
		if leadsOutside(t.Name) {
			return fmt.Errorf("tensor %q has a name that no zip file should hold; use .safetensors or .pt", t.Name)
		}
		order := "<"
		if t.DType.Size() == 1 {
			order = "|"
		}
		shape := ""
		for _, n := range t.Shape {
			shape += strconv.FormatInt(n, 10) + ", "
		}
		if len(t.Shape) > 1 { // only that of one number keeps its comma
			shape = strings.TrimSuffix(shape, ", ")
		}
		text := fmt.Sprintf("{'descr': '%s%s', 'fortran_order': False, 'shape': (%s), }", order, code, strings.TrimSuffix(shape, " "))
		const before = len(npyMagic) + 4
		text += strings.Repeat(" ", npyAlign-1-(before+len(text))%npyAlign) + "\n"
		head := binary.LittleEndian.AppendUint16([]byte(npyMagic+"\x01\x00"), uint16(len(text))) //nolint:gosec // at most 64 dimensions
		if err := z.entry(t.Name+npySuffix, slices.Concat(head, []byte(text)), t.Data); err != nil {
			return err
		}
	}
	return z.Close()
}
