package run

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"l2ul/internal/nearest"
	"l2ul/unlearn/data"
	"l2ul/unlearn/run/config"
)

// Request is a line of a file of deletion requests.
type Request struct {
	ID      string         `json:"id"`
	Forget  string         `json:"forget,omitempty"`  // as --forget
	Indices []int          `json:"indices,omitempty"` // or the samples themselves,
	Names   []string       `json:"names,omitempty"`   // or their file names
	Goal    string         `json:"goal,omitempty"`    // as --goal
	Targets []int          `json:"targets,omitempty"` // of goal relabel: the new label of each
	Options map[string]any `json:"options,omitempty"` // the method and its options, by name

	where string // file and line, for errors
}

// Bounds of a file of requests.
const (
	maxRequestFile = 256 << 20
	maxRequests    = 999_999
	maxRequestID   = 200
)

// Hash identifies what a request asks for: sha256 of its canonical JSON, in hex.
func (r *Request) Hash() string {
	sum := sha256.Sum256(canonical(r))
	return hex.EncodeToString(sum[:])
}

// readRequests reads a file of requests.
func readRequests(path string) ([]Request, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, Inputf("requests: %s: %w", path, reason(err))
	}
	if info.Size() > maxRequestFile {
		return nil, Inputf("requests: %s: %d bytes are more than such a file can have (%d)", path, info.Size(), maxRequestFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, Inputf("requests: %s: %w", path, reason(err))
	}
	return parseRequests(path, text)
}

// parseRequests reads one request a line; blank lines are passed over.
func parseRequests(path string, text []byte) (list []Request, err error) {
	lines := map[string]int{} // by id
	number := 0
	for line := range bytes.Lines(text) {
		number++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		r := Request{where: fmt.Sprintf("%s line %d", path, number)}
		if err := r.parse(line); err != nil {
			return nil, Inputf("%s: %w", r.where, err)
		}
		if other := lines[r.ID]; other != 0 {
			return nil, Inputf("%s: the id %q is that of line %d already", r.where, r.ID, other)
		}
		lines[r.ID] = number
		if list = append(list, r); len(list) > maxRequests {
			return nil, Inputf("%s: more than %d requests", path, maxRequests)
		}
	}
	if len(list) == 0 {
		return nil, Inputf("%s: no requests in it", path)
	}
	return list, nil
}

func (r *Request) parse(line []byte) error {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	dec.UseNumber()
	if err := dec.Decode(r); err != nil {
		if name, ok := strings.CutPrefix(err.Error(), `json: unknown field "`); ok {
			name = strings.TrimSuffix(name, `"`)
			return fmt.Errorf("unknown field %q; a request has id, forget or indices or names, goal, targets, and options, in which %q may belong", name, name)
		}
		return fmt.Errorf("not a request: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("more than one JSON value (at byte %d); write one a line", dec.InputOffset())
	}
	given := 0
	for _, is := range []bool{r.Forget != "", len(r.Indices) > 0, len(r.Names) > 0} {
		if is {
			given++
		}
	}
	switch {
	case r.ID == "":
		return errors.New(`it has no id; name it, as in {"id": "alice", "forget": "ids:1,5,9"}`)
	case len(r.ID) > maxRequestID:
		return fmt.Errorf("an id of %d bytes; at most %d are allowed", len(r.ID), maxRequestID)
	case given != 1:
		return fmt.Errorf("request %q: say what to forget by one of forget, indices and names; it has %d of them", r.ID, given)
	case r.Goal != "" && r.Options["goal"] != nil:
		return fmt.Errorf("request %q: the goal stands in it twice", r.ID)
	}
	return nil
}

// spec is the request's forget set as --forget has it.
func (r *Request) spec(train *data.Set) (string, error) {
	switch {
	case r.Forget != "":
		return r.Forget, nil
	case len(r.Indices) > 0:
		return idsOf(r.Indices), nil
	}
	indices, err := data.FindNames(r.where, r.Names, train)
	return idsOf(indices), err
}

// idsOf is the forget set of these samples as --forget has it.
func idsOf(indices []int) string {
	texts := make([]string, len(indices))
	for i, n := range indices {
		texts[i] = strconv.Itoa(n)
	}
	return "ids:" + strings.Join(texts, ",")
}

// resolve finds the samples of the request.
func (r *Request) resolve(train *data.Set, seed int64) (*data.ForgetSet, error) {
	text, err := r.spec(train)
	if err != nil {
		return nil, err
	}
	spec, err := data.ParseSpec(text)
	if err != nil {
		return nil, err
	}
	set, err := spec.Resolve(train, seed)
	if err != nil || r.Targets == nil {
		return set, err
	}
	return set, set.SetTargets(r.Targets, len(train.Classes))
}

// flags are the options of the request, as a command line would give them. Only the method and what belongs to it may differ
// from request to request.
func (r *Request) flags(spec *config.Spec) (map[string][]string, error) {
	allowed := []string{"method"}
	for _, f := range spec.Fields()[len(spec.Common):] {
		if f.Key {
			allowed = append(allowed, f.Name)
		}
	}
	flags := map[string][]string{}
	if r.Goal != "" {
		flags["goal"] = []string{r.Goal}
	}
	for name, value := range r.Options {
		if !slices.Contains(allowed, name) {
			return nil, fmt.Errorf("options: %q is no option of a request; %sit can have method, and the options of methods", name, nearest.Hint(name, allowed))
		}
		texts, err := flagTexts(value)
		if err != nil {
			return nil, fmt.Errorf("options: %s: %w", name, err)
		}
		flags[name] = texts
	}
	return flags, nil
}

// flagTexts are the texts of a flag that has a JSON value.
func flagTexts(value any) ([]string, error) {
	switch v := value.(type) {
	case string:
		return []string{v}, nil
	case json.Number:
		return []string{v.String()}, nil
	case bool:
		return []string{strconv.FormatBool(v)}, nil
	case []any:
		var texts []string
		for _, element := range v {
			one, err := flagTexts(element)
			if err != nil {
				return nil, err
			}
			texts = append(texts, one...)
		}
		return texts, nil
	}
	return nil, fmt.Errorf("%s is no value of an option", canonical(value))
}

// drawRequests are those of a stream without a file: consecutive parts of the permutation that random:K takes the first of.
func drawRequests(n, k int, train *data.Set, seed int64) ([]Request, error) {
	if n > maxRequests || k > train.Len()/n {
		return nil, Usagef("-T %d -k %d: the training split has only %s", n, k, Counted(train.Len(), "image"))
	}
	spec, err := data.ParseSpec(fmt.Sprintf("random:%d", n*k))
	if err != nil {
		return nil, err
	}
	all, err := spec.Resolve(train, seed)
	if err != nil {
		return nil, err
	}
	list := make([]Request, n)
	for t := range list {
		id := fmt.Sprintf("random-%d", t+1)
		list[t] = Request{ID: id, Indices: all.Indices[t*k : (t+1)*k], where: "request " + id}
	}
	return list, nil
}
