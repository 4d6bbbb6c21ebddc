package optim

import "math"

// Schedule gives the learning rate of a step (or epoch), counted from 0.
type Schedule func(step int) float64

// StepLR multiplies lr by gamma every size steps: lr·gamma^⌊step/size⌋ (torch.optim.lr_scheduler.StepLR).
func StepLR(lr float64, size int, gamma float64) Schedule {
	if size < 1 {
		fail("optim.StepLR", "%d steps between changes: use 1 or more", size)
	}
	return func(step int) float64 { return lr * math.Pow(gamma, float64(step/size)) }
}

// MultiStepLR multiplies lr by gamma at each milestone, a step, that is reached (torch.optim.lr_scheduler.MultiStepLR).
func MultiStepLR(lr float64, milestones []int, gamma float64) Schedule {
	return func(step int) float64 {
		rate := lr // multiplied one by one, as PyTorch does: a power may round otherwise
		for _, m := range milestones {
			if step >= m {
				rate *= gamma
			}
		}
		return rate
	}
}

// LinearLR rises from lr·start to lr over the first steps, and stays there (torch.optim.lr_scheduler.LinearLR with
// start_factor = start, total_iters = steps): a warm-up, with SequentialLR (Goyal et al., "Accurate, Large Minibatch SGD",
// 2017).
func LinearLR(lr, start float64, steps int) Schedule {
	if steps < 1 || !(start >= 0 && start <= 1) {
		fail("optim.LinearLR", "%d steps from a share of %g: steps must be 1 or more, the share in [0, 1]", steps, start)
	}
	return func(step int) float64 {
		return lr * (start + (1-start)*float64(min(step, steps))/float64(steps))
	}
}

// SequentialLR is first before the step milestone, and from there on second, which counts from 0 again
// (torch.optim.lr_scheduler.SequentialLR).
func SequentialLR(first Schedule, milestone int, second Schedule) Schedule {
	return func(step int) float64 {
		if step < milestone {
			return first(step)
		}
		return second(step - milestone)
	}
}

// CosineAnnealingLR falls from lr to end over the first steps along half a cosine, and rises again over as many
// (Loshchilov and Hutter, "SGDR", 2017; torch.optim.lr_scheduler.CosineAnnealingLR with T_max = steps, eta_min = end).
func CosineAnnealingLR(lr float64, steps int, end float64) Schedule {
	if steps < 1 {
		fail("optim.CosineAnnealingLR", "%d steps: use 1 or more", steps)
	}
	return func(step int) float64 { return end + (lr-end)*(1+math.Cos(math.Pi*float64(step)/float64(steps)))/2 }
}

// OneCycleLR rises from lr/div to lr over the first share of the steps (0.3 in PyTorch) and falls to lr/(div·finalDiv) at
// the last, step steps-1, along half a cosine each (Smith and Topin, "Super-Convergence", 2018;
// torch.optim.lr_scheduler.OneCycleLR with max_lr = lr; its div is 25 and its finalDiv 1e4 by default). Momentum stays what it
// is, unless it follows OneCycleMomentum. A step beyond the last panics.
func OneCycleLR(lr float64, steps int, share, div, finalDiv float64) Schedule {
	if !(div > 0) || !(finalDiv > 0) {
		fail("optim.OneCycleLR", "divisors %g and %g: both must be above 0", div, finalDiv)
	}
	return oneCycle("optim.OneCycleLR", lr/div, lr, lr/div/finalDiv, steps, share)
}

// OneCycleMomentum is the momentum that goes with OneCycleLR in PyTorch: it falls from high to low while the rate rises, and
// rises to high again (0.95 and 0.85 by default).
func OneCycleMomentum(low, high float64, steps int, share float64) Schedule {
	return oneCycle("optim.OneCycleMomentum", high, low, high, steps, share)
}

// oneCycle goes from start to peak over the first share of the steps, and to end at the last.
func oneCycle(op string, start, peak, end float64, steps int, share float64) Schedule {
	if steps < 1 || !(share >= 0 && share <= 1) {
		fail(op, "%d steps, share %g: steps must be 1 or more, share in [0, 1]", steps, share)
	}
	turn, last := share*float64(steps)-1, float64(steps-1)
	return func(step int) float64 {
		s := float64(step)
		switch {
		case step < 0 || step >= steps:
			fail(op, "step %d of a cycle of %d", step, steps)
		case s <= turn && turn > 0:
			return halfCosine(start, peak, s/turn)
		case s < last:
			return halfCosine(peak, end, (s-turn)/(last-turn))
		}
		return end
	}
}

// halfCosine goes from a to b as t goes from 0 to 1.
func halfCosine(a, b, t float64) float64 { return b + (a-b)/2*(math.Cos(math.Pi*t)+1) }
