package pickle

import (
	"fmt"
	"iter"
)

// List is a Python list.
type List struct{ Items []any }

// Tuple is a Python tuple.
type Tuple []any

// Set is a Python set or frozenset, in the order of the pickle. Repeated items are kept.
type Set struct{ Items []any }

// Dict is a Python dict in insertion order. The zero value is an empty dict.
type Dict struct {
	keys, values []any
	index        map[any]int // of the keys that Go can compare
}

// Inert is the name, "module.name", of a class or function that Options.Inert allows. Unprintable characters are escaped.
type Inert string

// Object is an instance of an Inert class, or what a call of an Inert function would return. Keyword arguments and the items
// of classes that extend list or dict are not kept.
type Object struct {
	Class Inert
	Args  Tuple // of the call
	State any   // what Python would pass to __setstate__, most often the *Dict of the attributes; nil if there was none
}

// Build keeps the state, without the part that belongs to __slots__.
func (o *Object) Build(_ *Budget, state any) error {
	if t, ok := state.(Tuple); ok && len(t) == 2 {
		state = t[0]
	}
	o.State = state
	return nil
}

// bytesKey indexes a bytes key apart from a str key of the same content, as in Python 3.
type bytesKey string

// indexKey returns the form of k that goes into the index; ok is false for keys that are kept in order but never looked up
// (tuples, big integers, objects).
func indexKey(k any) (key any, ok bool) {
	switch k := k.(type) {
	case []byte:
		return bytesKey(k), true
	case nil, bool, int64, float64, string:
		return k, true
	}
	return nil, false
}

// Len returns the number of entries.
func (d *Dict) Len() int { return len(d.keys) }

// All yields the entries in insertion order.
func (d *Dict) All() iter.Seq2[any, any] {
	return func(yield func(any, any) bool) {
		for i, k := range d.keys {
			if !yield(k, d.values[i]) {
				return
			}
		}
	}
}

// Get returns the value under a str key, or under the bytes key of the same content, which is how files written by
// Python 2 spell it.
func (d *Dict) Get(name string) (value any, ok bool) {
	if i, ok := d.index[name]; ok {
		return d.values[i], true
	}
	if i, ok := d.index[bytesKey(name)]; ok {
		return d.values[i], true
	}
	return nil, false
}

// set stores value under key; a later value replaces an earlier one in its place.
func (d *Dict) set(b *Budget, key, value any) error {
	cost := int64(costEntry)
	switch key := key.(type) { // hashed here, and the index holds a copy of bytes
	case string:
		cost += int64(len(key))
	case []byte:
		cost += int64(len(key))
	}
	if err := b.Take(cost); err != nil {
		return err
	}
	if k, ok := indexKey(key); ok {
		if i, ok := d.index[k]; ok {
			d.values[i] = value
			return nil
		}
		if d.index == nil {
			d.index = map[any]int{}
		}
		d.index[k] = len(d.keys)
	}
	d.keys = append(d.keys, key)
	d.values = append(d.values, value)
	return nil
}

// Text returns the content of a str, or of bytes taken as text.
func Text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case []byte:
		return string(v), true
	}
	return "", false
}

// Word returns a str, or bytes taken as text, of up to 64 bytes: all that a code or a kind can be. It is "" for others, which are
// not even copied, since a pickle can pass one long text many times.
func Word(v any) string {
	switch v := v.(type) {
	case string:
		if len(v) <= maxWord {
			return v
		}
	case []byte:
		if len(v) <= maxWord {
			return string(v)
		}
	}
	return ""
}

const maxWord = 64

// Ints returns the integers of a tuple or list, as in shapes and label lists.
func Ints(v any) ([]int64, error) {
	var items []any
	switch v := v.(type) {
	case Tuple:
		items = v
	case *List:
		items = v.Items
	default:
		return nil, fmt.Errorf("found %s where a sequence of integers belongs", TypeName(v))
	}
	ints := make([]int64, len(items))
	for i, item := range items {
		n, ok := item.(int64)
		if !ok {
			return nil, fmt.Errorf("found %s at place %d of a sequence of integers", TypeName(item), i)
		}
		ints[i] = n
	}
	return ints, nil
}

// TypeName returns Python's name for the type of v, for error messages.
func TypeName(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case []byte:
		return "bytes"
	case *List:
		return "list"
	case Tuple:
		return "tuple"
	case *Dict:
		return "dict"
	case *Set:
		return "set"
	case *Array:
		return "numpy.ndarray"
	case Func:
		return "function"
	case Inert:
		return "the name " + string(v)
	case *Object:
		return string(v.Class)
	}
	return fmt.Sprintf("%T", v)
}
