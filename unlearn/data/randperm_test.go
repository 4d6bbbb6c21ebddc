package data

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"testing"
)

// Values of torch 2.11.0: torch.randperm(n, generator=torch.Generator().manual_seed(seed)), its first six and the
// sha256 over all of it as little-endian int64. Those of seed 0 and n = 50000, 1281167, 18966 also stand in
// spec/l2ul.md section 11.
func TestRandpermIsTorchs(t *testing.T) {
	for _, tc := range []struct {
		n     int
		seed  int64
		first []int
		sum   string
	}{
		{1, 0, []int{0}, "af5570f5a1810b7a"},
		{2, 0, []int{0, 1}, "9d34149fbd1fe777"},
		{10, 0, []int{4, 1, 7, 5, 3, 9}, "03a19defe024a605"},
		{623, 1, []int{126, 596, 290, 451, 400, 252}, "c796166e52f25d0f"},
		{625, 1, []int{220, 348, 97, 303, 56, 18}, "c8b71621e8fa86e2"},
		{50000, 0, []int{36044, 49165, 37807, 11341, 6091, 16904}, "62d58f141ce65ae7"},
		{1281167, 0, []int{1069931, 571398, 762430, 399643, 899707, 226472}, "bbf70b62862c7ae6"},
		{18966, 0, []int{3632, 7340, 2071, 7866, 5031, 5566}, "6313b3bca726bbc5"},
		{50000, 4294967303, []int{41615, 33421, 9717, 7492, 3935, 5537}, "e1018d389ac17cc0"}, // the low 32 bits count: 7
		{50000, 7, []int{41615, 33421, 9717, 7492, 3935, 5537}, "e1018d389ac17cc0"},
		{1000, -1, []int{371, 805, 492, 705, 784, 265}, "7021b23ead0339fb"},
		{1000, 9223372036854775807, []int{371, 805, 492, 705, 784, 265}, "7021b23ead0339fb"},
	} {
		all := randperm(tc.n, tc.n, tc.seed)
		bytes := make([]byte, 0, 8*tc.n)
		for _, v := range all {
			bytes = binary.LittleEndian.AppendUint64(bytes, uint64(v))
		}
		sum := sha256.Sum256(bytes)
		if got := hex.EncodeToString(sum[:8]); got != tc.sum {
			t.Errorf("randperm(%d), seed %d: sha256 %s…, want %s… (first values %v, want %v)",
				tc.n, tc.seed, got, tc.sum, all[:len(tc.first)], tc.first)
		}
		k := min(tc.n, len(tc.first))
		if got := randperm(tc.n, k, tc.seed); !slices.Equal(got, tc.first) {
			t.Errorf("randperm(%d)[:%d], seed %d = %v, want %v", tc.n, k, tc.seed, got, tc.first)
		}
	}
}

// As numpy's RandomState(1) draws a tenth of each class with choice(…, replace=False), printed by testdata/make.py.
func TestStratified(t *testing.T) {
	labels := make([]int, 60) // 24, 24 and 12 of three classes
	for i := range labels {
		labels[i] = i * 7 % 5 % 3
	}
	if got, want := Stratified(labels, 6, 1), []int{11, 22, 32, 34, 45}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	labels = make([]int, 50000)
	for i := range labels {
		labels[i] = i % 10
	}
	got, sum := Stratified(labels, 5000, 1), 0
	for _, i := range got {
		sum += i
	}
	if len(got) != 5000 || !slices.Equal(got[:4], []int{7, 35, 42, 43}) || sum != 124_309_200 {
		t.Errorf("%d, from %v, sum %d", len(got), got[:4], sum)
	}
}
