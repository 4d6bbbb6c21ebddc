package main

import (
	"bytes"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// The manual page is roff without a warning, and tells of every command, flag and topic.
func TestManual(t *testing.T) {
	app, err := newApp(io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	printManual(&page, app)
	for line := range strings.Lines(page.String()) {
		if strings.HasPrefix(line, "'") || strings.IndexFunc(line, func(r rune) bool { return r > '~' }) >= 0 {
			t.Errorf("roff would misread %q", line)
		}
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip("groff is not installed, so the page is not set")
	}
	c := exec.CommandContext(t.Context(), groff, "-man", "-Tutf8", "-ww", "-P-c", "-P-b", "-P-u", "-rLL=1000n")
	c.Stdin = &page
	var shown, warnings bytes.Buffer
	c.Stdout, c.Stderr = &shown, &warnings
	if err := c.Run(); err != nil || warnings.Len() > 0 {
		t.Fatalf("%v: %s", err, warnings.String())
	}
	text := strings.Join(strings.Fields(shown.String()), " ")
	eachCommand(app.Commands, func(c *cli.Command) {
		if !strings.Contains(text, usageLine(c)+" "+c.Usage+".") {
			t.Errorf("the page does not tell of %s", usageLine(c))
		}
		for _, f := range c.Flags {
			if o, ok := f.(*optionFlag); ok && !strings.Contains(text, strings.Join(strings.Fields(o.row()[0]+" "+o.row()[1]), " ")) {
				t.Errorf("the page does not tell of %s of %s", o.row()[0], c.HelpName)
			}
		}
	})
	for name, topic := range topics {
		for line := range strings.Lines(topic()) {
			if line = strings.Join(strings.Fields(line), " "); !strings.Contains(text, line) && !strings.Contains(text, strings.ToUpper(line)) {
				t.Errorf("topic %s: the page lacks %q", name, line)
			}
		}
	}
}

func TestRoff(t *testing.T) {
	for text, want := range map[string]string{
		".x": `\&.x`, "'x": `\&\(aqx`, `a\b`: `a\eb`, "--eps": `\-\-eps`, "Ω̄": `\[u03A9]\[u0304]`, "plain": "plain", "~^`\"": `\(ti\(ha\(ga\(dq`,
	} {
		if got := roff(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
