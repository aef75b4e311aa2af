// The schemas of the compiled ops. Their CPU code is in cpu/, their CUDA code in cuda/, one file per op
// family. drcl/ops/ wraps them: what is checked there is not checked again here.

#include <torch/csrc/stable/library.h>

// What every form of the ranking is given: csrc/average_precision_arguments.h, drcl/ops/average_precision.py.
#define DRCL_RANKING_ARGUMENTS                                                                      \
  "Tensor scores, Tensor? scale, Tensor? bias, Tensor? excluded_offsets, Tensor? excluded, "        \
  "Tensor member_offsets, Tensor members, Tensor? offsets, Tensor? items, Tensor? gains, "          \
  "Tensor? bits, int max_relevant, int[] cutoffs, int depth, int divisor, bool average_ties, "      \
  "int recall_levels, Tensor? discounts, int ranks, bool rank_gains"

STABLE_TORCH_LIBRARY_FRAGMENT(drcl, m) {
  // Everything there is to say about the rankings of a block of queries, one row of numbers a query.
  // Shapes: drcl/ranking.py; the columns of the result: csrc/average_precision.h. `max_bytes` to work in
  // bound how many queries are ranked at a time; the least is one query's.
  m.def("average_precision(" DRCL_RANKING_ARGUMENTS ", int max_bytes) -> Tensor");
  // What small evaluations by classes are ranked with: drcl/metrics/plain.py.
  m.def("class_lists(Tensor lengths, Tensor query_lengths, Tensor? gallery, Tensor query_ids, Tensor ids) "
        "-> (Tensor, Tensor, Tensor, Tensor, int)");
  // How many codes lie at each Hamming distance, 0 to `bits`, from every query: drcl/ops/hamming_counts.py.
  m.def("hamming_counts(Tensor query, Tensor gallery, Tensor? begins, Tensor? ends, Tensor? items, int bits) -> Tensor");
  // Queries against many rows: drcl/ops/inner_products.py.
  m.def("inner_products(Tensor query, Tensor gallery, Tensor(a!) out, bool few) -> ()");
  m.def("upper_products(Tensor rows, Tensor(a!) out) -> ()");
  m.def("column_products(Tensor rows, Tensor? others, Tensor(a!) out, Tensor(b!)? crossed) -> ()");
  m.def("transposed_product(Tensor rows, Tensor matrix, Tensor(a!) out) -> ()");
  m.def("multiplies_panels() -> bool");
  // The highest scores of every query, tile by tile: drcl/ops/top_k.py.
  m.def("top_k(Tensor scores, int begin, Tensor(a!) values, Tensor(b!) indices) -> ()");
  m.def("top_k_screened(Tensor screen, Tensor slack, Tensor queries, Tensor rows, Tensor? scale, int begin, int limit, "
        "Tensor(a!) values, Tensor(b!) indices) -> int");
  m.def("rounded_rows(Tensor rows, Tensor? scale) -> (Tensor, Tensor, Tensor)");
  m.def("multiplies_bfloat16() -> bool");
  m.def("top_k_by_integers(Tensor whole_queries, Tensor query_steps, Tensor whole_rows, Tensor row_steps, Tensor slack, "
        "Tensor queries, Tensor rows, Tensor? scale, int begin, int limit, Tensor(a!) values, Tensor(b!) indices) -> int");
  m.def("integer_rows(Tensor rows, Tensor? scale) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("multiplies_int16() -> bool");
  // Sums over the first relevant items of every ranking: drcl/ops/rank_sums.py.
  m.def("rank_sums(Tensor ranks, Tensor values, Tensor counts, Tensor? weights) -> Tensor");
  // The generalised cross-entropy by rows, its gradient beside the logits or in their place:
  // drcl/native/cross_entropy.py.
  m.def("cross_entropy(Tensor logits, Tensor targets, Tensor q) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("cross_entropy_(Tensor(a!) logits, Tensor targets, Tensor q, bool mean, bool slopes) -> (Tensor, Tensor)");
  // The same of logits XW/τ, with the gradients by X and W that are needed: drcl/native/prior_similarity.py.
  m.def("similarity_at_once(Tensor features, Tensor weight, Tensor targets, Tensor q, float temperature, bool[] needs) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // The stages of the loss by rows, and the transpose of its mixing: drcl/native/reversible_consistency.py.
  m.def("reversible_rows(Tensor features, Tensor targets, Tensor? permutation, Tensor q, Tensor basis, Tensor recast, "
        "Tensor weight, float temperature, float lam, bool slopes, Tensor(a!) outside) -> "
        "(Tensor, Tensor, Tensor, Tensor)");
  m.def("reversible_differences(Tensor(a!) both, Tensor outside, Tensor coordinates, Tensor norms, bool multiply) -> ()");
  m.def("reversible_inner(Tensor coordinates) -> Tensor");
  m.def("reversible_combine(Tensor sums, Tensor inner, Tensor cross, Tensor matrices, float[] weights, "
        "int width) -> Tensor[]");
  m.def("reversible_gradient(Tensor(a!) out, Tensor?[] grads, Tensor outside, Tensor coordinates, Tensor label_gradient, "
        "Tensor norms, Tensor sums, Tensor inner, Tensor cross, Tensor matrices, Tensor basis, float[] weights, "
        "bool multiply) -> ()");
  m.def("reversible_unmix(Tensor gradient, Tensor permutation, float lam, Tensor(a!) out) -> ()");
  m.def("reversible_at_once(Tensor features, Tensor targets, Tensor? permutation, Tensor q, Tensor basis, Tensor recast, "
        "Tensor weight, float temperature, float lam, float[] weights, bool slopes) -> Tensor[]");
  // The same in the whole space, which the ops by rows have, too: their basis has no columns then.
  m.def("whole_differences(Tensor coordinates, Tensor norms) -> Tensor");
  m.def("whole_gradient(Tensor(a!) out, Tensor? matrices, Tensor?[] grads, Tensor coordinates, Tensor label_gradient, "
        "Tensor norms, Tensor sums, float[] weights) -> ()");
  m.def("label_product(Tensor rows, Tensor matrix, Tensor(a!) out) -> bool");
  // Whether the loops of the loss and of prior similarity have the instruction that they need to be fast: drcl/dispatch.py.
  m.def("fuses_products() -> bool");
  // Whether the ranking has code for a CUDA device: what was built may be for others.
  m.def("ranks_on(int device) -> bool");
  // average_precision by the GPU's code in a loop on the CPU, `threads` in turn: for tests.
  m.def("average_precision_phases(" DRCL_RANKING_ARGUMENTS ", int threads) -> Tensor");
}
