package ckpt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Large networks are stored as several files beside an index (model.safetensors.index.json): a JSON object whose "weight_map" says
// which tensor is in which file.

// errIndex is the answer of Read to an index, which names other files.
var errIndex = corrupt("is JSON, as the index of shards is; load it by its path, beside its shards")

// isIndex tells from the first bytes. A safetensors file may begin with a brace too, but has zeros in its first 8 bytes.
func isIndex(head []byte) bool {
	return len(head) > 0 && head[0] == '{' && !bytes.ContainsRune(head, 0)
}

// Shards returns the names of the files that the index of shards at path lists, which lie in the same folder; none for a file
// that is no index.
func Shards(path string) ([]string, error) {
	f, size, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var head [9]byte
	if n, err := f.ReadAt(head[:], 0); !isIndex(head[:n]) {
		if errors.Is(err, io.EOF) { // a short file
			err = nil
		}
		return nil, err
	}
	shardOf, err := readIndex(f, size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return slices.Compact(slices.Sorted(maps.Values(shardOf))), nil
}

// readIndex reads an index of size bytes: which file each tensor is in.
func readIndex(r io.ReaderAt, size int64) (shardOf map[string]string, err error) {
	if size > maxHeader {
		return nil, corrupt("an index of %d bytes; %d are allowed", size, maxHeader)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(r, 0, size), text); err != nil {
		return nil, err
	}
	if shardOf, err = parseIndex(text); err != nil {
		return nil, &contentError{"the index", err}
	}
	return shardOf, nil
}

// loadShards reads the files of an index of size bytes, which lie in folder.
func loadShards(r io.ReaderAt, size int64, folder string) (*File, error) {
	shardOf, err := readIndex(r, size)
	if err != nil {
		return nil, err
	}
	root, within, err := openFolder(folder)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	all := &File{}
	for _, shard := range slices.Compact(slices.Sorted(maps.Values(shardOf))) {
		f, err := loadShard(root, filepath.Join(within, shard))
		if err != nil {
			return nil, fmt.Errorf("shard %w", err)
		}
		for _, t := range f.Tensors {
			if shardOf[t.Name] != shard {
				return nil, corrupt("shard %.200q holds the tensor %.200q, which the index places in %.200q", shard, t.Name, shardOf[t.Name])
			}
			delete(shardOf, t.Name)
		}
		all.Tensors = append(all.Tensors, f.Tensors...)
		all.Format.Container = f.Format.Container
		if all.Metadata == nil {
			all.Metadata = f.Metadata
		}
	}
	for _, name := range slices.Sorted(maps.Keys(shardOf)) {
		return nil, corrupt("shard %.200q lacks the tensor %.200q, which the index places there", shardOf[name], name)
	}
	return all, nil
}

// openFolder opens the folder of an index, which links in it must not lead out of. In Hugging Face's cache
// (models--OWNER--NAME/snapshots/COMMIT) the files are links to others of the same repository (models--OWNER--NAME/blobs); there the
// root is that of the repository, and within the folder below it.
func openFolder(folder string) (root *os.Root, within string, err error) {
	if folder, err = filepath.Abs(folder); err != nil {
		return nil, "", err
	}
	for commit := folder; filepath.Dir(commit) != commit; commit = filepath.Dir(commit) {
		snapshots := filepath.Dir(commit)
		repository := filepath.Dir(snapshots)
		if filepath.Base(snapshots) == "snapshots" && strings.HasPrefix(filepath.Base(repository), "models--") {
			root, err = os.OpenRoot(repository)
			return root, strings.TrimPrefix(folder, repository+string(filepath.Separator)), err
		}
	}
	root, err = os.OpenRoot(folder)
	return root, "", err
}

// loadShard reads one file of any container. It cannot be an index.
func loadShard(root *os.Root, path string) (*File, error) {
	f, err := root.OpenFile(path, readOnly, 0)
	f, size, err := opened(f, path, err)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	file, err := read(f, size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return file, nil
}

// parseIndex returns the file of each tensor.
func parseIndex(text []byte) (shardOf map[string]string, err error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	err = object(dec, func(key string) error {
		if key != "weight_map" { // "metadata" has the sum of the sizes
			var skipped json.RawMessage
			return dec.Decode(&skipped)
		}
		shardOf = map[string]string{}
		return object(dec, func(tensor string) error {
			token, err := dec.Token()
			if err != nil {
				return err
			}
			shard, _ := token.(string)
			if leadsOutside(shard) || filepath.Base(shard) != shard {
				return fmt.Errorf("tensor %.200q is placed in %.100q, which is no name of a file in the same folder", tensor, fmt.Sprint(token))
			}
			shardOf[tensor] = shard
			return nil
		})
	})
	if err == nil {
		err = ended(dec)
	}
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errors.New("the JSON ends too early")
	case err != nil:
		return nil, err
	case len(shardOf) == 0:
		return nil, errors.New("there is no weight_map with tensors, so this is no index of shards")
	}
	return shardOf, nil
}
