package main

import (
	"archive/zip"
	"encoding/binary"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"l2ul/internal/tinyimages"
	"l2ul/torch/ckpt"
)

// images DIR CLASSES makes an image folder: 12 images of each class to train on and 5 to test with.
func images(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: images DIR CLASSES")
	}
	classes, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(tinyimages.Write(ts.MkAbs(args[0]), classes))
}

// weights HOW FROM TO writes a checkpoint anew: as it is (the suffix of TO decides the container), with its keys under
// module., behind a layer with the mean and std of resnet20, as nn.Sequential(layer, network) is saved, as SalUn saves its
// resnet20s with such a layer, with one key renamed, or with a NaN in it.
func weights(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: weights as-is|module|sequential|salun|renamed|nan FROM TO")
	}
	file, err := ckpt.Load(ts.MkAbs(args[1]))
	ts.Check(err)
	switch args[0] {
	case "module":
		for i := range file.Tensors {
			file.Tensors[i].Name = "module." + file.Tensors[i].Name
		}
	case "sequential":
		for i := range file.Tensors {
			file.Tensors[i].Name = "1." + file.Tensors[i].Name
		}
		file.Tensors = append(normaliser("0.", 1, 3, 1, 1), file.Tensors...)
	case "salun":
		for i, t := range file.Tensors {
			file.Tensors[i].Name = strings.Replace(t.Name, "linear.", "fc.", 1)
		}
		file.Tensors = append(normaliser("normalize.", 3), file.Tensors...)
	case "renamed":
		file.Tensors[0].Name = "elsewhere." + file.Tensors[0].Name
	case "nan":
		i := slices.IndexFunc(file.Tensors, func(t ckpt.Tensor) bool { return strings.HasSuffix(t.Name, "conv1.weight") })
		binary.LittleEndian.PutUint32(file.Tensors[i].Data[8:], math.Float32bits(float32(math.NaN())))
	}
	ts.Check(ckpt.Save(ts.MkAbs(args[2]), file))
}

// normaliser is the state of a layer with the mean and std of resnet20.
func normaliser(prefix string, shape ...int64) []ckpt.Tensor {
	layer := []ckpt.Tensor{{Name: prefix + "mean"}, {Name: prefix + "std"}}
	for i, values := range [][]float32{{0.4914, 0.4822, 0.4465}, {0.2023, 0.1994, 0.2010}} {
		layer[i].DType, layer[i].Shape = ckpt.F32, shape
		for _, v := range values {
			layer[i].Data = binary.LittleEndian.AppendUint32(layer[i].Data, math.Float32bits(v))
		}
	}
	return layer
}

// truncated FROM TO BYTES writes the first so many bytes.
func truncated(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: truncated FROM TO BYTES")
	}
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	text, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), text[:n], 0o644))
}

// hostile TO COMMAND writes a .pt whose pickle calls os.system(COMMAND), as a reader without restrictions would.
func hostile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: hostile TO COMMAND")
	}
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	z := zip.NewWriter(f)
	for name, text := range map[string]string{
		"archive/data.pkl": "\x80\x02cos\nsystem\nU" + string(rune(len(args[1]))) + args[1] + "\x85R.",
		"archive/version":  "3\n",
	} {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		ts.Check(err)
		_, err = w.Write([]byte(text))
		ts.Check(err)
	}
	ts.Check(z.Close())
	ts.Check(f.Close())
}
