package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"l2ul/internal/nearest"
	"l2ul/unlearn/run"
)

// unknown is the usage error about a name, with the nearest of the known ones.
func unknown(kind, name string, known []string) error {
	return run.Usagef("%s", nearest.Unknown(kind, name, known))
}

// usageError turns what the flag parser says into sentences of ours.
func usageError(c *cli.Context, err error, _ bool) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		name = strings.TrimLeft(name, "-")
		var names []string
		for _, f := range c.Command.Flags {
			names = append(names, flagNames(f)...)
		}
		hint := "see unlearn help"
		if c.Command.HelpName != "" && c.Command.Name != c.App.Name {
			hint = "see " + c.Command.HelpName + " --help"
		}
		if near := nearest.To(name, names); near != "" {
			hint = "did you mean " + dashed(near) + "?"
		}
		return run.Usagef("unknown flag %s; %s", dashed(name), hint)
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return run.Usagef("%s needs a value", dashed(strings.TrimLeft(name, "-")))
	}
	return run.Usagef("%s", text)
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// noArguments refuses positional arguments, which are a flag's lost value more often than not.
func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return run.Usagef("unexpected argument %q; %s takes flags only", c.Args().First(), c.Command.HelpName)
	}
	return nil
}

// place is where the words that choose a command lead.
type place struct {
	app      *cli.App
	words    int            // that choose it
	command  *cli.Command   // nil for none
	commands []*cli.Command // that may follow
	flags    []cli.Flag     // that may follow
}

// find follows the words that choose a command.
func find(app *cli.App, words []string) place {
	at := place{app: app, commands: app.Commands, flags: []cli.Flag{cli.HelpFlag}}
	for _, word := range words {
		i := slices.IndexFunc(at.commands, func(c *cli.Command) bool { return c.HasName(word) })
		if i < 0 {
			break
		}
		at.words++
		at.command = at.commands[i]
		at.commands, at.flags = at.command.Subcommands, append([]cli.Flag{cli.HelpFlag}, at.command.Flags...)
	}
	return at
}

// flag returns the flag that a word names, or nil, and whether its value stands in the word as well.
func (at place) flag(word string) (f cli.Flag, value bool) {
	name, _, value := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(word, "-"), "-"), "=")
	i := slices.IndexFunc(at.flags, func(f cli.Flag) bool { return slices.Contains(flagNames(f), name) })
	if i < 0 || !strings.HasPrefix(word, "-") {
		return nil, value
	}
	return at.flags[i], value
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

// permute moves flags before positional arguments, because the flag parser stops at the first positional and would
// silently ignore the rest. The words that choose the command stay in front; everything after -- stays as it is.
// -vv becomes -v -v.
func permute(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	at := find(app, args[1:])
	out := args[: 1+at.words : 1+at.words]
	rest := args[1+at.words:]
	if len(rest) > 0 && len(at.commands) > 0 && !strings.HasPrefix(rest[0], "-") {
		return append(out, rest[0]) // no command, which is all there is to say
	}
	var positional []string
	for len(rest) > 0 {
		word := rest[0]
		rest = rest[1:]
		name := strings.TrimPrefix(strings.TrimPrefix(word, "-"), "-")
		switch {
		case word == "--":
			return append(append(append(out, "--"), positional...), rest...)
		case name == word || name == "": // no dash, or - for stdin and stdout
			positional = append(positional, word)
		case len(name) > 1 && strings.Trim(name, "v") == "" && !strings.HasPrefix(word, "--"):
			for range name {
				out = append(out, "-v")
			}
		default:
			out = append(out, word)
			if flag, value := at.flag(word); flag != nil && !value && takesValue(flag) && len(rest) > 0 {
				out, rest = append(out, rest[0]), rest[1:]
			}
		}
	}
	return append(out, positional...)
}
