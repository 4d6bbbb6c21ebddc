package pickle

import (
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// builtins are the names that every pickle may use: containers of the standard library, and the detour by which
// protocols 0 to 2 spell bytes.
var builtins = Globals{
	"collections.OrderedDict": Func(newDict),
	"collections.Counter":     Func(newDict),
	"builtins.set":            Func(newSet),
	"builtins.frozenset":      Func(newSet),
	"builtins.bytearray":      Func(newByteArray),
	"_codecs.encode":          Func(encode),
	"__builtin__.set":         Func(newSet),
	"__builtin__.frozenset":   Func(newSet),
	"__builtin__.bytearray":   Func(newByteArray),
	"__builtin__.bytes":       Func(newBytes),
}

// newDict makes a dict of nothing, of a dict (Counter), or of a list of pairs (OrderedDict in Python 2).
func newDict(b *Budget, args Tuple) (any, error) {
	d := &Dict{}
	if len(args) == 0 {
		return d, nil
	}
	if len(args) != 1 {
		return nil, fmt.Errorf("makes a dict of %d arguments", len(args))
	}
	if src, ok := args[0].(*Dict); ok {
		return src, nil
	}
	pairs, ok := args[0].(*List)
	if !ok {
		return nil, fmt.Errorf("makes a dict of %s", TypeName(args[0]))
	}
	for _, item := range pairs.Items {
		var pair []any
		switch item := item.(type) {
		case Tuple:
			pair = item
		case *List:
			pair = item.Items
		}
		if len(pair) != 2 {
			return nil, errors.New("makes a dict of something else than pairs")
		}
		if err := d.set(b, pair[0], pair[1]); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func newSet(b *Budget, args Tuple) (any, error) {
	if len(args) == 0 {
		return &Set{}, nil
	}
	list, ok := args[0].(*List)
	if !ok || len(args) != 1 {
		return nil, errors.New("makes a set of something else than one list")
	}
	if err := b.Take(int64(len(list.Items)) * 16); err != nil {
		return nil, err
	}
	return &Set{slices.Clone(list.Items)}, nil
}

func newByteArray(b *Budget, args Tuple) (any, error) {
	switch {
	case len(args) == 0:
		return []byte{}, nil
	case len(args) == 1:
		if data, ok := args[0].([]byte); ok {
			return data, nil
		}
	case len(args) == 2:
		return encode(b, args)
	}
	return nil, errors.New("makes a bytearray of something else than bytes")
}

// newBytes is bytes(), which protocol 2 uses for the empty value only.
func newBytes(_ *Budget, args Tuple) (any, error) {
	if len(args) != 0 {
		return nil, errors.New("makes bytes of arguments")
	}
	return []byte{}, nil
}

// encode is _codecs.encode(text, "latin1"): Python 3 writes bytes so in protocols 0 to 2.
func encode(b *Budget, args Tuple) (any, error) {
	if len(args) != 2 {
		return nil, fmt.Errorf("encodes %d arguments", len(args))
	}
	text, ok1 := args[0].(string)
	codec := Word(args[1])
	if !ok1 || (codec != "latin1" && codec != "latin-1") {
		return nil, errors.New("encodes something else than a string as latin1")
	}
	n := utf8.RuneCountInString(text)
	if err := b.Take(int64(n)); err != nil {
		return nil, err
	}
	data := make([]byte, 0, n)
	for _, r := range text {
		if r > 0xff {
			return nil, fmt.Errorf("encodes %q as latin1, which has no such character", r)
		}
		data = append(data, byte(r)) //nolint:gosec // checked
	}
	return data, nil
}
