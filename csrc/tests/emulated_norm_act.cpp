// The CUDA kernels of norm_act, run on the CPU.
#include "tests/emulation.h"
//
#include "cuda/error_cuda.cu"
#include "cuda/norm_act_cuda.cu"
#include "cuda/rows_cuda.cu"
#include "tests/cases_norm_act.h"

int main() { return wgangp_fast::testing::verdict(wgangp_fast::testing::norm_act_cases); }
