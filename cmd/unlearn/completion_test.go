package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"l2ul/internal/pty"
	"l2ul/torch/models"
)

// What may become of a line whose last word is begun: the values, without what they are, and whether files may stand there.
func TestComplete(t *testing.T) {
	app, err := newApp(io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"unlearn forg":                             "forget",
		"unlearn __":                               "",
		"unlearn frget ":                           "",
		"unlearn config s":                         "show schema",
		"unlearn config show sp":                   "split",
		"unlearn help exit":                        "exit-codes",
		"unlearn data fetch c":                     "cifar10 cifar100 cinic10",
		"unlearn data show shape":                  "shapes :dirs",
		"unlearn data show shapes ":                "",
		"unlearn analyze a b":                      ":dirs",
		"unlearn analyze --only c":                 "cka",
		"unlearn analyze --only cka,lab":           "cka,labels",
		"unlearn report a b":                       ":dirs",
		"unlearn runs rm a b":                      ":dirs",
		"unlearn verify x":                         ":files",
		"unlearn plan preset:l2ul/table-cifar10-s": "preset:l2ul/table-cifar10-small :files",
		"unlearn inspect x":                        ":files",
		"unlearn convert a.pt b":                   ":files",
		"unlearn convert a.pt b.npz ":              "",
		"unlearn config validate a.yaml preset:de": "preset:demo :files",
		"unlearn forget --meth":                    "--method",
		"unlearn forget --method adv":              "adv adv-imp",
		"unlearn forget --method=adv-":             "--method=adv-imp",
		"unlearn forget -m cifar-vit-t":            "cifar-vit-ti",
		"unlearn forget -m au":                     "auto",
		"unlearn forget --checkpoint x":            ":files",
		"unlearn forget --weights=x":               ":files --weights=",
		"unlearn forget --pgd-":                    "--pgd-eps --pgd-alpha --pgd-iter",
		"unlearn forget --eps 4 --ep":              "--epochs",
		"unlearn forget --config a.yaml --conf":    "--config",
		"unlearn forget --eps ":                    "",
		"unlearn forget --device c":                "cpu cuda",
		"unlearn forget --deterministic=f":         "--deterministic=false",
		"unlearn forget -c preset:de":              "preset:demo :files",
		"unlearn forget --output ":                 ":dirs",
		"unlearn forget --resume a":                "auto :files",
		"unlearn forget --forget c":                "class:",
		"unlearn forget --forget @a":               ":files @",
		"unlearn forget --set num-ad":              "num-adv=",
		"unlearn forget --set optimizer=ad":        "optimizer=adam optimizer=adamw",
		"unlearn forget --unknown=x":               "",
		"unlearn forget x -- --meth":               "",
		"unlearn bench run preset:l2ul/table-i":    "preset:l2ul/table-imagenet preset:l2ul/table-imagenet-small :files",
		"unlearn plan preset:l2ul/table-cifar10-":  "preset:l2ul/table-cifar10-small :files",
		"unlearn bench status g":                   ":dirs",
		"unlearn eval --splits train,te":           "train,test",
		"unlearn eval --json --spl":                "--splits",
	} {
		words := strings.Split(line, " ")
		var got []string
		for _, answer := range complete(app, words[1:]) {
			value, _, _ := strings.Cut(answer, "\t")
			got = append(got, strings.TrimSpace(value))
		}
		if d := cmp.Diff(want, strings.Join(got, " ")); d != "" {
			t.Errorf("%s:\n%s", line, d)
		}
	}
	if got := complete(app, []string{"eval", "-m", ""}); len(got) != len(models.Names())+1 {
		t.Errorf("%d networks, want all and auto", len(got))
	}
}

// No beginning of a command line makes it panic, whatever the words are.
func FuzzComplete(f *testing.F) {
	for _, line := range []string{"", "forget", "forget --eps", "forget --set a=", "forget -- -", "eval --splits ,", "help =", "forget --=x -m", "config show"} {
		f.Add(line)
	}
	app, err := newApp(io.Discard, io.Discard)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words := strings.Split(line, " ")
		for _, answer := range complete(app, words) {
			if !strings.HasPrefix(answer, words[len(words)-1]) && !strings.HasPrefix(answer, ":") {
				t.Errorf("%q: %q", line, answer)
			}
		}
	})
}

// A person types into a real shell that has read the script, with Tab after beginnings of words.
func TestShells(t *testing.T) {
	for _, s := range []struct {
		shell  string
		start  []string
		dumb   bool // needs no terminal that moves a cursor
		script string
	}{
		{"bash", []string{"--norc", "--noprofile", "-i"}, true, "unlearn() { if [ \"$1\" = __complete ]; then command unlearn \"$@\"; else echo \"<$*>\"; fi; }; . <(command unlearn completion bash)"},
		{"zsh", []string{"-f", "-i"}, true, "autoload -U compinit && compinit -D -u; unlearn() { if [[ $1 = __complete ]]; then command unlearn \"$@\"; else echo \"<$*>\"; fi; }; . <(command unlearn completion zsh)"},
		{"fish", []string{"--no-config", "-i"}, false, "function unlearn; if test \"$argv[1]\" = __complete; command unlearn $argv; else; echo \"<$argv>\"; end; end; command unlearn completion fish | source"},
	} {
		t.Run(s.shell, func(t *testing.T) {
			path, err := exec.LookPath(s.shell)
			if err != nil {
				t.Skipf("%s is not installed, so its script is not tried", s.shell)
			}
			dir := t.TempDir()
			for _, name := range []string{"a folder/weights.pt", "names.txt", "runs/first/forget.json"} {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			term := "dumb"
			if !s.dumb {
				term = "xterm"
			}
			enter, seen := shell(t, dir, term, path, s.start...)
			enter(s.script + "\n")
			enter("echo re''ady\n")
			seen("ready\r")
			for _, c := range [][2]string{
				{"unlearn forg\t--metho\tadv-i\t--device cud\t\n", "<forget --method adv-imp --device cuda>"},
				{"unlearn train -c preset:de\t\n", "<train -c preset:demo>"},
				{"unlearn forget --schema=x --save-format=sam\t\n", "<forget --schema=x --save-format=same>"},
				{"unlearn inspect a\tw\t\n", "<inspect a folder/weights.pt>"},
				{"unlearn split --forget @nam\t\n", "<split --forget @names.txt>"},
				{"unlearn split --forget @ru\tfi\tfo\t\n", "<split --forget @runs/first/forget.json>"},
				{"unlearn completion pow\t\n", "<completion powershell>"},
			} {
				enter(c[0])
				seen(c[1])
			}
		})
	}
}

// shell starts a shell on a terminal. enter types, and seen waits until a text has been shown.
func shell(t *testing.T, dir, term, path string, args ...string) (enter, seen func(text string)) {
	master, terminal := pty.Open(t)
	c := exec.CommandContext(t.Context(), path, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "TERM="+term, "HOME="+dir, "PS1=$ ", "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir, "XDG_DATA_HOME="+dir)
	c.Stdin, c.Stdout, c.Stderr = terminal, terminal, terminal
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	shown := make(chan string, 1000)
	go func() {
		defer close(shown)
		text := make([]byte, 4096)
		for {
			n, err := master.Read(text)
			if err != nil {
				return
			}
			shown <- string(text[:n])
		}
	}()
	all := ""
	return func(text string) {
			if _, err := master.WriteString(text); err != nil {
				t.Fatal(err)
			}
		}, func(text string) {
			t.Helper()
			for timeout := time.After(2 * time.Minute); !strings.Contains(all, text); {
				select {
				case more, ok := <-shown:
					if all += more; !ok {
						t.Fatalf("the shell has ended before %q; shown was\n%q", text, all)
					}
				case <-timeout:
					t.Fatalf("%q was never shown, but\n%q", text, all)
				}
			}
			_, all, _ = strings.Cut(all, text)
		}
}
