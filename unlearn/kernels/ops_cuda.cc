//go:build ignore

// libl2ul_cuda.so: the operators on CUDA. It adds bodies to the checks and schemas of libl2ul.so, which is loaded with
// it.

#include <c10/cuda/CUDAStream.h>

#include "ops.h"

namespace l2ul {
namespace {

Stream current_stream(c10::DeviceIndex device) { return c10::cuda::getCurrentCUDAStream(device).stream(); }

TORCH_LIBRARY_IMPL(l2ul, CUDA, m) { implement(m, c10::DeviceType::CUDA, cuda_bodies, current_stream); }

}  // namespace
}  // namespace l2ul
