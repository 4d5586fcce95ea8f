// The table of activations in plain double arithmetic, sharing nothing with common/activations.h.
#pragma once

#include <cmath>

#include "ops.h"

namespace wgangp_fast::testing {

inline constexpr int kKinds = 11;

inline Activation activation(int kind) {
  switch (kind) {
    case 2:
      return {2, 0.2, 0, 0};
    case 5:
      return {5, 1.6732632423543772, 1.0507009873554805, 0.75};
    case 9:
      return {9, 1.5, 4.0, 0};
    default:
      return {kind, 0, 0, 0};
  }
}

inline bool keeps_input(int kind) { return kind >= 6; }
inline bool has_curvature(int kind) { return kind >= 3; }

inline double logistic(double u) { return 1 / (1 + std::exp(-u)); }

inline double act_f(const Activation& act, double u) {
  const double pi = 3.14159265358979323846;
  switch (act.kind) {
    case 0:
      return u;
    case 1:
      return u > 0 ? u : u != u ? u : 0;
    case 2:
      return u > 0 ? u : act.p0 * u;
    case 3:
      return std::tanh(u);
    case 4:
      return logistic(u);
    case 5:
      return u > 0 ? act.p1 * u : act.p1 * act.p0 * std::expm1(act.p2 * u);
    case 6:
      return u * logistic(u);
    case 7:
      return 0.5 * u * std::erfc(-u / std::sqrt(2.0));
    case 8:
      return 0.5 * u * (1 + std::tanh(std::sqrt(2 / pi) * (u + 0.044715 * u * u * u)));
    case 9:
      return act.p0 * u > act.p1 ? u : std::log1p(std::exp(act.p0 * u)) / act.p0;
    default:
      return std::log1p(std::exp(2 * u + 2)) / 2 - 1;
  }
}

// Derivatives of what the table keeps: u, or y.
inline double act_df(const Activation& act, double k) {
  const double pi = 3.14159265358979323846;
  switch (act.kind) {
    case 0:
      return 1;
    case 1:
      return k > 0 ? 1 : 0;
    case 2:
      return k > 0 ? 1 : act.p0;
    case 3:
      return 1 - k * k;
    case 4:
      return k * (1 - k);
    case 5:
      return k > 0 ? act.p1 : act.p2 * (k + act.p1 * act.p0);
    case 6: {
      const double s = logistic(k);
      return s * (1 + k * (1 - s));
    }
    case 7:
      return 0.5 * std::erfc(-k / std::sqrt(2.0)) + k * std::exp(-k * k / 2) / std::sqrt(2 * pi);
    case 8: {
      const double r = std::sqrt(2 / pi), th = std::tanh(r * (k + 0.044715 * k * k * k));
      return 0.5 * (1 + th) + 0.5 * k * (1 - th * th) * r * (1 + 3 * 0.044715 * k * k);
    }
    case 9:
      return act.p0 * k > act.p1 ? 1 : logistic(act.p0 * k);
    default:
      return logistic(2 * k + 2);
  }
}

inline double act_d2f(const Activation& act, double k) {
  const double pi = 3.14159265358979323846;
  switch (act.kind) {
    case 3:
      return -2 * k * (1 - k * k);
    case 4:
      return k * (1 - k) * (1 - 2 * k);
    case 5:
      return k > 0 ? 0 : act.p2 * act.p2 * (k + act.p1 * act.p0);
    case 6: {
      const double s = logistic(k);
      return s * (1 - s) * (2 + k * (1 - 2 * s));
    }
    case 7:
      return std::exp(-k * k / 2) / std::sqrt(2 * pi) * (2 - k * k);
    case 8: {
      const double r = std::sqrt(2 / pi), th = std::tanh(r * (k + 0.044715 * k * k * k));
      const double dz = r * (1 + 3 * 0.044715 * k * k), d2z = r * 6 * 0.044715 * k, sech = 1 - th * th;
      return sech * dz + 0.5 * k * (sech * d2z - 2 * th * sech * dz * dz);
    }
    case 9: {
      const double s = logistic(act.p0 * k);
      return act.p0 * k > act.p1 ? 0 : act.p0 * s * (1 - s);
    }
    case 10: {
      const double s = logistic(2 * k + 2);
      return 2 * s * (1 - s);
    }
    default:
      return 0;
  }
}

}  // namespace wgangp_fast::testing
