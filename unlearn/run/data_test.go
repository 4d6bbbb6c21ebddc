package run

import (
	"archive/tar"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"image/color"
	"image/png"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"l2ul/internal/tinyimages"
	"l2ul/unlearn/data"
)

// A dataset that is fetched is there for other verbs without --data-dir, and is not fetched twice. One whose content is not
// what was published leaves nothing.
func TestFetchData(t *testing.T) {
	t.Setenv("UNLEARN_CACHE", t.TempDir())
	const digits = "../data/testdata/idx"
	var downloads []data.Download
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		http.ServeFile(w, r, filepath.Join(digits, filepath.Base(r.URL.Path)))
	}))
	defer server.Close()
	names := []string{"train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"}
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(digits, name))
		if err != nil {
			t.Fatal(err)
		}
		sum := md5.Sum(content)
		downloads = append(downloads, data.Download{URL: server.URL + "/a/" + name, MD5: hex.EncodeToString(sum[:])})
	}
	var open data.Dataset
	for _, d := range data.Datasets() {
		if d.Name == "mnist" {
			open = d
		}
	}
	data.Register(data.Dataset{Name: "published", Files: true, Downloads: downloads, Open: open.Open})
	wrong := slices.Clone(downloads)
	wrong[1].MD5 = strings.Repeat("0", 32)
	data.Register(data.Dataset{Name: "changed", Files: true, Downloads: wrong, Open: open.Open})

	c := NewConsole(TerminalOptions{Quiet: true}, &bytes.Buffer{}, &bytes.Buffer{})
	check := CheckDataOptions{Splits: []string{"train", "test"}}
	if _, err := CheckData(t.Context(), c, check, "published"); err == nil || !strings.Contains(err.Error(), "`unlearn data fetch published`") {
		t.Errorf("before it is fetched: error %v", err)
	}
	for range 2 {
		got, err := FetchData(t.Context(), c, FetchDataOptions{}, "published")
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Files) != 4 || got.Files[0].File != names[0] || got.Files[0].MD5 != downloads[0].MD5 {
			t.Errorf("fetched %+v", got)
		}
	}
	if requests != 4 {
		t.Errorf("%d requests for 4 files", requests)
	}
	report, err := CheckData(t.Context(), c, check, "published")
	if err != nil {
		t.Fatal(err)
	}
	if s := report.Splits[0]; s.Images != 4 || s.Classes[6].Images != 1 || s.Least != 0 || s.Largest != 9 || report.Broken() != 0 {
		t.Errorf("train: %+v", s)
	}
	_, err = FetchData(t.Context(), c, FetchDataOptions{}, "changed")
	if err == nil || ExitCode(err) != ExitInput || !strings.Contains(err.Error(), "not 00000000000000000000000000000000") {
		t.Errorf("changed content: error %v", err)
	}
	cache, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(cache, "datasets", "changed"))
	if err != nil || len(left) != 2 || left[0].Name() != names[0] { // the other is the lock of the second
		t.Errorf("changed content left %v, error %v", left, err)
	}
}

// An archive that is fetched is read as it is.
func TestFetchArchive(t *testing.T) {
	t.Setenv("UNLEARN_CACHE", t.TempDir())
	images := t.TempDir()
	if err := tinyimages.Write(images, 2); err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	if err := errors.Join(w.AddFS(os.DirFS(images)), w.Close()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(packed.Bytes()))
	}))
	defer server.Close()
	for _, d := range data.Datasets() {
		if d.Name == "imagefolder" {
			sum := md5.Sum(packed.Bytes())
			d.Name, d.Downloads = "packed", []data.Download{{URL: server.URL + "/images.tar", MD5: hex.EncodeToString(sum[:])}}
			data.Register(d)
		}
	}
	c := NewConsole(TerminalOptions{Quiet: true}, &bytes.Buffer{}, &bytes.Buffer{})
	if _, err := FetchData(t.Context(), c, FetchDataOptions{}, "packed"); err != nil {
		t.Fatal(err)
	}
	report, err := CheckData(t.Context(), c, CheckDataOptions{Splits: []string{"train"}}, "packed")
	if err != nil {
		t.Fatal(err)
	}
	if s := report.Splits[0]; s.Images != 2*tinyimages.Train || len(s.Classes) != 2 || report.Broken() != 0 {
		t.Errorf("train: %+v", s)
	}
}

// The pixels of each picture are those of the set, four times enlarged.
func TestContactSheet(t *testing.T) {
	sets, err := data.Open(t.Context(), "mnist", data.Source{Dir: "../data/testdata/idx"}, "train")
	if err != nil {
		t.Fatal(err)
	}
	indices := []int{3, 0, 2, 1, 3}
	drawn, err := contactSheet(sets[0], indices)
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(drawn.png()))
	if err != nil {
		t.Fatal(err)
	}
	// Three across, two down: images of 28 are enlarged three times, which is the least that gives 64.
	if got := picture.Bounds().Size(); got.X != 3*(84+6)+6 || got.Y != 2*(84+26+6)+6 {
		t.Errorf("size %v", got)
	}
	for at, i := range indices {
		for _, pixel := range []int{0, 27, 28 * 13, 28*28 - 1} {
			x, y := 6+at%3*90+pixel%28*3+1, 6+at/3*116+pixel/28*3+1
			v := sets[0].Image(i)[pixel]
			if got, want := color.NRGBAModel.Convert(picture.At(x, y)), (color.NRGBA{v, v, v, 255}); got != want {
				t.Errorf("picture %d, pixel %d: %v, want %v", at, pixel, got, want)
			}
		}
	}
	// Below each stand dark letters of the index and the class.
	for at := range indices {
		for line := range 2 {
			dark := 0
			for y := range lineHeight {
				for x := range 84 {
					if r, _, _, _ := picture.At(6+at%3*90+x, 6+at/3*116+84+line*lineHeight+y).RGBA(); r < 0x8000 {
						dark++
					}
				}
			}
			if dark < 10 {
				t.Errorf("picture %d, line %d: %d dark pixels", at, line, dark)
			}
		}
	}
	if _, err := contactSheet(sets[0], make([]int, 1<<15)); err == nil || ExitCode(err) != ExitUsage {
		t.Errorf("a sheet of 32768 images: error %v", err)
	}
}
