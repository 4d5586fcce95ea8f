// Windows of an image as rows of a matrix, and back: a convolution with many weights and few outputs is then
// one matrix product. Bound by memory, so one compilation serves every instruction set.
#include <cstring>

#include "cpu/parallel.h"
#include "ops.h"

namespace wgangp_fast::cpu {
namespace {

constexpr int64_t kChannels = 16;  // of a task of fold_rows: neighbours in a row

// First and one past the last step k of `count` with 0 <= start + k*step < size.
struct Range {
  int64_t first, last;
};
Range inside(int64_t start, int64_t step, int64_t count, int64_t size) {
  Range range{0, count};
  while (range.first < count && start + range.first * step < 0) ++range.first;
  while (range.last > range.first && start + (range.last - 1) * step >= size) --range.last;
  return range;
}

template <class T>
void unfold(const T* x /*[n, c, h, w]*/, const Window& g, T* rows /*[n*oh*ow, c*kh*kw]*/) {
  const int64_t window = g.kh * g.kw;
  parallel(g.n * g.oh, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t top = task % g.oh * g.sh - g.ph;
      const T* image = x + task / g.oh * g.c * g.h * g.w;
      const Range ys = inside(top, g.dh, g.kh, g.h);
      for (int64_t j = 0; j < g.ow; ++j) {
        T* row = rows + (task * g.ow + j) * g.c * window;
        const int64_t left = j * g.sw - g.pw;
        const Range xs = inside(left, g.dw, g.kw, g.w);
        if (ys.first > 0 || ys.last < g.kh || xs.first > 0 || xs.last < g.kw) {
          std::memset(row, 0, sizeof(T) * static_cast<size_t>(g.c * window));
        }
        for (int64_t c = 0; c < g.c; ++c, row += window) {
          const T* plane = image + c * g.h * g.w;
          for (int64_t y = ys.first; y < ys.last; ++y) {
            const T* from = plane + (top + y * g.dh) * g.w + left;
            for (int64_t k = xs.first; k < xs.last; ++k) row[y * g.kw + k] = from[k * g.dw];
          }
        }
      }
    }
  });
}

template <class T>
void fold(const T* rows /*[n*oh*ow, c*kh*kw]*/, const Window& g, T* x /*[n, c, h, w]*/) {
  const int64_t window = g.kh * g.kw, blocks = (g.c + kChannels - 1) / kChannels;
  parallel(g.n * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / blocks, first = task % blocks * kChannels;
      const int64_t count = first + kChannels < g.c ? kChannels : g.c - first;
      T* planes = x + (n * g.c + first) * g.h * g.w;
      std::memset(planes, 0, sizeof(T) * static_cast<size_t>(count * g.h * g.w));
      for (int64_t i = 0; i < g.oh; ++i) {
        const int64_t top = i * g.sh - g.ph;
        const Range ys = inside(top, g.dh, g.kh, g.h);
        for (int64_t j = 0; j < g.ow; ++j) {
          const int64_t left = j * g.sw - g.pw;
          const Range xs = inside(left, g.dw, g.kw, g.w);
          const T* row = rows + (((n * g.oh + i) * g.ow + j) * g.c + first) * window;
          for (int64_t c = 0; c < count; ++c, row += window) {
            for (int64_t y = ys.first; y < ys.last; ++y) {
              T* to = planes + (c * g.h + top + y * g.dh) * g.w + left;
              for (int64_t k = xs.first; k < xs.last; ++k) to[k * g.dw] += row[y * g.kw + k];
            }
          }
        }
      }
    }
  });
}

}  // namespace

void unfold_rows(Dtype dtype, const void* x, const Window& window, void* rows) {
  if (dtype == Dtype::f64) {
    unfold(static_cast<const double*>(x), window, static_cast<double*>(rows));
  } else {
    unfold(static_cast<const float*>(x), window, static_cast<float*>(rows));
  }
}

void fold_rows(Dtype dtype, const void* rows, const Window& window, void* x) {
  if (dtype == Dtype::f64) {
    fold(static_cast<const double*>(rows), window, static_cast<double*>(x));
  } else {
    fold(static_cast<const float*>(rows), window, static_cast<float*>(x));
  }
}

}  // namespace wgangp_fast::cpu
