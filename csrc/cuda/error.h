// What the launches of this folder report.
#pragma once

namespace wgangp_fast::cuda {

// The message of the launch error that this thread met since the last call, and clears it; null for none.
// Errors inside a running kernel show at the next synchronisation, as everywhere in CUDA.
const char* last_error();

}  // namespace wgangp_fast::cuda
