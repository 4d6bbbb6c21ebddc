package data

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// A reader of what is needed of MATLAB 5 files ("MAT-File Format", The MathWorks, level 5): little-endian arrays of numbers,
// characters and structures, compressed or not.

// matArrays calls visit for the arrays of a file until it says that it has all it wants.
func matArrays(content []byte, visit func(m matArray) (done bool, err error)) error {
	const header = 128
	if len(content) < header || string(content[126:128]) != "IM" {
		return errors.New("not a little-endian MATLAB 5 file")
	}
	for rest := content[header:]; len(rest) > 0; {
		e, next, err := matElement(rest)
		if err != nil {
			return err
		}
		if rest = next; e.kind == matCompressed {
			if e, err = inflate(e.data); err != nil {
				return err
			}
		}
		if e.kind != matMatrix {
			continue
		}
		m, err := parseMatrix(e.data)
		if err != nil {
			return err
		}
		if done, err := visit(m); done || err != nil {
			return err
		}
	}
	return nil
}

// synsets reads the classes of ImageNet's meta.mat: of the array "synsets" of structures, the fields ILSVRC2012_ID and WNID.
func synsets(content []byte) (found map[int]string, err error) {
	err = matArrays(content, func(m matArray) (bool, error) {
		if m.name != "synsets" || m.class != matStruct {
			return false, nil
		}
		found, err = m.synsets()
		return true, err
	})
	if err == nil && found == nil {
		err = errors.New("no array of structures named synsets in it")
	}
	return found, err
}

// Kinds of elements and classes of arrays.
const (
	matInt8       = 1
	matUint8      = 2
	matInt16      = 3
	matUint16     = 4
	matInt32      = 5
	matUint32     = 6
	matDouble     = 9
	matMatrix     = 14
	matCompressed = 15
	matUTF8       = 16

	matStruct     = 2
	matUint8Array = 9
)

// maxInflated bounds what a compressed element holds: the training images of SVHN have 225 MB.
const maxInflated = maxMember

type matData struct {
	kind uint32
	data []byte
}

// matElement reads an element and returns what stands behind it.
func matElement(b []byte) (e matData, rest []byte, err error) {
	if len(b) < 8 {
		return e, nil, io.ErrUnexpectedEOF
	}
	tag := binary.LittleEndian.Uint32(b)
	if size := tag >> 16; size != 0 { // a small element: kind, size and up to four bytes in eight
		if size > 4 {
			return e, nil, fmt.Errorf("a small element of %d bytes", size)
		}
		return matData{tag & 0xffff, b[4 : 4+size]}, b[8:], nil
	}
	size := uint64(binary.LittleEndian.Uint32(b[4:]))
	b = b[8:]
	if size > uint64(len(b)) {
		return e, nil, io.ErrUnexpectedEOF
	}
	e = matData{tag, b[:size]}
	if tag != matCompressed {
		size = min((size+7)&^7, uint64(len(b))) // elements begin at multiples of eight
	}
	return e, b[size:], nil
}

func inflate(data []byte) (e matData, err error) {
	z, err := zlib.NewReader(bytes.NewReader(data))
	if err != nil {
		return e, err
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxInflated+1))
	if err != nil {
		return e, err
	}
	if len(plain) > maxInflated {
		return e, fmt.Errorf("an element of more than %d bytes", maxInflated)
	}
	e, _, err = matElement(plain)
	return e, err
}

// matArray is an array, of which rest holds the elements that depend on its class.
type matArray struct {
	class byte
	name  string
	shape []int
	count int // of all dimensions together
	rest  []byte
}

func parseMatrix(b []byte) (m matArray, err error) {
	var parts [3]matData // flags, dimensions, name
	for i := range parts {
		if parts[i], b, err = matElement(b); err != nil {
			return m, err
		}
	}
	flags, dimensions := parts[0].data, parts[1].data
	if len(flags) < 8 || len(dimensions) == 0 || len(dimensions)%4 != 0 {
		return m, errors.New("an array without a class or a size")
	}
	m = matArray{class: flags[0], name: string(parts[2].data), count: 1, rest: b}
	for ; len(dimensions) > 0; dimensions = dimensions[4:] {
		n := binary.LittleEndian.Uint32(dimensions)
		if n > maxInflated || m.count*int(n) > maxInflated {
			return m, fmt.Errorf("an array of more than %d elements", maxInflated)
		}
		m.shape = append(m.shape, int(n))
		m.count *= int(n)
	}
	return m, nil
}

// synsets reads the two fields of each structure.
func (m matArray) synsets() (map[int]string, error) {
	width, b, err := matElement(m.rest)
	if err != nil {
		return nil, err
	}
	names, b, err := matElement(b)
	if err != nil {
		return nil, err
	}
	if len(width.data) != 4 {
		return nil, errors.New("structures without names of fields")
	}
	size := int(binary.LittleEndian.Uint32(width.data))
	if size < 1 || len(names.data) == 0 || len(names.data)%size != 0 {
		return nil, fmt.Errorf("names of fields in %d bytes, %d each", len(names.data), size)
	}
	var fields []string
	for at := 0; at < len(names.data); at += size {
		name, _, _ := strings.Cut(string(names.data[at:at+size]), "\x00")
		fields = append(fields, name)
	}
	found := map[int]string{}
	for range m.count {
		var number float64
		var wnid string
		for _, field := range fields {
			var e matData
			if e, b, err = matElement(b); err != nil {
				return nil, err
			}
			if field != "ILSVRC2012_ID" && field != "WNID" {
				continue
			}
			value, err := parseMatrix(e.data)
			if err != nil {
				return nil, err
			}
			if field == "WNID" {
				wnid, err = value.text()
			} else {
				number, err = value.number()
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", field, err)
			}
		}
		if number < 1 || number > 1<<20 || number != math.Trunc(number) || wnid == "" {
			return nil, fmt.Errorf("a class with the number %v and the name %.40q", number, wnid)
		}
		found[int(number)] = wnid
	}
	return found, nil
}

// text is an array of characters.
func (m matArray) text() (string, error) {
	e, _, err := matElement(m.rest)
	if err != nil {
		return "", err
	}
	switch e.kind {
	case matInt8, matUint8, matUTF8:
		return string(e.data), nil
	case matUint16:
		var runes []rune
		for at := 0; at+2 <= len(e.data); at += 2 {
			runes = append(runes, rune(binary.LittleEndian.Uint16(e.data[at:])))
		}
		return string(runes), nil
	}
	return "", fmt.Errorf("characters of kind %d", e.kind)
}

// number is an array of one number.
func (m matArray) number() (float64, error) {
	values, err := m.numbers()
	if err == nil && len(values) != 1 {
		err = fmt.Errorf("%d numbers where one is expected", len(values))
	}
	if err != nil {
		return 0, err
	}
	return values[0], nil
}

// numbers are the values of an array, column by column. MATLAB writes them in the smallest type that holds them all.
func (m matArray) numbers() ([]float64, error) {
	e, _, err := matElement(m.rest)
	if err != nil {
		return nil, err
	}
	var size int
	var value func(b []byte) float64
	switch e.kind {
	case matUint8:
		size, value = 1, func(b []byte) float64 { return float64(b[0]) }
	case matInt8:
		size, value = 1, func(b []byte) float64 { return float64(int8(b[0])) }
	case matUint16:
		size, value = 2, func(b []byte) float64 { return float64(binary.LittleEndian.Uint16(b)) }
	case matInt16:
		size, value = 2, func(b []byte) float64 { return float64(int16(binary.LittleEndian.Uint16(b))) }
	case matUint32:
		size, value = 4, func(b []byte) float64 { return float64(binary.LittleEndian.Uint32(b)) }
	case matInt32:
		size, value = 4, func(b []byte) float64 { return float64(int32(binary.LittleEndian.Uint32(b))) }
	case matDouble:
		size, value = 8, func(b []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b)) }
	default:
		return nil, fmt.Errorf("numbers of kind %d", e.kind)
	}
	if len(e.data) != m.count*size {
		return nil, fmt.Errorf("%d bytes for %d numbers of %d bytes", len(e.data), m.count, size)
	}
	values := make([]float64, 0, m.count)
	for b := range slices.Chunk(e.data, size) {
		values = append(values, value(b))
	}
	return values, nil
}
