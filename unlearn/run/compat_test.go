package run

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/nn"
)

// publishedProgram reads what a whole command starts from, pictures and a checkpoint, and goes the published code's way from there.
const publishedProgram = `
import numpy as np
from pathlib import Path
from PIL import Image
from safetensors.torch import load_file
import compat, l2ul, nets
s = dict(compat.SETTINGS, lr=1e-5)
compat.TARGET_CLASSES = 3
files = sorted(Path(%q).glob("class*/*.png"))
pixels = np.stack([np.asarray(Image.open(f).convert("RGB")).transpose(2, 0, 1) for f in files])
classes = sorted({f.parent.name for f in files})
chosen = l2ul.forget_indices(len(files), s["k"], s["seed"])
x = torch.from_numpy(np.ascontiguousarray(pixels))[chosen].float().div(255)  # rows of pixels, channel by channel
y = torch.tensor([classes.index(files[i].parent.name) for i in chosen])
model = nets.new("resnet20", len(classes))
model.net.load_state_dict(load_file(%q))
x_adv, target, source, _, _ = compat.adversarial(model, x, y, s)
omega = compat.importance(model, x, s)
losses, left = [], []
def watch(step, loss, n, velocity):
    losses.append(loss), left.append(n)
outcome, steps = compat.adv_imp(model, x, y, s, x_adv, target, compat.anchors(omega), watch)
assert (outcome, steps) == ("cap", 20), (outcome, steps)
save("x_adv", x_adv), save("target", target), save("source", chosen[source])
save("hits", torch.tensor(left)), save("loss", torch.tensor(losses, dtype=torch.float64))
for (n, _), o in zip(model.net.named_parameters(), omega):
    save(f"omega.{n}", o)
for n, v in model.net.state_dict().items():
    save(f"model.{n}", v)
`

// A command with --compat official-b8b335b does, from pictures and a checkpoint to the weights it writes, what a sequential
// program with the published code's quirks does: the same bits of examples, importance, losses and weights, in 20 steps.
func TestCompatCommandIsThePublishedCode(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	want := reference.Run(t, fmt.Sprintf(publishedProgram, filepath.Join(dir, "images", "train"), filepath.Join(dir, "trained", "model.safetensors")))
	j := job{verb: "forget", dir: filepath.Join(t.TempDir(), "run"), flags: flags(
		"compat", "official-b8b335b", "compat.rng", "official-cpu", "compat.num-target-classes", "3", "mode", "reference", "channels-last", "false",
		"forget", "random:8", "seed", "1", "threads", fmt.Sprint(reference.Threads), "batch-size", "4", "method", "adv-imp", "num-adv", "5",
		"eps", "1.5", "step", "0.1", "iters", "6", "forget-batch", "4", "adv-batch", "8", "lr", "0.00001", "max-passes", "3")}
	out := j.run(t.Context(), dir, nil)
	if ExitCode(out.err) != ExitNotReached {
		t.Fatal(out.err)
	}
	torch.Scope(func() {
		compare := func(file, prefix string, names ...string) {
			t.Helper()
			content, err := ckpt.Load(filepath.Join(j.dir, file))
			if err != nil {
				t.Fatal(err)
			}
			tensors, err := nn.Unpack(content)
			if err != nil {
				t.Fatal(err)
			}
			for _, named := range tensors {
				if len(names) == 0 || slices.Contains(names, named.Name) {
					reference.Equal(t, want, prefix+named.Name, named.Tensor)
				}
			}
		}
		compare("adversarial.safetensors", "", "x_adv", "target", "source")
		compare("importance.safetensors", "omega.")
		compare(plainModel, "model.")
		var losses []float64
		var hits []int64
		for _, e := range out.events {
			if values, ok := e["values"].(map[string]any); ok && e["phase"] == "unlearn" {
				losses, hits = append(losses, values["loss"].(float64)), append(hits, int64(values["hits"].(float64)))
			}
		}
		reference.Equal(t, want, "loss", torch.FromSlice(losses))
		reference.Equal(t, want, "hits", torch.FromSlice(hits))
	})
}
