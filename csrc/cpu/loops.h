// Loops that the compiler vectorises: elementwise, and sums in lanes.
//
// Everything is in the instruction set's own namespace, and nothing of std:: that could stay a function is
// used: the linker merges equal inline functions (common/hd.h).
#pragma once

#include <cstdint>
#include <cstdlib>

#include "common/dtype.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"

// Tensors of one call overlap exactly or not at all, so no iteration depends on another.
#if defined(__clang__)
#define WGANGP_FAST_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define WGANGP_FAST_INDEPENDENT _Pragma("GCC ivdep")
#else
#define WGANGP_FAST_INDEPENDENT
#endif

#if defined(__GNUC__)
#define WGANGP_FAST_INLINE inline __attribute__((always_inline))
#else
#define WGANGP_FAST_INLINE inline
#endif

namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY {

using common::Acc;
using common::Round;
using common::to_acc;

// Elementwise work is handed to threads in whole blocks: a block's elements are computed alike, however
// many threads there are. Less than kGrain elements are not worth waking a thread for.
inline constexpr int64_t kBlock = 2048;
inline constexpr int64_t kGrain = 32768;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Uninitialised scratch.
template <class A>
class Buffer {
 public:
  explicit Buffer(int64_t size) : data_(static_cast<A*>(std::malloc(sizeof(A) * (size > 0 ? size : 1)))) {
    if (data_ == nullptr) std::abort();
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  A* data() const { return data_; }
  A& operator[](int64_t i) const { return data_[i]; }

 private:
  A* data_;
};

// out[i] = value(i), rounded to T.
template <class T, class Value>
WGANGP_FAST_INLINE void each(T* out, int64_t count, Value value) {
  WGANGP_FAST_INDEPENDENT
  for (int64_t i = 0; i < count; ++i) out[i] = Round<T>::of(value(i));
}

// The flat range [0, count) in blocks: part(begin, end).
template <class Part>
inline void flat(int64_t count, const Part& part) {
  parallel(divide_up(count, kBlock), kGrain / kBlock,
           [&](int64_t first, int64_t last) { part(first * kBlock, least(last * kBlock, count)); });
}

// A number for each element: the same one, or the element's own. A bias and a sample's factor come so.
template <class A>
struct Uniform {
  A value;
  WGANGP_FAST_INLINE A operator()(int64_t) const { return value; }
};

template <class T>
struct Own {
  const T* values;
  WGANGP_FAST_INLINE Acc<T> operator()(int64_t i) const { return to_acc(values[i]); }
};

// One number a sample over [n, k]: loop(start, count, number) on pieces, factor(i) -> A of sample i.
template <class A, class Factor, class Loop>
inline void by_sample(int64_t n, int64_t k, const Factor& factor, const Loop& loop) {
  if (k == 0) return;
  if (k >= 256) {
    const int64_t pieces = divide_up(k, kBlock);
    return parallel(n * pieces, divide_up(kGrain, least(k, kBlock)), [&](int64_t first, int64_t last) {
      // Whole samples where possible: a long loop prefetches better than blocks do.
      for (int64_t p = first; p < last;) {
        const int64_t i = p / pieces, from = p % pieces, to = least(pieces, from + last - p);
        loop(i * k + from * kBlock, least(to * kBlock, k) - from * kBlock, Uniform<A>{factor(i)});
        p += to - from;
      }
    });
  }
  const int64_t samples = kBlock / k;  // in a block, whose numbers are spread first
  parallel(divide_up(n, samples), kGrain / kBlock, [&](int64_t first, int64_t last) {
    A spread[kBlock];
    for (int64_t b = first; b < last; ++b) {
      const int64_t from = b * samples, count = least(samples, n - from);
      for (int64_t s = 0; s < count; ++s) {
        const A value = factor(from + s);
        for (int64_t j = 0; j < k; ++j) spread[s * k + j] = value;
      }
      loop(from * k, count * k, Own<A>{spread});
    }
  });
}

// Sums are made in lanes, which hide the latency of addition, and lanes are emptied into float64 after
// kRun elements: the rounding error then does not grow with the length.
template <class A>
inline constexpr int64_t kLanes = 128 / static_cast<int64_t>(sizeof(A));
inline constexpr int64_t kRun = 4096;

// total[j] += sum over i of term's j-th number; term(i, out) sets A out[K].
template <class A, int K, class Term>
WGANGP_FAST_INLINE void accumulate(int64_t count, Term term, double* total) {
  constexpr int64_t lanes = kLanes<A>;
  for (int64_t start = 0; start < count; start += kRun) {
    const int64_t stop = least(count, start + kRun);
    A sum[K][lanes] = {};
    int64_t i = start;
    for (; i + lanes <= stop; i += lanes) {
      WGANGP_FAST_INDEPENDENT
      for (int64_t l = 0; l < lanes; ++l) {
        A out[K];
        term(i + l, out);
        for (int j = 0; j < K; ++j) sum[j][l] += out[j];
      }
    }
    for (int64_t l = 0; i < stop; ++i, ++l) {
      A out[K];
      term(i, out);
      for (int j = 0; j < K; ++j) sum[j][l] += out[j];
    }
    for (int j = 0; j < K; ++j) {
      const int64_t filled = least(lanes, stop - start);
      if (filled == lanes) {
        for (int64_t width = lanes / 2; width >= 1; width /= 2) {
          for (int64_t l = 0; l < width; ++l) sum[j][l] += sum[j][l + width];
        }
      } else {
        for (int64_t l = 1; l < filled; ++l) sum[j][0] += sum[j][l];
      }
      total[j] += static_cast<double>(sum[j][0]);
    }
  }
}

}  // namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY
