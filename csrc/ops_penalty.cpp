// interpolate, norm_penalty, penalty_seed: checks, layouts and outputs around the kernels.
#include <utility>

#include "binding.h"

namespace wgangp_fast::binding {

namespace {

// Dimension 0 is the samples'.
int64_t samples(const char* op, const char* name, const Array& a) {
  if (a.dim == 0) fail(op, name, " must have a first dimension, the samples'; got a tensor of none");
  return a.sizes[0];
}

int64_t per_sample(const Array& a) { return a.sizes[0] == 0 ? 0 : a.numel / a.sizes[0]; }

// False where a sample's dimensions do not collapse to the eight that Strided has room for.
bool strided(const Array& a, Strided& layout) {
  int64_t order[kMaxOrdered];
  const int count = a.numel == 0 ? 0 : ordered(a, 1, order);
  layout = {};
  layout.n = a.sizes[0];
  layout.batch_stride = a.strides[0];
  if (a.numel == 0) {
    layout.dims = 1;  // of size 0: samples without an element, or no samples
    layout.stride[0] = 1;
    return true;
  }
  if (count < 0) return false;
  int32_t dims = 0;
  for (int i = 0; i < count; ++i) {
    const int64_t size = a.sizes[order[i]];
    const int64_t stride = a.strides[order[i]];
    if (dims > 0 && layout.stride[dims - 1] == stride * size) {
      layout.size[dims - 1] *= size;
      layout.stride[dims - 1] = stride;
    } else {
      if (dims == 8) return false;
      layout.size[dims] = size;
      layout.stride[dims] = stride;
      ++dims;
    }
  }
  layout.dims = dims;
  return true;
}

}  // namespace

Two interpolate(const Tensor& real_, const Tensor& fake_, const MaybeTensor& alpha_, int64_t seed,
                int64_t offset) {
  constexpr const char* op = "interpolate";
  Array real = take(op, "real", real_);             // [N, ...]
  Array fake = take_like(op, "fake", fake_, real);  // [N, ...]
  const int64_t n = samples(op, "real", real);
  const int64_t k = per_sample(real);
  MaybeArray alpha;  // [N]
  if (alpha_) alpha = take_dense(op, "alpha", *alpha_, real, real.dtype, &n, 1);
  const Place place(real);
  if (!flat_samples(real)) real = made_contiguous(std::move(real));
  fake = with_strides_of(std::move(fake), real);
  Array x = empty_strided_like(real);          // [N, ...]
  Array drawn = empty({n}, real.dtype, real);  // [N]
  WGANGP_FAST_LAUNCH(place, interpolate, kernel_dtype(real.dtype), real.data(), fake.data(), data(alpha),
                     static_cast<uint64_t>(seed), static_cast<uint64_t>(offset), x.mutable_data(),
                     drawn.mutable_data(), n, k);
  return {std::move(x.tensor), std::move(drawn.tensor)};
}

Three norm_penalty(const Tensor& gradient_, double target, bool one_sided, int64_t reduction) {
  constexpr const char* op = "norm_penalty";
  Array gradient = take(op, "gradient", gradient_);  // [N, ...]
  const int64_t n = samples(op, "gradient", gradient);
  const int32_t reduce = reduction_of(op, reduction);
  const Place place(gradient);
  Strided layout;
  if (!strided(gradient, layout)) {
    gradient = made_contiguous(std::move(gradient));
    strided(gradient, layout);
  }
  const ScalarType type = acc(gradient.dtype);
  const int64_t scratch = WGANGP_FAST_ASK(place, norm_penalty_partials, n, per_sample(gradient));
  Array partials = empty({scratch}, type, gradient);
  Array value = reduce == 0 ? empty({n}, type, gradient) : empty({}, type, gradient);
  Array norm = empty({n}, type, gradient);
  Array slope = empty({n}, type, gradient);
  WGANGP_FAST_LAUNCH(place, norm_penalty, kernel_dtype(gradient.dtype), gradient.data(), layout, target,
                     one_sided, reduce, partials.mutable_data(), value.mutable_data(), norm.mutable_data(),
                     slope.mutable_data());
  return {std::move(value.tensor), std::move(norm.tensor), std::move(slope.tensor)};
}

Tensor penalty_seed(const Tensor& gradient_, const Tensor& slope_, const Tensor& incoming_) {
  constexpr const char* op = "penalty_seed";
  Array gradient = take(op, "gradient", gradient_);  // [N, ...]
  const int64_t n = samples(op, "gradient", gradient);
  const int64_t k = per_sample(gradient);
  const ScalarType type = acc(gradient.dtype);
  const Array slope = take_dense(op, "slope", slope_, gradient, type, &n, 1);  // [N]
  Array incoming = take(op, "incoming", incoming_);                            // [] or [N]
  if (incoming.dim > 1 || (incoming.dim == 1 && incoming.sizes[0] != n)) {
    fail(op, "incoming must have the shape [] or [", n, "]; got ", shape_text(incoming));
  }
  if (incoming.device_type != gradient.device_type || incoming.device_index != gradient.device_index) {
    fail(op, "incoming must be on gradient's device");
  }
  const Place place(gradient);
  incoming = converted(std::move(incoming), type);
  if (!flat_samples(gradient)) gradient = made_contiguous(std::move(gradient));
  Array seed = empty_strided_like(gradient);  // [N, ...]
  WGANGP_FAST_LAUNCH(place, penalty_seed, kernel_dtype(gradient.dtype), gradient.data(), slope.data(),
                     incoming.data(), incoming.dim == 1, seed.mutable_data(), n, k);
  return std::move(seed.tensor);
}

}  // namespace wgangp_fast::binding
