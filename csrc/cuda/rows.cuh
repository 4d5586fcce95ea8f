// Teams of threads that go over the rows of a norm together.
//
// A row is `channels` segments (the channels of its group) of `length` elements. Contiguous memory: a team
// is 1 to 32 lanes (several rows a block), a block, or a cluster of blocks where rows are few and long; the
// segments are shared out to sub-teams, so that a channel's weight is one number and its affine sums are one
// sum. channels_last memory: the lanes of a warp are neighbouring channels, of several groups where these are
// small, the warps share the positions, and a team is a block or a cluster.
//
// Later passes over a row read it again: from L1 where the rows of the blocks that share a multiprocessor
// fit into it, else from L2.
#pragma once

#include "cuda/device.cuh"

namespace wgangp_fast::cuda {

inline constexpr int kRowWarps = kThreads / 32;

// The same for every thread of a launch.
struct RowMap {
  NormRows shape;
  int64_t units;   // what teams take: rows, or with channels_last tiles of rows
  int64_t blocks;  // of the launch
  Divider tiles;   // channels_last: of one sample
  Divider groups;
  int32_t lanes;  // that the sums of a row run over within a warp, a power of two
  int32_t sub;    // contiguous: threads of a sub-team; a power of two up to 32, or all of the team
  int32_t team;   // contiguous: threads of a team
  int32_t cluster;
  bool across;  // sums run over the warps of a block too

  // Whether a segment's sums need the whole team.
  __host__ __device__ bool segments_across() const { return shape.channels_last || sub > 32; }
  int64_t teams_per_block() const { return across ? 1 : kThreads / team; }
};

// One thread's share of a row.
struct Share {
  int64_t sample, group, row;  // row = sample*groups + group
  bool valid;                  // the row exists
  bool leads;                  // writes what belongs to the row
  bool leads_segment;          // writes what belongs to a segment
  int64_t base;                // of the row in the tensor
  int32_t channel, channel_step, rounds;
  int32_t at_step;  // in packs
  int64_t channel_stride, at, at_end, at_stride;
};

template <int W>
__device__ __forceinline__ Share share_of(const RowMap& map, int64_t unit_of_block, int rank_in_cluster) {
  const NormRows& shape = map.shape;
  const int thread = static_cast<int>(threadIdx.x);
  Share share;
  if (shape.channels_last) {
    const int lane = thread % 32;
    const int64_t warp = thread / 32 + kRowWarps * rank_in_cluster, channels = shape.channels;
    const int64_t width = shape.groups * channels;
    const bool several = map.lanes < 32;  // groups in a tile, of map.lanes channels each
    share.sample = map.tiles.quotient(unit_of_block);
    const int64_t tile = unit_of_block - share.sample * map.tiles.divisor();
    share.group = several ? tile * (32 / map.lanes) + lane / map.lanes : tile;
    share.valid = unit_of_block < map.units && share.group < shape.groups;
    share.channel = several ? lane % map.lanes : lane;
    share.channel_step = 32;
    share.channel_stride = 1;
    share.base = share.sample * shape.length * width + share.group * channels;
    share.at = warp;
    share.at_step = kRowWarps * map.cluster;
    share.at_end = shape.length;
    share.at_stride = width;
    share.leads = warp == 0 && share.channel == 0;
    share.leads_segment = warp == 0;
    share.rounds = static_cast<int32_t>(ceil_div(channels, 32));
  } else {
    const int rank = map.across ? thread + kThreads * rank_in_cluster : thread % map.team;
    const int64_t row = unit_of_block + (map.across ? 0 : thread / map.team);
    share.sample = map.groups.quotient(row);
    share.group = row - share.sample * shape.groups;
    share.valid = row < map.units;
    share.channel = rank / map.sub;
    share.channel_step = map.team / map.sub;
    share.channel_stride = shape.length;
    share.base = row * shape.channels * shape.length;
    share.at = rank % map.sub;
    share.at_step = map.sub;
    share.at_end = shape.length / W;
    share.at_stride = W;
    share.leads = rank == 0;
    share.leads_segment = share.at == 0;
    share.rounds = static_cast<int32_t>(ceil_div(shape.channels, share.channel_step));
  }
  share.row = share.sample * shape.groups + share.group;
  return share;
}

// The sums of S values over the threads that the call names, in all of them: over `lanes` lanes of a warp,
// and with `across` over the equal lanes of the block's warps and of the cluster's blocks. The order is
// fixed.
template <int S, class A>
__device__ __forceinline__ void team_sum(A (&values)[S], int lanes, bool across, int cluster) {
  WGANGP_FAST_UNROLL
  for (int i = 0; i < S; ++i) values[i] = lane_sum(values[i], lanes);
  if (!across) return;
  WGANGP_FAST_SHARED(A, of_warps, S * kThreads);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  WGANGP_FAST_UNROLL
  for (int i = 0; i < S; ++i) of_warps[i * kThreads + thread] = values[i];
  __syncthreads();
  WGANGP_FAST_UNROLL
  for (int i = 0; i < S; ++i) {
    values[i] = 0;
    WGANGP_FAST_UNROLL
    for (int warp = 0; warp < kRowWarps; ++warp) values[i] += of_warps[i * kThreads + warp * 32 + lane];
  }
  if (cluster > 1) {
    WGANGP_FAST_SHARED(A, of_block, S * 32);
    if (thread < 32) {
      WGANGP_FAST_UNROLL
      for (int i = 0; i < S; ++i) of_block[i * 32 + lane] = values[i];
    }
    WGANGP_FAST_CLUSTER_SYNC();
    WGANGP_FAST_UNROLL
    for (int i = 0; i < S; ++i) values[i] = 0;
    for (int rank = 0; rank < cluster; ++rank) {
      const A* const peer = cluster_peer(of_block, static_cast<unsigned>(rank));
      WGANGP_FAST_UNROLL
      for (int i = 0; i < S; ++i) values[i] += peer[i * 32 + lane];
    }
    WGANGP_FAST_CLUSTER_SYNC();  // no block may go, or write again, while others read
  }
  __syncthreads();  // before the arrays are written again
}

template <int S, class A>
__device__ __forceinline__ void row_sum(const RowMap& map, A (&values)[S]) {
  team_sum(values, map.lanes, map.across, map.cluster);
}

template <int S, class A>
__device__ __forceinline__ void segment_sum(const RowMap& map, A (&values)[S]) {
  const int lanes = map.shape.channels_last ? 1 : map.sub < 32 ? map.sub : 32;
  team_sum(values, lanes, map.segments_across(), map.cluster);
}

// open(channel), visit(pack position, offset) for each of the thread's packs of the channel, then
// close(channel, exists), in which every thread takes part.
template <class Open, class Visit, class Close>
__device__ __forceinline__ void walk(const Share& share, int64_t channels, Open&& open, Visit&& visit,
                                     Close&& close) {
  for (int32_t round = 0; round < share.rounds; ++round) {
    const int32_t channel = share.channel + round * share.channel_step;
    const bool exists = share.valid && channel < channels;
    if (exists) {
      open(channel);
      const int64_t base = share.base + channel * share.channel_stride;
      for (int64_t at = share.at; at < share.at_end; at += share.at_step)
        visit(at, base + at * share.at_stride);
    }
    close(channel, exists);
  }
}

// visit(offset of the channel) for each of the thread's channels.
template <class Visit>
__device__ __forceinline__ void walk_channels(const Share& share, int64_t channels, Visit&& visit) {
  for (int32_t round = 0; round < share.rounds; ++round) {
    const int32_t channel = share.channel + round * share.channel_step;
    if (share.valid && channel < channels) visit(share.base + channel * share.channel_stride);
  }
}

// How a launch cuts the rows up, in packs of `width` elements; no more than `most_teams` to a block. It
// depends on the shape alone, so that equal calls give equal bits.
RowMap row_map(const NormRows& shape, int width, int64_t most_teams);

}  // namespace wgangp_fast::cuda
