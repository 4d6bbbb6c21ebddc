// Package lint holds the rules that no linter knows, as tests: which room may import which, that every package says what
// it is for, and which constructs stay out. It reads the source files only, so it builds nothing and takes a moment.
package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "l2ul"

// file is one parsed Go file of the module. dir is slash-separated and relative to the module's root.
type file struct {
	dir, name string
	fset      *token.FileSet
	syntax    *ast.File
}

// test says whether the file is never part of a program: a test, or a helper of tests, which imports testing.
func (f file) test() bool {
	if strings.HasSuffix(f.name, "_test.go") {
		return true
	}
	for imported := range f.imports {
		if imported == "testing" {
			return true
		}
	}
	return false
}

// at names a place in the file as editors understand it.
func (f file) at(p token.Pos) string {
	return path.Join(f.dir, f.name) + ":" + strconv.Itoa(f.fset.Position(p).Line)
}

// imports yields the file's import paths with their places.
func (f file) imports(yield func(path string, pos token.Pos) bool) {
	for _, spec := range f.syntax.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err == nil && !yield(p, spec.Pos()) {
			return
		}
	}
}

// load parses every Go file of the module; modules nested in it, test data and hidden folders are others' business.
func load(t *testing.T) []file {
	t.Helper()
	root := filepath.Join("..", "..")
	var files []file
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			nested := p != root && exists(filepath.Join(p, "go.mod"))
			hidden := p != root && strings.HasPrefix(d.Name(), ".")
			if nested || hidden || d.Name() == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(p) != ".go" {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		syntax, err := parser.ParseFile(fset, p, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		dir, name := path.Split(filepath.ToSlash(rel))
		files = append(files, file{path.Clean(dir), name, fset, syntax})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 2 {
		t.Fatalf("found %d Go files under %s: not the module's root?", len(files), root)
	}
	return files
}

func exists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

// within says whether dir is one of the rooms or lies in one. A room that ends in a dot is its own folder alone.
func within(dir string, rooms []string) bool {
	return slices.ContainsFunc(rooms, func(room string) bool {
		if only, ok := strings.CutSuffix(room, "."); ok {
			return dir == only
		}
		return dir == room || strings.HasPrefix(dir, room+"/")
	})
}

// arrow forbids imports. Packages of the module are named by their folder, others by their import path.
type arrow struct {
	from   []string // rooms the rule is for; none means all
	except []string // rooms within them that are free
	to     []string // what they may not import
	but    []string // what within that they may
	tests  bool     // the rule holds for tests too
	why    string
}

var arrows = []arrow{
	{from: []string{"torch"}, to: []string{"unlearn", "cmd"}, tests: true, why: "torch knows nothing of unlearning"},
	{from: []string{"torch."}, to: []string{"torch"}, why: "torch is the ground the other rooms of torch/ stand on"},
	{
		from: []string{"torch/ckpt"}, to: []string{"torch"}, but: []string{"torch/ckpt"}, tests: true,
		why: "torch/ckpt reads and writes files without libtorch",
	},
	{to: []string{"cmd", "scripts"}, tests: true, why: "nothing stands on the programs"},
	{
		from: []string{"unlearn."}, to: []string{"torch/ckpt", "unlearn/run", "unlearn/methods", "flag"},
		why: "the heart knows no file formats, no flags and no particular method",
	},
	{
		from: []string{"unlearn/seed", "unlearn/kernels", "unlearn/data"},
		to:   []string{"unlearn"}, but: []string{"unlearn/seed", "unlearn/kernels", "unlearn/data", "unlearn/fetch"},
		why: "data, kernels and seeds serve the algorithms and know none",
	},
	{from: []string{"unlearn/fetch"}, to: []string{"unlearn", "torch"}, but: []string{"unlearn/fetch"}, tests: true, why: "downloads know nothing of what they bring"},
	{
		from: []string{"unlearn/weights"}, to: []string{"unlearn", "torch"}, but: []string{"unlearn/weights", "unlearn/fetch", "torch/ckpt"}, tests: true,
		why: "finding a file takes neither libtorch nor the algorithms",
	},
	{except: []string{"cmd"}, to: []string{"github.com/urfave/cli"}, why: "flags end in cmd"},
	{
		except: []string{"cmd", "unlearn/run"}, why: "only cmd and unlearn/run talk to people and read configuration",
		to: []string{"github.com/jedib0t/go-pretty", "github.com/rs/zerolog", "github.com/vbauerster/mpb", "golang.org/x/term"},
	},
	{
		except: []string{"cmd", "unlearn/run", "unlearn/bench"}, to: []string{"github.com/goccy/go-yaml"},
		why: "only configuration and grids are YAML",
	},
	{
		except: []string{"cmd"}, to: []string{"unlearn/bench"},
		why: "grids are made of runs, and runs know nothing of grids",
	},
	{
		except: []string{"torch.", "unlearn/data"}, to: []string{"C"}, tests: true,
		why: "C is reached through torch, and through unlearn/data for libjpeg-turbo",
	},
}

func (a arrow) forbids(f file, imported string) bool {
	if f.test() && !a.tests || len(a.from) > 0 && !within(f.dir, a.from) || within(f.dir, a.except) {
		return false
	}
	to := imported
	if rest, ok := strings.CutPrefix(imported, module+"/"); ok {
		to = rest
	}
	return within(to, a.to) && !within(to, a.but)
}

func TestImportsPointOneWay(t *testing.T) {
	for _, f := range load(t) {
		for imported, pos := range f.imports {
			for _, a := range arrows {
				if a.forbids(f, imported) {
					t.Errorf("%s: %s imports %s: %s", f.at(pos), f.dir, imported, a.why)
				}
			}
		}
	}
}

func TestArrowsForbid(t *testing.T) {
	for _, c := range []struct {
		dir, name, imported string
		forbidden           bool
	}{
		{"torch/nn", "a.go", "l2ul/unlearn/seed", true},
		{"torch/nn", "a_test.go", "l2ul/unlearn", true},
		{"torch/nn", "a.go", "l2ul/torch", false},
		{"torch", "a.go", "l2ul/torch/nn", true},
		{"torch", "a_test.go", "l2ul/torch/nn", false},
		{"torch/ckpt", "a_test.go", "l2ul/torch", true},
		{"torch/ckpt", "a.go", "l2ul/torch/ckpt/pickle", false},
		{"torch/ckpt", "a.go", "C", true},
		{"torch", "a.go", "C", false},
		{"unlearn", "a.go", "l2ul/torch/nn", false},
		{"unlearn", "a.go", "l2ul/torch/ckpt", true},
		{"unlearn/methods", "a.go", "l2ul/torch/ckpt", false},
		{"unlearn/data", "a.go", "l2ul/unlearn", true},
		{"unlearn/data", "a.go", "l2ul/unlearn/seed", false},
		{"unlearn/run", "a.go", "github.com/urfave/cli/v2", true},
		{"unlearn/run/config", "a.go", "github.com/goccy/go-yaml/ast", false},
		{"unlearn/methods", "a.go", "github.com/rs/zerolog", true},
		{"cmd/unlearn", "a.go", "github.com/urfave/cli/v2", false},
		{"unlearn/run", "a.go", "l2ul/cmd/unlearn", true},
	} {
		got := slices.ContainsFunc(arrows, func(a arrow) bool { return a.forbids(file{dir: c.dir, name: c.name, syntax: &ast.File{}}, c.imported) })
		if got != c.forbidden {
			t.Errorf("%s/%s importing %s: forbidden is %v, want %v", c.dir, c.name, c.imported, got, c.forbidden)
		}
	}
}

// TestPackagesSayWhatTheyAreFor wants one package comment in each package, in the form that go doc shows.
func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	comments := map[string][]string{}
	form := map[string]string{}
	for _, f := range load(t) {
		if strings.HasSuffix(f.syntax.Name.Name, "_test") {
			continue
		}
		if _, ok := comments[f.dir]; !ok {
			comments[f.dir] = nil
		}
		form[f.dir] = "Package " + f.syntax.Name.Name
		if f.syntax.Name.Name == "main" {
			form[f.dir] = "Command " + path.Base(f.dir)
		}
		if f.syntax.Doc != nil {
			comments[f.dir] = append(comments[f.dir], f.at(f.syntax.Doc.Pos()))
			if !strings.HasPrefix(f.syntax.Doc.Text(), form[f.dir]+" ") {
				t.Errorf("%s: the package comment does not begin with %q", f.at(f.syntax.Doc.Pos()), form[f.dir])
			}
		}
	}
	for dir, places := range comments {
		switch len(places) {
		case 0:
			t.Errorf("%s: no file has a package comment; begin it with %q", dir, form[dir])
		case 1:
		default:
			t.Errorf("%s: more than one package comment: %s", dir, strings.Join(places, ", "))
		}
	}
}

// TestForbiddenCalls keeps out what the rules of CONTRIBUTING.md rule out.
func TestForbiddenCalls(t *testing.T) {
	forbidden := map[string]struct {
		except []string
		why    string
	}{
		"runtime.SetFinalizer": {nil, "tensor memory is freed by scopes and owners, never by the garbage collector"},
		"runtime.AddCleanup":   {nil, "tensor memory is freed by scopes and owners, never by the garbage collector"},
		"os.Exit":              {[]string{"cmd", "scripts/bench/ours"}, "return an error; only the program decides to end"},
		"log.Fatal":            {nil, "return an error; only the program decides to end"},
		"log.Fatalf":           {nil, "return an error; only the program decides to end"},
	}
	for _, f := range load(t) {
		if f.test() {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := sel.X.(*ast.Ident)
			if !ok {
				return true
			}
			call := pkg.Name + "." + sel.Sel.Name
			if rule, ok := forbidden[call]; ok && !within(f.dir, rule.except) {
				t.Errorf("%s: %s: %s", f.at(sel.Pos()), call, rule.why)
			}
			return true
		})
	}
}

// TestLicencesAreNamed wants every module that go.mod asks for in third_party/README.md, with its licence.
func TestLicencesAreNamed(t *testing.T) {
	read := func(p string) string {
		text, err := os.ReadFile(filepath.Join("..", "..", p))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	notices := read("third_party/README.md")
	var named []string
	for line := range strings.Lines(notices) {
		if name, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ = strings.Cut(name, "`")
			named = append(named, name)
		}
	}
	if !slices.IsSorted(named) || len(slices.Compact(slices.Clone(named))) < len(named) {
		t.Errorf("the modules of third_party/README.md are not in order, each once: %v", named)
	}
	asked := read("go.mod")
	for line := range strings.Lines(asked) {
		fields := strings.Fields(strings.TrimPrefix(line, "require "))
		if len(fields) < 2 || !strings.Contains(fields[0], ".") || !strings.HasPrefix(fields[1], "v") {
			continue
		}
		if !slices.Contains(named, fields[0]) {
			t.Errorf("third_party/README.md does not name %s and its licence", fields[0])
		}
	}
	for _, name := range named {
		if !strings.Contains(asked, name+" v") {
			t.Errorf("third_party/README.md names %s, which go.mod does not ask for", name)
		}
	}
}

// TestRoomsAreNamed wants every folder of the rooms in CONTRIBUTING.md's list of them, and each once.
func TestRoomsAreNamed(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "CONTRIBUTING.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rooms, _ := strings.Cut(string(text), "## The rooms\n\n```\n")
	rooms, _, _ = strings.Cut(rooms, "```")
	seen, within := map[string]bool{}, ""
	for line := range strings.Lines(rooms) {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		name, _, is := strings.Cut(strings.TrimSpace(line), "/ ")
		if indent > 8 || !is || strings.Contains(name, " ") {
			continue
		}
		if indent == 0 {
			within = name
		} else {
			name = within + "/" + name
		}
		if seen[name] {
			t.Errorf("CONTRIBUTING.md names the room %s twice", name)
		}
		seen[name] = true
	}
	for _, above := range []string{"torch", "unlearn", "scripts"} {
		folders, err := os.ReadDir(filepath.Join("..", "..", above))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range folders {
			if f.IsDir() && f.Name() != "testdata" && !strings.Contains(rooms, f.Name()+"/") {
				t.Errorf("CONTRIBUTING.md does not name the room %s/%s", above, f.Name())
			}
		}
	}
}
