package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFile bounds a configuration file; a real one has a few hundred bytes.
const maxFile = 1 << 20

// entry is one key of a file: raw texts, one for each element of a list.
type entry struct {
	section string // verb or variant it is for, "" for all
	key     string
	texts   []string
	list    bool
	origin  Origin
}

// unreadable says which file the system refused, and why, without the operation that it refused.
func unreadable(path string, err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return fmt.Errorf("configuration file %s: %w", path, err)
}

func readFile(path string) ([]entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, unreadable(path, err)
	}
	return parseYAML(path, data, FromFile)
}

// parseYAML flattens a document of nested mappings into keys joined by dots, in file order. Values are scalars and
// lists of scalars. JSON is a subset of YAML and read as well. Anchors, aliases, tags and merge keys are refused.
func parseYAML(path string, data []byte, layer Layer) ([]entry, error) {
	if len(data) > maxFile {
		return nil, &Error{fmt.Sprintf("%s: larger than %d bytes, so not a configuration file", path, maxFile)}
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		// The parser's text starts with "[line:column]" and shows the lines around it.
		return nil, &Error{path + ": " + strings.TrimSpace(err.Error())}
	}
	y := yamlReader{path: path, layer: layer, lines: map[string]int{}}
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		switch doc.Body.Type() {
		case ast.NullType, ast.CommentType, ast.CommentGroupType:
			continue
		}
		if err := y.mapping("", doc.Body, 0); err != nil {
			return nil, err
		}
	}
	return y.entries, nil
}

// Text is one key of a file with its value as it was written, the elements of a list joined by commas.
type Text struct{ Key, Value string }

// Texts reads the keys of a configuration that came from name, in its order, without asking whether any verb knows them: a
// run folder of another version of this program may have others.
func Texts(name string, data []byte) ([]Text, error) {
	entries, err := parseYAML(name, data, FromFile)
	if err != nil {
		return nil, err
	}
	texts := make([]Text, len(entries))
	for i, e := range entries {
		texts[i] = Text{e.key, strings.Join(e.texts, ",")}
	}
	return texts, nil
}

type yamlReader struct {
	path    string
	layer   Layer
	entries []entry
	lines   map[string]int
}

func (y *yamlReader) errorf(n ast.Node, format string, args ...any) error {
	line, column := 1, 1
	if t := n.GetToken(); t != nil && t.Position != nil {
		line, column = t.Position.Line, t.Position.Column
	}
	return &Error{fmt.Sprintf("%s:%d:%d: %s", y.path, line, column, fmt.Sprintf(format, args...))}
}

func (y *yamlReader) mapping(prefix string, n ast.Node, depth int) error {
	var values []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{m}
	default:
		return y.errorf(n, "expected keys and values (key: value), found %s", describe(n))
	}
	if depth > 8 {
		return y.errorf(n, "keys nested more than 8 deep")
	}
	for _, pair := range values {
		name, err := y.scalar(pair.Key)
		if err != nil {
			return err
		}
		key := prefix + name
		switch v := pair.Value.(type) {
		case *ast.MappingNode, *ast.MappingValueNode:
			if err := y.mapping(key+".", v, depth+1); err != nil {
				return err
			}
		default:
			if err := y.value(key, pair); err != nil {
				return err
			}
		}
	}
	return nil
}

func (y *yamlReader) value(key string, pair *ast.MappingValueNode) error {
	line := pair.Key.GetToken().Position.Line
	if first, twice := y.lines[key]; twice {
		return y.errorf(pair.Key, "key %q stands twice, first in line %d", key, first)
	}
	y.lines[key] = line
	e := entry{key: key, origin: Origin{y.layer, fmt.Sprintf("%s:%d", y.path, line)}}
	if y.layer == FromPreset {
		e.origin.Where = y.path
	}
	if seq, ok := pair.Value.(*ast.SequenceNode); ok {
		e.list = true
		for _, v := range seq.Values {
			text, err := y.scalar(v)
			if err != nil {
				return err
			}
			e.texts = append(e.texts, text)
		}
	} else {
		text, err := y.scalar(pair.Value)
		if err != nil {
			return err
		}
		e.texts = []string{text}
	}
	y.entries = append(y.entries, e)
	return nil
}

// scalar returns a scalar as it was written, so that 0.1 and 1e-3 reach the option's own parser unchanged.
func (y *yamlReader) scalar(n ast.Node) (string, error) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, nil
	case *ast.LiteralNode:
		return strings.TrimSuffix(v.Value.Value, "\n"), nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, nil
	case *ast.NullNode:
		return "", y.errorf(n, "no value; leave the key out to keep the default")
	}
	return "", y.errorf(n, "expected a value, found %s", describe(n))
}

func describe(n ast.Node) string {
	switch n.Type() {
	case ast.AnchorType, ast.AliasType:
		return "an anchor or alias, which are not allowed here"
	case ast.TagType:
		return "a tag, which is not allowed here"
	case ast.MappingType, ast.MappingValueType:
		return "a mapping"
	case ast.SequenceType:
		return "a list"
	}
	return strings.ToLower(n.Type().String())
}
