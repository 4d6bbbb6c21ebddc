package data

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"sync"

	"l2ul/unlearn/data/jpeg"
)

// imageSize reads the size in pixels from the header of a JPEG or PNG. The format is told by the first bytes: ImageNet
// has a PNG whose name ends in .JPEG.
func imageSize(content []byte) (width, height int, err error) {
	switch {
	case isJPEG(content):
		return jpeg.Size(content)
	case isPNG(content):
		cfg, err := png.DecodeConfig(bytes.NewReader(content))
		if err != nil {
			return 0, 0, err
		}
		if cfg.Width <= 0 || cfg.Height <= 0 || cfg.Width > jpeg.MaxPixels/cfg.Height {
			return 0, 0, fmt.Errorf("png: %d x %d pixels are more than the %d this program reads", cfg.Width, cfg.Height, jpeg.MaxPixels)
		}
		return cfg.Width, cfg.Height, nil
	default:
		return 0, 0, fmt.Errorf("neither JPEG nor PNG: it begins with % x", content[:min(4, len(content))])
	}
}

// decodeImage decodes a JPEG or PNG, whose header imageSize has read, and makes three planes of width x height pixels of it
// at dst as p says. The pixels are those of Pillow's Image.convert("RGB") and what torchvision makes of them: grey is repeated,
// alpha is dropped, EXIF rotation is ignored.
func (p Preprocess) decodeImage(dst, content []byte, width, height int) error {
	w, h, err := imageSize(content)
	if err != nil {
		return err
	}
	plan, part := p.plan(w, h), image.Rect(0, 0, w, h)
	if plan != nil {
		part = plan.Source()
	} else if w != width || h != height {
		return &sizeError{w, h, width, height}
	}
	pixels := pixelBuffers.get(4 * part.Dx() * part.Dy())
	defer pixelBuffers.put(pixels)
	if isJPEG(content) {
		err = jpeg.Decode(pixels, content, part)
	} else {
		err = decodePNG(pixels, content, part)
	}
	if err != nil {
		return err
	}
	if plan != nil {
		plan.Apply(dst, pixels)
	} else {
		split(dst, pixels)
	}
	return nil
}

// sizeError says that an image has another size than it must have.
type sizeError struct{ width, height, needWidth, needHeight int }

func (e *sizeError) Error() string {
	return fmt.Sprintf("%d x %d pixels, need %d x %d", e.width, e.height, e.needWidth, e.needHeight)
}

func isJPEG(content []byte) bool { return bytes.HasPrefix(content, []byte("\xff\xd8\xff")) }
func isPNG(content []byte) bool  { return bytes.HasPrefix(content, []byte("\x89PNG\r\n\x1a\n")) }

// split makes three planes of pixels of four bytes.
func split(planes, pixels []byte) {
	n := len(pixels) / 4
	r, g, b := planes[:n], planes[n:2*n], planes[2*n:3*n]
	for i := range n {
		r[i], g[i], b[i] = pixels[4*i], pixels[4*i+1], pixels[4*i+2]
	}
}

// decodePNG writes a part of an image as jpeg.Decode does.
func decodePNG(dst, content []byte, part image.Rectangle) error {
	// Bytes 24 and 25 of the header chunk are bit depth and colour type.
	if content[24] == 16 && content[25] == 0 {
		return errors.New("png: 16-bit grey has no agreed conversion to 8 bits; convert the image first")
	}
	img, err := png.Decode(bytes.NewReader(content))
	if err != nil {
		return err
	}
	for y := part.Min.Y; y < part.Max.Y; y++ {
		row := dst[4*part.Dx()*(y-part.Min.Y):][:4*part.Dx()]
		at := func(pix []byte, stride, pixelSize int) []byte { return pix[y*stride+part.Min.X*pixelSize:] }
		switch img := img.(type) {
		case *image.Gray:
			for x, v := range at(img.Pix, img.Stride, 1)[:part.Dx()] {
				row[4*x], row[4*x+1], row[4*x+2] = v, v, v
			}
		// image/png uses RGBA and RGBA64 for colour without alpha only.
		case *image.RGBA:
			copy(row, at(img.Pix, img.Stride, 4))
		case *image.NRGBA:
			copy(row, at(img.Pix, img.Stride, 4))
		// Of values of two bytes, big endian, Pillow keeps the upper.
		case *image.RGBA64:
			upper(row, at(img.Pix, img.Stride, 8))
		case *image.NRGBA64:
			upper(row, at(img.Pix, img.Stride, 8))
		case *image.Paletted:
			for x, index := range at(img.Pix, img.Stride, 1)[:part.Dx()] {
				c := entry(img.Palette[index])
				row[4*x], row[4*x+1], row[4*x+2] = c.R, c.G, c.B
			}
		default:
			return fmt.Errorf("png: unsupported pixel format %T", img)
		}
	}
	return nil
}

func upper(dst, values []byte) {
	for i := range dst {
		dst[i] = values[2*i]
	}
}

// entry is a colour of a palette.
func entry(c color.Color) color.NRGBA {
	if c, ok := c.(color.NRGBA); ok {
		return c // the model would lose the colour of transparent entries
	}
	return color.NRGBAModel.Convert(c).(color.NRGBA)
}

// buffers are slices of bytes to use again: a worker needs one at a time, of about the same size every time.
type buffers struct{ pool sync.Pool }

var pixelBuffers buffers

func (b *buffers) get(size int) []byte {
	if old, ok := b.pool.Get().(*[]byte); ok && cap(*old) >= size {
		return (*old)[:size]
	}
	return make([]byte, size)
}

func (b *buffers) put(slice []byte) { b.pool.Put(&slice) }
