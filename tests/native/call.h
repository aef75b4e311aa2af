// A drawn call given to one of the ops, as torch would.

#pragma once

#include "average_precision_arguments.h"
#include "cases.h"

#include <optional>
#include <string>
#include <vector>

inline std::string plant;  // see driver.cpp

// As torch calls one.
using Op = decltype(drcl::flat<nullptr>);

template <class T>
Tensor view(const std::vector<T>& values) {
  return Tensor(std::shared_ptr<void>(std::shared_ptr<void>(), const_cast<T*>(values.data())), type_of<T>(),
                {static_cast<int64_t>(values.size())}, {1});
}

template <class T>
std::optional<Tensor> view(const std::optional<std::vector<T>>& values) {
  return values ? std::optional<Tensor>(view(*values)) : std::nullopt;
}

template <class T>
Tensor scores_of(const Case<T>& c) {
  const size_t count = c.scores.size(), bytes = count * sizeof(T);
  std::shared_ptr<char[]> block(new char[bytes + (plant == "misaligned") - (plant == "overrun" ? sizeof(T) : 0)]);
  char* begin = block.get() + (plant == "misaligned");
  if (count > 0) std::memcpy(begin, c.scores.data(), plant == "overrun" ? bytes - sizeof(T) : bytes);
  if (plant == "wrong") std::reverse(reinterpret_cast<T*>(begin), reinterpret_cast<T*>(begin) + count);
  return Tensor(std::shared_ptr<void>(block, begin), type_of<T>(), {c.queries, c.n}, {c.stride, 1});
}

// The op's table, or what it throws.
struct Outcome {
  std::vector<double> table;
  std::string error;

  bool operator==(const Outcome& other) const {
    return error == other.error && table.size() == other.table.size() &&
           (table.empty() || std::memcmp(table.data(), other.table.data(), table.size() * sizeof(double)) == 0);
  }
};

// `last`: the op's memory, or how many threads take turns.
template <class T>
Outcome call(const char* name, const Case<T>& c, int64_t last) {
  const auto op = std::any_cast<Op*>(stand_in::ops().at(name));
  std::optional<Tensor> bits;
  if (c.bits) {
    const int64_t lists = static_cast<int64_t>(c.bits->size()) / c.words;
    bits.emplace(std::shared_ptr<void>(std::shared_ptr<void>(), const_cast<uint64_t*>(c.bits->data())),
                 ScalarType::Long, std::vector<int64_t>{lists, c.words}, std::vector<int64_t>{c.words, 1});
  }
  Outcome outcome;
  try {
    Tensor out = op(scores_of(c), view(c.scale), view(c.bias), view(c.excluded_offsets), view(c.excluded),
                    view(c.member_offsets), view(c.members), view(c.offsets), view(c.items), view(c.gains),
                    bits, c.max_relevant, c.cutoffs, c.depth, static_cast<int64_t>(c.divisor), c.average_ties,
                    c.recall_levels, view(c.discounts), c.ranks, c.rank_gains, last);
    if (out.size(0) != c.queries || out.size(1) != c.width()) throw std::runtime_error("another shape");
    const double* table = static_cast<const double*>(out.const_data_ptr());
    outcome.table.assign(table, table + c.queries * c.width());
  } catch (const std::runtime_error& error) {
    outcome.error = error.what();
  }
  return outcome;
}
