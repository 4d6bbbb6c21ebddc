package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// content is bytes without a pattern that a wrong offset would hide in.
func content(n int, seed byte) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data)
	return data
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// impatient is a client for servers on this machine.
func impatient() *Client {
	return &Client{patience: 300 * time.Millisecond, backoff: time.Millisecond}
}

// script answers the first request by its first handler and so on, all further ones by the last, and counts.
type script struct {
	handlers []http.HandlerFunc
	requests atomic.Int64
	ranges   sync.Map // request number → Range header
}

func serve(t *testing.T, handlers ...http.HandlerFunc) (address string, s *script) {
	t.Helper()
	s = &script{handlers: handlers}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(s.requests.Add(1))
		s.ranges.Store(n, r.Header.Get("Range"))
		s.handlers[min(n, len(s.handlers))-1](w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/file", s
}

// whole serves data as web servers do: with an ETag, ranges and If-Range.
func whole(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"`+digest(data)[:16]+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

// cut serves what handler does and closes the connection after n bytes of the body.
func cut(n int, handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		handler(&cutter{w, n}, r)
	}
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	c.left -= n
	if c.left == 0 && err == nil {
		http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// raw writes an answer byte by byte as given, headers and all, and closes the connection.
func raw(answer string, body []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, strings.ReplaceAll(answer, "\n", "\r\n"))
		_, _ = conn.Write(body)
	}
}

// holds fails unless the folder holds exactly these names.
func holds(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		found = append(found, e.Name())
	}
	if fmt.Sprint(found) != fmt.Sprint(names) {
		t.Errorf("the folder holds %q, want %q", found, names)
	}
}

func TestFetch(t *testing.T) {
	data, other := content(3<<20, 1), content(3<<20, 2)
	size := int64(len(data))
	for _, c := range []struct {
		name     string
		handlers []http.HandlerFunc
		src      Source // without URL
		requests int64
		refused  string // "" if it succeeds
	}{
		{"plain", []http.HandlerFunc{whole(data)}, Source{SHA256: digest(data), Size: size}, 1, ""},
		{"prefix of the sha256, upper case", []http.HandlerFunc{whole(data)}, Source{SHA256: strings.ToUpper(digest(data)[:8]), Limit: size}, 1, ""},
		{"nothing known but a limit", []http.HandlerFunc{whole(data)}, Source{Limit: size}, 1, ""},
		{"cut twice", []http.HandlerFunc{cut(1<<20, whole(data)), cut(1000, whole(data)), whole(data)}, Source{SHA256: digest(data)}, 3, ""},
		{"cut for ever, but it gets on", []http.HandlerFunc{cut(3<<19, whole(data)), status(500), status(502), status(503), status(504), whole(data)}, Source{}, 6, ""},
		{"cut, and Range is ignored", []http.HandlerFunc{cut(1<<20, whole(data)), func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			whole(data)(w, r)
		}}, Source{SHA256: digest(data)}, 2, ""},
		{"cut, and the file changes", []http.HandlerFunc{cut(1<<20, whole(other)), whole(data)}, Source{SHA256: digest(data)}, 2, ""},
		{"cut, the file changes, and If-Range is ignored", []http.HandlerFunc{cut(1<<20, whole(other)), func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("If-Range")
			whole(data)(w, r)
		}, whole(data)}, Source{}, 3, ""},
		{"cut, then 416", []http.HandlerFunc{cut(1<<20, whole(data)), status(416), whole(data)}, Source{}, 3, ""},
		{"cut, then a part from elsewhere", []http.HandlerFunc{cut(1<<20, whole(data)), func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Range", "bytes=7-")
			whole(data)(w, r)
		}, whole(data)}, Source{}, 3, ""},
		{"cut without an ETag", []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(other)))
			cut(1<<20, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(other) })(w, r)
		}, whole(data)}, Source{}, 2, ""},
		{"429 and 500 first", []http.HandlerFunc{status(429), status(500), whole(data)}, Source{}, 3, ""},
		{"stalls once", []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, whole(data)}, Source{}, 2, ""},
		{"redirected on this machine", []http.HandlerFunc{http.RedirectHandler("/there", http.StatusFound).ServeHTTP, whole(data)}, Source{}, 2, ""},

		{"other content", []http.HandlerFunc{whole(other)}, Source{SHA256: digest(data)}, 1, "the content has the sha256 " + digest(other) + ", not " + digest(data)},
		{"other size", []http.HandlerFunc{whole(data[1:])}, Source{Size: size}, 1, "the file has 3145727 bytes, not 3145728"},
		{"too large", []http.HandlerFunc{whole(data)}, Source{Limit: 1000}, 1, "more than the 1000 that are allowed"},
		{"endless", []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write(data)
			}
		}}, Source{Limit: 5 << 20}, 1, "sends more than the 5242880 bytes"},
		{"longer than the known size", []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).Flush() // makes it chunked, without a length
			_, _ = w.Write(data)
		}}, Source{Size: size - 1}, 1, "sends more than the 3145727 bytes"},
		{"of no length that is known", []http.HandlerFunc{raw("HTTP/1.1 200 OK\nConnection: close\n\n", data)}, Source{}, 1, "does not say how long the file is"},
		{"shorter than it says", []http.HandlerFunc{raw(fmt.Sprintf("HTTP/1.1 200 OK\nContent-Length: %d\n\n", size), data[:1000])}, Source{}, 5, "cut off after 1000 bytes: unexpected EOF (the last of 5 attempts)"},
		{"parts that contradict themselves", []http.HandlerFunc{
			raw(fmt.Sprintf("HTTP/1.1 200 OK\nETag: \"a\"\nContent-Length: %d\n\n", size), data[:1000]),
			raw(fmt.Sprintf("HTTP/1.1 206 OK\nETag: \"a\"\nContent-Range: bytes 1000-%d/%d\nContent-Length: 3\n\n", size-1, size), data[:3]),
			status(404),
		}, Source{}, 3, "404 Not Found"},
		{"absent", []http.HandlerFunc{status(404)}, Source{}, 1, "the server answers 404 Not Found"},
		{"down", []http.HandlerFunc{status(500)}, Source{}, 5, "500 Internal Server Error (the last of 5 attempts)"},
		{"416 for a whole file", []http.HandlerFunc{status(416)}, Source{}, 1, "416"},
		{"asks to come back tomorrow", []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(http.StatusTooManyRequests)
		}}, Source{}, 1, "asks to wait for 24h0m0s"},
		{"redirects for ever", []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
		}}, Source{}, 11, "more than 10 redirects"},
		{"redirects to plain http elsewhere", []http.HandlerFunc{http.RedirectHandler("http://example.com/file?signature=secret", http.StatusFound).ServeHTTP}, Source{}, 1, "http://example.com is not https"},
		{"redirects to a file", []http.HandlerFunc{http.RedirectHandler("file:///etc/passwd", http.StatusFound).ServeHTTP}, Source{}, 1, "is not https"},
		{"trickles", []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			for i := 0; r.Context().Err() == nil; i++ {
				_, _ = w.Write(data[i : i+1])
				http.NewResponseController(w).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		}}, Source{}, 5, "less than 4096 bytes came in 300ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			address, s := serve(t, c.handlers...)
			c.src.URL = address
			if c.src.Size == 0 && c.src.Limit == 0 {
				c.src.Limit = 1 << 30
			}
			dir := t.TempDir()
			path := filepath.Join(dir, "folder", "file")
			var done, total int64
			err := impatient().Fetch(t.Context(), c.src, path, func(d, n int64) { done, total = d, n })
			if got := s.requests.Load(); got != c.requests {
				t.Errorf("%d requests, want %d", got, c.requests)
			}
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) || strings.Contains(err.Error(), "secret") {
					t.Errorf("error %v, want one with %q", err, c.refused)
				}
				if _, err := os.Stat(path); err == nil {
					t.Error("the file appeared")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes that differ, %v", len(got), err)
			}
			if done != size || total != size {
				t.Errorf("progress ended at %d of %d", done, total)
			}
			holds(t, filepath.Dir(path), "file")
		})
	}
}

func TestResumesInAnotherProcess(t *testing.T) {
	data := content(2<<20, 3)
	address, s := serve(t, cut(1<<20, whole(data)), status(404), whole(data))
	path := filepath.Join(t.TempDir(), "file")
	src := Source{URL: address, SHA256: digest(data), Limit: 1 << 30}
	if err := impatient().Fetch(t.Context(), src, path, nil); err == nil {
		t.Fatal("fetched from a server that answers 404")
	}
	holds(t, filepath.Dir(path), "file.lock", "file.part", "file.part.etag")
	if err := impatient().Fetch(t.Context(), src, path, nil); err != nil {
		t.Fatal(err)
	}
	if asked, _ := s.ranges.Load(3); asked != "bytes=1048576-" {
		t.Errorf("the second process asked for %q", asked)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, data) {
		t.Error("the bytes differ")
	}
	holds(t, filepath.Dir(path), "file")
}

// TestDamagedPart damages what an earlier process left: the file is fetched anew.
func TestDamagedPart(t *testing.T) {
	data := content(2<<20, 4)
	address, s := serve(t, cut(1<<20, whole(data)), status(404), whole(data))
	path := filepath.Join(t.TempDir(), "file")
	src := Source{URL: address, SHA256: digest(data), Limit: 1 << 30}
	_ = impatient().Fetch(t.Context(), src, path, nil)
	if err := os.WriteFile(path+".part", make([]byte, 5000), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := impatient().Fetch(t.Context(), src, path, nil); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, data) || s.requests.Load() != 4 {
		t.Errorf("the bytes are right: %v, after %d requests", bytes.Equal(got, data), s.requests.Load())
	}
}

func TestTwoFetchOnce(t *testing.T) {
	data := content(1<<20, 5)
	address, s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(50 * time.Millisecond)
		whole(data)(w, r)
	})
	path := filepath.Join(t.TempDir(), "file")
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			if err := impatient().Fetch(t.Context(), Source{URL: address, Limit: 1 << 30}, path, nil); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := s.requests.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestContextEndsIt(t *testing.T) {
	stopped := errors.New("stopped")
	for name, handler := range map[string]http.HandlerFunc{
		"while it waits for bytes": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"between attempts":         status(500),
	} {
		t.Run(name, func(t *testing.T) {
			address, _ := serve(t, handler)
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(50*time.Millisecond, func() { cancel(stopped) })
			client := &Client{patience: time.Minute, backoff: time.Minute}
			if err := client.Fetch(ctx, Source{URL: address, Limit: 1}, filepath.Join(t.TempDir(), "file"), nil); !errors.Is(err, stopped) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// silent fails the test where a connection is made.
func silent(t *testing.T) *http.Transport {
	return &http.Transport{DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
		t.Errorf("a connection to %s was opened", address)
		return nil, errors.New("no network")
	}}
}

func TestOffline(t *testing.T) {
	client := &Client{Offline: true, Transport: silent(t)}
	path := filepath.Join(t.TempDir(), "folder", "file")
	src := Source{URL: "https://example.com/file", Limit: 1}
	if err := client.Fetch(t.Context(), src, path, nil); !errors.Is(err, ErrOffline) {
		t.Errorf("error %v", err)
	}
	if _, err := client.Head(t.Context(), src); !errors.Is(err, ErrOffline) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Dir(path)); err == nil {
		t.Error("a folder was made for nothing")
	}
	present := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(present, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := client.Fetch(t.Context(), src, present, nil); err != nil {
		t.Errorf("a file that is there: %v", err)
	}
}

// TestMD5 wants the sum of a sentence that is known for it, also of a transfer that was cut, and then plain http is enough.
func TestMD5(t *testing.T) {
	text := []byte("The quick brown fox jumps over the lazy dog")
	right := "9e107d9d372bb6826bd81d3542a419d6"
	for _, c := range []struct{ sum, says string }{{right, ""}, {"d41d8cd98f00b204e9800998ecf8427e", "the content has the md5 " + right}} {
		server, _ := serve(t, cut(10, whole(text)), whole(text))
		proxy, err := url.Parse(server)
		if err != nil {
			t.Fatal(err)
		}
		client := &Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}, backoff: time.Millisecond}
		path := filepath.Join(t.TempDir(), "file")
		err = client.Fetch(t.Context(), Source{URL: "http://example.com/a", MD5: c.sum, Limit: 100}, path, nil)
		if got, _ := os.ReadFile(path); c.says == "" && (err != nil || !bytes.Equal(got, text)) {
			t.Errorf("error %v, content %q", err, got)
		}
		if _, there := os.Stat(path); c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || there == nil) {
			t.Errorf("error %v; the file is there: %v", err, there == nil)
		}
	}
}

func TestRefusesSources(t *testing.T) {
	for _, c := range []struct {
		src  Source
		want string
	}{
		{Source{URL: "http://example.com/a", Limit: 1}, "http://example.com is not https"},
		{Source{URL: "http://example.com/a", SHA256: "9f86d081", Limit: 1}, "http://example.com is not https"},
		{Source{URL: "ftp://localhost/a", Limit: 1}, "is not https"},
		{Source{URL: "https:///a", Limit: 1}, "names no server"},
		{Source{URL: "https://user:geheim@example.com/%zz", Limit: 1}, "is no address"},
		{Source{URL: "https://example.com/a", Limit: -1}, "can be negative"},
	} {
		client := &Client{Transport: silent(t)}
		err := client.Fetch(t.Context(), c.src, filepath.Join(t.TempDir(), "file"), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.src.URL, err, c.want)
		}
	}
}

// TestHeadersStayHome redirects from one server to another: neither the token nor the address that sent us goes along.
func TestHeadersStayHome(t *testing.T) {
	var seen http.Header
	there, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Clone()
		_, _ = w.Write([]byte("body"))
	})
	var home atomic.Value
	here, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		home.Store(r.Header.Get("Authorization"))
		w.Header().Set("X-Linked-Etag", `"abc"`)
		http.Redirect(w, r, there, http.StatusFound)
	})
	src := Source{URL: here, Limit: 100, Header: http.Header{"Authorization": {"Bearer secret"}}}
	if err := impatient().Fetch(t.Context(), src, filepath.Join(t.TempDir(), "file"), nil); err != nil {
		t.Fatal(err)
	}
	if home.Load() != "Bearer secret" {
		t.Errorf("the first server saw %q", home.Load())
	}
	if seen == nil || seen.Get("Authorization") != "" || seen.Get("Referer") != "" {
		t.Errorf("the second server saw %v", seen)
	}
	seen = nil
	header, err := impatient().Head(t.Context(), src)
	if err != nil || header.Get("X-Linked-Etag") != `"abc"` || seen != nil {
		t.Errorf("Head: %v, %v; it went on to the other server: %v", header, err, seen != nil)
	}
}

func TestHeadFollowsItsOwnHost(t *testing.T) {
	address, _ := serve(t, http.RedirectHandler("/renamed", http.StatusTemporaryRedirect).ServeHTTP, whole([]byte("12345")))
	header, err := impatient().Head(t.Context(), Source{URL: address})
	if err != nil || header.Get("Content-Length") != "5" {
		t.Errorf("%v, %v", header, err)
	}
	address, _ = serve(t, status(404))
	_, err = impatient().Head(t.Context(), Source{URL: address})
	if e, ok := errors.AsType[*StatusError](err); !ok || e.Code != 404 {
		t.Errorf("error %v", err)
	}
}

func TestNoNeighbours(t *testing.T) {
	for _, c := range []struct {
		first, next string
		ok          bool
	}{
		{"https://example.com", "https://other.example/", true},
		{"https://example.com", "http://127.0.0.1:80", false},
		{"https://example.com", "https://localhost", false},
		{"https://example.com", "https://[::1]:8080", false},
		{"http://127.0.0.1:1", "http://localhost:2", true},
		{"http://127.0.0.1:1", "http://example.com", false},
	} {
		first, _ := url.Parse(c.first)
		next, _ := url.Parse(c.next)
		if err := trusted(next, first, Source{SHA256: "6075fbad"}); (err == nil) != c.ok {
			t.Errorf("from %s to %s: %v", c.first, c.next, err)
		}
	}
}

// FuzzPart answers a resumed request with any headers: whatever they are, a file that appears is the one that was asked for.
func FuzzPart(f *testing.F) {
	data := content(10_000, 6)
	sum := digest(data)
	f.Add(206, "bytes 5000-9999/10000", `"v"`, "5000", 5000)
	f.Add(200, "", "", "10000", 0)
	f.Add(206, "bytes 0-9999/10000", `W/"v"`, "", 0)
	f.Add(206, "bytes 5000-9223372036854775807/9223372036854775807", `"v"`, "", 5000)
	f.Fuzz(func(t *testing.T, code int, contentRange, etag, length string, from int) {
		if code < 200 || code > 599 || from < 0 || from > len(data) {
			return
		}
		path := filepath.Join(t.TempDir(), "file")
		for name, text := range map[string]string{".part": string(data[:5000]), ".part.etag": `"v"`} {
			if err := os.WriteFile(path+name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		client := &Client{backoff: time.Nanosecond, Transport: answer(func(r *http.Request) *http.Response {
			n, err := strconv.ParseInt(length, 10, 64)
			if err != nil || n < 0 {
				n = -1
			}
			return &http.Response{
				StatusCode: code, ProtoMajor: 2, ContentLength: n, Request: r, Body: io.NopCloser(bytes.NewReader(data[from:])),
				Header: http.Header{"Content-Range": {contentRange}, "Etag": {etag}},
			}
		})}
		err := client.Fetch(t.Context(), Source{URL: "https://example.com/", SHA256: sum, Limit: 1 << 20}, path, nil)
		if got, read := os.ReadFile(path); err == nil && digest(got) != sum || err != nil && read == nil {
			t.Errorf("%d bytes, error %v", len(got), err)
		}
	})
}

type answer func(*http.Request) *http.Response

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) { return a(r), nil }
