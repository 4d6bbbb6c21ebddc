package methods

import (
	"l2ul/unlearn"
	"l2ul/unlearn/data"
)

// Retrain: train a fresh network on the retained images with the recipe of the original one. It is the yardstick of
// exact unlearning, and has no loop of its own.
func init() {
	unlearn.Register(&unlearn.Method{
		Name: "retrain", Summary: "train from scratch on the retained images", Source: "exact unlearning",
		Regime: data.WithRetain, Driver: unlearn.ByRetain, Scratch: true,
	})
}
