package keys

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"l2ul/torch/ckpt"
)

// A table is the names of a family of networks in one style.
type table struct {
	family string
	style  Style
	rules  []*rule
	// certain tells from a file whose names match that they cannot be anything else; nil for tables that tell nothing by
	// themselves, such as those whose names are ours.
	certain func(*ckpt.File) bool
}

// A rule is one tensor of ours, or many alike, and what it is in the table's style. In patterns # stands for a number and * for
// the last part of a name; both sides have them in the same order.
type rule struct {
	names [2][]pattern // ours, always one, and theirs: one, or several that lie in ours one after the other along dimension 0
	// shape is that of ours and theirs where they differ, one dimension of each left open as -1; else nil.
	shape [2][]int64
	// derive makes our tensor from another of ours where the style does without; names[theirs] is empty then.
	derive func(of *ckpt.Tensor) (*ckpt.Tensor, error)
	of     pattern // the other
}

const (
	ours = iota
	theirs
)

// maxGap is longer than what any gap of an honest name holds. It keeps errors, which quote names that match, short.
const maxGap = 32

// pattern is a name with gaps: # and, at the end, *.
type pattern string

// match returns what the gaps hold where name is of the pattern. A gap takes all it can, since nothing behind one begins with
// what could be in it.
func (p pattern) match(name string) (held []string, ok bool) {
	for i := range len(p) {
		n := 1
		switch p[i] {
		case '#':
			n = span(name, func(c byte) bool { return '0' <= c && c <= '9' })
			held = append(held, name[:n])
		case '*':
			n = span(name, func(c byte) bool { return 'a' <= c && c <= 'z' || c == '_' })
			held = append(held, name[:n])
		default:
			if name == "" || name[0] != p[i] {
				return nil, false
			}
		}
		if n == 0 || n > maxGap {
			return nil, false
		}
		name = name[n:]
	}
	return held, name == ""
}

// span is how many bytes at the beginning of s are in a class.
func span(s string, in func(byte) bool) int {
	for i := range len(s) {
		if !in(s[i]) {
			return i
		}
	}
	return len(s)
}

// fill puts what the gaps of another pattern held into those of p.
func (p pattern) fill(held []string) string {
	var b strings.Builder
	for _, r := range p {
		if r == '#' || r == '*' {
			b.WriteString(held[0])
			held = held[1:]
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// find returns the rule for a name on one side, which of its patterns it is, and what the gaps hold.
func (t *table) find(name string, side int) (r *rule, part int, held []string) {
	for _, r := range t.rules {
		for part, p := range r.names[side] {
			if held, ok := p.match(name); ok {
				return r, part, held
			}
		}
	}
	return nil, 0, nil
}

// matches reports whether all names of f are those of one side.
func (t *table) matches(f *ckpt.File, side int) bool {
	return len(f.Tensors) > 0 && !slices.ContainsFunc(f.Tensors, func(x ckpt.Tensor) bool {
		r, _, _ := t.find(x.Name, side)
		return r == nil
	})
}

// toOurs renames a file whose names match.
func (t *table) toOurs(f *ckpt.File) (*ckpt.File, error) {
	type group struct {
		rule  *rule
		parts []*ckpt.Tensor
	}
	groups := map[string]*group{}
	var order []string
	for i := range f.Tensors {
		x := &f.Tensors[i]
		r, part, held := t.find(x.Name, theirs)
		name := r.names[ours][0].fill(held)
		g := groups[name]
		if g == nil {
			g = &group{r, make([]*ckpt.Tensor, len(r.names[theirs]))}
			groups[name], order = g, append(order, name)
		}
		if g.parts[part] != nil {
			return nil, fmt.Errorf("%s and %s would both be %s", g.parts[part].Name, x.Name, name)
		}
		g.parts[part] = x
	}
	out := &ckpt.File{Metadata: f.Metadata, Format: f.Format}
	left := derivable(f)
	for _, name := range order {
		g := groups[name]
		if i := slices.Index(g.parts, nil); i >= 0 {
			return nil, fmt.Errorf("a part of %s is missing, %s", name, g.rule.names[theirs][i])
		}
		x, err := join(g.parts)
		if err == nil {
			err = reshape(x, g.rule.shape[ours])
		}
		if err != nil {
			return nil, err
		}
		x.Name = name
		out.Tensors = append(out.Tensors, *x)
		derived, err := t.derived(x, &left)
		if err != nil {
			return nil, err
		}
		out.Tensors = append(out.Tensors, derived...)
	}
	return out, nil
}

// derivable is how many bytes may be derived for f: a table without weights beside it must not buy memory.
func derivable(f *ckpt.File) int {
	n := 16 << 20
	for _, x := range f.Tensors {
		n += len(x.Data)
	}
	return n
}

// derived makes the tensors that follow from x, of at most left bytes, which it takes off.
func (t *table) derived(x *ckpt.Tensor, left *int) (out []ckpt.Tensor, err error) {
	for _, r := range t.rules {
		if r.derive == nil {
			continue
		}
		if held, ok := r.of.match(x.Name); ok {
			made, err := r.derive(x)
			if err != nil {
				return nil, err
			}
			if *left -= len(made.Data); *left < 0 {
				return nil, fmt.Errorf("what follows from tables such as %.200q would be larger than all weights", x.Name)
			}
			made.Name = r.names[ours][0].fill(held)
			out = append(out, *made)
		}
	}
	return out, nil
}

// toTheirs renames a file with our names.
func (t *table) toTheirs(f *ckpt.File) (*ckpt.File, error) {
	out := &ckpt.File{Metadata: f.Metadata, Format: f.Format}
	derived, left := map[string]ckpt.Tensor{}, derivable(f)
	for i := range f.Tensors {
		made, err := t.derived(&f.Tensors[i], &left)
		if err != nil {
			return nil, err
		}
		for _, x := range made {
			derived[x.Name] = x
		}
	}
	for _, x := range f.Tensors {
		r, _, held := t.find(x.Name, ours)
		if r == nil {
			return nil, fmt.Errorf("%s has no name for %.200q", t.style, x.Name)
		}
		if r.derive != nil {
			if made := derived[x.Name]; made.DType != x.DType || !slices.Equal(made.Shape, x.Shape) || !bytes.Equal(made.Data, x.Data) {
				return nil, fmt.Errorf("%s has no name for %s, and its values are not those that the others imply", t.style, x.Name)
			}
			continue
		}
		if err := reshape(&x, r.shape[theirs]); err != nil {
			return nil, err
		}
		parts, err := split(x, len(r.names[theirs]))
		if err != nil {
			return nil, err
		}
		for i := range parts {
			parts[i].Name = r.names[theirs][i].fill(held)
		}
		out.Tensors = append(out.Tensors, parts...)
	}
	return out, nil
}

// join puts tensors one after the other along dimension 0.
func join(parts []*ckpt.Tensor) (*ckpt.Tensor, error) {
	first := *parts[0]
	if len(parts) == 1 {
		return &first, nil
	}
	if len(first.Shape) == 0 || len(first.Data) == 0 { // empty ones may have any length, so that the sum of three overflows
		return nil, fmt.Errorf("%.200q of shape %v should be a part of a tensor", first.Name, first.Shape)
	}
	first.Shape, first.Data = slices.Clone(first.Shape), make([]byte, 0, len(parts)*len(first.Data))
	first.Shape[0] *= int64(len(parts))
	for _, p := range parts {
		if p.DType != first.DType || !slices.Equal(p.Shape, parts[0].Shape) {
			return nil, fmt.Errorf("%s is %s %v and %s is %s %v; they should be alike", parts[0].Name, first.DType, parts[0].Shape, p.Name, p.DType, p.Shape)
		}
		first.Data = append(first.Data, p.Data...)
	}
	return &first, nil
}

// split cuts a tensor into n alike along dimension 0. They share its memory.
func split(x ckpt.Tensor, n int) ([]ckpt.Tensor, error) {
	if n == 1 {
		return []ckpt.Tensor{x}, nil
	}
	if len(x.Shape) == 0 || x.Shape[0]%int64(n) != 0 {
		return nil, fmt.Errorf("%s of shape %v cannot be cut into %d parts", x.Name, x.Shape, n)
	}
	parts := make([]ckpt.Tensor, n)
	size := len(x.Data) / n
	for i := range parts {
		parts[i] = x
		parts[i].Shape = slices.Clone(x.Shape)
		parts[i].Shape[0] /= int64(n)
		parts[i].Data = x.Data[i*size : (i+1)*size : (i+1)*size]
	}
	return parts, nil
}

// reshape gives x a shape with one open dimension; nil leaves it as it is.
func reshape(x *ckpt.Tensor, shape []int64) error {
	if shape == nil {
		return nil
	}
	total, known := int64(len(x.Data)/x.DType.Size()), int64(1)
	for _, d := range shape {
		if d > 0 {
			known *= d
		}
	}
	if total%known != 0 {
		return fmt.Errorf("%s of shape %v cannot have the shape %v", x.Name, x.Shape, shape)
	}
	x.Shape = slices.Clone(shape)
	x.Shape[slices.Index(shape, -1)] = total / known
	return nil
}
