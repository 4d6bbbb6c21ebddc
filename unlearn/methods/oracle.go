package methods

import (
	"l2ul/torch"
	"l2ul/unlearn"
	"l2ul/unlearn/data"
)

// ORACLE of the published code: fine-tuning that reads D_r. It is not retraining (spec/l2ul.md section 2.2).
func init() {
	unlearn.Register(&unlearn.Method{
		Name: "oracle", Summary: "fine-tune on the retained images while forgetting: min CE(D_r) - CE(D_f)",
		Source: "published code of Cha et al., AAAI 2024", Regime: data.WithRetain,
		Driver: unlearn.ByRetain, Check: unlearn.EachStep,
		Loss: func(s unlearn.Step) torch.Tensor { return s.Driver.Add(s.Forget, 1) },
	})
}
