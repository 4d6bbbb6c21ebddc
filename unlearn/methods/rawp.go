package methods

import (
	"math"

	"l2ul/torch"
	"l2ul/unlearn"
	"l2ul/unlearn/data"
	"l2ul/unlearn/seed"
)

// RAWP: random noise on all weights, as little as makes every image to forget misclassified. The paper names a baseline of
// weight perturbation without its form; this one is the project's (spec/l2ul.md section 2.4).
func init() {
	unlearn.Register(&unlearn.Method{
		Name: "rawp", Summary: "the least random noise on the weights that does it: θ⁰ + σ·rms(θ⁰)·ξ, ξ ~ N(0, 1)",
		Source: unlearn.ProjectDefinition, Regime: data.ForgetOnly, Driver: unlearn.ByForget, Check: unlearn.EachStep,
		Ladder: &unlearn.Ladder{
			Rungs:     49,
			Length:    func(rung int) float64 { return 1e-3 * math.Exp2(float64(rung)/4) },
			Direction: noise,
		},
	})
}

// noise draws rms(θ_τ)·ξ_τ for each tensor τ, times its weights, if there are any.
func noise(theta, weights []torch.Tensor, userSeed int64) []torch.Tensor {
	out := make([]torch.Tensor, len(theta))
	for i, t := range theta {
		var xi torch.Tensor
		torch.Seeded(torch.NewGenerator(seed.For(userSeed, "rawp/noise", i)), func() { xi = torch.RandN(t.Shape(), false) })
		rms := t.CastTo(torch.Double).Square().Mean().Sqrt().CastTo(torch.Float)
		out[i] = t.ZerosLike()
		out[i].CopyI(xi) // on the device and in the memory format of the tensor
		out[i] = out[i].Mul(rms)
		if weights != nil {
			out[i] = out[i].Mul(weights[i])
		}
	}
	return out
}
