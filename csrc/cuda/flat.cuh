// Kernels that go once over flat arrays: every thread takes U packs of W elements, all of whose loads are
// under way before the first is used. Bytes in flight are what bandwidth is made of: on an H100 about 20 KiB
// for each multiprocessor.
#pragma once

#include "cuda/device.cuh"

namespace wgangp_fast::cuda {

// Which packs of flat arrays a thread takes, and up to where they are read whole.
struct FlatSpan {
  int64_t first, step;  // its packs begin at first, first + step, ...
  int64_t whole, count;
};

template <int W>
__device__ __forceinline__ FlatSpan flat_span(int64_t block, int thread, int packs, int64_t whole,
                                              int64_t count) {
  return {(block * packs * kThreads + thread) * W, int64_t{kThreads} * W, whole, count};
}

template <class Body>
__global__ void __launch_bounds__(kThreads) flat_kernel(Body body, int64_t whole, int64_t count) {
  body(flat_span<Body::kWidth>(blockIdx.x, static_cast<int>(threadIdx.x), Body::kPacks, whole, count));
}

// body(span) for every thread; `vectors` where all of the arrays are aligned. 2^31 blocks are 2^40 elements
// and more, so no thread needs a second round.
template <class Body>
void launch_flat(const Body& body, bool vectors, int64_t count, void* stream) {
  if (count == 0) return;
  const int64_t whole = vectors ? count / Body::kWidth * Body::kWidth : 0;
  const int64_t blocks = ceil_div(count, int64_t{kThreads} * Body::kWidth * Body::kPacks);
  launch(flat_kernel<Body>, blocks, kThreads, stream, body, whole, count);
}

}  // namespace wgangp_fast::cuda
