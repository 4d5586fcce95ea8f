// The float32 functions against double precision, in units of the last place; the half types' conversions.
#include "check.h"
#include "common/functions.h"

namespace {

using namespace wgangp_fast::common;

template <class F, class G>
void ulp(const char* name, F ours, G exact, float low, float high, double bound) {
  double worst = 0;
  for (int i = 0; i <= 400000; ++i) {
    const float x = low + (high - low) * static_cast<float>(i / 400000.0);
    const double want = exact(static_cast<double>(x)), got = static_cast<double>(ours(x));
    const int exponent = want == 0 ? -149 : std::ilogb(want) - 23;
    worst = std::fmax(worst, std::fabs(got - want) / std::ldexp(1.0, exponent < -149 ? -149 : exponent));
  }
  std::printf("%-12s [%g, %g]: %.2f ulp\n", name, static_cast<double>(low), static_cast<double>(high), worst);
  check::that(worst <= bound, std::string(name) + " exceeds its bound of ulp");
}

double softplus(double x) { return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x))); }
double cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

void functions() {
  const auto exponent = [](float x) { return exponential(x); };
  ulp("exp", exponent, [](double x) { return std::exp(x); }, -103.0f, 88.7f, 2);
  ulp("exp", exponent, [](double x) { return std::exp(x); }, -1.0f, 1.0f, 2);
  for (const float range : {12.0f, 1.0f, 1e-4f}) {
    ulp(
        "tanh", [](float x) { return hyperbolic_tangent(x); }, [](double x) { return std::tanh(x); }, -range,
        range, 3);
    ulp(
        "expm1", [](float x) { return exponential_minus_one(x); }, [](double x) { return std::expm1(x); },
        -range, range, 3);
    ulp("softplus", [](float x) { return log_one_plus_exponential(x); }, softplus, -7 * range, range, 3);
    ulp(
        "sigmoid", [](float x) { return logistic(x).value; }, [](double x) { return 1 / (1 + std::exp(-x)); },
        -7 * range, range, 3);
  }
  ulp("normal cdf", [](float x) { return normal(x).cumulative; }, cdf, -1.0f, 8.0f, 4);
  ulp("normal cdf", [](float x) { return normal(x).cumulative; }, cdf, -12.0f, -1.0f, 8);  // its tail
}

void ends() {
  const float inf = INFINITY, nan = NAN;
  using check::that;
  that(exponential(inf) == inf && exponential(-inf) == 0 && exponential(200.0f) == inf, "exp at its ends");
  that(exponential(0.0f) == 1 && exponential(-200.0f) == 0, "exp at 0 and far below");
  that(hyperbolic_tangent(inf) == 1 && hyperbolic_tangent(-inf) == -1, "tanh at its ends");
  that(hyperbolic_tangent(0.0f) == 0 && hyperbolic_tangent(1e-40f) == 1e-40f, "tanh at 0");
  that(logistic(inf).value == 1 && logistic(-inf).value == 0 && logistic(0.0f).value == 0.5f, "sigmoid");
  that(logistic(inf).slope == 0 && logistic(-inf).slope == 0, "sigmoid' at its ends");
  that(log_one_plus_exponential(inf) == inf && log_one_plus_exponential(-inf) == 0, "softplus at its ends");
  that(normal(inf).cumulative == 1 && normal(-inf).cumulative == 0 && normal(inf).density == 0, "normal");
  that(exponential_minus_one(-inf) == -1 && exponential_minus_one(inf) == inf, "expm1 at its ends");
  that(std::isnan(exponential(nan)) && std::isnan(hyperbolic_tangent(nan)) &&
           std::isnan(logistic(nan).value) && std::isnan(log_one_plus_exponential(nan)) &&
           std::isnan(normal(nan).cumulative) && std::isnan(exponential_minus_one(nan)),
       "NaN comes through");
}

// Every half, and every midpoint between neighbours: it must go to the even one.
template <class T>
void conversions(check::Dtype dtype, const char* name) {
  using wgangp_fast::common::bits_of;
  bool exact = true, back = true, even = true;
  check::Array one(dtype, 1);
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint16_t narrow = static_cast<uint16_t>(bits);
    std::memcpy(one.data(), &narrow, sizeof narrow);
    const float value = to_acc(static_cast<T>(narrow));
    const double want = one.get(0);
    if (std::isnan(want)) {
      exact = exact && std::isnan(value) && std::isnan(to_acc(Round<T>::of(value)));
      continue;
    }
    exact = exact && static_cast<double>(value) == want && std::signbit(value) == std::signbit(want);
    back = back && bits_of(Round<T>::of(value)) == bits;
    const float next = to_acc(static_cast<T>(static_cast<uint16_t>(bits + 1)));
    if (std::isinf(value) || !std::isfinite(next)) continue;
    const float middle = value + (next - value) * 0.5f;
    even = even && bits_of(Round<T>::of(middle)) == bits + (bits & 1);
    even = even && bits_of(Round<T>::of(std::nextafter(middle, value))) == bits;
    even = even && bits_of(Round<T>::of(std::nextafter(middle, next))) == bits + 1;
  }
  check::that(exact, std::string(name) + " to float");
  check::that(back, std::string(name) + " there and back");
  check::that(even, std::string(name) + " rounds to nearest even");
}

}  // namespace

int main() {
  functions();
  ends();
  conversions<wgangp_fast::common::Half>(check::Dtype::f16, "float16");
  conversions<wgangp_fast::common::BFloat16>(check::Dtype::bf16, "bfloat16");
  check::that(wgangp_fast::common::bits_of(Round<wgangp_fast::common::Half>::of(65520.0f)) == 0x7c00 &&
                  wgangp_fast::common::bits_of(Round<wgangp_fast::common::Half>::of(65519.0f)) == 0x7bff,
              "float16 overflows where it must");
  return check::report("functions");
}
