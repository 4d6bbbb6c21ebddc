package run

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
	"l2ul/unlearn/attack"
	"l2ul/unlearn/data"
)

// importedPairs are the pairs of --pairs (spec/l2ul.md section 3.3): what another program attacked, in its order.
type importedPairs struct {
	pairs []attack.Pair

	sources, targets []int64      // as read
	repeats          []int64      // likewise, nil where the file has none: then they are counted
	starts           torch.Tensor // Float [pairs, C, H, W], undefined where the file has none
	hash             string       // of all of it
}

// maxPairsFile bounds a text of pairs: some ten million.
const maxPairsFile = 256 << 20

// loadPairs reads --pairs and checks it against the forget set and the network.
func (d *desk) loadPairs(path string, forget *data.ForgetSet) (*importedPairs, error) {
	read := d.readPairsText
	if filepath.Ext(path) == ".safetensors" {
		read = d.readPairsTensors
	}
	in, err := read(path)
	if err != nil {
		return nil, Inputf("--pairs: %w", err)
	}
	sources, targets := in.sources, in.targets
	if len(sources) == 0 {
		return nil, Inputf("--pairs %s: no pairs in it", path)
	}
	position := make(map[int64]int, len(forget.Indices))
	for i, index := range forget.Indices {
		position[int64(index)] = i
	}
	repeats, onLabel := make([]int, len(forget.Indices)), 0
	for i, source := range sources {
		p, ok := position[source]
		if !ok {
			return nil, Inputf("--pairs %s: source %d of pair %d is not among the %d images to forget", path, source, i, len(forget.Indices))
		}
		target := targets[i]
		if target < 0 || target >= int64(len(d.train.Classes)) {
			return nil, Inputf("--pairs %s: target %d of pair %d is no class: there are %d (0 to %d)", path, target, i, len(d.train.Classes), len(d.train.Classes)-1)
		}
		if int(target) == forget.Labels[p] {
			onLabel++
		}
		repeat := repeats[p]
		if in.repeats != nil {
			if in.repeats[i] < 0 || in.repeats[i] > math.MaxInt32 {
				return nil, Inputf("--pairs %s: repeat %d of pair %d is not a count from 0", path, in.repeats[i], i)
			}
			repeat = int(in.repeats[i])
		}
		in.pairs = append(in.pairs, attack.Pair{Source: p, Repeat: repeat, Target: int(target)})
		repeats[p]++
	}
	if onLabel > 0 {
		d.Console.Warn(fmt.Sprintf("--pairs: %d of %d targets are the image's own label", onLabel, len(sources)))
	}
	return in, nil
}

// readPairsText reads lines of SOURCE,TARGET, or all of SOURCE,REPEAT,TARGET; empty ones and those that begin with # do not
// count.
func (d *desk) readPairsText(path string) (*importedPairs, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, reason(err))
	}
	if info.Size() > maxPairsFile {
		return nil, fmt.Errorf("%s: %d bytes are more than a text of pairs may have (%d); use a .safetensors file", path, info.Size(), maxPairsFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, reason(err))
	}
	in, err := parsePairs(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s, %w", path, err)
	}
	sum := sha256.Sum256(text)
	in.hash = hex.EncodeToString(sum[:])
	return in, nil
}

func parsePairs(text string) (*importedPairs, error) {
	in := &importedPairs{}
	number, columns := 0, 0
	for line := range strings.Lines(text) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		parts := strings.SplitN(line, ",", 4)
		values := make([]int64, len(parts))
		wrong := len(parts) != 2 && len(parts) != 3
		for i, part := range parts {
			var err error
			values[i], err = strconv.ParseInt(strings.TrimSpace(part), 10, 64)
			wrong = wrong || err != nil
		}
		if wrong {
			return nil, fmt.Errorf("line %d: %.60q is not SOURCE,TARGET, two numbers: an index into the training set and a class, nor SOURCE,REPEAT,TARGET", number, line)
		}
		if columns == 0 {
			columns = len(values)
		}
		if len(values) != columns {
			return nil, fmt.Errorf("line %d: %d numbers where the lines before have %d", number, len(values), columns)
		}
		in.sources, in.targets = append(in.sources, values[0]), append(in.targets, values[len(values)-1])
		if columns == 3 {
			in.repeats = append(in.repeats, values[1])
		}
	}
	return in, nil
}

// readPairsTensors reads source and target, int64 [pairs], and, where they are there, repeat, likewise, and start, images in
// [0, 1]. The adversarial.safetensors of a run is such a file, without start.
func (d *desk) readPairsTensors(path string) (*importedPairs, error) {
	file, err := ckpt.Load(path)
	if err != nil {
		return nil, err
	}
	file.Tensors = slices.DeleteFunc(file.Tensors, func(t ckpt.Tensor) bool {
		return t.Name != "source" && t.Name != "target" && t.Name != "repeat" && t.Name != "start"
	})
	tensors, err := nn.Unpack(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	in := &importedPairs{hash: file.Hash()}
	for name, values := range map[string]*[]int64{"source": &in.sources, "target": &in.targets, "repeat": &in.repeats} {
		t, ok := named(tensors, name)
		if name == "repeat" && !ok {
			continue
		}
		if !ok || t.Dtype() != torch.Long || t.Dim() != 1 {
			return nil, fmt.Errorf("%s: it must hold %s, int64 with one dimension", path, name)
		}
		*values = torch.ToSlice[int64](t)
	}
	if len(in.sources) != len(in.targets) || in.repeats != nil && len(in.repeats) != len(in.targets) {
		return nil, fmt.Errorf("%s: %d sources and %d repeats for %d targets", path, len(in.sources), len(in.repeats), len(in.targets))
	}
	start, ok := named(tensors, "start")
	if !ok {
		return in, nil
	}
	shape := []int64{int64(len(in.sources)), int64(d.train.C), int64(d.train.H), int64(d.train.W)}
	if start.Dtype() != torch.Float || !slices.Equal(start.Shape(), shape) {
		return nil, fmt.Errorf("%s: start is %v %v; it must be %v %v", path, start.Dtype(), start.Shape(), torch.Float, shape)
	}
	// Not-a-number is neither: the comparison must hold to pass.
	if start.Numel() > 0 && !(start.Min().Item() >= 0 && start.Max().Item() <= 1) {
		return nil, fmt.Errorf("%s: start has values outside [0, 1]", path)
	}
	in.starts = d.here(start)
	return in, nil
}
