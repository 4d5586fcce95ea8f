// What the kernels of mlp_penalty share: the critic, a tile of rows, and its products with the weights.
//
// A block makes [ROWS, COLS] outputs at a time. Its threads form GROUPS groups, which share the outputs and
// split the depth: with few rows there is too little work in a tile to keep every thread busy otherwise.
#pragma once

#include "common/functions.h"
#include "cuda/device.cuh"

namespace wgangp_fast::cuda::mlp {

// Which row of the tile, of this block, of all.
struct Tile {
  unsigned part, parts;
  int64_t first, rows;

  __device__ __forceinline__ bool holds(int row) const { return first + row < rows; }
};

template <class S>
__device__ __forceinline__ Tile tile_of(unsigned parts, int64_t rows) {
  return {parts > 1 ? cluster_rank() : 0, parts, int64_t{blockIdx.x / parts} * S::ROWS, rows};
}

// Element (row, column) of a matrix of `width` columns, from its first element in the tile: 32 bits save
// registers, and a tile has at most 64 rows.
__device__ __forceinline__ unsigned inside(int row, int width, int column) {
  return static_cast<unsigned>(row * width + column);
}

// Afterwards every block of the tile sees what the others wrote.
__device__ __forceinline__ void meet(unsigned parts) {
  if (parts > 1) {
    __threadfence();
    WGANGP_FAST_CLUSTER_SYNC();
  } else {
    __syncthreads();
  }
}

// The critic as a kernel reads it; elements of type T.
struct Critic {
  Mlp mlp;
  int offset[kMaxMlpLayers];  // of a hidden layer's columns in [R, S]; S behind the last one
  int32_t hidden;
  float slope;  // of leaky_relu

  explicit Critic(const Mlp& from)
      : mlp(from), offset{}, hidden(from.layers - 1), slope(static_cast<float>(from.negative_slope)) {
    for (int32_t l = 0; l < hidden; ++l) offset[l + 1] = offset[l] + static_cast<int>(mlp.widths[l + 1]);
  }
  __device__ __forceinline__ int columns() const { return offset[hidden]; }
  __device__ __forceinline__ int width(int layer) const { return static_cast<int>(mlp.widths[layer]); }

  template <class T>
  __device__ __forceinline__ const T* weight(int layer) const {
    return static_cast<const T*>(mlp.weights[layer]);
  }
  template <class T>
  __device__ __forceinline__ float masked(float value, int layer, const Tile& tile, int row,
                                          int column) const {
    const T* const mask = static_cast<const T*>(mlp.masks[layer]);
    if (!mask) return value;
    return value * widened(mask[tile.first * width(layer + 1) + inside(row, width(layer + 1), column)]);
  }
  __device__ __forceinline__ float activation(float u) const {
    if (mlp.act == 1) return u <= 0.0f ? 0.0f : u;  // NaN stays
    if (mlp.act == 2) return u > 0.0f ? u : u * slope;
    return mlp.act == 3 ? common::hyperbolic_tangent(u) : u;
  }
  // value*f'(u), from y = f(u)
  __device__ __forceinline__ float sloped(float value, float y) const {
    if (mlp.act == 1) return y > 0.0f ? value : 0.0f;
    if (mlp.act == 2) return y > 0.0f ? value : value * slope;
    return mlp.act == 3 ? value * (1.0f - y * y) : value;
  }
};

template <class T>
__device__ __forceinline__ T put(T* at, float value) {
  return *at = rounded<T>(value);
}

template <int ROWS_, int COLS_, int GROUPS_, int TALL_, int BROAD_>
struct Shape {
  static constexpr int ROWS = ROWS_, COLS = COLS_, GROUPS = GROUPS_;
  static constexpr int TALL = TALL_, BROAD = BROAD_;  // the outputs of a thread
  static constexpr int STEP = 16;                     // depth of a group's share of a chunk
  static constexpr int DEPTH = STEP * GROUPS;         // of a chunk
  // Rows and columns of a chunk lie k-major. The 4 makes the stride 4 modulo 8: eight k times four rows, what
  // a warp writes at once, fall into 32 banks, and packs of four stay aligned.
  static constexpr int ROW_STRIDE = ROWS + 4, COL_STRIDE = COLS + 4;
  static constexpr int ROW_QUADS = DEPTH * ROW_STRIDE / 4, COL_QUADS = DEPTH * COL_STRIDE / 4;
  static constexpr int ROW_LOADS = ROWS * DEPTH / kThreads, COL_LOADS = COLS * DEPTH / kThreads;
  static constexpr int ACROSS = COLS / BROAD;
  static_assert(GROUPS * (ROWS / TALL) * ACROSS == kThreads);
  static_assert(GROUPS * ROWS * COLS <= DEPTH * COL_STRIDE || GROUPS == 1, "the sums reuse the chunk");
};

using Small = Shape<8, 32, 8, 2, 4>;
using Medium = Shape<16, 32, 4, 2, 4>;
using Large = Shape<64, 64, 1, 4, 4>;

using Quad = Pack<float, 4>;

// Shared arrays of S::ROW_QUADS and S::COL_QUADS; one pair a kernel, whatever it multiplies.
struct Chunk {
  Quad *rows, *cols;
};

struct Place {
  int row, k;
};

// Eight k times four rows a warp: rows of 32 bytes are whole sectors. All of `load` is known at compile time.
template <class S>
__device__ __forceinline__ Place place(int load) {
  constexpr int across = S::DEPTH / 8, warps = kThreads / 32;  // warps along k, warps
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  if constexpr (across >= warps) {
    return {load / (across / warps) * 4 + lane / 8, (warp + load % (across / warps) * warps) * 8 + lane % 8};
  } else {
    return {(warp / across + load * (warps / across)) * 4 + lane / 8, warp % across * 8 + lane % 8};
  }
}

// put(row, column, sum over k of left(row, k, column block is the first)*weight(k, column)), for the rows of
// the tile and this block's share of n columns. TRANSPOSED: weight is [n, depth], else [depth, n].
template <class S, bool TRANSPOSED, class T, class Left, class Put>
__device__ void product(Chunk chunk, const T* weight, int depth, int n, unsigned part, unsigned parts,
                        const Left& left, const Put& put) {
  float* const rows = &chunk.rows[0].at[0];  // [DEPTH][ROW_STRIDE]
  float* const cols = &chunk.cols[0].at[0];  // [DEPTH][COL_STRIDE]
  const int thread = static_cast<int>(threadIdx.x);
  const int group = thread / (kThreads / S::GROUPS), own = thread % (kThreads / S::GROUPS);
  const int row = own / S::ACROSS * S::TALL, col = own % S::ACROSS * S::BROAD;

  for (int n0 = static_cast<int>(part) * S::COLS; n0 < n; n0 += static_cast<int>(parts) * S::COLS) {
    const T* const block = weight + (TRANSPOSED ? int64_t{n0} * depth : int64_t{n0});
    float next_row[S::ROW_LOADS], next_col[S::COL_LOADS];
    const auto fetch = [&](int k0) {
      const T* const chunk_weight = block + (TRANSPOSED ? int64_t{k0} : int64_t{k0} * n);
      WGANGP_FAST_UNROLL
      for (int i = 0; i < S::ROW_LOADS; ++i) {
        const Place at = place<S>(i);
        next_row[i] = k0 + at.k < depth ? left(at.row, k0 + at.k, n0 == 0) : 0.0f;
      }
      WGANGP_FAST_UNROLL
      for (int i = 0; i < S::COL_LOADS; ++i) {
        int column = 0, k = 0;  // in the chunk
        if constexpr (TRANSPOSED) {
          const Place at = place<S>(i);
          column = at.row;
          k = at.k;
        } else {
          column = thread % S::COLS;
          k = thread / S::COLS + i * (kThreads / S::COLS);
        }
        const unsigned index = static_cast<unsigned>(TRANSPOSED ? column * depth + k : k * n + column);
        next_col[i] = k0 + k < depth && n0 + column < n ? widened(chunk_weight[index]) : 0.0f;
      }
    };
    const auto keep = [&] {
      WGANGP_FAST_UNROLL
      for (int i = 0; i < S::ROW_LOADS; ++i) {
        const Place at = place<S>(i);
        rows[at.k * S::ROW_STRIDE + at.row] = next_row[i];
      }
      WGANGP_FAST_UNROLL
      for (int i = 0; i < S::COL_LOADS; ++i) {
        if constexpr (TRANSPOSED) {
          const Place at = place<S>(i);
          cols[at.k * S::COL_STRIDE + at.row] = next_col[i];
        } else {
          const int k = thread / S::COLS + i * (kThreads / S::COLS);
          cols[k * S::COL_STRIDE + thread % S::COLS] = next_col[i];
        }
      }
    };

    float sum[S::TALL][S::BROAD];
    WGANGP_FAST_UNROLL
    for (int i = 0; i < S::TALL; ++i) {
      WGANGP_FAST_UNROLL
      for (int j = 0; j < S::BROAD; ++j) sum[i][j] = 0.0f;
    }
    fetch(0);
    for (int k0 = 0; k0 < depth; k0 += S::DEPTH) {
      __syncthreads();  // the last chunk, or sums, are read
      keep();
      __syncthreads();
      if (k0 + S::DEPTH < depth) fetch(k0 + S::DEPTH);
      WGANGP_FAST_UNROLL
      for (int k = 0; k < S::STEP; ++k) {
        const int at = group * S::STEP + k;
        const auto a = *reinterpret_cast<const Pack<float, S::TALL>*>(rows + at * S::ROW_STRIDE + row);
        const auto b = *reinterpret_cast<const Pack<float, S::BROAD>*>(cols + at * S::COL_STRIDE + col);
        WGANGP_FAST_UNROLL
        for (int i = 0; i < S::TALL; ++i) {
          WGANGP_FAST_UNROLL
          for (int j = 0; j < S::BROAD; ++j) sum[i][j] += a.at[i] * b.at[j];
        }
      }
    }

    if constexpr (S::GROUPS == 1) {
      WGANGP_FAST_UNROLL
      for (int i = 0; i < S::TALL; ++i) {
        WGANGP_FAST_UNROLL
        for (int j = 0; j < S::BROAD; ++j)
          if (n0 + col + j < n) put(row + i, n0 + col + j, sum[i][j]);
      }
    } else {
      __syncthreads();
      float* const shares = cols;  // [GROUPS][ROWS*COLS]
      WGANGP_FAST_UNROLL
      for (int i = 0; i < S::TALL; ++i) {
        WGANGP_FAST_UNROLL
        for (int j = 0; j < S::BROAD; ++j)
          shares[(group * S::ROWS + row + i) * S::COLS + col + j] = sum[i][j];
      }
      __syncthreads();
      for (int at = thread; at < S::ROWS * S::COLS; at += kThreads) {
        float total = 0.0f;
        WGANGP_FAST_UNROLL
        for (int g = 0; g < S::GROUPS; ++g) total += shares[g * S::ROWS * S::COLS + at];
        if (n0 + at % S::COLS < n) put(at / S::COLS, n0 + at % S::COLS, total);
      }
    }
  }
}

}  // namespace wgangp_fast::cuda::mlp
