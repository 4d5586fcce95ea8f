// What the bindings share: a tensor's description read once, checks that say what was given and what must
// hold, layouts, allocation, and the choice between the CPU's and the GPU's kernel.
//
// Nothing but torch's stable ABI, and of that the C functions where a few hundred nanoseconds count: these
// operations run on small tensors too.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "ops.h"

// The headers of torch 2.11 and 2.12 have this macro under its old name alone.
#ifndef STABLE_TORCH_ERROR_CODE_CHECK
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

namespace wgangp_fast::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

template <class... Parts>
[[noreturn, gnu::cold, gnu::noinline]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream text;
  text << "wgangp_fast::" << op << ": ";
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// A tensor and its description; sizes and strides are borrowed from it.
struct Array {
  Tensor tensor;
  int64_t dim = 0, numel = 0;
  const int64_t* sizes = nullptr;
  const int64_t* strides = nullptr;
  ScalarType dtype = ScalarType::Float;
  int32_t device_type = 0, device_index = 0;

  const void* data() const {
    const void* pointer = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_get_const_data_ptr(tensor.get(), &pointer));
    return pointer;
  }
  void* mutable_data() const {
    void* pointer = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_get_mutable_data_ptr(tensor.get(), &pointer));
    return pointer;
  }
};

using MaybeArray = std::optional<Array>;

inline const void* data(const MaybeArray& array) { return array ? array->data() : nullptr; }

Array describe(Tensor tensor);

std::string shape_text(const int64_t* sizes, int64_t dim);
inline std::string shape_text(const Array& a) { return shape_text(a.sizes, a.dim); }

// --- checks ---

// The argument that decides device and dtype for the call: float64, float32, float16 or bfloat16.
Array take(const char* op, const char* name, const Tensor& tensor);
// Another argument: first's device and dtype.
Array take_beside(const char* op, const char* name, const Tensor& tensor, const Array& first);
// And first's shape.
Array take_like(const char* op, const char* name, const Tensor& tensor, const Array& first);
// An argument of a given shape and dtype, contiguous (copied where it is not).
Array take_dense(const char* op, const char* name, const Tensor& tensor, const Array& first, ScalarType dtype,
                 const int64_t* sizes, int64_t dim);

Dtype kernel_dtype(ScalarType dtype);
inline ScalarType acc(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}
Activation activation(const char* op, int64_t act, double p0, double p1, double p2);
int32_t reduction_of(const char* op, int64_t reduction);
// `dim` counted from the front.
int64_t wrapped(const char* op, int64_t dim, int64_t count);

// --- layouts ---

bool contiguous(const Array& a);
// No gaps and no overlap, whatever the order of the dimensions.
bool dense(const Array& a);
// Element i of one lies where element i of the other does (dimensions of size 1 apart).
bool same_strides(const Array& a, const Array& b);
// Whether the samples of dimension 0, each dense, follow each other: [N, K] whatever the layout within.
bool flat_samples(const Array& a);
// The dimensions from `first` on that have more than one element, largest stride first; -1: too many.
constexpr int kMaxOrdered = 16;
int ordered(const Array& a, int64_t first, int64_t (&order)[kMaxOrdered]);

// --- allocation ---

Array empty(const int64_t* sizes, int64_t dim, ScalarType dtype, const Array& beside);
Array empty_strided_like(const Array& a);
inline Array empty(std::initializer_list<int64_t> sizes, ScalarType dtype, const Array& beside) {
  return empty(sizes.begin(), static_cast<int64_t>(sizes.size()), dtype, beside);
}
void copy_into(const Array& to, const Array& from);
void zero(const Array& a);
// `a` itself where it is so already, else a copy.
Array made_contiguous(Array a);
Array made_dense(Array a);
Array with_strides_of(Array a, const Array& layout);
Array converted(Array a, ScalarType dtype);

// Outputs of a convolution along one side; refuses numbers that no convolution has.
int64_t outputs(const char* op, int64_t size, int64_t kernel, int64_t stride, int64_t padding,
                int64_t dilation);

// --- device ---

#ifdef WGANGP_FAST_CUDA

// Makes the arrays' device current while it lives, and knows its current stream.
class Place {
 public:
  explicit Place(const Array& a);
  // Raises what went wrong with a launch of `op`, if anything did.
  void check(const char* op) const;
  bool cuda() const { return cuda_; }
  void* stream() const { return stream_; }

 private:
  bool cuda_;
  void* stream_ = nullptr;
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
};

#define WGANGP_FAST_LAUNCH(place, op, ...)                    \
  do {                                                        \
    if ((place).cuda()) {                                     \
      ::wgangp_fast::cuda::op(__VA_ARGS__, (place).stream()); \
      (place).check(#op);                                     \
    } else {                                                  \
      ::wgangp_fast::cpu::op(__VA_ARGS__);                    \
    }                                                         \
  } while (false)
#define WGANGP_FAST_ASK(place, function, ...) \
  ((place).cuda() ? ::wgangp_fast::cuda::function(__VA_ARGS__) : ::wgangp_fast::cpu::function(__VA_ARGS__))

#else

struct Place {
  explicit Place(const Array&) {}
};

#define WGANGP_FAST_LAUNCH(place, op, ...) ((void)(place), ::wgangp_fast::cpu::op(__VA_ARGS__))
#define WGANGP_FAST_ASK(place, function, ...) ((void)(place), ::wgangp_fast::cpu::function(__VA_ARGS__))

#endif

// --- the operations, as ops.cpp registers them: C++ types of its schemas ---

using Two = std::tuple<Tensor, Tensor>;
using Three = std::tuple<Tensor, Tensor, Tensor>;

Two interpolate(const Tensor& real, const Tensor& fake, const MaybeTensor& alpha, int64_t seed,
                int64_t offset);
Three norm_penalty(const Tensor& gradient, double target, bool one_sided, int64_t reduction);
Tensor penalty_seed(const Tensor& gradient, const Tensor& slope, const Tensor& incoming);

Tensor bias_act(const Tensor& x, const MaybeTensor& bias, int64_t dim, int64_t act, double p0, double p1,
                double p2);
void bias_act_(const Tensor& x, const MaybeTensor& bias, int64_t dim, int64_t act, double p0, double p1,
               double p2);
Tensor bias_act_grad(const Tensor& v, const Tensor& ref, const MaybeTensor& bias, int64_t dim, int64_t act,
                     double p0, double p1, double p2);
void bias_act_grad_(const Tensor& v, const Tensor& ref, const MaybeTensor& bias, int64_t dim, int64_t act,
                    double p0, double p1, double p2);
Tensor bias_act_adjoint(const MaybeTensor& c, const Tensor& g, const Tensor& t, const Tensor& ref,
                        const MaybeTensor& bias, int64_t dim, int64_t act, double p0, double p1, double p2);
void bias_act_adjoint_(const Tensor& c, const Tensor& g, const Tensor& t, const Tensor& ref,
                       const MaybeTensor& bias, int64_t dim, int64_t act, double p0, double p1, double p2);

Tensor gate(const Tensor& a, const Tensor& b);
Two gate_vjp(const Tensor& g, const Tensor& a, const Tensor& b);
Tensor gate_jvp(const Tensor& ta, const Tensor& tb, const Tensor& a, const Tensor& b);
Two gate_adjoint(const MaybeTensor& c, const Tensor& g, const Tensor& ta, const Tensor& tb, const Tensor& a,
                 const Tensor& b);

Three norm_act(const Tensor& x, const MaybeTensor& weight, const MaybeTensor& bias, int64_t groups,
               int64_t dims, double eps, int64_t act, double p0, double p1, double p2);
Three norm_act_vjp(const Tensor& g, const Tensor& x, const Tensor& mean, const Tensor& rstd,
                   const MaybeTensor& weight, const MaybeTensor& bias, int64_t groups, int64_t dims,
                   int64_t act, double p0, double p1, double p2, bool affine);
Tensor norm_act_jvp(const Tensor& t, const Tensor& x, const Tensor& mean, const Tensor& rstd,
                    const MaybeTensor& weight, const MaybeTensor& bias, int64_t groups, int64_t dims,
                    int64_t act, double p0, double p1, double p2);
Three norm_act_adjoint(const MaybeTensor& c, const Tensor& g, const Tensor& t, const Tensor& x,
                       const Tensor& mean, const Tensor& rstd, const MaybeTensor& weight,
                       const MaybeTensor& bias, int64_t groups, int64_t dims, int64_t act, double p0,
                       double p1, double p2, bool affine);

Tensor unfold_rows(const Tensor& x, int64_t kh, int64_t kw, int64_t sh, int64_t sw, int64_t ph, int64_t pw,
                   int64_t dh, int64_t dw);
Tensor fold_rows(const Tensor& rows, int64_t n, int64_t c, int64_t h, int64_t w, int64_t kh, int64_t kw,
                 int64_t sh, int64_t sw, int64_t ph, int64_t pw, int64_t dh, int64_t dw);

Tensor convolve(const Tensor& x, const Tensor& weight, const MaybeTensor& bias, int64_t sh, int64_t sw,
                int64_t ph, int64_t pw, int64_t dh, int64_t dw);
Tensor convolve_back(const Tensor& g, const Tensor& weight, int64_t h, int64_t w, int64_t sh, int64_t sw,
                     int64_t ph, int64_t pw, int64_t dh, int64_t dw);
Tensor weight_gradient(const std::vector<Tensor>& xs, const std::vector<Tensor>& gs, int64_t kh, int64_t kw,
                       int64_t sh, int64_t sw, int64_t ph, int64_t pw, int64_t dh, int64_t dw);

#ifdef WGANGP_FAST_MLP
using Eight = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Eight mlp_penalty(const Tensor& real, const Tensor& fake, const MaybeTensor& alpha, int64_t seed,
                  int64_t offset, int64_t pac, const std::vector<Tensor>& weights,
                  const std::vector<MaybeTensor>& biases, const std::vector<MaybeTensor>& masks, int64_t act,
                  double negative_slope, double target, bool one_sided, int64_t reduction);
Two mlp_penalty_backward(const Tensor& incoming, const Tensor& slope, const Tensor& gradient, const Tensor& h,
                         const Tensor& g, const std::vector<Tensor>& weights,
                         const std::vector<MaybeTensor>& masks, int64_t act, double negative_slope);
#endif

}  // namespace wgangp_fast::binding
