// The CUDA kernels of bias_act, run on the CPU.
#include "tests/emulation.h"
//
#include "cuda/bias_act_cuda.cu"
#include "cuda/error_cuda.cu"
#include "tests/cases_bias_act.h"

int main() { return wgangp_fast::testing::verdict(wgangp_fast::testing::bias_act_cases); }
