package data

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/google/renameio/v2"
)

// ForgetSchema names the format of forget.json.
const ForgetSchema = "unlearn.forget/1"

// ForgetSet is the ordered list of samples to forget, and forget.json when written as JSON.
type ForgetSet struct {
	Schema   string   `json:"schema"`            // ForgetSchema
	Dataset  string   `json:"dataset"`           // Set.Dataset
	Split    string   `json:"split"`             // Set.Split, usually "train"
	N        int      `json:"n"`                 // samples in that split
	Indices  []int    `json:"indices"`           // distinct, in the order in which they are processed
	Labels   []int    `json:"labels"`            // the true label of each
	Names    []string `json:"names,omitempty"`   // the file name of each, as in Set.Names, where samples have names
	Targets  []int    `json:"targets,omitempty"` // for goal relabel: the label wanted for each, other than the true one
	Spec     string   `json:"spec"`              // as the user wrote it
	Seed     int64    `json:"seed"`              // of random:K
	DataHash string   `json:"data_hash"`         // Set.Fingerprint of the split

	// FilesHash is over names, sizes and labels of the files that the samples are, if they are, so that a set that was drawn
	// for one size of images is good for another.
	FilesHash string `json:"files_hash,omitempty"`
}

// newForgetSet checks the indices and looks up the labels.
func newForgetSet(set *Set, indices []int, spec string, seed int64) (*ForgetSet, error) {
	f := &ForgetSet{
		Schema: ForgetSchema, Dataset: set.Dataset, Split: set.Split, N: set.Len(),
		Indices: indices, Spec: spec, Seed: seed, DataHash: set.Fingerprint(), FilesHash: set.files,
	}
	seen := make(map[int]struct{}, len(indices))
	for _, i := range indices {
		if i < 0 || i >= set.Len() {
			return nil, fmt.Errorf("index %d is outside the %s split, which has %d samples (0 to %d)", i, set.Split, set.Len(), set.Len()-1)
		}
		if _, twice := seen[i]; twice {
			return nil, fmt.Errorf("index %d stands in it twice", i)
		}
		seen[i] = struct{}{}
		f.Labels = append(f.Labels, set.Labels[i])
		if set.Names != nil {
			f.Names = append(f.Names, set.Names[i])
		}
	}
	if !utf8.ValidString(strings.Join(f.Names, "")) { // JSON would change them
		f.Names = nil
	}
	return f, nil
}

// SetTargets stores the wanted labels of goal relabel. It fails with *InputError if there is not one for each sample,
// if one is no class, or if one is the true label already.
func (f *ForgetSet) SetTargets(targets []int, classes int) error {
	if len(targets) != len(f.Indices) {
		return inputf("", "%d targets for %d samples to forget", len(targets), len(f.Indices))
	}
	for i, y := range targets {
		if y < 0 || y >= classes {
			return inputf("", "target %d of sample %d is no class: there are %d (0 to %d)", y, f.Indices[i], classes, classes-1)
		}
		if y == f.Labels[i] {
			return inputf("", "target %d of sample %d is its true label", y, f.Indices[i])
		}
	}
	f.Targets = targets
	return nil
}

// Hash returns the hex sha256 over data hash, indices and targets: equal hashes ask for the same forgetting.
func (f *ForgetSet) Hash() string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s %v %v\n", ForgetSchema, f.DataHash, f.Indices, f.Targets)
	return hex.EncodeToString(h.Sum(nil))
}

// Write stores the set as forget.json; the file appears whole or not at all.
func (f *ForgetSet) Write(path string) error {
	content, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("writing the forget set: %w", err)
	}
	if err := renameio.WriteFile(path, append(content, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the forget set: %w", err)
	}
	return nil
}

// readForgetSet reads forget.json and checks it against the set it was made for. What a hand-written file leaves out
// (n, labels, names, data_hash) is filled in; what it says must be true.
func readForgetSet(path string, content []byte, set *Set) (*ForgetSet, error) {
	var f ForgetSet
	dec := json.NewDecoder(bytes.NewReader(content))
	if err := dec.Decode(&f); err != nil {
		return nil, jsonError(path, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, inputf(path, "more than one JSON value (at byte %d)", dec.InputOffset())
	}
	switch {
	case f.Schema != ForgetSchema:
		return nil, inputf(path, "schema %q, need %q", f.Schema, ForgetSchema)
	case f.DataHash != "" && f.DataHash != set.Fingerprint() && (set.files == "" || f.FilesHash != set.files):
		return nil, inputf(path, "made for other data: its data_hash is %.12s…, that of %s (%s) is %.12s…; "+
			"use the data it was made for, or make a new one with `unlearn split`",
			f.DataHash, set.Dataset, set.Split, set.Fingerprint())
	case f.Split != "" && f.Split != set.Split:
		return nil, inputf(path, "made for split %q, not %q", f.Split, set.Split)
	case f.N != 0 && f.N != set.Len():
		return nil, inputf(path, "made for a split of %d samples; %s has %d", f.N, set.Split, set.Len())
	case len(f.Indices) == 0:
		return nil, inputf(path, "no indices in it")
	case len(f.Labels) != 0 && len(f.Labels) != len(f.Indices):
		return nil, inputf(path, "%d labels for %d indices", len(f.Labels), len(f.Indices))
	case len(f.Names) != 0 && len(f.Names) != len(f.Indices):
		return nil, inputf(path, "%d names for %d indices", len(f.Names), len(f.Indices))
	}
	spec := f.Spec
	if spec == "" {
		spec = "@" + path
	}
	checked, err := newForgetSet(set, f.Indices, spec, f.Seed)
	if err != nil {
		return nil, &InputError{Path: path, Err: err}
	}
	for i, y := range f.Labels {
		if y != checked.Labels[i] {
			return nil, inputf(path, "sample %d has label %d there and %d in the data", f.Indices[i], y, checked.Labels[i])
		}
	}
	for i, name := range f.Names {
		if f.DataHash == "" && checked.Names != nil && name != checked.Names[i] { // the same images may have got other names
			return nil, inputf(path, "sample %d is %s there and %s in the data", f.Indices[i], name, checked.Names[i])
		}
	}
	if len(f.Targets) != 0 {
		if err := checked.SetTargets(f.Targets, len(set.Classes)); err != nil {
			return nil, &InputError{Path: path, Err: err}
		}
	}
	return checked, nil
}

func jsonError(path string, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return inputf(path, "not JSON at byte %d: %v", syntax.Offset, err)
	case errors.As(err, &kind):
		return inputf(path, "field %q at byte %d holds a %s", kind.Field, kind.Offset, kind.Value)
	default:
		return &InputError{Path: path, Msg: "not JSON", Err: err}
	}
}
