// The CUDA kernels of interpolate, on a GPU.
#include "tests/cases_interpolate.h"

int main() { return wgangp_fast::testing::verdict(wgangp_fast::testing::interpolate_cases); }
