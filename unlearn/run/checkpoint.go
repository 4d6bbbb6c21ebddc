package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"l2ul/torch"
	"l2ul/unlearn/run/cache"
)

const checkpointSchema = "unlearn.checkpoint/1"

// Checkpoint is the manifest of a saved state, written after the tensors it vouches for: it counts only if the hash
// of the tensor file is right.
type Checkpoint struct {
	Schema     string            `json:"schema"`
	Verb       string            `json:"verb"`
	ConfigHash string            `json:"config_hash"` // without the caps
	Step       int64             `json:"step"`
	SHA256     string            `json:"sha256"`  // of the tensor file
	Inputs     map[string]string `json:"inputs"`  // hashes of what the job read, such as weights and data
	Machine    string            `json:"machine"` // what else decides the bits, see machine
	State      json.RawMessage   `json:"state"`   // the job's own: generators, position, counters

	path string // of the tensor file
}

// TensorFile is the path of the safetensors file.
func (c *Checkpoint) TensorFile() string { return c.path }

// Decode reads the job's own state into v.
func (c *Checkpoint) Decode(v any) error {
	if err := json.Unmarshal(c.State, v); err != nil {
		return Inputf("checkpoint %s: %w", c.path, err)
	}
	return nil
}

// CheckInputs compares the hashes of what the job reads now with those at the time of the checkpoint. The paths may
// differ, the contents may not: a usage error names the first that does.
func (c *Checkpoint) CheckInputs(now map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if was := c.Inputs[name]; was != now[name] {
			return Usagef("cannot resume: %s changed since the checkpoint (sha256 %.12s there, %.12s here)", name, was, now[name])
		}
	}
	return nil
}

// machine names what decides the bits of a computation beside its settings.
func machine() string {
	build := torch.Build()
	return fmt.Sprintf("libtorch %s with %s, %d cores, unlearn %s", build.Version, build.CPUCapability, runtime.NumCPU(), CurrentVersions().Unlearn)
}

// Elsewhere says how the machine that made the checkpoint differs from this one, "" if it does not.
func (c *Checkpoint) Elsewhere() string {
	if here := machine(); c.Machine != here {
		return fmt.Sprintf("the checkpoint was made with %s, this is %s: the last bits may differ from those of an uninterrupted run", c.Machine, here)
	}
	return ""
}

// SaveCheckpoint saves a state. write puts the tensors into the file of the given name; inputs and state go into the
// manifest. Older checkpoints beyond keep are removed once the new one is safe. It returns the path of the manifest,
// which --resume takes.
func (f *Folder) SaveCheckpoint(step int64, keep int, write func(path string) error, inputs map[string]string, state any) (string, error) {
	manifest, err := f.saveCheckpoint(step, write, inputs, state)
	if err != nil {
		return "", fmt.Errorf("cannot save the checkpoint of step %d: %w", step, err)
	}
	return manifest, f.prune(keep, manifest)
}

// prune removes all but the newest checkpoints and the one of the given manifest: a resumed run may write behind newer ones.
func (f *Folder) prune(keep int, manifest string) error {
	names, err := f.checkpointNames()
	if err != nil {
		return err
	}
	for i, name := range names {
		if i < keep || f.Path("checkpoints", name+".json") == manifest {
			continue
		}
		// The manifest goes first, so that what is left of a crash here is not taken for a checkpoint.
		for _, suffix := range []string{".json", ".safetensors"} {
			if err := removeIfThere(f.Path("checkpoints", name+suffix)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *Folder) saveCheckpoint(step int64, write func(path string) error, inputs map[string]string, state any) (string, error) {
	raw, err := json.Marshal(state)
	if err != nil {
		return "", err
	}
	name, err := f.checkpointName(step)
	if err != nil {
		return "", err
	}
	tensors, manifest := f.Path("checkpoints", name+".safetensors"), f.Path("checkpoints", name+".json")
	if err := write(tensors); err != nil {
		return "", errors.Join(err, removeIfThere(tensors))
	}
	sum, err := cache.HashFile(tensors)
	if err != nil {
		return "", err
	}
	err = WriteJSON(manifest, Checkpoint{
		Schema: checkpointSchema, Verb: f.verb, ConfigHash: f.resume, Step: step, SHA256: sum, Inputs: inputs, Machine: machine(), State: raw,
	})
	if err != nil {
		return "", errors.Join(err, removeIfThere(tensors))
	}
	return manifest, WriteFile(f.Path("checkpoints", "last"), []byte(name+"\n"))
}

// checkpointName is a name that sorts behind those of all checkpoints up to this step, and is not taken: a stage before the
// first step saves several times, and each time the one before must stay valid until the new one is.
func (f *Folder) checkpointName(step int64) (string, error) {
	names, err := f.checkpointNames()
	if err != nil {
		return "", err
	}
	base := fmt.Sprintf("step-%09d", step)
	for _, name := range names { // newest first
		if rest, ok := strings.CutPrefix(name, base); ok {
			last := 0
			if rest != "" {
				if _, err := fmt.Sscanf(rest, "-%06d", &last); err != nil {
					return "", fmt.Errorf("a checkpoint named %s: %w", name, err)
				}
			}
			return fmt.Sprintf("%s-%06d", base, last+1), nil
		}
	}
	return base, nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// checkpointNames lists the checkpoints with a manifest, newest first, without suffix.
func (f *Folder) checkpointNames() ([]string, error) {
	paths, err := filepath.Glob(f.Path("checkpoints", "step-*.json"))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = strings.TrimSuffix(filepath.Base(p), ".json")
	}
	slices.Sort(names)
	slices.Reverse(names)
	return names, nil
}

// newest returns the newest valid checkpoint, or nil. A damaged one is passed over: the one before it is as good a
// place to go on from.
func (f *Folder) newest() (*Checkpoint, error) {
	names, err := f.checkpointNames()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if c, err := readCheckpoint(f.Path("checkpoints", name+".json")); err == nil {
			return c, nil
		}
	}
	return nil, nil
}

// maxManifest bounds the manifest; the largest real state is a list of a few thousand numbers.
const maxManifest = 64 << 20

func readCheckpoint(manifest string) (*Checkpoint, error) {
	info, err := os.Stat(manifest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifest, reason(err))
	}
	if info.Size() > maxManifest {
		return nil, fmt.Errorf("%s: %d bytes are too many for a manifest", manifest, info.Size())
	}
	data, err := os.ReadFile(manifest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifest, reason(err))
	}
	c := &Checkpoint{path: strings.TrimSuffix(manifest, ".json") + ".safetensors"}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("%s: %w", manifest, err)
	}
	if c.Schema != checkpointSchema {
		return nil, fmt.Errorf("%s: schema %q, expected %q", manifest, c.Schema, checkpointSchema)
	}
	sum, err := cache.HashFile(c.path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.path, reason(err))
	}
	if sum != c.SHA256 {
		return nil, fmt.Errorf("%s: sha256 %.12s, the manifest says %.12s", c.path, sum, c.SHA256)
	}
	return c, nil
}
