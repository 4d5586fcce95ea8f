// norm_act and its sweeps against the definitions in double precision.
#include <algorithm>

#include "check.h"
#include "cpu/parallel.h"
#include "reference.h"

namespace {

using check::Array;
using check::Dtype;
using namespace wgangp_fast;

using Values = std::vector<double>;

// One row of the layout: its elements' places, and each one's weight index.
struct Row {
  std::vector<int64_t> place, weight;
};

std::vector<Row> rows_of(const NormRows& r) {
  const int64_t all = r.groups * r.channels;
  std::vector<Row> found;
  for (int64_t n = 0; n < r.n; ++n) {
    for (int64_t g = 0; g < r.groups; ++g) {
      Row row;
      for (int64_t c = 0; c < r.channels; ++c) {
        for (int64_t l = 0; l < r.length; ++l) {
          row.place.push_back(r.channels_last ? n * r.length * all + l * all + g * r.channels + c
                                              : ((n * r.groups + g) * r.channels + c) * r.length + l);
          row.weight.push_back(r.per_element ? l : g * r.channels + c);
        }
      }
      found.push_back(row);
    }
  }
  return found;
}

double mean_of(const Values& v) {
  double sum = 0;
  for (const double x : v) sum += x;
  return sum / static_cast<double>(v.size());
}
double mean_of(const Values& v, const Values& w) {
  double sum = 0;
  for (size_t i = 0; i < v.size(); ++i) sum += v[i] * w[i];
  return sum / static_cast<double>(v.size());
}

// J v = rstd (v - mean(v) - xh mean(xh v))
Values jacobian(const Values& v, const Values& xh, double rstd) {
  const double m = mean_of(v), b = mean_of(v, xh);
  Values out;
  for (size_t i = 0; i < v.size(); ++i) out.push_back(rstd * (v[i] - m - xh[i] * b));
  return out;
}

struct Want {
  Values y, mean, rstd, gx, vjp_weight, vjp_bias, jvp, cx, dweight, dbias;
};

struct Inputs {
  Array x, weight, bias, g, t, c;
};

Want wanted(const NormRows& r, const Activation& act, const Inputs& in, bool affine, bool carried, double eps,
            const Array& mean, const Array& rstd) {
  const size_t count = static_cast<size_t>(in.x.size()), weights = static_cast<size_t>(in.weight.size());
  Want out;
  for (Values* v : {&out.y, &out.gx, &out.jvp, &out.cx}) v->assign(count, 0);
  for (Values* v : {&out.vjp_weight, &out.vjp_bias, &out.dweight, &out.dbias}) v->assign(weights, 0);
  int64_t index = 0;
  for (const Row& row : rows_of(r)) {
    const size_t k = row.place.size();
    Values x, xh, w, gu, wgu, t, c, cu, wcu;
    for (size_t i = 0; i < k; ++i) x.push_back(in.x.get(row.place[i]));
    const double m = mean_of(x);
    Values centred;
    for (const double v : x) centred.push_back(v - m);
    out.mean.push_back(m);
    out.rstd.push_back(1 / std::sqrt(mean_of(centred, centred) + eps));
    // The sweeps are given the rounded statistics, as they are in use.
    const double mu = mean.get(index), r1 = rstd.get(index);
    ++index;
    std::vector<reference::Order> order;
    for (size_t i = 0; i < k; ++i) {
      xh.push_back((x[i] - mu) * r1);
      w.push_back(affine ? in.weight.get(row.weight[i]) : 1.0);
      order.push_back(reference::activation(act, xh[i] * w[i] + (affine ? in.bias.get(row.weight[i]) : 0.0)));
      gu.push_back(order[i].d1 * in.g.get(row.place[i]));
      wgu.push_back(w[i] * gu[i]);
      t.push_back(in.t.get(row.place[i]));
      out.y[static_cast<size_t>(row.place[i])] = order[i].f;
    }
    const Values jt = jacobian(t, xh, r1), jg = jacobian(wgu, xh, r1);
    for (size_t i = 0; i < k; ++i) {
      const double carry = carried ? order[i].d1 * in.c.get(row.place[i]) : 0.0;
      cu.push_back(carry + order[i].d2 * in.g.get(row.place[i]) * w[i] * jt[i]);
      wcu.push_back(w[i] * cu[i]);
    }
    const Values jc = jacobian(wcu, xh, r1);
    const double a = mean_of(xh, wgu), b = mean_of(xh, t),
                 moment = mean_of(wgu, t) - mean_of(wgu) * mean_of(t) - a * b;
    for (size_t i = 0; i < k; ++i) {
      const size_t at = static_cast<size_t>(row.place[i]), wi = static_cast<size_t>(row.weight[i]);
      out.gx[at] = jg[i];
      out.jvp[at] = order[i].d1 * w[i] * jt[i];
      out.cx[at] = jc[i] - r1 * (r1 * moment * xh[i] + b * jg[i] + a * jt[i]);
      out.vjp_weight[wi] += gu[i] * xh[i];
      out.vjp_bias[wi] += gu[i];
      out.dweight[wi] += cu[i] * xh[i] + gu[i] * jt[i];
      out.dbias[wi] += cu[i];
    }
  }
  return out;
}

double largest(const Values& v) {
  double found = 1;
  for (const double x : v) found = std::fmax(found, std::fabs(x));
  return found;
}

void compare(const Array& got, const Values& want, double roundings, const std::string& what) {
  // `roundings` of acc at the size of the largest result, and the result's own.
  const double size = largest(want), eps = check::acc_epsilon(got.dtype());
  check::close(
      got, [&](int64_t i) { return want[static_cast<size_t>(i)]; },
      [&](double w) { return check::epsilon(got.dtype()) * std::fabs(w) * 0.5 + roundings * eps * size; },
      what);
}

void norm(Dtype dtype, const NormRows& r, const Activation& act, bool affine, bool carried, double shift,
          const std::string& name) {
  const int64_t count = r.n * r.groups * r.channels * r.length;
  const int64_t weights = r.per_element ? r.length : r.groups * r.channels;
  const Dtype acc = check::acc_of(dtype);
  Inputs in{Array::random(dtype, count, 1, 2, shift), Array::random(dtype, weights, 2, 0.5, 1),
            Array::random(dtype, weights, 3, 0.5),    Array::random(dtype, count, 4, 1, 0.2),
            Array::random(dtype, count, 5, 1, -0.3),  Array::random(dtype, count, 6)};
  const void *w = affine ? in.weight.data() : nullptr, *b = affine ? in.bias.data() : nullptr;
  const int64_t all = r.n * r.groups, scratch = cpu::norm_act_partials(r);
  const double eps = 1e-5;
  Array y(dtype, count), mean(acc, all), rstd(acc, all), gx(dtype, count), cx(dtype, count),
      jvp(dtype, count);
  Array dweight(dtype, weights), dbias(dtype, weights), vjp_weight(dtype, weights), vjp_bias(dtype, weights);
  Array partials(acc, scratch), more(acc, scratch);
  cpu::norm_act(dtype, in.x.data(), w, b, r, eps, act, y.data(), mean.data(), rstd.data());
  cpu::norm_act_vjp(dtype, in.g.data(), in.x.data(), mean.data(), rstd.data(), w, b, r, act, gx.data(),
                    affine ? partials.data() : nullptr, vjp_weight.data(), vjp_bias.data());
  cpu::norm_act_jvp(dtype, in.t.data(), in.x.data(), mean.data(), rstd.data(), w, b, r, act, jvp.data());
  cpu::norm_act_adjoint(dtype, carried ? in.c.data() : nullptr, in.g.data(), in.t.data(), in.x.data(),
                        mean.data(), rstd.data(), w, b, r, act, cx.data(), affine ? more.data() : nullptr,
                        dweight.data(), dbias.data());
  check::that(partials.guarded() && more.guarded(), name + ": scratch");
  const Want want = wanted(r, act, in, affine, carried, eps, mean, rstd);
  const std::string what = name + " dtype " + std::to_string(static_cast<int>(dtype)) + " act " +
                           std::to_string(act.kind) + (affine ? " affine" : "") +
                           (carried ? "" : " without c");
  // A row of one has xh = 0 and rstd = 316: errors are of the size of rstd, and squared in sweep 4.
  double scale = 1;
  for (const double v : want.rstd) scale = std::fmax(scale, v);
  compare(mean, want.mean, 2, what + " mean");
  compare(rstd, want.rstd, 8 + 4 * std::fabs(shift) * 0x1p-10, what + " rstd");
  compare(y, want.y, 32, what + " y");
  const double row = 16 * std::sqrt(static_cast<double>(std::min<int64_t>(r.channels * r.length, 128)));
  compare(gx, want.gx, (32 + row) * scale, what + " vjp");
  compare(jvp, want.jvp, (32 + row) * scale, what + " jvp");
  compare(cx, want.cx, (64 + 2 * row) * scale * scale, what + " adjoint");
  if (!affine) return;
  const double sum =
      32 + 16 * std::sqrt(static_cast<double>(std::max<int64_t>(1, r.n * (r.per_element ? 1 : r.length))));
  compare(vjp_weight, want.vjp_weight, sum * scale, what + " vjp weight");
  compare(vjp_bias, want.vjp_bias, sum, what + " vjp bias");
  compare(dweight, want.dweight, sum * scale * scale, what + " adjoint weight");
  compare(dbias, want.dbias, sum * scale, what + " adjoint bias");
}

void deterministic(const NormRows& r, const std::string& name) {
  const int64_t count = r.n * r.groups * r.channels * r.length;
  const int64_t weights = r.per_element ? r.length : r.groups * r.channels;
  const Array x = Array::random(Dtype::f32, count, 1), w = Array::random(Dtype::f32, weights, 2);
  const Array g = Array::random(Dtype::f32, count, 4), t = Array::random(Dtype::f32, count, 5);
  std::vector<Array> seen;
  for (const int64_t threads : {1, 3}) {
    cpu::set_threads(threads);
    Array y(Dtype::f32, count), mean(Dtype::f32, r.n * r.groups), rstd(Dtype::f32, r.n * r.groups);
    Array cx(Dtype::f32, count), dw(Dtype::f32, weights), db(Dtype::f32, weights);
    Array partials(Dtype::f32, cpu::norm_act_partials(r));
    const Activation act{6, 0, 0, 0};
    cpu::norm_act(Dtype::f32, x.data(), w.data(), w.data(), r, 1e-5, act, y.data(), mean.data(), rstd.data());
    cpu::norm_act_adjoint(Dtype::f32, x.data(), g.data(), t.data(), x.data(), mean.data(), rstd.data(),
                          w.data(), w.data(), r, act, cx.data(), partials.data(), dw.data(), db.data());
    for (const Array& result : {y, mean, rstd, cx, dw, db}) seen.push_back(result);
  }
  cpu::set_threads(2);
  for (size_t i = 0; i < 6; ++i) check::that(seen[i].same(seen[i + 6]), name + " on 1 and 3 threads");
}

}  // namespace

int main() {
  cpu::set_parallel_for(cpu::parallel_for_threads);
  cpu::set_threads(2);
  struct Case {
    NormRows rows;
    const char* name;
  };
  const Case cases[] = {
      {{5, 1, 1, 37, false, true}, "layer norm"},
      {{70, 1, 1, 256, false, true}, "layer norm of many rows"},
      {{3, 1, 1, 1, false, true}, "layer norm of one element"},
      {{3, 2, 3, 35, false, false}, "group norm"},
      {{3, 2, 3, 35, true, false}, "group norm, channels last"},
      {{2, 1, 40, 9, false, false}, "layer norm by channel"},
      {{2, 1, 40, 9, true, false}, "layer norm by channel, channels last"},
      {{3, 5, 1, 64, false, false}, "instance norm"},
      {{3, 37, 1, 12, true, false}, "instance norm, channels last"},
      {{40, 4, 16, 1, false, false}, "group norm of a matrix"},
      {{0, 2, 3, 5, false, false}, "no sample"},
      {{2, 3, 0, 5, false, false}, "no channel"},
  };
  for (const Dtype dtype : check::dtypes) {
    for (const Case& one : cases) {
      for (const Activation& act : reference::activations) {
        for (const bool affine : {true, false}) {
          for (const bool carried : {true, false}) norm(dtype, one.rows, act, affine, carried, 0.1, one.name);
        }
      }
    }
  }
  const Activation identity = reference::activations[0];
  const NormRows far[] = {
      {2, 1, 1, 1000, false, true}, {2, 2, 5, 100, false, false}, {2, 2, 5, 100, true, false}};
  for (const NormRows& rows : far) norm(Dtype::f32, rows, identity, true, true, 1e4, "a mean of 1e4");
  const Case large[] = {{{2, 1, 1, 100003, false, true}, "long layer norm"},
                        {{1, 1, 3, 50001, false, false}, "long group norm"},
                        {{1, 2, 20, 5001, true, false}, "long group norm, channels last"},
                        {{20, 1, 8, 1021, false, false}, "several rows"},
                        {{20, 2, 24, 333, true, false}, "several samples, channels last"}};
  for (const Case& one : large) {
    norm(Dtype::f32, one.rows, reference::activations[3], true, true, 0.5, one.name);
    deterministic(one.rows, one.name);
  }
  return check::report("norm");
}
