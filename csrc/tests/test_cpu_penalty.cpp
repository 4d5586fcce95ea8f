// norm_penalty and penalty_seed against plain loops in double precision.
#include <algorithm>

#include "check.h"
#include "cpu/parallel.h"

namespace {

using check::Array;
using check::Dtype;
using namespace wgangp_fast;

// The flat offsets of one sample's elements, in no matter what order.
std::vector<int64_t> offsets(const Strided& layout) {
  std::vector<int64_t> found{0};
  for (int32_t d = 0; d < layout.dims; ++d) {
    std::vector<int64_t> next;
    for (const int64_t offset : found) {
      for (int64_t i = 0; i < layout.size[d]; ++i) next.push_back(offset + i * layout.stride[d]);
    }
    found = next;
  }
  return found;
}

void penalty(Dtype dtype, const Strided& layout, double scale, const std::string& name) {
  const std::vector<int64_t> sample = offsets(layout);
  const int64_t n = layout.n, k = static_cast<int64_t>(sample.size());
  int64_t memory = 1;
  for (const int64_t offset : sample) memory = std::max(memory, offset + 1);
  memory += n > 0 ? (n - 1) * layout.batch_stride : 0;
  Array x = Array::random(dtype, memory, 3, scale);
  if (n > 2) {
    for (const int64_t offset : sample) x.set(2 * layout.batch_stride + offset, 0);  // a norm of 0
  }
  const Dtype acc = check::acc_of(dtype);
  const double eps = check::acc_epsilon(dtype);
  const auto norm_of = [&](int64_t i) {
    double sum = 0;
    for (const int64_t offset : sample) {
      const double v = x.get(i * layout.batch_stride + offset);
      sum += v * v;
    }
    return std::sqrt(sum);
  };
  std::vector<double> norms;
  for (int64_t i = 0; i < n; ++i) norms.push_back(norm_of(i));
  // Sums run over at most 128 elements in acc before they go on in float64.
  const double relative = eps * (4 + std::sqrt(static_cast<double>(std::min<int64_t>(k, 128))));
  for (const double target : {1.0, 0.0, 0.3}) {
    for (const bool one_sided : {false, true}) {
      for (int32_t reduction = 0; reduction < 3; ++reduction) {
        Array partials(acc, cpu::norm_penalty_partials(n, k)), value(acc, reduction == 0 ? n : 1);
        Array norm(acc, n), slope(acc, n);
        cpu::norm_penalty(dtype, x.data(), layout, target, one_sided, reduction, partials.data(),
                          value.data(), norm.data(), slope.data());
        const std::string what = "norm_penalty " + name + " dtype " +
                                 std::to_string(static_cast<int>(dtype)) + " target " +
                                 std::to_string(target) + " reduction " + std::to_string(reduction);
        check::that(partials.guarded(), what + ": scratch");
        const auto excess = [&](int64_t i) {
          const double e = norms[static_cast<size_t>(i)] - target;
          return one_sided && target != 0 ? std::fmax(e, 0) : e;
        };
        check::close(
            norm, [&](int64_t i) { return norms[static_cast<size_t>(i)]; },
            [&](double want) { return relative * want; }, what + " norm");
        double total = 0, largest = 0;
        for (int64_t i = 0; i < n; ++i) {
          total += excess(i) * excess(i);
          largest = std::max(largest, norms[static_cast<size_t>(i)] + target);
        }
        if (reduction == 2) total /= static_cast<double>(n);
        const double spread =
            3 * relative * largest * largest * (reduction == 1 ? static_cast<double>(n) : 1);
        check::close(
            value, [&](int64_t i) { return reduction == 0 ? excess(i) * excess(i) : total; },
            [&](double) { return spread; }, what + " value");
        const double share = reduction == 2 ? 1 / static_cast<double>(n) : 1;
        check::close(
            slope,
            [&](int64_t i) {
              if (target == 0) return 2 * share;
              const double length = norms[static_cast<size_t>(i)];
              return length == 0 ? 0 : 2 * excess(i) / length * share;
            },
            [&](double want) { return 4 * relative * (std::fabs(want) + 2 * share); }, what + " slope");
      }
    }
  }
}

void seeds(Dtype dtype, int64_t n, int64_t k) {
  const Dtype acc = check::acc_of(dtype);
  const Array x = Array::random(dtype, n * k, 5), slope = Array::random(acc, n, 6);
  for (const bool each : {false, true}) {
    const Array incoming = Array::random(acc, each ? n : 1, 7);
    Array seed(dtype, n * k);
    cpu::penalty_seed(dtype, x.data(), slope.data(), incoming.data(), each, seed.data(), n, k);
    check::close(
        seed, [&](int64_t i) { return x.get(i) * slope.get(i / k) * incoming.get(each ? i / k : 0); },
        [&](double want) {
          return (0.5 * check::epsilon(dtype) + 2 * check::acc_epsilon(dtype)) * std::fabs(want) +
                 (dtype == Dtype::f16 ? 0x1p-25 : 0.0);
        },
        "penalty_seed " + std::to_string(n) + " x " + std::to_string(k));
  }
}

void deterministic() {
  for (const int64_t n : {1, 5}) {
    const int64_t k = 300007;
    const Strided layout{n, k, 1, {k}, {1}};
    const Array x = Array::random(Dtype::f32, n * k, 9);
    std::vector<Array> first;
    for (const int64_t threads : {1, 3}) {
      cpu::set_threads(threads);
      Array partials(Dtype::f32, cpu::norm_penalty_partials(n, k)), value(Dtype::f32, 1), norm(Dtype::f32, n);
      Array slope(Dtype::f32, n);
      cpu::norm_penalty(Dtype::f32, x.data(), layout, 1, false, 2, partials.data(), value.data(), norm.data(),
                        slope.data());
      first.push_back(norm);
    }
    check::that(first[0].same(first[1]), "norm_penalty on 1 and 3 threads");
  }
}

}  // namespace

int main() {
  cpu::set_parallel_for(cpu::parallel_for_threads);
  cpu::set_threads(2);
  for (const Dtype dtype : check::dtypes) {
    for (const int64_t n : {0, 1, 3, 65}) {
      for (const int64_t k : {0, 1, 2, 3, 4, 5, 33, 1000}) {
        penalty(dtype, {n, k, 1, {k}, {1}}, 0.3, "dense " + std::to_string(n) + " x " + std::to_string(k));
      }
    }
    penalty(dtype, {4, 1, 0, {}, {}}, 2, "no dimensions");
    penalty(dtype, {1, 0, 1, {100003}, {1}}, 0.05, "one long sample");
    penalty(dtype, {5003, 2, 1, {2}, {1}}, 1, "many short samples");
    penalty(dtype, {5, 100, 1, {17}, {3}}, 0.3, "strided");
    penalty(dtype, {5, 0, 1, {17}, {1}}, 0.3, "the same sample each time");
    penalty(dtype, {5, 1, 1, {7}, {5}}, 0.3, "batch innermost");
    penalty(dtype, {3, 900, 3, {5, 6, 30}, {1, 150, 5}}, 0.05, "permuted, dense");
    penalty(dtype, {3, 2000, 3, {4, 6, 7}, {300, 40, 2}}, 0.1, "with gaps");
    penalty(dtype, {3, 50, 3, {4, 9, 5}, {0, 2, 0}}, 0.1, "expanded");
    penalty(dtype, {3, 1, 2, {4, 9}, {0, 0}}, 0.1, "wholly expanded");
    penalty(dtype, {2, 1, 2, {150, 200}, {400, 2}}, 0.01, "long and strided");
    for (const int64_t n : {0, 1, 9, 3000}) {
      for (const int64_t k : {0, 1, 2, 77, 3000}) {
        if (n * k < 1000000) seeds(dtype, n, k);
      }
    }
  }
  deterministic();
  return check::report("penalty");
}
