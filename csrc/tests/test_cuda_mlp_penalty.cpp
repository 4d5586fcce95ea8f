// The CUDA kernels of mlp_penalty, on a GPU.
#include "tests/cases_mlp_penalty.h"

int main() { return wgangp_fast::testing::verdict(wgangp_fast::testing::mlp_penalty_cases); }
