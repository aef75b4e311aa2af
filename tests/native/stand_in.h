// The little of PyTorch's stable ABI that csrc/cpu/*.cpp uses, so that these files, as they stand, are
// compiled without torch: under a sanitizer torch's own libraries would be strangers, and its OpenMP
// threads invisible to ThreadSanitizer. The build gives every torch header that they include this content.

#pragma once

#include <algorithm>
#include <any>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace torch::headeronly {

enum class ScalarType { Float, Double, Int, Long, Byte };

}  // namespace torch::headeronly

#define STD_TORCH_CHECK(condition, ...) \
  if (!(condition)) stand_in::fail(__VA_ARGS__)

namespace stand_in {

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// How many threads may share a parallel_for, and how many have; with `overlap`, a planted bug, each starts one
// too early.
inline int64_t workers = 1;
inline std::atomic<int64_t> parts = 0;
inline bool overlap = false;

// The ops by name, as csrc registers them.
inline std::map<std::string, std::any>& ops() {
  static std::map<std::string, std::any> all;
  return all;
}

struct Library {
  void impl(const char* name, std::any function) { ops()[name] = std::move(function); }
};

}  // namespace stand_in

#define TORCH_BOX(function) std::any(function)
#define STABLE_TORCH_LIBRARY_IMPL(ops, key, library)                  \
  static void stand_in_register_##key(stand_in::Library&);            \
  static const bool stand_in_registered_##key = [] {                  \
    stand_in::Library all;                                            \
    stand_in_register_##key(all);                                     \
    return true;                                                      \
  }();                                                                \
  static void stand_in_register_##key(stand_in::Library& library)

namespace torch::stable {

class Tensor {
 public:
  Tensor(std::shared_ptr<void> data, headeronly::ScalarType type, std::vector<int64_t> sizes,
         std::vector<int64_t> strides)
      : data_(std::move(data)), type_(type), sizes_(std::move(sizes)), strides_(std::move(strides)) {}

  int64_t dim() const { return static_cast<int64_t>(sizes_.size()); }
  int64_t size(int64_t i) const { return sizes_.at(i); }
  int64_t stride(int64_t i) const { return strides_.at(i); }
  headeronly::ScalarType scalar_type() const { return type_; }
  int32_t get_device_index() const { return 0; }
  const void* const_data_ptr() const { return data_.get(); }
  void* mutable_data_ptr() { return data_.get(); }

 private:
  std::shared_ptr<void> data_;
  headeronly::ScalarType type_;
  std::vector<int64_t> sizes_, strides_;
};

// Filled with a value that no ranking has: what an op leaves unwritten shows.
constexpr double kUnwritten = -12345.0;

inline Tensor empty(std::vector<int64_t> sizes, headeronly::ScalarType type) {
  if (type != headeronly::ScalarType::Double || sizes.size() != 2) stand_in::fail("empty: not foreseen");
  const int64_t count = sizes[0] * sizes[1];
  std::shared_ptr<double[]> data(new double[count]);
  std::fill(data.get(), data.get() + count, kUnwritten);
  std::vector<int64_t> strides{sizes[1], 1};
  return Tensor(std::shared_ptr<void>(data, data.get()), type, std::move(sizes), std::move(strides));
}

// As at::parallel_for: the range in equal parts of `grain` or more, a thread each; the first exception is
// thrown again.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
  const int64_t parts = std::min(stand_in::workers, (end - begin + grain - 1) / grain);
  stand_in::parts = parts;
  if (parts < 2) {
    if (begin < end) f(begin, end);
    return;
  }
  const int64_t size = (end - begin + parts - 1) / parts;
  std::vector<std::exception_ptr> thrown(parts);
  std::vector<std::thread> threads;
  for (int64_t p = 0; p < parts; ++p) {
    threads.emplace_back([&, p] {
      try {
        const int64_t from = begin + p * size, to = std::min(end, from + size);
        if (from < to) f(from - (stand_in::overlap && p > 0), to);
      } catch (...) {
        thrown[p] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& exception : thrown) {
    if (exception) std::rethrow_exception(exception);
  }
}

}  // namespace torch::stable
