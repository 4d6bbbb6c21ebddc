package data

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go/format"
)

// Files of a few bytes that ask for gigabytes are refused before memory is asked for.
func TestParquetBombs(t *testing.T) {
	file := func(footer string) string {
		return "PAR1" + footer + string(binary.LittleEndian.AppendUint32(nil, uint32(len(footer)))) + "PAR1"
	}
	many := string(binary.AppendUvarint(nil, 1<<30))
	for _, c := range []struct{ content, says string }{
		{"PAR1\xe1\x6f\x0e\xf8PAR1", "metadata of 4161695713 bytes in a file of 12"},
		{"PAR1PAR1", "8 bytes are no Parquet file"},
		{file("\x15\x02\x19\xfc" + many), "a list of 1073741824 elements in 0 bytes"},
		{file("\x15\x02\x19\xf5" + many + strings.Repeat("\x00", 1000)), "a list of 1073741824 elements in 1000 bytes"},
		{file(strings.Repeat("\x1c", 1000)), "nested too deep"},
		{file(strings.Repeat("\x19\x19", 1000)), "nested too deep"},
		{file("\x18" + many), "unexpected EOF"},
		{file("\x1b\x00\x00"), "a value of the type 11"},
		{file("\x15\x02"), "unexpected EOF"},
		{file("\x15" + strings.Repeat("\xff", 20)), "a number that does not end"},
	} {
		if err := checkFooter(strings.NewReader(c.content), int64(len(c.content))); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.40q: error %v, want %q", c.content, err, c.says)
		}
	}
	for _, name := range []string{"train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"} {
		content := fixture(t, "parquet/data/"+name+".parquet")
		if err := checkFooter(strings.NewReader(content), int64(len(content))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// page makes a page with a header of 5: {1: values}.
func page(plain, packed, values int64, body string) string {
	b := []byte{0x15, 0}
	b = binary.AppendVarint(append(b, 0x15), plain)
	b = binary.AppendVarint(append(b, 0x15), packed)
	b = binary.AppendVarint(append(b, 0x2c, 0x15), values)
	return string(append(b, 0, 0)) + body
}

func TestCheckPages(t *testing.T) {
	zeros := bytes.Repeat([]byte{0}, 1<<20)
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	snapped, zipped, zstded := string(snappy.Encode(nil, zeros)), gzipped(t, string(zeros)), string(encoder.EncodeAll(zeros, nil))
	packed := func(plain int64, body string) string { return page(plain, int64(len(body)), 4, body) }
	for _, c := range []struct {
		codec   format.CompressionCodec
		content string
		says    string
	}{
		{format.Uncompressed, packed(4, "four"), ""},
		{format.Uncompressed, packed(4, "four") + packed(5, "again"), ""},
		{format.Snappy, packed(1<<20, snapped), ""},
		{format.Gzip, packed(1<<20, zipped), ""},
		{format.Zstd, packed(1<<20, zstded), ""},
		{format.Snappy, packed(1<<20-1, snapped), "1048576 bytes decompressed, more than the 1048575 that are said"},
		{format.Gzip, packed(1<<20-1, zipped), "1048576 bytes and more decompressed, and 1048575 are said"},
		{format.Zstd, packed(1<<20-1, zstded), "1048576 bytes and more decompressed, and 1048575 are said"},
		{format.Zstd, packed(1<<20, zstded+zstded), "1048577 bytes and more decompressed, and 1048576 are said"},
		{format.Zstd, packed(1<<20, zstded[:10]), "unexpected EOF"},
		{format.Brotli, packed(4, "four"), "compressed with BROTLI; snappy, gzip and zstd are read"},
		{format.Uncompressed, page(4, 5, 4, "four"), "a page of 5 bytes"},
		{format.Uncompressed, page(4, -1, 4, "four"), "a page of -1 bytes"},
		{format.Uncompressed, page(1<<31-1, 4, 4, "four"), "a page of 2147483647 bytes"},
		{format.Uncompressed, page(4, 4, 1<<31-1, "four"), "a page of 2147483647 values at byte"},
		{format.Uncompressed, "\x15", "a number that does not end"},
	} {
		column := &format.ColumnMetaData{Codec: c.codec, TotalCompressedSize: int64(len(c.content))}
		err := checkPages(strings.NewReader(c.content), int64(len(c.content)), column, 10)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, %.30q: error %v, want %q", c.codec, c.content, err, c.says)
		}
	}
	whole := page(4, 4, 4, "four")
	for _, c := range []struct{ at, length, rows int64 }{{-1, 5, 1}, {0, 99, 1}, {99, 0, 1}, {0, -1, 1}, {0, int64(len(whole)), -1}, {0, int64(len(whole)), 1 << 40}} {
		column := &format.ColumnMetaData{DataPageOffset: c.at, TotalCompressedSize: c.length}
		if err := checkPages(strings.NewReader(whole), int64(len(whole)), column, c.rows); err == nil {
			t.Errorf("a column of %d bytes at %d with %d rows: no error", c.length, c.at, c.rows)
		}
	}
	var none io.ReaderAt = strings.NewReader("")
	if err := checkPages(none, 0, &format.ColumnMetaData{}, 0); err != nil {
		t.Errorf("a column without pages: %v", err)
	}
}
