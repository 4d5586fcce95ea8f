#include "cpu/norm_channels_last.h"

namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY {
namespace {

template <Shape shape, class T>
void forward(Activation act, const T* x, const void* weight, const void* bias, const NormRows& rows,
             double eps, T* y, Acc<T>* mean, Acc<T>* rstd) {
  using A = Acc<T>;
  const Affine<T> affine(weight, bias, affine_count(rows));
  const double inverse = 1.0 / static_cast<double>(row_size(rows));
  each_unit_of<T>(
      rows, affine, shape == Shape::plain ? 0 : 1, nullptr,
      [=](auto& walker, RowNumbers<A>* numbers, A* scratch, A*) {
        walker.template sums<1, false>(numbers,
                                       [=](int64_t e, const At<A>&, A* out)
                                           __attribute__((always_inline)) { out[0] = to_acc(x[e]); });
        for (int64_t g = 0; g < walker.groups; ++g) {
          numbers[g].mean = static_cast<A>(walker.total(g, 0) * inverse);
        }
        // Around the mean nothing cancels; the first sum there corrects what rounding left of the mean.
        walker.template sums<2, false>(
            numbers, [=](int64_t e, const At<A>& at, A* out) __attribute__((always_inline)) {
              const A d = to_acc(x[e]) - at.mean;
              out[0] = d;
              out[1] = d * d;
            });
        for (int64_t g = 0; g < walker.groups; ++g) {
          const double rest = walker.total(g, 0) * inverse;
          const double variance = walker.total(g, 1) * inverse - rest * rest;
          numbers[g].mean = static_cast<A>(static_cast<double>(numbers[g].mean) + rest);
          numbers[g].rstd = static_cast<A>(1.0 / sqrt((variance < 0 ? 0 : variance) + eps));
          mean[walker.first_row() + g] = numbers[g].mean;
          rstd[walker.first_row() + g] = numbers[g].rstd;
        }
        const int64_t base = walker.base();
        if constexpr (shape != Shape::plain) walker.fill(numbers, x, fill_value<A>, act, scratch, scratch);
        walker.write(numbers, y, nullptr, [=](int64_t e, const At<A>& at, A*) __attribute__((always_inline)) {
          if constexpr (shape != Shape::plain) return scratch[e - base];
          return at.normalised(to_acc(x[e])) * at.weight + at.bias;
        });
      });
}

template <Shape shape, class T>
void tangent(Activation act, const T* t, const T* x, const Acc<T>* mean, const Acc<T>* rstd,
             const void* weight, const void* bias, const NormRows& rows, T* y) {
  using A = Acc<T>;
  const Affine<T> affine(weight, bias, affine_count(rows));
  const double inverse = 1.0 / static_cast<double>(row_size(rows));
  each_unit_of<T>(rows, affine, shape == Shape::plain ? 0 : 1, nullptr,
                  [=](auto& walker, RowNumbers<A>* numbers, A* scratch, A*) {
                    for (int64_t g = 0; g < walker.groups; ++g) {
                      numbers[g].mean = mean[walker.first_row() + g];
                      numbers[g].rstd = rstd[walker.first_row() + g];
                    }
                    walker.template sums<2, false>(
                        numbers, [=](int64_t e, const At<A>& at, A* out) __attribute__((always_inline)) {
                          out[0] = to_acc(t[e]);
                          out[1] = to_acc(t[e]) * at.normalised(to_acc(x[e]));
                        });
                    for (int64_t g = 0; g < walker.groups; ++g) {
                      numbers[g].e[0] = static_cast<A>(walker.total(g, 0) * inverse);
                      numbers[g].e[1] = static_cast<A>(walker.total(g, 1) * inverse);
                    }
                    const Slopes<shape, A> at_unit{scratch, nullptr, walker.base()};
                    if constexpr (shape != Shape::plain)
                      walker.fill(numbers, x, fill_slope<A>, act, scratch, scratch);
                    walker.write(numbers, y, nullptr,
                                 [=](int64_t e, const At<A>& at, A*) __attribute__((always_inline)) {
                                   const A xh = at.normalised(to_acc(x[e]));
                                   const A moved = at.rstd * ((to_acc(t[e]) - at.e[0]) - xh * at.e[1]);
                                   return at_unit.slope(e) * at.weight * moved;
                                 });
                  });
}

}  // namespace

void norm_act(Dtype dtype, const void* x, const void* weight, const void* bias, const NormRows& rows,
              double eps, Activation act, void* y, void* mean, void* rstd) {
  choose_norm(dtype, act, [&](auto shape, auto tag) {
    using T = typename decltype(tag)::type;
    forward<decltype(shape)::shape>(act, static_cast<const T*>(x), weight, bias, rows, eps,
                                    static_cast<T*>(y), static_cast<Acc<T>*>(mean),
                                    static_cast<Acc<T>*>(rstd));
  });
}

void norm_act_jvp(Dtype dtype, const void* t, const void* x, const void* mean, const void* rstd,
                  const void* weight, const void* bias, const NormRows& rows, Activation act, void* y) {
  choose_norm(dtype, act, [&](auto shape, auto tag) {
    using T = typename decltype(tag)::type;
    tangent<decltype(shape)::shape>(act, static_cast<const T*>(t), static_cast<const T*>(x),
                                    static_cast<const Acc<T>*>(mean), static_cast<const Acc<T>*>(rstd),
                                    weight, bias, rows, static_cast<T*>(y));
  });
}

int64_t norm_act_partials(const NormRows& rows) { return blocks_of(rows, true) * 2 * affine_count(rows); }

}  // namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY
