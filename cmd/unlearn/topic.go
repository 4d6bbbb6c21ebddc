package main

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"

	"l2ul/unlearn"
)

//go:embed topics/exit-codes.txt
var topicExitCodes string

//go:embed topics/environment.txt
var topicEnvironment string

//go:embed topics/formats.txt
var topicFormats string

//go:embed topics/config.txt
var topicConfig string

//go:embed topics/compat.txt
var topicCompat string

//go:embed topics/grids.txt
var topicGrids string

// topics are what help tells beside commands.
var topics = map[string]func() string{
	"exit-codes":  func() string { return topicExitCodes },
	"environment": func() string { return topicEnvironment },
	"formats":     func() string { return topicFormats },
	"config":      func() string { return topicConfig },
	"compat":      func() string { return topicCompat },
	"grids":       func() string { return topicGrids },
	"methods":     topicMethods,
}

func topicNames() []string { return slices.Sorted(maps.Keys(topics)) }

// topicMethods tells of each method what its registration says.
func topicMethods() string {
	var text strings.Builder
	text.WriteString("Methods\n\n--method NAME says how unlearn forget forgets. D_f are the images to forget, D_r the other training images.\n")
	for _, m := range unlearn.Methods() {
		reads := make([]string, len(m.Regime))
		for i, part := range m.Regime {
			reads[i] = map[string]string{"forget": "D_f", "retain": "D_r", "val": "D_val"}[string(part)]
		}
		stops := "when its epochs are over"
		if !m.Scratch {
			pace := map[unlearn.Driver]string{unlearn.ByForget: "D_f", unlearn.ByAdversarial: "the adversarial examples", unlearn.ByRetain: "D_r"}[m.Driver]
			stops = fmt.Sprintf("when the goal holds, tested after each %s over %s; or at --max-passes, --max-steps, --max-seconds", m.Check, pace)
			if m.Check == unlearn.EachStep {
				stops = "when the goal holds, tested after each step; or at --max-passes, --max-steps, --max-seconds"
			}
		}
		fmt.Fprintf(&text, "\n  %s\n    does    %s\n    reads   %s\n    stops   %s\n    source  %s\n", m.Name, m.Summary, strings.Join(reads, " and "), stops, m.Source)
	}
	return text.String()
}
