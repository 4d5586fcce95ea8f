// The GPU of a call: made current, its stream asked for, its launches checked. Empty without CUDA.
#ifdef WGANGP_FAST_CUDA

#include <cuda_runtime_api.h>

#include "binding.h"

// Weak: a torch without CUDA lacks it, and the library, built with CUDA, must load there too.
extern "C" [[gnu::weak]] AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                           void** ret_stream);

namespace wgangp_fast::binding {

Place::Place(const Array& a) : cuda_(a.device_type == aoti_torch_device_type_cuda()) {
  if (!cuda_) return;
  guard_.emplace(a.device_index);
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(a.device_index, &stream_));
}

void Place::check(const char* op) const {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return;
  fail(op, "CUDA error at its launch: ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
}

}  // namespace wgangp_fast::binding

#endif
