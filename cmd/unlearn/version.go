package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

func (p *program) version() *cli.Command {
	type options struct {
		JSON bool `flag:"json" config:"no" help:"JSON on stdout"`
	}
	flags, read := simple(options{})
	return &cli.Command{
		Name: "version", Usage: "versions of the program and its parts", Flags: flags,
		Action: func(c *cli.Context) error {
			var o options
			if err := read(c, &o); err != nil {
				return err
			}
			if err := noArguments(c); err != nil {
				return err
			}
			if o.JSON {
				return json.NewEncoder(p.stdout).Encode(run.CurrentVersions())
			}
			return printVersions(p.stdout)
		},
	}
}

func printVersions(w io.Writer) error {
	v := run.CurrentVersions()
	_, err := fmt.Fprintf(w, "unlearn %s\nlibtorch %s\n%s %s/%s\n", v.Unlearn, v.Libtorch, v.Go, runtime.GOOS, runtime.GOARCH)
	return err
}
