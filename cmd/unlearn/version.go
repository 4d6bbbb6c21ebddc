package main

import (
	"encoding/json"
	"fmt"
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
			v := run.CurrentVersions()
			if o.JSON {
				return json.NewEncoder(p.stdout).Encode(v)
			}
			_, err := fmt.Fprintf(p.stdout, "unlearn %s\nlibtorch %s\n%s %s/%s\n", v.Unlearn, v.Libtorch, v.Go, runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
