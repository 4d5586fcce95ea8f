// Rows of a channels_last layout: one sample is [length, C], and channels lie side by side.
#pragma once

#include "cpu/norm_rows.h"

namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY {

template <class T>
class ChannelsLast {
 public:
  using A = Acc<T>;
  const int64_t groups;

  ChannelsLast(const NormRows& rows, const Affine<T>& affine, bool shared)
      : groups(rows.groups),
        rows_(rows),
        affine_(affine),
        shared_(shared),
        width_(channels_of(rows)),
        lines_(divide_up(kPiece, width_)),
        pieces_(divide_up(rows.length, lines_)),
        part_(pieces_ * width_ * kSums),
        total_(rows.groups * kSums),
        table_((2 + kNumbers) * width_) {}

  static int64_t parts(const NormRows&) { return 1; }

  void start(int64_t sample, int64_t) {
    sample_ = sample;
    base_ = sample * rows_.length * width_;
  }
  int64_t first_row() const { return sample_ * groups; }
  int64_t base() const { return base_; }  // flat index of the unit's first element
  int64_t size() const { return rows_.length * width_; }

  // The activation's part from u = xh*weight + bias, at first[e - base()] and second[e - base()].
  void fill(const RowNumbers<A>* numbers, const T* x, Fill<A> fill, const Activation& act, A* first,
            A* second) {
    spread(numbers);
    over_pieces(shared_, pieces_, lines_ * width_, [&](int64_t from, int64_t to) {
      const Columns columns = all();
      A u[kFilled];
      const int64_t end = least(rows_.length, to * lines_) * width_;
      for (int64_t done = from * lines_ * width_; done < end;) {
        // As many elements as fit, line by line.
        int64_t count = 0;
        while (count < kFilled && done + count < end) {
          const int64_t c = (done + count) % width_,
                        some = least(width_ - c, least(kFilled - count, end - done - count));
          const T* line = x + base_ + done + count;
          each(u + count, some, [=](int64_t i) {
            const At<A> at = columns(c + i);
            return at.normalised(to_acc(line[i])) * at.weight + at.bias;
          });
          count += some;
        }
        fill(act, u, first + done, second + done, count);
        done += count;
      }
    });
  }

  template <int K, bool weighted, class Term>
  void sums(const RowNumbers<A>* numbers, const Term& term) {
    spread(numbers);
    over_pieces(shared_, pieces_, lines_ * width_, [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) {
        piece_sums<K>(p * lines_, least(rows_.length, (p + 1) * lines_), part_.data() + p * width_ * K, term);
      }
    });
    for (int64_t p = 1; p < pieces_; ++p) {
      const double* more = part_.data() + p * width_ * K;
      WGANGP_FAST_INDEPENDENT
      for (int64_t i = 0; i < width_ * K; ++i) part_.data()[i] += more[i];
    }
    for (int64_t i = 0; i < groups * K; ++i) total_[i] = 0;
    for (int64_t c = 0; c < width_; ++c) {
      const double weight = weighted ? static_cast<double>(affine_.weight[c]) : 1.0;
      double* total = total_.data() + c / rows_.channels * K;
      for (int k = 0; k < K; ++k) total[k] += weight * part_[c * K + k];
    }
    sums_ = K;
  }
  double total(int64_t group, int k) const { return total_[group * sums_ + k]; }

  template <int K, class Keep>
  void affine_sums(A* partial, const Keep& keep) const {
    for (int64_t c = 0; c < width_; ++c) keep(part_.data() + c * K, partial[c], partial[width_ + c]);
  }

  template <class Value>
  void write(const RowNumbers<A>* numbers, T* out, A*, const Value& value) {
    spread(numbers);
    over_pieces(shared_, pieces_, lines_ * width_, [&](int64_t first, int64_t last) {
      const Columns columns = all();
      for (int64_t l = first * lines_; l < least(rows_.length, last * lines_); ++l) {
        const int64_t start = base_ + l * width_;
        each(out + start, width_, [=](int64_t c) {
          A share[2] = {};
          return value(start + c, columns(c), share);
        });
      }
    });
  }

 private:
  // The channels' numbers, each kind in a row of its own.
  struct Columns {
    const A *table, *weight, *bias;
    int64_t width;
    WGANGP_FAST_INLINE At<A> operator()(int64_t c) const {
      At<A> at;
      at.mean = table[c], at.rstd = table[width + c];
      at.weight = weight[c], at.bias = bias[c];
      for (int k = 0; k < kNumbers; ++k) at.e[k] = table[(2 + k) * width + c];
      return at;
    }
  };
  Columns all() const { return {table_.data(), affine_.weight, affine_.bias, width_}; }

  void spread(const RowNumbers<A>* numbers) {
    for (int64_t c = 0; c < width_; ++c) {
      const RowNumbers<A>& row = numbers[c / rows_.channels];
      table_[c] = row.mean;
      table_[width_ + c] = row.rstd;
      for (int k = 0; k < kNumbers; ++k) table_[(2 + k) * width_ + c] = row.e[k];
    }
  }

  // sum[c*K + k] over the lines [from, to): a vector of channels after the other, its sums in registers.
  template <int K, class Term>
  void piece_sums(int64_t from, int64_t to, double* sum, const Term& term) const {
    constexpr int64_t lanes = kLanes<A>, run = 512;
    const Columns columns = all();
    for (int64_t i = 0; i < width_ * K; ++i) sum[i] = 0;
    for (int64_t c = 0; c < width_; c += lanes) {
      const int64_t filled = least(lanes, width_ - c);
      for (int64_t begin = from; begin < to; begin += run) {
        A lane[K][lanes] = {};
        const int64_t end = least(to, begin + run);
        const auto add = [&](int64_t l, int64_t i) __attribute__((always_inline)) {
          A out[K];
          term(base_ + l * width_ + c + i, columns(c + i), out);
          for (int k = 0; k < K; ++k) lane[k][i] += out[k];
        };
        if (filled == lanes) {
          for (int64_t l = begin; l < end; ++l) {
            WGANGP_FAST_INDEPENDENT
            for (int64_t i = 0; i < lanes; ++i) add(l, i);
          }
        } else {
          for (int64_t l = begin; l < end; ++l) {
            WGANGP_FAST_INDEPENDENT
            for (int64_t i = 0; i < filled; ++i) add(l, i);
          }
        }
        for (int64_t i = 0; i < filled; ++i) {
          for (int k = 0; k < K; ++k) sum[(c + i) * K + k] += static_cast<double>(lane[k][i]);
        }
      }
    }
  }

  const NormRows rows_;
  const Affine<T>& affine_;
  const bool shared_;
  const int64_t width_, lines_, pieces_;
  Buffer<double> part_, total_;  // [pieces, width, K], [groups, K]
  Buffer<A> table_;              // [2 + kNumbers, width]
  int64_t sample_ = 0, base_ = 0;
  int sums_ = 1;
};

// unit(walker, numbers, scratch, partial) for every unit of a call, units shared between threads or, where
// they are few and long, their pieces. numbers: one a row of the unit. scratch: `arrays` arrays of the unit's
// size. partial: the unit's affine sums.
template <class Walker, class T, class Unit>
inline void each_unit(const NormRows& rows, const Affine<T>& affine, int64_t arrays, Acc<T>* partials,
                      const Unit& unit) {
  const bool wanted = partials != nullptr;
  const int64_t samples = block_rows(rows, wanted), blocks = blocks_of(rows, wanted);
  const int64_t parts = Walker::parts(rows), units = blocks * parts;
  const int64_t unit_size = row_size(rows) * (rows.groups / parts);
  const bool shared = units < 8 && unit_size > 2 * kPiece;
  const int64_t count = affine_count(rows);
  const auto body = [&](int64_t first, int64_t last) {
    Walker walker(rows, affine, shared);
    Buffer<RowNumbers<Acc<T>>> numbers(walker.groups);
    for (int64_t g = 0; g < walker.groups; ++g) numbers[g] = RowNumbers<Acc<T>>{};
    Buffer<Acc<T>> scratch(arrays * unit_size);
    for (int64_t u = first; u < last; ++u) {
      const int64_t block = u / parts, stop = least(rows.n, (block + 1) * samples);
      if (wanted) {  // this unit's part of the block's sums: zeroed where it is used, still in the cache then
        const int64_t width = count / parts;
        Acc<T>* zeroed = partials + block * 2 * count + u % parts * width;
        for (int64_t i = 0; i < width; ++i) zeroed[i] = zeroed[count + i] = Acc<T>(0);
      }
      for (int64_t sample = block * samples; sample < stop; ++sample) {
        walker.start(sample, u % parts);
        unit(walker, numbers.data(), scratch.data(), wanted ? partials + block * 2 * count : nullptr);
      }
    }
  };
  if (shared) return body(0, units);
  parallel(units, divide_up(kGrain, samples * unit_size), body);
}

// The same for the walker that the layout asks for. One element a channel: the layouts are the same, and
// side by side is faster.
template <class T, class Unit>
inline void each_unit_of(const NormRows& rows, const Affine<T>& affine, int64_t arrays, Acc<T>* partials,
                         const Unit& unit) {
  if (rows.n == 0 || rows.groups == 0 || row_size(rows) == 0) return;
  if (rows.per_element) {
    each_unit<Contiguous<T, true>>(rows, affine, arrays, partials, unit);
  } else if (rows.channels_last || rows.length == 1) {
    each_unit<ChannelsLast<T>>(rows, affine, arrays, partials, unit);
  } else {
    each_unit<Contiguous<T, false>>(rows, affine, arrays, partials, unit);
  }
}

// dweight and dbias from the blocks' sums, added in order.
template <class T>
inline void add_blocks(const NormRows& rows, const Acc<T>* partials, T* dweight, T* dbias) {
  const int64_t count = affine_count(rows);
  const int64_t blocks = row_size(rows) * rows.groups == 0 ? 0 : blocks_of(rows, true);
  constexpr int64_t tile = 256;
  parallel(2 * divide_up(count, tile), divide_up(kGrain, tile * (blocks + 1)),
           [&](int64_t first, int64_t last) {
             for (int64_t p = first; p < last; ++p) {
               T* out = p % 2 == 0 ? dweight : dbias;
               const int64_t start = p / 2 * tile, width = least(tile, count - start);
               Acc<T> sum[tile] = {};
               for (int64_t b = 0; b < blocks; ++b) {
                 const Acc<T>* from = partials + (b * 2 + p % 2) * count + start;
                 WGANGP_FAST_INDEPENDENT
                 for (int64_t i = 0; i < width; ++i) sum[i] += from[i];
               }
               if (out != nullptr) each(out + start, width, [&](int64_t i) { return sum[i]; });
             }
           });
}

// run(shape, tag) for the activation's shape and the element type of a call.
template <class Run>
inline void choose_norm(Dtype dtype, const Activation& act, const Run& run) {
  common::with_dtype(dtype, [&](auto tag) {
    if (act.kind == 0) return run(ShapeTag<Shape::plain>{}, tag);
    run(ShapeTag<Shape::curved>{}, tag);
  });
}

}  // namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY
