package run

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

const (
	plainEvery = 10 * time.Second // log lines away from a terminal
	eventEvery = time.Second      // progress events
)

// Progress shows how far one phase has come. The methods may be called from any goroutine, as often as one likes.
type Progress struct {
	c           *Console
	phase, unit string
	total       int64
	done        atomic.Int64
	bar         *mpb.Bar
	stepped     atomic.Int64 // when the last step of a profile ended

	mu                sync.Mutex
	note              string
	began             time.Time
	lastLine, lastEvt time.Time
}

// Progress begins a phase of total units (0 when nobody knows).
func (c *Console) Progress(phase, unit string, total int64) *Progress {
	now := c.now()
	p := &Progress{c: c, phase: phase, unit: unit, total: total, began: now, lastLine: now, lastEvt: now}
	if c.profile != nil {
		p.stepped.Store(monotonic())
	}
	if c.mode == "bar" {
		var style mpb.BarFillerBuilder = mpb.BarStyle()
		if total == 0 {
			style = mpb.NopStyle() // nothing to fill
		}
		p.bar = c.show().New(total, style,
			mpb.PrependDecorators(decor.Name(phase, decor.WC{W: 14, C: decor.DindentRight})),
			mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string { return p.told(s.Current) })))
	}
	return p
}

// told is what stands behind a bar.
func (p *Progress) told(n int64) string {
	text := fmt.Sprintf(" %d %s", n, p.unit)
	if p.total > 0 {
		text = fmt.Sprintf(" %d / %d %s", n, p.total, p.unit)
	}
	if left, known := p.left(n, p.c.now()); known && n < p.total {
		text += fmt.Sprintf(", %s left", left)
	}
	return text + p.noted()
}

// left estimates how long the phase will take yet, after n units.
func (p *Progress) left(n int64, now time.Time) (left time.Duration, known bool) {
	if p.total <= 0 || n <= 0 {
		return 0, false
	}
	return time.Duration(float64(now.Sub(p.began)) * float64(p.total-n) / float64(n)).Round(time.Second), true
}

func (p *Progress) noted() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.note == "" {
		return ""
	}
	return "  " + p.note
}

// Note sets a short text beside the numbers, such as "loss 0.31".
func (p *Progress) Note(text string) {
	p.mu.Lock()
	p.note = text
	p.mu.Unlock()
}

// Add counts n more units.
func (p *Progress) Add(n int64) { p.show(p.done.Add(n)) }

// Set says that n units are done in all.
func (p *Progress) Set(n int64) {
	p.done.Store(n)
	p.show(n)
}

func (p *Progress) show(n int64) {
	if profile := p.c.profile; profile != nil {
		p.stepped.Store(profile.step(p.phase+", "+p.unit, p.stepped.Load()))
	}
	if p.bar != nil {
		p.bar.SetCurrent(n)
	}
	now := p.c.now()
	p.mu.Lock()
	line := p.c.mode == "plain" && now.Sub(p.lastLine) >= plainEvery
	event := p.c.json && now.Sub(p.lastEvt) >= eventEvery
	if line {
		p.lastLine = now
	}
	if event {
		p.lastEvt = now
	}
	note := p.note
	p.mu.Unlock()
	if line {
		p.c.log.Info().Int64("done", n).Int64("total", p.total).Str("note", note).Msg(p.sentence(n, now))
	}
	if event {
		p.emit(n, now, note)
	}
}

func (p *Progress) sentence(n int64, now time.Time) string {
	left, known := p.left(n, now)
	if !known {
		return fmt.Sprintf("%s: %d %s", p.phase, n, p.unit)
	}
	return fmt.Sprintf("%s: %d of %d %s, %s left", p.phase, n, p.total, p.unit, left)
}

func (p *Progress) emit(n int64, now time.Time, note string) {
	p.c.Emit(ProgressEvent{
		Phase: p.phase, Done: n, Total: p.total, Unit: p.unit, Seconds: now.Sub(p.began).Seconds(), Note: note,
	})
}

// Done ends the phase, complete or not.
func (p *Progress) Done() {
	n, now := p.done.Load(), p.c.now()
	if p.bar != nil {
		if p.total > 0 && n >= p.total {
			p.bar.SetTotal(p.total, true)
		} else {
			p.bar.Abort(false)
		}
		p.bar.Wait()
		p.c.settle()
	}
	p.mu.Lock()
	note := p.note
	p.mu.Unlock()
	p.c.log.Debug().Int64("done", n).Float64("seconds", now.Sub(p.began).Seconds()).Msg(p.phase + " ended")
	if p.c.json {
		p.emit(n, now, note)
	}
}
