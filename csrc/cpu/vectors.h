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

// The transpose (m, n) of a matrix (n, m) of rows; a line of a column is written at once.
template <class T>
void transpose(const T* rows, int64_t n, int64_t m, T* columns) {
  constexpr int64_t kLine = 16;
  for (int64_t from = 0; from < n; from += kLine) {
    const int64_t to = n < from + kLine ? n : from + kLine;
    for (int64_t j = 0; j < m; ++j) {
      for (int64_t i = from; i < to; ++i) columns[j * n + i] = rows[i * m + j];
    }
  }
}

typedef double Doubles __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));

}  // namespace drcl

#define DRCL_LOAD(vector, from) __builtin_memcpy(&(vector), (from), sizeof(vector))
#define DRCL_STORE(vector, to) __builtin_memcpy((to), &(vector), sizeof(vector))
