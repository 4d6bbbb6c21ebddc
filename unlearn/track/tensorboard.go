package track

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// TensorBoard writes scalars into an event file: records of TFRecord, each an Event of
// tensorflow/core/util/event.proto. The names are phase/value.
type TensorBoard struct{ file *os.File }

// eventFiles are the names of our event files; TensorBoard wants tfevents in them, and reads them in the order of their names.
const eventFiles = "events.out.tfevents.*.unlearn"

// OpenTensorBoard begins an event file in dir with what the run has said before, and removes the files that an earlier start of
// the run left there: they may hold steps that are done again. TensorBoard follows new files, not changed ones.
func OpenTensorBoard(dir string, now time.Time, before []Point) (_ *TensorBoard, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	old, err := filepath.Glob(filepath.Join(dir, eventFiles))
	if err != nil {
		return nil, err
	}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	file, err := os.Create(filepath.Join(dir, fmt.Sprintf("events.out.tfevents.%019d.unlearn", now.UnixNano())))
	if err != nil {
		return nil, err
	}
	t := &TensorBoard{file}
	err = t.write(fileVersion(now))
	for _, p := range before {
		if err == nil {
			err = t.Add(p)
		}
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return t, nil
}

// Add writes one event with all values of a step.
func (t *TensorBoard) Add(p Point) error { return t.write(scalars(p)) }

// Close closes the file.
func (t *TensorBoard) Close(bool) error { return t.file.Close() }

func (t *TensorBoard) write(event []byte) error {
	_, err := t.file.Write(record(event))
	return err
}

// record is a TFRecord: length, its checksum, data, its checksum.
func record(data []byte) []byte {
	r := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
	r = binary.LittleEndian.AppendUint32(r, masked(r))
	return binary.LittleEndian.AppendUint32(append(r, data...), masked(data))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// masked is a checksum that is safe to be summed over again (tensorflow/core/lib/hash/crc32c.h).
func masked(data []byte) uint32 {
	c := crc32.Checksum(data, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

// Protocol buffers: a field is its number and wire type, then its value.
const (
	varint  = 0
	fixed64 = 1
	lengths = 2
	fixed32 = 5
)

func key(number, wire int) byte { return byte(number<<3 | wire) }

func float64Field(b []byte, number int, x float64) []byte {
	return binary.LittleEndian.AppendUint64(append(b, key(number, fixed64)), math.Float64bits(x))
}

func bytesField[T string | []byte](b []byte, number int, x T) []byte {
	return append(binary.AppendUvarint(append(b, key(number, lengths)), uint64(len(x))), x...)
}

// event begins an Event: wall_time = 1, step = 2, which is left out when it is 0.
func event(at time.Time, step int64) []byte {
	b := float64Field(nil, 1, float64(at.Unix())+float64(at.Nanosecond())/1e9)
	if step != 0 {
		b = binary.AppendUvarint(append(b, key(2, varint)), uint64(step))
	}
	return b
}

// fileVersion is the first Event of a file: file_version = 3.
func fileVersion(at time.Time) []byte { return bytesField(event(at, 0), 3, "brain.Event:2") }

// scalars is an Event with a Summary = 5 of Values = 1, each a tag = 1 and a simple_value = 2.
func scalars(p Point) []byte {
	var summary []byte
	for _, name := range slices.Sorted(maps.Keys(p.Values)) {
		value := bytesField(nil, 1, p.Phase+"/"+name)
		value = binary.LittleEndian.AppendUint32(append(value, key(2, fixed32)), math.Float32bits(float32(p.Values[name])))
		summary = bytesField(summary, 1, value)
	}
	return bytesField(event(p.Time, p.Step), 5, summary)
}
