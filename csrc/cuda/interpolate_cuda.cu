// x = fake + a*(real - fake), one a for each sample: given, or drawn where it is used.
#include "common/philox.h"
#include "cuda/flat.cuh"

namespace wgangp_fast::cuda {
namespace {

template <class T>
struct Alpha {
  const T* given;  // [n] or null
  uint64_t seed, offset;
  __device__ __forceinline__ Acc<T> operator()(int64_t sample) const {
    if (given != nullptr) return widened(given[sample]);
    const common::Philox drawn = common::philox(seed, static_cast<uint64_t>(sample), offset);
    return common::Uniform<T>::of(drawn.word[0], drawn.word[1]);
  }
};

template <class T>
struct Interpolate {
  static constexpr int kWidth = kWide<T>, kPacks = 1;
  const T *real, *fake;  // [n, k]
  Alpha<T> alpha;
  Divider k;
  T *x, *alpha_out;  // [n, k], [n]

  __device__ __forceinline__ void operator()(const FlatSpan& at) const {
    if (at.first >= at.count) return;
    Values<T, kWidth> r = load<kWidth>(real, at.first, at.whole, at.count);
    const Values<T, kWidth> f = load<kWidth>(fake, at.first, at.whole, at.count);
    int64_t sample = k.quotient(at.first), within = at.first - sample * k.divisor();
    Acc<T> a = alpha(sample);
    if (within + kWidth <= k.divisor()) {  // the pack lies in one sample
      if (within == 0) alpha_out[sample] = rounded<T>(a);
      WGANGP_FAST_UNROLL
      for (int j = 0; j < kWidth; ++j) r.at[j] = f.at[j] + a * (r.at[j] - f.at[j]);
    } else {
      WGANGP_FAST_UNROLL
      for (int j = 0; j < kWidth; ++j) {
        if (at.first + j < at.count) {
          if (within == 0) alpha_out[sample] = rounded<T>(a);
          r.at[j] = f.at[j] + a * (r.at[j] - f.at[j]);
          if (++within == k.divisor()) {
            within = 0;
            ++sample;
            // The array may end here, and so may the given alphas.
            if (at.first + j + 1 < at.count) a = alpha(sample);
          }
        }
      }
    }
    store(x, r, at.first, at.whole, at.count);
  }
};

// Samples without elements still have their numbers.
template <class T>
struct AlphaAlone {
  static constexpr int kWidth = 1, kPacks = 1;
  Alpha<T> alpha;
  T* alpha_out;  // [n]
  __device__ __forceinline__ void operator()(const FlatSpan& at) const {
    if (at.first < at.count) alpha_out[at.first] = rounded<T>(alpha(at.first));
  }
};

}  // namespace

void interpolate(Dtype dtype, const void* real, const void* fake, const void* alpha, uint64_t seed,
                 uint64_t offset, void* x, void* alpha_out, int64_t n, int64_t k, void* stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Alpha<T> numbers{static_cast<const T*>(alpha), seed, offset};
    T* out = static_cast<T*>(alpha_out);
    if (k == 0) return launch_flat(AlphaAlone<T>{numbers, out}, false, n, stream);
    launch_flat(Interpolate<T>{static_cast<const T*>(real), static_cast<const T*>(fake), numbers, Divider(k),
                               static_cast<T*>(x), out},
                aligned(real, fake, x), n * k, stream);
  });
}

}  // namespace wgangp_fast::cuda
