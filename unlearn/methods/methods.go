// Package methods holds the unlearning methods, one a file. Importing it registers them all.
package methods

import (
	"l2ul/torch"
	"l2ul/unlearn"
)

// weighted is w_d·driver + w_f·forget with the weights of the setting.
func weighted(s unlearn.Step) torch.Tensor {
	driver, forget := s.Shares()
	return s.Driver.MulScalar(driver).Add(s.Forget.MulScalar(forget), 1)
}

// forgetting is the forget term alone.
func forgetting(s unlearn.Step) torch.Tensor { return s.Forget }
