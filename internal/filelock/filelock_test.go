package filelock

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"
)

// Locks of one file exclude each other within a process as well, which stands for two processes here.
func TestWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Wait(t.Context(), path, func() { t.Error("waiting for nobody") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := Wait(ctx, path, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lock that another has: error %v", err)
	}
	waited := 0
	second, err := Wait(t.Context(), path, func() {
		waited++
		if err := first.Close(); err != nil {
			t.Error(err)
		}
	})
	if err != nil || waited != 1 {
		t.Fatalf("waited %d times, error %v", waited, err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Wait(t.Context(), filepath.Join(t.TempDir(), "absent", "lock"), nil); err == nil {
		t.Error("a lock in no folder")
	}
}
