// Vectors of 32 bytes, the same everywhere, so that sums run in the same lanes in every instruction set.

#pragma once

#include <cstdint>

namespace drcl {

template <class T>
struct Vector {
  static constexpr int64_t lanes = 32 / sizeof(T);
  typedef T type __attribute__((vector_size(32)));
  typedef T quad __attribute__((vector_size(4 * sizeof(T))));
};

typedef double Doubles __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));

}  // namespace drcl

#define DRCL_LOAD(vector, from) __builtin_memcpy(&(vector), (from), sizeof(vector))
#define DRCL_STORE(vector, to) __builtin_memcpy((to), &(vector), sizeof(vector))
