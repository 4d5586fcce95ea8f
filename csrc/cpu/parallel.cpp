#include "cpu/parallel.h"

#include <atomic>

namespace wgangp_fast::cpu {
namespace {

void serial(int64_t begin, int64_t end, int64_t, Body body, void* context) {
  if (begin < end) body(begin, end, context);
}

std::atomic<ParallelFor> installed{serial};

}  // namespace

void set_parallel_for(ParallelFor parallel_for) {
  installed.store(parallel_for != nullptr ? parallel_for : serial, std::memory_order_release);
}

ParallelFor parallel_for() { return installed.load(std::memory_order_acquire); }

}  // namespace wgangp_fast::cpu
