package bench

// Check is a claim about a grid.
type Check struct {
	Kind string `yaml:"kind"`
}

func (c *Check) validate() error { return nil }
