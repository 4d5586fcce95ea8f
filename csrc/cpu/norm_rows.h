// What the kernels of norm_act share: how they go over the rows of a layout.
//
// The activation's part comes first: fill() writes f(u), or f' and f'', of a whole unit to scratch that stays
// in the cache. So no pass computes it again, and the passes are compiled once for all activations.
//
// A kernel alternates two things: sums over each row, from which it makes a few numbers a row, and a pass
// that writes. Both see an element through At: its row's numbers and its weight and bias. A unit is what one
// task treats at once: one row of a contiguous layout, one sample (all its groups) of a channels_last one.
// Long units are cut into pieces whose sums are added in order, so that it makes no difference whether one
// thread does them or many: few long units share their pieces between threads, many units share themselves.
#pragma once

#include <math.h>

#include "common/activations.h"
#include "cpu/loops.h"

namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY {

inline constexpr int64_t kPiece = 32768;  // elements of a piece
inline constexpr int64_t kFilled = 512;   // elements that an activation is computed for at a time
inline constexpr int kSums = 5;           // of a pass, at most
inline constexpr int kNumbers = 6;        // a row, besides mean and rstd

template <class A>
struct RowNumbers {
  A mean, rstd, e[kNumbers];
};

template <class A>
struct At {
  A mean, rstd, weight, bias, e[kNumbers];
  WGANGP_FAST_INLINE A normalised(A x) const { return (x - mean) * rstd; }
};

// u [count] -> the activation's value, or its first and second derivative.
template <class A>
using Fill = void (*)(const Activation&, const A* u, A* first, A* second, int64_t count);

template <class A, class Each>
inline void fill_with(const Activation& act, const A* u, int64_t count, const Each& each_value) {
  common::with_activation<A>(act, [&](auto row) {
    WGANGP_FAST_INDEPENDENT
    for (int64_t i = 0; i < count; ++i) each_value(row, u[i], i);
  });
}

template <class A>
void fill_value(const Activation& act, const A* u, A* value, A*, int64_t count) {
  fill_with(act, u, count,
            [=](auto row, A at, int64_t i) __attribute__((always_inline)) { value[i] = row.f(at); });
}

template <class A>
void fill_slope(const Activation& act, const A* u, A* slope, A*, int64_t count) {
  fill_with(act, u, count, [=](auto row, A at, int64_t i) __attribute__((always_inline)) {
    slope[i] = row.df(kept_of(row, at));
  });
}

template <class A>
void fill_slope_and_bend(const Activation& act, const A* u, A* slope, A* bend, int64_t count) {
  fill_with(act, u, count, [=](auto row, A at, int64_t i) __attribute__((always_inline)) {
    const A kept = kept_of(row, at);
    slope[i] = row.df(kept);
    bend[i] = row.d2f(kept);
  });
}

// What a kernel has to know of the activation when it is compiled. A piecewise linear one is a curved one
// with zeros: norms are rarely followed by one, and every case here is compiled for each type and layout.
enum class Shape { plain, curved };  // plain: the identity

template <Shape value>
struct ShapeTag {
  static constexpr Shape shape = value;
};

// The activation's part of one unit, by flat element.
template <Shape shape, class A>
struct Slopes {
  const A *first, *second;
  int64_t base;
  WGANGP_FAST_INLINE A slope(int64_t e) const { return shape == Shape::plain ? A(1) : first[e - base]; }
  WGANGP_FAST_INLINE A bend(int64_t e) const { return second[e - base]; }
};

inline int64_t channels_of(const NormRows& rows) { return rows.groups * rows.channels; }
inline int64_t affine_count(const NormRows& rows) {
  return rows.per_element ? rows.length : channels_of(rows);
}
inline int64_t row_size(const NormRows& rows) { return rows.channels * rows.length; }

// Affine sums: samples of one block add to the same partial sums, [2, affine_count] a block.
inline int64_t block_rows(const NormRows& rows, bool affine) {
  return affine && rows.n > 32 ? divide_up(rows.n, 32) : 1;
}
inline int64_t blocks_of(const NormRows& rows, bool affine) {
  return divide_up(rows.n, block_rows(rows, affine));
}

// Weight and bias in acc; ones and zeros where they are absent.
template <class T>
class Affine {
 public:
  Affine(const void* weight, const void* bias, int64_t count)
      : scratch_(2 * count),
        weight(fill(weight, Acc<T>(1), scratch_.data(), count)),
        bias(fill(bias, Acc<T>(0), scratch_.data() + count, count)) {}

 private:
  static const Acc<T>* fill(const void* given, Acc<T> absent, Acc<T>* scratch, int64_t count) {
    const T* values = static_cast<const T*>(given);
    if constexpr (sizeof(T) == sizeof(Acc<T>)) {
      if (given != nullptr) return values;
    }
    if (given != nullptr) {
      for (int64_t i = 0; i < count; ++i) scratch[i] = to_acc(values[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) scratch[i] = absent;
    }
    return scratch;
  }
  Buffer<Acc<T>> scratch_;

 public:
  const Acc<T>*const weight, *const bias;  // [affine_count]
};

// Calls part(first, last) over [0, pieces), on several threads if `shared`.
template <class Part>
inline void over_pieces(bool shared, int64_t pieces, int64_t piece_size, const Part& part) {
  if (shared) {
    parallel(pieces, divide_up(kGrain, piece_size), part);
  } else {
    part(int64_t{0}, pieces);
  }
}

// Rows of [channels, length]; own: LayerNorm's weight for each element.
template <class T, bool own>
class Contiguous {
 public:
  using A = Acc<T>;
  static constexpr int64_t groups = 1;

  Contiguous(const NormRows& rows, const Affine<T>& affine, bool shared)
      : rows_(rows),
        affine_(affine),
        shared_(shared),
        chunks_(divide_up(rows.length, kPiece)),
        pieces_(rows.channels * chunks_),
        part_(pieces_ * kSums) {}

  static int64_t parts(const NormRows& rows) { return rows.groups; }  // units of a sample

  void start(int64_t sample, int64_t part) {
    row_ = sample * rows_.groups + part;
    base_ = row_ * row_size(rows_);
    first_channel_ = part * rows_.channels;
  }
  int64_t first_row() const { return row_; }
  int64_t base() const { return base_; }  // flat index of the unit's first element
  int64_t size() const { return row_size(rows_); }

  // The activation's part from u = xh*weight + bias, at first[e - base()] and second[e - base()].
  void fill(const RowNumbers<A>* numbers, const T* x, Fill<A> fill, const Activation& act, A* first,
            A* second) {
    over_pieces(shared_, pieces_, least(kPiece, rows_.length), [&](int64_t from, int64_t to) {
      A u[kFilled];
      for (int64_t p = from; p < to; ++p) {
        const Piece at = piece(p);
        const At<A> row = uniform(numbers[0], at.channel);
        for (int64_t done = 0; done < at.count; done += kFilled) {
          const int64_t count = least(kFilled, at.count - done), start = at.start + done;
          const A *weight = affine_.weight + at.offset + done, *bias = affine_.bias + at.offset + done;
          each(u, count, [=](int64_t i) {
            return row.normalised(to_acc(x[start + i])) * (own ? weight[i] : row.weight) +
                   (own ? bias[i] : row.bias);
          });
          fill(act, u, first + (start - base_), second + (start - base_), count);
        }
      }
    });
  }

  template <int K, bool weighted, class Term>
  void sums(const RowNumbers<A>* numbers, const Term& term) {
    over_pieces(shared_, pieces_, least(kPiece, rows_.length), [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) {
        const Piece at = piece(p);
        double* sum = part_.data() + p * K;
        for (int k = 0; k < K; ++k) sum[k] = 0;
        const At<A> row = uniform(numbers[0], at.channel);
        const A *weight = affine_.weight + at.offset, *bias = affine_.bias + at.offset;
        const int64_t start = at.start;
        accumulate<A, K>(
            at.count,
            [=](int64_t i, A* out) {
              At<A> element = row;
              if constexpr (own) element.weight = weight[i], element.bias = bias[i];
              term(start + i, element, out);
              if constexpr (own && weighted) {
                for (int k = 0; k < K; ++k) out[k] *= element.weight;
              }
            },
            sum);
      }
    });
    // The pieces of a channel into its first.
    for (int64_t c = 0; c < rows_.channels; ++c) {
      double* total = part_.data() + c * chunks_ * K;
      for (int64_t j = 1; j < chunks_; ++j) {
        for (int k = 0; k < K; ++k) total[k] += total[j * K + k];
      }
    }
    for (int k = 0; k < K; ++k) total_[k] = 0;
    for (int64_t c = 0; c < rows_.channels; ++c) {
      const double weight = weighted && !own ? static_cast<double>(affine_.weight[first_channel_ + c]) : 1.0;
      for (int k = 0; k < K; ++k) total_[k] += weight * part_[c * chunks_ * K + k];
    }
  }
  double total(int64_t, int k) const { return total_[k]; }

  // keep(sums, dweight, dbias): adds a channel's sums to the affine ones. LayerNorm's come from write().
  template <int K, class Keep>
  void affine_sums(A* partial, const Keep& keep) const {
    if constexpr (!own) {
      const int64_t count = affine_count(rows_);
      for (int64_t c = 0; c < rows_.channels; ++c) {
        A* to = partial + first_channel_ + c;
        keep(part_.data() + c * chunks_ * K, to[0], to[count]);
      }
    }
  }

  // out[e] = value(e, at, affine), where affine[0] and [1] are the element's share of dweight and dbias.
  template <class Value>
  void write(const RowNumbers<A>* numbers, T* out, A* partial, const Value& value) {
    over_pieces(shared_, pieces_, least(kPiece, rows_.length), [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) {
        const Piece at = piece(p);
        const At<A> row = uniform(numbers[0], at.channel);
        const A *weight = affine_.weight + at.offset, *bias = affine_.bias + at.offset;
        const int64_t start = at.start;
        const auto element = [=](int64_t i) {
          At<A> found = row;
          if constexpr (own) found.weight = weight[i], found.bias = bias[i];
          return found;
        };
        if (own && partial != nullptr) {
          A *dweight = partial + at.offset, *dbias = dweight + rows_.length;
          WGANGP_FAST_INDEPENDENT
          for (int64_t i = 0; i < at.count; ++i) {
            A share[2] = {};
            out[start + i] = Round<T>::of(value(start + i, element(i), share));
            dweight[i] += share[0];
            dbias[i] += share[1];
          }
        } else {
          each(out + start, at.count, [=](int64_t i) {
            A share[2] = {};
            return value(start + i, element(i), share);
          });
        }
      }
    });
  }

 private:
  struct Piece {
    int64_t channel, start, count, offset;  // offset: in an own weight
  };
  Piece piece(int64_t p) const {
    const int64_t c = p / chunks_, from = p % chunks_ * kPiece;
    return {c, base_ + c * rows_.length + from, least(kPiece, rows_.length - from), own ? from : 0};
  }
  At<A> uniform(const RowNumbers<A>& row, int64_t channel) const {
    At<A> at;
    at.mean = row.mean, at.rstd = row.rstd;
    at.weight = affine_.weight[own ? 0 : first_channel_ + channel];
    at.bias = affine_.bias[own ? 0 : first_channel_ + channel];
    for (int k = 0; k < kNumbers; ++k) at.e[k] = row.e[k];
    return at;
  }

  const NormRows rows_;
  const Affine<T>& affine_;
  const bool shared_;
  const int64_t chunks_, pieces_;
  Buffer<double> part_;  // [pieces, K]
  double total_[kSums];
  int64_t row_ = 0, base_ = 0, first_channel_ = 0;
};

}  // namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY
