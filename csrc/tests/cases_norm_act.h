// norm_act and its sweeps, against dense matrices: the Jacobian of one row, written out.
#pragma once

#include "tests/activation_truth.h"
#include "tests/device_support.h"

namespace wgangp_fast::testing {

// One row in double: everything of the contract's formulas, by loops.
struct RowTruth {
  Doubles xh, y, gx, jvp, cx, dw_vjp, db_vjp, dw_adjoint, db_adjoint;  // dw and db before their sums
  double mean, rstd;
};

struct RowInput {
  Doubles x, g, t, c, w, b;  // of the row's elements
  bool with_c;
};

inline double average(const Doubles& v) {
  double sum = 0;
  for (const double value : v) sum += value;
  return sum / static_cast<double>(v.size());
}

inline Doubles product(const Doubles& a, const Doubles& b) {
  Doubles out(a.size());
  for (size_t i = 0; i < a.size(); ++i) out[i] = a[i] * b[i];
  return out;
}

inline RowTruth row_truth(const RowInput& in, double eps, const Activation& act) {
  RowTruth out;
  const size_t k = in.x.size();
  out.mean = average(in.x);
  double variance = 0;
  for (const double x : in.x) variance += (x - out.mean) * (x - out.mean);
  out.rstd = 1 / std::sqrt(variance / static_cast<double>(k) + eps);
  for (const double x : in.x) out.xh.push_back((x - out.mean) * out.rstd);
  const auto project = [&](const Doubles& v) {
    const double one = average(v), along = average(product(out.xh, v));
    Doubles result(k);
    for (size_t i = 0; i < k; ++i) result[i] = out.rstd * (v[i] - one - out.xh[i] * along);
    return result;
  };
  Doubles d1(k), d2(k), gu(k);
  for (size_t i = 0; i < k; ++i) {
    const double u = out.xh[i] * in.w[i] + in.b[i], y = act_f(act, u), kept = keeps_input(act.kind) ? u : y;
    out.y.push_back(y);
    d1[i] = act_df(act, kept);
    d2[i] = act_d2f(act, kept);
    gu[i] = d1[i] * in.g[i];
  }
  const Doubles wg = product(in.w, gu), moved = project(in.t), pulled = project(wg);
  out.gx = pulled;
  out.dw_vjp = product(gu, out.xh);
  out.db_vjp = gu;
  out.jvp = product(product(d1, in.w), moved);
  Doubles cu(k);
  for (size_t i = 0; i < k; ++i)
    cu[i] = (in.with_c ? d1[i] * in.c[i] : 0) + d2[i] * in.g[i] * in.w[i] * moved[i];
  out.cx = project(product(in.w, cu));
  const double a = average(product(out.xh, wg)), b = average(product(out.xh, in.t));
  const double m = average(product(wg, in.t)) - average(wg) * average(in.t) - a * b;
  for (size_t i = 0; i < k; ++i)
    out.cx[i] -= out.rstd * (out.rstd * m * out.xh[i] + b * pulled[i] + a * moved[i]);
  out.db_adjoint = cu;
  for (size_t i = 0; i < k; ++i) out.dw_adjoint.push_back(cu[i] * out.xh[i] + gu[i] * moved[i]);
  return out;
}

struct NormCase {
  NormRows rows;
  bool weight, bias, with_c;
  int64_t offset;
  double mean, deviation;
};

inline std::string describe(Dtype dtype, int kind, const NormCase& it) {
  const NormRows& r = it.rows;
  return std::string("norm_act ") + name_of(dtype) + " act " + std::to_string(kind) + " n " +
         std::to_string(r.n) + " groups " + std::to_string(r.groups) + " channels " +
         std::to_string(r.channels) + " length " + std::to_string(r.length) +
         (r.channels_last ? " channels_last" : "") + (r.per_element ? " per element" : "") +
         (it.weight ? " weight" : "") + (it.bias ? " bias" : "") + (it.with_c ? " c" : "") + " offset " +
         std::to_string(it.offset);
}

inline void norm_case(Dtype dtype, int kind, const NormCase& it, int rounds = 3) {
  const NormRows& rows = it.rows;
  const Activation act = activation(kind);
  const Dtype acc = acc_of(dtype);
  const std::string what = describe(dtype, kind, it);
  const double eps = 1e-3;
  const int64_t width = rows.groups * rows.channels, k = rows.channels * rows.length;
  const int64_t count = rows.n * width * rows.length, row_count = rows.n * rows.groups;
  const int64_t affine = rows.per_element ? rows.length : width;
  const auto filled = [&](unsigned seed, double deviation, double mean) {
    return Buffer(dtype, numbers(count, seed, deviation, mean), it.offset);
  };
  const Buffer x = filled(1, it.deviation, it.mean), g = filled(2, 1, 0), t = filled(3, 1, 0),
               c = filled(4, 1, 0);
  const Buffer weight(dtype, numbers(affine, 5, 0.5, 1)), bias(dtype, numbers(affine, 6, 0.5));
  const void *w_at = it.weight ? weight.at() : nullptr, *b_at = it.bias ? bias.at() : nullptr;
  const Doubles xs = x.read(), gs = g.read(), ts = t.read(), cs = c.read(), ws = weight.read(),
                bs = bias.read();

  // The truth, row by row.
  Doubles y(static_cast<size_t>(count)), gx(y), jvp(y), cx(y);
  Doubles means(static_cast<size_t>(row_count)), rstds(means);
  Doubles dw(static_cast<size_t>(affine)), db(dw), dw_adjoint(dw), db_adjoint(dw);
  double steepest = 1;
  for (int64_t n = 0; n < rows.n; ++n)
    for (int64_t group = 0; group < rows.groups; ++group) {
      RowInput in;
      in.with_c = it.with_c;
      std::vector<size_t> at, index;
      for (int64_t e = 0; e < k; ++e) {
        const int64_t channel = group * rows.channels + e / rows.length, l = e % rows.length;
        at.push_back(static_cast<size_t>(rows.channels_last ? (n * rows.length + l) * width + channel
                                                            : (n * width + channel) * rows.length + l));
        index.push_back(static_cast<size_t>(rows.per_element ? e : channel));
        in.x.push_back(xs[at.back()]);
        in.g.push_back(gs[at.back()]);
        in.t.push_back(ts[at.back()]);
        in.c.push_back(cs[at.back()]);
        in.w.push_back(it.weight ? ws[index.back()] : 1);
        in.b.push_back(it.bias ? bs[index.back()] : 0);
      }
      if (k == 0) continue;
      const RowTruth row = row_truth(in, eps, act);
      const auto r = static_cast<size_t>(n * rows.groups + group);
      means[r] = row.mean;
      rstds[r] = row.rstd;
      steepest = std::max(steepest, row.rstd);
      for (size_t e = 0; e < at.size(); ++e) {
        y[at[e]] = row.y[e];
        gx[at[e]] = row.gx[e];
        jvp[at[e]] = row.jvp[e];
        cx[at[e]] = row.cx[e];
        dw[index[e]] += row.dw_vjp[e];
        db[index[e]] += row.db_vjp[e];
        dw_adjoint[index[e]] += row.dw_adjoint[e];
        db_adjoint[index[e]] += row.db_adjoint[e];
      }
    }

  // A large mean takes digits from x itself, before any kernel: |mean| units of xh.
  const double digits = 1 + std::fabs(it.mean) / it.deviation / 16;
  const auto fresh = [&](bool with_affine) {
    std::vector<Buffer> made;
    made.emplace_back(dtype, count, it.offset);
    if (with_affine) made.emplace_back(dtype, affine), made.emplace_back(dtype, affine);
    return made;
  };
  auto out = run_all(
      what,
      [&] {
        auto made = fresh(false);
        made.emplace_back(acc, row_count);
        made.emplace_back(acc, row_count);
        cuda::norm_act(dtype, x.at(), w_at, b_at, rows, eps, act, made[0].at(), made[1].at(), made[2].at(),
                       nullptr);
        return made;
      },
      rounds);
  if (k > 0) {
    expect_close(what + " mean", acc, out[1], means, 1 + it.deviation);
    expect_close(what + " rstd", acc, out[2], rstds, 2 * steepest);
  }
  expect_close(what + " y", dtype, out[0], y, 8 * digits);

  const Buffer mean(acc, means), rstd(acc, rstds);
  const double sums =
      4 + std::sqrt(static_cast<double>(count) / static_cast<double>(std::max<int64_t>(affine, 1)));
  const double slope_scale = 16 * digits * steepest;
  for (const bool with_affine : {false, true}) {
    out = run_all(
        what + " vjp",
        [&] {
          auto made = fresh(with_affine);
          const Buffer partials(acc, cuda::norm_act_partials(rows));
          cuda::norm_act_vjp(dtype, g.at(), x.at(), mean.at(), rstd.at(), w_at, b_at, rows, act, made[0].at(),
                             with_affine ? partials.at() : nullptr, with_affine ? made[1].at() : nullptr,
                             with_affine ? made[2].at() : nullptr, nullptr);
          return made;
        },
        rounds);
    expect_close(what + " gx", dtype, out[0], gx, slope_scale);
    if (with_affine) {
      expect_close(what + " vjp dweight", dtype, out[1], dw, 8 * digits * sums);
      expect_close(what + " vjp dbias", dtype, out[2], db, 8 * digits * sums);
    }

    out = run_all(
        what + " adjoint",
        [&] {
          auto made = fresh(with_affine);
          const Buffer partials(acc, cuda::norm_act_partials(rows));
          cuda::norm_act_adjoint(dtype, it.with_c ? c.at() : nullptr, g.at(), t.at(), x.at(), mean.at(),
                                 rstd.at(), w_at, b_at, rows, act, made[0].at(),
                                 with_affine ? partials.at() : nullptr, with_affine ? made[1].at() : nullptr,
                                 with_affine ? made[2].at() : nullptr, nullptr);
          return made;
        },
        rounds);
    expect_close(what + " cx", dtype, out[0], cx, 4 * slope_scale * steepest);
    if (with_affine) {
      expect_close(what + " adjoint dweight", dtype, out[1], dw_adjoint, slope_scale * sums);
      expect_close(what + " adjoint dbias", dtype, out[2], db_adjoint, slope_scale * sums);
    }
  }
  out = run_all(
      what + " jvp",
      [&] {
        auto made = fresh(false);
        cuda::norm_act_jvp(dtype, t.at(), x.at(), mean.at(), rstd.at(), w_at, b_at, rows, act, made[0].at(),
                           nullptr);
        return made;
      },
      rounds);
  expect_close(what + " jvp", dtype, out[0], jvp, slope_scale);
}

inline int norm_act_cases() {
  // n, groups, channels, length, channels_last, per_element
  const NormRows rows[] = {
      {3, 1, 1, 1, false, true},      // one element a row
      {5, 1, 1, 7, false, true},      // lanes
      {70, 1, 1, 24, false, true},    // several rows to a warp, kept sums over rows
      {20, 1, 1, 520, false, true},   // a block a row
      {3, 1, 1, 2100, false, true},   // cluster
      {2, 4, 3, 5, false, false},     // odd groups
      {3, 2, 8, 16, false, false},    // segments of a few lanes
      {2, 3, 1, 64, false, false},    // instances
      {2, 1, 12, 100, false, false},  // segments to warps
      {1, 2, 3, 1032, false, false},  // a team to a segment, with clusters
      {2, 1, 40, 64, false, false},   // more segments than warps
      {2, 40, 1, 9, true, false},     // channels_last instances
      {2, 5, 4, 12, true, false},     // several groups to a warp
      {2, 2, 6, 10, true, false},     // not a power of two
      {1, 2, 70, 11, true, false},    // more channels than lanes
      {1, 3, 2, 300, true, false},    // channels_last with clusters
      {0, 2, 3, 4, false, false},     // nothing, whose affine sums are zero
  };
  int count = 0;
  for (const Dtype dtype : kDtypes)
    for (const NormRows& shape : rows) {
      const int kind = count * 4 % kKinds;
      norm_case(dtype, kind,
                {shape, count % 3 != 0, count % 4 != 0, count % 2 == 0, count % 5 == 4 ? 1 : 0, 0.3, 2});
      ++count;
    }
  // Every activation, in both arithmetics, with c and without.
  for (const Dtype dtype : {Dtype::f64, Dtype::f32})
    for (int kind = 0; kind < kKinds; ++kind) {
      norm_case(dtype, kind, {{2, 2, 2, 12, false, false}, true, true, kind % 2 == 0, 0, 0, 1}, 1);
      norm_case(dtype, kind, {{2, 2, 2, 12, false, false}, true, true, kind % 2 == 1, 0, 0, 1}, 1);
      count += 2;
    }
  // A mean of 1e4 beside a deviation of 1.
  norm_case(Dtype::f32, 0, {{2, 2, 2, 300, false, false}, true, true, true, 0, 1e4, 1});
  // Tables of sums too large for shared memory.
  norm_case(Dtype::f32, 6, {{3, 1, 1, 6000, false, true}, true, true, true, 0, 0, 1}, 1);
  count += 2;
#ifdef WGANGP_FAST_EMULATED
  // The same as on devices without clusters.
  emulation::settings.clusters = false;
  for (const NormRows& shape : {rows[4], rows[9], rows[15]}) {
    norm_case(Dtype::f32, 6, {shape, true, true, true, 0, 0, 1}, 1);
    ++count;
  }
  emulation::settings.clusters = true;
#endif
  return count;
}

}  // namespace wgangp_fast::testing
