// Package fetch brings files from servers onto the disk: whole, verified, or not at all.
//
// What a server sends is hostile: it is bounded before it is written, measured against what the server said and what the
// caller knows, and gets its name only when all of that agrees. A transfer that was cut goes on where it stopped, in this
// process or in a later one.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"l2ul/internal/filelock"
)

// Source is a file on a server.
type Source struct {
	URL    string      // https; plain http on this machine, and elsewhere if a whole sum is known
	SHA256 string      // of its content in hex, or the first digits of that; "" if it is not known
	MD5    string      // the same, for files of which no SHA256 is published
	Size   int64       // of its content in bytes; 0 if it is not known
	Limit  int64       // the most bytes to take where Size is 0
	Header http.Header // sent to the host of URL and to no other
}

// Client fetches files. The zero value is ready for use.
type Client struct {
	// Offline refuses whatever needs a connection: only files that are on the disk can be had.
	Offline bool
	// Transport makes the connections; nil for net/http's own, which heeds HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
	Transport http.RoundTripper

	patience time.Duration // in which a connection must bring leastBytes; 0 for defaultPatience
	backoff  time.Duration // before the first retry, twice as long before the next; 0 for defaultBackoff
}

// Limits of patience. A transfer fails when so many attempts in a row brought less than worthwhile; a server that brings
// next to nothing counts as one that was cut.
const (
	attempts        = 5
	worthwhile      = 1 << 20
	leastBytes      = 4 << 10
	defaultPatience = 30 * time.Second
	defaultBackoff  = time.Second
	longestWait     = 2 * time.Minute // that a server may ask for
)

// Fetch makes the file of src appear at path, and its folder if need be. A file that is there already is taken as it is: it
// was verified when it came. Two processes that want the same path fetch once, the second waits. progress, if not nil, hears
// of the bytes that are on the disk and of all there will be, 0 if the server does not tell; it is called from one goroutine.
//
// Beside path lie path.part and path.part.etag while there is something to go on with, and path.lock.
func (c *Client) Fetch(ctx context.Context, src Source, path string, progress func(done, total int64)) error {
	if there, err := exists(path); there || err != nil {
		return err
	}
	if err := c.check(src); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	lock, err := filelock.Wait(ctx, path+".lock", nil)
	if err != nil {
		return fmt.Errorf("waiting for another process that fetches %s: %w", path, err)
	}
	defer lock.Close()
	there, err := exists(path)
	if err != nil {
		return err
	}
	if !there {
		d := &download{client: c, src: src, path: path, progress: progress}
		if err := c.retry(ctx, d.attempt); err != nil {
			return fmt.Errorf("%s: %w", redacted(src.URL), err)
		}
	}
	// Whoever waits for the lock finds the file when it gets it, so it does not matter that the lock's name is free again.
	return remove(lock.Path())
}

// Head asks for the headers of a file. Redirects to other hosts are not followed but returned.
func (c *Client) Head(ctx context.Context, src Source) (header http.Header, err error) {
	if err := c.check(src); err != nil {
		return nil, err
	}
	err = c.retry(ctx, func(ctx context.Context) (int64, error) {
		ctx, cancel := context.WithTimeout(ctx, c.patient())
		defer cancel()
		resp, err := c.do(ctx, http.MethodHead, src, nil, false)
		if err != nil {
			return 0, err
		}
		header = resp.Header
		err = resp.Body.Close()
		if resp.StatusCode/100 == 3 {
			return 0, err
		}
		return 0, errors.Join(statusError(resp, http.StatusOK), err)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", redacted(src.URL), err)
	}
	return header, nil
}

// retry calls try until it succeeds, fails for good, or failed too often in a row. try says how many bytes it brought.
func (c *Client) retry(ctx context.Context, try func(context.Context) (gained int64, err error)) error {
	wait := c.backoff
	if wait == 0 {
		wait = defaultBackoff
	}
	first := wait
	for failed := 1; ; failed++ {
		gained, err := try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if final(err) {
			return err
		}
		if gained >= worthwhile {
			failed, wait = 0, first
		}
		if failed == attempts {
			return fmt.Errorf("%w (the last of %d attempts)", err, attempts)
		}
		pause := wait/2 + rand.N(wait/2+1) // so that many jobs do not come back at once
		if status, ok := errors.AsType[*StatusError](err); ok && status.wait > 0 {
			if pause = status.wait; pause > longestWait {
				return fmt.Errorf("%w, and asks to wait for %s: try again then", err, pause)
			}
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		wait *= 2
	}
}

func (c *Client) patient() time.Duration {
	if c.patience == 0 {
		return defaultPatience
	}
	return c.patience
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// exists reports whether there is a file at path. Anything else there is an error.
func exists(path string) (bool, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !info.Mode().IsRegular():
		return false, fmt.Errorf("%s is in the way: it is no regular file", path)
	}
	return true, nil
}
