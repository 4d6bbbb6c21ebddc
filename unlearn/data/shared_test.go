package data

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// shared returns the path of a file of the shared test material, or skips the test.
func shared(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("L2UL_SHARED")
	if dir == "" {
		dir = "../../../shared"
	}
	file := filepath.Join(dir, "data", name)
	if _, err := os.Stat(file); err != nil {
		t.Skipf("real images are not here: %v; set L2UL_SHARED to the folder that holds data/%s", err, name)
	}
	return file
}

// pillow starts a Python process that decodes what it is sent, or skips the test.
func pillow(t *testing.T) (send func(jpeg []byte) (width, height int, planar []byte)) {
	t.Helper()
	python := os.Getenv("L2UL_PYTHON")
	if python == "" {
		python = "python3"
	}
	if out, err := exec.CommandContext(t.Context(), python, "-c", "import PIL.Image").CombinedOutput(); err != nil {
		t.Skipf("%s has no Pillow to compare with (%v: %s); set L2UL_PYTHON", python, err, bytesTail(out))
	}
	// Frames of a 4-byte length and an image; back come width, height and the planes.
	const program = `
import io, struct, sys
from PIL import Image
while head := sys.stdin.buffer.read(4):
    image = Image.open(io.BytesIO(sys.stdin.buffer.read(*struct.unpack("<I", head)))).convert("RGB")
    out = sys.stdout.buffer
    out.write(struct.pack("<II", *image.size))
    for channel in image.split():
        out.write(channel.tobytes())
    out.flush()
`
	// The context of the test ends before its clean-up; the process must live until its input is closed.
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), python, "-c", program)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("Pillow: %v", err)
		}
	})
	reader := bufio.NewReader(out)
	return func(jpeg []byte) (width, height int, planar []byte) {
		t.Helper()
		if _, err := in.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(jpeg))), jpeg...)); err != nil {
			t.Fatal(err)
		}
		var size [2]uint32
		if err := binary.Read(reader, binary.LittleEndian, &size); err != nil {
			t.Fatal(err)
		}
		planar = make([]byte, 3*size[0]*size[1])
		if _, err := io.ReadFull(reader, planar); err != nil {
			t.Fatal(err)
		}
		return int(size[0]), int(size[1]), planar
	}
}

func bytesTail(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// members reads every step-th image of an archive.
func members(t *testing.T, archive string, step int) map[string][]byte {
	t.Helper()
	images := map[string][]byte{}
	count := 0
	err := walkTar(t.Context(), archive, func(name string, size int64, content io.Reader) error {
		if ext := strings.ToLower(path.Ext(name)); ext != ".jpg" && ext != ".jpeg" {
			return nil
		}
		if count++; (count-1)%step != 0 {
			return nil
		}
		blob, err := readMember(name, size, content)
		images[name] = blob
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return images
}

func TestPixelsArePillows(t *testing.T) {
	for _, tc := range []struct {
		archive     string
		step, least int
	}{
		{"cifar10-jpeg.tar.zst", 25, 2400},
		{"imagenet-samples.tar", 1, 61},
	} {
		t.Run(tc.archive, func(t *testing.T) {
			images := members(t, shared(t, tc.archive), tc.step)
			decode := pillow(t)
			var pixels, differing int
			for name, content := range images {
				width, height, want := decode(content)
				if w, h, err := imageSize(content); err != nil || w != width || h != height {
					t.Fatalf("%s: %d x %d, error %v; Pillow says %d x %d", name, w, h, err, width, height)
				}
				got := make([]byte, 3*width*height)
				if err := (Preprocess{}).decodeImage(got, content, width, height); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				n := width * height
				pixels += n
				for i := range n {
					if got[i] != want[i] || got[n+i] != want[n+i] || got[2*n+i] != want[2*n+i] {
						differing++
					}
				}
			}
			t.Logf("%d images, %d pixels, %d differing from Pillow's", len(images), pixels, differing)
			if differing != 0 || len(images) < tc.least {
				t.Errorf("%d differing pixels in %d images, want 0 in %d", differing, len(images), tc.least)
			}
		})
	}
}

// The same without Python: the sums are of Pillow's pixels, planar, images in the order of their names.
func TestPixelSums(t *testing.T) {
	for _, tc := range []struct {
		archive string
		step    int
		sum     string
	}{
		{"cifar10-jpeg.tar.zst", 25, "624c5a2400211223400646b04e425156a90fcc6c2323d07a48828d50c69bc028"},
		{"imagenet-samples.tar", 1, "232401cbdd3de0a465ad2108b8c382a2addbaac805ca01370594fbb0b3ad501d"},
	} {
		t.Run(tc.archive, func(t *testing.T) {
			images := members(t, shared(t, tc.archive), tc.step)
			names := make([]string, 0, len(images))
			for name := range images {
				names = append(names, name)
			}
			slices.Sort(names)
			h := sha256.New()
			for _, name := range names {
				width, height, err := imageSize(images[name])
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				dst := make([]byte, 3*width*height)
				if err := (Preprocess{}).decodeImage(dst, images[name], width, height); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				h.Write(dst)
			}
			if got := hex.EncodeToString(h.Sum(nil)); got != tc.sum {
				t.Errorf("sha256 of %d images %s, want %s", len(names), got, tc.sum)
			}
		})
	}
}

// The whole archive, opened as people open it.
func TestRealImages(t *testing.T) {
	sets, err := Open(t.Context(), "imagefolder", Source{Dir: shared(t, "cifar10-jpeg.tar.zst")}, "train", "test")
	if err != nil {
		t.Fatal(err)
	}
	train, test := sets[0], sets[1]
	if train.Len() != 50000 || test.Len() != 10000 || len(train.Classes) != 10 || train.Classes[9] != "truck" || train.H != 32 || train.W != 32 {
		t.Errorf("%d and %d images of %v, %dx%d", train.Len(), test.Len(), train.Classes, train.H, train.W)
	}
	if train.Names[36044] != "train/horse/1044.jpg" || train.Labels[36044] != 7 || test.Names[9999] != "test/truck/0999.jpg" {
		t.Errorf("sample 36044 is %s with label %d, the last test image %s", train.Names[36044], train.Labels[36044], test.Names[9999])
	}
	const want = "666d4e2b0d884b2f8fb9d21385cca0a2fe0f6dfa8de27c3207a9058c579fb07a"
	if got := train.Fingerprint(); got != want {
		t.Errorf("fingerprint %s, want %s", got, want)
	}
}
