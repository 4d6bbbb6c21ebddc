package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"l2ul/unlearn/run/config"
)

func (p *program) help() *cli.Command {
	return &cli.Command{
		Name: "help", Aliases: []string{"h"}, Usage: "about a command or a topic", ArgsUsage: "[COMMAND|TOPIC]",
		Description: "Topics: " + strings.Join(topicNames(), ", ") + ".",
		Action: func(c *cli.Context) error {
			words := c.Args().Slice()
			if len(words) == 0 {
				printRoot(p.stdout, c.App)
				return nil
			}
			// A topic of the same name as a command has more to say.
			if text, ok := topics[words[0]]; ok && len(words) == 1 {
				fmt.Fprint(p.stdout, text())
				return nil
			}
			commands := c.App.Commands
			var found *cli.Command
			for _, w := range words {
				found = nil
				for _, cmd := range commands {
					if cmd.HasName(w) {
						found = cmd
					}
				}
				if found == nil {
					return unknown("command or topic", w, append(commandNames(commands), topicNames()...))
				}
				commands = found.Subcommands
			}
			printCommand(p.stdout, found)
			return nil
		},
	}
}

// printRoot is the first screen: what the program is for, and the shortest way to it.
func printRoot(w io.Writer, app *cli.App) {
	fmt.Fprintf(w, "unlearn - %s, without the rest of its training data\n", app.Usage)
	for _, text := range firstScreen(app) {
		fmt.Fprint(w, "\n"+text)
	}
	fmt.Fprint(w, "\nCommands:\n")
	var rows [][2]string
	for _, c := range app.Commands {
		if !c.Hidden {
			rows = append(rows, [2]string{c.Name, c.Usage})
		}
	}
	columns(w, rows, width(w))
	fmt.Fprintf(w, "\nunlearn COMMAND --help    its flags\nunlearn help TOPIC        %s\n",
		strings.Join(topicNames(), ", "))
}

// firstScreen shows the main job by examples that can be typed.
func firstScreen(app *cli.App) []string {
	if app.Command("forget") == nil {
		return nil
	}
	return []string{`See it work first; it needs no data and takes a few minutes:

  unlearn demo

Forget 16 random training images of a network of yours, then look at what is left:

  unlearn forget -m auto --weights resnet18.pt --data-dir DATA -k 16 -o runs/first
  unlearn eval -m auto --weights runs/first/model.safetensors --data-dir DATA --forget @runs/first/forget.json

Which images: -k 16, --forget class:3, --forget ids:1,5,9, or --forget @names.txt with a file name a line.
How: --method (unlearn ls methods). Your own images: --data-dir DIR (train/CLASS/*.jpg).
`}
}

// printCommand is the help of one command: what it does, then its flags by group.
func printCommand(w io.Writer, c *cli.Command) {
	fmt.Fprintf(w, "%s - %s\n\nUsage: %s\n", c.HelpName, c.Usage, usageLine(c))
	if c.Description != "" {
		fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(c.Description))
	}
	if len(c.Subcommands) > 0 {
		fmt.Fprint(w, "\nCommands:\n")
		var rows [][2]string
		for _, s := range c.Subcommands {
			rows = append(rows, [2]string{s.Name, s.Usage})
		}
		columns(w, rows, width(w))
	}
	var groups []string
	byGroup := map[string][][2]string{}
	for _, f := range c.Flags {
		o, ok := f.(*optionFlag)
		if !ok {
			continue
		}
		if byGroup[o.field.Group] == nil {
			groups = append(groups, o.field.Group)
		}
		byGroup[o.field.Group] = append(byGroup[o.field.Group], o.row())
	}
	// What the verb is about comes first, what all verbs share last.
	for _, shared := range []string{"computing", ""} {
		if i := slices.Index(groups, shared); i >= 0 {
			groups = append(slices.Delete(groups, i, i+1), shared)
		}
	}
	for _, g := range groups {
		fmt.Fprintf(w, "\n%s:\n", groupHeading(g))
		columns(w, byGroup[g], width(w))
	}
}

// usageLine is how a command is typed.
func usageLine(c *cli.Command) string {
	usage := "unlearn " + strings.TrimPrefix(c.HelpName, "unlearn ")
	if len(c.Subcommands) > 0 && c.Action != nil && c.ArgsUsage == "" {
		usage += " COMMAND"
	}
	if len(c.Flags) > 0 {
		usage += " [FLAGS]"
	}
	if c.ArgsUsage != "" {
		usage += " " + c.ArgsUsage
	}
	return usage
}

// groupHeading is the title of a group of flags.
func groupHeading(group string) string {
	if group == "" {
		return "General"
	}
	return strings.ToUpper(group[:1]) + group[1:]
}

// row is the flag's line in help.
func (f *optionFlag) row() [2]string {
	d := f.field
	names := []string{}
	for _, n := range flagNames(f) {
		if len(n) == 1 {
			names = append([]string{"-" + n}, names...)
		} else {
			names = append(names, "--"+n)
		}
	}
	left := strings.Join(names, ", ")
	if d.TakesValue() {
		left += " " + f.arg()
	}
	text := d.Help
	switch def := d.Default.String(); {
	case d.DefaultText != "":
		text += " (default: " + d.DefaultText + ")"
	case def != "" && def != "0" && def != "false" && def != "0s":
		text += " (default: " + def + ")"
	}
	return [2]string{left, text}
}

// arg is the name of the value: what the option says, its allowed values, or its kind.
func (f *optionFlag) arg() string {
	d := f.field
	switch {
	case d.Arg != "":
		return d.Arg
	case len(d.OneOf) > 0:
		return strings.TrimPrefix(strings.Join(d.OneOf, "|"), "|")
	}
	switch d.Kind {
	case config.Int:
		return "N"
	case config.Duration:
		return "TIME"
	case config.String, config.Strings:
		return "TEXT"
	default:
		return "X"
	}
}

// columns prints names and texts side by side, the texts wrapped.
func columns(w io.Writer, rows [][2]string, width int) {
	const most = 34 // a longer name gets a line of its own
	left := 0
	for _, r := range rows {
		if len(r[0]) <= most {
			left = max(left, len(r[0]))
		}
	}
	for _, r := range rows {
		pad := left
		fmt.Fprintf(w, "  %-*s", left, r[0])
		if len(r[0]) > left {
			fmt.Fprintf(w, "\n  %-*s", left, "")
		}
		at := pad + 2
		for i, word := range strings.Fields(r[1]) {
			switch {
			case i == 0:
				fmt.Fprint(w, "  ")
				at += 2
			case at+1+len(word) > width:
				fmt.Fprintf(w, "\n%*s", pad+4, "")
				at = pad + 4
			default:
				fmt.Fprint(w, " ")
				at++
			}
			fmt.Fprint(w, word)
			at += len(word)
		}
		fmt.Fprintln(w)
	}
}

// width is that of the terminal, within what reads well; 100 elsewhere.
func width(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil {
			return min(max(n, 60), 120)
		}
	}
	return 100
}
