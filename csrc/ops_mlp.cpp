// mlp_penalty and its backward: kernels for CUDA alone, so this file is empty without them.
#ifdef WGANGP_FAST_MLP

#include <utility>

#include "binding.h"

namespace wgangp_fast::binding {

namespace {

struct Critic {
  Mlp mlp{};
  int64_t hidden = 0;          // S
  std::vector<Array> holders;  // what the pointers in mlp point into
};

const void* hold(Critic& critic, Array array) {
  critic.holders.push_back(std::move(array));
  return critic.holders.back().data();
}

std::string layer_name(const char* list, size_t layer) {
  return std::string(list) + "[" + std::to_string(layer) + "]";
}

// `first` is a [R, D0] array or, for its device and dtype alone, [N, D].
Critic critic_of(const char* op, const Array& first, int64_t rows, int64_t width,
                 const std::vector<Tensor>& weights, const std::vector<MaybeTensor>* biases,
                 const std::vector<MaybeTensor>& masks, int64_t act, double negative_slope) {
  const size_t layers = weights.size();
  if (layers < 1 || layers > kMaxMlpLayers) {
    fail(op, "weights must be 1 to ", kMaxMlpLayers, " matrices; got ", layers);
  }
  if (biases && biases->size() != layers) {
    fail(op, "biases must have an entry (or None) for each of the ", layers, " weights; got ",
         biases->size());
  }
  if (masks.size() != layers && masks.size() + 1 != layers) {
    fail(op, "masks must have an entry (or None) for each of the ", layers, " weights; got ", masks.size());
  }
  if (act < 0 || act > 3) {
    fail(op, "act must be 0 (identity), 1 (relu), 2 (leaky_relu) or 3 (tanh); got ", act);
  }
  Critic critic;
  critic.holders.reserve(3 * layers);
  Mlp& mlp = critic.mlp;
  mlp.rows = rows;
  mlp.layers = static_cast<int32_t>(layers);
  mlp.act = static_cast<int32_t>(act);
  mlp.negative_slope = negative_slope;
  mlp.widths[0] = width;
  for (size_t l = 0; l < layers; ++l) {
    const std::string name = layer_name("weights", l);
    Array weight = take_beside(op, name.c_str(), weights[l], first);
    if (weight.dim != 2 || weight.sizes[1] != mlp.widths[l]) {
      fail(op, name, " must have the shape [*, ", mlp.widths[l], "]; got ", shape_text(weight));
    }
    const int64_t out = weight.sizes[0];
    const bool last = l + 1 == layers;
    if (last && out != 1) fail(op, name, ", the last one, must have one row; got ", out);
    if (!last) critic.hidden += out;
    mlp.widths[l + 1] = out;
    mlp.weights[l] = hold(critic, made_contiguous(std::move(weight)));
    if (biases && (*biases)[l]) {
      mlp.biases[l] = hold(critic, take_dense(op, layer_name("biases", l).c_str(), *(*biases)[l], first,
                                              first.dtype, &out, 1));
    }
    if (l < masks.size() && masks[l]) {
      if (last) fail(op, layer_name("masks", l), ", behind the score, must be None");
      const int64_t shape[] = {rows, out};
      mlp.masks[l] = hold(
          critic, take_dense(op, layer_name("masks", l).c_str(), *masks[l], first, first.dtype, shape, 2));
    }
  }
  return critic;
}

Array take_mlp(const char* op, const char* name, const Tensor& tensor) {
  Array a = take(op, name, tensor);
  if (a.dtype == ScalarType::Double) fail(op, name, " must be float32, float16 or bfloat16; got float64");
  if (a.dim != 2) fail(op, name, " must have two dimensions; got ", shape_text(a));
  return made_contiguous(std::move(a));
}

}  // namespace

Eight mlp_penalty(const Tensor& real_, const Tensor& fake_, const MaybeTensor& alpha_, int64_t seed,
                  int64_t offset, int64_t pac, const std::vector<Tensor>& weights,
                  const std::vector<MaybeTensor>& biases, const std::vector<MaybeTensor>& masks, int64_t act,
                  double negative_slope, double target, bool one_sided, int64_t reduction) {
  constexpr const char* op = "mlp_penalty";
  const Array real = take_mlp(op, "real", real_);                          // [N, D]
  const Array fake = made_contiguous(take_like(op, "fake", fake_, real));  // [N, D]
  if (pac < 1 || real.sizes[0] % pac != 0) {
    fail(op, "pac must divide the ", real.sizes[0], " samples; got ", pac);
  }
  const int64_t rows = real.sizes[0] / pac;   // R
  const int64_t width = real.sizes[1] * pac;  // D0
  const int32_t reduce = reduction_of(op, reduction);
  MaybeArray alpha;  // [R]
  if (alpha_) alpha = take_dense(op, "alpha", *alpha_, real, real.dtype, &rows, 1);
  const Place place(real);
  const Critic critic = critic_of(op, real, rows, width, weights, &biases, masks, act, negative_slope);
  const ScalarType type = acc(real.dtype);
  Array value = reduce == 0 ? empty({rows}, type, real) : empty({}, type, real);
  Array norm = empty({rows}, type, real);
  Array slope = empty({rows}, type, real);
  Array drawn = empty({rows}, real.dtype, real);
  Array x = empty({rows, width}, real.dtype, real);
  Array gradient = empty({rows, width}, real.dtype, real);
  Array h = empty({rows, critic.hidden}, real.dtype, real);
  Array g = empty({rows, critic.hidden}, real.dtype, real);
  const Array penalties = reduce == 0 ? value : empty({rows}, type, real);
  // Zeroed at every call: one that was kept would be shared by streams, and by the replays of a graph.
  const Array ticket = empty({1}, ScalarType::Int, real);
  zero(ticket);
  cuda::mlp_penalty(kernel_dtype(real.dtype), real.data(), fake.data(), data(alpha),
                    static_cast<uint64_t>(seed), static_cast<uint64_t>(offset), critic.mlp, target, one_sided,
                    reduce, value.mutable_data(), norm.mutable_data(), slope.mutable_data(),
                    drawn.mutable_data(), x.mutable_data(), gradient.mutable_data(), h.mutable_data(),
                    g.mutable_data(), penalties.mutable_data(), static_cast<int32_t*>(ticket.mutable_data()),
                    place.stream());
  place.check(op);
  return {std::move(value.tensor), std::move(norm.tensor), std::move(slope.tensor),
          std::move(drawn.tensor), std::move(x.tensor),    std::move(gradient.tensor),
          std::move(h.tensor),     std::move(g.tensor)};
}

Two mlp_penalty_backward(const Tensor& incoming_, const Tensor& slope_, const Tensor& gradient_,
                         const Tensor& h_, const Tensor& g_, const std::vector<Tensor>& weights,
                         const std::vector<MaybeTensor>& masks, int64_t act, double negative_slope) {
  constexpr const char* op = "mlp_penalty_backward";
  const Array gradient = take_mlp(op, "gradient", gradient_);  // [R, D0]
  const int64_t rows = gradient.sizes[0];
  const int64_t width = gradient.sizes[1];
  const ScalarType type = acc(gradient.dtype);
  const Place place(gradient);
  const Critic critic = critic_of(op, gradient, rows, width, weights, nullptr, masks, act, negative_slope);
  const int64_t shape[] = {rows, critic.hidden};
  const Array h = take_dense(op, "h", h_, gradient, gradient.dtype, shape, 2);  // [R, S]
  const Array g = take_dense(op, "g", g_, gradient, gradient.dtype, shape, 2);  // [R, S]
  const Array slope = take_dense(op, "slope", slope_, gradient, type, &rows, 1);
  Array incoming = take(op, "incoming", incoming_);  // [] or [R]
  if (incoming.dim > 1 || (incoming.dim == 1 && incoming.sizes[0] != rows)) {
    fail(op, "incoming must have the shape [] or [", rows, "]; got ", shape_text(incoming));
  }
  incoming = converted(std::move(incoming), type);
  const bool curved = act == 3;
  Array t = empty({rows, width + critic.hidden}, gradient.dtype, gradient);
  Array c =
      curved ? empty({rows, critic.hidden}, gradient.dtype, gradient) : empty({0}, gradient.dtype, gradient);
  cuda::mlp_penalty_backward(kernel_dtype(gradient.dtype), incoming.data(), incoming.dim == 1, slope.data(),
                             gradient.data(), h.data(), g.data(), critic.mlp, t.mutable_data(),
                             curved ? c.mutable_data() : nullptr, place.stream());
  place.check(op);
  return {std::move(t.tensor), std::move(c.tensor)};
}

}  // namespace wgangp_fast::binding

#endif
