#include "cuda/device.cuh"
#include "cuda/error.h"

namespace wgangp_fast::cuda {

const char* last_error() {
#ifdef __CUDACC__
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
#else
  return nullptr;  // emulated launches throw
#endif
}

}  // namespace wgangp_fast::cuda
