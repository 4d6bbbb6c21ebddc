package data

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func upTo(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

func TestLimit(t *testing.T) {
	for _, tc := range []struct {
		text string
		n    int
		want []int
	}{
		{"", 5, []int{0, 1, 2, 3, 4}},
		{"1", 5, []int{0}},
		{"3", 10, []int{0, 3, 6}},
		{"4", 10, []int{0, 2, 5, 7}},
		{"10", 10, upTo(10)},
		{"11", 10, upTo(10)},
		{"1.0", 4, upTo(4)},
		{"0.5", 5, []int{0, 2, 4}},
		{"0.3", 10, []int{0, 3, 6}}, // the next would be floor(10) = 10
		{"0.001", 3, []int{0}},
		{"0.1", 0, nil},
	} {
		l, err := ParseLimit(tc.text)
		if err != nil {
			t.Errorf("ParseLimit(%q): %v", tc.text, err)
			continue
		}
		if got := l.Of(upTo(tc.n)); !slices.Equal(got, tc.want) {
			t.Errorf("limit %q of %d samples: %v, want %v", tc.text, tc.n, got, tc.want)
		}
	}
}

// The independent reference for real images evaluates every tenth of the 49,984 retained samples, beginning with the
// first.
func TestLimitEveryTenth(t *testing.T) {
	l, err := ParseLimit("0.1")
	if err != nil {
		t.Fatal(err)
	}
	got := l.Of(upTo(49984))
	if len(got) != 4999 {
		t.Fatalf("%d samples, want 4999", len(got))
	}
	for i, v := range got {
		if v != 10*i {
			t.Fatalf("sample %d is %d, want %d", i, v, 10*i)
		}
	}
}

func TestLimitCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, count := rapid.Int64Range(1, 5000).Draw(t, "n"), rapid.Int64Range(1, 6000).Draw(t, "count")
		got := Limit{count: count}.Of(upTo(int(n)))
		if int64(len(got)) != min(n, count) || got[0] != 0 || !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Fatalf("limit %d of %d: %d samples %v", count, n, len(got), got)
		}
	})
}

func TestParseLimitErrors(t *testing.T) {
	for _, text := range []string{"0", "-1", "0.0", "1.5", "10%", "1e3", "x", ".", "1/2", "99999999999999999999", " 1"} {
		var usage *UsageError
		if l, err := ParseLimit(text); !errors.As(err, &usage) {
			t.Errorf("ParseLimit(%q) = %v, %v; want *UsageError", text, l, err)
		}
	}
}
