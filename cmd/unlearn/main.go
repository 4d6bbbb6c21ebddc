// Command unlearn makes a trained image classifier forget chosen training images without the rest of the training data,
// and measures what that did to it.
//
// One file a verb: flags in, a call into unlearn/run, print out. What the flags are is said in the rooms that use them
// (unlearn/run/config); what they do, there as well.
package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"l2ul/torch"
	_ "l2ul/unlearn/methods" // registers them
	"l2ul/unlearn/run"
	"l2ul/unlearn/run/config"
)

// version is set by the linker: -X main.version=v0.1.0.
var version string

func main() {
	run.Version = version
	signal.Ignore(syscall.SIGXFSZ) // a file size limit (ulimit -f) is an error of the write, as a full disk is
	code := start(os.Args, os.Stdout, os.Stderr)
	torch.Shutdown()
	os.Exit(code)
}

// start runs one command line and returns its exit code.
func start(args []string, stdout, stderr io.Writer) int {
	app, err := newApp(stdout, stderr)
	if err == nil {
		err = app.Run(permute(app, args))
	}
	if err != nil {
		report(err, run.ExitCode(err), wantsJSON(args), stdout, stderr)
	}
	return run.ExitCode(err)
}

// report says what went wrong: a sentence on stderr, and under --json an event as the last line of stdout.
func report(err error, code int, asJSON bool, stdout, stderr io.Writer) {
	fmt.Fprintf(stderr, "unlearn: %s\n", run.Visible(err.Error()))
	if asJSON {
		run.NewConsole(run.TerminalOptions{JSON: true}, stdout, stderr).Emit(run.Failure{Message: err.Error(), Code: code})
	}
}

// wantsJSON looks for --json without parsing, because the error may be one of parsing.
func wantsJSON(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool { return a == "--json" || a == "-json" || a == "--json=true" }) ||
		os.Getenv("UNLEARN_JSON") == "true"
}

// program is what every verb needs.
type program struct {
	catalog        config.Catalog
	stdout, stderr io.Writer
}

func newApp(stdout, stderr io.Writer) (*cli.App, error) {
	catalog, err := run.Catalog()
	if err != nil {
		return nil, err
	}
	p := &program{catalog, stdout, stderr}
	app := &cli.App{
		Name:            "unlearn",
		Usage:           "make a trained image classifier forget",
		Writer:          stdout,
		ErrWriter:       stderr,
		HideVersion:     true,
		HideHelpCommand: true,
		Flags: []cli.Flag{
			cli.HelpFlag, // not added by itself beside a help command of ours
			&cli.BoolFlag{Name: "version", Usage: "versions of the program and its parts"},
		},
		DisableSliceFlagSeparator: true,
		ExitErrHandler:            func(*cli.Context, error) {}, // start decides the exit code
		Commands: []*cli.Command{
			p.forget(), p.continual(), p.train(), p.attack(), p.importance(), p.eval(), p.analyze(),
			p.bench(), p.plan(), p.report(), p.runs(), p.verify(),
			p.split(), p.data(), p.inspect(), p.convert(), p.demo(),
			p.ls(), p.configCommand(), p.doctor(), p.completion(), p.version(), p.help(), p.man(), p.answerCompletion(),
		},
		Action: func(c *cli.Context) error {
			if name := c.Args().First(); name != "" {
				return unknown("command", name, commandNames(c.App.Commands))
			}
			if c.Bool("version") {
				return printVersions(stdout)
			}
			printRoot(stdout, c.App)
			return nil
		},
		OnUsageError: usageError,
	}
	prepare(app.Commands, "")
	cli.HelpPrinter = func(w io.Writer, _ string, data any) {
		if c, ok := data.(*cli.Command); ok && c.Name != app.Name {
			printCommand(w, c)
		} else {
			printRoot(w, app)
		}
	}
	return app, nil
}

// prepare gives every command what urfave/cli does not inherit: its handler of usage errors, an answer to unknown
// subcommands, no built-in help command. It writes the program's name before that of a top command by itself.
func prepare(commands []*cli.Command, parent string) {
	for _, c := range commands {
		c.HelpName = strings.TrimSpace(parent + " " + c.Name)
		c.OnUsageError = usageError
		c.HideHelpCommand = true
		if len(c.Subcommands) > 0 {
			prepare(c.Subcommands, "unlearn "+strings.TrimPrefix(c.HelpName, "unlearn "))
			if c.Action == nil {
				c.Action = func(ctx *cli.Context) error {
					names := commandNames(c.Subcommands)
					if name := ctx.Args().First(); name != "" {
						return unknown("command", name, names)
					}
					printCommand(ctx.App.Writer, c)
					return nil
				}
			}
		}
	}
}

func commandNames(commands []*cli.Command) []string {
	var names []string
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return names
}
