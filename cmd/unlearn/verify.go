package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

func (p *program) verify() *cli.Command {
	type options struct {
		JSON bool   `flag:"json" config:"no" help:"JSON on stdout"`
		Head string `flag:"head" config:"no" env:"-" arg:"HASH" help:"a head that was printed before and kept elsewhere: it must be in the record"`
	}
	flags, read := simple(options{})
	return &cli.Command{
		Name: "verify", Usage: "check a deletion record, and the runs beside it", ArgsUsage: "RECORD|DIR", Flags: flags,
		Description: "Finds every changed byte of a record: each line ends in a hash of its bytes, among which is the hash of the line before.\n" +
			"Where the run folders are there, result.json, forget.json and the weights must be as the record says. Ends with 4 and names\n" +
			"line and field where something does not fit. Lines cut off at the end show where the folders are there, and a record that was\n" +
			"written anew from some line on shows only to --head: keep the head that is printed where the record's keeper cannot write.",
		Action: func(c *cli.Context) error {
			var o options
			if err := read(c, &o); err != nil {
				return err
			}
			if c.Args().Len() != 1 {
				return run.Usagef("verify takes one argument, a record or the folder of a stream, not %d", c.Args().Len())
			}
			console := p.console(o.JSON)
			found, err := run.Verify(console, c.Args().First(), o.Head)
			if err != nil {
				return err
			}
			if o.JSON {
				console.Emit(run.Summary{Result: found})
				return console.Close()
			}
			lines := []string{
				fmt.Sprintf("%s: %s, the chain is whole", found.Record, run.Counted(found.Requests, "request")),
				fmt.Sprintf("runs beside it: %d as recorded, %d not there", found.Folders, found.Missing),
				"head " + found.Head,
			}
			if found.HeadAt > 0 {
				lines = append(lines, fmt.Sprintf("the head that was kept is that of line %d", found.HeadAt))
			}
			return printLines(p.stdout, lines...)
		},
	}
}
