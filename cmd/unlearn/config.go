package main

import (
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
	"l2ul/unlearn/run/config"
)

func (p *program) configCommand() *cli.Command {
	show := &cli.Command{
		Name: "show", Usage: "every key of a verb, its value and where it came from", ArgsUsage: "VERB",
		Description: "Takes the flags of the verb.",
	}
	for _, spec := range p.catalog {
		show.Subcommands = append(show.Subcommands, p.configShow(spec))
	}
	return &cli.Command{
		Name: "config", Usage: "show, check and describe configuration",
		Subcommands: []*cli.Command{show, p.configValidate(), p.configSchema()},
	}
}

func (p *program) configShow(spec *config.Spec) *cli.Command {
	return &cli.Command{
		Name: spec.Verb, Usage: "the keys of " + spec.Verb, Flags: optionFlags(spec.Fields()),
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			cfg, err := p.resolve(c, spec.Verb)
			if err != nil {
				return err
			}
			if v, _, ok := cfg.Get("json"); ok && v.Plain() == true {
				return p.configJSON(cfg)
			}
			t := table.NewWriter()
			t.SetStyle(table.StyleLight)
			t.Style().Options = table.OptionsNoBordersAndSeparators
			t.AppendHeader(table.Row{"KEY", "VALUE", "FROM"})
			for _, f := range cfg.Fields() {
				v, o, _ := cfg.Get(f.Name)
				if !f.Key {
					continue
				}
				text := v.String()
				if o.Layer == config.FromDefault && f.DefaultText != "" {
					text = "(" + f.DefaultText + ")"
				}
				t.AppendRow(table.Row{f.Name, text, o.String()})
			}
			_, err = fmt.Fprintf(p.stdout, "%s\n\nhash %s\n", t.Render(), cfg.Hash())
			return err
		},
	}
}

// configJSON writes one summary line: key to value and origin.
func (p *program) configJSON(cfg *config.Config) error {
	type key struct {
		Value  any    `json:"value"`
		Origin string `json:"origin"`
	}
	keys := map[string]key{}
	for _, f := range cfg.Fields() {
		if v, o, _ := cfg.Get(f.Name); f.Key {
			keys[f.Name] = key{v.Plain(), o.String()}
		}
	}
	return p.summarize(struct {
		Verb string         `json:"verb"`
		Hash string         `json:"config_hash"`
		Keys map[string]key `json:"keys"`
	}{cfg.Spec.Verb, cfg.Hash(), keys})
}

func (p *program) configValidate() *cli.Command {
	return &cli.Command{
		Name: "validate", Usage: "check configuration files", ArgsUsage: "FILE…",
		Description: "Checks keys and values for every verb that has them. preset:NAME is allowed.",
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return run.Usagef("name the files to check: unlearn config validate FILE")
			}
			for _, file := range c.Args().Slice() {
				if err := p.validate(file); err != nil {
					return err
				}
				if _, err := fmt.Fprintf(p.stdout, "%s is valid\n", file); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// validate resolves the file for every verb and every choice that decides which sections hold.
func (p *program) validate(file string) error {
	for _, spec := range p.catalog {
		flags := map[string][]string{"config": {file}}
		_, err := p.catalog.Resolve(spec.Verb, config.Sources{Flags: flags})
		for variant := range spec.Variants {
			if err != nil {
				return err
			}
			flags[spec.By] = []string{variant}
			_, err = p.catalog.Resolve(spec.Verb, config.Sources{Flags: flags})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *program) configSchema() *cli.Command {
	type options struct {
		Result bool `flag:"result" config:"no" env:"-" help:"the schema of result.json"`
		Eval   bool `flag:"eval" config:"no" env:"-" help:"the schema of what eval writes"`
		Stream bool `flag:"continual" config:"no" env:"-" help:"the schema of what continual writes"`
		Record bool `flag:"record" config:"no" env:"-" help:"the schema of a line of record.jsonl"`
	}
	flags, read := simple(options{})
	return &cli.Command{
		Name: "schema", Usage: "JSON Schema of configuration files, or of results", Flags: flags,
		Action: func(c *cli.Context) error {
			var o options
			if err := read(c, &o); err != nil {
				return err
			}
			if err := noArguments(c); err != nil {
				return err
			}
			text, err := p.catalog.Schema()
			if err != nil {
				return err
			}
			asked := 0
			for _, other := range []struct {
				on   bool
				text []byte
			}{{o.Result, run.ResultJSONSchema()}, {o.Eval, run.EvalJSONSchema()}, {o.Stream, run.ContinualJSONSchema()}, {o.Record, run.RecordJSONSchema()}} {
				if other.on {
					text = other.text
					asked++
				}
			}
			if asked > 1 {
				return run.Usagef("--result, --eval, --continual and --record are different schemas; ask for one")
			}
			_, err = fmt.Fprintf(p.stdout, "%s\n", text)
			return err
		},
	}
}
