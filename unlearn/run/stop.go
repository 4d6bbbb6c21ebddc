package run

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// Signals returns a context that the first SIGINT, SIGTERM or SIGUSR1 cancels with a *Stopped as its cause: the job
// then ends its step, saves and returns. exit is called at the second SIGINT, and when the job has not come to its end
// within grace after the first signal (0 waits for ever): with what stopped the job, the newest checkpoint of it that is on
// disk, and the code to exit with, which is 130 for the second SIGINT whatever was saved. release undoes it all. again makes
// the command line that goes on from a checkpoint, for the message of a *Stopped.
//
// Only Go code runs here: the job alone may touch tensors.
func Signals(parent context.Context, grace time.Duration, again func(checkpoint string) string, exit func(*Stopped, int)) (ctx context.Context, release func()) {
	newest := &atomic.Value{}
	ctx, cancel := context.WithCancelCause(context.WithValue(parent, newestCheckpoint{}, newest))
	signals := make(chan os.Signal, 8)
	done := make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGUSR1)
	stopped := func(s os.Signal) *Stopped {
		path, _ := newest.Load().(string)
		if _, err := os.Stat(path); err != nil { // none was saved, or the job has no more need of it
			path = ""
		}
		return &Stopped{Signal: s, Checkpoint: path, again: again}
	}
	go func() {
		var first os.Signal
		var expired <-chan time.Time
		for {
			select {
			case s := <-signals:
				switch {
				case first == nil:
					first = s
					cancel(&Stopped{Signal: s, again: again})
					if grace > 0 {
						expired = time.After(grace)
					}
				case s == os.Interrupt:
					exit(stopped(s), ExitInterrupted)
				}
			case <-expired:
				stop := stopped(first)
				exit(stop, stop.ExitCode())
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

// newestCheckpoint is the key of a context's *atomic.Value, the path of the newest checkpoint.
type newestCheckpoint struct{}

// announcer returns what tells the handler of signals where a job that it must end at once can be taken up again.
func announcer(ctx context.Context) func(checkpoint string) {
	return func(checkpoint string) {
		if newest, ok := ctx.Value(newestCheckpoint{}).(*atomic.Value); ok {
			newest.Store(checkpoint)
		}
	}
}

// StopCause returns the signal that cancelled ctx as an error naming the checkpoint that was saved ("" for none), or
// nil when no signal did.
func StopCause(ctx context.Context, checkpoint string) error {
	var stopped *Stopped
	if errors.As(context.Cause(ctx), &stopped) {
		return &Stopped{Signal: stopped.Signal, Checkpoint: checkpoint, again: stopped.again}
	}
	return nil
}
