package data

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

func init() {
	Register(Dataset{
		Name: "webdataset",
		Summary: "WebDataset: tar shards with KEY.jpg or .png beside KEY.cls or .json, in a folder or named by a pattern such as " +
			"dir/train-{000..127}.tar; train, test or val in their names tells the split",
		Files: true,
		Sized: true,

		Labels:    true,
		Resembles: func(ctx context.Context, l look) bool { return l.shards(".tar") && !l.tree(ctx, "train") },
		General:   true,

		Open: openWebDataset,
	})
}

func openWebDataset(ctx context.Context, src Source, splits []string) ([]*Set, error) {
	return src.openShards(ctx, splits, "webdataset", ".tar", indexShards)
}

// tarShards are images in tar archives, by the name of the shard and that in it.
type tarShards map[string]tarPlace

// tarPlace is where an image lies.
type tarPlace struct {
	file   string
	state  fileInfo // of the archive
	offset int64
	size   int64
}

func (t tarShards) path(name string) string { return t[name].file + ":" + path.Base(name) }

func (t tarShards) info(name string) (fileInfo, error) { //nolint:unparam // of storedFiles
	info := t[name].state
	info.size = t[name].size
	return info, nil
}

func (t tarShards) read(name string) ([]byte, error) {
	at := t[name]
	f, err := os.Open(at.file)
	if err != nil {
		return nil, unreadable(err)
	}
	defer f.Close()
	content := make([]byte, at.size)
	if _, err := f.ReadAt(content, at.offset); err != nil {
		return nil, &InputError{Path: t.path(name), Err: err}
	}
	return content, nil
}

// indexShards finds the samples of a split, in the order of shards and of what is in them.
func indexShards(ctx context.Context, src Source, all []shard, split string) (*imageSplit, error) {
	shards := ofSplit(all, split)
	if len(shards) == 0 {
		return nil, inputf(src.Dir, "no shards of split %q: none has it in its name", split)
	}
	samples, states := make([][]webSample, len(shards)), make([]fileInfo, len(shards))
	err := src.each(ctx, len(shards), func(i int) (err error) {
		f, err := os.Open(shards[i].path)
		if err != nil {
			return unreadable(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return unreadable(err)
		}
		states[i] = newFileInfo(info)
		if samples[i], err = indexTar(ctx, f, src.Label); err != nil && ctx.Err() == nil {
			err = &InputError{Path: shards[i].path, Err: err}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	places := tarShards{}
	s := &imageSplit{dataset: "webdataset", name: split, files: places}
	for i, shard := range shards {
		for _, sample := range samples[i] {
			name := shard.name + "/" + sample.image
			if _, twice := places[name]; twice {
				return nil, inputf(shard.path, "%s stands in it twice", sample.image)
			}
			places[name] = tarPlace{shard.path, states[i], sample.offset, sample.size}
			s.names, s.labels = append(s.names, name), append(s.labels, sample.label)
		}
	}
	if len(s.names) == 0 {
		return nil, inputf(src.Dir, "the shards of split %q hold no samples", split)
	}
	return s, nil
}

// webSample is an image of a shard: its name, where it begins, how many bytes it has, and its label.
type webSample struct {
	image        string
	offset, size int64
	label        int
	labelled     bool
}

// maxSidecar bounds the file of a label.
const maxSidecar = 1 << 20

// indexTar reads the headers of a shard, and the labels. The files of a sample follow one another; what they are called up to
// the first dot is the sample's key, what follows says what they are
// (https://github.com/webdataset/webdataset, base_plus_ext). label is the field of .json that is wanted, "" for .cls, or .json's "label".
func indexTar(ctx context.Context, r io.ReadSeeker, label string) (samples []webSample, err error) {
	var key string
	var sample webSample
	finish := func() error {
		switch {
		case key == "" || sample.image == "" && !sample.labelled:
			return nil // nothing that is an image or a label
		case sample.image == "":
			return fmt.Errorf("the sample %q has no image (.jpg, .jpeg or .png)", key)
		case !sample.labelled:
			return fmt.Errorf("the sample %q has no label (.cls or .json)", key)
		}
		samples = append(samples, sample)
		return nil
	}
	err = tarMembers(ctx, r, func(h *tar.Header, content io.Reader) error {
		stem, kind, dotted := strings.Cut(path.Base(h.Name), ".")
		if !dotted || stem == "" {
			return nil
		}
		if k := path.Join(path.Dir(h.Name), stem); k != key {
			if err := finish(); err != nil {
				return err
			}
			key, sample = k, webSample{}
		}
		if err := sample.add(content, r, h, strings.ToLower(kind), label); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		return nil
	})
	if e, ok := errors.AsType[*tarError](err); ok && e.msg == msgNoTar {
		return nil, fmt.Errorf("%w; shards must be plain, to be read in parts", err)
	}
	if err != nil {
		return nil, err
	}
	return samples, finish()
}

// add takes a file of the sample that begins where r is.
func (s *webSample) add(body io.Reader, r io.Seeker, header *tar.Header, kind, label string) (err error) {
	switch {
	case kind == "jpg" || kind == "jpeg" || kind == "png":
		switch {
		case s.image != "":
			return fmt.Errorf("a second image of one sample, beside %s", s.image)
		case header.Size > maxMember:
			return fmt.Errorf("%d bytes are more than an image here can have (%d)", header.Size, maxMember)
		case isSparse(header):
			return errors.New("a sparse file, which lies in pieces")
		}
		s.image, s.size = strings.TrimLeft(path.Clean(header.Name), "/"), header.Size
		s.offset, err = r.Seek(0, io.SeekCurrent)
		return err
	case kind == "cls" && label == "", kind == "json" && !s.labelled:
		if header.Size > maxSidecar {
			return fmt.Errorf("%d bytes are more than a label here can have (%d)", header.Size, maxSidecar)
		}
		content, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		text := string(content)
		if kind == "json" {
			if text, err = jsonField(content, label); err != nil || text == "" {
				return err
			}
		}
		s.label, err = parseLabel(text)
		s.labelled = err == nil
		return err
	}
	return nil
}

// jsonField is the text of a field, by default "label", or "" where that is not there.
func jsonField(content []byte, name string) (string, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(content, &fields); err != nil {
		return "", err
	}
	if name != "" {
		if fields[name] == nil {
			return "", fmt.Errorf("no field %q (--label)", name)
		}
		return string(fields[name]), nil
	}
	return string(fields["label"]), nil
}
