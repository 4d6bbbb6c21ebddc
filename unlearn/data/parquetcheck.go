package data

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/format"
)

// The library believes what a Parquet file says of sizes, and a file of a kilobyte can ask for all memory that there is. So
// sizes are compared with what there is before the library sees them: those of lists in the footer, and those of pages.
// (https://github.com/apache/parquet-format; Thrift's compact protocol.)

// Bounds of Parquet files.
const (
	maxFooter    = 8 << 20 // bytes; a file of a thousand row groups has less than one
	maxGroupRows = 1 << 22
	maxPage      = 1 << 29 // bytes, decompressed
	maxHeader    = 1 << 16 // bytes of a page's header, which may hold the least and the largest value
)

// checkFooter walks through the metadata at the end of a file.
func checkFooter(r io.ReaderAt, size int64) error {
	var end [8]byte
	if size < 12 {
		return fmt.Errorf("%d bytes are no Parquet file", size)
	}
	if _, err := r.ReadAt(end[:], size-8); err != nil {
		return err
	}
	n := int64(binary.LittleEndian.Uint32(end[:]))
	switch {
	case string(end[4:]) != "PAR1":
		return fmt.Errorf("not a Parquet file, or a truncated one: it ends with %q, not PAR1", end[4:])
	case n > min(size-12, maxFooter):
		return fmt.Errorf("metadata of %d bytes in a file of %d, of which at most %d are read", n, size, maxFooter)
	}
	footer := make([]byte, n)
	if _, err := r.ReadAt(footer, size-8-n); err != nil {
		return err
	}
	t := &compactThrift{footer}
	if err := t.skip(thriftStruct, 0); err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	return nil
}

// checkPages reads the headers of the pages of a column, of which rows are in its row group, and finds out what they decompress to.
func checkPages(r io.ReaderAt, size int64, column *format.ColumnMetaData, rows int64) error {
	at := column.DataPageOffset
	if d := column.DictionaryPageOffset; d > 0 {
		at = min(at, d)
	}
	length := column.TotalCompressedSize
	if at < 0 || length < 0 || at > size || length > size-at {
		return fmt.Errorf("a column of %d bytes at %d in a file of %d", length, at, size)
	}
	if rows < 0 || rows > maxGroupRows {
		return fmt.Errorf("a row group of %d rows, more than the %d that are read together; write the file with smaller row groups", rows, maxGroupRows)
	}
	end, total := at+length, int64(0)
	for at < end {
		head := make([]byte, min(end-at, maxHeader))
		if _, err := r.ReadAt(head, at); err != nil {
			return err
		}
		t := &compactThrift{head}
		p, err := t.pageHeader()
		if err != nil {
			return fmt.Errorf("page at byte %d: %w", at, err)
		}
		at += int64(len(head) - len(t.b))
		switch total += p.plain; {
		case p.packed < 0 || p.packed > end-at || p.levels < 0 || p.levels > p.packed:
			return fmt.Errorf("a page of %d bytes at %d, where the column ends at %d", p.packed, at, end)
		case p.plain < 0 || p.plain > maxPage || total > maxGroup:
			return fmt.Errorf("a page of %d bytes at %d, decompressed; pages may have %d, and those of a row group %d", p.plain, at, maxPage, maxGroup)
		case p.values < 0 || p.values > max(rows, p.plain):
			return fmt.Errorf("a page of %d values at byte %d for %d rows", p.values, at, rows)
		}
		body := io.NewSectionReader(r, at+p.levels, p.packed-p.levels)
		if err := checkPacked(column.Codec, body, p.plain); err != nil {
			return fmt.Errorf("page at byte %d: %w", at, err)
		}
		at += p.packed
	}
	return nil
}

// checkPacked refuses what decompresses to more than it should.
func checkPacked(codec format.CompressionCodec, body *io.SectionReader, most int64) error {
	var plain io.Reader
	switch codec {
	case format.Uncompressed:
		return nil
	case format.Snappy: // which tells at the beginning
		var head [binary.MaxVarintLen64]byte
		n, err := body.ReadAt(head[:], 0)
		if n == 0 && errors.Is(err, io.EOF) {
			return nil
		}
		if length, err := snappy.DecodedLen(head[:n]); err != nil || int64(length) > most {
			return fmt.Errorf("%d bytes decompressed, more than the %d that are said", length, most)
		}
		return nil
	case format.Gzip:
		z, err := gzip.NewReader(body)
		if err != nil {
			return err
		}
		plain = z
	case format.Zstd:
		z, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return err
		}
		defer z.Close()
		plain = z
	default:
		return fmt.Errorf("compressed with %v; snappy, gzip and zstd are read", codec)
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(plain, most+1)); err != nil || n > most {
		return errors.Join(fmt.Errorf("%d bytes and more decompressed, and %d are said", n, most), err)
	}
	return nil
}

// Types of Thrift's compact protocol.
const (
	thriftTrue   = 1
	thriftFalse  = 2
	thriftByte   = 3
	thriftI16    = 4
	thriftI32    = 5
	thriftI64    = 6
	thriftDouble = 7
	thriftBinary = 8
	thriftList   = 9
	thriftSet    = 10
	thriftMap    = 11
	thriftStruct = 12
)

// compactThrift is what is left to read.
type compactThrift struct{ b []byte }

func (t *compactThrift) byte() (byte, error) {
	if len(t.b) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	c := t.b[0]
	t.b = t.b[1:]
	return c, nil
}

func (t *compactThrift) uvarint() (uint64, error) {
	v, n := binary.Uvarint(t.b)
	if n <= 0 {
		return 0, errors.New("a number that does not end")
	}
	t.b = t.b[n:]
	return v, nil
}

// varint reads a number in zigzag order.
func (t *compactThrift) varint() (int64, error) {
	v, n := binary.Varint(t.b)
	if n <= 0 {
		return 0, errors.New("a number that does not end")
	}
	t.b = t.b[n:]
	return v, nil
}

func (t *compactThrift) drop(n uint64) error {
	if n > uint64(len(t.b)) {
		return io.ErrUnexpectedEOF
	}
	t.b = t.b[n:]
	return nil
}

// fields calls visit with the number and the type of each field of a struct; it must read it.
func (t *compactThrift) fields(visit func(id int64, kind byte) error) error {
	id := int64(0)
	for {
		head, err := t.byte()
		if err != nil || head == 0 {
			return err
		}
		if delta := head >> 4; delta != 0 {
			id += int64(delta)
		} else if id, err = t.varint(); err != nil {
			return err
		}
		if err := visit(id, head&15); err != nil {
			return err
		}
	}
}

// maxThriftDepth is more than Parquet's metadata has.
const maxThriftDepth = 32

// skip reads over a value, and refuses lists that claim more elements than the bytes that are left can hold.
func (t *compactThrift) skip(kind byte, depth int) error {
	if depth > maxThriftDepth {
		return errors.New("nested too deep")
	}
	switch kind {
	case thriftTrue, thriftFalse:
		return nil
	case thriftByte:
		return t.drop(1)
	case thriftI16, thriftI32, thriftI64:
		_, err := t.varint()
		return err
	case thriftDouble:
		return t.drop(8)
	case thriftBinary:
		n, err := t.uvarint()
		if err != nil {
			return err
		}
		return t.drop(n)
	case thriftStruct:
		return t.fields(func(_ int64, kind byte) error { return t.skip(kind, depth+1) })
	case thriftList, thriftSet:
		return t.skipList(depth)
	}
	return fmt.Errorf("a value of the type %d", kind) // no map either, of which Parquet has none
}

func (t *compactThrift) skipList(depth int) error {
	head, err := t.byte()
	if err != nil {
		return err
	}
	n, kind := uint64(head>>4), head&15
	if n == 15 {
		if n, err = t.uvarint(); err != nil {
			return err
		}
	}
	least := uint64(1)
	if kind == thriftStruct {
		least = 3 // of any struct of Parquet's that stands in a list
	}
	if n > uint64(len(t.b))/least {
		return fmt.Errorf("a list of %d elements in %d bytes", n, len(t.b))
	}
	for range n {
		if kind == thriftTrue || kind == thriftFalse { // which take a byte here
			err = t.drop(1)
		} else {
			err = t.skip(kind, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pageHeader is what a page says of itself.
type pageHeader struct {
	plain, packed int64 // bytes
	values        int64
	levels        int64 // bytes in front that are not compressed
}

func (t *compactThrift) pageHeader() (p pageHeader, err error) {
	err = t.fields(func(id int64, kind byte) (err error) {
		switch {
		case id == 2 && kind == thriftI32:
			p.plain, err = t.varint()
		case id == 3 && kind == thriftI32:
			p.packed, err = t.varint()
		case (id == 5 || id == 7 || id == 8) && kind == thriftStruct: // a page of data, of a dictionary, of data in version 2
			err = t.fields(func(inner int64, kind byte) error {
				if kind != thriftI32 {
					return t.skip(kind, 2)
				}
				v, err := t.varint()
				if err != nil {
					return err
				}
				switch {
				case inner == 1:
					p.values = v
				case id == 8 && (inner == 5 || inner == 6):
					p.levels += v
				}
				return nil
			})
		default:
			err = t.skip(kind, 1)
		}
		return err
	})
	return p, err
}
