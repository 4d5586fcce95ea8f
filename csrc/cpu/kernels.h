// The same kernels once for each instruction set: declarations for dispatch.cpp, and the namespace of the
// kernel files, which are compiled with WGANGP_FAST_CAPABILITY naming theirs. WGANGP_FAST_ONLY_BASELINE
// leaves one of them, for quick builds: under sanitisers, say.
#pragma once

#ifndef WGANGP_FAST_CAPABILITY
#define WGANGP_FAST_CAPABILITY baseline
#endif

#include "ops.h"

#if defined(__x86_64__) && !defined(WGANGP_FAST_ONLY_BASELINE)
#define WGANGP_FAST_EACH_CAPABILITY(X) X(baseline) X(avx2) X(avx512)
#else
#define WGANGP_FAST_EACH_CAPABILITY(X) X(baseline)
#endif

#define WGANGP_FAST_EACH_KERNEL(X) \
  X(interpolate)                   \
  X(norm_penalty_partials)         \
  X(norm_penalty)                  \
  X(penalty_seed)                  \
  X(bias_act)                      \
  X(bias_act_grad)                 \
  X(bias_act_adjoint)              \
  X(gate)                          \
  X(gate_vjp)                      \
  X(gate_jvp)                      \
  X(gate_adjoint)                  \
  X(norm_act)                      \
  X(norm_act_partials)             \
  X(norm_act_vjp)                  \
  X(norm_act_jvp)                  \
  X(norm_act_adjoint)              \
  X(weight_gradient_scratch)       \
  X(weight_gradient)               \
  X(convolution_scratch)           \
  X(convolution)

#define WGANGP_FAST_DECLARE_KERNEL(name) decltype(::wgangp_fast::cpu::name) name;
#define WGANGP_FAST_DECLARE_CAPABILITY(capability)    \
  namespace wgangp_fast::cpu::capability {            \
  WGANGP_FAST_EACH_KERNEL(WGANGP_FAST_DECLARE_KERNEL) \
  }
WGANGP_FAST_EACH_CAPABILITY(WGANGP_FAST_DECLARE_CAPABILITY)
#undef WGANGP_FAST_DECLARE_CAPABILITY
#undef WGANGP_FAST_DECLARE_KERNEL

namespace wgangp_fast::cpu {

// The instruction set in use: "baseline", "avx2" or "avx512". The environment's WGANGP_FAST_CPU_CAPABILITY
// may lower the choice.
const char* capability();

}  // namespace wgangp_fast::cpu
