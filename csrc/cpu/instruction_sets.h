// Code for an instruction set of x86 processors, and whether it may run here.

#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define DRCL_X86

#include <cstdlib>
#include <cstring>

// What stands between DRCL_TARGET("avx2") and DRCL_END_TARGET is compiled for that instruction set; on other
// processors as the rest.
#define DRCL_PRAGMA(...) _Pragma(#__VA_ARGS__)
#if defined(__clang__)
#define DRCL_TARGET(set) DRCL_PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define DRCL_END_TARGET DRCL_PRAGMA(clang attribute pop)
#else
#define DRCL_TARGET(set) DRCL_PRAGMA(GCC push_options) DRCL_PRAGMA(GCC target(set))
#define DRCL_END_TARGET DRCL_PRAGMA(GCC pop_options)
#endif

namespace drcl {

// AVX-512 means the set every server since 2017 has.
inline bool has_avx512() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

inline bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

// Whether a product is fused with a sum by one instruction.
inline bool has_fma() { return has_avx2(); }

// DRCL_CPU_CAPABILITY=default|avx2 holds a newer processor back, to test and to compare.
inline bool allows(const char* set) {
  const char* limit = std::getenv("DRCL_CPU_CAPABILITY");
  return limit == nullptr || *limit == '\0' || std::strcmp(limit, "avx512") == 0 || std::strcmp(limit, set) == 0;
}

inline bool runs_avx512() { return allows("avx512") && has_avx512(); }
inline bool runs_avx2() { return allows("avx2") && has_avx2(); }
inline bool ends_with_avx2() { return runs_avx2() && !runs_avx512(); }

}  // namespace drcl

#else

#define DRCL_TARGET(set)
#define DRCL_END_TARGET

namespace drcl {

constexpr bool has_fma() { return true; }  // of 64 bits: aarch64 and others of today
constexpr bool runs_avx2() { return false; }
constexpr bool ends_with_avx2() { return false; }

}  // namespace drcl

#endif
