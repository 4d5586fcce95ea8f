// gate and its sweeps, against loops in double.
#pragma once

#include "tests/activation_truth.h"
#include "tests/device_support.h"

namespace wgangp_fast::testing {

inline void gate_case(Dtype dtype, int64_t count, int64_t offset) {
  const std::string about = std::string(" ") + name_of(dtype) + " count " + std::to_string(count) +
                            " offset " + std::to_string(offset);
  const auto n = static_cast<size_t>(count);
  const auto made = [&](unsigned seed) { return Buffer(dtype, numbers(count, seed, 1.5), offset); };
  const Buffer a = made(1), b = made(2), g = made(3), ta = made(4), tb = made(5), c = made(6);
  const Doubles as = a.read(), bs = b.read(), gs = g.read(), tas = ta.read(), tbs = tb.read(), cs = c.read();
  const auto s = [&](size_t i) { return logistic(as[i]); };
  const auto ds = [&](size_t i) { return s(i) * logistic(-as[i]); };
  const auto th = [&](size_t i) { return std::tanh(bs[i]); };
  const auto dth = [&](size_t i) { return 1 / (std::cosh(bs[i]) * std::cosh(bs[i])); };
  const auto fresh = [&](int results) {
    std::vector<Buffer> out;
    for (int i = 0; i < results; ++i) out.emplace_back(dtype, count, offset);
    return out;
  };
  Doubles one(n), two(n);

  auto out = run_all("gate" + about, [&] {
    auto results = fresh(1);
    cuda::gate(dtype, a.at(), b.at(), results[0].at(), count, nullptr);
    return results;
  });
  for (size_t i = 0; i < n; ++i) one[i] = s(i) * th(i);
  expect_close("gate" + about, dtype, out[0], one);

  out = run_all("gate_vjp" + about, [&] {
    auto results = fresh(2);
    cuda::gate_vjp(dtype, g.at(), a.at(), b.at(), results[0].at(), results[1].at(), count, nullptr);
    return results;
  });
  for (size_t i = 0; i < n; ++i) {
    one[i] = gs[i] * ds(i) * th(i);
    two[i] = gs[i] * s(i) * dth(i);
  }
  expect_close("gate_vjp ga" + about, dtype, out[0], one, 4);
  expect_close("gate_vjp gb" + about, dtype, out[1], two, 4);

  out = run_all("gate_jvp" + about, [&] {
    auto results = fresh(1);
    cuda::gate_jvp(dtype, ta.at(), tb.at(), a.at(), b.at(), results[0].at(), count, nullptr);
    return results;
  });
  for (size_t i = 0; i < n; ++i) one[i] = tas[i] * ds(i) * th(i) + tbs[i] * s(i) * dth(i);
  expect_close("gate_jvp" + about, dtype, out[0], one, 8);

  for (const bool given : {true, false}) {
    out = run_all("gate_adjoint" + about, [&] {
      auto results = fresh(2);
      cuda::gate_adjoint(dtype, given ? c.at() : nullptr, g.at(), ta.at(), tb.at(), a.at(), b.at(),
                         results[0].at(), results[1].at(), count, nullptr);
      return results;
    });
    for (size_t i = 0; i < n; ++i) {
      const double c_i = given ? cs[i] : 0, d2s = ds(i) * (1 - 2 * s(i)), d2th = -2 * th(i) * dth(i);
      one[i] = c_i * ds(i) * th(i) + gs[i] * (tas[i] * d2s * th(i) + tbs[i] * ds(i) * dth(i));
      two[i] = c_i * s(i) * dth(i) + gs[i] * (tas[i] * ds(i) * dth(i) + tbs[i] * s(i) * d2th);
    }
    expect_close("gate_adjoint ca" + about, dtype, out[0], one, 16);
    expect_close("gate_adjoint cb" + about, dtype, out[1], two, 16);
  }
}

inline int gate_cases() {
  int cases = 0;
  for (const Dtype dtype : kDtypes)
    for (const int64_t count : {0, 1, 5, 2048, 4099})
      for (const int64_t offset : {0, 1}) {
        gate_case(dtype, count, offset);
        ++cases;
      }
  return cases;
}

}  // namespace wgangp_fast::testing
