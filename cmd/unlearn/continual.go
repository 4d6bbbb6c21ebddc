package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

func (p *program) continual() *cli.Command {
	cmd := p.work("continual", "serve a stream of deletion requests, one after the other",
		"Each line of the file is a request (unlearn help formats): an id, what to forget, and, if it likes, options of its own. Each\n"+
			"run begins with the weights that the one before ended with, has a run folder of its own, and gets a line in the deletion\n"+
			"record, record.jsonl, which unlearn verify checks. Interrupt it whenever you like; the same command goes on. Add lines to\n"+
			"the file and start it again, and those are served as well. Without a file it draws -T requests of -k images.\n\n"+
			"  unlearn continual requests.jsonl -c preset:l2ul/cifar10-resnet18 --weights r18.pt --data-dir DATA -o runs/stream\n"+
			"  unlearn verify runs/stream",
		func(ctx context.Context, inv run.Invocation) error {
			result, err := run.Continual(ctx, inv)
			if result == nil || inv.Console.JSON() {
				return err
			}
			t := newTable("", "request", "method", "outcome", "steps", "to forget", "earlier ones", "regained", "retained", "test")
			for _, e := range result.Requests {
				hits, regained, earlier := e.Again()
				t.AppendRow([]any{
					e.Position, printable(e.ID), e.Method(), e.Outcome, e.Steps, percent(&e.After.Forget),
					fmt.Sprintf("%d of %d", hits, earlier), regained, percent(e.After.Retain), percent(e.After.Test),
				})
			}
			if printErr := printLines(p.stdout, t.Render(), "",
				"to forget: right after the run. earlier ones: images of earlier requests that have their label; regained: those of them that\n"+
					"were forgotten once. Under --limit, retained is of another part of the retained images after each request.",
				"head "+result.Record.Head); printErr != nil {
				return printErr
			}
			return err
		})
	cmd.ArgsUsage = "[REQUESTS.jsonl]"
	return cmd
}
