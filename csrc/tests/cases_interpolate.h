// interpolate, against a Philox of its own (Salmon et al. 2011, whose test vector it is checked with).
#pragma once

#include "tests/device_support.h"

namespace wgangp_fast::testing {

struct Words {
  uint32_t w[4];
};

inline Words philox_truth(Words counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t left = uint64_t{0xD2511F53} * counter.w[0], right = uint64_t{0xCD9E8D57} * counter.w[2];
    counter = {{static_cast<uint32_t>(right >> 32) ^ counter.w[1] ^ key0, static_cast<uint32_t>(right),
                static_cast<uint32_t>(left >> 32) ^ counter.w[3] ^ key1, static_cast<uint32_t>(left)}};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

inline double drawn_truth(Dtype dtype, uint64_t seed, uint64_t offset, uint64_t sample) {
  const Words words = philox_truth({{static_cast<uint32_t>(sample), static_cast<uint32_t>(sample >> 32),
                                     static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32)}},
                                   static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  switch (dtype) {
    case Dtype::f64:
      return std::ldexp(static_cast<double>((uint64_t{words.w[0]} << 32 | words.w[1]) >> 11), -53);
    case Dtype::f32:
      return std::ldexp(words.w[0] >> 8, -24);
    case Dtype::f16:
      return std::ldexp(words.w[0] >> 21, -11);
    default:
      return std::ldexp(words.w[0] >> 24, -8);
  }
}

inline void interpolate_case(Dtype dtype, int64_t n, int64_t k, int64_t offset, bool given) {
  const std::string what = std::string("interpolate ") + name_of(dtype) + " " + std::to_string(n) + "x" +
                           std::to_string(k) + " offset " + std::to_string(offset) + (given ? " given" : "");
  const uint64_t seed = 0x123456789abcdef0u, at = 0xfedcba9876543210u;
  const Buffer real(dtype, numbers(n * k, 1), offset), fake(dtype, numbers(n * k, 2), offset);
  Doubles weights(static_cast<size_t>(n));
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<double>(i * 37 % 101) / 101;
  const Buffer alpha(dtype, weights);
  const Doubles reals = real.read(), fakes = fake.read(), alphas = alpha.read();
  const auto out = run_all(what, [&] {
    std::vector<Buffer> made;
    made.emplace_back(dtype, n * k, offset);
    made.emplace_back(dtype, n);
    cuda::interpolate(dtype, real.at(), fake.at(), given ? alpha.at() : nullptr, seed, at, made[0].at(),
                      made[1].at(), n, k, nullptr);
    return made;
  });
  Doubles a(static_cast<size_t>(n)), x(static_cast<size_t>(n * k));
  for (size_t i = 0; i < a.size(); ++i) a[i] = given ? alphas[i] : drawn_truth(dtype, seed, at, i);
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = fakes[i] + a[i / static_cast<size_t>(k)] * (reals[i] - fakes[i]);
  if (out[1] != a) fail(what + ": alpha");  // exact
  expect_close(what, dtype, out[0], x);
}

inline int interpolate_cases() {
  const Words known =
      philox_truth({{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}}, 0xffffffff, 0xffffffff);
  const Words expected{{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}};
  if (std::memcmp(&known, &expected, sizeof known) != 0) fail("the test's own Philox");
  const int64_t sizes[][3] = {{0, 5, 0}, {3, 0, 0}, {1, 1, 0}, {7, 1, 0},    {5, 2, 0},   {9, 3, 0},
                              {3, 5, 1}, {4, 8, 0}, {6, 7, 3}, {2, 4096, 0}, {3, 1025, 0}};
  int count = 0;
  for (const Dtype dtype : kDtypes)
    for (const auto& size : sizes)
      for (const bool given : {false, true}) {
        interpolate_case(dtype, size[0], size[1], size[2], given);
        ++count;
      }
  return count;
}

}  // namespace wgangp_fast::testing
