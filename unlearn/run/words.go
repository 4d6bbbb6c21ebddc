package run

import (
	"fmt"
	"strings"
)

// Counted is a number of things: "1 image", "2 images", "3 passes".
func Counted(n int, thing string) string {
	switch {
	case n == 1:
		return "1 " + thing
	case strings.HasSuffix(thing, "s"):
		return fmt.Sprintf("%d %ses", n, thing)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
