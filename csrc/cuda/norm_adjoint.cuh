// Sweep 4 of a norm with its activation, in two passes over a row, or three where f'' is not zero.
#pragma once

#include "cuda/norm_passes.cuh"

namespace wgangp_fast::cuda {

struct NormAdjoint {
  static constexpr int kMostWidth = 4, kResident = 2;

  template <class T, int W>
  static __device__ __forceinline__ void run(NormRow<T, W>& row) {
    using A = Acc<T>;
    using V = Values<T, W>;
    const NormCall<T>& call = row.call;
    row.read_statistics();
    const bool curved = call.curved, given = call.c != nullptr;
    // w*c_u needs J t, and so the sums of the first pass, only where f'' is not zero.
    const int last = curved ? 2 : 1;
    A g_mean = 0, a = 0, t_mean = 0, b = 0, m = 0, along_one = 0, along_xh = 0;
    for (int pass = 0; pass <= last; ++pass) {
      // Over the row: w*g_u, xh*w*g_u, t, xh*t, w*g_u*t, w*c_u, xh*w*c_u.
      A sum[7] = {};
      row.pass(pass == last, [&](int64_t at, int64_t offset) {
        const V xh = row.normalised(offset), w = row.weights(at);
        const V g = load_pack<W>(call.g + offset), t = load_pack<W>(call.t + offset);
        V c{}, df = row.affine(xh, w, at), d2f, cx;
        if (given && pass >= last - 1) c = load_pack<W>(call.c + offset);
        row.slopes(df, d2f);
        WGANGP_FAST_UNROLL
        for (int j = 0; j < W; ++j) {
          const A gu = df.at[j] * g.at[j], wg = w.at[j] * gu;
          if (pass == 0) {
            sum[0] += wg;
            sum[1] += xh.at[j] * wg;
            sum[2] += t.at[j];
            sum[3] += xh.at[j] * t.at[j];
            sum[4] += wg * t.at[j];
          }
          const A moved = row.rstd * (t.at[j] - t_mean - xh.at[j] * b);
          A cu = given ? df.at[j] * c.at[j] : A(0);
          if (curved) cu += d2f.at[j] * g.at[j] * (w.at[j] * moved);
          const A wc = w.at[j] * cu;
          sum[5] += wc;
          sum[6] += xh.at[j] * wc;
          const A pulled = row.rstd * (wg - g_mean - xh.at[j] * a);
          const A curvature = -row.rstd * (row.rstd * m * xh.at[j] + b * pulled + a * moved);
          cx.at[j] = row.rstd * (wc - along_one - xh.at[j] * along_xh) + curvature;
          df.at[j] = cu * xh.at[j] + gu * moved;
          d2f.at[j] = cu;
        }
        if (pass != last) return;
        row.add(df, d2f, at);
        store_pack(call.out + offset, cx);
      });
      if (pass == last) break;
      row_sum(call.map, sum);
      if (pass == 0) {
        g_mean = sum[0] / row.count;
        a = sum[1] / row.count;
        t_mean = sum[2] / row.count;
        b = sum[3] / row.count;
        m = sum[4] / row.count - g_mean * t_mean - a * b;
      }
      along_one = sum[5] / row.count;
      along_xh = sum[6] / row.count;
    }
  }
};

}  // namespace wgangp_fast::cuda
