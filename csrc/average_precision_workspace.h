// The memory of average_precision_phases.h: for each group of threads two slices of bytes, a near one, which
// every phase works in, on a GPU in shared memory where it fits, and a far one for what is touched seldom.

#pragma once

#include "average_precision_phases.h"

namespace drcl::phases {

// Where in its slice each array lies. Computed once on the host: in a kernel these are constants that cost
// no registers.
struct Layout {
  // near: 32 bits are enough for shared memory, not for all
  int64_t keys, other, scale, gained, gain, best, tied, ends, partial, found, near_bytes;
  int64_t groups, ideal, relevant, excluded, far_bytes;

  template <class T>
  static Layout of(const Queries<T>& in, const Request& want, int64_t threads) {
    const int64_t most = in.max_relevant < in.n ? in.max_relevant : in.n;
    const int64_t capacity = most > 0 ? most : 1, words = (in.n + 31) / 32;
    const int64_t gains = want.needs_gains() ? capacity : 0;
    int64_t at = 0;
    const auto take = [&](int64_t count, size_t size) {
      const int64_t begin = at;
      at += count * static_cast<int64_t>(size);
      return begin;
    };
    const auto all = [&](int64_t alignment) {
      const int64_t bytes = (at + alignment - 1) / alignment * alignment;
      at = 0;
      return bytes;
    };
    Layout l;  // widest first, so that everything is aligned
    l.keys = take(capacity, sizeof(Key<T>));
    l.other = take(capacity + 1, sizeof(Key<T>));
    l.gained = take(gains, sizeof(double));
    l.scale = take(2, sizeof(Scale<T>));  // two: a whole number of doubles
    l.gain = take(gains, sizeof(int32_t));
    l.best = take(gains, sizeof(int32_t));
    l.tied = take(in.average_ties ? capacity + 1 : 0, sizeof(int32_t));
    l.ends = take(capacity + 1, sizeof(int32_t));
    l.partial = take(threads, sizeof(int32_t));
    l.found = take(4, sizeof(int32_t));
    l.near_bytes = all(16);
    l.groups = take(in.average_ties ? capacity : 0, sizeof(TieGroup));
    l.ideal = take(want.num_cutoffs, sizeof(double));
    l.relevant = take(words, sizeof(uint32_t));
    l.excluded = take(words, sizeof(uint32_t));
    l.far_bytes = all(256);
    return l;
  }

  // The counts lie where the keys were sorted into steps, and the precisions where they were in the end.
  template <class T>
  DRCL_HD Workspace<T> at(char* near, char* far) const {
    return {
        reinterpret_cast<Key<T>*>(near + keys),       reinterpret_cast<Key<T>*>(near + other),
        reinterpret_cast<int32_t*>(near + ends),      reinterpret_cast<int32_t*>(near + other),
        reinterpret_cast<int32_t*>(near + tied),      reinterpret_cast<double*>(near + keys),
        reinterpret_cast<int32_t*>(near + gain),      reinterpret_cast<int32_t*>(near + best),
        reinterpret_cast<double*>(near + gained),     reinterpret_cast<int32_t*>(near + partial),
        reinterpret_cast<uint32_t*>(far + relevant),  reinterpret_cast<uint32_t*>(far + excluded),
        reinterpret_cast<TieGroup*>(far + groups),    reinterpret_cast<double*>(far + ideal),
        reinterpret_cast<Scale<T>*>(near + scale),    reinterpret_cast<int32_t*>(near + found),
    };
  }
};

}  // namespace drcl::phases
