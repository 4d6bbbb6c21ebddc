package pickle_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"l2ul/torch/ckpt/pickle"
)

// plain turns pickle values into nested Go values that go-cmp and people can read.
func plain(v any) any {
	list := func(tag string, items []any) any {
		out := []any{tag}
		for _, item := range items {
			out = append(out, plain(item))
		}
		return out
	}
	switch v := v.(type) {
	case []byte:
		return "b:" + string(v)
	case *big.Int:
		return "int:" + v.String()
	case *pickle.List:
		return list("list", v.Items)
	case pickle.Tuple:
		return list("tuple", v)
	case *pickle.Set:
		return list("set", v.Items)
	case *pickle.Array:
		return fmt.Sprintf("%s%v %x", v.DType, v.Shape, v.Data)
	case *pickle.Dict:
		m := map[any]any{}
		for k, v := range v.All() {
			m[plain(k)] = plain(v)
		}
		return m
	}
	return v
}

// The files were written by CPython and NumPy: one value in each protocol.
func TestLoadProtocols(t *testing.T) {
	want := map[any]any{
		"b:data":      "u1[2 6] 000102030405060708090a0b",
		"b:labels":    []any{"list", int64(3), int64(9)},
		"b:filenames": []any{"list", "b:a.png", "b:b\xff.png"},
		"mean":        "f4[3 2] 0000c03f00002040000060400000904000" + "00b0400000d040",
		"best":        0.25,
		"set":         []any{"set", int64(1)},
		"order":       map[any]any{"a": int64(1)},
		"big":         "int:1180591620717411303424",
		"none":        nil,
		"minus":       int64(-129),
		"yes":         true,
		"text":        "für\n\U0001F600",
		"tuple":       []any{"tuple", int64(1), []any{"tuple", 2.5}, "x", "b:y"},
	}
	for protocol := range 6 {
		data, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("batch%d.pkl", protocol)))
		if err != nil {
			t.Fatal(err)
		}
		v, err := pickle.Load(bytes.NewReader(data), pickle.Options{Globals: pickle.NumPy()})
		if err != nil {
			t.Errorf("protocol %d: %v", protocol, err)
			continue
		}
		if diff := cmp.Diff(any(want), plain(v)); diff != "" {
			t.Errorf("protocol %d (-want +got):\n%s", protocol, diff)
		}
		for n := range data {
			if _, err := pickle.Load(bytes.NewReader(data[:n]), pickle.Options{Globals: pickle.NumPy()}); err == nil {
				t.Errorf("protocol %d: the first %d of %d bytes were accepted", protocol, n, len(data))
			}
		}
	}
}

// Python 2 wrote the official CIFAR archives: str where Python 3 has bytes and str, and numpy.core.
func TestLoadPython2(t *testing.T) {
	const array = "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR" +
		"(K\x01(K\x02K\x03tcnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06abcdeftb"
	v, err := pickle.Load(strings.NewReader("\x80\x02}(U\x04data"+array+"U\x06labels](K\x06K\x09eU\x05names]S'a\\'\\xff\\n'\na"+
		"u."), pickle.Options{Globals: pickle.NumPy()})
	if err != nil {
		t.Fatal(err)
	}
	want := map[any]any{
		"b:data": "u1[2 3] 616263646566", "b:labels": []any{"list", int64(6), int64(9)},
		"b:names": []any{"list", "b:a'\xff\n"},
	}
	if diff := cmp.Diff(any(want), plain(v)); diff != "" {
		t.Error(diff)
	}
	if labels, ok := v.(*pickle.Dict).Get("labels"); !ok {
		t.Error("the bytes key labels is not found by Get")
	} else if ints, err := pickle.Ints(labels); err != nil || !cmp.Equal(ints, []int64{6, 9}) {
		t.Errorf("labels = %v, %v", ints, err)
	}
}

// What the files above do not use.
func TestOpcodes(t *testing.T) {
	pair := []any{"tuple", int64(1), int64(2)}
	scalar := func(code string, data string) string {
		return "cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\x00\x00\x00" + code + "\x89\x88tRU" +
			string(rune(len(data))) + data + "tR."
	}
	for data, want := range map[string]any{
		"(K\x01K\x02t.":                                   pair,
		"(K\x09K\x010K\x01K\x02\x86.":                     pair, // POP drops a value
		"K\x01(0K\x02\x86.":                               pair, // POP drops the mark
		"K\x01(NN1K\x02\x86.":                             pair, // POP_MARK
		"K\x01q\x07K\x02\x860j\x07\x00\x00\x00K\x02\x86.": pair,
		"K\x022\x86.":                                     []any{"tuple", int64(2), int64(2)}, // DUP
		"(K\x01l.":                                        []any{"list", int64(1)},
		"(Va\nI5\nd.":                                     map[any]any{"a": int64(5)},
		"}Va\nNsVa\nK\x01s.":                              map[any]any{"a": int64(1)}, // a key set twice
		"I-7\n.":                                          int64(-7),
		"L12L\n.":                                         int64(12),
		"I18446744073709551616\n.":                        "int:18446744073709551616",
		"\x8b\x02\x00\x00\x00\xff\x7f.":                   int64(0x7fff),
		"M\xff\xff.":                                      int64(0xffff),
		"F2.5\n.":                                         2.5,
		`V\ud83d\ude00\ud800` + "\n.":                     "\U0001F600\uFFFD",
		`V\U0001F600` + "\n.":                             "\U0001F600",
		"c__builtin__\nbytes\n)R.":                        "b:",
		"cbuiltins\nbytearray\n(C\x01atR.":                "b:a",
		"cbuiltins\nbytearray\n)R.":                       "b:",
		"cbuiltins\nbytearray\n(Va\nVlatin-1\ntR.":        "b:a",
		"\x96\x01\x00\x00\x00\x00\x00\x00\x00a\x98.":      "b:a",
		"\x8d\x01\x00\x00\x00\x00\x00\x00\x00a.":          "a",
		"cbuiltins\nset\n)R.":                             []any{"set"},
		"cbuiltins\nfrozenset\n(](K\x01etR.":              []any{"set", int64(1)},
		"(K\x01\x91.":                                     []any{"set", int64(1)},
		"ccollections\nOrderedDict\n(](](K\x01K\x02eK\x03K\x04\x86etR}b.": map[any]any{int64(1): int64(2), int64(3): int64(4)},
		"ccollections\nCounter\n(}K\x01K\x02stR.":                         map[any]any{int64(1): int64(2)},
		"ccollections\nOrderedDict\n)}\x92.":                              map[any]any{},
		"(icollections\nOrderedDict\n.":                                   map[any]any{},
		"(ccollections\nOrderedDict\no.":                                  map[any]any{},
		"Pkey\n.":                                                         []any{"tuple", "key"},
		scalar("b1", "\x01"):                                              true,
		scalar("i2", "\xfe\xff"):                                          int64(-2),
		scalar("u2", "\xfe\xff"):                                          int64(0xfffe),
		scalar("f4", "\x00\x00\x20\x40"):                                  2.5,
	} {
		v, err := pickle.Load(strings.NewReader(data), pickle.Options{
			Globals: pickle.NumPy(), Persistent: func(id any) (any, error) { return pickle.Tuple{id}, nil },
		})
		if err != nil {
			t.Errorf("%q: %v", data, err)
		} else if diff := cmp.Diff(want, plain(v)); diff != "" {
			t.Errorf("%q: %s", data, diff)
		}
	}
}

// Keys that Go cannot compare are kept, in order, though never found.
func TestOddKeys(t *testing.T) {
	v, err := pickle.Load(strings.NewReader("}(K\x01K\x02\x86K\x03]K\x04Va\nK\x05C\x01aK\x06u."), pickle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := v.(*pickle.Dict)
	var values []any
	for _, value := range d.All() {
		values = append(values, value)
	}
	if want := []any{int64(3), int64(4), int64(5), int64(6)}; d.Len() != 4 || !cmp.Equal(values, want) {
		t.Errorf("values %v, want %v", values, want)
	}
	if a, _ := d.Get("a"); a != int64(5) {
		t.Errorf("a = %v, want that of the str key, 5", a)
	}
}

func TestRefused(t *testing.T) {
	for name, data := range map[string]string{
		"posix.system":                    "cposix\nsystem\n(S'echo hi'\ntR.",
		"os.system":                       "\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02hi\x85R.",
		"builtins.eval":                   "(S'1'\nibuiltins\neval\n.",
		"builtins.getattr":                "\x80\x02cbuiltins\ngetattr\n.",
		"numpy.core.multiarray.scalar":    "cnumpy.core.multiarray\nscalar\n.", // known to NumPy() only
		"torch.nn.modules.linear.Linear":  "ctorch.nn.modules.linear\nLinear\n)\x81.",
		`a\x1b[2J.b`:                      "ca\x1b[2J\nb\n.",
		"collections.OrderedDict.__new__": "\x8c\x0bcollections\x8c\x13OrderedDict.__new__\x93.",
	} {
		_, err := pickle.Load(strings.NewReader(data), pickle.Options{})
		var e *pickle.Error
		if !errors.As(err, &e) || e.Global != name || !strings.Contains(err.Error(), "refuses global "+name+":") {
			t.Errorf("%q: %v, want a refusal of %s", data, err, name)
		}
	}
}

// Names that Options.Inert allows may be called, filled and mentioned, and nothing comes of it but their state.
func TestInert(t *testing.T) {
	allow := pickle.Options{Inert: func(module, _ string) bool { return module == "lib" }}
	for data, state := range map[string]any{
		"clib\nNet\n)\x81}Va\nK\x01sb.":                    map[any]any{"a": int64(1)},
		"clib\nNet\n)\x81}Va\nK\x01sN\x86b.":               map[any]any{"a": int64(1)}, // with __slots__
		"clib\nNet\n(K\x01K\x02tR.":                        nil,
		"clib\nNet\n)}Va\nK\x01s\x92.":                     nil, // keyword arguments
		"clib\nNet\n)R)R.":                                 nil, // what a call gave is called
		"clib\nNet\n)\x81(K\x01e.":                         nil, // a list
		"clib\nNet\n)\x81(Va\nK\x01u.":                     nil, // a dict
		"\x80\x04\x8c\x03lib\x8c\x03Net\x93)\x81]K\x01ab.": []any{"list", int64(1)},
	} {
		v, err := pickle.Load(strings.NewReader(data), allow)
		if err != nil {
			t.Errorf("%q: %v", data, err)
			continue
		}
		o, ok := v.(*pickle.Object)
		if !ok || o.Class != "lib.Net" || !cmp.Equal(plain(o.State), state) {
			t.Errorf("%q: %#v, want a lib.Net with state %v", data, v, state)
		}
	}
	_, err := pickle.Load(strings.NewReader("cliberty\nNet\n)R."), allow)
	if e, ok := errors.AsType[*pickle.Error](err); !ok || e.Global != "liberty.Net" {
		t.Errorf("%v, want a refusal", err)
	}
}

// Several pickles in a row are read one by one.
func TestNewReader(t *testing.T) {
	in := pickle.NewReader(strings.NewReader("K\x01.K\x02.rest"))
	for want := int64(1); want <= 2; want++ {
		if v, err := pickle.Load(in, pickle.Options{}); err != nil || v != any(want) {
			t.Errorf("%v, %v, want %d", v, err, want)
		}
	}
	if rest, err := io.ReadAll(in); err != nil || string(rest) != "rest" {
		t.Errorf("%q and %v are left", rest, err)
	}
}

func TestMalformed(t *testing.T) {
	numpy := func(state string) string {
		return "cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR(K\x01" + state + "tb."
	}
	const u1 = "cnumpy\ndtype\n(X\x02\x00\x00\x00u1\x89\x88tR"
	for data, want := range map[string]string{
		"":                                      "cut off",
		"\xff":                                  "opcode 0xff is unknown",
		".":                                     "empty stack",
		"\x80\x06N.":                            "protocol 6 is unknown",
		"K\x01(0a.":                             "empty stack",
		"K\x01((a.":                             "empty stack",
		"t.":                                    "mark that was never set",
		"]K\x01K\x02s.":                         "sets entries of list",
		"}K\x01a.":                              "appends to dict",
		"}(K\x01u.":                             "a key without a value",
		"h\x05.":                                "memo 5",
		"Np-1\n.":                               "negative",
		"K\x01)R.":                              "calls int",
		"K\x01}b.":                              "sets the state of int",
		"I1x\n.":                                `"1x" is no integer`,
		"Fabc\n.":                               "no float",
		"S'a\n.":                                "no quotes",
		`S'\u00e9'` + "\n.":                     "wrong escape",
		"V\\u12\n.":                             "wrong escape",
		"X\x01\x00\x00\x00\xff.":                "not UTF-8",
		"Nq":                                    "cut off",
		"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.": "impossible",
		"\x8e\x00\x00\x00\x00\x01\x00\x00\x00.": "needs 4294967296 bytes of memory",
		"T\x00\x00\x00\x20abc.":                 "cut off", // half a GiB is claimed, within the budget
		"\x8b\x00\x00\x00\x10.":                 "too long",
		"I" + strings.Repeat("9", 2000) + "\n.": "too long",
		"V" + strings.Repeat("x", 2<<20):        "a line is longer",
		"K\x01Q.":                               "persistent id",
		"\x82\x01.":                             "extension registry",
		"\x97.":                                 "outside the pickle",
		"c_codecs\nencode\n(V\\u1234\nVlatin1\ntR.":                                                        "no such character",
		"c_codecs\nencode\n(VY29k\nVbase64\ntR.":                                                           "something else than a string as latin1",
		"cnumpy\ndtype\n(X\x02\x00\x00\x00O8\x89\x88tR.":                                                   `type "O8" is not supported`,
		numpy("(J\xff\xff\xff\xfft" + u1 + "\x89C\x01a"):                                                   "does not fit",
		numpy("(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ft" + u1 + "\x89C\x01a"):                                  "does not fit",
		numpy("(K\x02t" + u1 + "\x89C\x01a"):                                                               "does not fit",
		numpy("(K\x01t" + u1 + "\x89C\x02ab"):                                                              "has 2 bytes instead of 1",
		numpy("(K\x00t" + u1 + "\x89C\x02ab"):                                                              "has 2 bytes instead of 0",
		numpy("(K\x01t" + u1 + "\x89]"):                                                                    "data of a numpy.ndarray is list",
		numpy("(K\x01tcnumpy\ndtype\n(X\x02\x00\x00\x00i2\x89\x88tR(K\x03X\x01\x00\x00\x00>tb\x89C\x02ab"): "big-endian (>i2)",
	} {
		_, err := pickle.Load(strings.NewReader(data), pickle.Options{Globals: pickle.NumPy()})
		var e *pickle.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", data, err, want)
		}
	}
}

// A few bytes of input must not take much memory, whatever they repeat.
func TestBudget(t *testing.T) {
	long := "X\x00\x00\x10\x00" + strings.Repeat("a", 1<<20) + "q\x00"
	many := "](" + strings.Repeat("N", 1<<16) + "eq\x00"
	for name, data := range map[string]string{
		"stack":   strings.Repeat("N", 1<<19),
		"marks":   strings.Repeat("(", 1<<22),
		"memo":    "Nq\x00" + strings.Repeat("h\x00", 1<<19),
		"encode":  long + "Vlatin1\nq\x01(" + strings.Repeat("c_codecs\nencode\n(h\x00h\x01tR", 1<<10),
		"sets":    many + "(" + strings.Repeat("cbuiltins\nset\n(h\x00tR", 1<<10),
		"texts":   long + strings.Repeat("}h\x00Ns", 1<<10),
		"shapes":  "cnumpy.core.numeric\n_frombuffer\nq\x00(C\x01acnumpy\ndtype\n(Vu1\ntR(" + strings.Repeat("K\x01", 64) + "tVC\ntq\x01" + strings.Repeat("h\x00h\x01R0", 1<<14),
		"opcodes": strings.Repeat("\x80\x02", 13<<20),
		"keys":    "T\x00\x00\x10\x00" + strings.Repeat("a", 1<<20) + "q\x00" + strings.Repeat("}h\x00Ns", 1<<10),
	} {
		_, err := pickle.Load(strings.NewReader(data+"."), pickle.Options{MaxMemory: 12 << 20, Globals: pickle.NumPy()})
		if err == nil || !strings.Contains(err.Error(), "more than the") {
			t.Errorf("%s: %.200v, want the memory limit", name, err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _ = pickle.Load(strings.NewReader("T\x00\x00\x00\x20abc."), pickle.Options{})
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 4<<20 {
		t.Errorf("a lying length of 512 MiB allocates %d bytes", allocated)
	}
}

// Dimensions of one change no order.
func TestOnes(t *testing.T) {
	const n = 1 << 18
	data := bytes.Repeat([]byte{1, 2}, n/2)
	shape := "(K\x02J" + string(binary.LittleEndian.AppendUint32(nil, n/2)) + strings.Repeat("K\x01", 62) + "t"
	program := "cnumpy.core.numeric\n_frombuffer\n(B" + string(binary.LittleEndian.AppendUint32(nil, n)) + string(data) + "cnumpy\ndtype\n(Vu1\ntR" + shape + "VF\ntR."
	v, err := pickle.Load(strings.NewReader(program), pickle.Options{Globals: pickle.NumPy()})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := v.(*pickle.Array).Data, slices.Concat(bytes.Repeat([]byte{1}, n/2), bytes.Repeat([]byte{2}, n/2)); !bytes.Equal(got, want) {
		t.Error("the order is wrong")
	}
}

// Values that contain themselves are legal and must not hang the reader.
func TestSelfReference(t *testing.T) {
	v, err := pickle.Load(strings.NewReader("]q\x00h\x00a."), pickle.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if l := v.(*pickle.List); l.Items[0] != any(l) {
		t.Errorf("the list holds %v, not itself", l.Items[0])
	}
}

// A failing reader is not the pickle's fault.
func TestReaderError(t *testing.T) {
	failure := errors.New("disk on fire")
	_, err := pickle.Load(io.MultiReader(strings.NewReader("\x80\x02"), iotest.ErrReader(failure)), pickle.Options{})
	var e *pickle.Error
	if !errors.Is(err, failure) || errors.As(err, &e) {
		t.Errorf("got %#v, want the reader's own error", err)
	}
}

func FuzzPickle(f *testing.F) {
	files, err := filepath.Glob("testdata/*.pkl")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("cposix\nsystem\n(S'echo hi'\ntR."))
	f.Add([]byte("]q\x00h\x00a."))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := pickle.Load(bytes.NewReader(data), pickle.Options{
			Globals: pickle.NumPy(), Inert: func(module, _ string) bool { return module != "posix" },
			Persistent: func(id any) (any, error) { return id, nil }, MaxMemory: 16 << 20,
		})
		var e *pickle.Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("%v is no *pickle.Error", err)
		}
		if a, ok := v.(*pickle.Array); ok && a.DType != "" {
			n := 1
			for _, s := range a.Shape {
				n *= s
			}
			if len(a.Data)%max(n, 1) != 0 || (n == 0) != (len(a.Data) == 0) {
				t.Errorf("shape %v with %d bytes", a.Shape, len(a.Data))
			}
		}
	})
}

func ExampleLoad() {
	// {'labels': [6, 9]} in protocol 2.
	batch := "\x80\x02}q\x00X\x06\x00\x00\x00labelsq\x01]q\x02(K\x06K\x09es."
	v, err := pickle.Load(strings.NewReader(batch), pickle.Options{Globals: pickle.NumPy()})
	if err != nil {
		fmt.Println(err)
		return
	}
	labels, _ := v.(*pickle.Dict).Get("labels")
	ints, err := pickle.Ints(labels)
	fmt.Println(ints, err)

	_, err = pickle.Load(strings.NewReader("cos\nsystem\n(S'rm -rf /'\ntR."), pickle.Options{})
	fmt.Println(err)
	// Output:
	// [6 9] <nil>
	// pickle at offset 0: refuses global os.system: it is not among the names that may stand in this kind of file (nothing was executed)
}
