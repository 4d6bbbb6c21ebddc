package results

import (
	"math"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"
)

// Stat sums up one number over several runs.
type Stat struct {
	N    int     // runs
	Mean float64 // NaN for none
	SD   float64 // of the sample, with n - 1; NaN for fewer than two
	Half float64 // half the width of the 95 % interval of the mean by Student's t; NaN for fewer than two
}

// Summarize sums up values.
func Summarize(values []float64) Stat {
	s := Stat{N: len(values), Mean: math.NaN(), SD: math.NaN(), Half: math.NaN()}
	switch s.N {
	case 0:
	case 1:
		s.Mean = values[0]
	default:
		s.Mean, s.SD = stat.MeanStdDev(values, nil)
		t := distuv.StudentsT{Sigma: 1, Nu: float64(s.N - 1)}.Quantile(0.975)
		s.Half = t * s.SD / math.Sqrt(float64(s.N))
	}
	return s
}
