package seed

import "testing"

func TestFor(t *testing.T) {
	// Values by Python's hashlib: int.from_bytes(sha256(b"l2ul/0/attack/targets/0").digest()[:8], "little") &
	// (1<<63)-1.
	for _, tc := range []struct {
		seed    int64
		purpose string
		index   int
		want    int64
	}{
		{0, "attack/targets", 0, 4245311509984489572}, // the top bit of this hash is set
		{0, "attack/starts", 0, 3456916583428246621},
		{-7, "train/shuffle", 12, 2793850623139353912},
		{9223372036854775807, "shapes/train", 4999, 1182679871873578051},
	} {
		if got := For(tc.seed, tc.purpose, tc.index); got != tc.want {
			t.Errorf("For(%d, %q, %d) = %d, want %d", tc.seed, tc.purpose, tc.index, got, tc.want)
		}
	}
}
