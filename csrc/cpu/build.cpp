// How this library was built and what this CPU can do, for `drcl info`. A plain C function, which
// drcl/backends.py calls through ctypes: it depends on no Python, as nothing here does.

#include "instruction_sets.h"

#include <string>

#ifndef DRCL_CUDA_ARCH_LIST
#define DRCL_CUDA_ARCH_LIST ""  // no CUDA code was compiled
#endif
#ifndef DRCL_FLAGS
#define DRCL_FLAGS "unknown"
#define DRCL_TORCH "unknown"
#endif

#if defined(_MSC_VER)
#define DRCL_EXPORT extern "C" __declspec(dllexport)
#else
#define DRCL_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#elif defined(_MSC_VER)
  return "msvc " + std::to_string(_MSC_VER);
#else
  return "unknown";
#endif
}

// The best instruction set that this processor, not the one it was compiled on, can run. The names are
// those that the dispatch of the CPU ops uses.
std::string cpu_capability() {
#if defined(DRCL_X86)
  if (drcl::has_avx512()) return "avx512";
  if (drcl::has_avx2()) return "avx2";
#endif
  return "default";
}

}  // namespace

// Lines of name=value; the text lives as long as the library.
DRCL_EXPORT const char* drcl_build() {
  static const std::string text = "compiler=" + compiler() +
                                  "\ncxx_standard=" + std::to_string(__cplusplus / 100 % 100) +
                                  "\nflags=" DRCL_FLAGS "\ntorch=" DRCL_TORCH
                                  "\ncuda_arch_list=" DRCL_CUDA_ARCH_LIST
                                  "\ncpu_capability=" + cpu_capability();
  return text.c_str();
}
