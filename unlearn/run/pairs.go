package run

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
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

// importedPairs are the pairs of --pairs (spec/l2ul.md section 7): what another program attacked, in its order.
type importedPairs struct {
	pairs  []attack.Pair
	starts torch.Tensor // Float [pairs, C, H, W], undefined where the file has none
	hash   string       // of all of it
}

// maxPairsFile bounds a text of pairs: some ten million.
const maxPairsFile = 256 << 20

// loadPairs reads --pairs and checks it against the forget set and the network.
func (d *desk) loadPairs(path string, forget *data.ForgetSet) (*importedPairs, error) {
	read := d.readPairsText
	if filepath.Ext(path) == ".safetensors" {
		read = d.readPairsTensors
	}
	sources, targets, in, err := read(path)
	if err != nil {
		return nil, Inputf("--pairs: %w", err)
	}
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
		in.pairs = append(in.pairs, attack.Pair{Source: p, Repeat: repeats[p], Target: int(target)})
		repeats[p]++
	}
	if onLabel > 0 {
		d.Console.Warn(fmt.Sprintf("--pairs: %d of %d targets are the image's own label", onLabel, len(sources)))
	}
	return in, nil
}

// readPairsText reads lines of SOURCE,TARGET; empty ones and those that begin with # do not count.
func (d *desk) readPairsText(path string) (sources, targets []int64, in *importedPairs, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", path, reason(err))
	}
	if info.Size() > maxPairsFile {
		return nil, nil, nil, fmt.Errorf("%s: %d bytes are more than a text of pairs may have (%d); use a .safetensors file", path, info.Size(), maxPairsFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", path, reason(err))
	}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		first, second, ok := strings.Cut(line, ",")
		source, errS := strconv.ParseInt(strings.TrimSpace(first), 10, 64)
		target, errT := strconv.ParseInt(strings.TrimSpace(second), 10, 64)
		if !ok || errS != nil || errT != nil {
			return nil, nil, nil, fmt.Errorf("%s, line %d: %.60q is not SOURCE,TARGET, two numbers: an index into the training set and a class", path, number, line)
		}
		sources, targets = append(sources, source), append(targets, target)
	}
	sum := sha256.Sum256(text)
	return sources, targets, &importedPairs{hash: hex.EncodeToString(sum[:])}, nil
}

// readPairsTensors reads source and target, int64 [pairs], and start, images in [0, 1], if it is there. The
// adversarial.safetensors of a run is such a file, without start.
func (d *desk) readPairsTensors(path string) (sources, targets []int64, in *importedPairs, err error) {
	file, err := ckpt.Load(path)
	if err != nil {
		return nil, nil, nil, err
	}
	file.Tensors = slices.DeleteFunc(file.Tensors, func(t ckpt.Tensor) bool {
		return t.Name != "source" && t.Name != "target" && t.Name != "start"
	})
	tensors, err := nn.Unpack(file)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	in = &importedPairs{hash: file.Hash()}
	for name, values := range map[string]*[]int64{"source": &sources, "target": &targets} {
		t, ok := named(tensors, name)
		if !ok || t.Dtype() != torch.Long || t.Dim() != 1 {
			return nil, nil, nil, fmt.Errorf("%s: it must hold %s, int64 with one dimension", path, name)
		}
		*values = torch.ToSlice[int64](t)
	}
	if len(sources) != len(targets) {
		return nil, nil, nil, fmt.Errorf("%s: %d sources for %d targets", path, len(sources), len(targets))
	}
	start, ok := named(tensors, "start")
	if !ok {
		return sources, targets, in, nil
	}
	shape := []int64{int64(len(sources)), int64(d.train.C), int64(d.train.H), int64(d.train.W)}
	if start.Dtype() != torch.Float || !slices.Equal(start.Shape(), shape) {
		return nil, nil, nil, fmt.Errorf("%s: start is %v %v; it must be %v %v", path, start.Dtype(), start.Shape(), torch.Float, shape)
	}
	// Not-a-number is neither: the comparison must hold to pass.
	if start.Numel() > 0 && !(start.Min().Item() >= 0 && start.Max().Item() <= 1) {
		return nil, nil, nil, fmt.Errorf("%s: start has values outside [0, 1]", path)
	}
	in.starts = d.here(start)
	return sources, targets, in, nil
}
