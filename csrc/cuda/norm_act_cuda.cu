// Layer, group and instance norm with an activation: y, and its sweeps.
#include "cuda/norm_adjoint.cuh"

namespace wgangp_fast::cuda {
namespace {

// Blocks that a multiprocessor's registers must hold: unasked, the compiler saves registers for more of them,
// and spills.
template <class T, class Op>
inline constexpr int kResident = sizeof(T) == 8 ? 1 : Op::kResident;

template <class T, int W, class Op>
__global__ void __launch_bounds__(kThreads, (kResident<T, Op>)) norm_kernel(NormCall<T> call) {
  using A = Acc<T>;
  const RowMap& map = call.map;
  const int rank = map.cluster > 1 ? static_cast<int>(cluster_rank()) : 0;
  const int64_t teams = map.across ? 1 : kThreads / map.team;
  const int64_t own = map.across ? 0 : static_cast<int64_t>(threadIdx.x) / map.team;
  const int64_t block = int64_t{blockIdx.x} / map.cluster, blocks = int64_t{gridDim.x} / map.cluster;
  const int64_t length = map.shape.length;
  A* const destination = call.partials + (block * teams + own) * 2 * length;  // of AffineSums::element
  A* table = destination;
  WGANGP_FAST_DYNAMIC_SHARED(shared);
  if (call.table_in_shared) table = reinterpret_cast<A*>(shared) + own * 2 * length;

  // The same number of rounds for every thread of a cluster: they meet at its barriers.
  bool fresh = true;
  for (int64_t unit = block * teams; unit < map.units; unit += blocks * teams) {
    const Share share = share_of<W>(map, unit, rank);
    NormRow<T, W> row(call, share);
    row.table = table;
    row.fresh = fresh;
    Op::run(row);
    fresh = false;
  }

  if (!call.table_in_shared || block * teams + own >= map.units) return;
  const Share share = share_of<W>(map, block * teams, rank);
  for (int64_t at = share.at; at < share.at_end; at += share.at_step) {  // each thread its own elements
    for (int64_t i = at * W; i < at * W + W; ++i) {
      destination[i] = table[i];
      destination[length + i] = table[length + i];
    }
  }
}

constexpr int kColumns = 32, kColumnThreads = 1024;

// dweight[i] and dbias[i]: the sums of partials [rows][2][columns] over the rows, in a fixed order.
template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    affine_kernel(const Acc<T>* partials, int64_t rows, int64_t columns, T* dweight, T* dbias) {
  using A = Acc<T>;
  constexpr int kParts = kColumnThreads / kColumns;
  WGANGP_FAST_SHARED(A, sums, kColumnThreads);
  const int lane = static_cast<int>(threadIdx.x) % kColumns, part = static_cast<int>(threadIdx.x) / kColumns;
  const int64_t column = int64_t{blockIdx.x} * kColumns + lane;
  A sum = 0;
  if (column < 2 * columns) {
#ifdef __CUDACC__
#pragma unroll 8
#endif
    for (int64_t row = part; row < rows; row += kParts) sum += partials[row * 2 * columns + column];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (part != 0 || column >= 2 * columns) return;
  for (int i = 1; i < kParts; ++i) sum += sums[i * kColumns + lane];
  if (column < columns)
    dweight[column] = rounded<T>(sum);
  else
    dbias[column - columns] = rounded<T>(sum);
}

// Teams that keep sums for every element: their tables are at most 8 MiB of float32 together, but as many
// teams as keep a device busy.
int64_t most_tables(int64_t length) {
  const int64_t fitting = (int64_t{1} << 20) / (length > 0 ? length : 1);
  return fitting < 16 ? 16 : fitting > 4096 ? 4096 : fitting;
}

template <class T, class Op>
void run(NormCall<T> call, const NormRows& rows, bool affine, const void* c, const void* g, const void* t,
         const void* out, T* dweight, T* dbias, void* stream) {
  using A = Acc<T>;
  // float64 one by one: two at once would need registers that a thread has not.
  constexpr int W = sizeof(T) == 8 ? 1 : kWide<T> < Op::kMostWidth ? kWide<T> : Op::kMostWidth;
  call.curved = traits_of(call.act).curved;
  call.sums = !affine ? AffineSums::none : rows.per_element ? AffineSums::element : AffineSums::channel;
  const int64_t columns = rows.per_element ? rows.length : rows.groups * rows.channels;
  const bool elements = call.sums == AffineSums::element;
  int64_t affine_rows = 0;
  if (rows.n * rows.groups * rows.channels * rows.length > 0) {
    const bool vectors = !rows.channels_last && rows.length % W == 0 && aligned(c, g, t, call.x, out) &&
                         (!rows.per_element || aligned(call.weight, call.bias));
    const int width = vectors ? W : 1;
    // Beside the arrays of team_sum, in 48 KiB.
    const int64_t room = sizeof(A) == 8 ? 24 * 1024 : 36 * 1024;
    const int64_t table = 2 * rows.length * static_cast<int64_t>(sizeof(A));
    call.table_in_shared = elements && table <= room;
    call.map = row_map(rows, width, !elements ? kThreads : table <= room ? room / table : 1);
    affine_rows = rows.n;
    if (elements) {
      const int64_t teams = call.map.teams_per_block(),
                    most = most_tables(rows.length) / teams * call.map.cluster;
      if (call.map.blocks > most) call.map.blocks = most;
      const int64_t running = call.map.blocks / call.map.cluster * teams;
      affine_rows = running < rows.n ? running : rows.n;
    }
    Extra extra;
    extra.cluster = static_cast<unsigned>(call.map.cluster);
    extra.dynamic = call.table_in_shared ? static_cast<size_t>(table * call.map.teams_per_block()) : 0;
    launch_with(extra, vectors ? norm_kernel<T, W, Op> : norm_kernel<T, 1, Op>, call.map.blocks, kThreads,
                stream, call);
  }
  if (affine && columns > 0)
    launch(affine_kernel<T>, ceil_div(2 * columns, kColumns), kColumnThreads, stream,
           static_cast<const A*>(call.partials), affine_rows, columns, dweight, dbias);
}

template <class T>
NormCall<T> call_of(const void* x, const void* mean, const void* rstd, const void* weight, const void* bias,
                    const Activation& act, void* out) {
  NormCall<T> call{};
  call.x = static_cast<const T*>(x);
  call.mean = static_cast<const Acc<T>*>(mean);
  call.rstd = static_cast<const Acc<T>*>(rstd);
  call.weight = static_cast<const T*>(weight);
  call.bias = static_cast<const T*>(bias);
  call.act = act;
  call.out = static_cast<T*>(out);
  return call;
}

}  // namespace

void norm_act(Dtype dtype, const void* x, const void* weight, const void* bias, const NormRows& rows,
              double eps, Activation act, void* y, void* mean, void* rstd, void* stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    NormCall<T> call = call_of<T>(x, nullptr, nullptr, weight, bias, act, y);
    call.eps = static_cast<Acc<T>>(eps);
    call.mean_out = static_cast<Acc<T>*>(mean);
    call.rstd_out = static_cast<Acc<T>*>(rstd);
    run<T, NormForward>(call, rows, false, nullptr, nullptr, nullptr, y, nullptr, nullptr, stream);
  });
}

int64_t norm_act_partials(const NormRows& rows) {
  if (!rows.per_element) return rows.n * 2 * rows.groups * rows.channels;
  const int64_t most = most_tables(rows.length);
  return (rows.n < most ? rows.n : most) * 2 * rows.length;
}

void norm_act_vjp(Dtype dtype, const void* g, const void* x, const void* mean, const void* rstd,
                  const void* weight, const void* bias, const NormRows& rows, Activation act, void* gx,
                  void* partials, void* dweight, void* dbias, void* stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    NormCall<T> call = call_of<T>(x, mean, rstd, weight, bias, act, gx);
    call.g = static_cast<const T*>(g);
    call.partials = static_cast<Acc<T>*>(partials);
    run<T, NormVjp>(call, rows, partials != nullptr, nullptr, g, nullptr, gx, static_cast<T*>(dweight),
                    static_cast<T*>(dbias), stream);
  });
}

void norm_act_jvp(Dtype dtype, const void* t, const void* x, const void* mean, const void* rstd,
                  const void* weight, const void* bias, const NormRows& rows, Activation act, void* y,
                  void* stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    NormCall<T> call = call_of<T>(x, mean, rstd, weight, bias, act, y);
    call.t = static_cast<const T*>(t);
    run<T, NormJvp>(call, rows, false, nullptr, nullptr, t, y, nullptr, nullptr, stream);
  });
}

void norm_act_adjoint(Dtype dtype, const void* c, const void* g, const void* t, const void* x,
                      const void* mean, const void* rstd, const void* weight, const void* bias,
                      const NormRows& rows, Activation act, void* cx, void* partials, void* dweight,
                      void* dbias, void* stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    NormCall<T> call = call_of<T>(x, mean, rstd, weight, bias, act, cx);
    call.c = static_cast<const T*>(c);
    call.g = static_cast<const T*>(g);
    call.t = static_cast<const T*>(t);
    call.partials = static_cast<Acc<T>*>(partials);
    run<T, NormAdjoint>(call, rows, partials != nullptr, c, g, t, cx, static_cast<T*>(dweight),
                        static_cast<T*>(dbias), stream);
  });
}

}  // namespace wgangp_fast::cuda
