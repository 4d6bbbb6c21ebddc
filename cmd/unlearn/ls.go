package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"l2ul/torch/models"
	"l2ul/unlearn"
	"l2ul/unlearn/data"
	"l2ul/unlearn/run"
	"l2ul/unlearn/run/config"
)

// item is one line of a list.
type item struct {
	Name    string `json:"name"`
	Summary string `json:"summary"`
}

// lists are the registries that ls shows.
var lists = []struct {
	kind, summary string
	items         func() ([]item, error)
}{
	{"models", "networks", listModels},
	{"datasets", "kinds of data", listDatasets},
	{"methods", "ways to forget", listMethods},
	{"presets", "configurations for -c preset:NAME", listPresets},
}

func (p *program) ls() *cli.Command {
	type options struct {
		JSON bool `flag:"json" config:"no" help:"JSON on stdout"`
	}
	cmd := &cli.Command{Name: "ls", Usage: "what is built in: models, datasets, methods, presets"}
	for _, l := range lists {
		flags, read := simple(options{})
		cmd.Subcommands = append(cmd.Subcommands, &cli.Command{
			Name: l.kind, Usage: l.summary, Flags: flags,
			Action: func(c *cli.Context) error {
				var o options
				if err := read(c, &o); err != nil {
					return err
				}
				if err := noArguments(c); err != nil {
					return err
				}
				items, err := l.items()
				if err != nil {
					return err
				}
				if o.JSON {
					console := run.NewConsole(run.TerminalOptions{JSON: true}, p.stdout, p.stderr)
					console.Emit(run.Summary{Result: map[string][]item{l.kind: items}})
					return console.Close()
				}
				var rows [][2]string
				for _, i := range items {
					rows = append(rows, [2]string{i.Name, i.Summary})
				}
				var text bytes.Buffer
				columns(&text, rows, width(p.stdout))
				_, err = p.stdout.Write(text.Bytes())
				return err
			},
		})
	}
	return cmd
}

func listModels() (items []item, err error) {
	for _, name := range models.Names() {
		card, err := models.Info(name)
		if err != nil {
			return nil, err
		}
		items = append(items, item{name, fmt.Sprintf("%s; %d classes, %d x %d pixels", card.Summary, card.Classes, card.Size, card.Size)})
	}
	return items, nil
}

func listDatasets() (items []item, err error) {
	for _, d := range data.Datasets() {
		items = append(items, item{d.Name, d.Summary})
	}
	return items, nil
}

func listMethods() (items []item, err error) {
	for _, m := range unlearn.Methods() {
		items = append(items, item{m.Name, m.Summary + " (" + m.Source + ")"})
	}
	return items, nil
}

func listPresets() (items []item, err error) {
	for _, name := range config.Presets() {
		text, err := config.Preset(name)
		if err != nil {
			return nil, err
		}
		first, _, _ := strings.Cut(string(text), "\n")
		items = append(items, item{name, strings.TrimPrefix(first, "# ")})
	}
	return items, nil
}
