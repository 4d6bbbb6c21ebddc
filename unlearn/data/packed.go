package data

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// packed is the files of an archive as a file system: those of the folder that it unpacks to. Of a zip or a plain tar each is
// read when it is asked for, without those before it; those of a compressed tar are all in memory.
type packed struct {
	file    string                   // the archive, or the folder that several lie in
	root    string                   // the folder in it that names are relative to
	folders map[string][]*packedFile // what each holds, sorted by name

	archives []*packedArchive
}

// packedFile is a file or a folder in an archive, and what the system would tell of it. It changes as the archive does.
type packedFile struct {
	name   string
	in     *packedArchive // nil for the folder that all is in
	member *zip.File      // nil in a tar
	offset int64          // in the tar; folderOffset for a folder
	size   int64
	text   []byte // what stands in a compressed tar; nil where it was not wanted
}

// folderOffset marks a folder.
const folderOffset = -1

// packedArchive is an archive, open as long as somebody can ask for its files: then the runtime closes it.
type packedArchive struct {
	*os.File
	info       fs.FileInfo
	compressed bool // a tar whose files are in memory
}

// Bounds of an archive's directory, for what is in memory of it.
const (
	maxDepth        = 32      // folders in one another
	maxDeflate      = 1032    // bytes that one byte of Deflate can stand for (https://zlib.net/zlib_tech.html)
	maxArchiveBytes = 1 << 35 // bytes of a compressed tar that are in memory
)

// maxZipDirectory bounds what is read of a zip to list it, in bytes: the largest of ImageNet have half of that.
var maxZipDirectory int64 = 1 << 28

// openPacked lists the files of an archive. wanted says which of a compressed tar will be read; nil for all.
func openPacked(ctx context.Context, file string, wanted func(name string) bool) (*packed, error) {
	p := newPacked(file)
	err := p.add(ctx, file, ".", wanted)
	if err == nil {
		err = p.sort()
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// close closes the archives of a file system that nobody asks for files any more. Of others the runtime does it.
func (p *packed) close() {
	for _, in := range p.archives {
		_ = in.Close() // it was only read
	}
}

func newPacked(file string) *packed {
	return &packed{file: file, folders: map[string][]*packedFile{".": nil}}
}

// add lists the files of one more archive in a folder.
func (p *packed) add(ctx context.Context, file, folder string, wanted func(name string) bool) error {
	in, magic, err := openArchive(file)
	if err != nil {
		return err
	}
	p.archives = append(p.archives, in)
	switch {
	case bytes.HasPrefix(magic, []byte("PK")):
		return p.addZip(in, folder)
	case isCompressed(magic):
		in.compressed = true
		return p.addStream(ctx, in, folder, wanted)
	}
	files, err := in.tarFiles(ctx, 0, in.info.Size())
	if len(files) == 0 && errors.Is(err, tar.ErrHeader) {
		return inputf(file, "none of the archives that are read here: .zip, .tar, .tar.gz or .tar.zst")
	}
	if err != nil {
		return err
	}
	return p.insert(folder, files...)
}

// compressed returns what the system tells of a source that is a compressed tar, in which nothing is found without reading all
// before it; nil for every other.
func (s Source) compressed() (fs.FileInfo, error) {
	if info, err := os.Stat(s.Dir); s.fs != nil || err == nil && info.IsDir() {
		return nil, nil //nolint:nilnil // as said
	}
	in, magic, err := openArchive(s.Dir)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if !isCompressed(magic) {
		return nil, nil //nolint:nilnil // as said
	}
	return in.info, nil
}

// openArchive opens a file and returns its first bytes too.
func openArchive(file string) (in *packedArchive, magic []byte, err error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, nil, unreadable(err)
	}
	if !info.Mode().IsRegular() { // to open a pipe could take forever
		return nil, nil, inputf(file, "neither a folder nor a regular file")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, unreadable(err)
	}
	magic = make([]byte, 4)
	n, err := f.ReadAt(magic, 0)
	if err == nil || errors.Is(err, io.EOF) {
		info, err = f.Stat() // of what was opened, which need no longer be what has the name
	}
	if err != nil {
		return nil, nil, errors.Join(unreadable(err), f.Close())
	}
	return &packedArchive{File: f, info: info}, magic[:n], nil
}

// tarFiles lists the plain tar of size bytes that begins at an offset of an archive, by their paths in it.
func (in *packedArchive) tarFiles(ctx context.Context, offset, size int64) (files []*packedFile, err error) {
	section := io.NewSectionReader(in, offset, size)
	err = tarMembers(ctx, section, func(h *tar.Header, _ io.Reader) error {
		if isSparse(h) {
			return inputf(in.Name()+":"+h.Name, "a sparse file, which lies in pieces")
		}
		at, err := section.Seek(0, io.SeekCurrent)
		files = append(files, &packedFile{name: h.Name, in: in, offset: offset + at, size: h.Size})
		return err
	})
	if broken, ok := errors.AsType[*tarError](err); ok {
		at, _ := section.Seek(0, io.SeekCurrent) // which cannot fail
		err = broken.in(in.Name(), offset+at)
	}
	return files, err
}

// addStream reads the files of a compressed tar that are wanted.
func (p *packed) addStream(ctx context.Context, in *packedArchive, folder string, wanted func(name string) bool) error {
	var total int64
	return walkTar(ctx, in.Name(), func(name string, size int64, content io.Reader) (err error) {
		f := &packedFile{name: name, in: in, size: size}
		if wanted == nil || wanted(name) {
			if total += size; total > maxArchiveBytes {
				return inputf(in.Name(), "more than %d bytes of files, and those of a compressed archive must be in memory: unpack it", int64(maxArchiveBytes))
			}
			if f.text, err = readMember(in.Name()+":"+name, size, content); err != nil {
				return err
			}
		}
		return p.insert(folder, f)
	})
}

// addZip lists a zip.
func (p *packed) addZip(in *packedArchive, folder string) error {
	bounded := &boundedReader{in, maxZipDirectory}
	z, err := zip.NewReader(bounded, in.info.Size())
	if err != nil {
		return &InputError{Path: in.Name(), Msg: "corrupt or truncated zip archive", Err: err}
	}
	bounded.left = math.MaxInt64
	stored := uint64(in.info.Size())
	for _, member := range z.File {
		switch {
		case strings.HasSuffix(member.Name, "/") || strings.HasPrefix(member.Name, "__MACOSX/"): // the latter is what a Mac adds
			continue
		case member.Mode()&fs.ModeSymlink != 0: // to leave one out would shift the samples behind it
			return inputf(in.Name(), "%.80q is a link: pack the files themselves, or unpack the archive", member.Name)
		case !member.Mode().IsRegular():
			continue
		case member.Flags&1 != 0:
			return inputf(in.Name()+":"+member.Name, "it is encrypted; unpack the archive")
		case member.Method != zip.Store && member.Method != zip.Deflate:
			return inputf(in.Name()+":"+member.Name, "compression method %d, which is neither Store (0) nor Deflate (8); unpack the archive", member.Method)
		case member.CompressedSize64 > stored: // members that overlap, as in zip bombs
			return inputf(in.Name(), "its files have more bytes than the archive")
		case member.UncompressedSize64/maxDeflate > member.CompressedSize64 || member.UncompressedSize64 > math.MaxInt64:
			return inputf(in.Name()+":"+member.Name, "%d bytes are said to stand for %d, which no compression can", member.CompressedSize64, member.UncompressedSize64)
		}
		stored -= member.CompressedSize64
		if err := p.insert(folder, &packedFile{name: member.Name, in: in, member: member, size: int64(member.UncompressedSize64)}); err != nil {
			return err
		}
	}
	return nil
}

// boundedReader reads so many bytes.
type boundedReader struct {
	io.ReaderAt
	left int64
}

func (b *boundedReader) ReadAt(p []byte, at int64) (int, error) {
	if b.left == math.MaxInt64 {
		return b.ReaderAt.ReadAt(p, at)
	}
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, fmt.Errorf("its directory has more than %d bytes", maxZipDirectory)
	}
	return b.ReaderAt.ReadAt(p, at)
}

// insert puts files, which have their paths for names, and the folders that these lie in below a folder.
func (p *packed) insert(folder string, files ...*packedFile) error {
	for _, f := range files {
		inside := path.Clean(strings.TrimLeft(f.name, "/"))
		switch {
		case inside == "." || inside == ".." || strings.HasPrefix(inside, "../"):
			return inputf(f.in.Name(), "%.80q lies outside the archive", f.name)
		case strings.Count(inside, "/") >= maxDepth:
			return inputf(f.in.Name(), "%.80q lies in more than %d folders", f.name, maxDepth)
		}
		inside = path.Join(folder, inside)
		dir := path.Dir(inside)
		p.makeFolder(dir, f.in)
		f.name = path.Base(inside)
		p.folders[dir] = append(p.folders[dir], f)
	}
	return nil
}

func (p *packed) makeFolder(dir string, in *packedArchive) {
	if _, there := p.folders[dir]; there {
		return
	}
	parent := path.Dir(dir)
	p.makeFolder(parent, in)
	p.folders[parent] = append(p.folders[parent], &packedFile{name: path.Base(dir), in: in, offset: folderOffset})
	p.folders[dir] = nil
}

// sort ends the listing.
func (p *packed) sort() error {
	for _, dir := range slices.Sorted(maps.Keys(p.folders)) {
		files := p.folders[dir]
		slices.SortFunc(files, func(a, b *packedFile) int { return cmp.Compare(a.name, b.name) })
		for i := 1; i < len(files); i++ {
			if files[i].name == files[i-1].name {
				return inputf(files[i].in.Name(), "%s stands in it twice", path.Join(dir, files[i].name))
			}
		}
	}
	return nil
}

// find returns what has a name.
func (p *packed) find(op, name string) (*packedFile, error) {
	full := path.Join(p.root, name)
	if full == "." {
		return &packedFile{name: ".", offset: folderOffset}, nil
	}
	files := p.folders[path.Dir(full)]
	i, found := slices.BinarySearchFunc(files, path.Base(full), func(f *packedFile, name string) int { return cmp.Compare(f.name, name) })
	if !found {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return files[i], nil
}

// path is where a file lies, for people.
func (p *packed) path(name string) string {
	file := p.file
	if f, err := p.find("find", name); err == nil && f.in != nil {
		file = f.in.Name()
	}
	return file + ":" + path.Join(p.root, name)
}

// Stat makes packed an fs.StatFS.
func (p *packed) Stat(name string) (fs.FileInfo, error) { return p.find("stat", name) }

// ReadDir makes packed an fs.ReadDirFS.
func (p *packed) ReadDir(name string) ([]fs.DirEntry, error) {
	files, there := p.folders[path.Join(p.root, name)]
	if !there {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	entries := make([]fs.DirEntry, len(files))
	for i, f := range files {
		entries[i] = fs.FileInfoToDirEntry(f)
	}
	return entries, nil
}

// Open makes packed an fs.FS.
func (p *packed) Open(name string) (fs.File, error) {
	f, err := p.find("open", name)
	if err != nil {
		return nil, err
	}
	switch {
	case f.IsDir():
		err = errors.New("is a folder")
	case f.member != nil:
		var content io.ReadCloser
		if content, err = f.member.Open(); err == nil {
			return openedFile{f, content}, nil
		}
	case !f.in.compressed:
		return openedFile{f, io.NopCloser(io.NewSectionReader(f.in, f.offset, f.size))}, nil
	case f.text != nil:
		return openedFile{f, io.NopCloser(bytes.NewReader(f.text))}, nil
	default:
		err = errors.New("was not read from the archive")
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: err}
}

type openedFile struct {
	info *packedFile
	io.ReadCloser
}

func (f openedFile) Stat() (fs.FileInfo, error) { return f.info, nil }

// What the system would tell of the file; that it has changed, where the archive has.

func (f *packedFile) Name() string { return f.name }
func (f *packedFile) Size() int64  { return f.size }
func (f *packedFile) IsDir() bool  { return f.offset == folderOffset }

func (f *packedFile) Mode() fs.FileMode {
	if f.IsDir() {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

func (f *packedFile) ModTime() time.Time {
	if f.in == nil {
		return time.Time{}
	}
	return f.in.info.ModTime()
}

func (f *packedFile) Sys() any {
	if f.in == nil {
		return nil
	}
	return f.in.info.Sys()
}
