// mlp_penalty and mlp_penalty_backward, against loops in double.
//
// Every layer is checked from the kernel's own results of the layer before, so that the tolerance is that of
// one product, and a kink does not take another side in the truth than in the kernel.
#pragma once

#include "tests/device_support.h"

namespace wgangp_fast::testing {

struct MlpShape {
  const char* name;
  int64_t rows;
  std::vector<int64_t> widths;  // D0, the hidden layers', 1
  int32_t act;
  bool masks, biases, drawn;
  double target;
  bool one_sided;
};

class MlpCase {
 public:
  MlpCase(Dtype dtype, const MlpShape& shape, int32_t reduction)
      : dtype_(dtype), shape_(shape), reduction_(reduction), rows_(shape.rows), d0_(shape.widths[0]) {
    what_ = std::string("mlp_penalty ") + name_of(dtype) + " " + shape.name + " reduction " +
            std::to_string(reduction);
    mlp_.rows = rows_;
    mlp_.layers = static_cast<int32_t>(shape.widths.size()) - 1;
    mlp_.act = shape.act;
    mlp_.negative_slope = 0.25;
    for (int32_t l = 0; l <= mlp_.layers; ++l) mlp_.widths[l] = shape.widths[static_cast<size_t>(l)];
    for (int32_t l = 0; l < mlp_.layers; ++l) {
      const int64_t in = mlp_.widths[l], out = mlp_.widths[l + 1];
      const auto seed = static_cast<unsigned>(100 + l);
      keep(numbers(in * out, seed, 1.5 / std::sqrt(static_cast<double>(in))), weight_, mlp_.weights[l]);
      biases_.emplace_back(shape.biases ? numbers(out, seed + 10, 0.3)
                                        : Doubles(static_cast<size_t>(out), 0));
      if (shape.biases) keep(Doubles(biases_.back()), bias_, mlp_.biases[l]);
      Doubles mask(static_cast<size_t>(rows_ * out), 1);
      if (shape.masks && l + 1 < mlp_.layers) {
        const Doubles draw = numbers(rows_ * out, seed + 20);
        for (size_t i = 0; i < mask.size(); ++i) mask[i] = draw[i] > -0.5 ? 2 : 0;  // exact in every dtype
        keep(Doubles(mask), mask_, mlp_.masks[l]);
      }
      masks_.push_back(mask);
      offsets_.push_back(columns_);
      if (l + 1 < mlp_.layers) columns_ += out;
    }
  }

  void run() {
    const Buffer real(dtype_, numbers(rows_ * d0_, 1)), fake(dtype_, numbers(rows_ * d0_, 2));
    Doubles given(static_cast<size_t>(rows_));
    for (size_t i = 0; i < given.size(); ++i) given[i] = static_cast<double>(i % 8) / 8;
    const Buffer alpha(dtype_, given);
    const auto out = run_all(what_, [&] {
      std::vector<Buffer> made;
      for (const int64_t count : {reduction_ == 0 ? rows_ : 1, rows_, rows_})
        made.emplace_back(Dtype::f32, count);
      for (const int64_t count : {rows_, rows_ * d0_, rows_ * d0_, rows_ * columns_, rows_ * columns_})
        made.emplace_back(dtype_, count);
      const Buffer penalties(Dtype::f32, rows_), ticket(Dtype::f32, Doubles{0});
      cuda::mlp_penalty(
          dtype_, real.at(), fake.at(), shape_.drawn ? nullptr : alpha.at(), 0x123456789abcdefull,
          0x100000002ull, mlp_, shape_.target, shape_.one_sided, reduction_, made[0].at(), made[1].at(),
          made[2].at(), made[3].at(), made[4].at(), made[5].at(), made[6].at(), made[7].at(),
          reduction_ == 0 ? made[0].at() : penalties.at(), static_cast<int32_t*>(ticket.at()), nullptr);
      if (ticket.read()[0] != 0) fail(what_ + ": the ticket is not 0 again");
      return made;
    });
    const Doubles &value = out[0], &norm = out[1], &slope = out[2], &a = out[3], &x = out[4],
                  &gradient = out[5];
    const Doubles &h = out[6], &g = out[7];

    if (!shape_.drawn) expect_close(what_ + " alpha", dtype_, a, given, 0);
    for (size_t i = 0; i < a.size(); ++i)
      if (!(a[i] >= 0 && a[i] < 1) || (i > 0 && shape_.drawn && a[i] == a[0] && i < 3))
        fail(what_ + ": draw");
    Doubles truth;
    const Doubles r = real.read(), f = fake.read();
    for (size_t i = 0; i < r.size(); ++i) {
      const double weight = a[i / static_cast<size_t>(d0_)];
      truth.push_back(f[i] + weight * (r[i] - f[i]));
    }
    expect_close(what_ + " x", dtype_, x, truth, 2);

    const int32_t hidden = mlp_.layers - 1;
    Doubles h_truth(h.size()), g_truth(g.size()), gradient_truth(gradient.size());
    for (int64_t row = 0; row < rows_; ++row) {
      for (int32_t l = 0; l < hidden; ++l)
        for (int64_t n = 0; n < mlp_.widths[l + 1]; ++n) {
          double u = biases_[static_cast<size_t>(l)][static_cast<size_t>(n)];
          for (int64_t k = 0; k < mlp_.widths[l]; ++k)
            u += w(l, n, k) * (l == 0 ? x[at(row, d0_, k)] : h[of(row, l - 1, k)] * mask(l - 1, row, k));
          h_truth[of(row, l, n)] = activation(u);
        }
      for (int32_t l = hidden; l >= 0; --l)  // cotangent of the input of layer l
        for (int64_t k = 0; k < mlp_.widths[l]; ++k) {
          double v = 0;
          for (int64_t n = 0; n < mlp_.widths[l + 1]; ++n)
            v += w(l, n, k) * (l == hidden ? 1 : g[of(row, l, n)]);
          if (l == 0)
            gradient_truth[at(row, d0_, k)] = v;
          else
            g_truth[of(row, l - 1, k)] = v * mask(l - 1, row, k) * derivative(h[of(row, l - 1, k)]);
        }
    }
    expect_close(what_ + " h", dtype_, h, h_truth, 8);
    expect_close(what_ + " g", dtype_, g, g_truth, 8);
    expect_close(what_ + " gradient", dtype_, gradient, gradient_truth, 8);

    Doubles penalty, lengths, slopes;
    double sum = 0;
    for (int64_t row = 0; row < rows_; ++row) {
      double squared = 0;
      for (int64_t k = 0; k < d0_; ++k) squared += gradient[at(row, d0_, k)] * gradient[at(row, d0_, k)];
      const double length = std::sqrt(squared);
      double excess = length - shape_.target;
      if (shape_.one_sided && shape_.target != 0 && excess < 0) excess = 0;
      const double rate = shape_.target == 0 ? 2 : length == 0 ? 0 : 2 * excess / length;
      penalty.push_back(excess * excess);
      lengths.push_back(length);
      slopes.push_back(reduction_ == 2 ? rate / static_cast<double>(rows_) : rate);
      sum += penalty.back();
    }
    if (reduction_ != 0)
      penalty = {reduction_ == 1 ? sum : rows_ == 0 ? std::nan("") : sum / static_cast<double>(rows_)};
    expect_close(what_ + " value", Dtype::f32, value, penalty, 4);
    expect_close(what_ + " norm", Dtype::f32, norm, lengths, 2);
    expect_close(what_ + " slope", Dtype::f32, slope, slopes, 8);
    for (const bool per_row : {false, true}) backward(per_row, slope, gradient, h, g);
  }

 private:
  void backward(bool per_row, const Doubles& slope, const Doubles& gradient, const Doubles& h,
                const Doubles& g) {
    const bool curved = mlp_.act == 3;
    const int32_t hidden = mlp_.layers - 1;
    const int64_t wide = d0_ + columns_;
    const Doubles rate = numbers(per_row ? rows_ : 1, 5);
    const Buffer incoming(Dtype::f32, rate), slopes(Dtype::f32, slope), gradients(dtype_, gradient);
    const Buffer hs(dtype_, h), gs(dtype_, g);
    const auto out = run_all(what_ + " backward", [&] {
      std::vector<Buffer> made;
      made.emplace_back(dtype_, rows_ * wide);
      made.emplace_back(dtype_, curved ? rows_ * columns_ : 0);
      cuda::mlp_penalty_backward(dtype_, incoming.at(), per_row, slopes.at(), gradients.at(), hs.at(),
                                 gs.at(), mlp_, made[0].at(), curved ? made[1].at() : nullptr, nullptr);
      return made;
    });
    const Doubles &t = out[0], &c = out[1];
    Doubles t_truth(t.size()), c_truth(c.size());
    double largest = 1;
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t k = 0; k < d0_; ++k)
        t_truth[at(row, wide, k)] = gradient[at(row, d0_, k)] * slope[static_cast<size_t>(row)] *
                                    rate[per_row ? static_cast<size_t>(row) : 0];
      for (int32_t l = 0; l < hidden; ++l)
        for (int64_t n = 0; n < mlp_.widths[l + 1]; ++n) {
          const int64_t before = l == 0 ? 0 : d0_ + offsets_[static_cast<size_t>(l - 1)];
          double moved = 0, carried = 0;
          for (int64_t k = 0; k < mlp_.widths[l]; ++k) moved += w(l, n, k) * t[at(row, wide, before + k)];
          const double y = h[of(row, l, n)], slanted = derivative(y) * mask(l, row, n);
          t_truth[at(row, wide, d0_ + offsets_[static_cast<size_t>(l)] + n)] = slanted * moved;
          if (!curved) continue;
          if (l + 1 < hidden)
            for (int64_t m = 0; m < mlp_.widths[l + 2]; ++m) carried += w(l + 1, m, n) * c[of(row, l + 1, m)];
          const double curvature = -2 * y * g[of(row, l, n)] * moved;
          c_truth[of(row, l, n)] = slanted * carried + curvature;
          largest = std::max(largest, std::fabs(curvature));
        }
    }
    expect_close(what_ + " t", dtype_, t, t_truth, 16);
    // The curvature is rounded once by itself before the carried part is added.
    expect_close(what_ + " c", dtype_, c, c_truth, 16 + unit_of(dtype_) * largest / 4e-6);
  }

  void keep(const Doubles& values, std::vector<Buffer>& list, const void*& pointer) {
    list.emplace_back(dtype_, values);
    pointer = list.back().at();
    if (&list == &weight_) weights_.push_back(list.back().read());
    if (&list == &bias_) biases_.back() = list.back().read();
  }
  static size_t at(int64_t row, int64_t width, int64_t column) {
    return static_cast<size_t>(row * width + column);
  }
  size_t of(int64_t row, int32_t l, int64_t n) const {
    return at(row, columns_, offsets_[static_cast<size_t>(l)] + n);
  }
  double w(int32_t l, int64_t n, int64_t k) const {
    return weights_[static_cast<size_t>(l)][at(n, mlp_.widths[l], k)];
  }
  double mask(int32_t l, int64_t row, int64_t n) const {
    return masks_[static_cast<size_t>(l)][at(row, mlp_.widths[l + 1], n)];
  }
  double activation(double u) const {
    if (mlp_.act == 3) return std::tanh(u);
    return mlp_.act == 0 || u > 0 ? u : mlp_.act == 1 ? 0 : u * mlp_.negative_slope;
  }
  double derivative(double y) const {
    if (mlp_.act == 3) return 1 - y * y;
    return mlp_.act == 0 || y > 0 ? 1 : mlp_.act == 1 ? 0 : mlp_.negative_slope;
  }

  Dtype dtype_;
  MlpShape shape_;
  int32_t reduction_;
  int64_t rows_, d0_, columns_ = 0;
  std::string what_;
  Mlp mlp_{};
  std::vector<Buffer> weight_, bias_, mask_;
  std::vector<Doubles> weights_, biases_, masks_;
  std::vector<int64_t> offsets_;
};

inline int mlp_penalty_cases() {
  const MlpShape shapes[] = {
      {"no rows", 0, {4, 5, 1}, 1, false, true, false, 1, false},
      {"one layer", 20, {7, 1}, 1, false, true, false, 1, false},
      {"leaky", 50, {13, 33, 16, 1}, 2, false, true, false, 1, false},
      {"tanh, masks", 21, {5, 40, 33, 9, 1}, 3, true, true, true, 1, false},
      {"relu, deep", 9, {150, 17, 7, 5, 6, 40, 1}, 1, true, false, true, 0.5, true},
      {"identity, zero-centred", 3, {5, 70, 1}, 0, false, false, false, 0, false},
      {"tanh, medium tiles", 261, {3, 37, 20, 1}, 3, true, true, false, 1, false},
      {"leaky, large tiles", 1030, {3, 70, 5, 1}, 2, true, true, true, 1, false},
  };
  int count = 0;
  for (const Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16})
    for (const MlpShape& shape : shapes) MlpCase(dtype, shape, count++ % 3).run();
#ifdef WGANGP_FAST_EMULATED
  emulation::settings.clusters = false;
#endif
  for (const MlpShape& shape : {shapes[3], shapes[5]}) MlpCase(Dtype::f32, shape, count++ % 3).run();
  return count;
}

}  // namespace wgangp_fast::testing
