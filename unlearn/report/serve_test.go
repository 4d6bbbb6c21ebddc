package report_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"l2ul/unlearn/report"
)

// serve shows folders until the test ends, and wants nothing left behind then.
func serve(t *testing.T, paths ...string) (address string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan string, 1), make(chan error, 1)
	before := goleak.IgnoreCurrent()
	go func() { ended <- report.Serve(ctx, "127.0.0.1:0", paths, func(u string) { ready <- u }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("ended with %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
		goleak.VerifyNone(t, before)
	})
	select {
	case at := <-ready:
		u, err := url.Parse(at)
		if err != nil {
			t.Fatal(err)
		}
		return u.Host
	case err := <-ended:
		t.Fatal(err)
		return ""
	}
}

// ask sends a request as it stands, which http.Client would tidy up, and returns status and body.
func ask(t *testing.T, address, request string) (*http.Response, string) {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func TestServeAnswersLittle(t *testing.T) {
	at := serve(t, runs)
	_, port, _ := net.SplitHostPort(at)
	for _, c := range []struct {
		method, path, host string
		want               int
	}{
		{"GET", "/", at, 200},
		{"HEAD", "/", at, 200},
		{"GET", "/", "localhost:" + port, 200},
		{"GET", "/report", at, 200},
		{"GET", "/status.json", at, 200},
		{"GET", "/", "evil.example:" + port, 421}, // a name that was made to resolve to this machine
		{"GET", "/status.json", "evil.example", 421},
		{"GET", "/", "127.0.0.1", 421}, // another port
		{"GET", "/", "127.0.0.1.evil.example:" + port, 421},
		{"POST", "/", at, 405},
		{"PUT", "/status.json", at, 405},
		{"DELETE", "/report", at, 405},
		{"OPTIONS", "/", at, 405},
		{"GET", "/../../../../etc/passwd", at, 404},
		{"GET", "/%2e%2e/%2e%2e/etc/passwd", at, 404},
		{"GET", "/..%2f..%2fetc%2fpasswd", at, 404},
		{"GET", "/report/../../etc/passwd", at, 404},
		{"GET", "//etc/passwd", at, 404},
		{"GET", "/adv-0/result.json", at, 404},
		{"GET", "/status.json/", at, 404},
	} {
		response, body := ask(t, at, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", c.method, c.path, c.host)) //nolint:bodyclose // ask closes it
		if response.StatusCode != c.want {
			t.Errorf("%s %s of %s: %d, want %d", c.method, c.path, c.host, response.StatusCode, c.want)
		}
		if strings.Contains(body, "root:") || c.method == "HEAD" && body != "" {
			t.Errorf("%s %s: body %.80q", c.method, c.path, body)
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
		} {
			if got := response.Header.Get(name); got != want {
				t.Errorf("%s %s: %s is %q", c.method, c.path, name, got)
			}
		}
		if rules := response.Header.Get("Content-Security-Policy"); !strings.HasPrefix(rules, "default-src 'none'") || strings.Contains(rules, "unsafe") {
			t.Errorf("%s %s: policy %q", c.method, c.path, rules)
		}
	}
}

// A run that goes on is shown further on.
func TestServeShowsProgress(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "working-0"), os.DirFS(runs+"/working-0")); err != nil {
		t.Fatal(err)
	}
	at := serve(t, dir)
	state := func() string {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at+"/status.json", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var status struct {
			Runs  [][]string
			Error string
		}
		if err := json.NewDecoder(response.Body).Decode(&status); err != nil {
			t.Fatal(err)
		}
		if status.Error != "" || len(status.Runs) != 1 {
			t.Fatalf("status %+v", status)
		}
		return status.Runs[0][4]
	}
	if got := state(); got != "before its first step" {
		t.Errorf("at first %q", got)
	}
	line := fmt.Sprintf(`{"event":"metric","time":%q,"phase":"unlearn","step":7,"values":{"loss":-1.5,"hits":0}}`+"\n", time.Now().UTC().Format(time.RFC3339))
	if err := os.WriteFile(filepath.Join(dir, "working-0", "metrics.jsonl"), []byte(line), 0o644); err != nil {
		t.Fatal(err)
	}
	got := ""
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if got = state(); strings.HasPrefix(got, "unlearn, step 7, loss -1.5") {
			return
		}
	}
	t.Errorf("20 seconds later still %q", got)
}

// A stream at work is where the run of its newest request is.
func TestServeShowsStreams(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "stream")
	for _, name := range []string{"001-a", "002-b"} {
		if err := os.CopyFS(filepath.Join(dir, "requests", name), os.DirFS(runs+"/working-0")); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"argv.txt": "unlearn continual\n", "config.yaml": "method: adv\nstop-scope: request\nseed: 3\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if left := load(t, dir).Left(); left != "Not in the table: 1 run not finished." {
		t.Error(left)
	}
	at := serve(t, dir)
	response, body := ask(t, at, "GET /status.json HTTP/1.1\r\nHost: "+at+"\r\nConnection: close\r\n\r\n")
	response.Body.Close()
	if want := `["stream","adv","","3","002-b: before its first step","","","",""]`; !strings.Contains(body, want) {
		t.Errorf("%s is not in\n%s", want, body)
	}
}

func TestServeStaysOnTheLoopback(t *testing.T) {
	for address, want := range map[string]string{
		"0.0.0.0:0": "is not the loopback", ":0": "is not the loopback", "192.0.2.1:80": "is not the loopback", "example.org:80": "is not the loopback", "8080": "is no HOST:PORT",
	} {
		err := report.Serve(t.Context(), address, []string{runs}, func(string) { t.Errorf("%s is served", address) })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", address, err, want)
		}
	}
}

// The report is made once for each state of the folders: what changes without a trace in names, sizes and times is not seen, what
// leaves one is, and many who ask at once get the same.
func TestServeMakesTheReportOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.CopyFS(dir, os.DirFS(runs+"/adv-0")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "analyses", "labels.json")
	then := time.Now().Add(-time.Hour)
	write := func(title string, at time.Time) {
		t.Helper()
		if err := os.WriteFile(path, []byte(`{"title":"`+title+`"}`), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	write("Title one", then)
	at := serve(t, dir)
	get := func() string {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at+"/report", nil)
		if err != nil {
			return err.Error()
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return err.Error()
		}
		return string(body)
	}
	var together sync.WaitGroup
	pages := make([]string, 8)
	for i := range pages {
		together.Go(func() { pages[i] = get() })
	}
	together.Wait()
	for _, p := range pages {
		if p != pages[0] || !strings.Contains(p, "Title one") {
			t.Fatalf("%.200s", p)
		}
	}
	write("Title two", then)
	if p := get(); p != pages[0] {
		t.Error("it was made again, and nothing tells that it must be")
	}
	if err := os.WriteFile(filepath.Join(dir, "metrics.jsonl"), nil, 0o644); err != nil { // as a run at work writes it all along
		t.Fatal(err)
	}
	if p := get(); p != pages[0] {
		t.Error("it was made again for a step of a run")
	}
	write("Title two", then.Add(time.Second))
	if p := get(); !strings.Contains(p, "Title two") {
		t.Error("an analysis that changed is not in it")
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if p := get(); !strings.Contains(p, "no such file") {
		t.Errorf("a folder that is gone: %.200s", p)
	}
}
