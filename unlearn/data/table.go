package data

import (
	"bytes"
	"encoding/csv"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strconv"
)

// pair is a row of a table: the name of an image, and what is said of it.
type pair struct{ name, value string }

// pairs reads two columns of a file of comma-separated values whose first line names the columns. Names are paths inside a
// folder.
func (f folder) pairs(file, name, value string) (pairs []pair, err error) {
	content, err := f.read(file)
	if err != nil {
		return nil, err
	}
	r := csv.NewReader(bytes.NewReader(content))
	r.ReuseRecord = true
	header, err := r.Read()
	if err != nil {
		return nil, &InputError{Path: f.path(file), Err: err}
	}
	at := [2]int{}
	for i, column := range []string{name, value} {
		if at[i] = slices.Index(header, column); at[i] < 0 {
			return nil, inputf(f.path(file), "no column %q; it has %s", column, listClasses(header))
		}
	}
	for {
		row, err := r.Read() // which refuses rows that are not as long as the first
		if errors.Is(err, io.EOF) && len(pairs) > 0 {
			return pairs, nil
		}
		if err != nil {
			return nil, &InputError{Path: f.path(file), Msg: "reading rows", Err: err}
		}
		p := pair{row[at[0]], row[at[1]]}
		if !fs.ValidPath(p.name) {
			return nil, inputf(f.path(file), "row %d: %.80q is no path inside the folder: write it with slashes and without . and ..", len(pairs)+1, p.name)
		}
		pairs = append(pairs, p)
	}
}

// distinct returns the values that occur, sorted: as numbers where all are whole numbers.
func distinct(pairs []pair) []string {
	values := make([]string, len(pairs))
	for i, p := range pairs {
		values[i] = p.value
	}
	slices.Sort(values)
	values = slices.Compact(values)
	numbers := make(map[string]int, len(values))
	for _, v := range values {
		n, err := strconv.Atoi(v)
		if err != nil {
			return values
		}
		numbers[v] = n
	}
	slices.SortStableFunc(values, func(a, b string) int { return numbers[a] - numbers[b] })
	return values
}

// label sets the images of a split and their labels, the places of the pairs' values among the classes. source is where
// the values stand.
func (s *imageSplit) label(source string, images []pair) error {
	at := make(map[string]int, len(s.classes))
	for i, class := range s.classes {
		at[class] = i
	}
	for _, p := range images {
		label, known := at[p.value]
		if !known {
			return inputf(source, "%s has the class %.40q, which no training image has", p.name, p.value)
		}
		s.names, s.labels = append(s.names, p.name), append(s.labels, label)
	}
	return nil
}
