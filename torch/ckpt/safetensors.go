package ckpt

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"unicode/utf8"
)

// The safetensors format (github.com/huggingface/safetensors): the length of the header in 8 bytes, little-endian; the
// header, a JSON object from names to {"dtype", "shape", "data_offsets"}; the tensors' bytes, without gaps. The offsets count
// from the end of the header.

const metadataKey = "__metadata__"

// What lists tensors is bounded: the header of a safetensors file, an index of shards, the directory of a zip file. The largest
// networks for images have three thousand tensors, and 120 bytes for each.
const (
	maxHeader = 4 << 20
	maxKeys   = 30_000 // of an object in JSON
)

// span is the place of a tensor's bytes.
type span struct{ begin, end int64 }

func readSafetensors(r io.ReaderAt, size int64) (*File, error) {
	var prefix [8]byte
	if _, err := r.ReadAt(prefix[:], 0); err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint64(prefix[:])
	if length > maxHeader {
		return nil, corrupt("safetensors: the header claims %d bytes; %d are allowed", length, maxHeader)
	}
	dataSize := size - 8 - int64(length)
	if dataSize < 0 {
		return nil, corrupt("safetensors: the header claims %d bytes, but the file has %d; it was cut off", length, size)
	}
	header := make([]byte, length)
	if _, err := io.ReadFull(io.NewSectionReader(r, 8, int64(length)), header); err != nil {
		return nil, err
	}
	f, spans, err := parseHeader(header)
	if err != nil {
		return nil, err
	}
	if err := checkSpans(f, spans, dataSize); err != nil {
		return nil, err
	}
	data := make([]byte, dataSize)
	if _, err := io.ReadFull(io.NewSectionReader(r, size-dataSize, dataSize), data); err != nil {
		return nil, err
	}
	for i, s := range spans {
		f.Tensors[i].Data = data[s.begin:s.end:s.end]
	}
	return f, nil
}

// checkSpans demands that the tensors fill the data exactly: no gap, no overlap, nothing after them.
func checkSpans(f *File, spans []span, dataSize int64) error {
	order := make([]int, len(spans))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(spans[a].begin, spans[b].begin), cmp.Compare(spans[a].end, spans[b].end))
	})
	var end int64
	for _, i := range order {
		if s := spans[i]; s.begin != end {
			what := "leave a gap after"
			if s.begin < end {
				what = "overlap"
			}
			return corrupt("safetensors: tensor %.200q: the offsets [%d, %d] %s the tensor before, which ends at %d",
				f.Tensors[i].Name, s.begin, s.end, what, end)
		}
		end = spans[i].end
	}
	if end > dataSize {
		return corrupt("safetensors: the tensors need %d bytes, but %d follow the header; the file was cut off", end, dataSize)
	}
	if end < dataSize {
		return corrupt("safetensors: %d bytes follow the last tensor", dataSize-end)
	}
	return nil
}

// parseHeader reads the JSON header. Its tensors have no Data yet. It is stricter than encoding/json, because a repeated key or
// a loosely matched one means different things to different readers.
func parseHeader(header []byte) (*File, []span, error) {
	if !utf8.Valid(header) {
		return nil, nil, corrupt("safetensors: the header is not UTF-8")
	}
	f := &File{Format: Format{Container: Safetensors}}
	var spans []span
	dec := json.NewDecoder(bytes.NewReader(header))
	err := object(dec, func(name string) error {
		if name == metadataKey {
			f.Metadata = map[string]string{}
			return object(dec, func(key string) error {
				token, err := dec.Token()
				value, ok := token.(string)
				if err == nil && !ok {
					err = fmt.Errorf("metadata %.200q is no string", key)
				}
				f.Metadata[key] = value
				return err
			})
		}
		t, s, err := parseTensor(dec, name)
		if err != nil {
			return fmt.Errorf("tensor %.200q: %w", name, err)
		}
		f.Tensors = append(f.Tensors, t)
		spans = append(spans, s)
		return nil
	})
	if err == nil {
		err = ended(dec)
	}
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the JSON ends too early")
		}
		return nil, nil, &contentError{"safetensors: header near byte " + fmt.Sprint(8+dec.InputOffset()), err}
	}
	return f, spans, nil
}

func parseTensor(dec *json.Decoder, name string) (Tensor, span, error) {
	t := Tensor{Name: name}
	var offsets []int64
	err := object(dec, func(key string) (err error) {
		switch key {
		case "dtype":
			var token json.Token
			token, err = dec.Token()
			text, _ := token.(string)
			t.DType = DType(text)
		case "shape":
			t.Shape, err = integers(dec)
		case "data_offsets":
			offsets, err = integers(dec)
		default:
			err = fmt.Errorf("the key %.200q is unknown", key)
		}
		return err
	})
	switch {
	case err != nil:
		return t, span{}, err
	case t.DType.Size() == 0:
		return t, span{}, fmt.Errorf("the type %.200q is not supported", t.DType)
	case t.Shape == nil:
		return t, span{}, errors.New("the shape is missing")
	case len(offsets) != 2:
		return t, span{}, fmt.Errorf("data_offsets %v are no pair", offsets)
	}
	s := span{offsets[0], offsets[1]}
	n, ok := bytesOf(t.DType, t.Shape)
	if !ok {
		return t, s, fmt.Errorf("the shape %v is impossible", t.Shape)
	}
	if s.end < s.begin || s.end-s.begin != n {
		return t, s, fmt.Errorf("type %s and shape %v need %d bytes, but the offsets [%d, %d] differ", t.DType, t.Shape, n, s.begin, s.end)
	}
	return t, s, nil
}

// object reads a JSON object and calls value, which must consume the value, after each key.
func object(dec *json.Decoder, value func(key string) error) error {
	if err := delim(dec, '{'); err != nil {
		return err
	}
	seen := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string) // the decoder lets nothing else stand there
		if seen[key] {
			return fmt.Errorf("the key %.200q stands twice", key)
		}
		if seen[key] = true; len(seen) > maxKeys {
			return fmt.Errorf("more than %d keys stand in one object", maxKeys)
		}
		if err := value(key); err != nil {
			return err
		}
	}
	return delim(dec, '}')
}

// ended demands that nothing follows a JSON document.
func ended(dec *json.Decoder) error {
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the closing brace")
	}
	return nil
}

// integers reads a JSON array of integers from 0 up. It returns an empty slice, not nil, for an empty array.
func integers(dec *json.Decoder) ([]int64, error) {
	if err := delim(dec, '['); err != nil {
		return nil, err
	}
	ns := []int64{}
	for dec.More() {
		var number json.Number // refuses all but numbers, except null and quoted ones, which then fail as integers
		if err := dec.Decode(&number); err != nil {
			return nil, err
		}
		n, err := number.Int64()
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%.200q is no integer from 0 to 2^63-1", number.String())
		}
		if ns = append(ns, n); len(ns) > maxDims {
			return nil, fmt.Errorf("more than %d numbers stand in a row", maxDims)
		}
	}
	return ns, delim(dec, ']')
}

func delim(dec *json.Decoder, want json.Delim) error {
	token, err := dec.Token()
	if err != nil {
		return err
	}
	if token != want {
		return fmt.Errorf("found %v instead of %q", token, want)
	}
	return nil
}

// writeSafetensors writes the header's keys sorted by name. The bytes are ordered by the size of their type, largest first,
// then by name, as the reference implementation does, so that every tensor is aligned for readers that map the file.
func writeSafetensors(w io.Writer, f *File) error {
	order := make([]int, len(f.Tensors))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		ta, tb := f.Tensors[a], f.Tensors[b]
		return cmp.Or(cmp.Compare(tb.DType.Size(), ta.DType.Size()), cmp.Compare(ta.Name, tb.Name))
	})
	type entry struct {
		DType   DType    `json:"dtype"`
		Shape   []int64  `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	entries := map[string]entry{}
	var end int64
	for _, i := range order {
		t := f.Tensors[i]
		begin := end
		end += int64(len(t.Data))
		entries[t.Name] = entry{t.DType, append([]int64{}, t.Shape...), [2]int64{begin, end}}
	}

	var header bytes.Buffer
	header.WriteByte('{')
	pair := func(key string, value any) error {
		if header.Len() > 1 {
			header.WriteByte(',')
		}
		k, err := json.Marshal(key)
		if err != nil {
			return err
		}
		v, err := json.Marshal(value)
		header.Write(k)
		header.WriteByte(':')
		header.Write(v)
		return err
	}
	if len(f.Metadata) > 0 {
		if err := pair(metadataKey, f.Metadata); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if err := pair(name, entries[name]); err != nil {
			return err
		}
	}
	header.WriteByte('}')
	for header.Len()%8 != 0 {
		header.WriteByte(' ')
	}
	if n := max(len(entries), len(f.Metadata)); n > maxKeys || header.Len() > maxHeader {
		return fmt.Errorf("the header would take %d bytes for %d tensors or metadata; %d and %d are allowed", header.Len(), n, maxHeader, maxKeys)
	}

	if err := binary.Write(w, binary.LittleEndian, int64(header.Len())); err != nil {
		return err
	}
	if _, err := header.WriteTo(w); err != nil {
		return err
	}
	for _, i := range order {
		if _, err := w.Write(f.Tensors[i].Data); err != nil {
			return err
		}
	}
	return nil
}
