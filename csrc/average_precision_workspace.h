// The memory of average_precision_phases.h: one slice of bytes for each group of threads.

#pragma once

#include "average_precision_phases.h"

#include <type_traits>

namespace drcl::phases {

struct Layout {
  int64_t capacity, groups, words, threads, cutoffs, bytes;

  // `most`: the most relevant items that a query can have.
  template <class T>
  static Layout of(int64_t n, int64_t most, int64_t threads, int64_t cutoffs, bool ties) {
    const int64_t capacity = power_of_two(most < n ? most : n);
    Layout layout{capacity, ties ? capacity : 0, (n + 31) / 32, threads, cutoffs, 0};
    char start;  // any address but null, which nothing may be added to
    layout.bytes = (layout.template slice<T>(&start).second + 255) / 256 * 256;
    return layout;
  }

  // The slice at `base`, and how many bytes it takes. Widest first, so that everything is aligned.
  template <class T>
  DRCL_HD auto slice(char* base) const {
    struct Slice {
      Workspace<T> first;
      int64_t second;
    } slice{};
    int64_t at = 0;
    const auto take = [&](auto*& pointer, int64_t count) {
      pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(base + at);
      at += count * static_cast<int64_t>(sizeof(*pointer));
    };
    Workspace<T>& w = slice.first;
    take(w.partial, threads + 1);
    take(w.ideal, cutoffs + 1);
    take(w.groups, groups);
    if constexpr (sizeof(T) == 8) take(w.score, capacity);
    if constexpr (sizeof(T) == 4) take(w.score, (capacity + 1) / 2 * 2);
    take(w.item, capacity);
    take(w.below, capacity + 1);
    take(w.tied, capacity + 1);
    take(w.gain, capacity);
    take(w.best, capacity);
    take(w.relevant, words);
    take(w.left_out, words);
    take(w.found, 3);
    slice.second = at;
    return slice;
  }
};

}  // namespace drcl::phases
