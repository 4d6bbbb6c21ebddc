package run

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"l2ul/unlearn"
	"l2ul/unlearn/run/config"
)

// ours are the names that a run makes in its folder; --force removes these and nothing else.
var ours = []string{
	"config.yaml", "argv.txt", "env.json", "log.jsonl", "metrics.jsonl", "forget.json", "checkpoints", "result.json",
	plainModel, "model.pt", "model.npz", "model-last-finite.safetensors", bestModel, "adversarial.safetensors", "importance.safetensors",
	predictionsName, picturesName, analysesFolder, "tb", mlflowFile, entryName,
}

// runMark is the first file that a run writes: a folder with it is a run folder.
const runMark = "argv.txt"

// lockName is the file that a running job holds.
const lockName = ".lock"

// Folder is the folder of one run, locked for as long as it is open.
type Folder struct {
	path   string
	verb   string
	hash   string // of the configuration
	resume string // the hash that a checkpoint must share
	calls  string // the program, as it was called
	lock   *flock.Flock
}

func folderAt(path string, cfg *config.Config) *Folder {
	return &Folder{path: path, verb: cfg.Spec.Verb, hash: cfg.Hash(), resume: cfg.ResumeHash()}
}

// Opening is what OpenFolder needs to know.
type Opening struct {
	Catalog config.Catalog
	Config  *config.Config
	Options FolderOptions
	Argv    []string  // begins with the program, as it was called
	Now     time.Time // of the run's beginning; zero for one that is only planned
}

func (o *Opening) folder(path string) *Folder {
	f := folderAt(path, o.Config)
	f.calls = o.Argv[0]
	return f
}

// OpenFolder creates the folder of a new run, or finds the one to go on with. The checkpoint is nil unless the run is
// resumed. It refuses (usage error) to touch a folder that holds other things, a finished run without --force, an
// unfinished one without --resume, and a run of another configuration, naming the keys that differ. Caps may differ, so
// that a run which met one can go on. When it fails it leaves nothing behind.
func OpenFolder(o Opening) (*Folder, *Checkpoint, error) {
	return o.open("checkpoints", (*Folder).examine)
}

// open makes or finds a folder, locks it, and writes what is known before the work begins; inner is the folder in it that the
// work is kept in. examine is told to find out what is there, as [Folder.examine].
func (o Opening) open(inner string, examine func(*Folder, Opening) (*Checkpoint, bool, error)) (*Folder, *Checkpoint, error) {
	path, err := o.place()
	if err != nil {
		return nil, nil, err
	}
	_, err = os.Stat(path)
	created := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, nil, fmt.Errorf("cannot make the run folder: %w", err)
	}
	f := o.folder(path)
	f.lock = flock.New(filepath.Join(path, lockName))
	_, err = os.Stat(f.lock.Path())
	ours := errors.Is(err, fs.ErrNotExist)
	undo := func(err error) (*Folder, *Checkpoint, error) {
		if ours && f.lock.Locked() { // a folder that is refused stays as it was
			os.Remove(f.lock.Path())
		}
		f.Close()
		if created {
			os.RemoveAll(path)
		}
		return nil, nil, err
	}
	locked, err := f.lock.TryLock()
	if err != nil {
		return undo(fmt.Errorf("cannot lock the run folder: %w", err))
	}
	if !locked {
		created = false // whoever holds it owns it
		return undo(f.busy())
	}
	checkpoint, stale, err := examine(f, o)
	if err == nil && stale {
		err = f.clear()
	}
	if err != nil {
		return undo(err)
	}
	if err := f.begin(o, inner, checkpoint); err != nil {
		return undo(fmt.Errorf("cannot write into the run folder: %w", err))
	}
	return f, checkpoint, nil
}

func (f *Folder) busy() error { return fmt.Errorf("another process is working in %s", f.path) }

// Preview is what OpenFolder would find.
type Preview struct {
	Path       string
	Checkpoint *Checkpoint // to go on from, or nil
	Replaces   bool        // what a run left there would be cleared away
}

// PreviewFolder is OpenFolder for a run that does not take place. It fails as OpenFolder would, as far as that can be seen
// without writing.
func PreviewFolder(o Opening) (p Preview, err error) {
	if p.Path, err = o.place(); err != nil {
		return p, err
	}
	if _, err := os.Lstat(p.Path); err != nil {
		return p, creatable(p.Path)
	}
	f := o.folder(p.Path)
	if _, err := os.Stat(f.Path(lockName)); err == nil {
		f.lock = flock.New(f.Path(lockName))
		locked, err := f.lock.TryLock()
		if err != nil {
			return p, fmt.Errorf("cannot lock the run folder: %w", err)
		}
		if !locked {
			return p, f.busy()
		}
		if err := f.Close(); err != nil { // at once: a run may be about to begin
			return p, err
		}
	}
	if p.Checkpoint, p.Replaces, err = f.examine(o); err != nil {
		return p, err
	}
	if err := unix.Access(p.Path, unix.W_OK|unix.X_OK); err != nil {
		return p, fmt.Errorf("cannot write into the run folder: %s: %w", p.Path, err)
	}
	return p, nil
}

// creatable fails where os.MkdirAll would: the folder above all that is missing must be one to write into.
func creatable(path string) error {
	missing, parent := path, filepath.Dir(path)
	info, err := os.Stat(parent)
	for errors.Is(err, fs.ErrNotExist) {
		missing, parent = parent, filepath.Dir(parent)
		info, err = os.Stat(parent)
	}
	switch {
	case err != nil:
	case !info.IsDir():
		missing, err = parent, unix.ENOTDIR
	default:
		err = unix.Access(parent, unix.W_OK|unix.X_OK)
	}
	if err != nil {
		return fmt.Errorf("cannot make the run folder: %w", &fs.PathError{Op: "mkdir", Path: missing, Err: reason(err)})
	}
	return nil
}

// place decides where the run lives.
func (o *Opening) place() (path string, err error) {
	resume := o.Options.Resume
	switch {
	case resume != "" && resume != "auto":
		if path, err = runOf(resume); err != nil {
			return "", err
		}
		if out := o.Options.Output; out != "" && filepath.Clean(out) != path {
			return "", Usagef("--resume %s is not in --output %s; leave one of them out", resume, out)
		}
		return path, nil
	case o.Options.Output != "":
		path = filepath.Clean(o.Options.Output)
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return "", Usagef("--output %s is not a folder; choose another --output", path)
		}
		return path, nil
	}
	if resume == "auto" {
		if path := o.newestRun(); path != "" {
			return path, nil
		}
	}
	date := "DATE"
	if !o.Now.IsZero() {
		date = o.Now.Format("20060102-150405")
	}
	return filepath.Join("runs", date+o.suffix()), nil
}

func (o *Opening) suffix() string { return "-" + o.Config.Spec.Verb + "-" + o.Config.ResumeHash()[:8] }

// newestRun looks under runs/ for runs of the same configuration that can go on.
func (o *Opening) newestRun() string {
	paths, err := filepath.Glob(filepath.Join("runs", "*"+o.suffix()))
	if err != nil {
		return ""
	}
	slices.Sort(paths) // the names begin with the date
	for _, path := range slices.Backward(paths) {
		if folderAt(path, o.Config).resumable() {
			return path
		}
	}
	return ""
}

// runOf returns the run folder that a path given to --resume means: the folder itself, or that of a checkpoint in it.
func runOf(path string) (string, error) {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", Inputf("--resume %s: %w", path, reason(err))
	case info.IsDir():
		return path, nil
	}
	if folder, ok := folderOf(path); ok {
		return folder, nil
	}
	return "", Usagef("--resume %s: expected a run folder, a checkpoint in one, or auto", path)
}

// folderOf returns the run folder of a checkpoint.
func folderOf(checkpoint string) (folder string, ok bool) {
	dir := filepath.Dir(checkpoint)
	return filepath.Dir(dir), filepath.Base(dir) == "checkpoints"
}

// ResumeLine is the command line that goes on with a run: argv, with --resume and the folder instead of what it says about
// --resume and --force. path is the run folder or a checkpoint in it, or "" where a verb finds its runs by itself.
func ResumeLine(argv []string, path string) string {
	if folder, ok := folderOf(path); ok {
		path = folder
	}
	var words []string
	for i := 0; i < len(argv); i++ {
		name, _, value := strings.Cut(argv[i], "=")
		switch strings.Replace(name, "--", "-", 1) {
		case "-force":
		case "-resume":
			if !value {
				i++
			}
		default:
			words = append(words, argv[i])
		}
	}
	if path != "" {
		words = append(words, "--resume", path)
	}
	return Quote(words)
}

// examine checks what is in the folder already and returns the checkpoint to go on from, or that what a run left there is
// to be cleared away.
func (f *Folder) examine(o Opening) (checkpoint *Checkpoint, stale bool, err error) {
	names, err := os.ReadDir(f.path)
	if err != nil {
		return nil, false, err
	}
	// Only what a run began is a run's to clear away: names such as model.safetensors may be somebody's own.
	_, err = os.Stat(f.Path(runMark))
	begun := !errors.Is(err, fs.ErrNotExist)
	for _, n := range names {
		if !begun && n.Name() != lockName {
			return nil, false, Usagef("%s is not a run folder (it holds %s); choose another --output", f.path, n.Name())
		}
	}
	if o.Options.Force && o.Options.Resume == "" {
		return nil, begun, nil
	}
	end, err := f.end()
	if err != nil {
		return nil, false, err
	}
	finished := end != nil && end.Outcome != unlearn.Interrupted
	if capped := finished && end.Outcome == unlearn.Capped; capped && (o.Options.Resume == "" || end.Hashes.Config == f.hash) {
		return nil, false, Usagef("%s holds a finished run that met a cap; go on with `%s` and a higher cap, choose another --output, or replace it with --force",
			f.path, f.again())
	} else if finished && !capped {
		return nil, false, Usagef("%s holds a finished run; choose another --output, or replace it with --force", f.path)
	}
	if path := o.Options.Resume; strings.HasSuffix(path, ".json") || strings.HasSuffix(path, ".safetensors") {
		if checkpoint, err = readCheckpoint(strings.TrimSuffix(path, filepath.Ext(path)) + ".json"); err != nil {
			return nil, false, Inputf("--resume %s: %w", path, err)
		}
	} else if checkpoint, err = f.newest(); err != nil {
		return nil, false, err
	}
	switch {
	case checkpoint == nil && (finished || o.Options.Resume != "" && o.Options.Resume != "auto"):
		return nil, false, Inputf("--resume %s: no valid checkpoint in %s", o.Options.Resume, f.path)
	case checkpoint == nil:
		return nil, begun, nil // it ended before its first checkpoint: begin again
	case o.Options.Resume == "":
		return nil, false, Usagef("%s holds an unfinished run (step %d); go on with `%s`, or replace it with --force",
			f.path, checkpoint.Step, f.again())
	case checkpoint.ConfigHash != f.resume:
		return nil, false, f.otherConfiguration(o)
	}
	return checkpoint, false, nil
}

// again is the command line that goes on with the run as it was configured.
func (f *Folder) again() string {
	return ResumeLine([]string{f.calls, f.verb, "-c", f.Path("config.yaml")}, f.path)
}

// otherConfiguration names the keys in which the run in the folder differs.
func (f *Folder) otherConfiguration(o Opening) error {
	keys, err := f.differences(o)
	if err != nil {
		return Usagef("%s was run with another configuration, and %w", f.path, err)
	}
	if len(keys) == 0 {
		return Usagef("%s was run with another verb or version of the program; choose another --output", f.path)
	}
	return Usagef("%s was run with another configuration: %s; go on as it was with `%s`, or choose another --output",
		f.path, strings.Join(keys, ", "), f.again())
}

// differences names the keys in which the configuration in the folder differs, with both values.
func (f *Folder) differences(o Opening) (keys []string, err error) {
	was, err := o.Catalog.Resolve(f.verb, config.Sources{Flags: map[string][]string{"config": {f.Path("config.yaml")}}})
	if err != nil {
		return nil, err
	}
	for _, d := range o.Config.Differences(was) {
		keys = append(keys, d.String())
	}
	return keys, nil
}

// end is what result.json says about how a run ended.
type end struct {
	Outcome unlearn.Outcome `json:"outcome"`
	Hashes  Hashes          `json:"hashes"`
	Forget  struct {
		Hash string `json:"hash"`
	} `json:"forget"`
	Compat Compat `json:"compat"`
}

// end returns how the run ended, nil if it has no result. A result that cannot be read has no outcome: it is not ours to
// replace without being told.
func (f *Folder) end() (*end, error) {
	data, err := os.ReadFile(f.Path("result.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	e := &end{}
	if json.Unmarshal(data, e) != nil {
		e.Outcome = ""
	}
	return e, nil
}

// resumable reports whether a job of the folder's configuration can go on with the run: one that was interrupted, or met
// another cap.
func (f *Folder) resumable() bool {
	e, err := f.end()
	if err != nil || e != nil && e.Outcome != unlearn.Interrupted && (e.Outcome != unlearn.Capped || e.Hashes.Config == f.hash) {
		return false
	}
	c, err := f.newest()
	return err == nil && c != nil && c.ConfigHash == f.resume
}

// clear removes what an earlier run left.
func (f *Folder) clear() error {
	for _, name := range ours {
		if err := os.RemoveAll(f.Path(name)); err != nil {
			return err
		}
	}
	return nil
}

// begin writes what is known before the job starts.
func (f *Folder) begin(o Opening, inner string, resumed *Checkpoint) error {
	text, err := o.Config.YAML()
	if err != nil {
		return err
	}
	if err := WriteFile(f.Path("config.yaml"), text); err != nil {
		return err
	}
	argv, err := os.ReadFile(f.Path("argv.txt"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := WriteFile(f.Path("argv.txt"), append(argv, Quote(o.Argv)+"\n"...)); err != nil {
		return err
	}
	if resumed != nil {
		if err := f.trimMetrics(resumed.Step); err != nil {
			return err
		}
	}
	return os.MkdirAll(f.Path(inner), 0o755)
}

// Quote writes a command line that a shell reads back.
func Quote(argv []string) string {
	words := make([]string, len(argv))
	for i, w := range argv {
		if w == "" || strings.ContainsFunc(w, func(r rune) bool {
			return !strings.ContainsRune("@%+=:,./-_", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		}) {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		words[i] = w
	}
	return strings.Join(words, " ")
}

// trimMetrics drops the metrics of steps after the checkpoint, which will be done again, so that the file of a
// resumed run equals that of an uninterrupted one. A last line cut short by a crash goes as well.
func (f *Folder) trimMetrics(step int64) error {
	data, err := os.ReadFile(f.Path("metrics.jsonl"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	var kept []byte
	for line := range bytes.Lines(data) {
		var m Metric
		if json.Unmarshal(line, &m) == nil && m.Step <= step {
			kept = append(kept, line...)
		}
	}
	return WriteFile(f.Path("metrics.jsonl"), kept)
}

// takeBack removes what a run that met a cap left as its end, once it is sure that it goes on.
func (f *Folder) takeBack() error {
	for _, name := range []string{"result.json", plainModel, "model.pt", "model.npz"} { // the result first: what is left is no end
		if err := removeIfThere(f.Path(name)); err != nil {
			return err
		}
	}
	return os.RemoveAll(f.Path(analysesFolder)) // of another end
}

// Path returns the path of a file in the folder; Path() is the folder itself.
func (f *Folder) Path(elem ...string) string {
	return filepath.Join(append([]string{f.path}, elem...)...)
}

// ConfigHash is the hash of the run's configuration.
func (f *Folder) ConfigHash() string { return f.hash }

// Finish writes result.json and drops the checkpoints, which nobody needs after a proper end. An interrupted run (outcome
// interrupted) keeps them, and one that met a cap the newest, to go on from under another cap.
func (f *Folder) Finish(result any, outcome unlearn.Outcome) error {
	if err := WriteJSON(f.Path("result.json"), result); err != nil {
		return fmt.Errorf("cannot write the result: %w", err)
	}
	switch outcome {
	case unlearn.Interrupted:
		return nil
	case unlearn.Capped:
		return f.prune(1, "")
	default:
		return os.RemoveAll(f.Path("checkpoints"))
	}
}

// Close gives the lock back. The lock file stays: removing it would let two processes lock two files of that name.
func (f *Folder) Close() error { return f.lock.Unlock() }
