// The CUDA kernels of norm_penalty, on a GPU.
#include "tests/cases_norm_penalty.h"

int main() { return wgangp_fast::testing::verdict(wgangp_fast::testing::norm_penalty_cases); }
