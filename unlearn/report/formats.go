package report

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"l2ul/unlearn/results"
)

// Markdown writes the tables, and what came of the claims of grids, as GitHub reads it.
func (r *Report) Markdown(w io.Writer) error {
	var b strings.Builder
	table := func(headers []string, numeric []bool) (line func(cells []string)) {
		line = func(cells []string) {
			b.WriteString("|")
			for _, c := range cells {
				b.WriteString(" " + escapeMarkdown(c) + " |")
			}
			b.WriteString("\n")
		}
		line(headers)
		b.WriteString("|")
		for _, n := range numeric {
			if n {
				b.WriteString(" ---: |")
			} else {
				b.WriteString(" --- |")
			}
		}
		b.WriteString("\n")
		return line
	}
	if p := r.Pivot; p != nil {
		line := table(p.Headers(), p.numeric())
		for _, row := range p.Rows {
			line(p.Texts(row, " ± "))
		}
		b.WriteString("\n" + escapeMarkdown(strings.Join(p.Notes(), " ")) + "\n\n")
	}
	t := r.Table
	line := table(t.Headers(), t.numeric())
	for _, row := range t.Rows {
		line(t.Cells(row, " ± "))
	}
	b.WriteString("\n" + escapeMarkdown(strings.Join(t.Notes(), " ")) + "\n")
	r.markdownClaims(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// escapeMarkdown keeps a text from being markup or from ending its cell.
func escapeMarkdown(text string) string {
	var b strings.Builder
	text = oneLine(text)
	for i, r := range text {
		switch r {
		case '<':
			b.WriteString("&lt;")
		case '&':
			b.WriteString("&amp;")
		case '\\', '`', '*', '[', ']', '|', '~', '$':
			b.WriteString(`\` + string(r))
		case '_': // which means nothing between two letters
			if i == 0 || i == len(text)-1 || !letter(text[i-1]) || !letter(text[i+1]) {
				b.WriteByte('\\')
			}
			b.WriteByte('_')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func letter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

// oneLine turns what would break a line, or move a terminal's cursor, into spaces.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\ufffd"))
}

// CSV writes the table for programs: each number in a field of its own, of full precision. Accuracies are in percent.
func (t *Table) CSV(w io.Writer) error {
	c := csv.NewWriter(w)
	header := append([]string{"k", "method"}, texts(t.Keys)...)
	header = append(header, "n", "outcome")
	for _, name := range []string{"d_f_percent", "d_r_percent", "d_test_percent", "steps", "seconds"} {
		header = append(header, name, name+"_sd", name+"_ci95")
	}
	if err := c.Write(header); err != nil {
		return err
	}
	for _, r := range t.Rows {
		fields := append([]string{strconv.Itoa(r.K), cellText(r.Method)}, texts(r.Values)...)
		fields = append(fields, strconv.Itoa(r.N), cellText(r.Outcome))
		for _, s := range []results.Stat{r.Forget, r.Retain, r.Test, r.Steps, r.Seconds} {
			if s.N == 0 {
				s = results.Summarize(nil)
			}
			fields = append(fields, exact(s.Mean), exact(s.SD), exact(s.Half))
		}
		if err := c.Write(fields); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

// exact writes a number that reads back to itself, and none as nothing.
func exact(x float64) string {
	if math.IsNaN(x) {
		return ""
	}
	return strconv.FormatFloat(x, 'g', -1, 64)
}

func texts(all []string) []string {
	safe := make([]string, len(all))
	for i, s := range all {
		safe[i] = cellText(s)
	}
	return safe
}

// cellText keeps spreadsheets from taking a text for a formula.
func cellText(text string) string {
	text = oneLine(text)
	if text != "" && strings.ContainsRune("=+-@", rune(text[0])) {
		if _, err := strconv.ParseFloat(text, 64); err != nil {
			return "'" + text
		}
	}
	return text
}

// LaTeX writes the table for the package booktabs, the best of each block in bold: that of a grid as its columns lay it out.
func (r *Report) LaTeX(w io.Writer) error {
	t := &latexTable{notes: append(r.Table.Notes(), bestNote)}
	if r.Pivot != nil {
		r.Pivot.latex(t)
	} else {
		r.Table.latex(t)
	}
	var b strings.Builder
	columns := ""
	for _, numeric := range t.numeric {
		if numeric {
			columns += "r"
		} else {
			columns += "l"
		}
	}
	fmt.Fprintf(&b, "%% \\usepackage{booktabs}\n\\begin{tabular}{%s}\n\\toprule\n%s", columns, t.over)
	b.WriteString(strings.Join(t.headers, " & ") + " \\\\\n")
	for _, row := range t.rows {
		if row.rule {
			b.WriteString("\\midrule\n")
		}
		for j, c := range row.cells {
			if row.cells[j] = escapeLaTeX(c); row.best[j] {
				mean, rest, _ := strings.Cut(row.cells[j], " ")
				row.cells[j] = strings.TrimSpace(`\textbf{` + mean + "} " + rest)
			}
		}
		b.WriteString(strings.Join(row.cells, " & ") + " \\\\\n")
	}
	b.WriteString("\\bottomrule\n\\end{tabular}\n")
	for _, note := range t.notes {
		b.WriteString("% " + oneLine(note) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// latexTable is a table before it is written.
type latexTable struct {
	numeric []bool
	over    string   // lines above the headers
	headers []string // as LaTeX
	rows    []latexRow
	notes   []string
}

type latexRow struct {
	cells []string
	best  []bool
	rule  bool // above it
}

// symbols are headers as formulas.
var symbols = map[string]string{"k": "$k$", "n": "$n$", "D_f %": `$D_f$ (\%)`, "D_r %": `$D_r$ (\%)`, "D_test %": `$D_{\mathrm{test}}$ (\%)`}

func symbol(header string) string { return cmp.Or(symbols[header], escapeLaTeX(header)) }

func (t *Table) latex(into *latexTable) {
	into.numeric = t.numeric()
	for _, h := range t.Headers() {
		into.headers = append(into.headers, symbol(h))
	}
	for i, r := range t.Rows {
		row := latexRow{cells: t.Cells(r, " ± "), rule: i == 0 || t.Rows[i-1].Block != r.Block}
		row.best = make([]bool, len(row.cells))
		copy(row.best[2+len(t.Keys):], []bool{r.Best.Forget, r.Best.Retain, r.Best.Test})
		into.rows = append(into.rows, row)
	}
}

func (p *Pivot) latex(into *latexTable) {
	into.numeric = p.numeric()
	over, rules := strings.Repeat(" & ", len(p.Keys)), ""
	for i, c := range p.Columns {
		if i > 0 {
			over += " & "
		}
		first := len(p.Keys) + len(metrics)*i + 1
		over += fmt.Sprintf(`\multicolumn{%d}{c}{%s}`, len(metrics), escapeLaTeX(c))
		rules += fmt.Sprintf(`\cmidrule(lr){%d-%d}`, first, first+len(metrics)-1)
	}
	into.over = strings.TrimPrefix(over, " ") + " \\\\\n" + rules + "\n"
	for _, key := range p.Keys {
		into.headers = append(into.headers, symbol(key))
	}
	for range p.Columns {
		for _, m := range metrics {
			into.headers = append(into.headers, symbol(m))
		}
	}
	for _, r := range p.Rows {
		into.rows = append(into.rows, latexRow{p.Texts(r, " ± "), p.best(r), r.Section})
	}
	into.notes = append(p.Notes(), into.notes...)
}

const bestNote = "Bold: the best of its k and goal, of the methods that reached the goal in every run and read no retained image."

var latex = strings.NewReplacer(
	`\`, `\textbackslash{}`, `{`, `\{`, `}`, `\}`, `$`, `\$`, `&`, `\&`, `#`, `\#`, `%`, `\%`, `_`, `\_`,
	`~`, `\textasciitilde{}`, `^`, `\textasciicircum{}`, `<`, `\textless{}`, `>`, `\textgreater{}`, `"`, `\textquotedbl{}`,
	`±`, `$\pm$`, `†`, `$\dagger$`,
	`[`, `{[}`, `*`, `{*}`, // which at the beginning of a row would belong to the \\ before it
)

// escapeLaTeX makes a text one that TeX prints as it is.
func escapeLaTeX(text string) string { return latex.Replace(oneLine(text)) }
