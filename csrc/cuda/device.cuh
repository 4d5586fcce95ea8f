// What every kernel here stands on: launches, shared memory, packs of 16 bytes, element conversions, fast
// division of indices.
//
// The kernels keep to a subset of CUDA that csrc/tests/emulation.h provides on the CPU, where the same files
// are compiled by g++ and tested.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define WGANGP_FAST_SHARED(type, name, count) __shared__ type name[count]
// Aligned for double.
#define WGANGP_FAST_DYNAMIC_SHARED(name)     \
  extern __shared__ double name##_doubles[]; \
  unsigned char* const name = reinterpret_cast<unsigned char*>(name##_doubles)
#define WGANGP_FAST_UNROLL _Pragma("unroll")
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define WGANGP_FAST_CLUSTER_SYNC() (__cluster_barrier_arrive(), __cluster_barrier_wait())
#else
#define WGANGP_FAST_CLUSTER_SYNC() static_cast<void>(0)
#endif
#else
#include "tests/emulation.h"
#define WGANGP_FAST_UNROLL
#endif

#include "common/dtype.h"
#include "ops.h"

namespace wgangp_fast::cuda {

using common::Acc;
using common::BFloat16;
using common::Half;
using common::with_dtype;

inline constexpr int kThreads = 256;
inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr int64_t kMaxBlocks = 0x7fffffff;

// ---- launches -------------------------------------------------------------------------------------------

// kernel<<<blocks, threads, 0, stream>>>(arguments...); an error stays for last_error() (error.h).
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, void* stream,
            const Arguments&... arguments) {
#ifdef __CUDACC__
  kernel<<<dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), 0,
           static_cast<cudaStream_t>(stream)>>>(arguments...);
#else
  static_cast<void>(stream);
  emulation::machine.launch(dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), 1, 0,
                            [&] { kernel(arguments...); });
#endif
}

// What a launch may want besides: clusters of so many blocks (a divisor of their number), bytes of dynamic
// shared memory.
struct Extra {
  unsigned cluster = 1;
  size_t dynamic = 0;
};

template <class... Parameters, class... Arguments>
void launch_with(Extra extra, void (*kernel)(Parameters...), int64_t blocks, int threads, void* stream,
                 const Arguments&... arguments) {
#ifdef __CUDACC__
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = extra.cluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = extra.dynamic;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = extra.cluster > 1 ? 1 : 0;  // older devices refuse the attribute itself
  static_cast<void>(cudaLaunchKernelEx(&config, kernel, arguments...));
#else
  static_cast<void>(stream);
  emulation::machine.launch(dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
                            extra.cluster, extra.dynamic, [&] { kernel(arguments...); });
#endif
}

// Whether the current device has clusters of blocks (compute capability 9.0).
inline bool has_clusters() {
#ifdef __CUDACC__
  int device = 0, major = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) return false;
  return major >= 9;
#else
  return emulation::settings.clusters;
#endif
}

__device__ inline unsigned cluster_rank() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return __clusterRelativeBlockRank();
#elif defined(__CUDACC__)
  return 0;
#else
  return emulation::machine.cluster_rank();
#endif
}

// The array of the cluster's block `rank` that corresponds to this block's shared array `own`.
template <class T>
__device__ inline T* cluster_peer(T* own, unsigned rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return static_cast<T*>(__cluster_map_shared_rank(own, rank));
#elif defined(__CUDACC__)
  static_cast<void>(rank);
  return own;
#else
  return static_cast<T*>(emulation::machine.peer(own, rank));
#endif
}

// ---- elements -------------------------------------------------------------------------------------------

// The hardware converts in one instruction; common::to_acc and Round are the same function in integers.
__device__ __forceinline__ float widened(Half value) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(static_cast<unsigned short>(value)));
#else
  return common::to_acc(value);
#endif
}
__device__ __forceinline__ float widened(BFloat16 value) { return common::to_acc(value); }
__device__ __forceinline__ float widened(float value) { return value; }
__device__ __forceinline__ double widened(double value) { return value; }

template <class T>
__device__ __forceinline__ T rounded(Acc<T> value) {
  return common::Round<T>::of(value);
}
#ifdef __CUDA_ARCH__
template <>
__device__ __forceinline__ Half rounded<Half>(float value) {
  return static_cast<Half>(__half_as_ushort(__float2half_rn(value)));
}
template <>
__device__ __forceinline__ BFloat16 rounded<BFloat16>(float value) {
  return static_cast<BFloat16>(__bfloat16_as_ushort(__float2bfloat16_rn(value)));
}
#endif

// W neighbouring elements, one access where they are aligned.
template <class T, int W>
struct alignas(sizeof(T) * W) Pack {
  T at[W];
};

template <class T>
inline constexpr int kWide = static_cast<int>(16 / sizeof(T));

template <class T, int W>
struct Values {
  Acc<T> at[W];
};

// Elements [first, first + W) of a flat array: one access below `whole`, which is a multiple of W and 0
// where the array is not aligned; one element at a time, up to `count`, from there on. The rest is zero.
template <int W, class T>
__device__ __forceinline__ Values<T, W> load(const T* array, int64_t first, int64_t whole, int64_t count) {
  Values<T, W> values;
  if (first < whole) {
    const auto pack = *reinterpret_cast<const Pack<T, W>*>(array + first);
    WGANGP_FAST_UNROLL
    for (int j = 0; j < W; ++j) values.at[j] = widened(pack.at[j]);
  } else {
    WGANGP_FAST_UNROLL
    for (int j = 0; j < W; ++j) values.at[j] = first + j < count ? widened(array[first + j]) : Acc<T>(0);
  }
  return values;
}

template <int W, class T>
__device__ __forceinline__ void store(T* array, const Values<T, W>& values, int64_t first, int64_t whole,
                                      int64_t count) {
  if (first < whole) {
    Pack<T, W> pack;
    WGANGP_FAST_UNROLL
    for (int j = 0; j < W; ++j) pack.at[j] = rounded<T>(values.at[j]);
    *reinterpret_cast<Pack<T, W>*>(array + first) = pack;
  } else {
    WGANGP_FAST_UNROLL
    for (int j = 0; j < W; ++j)
      if (first + j < count) array[first + j] = rounded<T>(values.at[j]);
  }
}

template <int W, class T>
__device__ __forceinline__ Values<T, W> load_pack(const T* aligned_elements) {
  return load<W>(aligned_elements, 0, W, W);
}
template <int W, class T>
__device__ __forceinline__ void store_pack(T* aligned_elements, const Values<T, W>& values) {
  store(aligned_elements, values, 0, W, W);
}

// Whether every pointer (null ones too) can be read 16 bytes at a time.
template <class... Pointers>
bool aligned(const Pointers*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

// ---- indices --------------------------------------------------------------------------------------------

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Division of an index in [0, 2^63) by a fixed number, by one 64-bit high product: the hardware has no
// 64-bit division, and its emulation costs as much as all the rest of an elementwise kernel.
// With l = ceil(log2 d) the multiplier is ceil(2^(63 + l) / d) < 2^64 (Granlund and Montgomery 1994).
class Divider {
 public:
  Divider() = default;
  __host__ explicit Divider(int64_t divisor) : divisor_(divisor) {
    while ((uint64_t{1} << shift_) < static_cast<uint64_t>(divisor)) ++shift_;
    // ceil(2^(63 + shift) / d) digit by digit: 128-bit integers are not in the standard.
    uint64_t quotient = 0, rest = uint64_t{1} << shift_;
    if (rest >= static_cast<uint64_t>(divisor)) {
      quotient = 1;
      rest -= static_cast<uint64_t>(divisor);
    }
    for (int bit = 0; bit < 63; ++bit) {
      rest *= 2;
      quotient *= 2;
      if (rest >= static_cast<uint64_t>(divisor)) {
        rest -= static_cast<uint64_t>(divisor);
        ++quotient;
      }
    }
    multiplier_ = rest == 0 ? quotient : quotient + 1;
  }

  __device__ __forceinline__ int64_t quotient(int64_t index) const {
    if (divisor_ == 1) return index;
    return static_cast<int64_t>(__umul64hi(static_cast<uint64_t>(index), multiplier_) >> (shift_ - 1));
  }
  __host__ __device__ int64_t divisor() const { return divisor_; }

 private:
  int64_t divisor_ = 1;
  uint64_t multiplier_ = 0;
  int32_t shift_ = 0;
};

// ---- sums -----------------------------------------------------------------------------------------------

// The sum over the `lanes` (a power of two) lanes of an aligned segment, in every one of them; every lane of
// the warp takes part.
template <class A>
__device__ __forceinline__ A lane_sum(A value, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2)
    value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

}  // namespace wgangp_fast::cuda
