package methods

import (
	"l2ul/unlearn"
	"l2ul/unlearn/data"
)

// ADV: forget while holding the decision boundary with adversarial examples of the forgotten images, labelled as the
// classes they were driven to (L2UL; spec/l2ul.md section 2.2).
func init() {
	unlearn.Register(&unlearn.Method{
		Name: "adv", Summary: "hold the boundary with adversarial examples: min w_a·CE(A) - w_f·CE(D_f)",
		Source: "Cha et al., AAAI 2024", Regime: data.ForgetOnly,
		Driver: unlearn.ByAdversarial, Check: unlearn.EachStep, Loss: weighted,
	})
}
