package engine

import (
	"l2ul/internal/tape"
	"l2ul/torch"
)

// TapeGraphs makes the plan for images like x by libtorch, as on CUDA, and, if asked, gives it graphs that are taped.
func TapeGraphs(n *Network, x torch.Tensor, graphs bool) *tape.Tape {
	n.library = true
	p, tapes := n.planFor(x, true), &tape.Tape{}
	if graphs {
		p.record = tapes.Record
	}
	return tapes
}
