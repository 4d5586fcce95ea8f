// The whole gradient penalty of an MLP critic in one launch, and its backward in another.
//
// Rows are independent, so a tile of rows goes through every layer in one launch: forward, backward, norm.
// What a layer writes the next one reads from global memory (h, g and t are results, and stay in the cache).
// Where there are fewer tiles than multiprocessors, the blocks of a cluster share a tile: each makes its
// share of every layer's columns, and the cluster meets between the layers. Devices without clusters run one
// block a tile. The order of every sum depends on the shapes and the device alone: equal inputs give equal
// bits.
#include "common/philox.h"
#include "cuda/mlp_tile.cuh"

namespace wgangp_fast::cuda {
namespace {

using namespace mlp;

struct Forward {
  Critic critic;
  const void *real, *fake /*[R, D0]*/, *alpha /*[R] or null*/;
  uint64_t seed, offset;
  float target;
  bool one_sided;
  int32_t reduction;
  unsigned parts;
  float *value, *norm, *slope;
  void *alpha_out, *x, *gradient, *h, *g;
  float* penalties;  // [R]
  int32_t* ticket;
};

// Norm, slope and penalty of the tile's rows, a warp each; the gradient is there.
template <class T, class S>
__device__ void norms(const Forward& p, const Tile& tile) {
  const int64_t width = p.critic.mlp.widths[0];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int stride = kThreads / 32 * static_cast<int>(tile.parts);
  for (int own = warp * static_cast<int>(tile.parts) + static_cast<int>(tile.part); own < S::ROWS;
       own += stride) {
    const int64_t row = tile.first + own;
    if (row >= tile.rows) break;
    const T* const gradient = static_cast<const T*>(p.gradient) + row * width;
    float square = 0.0f;
    for (int64_t k = lane; k < width; k += 32) square += widened(gradient[k]) * widened(gradient[k]);
    square = lane_sum(square, 32);
    if (lane != 0) continue;
    const float length = sqrtf(square);
    float excess = length - p.target;
    if (p.one_sided && p.target != 0.0f && excess < 0.0f) excess = 0.0f;  // NaN stays
    float rate = length == 0.0f ? 0.0f : 2.0f * excess / length;
    if (p.target == 0.0f) rate = 2.0f;
    p.norm[row] = length;
    p.slope[row] = p.reduction == 2 ? rate / static_cast<float>(tile.rows) : rate;
    p.penalties[row] = p.target == 0.0f ? square : excess * excess;
  }
}

// The last block of the launch adds the penalties of all rows in a fixed order.
__device__ void add_penalties(const Forward& p, int64_t rows) {
  WGANGP_FAST_SHARED(float, sums, kThreads / 32);
  WGANGP_FAST_SHARED(int, arrived, 1);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) arrived[0] = atomicAdd(p.ticket, 1);
  __syncthreads();
  if (arrived[0] != static_cast<int>(gridDim.x) - 1) return;
  __threadfence();
  float sum = 0.0f;
  for (int64_t row = threadIdx.x; row < rows; row += kThreads) sum += p.penalties[row];
  sum = lane_sum(sum, 32);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  float total = 0.0f;
  for (int warp = 0; warp < kThreads / 32; ++warp) total += sums[warp];
  p.value[0] = p.reduction == 2 ? total / static_cast<float>(rows) : total;
  p.ticket[0] = 0;
}

template <class T, class S>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(Forward p) {
  WGANGP_FAST_SHARED(Quad, row_quads, S::ROW_QUADS);
  WGANGP_FAST_SHARED(Quad, col_quads, S::COL_QUADS);
  const Chunk chunk{row_quads, col_quads};
  WGANGP_FAST_SHARED(float, alphas, S::ROWS);
  const Critic& critic = p.critic;
  const Tile tile = tile_of<S>(p.parts, critic.mlp.rows);
  const int width = critic.width(0), columns = critic.columns();
  const T* const real = static_cast<const T*>(p.real) + tile.first * width;
  const T* const fake = static_cast<const T*>(p.fake) + tile.first * width;
  T* const x = static_cast<T*>(p.x) + tile.first * width;
  T* const gradient = static_cast<T*>(p.gradient) + tile.first * width;
  T* const h = static_cast<T*>(p.h) + tile.first * columns;
  T* const g = static_cast<T*>(p.g) + tile.first * columns;

  const int own = static_cast<int>(threadIdx.x);
  if (own < S::ROWS && tile.holds(own)) {
    const int64_t row = tile.first + own;
    const float drawn =
        p.alpha
            ? widened(static_cast<const T*>(p.alpha)[row])
            : common::Uniform<T>::of(common::philox(p.seed, static_cast<uint64_t>(row), p.offset).word[0], 0);
    alphas[own] = drawn;
    if (tile.part == 0) put(static_cast<T*>(p.alpha_out) + row, drawn);
  }
  __syncthreads();
  const auto interpolated = [&](int row, int k, bool first) {
    if (!tile.holds(row)) return 0.0f;
    const unsigned at = inside(row, width, k);
    const float f = widened(fake[at]);
    const T value = rounded<T>(f + alphas[row] * (widened(real[at]) - f));
    if (first) x[at] = value;
    return widened(value);
  };

  for (int l = 0; l < critic.hidden; ++l) {
    const T* const bias = static_cast<const T*>(critic.mlp.biases[l]);
    const auto finish = [&](int row, int column, float sum) {
      if (!tile.holds(row)) return;
      const unsigned at = inside(row, columns, critic.offset[l] + column);
      const T y = put(h + at, critic.activation(bias ? sum + widened(bias[column]) : sum));
      if (l + 1 < critic.hidden) return;
      const float last = widened(critic.weight<T>(critic.hidden)[column]);
      put(g + at, critic.sloped(critic.masked<T>(last, l, tile, row, column), widened(y)));
    };
    const int depth = critic.width(l), n = critic.width(l + 1);
    if (l == 0) {
      product<S, true>(chunk, critic.weight<T>(0), depth, n, tile.part, tile.parts, interpolated, finish);
    } else {
      const auto activated = [&](int row, int k, bool) {
        if (!tile.holds(row)) return 0.0f;
        const float y = widened(h[inside(row, columns, critic.offset[l - 1] + k)]);
        return widened(rounded<T>(critic.masked<T>(y, l - 1, tile, row, k)));
      };
      product<S, true>(chunk, critic.weight<T>(l), depth, n, tile.part, tile.parts, activated, finish);
    }
    meet(tile.parts);
  }

  for (int l = critic.hidden - 1; l >= 0; --l) {
    const auto cotangent = [&](int row, int k, bool) {
      return tile.holds(row) ? widened(g[inside(row, columns, critic.offset[l] + k)]) : 0.0f;
    };
    const auto finish = [&](int row, int column, float sum) {
      if (!tile.holds(row)) return;
      if (l == 0) {
        put(gradient + inside(row, width, column), sum);
      } else {
        const unsigned at = inside(row, columns, critic.offset[l - 1] + column);
        put(g + at, critic.sloped(critic.masked<T>(sum, l - 1, tile, row, column), widened(h[at])));
      }
    };
    product<S, false>(chunk, critic.weight<T>(l), critic.width(l + 1), critic.width(l), tile.part, tile.parts,
                      cotangent, finish);
    meet(tile.parts);
  }

  if (critic.hidden == 0) {
    for (int i = static_cast<int>(threadIdx.x); i < S::ROWS * width; i += kThreads) {
      const int row = i / width;
      if (tile.part != 0 || !tile.holds(row)) break;
      interpolated(row, i % width, true);
      gradient[i] = critic.weight<T>(0)[i % width];
    }
    meet(tile.parts);
  }

  norms<T, S>(p, tile);
  if (p.reduction != 0) add_penalties(p, tile.rows);
}

struct Backward {
  Critic critic;
  const float *incoming /*[] or [R]*/, *slope /*[R]*/;
  bool per_row;
  const void *gradient /*[R, D0]*/, *h, *g /*[R, S]*/;
  unsigned parts;
  void *t /*[R, D0 + S]*/, *c /*[R, S]*/;
};

template <class T, class S>
__global__ void __launch_bounds__(kThreads, 1) backward_kernel(Backward p) {
  WGANGP_FAST_SHARED(Quad, row_quads, S::ROW_QUADS);
  WGANGP_FAST_SHARED(Quad, col_quads, S::COL_QUADS);
  const Chunk chunk{row_quads, col_quads};
  const Critic& critic = p.critic;
  const Tile tile = tile_of<S>(p.parts, critic.mlp.rows);
  const int width = critic.width(0), columns = critic.columns(), wide = width + columns;
  const T* const gradient = static_cast<const T*>(p.gradient) + tile.first * width;
  const T* const h = static_cast<const T*>(p.h) + tile.first * columns;
  const T* const g = static_cast<const T*>(p.g) + tile.first * columns;
  T* const t = static_cast<T*>(p.t) + tile.first * wide;
  T* const c = p.c ? static_cast<T*>(p.c) + tile.first * columns : nullptr;

  const auto seed = [&](int row, int k, bool first) {
    if (!tile.holds(row)) return 0.0f;
    const int64_t of_all = tile.first + row;
    const float factor = p.slope[of_all] * p.incoming[p.per_row ? of_all : 0];
    const T value = rounded<T>(widened(gradient[inside(row, width, k)]) * factor);
    if (first) t[inside(row, wide, k)] = value;
    return widened(value);
  };

  for (int l = 0; l < critic.hidden; ++l) {
    const auto finish = [&](int row, int column, float moved) {
      if (!tile.holds(row)) return;
      const unsigned at = inside(row, columns, critic.offset[l] + column);
      const float y = widened(h[at]);
      if (c) put(c + at, -2.0f * y * widened(g[at]) * moved);  // f''/f' = -2y, and g has f' already
      put(t + inside(row, wide, width + critic.offset[l] + column),
          critic.sloped(critic.masked<T>(moved, l, tile, row, column), y));
    };
    const int depth = critic.width(l), n = critic.width(l + 1);
    if (l == 0) {
      product<S, true>(chunk, critic.weight<T>(0), depth, n, tile.part, tile.parts, seed, finish);
    } else {
      const auto tangent = [&](int row, int k, bool) {
        const unsigned at = inside(row, wide, width + critic.offset[l - 1] + k);
        return tile.holds(row) ? widened(t[at]) : 0.0f;
      };
      product<S, true>(chunk, critic.weight<T>(l), depth, n, tile.part, tile.parts, tangent, finish);
    }
    meet(tile.parts);
  }

  for (int l = c ? critic.hidden - 1 : 0; l > 0; --l) {
    const auto adjoint = [&](int row, int k, bool) {
      return tile.holds(row) ? widened(c[inside(row, columns, critic.offset[l] + k)]) : 0.0f;
    };
    const auto finish = [&](int row, int column, float sum) {
      if (!tile.holds(row)) return;
      const unsigned at = inside(row, columns, critic.offset[l - 1] + column);
      const float carried = critic.sloped(critic.masked<T>(sum, l - 1, tile, row, column), widened(h[at]));
      put(c + at, carried + widened(c[at]));
    };
    product<S, false>(chunk, critic.weight<T>(l), critic.width(l + 1), critic.width(l), tile.part, tile.parts,
                      adjoint, finish);
    meet(tile.parts);
  }

  if (critic.hidden == 0 && tile.part == 0) {
    for (int i = static_cast<int>(threadIdx.x); i < S::ROWS * width; i += kThreads) {
      seed(i / width, i % width, true);
    }
  }
}

// ---- launches -------------------------------------------------------------------------------------------

int64_t multiprocessors() {
#ifdef __CUDACC__
  int device = 0, count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 1;
  return count;
#else
  return 132;
#endif
}

constexpr unsigned kMaxCluster = 8;  // what every device with clusters offers

// Calls visitor(shape, parts): the largest tile whose clusters still cover the multiprocessors.
template <class Visitor>
void with_shape(int64_t rows, const Visitor& visitor) {
  const int64_t wanted = multiprocessors();
  const int64_t most = has_clusters() ? kMaxCluster : 1;
  const auto visit = [&](auto shape) {
    const int64_t tiles = ceil_div(rows, decltype(shape)::ROWS);
    unsigned parts = 1;
    while (parts < most && tiles * parts * 2 <= wanted) parts *= 2;
    visitor(shape, tiles * parts, parts);
  };
  if (ceil_div(rows, Large::ROWS) * most >= wanted) return visit(Large{});
  if (ceil_div(rows, Medium::ROWS) * most >= wanted) return visit(Medium{});
  visit(Small{});
}

template <class Visitor>
void with_float(Dtype dtype, const Visitor& visitor) {
  with_dtype(dtype, [&](auto tag) {
    if constexpr (!std::is_same_v<typename decltype(tag)::type, double>) visitor(tag);
  });
}

}  // namespace

void mlp_penalty(Dtype dtype, const void* real, const void* fake, const void* alpha, uint64_t seed,
                 uint64_t offset, const Mlp& mlp, double target, bool one_sided, int32_t reduction,
                 void* value, void* norm, void* slope, void* alpha_out, void* x, void* gradient, void* h,
                 void* g, void* penalties, int32_t* ticket, void* stream) {
  Forward p{Critic(mlp),
            real,
            fake,
            alpha,
            seed,
            offset,
            static_cast<float>(target),
            one_sided,
            reduction,
            1,
            static_cast<float*>(value),
            static_cast<float*>(norm),
            static_cast<float*>(slope),
            alpha_out,
            x,
            gradient,
            h,
            g,
            static_cast<float*>(penalties),
            ticket};
  if (mlp.rows == 0 && reduction == 0) return;
  with_float(dtype, [&](auto tag) {
    with_shape(mlp.rows, [&](auto shape, int64_t blocks, unsigned parts) {
      p.parts = parts;
      // Without rows one block still writes the value: 0, or NaN for the mean.
      launch_with({parts, 0}, forward_kernel<typename decltype(tag)::type, decltype(shape)>,
                  blocks > 0 ? blocks : int64_t{parts}, kThreads, stream, p);
    });
  });
}

void mlp_penalty_backward(Dtype dtype, const void* incoming, bool incoming_per_row, const void* slope,
                          const void* gradient, const void* h, const void* g, const Mlp& mlp, void* t,
                          void* c, void* stream) {
  if (mlp.rows == 0) return;
  Backward p{Critic(mlp),
             static_cast<const float*>(incoming),
             static_cast<const float*>(slope),
             incoming_per_row,
             gradient,
             h,
             g,
             1,
             t,
             c};
  with_float(dtype, [&](auto tag) {
    with_shape(mlp.rows, [&](auto shape, int64_t blocks, unsigned parts) {
      p.parts = parts;
      launch_with({parts, 0}, backward_kernel<typename decltype(tag)::type, decltype(shape)>, blocks,
                  kThreads, stream, p);
    });
  });
}

}  // namespace wgangp_fast::cuda
