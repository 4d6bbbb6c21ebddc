package fetch

import (
	"context"
	"crypto/md5" //nolint:gosec // all that is published of some files
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// ErrOffline is what errors.Is finds where a connection would have been needed and none is allowed.
var ErrOffline = errors.New("the network is not to be used (--offline, HF_HUB_OFFLINE)")

// StatusError is an answer of a server that is not the file.
type StatusError struct {
	Code int           // of HTTP
	wait time.Duration // what the server asks for before the next attempt
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the server answers %d %s", e.Code, http.StatusText(e.Code))
}

// refusal is an error that no further attempt would cure.
type refusal struct{ error }

func (e refusal) Unwrap() error { return e.error }

func refuse(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }

// final reports whether trying again is useless.
func final(err error) bool {
	if _, ok := errors.AsType[refusal](err); ok {
		return true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if lookup, ok := errors.AsType[*net.DNSError](err); ok {
		return lookup.IsNotFound
	}
	status, ok := errors.AsType[*StatusError](err)
	return ok && status.Code < 500 && status.Code != http.StatusTooManyRequests && status.Code != http.StatusRequestTimeout
}

// statusError is the error of an answer whose status is none of those that are wanted.
func statusError(resp *http.Response, wanted ...int) error {
	if slices.Contains(wanted, resp.StatusCode) {
		return nil
	}
	e := &StatusError{Code: resp.StatusCode}
	after := resp.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(after); err == nil && seconds > 0 {
		e.wait = time.Duration(min(seconds, 1e6)) * time.Second
	} else if date, err := http.ParseTime(after); err == nil {
		e.wait = time.Until(date)
	}
	return e
}

// check refuses a source before a connection is made for it.
func (c *Client) check(src Source) error {
	u, err := url.Parse(src.URL)
	switch {
	case err != nil:
		return fmt.Errorf("%q is no address: %w", src.URL, cause(err))
	case u.Host == "":
		return fmt.Errorf("%q is no address: it names no server", u.Redacted())
	case c.Offline:
		return fmt.Errorf("%s: %w", u.Redacted(), ErrOffline)
	case src.Size < 0 || src.Limit < 0:
		return fmt.Errorf("%s: neither the size %d nor the limit %d can be negative", u.Redacted(), src.Size, src.Limit)
	}
	if err := trusted(u, u, src); err != nil {
		return fmt.Errorf("%s: %w", u.Redacted(), err)
	}
	return nil
}

// trusted refuses addresses that anybody on the way could answer for, unless a sum tells what is right, and those of this machine unless the first address was
// one already, so that no server sends us to a neighbour.
func trusted(u, first *url.URL, src Source) error {
	switch {
	case loopback(u) && !loopback(first):
		return refuse("the server redirects to %s, which is this machine", u.Host)
	case loopback(u) && (u.Scheme == "http" || u.Scheme == "https"):
		return nil
	case u.Scheme == "http" && (len(src.SHA256) == hex.EncodedLen(sha256.Size) || len(src.MD5) == hex.EncodedLen(md5.Size)):
		return nil // nobody has made a file for a given MD5 yet; two that share one are another matter
	case u.Scheme != "https":
		return refuse("%s://%s is not https, so anybody on the way could change the file", u.Scheme, u.Host)
	}
	return nil
}

func loopback(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// maxRedirects is net/http's own.
const maxRedirects = 10

// do makes one request. elsewhere allows redirects to other hosts, which never see src.Header.
func (c *Client) do(ctx context.Context, method string, src Source, extra http.Header, elsewhere bool) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, src.URL, nil)
	if err != nil {
		return nil, refusal{cause(err)}
	}
	for _, header := range []http.Header{src.Header, extra} {
		for name, values := range header {
			req.Header[name] = values
		}
	}
	req.Header.Set("Accept-Encoding", "identity") // lengths are those of the file
	client := http.Client{Transport: c.Transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return refuse("more than %d redirects", maxRedirects)
		}
		if next.URL.Host != req.URL.Host {
			if !elsewhere {
				return http.ErrUseLastResponse
			}
			for name := range src.Header {
				next.Header.Del(name)
			}
		}
		next.Header.Del("Referer") // an address can hold a secret
		return trusted(next.URL, req.URL, src)
	}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, cause(err)
	}
	return resp, nil
}

// cause is an error of net/http without the address before it, which may be that of a redirect and hold a signature.
func cause(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// redacted is an address for people to read, without a password in it.
func redacted(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return strconv.Quote(address)
	}
	return u.Redacted()
}
