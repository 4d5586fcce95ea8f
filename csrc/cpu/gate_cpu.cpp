#include "common/functions.h"
#include "cpu/loops.h"

// y = s*h with s = sigmoid(a), h = tanh(b): the gated activation of a conditional PixelCNN.
namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY {
namespace {

// s, h and their derivatives at one element.
template <class A>
struct Gate {
  A s, s1, h, h1;
};

template <class A>
WGANGP_FAST_INLINE Gate<A> gate_at(A a, A b) {
  const common::Logistic<A> s = common::logistic(a);
  const A h = common::hyperbolic_tangent(b);
  return {s.value, s.slope, h, A(1) - h * h};
}

template <class T>
void value(const T* a, const T* b, T* y, int64_t count) {
  flat(count, [=](int64_t begin, int64_t end) {
    const T *pa = a + begin, *pb = b + begin;
    each(y + begin, end - begin, [=](int64_t i) {
      return common::logistic(to_acc(pa[i])).value * common::hyperbolic_tangent(to_acc(pb[i]));
    });
  });
}

template <class T>
void vjp(const T* g, const T* a, const T* b, T* ga, T* gb, int64_t count) {
  flat(count, [=](int64_t begin, int64_t end) {
    WGANGP_FAST_INDEPENDENT
    for (int64_t i = begin; i < end; ++i) {
      const Gate<Acc<T>> at = gate_at(to_acc(a[i]), to_acc(b[i]));
      const Acc<T> cotangent = to_acc(g[i]);
      ga[i] = Round<T>::of(cotangent * (at.s1 * at.h));
      gb[i] = Round<T>::of(cotangent * (at.s * at.h1));
    }
  });
}

template <class T>
void jvp(const T* ta, const T* tb, const T* a, const T* b, T* y, int64_t count) {
  flat(count, [=](int64_t begin, int64_t end) {
    const T *qa = ta + begin, *qb = tb + begin, *pa = a + begin, *pb = b + begin;
    each(y + begin, end - begin, [=](int64_t i) {
      const Gate<Acc<T>> at = gate_at(to_acc(pa[i]), to_acc(pb[i]));
      return at.s1 * at.h * to_acc(qa[i]) + at.s * at.h1 * to_acc(qb[i]);
    });
  });
}

template <bool carried, class T>
void adjoint(const T* c, const T* g, const T* ta, const T* tb, const T* a, const T* b, T* ca, T* cb,
             int64_t count) {
  using A = Acc<T>;
  flat(count, [=](int64_t begin, int64_t end) {
    WGANGP_FAST_INDEPENDENT
    for (int64_t i = begin; i < end; ++i) {
      const Gate<A> at = gate_at(to_acc(a[i]), to_acc(b[i]));
      const A cotangent = to_acc(g[i]), moved_a = to_acc(ta[i]), moved_b = to_acc(tb[i]);
      // Second derivatives: s'' = s'(1 - 2s), h'' = -2 h h'.
      const A aa = at.s1 * (A(1) - A(2) * at.s) * at.h, ab = at.s1 * at.h1, bb = A(-2) * at.s * at.h * at.h1;
      A to_a = cotangent * (aa * moved_a + ab * moved_b);
      A to_b = cotangent * (ab * moved_a + bb * moved_b);
      if constexpr (carried) {
        to_a += to_acc(c[i]) * (at.s1 * at.h);
        to_b += to_acc(c[i]) * (at.s * at.h1);
      }
      ca[i] = Round<T>::of(to_a);
      cb[i] = Round<T>::of(to_b);
    }
  });
}

}  // namespace

void gate(Dtype dtype, const void* a, const void* b, void* y, int64_t count) {
  common::with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    value(static_cast<const T*>(a), static_cast<const T*>(b), static_cast<T*>(y), count);
  });
}

void gate_vjp(Dtype dtype, const void* g, const void* a, const void* b, void* ga, void* gb, int64_t count) {
  common::with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    vjp(static_cast<const T*>(g), static_cast<const T*>(a), static_cast<const T*>(b), static_cast<T*>(ga),
        static_cast<T*>(gb), count);
  });
}

void gate_jvp(Dtype dtype, const void* ta, const void* tb, const void* a, const void* b, void* y,
              int64_t count) {
  common::with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    jvp(static_cast<const T*>(ta), static_cast<const T*>(tb), static_cast<const T*>(a),
        static_cast<const T*>(b), static_cast<T*>(y), count);
  });
}

void gate_adjoint(Dtype dtype, const void* c, const void* g, const void* ta, const void* tb, const void* a,
                  const void* b, void* ca, void* cb, int64_t count) {
  common::with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto run = [&](auto body) {
      body(static_cast<const T*>(c), static_cast<const T*>(g), static_cast<const T*>(ta),
           static_cast<const T*>(tb), static_cast<const T*>(a), static_cast<const T*>(b), static_cast<T*>(ca),
           static_cast<T*>(cb), count);
    };
    c != nullptr ? run(adjoint<true, T>) : run(adjoint<false, T>);
  });
}

}  // namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY
