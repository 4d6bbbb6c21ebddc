// Package scripts tests the shell scripts beside it.
package scripts

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// place is a copy of the scripts with a lock file of small wheels, a package index that serves them, and an empty cache.
type place struct {
	t                  *testing.T
	dir, index, cache  string
	env                []string
	torch, runtimeFile string
}

// fakePython answers `-m pip` from $INDEX, writing down what was asked for, and is python3 otherwise. $FAIL names a
// requirement it cannot serve, $HANG one at which it waits.
const fakePython = `#!/usr/bin/env bash
set -euo pipefail
[ "$1 $2" != "-m pip" ] || [ -z "${NOPIP:-}" ] || exit 1
case "$*" in
*find_spec*) echo "" ;;
"-m pip --version") ;;
"-m pip "*)
  for requirement; do :; done
  while [ "$1" != --dest ]; do shift; done
  [ "$requirement" != "${FAIL:-}" ] || exit 1
  echo "$requirement" >>"$INDEX/asked"
  mkdir -p "$2"
  echo half >"$TMPDIR/half-fetched"
  [ "$requirement" != "${HANG:-}" ] || sleep 60
  cp "$INDEX/${requirement%%==*}"-*.whl "$2/" ;;
*) exec python3 "$@" ;;
esac
`

func newPlace(t *testing.T) *place {
	t.Helper()
	for _, tool := range []string{"bash", "flock", "python3", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the scripts need %s, which is not installed", tool)
		}
	}
	dir := t.TempDir()
	p := &place{
		t: t, dir: dir, index: filepath.Join(dir, "index"), cache: filepath.Join(dir, "cache", "l2ul"),
		torch: "torch-9.9.9-cp312-cp312-any.whl", runtimeFile: "runtime-1.0-py3-none-any.whl",
	}
	for _, script := range []string{"common.sh", "wheels.sh", "libtorch.sh"} {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		p.write("scripts/"+script, string(text))
	}
	p.write("python", fakePython)
	torchSum := p.wheel(p.torch, "torch/include/ATen/ATen.h", "torch/lib/libtorch_cpu.so", "torch/lib/libtorch_cuda.so", "torch/version.py")
	runtimeSum := p.wheel(p.runtimeFile, "nvidia/cu13/lib/libcudart.so.13", "nvidia/cu13/include/cuda.h")
	p.write("third_party/libtorch.lock", fmt.Sprintf("version 9.9.9\nbuild 9.9.9+cu1\npython 3.12\nwheel torch==9.9.9 %s %s\nwheel runtime==1.0 %s %s\n",
		p.torch, torchSum, p.runtimeFile, runtimeSum))
	p.env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Dir(p.cache), "PYTHON="+filepath.Join(dir, "python"), "INDEX="+p.index, "LIBTORCH=")
	return p
}

func (p *place) write(name, text string) {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		p.t.Fatal(err)
	}
}

// library is the bytes of some library that the loader can load, to stand for libtorch's.
func library(t *testing.T) string {
	t.Helper()
	path, err := exec.CommandContext(t.Context(), "g++", "-print-file-name=libm.so.6").Output()
	if err != nil {
		t.Skipf("no g++ to ask for a library: %v", err)
	}
	text, err := os.ReadFile(strings.TrimSpace(string(path)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// wheel puts a wheel with the named members into the index and returns its sha256.
func (p *place) wheel(name string, members ...string) string {
	p.t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, member := range members {
		f, err := w.Create(member)
		if err != nil {
			p.t.Fatal(err)
		}
		text := member
		if strings.HasSuffix(member, "libtorch_cpu.so") || strings.HasSuffix(member, "libtorch_cuda.so") {
			text = library(p.t)
		}
		if _, err := io.WriteString(f, text); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		p.t.Fatal(err)
	}
	p.write("index/"+name, buf.String())
	return fmt.Sprintf("%x", sha256.Sum256(buf.Bytes()))
}

func (p *place) command(env ...string) *exec.Cmd {
	cmd := exec.CommandContext(p.t.Context(), "bash", filepath.Join(p.dir, "scripts", "libtorch.sh"))
	cmd.Env = slices.Concat(p.env, env)
	return cmd
}

// run runs libtorch.sh and returns what it printed.
func (p *place) run(env ...string) (stdout, stderr string, err error) {
	var out, diag bytes.Buffer
	cmd := p.command(env...)
	cmd.Stdout, cmd.Stderr = &out, &diag
	err = cmd.Run()
	return strings.TrimSuffix(out.String(), "\n"), diag.String(), err
}

// asked lists what the index was asked for since the last call.
func (p *place) asked() string {
	text, err := os.ReadFile(filepath.Join(p.index, "asked"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(p.index, "asked"))
	return strings.Join(strings.Fields(string(text)), " ")
}

// wantCache fails unless the cache holds entries that match these patterns, one each, and nothing else but its marks.
func (p *place) wantCache(patterns ...string) {
	p.t.Helper()
	entries, err := os.ReadDir(p.cache)
	if err != nil {
		p.t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		if e.Name() != "CACHEDIR.TAG" && filepath.Ext(e.Name()) != ".lock" {
			found = append(found, e.Name())
		}
	}
	ok := len(found) == len(patterns)
	for i := 0; ok && i < len(found); i++ {
		ok, _ = filepath.Match(patterns[i], found[i])
	}
	if !ok {
		p.t.Errorf("the cache holds %q, want %q", found, patterns)
	}
}

func TestFetch(t *testing.T) {
	p := newPlace(t)
	out, diag, err := p.run()
	if err != nil {
		t.Fatalf("%v\n%s", err, diag)
	}
	if got := p.asked(); got != "torch==9.9.9 runtime==1.0" {
		t.Errorf("asked the index for %q", got)
	}
	p.wantCache("libtorch-9.9.9-*")
	if filepath.Base(out) != "torch" {
		t.Errorf("printed %q, want the path of a torch folder alone", out)
	}
	for name, want := range map[string]bool{
		"include/ATen/ATen.h": true, "lib/libtorch_cpu.so": true, "../nvidia/cu13/lib/libcudart.so.13": true,
		"lib/libtorch_cuda.so": false, "../nvidia/cu13/include/cuda.h": false,
	} {
		if _, err := os.Stat(filepath.Join(out, name)); (err == nil) != want {
			t.Errorf("%s unpacked: %v, want %v", name, err == nil, want)
		}
	}

	again, diag, err := p.run("NOPIP=1")
	if err != nil || again != out {
		t.Errorf("the second run printed %q, %v, want %q from the cache\n%s", again, err, out, diag)
	}
}

func TestFetchCUDA(t *testing.T) {
	p := newPlace(t)
	cublas := "cublas-2.0-py3-none-any.whl"
	sum := p.wheel(cublas, "nvidia/cublas/lib/libcublas.so.13", "nvidia/cublas/include/cublas.h")
	lock, err := os.ReadFile(filepath.Join(p.dir, "third_party/libtorch.lock"))
	if err != nil {
		t.Fatal(err)
	}
	p.write("third_party/libtorch.lock", fmt.Sprintf("%scuda cublas==2.0 %s %s\n", lock, cublas, sum))
	cmd := p.command()
	cmd.Args = append(cmd.Args, "--cuda")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := p.asked(); got != "torch==9.9.9 runtime==1.0 cublas==2.0" {
		t.Errorf("asked the index for %q", got)
	}
	for name, want := range map[string]bool{
		"lib/libtorch_cuda.so": true, "../nvidia/cublas/lib/libcublas.so.13": true, "../nvidia/cublas/include/cublas.h": false,
	} {
		if _, err := os.Stat(filepath.Join(strings.TrimSpace(string(out)), name)); (err == nil) != want {
			t.Errorf("%s unpacked: %v, want %v", name, err == nil, want)
		}
	}
	// The CPU's flavour knows nothing of it.
	if _, diag, err := p.run(); err != nil {
		t.Fatalf("%v\n%s", err, diag)
	}
	if got := p.asked(); got != "torch==9.9.9 runtime==1.0" {
		t.Errorf("without --cuda the index was asked for %q", got)
	}
	p.wantCache("libtorch-9.9.9-*", "libtorch-cuda-9.9.9-*")
}

func TestFetchGoesOnWhereItFailed(t *testing.T) {
	p := newPlace(t)
	if _, diag, err := p.run("FAIL=runtime==1.0"); err == nil || !strings.Contains(diag, "could not fetch runtime==1.0") {
		t.Fatalf("%v\n%s", err, diag)
	}
	p.wantCache("wheels-*")
	p.asked()
	if _, diag, err := p.run(); err != nil {
		t.Fatalf("%v\n%s", err, diag)
	}
	if got := p.asked(); got != "runtime==1.0" {
		t.Errorf("the second run asked for %q, want runtime==1.0 alone", got)
	}
	p.wantCache("libtorch-9.9.9-*")
}

func TestFetchRefusesOtherBytes(t *testing.T) {
	p := newPlace(t)
	p.write("index/"+p.runtimeFile, "other bytes")
	out, diag, err := p.run()
	if err == nil || out != "" || !strings.Contains(diag, "sha256") {
		t.Errorf("printed %q, %v, want an error about the sha256\n%s", out, err, diag)
	}
	p.wantCache("wheels-*")
	if kept, _ := filepath.Glob(filepath.Join(p.cache, "wheels-*", "runtime*")); len(kept) != 0 {
		t.Errorf("kept %q", kept)
	}
}

func TestFetchStoppedLeavesNothingHalf(t *testing.T) {
	p := newPlace(t)
	cmd := p.command("HANG=runtime==1.0")
	// A terminal sends its signals to the whole group; so do we, pip included.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if text, _ := os.ReadFile(filepath.Join(p.index, "asked")); strings.Contains(string(text), "runtime") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the second wheel was never asked for")
		}
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("a stopped run ended with status 0")
	}
	p.wantCache("wheels-*")
}

func TestNoPip(t *testing.T) {
	p := newPlace(t)
	_, diag, err := p.run("NOPIP=1")
	if err == nil || !strings.Contains(diag, "apt-get install -y --no-install-recommends python3-pip") {
		t.Errorf("%v, want the line to type\n%s", err, diag)
	}
}

func TestLibtorchVariable(t *testing.T) {
	const versionHeader = "#define TORCH_VERSION_MAJOR %d\n#define TORCH_VERSION_MINOR %d\n#define TORCH_VERSION_PATCH 0\n"
	lib := library(t)
	for _, c := range []struct {
		name  string
		files map[string]string
		point string // what LIBTORCH names
		want  string // folder printed, or part of the error
		fails bool
		says  string
	}{
		{
			name: "zip", files: map[string]string{"z/lib/libtorch_cpu.so": lib, "z/build-version": "9.9.9+cpu\n", "z/include/ATen/ATen.h": ""},
			point: "z", want: "z", says: "libtorch 9.9.9+cpu from LIBTORCH=",
		},
		{
			name: "wheel", files: map[string]string{"s/torch/lib/libtorch_cpu.so": lib, "s/torch/version.py": "__version__ = '2.12.0+cu130'\n", "s/torch/include/ATen/ATen.h": ""},
			point: "s", want: "s/torch", says: "9.9.9 is the tested version",
		},
		{
			name: "system", files: map[string]string{
				"usr/lib64/libtorch_cpu.so": lib, "usr/include/ATen/ATen.h": "",
				"usr/include/torch/csrc/api/include/torch/version.h": fmt.Sprintf(versionHeader, 2, 6),
			},
			point: "usr", want: "usr", says: "libtorch 2.6.0 from",
		},
		{
			name: "too old", files: map[string]string{
				"usr/lib/libtorch_cpu.so": lib, "usr/include/ATen/ATen.h": "",
				"usr/include/torch/csrc/api/include/torch/version.h": fmt.Sprintf(versionHeader, 1, 13),
			},
			point: "usr", fails: true, says: "libtorch 1.13.0; 2.6 or newer is needed",
		},
		{name: "absent", point: "nowhere", fails: true, says: "is not a folder"},
		{name: "no library", files: map[string]string{"z/include/ATen/ATen.h": ""}, point: "z", fails: true, says: "no lib/libtorch_cpu.so"},
		{name: "no headers", files: map[string]string{"z/lib/libtorch_cpu.so": lib}, point: "z", fails: true, says: "no include/ATen/ATen.h"},
		{
			name: "not a library", files: map[string]string{"z/lib/libtorch_cpu.so": "text", "z/build-version": "9.9.9\n", "z/include/ATen/ATen.h": ""},
			point: "z", fails: true, says: "is not a library that this machine can load",
		},
		{
			name: "no version", files: map[string]string{"z/lib/libtorch_cpu.so": lib, "z/include/ATen/ATen.h": ""},
			point: "z", fails: true, says: "does not tell its version",
		},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			p := newPlace(t)
			for name, text := range c.files {
				p.write(name, text)
			}
			out, diag, err := p.run("LIBTORCH=" + filepath.Join(p.dir, c.point))
			if (err != nil) != c.fails || !strings.Contains(diag, c.says) {
				t.Errorf("%v, want failure %v and %q\n%s", err, c.fails, c.says, diag)
			}
			if !c.fails && out != filepath.Join(p.dir, c.want) {
				t.Errorf("printed %q, want %q", out, c.want)
			}
		})
	}
}
