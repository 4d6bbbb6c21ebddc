package bench

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"l2ul/unlearn/importance"
	"l2ul/unlearn/run"
	"l2ul/unlearn/run/cache"
)

// identities tells inputs apart by what they are and not by where they lie, so that a grid can move to another machine. They
// are read once for all cells.
type identities map[string]string

// of returns what identifies the inputs of a cell beside its configuration.
func (ids identities) of(c *Cell) (map[string]string, error) {
	text := func(name string) string {
		v, _, ok := c.Config.Get(name)
		if !ok {
			return ""
		}
		return v.String()
	}
	stream := cmp.Or(c.Stream, &Stream{})
	forget, list := strings.CutPrefix(text("forget"), "@")
	var anchoring importance.Options
	_ = c.Config.Decode(&anchoring) // resolving the cell has checked it
	found := map[string]string{}
	for _, in := range []struct {
		name, path string
		there      bool
		identify   func(path string) (string, error)
	}{
		{"weights", text("weights"), true, content},
		{"data", text("data-dir"), true, listing},
		{"forget", forget, list, content},
		{"pairs", text("pairs"), true, content},
		{"importance", anchoring.File(), true, content},
		{"pool", text("pool"), true, listing},
		{"requests", stream.File, true, requested},
	} {
		if in.path == "" || !in.there {
			continue
		}
		key := in.name + " " + in.path
		if _, known := ids[key]; !known {
			id, err := in.identify(in.path)
			if err != nil {
				return nil, run.Inputf("%s: %w", in.name, err)
			}
			ids[key] = id
		}
		found[in.name] = ids[key]
	}
	if stream.Requests > 0 {
		found["requests"] = fmt.Sprintf("%d of %d images", stream.Requests, stream.Size)
	}
	return found, nil
}

// content identifies a file by its bytes. What is no file here, as a name on a hub, stands for itself.
func content(path string) (string, error) {
	sum, err := cache.HashFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, nil
	}
	return sum, err
}

// requested identifies a file of deletion requests by its bytes and by those of the files that its lines name.
func requested(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	h.Write(text)
	for line := range bytes.Lines(text) {
		var request run.Request
		_ = json.Unmarshal(line, &request) // what is no request is refused when it is served
		list, _ := strings.CutPrefix(request.Forget, "@")
		pairs, _ := request.Options["pairs"].(string)
		anchor, _ := request.Options["importance"].(string)
		for _, named := range []string{list, pairs, (&importance.Options{Kind: anchor}).File()} {
			if named == "" || named == request.Forget {
				continue
			}
			id, err := content(named)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(h, "%q", id)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// listing identifies data by the names and sizes of its files: reading ImageNet for a name would take longer than many a cell.
// What the files hold is in the result of each cell.
func listing(given string) (string, error) {
	path, err := filepath.EvalSymlinks(given)
	if errors.Is(err, fs.ErrNotExist) {
		return given, nil
	}
	if err != nil {
		return "", err
	}
	h := sha256.New()
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := os.Stat(p) // a link's target
		if err != nil {
			return err
		}
		size := info.Size()
		if info.IsDir() {
			size = 0 // which file systems choose
		}
		name, err := filepath.Rel(path, p)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %d\n", filepath.ToSlash(name), size)
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), err
}
