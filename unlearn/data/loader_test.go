package data

import (
	"errors"
	"slices"
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
)

func TestMain(m *testing.M) { reference.TestMain(m) }

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

func TestResident(t *testing.T) {
	set := byteSet(40)
	if err := set.check("bytes"); err != nil {
		t.Fatal(err)
	}
	err := torch.Run(torch.CPU, func() error {
		r := NewResident(set, torch.CPU, torch.Contiguous)
		defer r.Free()
		meter := NewMeter(ForgetOnly, nil)
		forget := r.View(PartForget, []int{31, 2, 7}, meter)
		all := r.View(PartRetain, nil, meter)
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
		x, y = r.Gather([]int{39})
		expect(x, y, nil, []int{39})
		middle := torch.FromSlice([]int64{1, 1, 0, 1, 1, 0}, 2, 3) // the windows in which nothing moves
		x, y = r.GatherCrops([]int{39, 5}, middle, 1)
		expect(x, y, nil, []int{39, 5})
		corner := torch.FromSlice([]int64{0, 2, 1}, 1, 3) // one row down, one column left, and mirrored
		x, _ = r.GatherCrops([]int{7}, corner, 1)
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

func TestResidentOutOfRange(t *testing.T) {
	err := torch.Run(torch.CPU, func() error {
		r := NewResident(byteSet(2), torch.CPU, torch.Contiguous)
		defer r.Free()
		func() {
			defer func() {
				if recover() == nil {
					t.Error("a view of sample 2 of 2 was made")
				}
			}()
			r.View(PartTest, []int{2}, nil)
		}()
		var fault *torch.Error
		if err := torch.Try(func() { r.Gather([]int{2}) }); !errors.As(err, &fault) {
			t.Errorf("sample 2 of 2: error %v", err)
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
