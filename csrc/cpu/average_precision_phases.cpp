// drcl::average_precision_phases: the GPU's code run by a loop on the CPU, so that it is tested anywhere.
// `threads` threads take turns within each phase, from the first to the last or, when it is negative, from
// the last to the first: a phase that depends on their order gives another result.

#include "average_precision_arguments.h"
#include "average_precision_workspace.h"

#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <vector>

namespace drcl {
namespace {

struct InTurns {
  int64_t threads;

  template <class Phase>
  void operator()(const Phase& phase) const {
    const int32_t count = static_cast<int32_t>(std::abs(threads));
    for (int32_t t = 0; t < count; ++t) phase(threads > 0 ? t : count - 1 - t, count);
  }
};

template <class T>
void rank_all(const Queries<T>& in, const Request& want, int64_t threads, double* out) {
  const auto layout = phases::Layout::of(in, want, std::abs(threads));
  // not zero: everything used must be written
  std::vector<int64_t> near(layout.near_bytes / 8, -1), far(layout.far_bytes / 8, -1);
  const auto workspace = layout.template at<T>(reinterpret_cast<char*>(near.data()),
                                               reinterpret_cast<char*>(far.data()));
  for (int64_t q = 0; q < in.queries; ++q) {
    const auto rank = in.average_ties ? phases::rank_query<true, T, InTurns> : phases::rank_query<false, T, InTurns>;
    rank(in, want, workspace, q, out + q * want.width(), InTurns{threads});
  }
}

Tensor average_precision_phases(const Arguments& a) {
  STD_TORCH_CHECK(a.limit != 0, "threads: expected at least one");
  return a.table([&](const auto& in, const Request& want, double* rows) { rank_all(in, want, a.limit, rows); });
}

}  // namespace
}  // namespace drcl

STABLE_TORCH_LIBRARY_IMPL(drcl, CPU, m) {
  m.impl("average_precision_phases", TORCH_BOX(&drcl::flat<drcl::average_precision_phases>));
}
