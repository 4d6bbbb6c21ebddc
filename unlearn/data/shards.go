package data

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// shard is one of the files that the samples of a dataset are divided among.
type shard struct {
	name string // in the dataset, which tells the split
	path string
}

// shards finds the files with a suffix: in a folder and the folders in it, sorted by name; or those that a pattern with braces
// stands for, in its order. There are some if there is no error.
func (s Source) shards(suffix string) (found []shard, err error) {
	if strings.Contains(s.Dir, "{") {
		files, err := expandBraces(s.Dir)
		if err != nil {
			return nil, inputf(s.Dir, "%v", err)
		}
		for _, file := range files {
			found = append(found, shard{filepath.Base(file), file})
		}
		return found, nil
	}
	info, err := os.Stat(s.Dir)
	if err != nil {
		return nil, unreadable(err)
	}
	if !info.IsDir() {
		return []shard{{filepath.Base(s.Dir), s.Dir}}, nil
	}
	f := s.folder()
	dirs, err := f.folders(".")
	if err != nil {
		return nil, err
	}
	for _, dir := range append([]string{"."}, dirs...) {
		entries, err := f.list(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if name := path.Join(dir, e.Name()); strings.HasSuffix(name, suffix) && !e.IsDir() {
				found = append(found, shard{name, f.path(name)})
			}
		}
	}
	if len(found) == 0 {
		return nil, inputf(s.Dir, "no files *%s in it or in a folder of it", suffix)
	}
	return found, nil
}

// openShards opens splits of a dataset whose files have a suffix. index lists the samples of a split in all shards. The training
// split tells the classes of the others: by their names, else there are as many as its labels say.
func (s Source) openShards(ctx context.Context, splits []string, dataset, suffix string,
	index func(ctx context.Context, src Source, all []shard, split string) (*imageSplit, error),
) ([]*Set, error) {
	for _, split := range splits {
		if splitWords[split] == nil {
			return nil, unknownSplit(dataset, split, splitWords)
		}
	}
	all, err := s.shards(suffix)
	if err != nil {
		return nil, err
	}
	train, err := index(ctx, s, all, "train")
	if err != nil {
		return nil, err
	}
	if train.classes == nil {
		train.classes = classNumbers(train.labels)
	}
	return s.openSplits(ctx, splits, func(split string) (*imageSplit, error) {
		if split == "train" {
			return train, nil
		}
		other, err := index(ctx, s, all, split)
		if err == nil {
			other.classes = train.classes
		}
		return other, err
	})
}

// splitWords are what the name of a shard holds as a word if it is of a split.
var splitWords = map[string][]string{"train": {"train", "training"}, "test": {"test"}, "val": {"val", "valid", "validation", "dev"}}

// ofSplit returns the shards of a split. Where no name tells of a split, all are training and test shards; what there is to
// validate with is to test with, where there is nothing else, as in ImageNet.
func ofSplit(all []shard, split string) (of []shard) {
	told := false
	for _, s := range all {
		words := strings.FieldsFunc(strings.ToLower(s.name), func(r rune) bool { return !unicode.IsLetter(r) })
		for name, synonyms := range splitWords {
			if !slices.ContainsFunc(words, func(w string) bool { return slices.Contains(synonyms, w) }) {
				continue
			}
			told = true
			if name == split {
				of = append(of, s)
			}
		}
	}
	switch {
	case !told && split != "val":
		return all
	case told && of == nil && split == "test":
		return ofSplit(all, "val")
	}
	return of
}

// maxShards bounds what a pattern stands for.
const maxShards = 1 << 16

// expandBraces returns what a pattern stands for, as in a shell: {a,b} for a and b, {00..12} for numbers of equal width.
func expandBraces(text string) ([]string, error) {
	open := strings.IndexByte(text, '{')
	if open < 0 {
		return []string{text}, nil
	}
	var choices []string
	depth, from := 0, open+1
	for at := open; at < len(text); at++ {
		switch c := text[at]; {
		case c == '{':
			depth++
		case c == ',' && depth == 1:
			choices, from = append(choices, text[from:at]), at+1
		case c == '}':
			if depth--; depth == 0 {
				return combine(text[:open], append(choices, text[from:at]), text[at+1:])
			}
		}
	}
	return nil, fmt.Errorf("the brace at byte %d of the pattern is not closed", open)
}

// combine expands before, each of the choices, and after.
func combine(before string, choices []string, after string) (all []string, err error) {
	if len(choices) == 1 {
		if choices, err = numbers(choices[0]); err != nil {
			return nil, err
		}
	}
	ends, err := expandBraces(after)
	if err != nil {
		return nil, err
	}
	for _, choice := range choices {
		middles, err := expandBraces(choice)
		if err != nil {
			return nil, err
		}
		if len(middles) > (maxShards-len(all))/len(ends) {
			return nil, fmt.Errorf("the pattern stands for more than %d files", maxShards)
		}
		for _, middle := range middles {
			for _, end := range ends {
				all = append(all, before+middle+end)
			}
		}
	}
	return all, nil
}

// numbers are those of a range such as 000..127.
func numbers(text string) (all []string, err error) {
	first, last, ok := strings.Cut(text, "..")
	from, err1 := strconv.ParseUint(first, 10, 32)
	to, err2 := strconv.ParseUint(last, 10, 32)
	switch {
	case !ok || err1 != nil || err2 != nil || to < from:
		return nil, fmt.Errorf("{%s} in the pattern is no range such as {000..127}", text)
	case to-from >= maxShards:
		return nil, fmt.Errorf("the pattern stands for more than %d files", maxShards)
	}
	for n := from; n <= to; n++ {
		all = append(all, fmt.Sprintf("%0*d", len(first), n))
	}
	return all, nil
}

// classNumbers are the names of classes that are known by number only.
func classNumbers(labels []int) []string {
	names := make([]string, 1+slices.Max(labels))
	for i := range names {
		names[i] = strconv.Itoa(i)
	}
	return names
}

// maxClasses bounds such numbers.
const maxClasses = 1 << 20

// parseLabel reads the number of a class.
func parseLabel(text string) (int, error) {
	y, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || y < 0 || y >= maxClasses {
		return 0, fmt.Errorf("label %.40q is no number from 0 to %d", text, maxClasses-1)
	}
	return y, nil
}
