package ckpt_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"l2ul/torch/ckpt"
)

var dtypes = []ckpt.DType{
	ckpt.F64, ckpt.F32, ckpt.F16, ckpt.BF16, ckpt.I64, ckpt.I32, ckpt.I16, ckpt.I8, ckpt.U8, ckpt.Bool,
}

func floats(vs ...float32) []byte {
	var b []byte
	for _, v := range vs {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// sample is a small network's file: aligned and odd sizes, a scalar, an empty tensor.
func sample() *ckpt.File {
	return &ckpt.File{Tensors: []ckpt.Tensor{
		{Name: "fc.weight", DType: ckpt.F32, Shape: []int64{2, 3}, Data: floats(1, 2, 3, 4, 5, 6)},
		{Name: "bn.num_batches_tracked", DType: ckpt.I64, Shape: []int64{}, Data: []byte{7, 0, 0, 0, 0, 0, 0, 0}},
		{Name: "mask", DType: ckpt.Bool, Shape: []int64{3}, Data: []byte{1, 0, 1}},
		{Name: "empty", DType: ckpt.F16, Shape: []int64{0, 1 << 33}, Data: []byte{}},
	}}
}

func load(t *testing.T, path string) *ckpt.File {
	t.Helper()
	f, err := ckpt.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func save(t *testing.T, name string, f *ckpt.File) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := ckpt.Save(path, f); err != nil {
		t.Fatal(err)
	}
	return path
}

// genFile draws files with every type and awkward names, shapes and sharing.
func genFile(t *rapid.T) *ckpt.File {
	f := &ckpt.File{}
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9._<"\\é]{0,12}`), 0, 8, rapid.ID).Draw(t, "names")
	for _, name := range names {
		if len(f.Tensors) > 0 && rapid.Bool().Draw(t, "shared") {
			tied := f.Tensors[0]
			tied.Name = name
			f.Tensors = append(f.Tensors, tied)
			continue
		}
		d := rapid.SampledFrom(dtypes).Draw(t, "dtype")
		shape := append([]int64{}, rapid.SliceOfN(rapid.Int64Range(0, 5), 0, 4).Draw(t, "shape")...)
		n := d.Size()
		for _, s := range shape {
			n *= int(s)
		}
		data := append([]byte{}, rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "data")...)
		f.Tensors = append(f.Tensors, ckpt.Tensor{Name: name, DType: d, Shape: shape, Data: data})
	}
	if rapid.Bool().Draw(t, "prefix") && len(names) > 0 {
		f.Format.Prefix = "module."
	}
	return f
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	for _, suffix := range []string{".safetensors", ".pt", ".pth", ".npz"} {
		path, again := filepath.Join(dir, "a"+suffix), filepath.Join(dir, "b"+suffix)
		t.Run(suffix, rapid.MakeCheck(func(t *rapid.T) {
			want := genFile(t)
			switch suffix {
			case ".npz":
				want.Format.Container = ckpt.NPZ
				for i := range want.Tensors {
					if want.Tensors[i].DType == ckpt.BF16 {
						want.Tensors[i].DType = ckpt.F16
					}
					want.Tensors[i].Name = strings.ReplaceAll(want.Tensors[i].Name, `\`, "-")
				}
			case ".safetensors":
				want.Metadata = rapid.MapOfN(rapid.String(), rapid.String(), 1, 3).Draw(t, "metadata")
				want.Format.Container = ckpt.Safetensors
			default:
				want.Format.Container = ckpt.PT
				if len(want.Tensors) > 0 {
					want.Format.Wrapper = rapid.SampledFrom([]string{"", "net", "state_dict"}).Draw(t, "wrapper")
				}
			}
			// Names that all begin with the prefix would lose it.
			if want.Format.Prefix == "" && len(want.Tensors) > 0 {
				want.Tensors[0].Name = "first"
				for i := range want.Tensors[1:] {
					want.Tensors[1+i].Name += fmt.Sprint("#", i)
				}
			}
			if err := ckpt.Save(path, want); err != nil {
				t.Fatal(err)
			}
			got, err := ckpt.Load(path)
			if err != nil {
				t.Fatal(err)
			}
			if got.Hash() != want.Hash() {
				t.Error("the hash changed")
			}
			if suffix == ".safetensors" { // its order is by name
				slices.SortFunc(want.Tensors, func(a, b ckpt.Tensor) int { return strings.Compare(a.Name, b.Name) })
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatal(diff)
			}
			if err := ckpt.Save(again, got); err != nil {
				t.Fatal(err)
			}
			a, _ := os.ReadFile(path)
			b, _ := os.ReadFile(again)
			if !bytes.Equal(a, b) {
				t.Error("saving what was loaded gives other bytes")
			}
		}))
	}
}

// The files of testdata were written by PyTorch 2.11, those of torch-1.13 by 1.13.1; expect.json holds the fingerprints that
// Python computed from the tensors.
func TestLoadPyTorch(t *testing.T) {
	for _, dir := range []string{"testdata", "testdata/torch-1.13"} {
		t.Run(filepath.Base(dir), func(t *testing.T) { checkPyTorch(t, dir) })
	}
}

func checkPyTorch(t *testing.T, dir string) {
	text, err := os.ReadFile(filepath.Join(dir, "expect.json"))
	if err != nil {
		t.Fatal(err)
	}
	var expect map[string]string
	if err := json.Unmarshal(text, &expect); err != nil || len(expect) == 0 {
		t.Fatalf("expect.json: %v, %d entries", err, len(expect))
	}
	for name, want := range expect {
		f := load(t, filepath.Join(dir, name))
		if got := f.Hash(); got != want {
			t.Errorf("%s: hash %s, want %s", name, got, want)
		}
		format := ckpt.Format{Container: ckpt.PT}
		if strings.HasSuffix(name, ".npz") {
			format.Container = ckpt.NPZ
		}
		if strings.HasPrefix(name, "sharded.") {
			format.Container, format.Prefix = ckpt.Safetensors, "_orig_mod.module."
		}
		switch stem, _, _ := strings.Cut(name, "."); stem {
		case "parallel":
			format.Wrapper, format.Prefix = "net", "module."
		case "compiled":
			format.Wrapper, format.Prefix = "state_dict", "_orig_mod.module."
		case "module":
			format.Class = "__main__.Net"
		case "beside":
			format.Wrapper, format.Prefix, format.Class = "model", "module.", "torch.nn.parallel.data_parallel.DataParallel"
		}
		if !cmp.Equal(f.Format, format) {
			t.Errorf("%s: format %+v, want %+v", name, f.Format, format)
		}
	}
	for _, name := range []string{"views.pt", "views.legacy.pt"} {
		checkViews(t, name, load(t, filepath.Join(dir, name)))
	}
}

func checkViews(t *testing.T, file string, views *ckpt.File) {
	for name, want := range map[string]ckpt.Tensor{
		"head":       {DType: ckpt.F32, Shape: []int64{2, 3}, Data: floats(0, 1, 2, 3, 4, 5)},
		"tail":       {DType: ckpt.F32, Shape: []int64{4}, Data: floats(20, 21, 22, 23)},
		"step":       {DType: ckpt.F32, Shape: []int64{5}, Data: floats(1, 6, 11, 16, 21)},
		"expanded":   {DType: ckpt.F32, Shape: []int64{2, 3}, Data: floats(0, 1, 2, 0, 1, 2)},
		"scalar":     {DType: ckpt.F32, Shape: []int64{}, Data: floats(7)},
		"parameter":  {DType: ckpt.F32, Shape: []int64{2}, Data: floats(0, 1)},
		"one":        {DType: ckpt.F32, Shape: []int64{1, 2}, Data: floats(0, 3)},
		"empty":      {DType: ckpt.F32, Shape: []int64{0}, Data: []byte{}},
		"transposed": {DType: ckpt.F32, Shape: []int64{6, 4}, Data: floats(0, 6, 12, 18, 1, 7, 13, 19, 2, 8, 14, 20, 3, 9, 15, 21, 4, 10, 16, 22, 5, 11, 17, 23)},
	} {
		want.Name = name
		got, ok := views.Lookup(name)
		if !ok {
			t.Errorf("%s has no %q", file, name)
		} else if diff := cmp.Diff(want, *got); diff != "" {
			t.Errorf("%s: %s", file, diff)
		}
	}
	if _, ok := views.Lookup("absent"); ok {
		t.Error("Lookup finds what is not there")
	}
}

// Both directions against the PyTorch that is installed: it reads ours with weights_only=True, and we read its.
func TestPyTorchLive(t *testing.T) {
	python := os.Getenv("L2UL_PYTHON")
	if python == "" {
		python = "python3"
	}
	const probe = "import importlib.util as i, sys; sys.exit(not (all(i.find_spec(m) for m in ('torch', 'numpy', 'safetensors'))))"
	if err := exec.CommandContext(t.Context(), python, "-c", probe).Run(); err != nil {
		t.Skipf("%s has no torch, numpy and safetensors (%v); set L2UL_PYTHON to a Python that has", python, err)
	}
	all := sample()
	for _, d := range dtypes {
		all.Tensors = append(all.Tensors, ckpt.Tensor{Name: "t." + string(d), DType: d, Shape: []int64{1, 3}, Data: make([]byte, 3*d.Size())})
	}
	tied := all.Tensors[0]
	tied.Name = "größe"
	all.Tensors = append(all.Tensors, tied)
	plain := &ckpt.File{Tensors: slices.DeleteFunc(slices.Clone(all.Tensors), func(t ckpt.Tensor) bool { return t.DType == ckpt.BF16 })}
	wrapped := &ckpt.File{Tensors: all.Tensors, Format: ckpt.Format{Wrapper: "state_dict", Prefix: "module."}}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), python, filepath.Join("testdata", "make.py"), dir, dir,
		save(t, "a.pt", all), save(t, "b.pth", wrapped), save(t, "c.npz", plain))
	cmd.Env = append(os.Environ(), "OMP_WAIT_POLICY=passive")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	got, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, &stderr)
	}
	if want := all.Hash() + "\n" + all.Hash() + "\n" + plain.Hash() + "\n"; string(got) != want {
		t.Errorf("Python reads\n%swant\n%s", got, want)
	}
	checkPyTorch(t, dir)
}

// shards writes files of one tensor each and an index with the given text, and returns the path of the index.
func shards(t *testing.T, index string, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i, name := range names {
		tensor := ckpt.Tensor{Name: fmt.Sprint("module.t", i), DType: ckpt.U8, Shape: []int64{1}, Data: []byte{byte(i)}}
		f := &ckpt.File{Tensors: []ckpt.Tensor{tensor}, Metadata: map[string]string{"format": "pt"}}
		if err := ckpt.Save(filepath.Join(dir, name), f); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "model.safetensors.index.json")
	if err := os.WriteFile(path, []byte(index), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A network in shards, as Hugging Face's libraries store it.
func TestShards(t *testing.T) {
	const a, b = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
	whole := `{"metadata": {"total_size": 2}, "weight_map": {"module.t1": "` + b + `", "module.t0": "` + a + `"}}`
	want := &ckpt.File{
		Tensors: []ckpt.Tensor{
			{Name: "t0", DType: ckpt.U8, Shape: []int64{1}, Data: []byte{0}},
			{Name: "t1", DType: ckpt.U8, Shape: []int64{1}, Data: []byte{1}},
		},
		Metadata: map[string]string{"format": "pt"},
		Format:   ckpt.Format{Container: ckpt.Safetensors, Prefix: "module."},
	}
	if diff := cmp.Diff(want, load(t, shards(t, whole, a, b))); diff != "" {
		t.Error(diff)
	}
	for index, want := range map[string]string{
		`{"weight_map": {"module.t0": "` + a + `"`:                             "ends too early",
		`{"weight_map": {"module.t0": "../` + a + `"}}`:                        "no name of a file",
		`{"weight_map": {"module.t0": "/etc/passwd"}}`:                         "no name of a file",
		`{"weight_map": {"module.t0": ".."}}`:                                  "no name of a file",
		`{"weight_map": {"module.t0": "."}}`:                                   "is a folder",
		`{"weight_map": {"module.t0": ""}}`:                                    "no name of a file",
		`{"weight_map": {"module.t0": 7}}`:                                     "is placed in \"7\"",
		`{"weight_map": ["` + a + `"]}`:                                        "found [ instead of",
		`{"weight_map": {"module.t0": "model.safetensors.index.json"}}`:        "is JSON",
		`{"weight_map": {"module.t0": "` + a + `", "module.t1": "` + a + `"}}`: `lacks the tensor "module.t1"`,
		`{"weight_map": {"module.t1": "` + a + `"}}`:                           `holds the tensor "module.t0", which the index places in ""`,
		`{"weight_map": {"module.t0": "` + b + `", "module.t1": "` + a + `"}}`: `holds the tensor "module.t0", which the index places in "` + b,
		`{"weight_map": {"module.t0": "` + a + `"}, "weight_map": {}}`:         "stands twice",
		`{"weight_map": {"module.t0": "` + a + `", "module.t0": "` + a + `"}}`: "stands twice",
		`{"config": {}}`:     "no weight_map",
		`{"weight_map": {}}`: "no weight_map",
		`{"weight_map": {"module.t0": "` + a + `"}} trailing`: "something follows the closing brace",
		`{"metadata": ` + strings.Repeat("[", 1<<20):          "exceeded max depth",
	} {
		_, err := ckpt.Load(shards(t, index, a, b))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "index.json: ") {
			t.Errorf("%.100s: %v, want %q", index, err, want)
		}
	}
	if _, err := ckpt.Load(shards(t, whole, a)); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), b) {
		t.Errorf("%v, want that %s does not exist", err, b)
	}
	for _, target := range []string{"../secret", "/etc/hostname"} {
		path := shards(t, whole, a, b)
		shard, secret := filepath.Join(filepath.Dir(path), a), filepath.Join(filepath.Dir(filepath.Dir(path)), "secret")
		if err := errors.Join(os.WriteFile(secret, []byte("the secret"), 0o600), os.Remove(shard), os.Symlink(target, shard)); err != nil {
			t.Fatal(err)
		}
		if _, err := ckpt.Load(path); err == nil || !strings.Contains(err.Error(), "shard "+a+": path escapes") {
			t.Errorf("a shard is a link to %s: %v", target, err)
		}
		if err := errors.Join(os.Remove(shard), os.WriteFile(shard, []byte("the secret"), 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := ckpt.Load(path); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("an error tells the content of a file: %v", err)
		}
	}
	for _, below := range []string{"", "sub"} { // the cache of Hugging Face's libraries
		path := shards(t, whole, a, b)
		repository := filepath.Join(t.TempDir(), "models--owner--name")
		folder, blobs := filepath.Join(repository, "snapshots", "0123abcd", below), filepath.Join(repository, "blobs")
		if err := errors.Join(os.MkdirAll(folder, 0o700), os.Rename(filepath.Dir(path), blobs)); err != nil {
			t.Fatal(err)
		}
		to, err := filepath.Rel(folder, blobs)
		for _, name := range []string{a, b, filepath.Base(path)} {
			err = errors.Join(err, os.Symlink(filepath.Join(to, name), filepath.Join(folder, name)))
		}
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, load(t, filepath.Join(folder, filepath.Base(path)))); diff != "" {
			t.Error(diff)
		}
	}
	if _, err := read([]byte(whole)); !errors.Is(err, ckpt.ErrCorrupt) {
		t.Errorf("Read of an index: %v", err)
	}
}

func TestWriteLayout(t *testing.T) {
	f := sample()
	tied := f.Tensors[0]
	tied.Name = "tied"
	f.Tensors = append(f.Tensors, tied)
	data, err := os.ReadFile(save(t, "a.pt", f))
	if err != nil {
		t.Fatal(err)
	}
	weight := f.Tensors[0].Data
	if at := bytes.Index(data, weight); at < 0 || at%64 != 0 {
		t.Errorf("the first storage begins at %d, not at a multiple of 64", at)
	}
	if n := bytes.Count(data, weight); n != 1 {
		t.Errorf("a shared storage was written %d times", n)
	}
	back := load(t, save(t, "b.pt", f))
	if &back.Tensors[0].Data[0] != &back.Tensors[4].Data[0] {
		t.Error("a shared storage was read twice")
	}

	f.Tensors[0].Name = "größe"
	z, err := zip.OpenReader(save(t, "a.npz", f))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	if z.File[0].Name != "größe.npy" || z.File[0].NonUTF8 || z.File[1].Flags != 0 {
		t.Errorf("the name %q is not marked as UTF-8", z.File[0].Name)
	}

	data, err = os.ReadFile(save(t, "a.safetensors", &ckpt.File{Tensors: sample().Tensors, Metadata: map[string]string{"b": "2", "a": "<1>"}}))
	if err != nil {
		t.Fatal(err)
	}
	header := `{"__metadata__":{"a":"\u003c1\u003e","b":"2"},` +
		`"bn.num_batches_tracked":{"dtype":"I64","shape":[],"data_offsets":[0,8]},` +
		`"empty":{"dtype":"F16","shape":[0,8589934592],"data_offsets":[32,32]},` +
		`"fc.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32]},` +
		`"mask":{"dtype":"BOOL","shape":[3],"data_offsets":[32,35]}}`
	if n := binary.LittleEndian.Uint64(data); n%8 != 0 || strings.TrimRight(string(data[8:8+n]), " ") != header {
		t.Errorf("header of %d bytes:\n%s\nwant\n%s", n, data[8:8+n], header)
	}
}

// A network behind a normalising layer, as nn.Sequential and nn.DataParallel save it, in all combinations.
func TestStripNormalizer(t *testing.T) {
	tensor := func(name string) ckpt.Tensor {
		return ckpt.Tensor{Name: name, DType: ckpt.U8, Shape: []int64{1}, Data: []byte{1}}
	}
	for _, c := range []struct{ names, left, front, prefix string }{
		{"1.a 1.b.c", "a b.c", "", "1."},
		{"0.mean 0.std 1.a", "a", "0.mean 0.std", "1."},
		{"1.a 0.std", "a", "0.std", "1."},
		{"module.0.mean module.1.a", "a", "module.0.mean", "module.1."},
		{"1.module.a 0.mean 1.module.b", "a b", "0.mean", "1.module."},
		{"1.b 1.module.a", "b module.a", "", "1."},
		{"1.1.a", "1.a", "", "1."},
		{"module.module.a", "module.a", "", "module."},
		{"_orig_mod.module.a", "a", "", "_orig_mod.module."},
		{"module._orig_mod.0.std module._orig_mod.1.a", "a", "module._orig_mod.0.std", "module._orig_mod.1."},
		{"0.std 1._orig_mod.a", "a", "0.std", "1._orig_mod."},
		{"1.a 2.b", "1.a 2.b", "", ""},
		{"0.weight 1.a", "0.weight 1.a", "", ""},
		{"0.mean a", "0.mean a", "", ""},
		{"1.b 10.a", "1.b 10.a", "", ""},
		{"normalize.mean normalize.std a", "a", "normalize.mean normalize.std", ""},
		{"module.a module.normalize.std", "a", "module.normalize.std", "module."},
		{"a normalize.weight", "a normalize.weight", "", ""},
	} {
		for _, suffix := range []string{".safetensors", ".pt"} {
			file := &ckpt.File{}
			for _, name := range strings.Fields(c.names) {
				file.Tensors = append(file.Tensors, tensor(name))
			}
			path, again := filepath.Join(t.TempDir(), "a"+suffix), filepath.Join(t.TempDir(), "b"+suffix)
			if err := ckpt.Save(path, file); err != nil {
				t.Fatal(err)
			}
			got, err := ckpt.Load(path)
			if err != nil {
				t.Fatal(err)
			}
			got.StripNormalizer()
			names := func(of []ckpt.Tensor) string {
				var all []string
				for _, x := range of {
					all = append(all, x.Name)
				}
				return strings.Join(all, " ")
			}
			if names(got.Tensors) != c.left || names(got.Format.Front) != c.front || got.Format.Prefix != c.prefix {
				t.Errorf("%s, %s: left %q, front %q, prefix %q", suffix, c.names, names(got.Tensors), names(got.Format.Front), got.Format.Prefix)
			}
			if err := ckpt.Save(again, got); err != nil {
				t.Fatal(err)
			}
			back, err := ckpt.Load(again)
			if err != nil {
				t.Fatal(err)
			}
			if back.StripNormalizer(); back.Hash() != got.Hash() || back.Format.Prefix != c.prefix || len(back.Format.Front) != len(got.Format.Front) {
				t.Errorf("%s, %s: comes back as %+v", suffix, c.names, back)
			}
		}
	}
}

func TestHash(t *testing.T) {
	want := sample().Hash()
	other := sample()
	slices.Reverse(other.Tensors)
	other.Metadata = map[string]string{"a": "b"}
	other.Format.Prefix = "module."
	if other.Hash() != want {
		t.Error("order, metadata or format enter the hash")
	}
	for name, change := range map[string]func(*ckpt.Tensor){
		"name":  func(t *ckpt.Tensor) { t.Name += "x" },
		"dtype": func(t *ckpt.Tensor) { t.DType = ckpt.I32 },
		"shape": func(t *ckpt.Tensor) { t.Shape = []int64{3, 2} },
		"bytes": func(t *ckpt.Tensor) { t.Data[0]++ },
	} {
		f := sample()
		change(&f.Tensors[0])
		if f.Hash() == want {
			t.Errorf("the %s does not enter the hash", name)
		}
	}
}

func TestSaveRefuses(t *testing.T) {
	dir := t.TempDir()
	one := func(change func(*ckpt.Tensor)) *ckpt.File {
		f := sample()
		change(&f.Tensors[0])
		return f
	}
	for want, f := range map[string]*ckpt.File{
		`two tensors are named "mask"`:      one(func(t *ckpt.Tensor) { t.Name = "mask" }),
		`cannot be the name`:                one(func(t *ckpt.Tensor) { t.Name = "__metadata__" }),
		`"\xff" cannot be the name`:         one(func(t *ckpt.Tensor) { t.Name = "\xff" }),
		`unknown type "F8"`:                 one(func(t *ckpt.Tensor) { t.DType = "F8" }),
		`shape [2 2] holds 24 bytes`:        one(func(t *ckpt.Tensor) { t.Shape = []int64{2, 2} }),
		`shape [-2 -3] holds 24 bytes`:      one(func(t *ckpt.Tensor) { t.Shape = []int64{-2, -3} }),
		`[4294967296 4294967296 4] holds 0`: one(func(t *ckpt.Tensor) { t.Shape, t.Data = []int64{1 << 32, 1 << 32, 4}, nil }),
		`has 65 dimensions, more than 64`:   one(func(t *ckpt.Tensor) { t.Shape = make([]int64, 65) }),
	} {
		err := ckpt.Save(filepath.Join(dir, "a.pt"), f)
		if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, ckpt.ErrCorrupt) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	for want, tensor := range map[string]ckpt.Tensor{
		"is BF16, which NumPy lacks":   {Name: "w", DType: ckpt.BF16, Shape: []int64{1}, Data: []byte{0, 0}},
		"that no zip file should hold": {Name: "../w", DType: ckpt.U8, Shape: []int64{1}, Data: []byte{0}},
	} {
		err := ckpt.Save(filepath.Join(dir, "a.npz"), &ckpt.File{Tensors: []ckpt.Tensor{tensor}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if err := ckpt.Save(filepath.Join(dir, "a.bin"), sample()); err == nil || !strings.Contains(err.Error(), `".bin"`) {
		t.Errorf("suffix .bin: %v", err)
	}
	if err := ckpt.Save(filepath.Join(dir, "none", "a.pt"), sample()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent folder: %v", err)
	}
	wantFiles(t, dir)
}

// wantFiles checks the names in dir: nothing half-written may stay behind.
func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("the folder holds %q, want %q", got, want)
	}
}

func TestSaveReadOnly(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.pt")
	if err := ckpt.Save(path, sample()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o700) //nolint:errcheck // for the clean-up of the test
	changed := sample()
	changed.Tensors[0].Data[0]++
	result := make(chan error)
	go func() {
		// Root may write anywhere, so this thread, which ends with the goroutine, becomes nobody to the file system.
		runtime.LockOSThread()
		if os.Getuid() == 0 {
			_ = syscall.Setfsuid(65534)
		}
		result <- ckpt.Save(path, changed)
	}()
	if err := <-result; !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v, want a permission error", err)
	}
	wantFiles(t, dir, "a.pt")
	if load(t, path).Hash() != sample().Hash() {
		t.Error("the old file changed")
	}
}

// A disk that fills up, played by a process that may write files of 64 KiB only.
func TestSaveFullDisk(t *testing.T) {
	const dirVariable = "CKPT_TEST_FULL_DISK"
	big := &ckpt.File{Tensors: []ckpt.Tensor{{Name: "w", DType: ckpt.U8, Shape: []int64{3 << 20}, Data: make([]byte, 3<<20)}}}
	if dir := os.Getenv(dirVariable); dir != "" {
		signal.Ignore(syscall.SIGXFSZ)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 64 << 10, Max: 64 << 10}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a.pt", "a.safetensors"} {
			if err := ckpt.Save(filepath.Join(dir, name), big); !errors.Is(err, syscall.EFBIG) {
				t.Errorf("%s: %v, want EFBIG", name, err)
			} else if !strings.Contains(err.Error(), name+" was not written") {
				t.Errorf("%s: %q does not say what was not written", name, err)
			}
		}
		return
	}
	dir := t.TempDir()
	if err := ckpt.Save(filepath.Join(dir, "a.pt"), sample()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSaveFullDisk$")
	cmd.Env = append(os.Environ(), dirVariable+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wantFiles(t, dir, "a.pt")
	if load(t, filepath.Join(dir, "a.pt")).Hash() != sample().Hash() {
		t.Error("the old file changed")
	}
}

func TestLoadOutside(t *testing.T) {
	dir := t.TempDir()
	if _, err := ckpt.Load(filepath.Join(dir, "none.pt")); !errors.Is(err, os.ErrNotExist) || errors.Is(err, ckpt.ErrCorrupt) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := ckpt.Load(dir); err == nil || !strings.Contains(err.Error(), "is a folder") {
		t.Errorf("folder: %v", err)
	}
	pipe := filepath.Join(dir, "pipe.pt")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ckpt.Load(pipe); err == nil || !strings.Contains(err.Error(), "pipe.pt is a device, pipe or socket") {
		t.Errorf("pipe: %v", err)
	}
	for _, head := range []string{"\xf8\xff\x3f\x00\x00\x00\x00\x00{", "PK\x03\x04", "\x80\x02"} {
		for size := int64(1 << 30); size < 1<<43; size <<= 6 { // what other file systems than this one allow is larger
			holes := filepath.Join(dir, "holes")
			if err := errors.Join(os.WriteFile(holes, []byte(head), 0o600), os.Truncate(holes, size)); err != nil {
				t.Fatal(err)
			}
			if _, err := ckpt.Load(holes); !errors.Is(err, ckpt.ErrCorrupt) || !strings.Contains(err.Error(), "consists of holes") {
				t.Errorf("%d bytes of holes: %v", size, err)
			}
		}
	}
}

// The trained network that the project is tested with.
func TestSharedWeights(t *testing.T) {
	shared := os.Getenv("L2UL_SHARED")
	if shared == "" {
		shared = filepath.Join("..", "..", "..", "shared")
	}
	path := filepath.Join(shared, "weights", "resnet18-cifar10-jpeg.safetensors")
	if _, err := os.Stat(path); err != nil {
		t.Skipf("the shared weights are absent: %v; set L2UL_SHARED to the folder that holds weights/", err)
	}
	f := load(t, path)
	if len(f.Tensors) != 122 {
		t.Errorf("%d tensors, want the 122 of a ResNet-18", len(f.Tensors))
	}
	fc, ok := f.Lookup("fc.weight")
	if !ok || fc.DType != ckpt.F16 || !slices.Equal(fc.Shape, []int64{10, 512}) {
		t.Errorf("fc.weight: %v %v", ok, fc)
	}
	if len(f.Metadata) == 0 {
		t.Error("the metadata is missing")
	}
	again := load(t, save(t, "a.pt", f))
	if again.Hash() != f.Hash() {
		t.Error("conversion to .pt changes the weights")
	}
}

// BenchmarkLoad reads a file the size of a ResNet-18 in float32.
func BenchmarkLoad(b *testing.B) {
	f := &ckpt.File{}
	for i := range 62 {
		n := int64(180_000)
		f.Tensors = append(f.Tensors, ckpt.Tensor{Name: fmt.Sprint("layer", i), DType: ckpt.F32, Shape: []int64{n}, Data: make([]byte, 4*n)})
	}
	for _, suffix := range []string{".safetensors", ".pt"} {
		path := filepath.Join(b.TempDir(), "a"+suffix)
		if err := ckpt.Save(path, f); err != nil {
			b.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(suffix[1:], func(b *testing.B) {
			b.SetBytes(info.Size())
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ckpt.Load(path); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(suffix[1:]+"/floor", func(b *testing.B) { // what reading alone costs
			b.SetBytes(info.Size())
			for b.Loop() {
				data, err := os.ReadFile(path)
				if err != nil {
					b.Fatal(err)
				}
				runtime.KeepAlive(data)
			}
		})
	}
}

func ExampleSave() {
	dir, err := os.MkdirTemp("", "ckpt")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	weights := &ckpt.File{
		Tensors:  []ckpt.Tensor{{Name: "fc.bias", DType: ckpt.U8, Shape: []int64{2}, Data: []byte{1, 2}}},
		Metadata: map[string]string{"epoch": "3"},
	}
	path := filepath.Join(dir, "model.safetensors")
	if err := ckpt.Save(path, weights); err != nil {
		fmt.Println(err)
		return
	}
	back, err := ckpt.Load(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	bias, ok := back.Lookup("fc.bias")
	fmt.Println(ok, bias.DType, bias.Shape, bias.Data[1], back.Metadata["epoch"])
	// Output: true U8 [2] 2 3
}
