// bias_act and gate with their sweeps: every tensor in one dense layout, so that a kernel is a flat loop.
#include <utility>

#include "binding.h"

namespace wgangp_fast::binding {

namespace {

struct Bias {
  MaybeArray array;  // [C]
  Channels channels{0, 1};
};

// In a dense layout the index along `dim` of flat element i is (i / stride) % size.
Bias bias_of(const char* op, const MaybeTensor& bias, int64_t dim, const Array& layout) {
  Bias result;
  if (!bias) return result;
  const int64_t d = wrapped(op, dim, layout.dim);
  const int64_t count = layout.sizes[d];
  result.array = take_dense(op, "bias", *bias, layout, layout.dtype, &count, 1);
  if (layout.numel > 0) result.channels = {count, count == 1 ? 1 : layout.strides[d]};
  return result;
}

// The layout of a result: the first dense one, so that one expanded cotangent does not move them all.
const Array& pick(const Array& first, const Array& second) {
  return dense(first) || !dense(second) ? first : second;
}

// A tensor that is written in place: itself where dense, else a contiguous copy that `finish` copies back.
struct InPlace {
  explicit InPlace(Array target_) : target(std::move(target_)), work(made_dense(target)) {}
  void finish() const {
    if (work.tensor.get() != target.tensor.get()) copy_into(target, work);
  }
  Array target, work;
};

// Rows 0 to 2 of the table are piecewise linear: their kernels never read g and t, so these need no layout.
bool curved(const Activation& act) { return act.kind > 2; }

}  // namespace

Tensor bias_act(const Tensor& x_, const MaybeTensor& bias_, int64_t dim, int64_t act_, double p0, double p1,
                double p2) {
  constexpr const char* op = "bias_act";
  Array x = take(op, "x", x_);
  const Activation act = activation(op, act_, p0, p1, p2);
  const Place place(x);
  x = made_dense(std::move(x));
  const Bias bias = bias_of(op, bias_, dim, x);
  Array y = empty_strided_like(x);
  WGANGP_FAST_LAUNCH(place, bias_act, kernel_dtype(x.dtype), x.data(), data(bias.array), bias.channels, act,
                     y.mutable_data(), x.numel);
  return std::move(y.tensor);
}

void bias_act_(const Tensor& x_, const MaybeTensor& bias_, int64_t dim, int64_t act_, double p0, double p1,
               double p2) {
  constexpr const char* op = "bias_act_";
  const InPlace x(take(op, "x", x_));
  const Activation act = activation(op, act_, p0, p1, p2);
  const Place place(x.work);
  const Bias bias = bias_of(op, bias_, dim, x.work);
  void* y = x.work.mutable_data();
  WGANGP_FAST_LAUNCH(place, bias_act, kernel_dtype(x.work.dtype), y, data(bias.array), bias.channels, act, y,
                     x.work.numel);
  x.finish();
}

Tensor bias_act_grad(const Tensor& v_, const Tensor& ref_, const MaybeTensor& bias_, int64_t dim,
                     int64_t act_, double p0, double p1, double p2) {
  constexpr const char* op = "bias_act_grad";
  Array v = take(op, "v", v_);
  Array ref = take_like(op, "ref", ref_, v);
  const Activation act = activation(op, act_, p0, p1, p2);
  const Place place(v);
  const Array layout = made_dense(pick(v, ref));
  const Bias bias = bias_of(op, bias_, dim, layout);
  v = with_strides_of(std::move(v), layout);
  ref = with_strides_of(std::move(ref), layout);
  Array out = empty_strided_like(layout);
  WGANGP_FAST_LAUNCH(place, bias_act_grad, kernel_dtype(v.dtype), v.data(), ref.data(), data(bias.array),
                     bias.channels, act, out.mutable_data(), v.numel);
  return std::move(out.tensor);
}

void bias_act_grad_(const Tensor& v_, const Tensor& ref_, const MaybeTensor& bias_, int64_t dim, int64_t act_,
                    double p0, double p1, double p2) {
  constexpr const char* op = "bias_act_grad_";
  const InPlace v(take(op, "v", v_));
  Array ref = take_like(op, "ref", ref_, v.work);
  const Activation act = activation(op, act_, p0, p1, p2);
  const Place place(v.work);
  const Bias bias = bias_of(op, bias_, dim, v.work);
  ref = with_strides_of(std::move(ref), v.work);
  void* out = v.work.mutable_data();
  WGANGP_FAST_LAUNCH(place, bias_act_grad, kernel_dtype(v.work.dtype), out, ref.data(), data(bias.array),
                     bias.channels, act, out, v.work.numel);
  v.finish();
}

Tensor bias_act_adjoint(const MaybeTensor& c_, const Tensor& g_, const Tensor& t_, const Tensor& ref_,
                        const MaybeTensor& bias_, int64_t dim, int64_t act_, double p0, double p1,
                        double p2) {
  constexpr const char* op = "bias_act_adjoint";
  Array g = take(op, "g", g_);
  Array t = take_like(op, "t", t_, g);
  Array ref = take_like(op, "ref", ref_, g);
  MaybeArray c;
  if (c_) c = take_like(op, "c", *c_, g);
  const Activation act = activation(op, act_, p0, p1, p2);
  const Place place(g);
  const Array layout = made_dense(pick(c ? *c : g, ref));
  const Bias bias = bias_of(op, bias_, dim, layout);
  if (c) c = with_strides_of(std::move(*c), layout);
  if (curved(act)) {
    g = with_strides_of(std::move(g), layout);
    t = with_strides_of(std::move(t), layout);
  }
  ref = with_strides_of(std::move(ref), layout);
  Array out = empty_strided_like(layout);
  WGANGP_FAST_LAUNCH(place, bias_act_adjoint, kernel_dtype(g.dtype), data(c), g.data(), t.data(), ref.data(),
                     data(bias.array), bias.channels, act, out.mutable_data(), g.numel);
  return std::move(out.tensor);
}

void bias_act_adjoint_(const Tensor& c_, const Tensor& g_, const Tensor& t_, const Tensor& ref_,
                       const MaybeTensor& bias_, int64_t dim, int64_t act_, double p0, double p1, double p2) {
  constexpr const char* op = "bias_act_adjoint_";
  const InPlace c(take(op, "c", c_));
  Array g = take_like(op, "g", g_, c.work);
  Array t = take_like(op, "t", t_, c.work);
  Array ref = take_like(op, "ref", ref_, c.work);
  const Activation act = activation(op, act_, p0, p1, p2);
  const Place place(c.work);
  const Bias bias = bias_of(op, bias_, dim, c.work);
  if (curved(act)) {
    g = with_strides_of(std::move(g), c.work);
    t = with_strides_of(std::move(t), c.work);
  }
  ref = with_strides_of(std::move(ref), c.work);
  void* out = c.work.mutable_data();
  WGANGP_FAST_LAUNCH(place, bias_act_adjoint, kernel_dtype(c.work.dtype), out, g.data(), t.data(), ref.data(),
                     data(bias.array), bias.channels, act, out, c.work.numel);
  c.finish();
}

Tensor gate(const Tensor& a_, const Tensor& b_) {
  constexpr const char* op = "gate";
  Array a = take(op, "a", a_);
  Array b = take_like(op, "b", b_, a);
  const Place place(a);
  a = made_dense(std::move(a));
  b = with_strides_of(std::move(b), a);
  Array y = empty_strided_like(a);
  WGANGP_FAST_LAUNCH(place, gate, kernel_dtype(a.dtype), a.data(), b.data(), y.mutable_data(), a.numel);
  return std::move(y.tensor);
}

Two gate_vjp(const Tensor& g_, const Tensor& a_, const Tensor& b_) {
  constexpr const char* op = "gate_vjp";
  Array g = take(op, "g", g_);
  Array a = take_like(op, "a", a_, g);
  Array b = take_like(op, "b", b_, g);
  const Place place(g);
  a = made_dense(std::move(a));
  g = with_strides_of(std::move(g), a);
  b = with_strides_of(std::move(b), a);
  Array ga = empty_strided_like(a);
  Array gb = empty_strided_like(a);
  WGANGP_FAST_LAUNCH(place, gate_vjp, kernel_dtype(a.dtype), g.data(), a.data(), b.data(), ga.mutable_data(),
                     gb.mutable_data(), a.numel);
  return {std::move(ga.tensor), std::move(gb.tensor)};
}

Tensor gate_jvp(const Tensor& ta_, const Tensor& tb_, const Tensor& a_, const Tensor& b_) {
  constexpr const char* op = "gate_jvp";
  Array ta = take(op, "ta", ta_);
  Array tb = take_like(op, "tb", tb_, ta);
  Array a = take_like(op, "a", a_, ta);
  Array b = take_like(op, "b", b_, ta);
  const Place place(ta);
  a = made_dense(std::move(a));
  b = with_strides_of(std::move(b), a);
  ta = with_strides_of(std::move(ta), a);
  tb = with_strides_of(std::move(tb), a);
  Array y = empty_strided_like(a);
  WGANGP_FAST_LAUNCH(place, gate_jvp, kernel_dtype(a.dtype), ta.data(), tb.data(), a.data(), b.data(),
                     y.mutable_data(), a.numel);
  return std::move(y.tensor);
}

Two gate_adjoint(const MaybeTensor& c_, const Tensor& g_, const Tensor& ta_, const Tensor& tb_,
                 const Tensor& a_, const Tensor& b_) {
  constexpr const char* op = "gate_adjoint";
  Array g = take(op, "g", g_);
  MaybeArray c;
  if (c_) c = take_like(op, "c", *c_, g);
  Array ta = take_like(op, "ta", ta_, g);
  Array tb = take_like(op, "tb", tb_, g);
  Array a = take_like(op, "a", a_, g);
  Array b = take_like(op, "b", b_, g);
  const Place place(g);
  a = made_dense(std::move(a));
  if (c) c = with_strides_of(std::move(*c), a);
  g = with_strides_of(std::move(g), a);
  ta = with_strides_of(std::move(ta), a);
  tb = with_strides_of(std::move(tb), a);
  b = with_strides_of(std::move(b), a);
  Array ca = empty_strided_like(a);
  Array cb = empty_strided_like(a);
  WGANGP_FAST_LAUNCH(place, gate_adjoint, kernel_dtype(a.dtype), data(c), g.data(), ta.data(), tb.data(),
                     a.data(), b.data(), ca.mutable_data(), cb.mutable_data(), a.numel);
  return {std::move(ca.tensor), std::move(cb.tensor)};
}

}  // namespace wgangp_fast::binding
