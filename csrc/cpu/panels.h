// Products of queries with rows that lie as they are: the queries are copied into panels, the rows are not.
//
// A panel holds 24 queries, the last one 8 or 16 if it has no more: of each entry those of all its queries side by
// side. One entry of a row is multiplied with 8 of them at once, a few rows are taken together, as many as there are
// registers for, and a block of rows meets one panel after the other, while it is in the core's own cache.
//
// What is multiplied, and how, is a Form, for an instruction set:
//
//   Value, Sum                types of the entries and of the sums; a sum has 4 bytes
//   kGroup                    entries of a query that lie together, 4 bytes in all; rows are as wide as whole groups
//   kDepth                    entries whose products are added up in registers
//   Lanes                     8 sums, which may alias
//   spread(entries, y)        y: kGroup entries of a row in every lane
//   add(x, y, sums)           sums += x·y
//
// A product is the sum of one sum for every kDepth entries, each in their order: the same bits beside any other
// queries and rows, and on any number of threads.

#pragma once

#include "intrinsics.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace drcl::panels {

constexpr int64_t kLanes = 8, kQueries = 3 * kLanes;  // of a vector, of a panel
constexpr int64_t kRows = 72, kFewRows = 24;        // of a block: multiples of 4, 6 and 8, which are taken together
constexpr int64_t kManyBlocks = 32;                 // from which on a thread takes a block with all panels
constexpr int64_t kBlockBytes = int64_t{1} << 18;   // of its entries: half of a core's own cache
constexpr int64_t kPanelBytes = int64_t{1} << 22;   // of the panels that are held at a time, beyond one
constexpr int64_t kGrain = int64_t{1} << 18;        // products of entries that are worth a thread

// Of the rows of a block with the queries of a panel; what is taken together with the last row may go beyond it.
template <class Sum>
struct Sums {
  alignas(32) Sum of[kRows + kLanes][kQueries];
};

namespace plain {
#include "panels.inc"
}

DRCL_TARGET("avx2,fma")
namespace avx2 {
#include "panels.inc"
}
DRCL_END_TARGET

template <class Form>
using Multiply = void (*)(const typename Form::Value* panel, int64_t queries, const typename Form::Value* rows,
                          int64_t apart, int64_t n, int64_t width, Sums<typename Form::Sum>& sums);

inline int64_t up_to_whole(int64_t size, int64_t of) { return (size + of - 1) / of * of; }

// One panel of `count` queries, `apart` entries from each other; a line of the cache of each at a time.
template <class Form>
void pack(const typename Form::Value* queries, int64_t apart, int64_t count, int64_t width,
          typename Form::Value* panel) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(typename Form::Value));
  const int64_t lanes = up_to_whole(count, kLanes);
  for (int64_t begin = 0; begin < width; begin += kLine) {
    const int64_t end = std::min(begin + kLine, width);
    for (int64_t q = 0; q < lanes; ++q) {
      auto* to = panel + q * Form::kGroup;
      for (int64_t k = begin; k < end; ++k) {
        to[k / Form::kGroup * Form::kGroup * lanes + k % Form::kGroup] = q < count ? queries[q * apart + k] : 0;
      }
    }
  }
}

// Products of `count` queries with `n` rows; both are `width` entries wide and so many `apart`. On several threads,
// sink(first query, queries, first row, rows, sums) is given those of a panel with a block; `in_order` those of a
// panel on one thread, block after block. With `upper`, where queries and rows are the same, blocks are left out whose
// rows all come before the queries.
template <class Form, class Sink>
void products(Multiply<Form> multiply, const typename Form::Value* queries, int64_t queries_apart, int64_t count,
              const typename Form::Value* rows, int64_t rows_apart, int64_t n, int64_t width, const Sink& sink,
              bool in_order = false, bool upper = false) {
  using Value = typename Form::Value;
  const int64_t bytes = std::max<int64_t>(width, 1) * static_cast<int64_t>(sizeof(Value));
  const int64_t most = std::max<int64_t>(kPanelBytes / (kQueries * bytes), 1) * kQueries;
  const int64_t block = std::clamp(kBlockBytes / bytes / kFewRows * kFewRows, kFewRows, kRows);
  const int64_t blocks = (n + block - 1) / block;
  const int64_t room = std::min(most, up_to_whole(count, kLanes)) * width * static_cast<int64_t>(sizeof(Value));
  auto memory = torch::stable::empty({room}, torch::headeronly::ScalarType::Byte);  // which begins at a cache line
  auto* panels = static_cast<Value*>(memory.mutable_data_ptr());
  for (int64_t start = 0; start < count; start += most) {
    const int64_t some = std::min(most, count - start), each = (some + kQueries - 1) / kQueries;
    const auto of_panel = [&](int64_t p) { return std::min(kQueries, some - p * kQueries); };
    const int64_t packs = std::max<int64_t>(kGrain / (kQueries * bytes), 1);
    torch::stable::parallel_for(0, each, packs, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const Value* first = queries + (start + p * kQueries) * queries_apart;
        pack<Form>(first, queries_apart, of_panel(p), width, panels + p * kQueries * width);
      }
    });
    const auto one = [&](int64_t p, int64_t row, Sums<typename Form::Sum>& sums) {
      const int64_t size = std::min(block, n - row);
      if (upper && row + size <= start + p * kQueries) return;
      multiply(panels + p * kQueries * width, of_panel(p), rows + row * rows_apart, rows_apart, size, width, sums);
      sink(start + p * kQueries, of_panel(p), row, size, sums);
    };
    // A thread takes the next block when it is done: none waits for one that shares its core with another program.
    const int64_t grain = std::max<int64_t>(kGrain / (kQueries * block * bytes), 1), tasks = blocks * each;
    const int64_t threads = torch::stable::get_num_threads(), few = std::max<int64_t>(each / (2 * threads), 1);
    const int64_t taken = in_order ? few : blocks < kManyBlocks ? 1 : each, all = in_order ? each : tasks;
    std::atomic<int64_t> next{0};
    torch::stable::parallel_for(0, all, in_order ? 1 : grain, [&](int64_t, int64_t) {
      Sums<typename Form::Sum> sums;
      for (int64_t i = next.fetch_add(taken); i < all; i = next.fetch_add(taken)) {
        const int64_t end = std::min(i + taken, all);
        if (in_order) {
          for (int64_t row = 0; row < n; row += block) {
            for (int64_t p = i; p < end; ++p) one(p, row, sums);
          }
        } else {
          for (int64_t task = i; task < end; ++task) one(task % each, task / each * block, sums);
        }
      }
    });
  }
}

}  // namespace drcl::panels
