package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

func (p *program) convert() *cli.Command {
	flags, read := simple(run.ConvertOptions{})
	return &cli.Command{
		Name: "convert", Usage: "write weights in another container, or under another project's names", ArgsUsage: "IN OUT", Flags: flags,
		Description: "IN is what --weights takes; the suffix of OUT names the container: .safetensors, .pt, .pth or .npz.",
		Action: func(c *cli.Context) error {
			var o run.ConvertOptions
			if err := read(c, &o); err != nil {
				return err
			}
			if c.Args().Len() != 2 {
				return run.Usagef("convert takes the names of two files, IN and OUT, not %d", c.Args().Len())
			}
			ctx, release := run.Signals(c.Context, time.Second, nil, p.abort(o.JSON))
			defer release()
			console := p.console(o.JSON)
			done, err := run.Convert(ctx, console, o, c.Args().Get(0), c.Args().Get(1))
			if err != nil {
				return err
			}
			if o.JSON {
				console.Emit(run.Summary{Result: done})
				return console.Close()
			}
			return printLines(p.stdout, fmt.Sprintf("%s: %d tensors of %s", done.File, done.Tensors, done.Source))
		},
	}
}

// console is that of a verb that has no options of the terminal but --json.
func (p *program) console(asJSON bool) *run.Console {
	return run.NewConsole(run.TerminalOptions{JSON: asJSON, LogFormat: "auto", Progress: "auto"}, p.stdout, p.stderr)
}

// summarize emits the one event of a verb that tells what it found.
func (p *program) summarize(result any) error {
	console := p.console(true)
	console.Emit(run.Summary{Result: result})
	return console.Close()
}
