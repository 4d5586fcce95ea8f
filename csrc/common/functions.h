// Elementary functions. On a GPU and for float64 they are the library's. For float32 on a CPU they are
// polynomials without branches, which the compiler vectorises; errors are below 2 ulp for exponential,
// 3 ulp for the others (csrc/tests/test_cpu_functions.cpp measures them).
#pragma once

#include <math.h>

#include <cstdint>

#include "common/dtype.h"
#include "common/hd.h"

WGANGP_FAST_COMMON_BEGIN

WGANGP_FAST_HD inline double exponential(double x) { return exp(x); }

WGANGP_FAST_HD inline float exponential(float x) {
#ifdef __CUDA_ARCH__
  return expf(x);
#else
  // Comparisons are written so that NaN comes through. Beyond the bounds the result is 0 or infinity.
  float bounded = x < -104.0f ? -104.0f : x;
  bounded = bounded > 89.0f ? 89.0f : bounded;
  // Adding 1.5*2^23 rounds to an integer, which then stands in the low bits.
  const float shifted = bounded * 1.44269504f + 12582912.0f;
  const float whole = shifted - 12582912.0f;
  const int32_t n = static_cast<int32_t>(bits_of(shifted)) - static_cast<int32_t>(bits_of(12582912.0f));
  // ln 2 in two parts; the first has few enough bits for an exact product.
  const float r = (bounded - whole * 0.693359375f) - whole * -2.12194440e-4f;
  float p = 0.00139517174f;
  p = p * r + 0.00836959854f;
  p = p * r + 0.0416661873f;
  p = p * r + 0.166665122f;
  p = p * r + 0.5f;
  p = (p * (r * r) + r) + 1.0f;
  // 2^n in two factors: either end of the range, subnormal and infinite, is beyond one factor.
  const int32_t half = n >> 1;
  return p * float_of(static_cast<uint32_t>(half + 127) << 23) *
         float_of(static_cast<uint32_t>(n - half + 127) << 23);
#endif
}

WGANGP_FAST_HD inline double magnitude_of(double x) { return fabs(x); }
WGANGP_FAST_HD inline float magnitude_of(float x) { return fabsf(x); }

WGANGP_FAST_HD inline double hyperbolic_tangent(double x) { return tanh(x); }

// For |x| below 0.65.
WGANGP_FAST_HD inline float tangent_near_zero(float x) {
  const float z = x * x;
  float p = -0.00552866887f;
  p = p * z + 0.0204833541f;
  p = p * z + -0.0536929816f;
  p = p * z + 0.133309007f;
  p = p * z + -0.333332628f;
  return p * z * x + x;
}

WGANGP_FAST_HD inline float hyperbolic_tangent(float x) {
#ifdef __CUDA_ARCH__
  return tanhf(x);
#else
  const float size = fabsf(x);
  const float far = 1.0f - 2.0f / (exponential(2.0f * size) + 1.0f);
  const float signed_far = float_of((bits_of(far) & 0x7fffffffu) | (bits_of(x) & 0x80000000u));
  const float near = tangent_near_zero(x);
  return size < 0.625f ? near : signed_far;
#endif
}

WGANGP_FAST_HD inline double exponential_minus_one(double x) { return expm1(x); }

WGANGP_FAST_HD inline float exponential_minus_one(float x) {
#ifdef __CUDA_ARCH__
  return expm1f(x);
#else
  // exp(x) - 1 = 2 t/(1 - t) with t = tanh(x/2) does not cancel near 0.
  const float t = tangent_near_zero(0.5f * x);
  const float near = 2.0f * t / (1.0f - t);
  const float far = exponential(x) - 1.0f;
  return fabsf(x) < 0.5f ? near : far;
#endif
}

// The logistic function and its derivative, neither of which cancels at either end.
template <class A>
struct Logistic {
  A value, slope;
};

template <class A>
WGANGP_FAST_HD inline Logistic<A> logistic(A x) {
  const A e = exponential(-magnitude_of(x));
  const A r = A(1) / (A(1) + e);
  const A small = e * r;
  return {x < A(0) ? small : r, small * r};
}

WGANGP_FAST_HD inline double log_one_plus_fraction(double e) { return log1p(e); }

// log(1 + e) for 0 <= e <= 1.
WGANGP_FAST_HD inline float log_one_plus_fraction(float e) {
#ifdef __CUDA_ARCH__
  return log1pf(e);
#else
  // From sqrt(2) - 1 on, log(1 + e) = ln 2 + log(1 + (e - 1)/2).
  const bool upper = e > 0.41421356f;
  const float lifted = (e - 1.0f) * 0.5f;
  const float x = upper ? lifted : e;
  float p = -0.0785960555f;
  p = p * x + 0.128815979f;
  p = p * x + -0.131287321f;
  p = p * x + 0.141811982f;
  p = p * x + -0.16624558f;
  p = p * x + 0.200022861f;
  p = p * x + -0.250008106f;
  p = p * x + 0.333333164f;
  const float z = x * x;
  const float tail = p * z * x + -0.5f * z;
  return upper ? (tail + -2.12194440e-4f + x) + 0.693359375f : tail + x;
#endif
}

// log(1 + exp(x)).
template <class A>
WGANGP_FAST_HD inline A log_one_plus_exponential(A x) {
  const A positive = x < A(0) ? A(0) : x;
  return positive + log_one_plus_fraction(exponential(-magnitude_of(x)));
}

// Cumulative distribution and density of the standard normal.
template <class A>
struct Normal {
  A cumulative, density;
};

WGANGP_FAST_HD inline Normal<double> normal(double x) {
  return {0.5 * erfc(x * -0.70710678118654752), 0.39894228040143268 * exp(-0.5 * x * x)};
}

WGANGP_FAST_HD inline Normal<float> normal(float x) {
#ifdef __CUDA_ARCH__
  return {0.5f * erfcf(x * -0.707106781f), 0.398942280f * expf(-0.5f * x * x)};
#else
  // Both are exactly 0 or 1 in float32 beyond 15; the bound keeps infinity out of the products.
  const float magnitude = fabsf(x), size = magnitude > 15.0f ? 15.0f : magnitude;
  // exp(-x^2/2) in two factors: x^2 rounded to float32 would cost x^2/4 ulp.
  const float high = float_of(bits_of(size) & 0xfffff000u);
  const float rest = -0.5f * (size - high) * (size + high);
  const float correction = ((rest * 0.166666667f + 0.5f) * rest + 1.0f) * rest;
  const float coarse = exponential(-0.5f * high * high);
  const float bell = coarse * correction + coarse;
  // erfc(z) = exp(-z^2) s Q(s) with s = 1/(1 + 0.35 z) holds to 1e-8 for every z >= 0.
  const float s = 1.0f / (1.0f + 0.247487373f * size);
  float q = 0.0196032897f;
  q = q * s + -0.0817126185f;
  q = q * s + 0.0961802602f;
  q = q * s + -0.0213659797f;
  q = q * s + 0.0499905348f;
  q = q * s + 0.0693999305f;
  q = q * s + 0.0769011304f;
  q = q * s + 0.093657136f;
  q = q * s + 0.0986064598f;
  q = q * s + 0.0987398624f;
  const float tail = bell * (s * q);
  const float far = x < 0.0f ? tail : 1.0f - tail;
  const float z = x * x;
  float p = -7.66467838e-06f;
  p = p * z + 0.000113512651f;
  p = p * z + -0.00118635304f;
  p = p * z + 0.00997333135f;
  p = p * z + -0.0664903596f;
  p = p * z + 0.398942292f;
  const float near = p * x + 0.5f;
  return {size < 1.0f ? near : far, 0.398942280f * bell};
#endif
}

WGANGP_FAST_COMMON_END
