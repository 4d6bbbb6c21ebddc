package cuda

import "l2ul/torch"

// Graph is a sequence of operations on a device, captured once and replayed with one call. It reads and writes the same
// memory each time: give it new inputs by copying into the tensors it was captured with. Nothing in it may wait for the
// device, and random draws in it come from the device's default generator. A backward pass can be in it, together with its
// forward pass: autograd's thread for the device then works on the stream that is captured.
type Graph struct {
	address int64
	side    Stream // that it was captured on
}

var (
	opGraphNew    = torch.Define("torchgo_cuda::graph_new() -> int")
	opGraphBegin  = torch.Define("torchgo_cuda::graph_begin(int graph, int like) -> ()")
	opGraphEnd    = torch.Define("torchgo_cuda::graph_end(int graph) -> ()")
	opGraphReplay = torch.Define("torchgo_cuda::graph_replay(int graph) -> ()")
	opGraphFree   = torch.Define("torchgo_cuda::graph_free(int graph) -> ()")
)

// Capture records what fn does on the device, without doing it. Run fn once before, so that libraries have set
// themselves up. The tensors that fn reads must live as long as the graph; those that it makes lie in the graph's
// memory, and Keep or Own decides how long their handles last. With `like`, not nil, the graph shares the memory and the
// stream of that one, of a freed one the stream alone: right if what either makes is not needed once the other is replayed.
// The caller frees the graph.
func Capture(dev torch.Device, like *Graph, fn func()) *Graph {
	g, shared := &Graph{address: opGraphNew.Call()[0].(int64)}, int64(0)
	if like != nil {
		g.side, shared = like.side, like.address // libtorch keeps workspaces for each stream that it has ever used
	} else {
		g.side = NewStream(dev) // the default stream cannot be captured
	}
	EmptyCache() // while it captures, libtorch cannot take back what it keeps for other tensors
	outer := CurrentStream(dev)
	done := false
	defer func() {
		if !done {
			g.Free()
		}
	}()
	order(outer, g.side)
	g.side.On(func() {
		opGraphBegin.Do(g.address, shared)
		defer func() {
			if done {
				return
			}
			// fn panicked. To end the capture can only fail again; the first failure is the one to tell.
			_ = torch.Try(func() { opGraphEnd.Do(g.address) })
		}()
		fn()
		opGraphEnd.Do(g.address)
		done = true
	})
	order(g.side, outer)
	return g
}

// order lets second wait for what first has been given.
func order(first, second Stream) {
	e := first.Record()
	defer e.Free()
	second.Wait(e)
}

// Replay queues the graph on the current stream.
func (g *Graph) Replay() { opGraphReplay.Do(g.address) }

// Free gives the graph and its memory back. It may not be used afterwards.
func (g *Graph) Free() {
	opGraphFree.Do(g.address)
	g.address = 0
}
