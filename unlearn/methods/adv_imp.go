package methods

import (
	"l2ul/unlearn"
	"l2ul/unlearn/data"
)

// ADV+IMP: ADV with a penalty on moving the parameters that matter little for the forgotten images (L2UL;
// spec/l2ul.md section 2.2).
func init() {
	unlearn.Register(&unlearn.Method{
		Name: "adv-imp", Summary: "adv, and hold parameters unimportant to D_f: + λ/2·ΣΩ̄(θ-θ⁰)²",
		Source: "Cha et al., AAAI 2024", Regime: data.ForgetOnly,
		Driver: unlearn.ByAdversarial, Check: unlearn.EachStep, Anchored: true, Loss: weighted,
	})
}
