// Philox4x32-10 and the interpolation weight that each element type draws from it.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/hd.h"

WGANGP_FAST_COMMON_BEGIN

struct Philox {
  uint32_t word[4];
};

// The block of counter (index, offset) under the key `seed`; each of them low word first.
WGANGP_FAST_HD inline Philox philox(uint64_t seed, uint64_t index, uint64_t offset) {
  uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32);
  uint32_t c2 = static_cast<uint32_t>(offset), c3 = static_cast<uint32_t>(offset >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#ifdef __CUDA_ARCH__  // a host compiler does not know it
#pragma unroll
#endif
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform on [0, 1), exact in T: as many random bits as T has in its significand.
template <class T>
struct Uniform;

template <>
struct Uniform<double> {
  WGANGP_FAST_HD static double of(uint32_t w0, uint32_t w1) {
    return static_cast<double>(static_cast<int64_t>(((static_cast<uint64_t>(w0) << 32) | w1) >> 11)) *
           0x1p-53;
  }
};
template <>
struct Uniform<float> {
  WGANGP_FAST_HD static float of(uint32_t w0, uint32_t) {
    return static_cast<float>(static_cast<int32_t>(w0 >> 8)) * 0x1p-24f;
  }
};
template <>
struct Uniform<Half> {
  WGANGP_FAST_HD static float of(uint32_t w0, uint32_t) {
    return static_cast<float>(static_cast<int32_t>(w0 >> 21)) * 0x1p-11f;
  }
};
template <>
struct Uniform<BFloat16> {
  WGANGP_FAST_HD static float of(uint32_t w0, uint32_t) {
    return static_cast<float>(static_cast<int32_t>(w0 >> 24)) * 0x1p-8f;
  }
};

WGANGP_FAST_COMMON_END
