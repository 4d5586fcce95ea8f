// The functions of ops.h: the kernels of the best instruction set that this machine has.
#include <cstdlib>
#include <cstring>

#include "cpu/kernels.h"

namespace wgangp_fast::cpu {
namespace {

struct Table {
  const char* name;
#define MEMBER(kernel) decltype(&::wgangp_fast::cpu::kernel) kernel;
  WGANGP_FAST_EACH_KERNEL(MEMBER)
#undef MEMBER
};

#define baseline_MEMBER(kernel) baseline::kernel,
#define avx2_MEMBER(kernel) avx2::kernel,
#define avx512_MEMBER(kernel) avx512::kernel,
#define TABLE(capability) \
  constexpr Table capability##_table{#capability, WGANGP_FAST_EACH_KERNEL(capability##_MEMBER)};
WGANGP_FAST_EACH_CAPABILITY(TABLE)
#undef TABLE

const Table& choose() {
#if defined(__x86_64__) && !defined(WGANGP_FAST_ONLY_BASELINE)
  const char* wanted = std::getenv("WGANGP_FAST_CPU_CAPABILITY");
  const auto allowed = [wanted](const char* name) {
    if (wanted == nullptr) return true;
    // Names grow with what they need: a wanted name allows itself and what is below it.
    const bool low = std::strcmp(wanted, "baseline") == 0, middle = std::strcmp(wanted, "avx2") == 0;
    return !low && (!middle || std::strcmp(name, "avx512") != 0);
  };
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && allowed("avx512")) return avx512_table;
  if (avx2 && allowed("avx2")) return avx2_table;
#endif
  return baseline_table;
}

const Table& kernels() {
  static const Table& chosen = choose();
  return chosen;
}

}  // namespace

const char* capability() { return kernels().name; }

void interpolate(Dtype dtype, const void* real, const void* fake, const void* alpha, uint64_t seed,
                 uint64_t offset, void* x, void* alpha_out, int64_t n, int64_t k) {
  kernels().interpolate(dtype, real, fake, alpha, seed, offset, x, alpha_out, n, k);
}

int64_t norm_penalty_partials(int64_t n, int64_t k) { return kernels().norm_penalty_partials(n, k); }

void norm_penalty(Dtype dtype, const void* gradient, const Strided& layout, double target, bool one_sided,
                  int32_t reduction, void* partials, void* value, void* norm, void* slope) {
  kernels().norm_penalty(dtype, gradient, layout, target, one_sided, reduction, partials, value, norm, slope);
}

void penalty_seed(Dtype dtype, const void* gradient, const void* slope, const void* incoming,
                  bool incoming_per_sample, void* seed, int64_t n, int64_t k) {
  kernels().penalty_seed(dtype, gradient, slope, incoming, incoming_per_sample, seed, n, k);
}

void bias_act(Dtype dtype, const void* x, const void* bias, Channels channels, Activation act, void* y,
              int64_t count) {
  kernels().bias_act(dtype, x, bias, channels, act, y, count);
}

void bias_act_grad(Dtype dtype, const void* v, const void* ref, const void* bias, Channels channels,
                   Activation act, void* out, int64_t count) {
  kernels().bias_act_grad(dtype, v, ref, bias, channels, act, out, count);
}

void bias_act_adjoint(Dtype dtype, const void* c, const void* g, const void* t, const void* ref,
                      const void* bias, Channels channels, Activation act, void* out, int64_t count) {
  kernels().bias_act_adjoint(dtype, c, g, t, ref, bias, channels, act, out, count);
}

void gate(Dtype dtype, const void* a, const void* b, void* y, int64_t count) {
  kernels().gate(dtype, a, b, y, count);
}

void gate_vjp(Dtype dtype, const void* g, const void* a, const void* b, void* ga, void* gb, int64_t count) {
  kernels().gate_vjp(dtype, g, a, b, ga, gb, count);
}

void gate_jvp(Dtype dtype, const void* ta, const void* tb, const void* a, const void* b, void* y,
              int64_t count) {
  kernels().gate_jvp(dtype, ta, tb, a, b, y, count);
}

void gate_adjoint(Dtype dtype, const void* c, const void* g, const void* ta, const void* tb, const void* a,
                  const void* b, void* ca, void* cb, int64_t count) {
  kernels().gate_adjoint(dtype, c, g, ta, tb, a, b, ca, cb, count);
}

void norm_act(Dtype dtype, const void* x, const void* weight, const void* bias, const NormRows& rows,
              double eps, Activation act, void* y, void* mean, void* rstd) {
  kernels().norm_act(dtype, x, weight, bias, rows, eps, act, y, mean, rstd);
}

int64_t norm_act_partials(const NormRows& rows) { return kernels().norm_act_partials(rows); }

void norm_act_vjp(Dtype dtype, const void* g, const void* x, const void* mean, const void* rstd,
                  const void* weight, const void* bias, const NormRows& rows, Activation act, void* gx,
                  void* partials, void* dweight, void* dbias) {
  kernels().norm_act_vjp(dtype, g, x, mean, rstd, weight, bias, rows, act, gx, partials, dweight, dbias);
}

void norm_act_jvp(Dtype dtype, const void* t, const void* x, const void* mean, const void* rstd,
                  const void* weight, const void* bias, const NormRows& rows, Activation act, void* y) {
  kernels().norm_act_jvp(dtype, t, x, mean, rstd, weight, bias, rows, act, y);
}

void norm_act_adjoint(Dtype dtype, const void* c, const void* g, const void* t, const void* x,
                      const void* mean, const void* rstd, const void* weight, const void* bias,
                      const NormRows& rows, Activation act, void* cx, void* partials, void* dweight,
                      void* dbias) {
  kernels().norm_act_adjoint(dtype, c, g, t, x, mean, rstd, weight, bias, rows, act, cx, partials, dweight,
                             dbias);
}

int64_t weight_gradient_scratch(Dtype dtype, const Window& window, int64_t outputs) {
  return kernels().weight_gradient_scratch(dtype, window, outputs);
}

void weight_gradient(Dtype dtype, const Images* pairs, const Window& window, int64_t outputs, void* scratch,
                     void* out) {
  kernels().weight_gradient(dtype, pairs, window, outputs, scratch, out);
}

int64_t convolution_scratch(Dtype dtype, const Window& window, int64_t outputs, bool transposed) {
  return kernels().convolution_scratch(dtype, window, outputs, transposed);
}

void convolution(Dtype dtype, const void* in, bool in_channels_last, const void* weight, const void* bias,
                 const Window& window, int64_t outputs, bool transposed, void* scratch, void* out,
                 bool out_channels_last) {
  kernels().convolution(dtype, in, in_channels_last, weight, bias, window, outputs, transposed, scratch, out,
                        out_channels_last);
}

}  // namespace wgangp_fast::cpu
