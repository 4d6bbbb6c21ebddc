package torch

// Generator is a source of random numbers on the CPU, a Mersenne Twister with PyTorch's streams: the same seed gives the
// same numbers as torch.Generator in Python. It belongs to the scope it was made in, like a tensor.
type Generator struct{ h uint64 }

// NewGenerator makes a generator.
func NewGenerator(seed int64) *Generator { return &Generator{newGenerator(seed)} }

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
