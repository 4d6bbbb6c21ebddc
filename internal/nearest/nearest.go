// Package nearest finds the name that was probably meant by one that nobody knows, for the errors of all rooms.
package nearest

import (
	"fmt"
	"strings"
)

// manyNames are more than a person wants to read who has mistyped one.
const manyNames = 12

// Unknown is the sentence about a name that is none of known, with advice as of [Advice].
func Unknown(kind, name string, known []string) string {
	return fmt.Sprintf("unknown %s %q; %s", kind, name, Advice(name, known))
}

// Advice names what a name that is none of known may have meant: the nearest, and all of them unless there is one and they
// are many.
func Advice(name string, known []string) string {
	hint := Hint(name, known)
	if hint != "" && len(known) >= manyNames {
		return strings.TrimSpace(hint)
	}
	return hint + "one of: " + strings.Join(known, ", ")
}

// Hint is `did you mean "eps"? `, or nothing where no candidate is near.
func Hint(name string, candidates []string) string {
	if near := To(name, candidates); near != "" {
		return fmt.Sprintf("did you mean %q? ", near)
	}
	return ""
}

// To returns the candidate most like name, or "" when none is near enough to be a slip of the fingers: at most
// two edits (insert, delete, replace, swap neighbours), one for names of up to four letters; or name is the start of
// exactly one candidate.
func To(name string, candidates []string) string {
	limit := 2
	if len(name) <= 4 {
		limit = 1
	}
	best, bestDistance, starts, start := "", limit+1, 0, ""
	for _, c := range candidates {
		if d := distance(name, c); d < bestDistance {
			best, bestDistance = c, d
		}
		if len(name) > 2 && len(c) > len(name) && c[:len(name)] == name {
			starts, start = starts+1, c
		}
	}
	if best == "" && starts == 1 {
		return start
	}
	return best
}

// distance is the optimal string alignment distance (Damerau–Levenshtein without repeated edits of a substring).
func distance(a, b string) int {
	before, previous, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, previous, row = previous, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(previous[j]+1, row[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
