// The CUDA kernels of norm_penalty, run on the CPU.
#include "tests/emulation.h"
//
#include "cuda/error_cuda.cu"
#include "cuda/norm_penalty_cuda.cu"
#include "tests/cases_norm_penalty.h"

int main() { return wgangp_fast::testing::verdict(wgangp_fast::testing::norm_penalty_cases); }
