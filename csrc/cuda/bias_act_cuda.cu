// y = f(x + bias), and its first and second order.
#include "cuda/activate.cuh"
#include "cuda/flat.cuh"

namespace wgangp_fast::cuda {
namespace {

// bias[(i / inner) % count] for the elements i of a pack.
template <class T, int W>
struct Bias {
  const T* values;  // [count], null for none
  Divider inner, count;
  bool one_channel;  // inner is a multiple of W: a pack lies in one channel

  Bias(const void* bias, Channels channels)
      : values(channels.count == 0 ? nullptr : static_cast<const T*>(bias)),
        inner(values == nullptr ? 1 : channels.inner),
        count(values == nullptr ? 1 : channels.count),
        one_channel(values != nullptr && channels.inner % W == 0) {}

  __device__ __forceinline__ void add(Values<T, W>& u, int64_t first) const {
    if (values == nullptr) return;
    const int64_t row = inner.quotient(first);
    int64_t channel = row - count.quotient(row) * count.divisor();
    if (one_channel) {
      const Acc<T> bias = widened(values[channel]);
      WGANGP_FAST_UNROLL
      for (int j = 0; j < W; ++j) u.at[j] += bias;
      return;
    }
    int64_t within = first - row * inner.divisor();
    WGANGP_FAST_UNROLL
    for (int j = 0; j < W; ++j) {
      u.at[j] += widened(values[channel]);
      if (++within == inner.divisor()) {
        within = 0;
        if (++channel == count.divisor()) channel = 0;
      }
    }
  }
};

template <class T, int W, int U>
struct Forward {
  static constexpr int kWidth = W, kPacks = U;
  const T* x;
  Bias<T, W> bias;
  Activation act;
  T* y;

  __device__ __forceinline__ void operator()(const FlatSpan& span) const {
    Values<T, W> u[U];
    WGANGP_FAST_UNROLL
    for (int k = 0; k < U; ++k) u[k] = load<W>(x, span.first + k * span.step, span.whole, span.count);
    WGANGP_FAST_UNROLL
    for (int k = 0; k < U; ++k) bias.add(u[k], span.first + k * span.step);
    activate<Acc<T>>(act, [&](auto row) {
      WGANGP_FAST_UNROLL
      for (int k = 0; k < U; ++k) {
        WGANGP_FAST_UNROLL
        for (int j = 0; j < W; ++j) u[k].at[j] = row.f(u[k].at[j]);
      }
    });
    WGANGP_FAST_UNROLL
    for (int k = 0; k < U; ++k) store(y, u[k], span.first + k * span.step, span.whole, span.count);
  }
};

template <class T, int W>
struct Grad {
  static constexpr int kWidth = W, kPacks = 1;
  const T *v, *ref;
  Bias<T, W> bias;  // none where ref is the result
  Activation act;
  T* out;

  __device__ __forceinline__ void operator()(const FlatSpan& span) const {
    Values<T, W> a = load<W>(v, span.first, span.whole, span.count);
    Values<T, W> kept = load<W>(ref, span.first, span.whole, span.count);
    bias.add(kept, span.first);
    activate<Acc<T>>(act, [&](auto row) {
      WGANGP_FAST_UNROLL
      for (int j = 0; j < W; ++j) a.at[j] *= row.df(kept.at[j]);
    });
    store(out, a, span.first, span.whole, span.count);
  }
};

template <class T, int W>
struct Adjoint {
  static constexpr int kWidth = W, kPacks = 1;
  const T *c, *g, *t, *ref;  // c may be null; g and t are not read where f'' is zero
  Bias<T, W> bias;
  Activation act;
  bool curved;
  T* out;

  __device__ __forceinline__ void operator()(const FlatSpan& span) const {
    Values<T, W> a{}, bent{};
    if (c != nullptr) a = load<W>(c, span.first, span.whole, span.count);
    Values<T, W> kept = load<W>(ref, span.first, span.whole, span.count);
    if (curved) {
      bent = load<W>(g, span.first, span.whole, span.count);
      const Values<T, W> tangent = load<W>(t, span.first, span.whole, span.count);
      WGANGP_FAST_UNROLL
      for (int j = 0; j < W; ++j) bent.at[j] *= tangent.at[j];
    }
    bias.add(kept, span.first);
    activate<Acc<T>>(act, [&](auto row) {
      WGANGP_FAST_UNROLL
      for (int j = 0; j < W; ++j) {
        Acc<T> sum = c != nullptr ? row.df(kept.at[j]) * a.at[j] : Acc<T>(0);
        if constexpr (decltype(row)::curved) sum += row.d2f(kept.at[j]) * bent.at[j];
        a.at[j] = sum;
      }
    });
    store(out, a, span.first, span.whole, span.count);
  }
};

}  // namespace

void bias_act(Dtype dtype, const void* x, const void* bias, Channels channels, Activation act, void* y,
              int64_t count, void* stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int W = kWide<T>, U = sizeof(T) == 2 ? 1 : 2;
    launch_flat(Forward<T, W, U>{static_cast<const T*>(x), {bias, channels}, act, static_cast<T*>(y)},
                aligned(x, y), count, stream);
  });
}

void bias_act_grad(Dtype dtype, const void* v, const void* ref, const void* bias, Channels channels,
                   Activation act, void* out, int64_t count, void* stream) {
  const void* added = traits_of(act).keeps_input ? bias : nullptr;
  with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_flat(Grad<T, kWide<T>>{static_cast<const T*>(v),
                                  static_cast<const T*>(ref),
                                  {added, channels},
                                  act,
                                  static_cast<T*>(out)},
                aligned(v, ref, out), count, stream);
  });
}

void bias_act_adjoint(Dtype dtype, const void* c, const void* g, const void* t, const void* ref,
                      const void* bias, Channels channels, Activation act, void* out, int64_t count,
                      void* stream) {
  const Traits traits = traits_of(act);
  const void* added = traits.keeps_input ? bias : nullptr;
  with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_flat(Adjoint<T, kWide<T>>{static_cast<const T*>(c),
                                     static_cast<const T*>(g),
                                     static_cast<const T*>(t),
                                     static_cast<const T*>(ref),
                                     {added, channels},
                                     act,
                                     traits.curved,
                                     static_cast<T*>(out)},
                aligned(c, g, t, ref, out), count, stream);
  });
}

}  // namespace wgangp_fast::cuda
