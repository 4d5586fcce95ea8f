// The CUDA kernels of gate, run on the CPU.
#include "tests/emulation.h"
//
#include "cuda/error_cuda.cu"
#include "cuda/gate_cuda.cu"
#include "tests/cases_gate.h"

int main() { return wgangp_fast::testing::verdict(wgangp_fast::testing::gate_cases); }
