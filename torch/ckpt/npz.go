package ckpt

import (
	"archive/zip"
	"bytes"
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
)

var npyHeader = regexp.MustCompile(`\A\{\s*'descr':\s*'([^']*)',\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(([0-9, ]*)\),?\s*\}\s*\z`)

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
		data, err := a.inflate(e, left)
		if err != nil {
			return nil, err
		}
		left -= int64(len(data))
		t, err := parseNPY(data)
		if err != nil {
			return nil, fmt.Errorf("array %.200q: %w", name, err)
		}
		t.Name = name
		f.Tensors = append(f.Tensors, t)
	}
	return f, nil
}

// inflate returns the bytes of an entry, stored or compressed, which may be limit of them.
func (a *archive) inflate(f *zip.File, limit int64) ([]byte, error) {
	if f.Method != zip.Deflate {
		return a.read(f.Name, -1, limit)
	}
	if f.UncompressedSize64 > uint64(max(limit, 0)) {
		return nil, corrupt("zip entry %.100q claims to unpack to %d bytes, too many for a file of this size", f.Name, f.UncompressedSize64)
	}
	r, err := f.Open()
	if err != nil {
		return nil, &contentError{fmt.Sprintf("zip entry %.100q", f.Name), err}
	}
	defer r.Close()
	data := make([]byte, f.UncompressedSize64)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, &contentError{fmt.Sprintf("zip entry %.100q cannot be unpacked", f.Name), err}
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF { // the end comes bare, and after the checksum
		return nil, &contentError{fmt.Sprintf("zip entry %.100q has more than its %d bytes, or the wrong checksum", f.Name, len(data)), err}
	}
	return data, nil
}

// parseNPY reads a file of numpy.save. The tensor has no name.
func parseNPY(data []byte) (t Tensor, err error) {
	rest, ok := bytes.CutPrefix(data, []byte(npyMagic))
	if !ok || len(rest) < 2 {
		return t, corrupt("begins with %.8q instead of %q", data, npyMagic)
	}
	width := 2 // bytes of the length of the header
	switch rest[0] {
	case 1:
	case 2, 3:
		width = 4
	default:
		return t, corrupt("is of version %d of NumPy's format; 1 to 3 can be read", rest[0])
	}
	rest = rest[2:]
	if len(rest) < width {
		return t, corrupt("ends in its header")
	}
	var wide [8]byte
	copy(wide[:], rest[:width])
	length := binary.LittleEndian.Uint64(wide[:])
	rest = rest[width:]
	if length > uint64(len(rest)) {
		return t, corrupt("claims a header of %d bytes, but %d follow", length, len(rest))
	}
	header, elements := rest[:length], rest[length:]
	match := npyHeader.FindSubmatch(header)
	if match == nil {
		return t, corrupt("has the header %.100q; arrays of numbers and booleans can be read", header)
	}
	descr := string(match[1])
	if t.DType, ok = numpyTypes[strings.TrimLeft(descr, "<|=")]; !ok {
		if _, big := numpyTypes[strings.TrimPrefix(descr, ">")]; big {
			return t, corrupt("is big-endian (%s); convert it with astype('<%s')", descr, descr[1:])
		}
		return t, corrupt("has the NumPy type %.20q, which is not supported", descr)
	}
	t.Shape = []int64{}
	if dims := strings.TrimRight(string(match[3]), ", "); dims != "" {
		for dim := range strings.SplitSeq(dims, ",") {
			n, err := strconv.ParseInt(strings.TrimSpace(dim), 10, 64)
			if err != nil {
				return t, corrupt("has the impossible shape (%.100s)", match[3])
			}
			t.Shape = append(t.Shape, n)
		}
	}
	if n, ok := bytesOf(t.DType, t.Shape); !ok || n != int64(len(elements)) {
		return t, corrupt("of type %s and shape (%.100s) has %d bytes", t.DType, match[3], len(elements))
	}
	t.Data = elements[:len(elements):len(elements)]
	if string(match[2]) == "True" && len(elements) > 0 {
		strides := make([]int64, len(t.Shape))
		step := int64(1)
		for d, n := range t.Shape {
			strides[d] = step
			step *= n
		}
		t.Data = make([]byte, len(elements))
		gather(t.Data, elements, t.Shape, strides, t.DType.Size())
	}
	return t, nil
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
