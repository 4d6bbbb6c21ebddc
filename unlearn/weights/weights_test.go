package weights

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"l2ul/torch/ckpt"
	"l2ul/unlearn/fetch"
)

const (
	commit = "0123456789abcdef0123456789abcdef01234567"
	gitSum = "89abcdef0123456789abcdef0123456789abcdef" // of a small file
)

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// caches gives the test empty caches of its own.
func caches(t *testing.T) (hub, torch, own string) {
	t.Helper()
	dir := t.TempDir()
	hub, torch, own = filepath.Join(dir, "hf"), filepath.Join(dir, "torch"), filepath.Join(dir, "own")
	for name, value := range map[string]string{
		"HF_HUB_CACHE": hub, "HF_HOME": filepath.Join(dir, "home"), "TORCH_HOME": torch, "HF_TOKEN": "", "HF_TOKEN_PATH": "", "HF_ENDPOINT": "", "HF_HUB_OFFLINE": "",
	} {
		t.Setenv(name, value)
	}
	return hub, torch, own
}

func finder(own string) *Finder {
	return &Finder{Folder: func() (string, error) { return own, os.MkdirAll(own, 0o755) }}
}

// offline finds without a connection; one that is tried fails the test.
func offline(t *testing.T, own string) *Finder {
	f := finder(own)
	f.Client = fetch.Client{Offline: true, Transport: &http.Transport{DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
		t.Errorf("a connection to %s was opened", address)
		return nil, errors.New("no network")
	}}}
	return f
}

func find(t *testing.T, f *Finder, text string) (*File, error) {
	t.Helper()
	source, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return f.Find(t.Context(), source)
}

// repository is a Hugging Face that has one, and a second server for its large files.
type repository struct {
	files map[string][]byte // by path; those beyond 1000 bytes are large
	token string            // that it asks for, "" for none
	away  atomic.Pointer[http.Header]
	asked atomic.Int64
}

func (r *repository) serve(t *testing.T) {
	cdn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		seen := req.Header.Clone()
		r.away.Store(&seen)
		for _, data := range r.files {
			if strings.Contains(req.URL.Path, digest(data)) {
				http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(data))
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(cdn.Close)
	address := regexp.MustCompile(`^/org/net/resolve/([^/]*)/(.*)$`)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.asked.Add(1)
		if req.Header.Get("Authorization") != r.token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if moved, ok := strings.CutPrefix(req.URL.Path, "/org/old-name/"); ok { // renamed repositories redirect
			http.Redirect(w, req, "/org/net/"+moved, http.StatusTemporaryRedirect)
			return
		}
		m := address.FindStringSubmatch(req.URL.EscapedPath())
		if m == nil || m[1] != "main" && m[1] != "refs%2Fpr%2F1" && m[1] != commit {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		data, ok := r.files[m[2]]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("X-Repo-Commit", commit)
		if len(data) <= 1000 {
			w.Header().Set("ETag", `"`+gitSum+`"`)
			http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(data))
			return
		}
		w.Header().Set("X-Linked-Etag", `"`+digest(data)+`"`)
		w.Header().Set("X-Linked-Size", fmt.Sprint(len(data)))
		http.Redirect(w, req, cdn.URL+"/"+digest(data)+"?signature=secret", http.StatusFound)
	}))
	t.Cleanup(server.Close)
	t.Setenv("HF_ENDPOINT", server.URL)
}

// tree lists a folder: files by their sizes, links by their targets.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			out[name], err = os.Readlink(path)
			return err
		}
		info, err := d.Info()
		out[name] = fmt.Sprint(info.Size())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func large(seed byte) []byte { return bytes.Repeat([]byte{seed, 1, 2, 3}, 1000) }

// TestHub fetches from a repository, into the layout that huggingface_hub has, and then again without a connection.
func TestHub(t *testing.T) {
	hub, _, own := caches(t)
	weights := large(1)
	r := &repository{files: map[string][]byte{"model.safetensors": weights, "sub/other.bin": large(2), "small.bin": []byte("ab")}, token: "Bearer hf_secret"}
	r.serve(t)
	t.Setenv("HF_TOKEN", "hf_secret\n")
	got, err := find(t, finder(own), "hf:org/net")
	if err != nil {
		t.Fatal(err)
	}
	want := &File{
		Path:   filepath.Join(hub, "models--org--net", "snapshots", commit, "model.safetensors"),
		SHA256: digest(weights), Origin: "hf:org/net@" + commit + ":model.safetensors",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if seen := r.away.Load(); seen == nil || seen.Get("Authorization") != "" {
		t.Errorf("the second server saw %v", seen)
	}
	for _, text := range []string{"hf:org/net@refs/pr/1:sub/other.bin", "hf:org/net@" + commit + ":small.bin"} {
		if _, err := find(t, finder(own), text); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(map[string]string{
		"models--org--net/refs/main":                                  "40",
		"models--org--net/refs/refs/pr/1":                             "40",
		"models--org--net/snapshots/" + commit + "/model.safetensors": "../../blobs/" + digest(weights),
		"models--org--net/snapshots/" + commit + "/sub/other.bin":     "../../../blobs/" + digest(large(2)),
		"models--org--net/snapshots/" + commit + "/small.bin":         "../../blobs/" + gitSum,
		"models--org--net/blobs/" + digest(weights):                   "4000",
		"models--org--net/blobs/" + digest(large(2)):                  "4000",
		"models--org--net/blobs/" + gitSum:                            "2",
	}, tree(t, hub)); diff != "" {
		t.Errorf("the cache (-want +got):\n%s", diff)
	}
	again, err := find(t, offline(t, own), "hf:org/net")
	if diff := cmp.Diff(want, again); diff != "" || err != nil {
		t.Error(diff, err)
	}
	asked := r.asked.Load()
	if _, err := find(t, finder(own), "hf:org/net@main:model.safetensors"); err != nil || r.asked.Load() != asked {
		t.Errorf("what is there was asked for: %v", err)
	}
	if _, err := find(t, finder(own), "hf:org/old-name@"+commit); err != nil {
		t.Errorf("a repository that was renamed: %v", err)
	}
	// Damage is found when it is read.
	if err := os.WriteFile(want.Path, large(3), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := find(t, offline(t, own), "hf:org/net"); err == nil || !strings.Contains(err.Error(), "should have "+digest(weights)) {
		t.Errorf("error %v", err)
	}
}

func TestHubShards(t *testing.T) {
	hub, _, own := caches(t)
	dir := t.TempDir()
	tensor := func(name string) ckpt.Tensor {
		return ckpt.Tensor{Name: name, DType: ckpt.U8, Shape: []int64{2000}, Data: make([]byte, 2000)}
	}
	r := &repository{files: map[string][]byte{"model.safetensors.index.json": []byte(`{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}`)}}
	for name, of := range map[string]string{"one.safetensors": "a", "two.safetensors": "b"} {
		if err := ckpt.Save(filepath.Join(dir, name), &ckpt.File{Tensors: []ckpt.Tensor{tensor(of)}}); err != nil {
			t.Fatal(err)
		}
		r.files[name], _ = os.ReadFile(filepath.Join(dir, name))
	}
	r.serve(t)
	got, err := find(t, finder(own), "hf:org/net")
	if err != nil {
		t.Fatal(err)
	}
	if file, err := ckpt.Load(got.Path); err != nil || len(file.Tensors) != 2 {
		t.Errorf("%v, %v", file, err)
	}
	// A shard that somebody deleted is fetched again, and missed offline.
	if err := os.Remove(filepath.Join(hub, "models--org--net", "snapshots", commit, "two.safetensors")); err != nil {
		t.Fatal(err)
	}
	if _, err := find(t, offline(t, own), "hf:org/net"); !errors.Is(err, fetch.ErrOffline) {
		t.Errorf("error %v", err)
	}
	if _, err := find(t, finder(own), "hf:org/net"); err != nil {
		t.Error(err)
	}
}

func TestHubRefuses(t *testing.T) {
	for _, c := range []struct {
		name, text, want string
		answer           http.HandlerFunc
	}{
		{"absent", "hf:org/absent", "no such revision, or none of the files model.safetensors, ", status(404)},
		{"private", "hf:org/private", "set HF_TOKEN", status(401)},
		{"no hub", "hf:org/net", "does not answer as Hugging Face does", func(w http.ResponseWriter, _ *http.Request) {}},
		{"a commit that leads elsewhere", "hf:org/net", "does not answer as Hugging Face does", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Repo-Commit", "../../../../etc")
			w.Header().Set("ETag", `"abc"`)
		}},
		{"an etag that leads elsewhere", "hf:org/net", "does not answer as Hugging Face does", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Repo-Commit", commit)
			w.Header().Set("ETag", `"../../x"`)
		}},
		{"too large", "hf:org/net", "more than the", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Repo-Commit", commit)
			w.Header().Set("ETag", `"abc"`)
			w.Header().Set("X-Linked-Size", "9000000000000000000")
		}},
		{"other content", "hf:org/net", "the content has the sha256", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Repo-Commit", commit)
			w.Header().Set("X-Linked-Etag", `"`+digest(large(1))+`"`)
			_, _ = w.Write(large(2)[:900])
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			hub, _, own := caches(t)
			server := httptest.NewServer(c.answer)
			t.Cleanup(server.Close)
			t.Setenv("HF_ENDPOINT", server.URL)
			_, err := find(t, finder(own), c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(hub, "models--org--net", "refs")); err == nil {
				t.Error("the revision was written down")
			}
		})
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func TestTorchvision(t *testing.T) {
	_, torch, own := caches(t)
	content := large(4)
	of := published{"net", "V1", "net-" + digest(content)[:8] + ".pth"}
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path != "/"+of.file {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(content)
	}))
	t.Cleanup(server.Close)
	before := download
	download = server.URL
	t.Cleanup(func() { download = before })

	want := &File{Path: filepath.Join(own, of.file), SHA256: digest(content), Origin: "torchvision:net.V1"}
	for range 2 {
		got, err := finder(own).Find(t.Context(), of)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Fatal(diff, err)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
	// The cache of torch.hub comes first.
	theirs := filepath.Join(torch, "hub", "checkpoints", of.file)
	if err := os.MkdirAll(filepath.Dir(theirs), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(theirs, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := offline(t, own).Find(t.Context(), of); err != nil || got.Path != theirs {
		t.Errorf("%v, %v", got, err)
	}
	if err := os.WriteFile(theirs, content[1:], 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := offline(t, own).Find(t.Context(), of); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("error %v", err)
	}
	of.file = "other-" + digest(content)[:8] + ".pth"
	if _, err := offline(t, own).Find(t.Context(), of); !errors.Is(err, fetch.ErrOffline) {
		t.Errorf("error %v", err)
	}
}

func TestTorchvisionTable(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range files {
		if !regexp.MustCompile(`^[0-9a-f]{8}$`).MatchString(p.sum()) {
			t.Errorf("%s: the file %s has no sha256", p, p.file)
		}
		if seen[p.String()] || seen[p.file] {
			t.Errorf("%s is there twice", p)
		}
		seen[p.String()], seen[p.file] = true, true
		if got, err := Parse(p.String()); err != nil || got != p {
			t.Errorf("%s: %v, %v", p, got, err)
		}
	}
}

func TestWeb(t *testing.T) {
	_, _, own := caches(t)
	content := large(5)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) }))
	t.Cleanup(server.Close)
	address := server.URL + "/folder/net.pt"
	for _, text := range []string{address + "?token=secret#sha256=" + digest(content), address} {
		got, err := find(t, finder(own), text)
		if err != nil || got.SHA256 != digest(content) || !strings.HasPrefix(got.Path, own) || strings.Contains(got.Origin, "secret") {
			t.Errorf("%+v, %v", got, err)
		}
		if again, err := find(t, offline(t, own), text); err != nil || *again != *got {
			t.Errorf("%+v, %v", again, err)
		}
	}
	if _, err := find(t, finder(own), address+"#sha256="+digest(content[1:])); err == nil {
		t.Error("took other content")
	}
}

func TestLocal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b.pt")
	if err := os.WriteFile(path, []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // FIPS 180-2, B.1
	for _, text := range []string{path, "file://" + strings.ReplaceAll(path, " ", "%20"), "file://localhost" + path} {
		got, err := find(t, offline(t, ""), text)
		if diff := cmp.Diff(&File{path, abc, path}, got); diff != "" || err != nil {
			t.Errorf("%s: %s, %v", text, diff, err)
		}
	}
	if _, err := find(t, offline(t, ""), filepath.Dir(path)); err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Errorf("error %v", err)
	}
	if _, err := find(t, offline(t, ""), path+"x"); err == nil || err.Error() != path+"x: no such file or directory" {
		t.Errorf("error %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"hf:":                                `"" is no repository`,
		"hf://org/net":                       `"//org/net" is no repository`,
		"hf:org/net/more":                    "is no repository",
		"hf:../net":                          "is no repository",
		"hf:org/a--b":                        "is no repository",
		"hf:org/net@":                        `"" is no branch`,
		"hf:org/net@../../x":                 "is no branch",
		"hf:org/net:":                        `"" is no file`,
		"hf:org/net:../x":                    "is no file",
		"hf:org/net:/etc/passwd":             "is no file",
		"hf:org/net:a\x00b":                  "is no file",
		"torchvision:resnet50":               "the weights of resnet50 are torchvision:resnet50.IMAGENET1K_V1, torchvision:resnet50.IMAGENET1K_V2",
		"torchvision:resnet51.V1":            "there are weights of torchvision's",
		"s3://bucket/net.pt":                 "s3:// is not known; weights are a path, file://",
		"file://elsewhere/net.pt":            "write file:///path",
		"https://example.com":                "names no file",
		"https://example.com/a#md5=1":        "64 hexadecimal digits",
		"https://example.com/a#sha256=abc":   "64 hexadecimal digits",
		"https://user:geheim@example.com/#a": "64 hexadecimal digits",
		"https://example.com/%zz":            "is no address",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
}

// FuzzParse reads any text: what a hub's source writes stays in the folders of its repository.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"hf:org/net@refs/pr/1:sub/model.safetensors", "torchvision:resnet18.IMAGENET1K_V1", "https://example.com/a#sha256=" + digest(nil), "file:///a", "a/b.pt"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		source, err := Parse(text)
		if err != nil {
			return
		}
		if h, ok := source.(hub); ok {
			for _, name := range append(h.candidates(), h.revision) {
				if !filepath.IsLocal(filepath.FromSlash(name)) || strings.ContainsAny(name, "\x00\\:@") {
					t.Errorf("%q leads to %q", text, name)
				}
			}
			if strings.Count(h.repo, "/") > 1 || strings.Contains(h.repo, "..") {
				t.Errorf("%q is of the repository %q", text, h.repo)
			}
		}
	})
}
