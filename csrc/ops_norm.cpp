// norm_act and its sweeps: the rows of a Layer, Group or Instance norm, and their affine parameters.
#include <utility>

#include "binding.h"

namespace wgangp_fast::binding {

namespace {

// [N, C, *] with the channels innermost and the rest in order: what channels_last is for any rank.
bool channels_last(const Array& x) {
  if (x.dim < 3 || x.numel == 0) return false;
  int64_t expected = x.sizes[1];
  if (x.sizes[1] != 1 && x.strides[1] != 1) return false;
  for (int64_t d = x.dim - 1; d >= 2; --d) {
    if (x.sizes[d] != 1 && x.strides[d] != expected) return false;
    expected *= x.sizes[d];
  }
  return x.sizes[0] == 1 || x.strides[0] == expected;
}

struct Norm {
  Array x;
  NormRows rows{};
  std::vector<int64_t> statistics;  // shape of mean and rstd
  std::vector<int64_t> affine;      // shape of weight and bias
  MaybeArray weight, bias;
};

Norm norm_of(const char* op, const Tensor& x_, const MaybeTensor& weight, const MaybeTensor& bias,
             int64_t groups, int64_t dims) {
  Norm norm{take(op, "x", x_), {}, {}, {}, {}, {}};
  Array& x = norm.x;
  if (groups > 0) {
    if (x.dim < 2) fail(op, "x must be [N, C, ...] where groups > 0; got ", shape_text(x));
    const int64_t n = x.sizes[0];
    const int64_t c = x.sizes[1];
    if (c % groups != 0) fail(op, "groups must divide x's ", c, " channels; got ", groups);
    int64_t length = 1;
    for (int64_t d = 2; d < x.dim; ++d) length *= x.sizes[d];
    norm.rows = {n, groups, c / groups, length, false, false};
    norm.statistics = {n, groups};
    norm.affine = {c};
    if (!contiguous(x)) {
      norm.rows.channels_last = channels_last(x);
      if (!norm.rows.channels_last) x = made_contiguous(std::move(x));
    }
  } else if (groups == 0) {
    if (dims < 1 || dims > x.dim) {
      fail(op, "dims must be 1 to ", x.dim, " for x of shape ", shape_text(x), "; got ", dims);
    }
    const int64_t leading = x.dim - dims;
    norm.statistics.assign(x.sizes, x.sizes + leading);
    norm.affine.assign(x.sizes + leading, x.sizes + x.dim);
    int64_t n = 1;
    int64_t length = 1;
    for (const int64_t size : norm.statistics) n *= size;
    for (const int64_t size : norm.affine) length *= size;
    norm.rows = {n, 1, 1, length, false, true};
    x = made_contiguous(std::move(x));
  } else {
    fail(op, "groups must be 0 (LayerNorm) or more; got ", groups);
  }
  const auto take_affine = [&](const char* name, const Tensor& tensor) {
    return take_dense(op, name, tensor, x, x.dtype, norm.affine.data(),
                      static_cast<int64_t>(norm.affine.size()));
  };
  if (weight) norm.weight = take_affine("weight", *weight);
  if (bias) norm.bias = take_affine("bias", *bias);
  return norm;
}

Array statistic(const char* op, const char* name, const Tensor& tensor, const Norm& norm) {
  return take_dense(op, name, tensor, norm.x, acc(norm.x.dtype), norm.statistics.data(),
                    static_cast<int64_t>(norm.statistics.size()));
}

// An argument of x's shape, brought to x's layout.
Array beside(const char* op, const char* name, const Tensor& tensor, const Norm& norm) {
  return with_strides_of(take_like(op, name, tensor, norm.x), norm.x);
}

// Where the sums for weight and bias go; pointers are null where they are not wanted.
struct Sums {
  Array weight, bias;
  MaybeArray partials;
  bool wanted = false;
  void* scratch() const { return wanted ? partials->mutable_data() : nullptr; }
  void* dweight() const { return wanted ? weight.mutable_data() : nullptr; }
  void* dbias() const { return wanted ? bias.mutable_data() : nullptr; }
};

Sums sums_of(const Norm& norm, bool affine, [[maybe_unused]] const Place& place) {
  const Array& x = norm.x;
  if (!affine) return {empty({0}, x.dtype, x), empty({0}, x.dtype, x), {}, false};
  const auto dim = static_cast<int64_t>(norm.affine.size());
  Sums sums{empty(norm.affine.data(), dim, x.dtype, x), empty(norm.affine.data(), dim, x.dtype, x), {}, true};
  sums.partials = empty({WGANGP_FAST_ASK(place, norm_act_partials, norm.rows)}, acc(x.dtype), x);
  if (x.numel == 0) {  // the kernels do nothing then, and a sum of nothing is 0
    zero(sums.weight);
    zero(sums.bias);
  }
  return sums;
}

}  // namespace

Three norm_act(const Tensor& x_, const MaybeTensor& weight, const MaybeTensor& bias, int64_t groups,
               int64_t dims, double eps, int64_t act_, double p0, double p1, double p2) {
  constexpr const char* op = "norm_act";
  const Activation act = activation(op, act_, p0, p1, p2);
  const Norm norm = norm_of(op, x_, weight, bias, groups, dims);
  const Array& x = norm.x;
  const Place place(x);
  const auto dim = static_cast<int64_t>(norm.statistics.size());
  Array y = empty_strided_like(x);
  Array mean = empty(norm.statistics.data(), dim, acc(x.dtype), x);
  Array rstd = empty(norm.statistics.data(), dim, acc(x.dtype), x);
  if (x.numel == 0) {
    zero(mean);
    zero(rstd);
  }
  WGANGP_FAST_LAUNCH(place, norm_act, kernel_dtype(x.dtype), x.data(), data(norm.weight), data(norm.bias),
                     norm.rows, eps, act, y.mutable_data(), mean.mutable_data(), rstd.mutable_data());
  return {std::move(y.tensor), std::move(mean.tensor), std::move(rstd.tensor)};
}

Three norm_act_vjp(const Tensor& g_, const Tensor& x_, const Tensor& mean_, const Tensor& rstd_,
                   const MaybeTensor& weight, const MaybeTensor& bias, int64_t groups, int64_t dims,
                   int64_t act_, double p0, double p1, double p2, bool affine) {
  constexpr const char* op = "norm_act_vjp";
  const Activation act = activation(op, act_, p0, p1, p2);
  const Norm norm = norm_of(op, x_, weight, bias, groups, dims);
  const Array& x = norm.x;
  const Place place(x);
  const Array g = beside(op, "g", g_, norm);
  const Array mean = statistic(op, "mean", mean_, norm);
  const Array rstd = statistic(op, "rstd", rstd_, norm);
  Array gx = empty_strided_like(x);
  Sums sums = sums_of(norm, affine, place);
  WGANGP_FAST_LAUNCH(place, norm_act_vjp, kernel_dtype(x.dtype), g.data(), x.data(), mean.data(), rstd.data(),
                     data(norm.weight), data(norm.bias), norm.rows, act, gx.mutable_data(), sums.scratch(),
                     sums.dweight(), sums.dbias());
  return {std::move(gx.tensor), std::move(sums.weight.tensor), std::move(sums.bias.tensor)};
}

Tensor norm_act_jvp(const Tensor& t_, const Tensor& x_, const Tensor& mean_, const Tensor& rstd_,
                    const MaybeTensor& weight, const MaybeTensor& bias, int64_t groups, int64_t dims,
                    int64_t act_, double p0, double p1, double p2) {
  constexpr const char* op = "norm_act_jvp";
  const Activation act = activation(op, act_, p0, p1, p2);
  const Norm norm = norm_of(op, x_, weight, bias, groups, dims);
  const Array& x = norm.x;
  const Place place(x);
  const Array t = beside(op, "t", t_, norm);
  const Array mean = statistic(op, "mean", mean_, norm);
  const Array rstd = statistic(op, "rstd", rstd_, norm);
  Array y = empty_strided_like(x);
  WGANGP_FAST_LAUNCH(place, norm_act_jvp, kernel_dtype(x.dtype), t.data(), x.data(), mean.data(), rstd.data(),
                     data(norm.weight), data(norm.bias), norm.rows, act, y.mutable_data());
  return std::move(y.tensor);
}

Three norm_act_adjoint(const MaybeTensor& c_, const Tensor& g_, const Tensor& t_, const Tensor& x_,
                       const Tensor& mean_, const Tensor& rstd_, const MaybeTensor& weight,
                       const MaybeTensor& bias, int64_t groups, int64_t dims, int64_t act_, double p0,
                       double p1, double p2, bool affine) {
  constexpr const char* op = "norm_act_adjoint";
  const Activation act = activation(op, act_, p0, p1, p2);
  const Norm norm = norm_of(op, x_, weight, bias, groups, dims);
  const Array& x = norm.x;
  const Place place(x);
  MaybeArray c;
  if (c_) c = beside(op, "c", *c_, norm);
  const Array g = beside(op, "g", g_, norm);
  const Array t = beside(op, "t", t_, norm);
  const Array mean = statistic(op, "mean", mean_, norm);
  const Array rstd = statistic(op, "rstd", rstd_, norm);
  Array cx = empty_strided_like(x);
  Sums sums = sums_of(norm, affine, place);
  WGANGP_FAST_LAUNCH(place, norm_act_adjoint, kernel_dtype(x.dtype), data(c), g.data(), t.data(), x.data(),
                     mean.data(), rstd.data(), data(norm.weight), data(norm.bias), norm.rows, act,
                     cx.mutable_data(), sums.scratch(), sums.dweight(), sums.dbias());
  return {std::move(cx.tensor), std::move(sums.weight.tensor), std::move(sums.bias.tensor)};
}

}  // namespace wgangp_fast::binding
