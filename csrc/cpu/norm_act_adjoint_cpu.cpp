#include "cpu/norm_channels_last.h"

// Sweep 4. With P(v) = v - mean(v) - xh mean(xh v), J v = rstd P(v), G = weight g_u:
//   cx = J(weight c_u) - rstd (rstd m xh + b J G + a J t)
// where a = mean(xh G), b = mean(xh t) and m = mean(G P(t)), which is mean(G t) - mean(G) mean(t) - a b
// without its cancellation. Three passes: sums of t; sums of g_u and c_u, which need J t; the result.
namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY {
namespace {

// An element's numbers in the second and third pass.
template <class A>
struct Element {
  A xh, gu, cu, moved;  // moved: P(t)
};

template <bool carried, Shape shape, class T>
WGANGP_FAST_INLINE Element<Acc<T>> element(Slopes<shape, Acc<T>> at_unit, const T* c, const T* g, const T* t,
                                           const T* x, int64_t e, const At<Acc<T>>& at) {
  using A = Acc<T>;
  const A xh = at.normalised(to_acc(x[e])), cotangent = to_acc(g[e]);
  const A moved = (to_acc(t[e]) - at.e[0]) - xh * at.e[1];
  const A slope = at_unit.slope(e);
  A cu = A(0);
  if constexpr (carried) cu = slope * to_acc(c[e]);
  if constexpr (shape == Shape::curved) cu += at_unit.bend(e) * cotangent * (at.weight * (at.rstd * moved));
  return {xh, slope * cotangent, cu, moved};
}

template <bool carried, Shape shape, class T>
void adjoint(Activation act, const T* c, const T* g, const T* t, const T* x, const Acc<T>* mean,
             const Acc<T>* rstd, const void* weight, const void* bias, const NormRows& rows, T* cx,
             Acc<T>* partials, T* dweight, T* dbias) {
  using A = Acc<T>;
  const Affine<T> affine(weight, bias, affine_count(rows));
  const double inverse = 1.0 / static_cast<double>(row_size(rows));
  constexpr int64_t arrays = shape == Shape::plain ? 0 : 2;
  each_unit_of<T>(
      rows, affine, arrays, partials, [=](auto& walker, RowNumbers<A>* numbers, A* scratch, A* partial) {
        for (int64_t j = 0; j < walker.groups; ++j) {
          numbers[j].mean = mean[walker.first_row() + j];
          numbers[j].rstd = rstd[walker.first_row() + j];
        }
        walker.template sums<2, false>(
            numbers, [=](int64_t e, const At<A>& at, A* out) __attribute__((always_inline)) {
              out[0] = to_acc(t[e]);
              out[1] = to_acc(t[e]) * at.normalised(to_acc(x[e]));
            });
        for (int64_t j = 0; j < walker.groups; ++j) {
          numbers[j].e[0] = static_cast<A>(walker.total(j, 0) * inverse);  // mean(t)
          numbers[j].e[1] = static_cast<A>(walker.total(j, 1) * inverse);  // b
        }
        const Slopes<shape, A> at_unit{scratch, scratch + walker.size(), walker.base()};
        if constexpr (shape == Shape::curved) {
          walker.fill(numbers, x, fill_slope_and_bend<A>, act, scratch, scratch + walker.size());
        }
        walker.template sums<5, true>(numbers,
                                      [=](int64_t e, const At<A>& at, A* out) __attribute__((always_inline)) {
                                        const Element<A> v = element<carried>(at_unit, c, g, t, x, e, at);
                                        out[0] = v.gu;
                                        out[1] = v.gu * v.xh;
                                        out[2] = v.gu * v.moved;
                                        out[3] = v.cu;
                                        out[4] = v.cu * v.xh;
                                      });
        if (partial != nullptr) {
          const int64_t channels = rows.channels;
          int64_t channel = 0;
          walker.template affine_sums<5>(partial, [&](const double* sum, A& to_weight, A& to_bias) {
            const double scale =
                static_cast<double>(numbers[walker.groups == 1 ? 0 : channel / channels].rstd);
            to_weight += static_cast<A>(sum[4] + sum[2] * scale);
            to_bias += static_cast<A>(sum[3]);
            ++channel;
          });
        }
        for (int64_t j = 0; j < walker.groups; ++j) {
          const double scale = static_cast<double>(numbers[j].rstd), b = static_cast<double>(numbers[j].e[1]);
          const double g_mean = walker.total(j, 0) * inverse, a = walker.total(j, 1) * inverse;
          const double m = walker.total(j, 2) * inverse, c_mean = walker.total(j, 3) * inverse;
          const double c_xh = walker.total(j, 4) * inverse;
          // cx = rstd (weight (c_u - e2 g_u) - e3 P(t) + e4 xh + e5)
          numbers[j].e[2] = static_cast<A>(b * scale);
          numbers[j].e[3] = static_cast<A>(a * scale);
          numbers[j].e[4] = static_cast<A>(a * b * scale - m * scale - c_xh);
          numbers[j].e[5] = static_cast<A>(b * scale * g_mean - c_mean);
        }
        walker.write(numbers, cx, partial,
                     [=](int64_t e, const At<A>& at, A* share) __attribute__((always_inline)) {
                       const Element<A> v = element<carried>(at_unit, c, g, t, x, e, at);
                       share[0] = v.cu * v.xh + v.gu * (at.rstd * v.moved);
                       share[1] = v.cu;
                       const A inner = at.weight * (v.cu - at.e[2] * v.gu) - at.e[3] * v.moved;
                       return at.rstd * (inner + (at.e[4] * v.xh + at.e[5]));
                     });
      });
  if (partials != nullptr) add_blocks(rows, partials, dweight, dbias);
}

}  // namespace

void norm_act_adjoint(Dtype dtype, const void* c, const void* g, const void* t, const void* x,
                      const void* mean, const void* rstd, const void* weight, const void* bias,
                      const NormRows& rows, Activation act, void* cx, void* partials, void* dweight,
                      void* dbias) {
  choose_norm(dtype, act, [&](auto shape, auto tag) {
    using T = typename decltype(tag)::type;
    const auto run = [&](auto body) {
      body(act, static_cast<const T*>(c), static_cast<const T*>(g), static_cast<const T*>(t),
           static_cast<const T*>(x), static_cast<const Acc<T>*>(mean), static_cast<const Acc<T>*>(rstd),
           weight, bias, rows, static_cast<T*>(cx), static_cast<Acc<T>*>(partials), static_cast<T*>(dweight),
           static_cast<T*>(dbias));
    };
    // Without c every shape is a curved one: a second derivative of zeros is rare enough here.
    c != nullptr ? run(adjoint<true, decltype(shape)::shape, T>) : run(adjoint<false, Shape::curved, T>);
  });
}

}  // namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY
