// Package filelock lets one process at a time do what is dear or would clash.
package filelock

import (
	"context"
	"errors"
	"time"

	"github.com/gofrs/flock"
)

// Wait locks the file at a path, which is made where it is missing, and returns the lock, to be closed. While another process has it,
// waiting, which may be nil, is called once, and Wait waits until ctx ends. The end of a process unlocks all it has.
func Wait(ctx context.Context, path string, waiting func()) (*flock.Flock, error) {
	lock := flock.New(path)
	locked, err := lock.TryLock()
	if err == nil && !locked {
		if waiting != nil {
			waiting()
		}
		_, err = lock.TryLockContext(ctx, 100*time.Millisecond)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}
