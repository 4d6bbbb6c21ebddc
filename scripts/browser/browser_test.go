package browser

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// fixtures are the run folders of unlearn/report's own tests.
const fixtures = "unlearn/report/testdata/runs"

// repository is the root of the repository.
func repository(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// program builds unlearn, once.
var program = sync.OnceValues(func() (string, error) {
	path, err := filepath.Abs(filepath.Join("..", "..", "bin", "unlearn"))
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-trimpath", "-o", path, "./cmd/unlearn")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return string(out), err
	}
	return path, nil
})

func unlearn(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatalf("%v: %s", err, path)
	}
	c := exec.CommandContext(t.Context(), path, args...)
	c.Dir = repository(t)
	return c
}

// open opens a page in a window of some width, and fails the test at its end for whatever the browser complained about.
func open(t *testing.T, address string, width, height int64) context.Context {
	t.Helper()
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium on this machine: the page is not looked at")
	}
	allocator, stop := chromedp.NewExecAllocator(t.Context(), append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.WSURLReadTimeout(2*time.Minute))...) // root has no sandbox
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	ctx, end := context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(end)
	var mu sync.Mutex
	var complaints []string
	chromedp.ListenTarget(ctx, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			complaints = append(complaints, e.ExceptionDetails.Error())
		case *runtime.EventConsoleAPICalled:
			complaints = append(complaints, "console."+e.Type.String())
		case *log.EventEntryAdded:
			if !strings.HasSuffix(e.Entry.URL, "/favicon.ico") { // which browsers ask servers for, unasked
				complaints = append(complaints, e.Entry.Text)
			}
		}
	})
	run(t, ctx, emulation.SetDeviceMetricsOverride(width, height, 1, false), chromedp.Navigate(address))
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		if complaints != nil {
			t.Errorf("the browser complained: %q", complaints)
		}
	})
	return ctx
}

func run(t *testing.T, ctx context.Context, actions ...chromedp.Action) {
	t.Helper()
	if err := chromedp.Run(ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

// eval returns the value of an expression in the page.
func eval[T any](t *testing.T, ctx context.Context, expression string) (value T) {
	t.Helper()
	run(t, ctx, chromedp.Evaluate(expression, &value, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	return value
}

// report writes the report of the fixtures and returns its address.
func report(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.html")
	if out, err := unlearn(t, "report", fixtures, "--html", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return "file://" + path
}

// gridReport writes the report of a grid with claims, and an analysis with numbers, and returns its address.
func gridReport(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "cells"), os.DirFS(filepath.Join(repository(t), fixtures))); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"grid.json": `{"schema":"unlearn.grid/1","name":"g","title":"A grid","axes":[{"key":"method"},{"key":"k"}],"columns":["k"],
			"cells":[{"id":"a","folder":"cells/adv-0","labels":{"method":"adv","k":"4"}},{"id":"b","folder":"cells/oracle-0","labels":{"method":"oracle","k":"4"}},
				{"id":"c","folder":"cells/many-0","labels":{"method":"neggrad","k":"16"}}],
			"checks":[{"claim":"every run reaches its goal","outcome":"held","source":"the paper","detail":["yes  2 runs"]},{"claim":"adv > oracle","outcome":"did not hold"}]}`,
		"cells/adv-0/analyses/labels.json": `{"title":"Labels","reading":"Read it.","data":{"entropy":1.5,"rows":[{"label":1,"after":2}]}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "report.html")
	if out, err := unlearn(t, "report", dir, "--html", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return "file://" + path
}

// shown are the texts of one column of the rows that are to be seen.
const shown = `(column) => [...document.querySelectorAll("#table tbody tr")].filter((r) => !r.hidden).map((r) => r.cells[column].textContent)`

func column(t *testing.T, ctx context.Context, n string) []string {
	t.Helper()
	return eval[[]string](t, ctx, "("+shown+")("+n+")")
}

func TestSortAndFilterByKeyboard(t *testing.T) {
	ctx := open(t, report(t), 1280, 900)
	original := column(t, ctx, "5")
	header := `#table thead th:nth-child(6) button` // D_test
	sorted := func() string {
		return eval[string](t, ctx, `document.querySelector("#table thead th:nth-child(6)").getAttribute("aria-sort")`)
	}
	run(t, ctx, chromedp.Focus(header), chromedp.KeyEvent(kb.Enter))
	want := []string{"20.00", "30.00", "55.00 ± 190.59", "60.00", "82.00 ± 4.97", "85.00", "88.00", "90.00 ± 0.00", "90.00"}
	if got := column(t, ctx, "5"); !slices.Equal(got, want) || sorted() != "ascending" {
		t.Errorf("upwards (%s): %q", sorted(), got)
	}
	run(t, ctx, chromedp.KeyEvent(" "))
	if got := column(t, ctx, "5"); got[0] != "90.00 ± 0.00" || got[len(got)-1] != "20.00" || sorted() != "descending" {
		t.Errorf("downwards (%s): %q", sorted(), got)
	}
	run(t, ctx, chromedp.KeyEvent(kb.Enter))
	if got := column(t, ctx, "5"); !slices.Equal(got, original) || sorted() != "none" {
		t.Errorf("put back (%s): %q, at first %q", sorted(), got, original)
	}
	// What was not measured comes last in either direction.
	for range 2 {
		run(t, ctx, chromedp.Focus(`#table thead th:nth-child(9) button`), chromedp.KeyEvent(kb.Enter))
		if got := column(t, ctx, "8"); got[len(got)-1] != "-" || got[0] == "-" {
			t.Errorf("steps: %q", got)
		}
	}

	run(t, ctx, chromedp.SendKeys("#filter", "k=4 ADV"))
	if got := column(t, ctx, "1"); len(got) != 2 || !slices.Contains(got, "adv") || !slices.Contains(got, "adv-imp") {
		t.Errorf("filtered by k=4 ADV: %q", got)
	}
	if got := eval[string](t, ctx, `document.getElementById("count").textContent`); got != "2 of 9 rows" {
		t.Errorf("count %q", got)
	}
	run(t, ctx, chromedp.KeyEvent(kb.Backspace), chromedp.KeyEvent(kb.Backspace), chromedp.KeyEvent(kb.Backspace), chromedp.SendKeys("#filter", "method=adv"))
	if got := column(t, ctx, "1"); !slices.Equal(got, []string{"adv"}) {
		t.Errorf("filtered by method=adv: %q", got)
	}
}

// The table of a grid stays readable where it is scrolled: the names of its rows stay where they are.
func TestGridTableKeepsItsNames(t *testing.T) {
	ctx := open(t, gridReport(t), 375, 800)
	if got := eval[string](t, ctx, `[...document.querySelectorAll(".pivot tbody tr")].map((r) => r.cells[0].textContent).join(" ")`); got != "before adv oracle neggrad" {
		t.Errorf("rows %q", got)
	}
	const left = `document.querySelector(".pivot tbody th").getBoundingClientRect().left`
	before := eval[float64](t, ctx, left)
	moved := eval[float64](t, ctx, `(() => { const w = document.querySelector(".wide"); w.scrollLeft = 100; return w.scrollLeft; })()`)
	if after := eval[float64](t, ctx, left); moved != 100 || after != before {
		t.Errorf("scrolled by %v, names went from %v to %v", moved, before, after)
	}
}

// TestFitsPhones wants nothing but the tables to be wider than a phone.
func TestFitsPhones(t *testing.T) {
	for name, address := range map[string]string{"phone.png": report(t), "phone-grid.png": gridReport(t)} {
		ctx := open(t, address, 375, 800)
		run(t, ctx, chromedp.Evaluate(`document.querySelectorAll("details").forEach((d) => { d.open = true; })`, nil))
		if wide := eval[int](t, ctx, "document.documentElement.scrollWidth"); wide > 375 {
			t.Errorf("%s: the page is %d pixels wide on 375", name, wide)
		}
		screenshot(t, ctx, name)
	}
}

func TestPrints(t *testing.T) {
	ctx := open(t, report(t), 1280, 900)
	var pdf []byte
	run(t, ctx, chromedp.ActionFunc(func(ctx context.Context) (err error) {
		pdf, _, err = page.PrintToPDF().WithPaperWidth(8.27).WithPaperHeight(11.69).Do(ctx)
		return err
	}))
	if !strings.HasPrefix(string(pdf), "%PDF-") {
		t.Errorf("%.20q is no PDF", pdf)
	}
	keep(t, "print.pdf", pdf)
}

// TestAccessible asks axe-core, in light and in dark.
func TestAccessible(t *testing.T) {
	axe, err := os.ReadFile(filepath.Join(repository(t), "build", "axe.min.js"))
	if err != nil {
		t.Skip("no build/axe.min.js: scripts/browser/axe.sh fetches it")
	}
	for _, scheme := range []string{"light", "dark"} {
		t.Run(scheme, func(t *testing.T) {
			ctx := open(t, report(t), 1280, 900)
			run(t, ctx, emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}))
			accessible(t, ctx, string(axe))
			screenshot(t, ctx, scheme+".png")
		})
	}
	t.Run("grid", func(t *testing.T) { accessible(t, open(t, gridReport(t), 375, 800), string(axe)) })
	t.Run("live", func(t *testing.T) { accessible(t, open(t, serve(t), 1280, 900), string(axe)) })
}

func accessible(t *testing.T, ctx context.Context, axe string) {
	t.Helper()
	run(t, ctx, chromedp.Evaluate(axe+";0", nil), chromedp.Evaluate(`document.querySelectorAll("details").forEach((d) => { d.open = true; })`, nil))
	found := eval[struct {
		Passes     int
		Violations []string
	}](t, ctx, `axe.run().then((r) => ({ passes: r.passes.length,
		violations: r.violations.map((v) => v.id + ": " + v.help + " at " + v.nodes.slice(0, 3).map((n) => n.target.join(" ")).join(", ")) }))`)
	if len(found.Violations) > 0 {
		t.Errorf("axe-core: %s", strings.Join(found.Violations, "\n"))
	}
	if found.Passes < 10 {
		t.Errorf("axe-core found only %d rules to pass: did it see the page?", found.Passes)
	}
}

// serve starts unlearn report --serve and returns its address.
func serve(t *testing.T) string {
	t.Helper()
	c := unlearn(t, "report", fixtures, "--serve", "127.0.0.1:0")
	c.Cancel = func() error { return os.ErrProcessDone } // the test's end does not kill it: the signal below ends it
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Process.Signal(syscall.SIGINT); err != nil {
			t.Error(err)
		}
		if err := c.Wait(); err != nil {
			t.Errorf("after SIGINT: %v", err)
		}
	})
	lines := bufio.NewScanner(stderr)
	lines.Scan()
	address := regexp.MustCompile(`^http://127\.0\.0\.1:\d+/`).FindString(lines.Text())
	if address == "" {
		t.Fatalf("it says %q", lines.Text())
	}
	return address
}

func TestLivePage(t *testing.T) {
	ctx := open(t, serve(t), 1280, 900)
	run(t, ctx, chromedp.WaitVisible("#runs tbody tr:nth-child(11)"))
	if got := eval[string](t, ctx, `[...document.querySelectorAll("#runs tbody tr")].at(-1).textContent`); !strings.Contains(got, "working-0") || !strings.Contains(got, "before its first step") {
		t.Errorf("the last row says %q", got)
	}
}

func screenshot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	var image []byte
	run(t, ctx, chromedp.FullScreenshot(&image, 100))
	keep(t, name, image)
}

// keep writes what was seen into $L2UL_SCREENSHOTS, for people to look at.
func keep(t *testing.T, name string, data []byte) {
	t.Helper()
	dir := os.Getenv("L2UL_SCREENSHOTS")
	if dir == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
}
