package ckpt

import (
	"archive/zip"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// archive is a zip file.
type archive struct {
	r      io.ReaderAt
	size   int64
	files  []*zip.File // in the order of the directory
	byName map[string]*zip.File
	unread int64 // bytes that may still be read: entries that lie about their place cannot multiply the file
}

func openArchive(r io.ReaderAt, size int64) (*archive, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		if path := (*fs.PathError)(nil); errors.As(err, &path) {
			return nil, err
		}
		return nil, &contentError{"the zip directory at the end of the file cannot be read; the file was cut off or damaged", err}
	}
	a := &archive{r: r, size: size, files: z.File, byName: make(map[string]*zip.File, len(z.File)), unread: size}
	for _, f := range z.File {
		// Names are never used as paths here. A file with these was made to deceive.
		if strings.ContainsAny(f.Name, "\\\x00") || strings.HasPrefix(f.Name, "/") || slices.Contains(strings.Split(f.Name, "/"), "..") {
			return nil, corrupt("zip entry %.100q is a path that leads outside", f.Name)
		}
		if a.byName[f.Name] != nil {
			return nil, corrupt("zip entry %.100q stands twice", f.Name)
		}
		a.byName[f.Name] = f
	}
	return a, nil
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

// read returns the bytes of an entry, which must be want of them unless want is negative, and limit at most.
func (a *archive) read(name string, want, limit int64) ([]byte, error) {
	f := a.byName[name]
	if f == nil {
		return nil, corrupt("zip entry %.100q is missing", name)
	}
	if f.Method != zip.Store || f.CompressedSize64 != f.UncompressedSize64 || f.Flags&1 != 0 {
		return nil, corrupt("zip entry %.100q is compressed or encrypted, which torch.save never does; save the file again in Python", name)
	}
	if want >= 0 && f.UncompressedSize64 != uint64(want) {
		return nil, corrupt("zip entry %.100q has %d bytes instead of %d", name, f.UncompressedSize64, want)
	}
	if limit = min(limit, a.unread); f.UncompressedSize64 > uint64(limit) { //nolint:gosec // not negative
		return nil, corrupt("zip entry %.100q claims %d bytes; %d are possible", name, f.UncompressedSize64, limit)
	}
	n := int64(f.UncompressedSize64) //nolint:gosec // at most limit
	offset, err := f.DataOffset()
	if err != nil {
		return nil, &contentError{fmt.Sprintf("zip entry %.100q", name), err}
	}
	if offset < 0 || offset > a.size-n {
		return nil, corrupt("zip entry %.100q at offset %d reaches beyond the end of the file", name, offset)
	}
	a.unread -= n
	data := make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(a.r, offset, n), data); err != nil {
		return nil, err
	}
	// torch.serialization.set_crc32_options(False) writes zeros instead of checksums.
	if sum := crc32.ChecksumIEEE(data); f.CRC32 != 0 && sum != f.CRC32 {
		return nil, corrupt("zip entry %.100q at offset %d has checksum %08x instead of %08x; the file is damaged", name, offset, sum, f.CRC32)
	}
	return data, nil
}

// readZip reads a zip file of torch.save.
func readZip(r io.ReaderAt, size int64) (*File, error) {
	a, err := openArchive(r, size)
	if err != nil {
		return nil, err
	}
	folder := a.folderOfPickle()
	if folder == "" {
		return nil, corrupt("is a zip file without FOLDER/data.pkl, so torch.save did not make it")
	}
	return readPT(a, folder)
}
