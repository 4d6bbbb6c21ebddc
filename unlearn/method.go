// Package unlearn makes a classifier forget: the methods, and the loop they share.
//
// A [Method] is a value: what drives it, when its goal is tested, which data it may read, and the loss of one step. The
// loop around the loss is [Forget], once for all methods: slices, normalisation modes, the update with its penalty, the
// stop rule, divergence, interruption and resuming (spec/l2ul.md sections 2 and 5).
package unlearn

import (
	"fmt"
	"slices"
	"strings"

	"l2ul/internal/nearest"
	"l2ul/torch"
	"l2ul/unlearn/data"
)

// Driver is the set whose slices set the pace of the loop: one step for each slice.
type Driver uint8

// The drivers.
const (
	ByForget      Driver = iota // D_f, the images to forget
	ByAdversarial               // A, adversarial examples of D_f
	ByRetain                    // D_r, the rest of the training set
)

// Check says when the stop test is due.
type Check string

// The times of the stop test.
const (
	EachStep Check = "step"
	EachPass Check = "pass" // over the driver
)

// Method is one way to forget. A method lives in a file of its own and registers itself; nothing else names it.
type Method struct {
	Name     string      // on the command line and in results
	Summary  string      // one line
	Source   string      // paper and section, or ProjectDefinition
	Regime   data.Regime // what it may read while it unlearns
	Driver   Driver
	Check    Check
	Anchored bool // a penalty holds parameters to where they were, weighted by importance
	Scratch  bool // trains a fresh network on D_r and has no loop: Loss and Ladder are nil

	// Loss is what one step minimises, a scalar, without the penalty.
	Loss func(Step) torch.Tensor
	// Ladder is in place of Loss, of a method without gradients.
	Ladder *Ladder
}

// ProjectDefinition is the Source of a method whose form no publication settles.
const ProjectDefinition = "project definition"

// Title is the name in results, where a form that is only ours must not pass for a published one.
func (m *Method) Title() string {
	if m.Source == ProjectDefinition {
		return m.Name + " (" + ProjectDefinition + ")"
	}
	return m.Name
}

// Step is what a method sees of one step.
type Step struct {
	Driver  torch.Tensor // mean cross-entropy over the driver's slice; undefined when D_f drives
	Forget  torch.Tensor // the forget term to minimise: -CE(F, y) to misclassify, +CE(F, y*) to relabel
	NDriver int          // images in the driver's slice
	NForget int          // images in the forget slice
	Weights LossWeights
}

// LossWeights says how two terms are weighted against each other.
type LossWeights string

// The weightings.
const (
	BySample LossWeights = "sample" // by the number of images, as the published code
	BySum    LossWeights = "sum"    // 1 and 1, as the paper's formula
)

// Shares returns the weights of the driver's and the forget term.
func (s Step) Shares() (driver, forget float64) {
	if s.Weights == BySum {
		return 1, 1
	}
	n := float64(s.NDriver + s.NForget)
	return float64(s.NDriver) / n, float64(s.NForget) / n
}

var methods = map[string]*Method{}

// Register adds a method; it panics on a name that is taken.
func Register(m *Method) {
	if methods[m.Name] != nil {
		panic("unlearn: two methods named " + m.Name)
	}
	methods[m.Name] = m
}

// Methods returns all methods, by name.
func Methods() []*Method {
	out := make([]*Method, 0, len(methods))
	for _, m := range methods {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *Method) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// FindMethod returns the method of that name, or a usage error that lists the names.
func FindMethod(name string) (*Method, error) {
	if m := methods[name]; m != nil {
		return m, nil
	}
	var names []string
	for _, m := range Methods() {
		names = append(names, m.Name)
	}
	return nil, usagef("%s", nearest.Unknown("method", name, names))
}

// UsageError is something asked for that makes no sense.
type UsageError struct{ msg string }

func (e *UsageError) Error() string { return e.msg }

// ExitCode is 2, the status of every usage error.
func (e *UsageError) ExitCode() int { return 2 }

func usagef(format string, args ...any) error { return &UsageError{fmt.Sprintf(format, args...)} }
