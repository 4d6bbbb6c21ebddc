package run

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"l2ul/torch"
	"l2ul/torch/cuda"
	"l2ul/unlearn/kernels"
	"l2ul/unlearn/run/config"
)

// Health is the verdict of a check.
type Health string

// The verdicts.
const (
	Sound  Health = "ok"
	Absent Health = "absent" // not there, and not needed
	Broken Health = "broken"
)

// Check is one finding of Doctor.
type Check struct {
	Name   string `json:"name"`
	Status Health `json:"status"`
	Detail string `json:"detail"`
}

// Doctor looks at everything a job needs before it reads its inputs, and computes for a moment. autoFiles are the
// configuration files that are read unasked.
func Doctor(autoFiles []string) []Check {
	env := CurrentEnvironment()
	checks := []Check{
		{"program", Sound, fmt.Sprintf("%s, %s, %s", env.Versions.Unlearn, env.Versions.Go, env.Platform)},
		{"processor", Sound, fmt.Sprintf("%s, %d cores, %s", env.Processor, env.Cores, strings.Join(env.Flags, " "))},
		{"libtorch", Sound, fmt.Sprintf("%s, %s kernels", env.Versions.Libtorch, env.Kernels)},
	}
	// CUDA first: it must be opened before the self-test makes a tensor.
	checks = append(checks, checkCUDA()...)
	checks = append(checks,
		verdict("operators", "the library of our own operators loads", kernels.Load()),
		verdict("arithmetic", "forward, backward and a generator give the known values", selfTest(torch.CPU)),
		checkCache(),
	)
	for _, path := range autoFiles {
		checks = append(checks, checkFile(path))
	}
	return checks
}

func verdict(name, detail string, err error) Check {
	if err != nil {
		return Check{name, Broken, err.Error()}
	}
	return Check{name, Sound, detail}
}

// checkCUDA describes the driver, the libraries and each GPU, or says what computing on one lacks.
func checkCUDA() []Check {
	if err := cuda.Open(); err != nil {
		return []Check{{"cuda", Absent, err.Error()}}
	}
	devices, err := cuda.Devices()
	if err != nil {
		return []Check{{"cuda", Broken, err.Error()}}
	}
	driver, runtime := cuda.Versions()
	checks := []Check{{"cuda", Sound, fmt.Sprintf("driver for CUDA %s, runtime %s", driver, runtime)}}
	for _, p := range devices {
		free := float64(cuda.MemoryOf(p.Device).Free)
		detail := fmt.Sprintf("%s, compute capability %d.%d, %d processors, %.1f of %.1f GiB free, computes",
			p.Name, p.Major, p.Minor, p.Processors, free/(1<<30), float64(p.Memory)/(1<<30))
		checks = append(checks, verdict(p.Device.String(), detail, selfTest(p.Device)))
	}
	return checks
}

// selfTest compares a few operations with values known by heart.
func selfTest(device torch.Device) error {
	return torch.Run(device, func() error {
		x := torch.FromSlice([]float32{1, 2, 3, 4}, 2, 2).To(device, torch.Float).Detach().SetRequiresGrad(true)
		torch.MM(x, x).Sum().Backward()
		// d/dX of the sum of all entries of X·X is (row sums of X, transposed) + (column sums of X), entry by entry.
		got, want := torch.ToSlice[float32](x.Grad()), []float32{7, 11, 9, 13}
		for i := range want {
			if math.Abs(float64(got[i]-want[i])) > 1e-6 {
				return fmt.Errorf("the gradient of a matrix product is %v, not %v", got, want)
			}
		}
		var draw []int64
		g := torch.NewGenerator(0)
		defer g.Free()
		torch.Seeded(g, func() { draw = torch.ToSlice[int64](torch.RandPerm(50000).Narrow(0, 0, 3)) })
		if draw[0] != 36044 || draw[1] != 49165 || draw[2] != 37807 {
			return fmt.Errorf("randperm under seed 0 begins with %v, not [36044 49165 37807]", draw)
		}
		return nil
	})
}

// CacheDir is where downloaded and computed things are kept between runs.
func CacheDir() (string, error) {
	if dir := os.Getenv("UNLEARN_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir() // $XDG_CACHE_HOME, or .cache in the home folder
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "unlearn"), nil
}

func checkCache() Check {
	dir, err := CacheDir()
	if err != nil {
		return Check{"cache", Broken, err.Error() + "; set UNLEARN_CACHE"}
	}
	switch info, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return Check{"cache", Absent, dir + " will be made when needed"}
	case err != nil:
		return Check{"cache", Broken, fmt.Sprintf("%s: %v", dir, reason(err))}
	case !info.IsDir():
		return Check{"cache", Broken, dir + " is not a folder"}
	}
	return Check{"cache", Sound, dir}
}

func checkFile(path string) Check {
	name := filepath.Base(path)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return Check{name, Absent, path}
	}
	catalog, err := Catalog()
	if err != nil {
		return Check{name, Broken, err.Error()}
	}
	for _, spec := range catalog {
		if _, err := catalog.Resolve(spec.Verb, config.Sources{Auto: []string{path}}); err != nil {
			return Check{name, Broken, err.Error()}
		}
	}
	return Check{name, Sound, path}
}
