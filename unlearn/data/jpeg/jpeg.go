// Package jpeg decodes baseline and progressive JPEG with libjpeg-turbo, whose integer DCT and fancy upsampling give
// the same pixels as Pillow and so as torchvision; image/jpeg of the standard library differs by a few levels.
//
// Grey images become RGB with equal channels and CMYK is converted as Pillow does. EXIF rotation is ignored, as
// torchvision ignores it. Images that libjpeg would only warn about (truncated, broken entropy data) are errors here:
// their missing parts would be learned as grey.
package jpeg

// #cgo CFLAGS: -O2 -Wall -Wextra
// #cgo LDFLAGS: -ljpeg
// #include "shim.h"
import "C"

import (
	"fmt"
	"image"
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
	if C.l2ul_jpeg_size((*C.uchar)(unsafe.SliceData(data)), C.size_t(len(data)), &res) != 0 {
		return 0, 0, failure(&res)
	}
	width, height = int(res.width), int(res.height)
	if width*height > MaxPixels {
		return 0, 0, &Error{Msg: fmt.Sprintf("%d x %d pixels are more than the %d this program reads", width, height, MaxPixels)}
	}
	return width, height, nil
}

// Decode writes a part of the image to dst, row by row, a pixel as red, green, blue and a byte without meaning. The pixels
// are those of the whole image decoded; what is not needed for the part is left out as far as libjpeg can, and what comes
// after its last row is not looked at. It fails with *Error on a broken image and on one that does not hold the part. It
// panics if the part is empty or begins outside, or dst is not as large.
func Decode(dst, data []byte, part image.Rectangle) error {
	if part.Empty() || part.Min.X < 0 || part.Min.Y < 0 || len(dst) != 4*part.Dx()*part.Dy() {
		panic(fmt.Sprintf("jpeg.Decode: dst of %d bytes for the pixels %v", len(dst), part))
	}
	if len(data) == 0 {
		return &Error{Msg: "no data"}
	}
	var res C.l2ul_jpeg_result
	p := C.l2ul_jpeg_part{x: C.int(part.Min.X), y: C.int(part.Min.Y), width: C.int(part.Dx()), height: C.int(part.Dy())}
	if C.l2ul_jpeg_decode((*C.uchar)(unsafe.SliceData(data)), C.size_t(len(data)), (*C.uchar)(unsafe.SliceData(dst)), p, &res) != 0 {
		return failure(&res)
	}
	return nil
}

func failure(res *C.l2ul_jpeg_result) *Error {
	return &Error{Offset: int(res.offset), Msg: C.GoString(&res.message[0])}
}
