package run

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Signals returns a context that the first SIGINT, SIGTERM or SIGUSR1 cancels with a *Stopped as its cause: the job
// then ends its step, saves and returns. exit is called with 130 at the second SIGINT, and with the signal's own code
// when the job has not come to its end within grace after the first signal (0 waits for ever). release undoes it all.
//
// Only Go code runs here: the job alone may touch tensors.
func Signals(parent context.Context, grace time.Duration, exit func(code int)) (ctx context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 8)
	done := make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGUSR1)
	go func() {
		var first *Stopped
		var expired <-chan time.Time
		for {
			select {
			case s := <-signals:
				switch {
				case first == nil:
					first = &Stopped{Signal: s}
					cancel(first)
					if grace > 0 {
						expired = time.After(grace)
					}
				case s == os.Interrupt:
					exit(ExitInterrupted)
				}
			case <-expired:
				exit(first.ExitCode())
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}

// StopCause returns the signal that cancelled ctx as an error naming the checkpoint that was saved ("" for none), or
// nil when no signal did.
func StopCause(ctx context.Context, checkpoint string) error {
	var stopped *Stopped
	if errors.As(context.Cause(ctx), &stopped) {
		return &Stopped{Signal: stopped.Signal, Checkpoint: checkpoint}
	}
	return nil
}
