package config

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
)

// schemaNode is the part of JSON Schema (draft 2020-12) that options need.
type schemaNode struct {
	Schema      string                 `json:"$schema,omitempty"`
	ID          string                 `json:"$id,omitempty"`
	Title       string                 `json:"title,omitempty"`
	Type        any                    `json:"type,omitempty"`
	Description string                 `json:"description,omitempty"`
	Default     any                    `json:"default,omitempty"`
	Enum        []string               `json:"enum,omitempty"`
	Minimum     *float64               `json:"minimum,omitempty"`
	Above       *float64               `json:"exclusiveMinimum,omitempty"`
	Maximum     *float64               `json:"maximum,omitempty"`
	Pattern     string                 `json:"pattern,omitempty"`
	Items       *schemaNode            `json:"items,omitempty"`
	Properties  map[string]*schemaNode `json:"properties,omitempty"`
	Additional  *bool                  `json:"additionalProperties,omitempty"`
	AnyOf       []*schemaNode          `json:"anyOf,omitempty"`
}

// Schema returns the JSON Schema of configuration files: the keys of all verbs, and a section for each verb and each
// variant.
func (c Catalog) Schema() ([]byte, error) {
	root := object("Configuration of unlearn")
	root.Schema, root.ID = "https://json-schema.org/draft/2020-12/schema", "unlearn.config/1"
	sections := map[string]*schemaNode{}
	allowed := map[string][]*schemaNode{} // what a key may be outside sections: what one of the verbs takes
	enter := func(name, title string, s *Spec, fields []*Field) {
		if sections[name] == nil {
			sections[name] = object(title)
		}
		for _, f := range fields {
			if !f.Key {
				continue
			}
			node := f.schema()
			if f.Name == s.By && len(node.Enum) == 0 {
				node.Enum = slices.Sorted(maps.Keys(s.Variants))
			}
			sections[name].Properties[f.Name] = node
			if !slices.ContainsFunc(allowed[f.Name], node.sameValues) {
				allowed[f.Name] = append(allowed[f.Name], node)
			}
		}
	}
	for _, s := range c {
		enter(s.Verb, "Keys for the verb "+s.Verb+" only", s, s.Fields())
		for _, name := range slices.Sorted(maps.Keys(s.Variants)) {
			enter(name, "Keys for the "+s.By+" "+name+" only", s, s.Variants[name])
		}
	}
	for name, section := range sections { // some are keys as well, such as forget
		allowed[name] = append(allowed[name], section)
	}
	for name, nodes := range allowed {
		if root.Properties[name] = nodes[0]; len(nodes) > 1 {
			root.Properties[name] = &schemaNode{AnyOf: nodes}
		}
	}
	return json.MarshalIndent(root, "", "  ")
}

// sameValues reports whether both take the same values, whatever they say about them.
func (n *schemaNode) sameValues(o *schemaNode) bool {
	a, b := *n, *o
	a.Description, b.Description, a.Default, b.Default = "", "", nil, nil
	return reflect.DeepEqual(a, b)
}

func object(title string) *schemaNode {
	closed := false
	return &schemaNode{Title: title, Type: "object", Properties: map[string]*schemaNode{}, Additional: &closed}
}

func (f *Field) schema() *schemaNode {
	n := &schemaNode{Description: f.Help}
	if !f.Default.Equal(Value{kind: f.Kind}) {
		n.Default = f.Default.Plain()
	}
	scalar := n
	switch f.Kind {
	case Strings, Floats:
		n.Type, scalar = "array", &schemaNode{}
		n.Items = scalar
	}
	switch f.Kind {
	case Bool:
		n.Type = "boolean"
	case Int, Count:
		n.Type = "integer"
	case Duration:
		n.Type, n.Pattern = "string", `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|^0$`
		return n
	case Float, Floats:
		scalar.Type = "number"
	default:
		scalar.Enum = f.OneOf
		if scalar.Type = "string"; len(f.OneOf) == 0 { // any scalar is a text as it was written: num-adv is 20 or auto
			scalar.Type = []string{"string", "number"}
		}
	}
	scalar.Minimum, scalar.Maximum = f.Min, f.Max
	if f.Above {
		scalar.Minimum, scalar.Above = nil, f.Min
	}
	return n
}
