// The four element types, and conversions between them and the type that sums are made in.
//
// The half types are plain bits: the conversions are branch-free integer arithmetic, which g++ turns into
// vector code for every instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/hd.h"

WGANGP_FAST_COMMON_BEGIN

// Enumerations and not structs, which g++ 12 does not load into vectors.
enum class Half : uint16_t {};
enum class BFloat16 : uint16_t {};

WGANGP_FAST_HD inline uint32_t bits_of(Half value) { return static_cast<uint32_t>(value); }
WGANGP_FAST_HD inline uint32_t bits_of(BFloat16 value) { return static_cast<uint32_t>(value); }

WGANGP_FAST_HD inline uint32_t bits_of(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

WGANGP_FAST_HD inline float float_of(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

WGANGP_FAST_HD inline float to_acc(Half value) {
  const uint32_t magnitude = (bits_of(value) & 0x7fffu) << 13;
  // 2^112 moves the exponent from bias 15 to 127, and makes subnormal halves normal.
  const uint32_t finite = bits_of(float_of(magnitude) * 0x1p112f);
  const uint32_t special = magnitude | 0x7f800000u;
  const uint32_t unsigned_bits = magnitude >= 0x0f800000u ? special : finite;
  return float_of(unsigned_bits | ((bits_of(value) & 0x8000u) << 16));
}

WGANGP_FAST_HD inline float to_acc(BFloat16 value) { return float_of(bits_of(value) << 16); }
WGANGP_FAST_HD inline float to_acc(float value) { return value; }
WGANGP_FAST_HD inline double to_acc(double value) { return value; }

// Rounding is to nearest, ties to even; NaN stays NaN.
template <class T>
struct Round;

template <>
struct Round<Half> {
  WGANGP_FAST_HD static Half of(float value) {
    const uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffffu;
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // Below 2^-14 the unit is 2^-24, which is the last bit of a float near 0.5: the addition rounds.
    const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t overflow = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    const uint32_t rounded = magnitude >= 0x47800000u ? overflow : finite;
    return static_cast<Half>(rounded | ((bits >> 16) & 0x8000u));
  }
};

template <>
struct Round<BFloat16> {
  WGANGP_FAST_HD static BFloat16 of(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t nan = (bits >> 16) | 0x40u;
    return static_cast<BFloat16>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
  }
};

template <>
struct Round<float> {
  WGANGP_FAST_HD static float of(float value) { return value; }
};

template <>
struct Round<double> {
  WGANGP_FAST_HD static double of(double value) { return value; }
};

// The type of arithmetic and sums: float64 for float64, else float32.
template <class T>
struct AccOf {
  using type = float;
};
template <>
struct AccOf<double> {
  using type = double;
};
template <class T>
using Acc = typename AccOf<T>::type;

template <class T>
struct Tag {
  using type = T;
};

// visitor(Tag<T>{}) for the element type that `dtype` (ops.h's enum, in its order) names.
template <class Dtype, class Visitor>
inline void with_dtype(Dtype dtype, Visitor&& visitor) {
  switch (static_cast<int32_t>(dtype)) {
    case 0:
      return visitor(Tag<double>{});
    case 1:
      return visitor(Tag<float>{});
    case 2:
      return visitor(Tag<Half>{});
    default:
      return visitor(Tag<BFloat16>{});
  }
}

WGANGP_FAST_COMMON_END
