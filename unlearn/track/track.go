// Package track hands the numbers of a run, while it makes them, to programs that draw them: event files of TensorBoard, and
// the server of MLflow.
package track

import "time"

// Point is the numbers of one step of a phase.
type Point struct {
	Time   time.Time
	Phase  string
	Step   int64
	Values map[string]float64
}

// Sink takes the numbers of a run, from one goroutine at a time.
type Sink interface {
	// Add never waits for anybody but the disk.
	Add(p Point) error
	// Close ends the run, within seconds; finished says whether it has a result.
	Close(finished bool) error
}
