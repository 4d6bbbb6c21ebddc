// Package bench runs grids: one experiment for every combination of some settings, as CI services run a matrix. A cell of a
// grid is an ordinary run of `unlearn forget`, or a stream of `unlearn continual`, in a folder of its own, named by a hash of
// everything that decides its result, so that a grid can be stopped, moved, split over machines and started again, and does
// nothing twice.
package bench

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"l2ul/internal/nearest"
	"l2ul/unlearn/run"
)

// Grid is a grid file.
type Grid struct {
	Name    string     `yaml:"name"`
	Title   string     `yaml:"title"`
	Stream  *Stream    `yaml:"continual"` // cells are streams of deletion requests; nil where each forgets once
	Base    Settings   `yaml:"base"`      // of all cells
	Matrix  []Axis     `yaml:"-"`         // every combination is a cell,
	Include []Settings `yaml:"include"`   // but for what these add
	Exclude []Settings `yaml:"exclude"`   // and these take away
	Columns []string   `yaml:"columns"`   // keys that its table has columns by; all others but the seed make rows
	Checks  []Check    `yaml:"checks"`
}

// Stream is what requests each cell of a grid serves, as `unlearn continual`: those of a file, or drawn ones.
type Stream struct {
	Requests int    `yaml:"requests"` // to draw,
	Size     int    `yaml:"size"`     // of so many images each
	File     string `yaml:"file"`
}

// flags are the options of `unlearn continual` that ask for the stream.
func (s *Stream) flags() map[string][]string {
	if s == nil || s.File != "" {
		return nil
	}
	return map[string][]string{"requests": {strconv.Itoa(s.Requests)}, "k": {strconv.Itoa(s.Size)}}
}

func (s *Stream) validate() error {
	drawn := s.Requests > 0 && s.Size > 0 && s.File == ""
	if named := s.File != "" && s.Requests == 0 && s.Size == 0; !drawn && !named {
		return errors.New("continual: write {requests: 8, size: 8} for 8 drawn requests of 8 images, or {file: requests.jsonl}")
	}
	return nil
}

// Axis is a key of the matrix and its values, as the file writes them.
type Axis struct {
	Key    string
	Values []string
}

// Setting is a key and its value; a list has several texts, or none.
type Setting struct {
	Key   string
	Texts []string
}

// Settings are settings in the order of their file, each key once.
type Settings []Setting

// Get returns the texts of a key.
func (s Settings) Get(key string) (texts []string, ok bool) {
	i := slices.IndexFunc(s, func(p Setting) bool { return p.Key == key })
	if i < 0 {
		return nil, false
	}
	return s[i].Texts, true
}

// With returns the settings with one more, which replaces one of its key.
func (s Settings) With(key string, texts ...string) Settings {
	s = slices.Clone(s)
	if i := slices.IndexFunc(s, func(p Setting) bool { return p.Key == key }); i >= 0 {
		s[i].Texts = texts
		return s
	}
	return append(s, Setting{key, texts})
}

// String writes the settings in one line.
func (s Settings) String() string {
	parts := make([]string, len(s))
	for i, p := range s {
		parts[i] = p.Key + "=" + strings.Join(p.Texts, ",")
	}
	return strings.Join(parts, " ")
}

// A grid file has a few hundred bytes, and a matrix a few hundred cells.
const (
	maxFile  = 1 << 20
	maxCells = 10000
)

//go:embed presets
var presets embed.FS

const suffix = ".yaml"

// Presets lists the names of the built-in grids, sorted.
func Presets() (names []string) {
	// The file system is embedded: walking it cannot fail.
	_ = fs.WalkDir(presets, "presets", func(path string, d fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(path, suffix); ok && err == nil && !d.IsDir() {
			names = append(names, strings.TrimPrefix(name, "presets/"))
		}
		return err
	})
	slices.Sort(names)
	return names
}

// Load reads a grid: a file, or preset:NAME.
func Load(name string) (*Grid, error) {
	preset, built := strings.CutPrefix(name, "preset:")
	if built {
		text, err := presets.ReadFile("presets/" + preset + suffix)
		if err != nil {
			return nil, run.Usagef("%s", nearest.Unknown("grid", preset, Presets()))
		}
		return Parse(name, text)
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		hint := ""
		if slices.Contains(Presets(), name) {
			hint = "; did you mean preset:" + name + "?"
		}
		return nil, run.Usagef("grid file %s does not exist%s", name, hint)
	}
	if err != nil {
		return nil, run.Inputf("%w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, run.Inputf("%w", err)
	}
	if len(text) > maxFile {
		return nil, run.Usagef("%s: larger than %d bytes, so not a grid file", name, maxFile)
	}
	g, err := Parse(name, text)
	if err == nil {
		g.Name = cmp.Or(g.Name, strings.TrimSuffix(filepath.Base(name), filepath.Ext(name)))
	}
	return g, err
}

// document is a grid file as YAML has it.
type document struct {
	Grid   `yaml:",inline"`
	Matrix axes `yaml:"matrix"`
}

// Parse reads the text of a grid file; path is for its errors. Anchors, aliases and tags are refused.
func Parse(path string, text []byte) (*Grid, error) {
	wrong := func(err error) error { return run.Usagef("%s: %s", path, strings.TrimSpace(err.Error())) }
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, wrong(err)
	}
	var doc document
	if n := len(file.Docs); n > 1 {
		return nil, run.Usagef("%s: %d documents; a grid file has one", path, n)
	}
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if err := plain(d.Body); err != nil {
			return nil, wrong(err)
		}
		// Of continual without a value, the decoder makes a grid whose cells are no streams.
		if err := each(d.Body, func(_ string, value ast.Node) error {
			if value.Type() == ast.NullType {
				return errors.New("it has no value; leave the key out")
			}
			return nil
		}); err != nil {
			return nil, wrong(err)
		}
		if err := yaml.NodeToValue(d.Body, &doc, yaml.Strict()); err != nil {
			return nil, run.Usagef("%w; unlearn help grids shows what a grid file may have", wrong(err))
		}
	}
	g := &doc.Grid
	g.Matrix = doc.Matrix
	if err := g.validate(); err != nil {
		return nil, wrong(err)
	}
	return g, nil
}

// plain refuses what makes a small file large.
func plain(body ast.Node) (err error) {
	ast.Walk(visitor(func(n ast.Node) {
		switch n.Type() {
		case ast.AnchorType, ast.AliasType, ast.TagType, ast.MergeKeyType:
			if err == nil {
				err = fmt.Errorf("line %d: anchors, aliases and tags are not allowed here", n.GetToken().Position.Line)
			}
		}
	}), body)
	return err
}

type visitor func(ast.Node)

// Visit calls the function for every node.
func (v visitor) Visit(n ast.Node) ast.Visitor {
	v(n)
	return v
}

func (g *Grid) validate() error {
	if len(g.Matrix) == 0 && len(g.Include) == 0 {
		return errors.New("no matrix: name keys and their values under matrix, or single cells under include")
	}
	cells := 1
	axis := map[string]bool{}
	for _, a := range g.Matrix {
		if len(a.Values) == 0 {
			return fmt.Errorf("matrix: %s has no values", a.Key)
		}
		axis[a.Key] = true
		if cells *= len(a.Values); cells > maxCells {
			return fmt.Errorf("matrix: more than %d combinations", maxCells)
		}
	}
	if len(g.Include) > maxCells {
		return fmt.Errorf("include: more than %d entries", maxCells)
	}
	for _, e := range g.Exclude {
		if len(e) == 0 {
			return errors.New("exclude: an entry without keys would exclude everything")
		}
		for _, s := range e {
			if !axis[s.Key] {
				return fmt.Errorf("exclude: %s is no key of the matrix", s.Key)
			}
		}
	}
	if g.Stream != nil {
		if err := g.Stream.validate(); err != nil {
			return err
		}
	}
	for i, key := range g.Columns {
		if !axis[key] {
			return fmt.Errorf("columns: %s is no key of the matrix", key)
		}
		if key == "seed" {
			return errors.New("columns: a table has means over the seeds; seed can be no column")
		}
		if slices.Contains(g.Columns[:i], key) {
			return fmt.Errorf("columns: %s stands there twice", key)
		}
	}
	for i := range g.Checks {
		if err := g.Checks[i].validate(); err != nil {
			return fmt.Errorf("checks: %w", err)
		}
	}
	return nil
}

// UnmarshalYAML reads a mapping of keys and values, or a text, which is the configuration to begin with.
func (s *Settings) UnmarshalYAML(n ast.Node) error {
	if text, err := scalar(n); err == nil {
		*s = Settings{{"config", []string{text}}}
		return nil
	}
	return each(n, func(key string, value ast.Node) error {
		texts, err := values(value)
		*s = append(*s, Setting{key, texts})
		return err
	})
}

type axes []Axis

// UnmarshalYAML reads a mapping of keys and lists, in its order.
func (a *axes) UnmarshalYAML(n ast.Node) error {
	err := each(n, func(key string, value ast.Node) error {
		if _, list := value.(*ast.SequenceNode); !list {
			return errors.New("a list of values is expected, as [16, 64]")
		}
		texts, err := values(value)
		for i, t := range texts {
			again := slices.IndexFunc(texts[:i], func(other string) bool { return same(other, t) })
			switch {
			case err != nil || again < 0:
			case texts[again] == t:
				err = fmt.Errorf("it has the value %s twice", t)
			default:
				err = fmt.Errorf("it has one value twice, as %s and as %s", texts[again], t)
			}
		}
		*a = append(*a, Axis{key, texts})
		return err
	})
	if err != nil {
		return fmt.Errorf("matrix: %w", err)
	}
	return nil
}

// each calls the function for the keys and values of a mapping, in its order.
func each(n ast.Node, do func(key string, value ast.Node) error) error {
	var pairs []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		pairs = m.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{m}
	default:
		return fmt.Errorf("line %d: keys and values are expected", n.GetToken().Position.Line)
	}
	for _, p := range pairs {
		key, err := scalar(p.Key)
		if err != nil {
			return err
		}
		if err := do(key, p.Value); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}

// values are the texts of a value or of a list.
func values(n ast.Node) ([]string, error) {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		text, err := scalar(n)
		return []string{text}, err
	}
	texts := make([]string, len(list.Values))
	for i, v := range list.Values {
		var err error
		if texts[i], err = scalar(v); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// scalar returns a value as it is written, so that 1e-3 reaches the option's own parser unchanged.
func scalar(n ast.Node) (string, error) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, nil
	case *ast.LiteralNode:
		return strings.TrimSuffix(v.Value.Value, "\n"), nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, nil
	}
	return "", fmt.Errorf("line %d: a value is expected; quotes keep a text with a colon whole, as in \"random:16\"", n.GetToken().Position.Line)
}
