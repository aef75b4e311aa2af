// drcl._C: says how the compiled part was built and what this CPU can do, and loads the ops.
//
// It links no torch library, so that it can be imported, and can explain what is wrong, even where the
// ops cannot be loaded.

#include <pybind11/pybind11.h>

#include <string>

#ifndef DRCL_CUDA_ARCH_LIST
#define DRCL_CUDA_ARCH_LIST ""  // no CUDA code was compiled
#endif
#ifndef DRCL_FLAGS
#define DRCL_FLAGS "unknown"
#define DRCL_TORCH "unknown"
#endif

namespace py = pybind11;

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
// those that the dispatch of the CPU ops uses. AVX-512 means the set every server since 2017 has.
std::string cpu_capability() {
#if (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__i386__))
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
  return "default";
}

void load_ops(const std::string& library) {
  py::module_::import("torch").attr("ops").attr("load_library")(library);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "How the compiled part of drcl was built, and the loader of its ops.";
  m.attr("compiler") = compiler();
  m.attr("cxx_standard") = static_cast<long>(__cplusplus) / 100 % 100;
  m.attr("cuda_arch_list") = DRCL_CUDA_ARCH_LIST;
  m.attr("flags") = DRCL_FLAGS;
  m.attr("torch") = DRCL_TORCH;
  m.def("cpu_capability", &cpu_capability,
        "The instruction set this CPU can run: 'avx512', 'avx2' or 'default'.");
  m.def("load_ops", &load_ops, py::arg("library"),
        "Load the shared library with the ops and register them under torch.ops.drcl.");
}
