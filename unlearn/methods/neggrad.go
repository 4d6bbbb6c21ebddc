package methods

import (
	"l2ul/unlearn"
	"l2ul/unlearn/data"
)

// NegGrad: gradient ascent on the images to forget (Golatkar et al., CVPR 2020; spec/l2ul.md section 2.2).
func init() {
	unlearn.Register(&unlearn.Method{
		Name: "neggrad", Summary: "gradient ascent on the images to forget: min -CE(D_f)",
		Source: "Cha et al., AAAI 2024, baseline", Regime: data.ForgetOnly,
		Driver: unlearn.ByForget, Check: unlearn.EachPass, Loss: forgetting,
	})
}
