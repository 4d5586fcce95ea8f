// The gradient of a convolution for an input of few channels: the first layer of a critic.
//
// A vector holds neighbouring places of the gradient that meet the same taps (every sw-th of a row), so no
// lane idles although there are few channels; a number of the weights meets all of them.
#pragma once

#include "cpu/tiles.h"

namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY {

inline constexpr int64_t kFewChannels = 4;

// The taps of a row or a column that reach places p, p + stride, ... of the gradient, and how far from the
// place's number the cotangent lies.
inline int64_t shift_of(int64_t place, int64_t padding, int64_t tap, int64_t dilation, int64_t stride,
                        bool& meets) {
  const int64_t at = place + padding - tap * dilation;
  const int64_t down = at >= 0 ? at / stride : -((stride - 1 - at) / stride);
  meets = down * stride == at;
  return down;
}

template <class T>
struct Narrow {
  static constexpr int64_t lanes = Lanes<T>::count;
  int64_t left, width;  // zeros before each row of cotangents; its length with all zeros

  explicit Narrow(const Window& w) : left(0), width(0) {
    int64_t right = 0;
    for (int64_t q = 0; q < w.kw; ++q) {
      for (int64_t p = 0; p < w.sw; ++p) {
        bool meets = false;
        const int64_t shift = shift_of(p, w.pw, q, w.dw, w.sw, meets);
        if (meets && -shift > left) left = -shift;
        if (meets && shift > right) right = shift;
      }
    }
    const int64_t places = divide_up(divide_up(w.w, w.sw), 2 * lanes) * 2 * lanes + right;
    width = left + (places > w.ow ? places : w.ow);
  }
  int64_t padded(const Window& w, int64_t outputs) const { return w.n * w.oh * outputs * width; }
  int64_t weights(const Window& w, int64_t outputs) const { return w.kh * w.kw * outputs * w.c; }
};

#if defined(__GNUC__)

// `blocks` vectors of places of one row of the gradient, all channels.
template <class T, int channels, int blocks>
WGANGP_FAST_INLINE void narrow_row(const T* rows /*[oh, outputs, width] of an image*/,
                                   const T* weights /*[kh, kw, outputs, channels]*/, const Window& w,
                                   int64_t outputs, int64_t width, int64_t y, int64_t p, int64_t first,
                                   T* found /*[channels, blocks*lanes]*/) {
  using Vector = typename Lanes<T>::Vector;
  constexpr int64_t lanes = Lanes<T>::count;
  constexpr int turns = channels * blocks >= 6 ? 1 : 2;  // independent sums hide the latency of one
  Vector sums[turns][channels][blocks] = {};
  for (int64_t r = 0; r < w.kh; ++r) {
    bool meets = false;
    const int64_t i = shift_of(y, w.ph, r, w.dh, w.sh, meets);
    if (!meets || i < 0 || i >= w.oh) continue;
    for (int64_t q = 0; q < w.kw; ++q) {
      const int64_t shift = shift_of(p, w.pw, q, w.dw, w.sw, meets);
      if (!meets) continue;
      const T* from = rows + i * outputs * width + first + shift;
      const T* weight = weights + (r * w.kw + q) * outputs * channels;
      const auto add = [&](int turn) {
        Vector values[blocks];
        for (int b = 0; b < blocks; ++b) values[b] = *reinterpret_cast<const Vector*>(from + b * lanes);
        for (int c = 0; c < channels; ++c) {
          for (int b = 0; b < blocks; ++b) sums[turn][c][b] += weight[c] * values[b];
        }
        from += width;
        weight += channels;
      };
      int64_t o = 0;
      for (; o + turns <= outputs; o += turns) {
#pragma GCC unroll 2
        for (int turn = 0; turn < turns; ++turn) add(turn);
      }
      for (; o < outputs; ++o) add(0);
    }
  }
  for (int c = 0; c < channels; ++c) {
    for (int b = 0; b < blocks; ++b) {
      Vector sum = sums[0][c][b];
      for (int turn = 1; turn < turns; ++turn) sum += sums[turn][c][b];
      *reinterpret_cast<Vector*>(found + (c * blocks + b) * lanes) = sum;
    }
  }
}

template <class T, int channels>
void narrow(const T* g /*[n, outputs, oh, ow]*/, bool g_channels_last,
            const T* weight /*[outputs, channels, kh, kw]*/, const Window& w, int64_t outputs, T* scratch,
            T* out /*[n, channels, h, w]*/, bool out_channels_last) {
  constexpr int64_t lanes = Lanes<T>::count;
  const Narrow<T> sizes(w);
  const int64_t taps = w.kh * w.kw, left = sizes.left, width = sizes.width;
  T *rows = scratch, *weights = scratch + sizes.padded(w, outputs);
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        weights[(tap * outputs + o) * channels + c] = weight[(o * channels + c) * taps + tap];
      }
    }
  }
  parallel(w.n * w.oh, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* image = g + row / w.oh * outputs * w.oh * w.ow;
      const int64_t i = row % w.oh;
      for (int64_t o = 0; o < outputs; ++o) {
        T* to = rows + (row * outputs + o) * width;
        for (int64_t k = 0; k < left; ++k) to[k] = T(0);
        for (int64_t j = 0; j < w.ow; ++j) {
          to[left + j] =
              g_channels_last ? image[(i * w.ow + j) * outputs + o] : image[(o * w.oh + i) * w.ow + j];
        }
        for (int64_t k = left + w.ow; k < width; ++k) to[k] = T(0);
      }
    }
  });
  parallel(w.n * w.h, 1, [&](int64_t begin, int64_t end) {
    T found[channels * 2 * lanes];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / w.h, y = task % w.h;
      const T* image = rows + n * w.oh * outputs * width + left;
      for (int64_t p = 0; p < w.sw && p < w.w; ++p) {
        const int64_t places = divide_up(w.w - p, w.sw);
        for (int64_t first = 0; first < places; first += 2 * lanes) {
          const int64_t count = least(2 * lanes, places - first), apart = count > lanes ? 2 * lanes : lanes;
          if (count > lanes) {
            narrow_row<T, channels, 2>(image, weights, w, outputs, width, y, p, first, found);
          } else {
            narrow_row<T, channels, 1>(image, weights, w, outputs, width, y, p, first, found);
          }
          for (int64_t c = 0; c < channels; ++c) {
            const int64_t step = out_channels_last ? w.sw * channels : w.sw, x = p + first * w.sw;
            T* to = out_channels_last ? out + ((n * w.h + y) * w.w + x) * channels + c
                                      : out + ((n * channels + c) * w.h + y) * w.w + x;
            for (int64_t k = 0; k < count; ++k) to[k * step] = found[c * apart + k];
          }
        }
      }
    }
  });
}

#endif

}  // namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY
