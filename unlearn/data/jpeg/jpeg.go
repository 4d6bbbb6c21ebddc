// Package jpeg decodes JPEG to the pixels of libjpeg-turbo, whose integer DCT and fancy upsampling are Pillow's and so
// torchvision's; image/jpeg of the standard library differs by a few levels. What nearly all photographs are, sequential
// Huffman-coded images in grey or YCbCr, it decodes itself (baseline.c), faster and bit for bit the same. All else goes through
// libjpeg-turbo (shim.c), and so does whatever is unusual or broken about a file: libjpeg alone says what is wrong.
//
// Grey images become RGB with equal channels and CMYK is converted as Pillow does. EXIF rotation is ignored, as
// torchvision ignores it. Images that libjpeg would only warn about (truncated, broken entropy data) are errors here:
// their missing parts would be learned as grey.
package jpeg

// #cgo CFLAGS: -O3 -Wall -Wextra
// #cgo LDFLAGS: -ljpeg
// #include "baseline.h"
// #include "shim.h"
import "C"

import (
	"fmt"
	"image"
	"sync"
	"unsafe"
)

// MaxPixels bounds width times height of an image: a file of a few bytes can announce 65,500 x 65,500.
const MaxPixels = 1 << 26

// Error says why bytes are no JPEG image that can be used.
type Error struct {
	Offset int // bytes of the file that were consumed
	Msg    string
}

func (e *Error) Error() string { return fmt.Sprintf("jpeg: %s (at byte %d)", e.Msg, e.Offset) }

// Size reads the width and height in pixels from the header. It fails with *Error if the header is broken or announces
// more than MaxPixels.
func Size(data []byte) (width, height int, err error) {
	if len(data) == 0 {
		return 0, 0, &Error{Msg: "no data"}
	}
	var res C.l2ul_jpeg_result
	if C.l2ul_jpeg_size(start(data), C.size_t(len(data)), &res) != 0 {
		return 0, 0, failure(&res)
	}
	width, height = int(res.width), int(res.height)
	if width*height > MaxPixels {
		return 0, 0, &Error{Msg: fmt.Sprintf("%d x %d pixels are more than the %d this program reads", width, height, MaxPixels)}
	}
	return width, height, nil
}

// Decode writes a part of the image to dst, row by row, a pixel as red, green, blue and a byte without meaning. The pixels
// are those of the whole image decoded; what is not needed for the part is left out as far as possible, and what comes
// after its last row is not looked at. It fails with *Error on a broken image and on one that does not hold the part. It
// panics if the part is empty or begins outside, or dst is not as large.
func Decode(dst, data []byte, part image.Rectangle) error {
	if part.Empty() || part.Min.X < 0 || part.Min.Y < 0 || len(dst) != 4*part.Dx()*part.Dy() {
		panic(fmt.Sprintf("jpeg.Decode: dst of %d bytes for the pixels %v", len(dst), part))
	}
	if len(data) == 0 {
		return &Error{Msg: "no data"}
	}
	if baseline(dst, data, part) {
		return nil
	}
	return libjpeg(dst, data, part)
}

// baseline is Decode for most photographs. Where it returns false, dst has no meaning.
func baseline(dst, data []byte, part image.Rectangle) bool {
	tables := spare.Get().(*C.l2ul_jpeg_tables)
	defer spare.Put(tables)
	return C.l2ul_jpeg_baseline(start(data), C.size_t(len(data)), start(dst), native(part), tables, avx2) != 0
}

// libjpeg is Decode for every image.
func libjpeg(dst, data []byte, part image.Rectangle) error {
	var res C.l2ul_jpeg_result
	if C.l2ul_jpeg_decode(start(data), C.size_t(len(data)), start(dst), native(part), &res) != 0 {
		return failure(&res)
	}
	return nil
}

func start(b []byte) *C.uchar { return (*C.uchar)(unsafe.SliceData(b)) }

func native(part image.Rectangle) C.l2ul_jpeg_part {
	return C.l2ul_jpeg_part{x: C.int(part.Min.X), y: C.int(part.Min.Y), width: C.int(part.Dx()), height: C.int(part.Dy())}
}

// avx2 is whether baseline uses it; tests compare without.
var avx2 = C.l2ul_jpeg_has_avx2()

// spare are Huffman tables of files decoded before.
var spare = sync.Pool{New: func() any { return new(C.l2ul_jpeg_tables) }}

func failure(res *C.l2ul_jpeg_result) *Error {
	return &Error{Offset: int(res.offset), Msg: C.GoString(&res.message[0])}
}
