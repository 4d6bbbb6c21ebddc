// Package config decides what every option of a job is, and remembers why.
//
// An option is declared once, as a field of a plain struct in the room that uses it:
//
//	type Options struct {
//		Eps float64 `flag:"eps,pgd-eps" default:"4" min:"0" help:"radius of the perturbation ball, in pixel units"`
//	}
//
// From the tags come the command-line flag and its aliases, the environment variable (UNLEARN_EPS), the key in
// configuration files (the flag's main name), the help line, the check of the value and the property in the published
// JSON Schema. The room needs no import for that. The tags are:
//
//	flag         main name, then aliases, separated by commas; a field without it is not an option
//	default      default value as text; absent means the zero value
//	deftext      what help prints in place of the default ("from the model")
//	help         one line, no capital, no full stop
//	arg          name of the value in help ("FILE")
//	min, max     bounds that are allowed themselves; above: a bound that is not
//	oneof        allowed values, separated by |
//	sep          separator of a list given as one text; []float64 has "," unless told otherwise, []string has none
//	count        "yes": an int flag without value that counts how often it was given (-v -v)
//	env          name of the environment variable; "-" for none
//	config       "no": a flag only, not a key of configuration files
//	result       "no": cannot change a result, so it is not part of Config.Hash
//	means        "forget=random:%s": a flag that only stands for another one with this value; its field stays zero
//	group        heading in help; on a struct field it holds for all fields inside
//
// Values that only a registry knows come from a method of the struct, Choices() map[string][]string, by the option's main name.
//
// Field kinds are string, bool, int, int64, float64, []string, []float64 and time.Duration. Structs inside are walked.
//
// Layers, strongest first: flag, --set, environment, files (-c, later wins), presets (-c preset:NAME, later wins),
// default. In a file, a mapping under the name of a verb or a method holds for that one only:
//
//	seed: 0
//	train:
//	  lr: 0.01
//	forget:
//	  lr: 0.001
//
// Files found by themselves (the user's and ./unlearn.yaml) are the weakest files.
package config

// Error is a mistake in a flag, a variable, a file or a value. Its text names the place and what to do.
type Error struct{ msg string }

func (e *Error) Error() string { return e.msg }

// ExitCode is 2, the status of every usage error.
func (e *Error) ExitCode() int { return 2 }
