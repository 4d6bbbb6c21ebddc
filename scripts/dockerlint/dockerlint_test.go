// Package dockerlint checks Dockerfile.cuda without Docker: BuildKit's own linter reads it, resolving stages and
// arguments, and what that does not know is asserted on its syntax tree. It is a module of its own, because BuildKit
// brings many packages that nothing else here needs.
package dockerlint

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

var root = filepath.Join("..", "..")

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// anyImage stands for a registry: every base image is there and empty.
type anyImage struct{}

func (anyImage) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config, err := json.Marshal(specs.Image{Platform: specs.Platform{OS: "linux", Architecture: "amd64"}})
	return ref, digest.FromBytes(config), config, err
}

// complaints lists what the linter says of a Dockerfile.
func complaints(t *testing.T, text []byte) []string {
	t.Helper()
	result, err := dockerfile2llb.DockerfileLint(t.Context(), text, dockerfile2llb.ConvertOpt{
		MetaResolver: anyImage{},
		SourceMap:    &llb.SourceMap{Definition: &llb.Definition{}, Filename: "Dockerfile.cuda"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, w := range result.Warnings {
		list = append(list, w.RuleName+": "+w.Detail)
	}
	if result.Error != nil {
		list = append(list, "error: "+result.Error.Message)
	}
	return list
}

func TestLinter(t *testing.T) {
	for _, c := range complaints(t, read(t, "Dockerfile.cuda")) {
		t.Error(c)
	}
}

// The stub of a registry must not keep the linter from working.
func TestLinterFinds(t *testing.T) {
	got := strings.Join(complaints(t, []byte("FROM debian:12 as a\nMAINTAINER me\nWORKDIR here\nENV TOKEN=x\nCMD run\n")), "\n")
	for _, rule := range []string{"FromAsCasing", "MaintainerDeprecated", "WorkdirRelativePath", "SecretsUsedInArgOrEnv", "JSONArgsRecommended"} {
		if !strings.Contains(got, rule) {
			t.Errorf("no %s in\n%s", rule, got)
		}
	}
	if got := complaints(t, []byte("FROM debian:12\nRNU true\n")); len(got) == 0 {
		t.Error("a mistyped instruction passes")
	}
}

// file is a Dockerfile's syntax tree: the arguments before the first stage, and the stages.
type file struct {
	args   map[string]string
	stages []instructions.Stage
}

func parse(t *testing.T) file {
	t.Helper()
	tree, err := parser.Parse(bytes.NewReader(read(t, "Dockerfile.cuda")))
	if err != nil {
		t.Fatal(err)
	}
	stages, args, err := instructions.Parse(tree.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	f := file{map[string]string{}, stages}
	for _, a := range args {
		for _, kv := range a.Args {
			f.args[kv.Key] = kv.ValueString()
		}
	}
	return f
}

// commands yields a kind of instruction of a stage.
func commands[T any](stage instructions.Stage) (list []T) {
	for _, c := range stage.Commands {
		if c, ok := c.(T); ok {
			list = append(list, c)
		}
	}
	return list
}

func TestFinalStage(t *testing.T) {
	f := parse(t)
	final := f.stages[len(f.stages)-1]
	users := commands[*instructions.UserCommand](final)
	if len(users) == 0 || strings.HasPrefix(users[len(users)-1].User, "0") || strings.HasPrefix(users[len(users)-1].User, "root") {
		t.Error("the container runs as root")
	}
	entry := commands[*instructions.EntrypointCommand](final)
	if len(entry) != 1 || entry[0].PrependShell || !slices.Equal(entry[0].CmdLine, []string{"tini", "--", "unlearn"}) {
		t.Error(`ENTRYPOINT must be ["tini", "--", "unlearn"]: signals have to reach the program`)
	}
	env := map[string]string{}
	for _, e := range commands[*instructions.EnvCommand](final) {
		for _, kv := range e.Env {
			env[kv.Key] = kv.Value
		}
	}
	for key, want := range map[string]string{"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"} {
		if env[key] != want {
			t.Errorf("%s is %q, want %q: without it the container sees no GPU", key, env[key], want)
		}
	}
	labels := map[string]bool{}
	for _, l := range commands[*instructions.LabelCommand](final) {
		for _, kv := range l.Labels {
			labels[kv.Key] = true
		}
	}
	for _, name := range []string{"title", "version", "revision", "licenses", "base.name", "base.digest"} {
		if !labels["org.opencontainers.image."+name] {
			t.Errorf("no label org.opencontainers.image.%s", name)
		}
	}
}

func TestPackages(t *testing.T) {
	for _, stage := range parse(t).stages {
		for _, run := range commands[*instructions.RunCommand](stage) {
			line := strings.Join(run.CmdLine, " ")
			if strings.Contains(line, "apt-get install") && !(strings.Contains(line, "--no-install-recommends") && strings.Contains(line, "rm -rf /var/lib/apt/lists/*")) {
				t.Errorf("installs more than it names, or keeps the lists: %s", line)
			}
		}
	}
}

func TestVersions(t *testing.T) {
	f := parse(t)
	wanted := regexp.MustCompile(`(?m)^go (\d+\.\d+\.)`).FindSubmatch(read(t, "go.mod"))
	if !strings.HasPrefix(f.args["GO_VERSION"], string(wanted[1])) {
		t.Errorf("GO_VERSION is %s, go.mod says %s", f.args["GO_VERSION"], wanted[0])
	}
	build := regexp.MustCompile(`(?m)^build \S+\+cu(\d+)`).FindSubmatch(read(t, "third_party/libtorch.lock"))
	if cuda := strings.Split(f.args["CUDA_VERSION"], "."); len(cuda) != 3 || cuda[0]+cuda[1] != string(build[1]) {
		t.Errorf("CUDA_VERSION is %s, libtorch is built with CUDA %s", f.args["CUDA_VERSION"], build[1])
	}
	for _, stage := range f.stages {
		if !strings.Contains(stage.BaseName, ":") && !slices.ContainsFunc(f.stages, func(s instructions.Stage) bool { return s.Name == stage.BaseName }) ||
			strings.Contains(stage.BaseName, ":latest") {
			t.Errorf("FROM %s has no fixed tag", stage.BaseName)
		}
	}
}

// What the build stage takes of the sources is there, and what the final stage takes of it, some target builds.
func TestSources(t *testing.T) {
	makefile := string(read(t, "Makefile")) + string(read(t, "scripts/link-libtorch.sh"))
	for _, stage := range parse(t).stages {
		for _, c := range commands[*instructions.CopyCommand](stage) {
			for _, source := range c.SourcePaths {
				if inside, built := strings.CutPrefix(source, "/src/"); built {
					_, err := os.Stat(filepath.Join(root, inside))
					name := strings.TrimPrefix(inside, "lib/libtorch/")
					if err != nil && !strings.Contains(makefile, name) {
						t.Errorf("COPY --from=%s %s: no target builds it", c.From, source)
					}
				} else if c.From == "" {
					if _, err := os.Stat(filepath.Join(root, source)); err != nil {
						t.Errorf("COPY %s: %v", source, err)
					}
				}
			}
		}
	}
}
