package data

import (
	"math/big"
	"strings"
)

// Limit cuts an evaluation down to evenly spaced samples (the flag --limit). The zero value keeps everything.
type Limit struct {
	count    int64 // samples to keep; 0 when a fraction is given
	num, den int64 // the fraction num/den
}

// ParseLimit reads a number of samples ("500") or, with a decimal point, a fraction in (0, 1] ("0.1"). The empty string
// is no limit. Anything else is a *UsageError.
func ParseLimit(text string) (Limit, error) {
	if text == "" {
		return Limit{}, nil
	}
	bad := usagef("limit %q: give a number of samples of at least 1, or a fraction above 0 and up to 1.0 such as 0.1", text)
	// Exact arithmetic on the decimal digits: 0.1 is one in ten, not the float64 next to it.
	r, ok := new(big.Rat), false
	if len(text) <= 18 && strings.Trim(text, "0123456789.") == "" {
		r, ok = r.SetString(text)
	}
	switch {
	case !ok || r.Sign() <= 0:
		return Limit{}, bad
	case !strings.Contains(text, "."):
		return Limit{count: r.Num().Int64()}, nil
	case r.Cmp(big.NewRat(1, 1)) > 0:
		return Limit{}, bad
	}
	return Limit{num: r.Num().Int64(), den: r.Denom().Int64()}, nil
}

// Of returns the kept samples in their order, beginning with the first: for a number N of them those at floor(i*n/N),
// for a fraction f those at floor(i/f), so 0.1 keeps every tenth. A limit of n or more returns indices itself.
func (l Limit) Of(indices []int) []int {
	n := int64(len(indices))
	num, den := l.num, l.den
	if l.count > 0 {
		num, den = l.count, n
	}
	if num >= den {
		return indices
	}
	var kept []int
	at, step := new(big.Int), big.NewInt(den)
	for i := int64(0); ; i++ {
		at.Mul(big.NewInt(i), step).Quo(at, big.NewInt(num))
		if !at.IsInt64() || at.Int64() >= n {
			return kept
		}
		kept = append(kept, indices[at.Int64()])
	}
}
