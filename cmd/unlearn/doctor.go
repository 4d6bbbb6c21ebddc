package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

func (p *program) doctor() *cli.Command {
	type options struct {
		JSON bool `flag:"json" config:"no" help:"JSON on stdout"`
	}
	flags, read := simple(options{})
	return &cli.Command{
		Name: "doctor", Usage: "check libraries, device, folders, and compute something", Flags: flags,
		Action: func(c *cli.Context) error {
			var o options
			if err := read(c, &o); err != nil {
				return err
			}
			if err := noArguments(c); err != nil {
				return err
			}
			checks := run.Doctor(autoFiles())
			bad := 0
			for _, check := range checks {
				if check.Status == run.Broken {
					bad++
				}
				if !o.JSON {
					if _, err := fmt.Fprintf(p.stdout, "%-7s %-12s %s\n", check.Status, check.Name, check.Detail); err != nil {
						return err
					}
				}
			}
			if o.JSON {
				if err := p.summarize(map[string]any{"checks": checks, "environment": run.CurrentEnvironment()}); err != nil {
					return err
				}
			}
			if bad > 0 {
				return fmt.Errorf("%d of %d checks failed", bad, len(checks))
			}
			return nil
		},
	}
}
