// drcl::average_precision on a GPU: a block of threads for each query, phases of
// average_precision_phases.h. Blocks stay and take the next query when one is done, so the workspace is
// that of the blocks in flight, whatever the number of queries.

#include "average_precision_inputs.h"
#include "average_precision_workspace.h"

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>

namespace drcl {
namespace {

constexpr int kThreads = 256;

void check(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, "CUDA: ", cudaGetErrorString(error));
}

struct WithBarrier {
  template <class Phase>
  __device__ void operator()(const Phase& phase) const {
    phase(static_cast<int64_t>(threadIdx.x), static_cast<int64_t>(blockDim.x));
    __syncthreads();
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    rank_kernel(const phases::Inputs<T> in, const Request want, const phases::Layout layout,
                int64_t queries, char* memory, double* out) {
  const auto workspace = layout.template slice<T>(memory + blockIdx.x * layout.bytes).first;
  for (int64_t q = blockIdx.x; q < queries; q += gridDim.x) {
    phases::rank_query(in, want, workspace, q, out + q * want.width(), WithBarrier{});
  }
}

template <class T>
void launch(const phases::Inputs<T>& in, const Request& want, const Tensor& scores, int64_t most,
            double* out, cudaStream_t stream) {
  const int64_t queries = scores.size(0);
  const auto layout = phases::Layout::of<T>(in.n, most, kThreads, want.num_cutoffs, in.average_ties);
  int device = 0, processors = 0, resident = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, rank_kernel<T>, kThreads, 0));
  const int64_t blocks = std::min<int64_t>(queries, processors * resident);
  Tensor memory = torch::stable::new_empty(scores, {blocks * layout.bytes},
                                           torch::headeronly::ScalarType::Byte);
  rank_kernel<T><<<blocks, kThreads, 0, stream>>>(in, want, layout, queries,
                                                  static_cast<char*>(memory.mutable_data_ptr()), out);
  check(cudaGetLastError());
}

Tensor average_precision(const Tensor& scores, const std::optional<Tensor>& scale,
                         const std::optional<Tensor>& bias,
                         const std::optional<Tensor>& left_out_offsets,
                         const std::optional<Tensor>& left_out, const Tensor& member_offsets,
                         const Tensor& members, const std::optional<Tensor>& offsets,
                         const std::optional<Tensor>& items, const std::optional<Tensor>& gains,
                         const std::optional<Tensor>& bits, int64_t most,
                         const std::vector<int64_t>& cutoffs, int64_t depth, int64_t divisor, bool average_ties, int64_t levels,
                         const std::optional<Tensor>& discounts) {
  check_scores(scores);
  torch::stable::accelerator::DeviceGuard guard(scores.get_device_index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(scores.get_device_index(), &stream));
  const auto queue = static_cast<cudaStream_t>(stream);
  const int64_t count = static_cast<int64_t>(cutoffs.size());
  using torch::headeronly::ScalarType;
  Tensor ks = torch::stable::new_empty(scores, {count + 1}, ScalarType::Long);
  int64_t* device_cutoffs = static_cast<int64_t*>(ks.mutable_data_ptr());
  check(cudaMemcpyAsync(device_cutoffs, cutoffs.data(), count * sizeof(int64_t),
                        cudaMemcpyHostToDevice, queue));
  const Request want{device_cutoffs, count, depth, static_cast<Divisor>(divisor), levels,
                     pointer<double>(discounts)};
  Tensor out = torch::stable::new_empty(scores, {scores.size(0), want.width()}, ScalarType::Double);
  double* rows = static_cast<double*>(out.mutable_data_ptr());
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    launch(inputs<T>(scores, scale, bias, left_out_offsets, left_out, member_offsets, members,
                     offsets, items, gains, bits, average_ties),
           want, scores, most, rows, queue);
  };
  scores.scalar_type() == ScalarType::Float ? run(0.0f) : run(0.0);
  return out;
}

}  // namespace
}  // namespace drcl

STABLE_TORCH_LIBRARY_IMPL(drcl, CUDA, m) {
  m.impl("average_precision", TORCH_BOX(&drcl::average_precision));
}
