// A convolution over images, or its gradient for the input, from packed inputs and weights.
//
// kRows images lie side by side in the packed input, kColumns output channels in the packed weights. A tile
// of the result, kRows images x kColumns channels at one place, stays in registers while the taps of that
// place pass by: nothing is unfolded, and there is no arithmetic on the padding.
#include "cpu/narrow.h"
#include "cpu/tiles.h"

namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY {
namespace {

constexpr int64_t kStrip = int64_t{64} << 10;  // bytes of results that a task holds
constexpr int64_t kWeights = int64_t{256}
                             << 10;  // bytes of weights that pass by before the next input channels

// Which input row (or column) each tap reads for each output row, or -1: [outputs][taps].
void places(bool transposed, int64_t outputs, int64_t taps, int64_t inputs, int64_t stride, int64_t padding,
            int64_t dilation, int64_t* table) {
  for (int64_t i = 0; i < outputs; ++i) {
    for (int64_t k = 0; k < taps; ++k) {
      int64_t at = i * stride + k * dilation - padding;
      if (transposed) {
        at = i + padding - k * dilation;
        at = at >= 0 && at % stride == 0 ? at / stride : -1;
      }
      *table++ = at >= 0 && at < inputs ? at : -1;
    }
  }
}

// kRows images to [places][channels][kRows]; images beyond `count` are zeros.
template <class T>
void pack_images(const T* images, bool channels_last, int64_t count, int64_t channels, int64_t places,
                 T* packed) {
  constexpr bool square = (kRows & (kRows - 1)) == 0;
  const int64_t apart = channels * places;
  // The longest stretch of neighbours is transposed: places of a channel, or channels of a place.
  const int64_t lines = channels_last ? places : channels, along = channels_last ? channels : places;
  const int64_t line_step = channels_last ? channels * kRows : kRows;
  const int64_t along_step = channels_last ? kRows : channels * kRows;
  int64_t k = 0;
  if constexpr (square) {
    for (; count == kRows && k + kRows <= along; k += kRows) {
      for (int64_t line = 0; line < lines; ++line) {
        Square<T, kRows>::transpose(images + line * along + k, apart,
                                    packed + line * line_step + k * along_step, along_step);
      }
    }
  }
  for (; k < along; ++k) {
    for (int64_t line = 0; line < lines; ++line) {
      T* to = packed + line * line_step + k * along_step;
      for (int64_t n = 0; n < kRows; ++n) to[n] = n < count ? images[n * apart + line * along + k] : T(0);
    }
  }
}

template <class T>
struct Shape {
  static constexpr int64_t kColumns = Lanes<T>::columns;
  int64_t in, out;                   // channels
  int64_t in_h, in_w, out_h, out_w;  // of an image
  int64_t taps, images, columns;     // taps; blocks of images and of output channels
  int64_t apart;                     // between packed blocks of images

  Shape(const Window& w, int64_t outputs, bool transposed)
      : in(transposed ? outputs : w.c),
        out(transposed ? w.c : outputs),
        in_h(transposed ? w.oh : w.h),
        in_w(transposed ? w.ow : w.w),
        out_h(transposed ? w.h : w.oh),
        out_w(transposed ? w.w : w.ow),
        taps(w.kh * w.kw),
        images(divide_up(w.n, kRows)),
        columns(divide_up(out, kColumns)),
        apart(in * in_h * in_w * kRows + kColumns) {}
  int64_t packed_images() const { return images * apart; }
  int64_t packed_weights() const { return columns * taps * in * kColumns; }
};

// weight [outputs, c, taps] to [blocks of out][taps][in][kColumns].
template <class T>
void pack_weights(const T* weight, const Shape<T>& s, bool transposed, T* packed) {
  constexpr int64_t kColumns = Lanes<T>::columns, lanes = Lanes<T>::count;
  const int64_t step_in = transposed ? s.out * s.taps : s.taps,
                step_out = transposed ? s.taps : s.in * s.taps;
  const int64_t group = 16;  // input channels a task
  parallel(s.columns * divide_up(s.in, group), 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t column = task % s.columns, first = task / s.columns * group;
      const int64_t last = least(first + group, s.in);
      const int64_t count = least(kColumns, s.out - column * kColumns);
      T* to = packed + column * s.taps * s.in * kColumns;
      for (int64_t k = first; k < last; ++k) {
        const T* from = weight + k * step_in + column * kColumns * step_out;
        int64_t tap = 0;
        if (count == kColumns) {
          for (; tap + lanes <= s.taps; tap += lanes) {
            for (int64_t o = 0; o < kColumns; o += lanes) {
              Square<T, lanes>::transpose(from + o * step_out + tap, step_out,
                                          to + (tap * s.in + k) * kColumns + o, s.in * kColumns);
            }
          }
        }
        for (; tap < s.taps; ++tap) {
          T* row = to + (tap * s.in + k) * kColumns;
          for (int64_t o = 0; o < kColumns; ++o) row[o] = o < count ? from[o * step_out + tap] : T(0);
        }
      }
    }
  });
}

// Results [rows][kColumns] of one image, from place `first` on, to their place in out.
template <class T>
void unpack(const T* tile, int64_t rows, int64_t count, int64_t channel, int64_t first, const Shape<T>& s,
            bool channels_last, T* image) {
  constexpr int64_t kColumns = Lanes<T>::columns, lanes = Lanes<T>::count;
  const int64_t total = s.out_h * s.out_w;
  if (channels_last) {
    for (int64_t k = 0; k < rows; ++k) {
      T* to = image + (first + k) * s.out + channel;
      for (int64_t o = 0; o < count; ++o) to[o] = tile[k * kColumns + o];
    }
    return;
  }
  T* to = image + channel * total + first;
  int64_t k = 0;
  if (count == kColumns) {
    for (; k + lanes <= rows; k += lanes) {
      for (int64_t o = 0; o < kColumns; o += lanes) {
        Square<T, lanes>::transpose(tile + k * kColumns + o, kColumns, to + o * total + k, total);
      }
    }
  }
  for (int64_t o = 0; o < count; ++o) {
    for (int64_t j = k; j < rows; ++j) to[o * total + j] = tile[j * kColumns + o];
  }
}

template <class T>
void run(const T* in, bool in_channels_last, const T* weight, const T* bias, const Window& w, int64_t outputs,
         bool transposed, T* scratch, T* out, bool out_channels_last) {
  constexpr int64_t kColumns = Lanes<T>::columns;
  const Shape<T> s(w, outputs, transposed);
  T *images = scratch, *weights = scratch + s.packed_images();
  const int64_t in_places = s.in_h * s.in_w, out_places = s.out_h * s.out_w;
  parallel(s.images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      pack_images(in + b * kRows * s.in * in_places, in_channels_last, least(kRows, w.n - b * kRows), s.in,
                  in_places, images + b * s.apart);
    }
  });
  pack_weights(weight, s, transposed, weights);
  Buffer<int64_t> table(s.out_h * w.kh + s.out_w * w.kw);
  int64_t *of_rows = table.data(), *of_columns = of_rows + s.out_h * w.kh;
  places(transposed, s.out_h, w.kh, s.in_h, w.sh, w.ph, w.dh, of_rows);
  places(transposed, s.out_w, w.kw, s.in_w, w.sw, w.pw, w.dw, of_columns);

  const int64_t row_bytes = kRows * s.out_w * kColumns * static_cast<int64_t>(sizeof(T));
  const int64_t height = kStrip / row_bytes > 1 ? least(kStrip / row_bytes, s.out_h) : 1;
  const int64_t strips = divide_up(s.out_h, height);
  const int64_t fitting = kWeights / (s.taps * kColumns * static_cast<int64_t>(sizeof(T)));
  const int64_t chunk = least(fitting > 32 ? fitting : 32, s.in);
  parallel(s.columns * s.images * strips, 1, [&](int64_t begin, int64_t end) {
    Buffer<T> tiles(kRows * height * s.out_w * kColumns);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t top = task % strips * height, bottom = least(top + height, s.out_h);
      const int64_t block = task / strips % s.images, column = task / strips / s.images;
      const int64_t count = least(kColumns, s.out - column * kColumns), rows = (bottom - top) * s.out_w;
      const T *x = images + block * s.apart, *taps = weights + column * s.taps * s.in * kColumns;
      T* tile = tiles.data();
      if (bias == nullptr) {
        std::memset(tile, 0, sizeof(T) * static_cast<size_t>(kRows * rows * kColumns));
      } else {
        T offsets[kColumns] = {};
        for (int64_t o = 0; o < count; ++o) offsets[o] = bias[column * kColumns + o];
        for (int64_t k = 0; k < kRows * rows; ++k) std::memcpy(tile + k * kColumns, offsets, sizeof(offsets));
      }
      for (int64_t first = 0; first < s.in; first += chunk) {
        const int64_t length = least(chunk, s.in - first);
        tile = tiles.data();
        for (int64_t i = top; i < bottom; ++i) {
          for (int64_t j = 0; j < s.out_w; ++j, tile += kColumns) {
            Tile<T> sums;
            for (int64_t r = 0; r < w.kh; ++r) {
              const int64_t y = of_rows[i * w.kh + r];
              if (y < 0) continue;
              for (int64_t q = 0; q < w.kw; ++q) {
                const int64_t at = of_columns[j * w.kw + q];
                if (at < 0) continue;
                sums.take(x + ((y * s.in_w + at) * s.in + first) * kRows, kRows,
                          taps + ((r * w.kw + q) * s.in + first) * kColumns, length);
              }
            }
            sums.add_to(tile, rows * kColumns);
          }
        }
      }
      const int64_t n = least(kRows, w.n - block * kRows);
      for (int64_t k = 0; k < n; ++k) {
        unpack(tiles.data() + k * rows * kColumns, rows, count, column * kColumns, top * s.out_w, s,
               out_channels_last, out + (block * kRows + k) * s.out * out_places);
      }
    }
  });
}

// The first layer's way back, whose results have few channels, has a kernel of its own.
bool few(const Window& w, bool transposed) {
#if defined(__GNUC__)
  return transposed && w.c >= 1 && w.c <= kFewChannels;
#else
  return false;
#endif
}

template <class T>
int64_t scratch_of(const Window& w, int64_t outputs, bool transposed) {
  if (few(w, transposed)) {
    const Narrow<T> sizes(w);
    return sizes.padded(w, outputs) + sizes.weights(w, outputs);
  }
  const Shape<T> shape(w, outputs, transposed);
  return shape.packed_images() + shape.packed_weights();
}

template <class T>
void choose(const void* in_, bool in_channels_last, const void* weight_, const void* bias, const Window& w,
            int64_t outputs, bool transposed, void* scratch_, void* out_, bool out_channels_last) {
  const T *in = static_cast<const T*>(in_), *weight = static_cast<const T*>(weight_);
  T *scratch = static_cast<T*>(scratch_), *out = static_cast<T*>(out_);
#if defined(__GNUC__)
  if (few(w, transposed)) {
    const auto go = [&](auto kernel) {
      kernel(in, in_channels_last, weight, w, outputs, scratch, out, out_channels_last);
    };
    switch (w.c) {
      case 1:
        return go(narrow<T, 1>);
      case 2:
        return go(narrow<T, 2>);
      case 3:
        return go(narrow<T, 3>);
      default:
        return go(narrow<T, 4>);
    }
  }
#endif
  run(in, in_channels_last, weight, static_cast<const T*>(bias), w, outputs, transposed, scratch, out,
      out_channels_last);
}

}  // namespace

int64_t convolution_scratch(Dtype dtype, const Window& window, int64_t outputs, bool transposed) {
  return dtype == Dtype::f64 ? scratch_of<double>(window, outputs, transposed)
                             : scratch_of<float>(window, outputs, transposed);
}

void convolution(Dtype dtype, const void* in, bool in_channels_last, const void* weight, const void* bias,
                 const Window& window, int64_t outputs, bool transposed, void* scratch, void* out,
                 bool out_channels_last) {
  const auto go = dtype == Dtype::f64 ? choose<double> : choose<float>;
  go(in, in_channels_last, weight, bias, window, outputs, transposed, scratch, out, out_channels_last);
}

}  // namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY
