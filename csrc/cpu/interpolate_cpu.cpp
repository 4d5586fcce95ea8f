#include "common/philox.h"
#include "cpu/loops.h"

namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY {
namespace {

template <class T>
void draw(uint64_t seed, uint64_t offset, T* alpha /*[n]*/, int64_t n) {
  flat(n, [=](int64_t begin, int64_t end) {
    each(alpha + begin, end - begin, [=](int64_t i) {
      const common::Philox block = common::philox(seed, static_cast<uint64_t>(begin + i), offset);
      return common::Uniform<T>::of(block.word[0], block.word[1]);
    });
  });
}

template <class T>
void run(const T* real, const T* fake, const T* given, uint64_t seed, uint64_t offset, T* x, T* alpha,
         int64_t n, int64_t k) {
  if (given == nullptr) {
    draw(seed, offset, alpha, n);
  } else if (alpha != nullptr && alpha != given) {
    flat(n, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) alpha[i] = given[i];
    });
  }
  const T* weight = given != nullptr ? given : alpha;
  by_sample<Acc<T>>(
      n, k, [=](int64_t i) { return to_acc(weight[i]); },
      [=](int64_t start, int64_t count, auto a) {
        const T* r = real + start;
        const T* f = fake + start;
        each(x + start, count, [=](int64_t i) {
          const Acc<T> from = to_acc(f[i]);
          return from + a(i) * (to_acc(r[i]) - from);
        });
      });
}

}  // namespace

void interpolate(Dtype dtype, const void* real, const void* fake, const void* alpha, uint64_t seed,
                 uint64_t offset, void* x, void* alpha_out, int64_t n, int64_t k) {
  common::with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    run(static_cast<const T*>(real), static_cast<const T*>(fake), static_cast<const T*>(alpha), seed, offset,
        static_cast<T*>(x), static_cast<T*>(alpha_out), n, k);
  });
}

}  // namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY
