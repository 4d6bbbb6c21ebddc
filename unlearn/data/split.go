package data

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Spec says which training samples are to be forgotten (the flag --forget):
//
//	random:K       the first K of torch.randperm(n) under the raw seed, so that sets of one seed are nested
//	class:C[:K]    all samples of class C (index or name) in ascending order, or the first K of them
//	ids:1,5,9      these sample indices, in this order
//	@forget.json   a file written by [ForgetSet.Write]
//	@names.txt     file names, one a line; blank lines and lines that begin with # are skipped
type Spec struct {
	text string
	kind specKind
	k    int    // of random and class; 0 for a whole class
	arg  string // class, or file path
	ids  []int
}

type specKind string

const (
	specRandom specKind = "random"
	specClass  specKind = "class"
	specIDs    specKind = "ids"
	specFile   specKind = "@"
)

// ParseSpec reads a spec without looking at data or files. It fails with *UsageError.
func ParseSpec(text string) (Spec, error) {
	if file, ok := strings.CutPrefix(text, "@"); ok {
		if file == "" {
			return Spec{}, usagef("forget set %q: name a file after the @", text)
		}
		return Spec{text: text, kind: specFile, arg: file}, nil
	}
	kind, arg, ok := strings.Cut(text, ":")
	s := Spec{text: text, kind: specKind(kind)}
	switch {
	case !ok:
	case s.kind == specRandom:
		k, err := parseK(text, arg)
		s.k = k
		return s, err
	case s.kind == specClass:
		// What follows the last colon is K: a class whose name holds a colon is chosen by its number.
		if i := strings.LastIndexByte(arg, ':'); i >= 0 {
			k, err := parseK(text, arg[i+1:])
			if err != nil {
				return Spec{}, err
			}
			s.k, arg = k, arg[:i]
		}
		if arg == "" {
			return Spec{}, usagef("forget set %q: name a class, as in class:3 or class:cat:16", text)
		}
		s.arg = arg
		return s, nil
	case s.kind == specIDs:
		for field := range strings.SplitSeq(arg, ",") {
			id, err := strconv.Atoi(strings.TrimSpace(field))
			if err != nil {
				return Spec{}, usagef("forget set %q: %q is no sample index; write ids:1,5,9", text, field)
			}
			s.ids = append(s.ids, id)
		}
		return s, nil
	}
	return Spec{}, usagef("forget set %q: write random:K, class:C, class:C:K, ids:1,5,9, @forget.json or @names.txt", text)
}

func parseK(spec, text string) (int, error) {
	k, err := strconv.Atoi(text)
	if err != nil {
		return 0, usagef("forget set %q: %q is no number of samples", spec, text)
	}
	if k < 1 {
		return 0, usagef("forget set %q: %d samples to forget; at least 1 is needed", spec, k)
	}
	return k, nil
}

// Random returns K of random:K; ok is false for other specs.
func (s Spec) Random() (k int, ok bool) { return s.k, s.kind == specRandom }

// String returns the spec as it was written.
func (s Spec) String() string { return s.text }

// Resolve applies the spec to a training set. What the spec itself says wrongly is a *UsageError: more samples than there
// are, duplicates, indices out of range. What its file says, or a file that cannot be read, is an *InputError.
func (s Spec) Resolve(set *Set, seed int64) (*ForgetSet, error) {
	if s.kind == specFile {
		return s.resolveFile(set)
	}
	var indices []int
	switch s.kind {
	case specRandom:
		if s.k > set.Len() {
			return nil, usagef("forget set %q: the %s split has only %d samples", s.text, set.Split, set.Len())
		}
		indices = randperm(set.Len(), s.k, seed)
	case specClass:
		class := slices.Index(set.Classes, s.arg)
		if class < 0 {
			c, err := strconv.Atoi(s.arg)
			if err != nil || c < 0 || c >= len(set.Classes) {
				return nil, usagef("forget set %q: no class %q; the classes are 0 to %d: %s",
					s.text, s.arg, len(set.Classes)-1, listClasses(set.Classes))
			}
			class = c
		}
		for i, y := range set.Labels {
			if y == class {
				indices = append(indices, i)
			}
		}
		if s.k > len(indices) || len(indices) == 0 {
			return nil, usagef("forget set %q: class %q has %d samples in the %s split",
				s.text, set.Classes[class], len(indices), set.Split)
		}
		if s.k > 0 {
			indices = indices[:s.k]
		}
	case specIDs:
		indices = slices.Clone(s.ids)
	}
	f, err := newForgetSet(set, indices, s.text, seed)
	if err != nil {
		return nil, usagef("forget set %q: %v", s.text, err)
	}
	return f, nil
}

func listClasses(classes []string) string {
	const most = 20
	if len(classes) > most {
		return strings.Join(classes[:most], ", ") + ", …"
	}
	return strings.Join(classes, ", ")
}

// maxForgetFile bounds a forget file: 20 million indices.
const maxForgetFile = 256 << 20

func (s Spec) resolveFile(set *Set) (*ForgetSet, error) {
	info, err := os.Stat(s.arg)
	if err != nil {
		return nil, fmt.Errorf("forget set: %w", unreadable(err))
	}
	if info.Size() > maxForgetFile {
		return nil, inputf(s.arg, "%d bytes are more than a forget set can have (%d)", info.Size(), maxForgetFile)
	}
	content, err := os.ReadFile(s.arg)
	if err != nil {
		return nil, fmt.Errorf("forget set: %w", unreadable(err))
	}
	if bytes.HasPrefix(bytes.TrimLeft(content, " \t\r\n"), []byte("{")) {
		return readForgetSet(s.arg, content, set)
	}
	indices, err := findNames(s.arg, string(content), set)
	if err != nil {
		return nil, err
	}
	f, err := newForgetSet(set, indices, s.text, 0)
	if err != nil {
		return nil, &InputError{Path: s.arg, Err: err}
	}
	return f, nil
}

// FindNames returns the indices of the samples with these file names, in any form that a file of names allows. file is where
// they stand, for errors, in which a line is a place in the list.
func FindNames(file string, names []string, set *Set) ([]int, error) {
	for i, name := range names {
		if clean, ok := listedName(name); !ok || strings.ContainsAny(clean, "\r\n") {
			return nil, inputf(file, "name %d, %q, is no file name", i+1, name)
		}
	}
	return findNames(file, strings.Join(names, "\n"), set)
}

// findNames looks up one file name a line: as the set has it ("train/cat/0007.jpg"), without leading folders, or the
// bare name where only one sample has it.
func findNames(file, content string, set *Set) ([]int, error) {
	if set.Names == nil {
		return nil, inputf(file, "the samples of dataset %q have no file names; give indices (ids:…) instead", set.Dataset)
	}
	// Only names that the file asks for are looked up, since a large set has millions.
	const none, ambiguous = -1, -2
	byName := map[string]int{}
	for line := range strings.Lines(content) {
		if name, ok := listedName(line); ok {
			byName[name] = none
		}
	}
	for i, name := range set.Names {
		for {
			if j, wanted := byName[name]; wanted && j == none {
				byName[name] = i
			} else if wanted && j != i {
				byName[name] = ambiguous
			}
			_, rest, ok := strings.Cut(name, "/")
			if !ok {
				break
			}
			name = rest
		}
	}
	var indices []int
	number, seen := 0, map[int]int{} // by sample, the line that names it
	for line := range strings.Lines(content) {
		number++
		name, ok := listedName(line)
		if !ok {
			continue
		}
		switch i := byName[name]; {
		case i == none:
			return nil, inputf(file, "line %d: no sample of the %s split is named %q; the first is %q",
				number, set.Split, name, set.Names[0])
		case i == ambiguous:
			return nil, inputf(file, "line %d: several samples are named %q; write the class folder too", number, name)
		case seen[i] != 0:
			return nil, inputf(file, "line %d: the sample %q is that of line %d already", number, name, seen[i])
		default:
			seen[i] = number
			indices = append(indices, i)
		}
	}
	if len(indices) == 0 {
		return nil, inputf(file, "no file names in it")
	}
	return indices, nil
}

// listedName is the file name of a line, clean, if there is one.
func listedName(line string) (name string, ok bool) {
	name = strings.TrimSpace(line)
	if name == "" || name[0] == '#' {
		return "", false
	}
	return path.Clean(name), true
}

// Complement returns the indices in [0, n) that are not in indices, ascending: the retain set.
func Complement(n int, indices []int) []int {
	drop := make([]bool, n)
	for _, i := range indices {
		drop[i] = true
	}
	rest := make([]int, 0, max(0, n-len(indices)))
	for i, dropped := range drop {
		if !dropped {
			rest = append(rest, i)
		}
	}
	return rest
}
