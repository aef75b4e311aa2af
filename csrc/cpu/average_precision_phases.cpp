// drcl::average_precision_phases: the GPU's code run by a loop on the CPU, so that it is tested anywhere.
// `threads` threads take turns within each phase, from the first to the last or, when it is negative, from
// the last to the first: a phase that depends on their order gives another result.

#include "average_precision_inputs.h"
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
void rank_all(const phases::Inputs<T>& in, const Request& want, int64_t queries, int64_t most,
              int64_t threads, double* out) {
  const auto layout = phases::Layout::of(in, want, most, std::abs(threads));
  // not zero: everything used must be written
  std::vector<int64_t> near(layout.near_bytes / 8, -1), far(layout.far_bytes / 8, -1);
  const auto workspace = layout.template at<T>(reinterpret_cast<char*>(near.data()),
                                               reinterpret_cast<char*>(far.data()));
  for (int64_t q = 0; q < queries; ++q) {
    const auto rank = in.average_ties ? phases::rank_query<true, T, InTurns> : phases::rank_query<false, T, InTurns>;
    rank(in, want, workspace, q, out + q * want.width(), InTurns{threads});
  }
}

Tensor average_precision_phases(
    const Tensor& scores, const std::optional<Tensor>& scale, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& left_out_offsets, const std::optional<Tensor>& left_out,
    const Tensor& member_offsets, const Tensor& members, const std::optional<Tensor>& offsets,
    const std::optional<Tensor>& items, const std::optional<Tensor>& gains,
    const std::optional<Tensor>& bits, int64_t most, const std::vector<int64_t>& cutoffs,
    int64_t depth, int64_t divisor, bool average_ties, int64_t levels, const std::optional<Tensor>& discounts,
    int64_t threads) {
  check_scores(scores);
  STD_TORCH_CHECK(threads != 0, "threads: expected at least one");
  const Request want{cutoffs.data(), static_cast<int64_t>(cutoffs.size()), depth,
                     static_cast<Divisor>(divisor), levels, pointer<double>(discounts)};
  Tensor out = torch::stable::empty({scores.size(0), want.width()},
                                    torch::headeronly::ScalarType::Double);
  double* rows = static_cast<double*>(out.mutable_data_ptr());
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    rank_all(inputs<T>(scores, scale, bias, left_out_offsets, left_out, member_offsets, members,
                       offsets, items, gains, bits, average_ties),
             want, scores.size(0), most, threads, rows);
  };
  scores.scalar_type() == torch::headeronly::ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

}  // namespace
}  // namespace drcl

STABLE_TORCH_LIBRARY_IMPL(drcl, CPU, m) {
  m.impl("average_precision_phases", TORCH_BOX(&drcl::average_precision_phases));
}
