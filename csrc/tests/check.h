// A few lines instead of a framework: counted failures, deterministic numbers, the element types.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "common/dtype.h"
#include "ops.h"

namespace check {

inline int failures = 0, checks = 0;

inline void that(bool holds, const std::string& what) {
  ++checks;
  if (!holds && ++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

inline int report(const char* name) {
  std::printf("%s: %d checks, %d failures\n", name, checks, failures);
  return failures == 0 && checks > 0 ? 0 : 1;
}

// Uniform on [-1, 1), the same in every run.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435769u + 88172645463325252u) {}
  double operator()() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return static_cast<double>(state_ >> 11) * 0x1p-52 - 1.0;
  }

 private:
  uint64_t state_;
};

using wgangp_fast::Dtype;
inline const Dtype dtypes[] = {Dtype::f64, Dtype::f32, Dtype::f16, Dtype::bf16};

// Distance of 1 to the next number.
inline double epsilon(Dtype dtype) {
  const double of[] = {0x1p-52, 0x1p-23, 0x1p-10, 0x1p-7};
  return of[static_cast<int>(dtype)];
}
inline double acc_epsilon(Dtype dtype) { return dtype == Dtype::f64 ? 0x1p-52 : 0x1p-23; }

// Elements of one type, read and written as double. A guard behind the last one shows writing too far.
class Array {
 public:
  Array(Dtype dtype, int64_t size)
      : dtype_(dtype), size_(size), bytes_(static_cast<size_t>((size + 4) * width()), '\xff') {}
  static Array random(Dtype dtype, int64_t size, uint64_t seed, double scale = 1.0, double shift = 0.0) {
    Array array(dtype, size);
    Random next(seed);
    for (int64_t i = 0; i < size; ++i) array.set(i, next() * scale + shift);
    return array;
  }

  void* data() { return bytes_.data(); }
  const void* data() const { return bytes_.data(); }
  int64_t size() const { return size_; }
  Dtype dtype() const { return dtype_; }

  double get(int64_t i) const {
    switch (dtype_) {
      case Dtype::f64:
        return read<double>(i);
      case Dtype::f32:
        return read<float>(i);
      case Dtype::bf16: {
        const uint32_t bits = static_cast<uint32_t>(read<uint16_t>(i)) << 16;
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
      }
      default: {
        const uint16_t bits = read<uint16_t>(i);
        const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
        const double sign = bits & 0x8000 ? -1 : 1;
        if (exponent == 31) return fraction != 0 ? std::nan("") : sign * INFINITY;
        return sign *
               (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
      }
    }
  }
  // Rounds toward zero in the half types: any representable number near `value` will do for a test.
  void set(int64_t i, double value) {
    if (dtype_ == Dtype::f64) return write(i, value);
    const float single = static_cast<float>(value);
    if (dtype_ == Dtype::f32) return write(i, single);
    uint32_t bits;
    std::memcpy(&bits, &single, sizeof bits);
    if (dtype_ == Dtype::bf16) return write(i, static_cast<uint16_t>(bits >> 16));
    const double size = std::fabs(value);
    if (std::isnan(value)) return write(i, static_cast<uint16_t>(0x7e00));
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    if (size >= 65504) return write(i, static_cast<uint16_t>(sign | (std::isinf(value) ? 0x7c00 : 0x7bff)));
    if (size < 0x1p-14) return write(i, static_cast<uint16_t>(sign | static_cast<int>(size * 0x1p24)));
    const int exponent = std::ilogb(size);
    const int fraction = static_cast<int>(std::ldexp(size, 10 - exponent)) - 1024;
    write(i, static_cast<uint16_t>(sign | ((exponent + 15) << 10) | fraction));
  }
  bool guarded() const {
    for (size_t b = static_cast<size_t>(size_ * width()); b < bytes_.size(); ++b) {
      if (bytes_[b] != '\xff') return false;
    }
    return true;
  }
  bool same(const Array& other) const { return bytes_ == other.bytes_; }

 private:
  int64_t width() const {
    const int64_t of[] = {8, 4, 2, 2};
    return of[static_cast<int>(dtype_)];
  }
  template <class T>
  T read(int64_t i) const {
    T value;
    std::memcpy(&value, bytes_.data() + i * static_cast<int64_t>(sizeof(T)), sizeof value);
    return value;
  }
  template <class T>
  void write(int64_t i, T value) {
    std::memcpy(bytes_.data() + i * static_cast<int64_t>(sizeof(T)), &value, sizeof value);
  }
  Dtype dtype_;
  int64_t size_;
  std::vector<char> bytes_;  // 0xff: NaN in every type
};

inline Dtype acc_of(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

// |got - want| <= tolerance(want) elementwise; NaN must meet NaN.
template <class Want, class Tolerance>
void close(const Array& got, const Want& want, const Tolerance& tolerance, const std::string& what) {
  that(got.guarded(), what + ": wrote behind the end");
  for (int64_t i = 0; i < got.size(); ++i) {
    const double g = got.get(i), w = want(i);
    const bool holds = std::isnan(w) ? std::isnan(g) : g == w || std::fabs(g - w) <= tolerance(w);
    if (!holds) {
      return that(false, what + ": element " + std::to_string(i) + " is " + std::to_string(g) + ", not " +
                             std::to_string(w) + ", off by " +
                             std::to_string(std::fabs(g - w) / tolerance(w)) + " tolerances");
    }
  }
  that(true, what);
}

}  // namespace check
