package nn

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/xrash/smetrics"

	"l2ul/torch"
	"l2ul/torch/ckpt"
)

// Pack copies tensors to the host, in their order, as the contents of a checkpoint. A tensor whose dtype no checkpoint
// holds panics.
func Pack(tensors []Named) *ckpt.File {
	f := &ckpt.File{Tensors: make([]ckpt.Tensor, 0, len(tensors))}
	for _, n := range tensors {
		d, ok := storedDtype(n.Tensor.Dtype())
		if !ok {
			fail("nn.Pack", "%s is %v, which checkpoints do not hold", n.Name, n.Tensor.Dtype())
		}
		f.Tensors = append(f.Tensors, ckpt.Tensor{Name: n.Name, DType: d, Shape: n.Tensor.Shape(), Data: n.Tensor.Bytes()})
	}
	return f
}

// Unpack copies the tensors of a checkpoint, in their order and with their dtypes, into the current scope.
func Unpack(f *ckpt.File) ([]Named, error) {
	out := make([]Named, 0, len(f.Tensors))
	for _, t := range f.Tensors {
		d, ok := dtypes[t.DType]
		if !ok {
			return nil, fmt.Errorf("tensor %s: dtype %s is unknown", t.Name, t.DType)
		}
		out = append(out, Named{t.Name, torch.FromBytes(d, t.Data, t.Shape...)})
	}
	return out, nil
}

// Snapshot copies the state of m to the host: Pack of its StateDict.
func Snapshot(m Module) *ckpt.File { return Pack(m.Root().StateDict()) }

// Restore sets the state of m to the tensors of f, converted to the dtypes, devices and memory formats of m; half
// precision weights become float32, for example. It changes m only if everything fits:
//
//   - Every tensor of m must be in f with the same shape, and f must hold nothing else: a *MismatchError lists what
//     differs. Unless strict, tensors that only one side has are left alone. num_batches_tracked may be missing, as it is
//     in files of PyTorch before 0.4.1, and keeps its value then.
//   - Floating point values must be finite, in f and in the dtype of m: a *NonFiniteError names the first that is not.
func Restore(m Module, f *ckpt.File, strict bool) error {
	pairs, bad := match(m, f)
	if strict && bad.any() || len(bad.Different) > 0 {
		if !strict {
			bad.Missing, bad.Unexpected = nil, nil
		}
		return bad
	}
	for _, p := range pairs {
		if i, v := firstNonFinite(p.from, p.to.Dtype()); i >= 0 {
			return &NonFiniteError{Name: p.from.Name, Index: i, Value: v}
		}
	}
	torch.NoGrad(func() {
		torch.Scope(func() {
			for _, p := range pairs {
				host := torch.FromBytes(dtypes[p.from.DType], p.from.Data, p.from.Shape...)
				p.to.CopyI(host)
				host.Free()
			}
		})
	})
	return nil
}

// Compare says what keeps the tensors of f from being the state of m, nil if nothing does.
func Compare(m Module, f *ckpt.File) *MismatchError {
	if _, bad := match(m, f); bad.any() {
		return bad
	}
	return nil
}

// fitting is a tensor of a network and the one of a file that it gets.
type fitting struct {
	to   torch.Tensor
	from *ckpt.Tensor
}

// match finds what fits, and what does not.
func match(m Module, f *ckpt.File) (pairs []fitting, bad *MismatchError) {
	stored := make(map[string]*ckpt.Tensor, len(f.Tensors))
	for i := range f.Tensors {
		stored[f.Tensors[i].Name] = &f.Tensors[i]
	}
	bad = &MismatchError{}
	for _, n := range m.Root().StateDict() {
		from, ok := stored[n.Name]
		if !ok {
			if !optional(n.Name) {
				bad.Missing = append(bad.Missing, n.Name)
			}
			continue
		}
		delete(stored, n.Name)
		if !fits(n.Tensor, from) {
			bad.Different = append(bad.Different, Difference{
				Name: n.Name, File: describe(string(from.DType), from.Shape), Network: describe(n.Tensor.Dtype().String(), n.Tensor.Shape()),
			})
			continue
		}
		pairs = append(pairs, fitting{n.Tensor, from})
	}
	for i := range f.Tensors { // in the order of the file
		if _, left := stored[f.Tensors[i].Name]; left {
			bad.Unexpected = append(bad.Unexpected, f.Tensors[i].Name)
		}
	}
	return pairs, bad
}

// MismatchError says that a checkpoint belongs to another network: which keys and shapes differ.
type MismatchError struct {
	Missing    []string     // keys the network has and the file has not
	Unexpected []string     // keys the file has and the network has not
	Different  []Difference // keys that both have, with another shape or another kind of number
}

func (e *MismatchError) any() bool { return len(e.Missing)+len(e.Unexpected)+len(e.Different) > 0 }

// Difference is a tensor that does not fit.
type Difference struct {
	Name          string
	File, Network string // dtype and shape on either side, as "F32 [10 512]"
}

// Limits of an error message: how many keys it lists of each kind, and among how many, of what length, it looks for one that
// resembles a missing one.
const (
	listed   = 6
	manyKeys = 2000
	longKey  = 200
)

func (e *MismatchError) Error() string {
	var parts []string
	add := func(what string, n int, item func(i int) string) {
		if n == 0 {
			return
		}
		items := make([]string, 0, listed+1)
		for i := range min(n, listed) {
			items = append(items, item(i))
		}
		if n > listed {
			items = append(items, fmt.Sprintf("and %d more", n-listed))
		}
		parts = append(parts, fmt.Sprintf("%d %s: %s", n, what, strings.Join(items, ", ")))
	}
	add("missing", len(e.Missing), func(i int) string { return e.Missing[i] + e.resembling(e.Missing[i]) })
	add("unexpected", len(e.Unexpected), func(i int) string { return e.Unexpected[i] })
	add("different", len(e.Different), func(i int) string {
		d := e.Different[i]
		return fmt.Sprintf("%s is %s in the file and %s in the network", d.Name, d.File, d.Network)
	})
	return "the weights do not fit the network: " + strings.Join(parts, "; ")
}

// resembling gives a remark with the unexpected key that is nearest to a missing one, if a third of it is the same.
func (e *MismatchError) resembling(name string) string {
	nearest, least := "", math.MaxInt
	for _, other := range e.Unexpected[:min(len(e.Unexpected), manyKeys)] {
		if len(other) > longKey {
			continue
		}
		if d := smetrics.WagnerFischer(name, other, 1, 1, 1); d < least && 3*d < 2*max(len(name), len(other)) {
			nearest, least = other, d
		}
	}
	if nearest == "" {
		return ""
	}
	return fmt.Sprintf(" (the file has %s)", nearest)
}

// NonFiniteError says that a tensor of a checkpoint holds an infinity or no number at all, or a value too large for the
// dtype of the network.
type NonFiniteError struct {
	Name  string
	Index int // of the element, in row-major order
	Value float64
}

func (e *NonFiniteError) Error() string {
	return fmt.Sprintf("the weights are damaged: element %d of %s is %g", e.Index, e.Name, e.Value)
}

// optional says whether a tensor may be missing from a file: PyTorch did not save this counter before 0.4.1.
func optional(name string) bool {
	return name == "num_batches_tracked" || strings.HasSuffix(name, ".num_batches_tracked")
}

// fits says whether a stored tensor can become the state of t: same shape, and both floating point or both not.
func fits(t torch.Tensor, from *ckpt.Tensor) bool {
	d, ok := dtypes[from.DType]
	return ok && floating(d) == floating(t.Dtype()) && slices.Equal(t.Shape(), from.Shape)
}

func describe(dtype string, shape []int64) string { return fmt.Sprintf("%s %v", dtype, shape) }

// dtypes are the element types of checkpoints.
var dtypes = map[ckpt.DType]torch.Dtype{
	"F64": torch.Double, "F32": torch.Float, "F16": torch.Half, "BF16": torch.BFloat16,
	"I64": torch.Long, "I32": torch.Int, "I16": torch.Short, "I8": torch.Char, "U8": torch.Byte, "BOOL": torch.Bool,
}

func storedDtype(d torch.Dtype) (ckpt.DType, bool) {
	for stored, native := range dtypes {
		if native == d {
			return stored, true
		}
	}
	return "", false
}

func floating(d torch.Dtype) bool {
	return d == torch.Double || d == torch.Float || d == torch.Half || d == torch.BFloat16
}

// firstNonFinite finds the first element of t that is not finite as a value of the given dtype; -1 if there is none.
func firstNonFinite(t *ckpt.Tensor, as torch.Dtype) (int, float64) {
	data, le := t.Data, binary.LittleEndian
	switch t.DType {
	case "F16": // all ones in the exponent: infinity, or with a fraction, no number
		for i := range len(data) / 2 {
			if bits := le.Uint16(data[2*i:]); bits&0x7c00 == 0x7c00 {
				return i, special(bits&0x03ff != 0, bits>>15 != 0)
			}
		}
	case "BF16":
		for i := range len(data) / 2 {
			if bits := le.Uint16(data[2*i:]); bits&0x7f80 == 0x7f80 {
				return i, special(bits&0x007f != 0, bits>>15 != 0)
			}
		}
	case "F32":
		for i := range len(data) / 4 {
			if bits := le.Uint32(data[4*i:]); bits&0x7f800000 == 0x7f800000 {
				return i, float64(math.Float32frombits(bits))
			}
		}
	case "F64":
		for i := range len(data) / 8 {
			v := math.Float64frombits(le.Uint64(data[8*i:]))
			if math.IsNaN(v) || math.IsInf(v, 0) || as == torch.Float && math.IsInf(float64(float32(v)), 0) {
				return i, v
			}
		}
	}
	return -1, 0
}

// special is the value of a half precision number whose exponent is all ones.
func special(fraction, negative bool) float64 {
	switch {
	case fraction:
		return math.NaN()
	case negative:
		return math.Inf(-1)
	}
	return math.Inf(1)
}
