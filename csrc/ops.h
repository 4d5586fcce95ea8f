// Every kernel's prototype. No torch here: plain pointers, sizes in int64, dense memory unless said
// otherwise.
//
// `acc` is the type of accumulation: float64 for Dtype::f64, else float32. A pointer without a note has the
// call's Dtype. A null weight, bias, alpha or c is an absent one. Sizes of 0 do nothing (norm_penalty still
// writes its value). Kernels throw nothing: the caller has checked (csrc/ops_*.cpp does for torch).
#pragma once

#include <cstdint>

namespace wgangp_fast {

enum class Dtype : int32_t { f64, f32, f16, bf16 };

// Index and parameters of a row of the table in common/activations.h.
struct Activation {
  int32_t kind;
  double p0, p1, p2;
};

// n samples, batch_stride elements apart; one sample's dimensions collapsed, innermost last. dims is 0 for
// a sample of one element.
struct Strided {
  int64_t n, batch_stride;
  int32_t dims;
  int64_t size[8], stride[8];
};

// The bias index of flat element i is (i / inner) % count; count is 0 where there is no bias.
struct Channels {
  int64_t count, inner;
};

// The windows of a convolution over images.
struct Window {
  int64_t n, c, h, w;                      // of the image
  int64_t oh, ow;                          // windows
  int64_t kh, kw, sh, sw, ph, pw, dh, dw;  // kernel, stride, padding, dilation
};

// n inputs of a convolution and the cotangents of its outputs, each contiguous or channels_last.
struct Images {
  const void* x;  // [n, c, h, w]
  const void* g;  // [n, outputs, oh, ow]
  int64_t n;
  bool x_channels_last, g_channels_last;
};

// The rows that a norm runs over, `channels` in each group.
// Contiguous: row (n, g) is [channels, length], dense. channels_last: element (c, l) of row (n, g) lies at
// n*length*C + l*C + g*channels + c with C = groups*channels. Weight index: g*channels + c, or, with
// per_element (LayerNorm: groups and channels are 1), the position in the row.
struct NormRows {
  int64_t n, groups, channels, length;
  bool channels_last;
  bool per_element;
};

inline constexpr int32_t kMaxMlpLayers = 6;

// An MLP critic: layer l maps widths[l] to widths[l + 1]; widths[0] is D0, the last is 1.
struct Mlp {
  int64_t rows;    // R
  int32_t layers;  // L, 1 to kMaxMlpLayers
  int32_t act;     // 0 identity, 1 relu, 2 leaky_relu, 3 tanh
  double negative_slope;
  int64_t widths[kMaxMlpLayers + 1];
  const void* weights[kMaxMlpLayers];  // [widths[l + 1], widths[l]], row-major
  const void* biases[kMaxMlpLayers];   // [widths[l + 1]] or null
  const void* masks[kMaxMlpLayers];    // [R, widths[l + 1]] or null; null for the last layer
};

namespace cpu {

// x = fake + a*(real - fake), a one number a sample: alpha's, or drawn (common/philox.h).
void interpolate(Dtype dtype, const void* real /*[n, k]*/, const void* fake /*[n, k]*/,
                 const void* alpha /*[n] or null*/, uint64_t seed, uint64_t offset, void* x /*[n, k]*/,
                 void* alpha_out /*[n]*/, int64_t n, int64_t k);

// How many acc elements of scratch norm_penalty wants.
int64_t norm_penalty_partials(int64_t n, int64_t k);

// reduction: 0 none (value [n]), 1 sum, 2 mean (value []; slope is divided by n for the mean).
void norm_penalty(Dtype dtype, const void* gradient, const Strided& layout, double target, bool one_sided,
                  int32_t reduction, void* partials /*acc*/, void* value /*acc*/, void* norm /*acc [n]*/,
                  void* slope /*acc [n]*/);

// seed = gradient * (slope_i * incoming_i)
void penalty_seed(Dtype dtype, const void* gradient /*[n, k]*/, const void* slope /*acc [n]*/,
                  const void* incoming /*acc [] or [n]*/, bool incoming_per_sample, void* seed /*[n, k]*/,
                  int64_t n, int64_t k);

// y = f(x + bias); y may be x.
void bias_act(Dtype dtype, const void* x, const void* bias, Channels channels, Activation act, void* y,
              int64_t count);

// out = v * f'(u); ref is x or y, as the activation's row says; out may be v.
void bias_act_grad(Dtype dtype, const void* v, const void* ref, const void* bias, Channels channels,
                   Activation act, void* out, int64_t count);

// out = f'(u)*c + f''(u)*g*t; out may be c.
void bias_act_adjoint(Dtype dtype, const void* c, const void* g, const void* t, const void* ref,
                      const void* bias, Channels channels, Activation act, void* out, int64_t count);

// y = sigmoid(a)*tanh(b), and its sweeps; everything [count].
void gate(Dtype dtype, const void* a, const void* b, void* y, int64_t count);
void gate_vjp(Dtype dtype, const void* g, const void* a, const void* b, void* ga, void* gb, int64_t count);
void gate_jvp(Dtype dtype, const void* ta, const void* tb, const void* a, const void* b, void* y,
              int64_t count);
void gate_adjoint(Dtype dtype, const void* c, const void* g, const void* ta, const void* tb, const void* a,
                  const void* b, void* ca, void* cb, int64_t count);

// y = f(xh*weight + bias), xh = (x - mean)*rstd; mean and rstd are acc [n, groups].
void norm_act(Dtype dtype, const void* x, const void* weight, const void* bias, const NormRows& rows,
              double eps, Activation act, void* y, void* mean, void* rstd);

// How many acc elements of scratch the affine sums of norm_act_vjp and norm_act_adjoint want.
int64_t norm_act_partials(const NormRows& rows);

// partials is null where the affine sums are not wanted; then dweight and dbias are null too.
void norm_act_vjp(Dtype dtype, const void* g, const void* x, const void* mean, const void* rstd,
                  const void* weight, const void* bias, const NormRows& rows, Activation act, void* gx,
                  void* partials /*acc*/, void* dweight, void* dbias);
void norm_act_jvp(Dtype dtype, const void* t, const void* x, const void* mean, const void* rstd,
                  const void* weight, const void* bias, const NormRows& rows, Activation act, void* y);
void norm_act_adjoint(Dtype dtype, const void* c, const void* g, const void* t, const void* x,
                      const void* mean, const void* rstd, const void* weight, const void* bias,
                      const NormRows& rows, Activation act, void* cx, void* partials /*acc*/, void* dweight,
                      void* dbias);

// Windows of x [n, c, h, w] as rows [n*oh*ow, c*kh*kw], zeros where they stick out; and the sum of rows over
// the places that they came from. float64 and float32; on a CPU alone.
void unfold_rows(Dtype dtype, const void* x, const Window& window, void* rows);
void fold_rows(Dtype dtype, const void* rows, const Window& window, void* x);

// out [outputs, c, kh, kw] = the weight gradient of a convolution, summed over the pairs (at least one); the
// window's n is all pairs' together. float64 and float32; on a CPU alone.
int64_t weight_gradient_scratch(Dtype dtype, const Window& window, int64_t outputs);  // elements
void weight_gradient(Dtype dtype, const Images* pairs, const Window& window, int64_t outputs, void* scratch,
                     void* out);

// out [n, outputs, oh, ow] = the convolution of in [n, c, h, w] by weight [outputs, c, kh, kw], plus bias;
// or, transposed, out [n, c, h, w] = the gradient for the input, of in [n, outputs, oh, ow]. in and out are
// contiguous or channels_last. float64 and float32; on a CPU alone.
int64_t convolution_scratch(Dtype dtype, const Window& window, int64_t outputs, bool transposed);  // elements
void convolution(Dtype dtype, const void* in, bool in_channels_last, const void* weight, const void* bias,
                 const Window& window, int64_t outputs, bool transposed, void* scratch, void* out,
                 bool out_channels_last);

}  // namespace cpu

// The same on a CUDA device, whose pointers they take, on `stream` (a cudaStream_t): nothing waits.
namespace cuda {

void interpolate(Dtype dtype, const void* real, const void* fake, const void* alpha, uint64_t seed,
                 uint64_t offset, void* x, void* alpha_out, int64_t n, int64_t k, void* stream);
int64_t norm_penalty_partials(int64_t n, int64_t k);
void norm_penalty(Dtype dtype, const void* gradient, const Strided& layout, double target, bool one_sided,
                  int32_t reduction, void* partials, void* value, void* norm, void* slope, void* stream);
void penalty_seed(Dtype dtype, const void* gradient, const void* slope, const void* incoming,
                  bool incoming_per_sample, void* seed, int64_t n, int64_t k, void* stream);
void bias_act(Dtype dtype, const void* x, const void* bias, Channels channels, Activation act, void* y,
              int64_t count, void* stream);
void bias_act_grad(Dtype dtype, const void* v, const void* ref, const void* bias, Channels channels,
                   Activation act, void* out, int64_t count, void* stream);
void bias_act_adjoint(Dtype dtype, const void* c, const void* g, const void* t, const void* ref,
                      const void* bias, Channels channels, Activation act, void* out, int64_t count,
                      void* stream);
void gate(Dtype dtype, const void* a, const void* b, void* y, int64_t count, void* stream);
void gate_vjp(Dtype dtype, const void* g, const void* a, const void* b, void* ga, void* gb, int64_t count,
              void* stream);
void gate_jvp(Dtype dtype, const void* ta, const void* tb, const void* a, const void* b, void* y,
              int64_t count, void* stream);
void gate_adjoint(Dtype dtype, const void* c, const void* g, const void* ta, const void* tb, const void* a,
                  const void* b, void* ca, void* cb, int64_t count, void* stream);
void norm_act(Dtype dtype, const void* x, const void* weight, const void* bias, const NormRows& rows,
              double eps, Activation act, void* y, void* mean, void* rstd, void* stream);
int64_t norm_act_partials(const NormRows& rows);
void norm_act_vjp(Dtype dtype, const void* g, const void* x, const void* mean, const void* rstd,
                  const void* weight, const void* bias, const NormRows& rows, Activation act, void* gx,
                  void* partials, void* dweight, void* dbias, void* stream);
void norm_act_jvp(Dtype dtype, const void* t, const void* x, const void* mean, const void* rstd,
                  const void* weight, const void* bias, const NormRows& rows, Activation act, void* y,
                  void* stream);
void norm_act_adjoint(Dtype dtype, const void* c, const void* g, const void* t, const void* x,
                      const void* mean, const void* rstd, const void* weight, const void* bias,
                      const NormRows& rows, Activation act, void* cx, void* partials, void* dweight,
                      void* dbias, void* stream);

// The whole penalty of an MLP critic; CUDA alone. S is the sum of the hidden widths; column block l of h
// holds f(u_l) before the mask, of g the cotangent of u_l. dtype is f32, f16 or bf16.
void mlp_penalty(Dtype dtype, const void* real /*[R, D0]*/, const void* fake /*[R, D0]*/,
                 const void* alpha /*[R] or null*/, uint64_t seed, uint64_t offset, const Mlp& mlp,
                 double target, bool one_sided, int32_t reduction, void* value /*acc [] or [R]*/,
                 void* norm /*acc [R]*/, void* slope /*acc [R]*/, void* alpha_out /*[R]*/,
                 void* x /*[R, D0]*/, void* gradient /*[R, D0]*/, void* h /*[R, S]*/, void* g /*[R, S]*/,
                 void* penalties /*acc [R], scratch; is value where reduction is 0*/,
                 int32_t* ticket /*[1], 0 before and after*/, void* stream);
void mlp_penalty_backward(Dtype dtype, const void* incoming /*acc [] or [R]*/, bool incoming_per_row,
                          const void* slope /*acc [R]*/, const void* gradient /*[R, D0]*/,
                          const void* h /*[R, S]*/, const void* g /*[R, S]*/, const Mlp& mlp,
                          void* t /*[R, D0 + S]*/, void* c /*[R, S]; null unless act is tanh*/, void* stream);

}  // namespace cuda
}  // namespace wgangp_fast
