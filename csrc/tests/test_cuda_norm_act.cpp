// The CUDA kernels of norm_act, on a GPU.
#include "tests/cases_norm_act.h"

int main() { return wgangp_fast::testing::verdict(wgangp_fast::testing::norm_act_cases); }
