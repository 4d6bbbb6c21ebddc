// What the CUDA half of the operator library needs of the CPU half, where schemas and checks are.
#pragma once

#include <c10/core/Device.h>
#include <torch/library.h>

#include "bodies.h"

namespace l2ul {

// Gives the operators their implementations on one kind of device: the checks of ops.cc around its bodies, which run on
// what `current_stream` returns for a device.
void implement(torch::Library& library, c10::DeviceType kind, const Bodies& bodies,
               Stream (*current_stream)(c10::DeviceIndex));

}  // namespace l2ul
