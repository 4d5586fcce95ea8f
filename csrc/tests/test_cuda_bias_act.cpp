// The CUDA kernels of bias_act, on a GPU.
#include "tests/cases_bias_act.h"

int main() { return wgangp_fast::testing::verdict(wgangp_fast::testing::bias_act_cases); }
