// unfold_rows and fold_rows: checks and outputs around the kernels, which a CPU alone has.
#include <utility>

#include "binding.h"

namespace wgangp_fast::binding {

int64_t outputs(const char* op, int64_t size, int64_t kernel, int64_t stride, int64_t padding,
                int64_t dilation) {
  if (kernel < 1 || stride < 1 || padding < 0 || dilation < 1) {
    fail(op, "kernel, stride and dilation must be at least 1 and padding at least 0; got ", kernel, ", ",
         stride, ", ", dilation, " and ", padding);
  }
  const int64_t room = size + 2 * padding - dilation * (kernel - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

namespace {

Dtype wide(const char* op, const Array& a) {
  if (a.dtype != ScalarType::Float && a.dtype != ScalarType::Double) {
    fail(op, "tensors must be float32 or float64");
  }
  return kernel_dtype(a.dtype);
}

}  // namespace

Tensor unfold_rows(const Tensor& x_, int64_t kh, int64_t kw, int64_t sh, int64_t sw, int64_t ph, int64_t pw,
                   int64_t dh, int64_t dw) {
  constexpr const char* op = "unfold_rows";
  Array x = made_contiguous(take(op, "x", x_));  // [N, C, H, W]
  if (x.dim != 4) fail(op, "x must be [N, C, H, W]; got ", shape_text(x));
  const Dtype dtype = wide(op, x);
  Window window{x.sizes[0], x.sizes[1], x.sizes[2], x.sizes[3], 0, 0, kh, kw, sh, sw, ph, pw, dh, dw};
  window.oh = outputs(op, window.h, kh, sh, ph, dh);
  window.ow = outputs(op, window.w, kw, sw, pw, dw);
  Array rows = empty({window.n * window.oh * window.ow, window.c * kh * kw}, x.dtype, x);
  cpu::unfold_rows(dtype, x.data(), window, rows.mutable_data());
  return std::move(rows.tensor);
}

Tensor fold_rows(const Tensor& rows_, int64_t n, int64_t c, int64_t h, int64_t w, int64_t kh, int64_t kw,
                 int64_t sh, int64_t sw, int64_t ph, int64_t pw, int64_t dh, int64_t dw) {
  constexpr const char* op = "fold_rows";
  Array rows = made_contiguous(take(op, "rows", rows_));  // [N*OH*OW, C*KH*KW]
  const Dtype dtype = wide(op, rows);
  Window window{n, c, h, w, 0, 0, kh, kw, sh, sw, ph, pw, dh, dw};
  window.oh = outputs(op, h, kh, sh, ph, dh);
  window.ow = outputs(op, w, kw, sw, pw, dw);
  if (rows.dim != 2 || rows.sizes[0] != n * window.oh * window.ow || rows.sizes[1] != c * kh * kw) {
    fail(op, "rows must be [", n * window.oh * window.ow, ", ", c * kh * kw, "]; got ", shape_text(rows));
  }
  Array x = empty({n, c, h, w}, rows.dtype, rows);
  cpu::fold_rows(dtype, rows.data(), window, x.mutable_data());
  return std::move(x.tensor);
}

}  // namespace wgangp_fast::binding
