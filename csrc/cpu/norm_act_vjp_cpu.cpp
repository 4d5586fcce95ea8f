#include "cpu/norm_channels_last.h"

namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY {
namespace {

template <Shape shape, class T>
void cotangent(Activation act, const T* g, const T* x, const Acc<T>* mean, const Acc<T>* rstd,
               const void* weight, const void* bias, const NormRows& rows, T* gx, Acc<T>* partials,
               T* dweight, T* dbias) {
  using A = Acc<T>;
  const Affine<T> affine(weight, bias, affine_count(rows));
  const double inverse = 1.0 / static_cast<double>(row_size(rows));
  each_unit_of<T>(rows, affine, shape == Shape::plain ? 0 : 1, partials,
                  [=](auto& walker, RowNumbers<A>* numbers, A* scratch, A* partial) {
                    for (int64_t j = 0; j < walker.groups; ++j) {
                      numbers[j].mean = mean[walker.first_row() + j];
                      numbers[j].rstd = rstd[walker.first_row() + j];
                    }
                    const Slopes<shape, A> at_unit{scratch, nullptr, walker.base()};
                    if constexpr (shape != Shape::plain)
                      walker.fill(numbers, x, fill_slope<A>, act, scratch, scratch);
                    walker.template sums<2, true>(
                        numbers, [=](int64_t e, const At<A>& at, A* out) __attribute__((always_inline)) {
                          const A xh = at.normalised(to_acc(x[e]));
                          const A gu = at_unit.slope(e) * to_acc(g[e]);
                          out[0] = gu;
                          out[1] = gu * xh;
                        });
                    if (partial != nullptr) {
                      walker.template affine_sums<2>(partial,
                                                     [](const double* sum, A& to_weight, A& to_bias) {
                                                       to_weight += static_cast<A>(sum[1]);
                                                       to_bias += static_cast<A>(sum[0]);
                                                     });
                    }
                    for (int64_t j = 0; j < walker.groups; ++j) {
                      numbers[j].e[0] = static_cast<A>(walker.total(j, 0) * inverse);
                      numbers[j].e[1] = static_cast<A>(walker.total(j, 1) * inverse);
                    }
                    walker.write(numbers, gx, partial,
                                 [=](int64_t e, const At<A>& at, A* share) __attribute__((always_inline)) {
                                   const A xh = at.normalised(to_acc(x[e]));
                                   const A gu = at_unit.slope(e) * to_acc(g[e]);
                                   share[0] = gu * xh;
                                   share[1] = gu;
                                   return at.rstd * ((at.weight * gu - at.e[0]) - xh * at.e[1]);
                                 });
                  });
  if (partials != nullptr) add_blocks(rows, partials, dweight, dbias);
}

}  // namespace

void norm_act_vjp(Dtype dtype, const void* g, const void* x, const void* mean, const void* rstd,
                  const void* weight, const void* bias, const NormRows& rows, Activation act, void* gx,
                  void* partials, void* dweight, void* dbias) {
  choose_norm(dtype, act, [&](auto shape, auto tag) {
    using T = typename decltype(tag)::type;
    cotangent<decltype(shape)::shape>(act, static_cast<const T*>(g), static_cast<const T*>(x),
                                      static_cast<const Acc<T>*>(mean), static_cast<const Acc<T>*>(rstd),
                                      weight, bias, rows, static_cast<T*>(gx), static_cast<Acc<T>*>(partials),
                                      static_cast<T*>(dweight), static_cast<T*>(dbias));
  });
}

}  // namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY
