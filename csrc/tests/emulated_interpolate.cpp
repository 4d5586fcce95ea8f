// The CUDA kernels of interpolate, run on the CPU.
#include "tests/emulation.h"
//
#include "cuda/error_cuda.cu"
#include "cuda/interpolate_cuda.cu"
#include "tests/cases_interpolate.h"

int main() { return wgangp_fast::testing::verdict(wgangp_fast::testing::interpolate_cases); }
