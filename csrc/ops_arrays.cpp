// Descriptions, checks, layouts and allocation for the bindings (binding.h says what each does).
#include <algorithm>
#include <utility>

#include "binding.h"

namespace wgangp_fast::binding {

Array describe(Tensor tensor) {
  Array a;
  const AtenTensorHandle handle = tensor.get();
  int64_t* sizes = nullptr;
  int64_t* strides = nullptr;
  int32_t dtype = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(handle, &a.dim));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_numel(handle, &a.numel));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(handle, &sizes));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(handle, &strides));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(handle, &dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(handle, &a.device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(handle, &a.device_index));
  a.sizes = sizes;
  a.strides = strides;
  a.dtype = static_cast<ScalarType>(dtype);
  a.tensor = std::move(tensor);
  return a;
}

std::string shape_text(const int64_t* sizes, int64_t dim) {
  std::ostringstream text;
  text << '[';
  for (int64_t d = 0; d < dim; ++d) text << (d ? ", " : "") << sizes[d];
  text << ']';
  return text.str();
}

// --- checks ---

namespace {

bool supported(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

bool same_sizes(const Array& a, const int64_t* sizes, int64_t dim) {
  return a.dim == dim && std::equal(sizes, sizes + dim, a.sizes);
}

void check_device(const char* op, const char* name, const Array& a, const Array& first) {
  if (a.device_type == first.device_type && a.device_index == first.device_index) return;
  fail(op, name, " must be on the device of the other tensors (type ", first.device_type, ", index ",
       first.device_index, "); got type ", a.device_type, ", index ", a.device_index);
}

void check_dtype(const char* op, const char* name, const Array& a, ScalarType dtype) {
  if (a.dtype == dtype) return;
  fail(op, name, " must be ", torch::headeronly::toString(dtype), " here; got ",
       torch::headeronly::toString(a.dtype));
}

}  // namespace

Array take(const char* op, const char* name, const Tensor& tensor) {
  Array a = describe(tensor);
  if (!supported(a.dtype)) {
    fail(op, name, " must be float64, float32, float16 or bfloat16; got ",
         torch::headeronly::toString(a.dtype));
  }
  return a;
}

Array take_beside(const char* op, const char* name, const Tensor& tensor, const Array& first) {
  Array a = describe(tensor);
  check_device(op, name, a, first);
  check_dtype(op, name, a, first.dtype);
  return a;
}

Array take_like(const char* op, const char* name, const Tensor& tensor, const Array& first) {
  Array a = take_beside(op, name, tensor, first);
  if (!same_sizes(a, first.sizes, first.dim)) {
    fail(op, name, " must have the shape ", shape_text(first), "; got ", shape_text(a));
  }
  return a;
}

Array take_dense(const char* op, const char* name, const Tensor& tensor, const Array& first, ScalarType dtype,
                 const int64_t* sizes, int64_t dim) {
  Array a = describe(tensor);
  check_device(op, name, a, first);
  check_dtype(op, name, a, dtype);
  if (!same_sizes(a, sizes, dim)) {
    fail(op, name, " must have the shape ", shape_text(sizes, dim), "; got ", shape_text(a));
  }
  return made_contiguous(std::move(a));
}

Dtype kernel_dtype(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double:
      return Dtype::f64;
    case ScalarType::Half:
      return Dtype::f16;
    case ScalarType::BFloat16:
      return Dtype::bf16;
    default:
      return Dtype::f32;
  }
}

Activation activation(const char* op, int64_t act, double p0, double p1, double p2) {
  constexpr int64_t kLast = 10;
  if (act < 0 || act > kLast) fail(op, "act must be 0 to ", kLast, "; got ", act);
  return {static_cast<int32_t>(act), p0, p1, p2};
}

int32_t reduction_of(const char* op, int64_t reduction) {
  if (reduction < 0 || reduction > 2) {
    fail(op, "reduction must be 0 (none), 1 (sum) or 2 (mean); got ", reduction);
  }
  return static_cast<int32_t>(reduction);
}

int64_t wrapped(const char* op, int64_t dim, int64_t count) {
  if (dim < -count || dim >= count) {
    fail(op, "dim must be in [", -count, ", ", count - 1, "] for a tensor of ", count, " dimensions; got ",
         dim);
  }
  return dim < 0 ? dim + count : dim;
}

// --- layouts ---

bool contiguous(const Array& a) {
  if (a.numel == 0) return true;
  int64_t expected = 1;
  for (int64_t d = a.dim - 1; d >= 0; --d) {
    if (a.sizes[d] == 1) continue;
    if (a.strides[d] != expected) return false;
    expected *= a.sizes[d];
  }
  return true;
}

int ordered(const Array& a, int64_t first, int64_t (&order)[kMaxOrdered]) {
  int count = 0;
  for (int64_t d = first; d < a.dim; ++d) {
    if (a.sizes[d] == 1) continue;
    if (count == kMaxOrdered) return -1;
    int at = count++;
    for (; at > 0 && a.strides[order[at - 1]] < a.strides[d]; --at) order[at] = order[at - 1];
    order[at] = d;
  }
  return count;
}

bool dense(const Array& a) {
  if (contiguous(a)) return true;
  int64_t order[kMaxOrdered];
  int64_t expected = 1;
  for (int i = ordered(a, 0, order) - 1; i >= 0; --i) {
    if (a.strides[order[i]] != expected) return false;
    expected *= a.sizes[order[i]];
  }
  return expected == a.numel;
}

bool same_strides(const Array& a, const Array& b) {
  for (int64_t d = 0; d < a.dim; ++d) {
    if (a.strides[d] != b.strides[d] && a.sizes[d] != 1) return false;
  }
  return true;
}

bool flat_samples(const Array& a) {
  if (!dense(a)) return false;
  return a.numel == 0 || a.sizes[0] == 1 || a.strides[0] == a.numel / a.sizes[0];
}

// --- allocation ---

namespace {

Array allocate(const int64_t* sizes, const int64_t* strides, int64_t dim, ScalarType dtype,
               const Array& beside) {
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dim, sizes, strides, static_cast<int32_t>(dtype),
                                                         beside.device_type, beside.device_index, &handle));
  return describe(Tensor(handle));
}

}  // namespace

Array empty(const int64_t* sizes, int64_t dim, ScalarType dtype, const Array& beside) {
  constexpr int64_t kSmall = 16;
  int64_t few[kSmall];
  std::vector<int64_t> many;
  int64_t* strides = few;
  if (dim > kSmall) {
    many.resize(static_cast<size_t>(dim));
    strides = many.data();
  }
  int64_t stride = 1;
  for (int64_t d = dim - 1; d >= 0; --d) {
    strides[d] = stride;
    stride *= std::max<int64_t>(sizes[d], 1);
  }
  return allocate(sizes, strides, dim, dtype, beside);
}

Array empty_strided_like(const Array& a) { return allocate(a.sizes, a.strides, a.dim, a.dtype, a); }

void copy_into(const Array& to, const Array& from) {
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(to.tensor.get(), from.tensor.get(), 0));
}

void zero(const Array& a) { STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(a.tensor.get())); }

Array made_contiguous(Array a) {
  if (contiguous(a)) return a;
  Array copy = empty(a.sizes, a.dim, a.dtype, a);
  copy_into(copy, a);
  return copy;
}

Array made_dense(Array a) { return dense(a) ? a : made_contiguous(std::move(a)); }

Array with_strides_of(Array a, const Array& layout) {
  if (same_strides(a, layout)) return a;
  Array copy = empty_strided_like(layout);
  copy_into(copy, a);
  return copy;
}

Array converted(Array a, ScalarType dtype) {
  if (a.dtype == dtype) return made_contiguous(std::move(a));
  Array copy = empty(a.sizes, a.dim, dtype, a);
  copy_into(copy, a);
  return copy;
}

}  // namespace wgangp_fast::binding
