// Package cuda opens NVIDIA GPUs for package torch and reaches what no tensor operator does: streams, events, pinned
// memory, graphs, and how full a device is.
//
// One program serves machines with and without a GPU. [Open] loads the CUDA halves of the bridge and of libtorch, which
// are libraries of their own, and says what is missing where it cannot. It must come before the first tensor, because
// libtorch looks for CUDA once. All else here panics with a [*torch.Error] unless Open has succeeded.
//
//	if err := cuda.Open(); err != nil {
//		return err // "no NVIDIA driver: …"
//	}
//	return torch.Run(torch.CUDA(0), func() error {
//		x := torch.RandN([]int64{2, 3}, false).To(torch.CUDA(0), torch.Float)
//		fmt.Println(x.Relu().Sum().Item()) // Item waits for the device
//		return nil
//	})
//
// Work on a device is queued on a stream and runs later: an error of a kernel shows at a later call.
package cuda

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"l2ul/torch"
)

// Library is the file name of the bridge's CUDA half, which lies beside the bridge.
const Library = "libtorchgo_cuda.so"

// The oldest devices that our own kernels are compiled for: compute capability 8.0.
const oldestMajor, oldestMinor = 8, 0

var opened atomic.Bool

// Open makes the GPUs usable. The first call does the work, in about half a second; later ones return what it returned.
// The error names what is missing: the driver, a library, a device, or a version.
func Open() error { return open() }

// Opened reports whether Open has succeeded.
func Opened() bool { return opened.Load() }

var open = sync.OnceValue(func() error {
	if err := torch.LoadLibrary("libcuda.so.1"); err != nil {
		return fmt.Errorf("no NVIDIA driver: %s", reason(err))
	}
	if os.Getenv("CUBLAS_WORKSPACE_CONFIG") == "" { // without it cuBLAS may give other bits at each run
		if err := os.Setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8"); err != nil {
			return err
		}
	}
	if err := torch.LoadLibrary(Library); err != nil {
		return missing(reason(err))
	}
	devices, err := Devices()
	if err != nil {
		return fmt.Errorf("CUDA does not start: %s", reason(err))
	}
	for _, d := range devices {
		if d.Major < oldestMajor || d.Major == oldestMajor && d.Minor < oldestMinor {
			return fmt.Errorf("%v, %s, has compute capability %d.%d; %d.%d or newer is needed (CUDA_VISIBLE_DEVICES can hide it)",
				d.Device, d.Name, d.Major, d.Minor, oldestMajor, oldestMinor)
		}
	}
	opened.Store(true)
	return nil
})

// missing says how to get the library that the loader did not find.
func missing(reason string) error {
	library, _, notFound := strings.Cut(reason, ": cannot open shared object file")
	switch {
	case !notFound:
		return fmt.Errorf("%s does not fit the libraries around it: %s", Library, reason)
	case library == Library:
		return fmt.Errorf("%s is not beside the program's other libraries; `make cuda` builds it", library)
	default:
		return fmt.Errorf("%s is missing, a part of libtorch for CUDA; `make cuda-libtorch` gets it", library)
	}
}

// reason is what an error of the bridge says, less the call that failed.
func reason(err error) string {
	if e, ok := err.(*torch.Error); ok { //nolint:errorlint // LoadLibrary and Try return it bare
		return e.Msg
	}
	return err.Error()
}

// Properties describe a device.
type Properties struct {
	Device       torch.Device
	Name         string
	Major, Minor int   // compute capability
	Memory       int64 // bytes
	Processors   int   // streaming multiprocessors
}

var (
	opDevices    = torch.Define("torchgo_cuda::devices() -> int")
	opProperties = torch.Define("torchgo_cuda::properties(int device) -> (str, int, int, int, int)")
	opVersions   = torch.Define("torchgo_cuda::versions() -> (int, int)")
	opAllowTF32  = torch.Define("torchgo_cuda::allow_tf32(bool on) -> ()")
)

// Devices returns the devices that CUDA_VISIBLE_DEVICES leaves, at least one, or libtorch's error.
func Devices() (list []Properties, err error) {
	err = torch.Try(func() {
		for i := range opDevices.Call()[0].(int64) {
			p := opProperties.Call(i)
			list = append(list, Properties{
				torch.CUDA(int(i)), p[0].(string), int(p[1].(int64)), int(p[2].(int64)), p[3].(int64), int(p[4].(int64)),
			})
		}
	})
	return list, err
}

// Versions returns the newest CUDA that the driver serves and the runtime in use, as "13.0".
func Versions() (driver, runtime string) {
	v := opVersions.Call()
	name := func(v any) string { return fmt.Sprintf("%d.%d", v.(int64)/1000, v.(int64)%1000/10) }
	return name(v[0]), name(v[1])
}

// tf32 is what AllowTF32 was told last.
var tf32 atomic.Bool

// AllowTF32 says whether float32 matrix products and convolutions may round their inputs to the 10 bits of TF32, which
// is several times faster. It holds for the process; libtorch's default allows it for convolutions alone.
func AllowTF32(on bool) {
	opAllowTF32.Do(on)
	tf32.Store(on)
}

// TF32 reports whether AllowTF32 allows it.
func TF32() bool { return tf32.Load() }

// Float32 does work without TF32, for the process, and allows it again if it was.
func Float32(work func()) {
	if TF32() {
		AllowTF32(false)
		defer AllowTF32(true)
	}
	work()
}
