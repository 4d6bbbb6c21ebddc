package torch

// Generator is a source of random numbers with PyTorch's streams: the same seed gives the same numbers as torch.Generator in
// Python. On the CPU it is a Mersenne Twister; on a GPU numbers depend on its model, and on the sizes that are drawn at once.
// It belongs to the scope it was made in, like a tensor.
type Generator struct{ h uint64 }

// NewGenerator makes a generator of the CPU.
func NewGenerator(seed int64) *Generator { return NewGeneratorOn(CPU, seed) }

// NewGeneratorOn makes a generator of a device, which alone can draw from it.
func NewGeneratorOn(d Device, seed int64) *Generator { return &Generator{newGenerator(seed, d)} }

// State returns a copy of the generator's state, a Byte tensor, as torch.Generator.get_state.
func (g *Generator) State() Tensor { return generatorState(g.h) }

// SetState puts the generator where it was when the state was taken.
func (g *Generator) SetState(state Tensor) { setGeneratorState(g.h, state) }

// Own takes the generator out of all scopes; its owner frees it.
func (g *Generator) Own() { Tensor{g.h}.own() }

// Free gives the generator back.
func (g *Generator) Free() { Tensor{g.h}.free() }

// ManualSeed seeds the generator of the process, which operators draw from outside [Seeded].
func ManualSeed(seed int64) { manualSeed(seed) }
