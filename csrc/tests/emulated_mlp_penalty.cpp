// The CUDA kernels of mlp_penalty, run on the CPU.
#include "tests/emulation.h"
//
#include "cuda/error_cuda.cu"
#include "cuda/mlp_penalty_cuda.cu"
#include "tests/cases_mlp_penalty.h"

int main() { return wgangp_fast::testing::verdict(wgangp_fast::testing::mlp_penalty_cases); }
