// Every operator's schema, and what runs for it on each device. The functions are in ops_*.cpp.
#include "binding.h"
#include "cpu/parallel.h"

namespace {

namespace binding = wgangp_fast::binding;
using torch::stable::detail::StableLibrary;

// The CPU kernels run on torch's threads, so that torch.set_num_threads() holds for them as well.
void torch_threads(int64_t begin, int64_t end, int64_t grain, wgangp_fast::cpu::Body body, void* context) {
  STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(begin, end, grain, body, context));
}

void implement(StableLibrary& m) {
  m.impl("interpolate", TORCH_BOX(&binding::interpolate));
  m.impl("norm_penalty", TORCH_BOX(&binding::norm_penalty));
  m.impl("penalty_seed", TORCH_BOX(&binding::penalty_seed));
  m.impl("bias_act", TORCH_BOX(&binding::bias_act));
  m.impl("bias_act_", TORCH_BOX(&binding::bias_act_));
  m.impl("bias_act_grad", TORCH_BOX(&binding::bias_act_grad));
  m.impl("bias_act_grad_", TORCH_BOX(&binding::bias_act_grad_));
  m.impl("bias_act_adjoint", TORCH_BOX(&binding::bias_act_adjoint));
  m.impl("bias_act_adjoint_", TORCH_BOX(&binding::bias_act_adjoint_));
  m.impl("gate", TORCH_BOX(&binding::gate));
  m.impl("gate_vjp", TORCH_BOX(&binding::gate_vjp));
  m.impl("gate_jvp", TORCH_BOX(&binding::gate_jvp));
  m.impl("gate_adjoint", TORCH_BOX(&binding::gate_adjoint));
  m.impl("norm_act", TORCH_BOX(&binding::norm_act));
  m.impl("norm_act_vjp", TORCH_BOX(&binding::norm_act_vjp));
  m.impl("norm_act_jvp", TORCH_BOX(&binding::norm_act_jvp));
  m.impl("norm_act_adjoint", TORCH_BOX(&binding::norm_act_adjoint));
}

}  // namespace

// clang-format off
STABLE_TORCH_LIBRARY(wgangp_fast, m) {
  m.def("interpolate(Tensor real, Tensor fake, Tensor? alpha, int seed, int offset) -> (Tensor x, Tensor alpha)");
  m.def("norm_penalty(Tensor gradient, float target, bool one_sided, int reduction) -> (Tensor value, Tensor norm, Tensor slope)");
  m.def("penalty_seed(Tensor gradient, Tensor slope, Tensor incoming) -> Tensor");
  m.def("bias_act(Tensor x, Tensor? bias, int dim, int act, float p0, float p1, float p2) -> Tensor");
  m.def("bias_act_(Tensor(a!) x, Tensor? bias, int dim, int act, float p0, float p1, float p2) -> ()");
  m.def("bias_act_grad(Tensor v, Tensor ref, Tensor? bias, int dim, int act, float p0, float p1, float p2) -> Tensor");
  m.def("bias_act_grad_(Tensor(a!) v, Tensor ref, Tensor? bias, int dim, int act, float p0, float p1, float p2) -> ()");
  m.def("bias_act_adjoint(Tensor? c, Tensor g, Tensor t, Tensor ref, Tensor? bias, int dim, int act, float p0, float p1, float p2) -> Tensor");
  m.def("bias_act_adjoint_(Tensor(a!) c, Tensor g, Tensor t, Tensor ref, Tensor? bias, int dim, int act, float p0, float p1, float p2) -> ()");
  m.def("gate(Tensor a, Tensor b) -> Tensor");
  m.def("gate_vjp(Tensor g, Tensor a, Tensor b) -> (Tensor ga, Tensor gb)");
  m.def("gate_jvp(Tensor ta, Tensor tb, Tensor a, Tensor b) -> Tensor");
  m.def("gate_adjoint(Tensor? c, Tensor g, Tensor ta, Tensor tb, Tensor a, Tensor b) -> (Tensor ca, Tensor cb)");
  m.def("norm_act(Tensor x, Tensor? weight, Tensor? bias, int groups, int dims, float eps, int act, float p0, float p1, float p2) -> (Tensor y, Tensor mean, Tensor rstd)");
  m.def("norm_act_vjp(Tensor g, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, int groups, int dims, int act, float p0, float p1, float p2, bool affine) -> (Tensor gx, Tensor dweight, Tensor dbias)");
  m.def("norm_act_jvp(Tensor t, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, int groups, int dims, int act, float p0, float p1, float p2) -> Tensor");
  m.def("norm_act_adjoint(Tensor? c, Tensor g, Tensor t, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, int groups, int dims, int act, float p0, float p1, float p2, bool affine) -> (Tensor cx, Tensor dweight, Tensor dbias)");
  // These have CPU kernels alone.
  m.def("unfold_rows(Tensor x, int kh, int kw, int sh, int sw, int ph, int pw, int dh, int dw) -> Tensor");
  m.def("fold_rows(Tensor rows, int n, int c, int h, int w, int kh, int kw, int sh, int sw, int ph, int pw, int dh, int dw) -> Tensor");
  m.def("convolve(Tensor x, Tensor weight, Tensor? bias, int sh, int sw, int ph, int pw, int dh, int dw) -> Tensor");
  m.def("convolve_back(Tensor g, Tensor weight, int h, int w, int sh, int sw, int ph, int pw, int dh, int dw) -> Tensor");
  m.def("weight_gradient(Tensor[] xs, Tensor[] gs, int kh, int kw, int sh, int sw, int ph, int pw, int dh, int dw) -> Tensor");
  // And these two CUDA kernels alone.
  m.def("mlp_penalty(Tensor real, Tensor fake, Tensor? alpha, int seed, int offset, int pac, Tensor[] weights, Tensor?[] biases, Tensor?[] masks, int act, float negative_slope, float target, bool one_sided, int reduction) -> (Tensor value, Tensor norm, Tensor slope, Tensor alpha, Tensor x, Tensor gradient, Tensor h, Tensor g)");
  m.def("mlp_penalty_backward(Tensor incoming, Tensor slope, Tensor gradient, Tensor h, Tensor g, Tensor[] weights, Tensor?[] masks, int act, float negative_slope) -> (Tensor t, Tensor c)");
}
// clang-format on

STABLE_TORCH_LIBRARY_IMPL(wgangp_fast, CPU, m) {
  wgangp_fast::cpu::set_parallel_for(&torch_threads);
  implement(m);
  m.impl("unfold_rows", TORCH_BOX(&binding::unfold_rows));
  m.impl("fold_rows", TORCH_BOX(&binding::fold_rows));
  m.impl("convolve", TORCH_BOX(&binding::convolve));
  m.impl("convolve_back", TORCH_BOX(&binding::convolve_back));
  m.impl("weight_gradient", TORCH_BOX(&binding::weight_gradient));
}

#ifdef WGANGP_FAST_CUDA
STABLE_TORCH_LIBRARY_IMPL(wgangp_fast, CUDA, m) {
  implement(m);
#ifdef WGANGP_FAST_MLP
  m.impl("mlp_penalty", TORCH_BOX(&binding::mlp_penalty));
  m.impl("mlp_penalty_backward", TORCH_BOX(&binding::mlp_penalty_backward));
#endif
}
#endif
