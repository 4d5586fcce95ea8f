// The activation of a call, chosen at run time: the choice is the same for every thread, and costs nothing
// beside the memory that the kernels wait for. Eleven instances of every kernel would cost minutes of build.
#pragma once

#include "common/activations.h"
#include "cuda/device.cuh"

namespace wgangp_fast::cuda {

// visitor(row) for the row of the table.
template <class A, class Visitor>
__device__ __forceinline__ void activate(const Activation& activation, Visitor&& visitor) {
  const A p0 = static_cast<A>(activation.p0), p1 = static_cast<A>(activation.p1),
          p2 = static_cast<A>(activation.p2);
  switch (activation.kind) {
    case 0:
      return visitor(common::Identity<A>(p0, p1, p2));
    case 1:
      return visitor(common::Relu<A>(p0, p1, p2));
    case 2:
      return visitor(common::LeakyRelu<A>(p0, p1, p2));
    case 3:
      return visitor(common::Tanh<A>(p0, p1, p2));
    case 4:
      return visitor(common::Sigmoid<A>(p0, p1, p2));
    case 5:
      return visitor(common::Elu<A>(p0, p1, p2));
    case 6:
      return visitor(common::Silu<A>(p0, p1, p2));
    case 7:
      return visitor(common::Gelu<A>(p0, p1, p2));
    case 8:
      return visitor(common::GeluTanh<A>(p0, p1, p2));
    case 9:
      return visitor(common::Softplus<A>(p0, p1, p2));
    default:
      return visitor(common::SmoothElu<A>(p0, p1, p2));
  }
}

// What the table says of the row, for the host.
struct Traits {
  bool keeps_input, curved;
};

inline Traits traits_of(const Activation& activation) {
  Traits traits{};
  common::with_activation<double>(
      activation, [&](auto row) { traits = {decltype(row)::keeps_input, decltype(row)::curved}; });
  return traits;
}

}  // namespace wgangp_fast::cuda
