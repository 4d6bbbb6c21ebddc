package fetch

import (
	"context"
	"crypto/md5" //nolint:gosec // all that is published of some files
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/renameio/v2"
)

// download is a file on its way to path.
type download struct {
	client   *Client
	src      Source
	path     string
	progress func(done, total int64)
}

// The bytes that have come, and the ETag of the version they are of. The latter is written first, so that it always tells.
func (d *download) part() string { return d.path + ".part" }
func (d *download) etag() string { return d.path + ".part.etag" }

// maxETag is more than any server sends.
const maxETag = 4 << 10

// kept returns how much is there to go on with, and of which version; 0 where there is no way to tell the latter.
func (d *download) kept() (offset int64, etag string) {
	info, err := os.Stat(d.part())
	if err != nil {
		return 0, ""
	}
	text, err := os.ReadFile(d.etag())
	if err != nil || !strong(string(text)) {
		return 0, ""
	}
	return info.Size(), string(text)
}

// strong reports whether an ETag vouches for bytes. A weak one (W/"…") allows changes, and a server without any has none.
func strong(etag string) bool {
	return len(etag) > 2 && len(etag) <= maxETag && etag[0] == '"' && etag[len(etag)-1] == '"' && !strings.ContainsAny(etag, "\r\n")
}

// drop forgets what has come.
func (d *download) drop() error { return errors.Join(remove(d.part()), remove(d.etag())) }

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return refusal{err}
	}
	return nil
}

// attempt makes one request and keeps what it brings; when that completes the file, it is verified and gets its name.
func (d *download) attempt(ctx context.Context) (gained int64, err error) {
	offset, etag := d.kept()
	extra := http.Header{}
	if offset > 0 {
		extra.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		extra.Set("If-Range", etag)
	}
	watched, s := watch(ctx, d.client.patient())
	defer s.stop()
	resp, err := d.client.do(watched, http.MethodGet, d.src, extra, true)
	if err != nil {
		return 0, s.reason(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset > 0 {
		return 0, errors.Join(fmt.Errorf("the server does not go on at byte %d", offset), d.drop())
	}
	if err := statusError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		return 0, err
	}
	total := resp.ContentLength
	if resp.StatusCode == http.StatusPartialContent {
		total, err = totalOf(resp, offset)
		if version := resp.Header.Get("ETag"); err == nil && version != "" && version != etag {
			err = errors.New("the server goes on with another version of the file")
		}
		if err != nil {
			return 0, errors.Join(err, d.drop())
		}
	} else {
		offset = 0
	}
	if err := d.checkSize(resp, total); err != nil {
		return 0, err
	}
	if offset == 0 {
		if err := d.begin(resp.Header.Get("ETag")); err != nil {
			return 0, err
		}
	}
	return d.receive(resp.Body, s, offset, total)
}

// totalOf is the size of a file of which an answer is the part from offset on, as both of its headers must say.
func totalOf(resp *http.Response, offset int64) (int64, error) {
	var first, last, total int64
	text := resp.Header.Get("Content-Range")
	if n, _ := fmt.Sscanf(text, "bytes %d-%d/%d", &first, &last, &total); n != 3 || first != offset || last != total-1 || last < first {
		return 0, fmt.Errorf("the server was asked for what follows byte %d and sends %.100q", offset, text)
	}
	if resp.ContentLength >= 0 && resp.ContentLength != total-offset {
		return 0, fmt.Errorf("the server sends %d bytes and calls them %.100q", resp.ContentLength, text)
	}
	return total, nil
}

// checkSize refuses a file of total bytes, -1 if the server does not say.
func (d *download) checkSize(resp *http.Response, total int64) error {
	size, limit := d.src.Size, d.limit()
	switch {
	case size > 0 && total >= 0 && total != size:
		return refuse("the file has %d bytes, not %d: it is another one than was asked for", total, size)
	case total > limit:
		return refuse("the file has %d bytes, more than the %d that are allowed", total, limit)
	case total < 0 && size == 0 && d.src.SHA256 == "" && d.src.MD5 == "" && resp.ProtoMajor == 1 && len(resp.TransferEncoding) == 0:
		return refuse("the server does not say how long the file is, so a cut one would look whole; give its sha256")
	}
	return nil
}

func (d *download) limit() int64 {
	if d.src.Size > 0 {
		return d.src.Size
	}
	return d.src.Limit
}

// begin starts the file anew.
func (d *download) begin(etag string) error {
	if err := d.drop(); err != nil {
		return err
	}
	if !strong(etag) {
		return nil
	}
	if err := renameio.WriteFile(d.etag(), []byte(etag), 0o644, renameio.WithTempDir(filepath.Dir(d.path))); err != nil {
		return refusal{err}
	}
	return nil
}

// receive appends a body to what has come.
func (d *download) receive(body io.Reader, s *stall, offset, total int64) (gained int64, err error) {
	f, err := os.OpenFile(d.part(), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return 0, refusal{err}
	}
	defer f.Close()
	sums := d.src.sums()
	out := &sink{file: io.MultiWriter(f, sums), done: offset, total: max(total, d.src.Size), stall: s, progress: d.progress}
	// Hashing what an earlier attempt brought leaves the file where the next byte goes.
	if n, err := io.Copy(sums, io.LimitReader(f, offset)); err != nil || n != offset {
		return 0, errors.Join(refuse("%s changed while it was read", d.part()), err)
	}
	bound := d.limit() - offset
	if total >= 0 {
		bound = total - offset
	}
	gained, err = io.Copy(out, io.LimitReader(body, min(bound, math.MaxInt64-1)+1))
	switch {
	case out.err != nil:
		return gained, refusal{out.err}
	case err != nil:
		return gained, fmt.Errorf("cut off after %d bytes: %w", offset+gained, s.reason(err))
	case gained > bound:
		return gained, errors.Join(refuse("the server sends more than the %d bytes that the file may have", offset+bound), d.drop())
	case offset+gained < max(total, d.src.Size):
		return gained, fmt.Errorf("cut off after %d of %d bytes", offset+gained, max(total, d.src.Size))
	}
	if err := sums.verify(); err != nil {
		if offset == 0 { // else what an earlier attempt left may be at fault
			err = refusal{err}
		}
		return 0, errors.Join(err, d.drop())
	}
	return gained, d.finish(f)
}

// finish gives the file its name, in a way that survives a power cut.
func (d *download) finish(f *os.File) error {
	if err := f.Sync(); err != nil {
		return refusal{err}
	}
	if err := os.Rename(d.part(), d.path); err != nil {
		return refusal{err}
	}
	folder, err := os.Open(filepath.Dir(d.path))
	if err != nil {
		return refusal{err}
	}
	if err := errors.Join(folder.Sync(), folder.Close()); err != nil {
		return refusal{err}
	}
	return remove(d.etag())
}

// sink is where a body goes.
type sink struct {
	file        io.Writer
	done, total int64
	stall       *stall
	progress    func(done, total int64)
	err         error // of the disk, which is not the server's fault
}

func (s *sink) Write(p []byte) (n int, err error) {
	n, s.err = s.file.Write(p)
	s.done += int64(n)
	s.stall.brought.Add(int64(n))
	if s.progress != nil {
		s.progress(s.done, max(s.total, 0))
	}
	return n, s.err
}

// sum is computed of what comes and compared with what is known of it.
type sum struct {
	hash.Hash
	name, want string // the first digits of the value, in hex
}

type sums []sum

func (s Source) sums() sums {
	all := sums{{sha256.New(), "sha256", s.SHA256}}
	if s.MD5 != "" {
		all = append(all, sum{md5.New(), "md5", s.MD5}) //nolint:gosec // as above
	}
	return all
}

func (s sums) Write(p []byte) (int, error) {
	for _, one := range s {
		_, _ = one.Hash.Write(p) // never fails
	}
	return len(p), nil
}

func (s sums) verify() error {
	for _, one := range s {
		if got := hex.EncodeToString(one.Sum(nil)); !strings.HasPrefix(got, strings.ToLower(one.want)) {
			return fmt.Errorf("the content has the %s %s, not %s", one.name, got, one.want)
		}
	}
	return nil
}

// stall cuts a connection that brings next to nothing.
type stall struct {
	brought  atomic.Int64
	patience time.Duration
	ctx      context.Context //nolint:containedctx // of the one request that it watches
	stop     func()
}

// errStalled is why such a connection was cut.
var errStalled = errors.New("stalled")

// watch returns a context for one request, which ends when less than leastBytes came within patience.
func watch(parent context.Context, patience time.Duration) (context.Context, *stall) {
	ctx, cancel := context.WithCancelCause(parent)
	s := &stall{patience: patience, ctx: ctx, stop: func() { cancel(nil) }}
	go func() {
		ticker := time.NewTicker(patience)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if s.brought.Swap(0) < leastBytes {
					cancel(errStalled)
				}
			}
		}
	}()
	return ctx, s
}

// reason is why a request failed: err, unless the watch ended it.
func (s *stall) reason(err error) error {
	if context.Cause(s.ctx) == errStalled { //nolint:errorlint // the very value
		return errors.New("less than " + strconv.Itoa(leastBytes) + " bytes came in " + s.patience.String())
	}
	return err
}
