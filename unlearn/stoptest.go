package unlearn

import (
	"math"

	"l2ul/torch"
	"l2ul/torch/cuda"
	"l2ul/unlearn/data"
	"l2ul/unlearn/metrics"
)

// The stop test counts hits over all of D_f, or over what else the task says that the goal is about, in evaluation mode
// (spec/l2ul.md section 5). Until the goal is near, one image tells as much: while it is clearly against the goal, still right
// (misclassify) or still wrong (relabel), the goal does not hold. In units of a forward of one image, a step costs 3·(b_a + b_f)
// and the count k: with slices of 256 and 32 images 864 and k, so that of a step and its test the count is 2 % at k = 16, 7 % at
// 64 and 23 % at 256; with 128 and 16 it is 37 % at 256. The witness costs 1.

// clearLead is the lead, over the largest magnitude among an image's logits, from which on rounding has no say in its class.
// Alone, an image may be convolved by other loops than in its batch; the logits of ResNets then differ by about 1e-6.
const clearLead = 1e-3

// test does the stop test after a step, and notes in rec what it found. Where that costs little beside the step, all of D_f is
// counted.
func (l *loop) test(rec *Record) error {
	if l.task.Witness && l.task.judged().Len() > l.o.ForgetBatch {
		_, against, err := l.look(l.state.Witness, l.state.Witness+1)
		if err != nil {
			return err
		}
		if against[0] > clearLead {
			rec.Witness = l.state.Witness
			return nil
		}
	}
	err := l.count()
	rec.Hits = l.state.Hits
	return err
}

// count counts the hits on all of D_f. The image that is most against the goal is the next witness.
func (l *loop) count() error {
	l.state.Hits, l.state.Witness, l.state.Counted, l.blind = 0, 0, l.state.Step, false
	most := float32(math.Inf(-1))
	for from := 0; from < l.task.judged().Len(); {
		var hits int64
		var against []float32
		done, err := l.task.EvalBatch.Do(l.task.judged().Len()-from, func(n int) (err error) {
			hits, against, err = l.look(from, from+n)
			return err
		})
		if err != nil {
			return err
		}
		l.state.Hits += hits
		for i, a := range against {
			l.blind = l.blind || math.IsNaN(float64(a))
			if a > most {
				most, l.state.Witness = a, from+i
			}
		}
		from += done
	}
	return nil
}

// look classifies images from to to-1 of D_f. against says of each how far it is from what the goal wants of it: the lead
// of its label's logit over the largest other (misclassify), or that one's over the label's (relabel), over the largest
// magnitude; at most 0 where it is as wanted, NaN where a logit is not finite.
func (l *loop) look(from, to int) (hits int64, against []float32, err error) {
	left := l.task.Meter.Enter(data.PhaseStopCheck)
	defer l.task.Meter.Enter(left)
	l.task.Net.Root().Eval()
	torch.Scope(func() {
		var x, y torch.Tensor
		if x, y, err = l.task.judged().Batch(from, to); err != nil {
			return
		}
		torch.NoGrad(func() {
			var logits torch.Tensor
			cuda.Float32(func() { logits = l.task.Net.Forward(x) }) // hits are float32's, however a step rounds
			hits = metrics.Hits(logits, y)
			values, classes := torch.ToSlice[float32](logits), int(logits.Size(1))
			for i, label := range torch.ToSlice[int64](y) {
				lead := leadOf(values[i*classes:(i+1)*classes], int(label))
				if l.o.Goal == Relabel {
					lead = -lead
				}
				against = append(against, lead)
			}
		})
	})
	return hits, against, err
}

// leadOf is how far the logit of a class is ahead of the largest other, over the largest magnitude.
func leadOf(logits []float32, class int) float32 {
	rival, scale := float32(math.Inf(-1)), float32(0)
	for c, z := range logits {
		scale = max(scale, z, -z)
		if c != class {
			rival = max(rival, z)
		}
	}
	if scale == 0 { // all are equal
		return 0
	}
	return (logits[class] - rival) / scale
}
