package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

func (p *program) inspect() *cli.Command {
	type options struct {
		JSON    bool `flag:"json" config:"no" help:"JSON on stdout"`
		Offline bool `flag:"offline" help:"open no connection"`
	}
	flags, read := simple(options{})
	return &cli.Command{
		Name: "inspect", Usage: "what a checkpoint holds: tensors, metadata, network, number of classes", ArgsUsage: "FILE", Flags: flags,
		Description: "Reads what --weights reads (unlearn help formats). The network is the one that --model auto would take.",
		Action: func(c *cli.Context) error {
			var o options
			if err := read(c, &o); err != nil {
				return err
			}
			if c.Args().Len() != 1 {
				return run.Usagef("inspect takes the name of one checkpoint, not %d", c.Args().Len())
			}
			ctx, release := run.Signals(c.Context, time.Second, nil, p.abort(o.JSON))
			defer release()
			console := p.console(o.JSON)
			found, err := run.Inspect(ctx, console, c.Args().First(), o.Offline)
			if err != nil {
				return err
			}
			if o.JSON {
				console.Emit(run.Summary{Result: found})
				return console.Close()
			}
			t := newTable("tensor", "type", "shape", "bytes")
			for _, x := range found.Tensors {
				t.AppendRow([]any{printable(x.Name), x.DType, fmt.Sprint(x.Shape), x.Bytes})
			}
			return printLines(p.stdout, append([]string{t.Render(), ""}, inspected(found)...)...)
		},
	}
}

// inspected are the lines below the table.
func inspected(found *run.Inspection) (lines []string) {
	line := func(what, format string, args ...any) {
		lines = append(lines, fmt.Sprintf("%-10s", what)+fmt.Sprintf(format, args...))
	}
	line("total", "%d tensors, %d elements, %d bytes", len(found.Tensors), found.Elements, found.Bytes)
	line("container", "%s", found.Container)
	for _, around := range []struct{ what, value string }{{"class", found.Class}, {"wrapper", found.Wrapper}, {"prefix", found.Prefix}, {"keys of", string(found.Keys)}} {
		if around.value != "" {
			line(around.what, "%s", printable(around.value))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(found.Metadata)) {
		line("metadata", "%s: %s", printable(key), printable(found.Metadata[key]))
	}
	line("sha256", "%s", found.Hash)
	if found.Network == "" {
		line("network", "none of those that are built in (unlearn ls models)")
	} else {
		line("network", "%s with %d classes", found.Network, found.Classes)
	}
	return lines
}

// printable keeps control characters of a file off the terminal.
func printable(text string) string {
	if utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return text
	}
	return strconv.Quote(text)
}
