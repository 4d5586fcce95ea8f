// The CUDA kernels of gate, on a GPU.
#include "tests/cases_gate.h"

int main() { return wgangp_fast::testing::verdict(wgangp_fast::testing::gate_cases); }
