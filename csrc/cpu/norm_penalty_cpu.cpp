#include <math.h>

#include "cpu/loops.h"

namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY {
namespace {

// Elements of one partial sum: fixed, so that the sum does not depend on the number of threads.
constexpr int64_t kChunk = 16384;

// One sample's memory with the order of its dimensions forgotten, which a norm does not depend on:
// largest stride first, neighbours merged, and a stride of 0 counted as so many repetitions.
struct Layout {
  int32_t dims = 0;
  int64_t size[8], stride[8];
  int64_t elements = 1, repeats = 1;
};

Layout simplify(const Strided& given) {
  Layout layout;
  for (int32_t d = 0; d < given.dims; ++d) {
    const int64_t size = given.size[d], stride = given.stride[d];
    if (size == 1) continue;
    if (stride == 0) {
      layout.repeats *= size;
      continue;
    }
    layout.elements *= size;
    int32_t at = layout.dims++;
    for (; at > 0 && layout.stride[at - 1] < stride; --at) {
      layout.size[at] = layout.size[at - 1];
      layout.stride[at] = layout.stride[at - 1];
    }
    layout.size[at] = size;
    layout.stride[at] = stride;
  }
  int32_t kept = 0;
  for (int32_t d = 1; d < layout.dims; ++d) {
    if (layout.stride[kept] == layout.stride[d] * layout.size[d]) {
      layout.size[kept] *= layout.size[d];
      layout.stride[kept] = layout.stride[d];
    } else {
      ++kept;
      layout.size[kept] = layout.size[d];
      layout.stride[kept] = layout.stride[d];
    }
  }
  layout.dims = layout.dims > 0 ? kept + 1 : 0;
  if (layout.repeats == 0) layout.elements = 0;
  return layout;
}

bool dense(const Layout& layout) {
  return layout.dims == 0 || (layout.dims == 1 && layout.stride[0] == 1) || layout.elements == 0;
}

template <class T>
double squares(const T* x, int64_t count) {
  double total = 0;
  accumulate<Acc<T>, 1>(
      count,
      [=](int64_t i, Acc<T>* out) {
        const Acc<T> v = to_acc(x[i]);
        out[0] = v * v;
      },
      &total);
  return total;
}

// The elements [begin, end) of a sample, counted in the layout's order.
template <class T>
double strided_squares(const T* x, const Layout& layout, int64_t begin, int64_t end) {
  const int32_t last = layout.dims - 1;
  const int64_t inner = layout.size[last], step = layout.stride[last];
  double total = 0;
  for (int64_t i = begin; i < end;) {
    int64_t outer = i / inner, offset = 0;
    const int64_t from = i % inner, count = least(inner - from, end - i);
    for (int32_t d = last - 1; d >= 0; --d) {
      offset += outer % layout.size[d] * layout.stride[d];
      outer /= layout.size[d];
    }
    const T* row = x + offset + from * step;
    if (step == 1) {
      total += squares(row, count);
    } else {
      accumulate<Acc<T>, 1>(
          count,
          [=](int64_t j, Acc<T>* out) {
            const Acc<T> v = to_acc(row[j * step]);
            out[0] = v * v;
          },
          &total);
    }
    i += count;
  }
  return total;
}

// Samples of K elements, side by side in memory; K is known, so the samples fill the vector.
template <int K, class T, class A>
void tiny_samples(const T* x, int64_t batch_stride, A repeats, A* sums, int64_t n) {
  const auto sum = [=](int64_t i, int64_t stride) {
    A total = A(0);
    for (int j = 0; j < K; ++j) {
      const A v = to_acc(x[i * stride + j]);
      total += v * v;
    }
    return total * repeats;
  };
  flat(n, [=](int64_t begin, int64_t end) {
    if (batch_stride == K) {
      WGANGP_FAST_INDEPENDENT
      for (int64_t i = begin; i < end; ++i) sums[i] = sum(i, K);
    } else {
      for (int64_t i = begin; i < end; ++i) sums[i] = sum(i, batch_stride);
    }
  });
}

// partials[i*chunks + j]: the squares of chunk j of sample i.
template <class T, class A>
void partial_sums(const T* x, int64_t n, int64_t batch_stride, const Layout& layout, int64_t chunks,
                  A* partials) {
  const A repeats = static_cast<A>(layout.repeats);
  if (dense(layout) && layout.elements >= 1 && layout.elements <= 4) {
    switch (layout.elements) {
      case 1:
        return tiny_samples<1>(x, batch_stride, repeats, partials, n);
      case 2:
        return tiny_samples<2>(x, batch_stride, repeats, partials, n);
      case 3:
        return tiny_samples<3>(x, batch_stride, repeats, partials, n);
      default:
        return tiny_samples<4>(x, batch_stride, repeats, partials, n);
    }
  }
  const int64_t each_chunk = least(kChunk, layout.elements > 0 ? layout.elements : 1);
  parallel(n * chunks, divide_up(kGrain, each_chunk), [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      const T* sample = x + p / chunks * batch_stride;
      const int64_t begin = p % chunks * kChunk, end = least(layout.elements, begin + kChunk);
      const double sum = begin >= end    ? 0.0
                         : dense(layout) ? squares(sample + begin, end - begin)
                                         : strided_squares(sample, layout, begin, end);
      partials[p] = static_cast<A>(sum * static_cast<double>(layout.repeats));
    }
  });
}

double root(double x) { return sqrt(x); }
float root(float x) { return sqrtf(x); }

template <class A>
WGANGP_FAST_INLINE A excess(A norm, A target, bool one_sided) {
  const A e = norm - target;
  return one_sided && e < A(0) ? A(0) : e;  // NaN comes through
}

// Norm and slope of each sample, and the penalties' reduction.
template <class A>
void finish(const A* partials, int64_t n, int64_t chunks, A target, bool one_sided, int32_t reduction,
            A* value, A* norm, A* slope) {
  const bool centred = target == A(0);
  const bool clamped = one_sided && !centred;
  const A share = reduction == 2 ? A(1) / static_cast<A>(n) : A(1);
  flat(n, [=](int64_t begin, int64_t end) {
    if (chunks == 1) {
      for (int64_t i = begin; i < end; ++i) norm[i] = root(partials[i]);
    } else {
      for (int64_t i = begin; i < end; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < chunks; ++j) sum += static_cast<double>(partials[i * chunks + j]);
        norm[i] = static_cast<A>(root(sum));
      }
    }
    if (centred) {
      for (int64_t i = begin; i < end; ++i) slope[i] = A(2) * share;
    } else {
      WGANGP_FAST_INDEPENDENT
      for (int64_t i = begin; i < end; ++i) {
        const A e = excess(norm[i], target, clamped), s = A(2) * e / norm[i] * share;
        slope[i] = norm[i] == A(0) ? A(0) : s;
      }
    }
    if (reduction == 0) {
      each(value + begin, end - begin, [=](int64_t i) {
        const A e = excess(norm[begin + i], target, clamped);
        return e * e;
      });
    }
  });
  if (reduction == 0) return;
  double total = 0;
  accumulate<A, 1>(
      n,
      [=](int64_t i, A* out) {
        const A e = excess(norm[i], target, clamped);
        out[0] = e * e;
      },
      &total);
  value[0] = static_cast<A>(reduction == 2 ? total / static_cast<double>(n) : total);  // 0/0 is NaN
}

}  // namespace

int64_t norm_penalty_partials(int64_t n, int64_t k) { return n * (k > kChunk ? divide_up(k, kChunk) : 1); }

void norm_penalty(Dtype dtype, const void* gradient, const Strided& given, double target, bool one_sided,
                  int32_t reduction, void* partials, void* value, void* norm, void* slope) {
  const Layout layout = simplify(given);
  const int64_t chunks = norm_penalty_partials(1, layout.elements);
  common::with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    A* sums = static_cast<A*>(partials);
    partial_sums(static_cast<const T*>(gradient), given.n, given.batch_stride, layout, chunks, sums);
    finish(sums, given.n, chunks, static_cast<A>(target), one_sided, reduction, static_cast<A*>(value),
           static_cast<A*>(norm), static_cast<A*>(slope));
  });
}

void penalty_seed(Dtype dtype, const void* gradient, const void* slope, const void* incoming,
                  bool incoming_per_sample, void* seed, int64_t n, int64_t k) {
  common::with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const T* from = static_cast<const T*>(gradient);
    const A *slopes = static_cast<const A*>(slope), *scale = static_cast<const A*>(incoming);
    T* out = static_cast<T*>(seed);
    by_sample<A>(
        n, k, [=](int64_t i) { return slopes[i] * scale[incoming_per_sample ? i : 0]; },
        [=](int64_t start, int64_t count, auto factor) {
          const T* x = from + start;
          each(out + start, count, [=](int64_t i) { return to_acc(x[i]) * factor(i); });
        });
  });
}

}  // namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY
