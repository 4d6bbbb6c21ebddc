package cuda

import "l2ul/torch"

// Memory is how full a device is, in bytes. libtorch keeps what tensors gave back, so Reserved is at least Allocated.
type Memory struct {
	Allocated, PeakAllocated int64 // in tensors of this process
	Reserved, PeakReserved   int64 // taken from the device by this process
	Free, Total              int64 // of the device, whoever uses it
}

var (
	opMemory     = torch.Define("torchgo_cuda::memory(int device) -> int[]")
	opResetPeaks = torch.Define("torchgo_cuda::reset_peaks(int device) -> ()")
	opEmptyCache = torch.Define("torchgo_cuda::empty_cache() -> ()")
	opPinMemory  = torch.Define("aten::pin_memory(Tensor(a) self, Device? device=None) -> Tensor(a)")
	opCopy       = torch.Define("aten::copy_(Tensor(a!) self, Tensor src, bool non_blocking=False) -> Tensor(a!)")
)

// MemoryOf returns the state of a device's memory.
func MemoryOf(dev torch.Device) Memory {
	m := opMemory.Call(dev.Index)[0].([]int64)
	return Memory{m[0], m[1], m[2], m[3], m[4], m[5]}
}

// ResetPeaks makes the peaks of a device's memory what is in use now.
func ResetPeaks(dev torch.Device) { opResetPeaks.Do(dev.Index) }

// EmptyCache gives the memory that no tensor uses back to the devices, for other processes.
func EmptyCache() { opEmptyCache.Do() }

// Pin copies a tensor of the CPU into memory that devices reach by themselves: only from and to it does [Copy] return
// before it is done.
func Pin(t torch.Tensor) torch.Tensor { return opPinMemory.One(t) }

// Copy queues dst ← src on the current stream. Where one of them is pinned memory of the CPU, leave that alone until an
// event behind the copy is done.
func Copy(dst, src torch.Tensor) { opCopy.Do(dst, src, true) }
