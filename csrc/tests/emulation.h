// CUDA on the CPU, as far as the kernels of csrc/cuda use it: the very same .cu files compile with g++ (as
// ordinary C++) and run here, so that their indexing, barriers and shuffles can be tested without a GPU,
// under AddressSanitizer and UBSan.
//
// Blocks run one after another, or, where they form a cluster, together; the threads of a block are fibers
// that give way at barriers and shuffles alone. A run fails (std::runtime_error) where a GPU would hang or be
// undefined: a barrier that some thread never reaches or that is reached at two places, a shuffle with an
// absent lane. Races show as results that depend on Order, the order in which the threads run between two
// barriers. Shared memory is malloc'ed for every block (an overrun is AddressSanitizer's) and filled with
// 0xff, which is NaN in every type: reading it unwritten shows.
#pragma once

#define WGANGP_FAST_EMULATED

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace wgangp_fast::emulation {

enum class Order { forward, reverse, shuffled };

struct Settings {
  Order order = Order::forward;
  unsigned seed = 0;     // of Order::shuffled
  bool clusters = true;  // as a device of compute capability 9.0 has them
  int64_t launches = 0;  // counted, never reset here
};
inline Settings settings;

enum class State { ready, barrier, cluster_barrier, shuffle, done };

struct Fiber {
  ucontext_t context;
  State state = State::ready;
  dim3 thread, block;
  int rank = 0;  // of the block in its cluster
  int lane = 0, warp = 0;
  const char* site = nullptr;  // where it waits
  int line = 0;
  unsigned mask = 0;
  int source = 0;  // the lane it reads
  uint64_t given = 0, taken = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

struct SharedArray {
  const void* key;
  std::unique_ptr<unsigned char[]> bytes;
};

inline constexpr size_t kStack = size_t{1} << 18;
inline constexpr size_t kSharedLimit = 48 * 1024;

class Machine {
 public:
  // Runs `body` once for each thread of each block.
  void launch(dim3 grid, dim3 block, unsigned cluster, size_t dynamic, const std::function<void()>& body) {
    ++settings.launches;
    const int64_t threads = int64_t{block.x} * block.y * block.z;
    require(threads >= 1 && threads <= 1024, "a block of more than 1024 threads, or of none");
    require(grid.x >= 1 && grid.x <= 0x7fffffffu, "gridDim.x out of range");
    require(grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 && grid.z <= 65535, "gridDim.y or z out of range");
    require(cluster >= 1 && cluster <= 8 && grid.x % cluster == 0, "the grid is not made of whole clusters");
    require(cluster == 1 || settings.clusters, "a cluster on a device without them");
    require(dynamic <= kSharedLimit, "too much dynamic shared memory");
    gridDim = grid;
    blockDim = block;
    body_ = &body;
    dynamic_ = dynamic;
    random_.seed(settings.seed);
    const bool reversed = settings.order == Order::reverse;
    const int64_t rows = int64_t{grid.x} / cluster * grid.y * grid.z;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t at = reversed ? rows - 1 - i : i;
      const int64_t across = grid.x / cluster;
      const dim3 first(static_cast<unsigned>(at % across * cluster),
                       static_cast<unsigned>(at / across % grid.y),
                       static_cast<unsigned>(at / across / grid.y));
      run_cluster(first, cluster, static_cast<int>(threads));
    }
  }

  void wait(State state, const char* site, int line) {
    current_->state = state;
    current_->site = site;
    current_->line = line;
    leave(false);
  }

  uint64_t shuffle(unsigned mask, uint64_t given, int source) {
    current_->mask = mask;
    current_->given = given;
    current_->source = source;
    wait(State::shuffle, "shuffle", 0);
    return current_->taken;
  }

  int lane() const { return current_->lane; }
  unsigned cluster_rank() const { return static_cast<unsigned>(current_->rank); }

  // The array that one declaration makes in the current block.
  void* shared(const void* key, size_t bytes) {
    auto& arrays = shared_[static_cast<size_t>(current_->rank)];
    for (auto& array : arrays)
      if (array.key == key) return array.bytes.get();
    used_[static_cast<size_t>(current_->rank)] += bytes;
    overfull_ = overfull_ || used_[static_cast<size_t>(current_->rank)] > kSharedLimit;
    arrays.push_back({key, std::make_unique<unsigned char[]>(bytes)});
    std::memset(arrays.back().bytes.get(), 0xff, bytes);
    return arrays.back().bytes.get();
  }

  void* dynamic_shared() {
    static const char key = 0;
    return shared(&key, dynamic_);
  }

  // The array of the block `rank` of this cluster that the same declaration made as `own` here.
  void* peer(const void* own, unsigned rank) {
    for (auto& array : shared_[static_cast<size_t>(current_->rank)])
      if (array.bytes.get() == own)
        for (auto& other : shared_.at(rank))
          if (other.key == array.key) return other.bytes.get();
    return nullptr;  // the kernel's read of it is the failure
  }

 private:
  static void require(bool holds, const std::string& what) {
    if (!holds) throw std::runtime_error("emulated launch: " + what);
  }

  void run_cluster(dim3 first, unsigned cluster, int threads) {
    shared_.clear();
    shared_.resize(cluster);
    used_.assign(cluster, 0);
    overfull_ = false;
    fibers_.clear();
    fibers_.resize(cluster * static_cast<size_t>(threads));
    while (stacks_.size() < fibers_.size()) stacks_.push_back(std::make_unique<char[]>(kStack));
    for (size_t i = 0; i < fibers_.size(); ++i) start(i, first, threads);
    while (true) {
      try {
        if (step()) continue;
        if (std::all_of(fibers_.begin(), fibers_.end(), [](auto& f) { return f.state == State::done; }))
          break;
        release(threads);
      } catch (...) {
        stacks_.clear();  // the fibers on them are lost, and so are the shadows that sanitizers keep
        throw;
      }
    }
    require(!overfull_, "too much shared memory in a block");
  }

  void start(size_t i, dim3 first, int threads) {
    Fiber& fiber = fibers_[i];
    const auto t = static_cast<unsigned>(i % static_cast<size_t>(threads));
    fiber.rank = static_cast<int>(i / static_cast<size_t>(threads));
    fiber.thread = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y);
    fiber.block = dim3(first.x + static_cast<unsigned>(fiber.rank), first.y, first.z);
    fiber.lane = static_cast<int>(t % 32);
    fiber.warp = static_cast<int>(t / 32);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks_[i].get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &Machine::enter, 0);
  }

  size_t first_of_warp(size_t fiber) const { return fiber - static_cast<size_t>(fibers_[fiber].lane); }
  size_t end_of_warp(size_t first) const {
    size_t end = first;
    while (end < fibers_.size() && first_of_warp(end) == first) ++end;
    return end;
  }

  // Lets one warp run up to where it waits, false where no thread can run. A warp goes as far as it can
  // before the next one starts: what only a barrier would have kept apart then meets.
  bool step() {
    std::vector<size_t> warps;
    for (size_t i = 0; i < fibers_.size(); ++i)
      if (fibers_[i].state == State::ready && (warps.empty() || warps.back() != first_of_warp(i)))
        warps.push_back(first_of_warp(i));
    if (warps.empty()) return false;
    const size_t chosen = settings.order == Order::forward   ? 0
                          : settings.order == Order::reverse ? warps.size() - 1
                                                             : random_() % warps.size();
    std::vector<size_t> ready;
    for (size_t i = warps[chosen]; i < fibers_.size() && first_of_warp(i) == warps[chosen]; ++i)
      if (fibers_[i].state == State::ready) ready.push_back(i);
    if (settings.order == Order::reverse) std::reverse(ready.begin(), ready.end());
    if (settings.order == Order::shuffled) std::shuffle(ready.begin(), ready.end(), random_);
    for (const size_t i : ready) {
      current_ = &fibers_[i];
      threadIdx = current_->thread;
      blockIdx = current_->block;
#if defined(__SANITIZE_ADDRESS__)
      void* own = nullptr;
      __sanitizer_start_switch_fiber(&own, stacks_[i].get(), kStack);
      swapcontext(&scheduler_, &current_->context);
      __sanitizer_finish_switch_fiber(own, nullptr, nullptr);
#else
      swapcontext(&scheduler_, &current_->context);
#endif
    }
    release_shuffles(warps[chosen], end_of_warp(warps[chosen]));
    return true;
  }

  // Every thread waits or is done: lets go the barriers and shuffles that are complete.
  void release(int threads) {
    bool progress = false;
    const auto size = static_cast<size_t>(threads);
    for (size_t begin = 0; begin < fibers_.size(); begin += size)
      progress |= release_barrier(begin, begin + size, State::barrier);
    progress |= release_barrier(0, fibers_.size(), State::cluster_barrier);
    for (size_t begin = 0; begin < fibers_.size(); begin += size)
      for (size_t warp = begin; warp < begin + size; warp += 32)
        progress |= release_shuffles(warp, std::min(warp + 32, begin + size));
    if (progress) return;
    std::string report = "emulated launch: threads wait for others that never come:";
    for (size_t i = 0, shown = 0; i < fibers_.size() && shown < 4; ++i) {
      const Fiber& f = fibers_[i];
      if (f.state == State::done) continue;
      report += " thread " + std::to_string(i) + " at " + f.site + ":" + std::to_string(f.line);
      ++shown;
    }
    throw std::runtime_error(report);
  }

  bool release_barrier(size_t begin, size_t end, State kind) {
    for (size_t i = begin; i < end; ++i)
      if (fibers_[i].state != kind) return false;
    for (size_t i = begin; i < end; ++i) {
      const Fiber &one = fibers_[i], &other = fibers_[begin];
      require(one.line == other.line && std::strcmp(one.site, other.site) == 0,
              "two barriers met: " + std::string(one.site) + ":" + std::to_string(one.line) + " and " +
                  other.site + ":" + std::to_string(other.line));
    }
    for (size_t i = begin; i < end; ++i) fibers_[i].state = State::ready;
    return true;
  }

  bool release_shuffles(size_t begin, size_t end) {
    bool progress = false;
    for (size_t i = begin; i < end; ++i) {
      if (fibers_[i].state != State::shuffle) continue;
      const unsigned mask = fibers_[i].mask;
      require((mask >> (i - begin)) & 1u, "a lane that its own shuffle's mask leaves out");
      bool complete = true;
      for (size_t lane = 0; lane < 32; ++lane) {
        if (!((mask >> lane) & 1u)) continue;
        complete = complete && begin + lane < end && fibers_[begin + lane].state == State::shuffle &&
                   fibers_[begin + lane].mask == mask;
      }
      if (!complete) continue;
      for (size_t lane = 0; lane < 32; ++lane) {
        if (!((mask >> lane) & 1u)) continue;
        Fiber& reader = fibers_[begin + lane];
        require((mask >> reader.source) & 1u, "a shuffle reads a lane outside its mask");
        reader.taken = fibers_[begin + static_cast<size_t>(reader.source)].given;
      }
      for (size_t lane = 0; lane < 32; ++lane)
        if ((mask >> lane) & 1u) fibers_[begin + lane].state = State::ready;
      progress = true;
    }
    return progress;
  }

  static void enter();

  void leave(bool forever) {
    Fiber* self = current_;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(forever ? nullptr : &self->fake_stack, scheduler_stack_, scheduler_size_);
    swapcontext(&self->context, &scheduler_);
    __sanitizer_finish_switch_fiber(self->fake_stack, nullptr, nullptr);
#else
    static_cast<void>(forever);
    swapcontext(&self->context, &scheduler_);
#endif
  }

  std::vector<Fiber> fibers_;
  std::vector<std::unique_ptr<char[]>> stacks_;
  std::vector<std::vector<SharedArray>> shared_;  // of each block of the cluster
  std::vector<size_t> used_;
  const std::function<void()>* body_ = nullptr;
  Fiber* current_ = nullptr;
  ucontext_t scheduler_;
  size_t dynamic_ = 0;
  bool overfull_ = false;
  std::mt19937 random_;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_size_ = 0;
};

inline Machine machine;

inline void Machine::enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &machine.scheduler_stack_, &machine.scheduler_size_);
#endif
  (*machine.body_)();
  machine.current_->state = State::done;
  machine.leave(true);
}

template <class T>
T exchange(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = machine.shuffle(mask, bits, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace wgangp_fast::emulation

#define __syncthreads() \
  ::wgangp_fast::emulation::machine.wait(::wgangp_fast::emulation::State::barrier, __FILE__, __LINE__)
#define WGANGP_FAST_CLUSTER_SYNC() \
  ::wgangp_fast::emulation::machine.wait(::wgangp_fast::emulation::State::cluster_barrier, __FILE__, __LINE__)
#define WGANGP_FAST_SHARED(type, name, count) \
  static const char name##_key = 0;           \
  type* const name = static_cast<type*>(      \
      ::wgangp_fast::emulation::machine.shared(&name##_key, sizeof(type) * static_cast<size_t>(count)))
#define WGANGP_FAST_DYNAMIC_SHARED(name) \
  unsigned char* const name = static_cast<unsigned char*>(::wgangp_fast::emulation::machine.dynamic_shared())

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  const int lane = wgangp_fast::emulation::machine.lane(), source = lane ^ lanes;
  // As the hardware has it: beyond the segment a lane keeps its own.
  return wgangp_fast::emulation::exchange(mask, value, source / width > lane / width ? lane : source);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int delta, int width = 32) {
  const int lane = wgangp_fast::emulation::machine.lane();
  return wgangp_fast::emulation::exchange(mask, value, lane % width + delta < width ? lane + delta : lane);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = wgangp_fast::emulation::machine.lane();
  return wgangp_fast::emulation::exchange(mask, value, lane / width * width + source % width);
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  wgangp_fast::emulation::exchange(mask, 0, wgangp_fast::emulation::machine.lane());
}

// One thread runs at a time, so these are atomic as they are.
inline int atomicAdd(int* address, int value) {
  const int old = *address;
  *address += value;
  return old;
}
inline unsigned atomicAdd(unsigned* address, unsigned value) {
  const unsigned old = *address;
  *address += value;
  return old;
}
inline void __threadfence() {}

inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
}
