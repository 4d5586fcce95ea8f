// norm_penalty and penalty_seed, against loops in double.
#pragma once

#include "tests/device_support.h"

namespace wgangp_fast::testing {

struct PenaltyShape {
  const char* name;
  int64_t n, batch_stride;
  std::vector<int64_t> size, stride;
  int64_t offset;
};

inline int64_t elements_of(const PenaltyShape& shape) {
  int64_t k = 1;
  for (const int64_t size : shape.size) k *= size;
  return k;
}

inline void penalty_case(Dtype dtype, const PenaltyShape& shape, double target, bool one_sided,
                         int32_t reduction, int rounds = 3) {
  const std::string what = std::string("norm_penalty ") + name_of(dtype) + " " + shape.name + " target " +
                           std::to_string(target) + (one_sided ? " one-sided" : "") + " reduction " +
                           std::to_string(reduction);
  const int64_t n = shape.n, k = elements_of(shape);
  Strided layout{};
  layout.n = n;
  layout.batch_stride = shape.batch_stride;
  layout.dims = static_cast<int32_t>(shape.size.size());
  int64_t reach = n > 0 && k > 0 ? (n - 1) * shape.batch_stride + 1 : 0;
  for (size_t d = 0; d < shape.size.size(); ++d) {
    layout.size[d] = shape.size[d];
    layout.stride[d] = shape.stride[d];
    if (reach > 0) reach += (shape.size[d] - 1) * shape.stride[d];
  }
  Doubles input = numbers(reach, 7, k > 0 ? 1 / std::sqrt(static_cast<double>(k)) : 1);
  if (n > 2 && k > 0 && shape.batch_stride >= k)  // a sample of zeros
    for (int64_t i = 0; i < shape.batch_stride; ++i) input[static_cast<size_t>(shape.batch_stride + i)] = 0;
  const Buffer gradient(dtype, input, shape.offset);
  const Doubles g = gradient.read();

  // The truth: every element by its index.
  Doubles norm(static_cast<size_t>(n)), slope(norm.size()), penalty(norm.size());
  Doubles flat;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    double squared = 0;
    for (int64_t e = 0; e < k; ++e) {
      int64_t rest = e, at = i * shape.batch_stride;
      for (size_t d = shape.size.size(); d-- > 0;) {
        at += rest % shape.size[d] * shape.stride[d];
        rest /= shape.size[d];
      }
      squared += g[static_cast<size_t>(at)] * g[static_cast<size_t>(at)];
      flat.push_back(g[static_cast<size_t>(at)]);
    }
    const auto s = static_cast<size_t>(i);
    norm[s] = std::sqrt(squared);
    double excess = norm[s] - target;
    if (one_sided && target != 0 && excess < 0) excess = 0;
    penalty[s] = target == 0 ? squared : excess * excess;
    slope[s] = target == 0 ? 2 : norm[s] == 0 ? 0 : 2 * excess / norm[s];
    if (reduction == 2) slope[s] /= static_cast<double>(n);
    sum += penalty[s];
  }
  const Dtype acc = acc_of(dtype);
  const auto out = run_all(
      what,
      [&] {
        std::vector<Buffer> made;
        made.emplace_back(acc, reduction == 0 ? n : 1);
        made.emplace_back(acc, n);
        made.emplace_back(acc, n);
        const Buffer partials(acc, cuda::norm_penalty_partials(n, k));
        cuda::norm_penalty(dtype, gradient.at(), layout, target, one_sided, reduction, partials.at(),
                           made[0].at(), made[1].at(), made[2].at(), nullptr);
        return made;
      },
      rounds);
  const double mean = n == 0 ? std::nan("") : sum / static_cast<double>(n);
  expect_close(what + " value", acc, out[0],
               reduction == 0   ? penalty
               : reduction == 1 ? Doubles{sum}
                                : Doubles{mean},
               4);
  expect_close(what + " norm", acc, out[1], norm, 2);
  // 2 (n - target)/n: the error of n over n.
  double largest = 1;
  for (const double length : norm)
    if (length > 0) largest = std::max(largest, 1 / length);
  expect_close(what + " slope", acc, out[2], slope, 8 * largest);

  // The seed, dense, with incoming of either shape.
  for (const bool per_sample : {false, true}) {
    const Buffer dense(dtype, flat, shape.offset), slopes(acc, out[2]);
    const Buffer incoming(acc, numbers(per_sample ? n : 1, 9));
    const auto seeds = run_all(
        "penalty_seed " + what,
        [&] {
          std::vector<Buffer> made;
          made.emplace_back(dtype, n * k, shape.offset);
          cuda::penalty_seed(dtype, dense.at(), slopes.at(), incoming.at(), per_sample, made[0].at(), n, k,
                             nullptr);
          return made;
        },
        rounds);
    const Doubles rate = incoming.read(), values = dense.read();
    Doubles truth(values.size());
    for (size_t i = 0; i < truth.size(); ++i) {
      const size_t s = i / static_cast<size_t>(k);
      truth[i] = values[i] * (out[2][s] * rate[per_sample ? s : 0]);
    }
    expect_close("penalty_seed " + what, dtype, seeds[0], truth, 4);
  }
}

inline int norm_penalty_cases() {
  const PenaltyShape shapes[] = {
      {"none", 0, 5, {5}, {1}, 0},
      {"empty samples", 4, 0, {0, 3}, {3, 1}, 0},
      {"scalars", 37, 1, {}, {}, 0},
      {"pairs", 700, 2, {2}, {1}, 0},
      {"odd", 33, 19, {19}, {1}, 1},
      {"warps", 9, 1003, {1003}, {1}, 2},
      {"one long", 1, 20001, {20001}, {1}, 0},
      {"one long, not aligned", 1, 9001, {9001}, {1}, 3},
      {"chunks", 5, 9000, {9000}, {1}, 0},
      {"channels_last", 3, 8 * 7 * 40, {40, 8, 7}, {1, 280, 40}, 0},
      {"every second", 4, 4 * 66, {4, 33}, {66, 2}, 0},
      {"windows", 3, 50 * 60, {50, 33}, {60, 1}, 1},
      {"expanded", 6, 0, {50}, {1}, 0},
      {"expanded inside", 4, 3, {3, 5}, {1, 0}, 0},
  };
  int count = 0;
  for (const Dtype dtype : kDtypes)
    for (const PenaltyShape& shape : shapes)
      for (int32_t reduction = 0; reduction < 3; ++reduction) {
        const double target = count % 4 == 0 ? 0.0 : 1.0;
        penalty_case(dtype, shape, target, count % 3 == 1, reduction);
        ++count;
      }
  // More samples than one block adds up, and than one round of the blocks takes.
  for (const int64_t n : {1024, 1025, 1024 * 8 + 3}) {
    penalty_case(Dtype::f32, {"many", n, n > 2000 ? 65 : 7, {n > 2000 ? 65 : 7}, {1}, 0}, 1, false, 2, 1);
    ++count;
  }
  return count;
}

}  // namespace wgangp_fast::testing
