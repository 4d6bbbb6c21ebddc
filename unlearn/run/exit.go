package run

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	"l2ul/unlearn/data"
)

// The exit codes of the program. Schedulers may retry 75 and nothing else without looking.
const (
	ExitOK          = 0   // done, goal reached
	ExitFailed      = 1   // failed while running
	ExitUsage       = 2   // mistake in flags or configuration
	ExitNotReached  = 3   // finished, but the goal was not reached
	ExitInput       = 4   // input missing or corrupt
	ExitDevice      = 5   // device missing, too old or out of memory
	ExitOutside     = 6   // results are not what was claimed of them
	ExitResumable   = 75  // stopped by a signal, checkpoint saved
	ExitInterrupted = 130 // stopped by SIGINT, nothing saved; or by a second SIGINT
	ExitTerminated  = 143 // stopped by SIGTERM or SIGUSR1, nothing saved
)

// Error is an error with an exit code.
type Error struct {
	Code int
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ExitCode returns Code.
func (e *Error) ExitCode() int { return e.Code }

// Usagef makes a usage error (exit code 2).
func Usagef(format string, args ...any) error { return &Error{ExitUsage, fmt.Errorf(format, args...)} }

// Inputf makes an error about a missing or corrupt input (exit code 4).
func Inputf(format string, args ...any) error { return &Error{ExitInput, fmt.Errorf(format, args...)} }

// Devicef makes an error about the device (exit code 5).
func Devicef(format string, args ...any) error {
	return &Error{ExitDevice, fmt.Errorf(format, args...)}
}

// NotReachedf makes the error of a run that ended properly without reaching its goal (exit code 3).
func NotReachedf(format string, args ...any) error {
	return &Error{ExitNotReached, fmt.Errorf(format, args...)}
}

// Stopped is the error of a job that a signal ended.
type Stopped struct {
	Signal     os.Signal
	Checkpoint string // path of the checkpoint to resume from, "" when nothing was saved

	again func(checkpoint string) string // as for Signals
}

func (e *Stopped) Error() string {
	switch {
	case e.Checkpoint == "":
		return fmt.Sprintf("stopped by %s, nothing saved", signalName(e.Signal))
	case e.again == nil:
		return fmt.Sprintf("stopped by %s; go on with %s", signalName(e.Signal), ResumeLine(nil, e.Checkpoint))
	}
	return fmt.Sprintf("stopped by %s; go on with `%s`", signalName(e.Signal), e.again(e.Checkpoint))
}

// ExitCode is 75 when the job can be resumed, else 130 or 143.
func (e *Stopped) ExitCode() int {
	switch {
	case e.Checkpoint != "":
		return ExitResumable
	case e.Signal == os.Interrupt:
		return ExitInterrupted
	default:
		return ExitTerminated
	}
}

func signalName(s os.Signal) string {
	switch s {
	case os.Interrupt:
		return "SIGINT"
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGUSR1:
		return "SIGUSR1"
	}
	return s.String()
}

// ExitCode maps an error to the exit code of the program. A type with a method ExitCode() int chooses for itself, the
// outermost in the chain first; the types of rooms that know nothing of exit codes are classed here. Everything else is
// ExitFailed. A file that is not there is an input error only where a job says so with Inputf: it may be an output.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	var coded interface {
		error
		ExitCode() int
	}
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	var (
		badData  *data.InputError
		badWish  *data.UsageError
		badKeys  *nn.MismatchError
		badValue *nn.NonFiniteError
		native   *torch.Error
	)
	switch {
	case errors.As(err, &badWish):
		return ExitUsage
	case errors.As(err, &badData), errors.As(err, &badKeys), errors.As(err, &badValue), errors.Is(err, ckpt.ErrCorrupt):
		return ExitInput
	case errors.As(err, &native) && native.Code == torch.OutOfMemory:
		return ExitDevice
	}
	return ExitFailed
}
