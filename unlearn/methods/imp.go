package methods

import (
	"l2ul/unlearn"
	"l2ul/unlearn/data"
)

// IMP: gradient ascent with the penalty alone, an ablation that the published code does not have (spec/l2ul.md
// section 2.2; the stop test after each step is a project definition).
func init() {
	unlearn.Register(&unlearn.Method{
		Name: "imp", Summary: "neggrad with the penalty: min -CE(D_f) + λ/2·ΣΩ̄(θ-θ⁰)²",
		Source: "Cha et al., AAAI 2024, ablation (project definition)", Regime: data.ForgetOnly,
		Driver: unlearn.ByForget, Check: unlearn.EachStep, Anchored: true, Loss: forgetting,
	})
}
