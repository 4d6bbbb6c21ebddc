// Package pickle reads Python pickles without running anything.
//
// A pickle is a small program for a stack machine, and Python's own reader lets that program import and call whatever
// it names. This reader executes the machine but gives meaning only to the names in an allow-list of Go functions; any
// other name is refused, and the error says which. It understands protocols 0 to 5 (PEP 3154, PEP 574; opcodes as in
// CPython's Lib/pickletools.py), except for out-of-band buffers and the copyreg extension registry.
//
// Python values arrive as Go values:
//
//	None                  nil
//	bool                  bool
//	int                   int64, or *big.Int when it does not fit
//	float                 float64
//	str                   string
//	bytes, bytearray      []byte
//	str of Python 2       []byte, untouched: whether it was text is for the caller to know (see Text)
//	list                  *List
//	tuple                 Tuple
//	dict, OrderedDict     *Dict
//	set, frozenset        *Set
//	numpy.ndarray         *Array, where Options.Globals holds NumPy()
//	any other class       Inert, and its instances *Object, where Options.Inert allows the name
//
// Bytes from outside are hostile. Memory is charged against Options.MaxMemory before it is taken, a length in the input
// is believed only as its bytes arrive, every opcode consumes input, and nested values cost no Go stack. Values may share parts
// and may contain themselves, so whoever walks them must bound the walk.
package pickle

import (
	"bufio"
	"fmt"
	"io"
)

// DefaultMaxMemory is the budget of Load where Options.MaxMemory is 0: 1 GiB, six times the largest CIFAR batch.
const DefaultMaxMemory = 1 << 30

// Options says what a pickle may mean and how much memory it may take.
type Options struct {
	// Globals gives meaning to Python names beyond the built-in OrderedDict, Counter, set, frozenset, bytearray and
	// _codecs.encode. Nil means none.
	Globals Globals
	// Inert says which other names stand for something without meaning, instead of being refused: objects of the program that
	// wrote the pickle. Calls of them are not made. Nil means none.
	Inert func(module, name string) bool
	// Persistent resolves a persistent id, the hook by which torch.save refers to storages outside the pickle. Nil refuses them.
	Persistent func(id any) (any, error)
	// MaxMemory bounds the bytes that the values may take, by estimate. 0 means DefaultMaxMemory.
	MaxMemory int64
}

// Globals maps "module.name" to its meaning: a Func when the pickle may call it, any other value when it may only mention it.
type Globals map[string]any

// Func stands for a Python callable. The arguments are the pickle's and hostile. A Func that allocates in proportion to an
// argument must take the bytes from the budget first, because a pickle can pass one long argument many times.
type Func func(b *Budget, args Tuple) (any, error)

// Builder is a value that accepts the state that Python would pass to __setstate__.
type Builder interface {
	Build(b *Budget, state any) error
}

// Budget is the memory that one Load may still take.
type Budget struct{ left int64 }

// Take removes n bytes from the budget and fails when they are not there.
func (b *Budget) Take(n int64) error {
	if n < 0 || n > b.left {
		return fmt.Errorf("needs %d bytes of memory, more than the %d left of its limit", n, b.left)
	}
	b.left -= n
	return nil
}

// Error reports a pickle that is malformed, too large, or that asks for something which is not allowed.
type Error struct {
	Offset int64  // byte offset of the opcode at fault
	Global string // the refused name, "module.name"; empty for other faults
	Err    error  // what is wrong
}

func (e *Error) Error() string { return fmt.Sprintf("pickle at offset %d: %v", e.Offset, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// bufferSize is how far Load reads ahead.
const bufferSize = 64 << 10

// NewReader gives a reader from which Load takes no byte beyond the STOP opcode, for a file of several pickles.
func NewReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, bufferSize) }

// Load reads one pickle from r, up to its STOP opcode; it may read further ahead than that unless r is by NewReader. Faults of
// the pickle are a *Error; a failing r gives its own error, wrapped.
func Load(r io.Reader, o Options) (any, error) {
	if o.MaxMemory == 0 {
		o.MaxMemory = DefaultMaxMemory
	}
	m := &machine{in: NewReader(r), opts: o, budget: Budget{o.MaxMemory}, memo: map[int64]any{}, inert: map[[2]string]Inert{}}
	return m.run()
}
