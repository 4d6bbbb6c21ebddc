// Package weights finds the file that --weights names: on this disk, in the caches of PyTorch and Hugging Face, or on a server.
//
// What is on the disk is taken without asking anybody. What comes from a server is verified by package fetch, and its sha256 is
// compared once more whenever it is read.
package weights

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"l2ul/torch/ckpt"
	"l2ul/unlearn/fetch"
)

// Finder knows where to look and where to put what it fetches.
type Finder struct {
	Client fetch.Client
	// Folder makes the folder for downloads that belong to no other program's cache.
	Folder func() (string, error)
	// Progress, if not nil, begins to show the download of a file.
	Progress func(name string) (progress func(done, total int64), end func())
}

// File is weights on this disk.
type File struct {
	Path   string // for ckpt.Load
	SHA256 string // of its content, in hex; where that is an index of shards, of the index
	Origin string // where it is from, without secrets, and exact where the request was not: hf:org/repo@commit:file
}

// Source is what --weights names.
type Source interface {
	find(ctx context.Context, f *Finder) (*File, error)
}

// Find finds the file of a source, and fetches it if need be.
func (f *Finder) Find(ctx context.Context, s Source) (*File, error) { return s.find(ctx, f) }

// Schemes says what Parse understands, for help texts.
const Schemes = "a path, file://, https://…#sha256=…, hf:org/repo[@revision][:file] or torchvision:network.WEIGHTS"

var (
	scheme = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*://`)
	hexSum = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
)

const maxBytes = 32 << 30 // no classifier is larger

// Parse reads the text of --weights. A path that looks like something else is meant with ./ before it.
func Parse(text string) (Source, error) {
	if rest, ok := strings.CutPrefix(text, "hf:"); ok {
		return parseHub(rest)
	}
	if rest, ok := strings.CutPrefix(text, "torchvision:"); ok {
		return parseTorchvision(rest)
	}
	if !scheme.MatchString(text) {
		return local(text), nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%q is no address", text)
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" && u.Host != "localhost" || u.Path == "" {
			return nil, fmt.Errorf("%s: write file:///path, for a file on this machine", u.Redacted())
		}
		return local(filepath.FromSlash(u.Path)), nil
	case "https", "http":
		return parseWeb(u)
	}
	return nil, fmt.Errorf("%s: %s:// is not known; weights are %s", u.Redacted(), u.Scheme, Schemes)
}

// local is a file that the user named.
type local string

func (l local) find(context.Context, *Finder) (*File, error) {
	return described(string(l), string(l), "")
}

// described is the file at path, whose sha256 must begin with the digits of want. A name that is a link is what it leads to.
func described(path, origin, want string) (*File, error) {
	sum, err := sumOf(path)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(sum, strings.ToLower(want)) {
		return nil, fmt.Errorf("%s has the sha256 %s and should have %s: delete it, and it is fetched again", path, sum, want)
	}
	return &File{Path: path, SHA256: sum, Origin: origin}, nil
}

func sumOf(path string) (string, error) {
	file, _, err := ckpt.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// web is a file on any server.
type web struct {
	address, origin string
	sum             string // sha256 in hex, "" if the user did not say
}

func parseWeb(u *url.URL) (Source, error) {
	sum := ""
	if u.Fragment != "" {
		var ok bool
		if sum, ok = strings.CutPrefix(u.Fragment, "sha256="); !ok || !hexSum.MatchString(sum) {
			return nil, fmt.Errorf("%s: what follows # must be sha256= and 64 hexadecimal digits, as sha256sum prints them", u.Redacted())
		}
	}
	if base := path.Base(u.Path); u.Host == "" || base == "/" || base == "." || base == ".." {
		return nil, fmt.Errorf("%s names no file on a server", u.Redacted())
	}
	bare, plain := *u, *u
	bare.Fragment = ""
	plain.User, plain.RawQuery = nil, "" // may be secrets
	return web{bare.String(), plain.String(), sum}, nil
}

func (w web) find(ctx context.Context, f *Finder) (*File, error) {
	name := sha256.Sum256([]byte(w.address + "#" + w.sum))
	return f.fetched(ctx, hex.EncodeToString(name[:]), w.origin, fetch.Source{URL: w.address, SHA256: w.sum, Limit: maxBytes})
}

// fetched is the file of a source in our own cache.
func (f *Finder) fetched(ctx context.Context, name, origin string, src fetch.Source) (*File, error) {
	folder, err := f.Folder()
	if err != nil {
		return nil, err
	}
	to := filepath.Join(folder, name)
	if err := f.fetch(ctx, src, to, origin); err != nil {
		return nil, err
	}
	return described(to, origin, src.SHA256)
}

func (f *Finder) fetch(ctx context.Context, src fetch.Source, to, name string) error {
	if f.Progress == nil {
		return f.Client.Fetch(ctx, src, to, nil)
	}
	progress, end := f.Progress(name)
	defer end()
	return f.Client.Fetch(ctx, src, to, progress)
}

// home is the folder of a program in the user's caches: $NAME, else name in $XDG_CACHE_HOME or in ~/.cache.
func home(variable, name string) (string, error) {
	if dir := os.Getenv(variable); dir != "" {
		return dir, nil
	}
	if cache := os.Getenv("XDG_CACHE_HOME"); cache != "" {
		return filepath.Join(cache, name), nil
	}
	dir, err := os.UserHomeDir()
	return filepath.Join(dir, ".cache", name), err
}
