package run

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"l2ul/torch/ckpt"
	"l2ul/torch/ckpt/keys"
)

// The tag of --keys lists every style.
func TestKeysTag(t *testing.T) {
	field, _ := reflect.TypeFor[ConvertOptions]().FieldByName("Keys")
	var styles []keys.Style
	for name := range strings.SplitSeq(field.Tag.Get("oneof"), "|") {
		styles = append(styles, keys.Style(name))
	}
	if diff := cmp.Diff(keys.Styles(), styles); diff != "" {
		t.Error(diff)
	}
}

// Convert fetches a file once, into a cache that says what it is.
func TestConvertFetches(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("UNLEARN_CACHE", filepath.Join(dir, "cache"))
	t.Setenv("HF_HUB_OFFLINE", "")
	source := filepath.Join(dir, "net.pt")
	if err := ckpt.Save(source, &ckpt.File{Tensors: []ckpt.Tensor{{Name: "a", DType: ckpt.U8, Shape: []int64{3}, Data: []byte{1, 2, 3}}}}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	address := server.URL + "/net.pt#sha256=" + hex.EncodeToString(sum[:])
	console := NewConsole(TerminalOptions{JSON: true}, io.Discard, io.Discard)

	t.Setenv("UNLEARN_CACHE_SIZE", "0")
	if _, err := Convert(t.Context(), console, ConvertOptions{}, address, filepath.Join(dir, "a.npz")); err == nil || !strings.Contains(err.Error(), "no cache to keep a download in") {
		t.Errorf("error %v", err)
	}
	t.Setenv("UNLEARN_CACHE_SIZE", "1G")
	first, err := Convert(t.Context(), console, ConvertOptions{}, address, filepath.Join(dir, "a.npz"))
	if err != nil {
		t.Fatal(err)
	}
	server.Close()
	second, err := Convert(t.Context(), console, ConvertOptions{Offline: true}, address, filepath.Join(dir, "b.pt"))
	if err != nil || second.Hash != first.Hash || first.Source != address {
		t.Errorf("%+v, %+v, %v", first, second, err)
	}
	if again, err := os.ReadFile(filepath.Join(dir, "b.pt")); err != nil || string(again) != string(text) {
		t.Errorf("the bytes differ: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "cache", "CACHEDIR.TAG")); err != nil {
		t.Error(err)
	}
}
