// Where the elements of a sample lie, for sums that may take them in any order.
#pragma once

#include <utility>

#include "cuda/device.cuh"

namespace wgangp_fast::cuda {

struct SampleLayout {
  int64_t n, k, batch_stride;
  bool dense;  // the k elements of a sample are neighbours
  int32_t dims;
  Divider size[8];
  int64_t stride[8];

  // Dimensions in the order of memory, merged where they touch: any dense permutation becomes flat.
  explicit SampleLayout(const Strided& from)
      : n(from.n), k(1), batch_stride(from.batch_stride), dense(false), dims(0) {
    int64_t sizes[8];
    for (int d = 0; d < from.dims; ++d) {
      k *= from.size[d];
      if (from.size[d] == 1) continue;
      sizes[dims] = from.size[d];
      stride[dims] = from.stride[d];
      for (int i = dims; i > 0 && stride[i - 1] < stride[i]; --i) {
        std::swap(stride[i - 1], stride[i]);
        std::swap(sizes[i - 1], sizes[i]);
      }
      ++dims;
    }
    if (k == 0) dims = 0;
    int merged = 0;
    for (int d = 0; d < dims; ++d) {
      if (merged > 0 && stride[merged - 1] == stride[d] * sizes[d]) {
        sizes[merged - 1] *= sizes[d];
        stride[merged - 1] = stride[d];
      } else {
        sizes[merged] = sizes[d];
        stride[merged] = stride[d];
        ++merged;
      }
    }
    dims = merged;
    dense = dims == 0 || (dims == 1 && stride[0] == 1);
    for (int d = 0; d < dims; ++d) size[d] = Divider(sizes[d]);
  }

  __device__ __forceinline__ int64_t offset(int64_t element) const {
    int64_t offset = 0;
    for (int d = dims - 1; d > 0; --d) {
      const int64_t rest = size[d].quotient(element);
      offset += (element - rest * size[d].divisor()) * stride[d];
      element = rest;
    }
    return offset + element * stride[0];
  }
};

// One thread's part of the sum of squares of elements [begin, end) of a sample, which `threads` threads
// share. Packs start at the first aligned element, wherever the sample starts.
template <class T>
__device__ __forceinline__ Acc<T> squares(const T* sample, const SampleLayout& layout, int64_t begin,
                                          int64_t end, int rank, int threads) {
  constexpr int W = kWide<T>;
  Acc<T> sum = 0;
  if (!layout.dense) {
#ifdef __CUDACC__
#pragma unroll 4
#endif
    for (int64_t i = begin + rank; i < end; i += threads) {
      const Acc<T> value = widened(sample[layout.offset(i)]);
      sum += value * value;
    }
    return sum;
  }
  const T* const elements = sample + begin;
  const int64_t count = end - begin;
  const int64_t beyond = static_cast<int64_t>(reinterpret_cast<uintptr_t>(elements) / sizeof(T) % W);
  const int64_t to_aligned = beyond == 0 ? 0 : W - beyond;
  const int64_t head = to_aligned < count ? to_aligned : count;
  const int64_t packs = (count - head) / W;
  for (int64_t i = rank; i < head; i += threads) {
    const Acc<T> value = widened(elements[i]);
    sum += value * value;
  }
  const auto* const wide = reinterpret_cast<const Pack<T, W>*>(elements + head);
#ifdef __CUDACC__
#pragma unroll 4
#endif
  for (int64_t i = rank; i < packs; i += threads) {
    const Pack<T, W> pack = wide[i];
    WGANGP_FAST_UNROLL
    for (int j = 0; j < W; ++j) {
      const Acc<T> value = widened(pack.at[j]);
      sum += value * value;
    }
  }
  for (int64_t i = head + packs * W + rank; i < count; i += threads) {
    const Acc<T> value = widened(elements[i]);
    sum += value * value;
  }
  return sum;
}

}  // namespace wgangp_fast::cuda
