package report

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed" // for the page
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"l2ul/unlearn/data"
	"l2ul/unlearn/results"
	"l2ul/unlearn/run"
	"l2ul/unlearn/run/config"
)

//go:embed page/page.html
var pageHTML string

//go:embed page/page.css
var pageCSS string

//go:embed page/page.js
var pageJS string

var pageTemplate = template.Must(template.New("page").Parse(pageHTML))

// page is what the template is filled with.
type page struct {
	Policy template.HTMLAttr // the attribute content of the Content-Security-Policy
	CSS    template.CSS
	JS     template.JS

	Title, Lead, Left string
	Pivot             *htmlPivot
	Headers           []header
	Rows              []htmlRow
	Notes             []string
	Tally             string // of the claims
	Claims            []results.Claim
	TradeOff          *figure
	Groups            []group
	Runs              []runView
	RequestColumns    []string
	Spent             string // what was left out for the sake of the size, in a sentence
}

type header struct {
	Text    string
	Numeric bool
}

// htmlPivot is a Pivot for the template.
type htmlPivot struct {
	*Pivot
	Metrics []string
	Lines   []htmlRow
}

type htmlRow struct {
	ID    string // of the group; "" for what was before
	Cells []htmlCell
	Block bool // the first of one
}

type htmlCell struct {
	Text, Sort    string
	Numeric, Best bool
	Head          bool // names the row
}

type figure struct {
	Title, Alt string
	SVG        template.HTML
}

// group is one row of the table in full.
type group struct {
	ID, Title string
	Figures   []figure
	Images    []imageView
	Of        string // whose images these are
	Analyses  []analysis
	Runs      []link
}

type link struct{ ID, Text string }

// runView is one run in full.
type runView struct {
	ID, Title string
	Facts     []config.Text
	Access    string
	Again     string // the command line that repeats it
	Commands  []string
	Requests  [][]string // of a stream, under requestColumns
	Settings  []config.Text
	Around    []config.Text
	Warnings  []string
}

// HTML writes the report as one file that needs nothing else: no network, no other file.
func (r *Report) HTML(w io.Writer) error {
	p, err := r.page()
	if err != nil {
		return err
	}
	return pageTemplate.Execute(w, p)
}

// policy allows what the page itself holds, and what more adds.
func policy(css, js, more string) string {
	hash := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; img-src data:; style-src " + hash(css) + "; script-src " + hash(js) + "; base-uri 'none'; form-action 'none'" + more
}

func (r *Report) page() (*page, error) {
	p := &page{
		Policy: template.HTMLAttr(`content="` + policy(pageCSS, pageJS, "") + `"`), CSS: template.CSS(pageCSS), JS: template.JS(pageJS), //nolint:gosec // our own
		Title: r.Title, Lead: r.lead(), Left: r.Left(), Notes: append(r.Table.Notes(), bestNote), RequestColumns: requestColumns,
	}
	if p.Claims = r.Claims; p.Claims != nil {
		p.Tally = tallyClaims(p.Claims)
	}
	if r.Pivot != nil {
		p.Pivot = r.htmlPivot()
	}
	numeric := r.Table.numeric()
	for i, h := range r.Table.Headers() {
		p.Headers = append(p.Headers, header{h, numeric[i]})
	}
	if len(r.Runs) > 0 {
		figure, err := shown(r.tradeOff())
		if err != nil {
			return nil, err
		}
		p.TradeOff = figure
	}
	left := &budget{left: maxImages}
	number := 0
	for i, row := range r.Table.Rows {
		p.Rows = append(p.Rows, r.htmlRow(i))
		if row.Runs == nil {
			continue
		}
		g := group{ID: r.slug(i), Title: r.rowTitle(row)}
		plots, err := r.curves(i)
		if err != nil {
			return nil, err
		}
		for _, plot := range plots {
			figure, err := shown(plot)
			if err != nil {
				return nil, err
			}
			g.Figures = append(g.Figures, *figure)
		}
		if g.Images, err = gallery(row.Runs[0], left); err != nil {
			return nil, err
		}
		g.Of = fmt.Sprintf("seed %d", row.Runs[0].Seed())
		for _, run := range row.Runs {
			number++
			v := view(run, number, g.Title)
			p.Runs = append(p.Runs, v)
			g.Runs = append(g.Runs, link{v.ID, fmt.Sprintf("seed %d", run.Seed())})
		}
		if g.Analyses, err = analyses(row.Runs[0], left); err != nil {
			return nil, err
		}
		p.Groups = append(p.Groups, g)
	}
	if left.refused > 0 {
		p.Spent = fmt.Sprintf("%d pictures were left out, so that this file stays small; they lie in the run folders.", left.refused)
	}
	return p, nil
}

// lead says in a sentence what the report is of.
func (r *Report) lead() string {
	models, datasets, machines := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, run := range r.Runs {
		models[run.Forget.Model] = true
		datasets[run.Forget.Dataset] = true
		if run.Forget.Device != "" { // which records of streams do not tell
			machines[run.Forget.Device] = true
		}
	}
	if len(r.Runs) == 0 {
		return "No run has finished yet."
	}
	text := fmt.Sprintf("%s of %s on %s", run.Counted(len(r.Runs), "run"), names(models), names(datasets))
	if len(machines) > 0 {
		text += ", computed on " + names(machines)
	}
	return text + "."
}

func names(counts map[string]bool) string {
	all := slices.Collect(maps.Keys(counts))
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func (r *Report) rowTitle(row Row) string {
	title := fmt.Sprintf("%s, k = %d", row.Method, row.K)
	for i, key := range r.Table.Keys {
		if row.Values[i] != "" {
			title += fmt.Sprintf(", %s %s", key, row.Values[i])
		}
	}
	return title
}

func (r *Report) htmlRow(i int) htmlRow {
	row := r.Table.Rows[i]
	h := htmlRow{Block: i > 0 && r.Table.Rows[i-1].Block != row.Block}
	if row.Runs != nil {
		h.ID = r.slug(i)
	}
	numeric := r.Table.numeric()
	first := 2 + len(r.Table.Keys)
	sorts := map[int]results.Stat{first: row.Forget, first + 1: row.Retain, first + 2: row.Test, first + 5: row.Steps, first + 6: row.Seconds}
	best := map[int]bool{first: row.Best.Forget, first + 1: row.Best.Retain, first + 2: row.Best.Test}
	for j, text := range r.Table.Cells(row, " ± ") {
		cell := htmlCell{Text: text, Sort: text, Numeric: numeric[j], Best: best[j], Head: j == 1}
		if s, ok := sorts[j]; ok {
			cell.Sort = ""
			if s.N > 0 {
				cell.Sort = exact(s.Mean)
			}
		}
		h.Cells = append(h.Cells, cell)
	}
	return h
}

func (r *Report) htmlPivot() *htmlPivot {
	p := &htmlPivot{Pivot: r.Pivot, Metrics: metrics}
	for i, row := range r.Pivot.Rows {
		line := htmlRow{Block: i > 0 && row.Section}
		best := r.Pivot.best(row)
		for j, text := range r.Pivot.Texts(row, " ± ") {
			line.Cells = append(line.Cells, htmlCell{Text: text, Numeric: j >= len(row.Labels), Best: best[j], Head: j < len(row.Labels) && (j == 0 || text != "")})
		}
		p.Lines = append(p.Lines, line)
	}
	return p
}

func shown(p Plot) (*figure, error) {
	svg, err := p.inline()
	if err != nil {
		return nil, err
	}
	return &figure{p.Title, p.Alt, template.HTML(svg)}, nil //nolint:gosec // drawn by us, and its texts escaped
}

// view puts one run into words.
func view(r *results.Run, number int, title string) runView {
	f := r.Forget
	v := runView{
		ID: "run-" + strconv.Itoa(number), Title: fmt.Sprintf("%s, seed %d", title, r.Seed()), Access: access(f), Warnings: f.Warnings,
		Commands: r.Commands, Settings: r.Settings, Again: "unlearn forget -c " + run.Quote([]string{r.Path + "/config.yaml"}) + " -o NEW",
	}
	if r.Stream != nil {
		v.Again = strings.Join(r.Commands[:min(1, len(r.Commands))], "") // its configuration does not tell the requests
		for _, e := range r.Stream.Requests {
			v.Requests = append(v.Requests, requestRow(e))
		}
	}
	fact := func(key, value string) {
		if value != "" {
			v.Facts = append(v.Facts, config.Text{Key: key, Value: value})
		}
	}
	fact("folder", r.Path)
	outcome := fmt.Sprintf("%s after %s", f.Outcome, run.Counted(int(f.Steps), "step"))
	if r.Stream != nil {
		fact("outcome", outcome+" for "+run.Counted(len(r.Stream.Requests), "request"))
		fact("seconds", fmt.Sprintf("%.1f", f.Seconds.Total))
		fact("head of the deletion record", r.Stream.Record.Head)
	} else {
		fact("outcome", outcome+", "+run.Counted(int(f.Passes), "pass"))
		fact("seconds", fmt.Sprintf("%.1f: attack %.1f, importance %.1f, unlearning %.1f, scores %.1f", f.Seconds.Total, f.Seconds.Attack, f.Seconds.Importance, f.Seconds.Unlearn, f.Seconds.Eval))
	}
	fact("quirks of the published code", f.Compat.String())
	fact("taken from the cache", strings.Join(f.Cached, ", "))
	if f.Attack != nil {
		fact("adversarial examples", fmt.Sprintf("%d, of which %s %% reached their class; L2 norm of the perturbation %.4g to %.4g, median %.4g",
			f.Attack.Pairs, percent(100*f.Attack.Success), f.Attack.Norm.Min, f.Attack.Norm.Max, f.Attack.Norm.Median))
	}
	if f.Distance != nil {
		fact("distance of the weights", fmt.Sprintf("%.4g", *f.Distance))
	}
	fact("sha256 of the weights before", f.Hashes.Weights)
	fact("sha256 of the data", f.Hashes.Data)
	fact("sha256 of the configuration", f.Hashes.Config)
	fact("sha256 of the forget set", f.Forget.Hash)
	around := func(key, value string) {
		if value != "" {
			v.Around = append(v.Around, config.Text{Key: key, Value: value})
		}
	}
	around("unlearn", f.Versions.Unlearn)
	around("libtorch", f.Versions.Libtorch)
	around("Go", f.Versions.Go)
	around("device", f.Device)
	around("arithmetic", strings.TrimSuffix(fmt.Sprintf("%s, mode %s", f.Precision, f.Mode), ", mode "))
	around("in place of the mode", f.Fallback)
	if f.PeakMemory > 0 {
		around("peak memory", fmt.Sprintf("%.0f MiB", float64(f.PeakMemory)/(1<<20)))
	}
	if e := r.Environment; e != nil {
		around("platform", e.Platform)
		around("processor", fmt.Sprintf("%s, %s", e.Processor, run.Counted(e.Cores, "core")))
		around("kernels of libtorch", e.Kernels)
		around("sha256 of our operators", e.Operators)
		for _, name := range slices.Sorted(maps.Keys(e.Variables)) {
			around(name, e.Variables[name])
		}
	}
	return v
}

// requestColumns are what a page says of each request of a stream.
var requestColumns = []string{"request", "outcome", "steps", "D_f %", "earlier ones with their label", "of these regained", "D_r %", "D_test %"}

func requestRow(e *run.Entry) []string {
	row := &Row{}
	row.score([]*run.Scores{e.After})
	hits, regained, earlier := e.Again()
	return []string{
		e.ID, string(e.Outcome), strconv.FormatInt(e.Steps, 10), interval(row.Forget, percent, ""), fmt.Sprintf("%d of %d", hits, earlier), strconv.FormatInt(regained, 10),
		interval(row.Retain, percent, ""), interval(row.Test, percent, ""),
	}
}

// access states what a run read.
func access(f *run.Result) string {
	during := map[data.Part]int64{}
	around := map[data.Part]int64{}
	for phase, parts := range f.DataAccess.Reads {
		into := during
		if phase == data.PhaseBefore || phase == data.PhaseAfter {
			into = around
		}
		for part, n := range parts {
			into[part] += n
		}
	}
	text := fmt.Sprintf("From its start weights to its end weights this run read images to forget %d times", during[data.PartForget])
	if f.DataAccess.RetainDuringUnlearning {
		text += fmt.Sprintf(", retained images %d times", during[data.PartRetain])
	} else {
		text += ", and no retained image"
	}
	return text + fmt.Sprintf(". The scores before and after read %d images to forget, %d retained and %d test images.",
		around[data.PartForget], around[data.PartRetain], around[data.PartTest])
}

// budget is how many bytes of pictures a page may still take.
type budget struct {
	left    int
	refused int
}

// maxImages bounds the pictures of a page, so that the file of a large grid can be mailed.
const maxImages = 2 << 20

// spend says whether a picture of so many bytes still fits.
func (b *budget) spend(bytes int) bool {
	if bytes > b.left {
		b.refused++
		return false
	}
	b.left -= bytes
	return true
}

// analysis is what one file of analyses/ says.
type analysis struct {
	Schema   string `json:"schema"`
	Name     string `json:"name"`
	Title    string `json:"title"`
	Reading  string `json:"reading"`
	Alt      string `json:"alt"`
	Pictures []struct {
		File  string       `json:"file"`
		Alt   string       `json:"alt"`
		Title string       `json:"title"`
		Data  template.URL `json:"-"`
	} `json:"pictures"`
	Data   json.RawMessage `json:"data"`
	Sheets []sheet         `json:"-"`
}

// The most that is read of analyses.
const (
	maxAnalyses = 64
	maxAnalysis = 16 << 20
	maxPicture  = 512 << 10
)

// analyses reads those of a run folder.
func analyses(r *results.Run, left *budget) (all []analysis, err error) {
	folder, err := results.OpenFolder(r.Path)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	names, err := folder.Names("analyses", 4*maxAnalyses)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".json") {
			continue
		}
		text, err := folder.Read("analyses/"+name, maxAnalysis)
		if err != nil {
			return nil, err
		}
		var a analysis
		if err := json.Unmarshal(text, &a); err != nil {
			return nil, fmt.Errorf("%s/analyses/%s: %w", r.Path, name, err)
		}
		if a.Title = cmp.Or(a.Title, a.Name); a.Title == "" {
			continue
		}
		kept := a.Pictures[:0]
		for _, p := range a.Pictures {
			if p.Data = picture(folder, "analyses/"+p.File, left); p.Data != "" {
				p.Alt = cmp.Or(p.Alt, a.Alt, p.Title, a.Title)
				kept = append(kept, p)
			}
		}
		a.Pictures = kept
		a.Sheets, a.Data = sheets(a.Data), nil
		all = append(all, a)
	}
	return all, nil
}

// picture returns a PNG or SVG of a run folder as the address of an image, "" when it is none, too large, or the page is full.
// What an image holds runs no script and loads nothing.
func picture(folder *results.Folder, name string, left *budget) template.URL {
	image, err := folder.Read(name, maxPicture)
	if err != nil {
		return ""
	}
	var kind string
	switch {
	case bytes.HasPrefix(image, []byte("\x89PNG\r\n\x1a\n")):
		kind = "image/png"
	case strings.HasSuffix(name, ".svg"):
		kind = "image/svg+xml"
	default:
		return ""
	}
	text := base64.StdEncoding.EncodeToString(image)
	if !left.spend(len(text)) {
		return ""
	}
	return template.URL("data:" + kind + ";base64," + text) //nolint:gosec // base64 has no markup
}
