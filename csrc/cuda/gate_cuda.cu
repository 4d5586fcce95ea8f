// sigmoid(a)*tanh(b), and its sweeps.
#include "common/functions.h"
#include "cuda/flat.cuh"

namespace wgangp_fast::cuda {
namespace {

// The factors of the gate and their derivatives at one element.
template <class A>
struct Factors {
  A s, ds, th, dth;
  __device__ __forceinline__ Factors(A a, A b) {
    const common::Logistic<A> gate = common::logistic(a);
    s = gate.value;
    ds = gate.slope;
    th = common::hyperbolic_tangent(b);
    dth = A(1) - th * th;
  }
};

template <class T>
struct Forward {
  static constexpr int kWidth = kWide<T>, kPacks = 1;
  const T *a, *b;
  T* y;
  __device__ __forceinline__ void operator()(const FlatSpan& at) const {
    auto u = load<kWidth>(a, at.first, at.whole, at.count);
    const auto v = load<kWidth>(b, at.first, at.whole, at.count);
    WGANGP_FAST_UNROLL
    for (int j = 0; j < kWidth; ++j)
      u.at[j] = common::logistic(u.at[j]).value * common::hyperbolic_tangent(v.at[j]);
    store(y, u, at.first, at.whole, at.count);
  }
};

template <class T>
struct Vjp {
  static constexpr int kWidth = kWide<T>, kPacks = 1;
  const T *g, *a, *b;
  T *ga, *gb;
  __device__ __forceinline__ void operator()(const FlatSpan& at) const {
    const auto cotangent = load<kWidth>(g, at.first, at.whole, at.count);
    auto u = load<kWidth>(a, at.first, at.whole, at.count);
    auto v = load<kWidth>(b, at.first, at.whole, at.count);
    WGANGP_FAST_UNROLL
    for (int j = 0; j < kWidth; ++j) {
      const Factors<Acc<T>> f(u.at[j], v.at[j]);
      u.at[j] = cotangent.at[j] * (f.ds * f.th);
      v.at[j] = cotangent.at[j] * (f.s * f.dth);
    }
    store(ga, u, at.first, at.whole, at.count);
    store(gb, v, at.first, at.whole, at.count);
  }
};

template <class T>
struct Jvp {
  static constexpr int kWidth = kWide<T>, kPacks = 1;
  const T *ta, *tb, *a, *b;
  T* y;
  __device__ __forceinline__ void operator()(const FlatSpan& at) const {
    auto p = load<kWidth>(ta, at.first, at.whole, at.count);
    const auto q = load<kWidth>(tb, at.first, at.whole, at.count);
    const auto u = load<kWidth>(a, at.first, at.whole, at.count);
    const auto v = load<kWidth>(b, at.first, at.whole, at.count);
    WGANGP_FAST_UNROLL
    for (int j = 0; j < kWidth; ++j) {
      const Factors<Acc<T>> f(u.at[j], v.at[j]);
      p.at[j] = p.at[j] * (f.ds * f.th) + q.at[j] * (f.s * f.dth);
    }
    store(y, p, at.first, at.whole, at.count);
  }
};

template <class T>
struct Adjoint {
  static constexpr int kWidth = kWide<T>, kPacks = 1;
  const T *c, *g, *ta, *tb, *a, *b;  // c may be null
  T *ca, *cb;
  __device__ __forceinline__ void operator()(const FlatSpan& at) const {
    Values<T, kWidth> adjoint{};
    if (c != nullptr) adjoint = load<kWidth>(c, at.first, at.whole, at.count);
    const auto cotangent = load<kWidth>(g, at.first, at.whole, at.count);
    auto p = load<kWidth>(ta, at.first, at.whole, at.count);
    auto q = load<kWidth>(tb, at.first, at.whole, at.count);
    const auto u = load<kWidth>(a, at.first, at.whole, at.count);
    const auto v = load<kWidth>(b, at.first, at.whole, at.count);
    WGANGP_FAST_UNROLL
    for (int j = 0; j < kWidth; ++j) {
      using A = Acc<T>;
      const Factors<A> f(u.at[j], v.at[j]);
      const A aa = f.ds * (A(1) - A(2) * f.s) * f.th, ab = f.ds * f.dth;
      const A bb = A(-2) * f.s * f.th * f.dth;
      const A bent_a = cotangent.at[j] * (aa * p.at[j] + ab * q.at[j]);
      const A bent_b = cotangent.at[j] * (ab * p.at[j] + bb * q.at[j]);
      p.at[j] = adjoint.at[j] * (f.ds * f.th) + bent_a;
      q.at[j] = adjoint.at[j] * (f.s * f.dth) + bent_b;
    }
    store(ca, p, at.first, at.whole, at.count);
    store(cb, q, at.first, at.whole, at.count);
  }
};

template <class T>
const T* in(const void* pointer) {
  return static_cast<const T*>(pointer);
}
template <class T>
T* out(void* pointer) {
  return static_cast<T*>(pointer);
}

}  // namespace

void gate(Dtype dtype, const void* a, const void* b, void* y, int64_t count, void* stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_flat(Forward<T>{in<T>(a), in<T>(b), out<T>(y)}, aligned(a, b, y), count, stream);
  });
}

void gate_vjp(Dtype dtype, const void* g, const void* a, const void* b, void* ga, void* gb, int64_t count,
              void* stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_flat(Vjp<T>{in<T>(g), in<T>(a), in<T>(b), out<T>(ga), out<T>(gb)}, aligned(g, a, b, ga, gb), count,
                stream);
  });
}

void gate_jvp(Dtype dtype, const void* ta, const void* tb, const void* a, const void* b, void* y,
              int64_t count, void* stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_flat(Jvp<T>{in<T>(ta), in<T>(tb), in<T>(a), in<T>(b), out<T>(y)}, aligned(ta, tb, a, b, y), count,
                stream);
  });
}

void gate_adjoint(Dtype dtype, const void* c, const void* g, const void* ta, const void* tb, const void* a,
                  const void* b, void* ca, void* cb, int64_t count, void* stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_flat(
        Adjoint<T>{in<T>(c), in<T>(g), in<T>(ta), in<T>(tb), in<T>(a), in<T>(b), out<T>(ca), out<T>(cb)},
        aligned(c, g, ta, tb, a, b, ca, cb), count, stream);
  });
}

}  // namespace wgangp_fast::cuda
