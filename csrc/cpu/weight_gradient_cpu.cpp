// The weight gradient of a convolution over images, summed over several pairs of input and cotangent.
//
// Both are packed in blocks: kColumns output channels (two vectors) of a place lie side by side, and kRows
// input channels. A tile of the result, kRows x kColumns at one tap, stays in registers while all places
// pass by: no unfolded copy, no concatenated pairs, and no arithmetic on the padding.
#include "cpu/tiles.h"

namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY {
namespace {

constexpr int64_t kPanel = int64_t{96} << 10;  // bytes of packed cotangents that go through a tile at a time

// The packed images: [n][blocks of channels][places][block], a little apart, since distances that are
// powers of two would meet in the same lines of the cache.
template <class T>
struct Packed {
  static constexpr int64_t gap = Lanes<T>::columns;
  int64_t places_x, places_g, rows, columns;  // places of an image; blocks of channels
  int64_t apart_x, apart_g;                   // between blocks

  Packed(const Window& w, int64_t outputs)
      : places_x(w.h * w.w),
        places_g(w.oh * w.ow),
        rows(divide_up(w.c, kRows)),
        columns(divide_up(outputs, Lanes<T>::columns)),
        apart_x(places_x * kRows + gap),
        apart_g(places_g * Lanes<T>::columns + gap) {}
  int64_t of_x(const Window& w) const { return w.n * rows * apart_x; }
  int64_t of_g(const Window& w) const { return w.n * columns * apart_g; }
};

template <class T>
void run(const Images* pairs, const Window& w, int64_t outputs, T* scratch, T* out) {
  constexpr int64_t kColumns = Lanes<T>::columns;
  const Packed<T> sizes(w, outputs);
  T *xs = scratch, *gs = scratch + sizes.of_x(w);
  parallel(w.n, 1, [&](int64_t begin, int64_t end) {
    int64_t pair = 0, first = 0;
    for (int64_t n = begin; n < end; ++n) {
      while (n - first >= pairs[pair].n) first += pairs[pair++].n;
      const Images& p = pairs[pair];
      pack<kRows>(static_cast<const T*>(p.x) + (n - first) * w.c * sizes.places_x, p.x_channels_last, w.c,
                  sizes.places_x, sizes.apart_x, xs + n * sizes.rows * sizes.apart_x);
      pack<kColumns>(static_cast<const T*>(p.g) + (n - first) * outputs * sizes.places_g, p.g_channels_last,
                     outputs, sizes.places_g, sizes.apart_g, gs + n * sizes.columns * sizes.apart_g);
    }
  });
  const int64_t taps = w.kh * w.kw;
  const int64_t image = sizes.places_g * kColumns * static_cast<int64_t>(sizeof(T));
  const int64_t group = kPanel / image > 1 ? kPanel / image : 1;
  parallel(sizes.rows * sizes.columns, 1, [&](int64_t begin, int64_t end) {
    Buffer<T> tiles(taps * kRows * kColumns);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task % sizes.rows, column = task / sizes.rows;
      std::memset(tiles.data(), 0, sizeof(T) * static_cast<size_t>(taps * kRows * kColumns));
      for (int64_t n0 = 0; n0 < w.n; n0 += group) {
        const int64_t n1 = least(n0 + group, w.n);
        for (int64_t tap = 0; tap < taps; ++tap) {
          const int64_t top = tap / w.kw * w.dh - w.ph, left = tap % w.kw * w.dw - w.pw;
          const Steps is = inside(top, w.sh, w.oh, w.h), js = inside(left, w.sw, w.ow, w.w);
          if (is.first >= is.last || js.first >= js.last) continue;
          Tile<T> tile;
          for (int64_t n = n0; n < n1; ++n) {
            const T* x = xs + (n * sizes.rows + row) * sizes.apart_x;
            const T* g = gs + (n * sizes.columns + column) * sizes.apart_g;
            for (int64_t i = is.first; i < is.last; ++i) {
              tile.take(x + ((top + i * w.sh) * w.w + left + js.first * w.sw) * kRows, w.sw * kRows,
                        g + (i * w.ow + js.first) * kColumns, js.last - js.first);
            }
          }
          tile.add_to(tiles.data() + tap * kRows * kColumns, kColumns);
        }
      }
      const int64_t rows = least(kRows, w.c - row * kRows);
      const int64_t columns = least(kColumns, outputs - column * kColumns);
      for (int64_t o = 0; o < columns; ++o) {
        T* to = out + ((column * kColumns + o) * w.c + row * kRows) * taps;
        for (int64_t c = 0; c < rows; ++c) {
          const T* from = tiles.data() + c * kColumns + o;
          for (int64_t tap = 0; tap < taps; ++tap) *to++ = from[tap * kRows * kColumns];
        }
      }
    }
  });
}

}  // namespace

int64_t weight_gradient_scratch(Dtype dtype, const Window& w, int64_t outputs) {
  if (dtype == Dtype::f64) {
    const Packed<double> sizes(w, outputs);
    return sizes.of_x(w) + sizes.of_g(w);
  }
  const Packed<float> sizes(w, outputs);
  return sizes.of_x(w) + sizes.of_g(w);
}

void weight_gradient(Dtype dtype, const Images* pairs, const Window& window, int64_t outputs, void* scratch,
                     void* out) {
  if (dtype == Dtype::f64) {
    run(pairs, window, outputs, static_cast<double*>(scratch), static_cast<double*>(out));
  } else {
    run(pairs, window, outputs, static_cast<float*>(scratch), static_cast<float*>(out));
  }
}

}  // namespace wgangp_fast::cpu::WGANGP_FAST_CAPABILITY
