package config

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"l2ul/internal/nearest"
)

// Kind is the type of an option's value.
type Kind uint8

// The kinds of options.
const (
	String Kind = iota
	Bool
	Int
	Float
	Strings
	Floats
	Duration
	Count // an int that counts how often its flag was given
)

// Field is one option.
type Field struct {
	Name        string   // flag and key
	Aliases     []string // further flag names
	Env         string   // environment variable, "" for none
	Kind        Kind
	Default     Value
	DefaultText string // help prints it in place of the default
	Help        string
	Arg         string // name of the value in help
	Group       string
	Min, Max    *float64
	Above       bool // Min itself is not allowed
	OneOf       []string
	Separator   string
	Key         bool   // may stand in configuration files
	Result      bool   // can change a result
	Cap         bool   // only by ending a run: what it does until then stays the same
	Means       string // a flag that only stands for another: "key=text", with %s for its value
	Preset      string // the value, where it is set, names a preset whose keys hold: "compat/%s"
}

// TakesValue reports whether the flag is followed by a value.
func (f *Field) TakesValue() bool { return f.Kind != Bool && f.Kind != Count }

// Repeats reports whether the flag may be given more than once.
func (f *Field) Repeats() bool { return f.Kind == Strings || f.Kind == Floats || f.Kind == Count }

// Value is a checked value of an option.
type Value struct {
	kind    Kind
	text    string // String
	on      bool
	integer int64 // Int, Count; Duration in nanoseconds
	number  float64
	texts   []string
	numbers []float64
}

// Plain returns the value as a string, bool, int64, float64, []string or []float64, ready for JSON and YAML;
// a duration is its text.
func (v Value) Plain() any {
	switch v.kind {
	case Bool:
		return v.on
	case Int, Count:
		return v.integer
	case Float:
		return v.number
	case Strings:
		return append([]string{}, v.texts...)
	case Floats:
		return append([]float64{}, v.numbers...)
	case Duration:
		return time.Duration(v.integer).String()
	default:
		return v.text
	}
}

// String returns the value as a person would type it.
func (v Value) String() string {
	switch v.kind {
	case Float:
		return strconv.FormatFloat(v.number, 'g', -1, 64)
	case Strings:
		return strings.Join(v.texts, ",")
	case Floats:
		parts := make([]string, len(v.numbers))
		for i, x := range v.numbers {
			parts[i] = strconv.FormatFloat(x, 'g', -1, 64)
		}
		return strings.Join(parts, ",")
	default:
		return fmt.Sprint(v.Plain())
	}
}

// Equal reports whether both values are the same.
func (v Value) Equal(o Value) bool {
	return v.kind == o.kind && v.String() == o.String() && len(v.texts) == len(o.texts)
}

// Parse checks raw texts, as a flag (one for each time it was given) or a file (one for each list element) gives
// them, and returns the value. The error says what is wrong with the value, not where it came from.
func (f *Field) Parse(raw []string) (Value, error) {
	if f.Separator != "" {
		var split []string
		for _, text := range raw {
			for part := range strings.SplitSeq(text, f.Separator) {
				if part = strings.TrimSpace(part); part != "" {
					split = append(split, part)
				}
			}
		}
		raw = split
	}
	v := Value{kind: f.Kind}
	switch f.Kind {
	case Strings:
		v.texts = slices.Clone(raw)
		for _, text := range raw {
			if err := f.checkOneOf(text); err != nil {
				return Value{}, err
			}
		}
		return v, nil
	case Floats:
		for _, text := range raw {
			x, err := f.parseNumber(text)
			if err != nil {
				return Value{}, err
			}
			v.numbers = append(v.numbers, x)
		}
		return v, nil
	case Count:
		for _, text := range raw {
			if text == "true" {
				v.integer++
				continue
			}
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil || n < 0 {
				return Value{}, fmt.Errorf("%q is not a count", text)
			}
			v.integer += n
		}
		return v, nil
	}
	if len(raw) != 1 {
		return Value{}, fmt.Errorf("takes one value, %d were given", len(raw))
	}
	text := raw[0]
	switch f.Kind {
	case Bool:
		switch text {
		case "true", "1":
			v.on = true
		case "false", "0":
		default:
			return Value{}, fmt.Errorf("%q is neither true nor false", text)
		}
	case Int:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return Value{}, fmt.Errorf("%q is not a whole number", text)
		}
		v.integer = n
		if err := f.checkRange(float64(n), text); err != nil {
			return Value{}, err
		}
	case Float:
		x, err := f.parseNumber(text)
		if err != nil {
			return Value{}, err
		}
		v.number = x
	case Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return Value{}, fmt.Errorf("%q is not a duration such as 30s or 5m", text)
		}
		v.integer = int64(d)
		if err := f.checkRange(d.Seconds(), text); err != nil {
			return Value{}, err
		}
	default:
		if err := f.checkOneOf(text); err != nil {
			return Value{}, err
		}
		v.text = text
	}
	return v, nil
}

func (f *Field) parseNumber(text string) (float64, error) {
	x, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", text)
	}
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return 0, fmt.Errorf("%q is not a finite number", text)
	}
	return x, f.checkRange(x, text)
}

// checkRange compares in the field's unit: seconds for durations.
func (f *Field) checkRange(x float64, text string) error {
	switch {
	case f.Min != nil && f.Above && x <= *f.Min:
		return fmt.Errorf("%s is not above %v", text, *f.Min)
	case f.Min != nil && x < *f.Min:
		return fmt.Errorf("%s is below %v", text, *f.Min)
	case f.Max != nil && x > *f.Max:
		return fmt.Errorf("%s is above %v", text, *f.Max)
	}
	return nil
}

func (f *Field) checkOneOf(text string) error {
	if len(f.OneOf) == 0 || slices.Contains(f.OneOf, text) {
		return nil
	}
	names := slices.DeleteFunc(slices.Clone(f.OneOf), func(s string) bool { return s == "" })
	return fmt.Errorf("%q is unknown; %s", text, nearest.Advice(text, names))
}

// Fields lists the options of structs (values or pointers) in their order. A struct whose tags contradict
// themselves is a programming mistake and an error.
func Fields(structs ...any) ([]*Field, error) {
	var fields []*Field
	for _, s := range structs {
		t := reflect.TypeOf(s)
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return nil, fmt.Errorf("config: %s is not a struct of options", t)
		}
		if err := walk(t, "", &fields); err != nil {
			return nil, err
		}
	}
	seen := map[string]bool{}
	for _, f := range fields {
		for _, name := range append([]string{f.Name}, f.Aliases...) {
			if seen[name] {
				return nil, fmt.Errorf("config: option %q is declared twice", name)
			}
			seen[name] = true
		}
	}
	return fields, nil
}

func walk(t reflect.Type, group string, fields *[]*Field) error {
	chooses, _ := reflect.Zero(t).Interface().(interface{ Choices() map[string][]string })
	for sf := range structFields(t) {
		g := group
		if own := sf.Tag.Get("group"); own != "" {
			g = own
		}
		if isSection(sf) {
			if err := walk(sf.Type, g, fields); err != nil {
				return err
			}
			continue
		}
		f, err := newField(sf, g)
		if err != nil {
			return fmt.Errorf("config: %s.%s: %w", t, sf.Name, err)
		}
		if chooses != nil && len(f.OneOf) == 0 {
			f.OneOf = chooses.Choices()[f.Name]
		}
		*fields = append(*fields, f)
	}
	return nil
}

// structFields yields the fields that are options or hold options.
func structFields(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			sf := t.Field(i)
			if !sf.IsExported() || sf.Tag.Get("flag") == "" && !isSection(sf) {
				continue
			}
			if !yield(sf) {
				return
			}
		}
	}
}

func isSection(sf reflect.StructField) bool {
	return sf.Type.Kind() == reflect.Struct && sf.Tag.Get("flag") == ""
}

var durationType = reflect.TypeFor[time.Duration]()

func kindOf(t reflect.Type, count bool) (Kind, bool) {
	switch {
	case t == durationType:
		return Duration, true
	case t.Kind() == reflect.Int && count:
		return Count, true
	case t.Kind() == reflect.Int || t.Kind() == reflect.Int64:
		return Int, true
	case t.Kind() == reflect.Float64:
		return Float, true
	case t.Kind() == reflect.Bool:
		return Bool, true
	case t.Kind() == reflect.String:
		return String, true
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return Strings, true
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Float64:
		return Floats, true
	}
	return 0, false
}

func newField(sf reflect.StructField, group string) (*Field, error) {
	kind, ok := kindOf(sf.Type, sf.Tag.Get("count") == "yes")
	if !ok {
		return nil, fmt.Errorf("type %s cannot be an option", sf.Type)
	}
	names := strings.Split(sf.Tag.Get("flag"), ",")
	f := &Field{
		Name: names[0], Aliases: names[1:], Kind: kind, Group: group,
		Help: sf.Tag.Get("help"), Arg: sf.Tag.Get("arg"), DefaultText: sf.Tag.Get("deftext"),
		Key: sf.Tag.Get("config") != "no", Result: sf.Tag.Get("result") != "no" && sf.Tag.Get("config") != "no", Cap: sf.Tag.Get("result") == "cap",
		Separator: sf.Tag.Get("sep"), Env: sf.Tag.Get("env"), Means: sf.Tag.Get("means"), Preset: sf.Tag.Get("preset"),
	}
	if f.Help == "" {
		return nil, fmt.Errorf("option %q has no help", f.Name)
	}
	switch f.Env {
	case "":
		f.Env = "UNLEARN_" + strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(f.Name))
	case "-":
		f.Env = ""
	}
	if kind == Floats && f.Separator == "" {
		f.Separator = ","
	}
	if text := sf.Tag.Get("oneof"); text != "" {
		f.OneOf = strings.Split(text, "|")
	}
	for tag, bound := range map[string]**float64{"min": &f.Min, "above": &f.Min, "max": &f.Max} {
		text, ok := sf.Tag.Lookup(tag)
		if !ok {
			continue
		}
		x, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("bound %q: %w", text, err)
		}
		*bound, f.Above = &x, f.Above || tag == "above"
	}
	return f, f.setDefault(sf.Tag.Lookup("default"))
}

// setDefault checks the default like any other value, except that the zero value means "not set" and need not be
// one of the allowed ones.
func (f *Field) setDefault(text string, given bool) error {
	f.Default = Value{kind: f.Kind}
	if !given || f.Kind == String && text == "" {
		return nil
	}
	v, err := f.Parse([]string{text})
	if err != nil {
		return fmt.Errorf("default of %q: %w", f.Name, err)
	}
	f.Default = v
	return nil
}

// unset reports whether v is the zero value that means "not set": an empty text or list, or a number out of range.
func (f *Field) unset(v Value) bool {
	if !v.Equal(Value{kind: f.Kind}) {
		return false
	}
	switch f.Kind {
	case Bool, Count, Duration:
		return false
	case Int, Float:
		return f.checkRange(0, "") != nil
	default:
		return true
	}
}

// decode writes the values that lookup knows into the option fields of s, a settable struct.
func decode(s reflect.Value, lookup func(name string) (Value, bool)) {
	for sf := range structFields(s.Type()) {
		target := s.FieldByIndex(sf.Index)
		if isSection(sf) {
			decode(target, lookup)
			continue
		}
		name, _, _ := strings.Cut(sf.Tag.Get("flag"), ",")
		v, ok := lookup(name)
		if !ok {
			continue
		}
		switch v.kind {
		case Bool:
			target.SetBool(v.on)
		case Int, Count, Duration:
			target.SetInt(v.integer)
		case Float:
			target.SetFloat(v.number)
		case Strings:
			target.Set(reflect.ValueOf(slices.Clone(v.texts)).Convert(target.Type()))
		case Floats:
			target.Set(reflect.ValueOf(slices.Clone(v.numbers)).Convert(target.Type()))
		default:
			target.SetString(v.text)
		}
	}
}
