// interpolate, bias_act and gate against plain loops in double precision.
#include "check.h"
#include "common/philox.h"
#include "cpu/parallel.h"
#include "reference.h"

namespace {

using check::Array;
using check::Dtype;
using namespace wgangp_fast;

// A result of a few operations in acc, rounded once. `size` bounds the terms that are added.
auto few(Dtype dtype, double size = 1.0) {
  return [=](double want) {
    return check::epsilon(dtype) * std::fabs(want) * 0.5 +
           16 * check::acc_epsilon(dtype) * (size + std::fabs(want)) + (dtype == Dtype::f16 ? 0x1p-25 : 0.0);
  };
}

std::string label(const char* op, Dtype dtype, int64_t a, int64_t b, int64_t c = 0) {
  return std::string(op) + " dtype " + std::to_string(static_cast<int>(dtype)) + " (" + std::to_string(a) +
         ", " + std::to_string(b) + ", " + std::to_string(c) + ")";
}

void interpolation(Dtype dtype, int64_t n, int64_t k) {
  const Array real = Array::random(dtype, n * k, 1), fake = Array::random(dtype, n * k, 2);
  Array given = Array::random(dtype, n, 3, 0.5, 0.5), x(dtype, n * k), alpha(dtype, n);
  const std::string what = label("interpolate", dtype, n, k);
  for (const bool drawn : {false, true}) {
    cpu::interpolate(dtype, real.data(), fake.data(), drawn ? nullptr : given.data(), 77, 5, x.data(),
                     alpha.data(), n, k);
    if (!drawn) check::that(alpha.same(given), what + " returns the given weights");
    for (int64_t i = 0; drawn && i < n; ++i) {
      const common::Philox block = common::philox(77, static_cast<uint64_t>(i), 5);
      const uint32_t* w = block.word;
      const double want = dtype == Dtype::f64
                              ? static_cast<double>(((uint64_t{w[0]} << 32) | w[1]) >> 11) * 0x1p-53
                          : dtype == Dtype::f32 ? (w[0] >> 8) * 0x1p-24
                          : dtype == Dtype::f16 ? (w[0] >> 21) * 0x1p-11
                                                : (w[0] >> 24) * 0x1p-8;
      if (alpha.get(i) != want) return check::that(false, what + " draws another weight");
    }
    check::close(
        x, [&](int64_t i) { return fake.get(i) + alpha.get(i / k) * (real.get(i) - fake.get(i)); },
        few(dtype), what + (drawn ? " drawn" : " given"));
  }
}

void biased(Dtype dtype, Activation act, int64_t outer, int64_t channels, int64_t inner, bool has_bias) {
  const int64_t count = outer * channels * inner;
  const Channels layout{has_bias ? channels : 0, inner};
  const Array x = Array::random(dtype, count, 4, 3), bias = Array::random(dtype, channels, 5);
  const Array g = Array::random(dtype, count, 6), t = Array::random(dtype, count, 7),
              c = Array::random(dtype, count, 8);
  const void* b = has_bias ? bias.data() : nullptr;
  const auto u = [&](int64_t i) { return x.get(i) + (has_bias ? bias.get(i / inner % channels) : 0.0); };
  const auto order = [&](int64_t i) { return reference::activation(act, u(i)); };
  const std::string what =
      label("bias_act", dtype, outer, channels, inner) + " act " + std::to_string(act.kind);

  Array y(dtype, count), in_place = x;
  cpu::bias_act(dtype, x.data(), b, layout, act, y.data(), count);
  check::close(y, [&](int64_t i) { return order(i).f; }, few(dtype, 4), what);
  cpu::bias_act(dtype, in_place.data(), b, layout, act, in_place.data(), count);
  check::that(in_place.same(y), what + " in place");

  // From a rounded y the derivatives are those at that y: exact to the slope of d1 over f.
  const bool input = reference::keeps_input(act.kind);
  const Array& ref = input ? x : y;
  const double loose = input ? 4 : 4 + 8 * check::epsilon(dtype) / check::acc_epsilon(dtype);
  Array grad(dtype, count), over = g;
  cpu::bias_act_grad(dtype, g.data(), ref.data(), b, layout, act, grad.data(), count);
  check::close(grad, [&](int64_t i) { return g.get(i) * order(i).d1; }, few(dtype, loose), what + " grad");
  cpu::bias_act_grad(dtype, over.data(), ref.data(), b, layout, act, over.data(), count);
  check::that(over.same(grad), what + " grad in place");

  for (const bool carried : {true, false}) {
    Array out(dtype, count), into = c;
    cpu::bias_act_adjoint(dtype, carried ? c.data() : nullptr, g.data(), t.data(), ref.data(), b, layout, act,
                          out.data(), count);
    check::close(
        out,
        [&](int64_t i) {
          const reference::Order o = order(i);
          return (carried ? o.d1 * c.get(i) : 0.0) + o.d2 * g.get(i) * t.get(i);
        },
        few(dtype, 2 * loose), what + (carried ? " adjoint" : " adjoint without c"));
    if (!carried) continue;
    cpu::bias_act_adjoint(dtype, into.data(), g.data(), t.data(), ref.data(), b, layout, act, into.data(),
                          count);
    check::that(into.same(out), what + " adjoint in place");
  }
}

void special(Activation act) {
  const double values[] = {NAN, INFINITY, 0.0, 1e30, -1e30};
  Array x(Dtype::f32, 40), y(Dtype::f32, 40), d(Dtype::f32, 40), one(Dtype::f32, 40);
  for (int i = 0; i < 40; ++i) x.set(i, values[i % 5]), one.set(i, 1);
  cpu::bias_act(Dtype::f32, x.data(), nullptr, {0, 1}, act, y.data(), 40);
  const Array& ref = reference::keeps_input(act.kind) ? x : y;
  cpu::bias_act_grad(Dtype::f32, one.data(), ref.data(), nullptr, {0, 1}, act, d.data(), 40);
  const std::string what = "special values of act " + std::to_string(act.kind);
  for (int i = 0; i < 40; i += 5) {
    check::that(std::isnan(y.get(i)), what + ": NaN");
    const double top = y.get(i + 1);
    check::that(act.kind == 3 || act.kind == 4 ? top == 1 : top == INFINITY, what + ": infinity");
    for (int j = 3; j < 5; ++j) check::that(std::isfinite(d.get(i + j)), what + ": derivative far out");
  }
}

void gates(Dtype dtype, int64_t count) {
  std::vector<Array> in;
  for (uint64_t s = 0; s < 6; ++s) in.push_back(Array::random(dtype, count, 20 + s, s < 2 ? 3 : 1));
  const Array &a = in[0], &b = in[1], &g = in[2], &ta = in[3], &tb = in[4], &c = in[5];
  const auto s = [&](int64_t i) { return reference::activation({4, 0, 0, 0}, a.get(i)); };
  const auto h = [&](int64_t i) { return reference::activation({3, 0, 0, 0}, b.get(i)); };
  const std::string what = label("gate", dtype, count, 0);
  Array y(dtype, count), ga(dtype, count), gb(dtype, count);
  cpu::gate(dtype, a.data(), b.data(), y.data(), count);
  check::close(y, [&](int64_t i) { return s(i).f * h(i).f; }, few(dtype), what);
  cpu::gate_vjp(dtype, g.data(), a.data(), b.data(), ga.data(), gb.data(), count);
  check::close(ga, [&](int64_t i) { return g.get(i) * s(i).d1 * h(i).f; }, few(dtype), what + " vjp a");
  check::close(gb, [&](int64_t i) { return g.get(i) * s(i).f * h(i).d1; }, few(dtype), what + " vjp b");
  cpu::gate_jvp(dtype, ta.data(), tb.data(), a.data(), b.data(), y.data(), count);
  const auto jvp = [&](int64_t i) { return s(i).d1 * h(i).f * ta.get(i) + s(i).f * h(i).d1 * tb.get(i); };
  check::close(y, jvp, few(dtype), what + " jvp");
  for (const bool carried : {true, false}) {
    cpu::gate_adjoint(dtype, carried ? c.data() : nullptr, g.data(), ta.data(), tb.data(), a.data(), b.data(),
                      ga.data(), gb.data(), count);
    const auto carry = [&](int64_t i) { return carried ? c.get(i) : 0.0; };
    check::close(
        ga,
        [&](int64_t i) {
          return carry(i) * s(i).d1 * h(i).f +
                 g.get(i) * (s(i).d2 * h(i).f * ta.get(i) + s(i).d1 * h(i).d1 * tb.get(i));
        },
        few(dtype, 2), what + " adjoint a");
    check::close(
        gb,
        [&](int64_t i) {
          return carry(i) * s(i).f * h(i).d1 +
                 g.get(i) * (s(i).d1 * h(i).d1 * ta.get(i) + s(i).f * h(i).d2 * tb.get(i));
        },
        few(dtype, 2), what + " adjoint b");
  }
}

// Two numbers of threads must give the same bits, also where their shares begin in mid-channel.
void deterministic() {
  const int64_t n = 3, channels = 5, inner = 20011, count = n * channels * inner;
  const Array x = Array::random(Dtype::f32, count, 30, 3), bias = Array::random(Dtype::f32, channels, 31);
  for (const Activation act : reference::activations) {
    Array first(Dtype::f32, count), other(Dtype::f32, count);
    cpu::set_threads(1);
    cpu::bias_act(Dtype::f32, x.data(), bias.data(), {channels, inner}, act, first.data(), count);
    cpu::set_threads(3);
    cpu::bias_act(Dtype::f32, x.data(), bias.data(), {channels, inner}, act, other.data(), count);
    check::that(first.same(other), "bias_act on 1 and 3 threads, act " + std::to_string(act.kind));
  }
}

}  // namespace

int main() {
  cpu::set_parallel_for(cpu::parallel_for_threads);
  cpu::set_threads(2);
  for (const Dtype dtype : check::dtypes) {
    for (const int64_t n : {0, 1, 7, 300}) {
      for (const int64_t k : {0, 1, 2, 31, 257, 5000}) interpolation(dtype, n, k);
    }
    interpolation(dtype, 1, 100003);
    interpolation(dtype, 60001, 2);
    for (const Activation act : reference::activations) {
      for (const bool bias : {true, false}) {
        biased(dtype, act, 2, 3, 0, bias);
        biased(dtype, act, 1, 1, 1, bias);
        biased(dtype, act, 7, 5, 1, bias);
        biased(dtype, act, 9, 300, 1, bias);
        biased(dtype, act, 5, 70, 9, bias);
        biased(dtype, act, 2, 700, 16, bias);
        biased(dtype, act, 2, 3, 1001, bias);
      }
    }
    biased(dtype, reference::activations[2], 3, 64, 1024, true);
    for (const int64_t count : {0, 1, 17, 4099, 70001}) gates(dtype, count);
  }
  for (const Activation act : reference::activations) special(act);
  deterministic();
  return check::report("elementwise");
}
