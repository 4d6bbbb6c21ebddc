package data

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Bounds of archives. What is decompressed to skip it costs time only; what is kept is bounded by the readers.
const (
	maxMember  = 1 << 28   // bytes of one file that is read: a CIFAR-100 training file has 154 MB
	maxMembers = 1 << 25   // files in an archive
	maxPadding = 1 << 26   // bytes after the last member
	maxWindow  = 128 << 20 // of zstd, as `zstd --long=27` makes it
)

// tarBlock is what the size of a tar archive is a multiple of, in bytes.
const tarBlock = 512

// walkTar calls visit for every regular file of a tar archive, plain or compressed with gzip or zstd (told by its first
// bytes), in one pass. The name is clean and has no leading slash. An error of visit ends the walk and is returned as
// it is; what is wrong with the archive is an *InputError that names the byte.
func walkTar(ctx context.Context, file string, visit func(name string, size int64, content io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return unreadable(err)
	}
	defer f.Close()
	counter := &countingReader{r: f}
	broken := func(err error) error { return (&tarError{msgBroken, err}).in(file, counter.n) }
	plain, closePlain, err := decompress(bufio.NewReaderSize(counter, 1<<18))
	if err != nil {
		return broken(err)
	}
	defer closePlain()
	err = tarMembers(ctx, plain, func(h *tar.Header, content io.Reader) error {
		return visit(strings.TrimLeft(path.Clean(h.Name), "/"), h.Size, content)
	})
	if e, ok := errors.AsType[*tarError](err); ok {
		return e.in(file, counter.n)
	}
	if err != nil {
		return err
	}
	// Checksums stand at the end of the compressed stream, behind the padding of the archive.
	if n, err := io.CopyN(io.Discard, plain, maxPadding); err == nil {
		return inputf(file, "%d bytes and more behind the end of the archive", n)
	} else if !errors.Is(err, io.EOF) {
		return broken(err)
	}
	return nil
}

// tarMembers calls visit for every regular file of a tar archive, and refuses links. An error of visit ends that and is returned as it is; what is
// wrong with the archive is a *tarError.
func tarMembers(ctx context.Context, r io.Reader, visit func(h *tar.Header, content io.Reader) error) error {
	archive := tar.NewReader(r)
	for members := 0; ; members++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		header, err := archive.Next()
		switch {
		case errors.Is(err, io.EOF) && members > 0:
			// Behind the last member there may be no end, but all of its last block.
			if file, ok := r.(io.Seeker); ok {
				if at, err := file.Seek(0, io.SeekCurrent); err != nil || at%tarBlock != 0 {
					return &tarError{msgBroken, cmp.Or(err, io.ErrUnexpectedEOF)}
				}
			}
			return nil
		case members == 0 && (errors.Is(err, io.EOF) || errors.Is(err, tar.ErrHeader)):
			return &tarError{msgNoTar, err}
		case err != nil:
			return &tarError{msgBroken, err}
		case members == maxMembers:
			return &tarError{fmt.Sprintf("more than %d files in the archive", maxMembers), nil}
		case header.Typeflag == tar.TypeLink || header.Typeflag == tar.TypeSymlink: // to leave one out would shift the samples behind it
			return &tarError{fmt.Sprintf("%.80q is a link: pack the files themselves (tar --dereference --hard-dereference), or unpack the archive", header.Name), nil}
		case header.Typeflag != tar.TypeReg && header.Typeflag != tar.TypeGNUSparse:
			continue
		}
		member := &trackingReader{r: archive}
		err = visit(header, member)
		if member.err != nil {
			return &tarError{msgBroken, member.err}
		}
		if err != nil {
			return err
		}
	}
}

// tarError says what is wrong with a tar archive.
type tarError struct {
	msg string
	err error
}

const (
	msgNoTar  = "not a tar archive"
	msgBroken = "corrupt or truncated archive"
)

func (e *tarError) Error() string { return (&InputError{Msg: e.msg, Err: e.err}).Error() }

func (e *tarError) Unwrap() error { return e.err }

// in adds where it was found.
func (e *tarError) in(file string, at int64) error {
	return &InputError{Path: file, Msg: fmt.Sprintf("%s, near byte %d", e.msg, at), Err: e.err}
}

// isSparse reports whether a file is not stored as it is.
func isSparse(h *tar.Header) bool {
	return h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != ""
}

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// isCompressed tells by the first bytes of a file.
func isCompressed(magic []byte) bool {
	return bytes.HasPrefix(magic, gzipMagic) || bytes.HasPrefix(magic, zstdMagic)
}

func decompress(r *bufio.Reader) (plain io.Reader, closePlain func(), err error) {
	magic, err := r.Peek(4)
	switch {
	case err != nil:
		return nil, nil, err
	case bytes.HasPrefix(magic, gzipMagic):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { z.Close() }, nil
	case bytes.HasPrefix(magic, zstdMagic):
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	default:
		return r, func() {}, nil
	}
}

// readPacked reads files of a folder of an archive, and no further than the last of them.
func readPacked(ctx context.Context, archive, folder string, wanted []string) (map[string][]byte, error) {
	members := make(map[string][]byte, len(wanted))
	enough := errors.New("all read")
	err := walkTar(ctx, archive, func(name string, size int64, content io.Reader) (err error) {
		base := path.Base(name)
		if path.Base(path.Dir(name)) != folder || !slices.Contains(wanted, base) {
			return nil
		}
		if members[base], err = readMember(archive+":"+name, size, content); err == nil && len(members) == len(wanted) {
			err = enough
		}
		return err
	})
	if err == nil {
		i := slices.IndexFunc(wanted, func(name string) bool { return members[name] == nil })
		return nil, inputf(archive, "%s is missing from the archive", path.Join(folder, wanted[i]))
	}
	if !errors.Is(err, enough) {
		return nil, err
	}
	return members, nil
}

// gunzip decompresses a small file whole.
func gunzip(content []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxMember+1))
	if err == nil && len(plain) > maxMember {
		err = fmt.Errorf("more than %d bytes when it is unpacked", maxMember)
	}
	return plain, err
}

// readMember reads one file whole.
func readMember(file string, size int64, r io.Reader) ([]byte, error) {
	if size > maxMember {
		return nil, inputf(file, "%d bytes are more than a file here can have (%d)", size, maxMember)
	}
	content := make([]byte, size)
	if _, err := io.ReadFull(r, content); err != nil {
		return nil, &InputError{Path: file, Err: err}
	}
	// Of a zip, the end tells whether the checksum is right.
	if n, err := r.Read(make([]byte, 1)); n > 0 {
		return nil, inputf(file, "it has more than the %d bytes that it was said to have", size)
	} else if err != nil && !errors.Is(err, io.EOF) {
		return nil, &InputError{Path: file, Err: err}
	}
	return content, nil
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// trackingReader remembers a failure of the archive, to tell it from one of the visitor.
type trackingReader struct {
	r   io.Reader
	err error
}

func (t *trackingReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		t.err = err
	}
	return n, err
}
