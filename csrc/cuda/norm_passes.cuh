// The passes over a row that make y, and the sweeps of it. With xh = (x - mean)*rstd, K elements in a row and
// P(v) = v - mean(v) - xh*mean(xh*v), the Jacobian of xh is J = rstd*P; it is symmetric. rules/norm.py
// derives the curvature.
#pragma once

#include "cuda/activate.cuh"
#include "cuda/rows.cuh"

namespace wgangp_fast::cuda {

// Where the affine sums go: nowhere; one number a segment; one an element, kept over the rows of a team.
enum class AffineSums : int32_t { none, channel, element };

template <class T>
struct NormCall {
  RowMap map;
  Activation act;
  Acc<T> eps;
  bool curved;  // f'' is not structurally zero
  AffineSums sums;
  bool table_in_shared;      // of AffineSums::element
  const T *c, *g, *t, *x;    // c may be null
  const T *weight, *bias;    // null where absent
  const Acc<T>*mean, *rstd;  // [n, groups]
  T* out;
  Acc<T>*mean_out, *rstd_out;  // forward alone
  Acc<T>* partials;            // [n or teams][2][columns]
};

// One thread's view of a row.
template <class T, int W>
struct NormRow {
  using A = Acc<T>;
  using V = Values<T, W>;
  const NormCall<T>& call;
  const Share& share;
  A mean, rstd, count;
  A weight = 1, bias = 0;    // of the segment
  A sums[2] = {A(0), A(0)};  // affine, of the segment: sum g_u*xh + ..., sum g_u + ...
  A* table = nullptr;        // affine, of the elements: [2][K]
  bool fresh = true;         // the table is not yet filled

  __device__ __forceinline__ NormRow(const NormCall<T>& call_, const Share& share_)
      : call(call_), share(share_), mean(0), rstd(0) {
    count = static_cast<A>(call.map.shape.channels * call.map.shape.length);
  }

  __device__ __forceinline__ void read_statistics() {
    if (!share.valid) return;
    mean = call.mean[share.row];
    rstd = call.rstd[share.row];
  }

  __device__ __forceinline__ V normalised(int64_t offset) const {
    V xh = load_pack<W>(call.x + offset);
    WGANGP_FAST_UNROLL
    for (int j = 0; j < W; ++j) xh.at[j] = (xh.at[j] - mean) * rstd;
    return xh;
  }
  __device__ __forceinline__ V weights(int64_t at) const {
    if (call.map.shape.per_element && call.weight != nullptr) return load_pack<W>(call.weight + at * W);
    V w;
    WGANGP_FAST_UNROLL
    for (int j = 0; j < W; ++j) w.at[j] = weight;
    return w;
  }
  // xh*w + bias
  __device__ __forceinline__ V affine(const V& xh, const V& w, int64_t at) const {
    V u;
    if (call.map.shape.per_element && call.bias != nullptr) {
      u = load_pack<W>(call.bias + at * W);
    } else {
      WGANGP_FAST_UNROLL
      for (int j = 0; j < W; ++j) u.at[j] = bias;
    }
    WGANGP_FAST_UNROLL
    for (int j = 0; j < W; ++j) u.at[j] += xh.at[j] * w.at[j];
    return u;
  }
  // u becomes f'(u), and bent f''(u).
  __device__ __forceinline__ void slopes(V& u) const {
    activate<A>(call.act, [&](auto row) {
      WGANGP_FAST_UNROLL
      for (int j = 0; j < W; ++j) u.at[j] = row.df(common::kept_of(row, u.at[j]));
    });
  }
  __device__ __forceinline__ void slopes(V& u, V& bent) const {
    activate<A>(call.act, [&](auto row) {
      WGANGP_FAST_UNROLL
      for (int j = 0; j < W; ++j) {
        const A kept = common::kept_of(row, u.at[j]);
        u.at[j] = row.df(kept);
        bent.at[j] = row.d2f(kept);
      }
    });
  }

  // Adds to the affine sums: w_part and b_part of one pack.
  __device__ __forceinline__ void add(const V& w_part, const V& b_part, int64_t at) {
    if (call.sums == AffineSums::channel) {
      WGANGP_FAST_UNROLL
      for (int j = 0; j < W; ++j) {
        sums[0] += w_part.at[j];
        sums[1] += b_part.at[j];
      }
    } else if (call.sums == AffineSums::element) {
      A *const w = table + at * W, *const b = w + call.map.shape.length;
      WGANGP_FAST_UNROLL
      for (int j = 0; j < W; ++j) {
        w[j] = fresh ? w_part.at[j] : w[j] + w_part.at[j];
        b[j] = fresh ? b_part.at[j] : b[j] + b_part.at[j];
      }
    }
  }

  // visit(at, offset) for every pack of the thread; after the last pass over the row the affine sums of each
  // segment are written.
  template <class Visit>
  __device__ __forceinline__ void pass(bool last, Visit&& visit) {
    walk(
        share, call.map.shape.channels, [&](int64_t channel) { open(channel); }, visit,
        [&](int64_t channel, bool exists) {
          if (last && call.sums == AffineSums::channel) close(channel, exists);
        });
  }

  // use(load(offset)) for every pack of the thread, four loads under way at once: the first pass over a row
  // is the one that waits for memory, and one load a thread does not fill it.
  template <class Load, class Use>
  __device__ __forceinline__ void sum_pass(Load&& load, Use&& use) const {
    walk_channels(share, call.map.shape.channels, [&](int64_t base) {
      int64_t at = share.at;
      const int64_t step = share.at_step, stride = share.at_stride;
      for (; at + 3 * step < share.at_end; at += 4 * step) {
        const auto a = load(base + at * stride), b = load(base + (at + step) * stride);
        const auto c = load(base + (at + 2 * step) * stride), d = load(base + (at + 3 * step) * stride);
        use(a);
        use(b);
        use(c);
        use(d);
      }
      for (; at < share.at_end; at += step) use(load(base + at * stride));
    });
  }

 private:
  __device__ __forceinline__ void open(int64_t channel) {
    if (call.map.shape.per_element) return;
    const int64_t index = share.group * call.map.shape.channels + channel;
    if (call.weight != nullptr) weight = widened(call.weight[index]);
    if (call.bias != nullptr) bias = widened(call.bias[index]);
  }
  __device__ __forceinline__ void close(int64_t channel, bool exists) {
    segment_sum(call.map, sums);
    if (exists && share.leads_segment) {
      const int64_t width = call.map.shape.groups * call.map.shape.channels;
      A* const to =
          call.partials + share.sample * 2 * width + share.group * call.map.shape.channels + channel;
      to[0] = sums[0];
      to[width] = sums[1];
    }
    sums[0] = sums[1] = 0;
  }
};

struct NormForward {
  static constexpr int kMostWidth = 4, kResident = 3;
  template <class T, int W>
  static __device__ __forceinline__ void run(NormRow<T, W>& row) {
    using A = Acc<T>;
    const NormCall<T>& call = row.call;
    A sum[1] = {A(0)};
    const auto load_x = [&](int64_t offset) { return load_pack<W>(call.x + offset); };
    row.sum_pass(load_x, [&](const Values<T, W>& x) {
      WGANGP_FAST_UNROLL
      for (int j = 0; j < W; ++j) sum[0] += x.at[j];
    });
    row_sum(call.map, sum);
    row.mean = sum[0] / row.count;
    // Squares of deviations, in a pass of their own: sums of squares would cancel beside a large mean.
    sum[0] = 0;
    row.sum_pass(load_x, [&](const Values<T, W>& x) {
      WGANGP_FAST_UNROLL
      for (int j = 0; j < W; ++j) sum[0] += (x.at[j] - row.mean) * (x.at[j] - row.mean);
    });
    row_sum(call.map, sum);
    row.rstd = A(1) / sqrt(sum[0] / row.count + call.eps);
    if (row.share.valid && row.share.leads) {
      call.mean_out[row.share.row] = row.mean;
      call.rstd_out[row.share.row] = row.rstd;
    }
    row.pass(false, [&](int64_t at, int64_t offset) {
      Values<T, W> u = row.affine(row.normalised(offset), row.weights(at), at);
      activate<A>(call.act, [&](auto f) {
        WGANGP_FAST_UNROLL
        for (int j = 0; j < W; ++j) u.at[j] = f.f(u.at[j]);
      });
      store_pack(call.out + offset, u);
    });
  }
};

// The passes of a sweep are rounds of one loop: the table of activations is then compiled once.
struct NormVjp {
  static constexpr int kMostWidth = 4, kResident = 2;
  template <class T, int W>
  static __device__ __forceinline__ void run(NormRow<T, W>& row) {
    using A = Acc<T>;
    const NormCall<T>& call = row.call;
    row.read_statistics();
    A along_one = 0, along_xh = 0;
    for (int pass = 0; pass < 2; ++pass) {
      A sum[2] = {A(0), A(0)};  // of w*g_u, of xh*w*g_u
      row.pass(pass == 1, [&](int64_t at, int64_t offset) {
        const Values<T, W> xh = row.normalised(offset), w = row.weights(at);
        Values<T, W> g = load_pack<W>(call.g + offset), df = row.affine(xh, w, at), gx;
        row.slopes(df);
        WGANGP_FAST_UNROLL
        for (int j = 0; j < W; ++j) {
          g.at[j] *= df.at[j];
          const A wg = w.at[j] * g.at[j];
          sum[0] += wg;
          sum[1] += xh.at[j] * wg;
          df.at[j] = g.at[j] * xh.at[j];
          gx.at[j] = row.rstd * (wg - along_one - xh.at[j] * along_xh);
        }
        if (pass == 0) return;
        row.add(df, g, at);
        store_pack(call.out + offset, gx);
      });
      if (pass == 1) break;
      row_sum(call.map, sum);
      along_one = sum[0] / row.count;
      along_xh = sum[1] / row.count;
    }
  }
};

struct NormJvp {
  static constexpr int kMostWidth = 4, kResident = 2;
  template <class T, int W>
  static __device__ __forceinline__ void run(NormRow<T, W>& row) {
    using A = Acc<T>;
    const NormCall<T>& call = row.call;
    row.read_statistics();
    A sum[2] = {A(0), A(0)};  // of t, of xh*t
    struct Pair {
      Values<T, W> t, x;
    };
    row.sum_pass(
        [&](int64_t offset) { return Pair{load_pack<W>(call.t + offset), load_pack<W>(call.x + offset)}; },
        [&](const Pair& pair) {
          WGANGP_FAST_UNROLL
          for (int j = 0; j < W; ++j) {
            sum[0] += pair.t.at[j];
            sum[1] += (pair.x.at[j] - row.mean) * row.rstd * pair.t.at[j];
          }
        });
    row_sum(call.map, sum);
    const A along_one = sum[0] / row.count, along_xh = sum[1] / row.count;
    row.pass(false, [&](int64_t at, int64_t offset) {
      const Values<T, W> xh = row.normalised(offset), w = row.weights(at);
      Values<T, W> t = load_pack<W>(call.t + offset), df = row.affine(xh, w, at);
      row.slopes(df);
      WGANGP_FAST_UNROLL
      for (int j = 0; j < W; ++j)
        t.at[j] = df.at[j] * w.at[j] * (row.rstd * (t.at[j] - along_one - xh.at[j] * along_xh));
      store_pack(call.out + offset, t);
    });
  }
};

}  // namespace wgangp_fast::cuda
