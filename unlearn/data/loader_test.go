package data

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
	"l2ul/torch/cuda"
)

// noCUDA is why there is no device, nil on a machine with a GPU.
var noCUDA error

func TestMain(m *testing.M) {
	noCUDA = cuda.Open() // before any test makes a tensor
	reference.TestMain(m)
}

// byteSet has n images of 3 x 2 x 4 pixels that hold every byte value.
func byteSet(n int) *Set {
	s := &Set{Dataset: "bytes", Split: "train", Classes: []string{"a", "b", "c"}, C: 3, H: 2, W: 4}
	for i := range n {
		for j := range 24 {
			s.Pixels = append(s.Pixels, byte(24*i+j*5))
		}
		s.Labels = append(s.Labels, i%3)
	}
	return s
}

// room is what makes a loader hold all pixels or stream them.
var room = map[string]int64{"held": math.MaxInt64, "streamed": 0}

func TestLoader(t *testing.T) {
	for name, room := range room {
		t.Run(name, func(t *testing.T) { testLoader(t, room) })
	}
}

func testLoader(t *testing.T, room int64) {
	set := byteSet(40)
	if err := set.check("bytes"); err != nil {
		t.Fatal(err)
	}
	err := torch.Run(torch.CPU, func() error {
		l := NewLoader(set, torch.CPU, torch.Contiguous, room)
		defer l.Free()
		if streamed := l.stream != nil; streamed != (room == 0) {
			t.Errorf("streamed %v with %d bytes free", streamed, room)
		}
		meter := NewMeter(ForgetOnly, nil)
		forget := l.View(PartForget, []int{31, 2, 7}, meter)
		all := l.View(PartRetain, nil, meter)
		if forget.Len() != 3 || all.Len() != 40 {
			t.Errorf("views of %d and %d samples", forget.Len(), all.Len())
		}
		expect := func(x, y torch.Tensor, err error, want []int) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			var pixels []float32
			var labels []int64
			for _, i := range want {
				labels = append(labels, int64(set.Labels[i]))
				for _, v := range set.Image(i) {
					pixels = append(pixels, float32(v)/255)
				}
			}
			if !slices.Equal(x.Shape(), []int64{int64(len(want)), 3, 2, 4}) || !slices.Equal(torch.ToSlice[float32](x), pixels) {
				t.Errorf("wrong pixels for samples %v", want)
			}
			if got := torch.ToSlice[int64](y); !slices.Equal(got, labels) {
				t.Errorf("labels %v, want %v", got, labels)
			}
		}
		x, y, err := forget.Batch(1, 3)
		expect(x, y, err, []int{2, 7})
		x, y, err = all.Batch(0, 40)
		expect(x, y, err, all.Indices())
		meter.Enter(PhaseUnlearn)
		x, y, err = forget.Batch(0, 3)
		expect(x, y, err, forget.Indices())
		var denied *AccessError
		if _, _, err = all.Batch(0, 5); !errors.As(err, &denied) {
			t.Errorf("the retain set was readable while unlearning: %v", err)
		}
		if reads := meter.Reads(); reads[PhaseBefore][PartForget] != 2 || reads[PhaseBefore][PartRetain] != 40 ||
			reads[PhaseUnlearn][PartForget] != 3 || reads[PhaseUnlearn][PartRetain] != 0 {
			t.Errorf("reads %v", reads)
		}
		x, y = l.Gather([]int{39})
		expect(x, y, nil, []int{39})
		middle := torch.FromSlice([]int64{1, 1, 0, 1, 1, 0}, 2, 3) // the windows in which nothing moves
		x, y = l.GatherCrops([]int{39, 5}, middle, 1)
		expect(x, y, nil, []int{39, 5})
		corner := torch.FromSlice([]int64{0, 2, 1}, 1, 3) // one row down, one column left, and mirrored
		x, _ = l.GatherCrops([]int{7}, corner, 1)
		image := set.Image(7)
		for c, got := range slices.Collect(slices.Chunk(torch.ToSlice[float32](x), 8)) {
			plane := image[8*c:]
			want := []float32{0, 0, 0, 0, 0, float32(plane[3]) / 255, float32(plane[2]) / 255, float32(plane[1]) / 255}
			if !slices.Equal(got, want) {
				t.Errorf("channel %d of a crop: %v, want %v", c, got, want)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestLoaderOutOfRange(t *testing.T) {
	for name, room := range room {
		err := torch.Run(torch.CPU, func() error {
			l := NewLoader(byteSet(2), torch.CPU, torch.Contiguous, room)
			defer l.Free()
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: a view of sample 2 of 2 was made", name)
					}
				}()
				l.View(PartTest, []int{2}, nil)
			}()
			for _, index := range []int{-1, 2} {
				var fault *torch.Error
				if err := torch.Try(func() { l.Gather([]int{0, index}) }); !errors.As(err, &fault) {
					t.Errorf("%s: sample %d of 2: error %v", name, index, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Batches of any sizes, in any order, asked for again or out of turn, have the same bits from a stream, in both memory
// formats, and the stream holds no more than two batches.
func TestStreamedIsHeld(t *testing.T) { testStreamed(t, torch.CPU) }

func TestStreamedIsHeldOnCUDA(t *testing.T) {
	if noCUDA != nil {
		t.Skip(noCUDA)
	}
	testStreamed(t, torch.CUDA(0))
}

func testStreamed(t *testing.T, device torch.Device) {
	set := byteSet(1000)
	for _, format := range []torch.MemoryFormat{torch.Contiguous, torch.ChannelsLast} {
		err := torch.Run(device, func() error {
			held, streamed := NewLoader(set, device, format, math.MaxInt64), NewLoader(set, device, format, set.bytes())
			defer held.Free()
			defer streamed.Free()
			order := rand.New(rand.NewPCG(1, 2)).Perm(set.Len())
			all, some := streamed.View(PartTest, nil, nil), streamed.View(PartTest, order, nil)
			compare := func(v *View, from, to int) {
				t.Helper()
				torch.Scope(func() {
					x, y, err := v.Batch(from, to)
					wantX, wantY := held.Gather(v.Indices()[from:to])
					if err != nil || !slices.Equal(x.Strides(), wantX.Strides()) || !slices.Equal(x.Bytes(), wantX.Bytes()) || !slices.Equal(y.Bytes(), wantY.Bytes()) {
						t.Errorf("images %d to %d of %d differ: %v", from, to, v.Len(), err)
					}
				})
			}
			for from := 0; from < set.Len(); from += 7 { // the last has 6
				compare(all, from, min(from+7, set.Len()))
			}
			for _, b := range [][2]int{{0, 16}, {16, 32}, {16, 24}, {16, 24}, {24, 40}, {3, 3}, {999, 1000}, {0, 31}, {31, 62}, {40, 41}} {
				compare(some, b[0], b[1])
				compare(all, b[0], b[1])
			}
			bytes := int64(0)
			for i := range streamed.stream.slots {
				bytes += streamed.stream.slots[i].host.Numel()
			}
			if most := int64(2 * 31 * 24); bytes > most {
				t.Errorf("the stream holds %d bytes, two batches have %d", bytes, most)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// While one batch is worked on, the next is gathered.
func TestStreamGathersAhead(t *testing.T) {
	err := torch.Run(torch.CPU, func() error {
		set := byteSet(20)
		l := NewLoader(set, torch.CPU, torch.Contiguous, 0)
		defer l.Free()
		v := l.View(PartTest, nil, nil)
		for from := 0; from < 20; from += 8 {
			if _, _, err := v.Batch(from, min(from+8, 20)); err != nil {
				return err
			}
			next := &l.stream.slots[l.stream.turn]
			if next.settle(); from+8 < 20 && !slices.Equal(next.images, v.Indices()[from+8:min(from+16, 20)]) {
				t.Errorf("after %d images, %v are gathered", from+8, next.images)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFingerprint(t *testing.T) {
	base := byteSet(6)
	// sha256 of "l2ul.data/1 n=6 c=3 h=2 w=4 classes=3\n", the pixels and the labels as little-endian uint32.
	const want = "66e728100813761b5ccae427f0ddcdd05856c534f039221cf1c183a9f5d76354"
	if got := base.Fingerprint(); got != want || got != base.Fingerprint() {
		t.Errorf("fingerprint %s, want %s", got, want)
	}
	for name, change := range map[string]func(s *Set){
		"pixel": func(s *Set) { s.Pixels[5]++ },
		"label": func(s *Set) { s.Labels[5] = 0 },
		"shape": func(s *Set) { s.H, s.W = 4, 2 },
		"class": func(s *Set) { s.Classes = append(s.Classes, "d") },
		"fewer": func(s *Set) { s.Labels, s.Pixels = s.Labels[:5], s.Pixels[:5*24] },
	} {
		other := byteSet(6)
		if change(other); other.Fingerprint() == want {
			t.Errorf("the fingerprint does not see a changed %s", name)
		}
	}
	named := byteSet(6)
	named.Dataset, named.Names = "other", make([]string, 6)
	if named.Fingerprint() != want {
		t.Error("names change the fingerprint")
	}
}

func TestSetCheck(t *testing.T) {
	for name, change := range map[string]func(s *Set){
		"no images":  func(s *Set) { s.Labels, s.Pixels = nil, nil },
		"pixels":     func(s *Set) { s.Pixels = s.Pixels[1:] },
		"no height":  func(s *Set) { s.H = 0 },
		"label":      func(s *Set) { s.Labels[3] = 3 },
		"below zero": func(s *Set) { s.Labels[3] = -1 },
		"names":      func(s *Set) { s.Names = []string{"a"} },
	} {
		s := byteSet(6)
		change(s)
		var input *InputError
		if err := s.check("bytes"); !errors.As(err, &input) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// Of a set with a margin, images are without it, and crops are windows of what is really there.
func TestMargin(t *testing.T) {
	const m, h, w = 2, 3, 4
	set := &Set{Classes: []string{"a"}, C: 3, H: h + 2*m, W: w + 2*m, Margin: m, Labels: make([]int, 9)}
	random := rand.New(rand.NewPCG(1, 2))
	for range set.bytes() {
		set.Pixels = append(set.Pixels, byte(random.Uint32()))
	}
	// window is a window of an image, which may be outside of it.
	window := func(i, top, left, flip int) (values []float32) {
		for c := range 3 {
			for y := top; y < top+h; y++ {
				for x := range w {
					if flip == 1 {
						x = w - 1 - x
					}
					x += left
					value := float32(0)
					if y >= 0 && y < set.H && x >= 0 && x < set.W {
						value = float32(set.Image(i)[(c*set.H+y)*set.W+x]) / 255
					}
					values = append(values, value)
				}
			}
		}
		return values
	}
	for name, room := range room {
		for _, format := range []torch.MemoryFormat{torch.Contiguous, torch.ChannelsLast} {
			err := torch.Run(torch.CPU, func() error {
				l := NewLoader(set, torch.CPU, format, room)
				defer l.Free()
				x, _ := l.Gather([]int{4})
				if got := torch.ToSlice[float32](x); !slices.Equal(got, window(4, m, m, 0)) || !x.IsContiguous(format) {
					t.Errorf("%s: an image of shape %v is not the middle", name, x.Shape())
				}
				for _, padding := range []int{m, m + 1} {
					for range 50 {
						crop := []int{random.IntN(2*padding + 1), random.IntN(2*padding + 1), random.IntN(2)}
						x, _ := l.GatherCrops([]int{7}, torch.FromSlice([]int64{int64(crop[0]), int64(crop[1]), int64(crop[2])}, 1, 3), padding)
						if got := torch.ToSlice[float32](x); !slices.Equal(got, window(7, m+crop[0]-padding, m+crop[1]-padding, crop[2])) {
							t.Errorf("%s: crop %v with padding %d: %v", name, crop, padding, got)
						}
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}
