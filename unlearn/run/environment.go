package run

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"l2ul/torch"
	"l2ul/unlearn/kernels"
)

// Version of the program, which main knows; empty when it was built without one.
var Version string

// CurrentVersions returns the versions of this program. One built without a version names its commit, if it knows it.
func CurrentVersions() Versions {
	return Versions{Unlearn: ownVersion(), Libtorch: torch.Build().Version, Go: runtime.Version()}
}

func ownVersion() string {
	if Version != "" {
		return Version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			revision = "-" + s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	return "devel" + revision + dirty
}

// Environment is env.json: what decides the bits beside the configuration.
type Environment struct {
	Versions  Versions          `json:"versions"`
	Platform  string            `json:"platform"` // operating system and architecture
	Processor string            `json:"processor"`
	Flags     []string          `json:"processor_flags"`  // the vector instruction sets among them
	Kernels   string            `json:"libtorch_kernels"` // the instruction set libtorch chose
	Operators string            `json:"operators"`        // sha256 of our operator library, "" where the system does not tell
	Cores     int               `json:"cores"`
	Variables map[string]string `json:"variables"`
}

// CurrentEnvironment describes this process.
func CurrentEnvironment() Environment {
	e := Environment{
		Versions: CurrentVersions(), Platform: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU(),
		Kernels: torch.Build().CPUCapability, Operators: operators(),
		Flags: []string{}, Variables: map[string]string{},
	}
	e.Processor, e.Flags = processor()
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		for _, prefix := range []string{"UNLEARN_", "OMP_", "MKL_", "ONEDNN_", "ATEN_", "CUBLAS_", "CUDA_VISIBLE_"} {
			if strings.HasPrefix(name, prefix) {
				e.Variables[name] = value
			}
		}
	}
	return e
}

// operators hashes the operator library that is loaded.
var operators = sync.OnceValue(func() string {
	if kernels.Load() != nil {
		return ""
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(maps)) {
		at := strings.IndexByte(line, '/')
		if at < 0 || filepath.Base(strings.TrimSpace(line[at:])) != kernels.Library {
			continue
		}
		library, err := os.ReadFile(strings.TrimSpace(line[at:]))
		if err != nil {
			return ""
		}
		sum := sha256.Sum256(library)
		return hex.EncodeToString(sum[:])
	}
	return ""
})

// processor reads the model and the flags that change which kernels libtorch takes. Both are empty where the system
// does not tell.
func processor() (model string, flags []string) {
	flags = []string{}
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "", flags
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<16)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		switch strings.TrimSpace(key) {
		case "model name":
			model = strings.TrimSpace(value)
		case "flags":
			for _, flag := range strings.Fields(value) {
				if slices.ContainsFunc([]string{"sse4_2", "avx", "fma", "amx"}, func(p string) bool { return strings.HasPrefix(flag, p) }) {
					flags = append(flags, flag)
				}
			}
			return model, flags
		}
	}
	return model, flags
}
