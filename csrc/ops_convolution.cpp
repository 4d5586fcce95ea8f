// convolve, convolve_back and weight_gradient: checks and outputs around kernels that a CPU alone has.
#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "binding.h"

namespace wgangp_fast::binding {

namespace {

// Itself if contiguous or channels_last, else a contiguous copy; and which of the two it is.
Array image(Array a, bool& channels_last) {
  int64_t stride = 1;
  channels_last = true;
  for (const int64_t d : {1, 3, 2, 0}) {
    channels_last = channels_last && (a.sizes[d] == 1 || a.strides[d] == stride);
    stride *= a.sizes[d];
  }
  return channels_last ? std::move(a) : made_contiguous(std::move(a));
}

void wide(const char* op, const Array& a) {
  if (a.dtype != ScalarType::Float && a.dtype != ScalarType::Double) {
    fail(op, "tensors must be float32 or float64");
  }
}

// The window of a convolution of images [n, c, h, w] by `weight`.
Window window_of(const char* op, int64_t n, int64_t h, int64_t w, const Array& weight, int64_t sh, int64_t sw,
                 int64_t ph, int64_t pw, int64_t dh, int64_t dw) {
  if (weight.dim != 4) fail(op, "weight must be [O, C, KH, KW]; got ", shape_text(weight));
  Window window{n, weight.sizes[1], h, w, 0, 0, weight.sizes[2], weight.sizes[3], sh, sw, ph, pw, dh, dw};
  window.oh = outputs(op, h, window.kh, sh, ph, dh);
  window.ow = outputs(op, w, window.kw, sw, pw, dw);
  return window;
}

Tensor convolution(const Array& in, bool channels_last, const Array& weight, const void* bias,
                   const Window& window, bool transposed) {
  const int64_t columns = weight.sizes[0];
  Array out = transposed ? empty({window.n, window.c, window.h, window.w}, in.dtype, in)
                         : empty({window.n, columns, window.oh, window.ow}, in.dtype, in);
  const Dtype dtype = kernel_dtype(in.dtype);
  const Array scratch = empty({cpu::convolution_scratch(dtype, window, columns, transposed)}, in.dtype, in);
  cpu::convolution(dtype, in.data(), channels_last, weight.data(), bias, window, columns, transposed,
                   scratch.mutable_data(), out.mutable_data(), false);
  return std::move(out.tensor);
}

}  // namespace

Tensor convolve(const Tensor& x_, const Tensor& weight_, const MaybeTensor& bias_, int64_t sh, int64_t sw,
                int64_t ph, int64_t pw, int64_t dh, int64_t dw) {
  constexpr const char* op = "convolve";
  Array x = take(op, "x", x_);  // [N, C, H, W]
  wide(op, x);
  const Array weight = made_contiguous(take_beside(op, "weight", weight_, x));
  if (x.dim != 4 || weight.dim != 4 || x.sizes[1] != weight.sizes[1]) {
    fail(op, "x must be [N, C, H, W] and weight [O, C, KH, KW]; got ", shape_text(x), " and ",
         shape_text(weight));
  }
  const Window window = window_of(op, x.sizes[0], x.sizes[2], x.sizes[3], weight, sh, sw, ph, pw, dh, dw);
  std::optional<Array> bias;
  if (bias_) bias = take_dense(op, "bias", *bias_, x, x.dtype, weight.sizes, 1);
  bool channels_last = false;
  x = image(std::move(x), channels_last);
  return convolution(x, channels_last, weight, bias ? bias->data() : nullptr, window, false);
}

Tensor convolve_back(const Tensor& g_, const Tensor& weight_, int64_t h, int64_t w, int64_t sh, int64_t sw,
                     int64_t ph, int64_t pw, int64_t dh, int64_t dw) {
  constexpr const char* op = "convolve_back";
  Array g = take(op, "g", g_);  // [N, O, OH, OW]
  wide(op, g);
  const Array weight = made_contiguous(take_beside(op, "weight", weight_, g));
  if (g.dim != 4) fail(op, "g must be [N, O, OH, OW]; got ", shape_text(g));
  const Window window = window_of(op, g.sizes[0], h, w, weight, sh, sw, ph, pw, dh, dw);
  if (g.sizes[1] != weight.sizes[0] || g.sizes[2] != window.oh || g.sizes[3] != window.ow) {
    fail(op, "g must be [N, ", weight.sizes[0], ", ", window.oh, ", ", window.ow, "]; got ", shape_text(g));
  }
  bool channels_last = false;
  g = image(std::move(g), channels_last);
  return convolution(g, channels_last, weight, nullptr, window, true);
}

Tensor weight_gradient(const std::vector<Tensor>& xs, const std::vector<Tensor>& gs, int64_t kh, int64_t kw,
                       int64_t sh, int64_t sw, int64_t ph, int64_t pw, int64_t dh, int64_t dw) {
  constexpr const char* op = "weight_gradient";
  if (xs.empty() || xs.size() != gs.size()) {
    fail(op, "xs and gs must be as many, at least one; got ", xs.size(), " and ", gs.size());
  }
  std::vector<Array> holders;
  std::vector<Images> pairs;
  holders.reserve(2 * xs.size());
  int64_t n = 0;
  Window window{};
  for (size_t k = 0; k < xs.size(); ++k) {
    Images pair{};
    Array x = k ? take_beside(op, "xs", xs[k], holders[0]) : take(op, "xs", xs[k]);
    Array g = take_beside(op, "gs", gs[k], k ? holders[0] : x);
    wide(op, x);
    if (x.dim != 4 || g.dim != 4 || x.sizes[0] != g.sizes[0]) {
      fail(op, "xs must be [N, C, H, W] and gs [N, O, OH, OW]; got ", shape_text(x), " and ", shape_text(g));
    }
    if (k && (!std::equal(x.sizes + 1, x.sizes + 4, holders[0].sizes + 1) ||
              !std::equal(g.sizes + 1, g.sizes + 4, holders[1].sizes + 1))) {
      fail(op, "all pairs must have the shapes of the first, but for the batch; got ", shape_text(x), " and ",
           shape_text(g));
    }
    pair.n = x.sizes[0];
    n += pair.n;
    holders.push_back(image(std::move(x), pair.x_channels_last));
    holders.push_back(image(std::move(g), pair.g_channels_last));
    pair.x = holders[2 * k].data();
    pair.g = holders[2 * k + 1].data();
    pairs.push_back(pair);
  }
  const Array &x = holders[0], &g = holders[1];
  window = {n, x.sizes[1], x.sizes[2], x.sizes[3], 0, 0, kh, kw, sh, sw, ph, pw, dh, dw};
  window.oh = outputs(op, window.h, kh, sh, ph, dh);
  window.ow = outputs(op, window.w, kw, sw, pw, dw);
  if (g.sizes[2] != window.oh || g.sizes[3] != window.ow) {
    fail(op, "gs must be [N, O, ", window.oh, ", ", window.ow, "]; got ", shape_text(g));
  }
  Array out = empty({g.sizes[1], window.c, kh, kw}, x.dtype, x);
  const Dtype dtype = kernel_dtype(x.dtype);
  const Array scratch = empty({cpu::weight_gradient_scratch(dtype, window, g.sizes[1])}, x.dtype, x);
  cpu::weight_gradient(dtype, pairs.data(), window, g.sizes[1], scratch.mutable_data(), out.mutable_data());
  return std::move(out.tensor);
}

}  // namespace wgangp_fast::binding
