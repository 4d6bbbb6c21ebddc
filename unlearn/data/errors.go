package data

import (
	"errors"
	"fmt"
	"io/fs"
)

// InputError says that a file or the data in it is missing, corrupt or does not fit (exit status 4).
type InputError struct {
	Path string // the file or folder; a member of an archive is "archive:member"
	Msg  string // what is wrong, with the value and what to do
	Err  error  // the cause, if another error is behind it
}

func (e *InputError) Error() string {
	msg := e.Msg
	switch {
	case e.Err != nil && msg != "":
		msg += ": " + e.Err.Error()
	case e.Err != nil:
		msg = e.Err.Error()
	}
	if e.Path == "" {
		return msg
	}
	return e.Path + ": " + msg
}

func (e *InputError) Unwrap() error { return e.Err }

// UsageError says that what was asked for makes no sense, whatever the data is (exit status 2).
type UsageError struct{ Msg string }

func (e *UsageError) Error() string { return e.Msg }

// unreadable is the error of a file operation, which the path and the system's reason tell enough of.
func unreadable(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return &InputError{Path: p.Path, Err: p.Err}
	}
	return &InputError{Err: err}
}

func inputf(path, format string, args ...any) error {
	return &InputError{Path: path, Msg: fmt.Sprintf(format, args...)}
}

func usagef(format string, args ...any) error {
	return &UsageError{Msg: fmt.Sprintf(format, args...)}
}
