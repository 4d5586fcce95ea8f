#include "common/activations.h"
#include "cpu/loops.h"

namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY {
namespace {

// A bias of this many channels, each repeated `inner` times, over [0, count): loop(start, count, bias) on
// pieces where the bias is one number, or where each element's stands in a row.
template <class T, class Loop>
void with_bias(const T* bias, Channels channels, int64_t count, const Loop& loop) {
  using A = Acc<T>;
  if (count == 0) return;
  if (bias == nullptr || channels.count == 0) {
    // x + -0 is x for every x, also for -0.
    return flat(count, [&](int64_t begin, int64_t end) { loop(begin, end - begin, Uniform<A>{A(-0.0)}); });
  }
  const int64_t size = channels.count, inner = channels.inner, period = size * inner;
  if (inner >= 128) {  // one channel after the other
    return flat(count, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end;) {
        const int64_t stop = least(end, (i / inner + 1) * inner);
        loop(i, stop - i, Uniform<A>{to_acc(bias[i / inner % size])});
        i = stop;
      }
    });
  }
  if (inner == 1 && size >= 256) {  // the bias itself is such a row
    return flat(count, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end;) {
        const int64_t stop = least(end, (i / size + 1) * size);
        loop(i, stop - i, Own<T>{bias + i % size});
        i = stop;
      }
    });
  }
  // Short runs: spread the bias of one block. Whole periods in a block keep it valid for all blocks.
  const int64_t block = period <= kBlock ? kBlock / period * period : kBlock;
  parallel(divide_up(count, block), kGrain / kBlock, [&](int64_t first, int64_t last) {
    T spread[kBlock];
    for (int64_t b = first; b < last; ++b) {
      const int64_t begin = b * block, length = least(block, count - begin);
      if (b == first || block % period != 0) {
        int64_t channel = begin / inner % size, used = begin % inner;
        for (int64_t i = 0; i < length; ++channel, used = 0) {
          if (channel == size) channel = 0;
          const int64_t stop = least(length, i + inner - used);
          const T value = bias[channel];
          for (; i < stop; ++i) spread[i] = value;
        }
      }
      loop(begin, length, Own<T>{spread});
    }
  });
}

// For the derivatives: only an activation that keeps its input adds the bias again.
template <class Row, class T, class Loop>
void with_kept_bias(const T* bias, Channels channels, int64_t count, const Loop& loop) {
  using A = Acc<T>;
  if constexpr (Row::keeps_input) {
    with_bias(bias, channels, count, loop);
  } else {
    flat(count, [&](int64_t begin, int64_t end) { loop(begin, end - begin, Uniform<A>{A(-0.0)}); });
  }
}

template <class Row, class T>
void value(Row row, const T* x, const T* bias, Channels channels, T* y, int64_t count) {
  with_bias(bias, channels, count, [=](int64_t start, int64_t length, auto b) {
    const T* from = x + start;
    each(y + start, length, [=](int64_t i) { return row.f(to_acc(from[i]) + b(i)); });
  });
}

template <class Row, class T>
void gradient(Row row, const T* v, const T* ref, const T* bias, Channels channels, T* out, int64_t count) {
  with_kept_bias<Row>(bias, channels, count, [=](int64_t start, int64_t length, auto b) {
    const T *cotangent = v + start, *kept = ref + start;
    each(out + start, length,
         [=](int64_t i) { return to_acc(cotangent[i]) * row.df(to_acc(kept[i]) + b(i)); });
  });
}

template <class Row, class T>
void adjoint(Row row, const T* c, const T* g, const T* t, const T* ref, const T* bias, Channels channels,
             T* out, int64_t count) {
  using A = Acc<T>;
  if constexpr (!Row::curved) {
    if (c != nullptr) return gradient(row, c, ref, bias, channels, out, count);
    flat(count,
         [=](int64_t begin, int64_t end) { each(out + begin, end - begin, [](int64_t) { return A(0); }); });
  } else {
    with_kept_bias<Row>(bias, channels, count, [=](int64_t start, int64_t length, auto b) {
      const T *cotangent = g + start, *tangent = t + start, *kept = ref + start;
      if (c == nullptr) {
        return each(out + start, length, [=](int64_t i) {
          return row.d2f(to_acc(kept[i]) + b(i)) * (to_acc(cotangent[i]) * to_acc(tangent[i]));
        });
      }
      const T* carried = c + start;
      each(out + start, length, [=](int64_t i) {
        const A u = to_acc(kept[i]) + b(i);
        return row.df(u) * to_acc(carried[i]) + row.d2f(u) * (to_acc(cotangent[i]) * to_acc(tangent[i]));
      });
    });
  }
}

// run(row, a value of the element type) for the activation and the element type of a call.
template <class Run>
void choose(Dtype dtype, Activation act, const Run& run) {
  common::with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    common::with_activation<Acc<T>>(act, [&](auto row) { run(row, tag); });
  });
}

}  // namespace

void bias_act(Dtype dtype, const void* x, const void* bias, Channels channels, Activation act, void* y,
              int64_t count) {
  choose(dtype, act, [&](auto row, auto tag) {
    using T = typename decltype(tag)::type;
    value(row, static_cast<const T*>(x), static_cast<const T*>(bias), channels, static_cast<T*>(y), count);
  });
}

void bias_act_grad(Dtype dtype, const void* v, const void* ref, const void* bias, Channels channels,
                   Activation act, void* out, int64_t count) {
  choose(dtype, act, [&](auto row, auto tag) {
    using T = typename decltype(tag)::type;
    gradient(row, static_cast<const T*>(v), static_cast<const T*>(ref), static_cast<const T*>(bias), channels,
             static_cast<T*>(out), count);
  });
}

void bias_act_adjoint(Dtype dtype, const void* c, const void* g, const void* t, const void* ref,
                      const void* bias, Channels channels, Activation act, void* out, int64_t count) {
  choose(dtype, act, [&](auto row, auto tag) {
    using T = typename decltype(tag)::type;
    adjoint(row, static_cast<const T*>(c), static_cast<const T*>(g), static_cast<const T*>(t),
            static_cast<const T*>(ref), static_cast<const T*>(bias), channels, static_cast<T*>(out), count);
  });
}

}  // namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY
