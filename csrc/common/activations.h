// The table of activations: one row each, for every kernel of every device.
//
// A row has the function f, the tensor that is kept for its derivatives (the input u, or the result y),
// df and d2f of the kept value, and whether the second order is structurally zero. Derivatives at a kink
// are PyTorch's.
#pragma once

#include <cstdint>

#include "common/functions.h"
#include "common/hd.h"

WGANGP_FAST_COMMON_BEGIN

// A: float or double. Defaults of a row: kept from the result, piecewise linear.
template <class A>
struct KeepsResult {
  static constexpr bool keeps_input = false;
  static constexpr bool curved = false;
  WGANGP_FAST_HD KeepsResult(A, A, A) {}
  WGANGP_FAST_HD A d2f(A) const { return A(0); }
};

template <class A>
struct KeepsInput {
  static constexpr bool keeps_input = true;
  static constexpr bool curved = true;
  WGANGP_FAST_HD KeepsInput(A, A, A) {}
};

template <class A>
struct Identity : KeepsResult<A> {
  using KeepsResult<A>::KeepsResult;
  WGANGP_FAST_HD A f(A u) const { return u; }
  WGANGP_FAST_HD A df(A) const { return A(1); }
};

template <class A>
struct Relu : KeepsResult<A> {
  using KeepsResult<A>::KeepsResult;
  WGANGP_FAST_HD A f(A u) const { return u <= A(0) ? A(0) : u; }  // NaN stays NaN
  WGANGP_FAST_HD A df(A y) const { return y > A(0) ? A(1) : A(0); }
};

template <class A>
struct LeakyRelu : KeepsResult<A> {
  A slope;
  WGANGP_FAST_HD LeakyRelu(A p0, A p1, A p2) : KeepsResult<A>(p0, p1, p2), slope(p0) {}
  WGANGP_FAST_HD A f(A u) const { return u > A(0) ? u : u * slope; }
  WGANGP_FAST_HD A df(A y) const { return y > A(0) ? A(1) : slope; }
};

template <class A>
struct Tanh : KeepsResult<A> {
  static constexpr bool curved = true;
  using KeepsResult<A>::KeepsResult;
  WGANGP_FAST_HD A f(A u) const { return hyperbolic_tangent(u); }
  WGANGP_FAST_HD A df(A y) const { return A(1) - y * y; }
  WGANGP_FAST_HD A d2f(A y) const { return A(-2) * y * (A(1) - y * y); }
};

template <class A>
struct Sigmoid : KeepsResult<A> {
  static constexpr bool curved = true;
  using KeepsResult<A>::KeepsResult;
  WGANGP_FAST_HD A f(A u) const { return logistic(u).value; }
  WGANGP_FAST_HD A df(A y) const { return y * (A(1) - y); }
  WGANGP_FAST_HD A d2f(A y) const { return y * (A(1) - y) * (A(1) - A(2) * y); }
};

template <class A>
struct Elu : KeepsResult<A> {
  static constexpr bool curved = true;
  A scale, negative, input_scale;
  WGANGP_FAST_HD Elu(A alpha, A p1, A p2)
      : KeepsResult<A>(alpha, p1, p2), scale(p1), negative(p1 * alpha), input_scale(p2) {}
  WGANGP_FAST_HD A f(A u) const {
    const A below = negative * exponential_minus_one(input_scale * u);
    return u > A(0) ? scale * u : below;
  }
  WGANGP_FAST_HD A df(A y) const { return y > A(0) ? scale : input_scale * (y + negative); }
  WGANGP_FAST_HD A d2f(A y) const {
    const A below = input_scale * input_scale * (y + negative);
    return y > A(0) ? A(0) : below;
  }
};

template <class A>
struct Silu : KeepsInput<A> {
  using KeepsInput<A>::KeepsInput;
  WGANGP_FAST_HD A f(A u) const { return u * logistic(u).value; }
  WGANGP_FAST_HD A df(A u) const {
    const Logistic<A> s = logistic(u);
    return s.value + u * s.slope;
  }
  WGANGP_FAST_HD A d2f(A u) const {
    const Logistic<A> s = logistic(u);
    return s.slope * (A(2) + u * (A(1) - A(2) * s.value));
  }
};

// Where a bell-shaped derivative has long been zero, powers of u must not become infinite.
template <class A>
WGANGP_FAST_HD inline A within(A u, A bound) {
  const A low = u < -bound ? -bound : u;
  return low > bound ? bound : low;
}

template <class A>
struct Gelu : KeepsInput<A> {
  using KeepsInput<A>::KeepsInput;
  WGANGP_FAST_HD A f(A u) const { return u * normal(u).cumulative; }
  WGANGP_FAST_HD A df(A u) const {
    const Normal<A> n = normal(within(u, A(64)));
    return n.cumulative + within(u, A(64)) * n.density;
  }
  WGANGP_FAST_HD A d2f(A u) const {
    const A v = within(u, A(64));
    return normal(v).density * (A(2) - v * v);
  }
};

// 0.5 u (1 + tanh(z)) = u logistic(2 z), z = sqrt(2/pi) (u + 0.044715 u^3).
template <class A>
struct GeluTanh : KeepsInput<A> {
  using KeepsInput<A>::KeepsInput;
  WGANGP_FAST_HD static A twice_z(A v) { return A(1.5957691216057308) * v * (A(1) + A(0.044715) * v * v); }
  WGANGP_FAST_HD static A slope(A v) { return A(1.5957691216057308) * (A(1) + A(3 * 0.044715) * v * v); }
  WGANGP_FAST_HD A f(A u) const { return u * logistic(twice_z(within(u, A(64)))).value; }
  WGANGP_FAST_HD A df(A u) const {
    const A v = within(u, A(64));
    const Logistic<A> s = logistic(twice_z(v));
    return s.value + v * (s.slope * slope(v));
  }
  WGANGP_FAST_HD A d2f(A u) const {
    const A v = within(u, A(64)), first = slope(v), second = A(1.5957691216057308 * 6 * 0.044715) * v;
    const Logistic<A> s = logistic(twice_z(v));
    return s.slope * (A(2) * first + v * (second + first * first * (A(1) - A(2) * s.value)));
  }
};

template <class A>
struct Softplus : KeepsInput<A> {
  A beta, inverse, threshold;
  WGANGP_FAST_HD Softplus(A p0, A p1, A p2)
      : KeepsInput<A>(p0, p1, p2), beta(p0), inverse(A(1) / p0), threshold(p1) {}
  WGANGP_FAST_HD A f(A u) const {
    const A smooth = log_one_plus_exponential(beta * u) * inverse;
    return beta * u > threshold ? u : smooth;
  }
  WGANGP_FAST_HD A df(A u) const {
    const A smooth = logistic(beta * u).value;
    return beta * u > threshold ? A(1) : smooth;
  }
  WGANGP_FAST_HD A d2f(A u) const {
    const A smooth = beta * logistic(beta * u).slope;
    return beta * u > threshold ? A(0) : smooth;
  }
};

// softplus(2u + 2)/2 - 1: an elu without the kink in its derivative.
template <class A>
struct SmoothElu : KeepsInput<A> {
  using KeepsInput<A>::KeepsInput;
  WGANGP_FAST_HD A f(A u) const { return log_one_plus_exponential(A(2) * u + A(2)) * A(0.5) - A(1); }
  WGANGP_FAST_HD A df(A u) const { return logistic(A(2) * u + A(2)).value; }
  WGANGP_FAST_HD A d2f(A u) const { return A(2) * logistic(A(2) * u + A(2)).slope; }
};

// What a row keeps, from the input: kernels that recompute u use it, whatever the row keeps.
template <class Row, class A>
WGANGP_FAST_HD inline A kept_of(const Row& row, A u) {
  if constexpr (Row::keeps_input) {
    return u;
  } else {
    return row.f(u);
  }
}

constexpr int32_t kActivations = 11;

// visitor(row) for the row that `activation` (kind, p0, p1, p2) names: the one choice of a call.
template <class A, class Activation, class Visitor>
inline void with_activation(const Activation& activation, Visitor&& visitor) {
  const A p0 = static_cast<A>(activation.p0), p1 = static_cast<A>(activation.p1),
          p2 = static_cast<A>(activation.p2);
  switch (activation.kind) {
    case 0:
      return visitor(Identity<A>(p0, p1, p2));
    case 1:
      return visitor(Relu<A>(p0, p1, p2));
    case 2:
      return visitor(LeakyRelu<A>(p0, p1, p2));
    case 3:
      return visitor(Tanh<A>(p0, p1, p2));
    case 4:
      return visitor(Sigmoid<A>(p0, p1, p2));
    case 5:
      return visitor(Elu<A>(p0, p1, p2));
    case 6:
      return visitor(Silu<A>(p0, p1, p2));
    case 7:
      return visitor(Gelu<A>(p0, p1, p2));
    case 8:
      return visitor(GeluTanh<A>(p0, p1, p2));
    case 9:
      return visitor(Softplus<A>(p0, p1, p2));
    default:
      return visitor(SmoothElu<A>(p0, p1, p2));
  }
}

WGANGP_FAST_COMMON_END
