package engine

import "l2ul/torch"

// TapeGraphs makes the plan for images like x by libtorch, as on CUDA, and, if asked, gives it graphs that note in events
// what they do.
func TapeGraphs(n *Network, x torch.Tensor, graphs bool) (events *[]string) {
	n.library, events = true, new([]string)
	p := n.planFor(x, true)
	if graphs {
		p.capture = func(work func()) graph {
			*events = append(*events, "capture")
			return &tape{work, events}
		}
	}
	return events
}
