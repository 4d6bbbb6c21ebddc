package data

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"

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

// decodeImage decodes a JPEG or PNG of exactly width x height pixels to three planes at dst, with the pixels that
// Pillow's Image.convert("RGB") gives: grey is repeated, alpha is dropped.
func decodeImage(dst, content []byte, width, height int) error {
	if isJPEG(content) {
		return jpeg.Decode(dst, content, width, height)
	}
	w, h, err := imageSize(content)
	if err != nil {
		return err
	}
	if w != width || h != height {
		return fmt.Errorf("png: the image is %d x %d pixels, need %d x %d", w, h, width, height)
	}
	// Bytes 24 and 25 of the header chunk are bit depth and colour type.
	if content[24] == 16 && content[25] == 0 {
		return errors.New("png: 16-bit grey has no agreed conversion to 8 bits; convert the image first")
	}
	img, err := png.Decode(bytes.NewReader(content))
	if err != nil {
		return err
	}
	return splitPNG(dst, img, width, height)
}

func isJPEG(content []byte) bool { return bytes.HasPrefix(content, []byte("\xff\xd8\xff")) }
func isPNG(content []byte) bool  { return bytes.HasPrefix(content, []byte("\x89PNG\r\n\x1a\n")) }

// splitPNG writes the planes of an image as image/png returns it.
func splitPNG(dst []byte, img image.Image, width, height int) error {
	n := width * height
	r, g, b := dst[:n], dst[n:2*n], dst[2*n:]
	switch img := img.(type) {
	case *image.Gray:
		for y := range height {
			copy(r[y*width:(y+1)*width], img.Pix[y*img.Stride:])
		}
		copy(g, r)
		copy(b, r)
	// image/png uses RGBA and RGBA64 for colour without alpha only.
	case *image.RGBA:
		splitPixels(dst, img.Pix, img.Stride, 1, width, height)
	case *image.NRGBA:
		splitPixels(dst, img.Pix, img.Stride, 1, width, height)
	case *image.RGBA64:
		splitPixels(dst, img.Pix, img.Stride, 2, width, height)
	case *image.NRGBA64:
		splitPixels(dst, img.Pix, img.Stride, 2, width, height)
	case *image.Paletted:
		var table [256][3]byte
		for i, c := range img.Palette {
			p := color.NRGBAModel.Convert(c).(color.NRGBA)
			if q, ok := c.(color.NRGBA); ok {
				p = q // the model would lose the colour of transparent entries
			}
			table[i] = [3]byte{p.R, p.G, p.B}
		}
		for y := range height {
			for x, index := range img.Pix[y*img.Stride : y*img.Stride+width] {
				p := &table[index]
				r[y*width+x], g[y*width+x], b[y*width+x] = p[0], p[1], p[2]
			}
		}
	default:
		return fmt.Errorf("png: unsupported pixel format %T", img)
	}
	return nil
}

// splitPixels writes the planes of interleaved red, green, blue, alpha. Of values of 2 bytes, big endian, it keeps the
// upper.
func splitPixels(dst, pix []byte, stride, valueSize, width, height int) {
	n := width * height
	for y := range height {
		row := pix[y*stride:]
		for x := range width {
			at := 4 * valueSize * x
			dst[y*width+x] = row[at]
			dst[n+y*width+x] = row[at+valueSize]
			dst[2*n+y*width+x] = row[at+2*valueSize]
		}
	}
}
