// What makes a header usable from every compiler of the project.
#pragma once

// Functions for both sides of nvcc. An emulation of CUDA on the host defines the two words itself.
#ifndef WGANGP_FAST_HD
#if defined(__CUDACC__) || (defined(__host__) && defined(__device__))
#define WGANGP_FAST_HD __host__ __device__
#elif defined(__GNUC__)
#define WGANGP_FAST_HD __attribute__((always_inline))  // a call in a loop would keep it from vector code
#else
#define WGANGP_FAST_HD
#endif
#endif

// The CPU kernels are compiled once for each instruction set. Inline functions of the same name would be
// merged by the linker, and a machine without AVX-512 could be handed the AVX-512 copy: so every
// instruction set has its own inline namespace.
#ifdef WGANGP_FAST_CAPABILITY
#define WGANGP_FAST_COMMON_BEGIN  \
  namespace wgangp_fast::common { \
  inline namespace WGANGP_FAST_CAPABILITY {
#define WGANGP_FAST_COMMON_END \
  }                            \
  }
#else
#define WGANGP_FAST_COMMON_BEGIN namespace wgangp_fast::common {
#define WGANGP_FAST_COMMON_END }
#endif
