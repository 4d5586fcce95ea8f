#include "cuda/rows.cuh"

namespace wgangp_fast::cuda {
namespace {

// Enough blocks to fill the largest device; more would only divide the rows finer.
constexpr int64_t kFull = 512;

int64_t power_of_two_from(int64_t least) {
  int64_t power = 1;
  while (power < least) power *= 2;
  return power;
}

// Blocks of a cluster for `teams` teams with `steps` steps of work for each thread.
int32_t cluster_for(int64_t teams, int64_t steps) {
  int32_t cluster = 1;
  if (!has_clusters()) return cluster;
  while (cluster < 8 && teams * cluster * 2 <= kFull && steps / (cluster * 2) >= 4) cluster *= 2;
  return cluster;
}

}  // namespace

RowMap row_map(const NormRows& shape, int width, int64_t most_teams) {
  RowMap map{};
  map.shape = shape;
  map.groups = Divider(shape.groups);
  map.cluster = 1;
  if (shape.channels_last) {
    const bool several = shape.channels < 32 && 32 % shape.channels == 0;
    map.lanes = several ? static_cast<int32_t>(shape.channels) : 32;
    map.tiles = Divider(several ? ceil_div(shape.groups, 32 / shape.channels) : shape.groups);
    map.units = shape.n * map.tiles.divisor();
    map.across = true;
    map.team = kThreads;
    map.sub = 32;
    map.cluster = cluster_for(map.units, shape.length / kRowWarps * ceil_div(shape.channels, 32));
    map.blocks = map.units * map.cluster;
    return map;
  }
  const int64_t segment = shape.length / width, packs = shape.channels * segment;
  map.units = shape.n * shape.groups;
  const int64_t lanes = power_of_two_from(ceil_div(packs, 2)), team = lanes < 32 ? lanes : 32;
  map.across = packs > 256 || kThreads / team > most_teams;
  if (map.across) {
    map.cluster = cluster_for(map.units, packs / kThreads);
    map.team = kThreads * map.cluster;
    map.lanes = 32;
    const int64_t warps = map.team / 32;
    // A warp to a segment, unless there are too few segments for the warps.
    const bool whole = shape.channels < warps ||
                       (shape.channels < 4 * warps && shape.channels % warps != 0 && segment >= map.team);
    const int64_t sub = power_of_two_from(segment);
    map.sub = whole ? map.team : static_cast<int32_t>(sub < 32 ? sub : 32);
  } else {
    map.team = static_cast<int32_t>(team);
    map.lanes = map.team;
    const int64_t sub = power_of_two_from(segment);
    map.sub = static_cast<int32_t>(sub < map.team ? sub : map.team);
  }
  map.blocks = ceil_div(map.units, map.teams_per_block()) * map.cluster;
  return map;
}

}  // namespace wgangp_fast::cuda
