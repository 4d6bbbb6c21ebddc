package results

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// How far Find looks, so that a wrong folder, as /, ends in a sentence.
const (
	maxDepth   = 6
	maxFolders = 100_000
	maxNames   = 100_000 // in one folder
)

// Find returns the paths of all run folders at or below dir, sorted by name on each level. It does not look into run folders,
// hidden folders or through links.
func Find(dir string) ([]string, error) {
	var found []string
	seen := 0
	var walk func(at string, depth int) error
	walk = func(at string, depth int) error {
		if seen++; seen > maxFolders {
			return fmt.Errorf("%s: more than %d folders below it; name the folder of the runs", dir, maxFolders)
		}
		folder, err := OpenFolder(at)
		if err != nil {
			return err
		}
		defer folder.Close()
		if folder.isRun() {
			found = append(found, at)
			return nil
		}
		if depth == maxDepth {
			return nil
		}
		self, err := folder.root.Open(".")
		if err != nil {
			return folder.refuse(".", bare(err))
		}
		defer self.Close()
		below, err := names(self, maxNames, func(e fs.DirEntry) bool { return e.IsDir() && !strings.HasPrefix(e.Name(), ".") })
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		for _, name := range below {
			if err := walk(filepath.Join(at, name), depth+1); err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	}
	if err := walk(dir, 0); err != nil {
		return nil, err
	}
	return found, nil
}

// State is a text that stays the same as long as nothing changes at or below dir that a report shows: files by their names, sizes and
// times, but for those that a run writes all along.
func State(dir string) (string, error) {
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	seen := 0
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil // gone since, or none of ours
		}
		if err != nil {
			return err
		}
		if seen++; seen > maxFolders {
			return fmt.Errorf("%s: more than %d files below it", dir, maxFolders)
		}
		switch name := d.Name(); {
		case d.IsDir() && path != root && (name == "checkpoints" || strings.HasPrefix(name, ".")):
			return fs.SkipDir
		case d.IsDir() || name == "metrics.jsonl" || name == "log.jsonl":
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // gone since
		}
		fmt.Fprintf(h, "%q %d %d\n", path, info.Size(), info.ModTime().UnixNano())
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// names returns the sorted names of a folder that are wanted; more than limit are an error.
func names(dir *os.File, limit int, wanted func(fs.DirEntry) bool) ([]string, error) {
	var all []string
	for {
		entries, err := dir.ReadDir(1024)
		for _, e := range entries {
			if wanted(e) {
				all = append(all, e.Name())
			}
		}
		if len(all) > limit {
			return nil, fmt.Errorf("more than %d names in it", limit)
		}
		if errors.Is(err, io.EOF) {
			slices.Sort(all)
			return all, nil
		}
		if err != nil {
			return nil, bare(err)
		}
	}
}

// GridSchema is the schema name of Grid.
const GridSchema = "unlearn.grid/1"

// Grid is grid.json, what a folder of a grid says of its cells. The run of a cell lies in its folder.
type Grid struct {
	Path    string            `json:"-"` // of the folder, as it was named
	Schema  string            `json:"schema"`
	Name    string            `json:"name"`
	Title   string            `json:"title"`
	Hash    string            `json:"hash"`
	Axes    []Axis            `json:"axes"`
	Columns []string          `json:"columns"` // keys of the axes that its table has columns by, the others making rows
	Cells   []Cell            `json:"cells"`
	Checks  []json.RawMessage `json:"checks"` // what `bench check` found
}

// Axis is one key of a grid with its values.
type Axis struct {
	Key    string  `json:"key"`
	Values []Label `json:"values"`
}

// Label is the text of a value, which may be a text, a number or a truth value in JSON.
type Label string

// UnmarshalJSON keeps a number as it is written.
func (l *Label) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, (*string)(l))
	}
	*l = Label(data)
	return nil
}

// Cell is one run of a grid.
type Cell struct {
	ID     string           `json:"id"`
	Labels map[string]Label `json:"labels"` // its values by the keys of the axes
	Folder string           `json:"folder"` // slash-separated, below that of the grid
}

// Claim is a check of a grid and what came of it.
type Claim struct {
	Claim   string   `json:"claim"`   // as a sentence
	Outcome string   `json:"outcome"` // "" until it was decided
	Source  string   `json:"source"`
	Detail  []string `json:"detail"` // the numbers that decided it, one comparison a line
}

// Claims are the checks of the grid that have a sentence.
func (g *Grid) Claims() (claims []Claim, err error) {
	for i, text := range g.Checks {
		var c Claim
		if err := json.Unmarshal(text, &c); err != nil {
			return nil, fmt.Errorf("%s/grid.json: check %d: %w", g.Path, i+1, err)
		}
		if c.Claim != "" {
			claims = append(claims, c)
		}
	}
	return claims, nil
}

// maxCells bounds a grid.
const maxCells = 100_000

// OpenGrid reads grid.json of a folder. A folder without one is an error that is fs.ErrNotExist.
func OpenGrid(dir string) (*Grid, error) {
	folder, err := OpenFolder(dir)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	data, err := folder.Read("grid.json", maxResult)
	if err != nil {
		return nil, err
	}
	g := &Grid{Path: dir}
	if err := json.Unmarshal(data, g); err != nil {
		return nil, folder.refuse("grid.json", err)
	}
	if err := g.check(); err != nil {
		return nil, folder.refuse("grid.json", err)
	}
	return g, nil
}

func (g *Grid) check() error {
	if g.Schema != GridSchema {
		return fmt.Errorf("schema %.60q, where %q is read", g.Schema, GridSchema)
	}
	if len(g.Cells) > maxCells {
		return fmt.Errorf("%d cells, more than %d", len(g.Cells), maxCells)
	}
	for i, c := range g.Cells {
		if !fs.ValidPath(c.Folder) || path.Clean(c.Folder) == "." {
			return fmt.Errorf("cell %d: %.60q is no folder below the grid's", i, c.Folder)
		}
	}
	return nil
}

// Failed says why a cell failed when it was last tried; "" where it did not, or nobody tells.
func (g *Grid) Failed(c Cell) string {
	folder, err := OpenFolder(g.Path)
	if err != nil {
		return ""
	}
	defer folder.Close()
	var f struct {
		Reason string `json:"reason"`
	}
	if err := folder.optional("state/"+c.ID+".json", maxSmall, func(data []byte) error { return json.Unmarshal(data, &f) }); err != nil {
		return ""
	}
	return f.Reason
}

// Run reads the run of a cell; nil when it has not begun.
func (g *Grid) Run(c Cell) (*Run, error) {
	grid, err := OpenFolder(g.Path)
	if err != nil {
		return nil, err
	}
	defer grid.Close()
	return grid.below(filepath.FromSlash(c.Folder))
}
