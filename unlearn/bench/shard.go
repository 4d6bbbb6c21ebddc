package bench

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"l2ul/unlearn/run"
)

// Shard is a share of a grid's cells: number Index of Count, counted from 0.
type Shard struct{ Index, Count int }

// schedulers tell a task of an array which it is, and how many there are (`unlearn help environment`). Slurm's arrays may begin
// anywhere and go in steps.
var schedulers = []struct{ index, first, step, count string }{
	{"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_COUNT"},
	{"JOB_COMPLETION_INDEX", "", "", ""}, // Kubernetes tells no count
	{"AWS_BATCH_JOB_ARRAY_INDEX", "", "", "AWS_BATCH_JOB_ARRAY_SIZE"},
	{"BATCH_TASK_INDEX", "", "", "BATCH_TASK_COUNT"},
}

// ParseShard reads what --shard says: i/n with i counted from 0, auto for what the scheduler says, or auto/n where it tells no
// count. Empty is all.
func ParseShard(text string, env func(string) (string, bool)) (s Shard, err error) {
	wrong := func(why string) error { return run.Usagef("--shard %s: %s", text, why) }
	if text == "" {
		return Shard{0, 1}, nil
	}
	index, count, slash := strings.Cut(text, "/")
	if index == "auto" {
		found, total, err := scheduled(env)
		if err != nil {
			return s, wrong(err.Error())
		}
		index = found
		if !slash {
			count = total
		}
		if count == "" {
			return s, wrong("the scheduler does not tell how many tasks there are; write auto/8 for 8")
		}
	} else if !slash {
		return s, wrong("write 0/8 for the first of 8, auto for what the scheduler says, or auto/8")
	}
	if s.Index, err = strconv.Atoi(index); err == nil {
		s.Count, err = strconv.Atoi(count)
	}
	switch {
	case err != nil || s.Count < 1:
		return s, wrong(fmt.Sprintf("%s/%s is no share; the shares of 8 are 0/8 to 7/8", index, count))
	case s.Index < 0 || s.Index >= s.Count:
		return s, wrong(fmt.Sprintf("shares are counted from 0: those of %d are 0/%d to %d/%d", s.Count, s.Count, s.Count-1, s.Count))
	}
	return s, nil
}

// scheduled reads the variables of the first scheduler that sets its own.
func scheduled(env func(string) (string, bool)) (index, count string, err error) {
	for _, s := range schedulers {
		text, ok := env(s.index)
		if !ok || text == "" {
			continue
		}
		count, _ = env(s.count)
		if first, ok := env(s.first); ok && s.first != "" {
			step, _ := env(s.step)
			i, errI := strconv.Atoi(text)
			f, errF := strconv.Atoi(first)
			by, errBy := strconv.Atoi(cmp.Or(step, "1"))
			if err := cmp.Or(errI, errF, errBy); err != nil || by < 1 || (i-f)%by != 0 {
				return "", "", fmt.Errorf("%s=%s, %s=%s, %s=%s: these are no places in an array", s.index, text, s.first, first, s.step, step)
			}
			place := (i - f) / by
			if n, err := strconv.Atoi(count); err == nil && place >= n {
				return "", "", fmt.Errorf("%s=%s of an array of %d that begins at %d: its numbers have gaps; number its tasks as in --array=0-7, or name the share, as 3/8",
					s.index, text, n, f)
			}
			text = strconv.Itoa(place)
		}
		return text, count, nil
	}
	return "", "", fmt.Errorf("no scheduler says which task this is (Slurm array, Kubernetes Indexed Job, AWS Batch, GCP Batch); write 0/8 for the first of 8")
}

// Deal returns the share of a grid's runs, the longest first. Each run goes to the share that has least to do, so that they
// end together; who deals the same runs deals them alike.
func (s Shard) Deal(cells []Cell) []Cell {
	type job struct {
		Cell
		work float64
	}
	var jobs []job
	for _, c := range Runs(cells) {
		jobs = append(jobs, job{c, work(&c)})
	}
	slices.SortFunc(jobs, func(a, b job) int { return cmp.Or(cmp.Compare(b.work, a.work), cmp.Compare(a.ID, b.ID)) })
	load := make([]float64, s.Count)
	var mine []Cell
	for _, j := range jobs {
		least := 0
		for i, l := range load {
			if l < load[least] {
				least = i
			}
		}
		load[least] += j.work
		if least == s.Index {
			mine = append(mine, j.Cell)
		}
	}
	return mine
}
