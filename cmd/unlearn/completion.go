package main

import (
	"bufio"
	"cmp"
	"embed"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"l2ul/unlearn/bench"
	"l2ul/unlearn/data"
	"l2ul/unlearn/run/config"
)

// Completion is answered by the program itself: a shell's script asks `unlearn __complete -- WORDS`, the last of which is
// begun, and gets a candidate a line, with a tab and what it is. Where files may stand a line :files or :dirs says so, with
// what stands before the file's name. urfave/cli's own answer fails behind a flag that lacks its value yet.

//go:embed completion
var completionScripts embed.FS

var shells = []struct{ name, script string }{
	{"bash", "unlearn.bash"}, {"zsh", "unlearn.zsh"}, {"fish", "unlearn.fish"}, {"powershell", "unlearn.ps1"},
}

func (p *program) completion() *cli.Command {
	cmd := &cli.Command{Name: "completion", Usage: "print a script that makes a shell complete command lines of unlearn"}
	for _, shell := range shells {
		script, err := completionScripts.ReadFile(path.Join("completion", shell.script))
		if err != nil {
			panic(err) // it is embedded
		}
		first, _, _ := strings.Cut(strings.TrimPrefix(string(script), "#compdef unlearn\n"), "\n")
		_, usage, _ := strings.Cut(first, ": ")
		cmd.Subcommands = append(cmd.Subcommands, &cli.Command{
			Name: shell.name, Usage: usage,
			Action: func(c *cli.Context) error {
				if err := noArguments(c); err != nil {
					return err
				}
				_, err := p.stdout.Write(script)
				return err
			},
		})
	}
	return cmd
}

// answerCompletion is the command that the scripts ask.
func (p *program) answerCompletion() *cli.Command {
	return &cli.Command{
		Name: "__complete", Usage: "answer a shell's script of completion", Hidden: true, ArgsUsage: "-- WORD…",
		Action: func(c *cli.Context) error {
			w := bufio.NewWriter(p.stdout)
			for _, line := range complete(c.App, c.Args().Slice()) {
				fmt.Fprintln(w, line)
			}
			return w.Flush()
		},
	}
}

// choices are what a word may become.
type choices struct {
	values [][2]string // each with what it is
	files  string      // "files" or "dirs" where those may stand
	before string      // what stands before them in the word
}

// behind puts the beginning of a word in front of all choices for the rest of it.
func (c choices) behind(before string) choices {
	for i := range c.values {
		c.values[i][0] = before + c.values[i][0]
	}
	c.before = before + c.before
	return c
}

func named(names ...string) (c choices) {
	for _, n := range names {
		c.values = append(c.values, [2]string{n, ""})
	}
	return c
}

func listed(items []item, err error) (c choices) {
	if err == nil { // who presses Tab is told nothing of errors
		for _, i := range items {
			c.values = append(c.values, [2]string{i.Name, i.Summary})
		}
	}
	return c
}

// complete returns the lines of the answer about words, the last of which is begun.
func complete(app *cli.App, words []string) (lines []string) {
	if len(words) == 0 {
		return nil
	}
	current := words[len(words)-1]
	may := choicesAfter(app, words[:len(words)-1], current)
	for _, v := range may.values {
		if strings.HasPrefix(v[0], current) {
			lines = append(lines, strings.TrimSuffix(v[0]+"\t"+v[1], "\t"))
		}
	}
	if may.files != "" && strings.HasPrefix(current, may.before) {
		lines = append(lines, ":"+may.files+" "+may.before)
	}
	return lines
}

func choicesAfter(app *cli.App, words []string, current string) choices {
	at := find(app, words)
	var positional []string
	given := map[string]bool{}
	for rest := words[at.words:]; len(rest) > 0; rest = rest[1:] {
		flag, value := at.flag(rest[0])
		switch {
		case rest[0] == "--":
			return at.argument(append(positional, rest[1:]...))
		case !strings.HasPrefix(rest[0], "-") || rest[0] == "-":
			positional = append(positional, rest[0])
		case flag != nil && !value && takesValue(flag):
			if len(rest) == 1 {
				return flagChoices(at, flag, current)
			}
			rest = rest[1:]
			fallthrough
		case flag != nil:
			given[flagNames(flag)[0]] = true
		}
	}
	if !strings.HasPrefix(current, "-") {
		return at.argument(positional)
	}
	if name, value, ok := strings.Cut(current, "="); ok {
		flag, _ := at.flag(name)
		return flagChoices(at, flag, value).behind(name + "=")
	}
	return flagsOf(at, given, current)
}

// flagsOf are the flags that may yet be given: their main names, or the others where only those begin like the word.
func flagsOf(at place, given map[string]bool, current string) (c choices) {
	var others choices
	for _, f := range at.flags {
		o, ok := f.(*optionFlag)
		if ok && given[o.field.Name] && !o.field.Repeats() {
			continue
		}
		for i, name := range flagNames(f) {
			about := ""
			if ok {
				about, _, _ = strings.Cut(o.field.Help, ";")
			}
			row := [2]string{dashed(name), about}
			if i == 0 {
				c.values = append(c.values, row)
			} else {
				others.values = append(others.values, row)
			}
		}
	}
	if slices.ContainsFunc(c.values, func(v [2]string) bool { return strings.HasPrefix(v[0], current) }) {
		return c
	}
	return others
}

// flagChoices are the values of a flag, current being what there is of one.
func flagChoices(at place, f cli.Flag, current string) choices {
	o, ok := f.(*optionFlag)
	if !ok {
		return choices{}
	}
	switch field := o.field; field.Name {
	case "config":
		c := listed(listPresets()).behind("preset:")
		c.before, c.files = "", "files"
		return c
	case "method":
		return listed(listMethods())
	case "model":
		c := listed(listModels())
		c.values = append(c.values, [2]string{"auto", "the one that the weights fit"})
		return c
	case "dataset":
		return listed(listDatasets())
	case "only":
		return listed(listAnalyses()).behind(current[:strings.LastIndex(current, ",")+1])
	case "forget":
		if strings.HasPrefix(current, "@") {
			return choices{files: "files"}.behind("@")
		}
		return choices{values: [][2]string{
			{"random:", "K samples drawn at random"},
			{"class:", "those of a class"},
			{"ids:", "those of these indices"},
			{"@", "forget.json, or file names one a line"},
		}}
	case "set":
		key, value, assigned := strings.Cut(current, "=")
		var keys choices
		for _, other := range at.flags {
			k, ok := other.(*optionFlag)
			switch {
			case !ok || !k.field.Key:
			case assigned && k.field.Name == key:
				return flagChoices(at, k, value).behind(key + "=")
			default:
				keys.values = append(keys.values, [2]string{k.field.Name + "=", k.field.Help})
			}
		}
		return keys
	default:
		return fieldChoices(field, current)
	}
}

// fieldChoices are the values that the declaration of an option tells.
func fieldChoices(f *config.Field, current string) choices {
	switch {
	case f.Kind == config.Bool:
		return named("true", "false")
	case len(f.OneOf) > 0:
		before := current[:strings.LastIndex(current, cmp.Or(f.Separator, "\x00"))+1]
		return named(slices.DeleteFunc(slices.Clone(f.OneOf), func(s string) bool { return s == "" })...).behind(before)
	}
	var c choices
	for form := range strings.SplitSeq(f.Arg, "|") { // auto|cpu|cuda[:N]: what is small is meant as it stands
		literal, _, _ := strings.Cut(form, "[")
		switch {
		case form == "FILE" || form == "PATH":
			c.files = "files"
		case form == "DIR":
			c.files = "dirs"
		case literal != "" && strings.Trim(literal, "abcdefghijklmnopqrstuvwxyz") == "":
			c.values = append(c.values, [2]string{literal, ""})
		}
	}
	return c
}

// argument are the choices for a word that is no flag, after those that stand there already.
func (at place) argument(before []string) choices {
	if len(at.commands) > 0 {
		if len(before) > 0 {
			return choices{}
		}
		return commandChoices(at.commands)
	}
	if at.command == nil {
		return choices{}
	}
	forms := strings.Fields(at.command.ArgsUsage)
	if len(forms) == 0 || len(before) >= len(forms) && !strings.HasSuffix(forms[len(forms)-1], "…") {
		return choices{}
	}
	switch strings.TrimPrefix(at.command.HelpName, "unlearn ") {
	case "help":
		c := commandChoices(at.app.Commands)
		for _, topic := range topicNames() {
			c.values = append(c.values, [2]string{topic, "topic"})
		}
		return c
	case "data fetch":
		var c choices
		for _, d := range data.Datasets() {
			if d.Downloads != nil {
				c.values = append(c.values, [2]string{d.Name, d.Summary})
			}
		}
		return c
	case "config validate":
		return flagChoices(at, &optionFlag{field: &config.Field{Name: "config"}}, "")
	case "verify":
		return choices{files: "files"} // which leads through folders
	}
	switch forms[min(len(before), len(forms)-1)] {
	case "NAME|DIR":
		c := listed(listDatasets())
		c.files = "dirs"
		return c
	case "GRID|preset:NAME":
		c := listed(listGrids()).behind("preset:")
		c.before, c.files = "", "files"
		return c
	case "DIR", "[DIR]", "RUN", "RUN…", "RUN|GRID|FOLDER…", "A", "B":
		return choices{files: "dirs"}
	default:
		return choices{files: "files"}
	}
}

// listGrids lists the grids that are built in.
func listGrids() (items []item, err error) {
	for _, name := range bench.Presets() {
		grid, err := bench.Load("preset:" + name)
		if err != nil {
			return nil, err
		}
		items = append(items, item{Name: name, Summary: grid.Title})
	}
	return items, nil
}

func commandChoices(commands []*cli.Command) (c choices) {
	for _, cmd := range commands {
		if !cmd.Hidden {
			c.values = append(c.values, [2]string{cmd.Name, cmd.Usage})
		}
	}
	return c
}
