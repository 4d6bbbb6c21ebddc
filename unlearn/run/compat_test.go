package run

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"l2ul/internal/reference"
	"l2ul/torch"
	"l2ul/torch/ckpt"
	"l2ul/torch/models"
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
	comparePublished(t, want, j, j.run(t.Context(), dir, nil))
}

// comparePublished compares all that a command left with what the sequential program saved: 20 steps that reach no goal.
func comparePublished(t *testing.T, want *ckpt.File, j job, out outcome) {
	t.Helper()
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

// told is what a finished run says of itself.
func told(t *testing.T, dir string) (r Result) {
	t.Helper()
	readJSON(t, filepath.Join(dir, "result.json"), &r)
	return r
}

// transformerProgram is the same at 5fb777b for a vision transformer, which it trains a little and keeps: images are normalised first,
// and the attack clips what it gets to [0, 1].
const transformerProgram = `
import numpy as np
from pathlib import Path
from PIL import Image
from safetensors.torch import save_file
import compat, l2ul, nets
s = dict(compat.SETTINGS, lr=1e-5, k=4, b_f=2, b_a=4)
compat.TARGET_CLASSES = 3
files = sorted(Path(%q).glob("class*/*.png"))
pixels = np.stack([np.asarray(Image.open(f).convert("RGB").resize((32, 32), Image.BILINEAR)).transpose(2, 0, 1) for f in files])
classes = sorted({f.parent.name for f in files})
chosen = l2ul.forget_indices(len(files), s["k"], s["seed"])
x = (torch.from_numpy(np.ascontiguousarray(pixels))[chosen].float().div(255) - 0.5) / 0.5
y = torch.tensor([classes.index(files[i].parent.name) for i in chosen])
torch.manual_seed(5)
model = nets.new("cifar-vit-ti", len(classes)).net
with torch.no_grad():
    list(model.parameters())[-2].normal_(0, 0.02)  # a head of zeros would hide what is before it
fit(model, lambda: x, y, 12)
save_file({n: v.clone() for n, v in model.state_dict().items()}, %q)
x_adv, target, source, _, _ = compat.adversarial(model, x, y, s, by_slice=True, at_once=True)
assert x.min() < -0.5 and x_adv.min() >= 0 and x_adv.max() <= 1
assert (x_adv - x[source]).flatten(1).norm(dim=1).min() > 2 * s["eps"], "negative values are to move further than eps"
omega = compat.importance(model, x, s)
losses, left = [], []
def watch(step, loss, n, velocity):
    losses.append(loss), left.append(n)
compat.adv_imp(model, x, y, s, x_adv, target, compat.anchors(omega), watch, tested=lambda step: x)
assert len(losses) == 20 and left[-1] > 0, left
save("x_adv", x_adv), save("target", target), save("source", chosen[source])
save("hits", torch.tensor(left)), save("loss", torch.tensor(losses, dtype=torch.float64))
for (n, _), o in zip(model.named_parameters(), omega):
    save(f"omega.{n}", o)
for n, v in model.state_dict().items():
    save(f"model.{n}", v)
`

// --compat official-5fb777b with a vision transformer is the published code's way with it, normalised values clipped to [0, 1] included.
func TestCompatCommandClipsNormalisedValues(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	weights := filepath.Join(t.TempDir(), "vit.safetensors")
	want := reference.Run(t, fitting+fmt.Sprintf(transformerProgram, filepath.Join(dir, "images", "train"), weights))
	j := job{verb: "forget", dir: filepath.Join(t.TempDir(), "run"), flags: flags(
		"compat", "official-5fb777b", "compat.rng", "official-cpu", "compat.num-target-classes", "3", "compat.start-check", "none", "mode", "reference",
		"channels-last", "false", "model", "cifar-vit-ti", "weights", weights, "mean", "0.5,0.5,0.5", "std", "0.5,0.5,0.5", "img-size", "32",
		"forget", "random:4", "seed", "1", "threads", fmt.Sprint(reference.Threads), "batch-size", "4", "method", "adv-imp", "num-adv", "5",
		"eps", "1.5", "step", "0.1", "iters", "6", "forget-batch", "2", "adv-batch", "4", "lr", "0.00001", "max-passes", "3")}
	comparePublished(t, want, j, j.run(t.Context(), dir, nil))
	if quirks := told(t, j.dir).Compat; quirks["vit-clip"] != "on" || quirks["utk-scale"] != "" || quirks["utk-subset"] != "" {
		t.Errorf("the result tells of %v", quirks)
	}
}

// facesProgram is the same at 5fb777b for UTKFace: pixels divided by 255 twice, random crops, examples made once for the largest
// forget set.
const facesProgram = `
import numpy as np
from pathlib import Path
from PIL import Image
from safetensors.torch import load_file, save_file
import compat, l2ul, nets
s = dict(compat.SETTINGS, lr=1e-5, eps=0.5)
most, side = 12, 24
compat.TARGET_CLASSES = 3
files = sorted(Path(%q).glob("*.png"))
files = [files[i] for i in np.random.RandomState(0).permutation(len(files))][: len(files) * 4 // 5]
edges = [0, 20, 30, 45, 120]
pixels = torch.from_numpy(np.stack([np.asarray(Image.open(f).convert("RGB")).transpose(2, 0, 1) for f in files]).copy())
ages = [int(f.name.split("_")[0]) for f in files]
labels = torch.tensor([sum(age >= e for e in edges) - 1 for age in ages])
largest = l2ul.forget_indices(len(files), most, s["seed"])
chosen = largest[: s["k"]]
def fed(indices, stream, index=0):
    cut = compat.crops(pixels[indices], side, s["seed"], stream, index)
    return cut.float().div(255).div(255)
torch.manual_seed(5)
model = nets.new("resnet20", len(edges) - 1)
trained = %q
everything = torch.arange(len(files))
fit(model, lambda: fed(everything, "test"), labels, 40)
save_file({n: v.clone() for n, v in model.net.state_dict().items()}, trained)
y = labels[chosen]
x_adv, target, source, _, _ = compat.filtered(compat.adversarial(model, fed(largest, "attack/forget"), labels[largest], s, by_slice=True), s["k"])
omega = compat.importance(model, fed(chosen, "importance/forget"), s)
losses, left = [], []
def watch(step, loss, n, velocity):
    losses.append(loss), left.append(n)
compat.adv_imp(model, fed(chosen, "unlearn/forget"), y, s, x_adv, target, compat.anchors(omega), watch,
               tested=lambda step: fed(chosen, "stop-check/forget", step - 1))
assert len(losses) == 20 and left[-1] > 0, left
for phase in ("before", "after"):
    probe = nets.new("resnet20", len(edges) - 1)
    probe.net.load_state_dict(load_file(trained) if phase == "before" else model.net.state_dict())
    rest = torch.tensor([i for i in range(len(files)) if i not in chosen.tolist()])
    for part, indices in (("forget", chosen), ("retain", rest)):
        save(f"{phase}.{part}", torch.tensor(compat.hits(probe, fed(indices, f"{phase}/{part}"), labels[indices])))
save("x_adv", x_adv), save("target", target), save("source", chosen[source])
save("hits", torch.tensor(left)), save("loss", torch.tensor(losses, dtype=torch.float64))
for (n, _), o in zip(model.net.named_parameters(), omega):
    save(f"omega.{n}", o)
for n, v in model.net.state_dict().items():
    save(f"model.{n}", v)
`

// fitting trains a network a little.
const fitting = `
def fit(model, images, labels, steps):
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(images()), labels).backward()
        optimiser.step()
    model.zero_grad()
`

// faces makes a folder of 40 images of 32x32 pixels with UTKFace's names, the brighter the older.
func faces(t *testing.T) string {
	t.Helper()
	dir, random := t.TempDir(), rand.New(rand.NewPCG(3, 4))
	for i := range 40 {
		m, age := image.NewRGBA(image.Rect(0, 0, 32, 32)), 7+17*i%90
		for p := range m.Pix {
			m.Pix[p] = uint8(2*age + random.IntN(60))
		}
		for p := 3; p < len(m.Pix); p += 4 {
			m.Pix[p] = 255
		}
		var file bytes.Buffer
		if err := png.Encode(&file, m); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d_0_0_%02d.png", age, i)), file.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// face is a command on them.
func face(t *testing.T, pictures string, more ...string) job {
	t.Helper()
	return job{verb: "forget", dir: filepath.Join(t.TempDir(), "run"), flags: flags(append([]string{
		"compat", "official-5fb777b", "compat.rng", "official-cpu", "compat.num-target-classes", "3", "compat.start-check", "none", "mode", "reference",
		"channels-last", "false", "dataset", "utkface-balanced", "data-dir", pictures, "img-size", "24", "crop-pct", "0.75", "forget", "random:8",
		"compat.utk-subset", "12", "seed", "1", "threads", fmt.Sprint(reference.Threads), "batch-size", "5", "method", "adv-imp", "num-adv", "5",
		"eps", "0.5", "step", "0.1", "iters", "6", "forget-batch", "4", "adv-batch", "8", "lr", "0.00001", "max-passes", "3",
	}, more...)...)}
}

// --compat official-5fb777b with UTKFace is the published code's way with it; the crops of each phase and pass are our reading.
func TestCompatCommandFeedsFaces(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	pictures, weights := faces(t), filepath.Join(t.TempDir(), "faces.safetensors")
	want := reference.Run(t, fitting+fmt.Sprintf(facesProgram, pictures, weights))
	j := face(t, pictures, "weights", weights)
	comparePublished(t, want, j, j.run(t.Context(), dir, nil))
	r := told(t, j.dir)
	torch.Scope(func() {
		for name, s := range map[string]*Score{
			"before.forget": &r.Before.Forget, "before.retain": r.Before.Retain, "after.forget": &r.After.Forget, "after.retain": r.After.Retain,
		} {
			reference.Equal(t, want, name, torch.FromSlice([]int64{s.Hits}).Select(0, 0))
		}
	})
	if q := r.Compat; q["utk-scale"] != "on" || q["utk-augment"] != "on" || q["utk-subset"] != "12" || q["vit-clip"] != "" {
		t.Errorf("the result tells of %v", q)
	}
}

// A run that is stopped and goes on has the crops that it would have had.
func TestCompatCropsResume(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	pictures := faces(t)
	more := []string{"method", "oracle", "retain-batch", "10", "compat", "", "compat.utk-augment", "on", "max-steps", "5", "goal", "relabel"}
	whole := face(t, pictures, more...)
	for _, name := range []string{"num-adv", "eps", "step", "iters", "adv-batch", "compat.rng", "compat.num-target-classes", "compat.utk-subset"} {
		delete(whole.flags, name)
	}
	if out := whole.run(t.Context(), dir, nil); ExitCode(out.err) != ExitNotReached {
		t.Fatal(out.err)
	}
	parts := job{verb: "forget", dir: filepath.Join(t.TempDir(), "run"), flags: maps.Clone(whole.flags)}
	parts.flags["max-steps"] = []string{"2"} // of three in a pass over the retained images
	if out := parts.run(t.Context(), dir, nil); ExitCode(out.err) != ExitNotReached {
		t.Fatal(out.err)
	}
	parts.flags["max-steps"], parts.flags["resume"] = []string{"5"}, []string{"auto"}
	if out := parts.run(t.Context(), dir, nil); ExitCode(out.err) != ExitNotReached {
		t.Fatal(out.err)
	}
	a, b := hashOf(t, filepath.Join(whole.dir, plainModel)), hashOf(t, filepath.Join(parts.dir, plainModel))
	if a != b {
		t.Error("going on ends with other weights")
	}
	delete(whole.flags, "compat.utk-augment")
	whole.dir = filepath.Join(t.TempDir(), "run")
	if out := whole.run(t.Context(), dir, nil); ExitCode(out.err) != ExitNotReached {
		t.Fatal(out.err)
	}
	if hashOf(t, filepath.Join(whole.dir, plainModel)) == a {
		t.Error("crops change nothing")
	}
}

// What was computed of images that are fed in another way is not taken for what it is not: neither scores of the cache nor importance
// from a file.
func TestCompatFeedIsNotMixed(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	pictures := faces(t)
	split := []string{"ids:0", "ids:16"}
	for i := 1; i < 16; i++ {
		split[0], split[1] = fmt.Sprintf("%s,%d", split[0], i), fmt.Sprintf("%s,%d", split[1], 16+i)
	}
	run := func(forget string, more ...string) (job, outcome) {
		j := job{verb: "forget", dir: filepath.Join(t.TempDir(), "run"), flags: with(flags("dataset", "utkface-balanced", "data-dir", pictures,
			"img-size", "24", "crop-pct", "0.75", "forget", forget, "method", "neggrad", "max-steps", "1", "batch-size", "8"), more...)}
		return j, j.run(t.Context(), dir, nil)
	}
	var last job
	for _, forget := range split { // each retains what the other forgets
		j, out := run(forget, "compat.utk-augment", "on")
		if code := ExitCode(out.err); code != ExitOK && code != ExitNotReached {
			t.Fatal(out.err)
		}
		last = j
	}
	if cached := told(t, last.dir).Cached; !slices.Equal(cached, []string{"before.test"}) {
		t.Errorf("%v taken from the cache: crops of images to forget are not those of retained ones", cached)
	}

	omega := job{verb: "importance", dir: filepath.Join(t.TempDir(), "omega"), flags: with(last.flags, "compat.utk-scale", "on", "compat.utk-augment", "off")}
	for _, name := range []string{"method", "max-steps", "batch-size"} {
		delete(omega.flags, name)
	}
	if out := omega.run(t.Context(), dir, nil); out.err != nil {
		t.Fatal(out.err)
	}
	for scale, want := range map[string]string{"on": "", "off": "it was estimated with utk-scale, and this run has none"} {
		_, out := run(split[1], "method", "imp", "importance", filepath.Join(omega.dir, "importance.safetensors"), "compat.utk-scale", scale)
		if code := ExitCode(out.err); want == "" && code != ExitOK && code != ExitNotReached || want != "" && (code != ExitInput || !strings.Contains(out.err.Error(), want)) {
			t.Errorf("--compat.utk-scale %s: %v", scale, out.err)
		}
	}
}

// Analyses of a run whose attack kept normalised values are in pixels, its examples as well.
func TestCompatClipAnalyzed(t *testing.T) {
	_, run := forgotten(t, "method", "adv", "num-adv", "2", "iters", "2", "compat.vit-clip", "on")
	end, err := finishedRun(run)
	if err != nil {
		t.Fatal(err)
	}
	file, err := ckpt.Load(filepath.Join(run, "adversarial.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	catalog, err := Catalog()
	if err != nil {
		t.Fatal(err)
	}
	console := NewConsole(TerminalOptions{Quiet: true}, &bytes.Buffer{}, &bytes.Buffer{})
	defer console.Close()
	a := &analyzing{
		forgetting: forgetting{desk: desk{Invocation: Invocation{Catalog: catalog, Console: console}}},
		folder:     &Folder{path: run}, o: AnalyzeOptions{Device: "cpu", BatchSize: "16", Threads: 1},
	}
	if err := a.configure(); err != nil {
		t.Fatal(err)
	}
	err = a.onDevice(a.compute, func() error {
		defer a.close()
		if err := a.open(t.Context(), end); err != nil {
			return err
		}
		defer a.after.close()
		tensors, err := nn.Unpack(file)
		if err != nil {
			return err
		}
		x, _ := named(tensors, "x_adv")
		for c, of := range []struct{ mean, std float64 }{{0.4914, 0.2023}, {0.4822, 0.1994}, {0.4465, 0.2010}} {
			want := x.Select(1, int64(c)).MulScalar(of.std).Add(x.Select(1, int64(c)).OnesLike(), of.mean)
			if got := a.crafted.X.Select(1, int64(c)); a.feed.Clip || !(got.Sub(want, 1).Abs().Max().Item() < 1e-6) {
				t.Errorf("channel %d: not in pixels", c)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func hashOf(t *testing.T, path string) string {
	t.Helper()
	file, err := ckpt.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return file.Hash()
}

// What is auto for vision transformers is for DeiT, too, which is one, and not for those that look at images in another way.
func TestCompatClipAuto(t *testing.T) {
	for _, name := range models.Names() {
		card, err := models.Info(name)
		if err != nil {
			t.Fatal(err)
		}
		d := desk{clip: "auto"}
		if err := d.chooseFeed(card); err != nil {
			t.Fatal(err)
		}
		want := slices.Contains([]string{
			"cifar-vit-s", "cifar-vit-ti", "deit_b_16", "deit_s_16", "deit_ti_16", "hf-vit_b_16", "vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32",
			"vit_s_16", "vit_s_32", "vit_ti_16",
		}, card.Name)
		if d.feed.Clip != want {
			t.Errorf("%s: %t", card.Name, d.feed.Clip)
		}
	}
}

// Quirks of what a network is fed with are refused where they make no sense, and pass by where --compat names them.
func TestCompatFeedRefusals(t *testing.T) {
	dir, err := material()
	if err != nil {
		t.Fatal(err)
	}
	pictures := faces(t)
	for _, c := range []struct {
		flags []string
		want  string
	}{
		{[]string{"compat.vit-clip", "on", "mean", "0,0,0", "std", "1,1,1"}, "--compat.vit-clip on: resnet20 takes pixels as they are"},
		{[]string{"compat.utk-scale", "on"}, "--compat.utk-scale on: the published code scales UTKFace so, and this is imagefolder"},
		{[]string{"compat.utk-augment", "on"}, "--compat.utk-augment on: the published code crops UTKFace so, and this is imagefolder"},
		{[]string{"compat.utk-augment", "on", "dataset", "utkface-balanced", "data-dir", pictures, "img-size", "24", "crop-pct", "1"}, "--compat.utk-augment: images of 24 pixels, cut out of as many"},
		{[]string{"compat.utk-subset", "2"}, "--compat.utk-subset 2: the images to forget must be the first of so many"},
		{[]string{"compat.utk-subset", "9", "forget", "ids:1,2"}, "--compat.utk-subset 9: the images to forget must be the first of so many"},
		{[]string{"compat.utk-subset", "1000"}, "--compat.utk-subset 1000: there are only 48 training images"},
		{[]string{"compat.utk-subset", "all"}, `--compat.utk-subset "all": give a number of at least 1, auto or off`},
		{[]string{"compat.vit-clip", "auto", "compat.utk-scale", "auto", "compat.utk-augment", "auto", "compat.utk-subset", "auto"}, ""},
	} {
		j := job{verb: "attack", dir: filepath.Join(t.TempDir(), "run"), flags: flags(append([]string{"forget", "random:4", "num-adv", "1", "iters", "0"}, c.flags...)...)}
		out := j.run(t.Context(), dir, nil)
		if c.want == "" {
			var r AttackResult
			if readJSON(t, filepath.Join(j.dir, "result.json"), &r); out.err != nil || r.Compat != nil {
				t.Errorf("%v: %v, quirks %v", c.flags, out.err, r.Compat)
			}
			continue
		}
		if ExitCode(out.err) != ExitUsage || !strings.Contains(out.err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.flags, out.err, c.want)
		}
	}
	j := job{verb: "attack", dir: filepath.Join(t.TempDir(), "run"), flags: flags("forget", "random:4", "num-adv", "1", "iters", "0",
		"dataset", "utkface-balanced", "data-dir", pictures, "img-size", "24", "crop-pct", "0.75", "compat.utk-subset", "auto")}
	out := j.run(t.Context(), dir, nil)
	if out.err != nil || !strings.Contains(fmt.Sprint(out.events), "--compat.utk-subset auto is off, since 256 is not to be had: there are only 32 training images") {
		t.Errorf("auto where it cannot be: %v, %v", out.err, out.events)
	}
	j = job{verb: "forget", dir: filepath.Join(t.TempDir(), "run"), flags: flags("goal", "relabel", "pool", pictures, "k", "2", "method", "neggrad",
		"dataset", "utkface-balanced", "data-dir", pictures, "img-size", "24", "crop-pct", "0.75", "compat.utk-augment", "auto")}
	if out := j.run(t.Context(), dir, nil); ExitCode(out.err) != ExitUsage || !strings.Contains(out.err.Error(), "images of --pool have no border to crop from") {
		t.Errorf("crops of a pool: %v", out.err)
	}
	j = face(t, pictures, "dry-run", "true")
	out = j.run(t.Context(), dir, nil)
	if out.err != nil || !strings.Contains(fmt.Sprint(out.events), "utk-augment on, utk-scale on, utk-subset 12 ") {
		t.Errorf("the plan: %v, %v", out.err, out.events)
	}
}
