package weights

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"

	"l2ul/torch/ckpt"
	"l2ul/unlearn/fetch"
)

// The cache of Hugging Face (huggingface_hub, file_download.py), which Python's programs share:
//
//	models--org--repo/refs/<revision>            the commit that a branch or tag was at
//	models--org--repo/snapshots/<commit>/<file>  a link to
//	models--org--repo/blobs/<etag>               the content; the etag of a large file (LFS) is its sha256

// hub is a file of a repository there.
type hub struct {
	repo, revision string
	file           string // "" for the first of usual that there is
}

// usual are the names that transformers and timm give to weights.
var usual = []string{"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"}

var (
	repoName   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?$`)
	commitName = regexp.MustCompile(`^[0-9a-f]{40}$`)
	etagName   = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
	pathName   = regexp.MustCompile(`^[A-Za-z0-9_.+-][A-Za-z0-9_.+ -]*(/[A-Za-z0-9_.+-][A-Za-z0-9_.+ -]*)*$`)
)

// safe reports whether a name with slashes stays inside the folder it is put into.
func safe(name string) bool {
	return pathName.MatchString(name) && filepath.IsLocal(name) && len(name) < 1000
}

func parseHub(text string) (Source, error) {
	name, file, named := strings.Cut(text, ":")
	repo, revision, revised := strings.Cut(name, "@")
	if !revised {
		revision = "main"
	}
	switch {
	case !repoName.MatchString(repo) || strings.Contains(repo, "--") || strings.Contains(repo, "..") || len(repo) > 200:
		return nil, fmt.Errorf("hf:%s: %q is no repository; write hf:org/repo[@revision][:file]", text, repo)
	case !safe(revision):
		return nil, fmt.Errorf("hf:%s: %q is no branch, tag or commit", text, revision)
	case named && !safe(file):
		return nil, fmt.Errorf("hf:%s: %q is no file of a repository", text, file)
	}
	return hub{repo, revision, file}, nil
}

func (h hub) String() string {
	text := "hf:" + h.repo + "@" + h.revision
	if h.file != "" {
		text += ":" + h.file
	}
	return text
}

// candidates are the files to look for, the most wanted first.
func (h hub) candidates() []string {
	if h.file != "" {
		return []string{h.file}
	}
	return usual
}

// HubOffline reports whether the environment forbids connections, in the words that Hugging Face's programs understand.
func HubOffline() bool {
	return slices.Contains([]string{"1", "ON", "YES", "TRUE"}, strings.ToUpper(os.Getenv("HF_HUB_OFFLINE")))
}

// hubCache returns the folders of Hugging Face: its cache of repositories, and the home of that and of the token.
func hubCache() (cache, huggingface string, err error) {
	huggingface, err = home("HF_HOME", "huggingface")
	return cmp.Or(os.Getenv("HF_HUB_CACHE"), filepath.Join(huggingface, "hub")), huggingface, err
}

// token returns the user's token, "" if there is none.
func token(huggingface string) string {
	if t := strings.TrimSpace(os.Getenv("HF_TOKEN")); t != "" {
		return t
	}
	text, err := os.ReadFile(cmp.Or(os.Getenv("HF_TOKEN_PATH"), filepath.Join(huggingface, "token"))) //nolint:gosec // the user's own file
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// client talks to the hub about one repository.
type client struct {
	*Finder
	hub
	folder   string // of the repository in the cache
	endpoint string
	header   http.Header
}

// find takes what is in the cache, at the commit where the revision was when it was last fetched.
func (h hub) find(ctx context.Context, f *Finder) (*File, error) {
	cache, huggingface, err := hubCache()
	if err != nil {
		return nil, err
	}
	c := &client{
		Finder: f, hub: h, folder: filepath.Join(cache, "models--"+strings.ReplaceAll(h.repo, "/", "--")),
		endpoint: strings.TrimRight(cmp.Or(os.Getenv("HF_ENDPOINT"), "https://huggingface.co"), "/"),
	}
	if t := token(huggingface); t != "" {
		c.header = http.Header{"Authorization": {"Bearer " + t}}
	}
	commit := h.revision
	if !commitName.MatchString(commit) {
		text, err := os.ReadFile(filepath.Join(c.folder, "refs", filepath.FromSlash(h.revision)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		commit = strings.TrimSpace(string(text))
	}
	if commitName.MatchString(commit) {
		for _, name := range h.candidates() {
			if _, err := os.Stat(c.snapshot(commit, name)); err == nil {
				return c.complete(ctx, commit, name)
			}
		}
	}
	if f.Client.Offline {
		return nil, fmt.Errorf("%s is not in %s: %w", h, cache, fetch.ErrOffline)
	}
	for _, name := range h.candidates() {
		commit, err := c.fetch(ctx, h.revision, name)
		if status, ok := errors.AsType[*fetch.StatusError](err); ok && status.Code == http.StatusNotFound {
			continue
		}
		if err != nil {
			return nil, c.explained(err)
		}
		found, err := c.complete(ctx, commit, name)
		if err == nil && commit != h.revision {
			// Last, so that the name of a revision leads to whole files only.
			err = write(filepath.Join(c.folder, "refs", filepath.FromSlash(h.revision)), commit)
		}
		return found, err
	}
	return nil, fmt.Errorf("%s: the repository has no such revision, or none of the files %s; name one with hf:%s:FILE", h, strings.Join(h.candidates(), ", "), h.repo)
}

func (c *client) snapshot(commit, name string) string {
	return filepath.Join(c.folder, "snapshots", commit, filepath.FromSlash(name))
}

// complete is the file in the snapshot of a commit, with the shards that it may be an index of.
func (c *client) complete(ctx context.Context, commit, name string) (*File, error) {
	at := c.snapshot(commit, name)
	found, err := described(at, "hf:"+c.repo+"@"+commit+":"+name, sumInName(at))
	if err != nil {
		return nil, err
	}
	shards, err := ckpt.Shards(at)
	if err != nil {
		return nil, err
	}
	for _, shard := range shards {
		shard = filepath.ToSlash(filepath.Join(filepath.Dir(name), shard))
		at := c.snapshot(commit, shard)
		if _, err := os.Stat(at); errors.Is(err, fs.ErrNotExist) {
			if _, err := c.fetch(ctx, commit, shard); err != nil {
				return nil, c.explained(err)
			}
		}
		if _, err := described(at, "", sumInName(at)); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// sumInName is the sha256 that the content of a link into blobs must have, "" where its name tells none.
func sumInName(link string) string {
	target, err := filepath.EvalSymlinks(link)
	if base := filepath.Base(target); err == nil && hexSum.MatchString(base) {
		return base
	}
	return ""
}

// fetch brings a file of a revision into the cache and returns the commit.
func (c *client) fetch(ctx context.Context, revision, name string) (commit string, err error) {
	header, err := c.Client.Head(ctx, fetch.Source{URL: c.address(revision, name), Header: c.header})
	if err != nil {
		return "", err
	}
	commit = header.Get("X-Repo-Commit")
	etag := strings.Trim(strings.TrimPrefix(cmp.Or(header.Get("X-Linked-Etag"), header.Get("ETag")), "W/"), `"`)
	size, err := strconv.ParseInt(cmp.Or(header.Get("X-Linked-Size"), header.Get("Content-Length")), 10, 64)
	if err != nil || size < 0 || !commitName.MatchString(commit) || !etagName.MatchString(etag) {
		return "", fmt.Errorf("%s does not answer as Hugging Face does: commit %.50q, etag %.50q, size %d", c.endpoint, commit, etag, size)
	}
	if size > maxBytes {
		return "", fmt.Errorf("%s has %d bytes, more than the %d that are allowed", name, size, maxBytes)
	}
	src := fetch.Source{URL: c.address(commit, name), Size: size, Limit: maxBytes, Header: c.header}
	if hexSum.MatchString(etag) {
		src.SHA256 = etag
	}
	blob := filepath.Join(c.folder, "blobs", etag)
	if err := c.Finder.fetch(ctx, src, blob, name); err != nil {
		return "", err
	}
	link := c.snapshot(commit, name)
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return "", err
	}
	target, err := filepath.Rel(filepath.Dir(link), blob)
	if err != nil {
		return "", err
	}
	return commit, renameio.Symlink(target, link)
}

func (c *client) address(revision, name string) string {
	return c.endpoint + "/" + c.repo + "/resolve/" + url.PathEscape(revision) + "/" + (&url.URL{Path: name}).EscapedPath()
}

// explained adds to an error of the hub what the user can do.
func (c *client) explained(err error) error {
	status, ok := errors.AsType[*fetch.StatusError](err)
	if !ok || status.Code != http.StatusUnauthorized && status.Code != http.StatusForbidden {
		return fmt.Errorf("%s: %w", c.hub, err)
	}
	if c.header == nil {
		return fmt.Errorf("%s: %w: there is no such repository, or it asks for a token: set HF_TOKEN", c.hub, err)
	}
	return fmt.Errorf("%s: %w: there is no such repository, or your token does not open it", c.hub, err)
}

func write(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return renameio.WriteFile(path, []byte(text), 0o644, renameio.WithTempDir(filepath.Dir(path)))
}
