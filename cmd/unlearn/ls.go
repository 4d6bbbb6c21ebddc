package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"l2ul/torch/models"
	"l2ul/unlearn"
	"l2ul/unlearn/analysis"
	"l2ul/unlearn/data"
	"l2ul/unlearn/run/config"
)

// item is one line of a list.
type item struct {
	Name       string `json:"name"`
	Summary    string `json:"summary"`
	Parameters int64  `json:"parameters,omitempty"` // of a network, with the usual classes
	MACs       int64  `json:"macs,omitempty"`       // of a network, for one image
}

// lists are the registries that ls shows.
var lists = []struct {
	kind, summary string
	items         func() ([]item, error)
}{
	{"models", "networks", listModels},
	{"datasets", "kinds of data", listDatasets},
	{"methods", "ways to forget", listMethods},
	{"analyses", "ways to look at a finished run", listAnalyses},
	{"presets", "configurations for -c preset:NAME", listPresets},
}

func (p *program) ls() *cli.Command {
	type options struct {
		JSON bool `flag:"json" config:"no" help:"JSON on stdout"`
	}
	cmd := &cli.Command{Name: "ls", Usage: "what is built in: models, datasets, methods, analyses, presets"}
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
					return p.summarize(map[string][]item{l.kind: items})
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
		items = append(items, item{
			Name: name, Parameters: card.Parameters, MACs: card.MACs,
			Summary: fmt.Sprintf("%s; %d classes, %d x %d pixels, %.2f M parameters, %.3f G MACs", card.Summary,
				card.Classes, card.Size, card.Size, float64(card.Parameters)/1e6, float64(card.MACs)/1e9),
		})
	}
	return items, nil
}

func listDatasets() (items []item, err error) {
	for _, d := range data.Datasets() {
		items = append(items, item{Name: d.Name, Summary: d.Summary})
	}
	return items, nil
}

func listMethods() (items []item, err error) {
	for _, m := range unlearn.Methods() {
		items = append(items, item{Name: m.Name, Summary: m.Summary + " (" + m.Source + ")"})
	}
	return items, nil
}

func listAnalyses() (items []item, err error) {
	for _, a := range analysis.All() {
		items = append(items, item{Name: a.Name, Summary: a.Summary + "; reads " + a.Reads})
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
		items = append(items, item{Name: name, Summary: strings.TrimPrefix(first, "# ")})
	}
	return items, nil
}
