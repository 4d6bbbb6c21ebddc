package data

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"sync"
)

// Set is one split of a dataset as the host sees it. It is read-only once opened and safe for concurrent use.
type Set struct {
	Dataset string   // the registered name, e.g. "cifar10"
	Split   string   // "train", "test" or "val"
	Classes []string // class names; a label is an index into them
	C, H, W int      // channels (red, green, blue), height, width of every image
	Pixels  []byte   // n*C*H*W values, NCHW; or nil where they lie in a file of the cache: see Read
	Margin  int      // pixels on every side of the images that only the random crops of training see: see Loader
	Labels  []int    // n values in [0, len(Classes))
	Names   []string // n file names relative to the split's parent, or nil where samples have none

	lazy        lazy   // makes the pixels where Pixels is nil
	files       string // identifies the samples by their files, see imageSplit.survey; "" where they are none
	once        sync.Once
	fingerprint string
}

// lazy makes the pixels of images when they are asked for.
type lazy interface {
	read(dst []byte, set *Set, indices []int) error
	decodes() bool // for which images that nobody asks for are better left alone
}

// bytes is the size of the pixels, known before they are there.
func (s *Set) bytes() int64 { return int64(s.Len()) * int64(s.C) * int64(s.H) * int64(s.W) }

// Len returns the number of images.
func (s *Set) Len() int { return len(s.Labels) }

// Read writes the pixels of images to dst, C*H*W values each. It works for every set: where Pixels is nil they are read or
// decoded now, on all cores, and what cannot be had is an *InputError.
func (s *Set) Read(dst []byte, indices []int) error {
	if s.lazy != nil {
		return s.lazy.read(dst, s, indices)
	}
	size := s.C * s.H * s.W
	for at, i := range indices {
		copy(dst[at*size:(at+1)*size], s.Image(i))
	}
	return nil
}

// Image returns the pixels of image i, C*H*W values, without copying. There must be Pixels.
func (s *Set) Image(i int) []byte {
	size := s.C * s.H * s.W
	return s.Pixels[i*size : (i+1)*size : (i+1)*size]
}

// Name returns the file name of image i, or "train[17]" where the samples have no names: for messages.
func (s *Set) Name(i int) string {
	if s.Names != nil {
		return s.Names[i]
	}
	return fmt.Sprintf("%s[%d]", s.Split, i)
}

// Fingerprint returns the hex sha256 over the shape, the pixels and the labels: what a network can see of the set.
// Names and the container do not count, so the same images from a folder and from an archive agree. It is computed
// once; a set from the cache has the one that was computed when it was decoded. Where Pixels is nil, names and sizes of the
// files and what is done to them stand for the pixels.
func (s *Set) Fingerprint() string {
	s.once.Do(func() {
		d := s.newDigest()
		d.Write(s.Pixels)
		s.fingerprint = d.fingerprint()
	})
	return s.fingerprint
}

// lazyFingerprint is the fingerprint of a set whose pixels are never all there: it is over what they are made of and how.
func (s *Set) lazyFingerprint(files string, p Preprocess) string {
	d := s.newDigest()
	fmt.Fprintf(d, "%s %s\n", files, p)
	return d.fingerprint()
}

// digest computes a fingerprint from pixels that come piece by piece.
type digest struct {
	hash.Hash
	set *Set
}

// newDigest begins with the shape; the set may be without pixels.
func (s *Set) newDigest() digest {
	d := digest{sha256.New(), s}
	fmt.Fprintf(d, "l2ul.data/1 n=%d c=%d h=%d w=%d classes=%d\n", s.Len(), s.C, s.H, s.W, len(s.Classes))
	return d
}

// fingerprint ends with the labels.
func (d digest) fingerprint() string {
	labels := make([]byte, 0, 4*d.set.Len())
	for _, y := range d.set.Labels {
		labels = binary.LittleEndian.AppendUint32(labels, uint32(y))
	}
	d.Write(labels)
	return hex.EncodeToString(d.Sum(nil))
}

// check verifies what every reader must deliver.
func (s *Set) check(path string) error {
	if s.C <= 0 || s.H <= 0 || s.W <= 0 || s.lazy == nil && int64(len(s.Pixels)) != s.bytes() {
		return inputf(path, "split %q: %d bytes of pixels for %d images of %dx%dx%d", s.Split, len(s.Pixels), s.Len(), s.C, s.H, s.W)
	}
	return s.checkSamples(path)
}

// checkSamples is the part of check that needs no pixels.
func (s *Set) checkSamples(path string) error {
	n := s.Len()
	switch {
	case n == 0:
		return inputf(path, "split %q holds no images", s.Split)
	case n >= maxRandperm:
		return inputf(path, "split %q holds %d images, more than the %d this program reads", s.Split, n, maxRandperm-1)
	case s.Names != nil && len(s.Names) != n:
		return inputf(path, "split %q: %d names for %d images", s.Split, len(s.Names), n)
	}
	for i, y := range s.Labels {
		if y < 0 || y >= len(s.Classes) {
			return inputf(path, "%s has label %d, but there are %d classes (0 to %d)", s.Name(i), y, len(s.Classes), len(s.Classes)-1)
		}
	}
	return nil
}
