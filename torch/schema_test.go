package torch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestSchemas holds every operator that ops.go declares against the linked libtorch: word for word when it is the pinned
// one, else by the check that Define makes.
func TestSchemas(t *testing.T) {
	lock, err := os.ReadFile("../third_party/libtorch.lock")
	if err != nil {
		t.Fatal(err)
	}
	pinned := regexp.MustCompile(`(?m)^version (\S+)$`).FindSubmatch(lock)
	if pinned == nil {
		t.Fatal("libtorch.lock names no version")
	}
	ops, _, problems := parseOps("ops.go", nil)
	if len(problems) > 0 || len(ops) < 90 {
		t.Fatalf("%d operators found, problems: %v", len(ops), problems)
	}
	for name, schema := range ops {
		if err := Try(func() {
			if got := Define(schema).Schema(); string(pinned[1]) == Build().Version && got != schema {
				t.Errorf("%s is declared as\n%s\nlibtorch has\n%s", name, schema, got)
			}
		}); err != nil {
			t.Error(err)
		}
	}
}

// TestWrappers holds every Go method and function of ops.go against the schema of its operator.
func TestWrappers(t *testing.T) {
	for _, p := range checkWrappers("ops.go", nil) {
		t.Error(p)
	}
}

// TestWrapperChecker shows that the checker of TestWrappers sees each kind of mistake.
func TestWrapperChecker(t *testing.T) {
	const conv = `var opConv = Define("aten::conv(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=[1, 1], int groups=1, ScalarType? out_dtype=None) -> Tensor")
`
	const relu = `var opReluI = Define("aten::relu_(Tensor(a!) self) -> Tensor(a!)")
`
	const top = `var opTop = Define("aten::top(Tensor self, int k, bool sorted) -> (Tensor values, Tensor indices)")
`
	for _, c := range []struct{ name, source, want string }{
		{"right", conv + `func (t Tensor) Conv(weight, bias Tensor, stride []int64, groups int64, outDtype Dtype) Tensor { return opConv.One(t, weight, bias, stride, groups, outDtype) }`, ""},
		{"right in place", relu + `func (t Tensor) ReluI() { opReluI.Do(t) }`, ""},
		{"right function", top + `func Top(t Tensor, k int64) (values, indices Tensor) { return opTop.Two(t, k, true) }`, ""},
		{"name", conv + `func (t Tensor) Conv(kernel, bias Tensor) Tensor { return opConv.One(t, kernel, bias) }`, "kernel stands for weight"},
		{"receiver", conv + `func (t Tensor) Conv(input Tensor) Tensor { return opConv.One(input, t) }`, "t stands for weight"},
		{"order", conv + `func (t Tensor) Conv(bias, weight Tensor) Tensor { return opConv.One(t, bias, weight) }`, "bias stands for weight"},
		{"order of parameters", conv + `func (t Tensor) Conv(bias, weight Tensor) Tensor { return opConv.One(t, weight, bias) }`, "parameters in another order"},
		{"type", conv + `func (t Tensor) Conv(weight, bias Tensor, stride int64) Tensor { return opConv.One(t, weight, bias, stride) }`, "int64 stride for SymInt[2]"},
		{"dtype", conv + `func (t Tensor) Conv(weight, bias Tensor, stride []int64, groups, outDtype int64) Tensor { return opConv.One(t, weight, bias, stride, groups, outDtype) }`, "int64 outDtype for ScalarType?"},
		{"float", conv + `func (t Tensor) Conv(weight, bias Tensor, stride []int64, groups float64) Tensor { return opConv.One(t, weight, bias, stride, groups) }`, "float64 groups for int"},
		{"missing default", conv + `func (t Tensor) Conv() Tensor { return opConv.One(t) }`, "weight is left out and has no default"},
		{"too many", relu + `func (t Tensor) ReluI(a Tensor) { opReluI.Do(t, a) }`, "2 arguments for 1"},
		{"literal", top + `func (t Tensor) Top(k int64) (values, indices Tensor) { return opTop.Two(t, k, 1) }`, "1 for bool sorted"},
		{"nil", conv + `func (t Tensor) Conv() Tensor { return opConv.One(t, nil) }`, "nil for Tensor weight"},
		{"unused", conv + `func (t Tensor) Conv(weight, bias Tensor) Tensor { return opConv.One(t, weight) }`, "bias is not used"},
		{"results", top + `func (t Tensor) Top(k int64) Tensor { return opTop.One(t, k, true) }`, "One for 2 results"},
		{"in place kept", relu + `func (t Tensor) ReluI() Tensor { return opReluI.One(t) }`, "in place needs Do"},
		{"in place name", `var opRelu = Define("aten::relu_(Tensor(a!) self) -> Tensor(a!)")
func (t Tensor) Relu() { opRelu.Do(t) }`, "suffix I"},
		{"no wrapper", relu, "opReluI has no wrapper ReluI"},
		{"expression", conv + `func (t Tensor) Conv(weight Tensor) Tensor { return opConv.One(t, weight.Neg()) }`, "not a plain argument"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(checkWrappers("case.go", "package torch\n"+c.source), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("the checker says %q, want %q", got, c.want)
			}
		})
	}
}

// parseOps returns the schemas of the operators a source declares, by variable.
func parseOps(name string, source any) (ops map[string]string, file *ast.File, problems []string) {
	file, err := parser.ParseFile(token.NewFileSet(), name, source, 0)
	if err != nil {
		return nil, nil, []string{err.Error()}
	}
	ops = map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if call, ok := spec.Values[0].(*ast.CallExpr); ok && isIdent(call.Fun, "Define") {
			schema, err := strconv.Unquote(call.Args[0].(*ast.BasicLit).Value)
			if err != nil {
				problems = append(problems, err.Error())
			}
			ops[spec.Names[0].Name] = schema
		}
		return true
	})
	return ops, file, problems
}

type schemaArg struct {
	typ, name  string
	hasDefault bool
}

// parseSchema reads "aten::f(Tensor(a!) self, *, int[2] n=[1, 1]) -> (Tensor, Tensor)".
func parseSchema(s string) (args []schemaArg, results int) {
	s = regexp.MustCompile(`\([a-z](!| -> \*)?\)`).ReplaceAllString(s, "")
	head, tail, _ := strings.Cut(s, ") -> ")
	_, head, _ = strings.Cut(head, "(")
	for _, a := range splitTop(head) {
		if a == "*" {
			continue
		}
		decl, _, hasDefault := strings.Cut(a, "=")
		typ, name, _ := strings.Cut(decl, " ")
		args = append(args, schemaArg{typ, name, hasDefault})
	}
	return args, len(splitTop(strings.Trim(tail, "()")))
}

func splitTop(s string) []string {
	var out []string
	depth, start := 0, 0
	for i, r := range s + "," {
		switch r {
		case '[', '(':
			depth++
		case ']', ')':
			depth--
		case ',':
			if part := strings.TrimSpace(s[start:i]); depth == 0 && part != "" {
				out, start = append(out, part), i+1
			}
		}
	}
	return out
}

// plain drops what makes no difference to the Go type: optional, symbolic, fixed lengths.
func plain(typ string) string {
	typ = strings.TrimSuffix(strings.ReplaceAll(typ, "SymInt", "int"), "?")
	return regexp.MustCompile(`\[\d+\]`).ReplaceAllString(typ, "[]")
}

var goTypes = map[string][]string{
	"Tensor": {"Tensor"}, "float64": {"float", "Scalar"}, "int64": {"int"}, "bool": {"bool"}, "[]int64": {"int[]"},
	"[]Tensor": {"Tensor[]", "Tensor?[]"}, "Dtype": {"ScalarType"}, "MemoryFormat": {"MemoryFormat"}, "Device": {"Device"},
}

// The names that Go code uses where the schema's would not read well.
var otherNames = map[string][]string{"self": {"t", "a"}, "input": {"t"}, "other": {"b"}, "mat2": {"b"}}

func camel(name string) string {
	parts := strings.Split(name, "_")
	for i := 1; i < len(parts); i++ {
		parts[i] = strings.ToUpper(parts[i][:1]) + parts[i][1:]
	}
	return strings.Join(parts, "")
}

func isIdent(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}

// checkWrappers returns what is wrong with the wrappers of a source: see the cases of TestWrapperChecker.
func checkWrappers(name string, source any) (problems []string) {
	ops, file, problems := parseOps(name, source)
	if file == nil {
		return problems
	}
	wrapped := map[string]bool{}
	for _, d := range file.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		complain := func(format string, args ...any) {
			problems = append(problems, fn.Name.Name+": "+fmt.Sprintf(format, args...))
		}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if id, ok := sel.X.(*ast.Ident); ok && ops[id.Name] != "" {
				wrapped[id.Name+" "+fn.Name.Name] = true
				checkCall(fn, sel.Sel.Name, ops[id.Name], call.Args, complain)
			}
			return true
		})
	}
	for op := range ops {
		if want := strings.TrimPrefix(op, "op"); !wrapped[op+" "+want] {
			problems = append(problems, op+" has no wrapper "+want)
		}
	}
	return problems
}

func checkCall(fn *ast.FuncDecl, how, schema string, args []ast.Expr, complain func(string, ...any)) {
	want, results := parseSchema(schema)
	base, _, _ := strings.Cut(strings.TrimPrefix(schema, "aten::"), "(")
	base, _, _ = strings.Cut(base, ".")
	inPlace := strings.HasSuffix(base, "_")
	if inPlace != strings.HasSuffix(fn.Name.Name, "I") {
		complain("the suffix I belongs to operators in place, and to all of them")
	}
	switch number := map[string]int{"One": 1, "Two": 2, "Three": 3, "Call": results}[how]; {
	case inPlace != (how == "Do"):
		complain("in place needs Do, and nothing else does")
	case !inPlace && number != results:
		complain("%s for %d results", how, results)
	}

	var names []string // parameters, the receiver first
	types := map[string]string{}
	declare := func(fields *ast.FieldList) {
		for _, f := range fields.List {
			typ := f.Type
			if variadic, ok := typ.(*ast.Ellipsis); ok {
				typ = &ast.ArrayType{Elt: variadic.Elt}
			}
			text := ""
			switch x := typ.(type) {
			case *ast.Ident:
				text = x.Name
			case *ast.ArrayType:
				text = "[]" + x.Elt.(*ast.Ident).Name
			}
			for _, id := range f.Names {
				names = append(names, id.Name)
				types[id.Name] = text
			}
		}
	}
	if fn.Recv != nil {
		declare(fn.Recv)
	}
	declare(fn.Type.Params)

	if len(args) > len(want) {
		complain("%d arguments for %d", len(args), len(want))
		return
	}
	var used []string
	for i, e := range args {
		a := want[i]
		convert := ""
		if c, ok := e.(*ast.CallExpr); ok && len(c.Args) == 1 && (isIdent(c.Fun, "int64") || isIdent(c.Fun, "number")) {
			convert, e = c.Fun.(*ast.Ident).Name, c.Args[0]
		}
		var text string
		switch x := e.(type) {
		case *ast.Ident:
			text = x.Name
		case *ast.BasicLit:
			text = x.Value
		default:
			complain("argument %d is not a plain argument", i+1)
			continue
		}
		typ, isParameter := types[text]
		if !isParameter {
			if fits := map[string]string{"true": "bool", "false": "bool", "Float": "ScalarType", "Long": "ScalarType"}[text]; fits != plain(a.typ) &&
				(text != "nil" || !strings.HasSuffix(a.typ, "?")) {
				complain("%s for %s %s", text, a.typ, a.name)
			}
			continue
		}
		used = append(used, text)
		isReceiver := fn.Recv != nil && text == names[0]
		switch {
		case isReceiver && i == 0:
		case isReceiver || text != camel(a.name) && !slices.Contains(otherNames[a.name], text):
			complain("%s stands for %s", text, a.name)
			continue
		}
		switch {
		case convert == "int64" && typ == "Reduction" && a.name == "reduction":
			typ = "int64"
		case convert == "number" && (typ != "float64" || a.typ != "Scalar"), convert == "int64":
			complain("%s(%s) for %s", convert, text, a.typ)
		}
		if !slices.Contains(goTypes[typ], plain(a.typ)) {
			complain("%s %s for %s", typ, text, a.typ)
		}
	}
	for _, a := range want[len(args):] {
		if !a.hasDefault {
			complain("%s is left out and has no default", a.name)
		}
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == "requiresGrad" })
	for _, n := range names {
		if !slices.Contains(used, n) {
			complain("%s is not used", n)
		}
	}
	inOrder := slices.IsSortedFunc(names, func(a, b string) int { return slices.Index(used, a) - slices.Index(used, b) })
	if !inOrder && fn.Name.Name != "To" { // PyTorch's Tensor.to takes the device first, and so does gotorch
		complain("parameters in another order than the schema's arguments")
	}
}
