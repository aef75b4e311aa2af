// The CUDA op on a GPU that stand_in_cuda.h makes up: what it works in stays within what it is allowed, holds
// all that the kernels write (AddressSanitizer), and no block is left idle that there is memory for. The
// result has the bits of the phases in turns.
//
//   cuda_op CASES SEED

#include "call.h"
#include "stand_in_cuda.h"

#include <cstdio>
#include <cstdlib>

namespace {

void require(bool holds, const char* what, int64_t limit) {
  if (holds) return;
  std::fprintf(stderr, "%s: %lld blocks in %lld bytes, allowed %lld\n", what,
               static_cast<long long>(stand_in::blocks), static_cast<long long>(stand_in::workspace),
               static_cast<long long>(limit));
  std::abort();
}

int64_t cut = 0;  // calls with fewer blocks than the device has room for

template <class T>
void check(Source& from) {
  const Case<T> c = draw_case<T>(from);
  constexpr int kShared[] = {0, 4096, 227 * 1024};
  stand_in::device = {1 + static_cast<int>(from.below(3)), 1 + static_cast<int>(from.below(4)),
                      kShared[from.below(3)]};
  const int64_t limit = int64_t{1} << (6 + from.below(12));
  const Outcome found = call("average_precision", c, limit);
  if (!(found == call("average_precision_phases", c, 1))) require(false, "other bits than in turns", limit);
  if (c.queries == 0) return;
  const int64_t blocks = stand_in::blocks, of_a_block = stand_in::workspace / blocks;
  const int64_t most = std::min<int64_t>(c.queries, stand_in::device.processors * stand_in::device.resident);
  require(stand_in::workspace <= limit || blocks == 1, "more than is allowed", limit);
  const bool full = blocks == most || (blocks + 1) * of_a_block > limit;
  require(full, "fewer blocks than there is memory for", limit);
  cut += blocks < most;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) return 2;
  const long long cases = std::atoll(arguments[1]), seed = std::atoll(arguments[2]);
  for (long long i = 0; i < cases; ++i) {
    Source from(static_cast<uint64_t>(seed) << 32 | static_cast<uint64_t>(i));
    from.below(2) == 0 ? check<float>(from) : check<double>(from);
  }
  std::printf("%lld cases, %lld cut\n", cases, static_cast<long long>(cut));
  return 0;
}
