// What the library was built from, by what, and for what: lines "name: text". A C function, which any
// Python can ask through ctypes; built with WGANGP_FAST_PYBIND, a module for one Python as well.
#include <string>
#include <utility>
#include <vector>

// The build passes these as text; a build that does not know one leaves it empty.
#ifndef WGANGP_FAST_INFO_COMPILER
#define WGANGP_FAST_INFO_COMPILER __VERSION__
#endif
#ifndef WGANGP_FAST_INFO_CAPABILITIES
#define WGANGP_FAST_INFO_CAPABILITIES ""
#endif
#ifndef WGANGP_FAST_INFO_CUDA
#define WGANGP_FAST_INFO_CUDA ""
#endif
#ifndef WGANGP_FAST_INFO_ARCHITECTURES
#define WGANGP_FAST_INFO_ARCHITECTURES ""
#endif
#ifndef WGANGP_FAST_INFO_TORCH_TARGET
#define WGANGP_FAST_INFO_TORCH_TARGET ""
#endif
#ifndef WGANGP_FAST_INFO_TORCH_BUILT_WITH
#define WGANGP_FAST_INFO_TORCH_BUILT_WITH ""
#endif
#ifndef WGANGP_FAST_INFO_SOURCES
#define WGANGP_FAST_INFO_SOURCES ""
#endif
#ifndef WGANGP_FAST_INFO_COMMIT
#define WGANGP_FAST_INFO_COMMIT ""
#endif

namespace {

std::vector<std::pair<const char*, std::string>> entries() {
  return {
      {"compiler", WGANGP_FAST_INFO_COMPILER},
      {"standard", "C++" + std::to_string(__cplusplus / 100 % 100)},
      {"capabilities", WGANGP_FAST_INFO_CAPABILITIES},
      {"cuda", WGANGP_FAST_INFO_CUDA},
      {"architectures", WGANGP_FAST_INFO_ARCHITECTURES},
      {"torch_target", WGANGP_FAST_INFO_TORCH_TARGET},
      {"torch_built_with", WGANGP_FAST_INFO_TORCH_BUILT_WITH},
      {"sources", WGANGP_FAST_INFO_SOURCES},
      {"commit", WGANGP_FAST_INFO_COMMIT},
  };
}

}  // namespace

extern "C" [[gnu::visibility("default")]] const char* wgangp_fast_build_info() {
  static const std::string text = [] {
    std::string lines;
    for (const auto& [name, value] : entries()) lines += std::string(name) + ": " + value + "\n";
    return lines;
  }();
  return text.c_str();
}

#ifdef WGANGP_FAST_PYBIND
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_build_info, m) {
  m.doc() = "How the native part of wgangp_fast was built.";
  m.def(
      "info",
      [] {
        pybind11::dict result;
        for (const auto& [name, value] : entries()) result[name] = value;
        return result;
      },
      "Compiler, C++ standard, instruction sets, CUDA, torch and commit of the build, as a dict of texts.");
}
#endif
