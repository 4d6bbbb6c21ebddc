//go:build ignore

// libtorchgo_cuda.so: what Go needs of CUDA beyond tensors on it. No header goes with it: like everything else it is
// reached through the door of operators, as torchgo_cuda::*, once package torch/cuda has opened the library. Events and
// graphs are numbers there, the addresses of what is made here; whoever made one frees it.

#include <ATen/Context.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/Event.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;
using c10::cuda::CUDAStream;

template <class T>
T& at_address(int64_t address) {
  return *reinterpret_cast<T*>(address);
}

template <class T>
int64_t address_of(T* made) {
  return reinterpret_cast<int64_t>(made);
}

c10::Device cuda(int64_t device) { return {c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device)}; }

// A stream of PyTorch's pools is its device and a number.
CUDAStream stream(int64_t device, int64_t id) {
  return CUDAStream(CUDAStream::UNCHECKED, c10::Stream(c10::Stream::UNSAFE, cuda(device), id));
}

// The number of devices, at least one: libtorch's error says what is wrong with the driver.
int64_t devices() {
  const auto count = c10::cuda::device_count_ensure_non_zero();
  TORCH_CHECK(at::globalContext().hasCUDA(),
              "CUDA was opened after the first tensor was made, and libtorch looks for it once; open it first");
  return count;
}

// Name, compute capability (major, minor), bytes of memory, processors.
std::tuple<std::string, int64_t, int64_t, int64_t, int64_t> properties(int64_t device) {
  cudaDeviceProp p;
  C10_CUDA_CHECK(cudaGetDeviceProperties(&p, static_cast<int>(device)));
  return {p.name, p.major, p.minor, static_cast<int64_t>(p.totalGlobalMem), p.multiProcessorCount};
}

// The newest CUDA that the driver serves, and the runtime that is loaded: 1000 x major + 10 x minor.
std::tuple<int64_t, int64_t> versions() {
  int driver = 0, runtime = 0;
  C10_CUDA_CHECK(cudaDriverGetVersion(&driver));
  C10_CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
  return {driver, runtime};
}

// Bytes: in tensors, their peak, taken from the device, their peak, free on the device, all of it.
std::vector<int64_t> memory(int64_t device) {
  const c10::cuda::CUDAGuard guard(cuda(device));
  size_t free = 0, total = 0;
  C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  const auto stats = allocator::getDeviceStats(static_cast<c10::DeviceIndex>(device));
  const auto& allocated = stats.allocated_bytes[0];
  const auto& reserved = stats.reserved_bytes[0];
  return {allocated.current,          allocated.peak, reserved.current, reserved.peak, static_cast<int64_t>(free),
          static_cast<int64_t>(total)};
}

// Whether a stream is being captured, be it in vain.
bool capturing(CUDAStream stream) {
  auto status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream.stream(), &status) == cudaSuccess && status != cudaStreamCaptureStatusNone;
}

// A graph whose captures leave nothing behind when they fail. CUDAGraph leaves everything as it is at the failure: the
// stream captures, both allocators ask a graph that is soon gone about every allocation and keep its pools for ever,
// and generators refuse to draw. Where a capture has ended well, CUDAGraph::reset gives all of that back.
class Graph : public at::cuda::CUDAGraph {
 public:
  // Takes what the current stream is given into the graph, which shares the memory of `like` unless that is null. Calls
  // of other threads do not spoil it, and enter it only where they go to its stream, as those of autograd's do.
  void begin(const Graph* like) {
    TORCH_CHECK(!capturing(c10::cuda::getCurrentCUDAStream()), "the stream is captured already; captures do not nest");
    const auto pool = like == nullptr ? at::cuda::graph_pool_handle() : like->mempool_id_;
    try {
      capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    } catch (...) {
      abandon(/*begun=*/false);
      throw;
    }
  }

  void end() {
    try {
      capture_end();
    } catch (...) {
      abandon(/*begun=*/true);
      throw;
    }
  }

 private:
  // begun says that capture_begin came to its end; without that, an allocator has a pool of this graph only where it
  // says that it fills one.
  void abandon(bool begun) noexcept {
    if (capturing(capture_stream_)) {
      cudaGraph_t unfinished = nullptr;
      (void)cudaStreamEndCapture(capture_stream_.stream(), &unfinished);
      if (unfinished != nullptr) (void)cudaGraphDestroy(unfinished);
    }
    for (auto& [generator, increment] : captured_generator_states_) generator->capturing_ = false;
    if (!capture_ended_) {
      if (graph_ != nullptr) (void)cudaGraphDestroy(std::exchange(graph_, nullptr));
      give_back(
          begun, [&] { allocator::endAllocateToPool(capture_dev_, mempool_id_); },
          [&] { allocator::releasePool(capture_dev_, mempool_id_); });
      auto* host = at::getHostAllocator(at::kCUDA);
      give_back(begun, [&] { host->end_allocate_to_pool(mempool_id_); }, [&] { host->release_pool(mempool_id_); });
    }
    (void)cudaGetLastError();  // else the next kernel's launch would be blamed for what failed here
  }

  template <class End, class Release>
  static void give_back(bool begun, End end, Release release) noexcept {
    try {
      end();
      begun = true;
    } catch (...) {  // it no longer fills the pool, or never did
    }
    if (!begun) return;
    try {
      release();
    } catch (...) {  // the first failure is the one to tell
    }
  }
};

TORCH_LIBRARY(torchgo_cuda, m) {
  m.def("devices() -> int", devices);
  m.def("properties(int device) -> (str, int, int, int, int)", properties);
  m.def("versions() -> (int, int)", versions);
  m.def("exchange_device(int device) -> int",
        [](int64_t device) -> int64_t { return c10::cuda::ExchangeDevice(static_cast<c10::DeviceIndex>(device)); });
  m.def("allow_tf32(bool on) -> ()", [](bool on) {
    at::globalContext().setAllowTF32CuBLAS(on);
    at::globalContext().setAllowTF32CuDNN(on);
  });

  m.def("memory(int device) -> int[]", memory);
  m.def("reset_peaks(int device) -> ()",
        [](int64_t device) { allocator::resetPeakStats(static_cast<c10::DeviceIndex>(device)); });
  m.def("empty_cache() -> ()", [] { allocator::emptyCache(); });
  m.def("synchronize(int device) -> ()", [](int64_t device) {
    const c10::cuda::CUDAGuard guard(cuda(device));
    c10::cuda::device_synchronize();
  });

  m.def("stream_new(int device) -> int", [](int64_t device) -> int64_t {
    return c10::cuda::getStreamFromPool(/*isHighPriority=*/false, static_cast<c10::DeviceIndex>(device)).id();
  });
  m.def("stream_current(int device) -> int", [](int64_t device) -> int64_t {
    return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device)).id();
  });
  m.def("stream_set(int device, int stream) -> ()",
        [](int64_t device, int64_t id) { c10::cuda::setCurrentCUDAStream(stream(device, id)); });
  m.def("stream_synchronize(int device, int stream) -> ()",
        [](int64_t device, int64_t id) { stream(device, id).synchronize(); });

  m.def("event_new() -> int", []() -> int64_t {
    return address_of(new c10::Event(c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT));  // with a clock
  });
  m.def("event_record(int event, int device, int stream) -> ()", [](int64_t event, int64_t device, int64_t id) {
    at_address<c10::Event>(event).record(stream(device, id).unwrap());
  });
  m.def("event_wait(int event, int device, int stream) -> ()", [](int64_t event, int64_t device, int64_t id) {
    at_address<c10::Event>(event).block(stream(device, id).unwrap());
  });
  m.def("event_synchronize(int event) -> ()", [](int64_t event) { at_address<c10::Event>(event).synchronize(); });
  m.def("event_done(int event) -> bool", [](int64_t event) { return at_address<c10::Event>(event).query(); });
  m.def("event_elapsed(int event, int later) -> float", [](int64_t event, int64_t later) {
    return at_address<c10::Event>(event).elapsedTime(at_address<c10::Event>(later));
  });
  m.def("event_free(int event) -> ()", [](int64_t event) { delete &at_address<c10::Event>(event); });

  m.def("graph_new() -> int", []() -> int64_t { return address_of(new Graph); });
  m.def("graph_begin(int graph, int like) -> ()", [](int64_t graph, int64_t like) {
    at_address<Graph>(graph).begin(like == 0 ? nullptr : &at_address<Graph>(like));
  });
  m.def("graph_end(int graph) -> ()", [](int64_t graph) { at_address<Graph>(graph).end(); });
  m.def("graph_replay(int graph) -> ()", [](int64_t graph) { at_address<Graph>(graph).replay(); });
  m.def("graph_free(int graph) -> ()", [](int64_t graph) { delete &at_address<Graph>(graph); });
}

}  // namespace
