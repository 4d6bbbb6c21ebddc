package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The most of an analysis's numbers that a page shows; what is larger stays in the run folder.
const (
	maxSheets  = 6
	maxColumns = 10
	maxLines   = 24
	maxNesting = 8
)

// sheet is a small table of an analysis's numbers.
type sheet struct {
	Title   string
	Columns []string
	Rows    [][]string
}

// member is one of a JSON object, in the order of its text.
type member struct {
	key   string
	value any // []member, []any, or a text for anything flat
}

// sheets makes tables of what is small in the data of an analysis: what is flat in an object is a table of names and values, and a
// list of objects that have flat members a table of these.
func sheets(data json.RawMessage) (all []sheet) {
	if len(data) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	value, err := decodeOrdered(d, 0)
	if err != nil {
		return nil // nested deeper than any analysis; the file itself was read
	}
	collect(&all, "", value)
	if len(all) > maxSheets {
		return all[:maxSheets]
	}
	return all
}

func collect(all *[]sheet, title string, value any) {
	switch v := value.(type) {
	case []member:
		flat := sheet{Title: title, Columns: []string{"what", "value"}}
		for _, m := range v {
			if text, ok := m.value.(string); ok {
				flat.Rows = append(flat.Rows, []string{spoken(m.key), text})
			}
		}
		if len(flat.Rows) > 0 && len(flat.Rows) <= maxLines {
			*all = append(*all, flat)
		}
		for _, m := range v {
			if _, ok := m.value.(string); !ok {
				collect(all, spoken(m.key), m.value)
			}
		}
	case []any:
		if len(v) > maxLines {
			return
		}
		list := sheet{Title: title}
		for _, one := range v {
			members, ok := one.([]member)
			if !ok {
				return
			}
			for _, m := range members {
				if _, ok := m.value.(string); ok && !slices.Contains(list.Columns, spoken(m.key)) {
					list.Columns = append(list.Columns, spoken(m.key))
				}
			}
		}
		if len(list.Columns) == 0 || len(list.Columns) > maxColumns {
			return
		}
		for _, one := range v {
			row := make([]string, len(list.Columns))
			for _, m := range one.([]member) {
				if text, ok := m.value.(string); ok {
					row[slices.Index(list.Columns, spoken(m.key))] = text
				}
			}
			list.Rows = append(list.Rows, row)
		}
		*all = append(*all, list)
		for i, one := range v {
			for _, m := range one.([]member) {
				if inner, ok := m.value.([]any); ok {
					collect(all, fmt.Sprintf("%s, %s", strings.Join(list.Rows[i][:min(2, len(list.Columns))], " "), spoken(m.key)), inner)
				}
			}
		}
	}
}

// spoken is a key of JSON as people read it.
func spoken(key string) string { return strings.ReplaceAll(key, "_", " ") }

// decodeOrdered reads a value and keeps the order of its members, which the analysis chose.
func decodeOrdered(d *json.Decoder, depth int) (any, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("nested deeper than %d", maxNesting)
	}
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case json.Delim:
		members, list := []member{}, []any{}
		for d.More() {
			key := ""
			if t == '{' {
				name, err := d.Token()
				if err != nil {
					return nil, err
				}
				key, _ = name.(string)
			}
			value, err := decodeOrdered(d, depth+1)
			if err != nil {
				return nil, err
			}
			if t == '{' {
				members = append(members, member{key, value})
			} else {
				list = append(list, value)
			}
		}
		if _, err := d.Token(); err != nil { // the end
			return nil, err
		}
		if t == '{' {
			return members, nil
		}
		return list, nil
	case json.Number:
		return rounded(t), nil
	case nil:
		return "-", nil
	default:
		return fmt.Sprint(t), nil
	}
}

// rounded writes whole numbers as they are and others with four digits.
func rounded(n json.Number) string {
	if _, err := n.Int64(); err == nil {
		return n.String()
	}
	x, err := n.Float64()
	if err != nil {
		return n.String()
	}
	return strconv.FormatFloat(x, 'g', 4, 64)
}
