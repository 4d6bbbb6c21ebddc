package ckpt_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"l2ul/torch/ckpt"
)

// The hostile files below differ from a good one in one place each. The good ones are tested first, so that a refusal cannot come
// from the frame.

func safetensors(header string, data ...byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), data...)
}

// zipOf makes an archive of stored entries, given as name, content, name, content….
func zipOf(entries ...string) []byte {
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for i := 0; i < len(entries); i += 2 {
		content := []byte(entries[i+1])
		e, err := w.CreateRaw(&zip.FileHeader{
			Name: entries[i], CRC32: crc32.ChecksumIEEE(content),
			CompressedSize64: uint64(len(content)), UncompressedSize64: uint64(len(content)),
		})
		if err != nil {
			panic(err)
		}
		if _, err := e.Write(content); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// pt makes a .pt file around a pickle, with one storage "0" of 16 bytes.
func pt(pickle string) []byte {
	return zipOf("a/data.pkl", pickle, "a/byteorder", "little", "a/data/0", "0123456789abcdef", "a/version", "3\n")
}

const storage = "(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"

// tensor is the pickle of a tensor from the opcodes of its storage, offset, shape and strides.
func tensor(parts string) string {
	return "ctorch._utils\n_rebuild_tensor_v2\n(" + parts + "\x89ccollections\nOrderedDict\n)RtR"
}

// stream makes a file of torch.save before PyTorch 1.6 around a pickle, with storages of floats given as key, content, key,
// content….
func stream(pickle string, storages ...string) []byte {
	data := "\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\x0d\x00\x00\x00little_endian\x88s." + pickle
	keys, contents := "\x80\x02](", ""
	for i := 0; i < len(storages); i += 2 {
		keys += "U" + string(rune(len(storages[i]))) + storages[i]
		contents += string(binary.LittleEndian.AppendUint64(nil, uint64(len(storages[i+1])/4))) + storages[i+1]
	}
	return []byte(data + keys + "e." + contents)
}

// module is the pickle of a network, memo 0, from the entries of its three dicts.
func module(parameters, buffers, modules string) string {
	return "c__main__\nNet\n)\x81q\x00}(V_parameters\n}(" + parameters + "uV_buffers\n}(" + buffers + "uV_modules\n}(" + modules + "uub"
}

// sharing is a state dict of 200 names for one tensor of 64 KiB.
func sharing() []byte {
	pickle := "}(Vw\n" + tensor(strings.Replace(storage, "K\x04", "J\x00\x40\x00\x00", 1)+"K\x00(J\x00\x40\x00\x00t(K\x01t") + "q\x00"
	for i := range 200 {
		pickle += fmt.Sprintf("V%d\nh\x00", i)
	}
	return zipOf("a/data.pkl", pickle+"u.", "a/data/0", strings.Repeat("\x00", 64<<10))
}

// doubling is a network in which each of 30 levels holds the next one twice.
func doubling(tensor string) string {
	net := module("Vw\n"+tensor, "", "")
	for i := range 30 {
		memo := string(rune(1 + i))
		net += "q" + memo + "0" + module("", "", "Va\nh"+memo+"Vb\nh"+memo)
	}
	return net
}

// attributed is a tensor with attributes inside a tensor with attributes, n deep.
func attributed(n int) string {
	const f = "ctorch._tensor\n_rebuild_from_type_v2\nq\x01"
	return f + strings.Repeat("(h\x01N", n) + "(" + storage + "t" + strings.Repeat("Nt", n) + "R"
}

// dict is a pickled state dict with one tensor "w".
func dict(parts string) []byte { return pt("\x80\x02}X\x01\x00\x00\x00w" + tensor(parts) + "s.") }

func read(data []byte) (*ckpt.File, error) {
	return ckpt.Read(bytes.NewReader(data), int64(len(data)))
}

func TestHostile(t *testing.T) {
	const w = `"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}`
	good := tensor(storage + "K\x00(K\x02K\x02t(K\x02K\x01t")
	key := func(name, value string) string {
		return "X" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(name)))) + name + value
	}
	for name, data := range map[string][]byte{
		"safetensors":                  safetensors("{"+w+"}  ", 1, 2),
		"no tensors":                   safetensors("{}"),
		"metadata":                     safetensors(`{"__metadata__":{"a":"b"},`+w+"}", 1, 2),
		"pt":                           dict(storage + "K\x00(K\x02K\x02t(K\x02K\x01t"),
		"empty pt":                     pt("}."),
		"parameter":                    pt("}" + key("w", "ctorch._utils\n_rebuild_parameter\n("+good+"\x88NtR") + "s."),
		"extra state":                  pt("}(" + key("net", "}("+key("w", good)+key("a._extra_state", "C\x01x")+"u") + key("epoch", "K\x01") + "u."),
		"a storage of half an element": zipOf("a/data.pkl", "}"+key("w", tensor(strings.Replace(storage, "K\x04", "K\x02", 1)+"K\x00(K\x02t(K\x01t"))+"s.", "a/data/0", "0123456789"),
		"numpy score": pt("}(" + key("net", "}"+key("w", good)+"s") +
			key("best", "cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\x00\x00\x00f8\x89\x88tRU\x0812345678tR") + "u."),
		"a string named model": pt("}(" + key("net", "}"+key("w", good)+"s") + key("model", "Vresnet18\n") + "u."),
		"a stream":             stream("}"+key("w", good)+"s.", "0", "0123456789abcdef"),
		"a stream of Python 2": stream("}U\x01w"+strings.NewReplacer("X\x07\x00\x00\x00", "U\x07", "X\x01\x00\x00\x00", "U\x01").Replace(good)+"s.", "0", "0123456789abcdef"),
		"before PyTorch 0.4":   pt("}" + key("w", "ctorch._utils\n_rebuild_tensor\n("+storage+"K\x00(K\x02K\x02t(K\x02K\x01ttR") + "s."),
		"a module":             pt(module(key("w", good), key("b", good)+key("none", "N"), key("a", module("", "", ""))) + "."),
		"npz":                  zipOf("w.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }", "a")),
		"packed npz":           packed("w.npy", npy("{'descr': '|u1', 'fortran_order': True, 'shape': (1,2), }  \n", "ab")),
		"zeros":                packed("w.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1024, 1024), }", strings.Repeat("\x00", 4<<20))),
		"npz of Python 2":      zipOf("w.npy", npy("{'descr': '>u1', 'fortran_order': False, 'shape': (1L, 2L), }", "ab")),
		"empty npz":            zipOf(),
		"a compiled module":    pt("ctorch._dynamo.eval_frame\nOptimizedModule\n(" + module(key("w", good), "", "") + "NtR."),
		"no checksum":          noChecksum(dict(storage + "K\x00(K\x04t(K\x01t")),
	} {
		if _, err := read(data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	for _, test := range []struct {
		data []byte
		want string
	}{
		{nil, "empty"},
		{[]byte("GIF89a……"), "neither safetensors nor a file of torch.save"},
		{[]byte("\x80\x02\x8a\x0al\xfc\x9c"), "the first pickle: pickle at offset 2: ends before its STOP opcode"},
		{safetensors("{"+w+"}", 1), "need 2 bytes, but 1 follow the header"},
		{safetensors("{"+w+"}", 1, 2)[:30], "was cut off"},
		{append([]byte("\xff\xff\xff\xff\xff\xff\xff\xff"), "{}"...), "claims 18446744073709551615 bytes"},
		{append([]byte("\x01\xe1\xf5\x05\x00\x00\x00\x00"), "{}"...), "4194304 are allowed"},
		{safetensors("{"+w+"}", 1, 2, 3), "1 bytes follow the last tensor"},
		{safetensors("{"+w+","+w+"}", 1, 2), `the key "w" stands twice`},
		{safetensors(`{"w":{"dtype":"U8","dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 1, 2), `"dtype" stands twice`},
		{safetensors(`{"w":{"DTYPE":"U8","shape":[2],"data_offsets":[0,2]}}`, 1, 2), `"DTYPE" is unknown`},
		{safetensors(`{"w":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}`, 1, 2), `tensor "w": the type "F8_E4M3" is not supported`},
		{safetensors(`{"w":{"dtype":"U8","data_offsets":[0,2]}}`, 1, 2), "shape is missing"},
		{safetensors(`{"w":{"dtype":"U8","shape":[2]}}`, 1, 2), "no pair"},
		{safetensors(`{"w":{"dtype":"U8","shape":[`+strings.Repeat("1,", 1<<19)+`1],"data_offsets":[0,1]}}`, 1), "more than 64 numbers"},
		{safetensors(`{"w":{"dtype":"U8","shape":[-2],"data_offsets":[0,2]}}`, 1, 2), `"-2" is no integer`},
		{safetensors(`{"w":{"dtype":"U8","shape":[2.0],"data_offsets":[0,2]}}`, 1, 2), `"2.0" is no integer`},
		{safetensors(`{"w":{"dtype":"U8","shape":[null],"data_offsets":[0,2]}}`, 1, 2), `"" is no integer`},
		{safetensors(`{"w":{"dtype":"U8","shape":null,"data_offsets":[0,2]}}`, 1, 2), "instead of"},
		{safetensors(`{"w":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`), "impossible"},
		{safetensors(`{"w":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}}`, 1, 2), "differ"},
		{safetensors(`{"w":{"dtype":"U8","shape":[3],"data_offsets":[0,2]}}`, 1, 2), "need 3 bytes"},
		{safetensors(`{`+w+`,"v":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 1, 2, 3), `"v": the offsets [1, 3] overlap`},
		{safetensors(`{`+w+`,"v":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}`, 1, 2, 3, 4), `"v": the offsets [3, 4] leave a gap`},
		{safetensors(`{`+w+`}{}`, 1, 2), "follows the closing brace"},
		{safetensors(`{`+w, 1, 2), "ends too early"},
		{safetensors("{\"\xff\":{}}"), "not UTF-8"},
		{safetensors(`{"__metadata__":{"a":1}}`), `metadata "a" is no string`},

		{dict(storage + "K\x00(K\x05t(K\x01t"), "reaches outside storage"},
		{dict(storage + "K\x01(K\x02K\x02t(K\x02K\x01t"), "reaches outside storage"},
		{dict(storage + "K\x05(K\x00t(K\x01t"), "begins at element 5"},
		{dict(storage + "J\xff\xff\xff\xff(K\x01t(K\x01t"), "begins at element -1"},
		{dict(storage + "K\x00(J\xff\xff\xff\xfft(K\x01t"), "impossible shape"},
		{dict(storage + "K\x00(K\x02t(J\xff\xff\xff\xfft"), "negative stride"},
		{dict(storage + "K\x00(K\x02t(\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7ft"), "reaches outside storage"},
		{dict(storage + "K\x00(K\x02K\x02t(K\x01t"), "impossible shape [2 2] or strides [1]"},
		{dict(storage + "K\x00(\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x10\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x10t(K\x00K\x00t"), "impossible shape"},
		{dict(storage + "K\x00(J\x00\x00\x00\x10t(K\x00t"), `tensor "w": shape [268435456] with strides [0] unfolds to 1073741824 bytes`},
		{dict(strings.Replace(storage, "K\x04", "K\x05", 1) + "K\x00(K\x05t(K\x01t"), `storage "0" has 16 bytes instead of 20`},
		{dict(strings.Replace(storage, "K\x04", "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", 1) + "K\x00(K\x05t(K\x01t"), "storage is malformed"},
		{dict(strings.Replace(storage, "0X", "9X", 1) + "K\x00(K\x04t(K\x01t"), `zip entry "a/data/9" is missing`},
		{dict("K\x07K\x00(K\x04t(K\x01t"), "makes a tensor of int at int"},
		{dict(strings.Replace(storage, "Float", "ComplexFloat", 1) + "K\x00(K\x04t(K\x01t"), `entry "w" is torch.ComplexFloatStorage, not a tensor`},
		{dict(strings.Replace(storage, "K\x04", ")"+strings.Repeat("\x85", 1<<16), 1) + "K\x00(K\x04t(K\x01t"), "storage is malformed"},
		{pt("}" + key("a", good) + "s" + key("b", tensor(strings.Replace(storage, "Float", "Int", 1)+"K\x00(K\x04t(K\x01t")) + "s."), "4 elements of I32 here, but was 4 of F32"},
		{pt("ctorch._utils\n_rebuild_tensor_v2\n(" + storage + "K\x00(K\x04t(K\x01t\x89N}X\x03\x00\x00\x00neg\x88stR."), `the mark "neg"`},
		{pt("}" + key("w", good) + "sU\x01w" + good + "s."), `two tensors are named "w"`},
		{pt(module(key("w", good), key("w", good), "") + "."), `two tensors are named "w"`},
		{pt(module(key("a.w", good), "", key("a", module(key("w", good), "", ""))) + "."), `two tensors are named "a.w"`},
		{pt("cposix\nsystem\n(S'echo hi'\ntR."), "refuses global posix.system"},
		{pt("ctorchvision.models.resnet\nResNet\n)\x81."), "holds torchvision.models.resnet.ResNet instead of a state dict"},
		{pt("]."), "holds list instead of a state dict"},
		{pt(good + "."), "holds torch.Tensor instead of a state dict"},
		{pt("}K\x01" + good + "s."), "one of its keys is int"},
		{pt("}(" + key("w", good) + key("epoch", "K\x01") + "u."), `entry "epoch" is int`},
		{pt("}(" + key("net", "}"+key("w", good)+"s") + key("model", "}"+key("w", good)+"s") + "u."), `several networks, under "model" and "net"`},
		{pt("}."[:1]), "cut off"},
		{pt("}.")[:60], "cut off or damaged"},
		{zipOf("weights.txt", "x"), `the entry "weights.txt", so neither torch.save`},
		{zipOf("w.npy", "x"), `array "w": ends in its header`},
		{zipOf("w.npy", npyHead+"\x04\x00\x01\x00 "), "is of version 4"},
		{zipOf("w.npy", npyHead+"\x01\x00\x01"), "ends in its header"},
		{zipOf("w.npy", npyHead+"\x01\x00\xff\x00{"), "ends in its header"},
		{zipOf("w.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1), }", "abcd")), "has the header"},
		{packed("w.npy", strings.Repeat("\x00", 1<<26)), `begins with "\x00`},
		{packed("w.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }", strings.Repeat("\x00", 1<<26))), "of type U8 and shape [1] has 67108931 bytes"},
		{zipOf("w.npy", npyHead+"\x02\x00\xff\xff\xff\xff{"), "claims a header of 4294967295 bytes; 10000 are allowed"},
		{zipOf("w.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (), }", "\x80\x04N.")), `the NumPy type "|O"`},
		{zipOf("w.npy", npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (), }", "abcd")), "has the header"},
		{zipOf("w.npy", npy("{'descr': __import__('os').system('echo hi'), 'fortran_order': False, 'shape': (), }", "")), "has the header"},
		{zipOf("w.npy", npy("{'descr': '>f4', 'fortran_order': False, 'shape': (), }", "abcd")), "is big-endian (>f4)"},
		{zipOf("w.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", "abcd")), "of type F32 and shape [2] has 71 bytes with its header"},
		{zipOf("w.npy", npy("{'descr': '<f4', 'fortran_order': True, 'shape': (4294967296, 4294967296), }", "")), "has 86 bytes"},
		{zipOf("w.npy", npy("{'descr': '<f4', 'fortran_order': True, 'shape': (99999999999999999999,), }", "")), "impossible shape"},
		{zipOf("../w.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (), }", "a")), "leads outside"},
		{packed("w.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (67108864,), }", strings.Repeat("\x00", 1<<26))), "would take 67108864 bytes, too many"},
		{bytes.Replace(packed("w.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (), }", "a")), []byte("PK\x01\x02"), []byte("PK\x01\x03"), 1), "was cut off or damaged"},
		{zipOf("a/data.pkl", "}.", "a/byteorder", "big"), `byte order "big"`},
		{zipOf("a/data.pkl", "}.", "a/data.pkl", "}."), "stands twice"},
		{zipOf("a/data.pkl", "}.", "b/data/0", "x"), "outside the folder"},
		{zipOf("a/data.pkl", "}.", "../../etc/passwd", "x"), "leads outside"},
		{zipOf("a/data.pkl", "}.", "a/../b", "x"), "leads outside"},
		{zipOf("a/data.pkl", "}.", "/etc/passwd", "x"), "leads outside"},
		{zipOf("a/data.pkl", "}.", "a/constants.pkl", "x"), "TorchScript"},
		{bytes.Replace(dict(storage+"K\x00(K\x04t(K\x01t"), []byte("0123456789abcdef"), []byte("0123456789abcdeX"), 1), "the file is damaged"},

		{stream("}"+key("w", good)+"s.", "0", "0123456789abcdeX")[:20], "the version: pickle at offset 5: ends before its STOP"},
		{[]byte("\x80\x02K\x01."), "is a pickle, but none of torch.save"},
		{[]byte("\x80\x02cposix\nsystem\n(S'echo hi'\ntR."), "would run code where Python loads it: pickle at offset 2: refuses global posix.system"},
		{bytes.Replace(stream("}."), []byte("M\xe9\x03"), []byte("M\xea\x03"), 1), "the version 1002 (int)"},
		{bytes.Replace(stream("}."), []byte("M\xe9\x03"), []byte("]q\x00h\x00a"), 1), "the version 0 (list)"},
		{bytes.Replace(stream("}."), []byte("\x88s."), []byte("\x89s."), 1), "big-endian machine"},
		{stream("}" + key("w", good) + "s."), `storage "0" is not in the file`},
		{stream("}"+key("w", good)+"s.", "0", ""), `storage "0" has 0 elements at byte`},
		{stream("}"+key("w", good)+"s.", "0", "0123456789abcdef")[:150], "was cut off"},
		{stream("}"+key("w", good)+"s.", "0", "0123456789abcdef", "0", "0123456789abcdef"), `storage "0" stands twice`},
		{stream("}"+key("w", good)+"s.", "1", "0123456789abcdef"), `storage "1" is of an unsupported type, or no tensor has it`},
		{stream("}" + key("w", tensor(strings.Replace(storage, "K\x04", "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x07", 1)+"K\x00(K\x04t(K\x01t")) + "s."), "not in the file"},
		{stream("}" + key("w", tensor(strings.Replace(storage, "tQ", ")tQ", 1)+"K\x00(K\x04t(K\x01t")) + "s."), "is a part of another one"},
		{stream("}" + key("w", "(X\x05\x00\x00\x00othertQ") + "s."), "not that of a storage"},
		{stream("c__builtin__\neval\n(S'1'\ntR."), "refuses global __builtin__.eval"},
		{pt("Vtorch.serialization\nVos.system\n\x93."), "refuses global torch.serialization.os.system"},
		{pt("Vbuiltins\nVexec.__call__\n\x93."), "refuses global builtins.exec.__call__"},
		{pt("c__builtin__\nexec.__call__\n."), "refuses global __builtin__.exec.__call__"},
		{pt("ctorch._utils\nbuiltins.exec\n."), "refuses global torch._utils.builtins.exec"},
		{pt("ctimeit\ntimeit\n."), "refuses global timeit.timeit"},
		{pt("c_pickle\nloads\n."), "refuses global _pickle.loads"},
		{pt("cproject.code\nOuter.Inner\n)\x81."), "holds project.code.Outer.Inner instead of"},
		{stream("csubprocess\nrun\n(S'1'\ntR."), "refuses global subprocess.run"},

		{pt(module(key("w", "K\x01"), "", "") + "."), `"w" is int, not a tensor`},
		{pt(module("", "", key("a", "K\x01")) + "."), `"a" is int, not a module`},
		{pt(module("", "", "K\x01N") + "."), "has int for a name in _modules"},
		{pt(module("", "", key("a", "h\x00")) + "."), `without end, at "a.a.a.`},
		{pt(module("", "", key("a", "h\x00")+key("b", "h\x00")) + "."), `without end, at "a.a.a.`},
		{pt(doubling(good) + "."), "without end"},
		{pt(attributed(1<<14) + "."), "makes a tensor with attributes of function and tuple"},
		{packed("a/data.pkl", "}."), `zip entry "a/data.pkl" is compressed`},
		{overlapping(), "overlap"},
		{sharing(), "too many for a file of this size"},
	} {
		err := readCheaply(t, test.data)
		if !errors.Is(err, ckpt.ErrCorrupt) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.80q: %v, want %q", test.data, err, test.want)
		}
	}
}

// TestRepeating reads pickles of which a few bytes do the same again and again, with large values out of the memo.
func TestRepeating(t *testing.T) {
	const times = 1 << 17
	long := strings.Repeat("x", 1<<19)
	text := func(s string) string { return "X" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(s)))) + s }
	raw := func(s string) string { return "B" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(s)))) + s }
	id := func(kind, key string) string {
		return "(" + kind + "ctorch\nFloatStorage\n" + key + "X\x03\x00\x00\x00cpuK\x04t"
	}
	const inMemo, again = "q\x01", "h\x01"
	ones := "(" + strings.Repeat("K\x01", 63) + "t"
	for name, test := range map[string]struct{ first, repeated string }{
		"values":             {"N", "N"},
		"values that go":     {"N", "N0"},
		"nothing":            {"N", "\x80\x02"},
		"views":              {"ctorch._utils\n_rebuild_tensor_v2\nq\x01(" + storage + "K\x00" + ones + "q\x03h\x03\x89Ntq\x02", again + "h\x02R0"},
		"key of a storage":   {id(text("storage"), raw(long)) + inMemo, again + "Q0"},
		"module of a name":   {text(long) + inMemo, again + "Vname\n\x930"},
		"names":              {text(strings.Repeat("\x01", 500)) + inMemo, again + again + "\x930"},
		"key of dicts":       {text(long) + inMemo, "}" + again + "Ns0"},
		"bytes key of dicts": {raw(long) + inMemo, "}" + again + "Ns0"},
	} {
		t.Run(name, func(t *testing.T) {
			data := pt(test.first + "0" + strings.Repeat(test.repeated, times) + "}.")
			if err := readCheaply(t, data); err != nil && !errors.Is(err, ckpt.ErrCorrupt) {
				t.Error(err)
			}
		})
	}
}

// TestOnes expands one number along 64 dimensions, all but the first of one.
func TestOnes(t *testing.T) {
	data := dict(storage + "K\x02(J\x00\x00\x10\x00" + strings.Repeat("K\x01", 63) + "t(" + strings.Repeat("K\x00", 64) + "t")
	if err := readCheaply(t, data); err != nil {
		t.Fatal(err)
	}
	f, _ := read(data)
	if !bytes.Equal(f.Tensors[0].Data, bytes.Repeat([]byte("89ab"), 1<<20)) {
		t.Error("the elements differ")
	}
}

// TestLists reads the longest lists that each container may have, of the shortest entries.
func TestLists(t *testing.T) {
	list := func(n int, entry string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"%d":%s`, i, entry)
		}
		return "{" + b.String()[1:] + "}"
	}
	const empty = `{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`
	for _, test := range []struct {
		data []byte
		want string
	}{
		{safetensors(list(30000, empty)), ""},
		{safetensors(list(70000, empty)), "more than 30000 keys"},
		{safetensors(`{"__metadata__":` + list(300000, `""`) + "}"), "more than 30000 keys"},
		{safetensors(`{"` + strings.Repeat("x", 4<<20-16) + `":1}`), "found 1 instead of"},
		{safetensors(`{"w":` + strings.Repeat("[", 4<<20-16) + "}"), "found [ instead of"},
		{zipOf(slices.Repeat([]string{"", ""}, 80000)...), "stands twice"},
		{zipOf(slices.Repeat([]string{"", ""}, 100000)...), "longer than 4194304 bytes"},
	} {
		err := readCheaply(t, test.data)
		if err != nil && len(err.Error()) > 2000 {
			t.Errorf("%.80q: an error of %d bytes", test.data, len(err.Error()))
		}
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%.80q: %.200v, want %q", test.data, err, test.want)
		}
	}
	path := filepath.Join(t.TempDir(), "index")
	for text, want := range map[string]string{
		`{"weight_map":` + list(300000, `"a"`) + "}":                             "more than 30000 keys",
		`{"metadata":` + strings.Repeat("[", 3<<20) + `,"weight_map":{}}`:        "exceeded max depth",
		`{"metadata":"` + strings.Repeat("x", 3<<20) + `","weight_map":{"w":1}}`: "no name of a file",
		`{"metadata":"` + strings.Repeat("x", 5<<20) + `","weight_map":{"w":1}}`: "are allowed",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ckpt.Load(path)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %d bytes of memory, %.200v, want %q", text, n, err, want)
		}
	}
}

// readCheaply reads a file that must cost no more than 64 MiB and 100 ms, and 5 s for each MiB of it. A slow machine may try the
// time thrice.
func readCheaply(t *testing.T, data []byte) (err error) {
	t.Helper()
	allowed := 100*time.Millisecond + time.Duration(len(data))*5*time.Second>>20
	fastest := time.Duration(math.MaxInt64)
	for try := 0; try < 3 && fastest > allowed; try++ {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, err = read(data)
		fastest = min(fastest, time.Since(start))
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
			t.Errorf("%.80q takes %d bytes of memory", data, n)
		}
	}
	if fastest > allowed {
		t.Errorf("%.80q takes %v", data, fastest)
	}
	return err
}

// noChecksum clears the checksums in the directory, as torch.serialization.set_crc32_options(False) does.
func noChecksum(data []byte) []byte {
	data = bytes.Clone(data)
	for at := 0; ; at += 46 {
		next := bytes.Index(data[at:], []byte("PK\x01\x02"))
		if next < 0 {
			return data
		}
		at += next
		clear(data[at+16 : at+20])
	}
}

// packed makes an archive of compressed entries, as zipOf makes one of stored ones.
func packed(entries ...string) []byte {
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for i := 0; i < len(entries); i += 2 {
		e, err := w.Create(entries[i])
		if err != nil {
			panic(err)
		}
		if _, err := e.Write([]byte(entries[i+1])); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

const npyHead = "\x93NUMPY"

// npy is a file of numpy.save.
func npy(header, data string) string {
	return npyHead + "\x01\x00" + string(binary.LittleEndian.AppendUint16(nil, uint16(len(header)))) + header + data
}

// overlapping is a file whose directory says that the second storage is where the first one is.
func overlapping() []byte {
	const n = 64 << 10
	pickle := "\x80\x02}("
	entries := []string{}
	for i := range 2 {
		s := strings.NewReplacer("0X", fmt.Sprint(i)+"X", "K\x04", "J\x00\x40\x00\x00").Replace(storage)
		pickle += fmt.Sprintf("X\x01\x00\x00\x00%d", i) + tensor(s+"K\x00(K\x01t(K\x01t")
		entries = append(entries, fmt.Sprint("a/data/", i), strings.Repeat(fmt.Sprint(i), n))
	}
	data := zipOf(append([]string{"a/data.pkl", pickle + "u."}, entries...)...)
	first := 0
	for at := bytes.Index(data, []byte("PK\x01\x02")); at < len(data)-46 && string(data[at:at+4]) == "PK\x01\x02"; {
		name := int(binary.LittleEndian.Uint16(data[at+28:]))
		if strings.HasPrefix(string(data[at+46:at+46+name]), "a/data/") {
			if first == 0 {
				first = at
			}
			copy(data[at+16:at+20], data[first+16:first+20]) // checksum
			copy(data[at+42:at+46], data[first+42:first+46]) // place
		}
		at += 46 + name
	}
	return data
}

// A damaged file is refused or, where only padding changed, read as it was; it never breaks the reader. Cut files are always refused.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.pt", "a.safetensors", "plain.legacy.pt"} {
		path := filepath.Join("testdata", name)
		if strings.HasPrefix(name, "a.") {
			path = filepath.Join(dir, name)
			if err := ckpt.Save(path, sample()); err != nil {
				t.Fatal(err)
			}
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for n := range data {
			if _, err := read(data[:n]); !errors.Is(err, ckpt.ErrCorrupt) {
				t.Errorf("%s: the first %d of %d bytes: %v", name, n, len(data), err)
			}
			bad := bytes.Clone(data)
			bad[n] ^= 0x41
			if _, err := read(bad); err != nil && !errors.Is(err, ckpt.ErrCorrupt) {
				t.Errorf("%s: byte %d changed: %v is no ErrCorrupt", name, n, err)
			}
		}
		bad := filepath.Join(dir, "bad-"+name)
		if err := os.WriteFile(bad, data[:len(data)-1], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ckpt.Load(bad); !errors.Is(err, ckpt.ErrCorrupt) || !strings.HasPrefix(err.Error(), bad+": ") {
			t.Errorf("%v does not name the file", err)
		}
	}
}

// checkRead reads fuzzed bytes. What is accepted must be consistent, of bounded size, and survive saving.
func checkRead(t *testing.T, data []byte, path string) {
	f, err := read(data)
	if err != nil {
		if !errors.Is(err, ckpt.ErrCorrupt) {
			t.Fatalf("%v is no ErrCorrupt", err)
		}
		return
	}
	for _, tensor := range f.Tensors {
		n := int64(tensor.DType.Size())
		for _, s := range tensor.Shape {
			n *= s
		}
		if n != int64(len(tensor.Data)) {
			t.Fatalf("tensor %q of %s %v has %d bytes", tensor.Name, tensor.DType, tensor.Shape, len(tensor.Data))
		}
		if len(tensor.Data) > 16*len(data)+8<<20 {
			t.Fatalf("tensor %q of %d bytes comes from a file of %d", tensor.Name, len(tensor.Data), len(data))
		}
	}
	if err := ckpt.Save(path, f); err != nil {
		return // names that the format cannot hold
	}
	back, err := ckpt.Load(path)
	if err != nil {
		t.Fatalf("what was saved cannot be read: %v", err)
	}
	// A second prefix below the first would be stripped too, which changes names only.
	if f.Format.Prefix == back.Format.Prefix && back.Hash() != f.Hash() {
		t.Fatal("saving changed the weights")
	}
}

func FuzzSafetensors(f *testing.F) {
	f.Add(safetensors(`{"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 1, 2))
	f.Add(safetensors(`{"__metadata__":{"a":"b"},"module.w":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"module.e":{"dtype":"I64","shape":[0,7],"data_offsets":[4,4]}}`, 1, 2, 3, 4))
	path := filepath.Join(f.TempDir(), "a.safetensors")
	f.Fuzz(func(t *testing.T, data []byte) { checkRead(t, data, path) })
}

func FuzzLegacy(f *testing.F) {
	for _, name := range []string{"views.legacy.pt", "module.legacy.pt", "compiled.legacy.pt"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add(stream("}Vw\n"+tensor(storage+"K\x00(K\x02K\x02t(K\x02K\x01t")+"s.", "0", "0123456789abcdef"))
	path := filepath.Join(f.TempDir(), "a.pt")
	f.Fuzz(func(t *testing.T, data []byte) { checkRead(t, data, path) })
}

func FuzzNPZ(f *testing.F) {
	for _, name := range []string{"arrays.npz", "packed.npz"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	// Bytes that are no zip file stand for the array inside one.
	f.Add([]byte(npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 1), }", "abcdefgh")))
	path := filepath.Join(f.TempDir(), "a.npz")
	f.Fuzz(func(t *testing.T, data []byte) {
		if !bytes.HasPrefix(data, []byte("PK")) {
			data = zipOf("w.npy", string(data))
		}
		checkRead(t, data, path)
	})
}

func FuzzShards(f *testing.F) {
	dir := f.TempDir()
	if err := ckpt.Save(filepath.Join(dir, "a.safetensors"), sample()); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"metadata": {"total_size": 35}, "weight_map": {"fc.weight": "a.safetensors", "bn.num_batches_tracked": "a.safetensors", "mask": "a.safetensors", "empty": "a.safetensors"}}`))
	path := filepath.Join(dir, "model.safetensors.index.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := ckpt.Load(path)
		if err == nil && len(data) > 0 && data[0] == '{' && !bytes.Contains(data, []byte{0}) && len(file.Tensors) != 0 && file.Hash() != sample().Hash() {
			t.Errorf("%q gives other tensors than the shard has", data)
		}
	})
}

func FuzzPT(f *testing.F) {
	for _, name := range []string{"views.pt", "parallel.pt", "module.pt"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	// Bytes that are no zip file stand for the pickle inside one, because mutations rarely survive its checksum.
	f.Add([]byte("\x80\x02}X\x01\x00\x00\x00w" + tensor(storage+"K\x00(K\x02K\x02t(K\x02K\x01t") + "s."))
	f.Add([]byte("\x80\x02}X\x01\x00\x00\x00w" + tensor(storage+"K\x01(K\x03K\x02t(K\x00K\x01t") + "s."))
	path := filepath.Join(f.TempDir(), "a.pt")
	f.Fuzz(func(t *testing.T, data []byte) {
		if !bytes.HasPrefix(data, []byte("PK")) {
			data = pt(string(data))
		}
		checkRead(t, data, path)
	})
}
