// The GPU of a call: made current, its stream asked for, its launches checked. Empty without CUDA.
#ifdef WGANGP_FAST_CUDA

#include "binding.h"
#include "cuda/error.h"

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
  const char* const error = cuda::last_error();
  if (error) fail(op, "CUDA error at its launch: ", error);
}

}  // namespace wgangp_fast::binding

#endif
