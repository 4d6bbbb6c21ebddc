package main

import (
	"errors"
	"flag"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
	"l2ul/unlearn/run/config"
)

// optionFlag is a config.Field as a flag. It only collects texts: config checks them, together with those of files and
// of the environment.
type optionFlag struct {
	field *config.Field
	given []string
}

func optionFlags(fields []*config.Field) []cli.Flag {
	flags := make([]cli.Flag, len(fields))
	for i, f := range fields {
		flags[i] = &optionFlag{field: f}
	}
	return flags
}

// Apply registers all names for one and the same list, so that an alias is nothing but another name.
func (f *optionFlag) Apply(set *flag.FlagSet) error {
	f.given = nil
	for _, name := range flagNames(f) {
		set.Var(collector{f}, name, f.field.Help)
	}
	return nil
}

// Names returns the main name only: urfave/cli would copy the value to every other name, doubling it.
func (f *optionFlag) Names() []string        { return []string{f.field.Name} }
func (f *optionFlag) IsSet() bool            { return f.given != nil }
func (f *optionFlag) String() string         { return cli.FlagStringer(f) }
func (f *optionFlag) TakesValue() bool       { return f.field.TakesValue() }
func (f *optionFlag) GetUsage() string       { return f.field.Help }
func (f *optionFlag) GetValue() string       { return f.field.Default.String() }
func (f *optionFlag) GetDefaultText() string { return f.field.DefaultText }
func (f *optionFlag) GetEnvVars() []string   { return []string{f.field.Env} }

// flagNames lists every name a flag answers to.
func flagNames(f cli.Flag) []string {
	if o, ok := f.(*optionFlag); ok {
		return append([]string{o.field.Name}, o.field.Aliases...)
	}
	return f.Names()
}

// collector is the flag package's view of an optionFlag.
type collector struct{ f *optionFlag }

func (c collector) String() string { return "" }

func (c collector) Set(text string) error {
	if text == "" && c.f.field.TakesValue() {
		return errors.New("the value is empty; leave the flag out to keep the default")
	}
	c.f.given = append(c.f.given, text)
	return nil
}

// IsBoolFlag lets a flag stand without value.
func (c collector) IsBoolFlag() bool { return !c.f.field.TakesValue() }

// resolve decides every option of a verb from the flags of c, the environment and the files.
func (p *program) resolve(c *cli.Context, verb string) (*config.Config, error) {
	return p.catalog.Resolve(verb, config.Sources{Flags: given(c), Env: os.LookupEnv, Auto: autoFiles()})
}

// given returns the texts of the flags on the command line.
func given(c *cli.Context) map[string][]string {
	texts := map[string][]string{}
	for _, f := range c.Command.Flags {
		if o, ok := f.(*optionFlag); ok && o.IsSet() {
			texts[o.field.Name] = o.given
		}
	}
	return texts
}

// autoFiles are the configuration files that need not be named: the user's, then the folder's.
func autoFiles() []string {
	var files []string
	if dir, err := os.UserConfigDir(); err == nil { // $XDG_CONFIG_HOME, or .config in the home folder
		files = append(files, filepath.Join(dir, "unlearn", "config.yaml"))
	}
	return append(files, "unlearn.yaml")
}

// simple makes the flags and the reader of a verb that has options but no keys in files.
func simple(options any) (flags []cli.Flag, read func(*cli.Context, any) error) {
	spec, err := config.NewSpec("", []any{options}, "", nil)
	if err != nil {
		panic(err) // our own declaration
	}
	return optionFlags(spec.Fields()), func(c *cli.Context, target any) error {
		texts := given(c)
		delete(texts, "set") // where there is one, it is for others: these options have no keys
		cfg, err := config.Catalog{spec}.Resolve("", config.Sources{Flags: texts, Env: os.LookupEnv})
		if err != nil {
			return err
		}
		return cfg.Decode(target)
	}
}

// about makes a verb that has simple options and takes least to most arguments, as its ArgsUsage names them.
func about[Options any](cmd *cli.Command, least, most int, do func(*cli.Context, Options, []string) error) *cli.Command {
	var none Options
	flags, read := simple(none)
	cmd.Flags = flags
	cmd.Action = func(c *cli.Context) error {
		var o Options
		if err := read(c, &o); err != nil {
			return err
		}
		if n := c.Args().Len(); n < least || n > most {
			return run.Usagef("%s takes %s, not %s", c.Command.HelpName, cmd.ArgsUsage, run.Counted(n, "argument"))
		}
		return do(c, o, c.Args().Slice())
	}
	return cmd
}

// lookOptions are those of verbs that say what they found.
type lookOptions struct {
	JSON bool `flag:"json" config:"no" help:"JSON on stdout"`
}
