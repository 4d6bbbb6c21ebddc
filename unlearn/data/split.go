package data

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"l2ul/internal/nearest"
)

// Spec says which training samples are to be forgotten (the flag --forget):
//
//	random:K       the first K of torch.randperm(n) under the raw seed, so that sets of one seed are nested
//	class:C[:K]    all samples of class C (index or name) in ascending order, or the first K of them
//	ids:1,5,9      these sample indices, in this order
//	random:16+class:3:8   several of these, in this order, each taking samples that those before it have left
//	@forget.json   a file written by [ForgetSet.Write]
//	@labels.csv    a table of samples and the labels that they are to get: see resolveTable
//	@names.txt     file names, one a line; blank lines and lines that begin with # are skipped
type Spec struct {
	text  string
	file  string // "" unless the samples stand in one
	parts []specPart
}

type specPart struct {
	kind  specKind
	k     int // of random and class; 0 for a whole class
	class string
	ids   []int
}

type specKind string

const (
	specRandom specKind = "random"
	specClass  specKind = "class"
	specIDs    specKind = "ids"
)

// ParseSpec reads a spec without looking at data or files. It fails with *UsageError.
func ParseSpec(text string) (Spec, error) {
	if file, ok := strings.CutPrefix(text, "@"); ok {
		if file == "" {
			return Spec{}, usagef("forget set %q: name a file after the @", text)
		}
		return Spec{text: text, file: file}, nil
	}
	s := Spec{text: text}
	for _, one := range splitSpec(text) {
		p, err := parsePart(text, one)
		if err != nil {
			return Spec{}, err
		}
		s.parts = append(s.parts, p)
	}
	return s, nil
}

// splitSpec splits a spec at each + that a part follows; names of classes may hold others.
func splitSpec(text string) (parts []string) {
	from := 0
	for i := range len(text) {
		kind, _, _ := strings.Cut(text[i+1:], ":")
		if text[i] == '+' && slices.Contains([]specKind{specRandom, specClass, specIDs}, specKind(kind)) {
			parts, from = append(parts, text[from:i]), i+1
		}
	}
	return append(parts, text[from:])
}

func parsePart(text, part string) (specPart, error) {
	kind, arg, ok := strings.Cut(part, ":")
	p := specPart{kind: specKind(kind)}
	switch {
	case !ok:
	case p.kind == specRandom:
		k, err := parseK(text, arg)
		p.k = k
		return p, err
	case p.kind == specClass:
		// What follows the last colon is K: a class whose name holds a colon is chosen by its number.
		if i := strings.LastIndexByte(arg, ':'); i >= 0 {
			k, err := parseK(text, arg[i+1:])
			if err != nil {
				return p, err
			}
			p.k, arg = k, arg[:i]
		}
		if arg == "" {
			return p, usagef("forget set %q: name a class, as in class:3 or class:cat:16", text)
		}
		p.class = arg
		return p, nil
	case p.kind == specIDs:
		for field := range strings.SplitSeq(arg, ",") {
			id, err := strconv.Atoi(strings.TrimSpace(field))
			if err != nil {
				return p, usagef("forget set %q: %q is no sample index; write ids:1,5,9", text, field)
			}
			p.ids = append(p.ids, id)
		}
		return p, nil
	}
	return p, usagef("forget set %q: %swrite random:K, class:C, class:C:K, ids:1,5,9, several of these joined by +, @forget.json, @labels.csv or @names.txt",
		text, nearest.Hint(kind, []string{string(specRandom), string(specClass), string(specIDs)}))
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
func (s Spec) Random() (k int, ok bool) {
	if len(s.parts) != 1 || s.parts[0].kind != specRandom {
		return 0, false
	}
	return s.parts[0].k, true
}

// String returns the spec as it was written.
func (s Spec) String() string { return s.text }

// Count is how many samples the spec names, 0 where only data or a file tells.
func (s Spec) Count() (n int) {
	for _, p := range s.parts {
		named := max(p.k, len(p.ids))
		if named == 0 { // a whole class
			return 0
		}
		n += named
	}
	return n
}

// Resolve applies the spec to a training set. What the spec itself says wrongly is a *UsageError: more samples than there
// are, duplicates, indices out of range. What its file says, or a file that cannot be read, is an *InputError.
func (s Spec) Resolve(set *Set, seed int64) (*ForgetSet, error) {
	if s.file != "" {
		return s.resolveFile(set)
	}
	var indices []int
	for _, p := range s.parts {
		more, err := s.choose(p, set, seed, indices)
		if err != nil {
			return nil, err
		}
		indices = append(indices, more...)
	}
	f, err := newForgetSet(set, indices, s.text, seed)
	if err != nil {
		return nil, usagef("forget set %q: %v", s.text, err)
	}
	return f, nil
}

// choose returns the samples of a part, without those that the parts before it have taken. Indices, which somebody wrote down,
// are left to be found as duplicates.
func (s Spec) choose(p specPart, set *Set, seed int64, taken []int) (indices []int, err error) {
	switch p.kind {
	case specIDs:
		return p.ids, nil
	case specRandom:
		if p.k > set.Len()-len(taken) {
			return nil, usagef("forget set %q: the %s split has only %d samples", s.text, set.Split, set.Len())
		}
		indices = randperm(set.Len(), p.k+len(taken), seed)
	case specClass:
		class, err := classNumber(p.class, set.Classes)
		if err != nil {
			return nil, usagef("forget set %q: %v", s.text, err)
		}
		for i, y := range set.Labels {
			if y == class {
				indices = append(indices, i)
			}
		}
		if n := len(indices); n == 0 || p.k > n {
			return nil, usagef("forget set %q: class %q has %d samples in the %s split", s.text, set.Classes[class], n, set.Split)
		}
	}
	gone := make(map[int]bool, len(taken))
	for _, i := range taken {
		gone[i] = true
	}
	indices = slices.DeleteFunc(indices, func(i int) bool { return gone[i] })
	if p.k > len(indices) {
		return nil, usagef("forget set %q: class %q has only %d samples that the parts before it leave", s.text, p.class, len(indices))
	}
	if p.k > 0 {
		indices = indices[:p.k]
	}
	return indices, nil
}

// classNumber finds a class by its name or else by its number.
func classNumber(text string, classes []string) (int, error) {
	if class := slices.Index(classes, text); class >= 0 {
		return class, nil
	}
	class, err := strconv.Atoi(text)
	if err != nil || class < 0 || class >= len(classes) {
		return 0, fmt.Errorf("no class %q; %sthe classes are 0 to %d: %s", text, nearest.Hint(text, classes), len(classes)-1, listClasses(classes))
	}
	return class, nil
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
	info, err := os.Stat(s.file)
	if err != nil {
		return nil, fmt.Errorf("forget set: %w", unreadable(err))
	}
	if info.Size() > maxForgetFile {
		return nil, inputf(s.file, "%d bytes are more than a forget set can have (%d)", info.Size(), maxForgetFile)
	}
	content, err := os.ReadFile(s.file)
	if err != nil {
		return nil, fmt.Errorf("forget set: %w", unreadable(err))
	}
	if bytes.HasPrefix(bytes.TrimLeft(content, " \t\r\n"), []byte("{")) {
		return readForgetSet(s.file, content, set)
	}
	if strings.EqualFold(path.Ext(s.file), ".csv") {
		return s.resolveTable(content, set)
	}
	indices, err := findNames(s.file, string(content), set)
	if err != nil {
		return nil, err
	}
	f, err := newForgetSet(set, indices, s.text, 0)
	if err != nil {
		return nil, &InputError{Path: s.file, Err: err}
	}
	return f, nil
}

// resolveTable reads samples and the labels that they are to get, for goal relabel, from comma-separated values whose first line
// is "index,label" or "name,label". Names are those of a list of names, labels names or numbers of classes.
func (s Spec) resolveTable(content []byte, set *Set) (*ForgetSet, error) {
	r := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(content, []byte("\ufeff")))) // as spreadsheets write it
	r.FieldsPerRecord, r.TrimLeadingSpace = 2, true
	rows, err := r.ReadAll()
	if err != nil {
		return nil, &InputError{Path: s.file, Err: err}
	}
	if len(rows) == 0 || rows[0][1] != "label" || rows[0][0] != "index" && rows[0][0] != "name" {
		return nil, inputf(s.file, `its first line must be "index,label" or "name,label"`)
	}
	by, rows := rows[0][0], rows[1:]
	if len(rows) == 0 {
		return nil, inputf(s.file, "no samples in it")
	}
	names, targets, indices := make([]string, len(rows)), make([]int, len(rows)), make([]int, len(rows))
	for i, row := range rows {
		names[i] = row[0]
		if targets[i], err = classNumber(row[1], set.Classes); err != nil {
			return nil, inputf(s.file, "row %d: %v", i+1, err)
		}
		if by == "index" {
			if indices[i], err = strconv.Atoi(row[0]); err != nil {
				return nil, inputf(s.file, "row %d: %q is no sample index", i+1, row[0])
			}
		}
	}
	if by == "name" {
		if indices, err = FindNames(s.file, names, set); err != nil {
			return nil, err
		}
	}
	f, err := newForgetSet(set, indices, s.text, 0)
	if err == nil {
		err = f.SetTargets(targets, len(set.Classes))
	}
	if err != nil {
		return nil, &InputError{Path: s.file, Err: err}
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
