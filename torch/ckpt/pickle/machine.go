package pickle

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Bounds on parts of the input whose cost is not in proportion to their length.
const (
	maxProtocol = 5
	maxLine     = 1 << 20 // bytes of a line of the text opcodes
	maxName     = 1 << 10 // bytes of a global's module and name
	maxLong     = 1 << 10 // bytes or digits of an integer: parsing digits is quadratic
	readStep    = 1 << 20 // bytes allocated ahead of the input that fills them
)

// What a value costs of the budget, about its size in memory.
const (
	costValue = 48
	costEntry = 128
)

// machine is the pickle stack machine: values, the places of MARK in them, and the memo.
type machine struct {
	in     *bufio.Reader
	opts   Options
	budget Budget
	offset int64 // bytes consumed
	stack  []any
	marks  []int
	memo   map[int64]any
	inert  map[[2]string]Inert // by their modules and names, which a pickle can repeat without end
}

// errInput marks a failing reader, which is not the pickle's fault.
type errInput struct{ error }

func (e errInput) Unwrap() error { return e.error }

func (m *machine) run() (any, error) {
	for {
		at := m.offset
		op, err := m.byte()
		if err == nil && op == '.' {
			var v any
			if v, err = m.pop(); err == nil {
				return v, nil
			}
		}
		if err == nil {
			err = m.budget.Take(1) // so that the budget bounds the time as well
		}
		if err == nil {
			err = m.step(op)
		}
		if err != nil {
			return nil, describe(at, err)
		}
	}
}

// describe gives an error of one opcode its place.
func describe(at int64, err error) error {
	var in errInput
	var refused *refusal
	switch {
	case errors.As(err, &in):
		return fmt.Errorf("pickle at offset %d: %w", at, in.error)
	case errors.As(err, &refused):
		return &Error{Offset: at, Global: refused.global, Err: err}
	}
	return &Error{Offset: at, Err: err}
}

// refusal is the error for a name outside the allow-list.
type refusal struct{ global string }

func (r *refusal) Error() string {
	return "refuses global " + r.global + ": it is not among the names that may stand in this kind of file (nothing was executed)"
}

// step executes one opcode other than STOP.
func (m *machine) step(op byte) error {
	switch op {
	case 0x80: // PROTO
		v, err := m.byte()
		if err == nil && v > maxProtocol {
			err = fmt.Errorf("protocol %d is unknown; protocols 0 to %d can be read", v, maxProtocol)
		}
		return err
	case 0x95: // FRAME: a hint about buffering, the frame's opcodes follow
		_, err := m.uint(8)
		return err

	case 'N':
		return m.push(nil)
	case 0x88:
		return m.push(true)
	case 0x89:
		return m.push(false)
	case 'I':
		return m.textInt()
	case 'L':
		s, err := m.line()
		if err != nil {
			return err
		}
		return m.pushDecimal(strings.TrimSuffix(s, "L"))
	case 'J':
		n, err := m.uint(4)
		return m.pushOr(int64(int32(uint32(n))), err) //nolint:gosec // the opcode's own sign
	case 'K':
		n, err := m.uint(1)
		return m.pushOr(int64(n), err) //nolint:gosec // one byte
	case 'M':
		n, err := m.uint(2)
		return m.pushOr(int64(n), err) //nolint:gosec // two bytes
	case 0x8a:
		return m.long(1)
	case 0x8b:
		return m.long(4)
	case 'F':
		s, err := m.line()
		if err != nil {
			return err
		}
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return fmt.Errorf("%.40q is no float", s)
		}
		return m.push(f)
	case 'G':
		b, err := m.bytes(8)
		if err != nil {
			return err
		}
		return m.push(math.Float64frombits(binary.BigEndian.Uint64(b)))

	case 'S':
		s, err := m.line()
		if err != nil {
			return err
		}
		b, err := unquote(s)
		return m.pushOr(b, err)
	case 'T', 'B':
		return m.pushBytes(4)
	case 'U', 'C':
		return m.pushBytes(1)
	case 0x8e, 0x96: // BINBYTES8, BYTEARRAY8
		return m.pushBytes(8)
	case 'V':
		s, err := m.line()
		if err != nil {
			return err
		}
		s, err = unescape(s)
		return m.pushOr(s, err)
	case 'X':
		return m.pushString(4)
	case 0x8c:
		return m.pushString(1)
	case 0x8d:
		return m.pushString(8)

	case '(':
		m.marks = append(m.marks, len(m.stack))
		return m.budget.Take(8)
	case '0': // POP, which also drops a MARK
		if n := len(m.marks); n > 0 && m.marks[n-1] == len(m.stack) {
			m.marks = m.marks[:n-1]
			return nil
		}
		_, err := m.pop()
		return err
	case '1':
		_, err := m.popMark()
		return err
	case '2':
		v, err := m.top()
		return m.pushOr(v, err)

	case ')':
		return m.push(Tuple{})
	case 0x85, 0x86, 0x87: // TUPLE1, TUPLE2, TUPLE3
		items, err := m.popN(int(op) - 0x84)
		return m.pushOr(Tuple(items), err)
	case 't':
		items, err := m.popMark()
		return m.pushOr(Tuple(items), err)
	case ']':
		return m.push(&List{})
	case 'l':
		items, err := m.popMark()
		return m.pushOr(&List{items}, err)
	case '}':
		return m.push(&Dict{})
	case 'd':
		items, err := m.popMark()
		if err != nil {
			return err
		}
		d := &Dict{}
		if err := m.setItems(d, items); err != nil {
			return err
		}
		return m.push(d)
	case 0x8f:
		return m.push(&Set{})
	case 0x91:
		items, err := m.popMark()
		return m.pushOr(&Set{items}, err)

	case 'a':
		items, err := m.popN(1)
		if err != nil {
			return err
		}
		return m.extend(items)
	case 'e', 0x90: // APPENDS, ADDITEMS
		items, err := m.popMark()
		if err != nil {
			return err
		}
		return m.extend(items)
	case 's':
		items, err := m.popN(2)
		if err != nil {
			return err
		}
		return m.setTop(items)
	case 'u':
		items, err := m.popMark()
		if err != nil {
			return err
		}
		return m.setTop(items)

	case 'p':
		return m.textMemo(m.put)
	case 'q':
		return m.binaryMemo(1, m.put)
	case 'r':
		return m.binaryMemo(4, m.put)
	case 0x94:
		return m.put(int64(len(m.memo)))
	case 'g':
		return m.textMemo(m.get)
	case 'h':
		return m.binaryMemo(1, m.get)
	case 'j':
		return m.binaryMemo(4, m.get)

	case 'c':
		module, err := m.line()
		if err != nil {
			return err
		}
		name, err := m.line()
		if err != nil {
			return err
		}
		return m.global(module, name)
	case 0x93: // STACK_GLOBAL
		items, err := m.popN(2)
		if err != nil {
			return err
		}
		module, ok1 := items[0].(string)
		name, ok2 := items[1].(string)
		if !ok1 || !ok2 {
			return fmt.Errorf("names a global by %s and %s instead of two strings", TypeName(items[0]), TypeName(items[1]))
		}
		return m.global(module, name)
	case 'R', 0x81: // REDUCE, NEWOBJ: function or class, then a tuple of arguments
		items, err := m.popN(2)
		if err != nil {
			return err
		}
		args, ok := items[1].(Tuple)
		if !ok {
			return fmt.Errorf("passes %s as the arguments of a call", TypeName(items[1]))
		}
		return m.call(items[0], args)
	case 0x92: // NEWOBJ_EX: the same with keyword arguments
		items, err := m.popN(3)
		if err != nil {
			return err
		}
		args, ok1 := items[1].(Tuple)
		named, ok2 := items[2].(*Dict)
		_, inert := items[0].(Inert)
		if !ok1 || !ok2 || named.Len() != 0 && !inert {
			return errors.New("makes an object with keyword arguments, which no known class takes")
		}
		return m.call(items[0], args)
	case 'i': // INST: class by name, arguments from the mark
		module, err := m.line()
		if err != nil {
			return err
		}
		name, err := m.line()
		if err != nil {
			return err
		}
		args, err := m.popMark()
		if err != nil {
			return err
		}
		if err := m.global(module, name); err != nil {
			return err
		}
		class, _ := m.pop()
		return m.call(class, args)
	case 'o': // OBJ: class and arguments from the mark
		items, err := m.popMark()
		if err != nil {
			return err
		}
		if len(items) == 0 {
			return errors.New("makes an object of no class")
		}
		return m.call(items[0], items[1:])
	case 'b':
		return m.build()
	case 'P':
		id, err := m.line()
		if err != nil {
			return err
		}
		return m.persistent(id)
	case 'Q':
		id, err := m.pop()
		if err != nil {
			return err
		}
		return m.persistent(id)

	case 0x82, 0x83, 0x84: // EXT1, EXT2, EXT4
		return errors.New("uses the copyreg extension registry, which is empty here")
	case 0x97: // NEXT_BUFFER
		return errors.New("refers to a buffer outside the pickle")
	case 0x98: // READONLY_BUFFER
		_, err := m.top()
		return err
	}
	return fmt.Errorf("opcode 0x%02x is unknown; the bytes are no pickle or were damaged", op)
}

// Input.

func (m *machine) byte() (byte, error) {
	c, err := m.in.ReadByte()
	if err != nil {
		return 0, inputError(err)
	}
	m.offset++
	return c, nil
}

func inputError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("ends before its STOP opcode; it was cut off")
	}
	return errInput{err}
}

// uint reads a little-endian unsigned integer of n bytes.
func (m *machine) uint(n int) (uint64, error) {
	var b [8]byte
	k, err := io.ReadFull(m.in, b[:n])
	m.offset += int64(k)
	if err != nil {
		return 0, inputError(err)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// bytes reads n bytes. Memory follows the input in steps, so that a lying length costs little.
func (m *machine) bytes(n uint64) ([]byte, error) {
	if n > math.MaxInt64 {
		return nil, fmt.Errorf("a length of %d bytes is impossible", n)
	}
	if err := m.budget.Take(int64(n)); err != nil {
		return nil, err
	}
	total := int(n)
	b := make([]byte, 0, min(total, readStep))
	for len(b) < total {
		if len(b) == cap(b) {
			b = slices.Grow(b, min(total-len(b), cap(b)))
		}
		part := b[len(b):min(cap(b), total)]
		k, err := io.ReadFull(m.in, part)
		m.offset += int64(k)
		if err != nil {
			return nil, inputError(err)
		}
		b = b[:len(b)+len(part)]
	}
	return b, nil
}

// line reads up to a newline, without it.
func (m *machine) line() (string, error) {
	var b []byte
	for {
		c, err := m.byte()
		if err != nil {
			return "", err
		}
		if c == '\n' {
			return string(b), m.budget.Take(int64(len(b)))
		}
		if len(b) == maxLine {
			return "", fmt.Errorf("a line is longer than %d bytes", maxLine)
		}
		b = append(b, c)
	}
}

// Stack.

func (m *machine) push(v any) error {
	m.stack = append(m.stack, v)
	return m.budget.Take(costValue)
}

func (m *machine) pushOr(v any, err error) error {
	if err != nil {
		return err
	}
	return m.push(v)
}

// floor is the lowest place that may be popped: values below the last MARK wait for it.
func (m *machine) floor() int {
	if n := len(m.marks); n > 0 {
		return m.marks[n-1]
	}
	return 0
}

var errEmptyStack = errors.New("takes a value from an empty stack")

func (m *machine) top() (any, error) {
	if len(m.stack) <= m.floor() {
		return nil, errEmptyStack
	}
	return m.stack[len(m.stack)-1], nil
}

func (m *machine) pop() (any, error) {
	v, err := m.top()
	if err == nil {
		m.stack = m.stack[:len(m.stack)-1]
	}
	return v, err
}

// popN returns the upper n values, deepest first, as a slice of their own.
func (m *machine) popN(n int) ([]any, error) {
	at := len(m.stack) - n
	if at < m.floor() {
		return nil, errEmptyStack
	}
	return m.cut(at), nil
}

// popMark returns the values above the last MARK and drops the MARK.
func (m *machine) popMark() ([]any, error) {
	n := len(m.marks)
	if n == 0 {
		return nil, errors.New("looks for a mark that was never set")
	}
	at := m.marks[n-1]
	m.marks = m.marks[:n-1]
	return m.cut(at), nil
}

// cut takes the stack from place at on. Pushing each value paid for the copy.
func (m *machine) cut(at int) []any {
	items := slices.Clone(m.stack[at:])
	clear(m.stack[at:])
	m.stack = m.stack[:at]
	return items
}

// Numbers and text.

func (m *machine) textInt() error {
	s, err := m.line()
	switch {
	case err != nil:
		return err
	case s == "01":
		return m.push(true)
	case s == "00":
		return m.push(false)
	}
	return m.pushDecimal(s)
}

func (m *machine) pushDecimal(s string) error {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return m.push(n)
	}
	if len(s) > maxLong {
		return fmt.Errorf("an integer of %d digits is too long", len(s))
	}
	n, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return fmt.Errorf("%.40q is no integer", s)
	}
	return m.push(n)
}

// long reads a two's complement integer whose length takes size bytes.
func (m *machine) long(size int) error {
	n, err := m.uint(size)
	if err != nil {
		return err
	}
	if n > maxLong {
		return fmt.Errorf("an integer of %d bytes is too long", n)
	}
	b, err := m.bytes(n)
	if err != nil {
		return err
	}
	slices.Reverse(b)
	v := new(big.Int).SetBytes(b)
	if len(b) > 0 && b[0]&0x80 != 0 {
		v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(len(b))*8))
	}
	if v.IsInt64() {
		return m.push(v.Int64())
	}
	return m.push(v)
}

func (m *machine) pushBytes(size int) error {
	n, err := m.uint(size)
	if err != nil {
		return err
	}
	b, err := m.bytes(n)
	return m.pushOr(b, err)
}

func (m *machine) pushString(size int) error {
	n, err := m.uint(size)
	if err != nil {
		return err
	}
	b, err := m.bytes(n)
	if err != nil {
		return err
	}
	if !utf8.Valid(b) {
		return errors.New("a string is not UTF-8")
	}
	return m.push(string(b))
}

// unquote reads the repr of a Python 2 string.
func unquote(s string) ([]byte, error) {
	if len(s) < 2 || (s[0] != '\'' && s[0] != '"') || s[len(s)-1] != s[0] {
		return nil, fmt.Errorf("the string %.40q has no quotes around it", s)
	}
	s = s[1 : len(s)-1]
	b := make([]byte, 0, len(s))
	for len(s) > 0 {
		// Only quotes, backslashes, \n, \r, \t and \xhh occur in a repr, and Go reads them alike.
		if len(s) > 1 && s[0] == '\\' && (s[1] == '\'' || s[1] == '"') {
			b, s = append(b, s[1]), s[2:]
			continue
		}
		if s[0] != '\\' {
			b, s = append(b, s[0]), s[1:]
			continue
		}
		c, multibyte, tail, err := strconv.UnquoteChar(s, 0)
		if err != nil || multibyte {
			return nil, fmt.Errorf("the string has the wrong escape %.10q", s)
		}
		b, s = append(b, byte(c)), tail //nolint:gosec // not multibyte
	}
	return b, nil
}

// unescape reads the raw-unicode-escape encoding: Latin-1 bytes with \uXXXX and \UXXXXXXXX.
func unescape(s string) (string, error) {
	var out strings.Builder
	var high rune // a pending first half of a surrogate pair
	for i := 0; i < len(s); {
		r, width := rune(s[i]), 1
		if r == '\\' && i+1 < len(s) && (s[i+1] == 'u' || s[i+1] == 'U') {
			width = 6
			if s[i+1] == 'U' {
				width = 10
			}
			n, err := strconv.ParseUint(s[i+2:min(i+width, len(s))], 16, 32)
			if err != nil || i+width > len(s) || n > utf8.MaxRune {
				return "", fmt.Errorf("the string has the wrong escape %.10q", s[i:])
			}
			r = rune(n)
		}
		i += width
		if high != 0 {
			r, high = utf16.DecodeRune(high, r), 0
		} else if utf16.IsSurrogate(r) {
			high = r
			continue
		}
		out.WriteRune(r)
	}
	if high != 0 {
		out.WriteRune(utf8.RuneError)
	}
	return out.String(), nil
}

// Containers.

func (m *machine) extend(items []any) error {
	v, err := m.top()
	if err != nil {
		return err
	}
	switch v := v.(type) {
	case *List:
		v.Items = append(v.Items, items...)
	case *Set:
		v.Items = append(v.Items, items...)
	case *Object: // of a class that extends list
	default:
		return fmt.Errorf("appends to %s", TypeName(v))
	}
	return m.budget.Take(int64(len(items)) * 16)
}

func (m *machine) setTop(items []any) error {
	v, err := m.top()
	if err != nil {
		return err
	}
	switch v := v.(type) {
	case *Dict:
		return m.setItems(v, items)
	case *Object: // of a class that extends dict
		return nil
	}
	return fmt.Errorf("sets entries of %s", TypeName(v))
}

func (m *machine) setItems(d *Dict, items []any) error {
	if len(items)%2 != 0 {
		return errors.New("gives a dict a key without a value")
	}
	for i := 0; i < len(items); i += 2 {
		if err := d.set(&m.budget, items[i], items[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// Memo.

func (m *machine) put(i int64) error {
	v, err := m.top()
	if err != nil {
		return err
	}
	if i < 0 {
		return fmt.Errorf("memo index %d is negative", i)
	}
	m.memo[i] = v
	return m.budget.Take(costValue)
}

func (m *machine) get(i int64) error {
	v, ok := m.memo[i]
	if !ok {
		return fmt.Errorf("reads memo %d, which was never written", i)
	}
	return m.push(v)
}

func (m *machine) textMemo(do func(int64) error) error {
	s, err := m.line()
	if err != nil {
		return err
	}
	i, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return fmt.Errorf("%.40q is no memo index", s)
	}
	return do(i)
}

func (m *machine) binaryMemo(size int, do func(int64) error) error {
	i, err := m.uint(size)
	if err != nil {
		return err
	}
	return do(int64(i)) //nolint:gosec // at most four bytes
}

// Names and calls.

func (m *machine) global(module, name string) error {
	if n := len(module) + len(name); n > maxName {
		return fmt.Errorf("names a global by %d bytes; %d are allowed", n, maxName)
	}
	if err := m.budget.Take(int64(len(module) + len(name))); err != nil {
		return err
	}
	full := module + "." + name
	if v, ok := m.opts.Globals[full]; ok {
		return m.push(v)
	}
	if v, ok := builtins[full]; ok {
		return m.push(v)
	}
	if v, ok := m.inert[[2]string{module, name}]; ok {
		return m.push(v)
	}
	// Quoting keeps control characters of a hostile name off the reader's terminal; an honest name comes out as it is.
	quoted := strconv.Quote(full[:min(len(full), 200)])
	quoted = quoted[1 : len(quoted)-1]
	if m.opts.Inert != nil && m.opts.Inert(module, name) {
		m.inert[[2]string{module, name}] = Inert(quoted)
		return m.pushOr(Inert(quoted), m.budget.Take(int64(costEntry+len(quoted))))
	}
	return &refusal{quoted}
}

func (m *machine) call(callee any, args Tuple) error {
	switch f := callee.(type) {
	case Func:
		v, err := f(&m.budget, args)
		return m.pushOr(v, err)
	case Inert:
		return m.push(&Object{Class: f, Args: args})
	case *Object: // what an inert call gave, such as functools.partial
		return m.push(&Object{Class: f.Class, Args: args})
	}
	return fmt.Errorf("calls %s, which is no function", TypeName(callee))
}

func (m *machine) build() error {
	items, err := m.popN(1)
	if err != nil {
		return err
	}
	v, err := m.top()
	if err != nil {
		return err
	}
	switch v := v.(type) {
	case *Dict, *Set:
		return nil // attributes of an OrderedDict, such as a state dict's _metadata, carry no entries
	case Builder:
		return v.Build(&m.budget, items[0])
	}
	return fmt.Errorf("sets the state of %s", TypeName(v))
}

func (m *machine) persistent(id any) error {
	if m.opts.Persistent == nil {
		return errors.New("refers to data outside the pickle by a persistent id")
	}
	v, err := m.opts.Persistent(id)
	return m.pushOr(v, err)
}
