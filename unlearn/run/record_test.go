package run

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"l2ul/unlearn/data"
)

// verifyIn is Verify without a terminal.
func verifyIn(path, head string) (*Verified, error) {
	c := NewConsole(TerminalOptions{Quiet: true}, io.Discard, io.Discard)
	defer c.Close()
	return Verify(c, path, head)
}

// smallStream is a finished stream of three requests, in a folder of the test's own.
func smallStream(t *testing.T) (dir string, record []byte) {
	t.Helper()
	material, err := material()
	if err != nil {
		t.Fatal(err)
	}
	j := streamOf(t, `{"id": "a", "forget": "ids:1"}
{"id": "b", "forget": "ids:2"}
{"id": "c", "forget": "ids:3"}`, "method", "neggrad", "max-steps", "1")
	serve(t, material, j)
	if record, err = os.ReadFile(filepath.Join(j.dir, recordName)); err != nil {
		t.Fatal(err)
	}
	return j.dir, record
}

// refused expects that the record of a stream is found to be broken, and that what is said names the line.
func refused(t *testing.T, what, path, head, want string) {
	t.Helper()
	if _, err := verifyIn(path, head); err == nil || ExitCode(err) != ExitInput || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v", what, err)
	}
}

func TestRecord(t *testing.T) {
	dir, record := smallStream(t)
	path := filepath.Join(dir, recordName)
	whole, err := verifyIn(dir, "")
	if err != nil || whole.Requests != 3 || whole.Folders != 3 || whole.Missing != 0 {
		t.Fatalf("%+v, %v", whole, err)
	}

	// The hash is what a shell would compute: that of the line without its last member.
	lines := bytes.SplitAfter(bytes.TrimSuffix(record, nil), []byte("\n"))
	previous := ""
	for i, line := range lines[:3] {
		body, hash, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\"}\n")), []byte(`,"hash":"`))
		sum := sha256.Sum256(append(bytes.Clone(body), '}'))
		var said struct{ Previous string }
		if err := json.Unmarshal(line, &said); err != nil {
			t.Fatal(err)
		}
		if string(hash) != hex.EncodeToString(sum[:]) || said.Previous != previous {
			t.Errorf("line %d: hash %s, previous %s", i+1, hash, said.Previous)
		}
		previous = string(hash)
	}
	if whole.Head != previous {
		t.Errorf("head %s, the last line has %s", whole.Head, previous)
	}

	// Of each byte every bit that may be flipped, and the byte left out or put in once more. Alone, without runs beside it.
	alone := filepath.Join(t.TempDir(), recordName)
	for i := range record {
		for what, text := range map[string][]byte{
			"flipped":  append(append(bytes.Clone(record[:i]), record[i]^byte(1<<(i%8))), record[i+1:]...),
			"left out": append(bytes.Clone(record[:i]), record[i+1:]...),
			"doubled":  append(append(bytes.Clone(record[:i]), record[i]), record[i:]...),
		} {
			entries, rest, err := parseRecord(alone, text)
			if err == nil && len(rest) == 0 {
				t.Fatalf("byte %d %s: taken for a record of %d lines", i, what, len(entries))
			}
		}
	}
	for what, c := range map[string]struct {
		text []byte
		want string
	}{
		"a byte":             {bytes.Replace(record, []byte(`"id":"b"`), []byte(`"id":"x"`), 1), "line 2: field hash: "},
		"a space":            {bytes.Replace(record, []byte(`"id":"b"`), []byte(`"id": "b"`), 1), "line 2: field hash: "},
		"lines in turn":      {bytes.Join([][]byte{lines[0], lines[2], lines[1]}, nil), "line 2: field position: 3, "},
		"a line left out":    {bytes.Join([][]byte{lines[0], lines[2]}, nil), "line 2: field position: 3, "},
		"the first left out": {bytes.Join([][]byte{lines[1], lines[2]}, nil), "line 1: field position: 2, "},
		"a line twice":       {bytes.Join([][]byte{lines[0], lines[0]}, nil), "line 2: field position: 1, "},
		"cut short":          {record[:len(record)-1], "line 3: it is cut short"},
		"a blank line":       {append(bytes.Clone(record), '\n'), "line 4: field hash: "},
		"empty":              {nil, "no lines in it"},
	} {
		if err := os.WriteFile(alone, c.text, 0o644); err != nil {
			t.Fatal(err)
		}
		refused(t, what, alone, "", c.want)
	}

	// What a chain by itself cannot show: last lines that were cut off, and a record that was written anew. Runs beside it, or a
	// head that was kept, do.
	if err := os.WriteFile(alone, bytes.Join(lines[:2], nil), 0o644); err != nil {
		t.Fatal(err)
	}
	if v, err := verifyIn(alone, ""); err != nil || v.Missing != 2 {
		t.Errorf("two lines alone: %+v, %v", v, err)
	}
	refused(t, "cut off, with the head", alone, whole.Head, "no line has the head")
	if err := os.WriteFile(path, bytes.Join(lines[:2], nil), 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, "cut off, beside its runs", dir, "", "line 3: it is missing: result.json knows of 3 lines")
	if err := os.Rename(filepath.Join(dir, "result.json"), filepath.Join(dir, "elsewhere.json")); err != nil {
		t.Fatal(err)
	}
	refused(t, "cut off, beside its runs and without a result", dir, "", "line 3: it is missing: there is ")
	if err := os.Rename(filepath.Join(dir, "elsewhere.json"), filepath.Join(dir, "result.json")); err != nil {
		t.Fatal(err)
	}
	last, err := parseEntry(bytes.TrimSuffix(lines[2], []byte("\n")))
	if err != nil {
		t.Fatal(err)
	}
	last.Steps++
	if err := os.WriteFile(path, append(bytes.Join(lines[:2], nil), last.line()...), 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, "written anew, beside its runs", dir, "", "line 3: field hash: ")
	if err := os.WriteFile(path, record, 0o644); err != nil {
		t.Fatal(err)
	}
	first, err := parseEntry(bytes.TrimSuffix(lines[0], []byte("\n")))
	if err != nil {
		t.Fatal(err)
	}
	if v, err := verifyIn(dir, first.Hash); err != nil || v.HeadAt != 1 {
		t.Errorf("a head that was kept after the first request: %+v, %v", v, err)
	}
	if _, err := verifyIn(dir, "abc"); ExitCode(err) != ExitUsage {
		t.Errorf("--head abc: %v", err)
	}

	// A changed byte of what the record vouches for.
	for name, want := range map[string]string{
		"result.json": "line 2: field files: ", "forget.json": "line 2: field files: ", plainModel: "line 2: field weights_after: ",
		entryName: "line 2: field hash: ", "config.yaml": "line 2: field files: ", predictionsName: "line 2: field files: ",
	} {
		file := filepath.Join(dir, "requests", "002-b", name)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		other := bytes.Clone(text)
		other[len(other)-2] ^= 1
		if err := os.WriteFile(file, other, 0o644); err != nil {
			t.Fatal(err)
		}
		refused(t, name, dir, "", want)
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// A file that the run has not written.
	put := filepath.Join(dir, "requests", "002-b", "adversarial.safetensors")
	if err := os.WriteFile(put, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, "examples of a method without an attack", dir, "", "line 2: field files: "+put+" was put there since")
	if err := os.Remove(put); err != nil {
		t.Fatal(err)
	}
	// What the result of the stream tells is what the record says.
	file := filepath.Join(dir, "result.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct{ from, to, want string }{
		"another number of steps": {`"steps": 1,`, `"steps": 2,`, "line 1: result.json tells something else of request \"a\""},
		"another setting":         {`"method": "neggrad"`, `"method": "adv"`, "line 1: result.json tells something else"},
		"no lines":                {`"requests": 3`, `"requests": 0`, "it tells of 3 requests"},
	} {
		other := bytes.Replace(text, []byte(c.from), []byte(c.to), 1)
		if bytes.Equal(other, text) {
			t.Fatalf("%s: nothing to change", what)
		}
		if err := os.WriteFile(file, other, 0o644); err != nil {
			t.Fatal(err)
		}
		refused(t, what, dir, "", c.want)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := verifyIn(dir, ""); err != nil {
		t.Error(err)
	}
}

// What comes back is counted from what the record vouches for: predictions that were changed since are not believed.
func TestRecordedPredictions(t *testing.T) {
	dir, _ := smallStream(t)
	e := recordOf(t, dir)[0]
	var set data.ForgetSet
	readJSON(t, filepath.Join(dir, e.Folder, "forget.json"), &set)
	s := &stream{folder: &Folder{path: dir}, sets: []*data.ForgetSet{&set}}
	if said, err := s.said(0, e); err != nil || len(said) != 1 {
		t.Fatal(said, err)
	}
	path := filepath.Join(dir, e.Folder, predictionsName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.said(0, e); ExitCode(err) != ExitInput || !strings.Contains(err.Error(), "was changed since it was recorded") {
		t.Errorf("changed: %v", err)
	}
	delete(e.Files, predictionsName)
	if _, err := s.said(0, e); err != nil {
		t.Errorf("a record of an earlier version: %v", err)
	}
}

// A last line that was torn is made whole from the folder of its run, where that has the same line; nothing else is.
func TestRecordIsMended(t *testing.T) {
	dir, record := smallStream(t)
	path := filepath.Join(dir, recordName)
	end := bytes.LastIndexByte(record[:len(record)-1], '\n') + 1
	for _, n := range []int{end, end + 1, end + 200, len(record) - 1} {
		if err := os.WriteFile(path, record[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := openRecord(&Folder{path: dir})
		if err != nil || len(r.entries) != 3 {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(record), err)
		}
		if text, err := os.ReadFile(path); err != nil || !bytes.Equal(text, record) {
			t.Errorf("cut to %d of %d bytes: another record", n, len(record))
		}
	}
	torn := bytes.Clone(record[:end+200])
	torn[end+150] ^= 1
	for what, text := range map[string][]byte{"torn and changed": torn, "torn in the middle": append(bytes.Clone(record[:end-100]), record[end:]...)} {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := openRecord(&Folder{path: dir}); ExitCode(err) != ExitInput {
			t.Errorf("%s: %v", what, err)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, text) {
			t.Errorf("%s: it was written to", what)
		}
	}
	if err := os.Remove(filepath.Join(dir, "requests", "003-c", entryName)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, record[:end+200], 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := openRecord(&Folder{path: dir}); ExitCode(err) != ExitInput || !strings.Contains(err.Error(), "line 3 is cut short") {
		t.Errorf("torn, without the run's line: %v", err)
	}
}

// A run that ended when the process did, before its line was put down, is not done again.
func TestRecordOfAFinishedRun(t *testing.T) {
	material, err := material()
	if err != nil {
		t.Fatal(err)
	}
	j := streamOf(t, `{"id": "a", "forget": "ids:1"}
{"id": "b", "forget": "ids:2", "goal": "relabel"}`, "method", "neggrad", "max-steps", "2", "stop-scope", "request")
	before := serve(t, material, j)
	path := filepath.Join(j.dir, recordName)
	record, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, record[:bytes.IndexByte(record, '\n')+1], 0o644); err != nil {
		t.Fatal(err)
	}
	run := filepath.Join(j.dir, before[1].Folder)
	if err := os.Remove(filepath.Join(run, entryName)); err != nil {
		t.Fatal(err)
	}
	argv, err := os.ReadFile(filepath.Join(run, runMark)) // a line for each start
	if err != nil {
		t.Fatal(err)
	}
	after := serve(t, material, j)
	if len(after) != 2 || after[1].WeightsAfter != before[1].WeightsAfter || after[1].Files["result.json"] != before[1].Files["result.json"] {
		t.Errorf("recorded anew: %+v", after)
	}
	if now, _ := os.ReadFile(filepath.Join(run, runMark)); !bytes.Equal(now, argv) {
		t.Error("the run was started again")
	}
	if _, err := verifyIn(j.dir, ""); err != nil {
		t.Error(err)
	}
}
