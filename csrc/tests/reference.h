// The activations and the norm in plain double precision, written from their definitions.
#pragma once

#include <cmath>
#include <functional>

#include "ops.h"

namespace reference {

struct Order {
  double f, d1, d2;
};

inline Order activation(const wgangp_fast::Activation& a, double u) {
  const double sigmoid = 1 / (1 + std::exp(-u));
  switch (a.kind) {
    case 0:
      return {u, 1, 0};
    case 1:
      return {u > 0 ? u : (std::isnan(u) ? u : 0.0), u > 0 ? 1.0 : 0.0, 0};
    case 2:
      return {u > 0 ? u : a.p0 * u, u > 0 ? 1.0 : a.p0, 0};
    case 3: {
      const double y = std::tanh(u);
      return {y, 1 - y * y, -2 * y * (1 - y * y)};
    }
    case 4:
      return {sigmoid, sigmoid * (1 - sigmoid), sigmoid * (1 - sigmoid) * (1 - 2 * sigmoid)};
    case 5: {
      const double e = std::exp(a.p2 * u);
      if (u > 0) return {a.p1 * u, a.p1, 0};
      return {a.p1 * a.p0 * (e - 1), a.p1 * a.p0 * a.p2 * e, a.p1 * a.p0 * a.p2 * a.p2 * e};
    }
    case 6: {
      const double s1 = sigmoid * (1 - sigmoid), s2 = s1 * (1 - 2 * sigmoid);
      return {u * sigmoid, sigmoid + u * s1, 2 * s1 + u * s2};
    }
    case 7: {
      const double cdf = 0.5 * std::erfc(-u / std::sqrt(2.0)),
                   pdf = std::exp(-u * u / 2) / std::sqrt(2 * M_PI);
      return {u * cdf, cdf + u * pdf, pdf * (2 - u * u)};
    }
    case 8: {
      const double k = std::sqrt(2 / M_PI), c = 0.044715, z = k * (u + c * u * u * u);
      const double z1 = k * (1 + 3 * c * u * u), z2 = 6 * k * c * u, h = std::tanh(z), h1 = 1 - h * h;
      return {0.5 * u * (1 + h), 0.5 * (1 + h) + 0.5 * u * h1 * z1,
              h1 * z1 + 0.5 * u * (h1 * z2 - 2 * h * h1 * z1 * z1)};
    }
    case 9: {
      const double b = a.p0, s = 1 / (1 + std::exp(-b * u));
      if (b * u > a.p1) return {u, 1, 0};
      return {std::log1p(std::exp(b * u)) / b, s, b * s * (1 - s)};
    }
    default: {
      const double z = 2 * u + 2, s = 1 / (1 + std::exp(-z));
      return {std::log1p(std::exp(z)) / 2 - 1, s, 2 * s * (1 - s)};
    }
  }
}

inline bool keeps_input(int kind) { return kind >= 6; }

inline const wgangp_fast::Activation activations[] = {
    {0, 0, 0, 0}, {1, 0, 0, 0}, {2, 0.2, 0, 0}, {3, 0, 0, 0}, {4, 0, 0, 0}, {5, 1.67, 1.05, 0.9},
    {6, 0, 0, 0}, {7, 0, 0, 0}, {8, 0, 0, 0},   {9, 2, 3, 0}, {10, 0, 0, 0}};

}  // namespace reference
