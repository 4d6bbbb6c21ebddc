package data

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sync/errgroup"
)

// imageSplit is a split whose images are still files.
type imageSplit struct {
	dataset string
	name    string // as the user calls it
	classes []string
	names   []string // of the files, in the order of samples
	labels  []int
	files   files
}

// maxKept bounds the pixels of a split that are decoded once and kept: 50,000 images of 224 x 224 and somewhat more. Of a
// larger one each image is decoded whenever it is asked for.
var maxKept int64 = 8 << 30

// openSplits opens splits of images in a folder.
func (s Source) openSplits(ctx context.Context, splits []string, list func(split string) (*imageSplit, error)) ([]*Set, error) {
	sets := make([]*Set, len(splits))
	for i, split := range splits {
		images, err := list(split)
		if err != nil {
			return nil, err
		}
		if len(images.names) == 0 {
			return nil, inputf(s.Dir, "the %s split holds no images", split)
		}
		set, err := images.set(s.Preprocess)
		if err != nil {
			return nil, err
		}
		key, files, err := images.survey(ctx, s)
		if err != nil {
			return nil, err
		}
		switch {
		case set.bytes() > maxKept || s.Lazy:
			set.lazy = &lazyImages{images, s}
			set.once.Do(func() { set.fingerprint = set.lazyFingerprint(files, s.Preprocess) })
		case s.broken != nil:
			set.lazy = &lazyImages{images, s}
		default:
			set, err = s.keep(ctx, images.dataset, split, func() (string, error) { return key, nil }, func() (*imageSplit, error) { return images, nil })
			if err != nil {
				return nil, err
			}
		}
		set.files = files
		sets[i] = set
	}
	return sets, nil
}

// set is the split without its pixels. Its size is that of the first image, which all others must have, unless p makes
// them alike.
func (s *imageSplit) set(p Preprocess) (*Set, error) {
	set := &Set{
		Dataset: s.dataset, Split: s.name, Classes: s.classes, C: 3, H: p.Crop, W: p.Crop, Labels: s.labels, Names: s.names,
	}
	if p != (Preprocess{}) {
		return set, nil
	}
	first, err := s.files.read(s.names[0])
	if err != nil {
		return nil, err
	}
	if set.W, set.H, err = imageSize(first); err != nil {
		return nil, &InputError{Path: s.files.path(s.names[0]), Err: err}
	}
	return set, nil
}

// decode writes the pixels of image i, which is to be like those of set.
func (s *imageSplit) decode(dst []byte, i int, p Preprocess, set *Set) error {
	content, err := s.files.read(s.names[i])
	if err != nil {
		return err
	}
	err = p.decodeImage(dst, content, set.W, set.H)
	if size, ok := errors.AsType[*sizeError](err); ok {
		return inputf(s.files.path(s.names[i]), "%d x %d pixels, but %s has %d x %d; all images must have one size, or be given one with --img-size",
			size.width, size.height, s.files.path(s.names[0]), set.W, set.H)
	}
	if err != nil {
		return &InputError{Path: s.files.path(s.names[i]), Err: err}
	}
	return nil
}

// roundBytes are about what is decoded before it is handed on.
const roundBytes = 64 << 20

// decodeAll hands the pixels of the images, which are those of set, to emit, in their order and many at a time. The next
// ones are decoded meanwhile.
func (s *imageSplit) decodeAll(ctx context.Context, src Source, set *Set, emit func(pixels []byte) error) (err error) {
	n, size := len(s.names), 3*set.H*set.W
	round := min(max(roundBytes/size, src.workers()), n)
	ready, next := make([]byte, 0, round*size), make([]byte, 0, round*size)
	var emitting errgroup.Group
	defer func() { err = cmp.Or(err, emitting.Wait()) }()
	for from := 0; from < n; from += round {
		count := min(round, n-from)
		next = next[:count*size]
		err := src.each(ctx, count, func(i int) error {
			return s.decode(next[i*size:(i+1)*size], from+i, src.Preprocess, set)
		})
		if err := cmp.Or(err, emitting.Wait()); err != nil {
			return err
		}
		ready, next = next, ready
		pixels := ready
		emitting.Go(func() error { return emit(pixels) })
	}
	return nil
}

// lazyImages decodes images when they are asked for.
type lazyImages struct {
	*imageSplit
	source Source
}

func (l *lazyImages) read(dst []byte, set *Set, indices []int) error {
	size := 3 * set.H * set.W
	return l.source.each(context.Background(), len(indices), func(i int) error {
		pixels := dst[i*size : (i+1)*size]
		err := l.decode(pixels, indices[i], l.source.Preprocess, set)
		if err != nil && l.source.tolerates(indices[i], err) {
			clear(pixels)
			return nil
		}
		return err
	})
}

// stats calls visit for each file of the split, in order, with what the system tells of it, which is asked on all
// workers.
func (s *imageSplit) stats(ctx context.Context, src Source, visit func(name string, info fileInfo)) error {
	in := s.files.(storedFiles)
	infos := make([]fileInfo, min(len(s.names), 1<<14))
	for from := 0; from < len(s.names); from += len(infos) {
		names := s.names[from:min(from+len(infos), len(s.names))]
		err := src.each(ctx, len(names), func(i int) (err error) {
			infos[i], err = in.info(names[i])
			return err
		})
		if err != nil {
			return err
		}
		for i, name := range names {
			visit(name, infos[i])
		}
	}
	return nil
}

// fileInfo is what tells one state of a file from another.
type fileInfo struct {
	size, modified int64
	changed        int64 // the inode, which programs do not set back as they do modified; 0 where there is none
	inode          uint64
}

func newFileInfo(info fs.FileInfo) fileInfo {
	f := fileInfo{size: info.Size(), modified: info.ModTime().UnixNano()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		f.changed, f.inode = stat.Ctim.Nano(), stat.Ino
	}
	return f
}

// survey asks the system about all files. key identifies what the split is decoded from and to, on this machine; files
// identifies its samples wherever they lie and whatever is done to them: by the names, sizes and labels of the files.
func (s *imageSplit) survey(ctx context.Context, src Source) (key, files string, err error) {
	k, h := src.newKey(s.dataset, s.name), sha256.New()
	fmt.Fprintf(k.h, "%q %d\n", s.classes, s.labels)
	fmt.Fprintf(h, "l2ul.files/1 n=%d classes=%d\n", len(s.names), len(s.classes))
	i := 0
	err = s.stats(ctx, src, func(name string, info fileInfo) {
		k.add(name, info)
		fmt.Fprintf(h, "%q %d %d\n", name, info.size, s.labels[i])
		i++
	})
	return k.String(), hex.EncodeToString(h.Sum(nil)), err
}
