// What the tests of the CUDA kernels share. The cases are the same on a GPU (test_cuda_*.cpp) and in the
// emulation (emulated_*.cpp, which include the .cu files): only the memory differs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "common/dtype.h"
#include "cuda/error.h"
#include "ops.h"
#ifndef WGANGP_FAST_EMULATED
#include <cuda_runtime_api.h>
#endif

namespace wgangp_fast::testing {

inline constexpr Dtype kDtypes[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16};
inline const char* name_of(Dtype dtype) {
  static const char* const names[] = {"f64", "f32", "f16", "bf16"};
  return names[static_cast<int>(dtype)];
}
inline Dtype acc_of(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }
inline size_t size_of(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

using Doubles = std::vector<double>;

#ifdef WGANGP_FAST_EMULATED
inline void* allocate(size_t bytes) { return std::malloc(bytes); }
inline void release(void* memory) { std::free(memory); }
inline void upload(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
inline void download(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
inline bool can_run() { return true; }
#else
inline void require(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}
inline void* allocate(size_t bytes) {
  void* memory = nullptr;
  require(cudaMalloc(&memory, std::max<size_t>(bytes, 1)));
  return memory;
}
inline void release(void* memory) { require(cudaFree(memory)); }
inline void upload(void* to, const void* from, size_t bytes) {
  require(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
}
inline void download(void* to, const void* from, size_t bytes) {
  require(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
}
inline bool can_run() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess && count > 0) return true;
  std::puts("skipped: no CUDA device");
  return false;
}
#endif

inline int failures = 0;

inline void fail(const std::string& what) {
  if (++failures <= 20) std::printf("FAILED %s\n", what.c_str());
}

// Numbers in device memory, `offset` elements behind the allocation's start; exactly as long as they are, so
// that AddressSanitizer sees every overrun.
class Buffer {
 public:
  Buffer(Dtype dtype, const Doubles& values, int64_t offset = 0)
      : Buffer(dtype, static_cast<int64_t>(values.size()), offset) {
    common::with_dtype(dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      std::vector<T> rounded(values.size());
      for (size_t i = 0; i < values.size(); ++i)
        rounded[i] = common::Round<T>::of(static_cast<common::Acc<T>>(values[i]));
      if (!values.empty()) upload(at(), rounded.data(), bytes());
    });
  }
  // Filled with NaN: what a kernel fails to write shows.
  Buffer(Dtype dtype, int64_t count, int64_t offset = 0) : dtype_(dtype), count_(count), offset_(offset) {
    const std::vector<uint8_t> poison(bytes() + offset_bytes(), 0xff);
    memory_ = allocate(poison.size());
    if (!poison.empty()) upload(memory_, poison.data(), poison.size());
  }
  Buffer(Buffer&& other) noexcept
      : dtype_(other.dtype_), count_(other.count_), offset_(other.offset_), memory_(other.memory_) {
    other.memory_ = nullptr;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer& operator=(Buffer&&) = delete;
  ~Buffer() {
    if (memory_ != nullptr) release(memory_);
  }

  void* at() const { return static_cast<char*>(memory_) + offset_bytes(); }
  std::vector<uint8_t> bits() const {
    std::vector<uint8_t> out(bytes());
    if (!out.empty()) download(out.data(), at(), out.size());
    return out;
  }
  // As they are after rounding.
  Doubles read() const {
    const std::vector<uint8_t> raw = bits();
    Doubles out(static_cast<size_t>(count_));
    common::with_dtype(dtype_, [&](auto tag) {
      using T = typename decltype(tag)::type;
      for (size_t i = 0; i < out.size(); ++i) {
        T value;
        std::memcpy(&value, raw.data() + i * sizeof(T), sizeof(T));
        out[i] = static_cast<double>(common::to_acc(value));
      }
    });
    return out;
  }

 private:
  size_t bytes() const { return static_cast<size_t>(count_) * size_of(dtype_); }
  size_t offset_bytes() const { return static_cast<size_t>(offset_) * size_of(dtype_); }
  Dtype dtype_;
  int64_t count_, offset_;
  void* memory_ = nullptr;
};

inline Doubles numbers(int64_t count, unsigned seed, double deviation = 1, double mean = 0) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal(mean, deviation);
  Doubles out(static_cast<size_t>(count));
  for (double& value : out) value = normal(engine);
  return out;
}

// Half a unit in the last place of dtype, relative; and what its arithmetic is allowed, of a sum's magnitude.
inline double unit_of(Dtype dtype) {
  static const double units[] = {0x1p-53, 0x1p-24, 0x1p-11, 0x1p-8};
  return units[static_cast<int>(dtype)];
}

// |ours - truth| <= unit |truth| + arithmetic * scale, where scale is the magnitude of what was added up.
inline void expect_close(const std::string& what, Dtype dtype, const Doubles& ours, const Doubles& truth,
                         double scale = 1) {
  if (ours.size() != truth.size()) return fail(what + ": size");
  const double arithmetic = (dtype == Dtype::f64 ? 1e-13 : 4e-6) * scale;
  const double smallest = dtype == Dtype::f16 ? 0x1p-24 : 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    if (std::isnan(truth[i]) && std::isnan(ours[i])) continue;
    if (ours[i] == truth[i]) continue;  // infinities
    const double allowed =
        unit_of(dtype) * std::fabs(truth[i]) + arithmetic * (1 + std::fabs(truth[i])) + smallest;
    if (std::fabs(ours[i] - truth[i]) <= allowed) continue;
    char text[200];
    std::snprintf(text, sizeof text, " [%zu]: %.9g, expected %.9g", i, ours[i], truth[i]);
    return fail(what + text);
  }
}

// Runs `launches` under every order of threads that the emulation has (twice on a GPU); `outputs` must come
// out with equal bits, as they do where there is no race. Its buffers are made anew each time.
inline std::vector<Doubles> run_all(const std::string& what,
                                    const std::function<std::vector<Buffer>()>& launches, int rounds = 3) {
  std::vector<std::vector<uint8_t>> first;
  std::vector<Doubles> values;
  for (int round = 0; round < rounds; ++round) {
#ifdef WGANGP_FAST_EMULATED
    emulation::settings.order = static_cast<emulation::Order>(round);
    emulation::settings.seed = static_cast<unsigned>(what.size()) + 17;
#endif
    const std::vector<Buffer> outputs = launches();
    if (const char* error = cuda::last_error()) fail(what + ": " + error);
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (round == 0) {
        first.push_back(outputs[i].bits());
        values.push_back(outputs[i].read());
      } else if (outputs[i].bits() != first[i]) {
        fail(what + ": result " + std::to_string(i) + " depends on the order of the threads");
      }
    }
  }
  return values;
}

// The end of main: 77 tells ctest that nothing ran.
inline int verdict(int (*cases)()) {
  if (!can_run()) return 77;
  const int count = cases();
  std::printf("%d cases, %d failures\n", count, failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace wgangp_fast::testing
