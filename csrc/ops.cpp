// The schemas of the compiled ops. Their CPU code is in cpu/, their CUDA code in cuda/, one file per op
// family. drcl/ops/ wraps them: what is checked there is not checked again here.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(drcl, m) {
  // Everything there is to say about the rankings of a block of queries, one row of numbers a query.
  // Shapes, and the columns of the result: csrc/average_precision.h. `memory`: bytes to work in, which bound
  // how many queries are ranked at a time; the least is one query's.
  m.def(
      "average_precision(Tensor scores, Tensor? scale, Tensor? bias, Tensor? left_out_offsets, "
      "Tensor? left_out, Tensor member_offsets, Tensor members, Tensor? offsets, Tensor? items, "
      "Tensor? gains, Tensor? bits, int most, int[] cutoffs, int depth, int divisor, bool average_ties, "
      "int levels, Tensor? discounts, int memory) -> Tensor");
  // Whether the ranking has code for a CUDA device: what was built may be for others.
  m.def("ranks_on(int device) -> bool");
  // average_precision by the GPU's code in a loop on the CPU, `threads` in turn: for tests.
  m.def(
      "average_precision_phases(Tensor scores, Tensor? scale, Tensor? bias, Tensor? "
      "left_out_offsets, Tensor? left_out, Tensor member_offsets, Tensor members, Tensor? offsets, "
      "Tensor? items, Tensor? gains, Tensor? bits, int most, int[] cutoffs, int depth, int divisor, "
      "bool average_ties, int levels, Tensor? discounts, int threads) -> Tensor");
}
