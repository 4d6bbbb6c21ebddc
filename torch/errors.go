package torch

import (
	"fmt"
	"strings"
)

// Code classes what went wrong in an [Error].
type Code int

// The classes of errors.
const (
	Native      Code = iota + 1 // libtorch refused: shapes, dtypes, devices or values do not fit
	Argument                    // an argument does not fit the operator's schema
	Handle                      // a tensor or generator that was freed, or never defined
	NoScope                     // a tensor made outside a scope, or kept with no scope above
	OutOfMemory                 // the allocator has no room
	NoOperator                  // this libtorch has no such operator, or one with another schema
	Unsupported                 // the operator is not implemented for this device or dtype
	Outside                     // what the computation was to read could not be had; Err says why
)

// Error is the panic of numeric code: a mistake in shapes, types or handles, or a failure inside libtorch. [Run] and
// [Try] turn it into a returned error.
type Error struct {
	Op     string    // the operation, as "aten::conv2d" or the name of the Go function
	Code   Code      // the class of the mistake
	Msg    string    // what libtorch or the bridge said, without a C++ backtrace
	Shapes [][]int64 // shapes of the tensor arguments, in order; nil for one that is freed or undefined
	Err    error     // the cause, if it came from outside
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", e.Op, strings.TrimSpace(e.Msg))
	if len(e.Shapes) > 0 {
		b.WriteString(" (shapes")
		for _, s := range e.Shapes {
			if s == nil {
				b.WriteString(" none")
				continue
			}
			fmt.Fprintf(&b, " %v", s)
		}
		b.WriteByte(')')
	}
	return b.String()
}

// withoutOp takes the name of the operator off a message that begins with it, as those of l2ul do because Python shows
// nothing else.
func withoutOp(op, msg string) string {
	if rest, ok := strings.CutPrefix(msg, op); ok && strings.IndexAny(rest, ": ") == 0 {
		return strings.TrimLeft(rest, ": ")
	}
	return msg
}

func (e *Error) addShape(t Tensor) { e.Shapes = append(e.Shapes, t.shapeOrNil()) }
