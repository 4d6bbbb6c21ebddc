package report

import (
	"fmt"
	"slices"
	"strings"

	"l2ul/unlearn/results"
	"l2ul/unlearn/run"
)

// undecided is the outcome of a claim that nobody has compared with the results.
const undecided = "not decided"

// outcomes are those that `unlearn bench check` writes.
var outcomes = []string{"held", "did not hold", "unknown"}

// claims are those of a grid, with an outcome each.
func claims(g *results.Grid) ([]results.Claim, error) {
	all, err := g.Claims()
	for i := range all {
		if !slices.Contains(outcomes, all[i].Outcome) {
			all[i].Outcome = undecided
		}
	}
	return all, err
}

// tallyClaims says in a sentence how many claims came to what.
func tallyClaims(all []results.Claim) string {
	count := map[string]int{}
	for _, c := range all {
		count[c.Outcome]++
	}
	var parts []string
	for _, o := range append(slices.Clone(outcomes), undecided) {
		if count[o] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[o], o))
		}
	}
	text := fmt.Sprintf("Of %s: %s.", run.Counted(len(all), "claim"), strings.Join(parts, ", "))
	if count[undecided] > 0 {
		text += " Decide with unlearn bench check."
	}
	return text
}

// markdownClaims writes what came of the claims of the grids, each with its numbers.
func (r *Report) markdownClaims(b *strings.Builder) {
	if len(r.Claims) == 0 {
		return
	}
	b.WriteString("\n" + tallyClaims(r.Claims) + "\n\n")
	for _, c := range r.Claims {
		fmt.Fprintf(b, "- **%s**: %s", escapeMarkdown(c.Outcome), escapeMarkdown(c.Claim))
		if c.Source != "" {
			fmt.Fprintf(b, " (%s)", escapeMarkdown(c.Source))
		}
		b.WriteString("\n")
		for _, d := range c.Detail {
			fmt.Fprintf(b, "  - %s\n", escapeMarkdown(strings.Join(strings.Fields(d), " ")))
		}
	}
}

// ClaimLines are the claims of the grids for a terminal: a sentence, and a line each.
func (r *Report) ClaimLines() (lines []string) {
	if len(r.Claims) == 0 {
		return nil
	}
	lines = []string{tallyClaims(r.Claims)}
	for _, c := range r.Claims {
		lines = append(lines, fmt.Sprintf("  %-13s %s", oneLine(c.Outcome), oneLine(c.Claim)))
	}
	return lines
}
