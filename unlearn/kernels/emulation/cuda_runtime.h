// Just enough of CUDA to run cuda.cu on the CPU, so that a machine without a GPU can test what the kernels compute: put
// this folder before CUDA's on the include path and compile cuda.cu as C++.
//
// The threads of a block are coroutines on one thread of the CPU. They take turns at barriers, in rising order in one
// block and in falling order in the next: a result that depends on the order shows. A barrier that not all threads of a
// block reach ends the process.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(threads)
#define __shared__ static  // one block runs at a time

struct dim3 {
  unsigned x;
};

namespace emulation {

inline dim3 block, thread;

// The threads of one block.
class Block {
 public:
  explicit Block(unsigned threads) : threads_(threads), stacks_(threads * kStack) {}

  void run(const std::function<void()>& kernel, bool falling) {
    kernel_ = &kernel;
    running_ = this;
    for (Thread& t : threads_) t.state = Thread::New;
    for (size_t finished = 0, waiting = 0; finished < threads_.size();) {
      finished = waiting = 0;
      for (unsigned i = 0; i < threads_.size(); ++i) {
        current_ = falling ? static_cast<unsigned>(threads_.size()) - 1 - i : i;
        resume();
        (threads_[current_].state == Thread::Finished ? finished : waiting)++;
      }
      if (finished > 0 && waiting > 0) fail("some threads of a block ended while others wait at a barrier");
    }
  }

  static void barrier() {
    Thread& t = running_->threads_[running_->current_];
    if (_setjmp(t.here) == 0) _longjmp(running_->scheduler_, 1);
  }

  // What thread `lane` of this thread's warp holds in v.
  static double exchange(double v, int mask) {
    static double held[1024];
    const unsigned me = thread.x;
    held[me] = v;
    barrier();
    const double other = held[me ^ static_cast<unsigned>(mask)];
    barrier();
    return other;
  }

 private:
  static constexpr size_t kStack = 64 << 10;

  struct Thread {
    enum { New, Waiting, Finished } state = New;
    jmp_buf here;
    ucontext_t start;
  };

  [[noreturn]] static void fail(const char* what) {
    std::fprintf(stderr, "CUDA emulation: %s\n", what);
    std::abort();
  }

  void resume() {
    Thread& t = threads_[current_];
    thread.x = current_;
    if (_setjmp(scheduler_) != 0) return;
    if (t.state == Thread::Waiting) _longjmp(t.here, 1);
    t.state = Thread::Waiting;
    getcontext(&t.start);
    t.start.uc_stack.ss_sp = &stacks_[current_ * kStack];
    t.start.uc_stack.ss_size = kStack;
    makecontext(&t.start, enter, 0);
    setcontext(&t.start);
  }

  static void enter() {
    (*running_->kernel_)();
    running_->threads_[running_->current_].state = Thread::Finished;
    _longjmp(running_->scheduler_, 1);
  }

  static inline Block* running_;

  const std::function<void()>* kernel_ = nullptr;
  std::vector<Thread> threads_;
  std::vector<char> stacks_;
  jmp_buf scheduler_;
  unsigned current_ = 0;
};

}  // namespace emulation

#define blockIdx emulation::block
#define threadIdx emulation::thread

inline void __syncthreads() { emulation::Block::barrier(); }
inline double __shfl_xor_sync(unsigned, double v, int mask) { return emulation::Block::exchange(v, mask); }

inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline long min(long a, long b) { return a < b ? a : b; }

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }

inline cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t) {
  std::memset(at, value, bytes);
  return cudaSuccess;
}

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  void* attrs;
  unsigned numAttrs;
};

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  static emulation::Block block(config->blockDim.x);
  for (unsigned i = 0; i < config->gridDim.x; ++i) {
    emulation::block.x = i;
    block.run([&] { kernel(arguments...); }, i % 2 == 1);
  }
  return cudaSuccess;
}
