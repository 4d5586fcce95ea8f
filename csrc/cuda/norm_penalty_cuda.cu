// The norm of each sample's gradient, the penalty of the norms and its slope; and the seed of sweep 3.
//
// Samples of many elements are cut into chunks, one block each, whose sums of squares go to `partials`; a
// second launch adds the chunks of each sample in order, and makes norm, slope and penalty. Small samples
// need no chunks: a few lanes each, in that launch alone. The sum over the samples is made in the same
// launch where one block does, else in one more from the blocks' sums. How the work is cut depends on n and
// k alone, and there are no atomics: equal inputs give equal bits.
#include "cuda/flat.cuh"
#include "cuda/sample_layout.cuh"

namespace wgangp_fast::cuda {
namespace {

constexpr int kWarps = kThreads / 32;
constexpr int64_t kSmall = 1024;      // elements that lanes of one warp add up without chunks
constexpr int64_t kChunk = 4096;      // elements: 64 bytes of float32 a thread, all in flight at once
constexpr int64_t kMaxChunks = 2048;  // of a sample; more would make the second launch slow
constexpr int64_t kMaxSampleBlocks = 1024;
constexpr int64_t kOneBlock = 1024;  // lanes of work that one block does by itself

int64_t chunk_size(int64_t k) { return kChunk * ceil_div(k, kChunk * kMaxChunks); }
int64_t chunk_count(int64_t k) { return k <= kSmall ? 0 : ceil_div(k, chunk_size(k)); }

// The lanes that share the sum of so many terms.
int lanes_for(int64_t terms) { return terms <= 8 ? 1 : terms <= 64 ? 8 : 32; }

// The sum over a block, in thread 0.
template <class A>
__device__ __forceinline__ A block_sum(A value) {
  WGANGP_FAST_SHARED(A, sums, kWarps);
  value = lane_sum(value, 32);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  A total = 0;
  if (threadIdx.x == 0)
    for (int warp = 0; warp < kWarps; ++warp) total += sums[warp];
  return total;
}

// partials[sample*chunks + chunk]
template <class T>
__global__ void __launch_bounds__(kThreads)
    chunk_kernel(const T* gradient, SampleLayout layout, int64_t chunk, Divider chunks, Acc<T>* partials) {
  const int64_t block = blockIdx.x, sample = chunks.quotient(block);
  const int64_t begin = (block - sample * chunks.divisor()) * chunk;
  const int64_t end = begin + chunk < layout.k ? begin + chunk : layout.k;
  const Acc<T> sum = block_sum(squares(gradient + sample * layout.batch_stride, layout, begin, end,
                                       static_cast<int>(threadIdx.x), kThreads));
  if (threadIdx.x == 0) partials[block] = sum;
}

template <class A>
struct Penalty {
  A target;
  bool one_sided;
  int32_t reduction;
  int64_t n;
  A *value, *norm, *slope;

  // Writes what belongs to one sample; its penalty.
  __device__ __forceinline__ A of(int64_t sample, A squared) const {
    const A length = sqrt(squared);
    A excess = length - target;
    if (one_sided && excess < A(0)) excess = A(0);  // NaN stays
    A penalty = excess * excess, rate = length == A(0) ? A(0) : A(2) * excess / length;
    if (target == A(0)) {
      penalty = squared;
      rate = A(2);
    }
    norm[sample] = length;
    slope[sample] = reduction == 2 ? rate / static_cast<A>(n) : rate;
    if (reduction == 0) value[sample] = penalty;
    return penalty;
  }

  __device__ __forceinline__ void finish(A sum) const {
    value[0] = reduction == 2 ? sum / static_cast<A>(n) : sum;
  }
};

// Each group of `lanes` lanes makes the sum of a sample: of its chunks' sums where there are chunks, else of
// its elements. block_sums[block] is the sum of the block's penalties; one block alone writes the value.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sample_kernel(const T* gradient, SampleLayout layout, const Acc<T>* partials, int64_t chunks, int lanes,
                  Penalty<Acc<T>> penalty, Acc<T>* block_sums) {
  using A = Acc<T>;
  const int rank = static_cast<int>(threadIdx.x) % lanes, groups = kThreads / lanes;
  const int64_t own = static_cast<int64_t>(threadIdx.x) / lanes;
  A total = 0;
  // Every lane stays to the end: the sums need whole warps.
  for (int64_t first = int64_t{blockIdx.x} * groups; first < layout.n; first += int64_t{gridDim.x} * groups) {
    const int64_t sample = first + own;
    A sum = 0;
    if (sample < layout.n && chunks > 0) {
      const A* const own_partials = partials + sample * chunks;
#ifdef __CUDACC__
#pragma unroll 4
#endif
      for (int64_t i = rank; i < chunks; i += lanes) sum += own_partials[i];
    } else if (sample < layout.n) {
      sum = squares(gradient + sample * layout.batch_stride, layout, 0, layout.k, rank, lanes);
    }
    sum = lane_sum(sum, lanes);
    if (sample < layout.n && rank == 0) total += penalty.of(sample, sum);
  }
  if (penalty.reduction == 0) return;
  total = block_sum(total);
  if (threadIdx.x != 0) return;
  if (gridDim.x == 1)
    penalty.finish(total);
  else
    block_sums[blockIdx.x] = total;
}

template <class A>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(const A* block_sums, int64_t blocks, Penalty<A> penalty) {
  A total = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += kThreads) total += block_sums[i];
  total = block_sum(total);
  if (threadIdx.x == 0) penalty.finish(total);
}

template <class T>
struct Seed {
  static constexpr int kWidth = kWide<T>, kPacks = 1;
  const T* gradient;       // [n, k]
  const Acc<T>* slope;     // [n]
  const Acc<T>* incoming;  // [] or [n]
  bool per_sample;
  Divider k;
  T* seed;  // [n, k]

  __device__ __forceinline__ Acc<T> factor(int64_t sample) const {
    return slope[sample] * incoming[per_sample ? sample : 0];
  }

  __device__ __forceinline__ void operator()(const FlatSpan& at) const {
    if (at.first >= at.count) return;
    Values<T, kWidth> g = load<kWidth>(gradient, at.first, at.whole, at.count);
    int64_t sample = k.quotient(at.first), within = at.first - sample * k.divisor();
    Acc<T> scale = factor(sample);
    WGANGP_FAST_UNROLL
    for (int j = 0; j < kWidth; ++j) {
      g.at[j] *= scale;
      if (++within == k.divisor() && at.first + j + 1 < at.count) {
        within = 0;
        scale = factor(++sample);
      }
    }
    store(seed, g, at.first, at.whole, at.count);
  }
};

}  // namespace

int64_t norm_penalty_partials(int64_t n, int64_t k) { return n * chunk_count(k) + kMaxSampleBlocks; }

void norm_penalty(Dtype dtype, const void* gradient, const Strided& layout, double target, bool one_sided,
                  int32_t reduction, void* partials, void* value, void* norm, void* slope, void* stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Acc<T>;
    const SampleLayout samples(layout);
    const int64_t n = samples.n, chunks = chunk_count(samples.k);
    const auto* elements = static_cast<const T*>(gradient);
    A *sums = static_cast<A*>(partials), *block_sums = sums + n * chunks;
    const Penalty<A> penalty{
        static_cast<A>(target), one_sided, reduction, n, static_cast<A*>(value), static_cast<A*>(norm),
        static_cast<A*>(slope)};
    if (n > 0) {
      if (chunks > 0)
        launch(chunk_kernel<T>, n * chunks, kThreads, stream, elements, samples, chunk_size(samples.k),
               Divider(chunks), sums);
      const int lanes = lanes_for(chunks > 0 ? chunks : samples.k);
      const int64_t wanted = ceil_div(n * lanes, kThreads);
      const int64_t blocks = reduction != 0 && n * lanes <= kOneBlock ? 1
                             : wanted < kMaxSampleBlocks              ? wanted
                                                                      : kMaxSampleBlocks;
      launch(sample_kernel<T>, blocks, kThreads, stream, elements, samples, static_cast<const A*>(sums),
             chunks, lanes, penalty, block_sums);
      if (reduction != 0 && blocks > 1)
        launch(finish_kernel<A>, 1, kThreads, stream, static_cast<const A*>(block_sums), blocks, penalty);
    } else if (reduction != 0) {  // the sum of nothing, and its mean, which is NaN
      launch(finish_kernel<A>, 1, kThreads, stream, static_cast<const A*>(block_sums), int64_t{0}, penalty);
    }
  });
}

void penalty_seed(Dtype dtype, const void* gradient, const void* slope, const void* incoming,
                  bool incoming_per_sample, void* seed, int64_t n, int64_t k, void* stream) {
  if (k == 0) return;
  with_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_flat(
        Seed<T>{static_cast<const T*>(gradient), static_cast<const Acc<T>*>(slope),
                static_cast<const Acc<T>*>(incoming), incoming_per_sample, Divider(k), static_cast<T*>(seed)},
        aligned(gradient, seed), n * k, stream);
  });
}

}  // namespace wgangp_fast::cuda
