package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"l2ul/internal/nearest"
)

// Layer is a source of values; a higher one wins.
type Layer uint8

// The layers, weakest first.
const (
	FromDefault Layer = iota
	FromPreset
	FromFile
	FromEnv
	FromSet
	FromFlag
)

// Origin says where a value came from.
type Origin struct {
	Layer Layer
	Where string // flag, variable, file and line, or preset
}

func (o Origin) String() string {
	switch o.Layer {
	case FromPreset, FromFile, FromFlag:
		return o.Where
	case FromEnv:
		return "env " + o.Where
	case FromSet:
		return "--set"
	default:
		return "default"
	}
}

// Spec is what one verb understands: options that always hold, and options that hold for one choice of a key, such as
// those of a method.
type Spec struct {
	Verb     string
	Common   []*Field
	By       string              // key whose value chooses the variant, "" for none
	Variants map[string][]*Field // by value of the key By
	Borrows  map[string]string   // variant to the verb whose sections in files hold for it, too
	Like     string              // verb whose sections in files hold for all of it, too; "" for none
}

// NewSpec makes the Spec of a verb from structs of options. Variants may share options among themselves, of the same
// kind each time, but not with the common ones.
func NewSpec(verb string, common []any, by string, variants map[string][]any) (*Spec, error) {
	s := &Spec{Verb: verb, By: by, Variants: map[string][]*Field{}}
	var err error
	if s.Common, err = Fields(common...); err != nil {
		return nil, err
	}
	for name, options := range variants {
		if s.Variants[name], err = Fields(options...); err != nil {
			return nil, err
		}
	}
	owner := map[string]*Field{}
	for _, f := range s.Fields() {
		for _, n := range append([]string{f.Name}, f.Aliases...) {
			if o := owner[n]; o != nil && o.Name != f.Name {
				return nil, fmt.Errorf("config: %s: %q names both --%s and --%s", verb, n, o.Name, f.Name)
			}
			owner[n] = f
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Variants)) {
		for _, f := range s.Variants[name] {
			if owner[f.Name].Kind != f.Kind || slices.Contains(s.Common, owner[f.Name]) {
				return nil, fmt.Errorf("config: %s: option %q of %s contradicts another of that name", verb, f.Name, name)
			}
		}
	}
	return s, nil
}

// Fields lists every option the verb has in any variant, once each, the common ones first.
func (s *Spec) Fields() []*Field {
	fields := slices.Clone(s.Common)
	seen := map[string]bool{}
	for _, f := range fields {
		seen[f.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(s.Variants)) {
		for _, f := range s.Variants[name] {
			if !seen[f.Name] {
				seen[f.Name] = true
				fields = append(fields, f)
			}
		}
	}
	return fields
}

// Catalog holds the Specs of all verbs, so that one file can serve several of them: a key another verb knows is
// passed over, a key nobody knows is an error.
type Catalog []*Spec

// Find returns the Spec of a verb, or nil.
func (c Catalog) Find(verb string) *Spec {
	for _, s := range c {
		if s.Verb == verb {
			return s
		}
	}
	return nil
}

func (c Catalog) keys() []string {
	set := map[string]bool{}
	for _, s := range c {
		for _, f := range s.Fields() {
			if f.Key {
				set[f.Name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// section returns the keys that may stand under the name of a verb or a variant.
func (c Catalog) section(name string) (known bool, keys []string) {
	var fields []*Field
	for _, s := range c {
		if s.Verb == name {
			known, fields = true, append(fields, s.Fields()...)
		}
		if variant, ok := s.Variants[name]; ok {
			known, fields = true, append(fields, variant...)
		}
	}
	for _, f := range fields {
		if f.Key {
			keys = append(keys, f.Name)
		}
	}
	return known, keys
}

// aliasOf returns the key for which name is a further flag name, or "".
func (c Catalog) aliasOf(name string) string {
	for _, s := range c {
		for _, f := range s.Fields() {
			if f.Key && slices.Contains(f.Aliases, name) {
				return f.Name
			}
		}
	}
	return ""
}

// Sources are the raw values from outside.
type Sources struct {
	Flags map[string][]string         // by main name; one text for each time the flag was given
	Env   func(string) (string, bool) // os.LookupEnv
	Auto  []string                    // files read when they exist, weakest first
}

// Config is the resolved configuration of one verb.
type Config struct {
	Spec    *Spec
	Variant string   // chosen value of Spec.By
	Unused  []string // flags given by hand that the chosen variant does not have

	order   []*Field
	values  map[string]setting
	sources Sources
}

type setting struct {
	value  Value
	origin Origin
}

// resolver collects raw values by strength, before anything is checked against the chosen variant.
type resolver struct {
	catalog Catalog
	spec    *Spec
	fields  map[string]*Field // every option of the verb, by main name
	raw     map[string]entry
	keys    []string // keys of all verbs
}

// Resolve decides every option of verb. Its errors are of type *Error, except for files that cannot be read.
func (c Catalog) Resolve(verb string, src Sources) (*Config, error) {
	spec := c.Find(verb)
	if spec == nil {
		return nil, fmt.Errorf("config: no verb %q", verb)
	}
	r := &resolver{catalog: c, spec: spec, fields: map[string]*Field{}, keys: c.keys()}
	for _, f := range spec.Fields() {
		r.fields[f.Name] = f
	}
	if src.Env == nil {
		src.Env = func(string) (string, bool) { return "", false }
	}
	files, err := r.read(src)
	if err != nil {
		return nil, err
	}
	// Which sections of files hold depends on the variant, which a file may choose: so first without, then with it.
	if err := r.collect(src, files, ""); err != nil {
		return nil, err
	}
	implied, err := r.implied()
	if err != nil {
		return nil, err
	}
	if implied != nil {
		files = slices.Insert(files, 0, implied)
		if err := r.collect(src, files, ""); err != nil {
			return nil, err
		}
	}
	if by := r.fields[spec.By]; by != nil {
		v, err := r.value(by)
		if err != nil {
			return nil, err
		}
		if err := r.collect(src, files, v.value.String()); err != nil {
			return nil, err
		}
	}
	cfg, err := r.finish()
	if err == nil {
		cfg.sources = src
	}
	return cfg, err
}

// Derive resolves the options of another verb from where c has its own: the same files and environment, and of the flags those
// that are keys of that verb. flags, by main name, are added and win.
func (c Catalog) Derive(from *Config, verb string, flags map[string][]string) (*Config, error) {
	keys := map[string]bool{}
	for _, f := range c.Find(verb).Fields() {
		keys[f.Name] = f.Key || f.Name == "config"
	}
	src := from.sources
	src.Flags = map[string][]string{}
	for name, texts := range from.sources.Flags {
		if keys[name] {
			src.Flags[name] = texts
		}
	}
	for _, text := range from.sources.Flags["set"] {
		if key, _, _ := strings.Cut(text, "="); keys[key] {
			src.Flags["set"] = append(src.Flags["set"], text)
		}
	}
	maps.Copy(src.Flags, flags)
	return c.Resolve(verb, src)
}

// implied are the entries of presets that options name by their values. They are weaker than those of any file.
func (r *resolver) implied() (entries []entry, err error) {
	for _, f := range r.spec.Fields() {
		if f.Preset == "" {
			continue
		}
		v, err := r.value(f)
		if err != nil {
			return nil, err
		}
		if v.value.String() == "" {
			continue
		}
		more, err := readPreset(fmt.Sprintf(f.Preset, v.value))
		if err != nil {
			return nil, err
		}
		for i := range more {
			if err := r.place(&more[i]); err != nil {
				return nil, err
			}
		}
		entries = append(entries, more...)
	}
	return entries, nil
}

// collect gathers the raw values of all layers. Within one file the section of the variant beats that of the verb,
// which beats that of the verb it is like, which beats keys outside sections.
func (r *resolver) collect(src Sources, files [][]entry, variant string) error {
	r.raw = map[string]entry{}
	sections := []string{"", r.spec.Like, r.spec.Verb}
	if variant != "" {
		sections = append(sections, r.spec.Borrows[variant], variant)
	}
	for _, entries := range files {
		for i, section := range sections {
			for _, e := range entries {
				if e.section == section && (i == 0 || section != "") && r.fields[e.key] != nil {
					r.put(e)
				}
			}
		}
	}
	for _, f := range r.spec.Fields() {
		if text, ok := src.Env(f.Env); ok && f.Env != "" && text != "" {
			r.put(entry{key: f.Name, texts: []string{text}, origin: Origin{FromEnv, f.Env}})
		}
	}
	for _, text := range src.Flags["set"] {
		if err := r.set(text); err != nil {
			return err
		}
	}
	for name, texts := range src.Flags {
		r.put(entry{key: name, texts: texts, origin: Origin{FromFlag, "flag --" + name}})
	}
	return r.expand()
}

// expand replaces flags that stand for others.
func (r *resolver) expand() error {
	for name, e := range r.raw {
		f := r.fields[name]
		if f == nil || f.Means == "" {
			continue
		}
		v, err := r.check(f, e)
		if err != nil {
			return err
		}
		key, text, _ := strings.Cut(f.Means, "=")
		if r.raw[key].origin.Layer == FromFlag {
			return &Error{fmt.Sprintf("%s means --%s %s; leave one of the two out", dashes(name), key, fmt.Sprintf(text, v))}
		}
		r.raw[key] = entry{key: key, texts: []string{fmt.Sprintf(text, v)}, origin: Origin{FromFlag, "flag " + dashes(name)}}
		delete(r.raw, name)
	}
	return nil
}

func dashes(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

func (r *resolver) put(e entry) {
	if old, ok := r.raw[e.key]; !ok || e.origin.Layer >= old.origin.Layer {
		r.raw[e.key] = e
	}
}

// read reads the files, weakest first, and checks that somebody knows every key.
func (r *resolver) read(src Sources) ([][]entry, error) {
	var names []string
	for _, path := range src.Auto {
		switch _, err := os.Stat(path); {
		case err == nil:
			names = append(names, path)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, &Error{unreadable(path, err).Error()}
		}
	}
	if given, ok := src.Flags["config"]; ok {
		names = append(names, given...)
	} else if text, ok := src.Env("UNLEARN_CONFIG"); ok && text != "" {
		names = append(names, strings.Split(text, ",")...)
	}
	var files [][]entry
	for _, name := range names {
		var entries []entry
		var err error
		if preset, ok := strings.CutPrefix(name, "preset:"); ok {
			entries, err = readPreset(preset)
		} else if entries, err = readFile(name); errors.Is(err, fs.ErrNotExist) {
			err = &Error{fmt.Sprintf("configuration file %s does not exist%s", name, presetHint(name))}
		}
		if err != nil {
			return nil, err
		}
		for i := range entries {
			if err := r.place(&entries[i]); err != nil {
				return nil, err
			}
		}
		files = append(files, entries)
	}
	return files, nil
}

// place splits the section off a key, if it has one, and checks that the key is known.
func (r *resolver) place(e *entry) error {
	if slices.Contains(r.keys, e.key) {
		return nil
	}
	section, key, dotted := strings.Cut(e.key, ".")
	known, all := r.catalog.section(section)
	if dotted && known {
		e.section, e.key = section, key
	} else {
		all = r.keys
	}
	if known && slices.Contains(all, e.key) {
		return nil
	}
	hint := nearest.Hint(e.key, all)
	if main := r.catalog.aliasOf(e.key); main != "" {
		hint = fmt.Sprintf("did you mean %q? ", main)
	}
	return &Error{fmt.Sprintf("%s: unknown key %q; %s`unlearn config schema` lists all keys", e.origin.Where, e.key, hint)}
}

func (r *resolver) set(text string) error {
	key, value, ok := strings.Cut(text, "=")
	if !ok || key == "" {
		return &Error{fmt.Sprintf("--set %s: expected KEY=VALUE", text)}
	}
	if f := r.fields[key]; f == nil || !f.Key {
		var own []string
		for _, f := range r.spec.Fields() {
			if f.Key {
				own = append(own, f.Name)
			}
		}
		return &Error{fmt.Sprintf("--set %s: %s has no key %q; %s`unlearn config show %s` lists all", text, r.spec.Verb, key, nearest.Hint(key, own), r.spec.Verb)}
	}
	e := entry{key: key, texts: []string{value}, origin: Origin{Layer: FromSet}}
	if strings.HasPrefix(value, "[") {
		entries, err := parseYAML("--set "+key, []byte("v: "+value), FromSet)
		if err != nil {
			return err
		}
		if len(entries) != 1 {
			return &Error{fmt.Sprintf("--set %s: expected a list like [1, 2]", text)}
		}
		e.texts, e.list = entries[0].texts, true
	}
	r.put(e)
	return nil
}

// finish chooses the variant, checks every value (also those of options that are not used) and fills in defaults.
func (r *resolver) finish() (*Config, error) {
	cfg := &Config{Spec: r.spec, values: map[string]setting{}}
	add := func(f *Field) error {
		v, err := r.value(f)
		if err != nil {
			return err
		}
		cfg.values[f.Name] = v
		cfg.order = append(cfg.order, f)
		return nil
	}
	for _, f := range r.spec.Common {
		if err := add(f); err != nil {
			return nil, err
		}
	}
	if r.spec.By == "" {
		return cfg, nil
	}
	cfg.Variant = cfg.values[r.spec.By].value.String()
	fields, ok := r.spec.Variants[cfg.Variant]
	if !ok {
		names := slices.Sorted(maps.Keys(r.spec.Variants))
		return nil, &Error{nearest.Unknown(r.spec.By, cfg.Variant, names)}
	}
	for _, f := range fields {
		if err := add(f); err != nil {
			return nil, err
		}
	}
	for name, e := range r.raw {
		f := r.fields[name]
		if _, used := cfg.values[name]; used || f == nil {
			continue
		}
		if _, err := r.check(f, e); err != nil {
			return nil, err
		}
		if e.origin.Layer >= FromSet {
			cfg.Unused = append(cfg.Unused, name)
		}
	}
	slices.Sort(cfg.Unused)
	return cfg, nil
}

func (r *resolver) value(f *Field) (setting, error) {
	e, given := r.raw[f.Name]
	if !given {
		return setting{f.Default, Origin{}}, nil
	}
	v, err := r.check(f, e)
	return setting{v, e.origin}, err
}

func (r *resolver) check(f *Field, e entry) (Value, error) {
	var err error
	var v Value
	if e.list && f.Kind != Strings && f.Kind != Floats {
		err = errors.New("a list was given, one value is expected")
	} else {
		v, err = f.Parse(e.texts)
	}
	if err == nil {
		return v, nil
	}
	where := e.origin.String()
	switch e.origin.Layer {
	case FromFlag:
		where = dashes(f.Name)
	case FromSet:
		where = "--set " + f.Name
	case FromPreset, FromFile:
		where += ": " + f.Name
	}
	return Value{}, &Error{where + ": " + err.Error()}
}

// Fields lists the options in force, the common ones first.
func (c *Config) Fields() []*Field { return c.order }

// Get returns the value and the origin of an option in force; ok is false for any other name.
func (c *Config) Get(name string) (v Value, o Origin, ok bool) {
	s, ok := c.values[name]
	return s.value, s.origin, ok
}

// IsSet reports whether the option has its value from anywhere but its default.
func (c *Config) IsSet(name string) bool { return c.values[name].origin.Layer != FromDefault }

// Decode writes the resolved values into the tagged fields of target, a pointer to a struct of options, and then
// calls its Validate method, if it has one; what that returns becomes a usage error.
func (c *Config) Decode(target any) error {
	v := reflect.ValueOf(target)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("config: cannot decode into %T", target)
	}
	decode(v.Elem(), func(name string) (Value, bool) {
		s, ok := c.values[name]
		return s.value, ok
	})
	if checked, ok := target.(interface{ Validate() error }); ok {
		if err := checked.Validate(); err != nil {
			return &Error{err.Error()}
		}
	}
	return nil
}

// Hash is the sha256, in hex, of the canonical JSON of the verb and the keys that can change a result.
func (c *Config) Hash() string { return c.hash(func(f *Field) bool { return f.Result }) }

// ResumeHash is the same without the caps: runs that share it do the same until the first of them ends, so one can go on
// from a checkpoint of the other.
func (c *Config) ResumeHash() string { return c.hash((*Field).changesSteps) }

func (f *Field) changesSteps() bool { return f.Result && !f.Cap }

// Settings are the values of the keys that can change a result, as they go into Hash.
func (c *Config) Settings() map[string]any {
	return c.settings(func(f *Field) bool { return f.Result })
}

func (c *Config) settings(counts func(*Field) bool) map[string]any {
	keys := map[string]any{}
	for _, f := range c.order {
		if counts(f) {
			keys[f.Name] = c.values[f.Name].value.Plain()
		}
	}
	return keys
}

func (c *Config) hash(counts func(*Field) bool) string {
	// Maps marshal with sorted keys; every value is finite, so this cannot fail.
	data, err := json.Marshal(map[string]any{"verb": c.Spec.Verb, "config": c.settings(counts)})
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// YAML writes every key in force as a file that -c reads back, in the order of the options.
func (c *Config) YAML() ([]byte, error) {
	var doc yaml.MapSlice
	for _, f := range c.order {
		v := c.values[f.Name].value
		if !f.Key || v.Equal(f.Default) && f.unset(v) {
			continue
		}
		doc = append(doc, yaml.MapItem{Key: f.Name, Value: v.Plain()})
	}
	return yaml.MarshalWithOptions(doc, yaml.Flow(false))
}

// Difference is a key whose value differs between two configurations.
type Difference struct{ Key, Was, Is string }

func (d Difference) String() string {
	return fmt.Sprintf("%s (%s there, %s here)", d.Key, cmp.Or(d.Was, "not set"), cmp.Or(d.Is, "not set"))
}

// Differences lists the keys for which a run cannot go on from a checkpoint of was, an earlier configuration of the same
// verb: those that can change a result and differ, but for caps.
func (c *Config) Differences(was *Config) []Difference {
	var list []Difference
	names := map[string]bool{}
	for _, f := range append(slices.Clone(c.order), was.order...) {
		if !f.changesSteps() || names[f.Name] {
			continue
		}
		names[f.Name] = true
		old, here := was.values[f.Name].value, c.values[f.Name].value
		if !old.Equal(here) {
			list = append(list, Difference{f.Name, old.String(), here.String()})
		}
	}
	return list
}
