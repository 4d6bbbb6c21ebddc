package bench

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"l2ul/internal/nearest"
	"l2ul/unlearn/run"
	"l2ul/unlearn/run/config"
)

// Cell is one run of a grid. Cells of one ID are one run under several labels, as where a setting means nothing to a method.
type Cell struct {
	ID     string   // of everything that decides the result
	Labels Settings // of the matrix
	Config *config.Config
	Args   []string // of our program, but for where it writes
	Stream *Stream  // nil where it forgets once
}

// verb is what the cells of a grid do.
func (g *Grid) verb() string {
	if g.Stream != nil {
		return "continual"
	}
	return "forget"
}

// Sources are what settings of cells come from beside the grid.
type Sources struct {
	Catalog config.Catalog
	Env     func(string) (string, bool)
	Auto    []string // configuration files that need not be named
	Given   Settings // on the command line, for all cells; they replace those of the base
}

// Cells resolves every cell of the grid, in its order.
func (g *Grid) Cells(from Sources) ([]Cell, error) {
	spec := from.Catalog.Find(g.verb())
	base := g.Base
	for _, s := range from.Given {
		key, err := keyOf(spec, s.Key)
		if err != nil {
			return nil, err
		}
		for _, a := range g.Matrix {
			if axis, err := keyOf(spec, a.Key); err == nil && axis == key {
				return nil, run.Usagef("--%s: the matrix of the grid has %s already (%s); leave it out, or write a grid of your own",
					s.Key, a.Key, strings.Join(a.Values, ", "))
			}
		}
		base = base.With(key, s.Texts...)
	}
	inputs := identities{}
	if err := once(spec, g.Base); err != nil {
		return nil, err
	}
	var cells []Cell
	for _, combination := range g.combinations() {
		if err := once(spec, combination); err != nil {
			return nil, err
		}
		settings := Settings{}
		for _, s := range slices.Concat(base, combination) {
			key, err := keyOf(spec, s.Key)
			if err != nil {
				return nil, err
			}
			if len(s.Texts) == 0 || slices.Contains(s.Texts, "") {
				return nil, run.Usagef("%s has no value; leave the key out to keep the default", s.Key)
			}
			settings = settings.With(key, s.Texts...)
		}
		c, err := g.resolve(from, settings)
		if err != nil {
			return nil, fmt.Errorf("cell %s: %w", combination, err)
		}
		c.Labels = combination
		if c.ID, err = c.identify(inputs); err != nil {
			return nil, err
		}
		cells = append(cells, *c)
	}
	return cells, nil
}

// once refuses settings that name a key twice, by its name and by another of its names: one of the two would count, and the
// label of the other would be wrong.
func once(spec *config.Spec, settings Settings) error {
	seen := map[string]string{}
	for _, s := range settings {
		key, err := keyOf(spec, s.Key)
		if err != nil {
			return err
		}
		if other, ok := seen[key]; ok {
			return run.Usagef("%s and %s are one key of %s; leave one of the two out", other, s.Key, spec.Verb)
		}
		seen[key] = s.Key
	}
	return nil
}

// keyOf returns the main name of a key that a cell may have: any key of the verb, the files to begin with, or what stands for
// a key, as k.
func keyOf(spec *config.Spec, name string) (string, error) {
	var names []string
	for _, f := range spec.Fields() {
		if !f.Key && f.Means == "" && f.Name != "config" {
			continue
		}
		if f.Name == name || slices.Contains(f.Aliases, name) {
			return f.Name, nil
		}
		names = append(names, f.Name)
	}
	return "", run.Usagef("%s has no key %q; %s`unlearn config show %s` lists all", spec.Verb, name, nearest.Hint(name, names), spec.Verb)
}

// resolve decides every option of a cell, and leaves out what its method has no use for.
func (g *Grid) resolve(from Sources, settings Settings) (*Cell, error) {
	flags := g.Stream.flags()
	c := &Cell{Args: []string{g.verb()}, Stream: g.Stream}
	for _, key := range slices.Sorted(maps.Keys(flags)) {
		c.Args = append(c.Args, "--"+key+"="+flags[key][0])
	}
	if flags == nil {
		flags = map[string][]string{}
	}
	for _, s := range settings {
		flags[s.Key] = s.Texts
	}
	var err error
	if c.Config, err = from.Catalog.Resolve(g.verb(), config.Sources{Flags: flags, Env: from.Env, Auto: from.Auto}); err != nil {
		return nil, err
	}
	var checked any = &run.ForgetOptions{}
	if g.Stream != nil {
		checked = &run.ContinualOptions{}
	}
	if err := c.Config.Decode(checked); err != nil {
		return nil, err
	}
	for _, s := range settings {
		if slices.Contains(c.Config.Unused, s.Key) {
			continue
		}
		for _, text := range s.Texts {
			c.Args = append(c.Args, "--"+s.Key+"="+text)
		}
	}
	if g.Stream != nil && g.Stream.File != "" {
		c.Args = append(c.Args, "--", g.Stream.File)
	}
	return c, nil
}

// One is the configuration of one run of the cell: of a stream, that of a request.
func (c *Cell) One(catalog config.Catalog) (*config.Config, error) {
	if c.Stream == nil {
		return c.Config, nil
	}
	return catalog.Derive(c.Config, "forget", map[string][]string{"forget": {fmt.Sprintf("random:%d", cmp.Or(c.Stream.Size, usualForgotten))}})
}

// identify hashes what decides the result of a cell.
func (c *Cell) identify(inputs identities) (string, error) {
	found, err := inputs.of(c)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(marshal(map[string]any{"config": c.Config.Hash(), "inputs": found}))
	return hex.EncodeToString(sum[:8]), nil
}

// Runs are the cells without those that are the run of an earlier one.
func Runs(cells []Cell) []Cell {
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(cells), func(c Cell) bool {
		again := seen[c.ID]
		seen[c.ID] = true
		return again
	})
}
