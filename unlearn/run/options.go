package run

import (
	"fmt"
	"strconv"
	"time"
)

// TerminalOptions say what the person or script at the terminal sees. Every verb has them.
type TerminalOptions struct {
	JSON      bool   `flag:"json" config:"no" help:"JSON lines on stdout, the last one the summary"`
	Quiet     bool   `flag:"quiet,q" result:"no" help:"warnings and errors only"`
	Verbose   int    `flag:"verbose,v" count:"yes" result:"no" help:"more log lines; twice for all"`
	LogFormat string `flag:"log-format" default:"auto" oneof:"auto|console|json" result:"no" env:"UNLEARN_LOG" help:"log on stderr; auto: console on a terminal and of the demo, json elsewhere"`
	Progress  string `flag:"progress" default:"auto" oneof:"auto|bar|plain|none" result:"no" help:"auto: bars on a terminal, a line every 10 s elsewhere"`
}

// Terminal is those of whatever embeds them.
func (o TerminalOptions) Terminal() TerminalOptions { return o }

// ConfigOptions name the sources of the configuration. Every verb that has keys has them.
type ConfigOptions struct {
	Config []string `flag:"config,c" config:"no" arg:"FILE" help:"YAML file or preset:NAME; repeatable, later ones win"`
	Set    []string `flag:"set" config:"no" env:"-" arg:"KEY=VALUE" help:"set one key; repeatable"`
}

// FolderOptions say where a job writes and how it goes on after an interruption.
type FolderOptions struct {
	TrackOptions
	Output    string        `flag:"output,o" config:"no" arg:"DIR" deftext:"runs/DATE-VERB-ID" help:"run folder"`
	Name      string        `flag:"name" config:"no" env:"-" arg:"TEXT" help:"name of the run, stored in the result"`
	Tags      []string      `flag:"tag" config:"no" env:"-" arg:"KEY=VALUE" help:"label stored in the result; repeatable"`
	Resume    string        `flag:"resume" config:"no" arg:"auto|PATH" help:"go on from the newest checkpoint of the same configuration, or of a run folder"`
	Force     bool          `flag:"force" config:"no" env:"-" help:"replace a run that is already in the folder"`
	DryRun    bool          `flag:"dry-run,n" config:"no" env:"-" help:"resolve everything, check the files, print the plan, stop"`
	SaveEvery string        `flag:"save-every" default:"60s" result:"no" arg:"N|TIME" help:"checkpoint every N steps or every such time; 0 for none before the end"`
	Keep      int           `flag:"keep" default:"2" min:"1" result:"no" arg:"N" help:"checkpoints to keep"`
	Grace     time.Duration `flag:"grace" default:"20s" min:"0" result:"no" help:"time to save after a signal; 0 for no bound"`
}

// Validate checks what tags cannot say.
func (o *FolderOptions) Validate() error {
	if _, err := ParseCadence(o.SaveEvery); err != nil {
		return err
	}
	_, err := o.mlflowAddress()
	return err
}

// Cadence says how often a job saves: after so many steps, or after so much time.
type Cadence struct {
	Steps    int64
	Interval time.Duration
}

// ParseCadence reads "200" (steps) or "30s" (time); "0" is never.
func ParseCadence(text string) (Cadence, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 {
		return Cadence{Steps: n}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return Cadence{Interval: d}, nil
	}
	return Cadence{}, fmt.Errorf("--save-every: %q is neither a number of steps such as 200 nor a time such as 30s", text)
}

// Due reports whether a job that last saved at the given step and time should save now.
func (c Cadence) Due(step, savedStep int64, now, savedAt time.Time) bool {
	if c.Steps > 0 {
		return step-savedStep >= c.Steps
	}
	return c.Interval > 0 && now.Sub(savedAt) >= c.Interval
}
