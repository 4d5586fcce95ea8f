// How the CPU kernels share work between threads. The host of the kernels installs its own loop (torch's, or
// the threads of this library); without one, everything runs on the caller's thread.
#pragma once

#include <cstdint>

namespace wgangp_fast::cpu {

using Body = void (*)(int64_t begin, int64_t end, void* context);
// Calls body on parts of [begin, end) that cover it, none (but the last) shorter than grain, and returns
// when all are done.
using ParallelFor = void (*)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);

// Null: the serial loop. Not to be called while a kernel runs.
void set_parallel_for(ParallelFor parallel_for);
ParallelFor parallel_for();

// A loop on this library's own threads, for set_parallel_for. The threads start with its first call that is
// worth sharing. Calls from several threads at once are safe: one has the threads, the others run serially.
void parallel_for_threads(int64_t begin, int64_t end, int64_t grain, Body body, void* context);
// How many threads it uses, the caller's among them; 0: as many as the machine has. Not to be called while
// a kernel runs.
void set_threads(int64_t count);

// body(begin, end) on parts of [0, count).
template <class Function>
inline void parallel(int64_t count, int64_t grain, const Function& body) {
  if (count <= 0) return;
  if (count <= grain) return body(int64_t{0}, count);
  parallel_for()(
      0, count, grain,
      [](int64_t begin, int64_t end, void* context) { (*static_cast<const Function*>(context))(begin, end); },
      const_cast<Function*>(&body));
}

}  // namespace wgangp_fast::cpu
