// bias_act and its orders, against loops in double.
#pragma once

#include "tests/activation_truth.h"
#include "tests/device_support.h"

namespace wgangp_fast::testing {

struct BiasShape {
  int64_t count;
  Channels channels;  // count 0: no bias
  int64_t offset;     // of every pointer, in elements
};

inline std::string describe(const char* op, Dtype dtype, int kind, const BiasShape& shape) {
  return std::string(op) + " " + name_of(dtype) + " act " + std::to_string(kind) + " count " +
         std::to_string(shape.count) + " channels " + std::to_string(shape.channels.count) + "x" +
         std::to_string(shape.channels.inner) + " offset " + std::to_string(shape.offset);
}

inline void bias_act_case(Dtype dtype, int kind, const BiasShape& shape, bool in_place) {
  const Activation act = activation(kind);
  const Channels channels = shape.channels;
  const auto n = static_cast<size_t>(shape.count);
  Doubles input = numbers(shape.count, 1, 2);
  if (n > 6) input[3] = 0, input[4] = std::nan(""), input[5] = 30, input[6] = -30;
  const Buffer x(dtype, input, shape.offset), bias(dtype, numbers(channels.count, 2));
  const void* bias_at = channels.count > 0 ? bias.at() : nullptr;
  const Doubles xs = x.read(), biases = bias.read();
  const auto u_of = [&](size_t i) {
    if (channels.count == 0) return xs[i];
    return xs[i] + biases[i / static_cast<size_t>(channels.inner) % static_cast<size_t>(channels.count)];
  };

  std::string what = describe(in_place ? "bias_act in place" : "bias_act", dtype, kind, shape);
  auto out = run_all(what, [&] {
    std::vector<Buffer> made;
    if (in_place)
      made.emplace_back(dtype, xs, shape.offset);
    else
      made.emplace_back(dtype, shape.count, shape.offset);
    cuda::bias_act(dtype, in_place ? made[0].at() : x.at(), bias_at, channels, act, made[0].at(), shape.count,
                   nullptr);
    return made;
  });
  Doubles truth(n);
  for (size_t i = 0; i < n; ++i) truth[i] = act_f(act, u_of(i));
  expect_close(what, dtype, out[0], truth);

  // The kept tensor: x, or y as the kernel wrote it.
  const Buffer ref(dtype, keeps_input(kind) ? xs : out[0], shape.offset);
  const Doubles refs = ref.read();
  const Buffer v(dtype, numbers(shape.count, 3), shape.offset),
      g(dtype, numbers(shape.count, 4), shape.offset), t(dtype, numbers(shape.count, 5), shape.offset);
  const Doubles vs = v.read(), gs = g.read(), ts = t.read();
  const auto kept = [&](size_t i) { return keeps_input(kind) ? u_of(i) : refs[i]; };

  what = describe(in_place ? "bias_act_grad in place" : "bias_act_grad", dtype, kind, shape);
  out = run_all(what, [&] {
    std::vector<Buffer> made;
    if (in_place)
      made.emplace_back(dtype, vs, shape.offset);
    else
      made.emplace_back(dtype, shape.count, shape.offset);
    cuda::bias_act_grad(dtype, in_place ? made[0].at() : v.at(), ref.at(), bias_at, channels, act,
                        made[0].at(), shape.count, nullptr);
    return made;
  });
  for (size_t i = 0; i < n; ++i) truth[i] = vs[i] * act_df(act, kept(i));
  expect_close(what, dtype, out[0], truth, 4);

  const bool curved = has_curvature(kind);
  for (const bool given : {true, false}) {
    if (in_place && !given) continue;
    what = describe(given ? "bias_act_adjoint" : "bias_act_adjoint without c", dtype, kind, shape);
    out = run_all(what, [&] {
      std::vector<Buffer> made;
      if (in_place)
        made.emplace_back(dtype, vs, shape.offset);
      else
        made.emplace_back(dtype, shape.count, shape.offset);
      const void* c = !given ? nullptr : in_place ? made[0].at() : v.at();
      // g and t must not be read where f'' is zero.
      cuda::bias_act_adjoint(dtype, c, curved ? g.at() : nullptr, curved ? t.at() : nullptr, ref.at(),
                             bias_at, channels, act, made[0].at(), shape.count, nullptr);
      return made;
    });
    for (size_t i = 0; i < n; ++i) {
      truth[i] = given ? act_df(act, kept(i)) * vs[i] : 0;
      if (curved) truth[i] += act_d2f(act, kept(i)) * gs[i] * ts[i];
    }
    expect_close(what, dtype, out[0], truth, 16);
  }
}

inline int bias_act_cases() {
  const BiasShape shapes[] = {
      {0, {3, 2}, 0},       {1, {1, 1}, 0},    {7, {0, 1}, 0},           {4097, {0, 1}, 0},
      {4096, {16, 16}, 0},  {4100, {5, 4}, 0}, {3 * 7 * 25, {7, 25}, 0}, {6 * 33, {33, 1}, 0},
      {5 * 64, {64, 1}, 0}, {1003, {0, 1}, 1}, {2 * 3 * 35, {3, 35}, 3},
  };
  int count = 0;
  for (const Dtype dtype : kDtypes)
    for (int kind = 0; kind < kKinds; ++kind)
      for (const BiasShape& shape : shapes) {
        bias_act_case(dtype, kind, shape, (kind + shape.count) % 2 == 1);
        ++count;
      }
  return count;
}

}  // namespace wgangp_fast::testing
