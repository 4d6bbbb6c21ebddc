package ckpt

import (
	"archive/zip"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"
	"unicode"
)

// archive is a zip file.
type archive struct {
	r      io.ReaderAt
	size   int64
	files  []*zip.File // in the order of the directory
	byName map[string]*zip.File
	places map[*zip.File]span
}

func openArchive(r io.ReaderAt, size int64) (*archive, error) {
	bounded := &atMost{r, maxHeader}
	z, err := zip.NewReader(bounded, size)
	if err != nil {
		return nil, damaged("the zip directory at the end of the file cannot be read; the file was cut off or damaged", err)
	}
	bounded.n = math.MaxInt // the entries are read through it too
	a := &archive{r: r, size: size, files: z.File, byName: make(map[string]*zip.File, len(z.File))}
	for _, f := range z.File {
		// Names are never used as paths here, but a file with these was made to deceive.
		if leadsOutside(f.Name) {
			return nil, corrupt("zip entry %.100q is a path that leads outside", f.Name)
		}
		if a.byName[f.Name] != nil {
			return nil, corrupt("zip entry %.100q stands twice", f.Name)
		}
		a.byName[f.Name] = f
	}
	return a, a.locate()
}

// damaged is an error of reading a zip file: the content's fault unless the file itself cannot be read.
func damaged(what string, err error) error {
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return err
	}
	return &contentError{what, err}
}

// atMost reads n bytes and no more, since zip.NewReader keeps every entry of a directory of any length.
type atMost struct {
	r io.ReaderAt
	n int
}

func (a *atMost) ReadAt(b []byte, offset int64) (int, error) {
	if a.n -= len(b); a.n < 0 {
		return 0, fmt.Errorf("it is longer than %d bytes", maxHeader)
	}
	return a.r.ReadAt(b, offset)
}

// locate finds the bytes of the entries. No byte may belong to two of them: that would multiply the file, and readers of the local
// headers, such as Python, would take other entries for the same names.
func (a *archive) locate() error {
	a.places = make(map[*zip.File]span, len(a.files))
	for _, f := range a.files {
		begin, err := f.DataOffset()
		if err != nil {
			return damaged(fmt.Sprintf("zip entry %.100q", f.Name), err)
		}
		if begin < 0 || begin > a.size || f.CompressedSize64 > uint64(a.size-begin) { //nolint:gosec // not negative
			return corrupt("zip entry %.100q at offset %d reaches beyond the end of the file", f.Name, begin)
		}
		a.places[f] = span{begin, begin + int64(f.CompressedSize64)} //nolint:gosec // inside the file
	}
	order := slices.Clone(a.files)
	slices.SortFunc(order, func(f, g *zip.File) int {
		p, q := a.places[f], a.places[g]
		return cmp.Or(cmp.Compare(p.begin, q.begin), cmp.Compare(p.end, q.end))
	})
	for i, f := range order[min(1, len(order)):] {
		if before := order[i]; a.places[f].begin < a.places[before].end {
			return corrupt("zip entries %.100q and %.100q overlap", before.Name, f.Name)
		}
	}
	return nil
}

// folderOfPickle returns the folder that holds data.pkl, with a slash; "" if there is none.
func (a *archive) folderOfPickle() string {
	for _, f := range a.files {
		if dir, ok := strings.CutSuffix(f.Name, "/data.pkl"); ok && !strings.Contains(dir, "/") {
			return dir + "/"
		}
	}
	return ""
}

// read returns the bytes of an entry, limit at most.
func (a *archive) read(name string, limit int64) ([]byte, error) {
	f := a.byName[name]
	if f == nil {
		return nil, corrupt("zip entry %.100q is missing", name)
	}
	if f.Method != zip.Store || f.CompressedSize64 != f.UncompressedSize64 || f.Flags&1 != 0 {
		return nil, corrupt("zip entry %.100q is compressed or encrypted, which torch.save never does; save the file again in Python", name)
	}
	place := a.places[f]
	n := place.end - place.begin
	if n > limit {
		return nil, corrupt("zip entry %.100q has %d bytes; %d are allowed", name, n, limit)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(a.r, place.begin, n), data); err != nil {
		return nil, err
	}
	// torch.serialization.set_crc32_options(False) writes zeros instead of checksums.
	if sum := crc32.ChecksumIEEE(data); f.CRC32 != 0 && sum != f.CRC32 {
		return nil, corrupt("zip entry %.100q at offset %d has checksum %08x instead of %08x; the file is damaged", name, place.begin, sum, f.CRC32)
	}
	return data, nil
}

// leadsOutside reports whether a name, taken as a path, could leave its folder.
func leadsOutside(name string) bool {
	return strings.ContainsAny(name, "\\\x00") || strings.HasPrefix(name, "/") || slices.Contains(strings.Split(name, "/"), "..")
}

// readZip reads a zip file of torch.save or numpy.savez.
func readZip(r io.ReaderAt, size int64) (*File, error) {
	a, err := openArchive(r, size)
	if err != nil {
		return nil, err
	}
	if folder := a.folderOfPickle(); folder != "" {
		return readPT(a, folder)
	}
	return readNPZ(a)
}

// storedZip writes a zip file of entries that are not compressed.
type storedZip struct {
	*zip.Writer
	out *counter
}

func newStoredZip(w io.Writer) *storedZip {
	out := &counter{w: w}
	return &storedZip{zip.NewWriter(out), out}
}

// storageAlign is torch.save's alignment of storages in the file, so that readers may map them.
const storageAlign = 64

// entry writes the parts of an entry one after the other. The same entries give the same bytes.
func (z *storedZip) entry(name string, parts ...[]byte) error {
	if err := z.Flush(); err != nil {
		return err
	}
	var size uint64
	sum := crc32.NewIEEE()
	for _, part := range parts {
		size += uint64(len(part))
		_, _ = sum.Write(part)
	}
	// A local header takes 30 bytes, the name and the extra field; the latter, 4 bytes and padding, aligns what follows.
	pad := (storageAlign - (z.out.n+30+int64(len(name))+4)%storageAlign) % storageAlign
	extra := make([]byte, 4+pad)
	copy(extra, []byte{'F', 'B', byte(pad), 0}) // PyTorch's own mark for padding
	var flags uint16
	if strings.ContainsFunc(name, func(r rune) bool { return r > unicode.MaxASCII }) {
		flags = 0x800 // the name is UTF-8
	}
	w, err := z.CreateRaw(&zip.FileHeader{
		Name: name, Flags: flags, Method: zip.Store, Extra: extra, CRC32: sum.Sum32(), CompressedSize64: size, UncompressedSize64: size,
	})
	for _, part := range parts {
		if err == nil {
			_, err = w.Write(part)
		}
	}
	return err
}

// counter counts the bytes written through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
