// Tiles of a matrix product in registers, and what packs images for them (convolutions on a CPU).
#pragma once

#include <cstring>
#include <type_traits>

#include "cpu/loops.h"

namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY {

#if defined(__AVX512F__)
inline constexpr int64_t kBytes = 64, kRows = 8;
#elif defined(__AVX2__)
inline constexpr int64_t kBytes = 32, kRows = 6;
#else
inline constexpr int64_t kBytes = 16, kRows = 4;
#endif
// A vector; loads and stores ask for no alignment. Without the extension: a plain array.
template <class T>
struct Lanes {
  static constexpr int64_t count = kBytes / static_cast<int64_t>(sizeof(T));
  static constexpr int64_t columns = 2 * count;
#if defined(__GNUC__)
  typedef T Vector __attribute__((vector_size(kBytes), aligned(alignof(T)), may_alias));
#endif
};

// First and one past the last step k of `count` with 0 <= start + k*step < size.
struct Steps {
  int64_t first, last;
};
inline Steps inside(int64_t start, int64_t step, int64_t count, int64_t size) {
  Steps steps{0, count};
  while (steps.first < count && start + steps.first * step < 0) ++steps.first;
  while (steps.last > steps.first && start + (steps.last - 1) * step >= size) --steps.last;
  return steps;
}

// Square blocks of `size` rows, transposed in registers: a swap of one bit of row and lane at a time.
template <class T, int64_t size>
struct Square {
#if defined(__GNUC__) && !defined(__clang__)
  typedef T Row __attribute__((vector_size(sizeof(T) * size), aligned(alignof(T)), may_alias));
  using Index = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  typedef Index Order __attribute__((vector_size(sizeof(T) * size)));

  static WGANGP_FAST_INLINE void transpose(const T* from, int64_t from_apart, T* to, int64_t to_apart) {
    Row rows[size];
#pragma GCC unroll 16
    for (int64_t r = 0; r < size; ++r) rows[r] = *reinterpret_cast<const Row*>(from + r * from_apart);
#pragma GCC unroll 4
    for (int64_t bit = 1; bit < size; bit *= 2) {
      Order low, high;
      for (int64_t lane = 0; lane < size; ++lane) {
        low[lane] = static_cast<Index>((lane & bit) ? size + lane - bit : lane);
        high[lane] = static_cast<Index>((lane & bit) ? size + lane : lane + bit);
      }
#pragma GCC unroll 16
      for (int64_t r = 0; r < size; ++r) {
        if (r & bit) continue;
        const Row a = rows[r], b = rows[r + bit];
        rows[r] = __builtin_shuffle(a, b, low);
        rows[r + bit] = __builtin_shuffle(a, b, high);
      }
    }
#pragma GCC unroll 16
    for (int64_t r = 0; r < size; ++r) *reinterpret_cast<Row*>(to + r * to_apart) = rows[r];
  }
#else
  static void transpose(const T* from, int64_t from_apart, T* to, int64_t to_apart) {
    for (int64_t r = 0; r < size; ++r) {
      for (int64_t k = 0; k < size; ++k) to[k * to_apart + r] = from[r * from_apart + k];
    }
  }
#endif
};

// One image [channels, places], or [places, channels] if channels_last, to [blocks][places][block], the
// blocks `apart` elements apart; missing channels are zeros.
template <int64_t block, class T>
void pack(const T* image, bool channels_last, int64_t channels, int64_t places, int64_t apart, T* packed) {
  constexpr int64_t lanes = Lanes<T>::count, size = block % lanes == 0 ? lanes : block;
  constexpr bool square = (size & (size - 1)) == 0;
  const int64_t whole = channels / block;
  if (channels_last) {
    for (int64_t place = 0; place < places; place += size) {  // a few places, so that both sides are near
      const int64_t end = least(place + size, places);
      for (int64_t b = 0; b < whole; ++b) {
        for (int64_t k = place; k < end; ++k) {
          std::memcpy(packed + b * apart + k * block, image + k * channels + b * block, sizeof(T) * block);
        }
      }
    }
  }
  for (int64_t b = channels_last ? whole : 0; b * block < channels; ++b) {
    const int64_t first = b * block, count = least(block, channels - first);
    T* to = packed + b * apart;
    int64_t place = 0;
    if constexpr (square) {
      for (; count == block && place + size <= places; place += size) {
        for (int64_t k = 0; k < block; k += size) {
          Square<T, size>::transpose(image + (first + k) * places + place, places, to + place * block + k,
                                     block);
        }
      }
    }
    const int64_t stride = channels_last ? 1 : places, step = channels_last ? channels : 1;
    for (; place < places; ++place) {
      for (int64_t k = 0; k < block; ++k) {
        to[place * block + k] = k < count ? image[place * step + (first + k) * stride] : T(0);
      }
    }
  }
}

// Sums [kRows][columns] of outer products x[r] * g[k], which stay in registers.
template <class T>
struct Tile {
#if defined(__GNUC__)
  using Vector = typename Lanes<T>::Vector;
  Vector sums[kRows][2];

  WGANGP_FAST_INLINE Tile() {
    for (int64_t r = 0; r < kRows; ++r) sums[r][0] = sums[r][1] = Vector{};
  }
  // Over `count` pairs of kRows and of `columns` numbers, the first `step` elements apart.
  WGANGP_FAST_INLINE void take(const T* x, int64_t step, const T* g, int64_t count) {
    for (int64_t j = 0; j < count; ++j, x += step, g += Lanes<T>::columns) {
      const Vector g0 = *reinterpret_cast<const Vector*>(g);
      const Vector g1 = *reinterpret_cast<const Vector*>(g + Lanes<T>::count);
#pragma GCC unroll 8
      for (int64_t r = 0; r < kRows; ++r) {
        sums[r][0] += x[r] * g0;
        sums[r][1] += x[r] * g1;
      }
    }
  }
  WGANGP_FAST_INLINE void add_to(T* to, int64_t apart) const {
    for (int64_t r = 0; r < kRows; ++r, to += apart) {
      *reinterpret_cast<Vector*>(to) += sums[r][0];
      *reinterpret_cast<Vector*>(to + Lanes<T>::count) += sums[r][1];
    }
  }
#else
  T sums[kRows][Lanes<T>::columns] = {};

  void take(const T* x, int64_t step, const T* g, int64_t count) {
    for (int64_t j = 0; j < count; ++j, x += step, g += Lanes<T>::columns) {
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t k = 0; k < Lanes<T>::columns; ++k) sums[r][k] += x[r] * g[k];
      }
    }
  }
  void add_to(T* to, int64_t apart) const {
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t k = 0; k < Lanes<T>::columns; ++k) to[r * apart + k] += sums[r][k];
    }
  }
#endif
};

}  // namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY
