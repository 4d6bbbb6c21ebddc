package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/run"
)

// man prints the manual page: what help tells, all of it, as roff.
func (p *program) man() *cli.Command {
	return &cli.Command{
		Name: "man", Usage: "print the manual page: unlearn man | man -l -", Hidden: true,
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			var page bytes.Buffer
			printManual(&page, c.App)
			_, err := p.stdout.Write(page.Bytes())
			return err
		},
	}
}

// option is a row of help, with the commands that have it.
type option struct {
	row      [2]string
	commands []string
}

// printManual writes the page of man(7): commands with the names of their flags, then each flag once, by group, then the topics.
func printManual(w io.Writer, app *cli.App) {
	fmt.Fprintf(w, ".\\\" Made by `unlearn man`.\n.TH UNLEARN 1 \"\" \"unlearn %s\"\n.nh\n.ad l\n", roff(run.CurrentVersions().Unlearn))
	fmt.Fprintf(w, ".SH NAME\nunlearn \\- %s\n", roff(app.Usage))
	fmt.Fprint(w, ".SH SYNOPSIS\n.B unlearn\n.I COMMAND\n[\\fIFLAGS\\fR] [\\fIARGUMENT\\fR...]\n.SH DESCRIPTION\n")
	for _, text := range firstScreen(app) {
		preformatted(w, text)
	}
	fmt.Fprint(w, ".SH COMMANDS\n")
	var groups []string
	options := map[string][]*option{}
	eachCommand(app.Commands, func(c *cli.Command) {
		fmt.Fprintf(w, ".SS %s\n%s.\n", roff(usageLine(c)), roff(c.Usage))
		if c.Description != "" {
			preformatted(w, c.Description)
		}
		var names []string
		for _, f := range c.Flags {
			o, ok := f.(*optionFlag)
			if !ok {
				continue
			}
			names = append(names, dashed(o.field.Name))
			if _, ok := options[o.field.Group]; !ok {
				groups = append(groups, o.field.Group)
			}
			row := o.row()
			i := slices.IndexFunc(options[o.field.Group], func(o *option) bool { return o.row == row })
			if i < 0 {
				i = len(options[o.field.Group])
				options[o.field.Group] = append(options[o.field.Group], &option{row: row})
			}
			options[o.field.Group][i].commands = append(options[o.field.Group][i].commands, strings.TrimPrefix(c.HelpName, "unlearn "))
		}
		if len(names) > 0 {
			fmt.Fprintf(w, ".PP\nFlags: %s\n", roff(strings.Join(names, ", ")))
		}
	})
	fmt.Fprint(w, ".SH OPTIONS\nEach flag is told of once, with the commands that have it.\n")
	for _, g := range groups {
		fmt.Fprintf(w, ".SS %s\n", roff(groupHeading(g)))
		for _, o := range options[g] {
			fmt.Fprintf(w, ".TP\n.B %s\n%s [%s]\n", roff(o.row[0]), roff(o.row[1]), roff(strings.Join(o.commands, ", ")))
		}
	}
	for _, name := range topicNames() {
		title, text, _ := strings.Cut(topics[name](), "\n")
		fmt.Fprintf(w, ".SH %s\n", roff(strings.ToUpper(title)))
		preformatted(w, text)
	}
}

// eachCommand calls do for the commands that a person types, in the order of help. What config show has below it is its argument.
func eachCommand(commands []*cli.Command, do func(*cli.Command)) {
	for _, c := range commands {
		switch {
		case c.Hidden:
		case len(c.Subcommands) > 0 && c.ArgsUsage == "":
			eachCommand(c.Subcommands, do)
		default:
			do(c)
		}
	}
}

// preformatted writes text as it stands.
func preformatted(w io.Writer, text string) {
	fmt.Fprint(w, ".PP\n.nf\n")
	for line := range strings.Lines(strings.Trim(text, "\n") + "\n") {
		fmt.Fprintln(w, roff(strings.TrimRight(line, "\n")))
	}
	fmt.Fprint(w, ".fi\n")
}

// roff writes text so that roff takes no character of it for a command. What is not ASCII is named by its number, since roff
// reads Latin-1 where nobody tells it otherwise.
func roff(text string) string {
	var out strings.Builder
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		out.WriteString(`\&`)
	}
	for _, r := range text {
		switch {
		case r == '\\':
			out.WriteString(`\e`)
		case r == '-':
			out.WriteString(`\-`)
		case r == '\'':
			out.WriteString(`\(aq`)
		case r == '`':
			out.WriteString(`\(ga`)
		case r == '^':
			out.WriteString(`\(ha`)
		case r == '~':
			out.WriteString(`\(ti`)
		case r == '"':
			out.WriteString(`\(dq`)
		case r > '~':
			fmt.Fprintf(&out, `\[u%04X]`, r)
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}
