// The emulation itself: it must notice what it is there to notice. And the index functions, beyond 2^31.
#include "tests/emulation.h"
//
#include "cuda/error_cuda.cu"
#include "cuda/flat.cuh"
#include "cuda/rows.cuh"
#include "cuda/rows_cuda.cu"
#include "cuda/sample_layout.cuh"
#include "tests/device_support.h"

namespace wgangp_fast::testing {
namespace {

using cuda::kAllLanes;

__global__ void divergent_barrier(float*) {
  if (threadIdx.x < 16) __syncthreads();
}

__global__ void two_barriers(float*) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void absent_lane(float* out) {
  if (threadIdx.x == 3) return;
  out[threadIdx.x] = __shfl_xor_sync(kAllLanes, 1.0f, 1);
}

__global__ void lane_outside_mask(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.0f, 16);
}

__global__ void too_much_shared(float* out) {
  WGANGP_FAST_SHARED(float, much, 13000);
  if (threadIdx.x == 0) out[0] = much[0];
}

__global__ void race(float* out) {
  WGANGP_FAST_SHARED(float, values, 64);
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = values[63 - threadIdx.x];  // the barrier between is missing
}

__global__ void unwritten(float* out) {
  WGANGP_FAST_SHARED(float, values, 64);
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void sums(float* out) {
  WGANGP_FAST_SHARED(float, values, 2);
  const float sum = cuda::lane_sum(static_cast<float>(threadIdx.x), 32);
  if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = sum;
  __syncthreads();
  out[threadIdx.x] =
      values[0] + values[1] + __shfl_down_sync(kAllLanes, 0.0f, 1) + __shfl_sync(kAllLanes, 0.0f, 5);
}

__global__ void ranks(float* out) {
  WGANGP_FAST_SHARED(float, own, 1);
  if (threadIdx.x == 0) own[0] = static_cast<float>(blockIdx.x);
  WGANGP_FAST_CLUSTER_SYNC();
  if (threadIdx.x == 0) out[blockIdx.x] = *cuda::cluster_peer(own, cuda::cluster_rank() ^ 1u);
  WGANGP_FAST_CLUSTER_SYNC();
}

void expect_failure(const char* what, void (*kernel)(float*), const char* message) {
  std::vector<float> out(64);
  try {
    cuda::launch(kernel, 1, 64, nullptr, out.data());
  } catch (const std::runtime_error& error) {
    if (std::strstr(error.what(), message) == nullptr) fail(std::string(what) + ": " + error.what());
    return;
  }
  fail(std::string(what) + " went unnoticed");
}

std::vector<float> run(void (*kernel)(float*), emulation::Order order) {
  emulation::settings.order = order;
  std::vector<float> out(64);
  cuda::launch(kernel, 1, 64, nullptr, out.data());
  emulation::settings.order = emulation::Order::forward;
  return out;
}

int machine_cases() {
  expect_failure("a divergent barrier", divergent_barrier, "never come");
  expect_failure("two barriers", two_barriers, "two barriers met");
  expect_failure("an absent lane", absent_lane, "never come");
  expect_failure("a lane outside the mask", lane_outside_mask, "outside its mask");
  expect_failure("too much shared memory", too_much_shared, "too much shared");
  using emulation::Order;
  if (run(race, Order::forward) == run(race, Order::reverse)) fail("a race went unnoticed");
  if (!std::isnan(run(unwritten, Order::forward)[5])) fail("unwritten shared memory is not NaN");
  for (const Order order : {Order::forward, Order::reverse, Order::shuffled})
    if (run(sums, order) != std::vector<float>(64, 63 * 64 / 2)) fail("sums over lanes and a barrier");
  std::vector<float> out(4);
  cuda::launch_with({2, 0}, ranks, 4, 32, nullptr, out.data());
  if (out != std::vector<float>{1, 0, 3, 2}) fail("a cluster's shared memory");
  return 10;
}

int divider_cases() {
  const int64_t most = std::numeric_limits<int64_t>::max();
  const int64_t divisors[] = {1,
                              2,
                              3,
                              5,
                              7,
                              12,
                              641,
                              4096,
                              65537,
                              3'000'000,
                              (int64_t{1} << 31) - 1,
                              int64_t{1} << 31,
                              (int64_t{1} << 31) + 1,
                              (int64_t{1} << 40) + 3,
                              most / 2,
                              most};
  std::mt19937_64 engine(3);
  int cases = 0;
  for (const int64_t divisor : divisors) {
    const cuda::Divider by(divisor);
    const auto check = [&](int64_t index) {
      ++cases;
      if (by.quotient(index) != index / divisor)
        fail(std::to_string(index) + " / " + std::to_string(divisor));
    };
    for (const int64_t index : {int64_t{0}, int64_t{1}, divisor - 1, divisor, most - 1, most}) check(index);
    for (int i = 0; i < 2000; ++i) {
      const int64_t index = static_cast<int64_t>(engine() >> 1) >> (i % 63);
      check(index);
      const int64_t multiple = index / divisor * divisor;
      check(multiple);
      if (multiple > 0) check(multiple - 1);
    }
  }
  return cases;
}

// Where threads go in arrays that no test can allocate.
int large_cases() {
  const int64_t count = (int64_t{1} << 33) + 5;
  const int64_t blocks = cuda::ceil_div(count, int64_t{cuda::kThreads} * 4 * 2);
  const cuda::FlatSpan last = cuda::flat_span<4>(blocks - 1, 1, 2, count / 4 * 4, count);
  if (last.first != (int64_t{1} << 33) + 4) fail("the last pack of 2^33 elements");

  // 70,000 channels-last images of 256x256 with 3 channels: 1.4e10 elements.
  NormRows shape{70'000, 3, 1, 65'536, true, false};
  cuda::RowMap map = cuda::row_map(shape, 1, cuda::kThreads);
  threadIdx = dim3(2);
  cuda::Share share = cuda::share_of<1>(map, 69'999, 0);
  if (share.base != int64_t{69'999} * 65'536 * 3 + 2 || share.row != 69'999 * 3 + 2)
    fail("channels_last row");

  // 3e6 rows of 4096.
  shape = {3'000'000, 1, 1, 4096, false, true};
  map = cuda::row_map(shape, 4, cuda::kThreads);
  threadIdx = dim3(7);
  share = cuda::share_of<4>(map, 2'999'999, 0);
  if (share.base != int64_t{2'999'999} * 4096 || share.at != 7) fail("row 2,999,999");
  threadIdx = dim3(0);

  // A permuted, dense sample of 2^33 elements is flat; a sliced one is not.
  Strided strided{1, 0, 3, {1 << 11, 1 << 11, 1 << 11}, {1, int64_t{1} << 22, 1 << 11}};
  if (!cuda::SampleLayout(strided).dense) fail("a permuted dense sample");
  strided.stride[1] *= 2;
  const cuda::SampleLayout sliced(strided);
  if (sliced.dense || sliced.dims != 2) fail("a sliced sample");
  const int64_t element = (int64_t{1} << 33) - 1;
  if (sliced.offset(element) != (int64_t{2047} << 23) + (int64_t{1} << 22) - 1) fail("its last element");
  return 5;
}

int all() { return machine_cases() + divider_cases() + large_cases(); }

}  // namespace
}  // namespace wgangp_fast::testing

int main() { return wgangp_fast::testing::verdict(wgangp_fast::testing::all); }
