package run

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"l2ul/torch/ckpt"
	"l2ul/unlearn"
	"l2ul/unlearn/data"
	"l2ul/unlearn/run/cache"
)

// A deletion record is a file with one line for each request that was served, each of which ends in a hash of its own bytes, the
// hash of the line before among them. So whoever changes, drops, adds or moves a line must write all lines after it anew, and
// the head, the hash of the last line, becomes another. The chain alone cannot show that last lines are missing, nor that all of
// it was written anew: the first shows where the run folders are beside it, the second only to somebody who has kept a head.
const (
	RecordSchema = "unlearn.record/1"
	recordName   = "record.jsonl"
	// requestsFolder has the run folders of a stream.
	requestsFolder = "requests"
	entryName      = "entry.json" // in the folder of a run, its line: written first, so that a torn record can be mended
)

// Entry is a line of a deletion record.
type Entry struct {
	Schema        string            `json:"schema" jsonschema:"enum=unlearn.record/1"`
	Position      int               `json:"position" jsonschema:"minimum=1"`
	ID            string            `json:"id"`
	Time          string            `json:"time" jsonschema:"description=when the run had ended\\, RFC 3339"`
	Folder        string            `json:"folder" jsonschema:"description=of the run\\, from that of the record"`
	Request       string            `json:"request" jsonschema:"description=sha256 of what was asked for as canonical JSON"`
	Data          string            `json:"data" jsonschema:"description=hashes as in unlearn.result/1"`
	Forget        string            `json:"forget"`
	Images        int               `json:"images" jsonschema:"minimum=1,description=to forget"`
	WeightsBefore string            `json:"weights_before"`
	WeightsAfter  string            `json:"weights_after"`
	Config        string            `json:"config"`
	Settings      map[string]any    `json:"settings" jsonschema:"description=which config is the hash of"`
	Anchor        string            `json:"anchor" jsonschema:"enum=previous,enum=first"`
	StopScope     string            `json:"stop_scope" jsonschema:"enum=request,enum=all"`
	Outcome       unlearn.Outcome   `json:"outcome" jsonschema:"enum=reached,enum=already,enum=cap"`
	Steps         int64             `json:"steps" jsonschema:"minimum=0"`
	Seconds       float64           `json:"seconds" jsonschema:"minimum=0"`
	Before        *Scores           `json:"before"`
	After         *Scores           `json:"after"`
	Earlier       []EarlierRequest  `json:"earlier,omitempty"`
	Reads         data.Reads        `json:"reads"`
	Versions      Versions          `json:"versions"`
	Files         map[string]string `json:"files" jsonschema:"description=sha256 of files of the run's folder"`
	Previous      string            `json:"previous" jsonschema:"description=hash of the line before\\, empty in the first"`
	Hash          string            `json:"-"` // sha256 of the line without its last member, which this is
}

// Again says of how many images of earlier requests, n, the weights after this one have the label: hits, and regained those of
// them that were forgotten when their own request ended.
func (e *Entry) Again() (hits, regained, n int64) {
	for _, before := range e.Earlier {
		hits, regained, n = hits+before.Hits, regained+before.Regained, n+before.N
	}
	return hits, regained, n
}

var hashMember = regexp.MustCompile(`,"hash":"([0-9a-f]{64})"\}$`)

// line returns the line of the entry, with its hash and its line break.
func (e *Entry) line() []byte {
	body := canonical(e)
	sum := sha256.Sum256(body)
	return fmt.Appendf(body[:len(body)-1], ",\"hash\":\"%s\"}\n", hex.EncodeToString(sum[:]))
}

// parseEntry reads a line, without its line break, and checks its hash.
func parseEntry(line []byte) (*Entry, error) {
	found := hashMember.FindSubmatchIndex(line)
	if found == nil {
		return nil, errors.New(`field hash: the line does not end in ,"hash":"…"}`)
	}
	body := append(bytes.Clone(line[:found[0]]), '}')
	sum := sha256.Sum256(body)
	e := &Entry{Hash: hex.EncodeToString(sum[:])}
	if said := string(line[found[2]:found[3]]); said != e.Hash {
		return nil, fmt.Errorf("field hash: it says %.12s…, and the line has %.12s…: a byte of it was changed", said, e.Hash)
	}
	if err := json.Unmarshal(body, e); err != nil {
		return nil, err
	}
	switch {
	case e.Schema != RecordSchema:
		return nil, fmt.Errorf("field schema: %q, and this program reads %q", e.Schema, RecordSchema)
	case e.Before == nil || e.After == nil:
		return nil, errors.New("field before, or after: there are no scores")
	}
	return e, nil
}

// follows checks what a line says about the one before; the first line has none.
func (e *Entry) follows(previous *Entry) error {
	before := Entry{WeightsAfter: e.WeightsBefore, Data: e.Data}
	if previous != nil {
		before = *previous
	}
	for _, field := range []struct {
		name      string
		got, want any
	}{
		{"position", e.Position, before.Position + 1},
		{"previous", e.Previous, before.Hash},
		{"weights_before", e.WeightsBefore, before.WeightsAfter},
		{"data", e.Data, before.Data},
	} {
		if field.got != field.want {
			return fmt.Errorf("field %s: %v, and after the line before it must be %v", field.name, field.got, field.want)
		}
	}
	if e.Folder != requestFolder(e.Position, e.ID) {
		return fmt.Errorf("field folder: %q, and that of request %q is %q", e.Folder, e.ID, requestFolder(e.Position, e.ID))
	}
	return nil
}

var unusual = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// requestFolder is the folder of a request's run, from that of the stream.
func requestFolder(position int, id string) string {
	name := unusual.ReplaceAllString(id, "_")
	return filepath.Join(requestsFolder, fmt.Sprintf("%03d-%s", position, name[:min(len(name), 80)]))
}

// parseRecord reads a record whose every line must be whole and follow from the one before. rest is what stands behind the last
// line break: a line that was cut short, or nothing.
func parseRecord(path string, text []byte) (entries []*Entry, rest []byte, err error) {
	for line := range bytes.Lines(text) {
		body, whole := bytes.CutSuffix(line, []byte("\n"))
		if !whole {
			return entries, line, nil
		}
		e, err := parseEntry(body)
		if err == nil {
			var last *Entry
			if len(entries) > 0 {
				last = entries[len(entries)-1]
			}
			err = e.follows(last)
		}
		if err != nil {
			return nil, nil, Inputf("%s: line %d: %w", path, len(entries)+1, err)
		}
		entries = append(entries, e)
	}
	return entries, nil, nil
}

// maxRecord bounds a record: a line has a few thousand bytes.
const maxRecord = 4 << 30

// readRecord is parseRecord of a file; one that is not there has no lines.
func readRecord(path string) (text []byte, entries []*Entry, rest []byte, err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil, nil
	}
	if err == nil && info.Size() > maxRecord {
		return nil, nil, nil, Inputf("%s: %d bytes are more than a record can have (%d)", path, info.Size(), int64(maxRecord))
	}
	if err == nil {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, nil, nil, Inputf("%s: %w", path, reason(err))
	}
	entries, rest, err = parseRecord(path, text)
	return text, entries, rest, err
}

// record is the deletion record of a stream at work.
type record struct {
	folder  *Folder
	text    []byte
	entries []*Entry
}

// openRecord reads the record of a stream. A last line that was cut short is mended from the folder of its run, or taken away
// where it is the beginning of that line; anything else is an error.
func openRecord(folder *Folder) (*record, error) {
	path := folder.Path(recordName)
	text, entries, rest, err := readRecord(path)
	if err != nil {
		return nil, err
	}
	r := &record{folder, text[:len(text)-len(rest)], entries}
	line, err := r.pending()
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 && !bytes.HasPrefix(line, rest) {
		return nil, Inputf("%s: line %d is cut short, and no run folder has the whole of it", path, len(entries)+1)
	}
	if line != nil {
		return r, r.add(line)
	}
	return r, nil
}

// pending is the line of a run that ended without its line getting into the record, or nil.
func (r *record) pending() ([]byte, error) {
	paths, err := entryFiles(r.folder.Path())
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		if !strings.HasPrefix(filepath.Base(filepath.Dir(path)), fmt.Sprintf("%03d-", len(r.entries)+1)) {
			continue
		}
		line, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if _, err := r.next(line); err != nil {
			return nil, Inputf("%s: %w", path, err)
		}
		return line, nil
	}
	return nil, nil
}

// entryFiles lists the lines that the runs in the folder of a stream have put down.
func entryFiles(dir string) (paths []string, err error) {
	runs, err := os.ReadDir(filepath.Join(dir, requestsFolder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, run := range runs {
		path := filepath.Join(dir, requestsFolder, run.Name(), entryName)
		if _, err := os.Stat(path); err == nil {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// next reads a line that is to come next.
func (r *record) next(line []byte) (*Entry, error) {
	e, err := parseEntry(bytes.TrimSuffix(line, []byte("\n")))
	if err != nil {
		return nil, err
	}
	return e, e.follows(r.last())
}

func (r *record) last() *Entry {
	if len(r.entries) == 0 {
		return nil
	}
	return r.entries[len(r.entries)-1]
}

// head is the hash of the last line, "" of an empty record.
func (r *record) head() string {
	if e := r.last(); e != nil {
		return e.Hash
	}
	return ""
}

// append adds an entry behind the last. Its line goes into the folder of the run first, and the record is replaced in one step.
func (r *record) append(e *Entry) error {
	e.Schema, e.Position, e.Previous = RecordSchema, len(r.entries)+1, r.head()
	line := e.line()
	if err := WriteFile(r.folder.Path(e.Folder, entryName), line); err != nil {
		return fmt.Errorf("cannot write the record: %w", err)
	}
	return r.add(line)
}

func (r *record) add(line []byte) error {
	e, err := r.next(line)
	if err != nil {
		return err
	}
	text := append(bytes.Clone(r.text), line...)
	if err := WriteFile(r.folder.Path(recordName), text); err != nil {
		return fmt.Errorf("cannot write the record: %w", err)
	}
	r.text, r.entries = text, append(r.entries, e)
	return nil
}

// recordedFiles are the files of a run whose bytes an entry vouches for. Records of earlier versions tell of the first two alone. Some
// methods make no spare ones, and who keeps a record may take those away: adversarial examples show the images that were to be forgotten.
var recordedFiles = []struct {
	name          string
	always, spare bool
}{
	{name: "result.json", always: true},
	{name: "forget.json", always: true},
	{name: "config.yaml"},
	{name: predictionsName},
	{name: "adversarial.safetensors", spare: true},
	{name: "importance.safetensors", spare: true},
}

// Verified is what `unlearn verify` finds.
type Verified struct {
	Schema   string `json:"schema"` // unlearn.verify/1
	Record   string `json:"record"`
	Requests int    `json:"requests"`
	Head     string `json:"head"`              // hash of the last line
	HeadAt   int    `json:"head_at,omitempty"` // the line that has the head asked for
	Folders  int    `json:"folders"`           // runs beside the record, all of which are as it says
	Missing  int    `json:"missing"`           // runs whose folders are not there
}

// Verify checks a deletion record, given as its file or as the folder of its stream: the chain; what run folders are there; and,
// if it is given, that a head which was kept elsewhere is in it. What does not fit is an input error that names line and field.
func Verify(c *Console, path, head string) (*Verified, error) {
	if err := checkHead(head); err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err != nil {
		return nil, Inputf("%s: %w", path, reason(err))
	} else if info.IsDir() {
		path = filepath.Join(path, recordName)
		if _, err := os.Stat(path); err != nil {
			return nil, Inputf("%s: %w", path, reason(err))
		}
	}
	_, entries, rest, err := readRecord(path)
	switch {
	case err != nil:
		return nil, err
	case len(rest) > 0:
		return nil, Inputf("%s: line %d: it is cut short", path, len(entries)+1)
	case len(entries) == 0:
		return nil, Inputf("%s: no lines in it", path)
	}
	v := &Verified{Schema: "unlearn.verify/1", Record: path, Requests: len(entries), Head: entries[len(entries)-1].Hash}
	for _, e := range entries {
		if e.Hash == head {
			v.HeadAt = e.Position
		}
	}
	if head != "" && v.HeadAt == 0 {
		return nil, Inputf("%s: field hash: no line has the head %.12s…: what was recorded then has been changed or cut off", path, head)
	}
	dir := filepath.Dir(path)
	if err := checkEnd(dir, path, entries); err != nil {
		return nil, err
	}
	progress := c.Progress("verify", "runs", int64(len(entries)))
	defer progress.Done()
	for _, e := range entries {
		folder := filepath.Join(dir, e.Folder)
		if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
			v.Missing++
			continue
		}
		if err := e.check(folder); err != nil {
			return nil, Inputf("%s: line %d: %w", path, e.Position, err)
		}
		v.Folders++
		progress.Add(1)
	}
	return v, nil
}

// checkEnd looks beside the record for lines that are missing at its end: a result that knows of more, or a run. What the result
// tells of the requests must be what the lines say.
func checkEnd(dir, path string, entries []*Entry) error {
	var result ContinualResult
	text, err := os.ReadFile(filepath.Join(dir, "result.json"))
	if err == nil {
		err = json.Unmarshal(text, &result)
	}
	n, end := len(entries), result.Record
	switch {
	case errors.Is(err, fs.ErrNotExist): // a record that somebody was given by itself
	case err != nil:
		return Inputf("%s: %w", filepath.Join(dir, "result.json"), reason(err))
	case end.Requests > n:
		return Inputf("%s: line %d: it is missing: result.json knows of %d lines", path, n+1, end.Requests)
	case end.Requests > 0 && end.Head != entries[end.Requests-1].Hash:
		return Inputf("%s: line %d: field hash: %.12s…, and result.json says %.12s…", path, end.Requests, entries[end.Requests-1].Hash, end.Head)
	}
	if len(result.Requests) != max(0, end.Requests) {
		return Inputf("%s: it tells of %s, and says that the record has %d", filepath.Join(dir, "result.json"), Counted(len(result.Requests), "request"), end.Requests)
	}
	for i, said := range result.Requests {
		if !bytes.Equal(canonical(said), canonical(entries[i])) {
			return Inputf("%s: line %d: result.json tells something else of request %q", path, i+1, entries[i].ID)
		}
	}
	more, err := entryFiles(dir)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, e := range entries {
		known[filepath.Join(dir, e.Folder, entryName)] = true
	}
	for _, name := range more {
		if !known[name] {
			return Inputf("%s: line %d: it is missing: there is %s; if the run was killed, unlearn continual mends the record", path, n+1, name)
		}
	}
	return nil
}

// check compares the folder of a run with what the entry says.
func (e *Entry) check(folder string) error {
	for _, file := range recordedFiles {
		want := e.Files[file.name]
		path := filepath.Join(folder, file.name)
		if want == "" && !file.always {
			if _, err := os.Lstat(path); err == nil && file.spare && e.Files[predictionsName] != "" { // records of earlier versions tell of neither
				return fmt.Errorf("field files: %s was put there since: the record does not know of it", path)
			}
			continue
		}
		sum, err := cache.HashFile(path)
		if file.spare && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("field files: %s: %w", path, reason(err))
		}
		if sum != want {
			return fmt.Errorf("field files: %s has sha256 %.12s…, and the record says %.12s…", path, sum, want)
		}
	}
	model := filepath.Join(folder, plainModel)
	weights, err := ckpt.Load(model)
	if err != nil {
		return fmt.Errorf("field weights_after: %w", err)
	}
	if hash := weights.Hash(); hash != e.WeightsAfter {
		return fmt.Errorf("field weights_after: the weights of %s have hash %.12s…, and the record says %.12s…", model, hash, e.WeightsAfter)
	}
	line, err := os.ReadFile(filepath.Join(folder, entryName))
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(folder, entryName), reason(err))
	}
	if own, err := parseEntry(bytes.TrimSuffix(line, []byte("\n"))); err != nil || own.Hash != e.Hash {
		return fmt.Errorf("field hash: %s holds another line than the record", filepath.Join(folder, entryName))
	}
	return nil
}

// checkHead refuses a text that is no hash of a line.
func checkHead(text string) error {
	if text == "" || len(text) == 64 && strings.Trim(text, "0123456789abcdef") == "" {
		return nil
	}
	return Usagef("--head %q is no head: give the 64 hexadecimal digits that were printed", text)
}
