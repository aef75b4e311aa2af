// drcl::average_precision on a GPU: a block of threads for each query, phases of
// average_precision_phases.h. Blocks stay and take the next query when one is done, so the workspace is
// that of the blocks in flight, whatever the number of queries.

#include "average_precision_arguments.h"
#include "average_precision_workspace.h"

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>

namespace drcl {
namespace {

// Four such blocks share a multiprocessor: while in one a single thread adds up, the others go on.
constexpr int kThreads = 256;
constexpr int kMostThreads = 1024;

void check(cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, "CUDA: ", cudaGetErrorString(error));
}

struct WithBarrier {
  template <class Phase>
  __device__ void operator()(const Phase& phase) const {
    phase(static_cast<int32_t>(threadIdx.x), static_cast<int32_t>(blockDim.x));
    __syncthreads();
  }
};

template <bool kAverageTies, class T>
__device__ void rank_queries(const Inputs<T>& in, const Request& want, const phases::Workspace<T>& workspace,
                             int64_t queries, double* out) {
  for (int64_t q = blockIdx.x; q < queries; q += gridDim.x) {
    phases::rank_query<kAverageTies>(in, want, workspace, q, out + q * want.width(), WithBarrier{});
  }
}

// The block's workspace, where all of it is in the device's memory.
template <class T>
__device__ phases::Workspace<T> in_memory(const phases::Layout& layout, char* memory) {
  memory += blockIdx.x * (layout.near_bytes + layout.far_bytes);
  return layout.template at<T>(memory + layout.far_bytes, memory);
}

// Separate arguments: as one struct they cost a spilled register on sm_80.
template <class T>
using Kernel = void (*)(const Inputs<T>, const Request, const phases::Layout, int64_t, char*, double*);

// The queries' keys and counts in shared memory.
template <class T>
__global__ void __launch_bounds__(kMostThreads)
    rank_kernel(const Inputs<T> in, const Request want, const phases::Layout layout,
                int64_t queries, char* memory, double* out) {
  extern __shared__ __align__(16) char shared[];
  memory += blockIdx.x * layout.far_bytes;
  rank_queries<false>(in, want, layout.template at<T>(shared, memory), queries, out);
}

// All in the device's memory, where a query may have more relevant items than shared memory has room for.
template <class T>
__global__ void __launch_bounds__(kThreads, 3)
    rank_many_kernel(const Inputs<T> in, const Request want, const phases::Layout layout,
                     int64_t queries, char* memory, double* out) {
  rank_queries<false>(in, want, in_memory<T>(layout, memory), queries, out);
}

// Averaged ties, all in the device's memory.
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    rank_tied_kernel(const Inputs<T> in, const Request want, const phases::Layout layout,
                     int64_t queries, char* memory, double* out) {
  rank_queries<true>(in, want, in_memory<T>(layout, memory), queries, out);
}

// How a call is launched.
template <class T>
struct Plan {
  Kernel<T> kernel;
  phases::Layout layout;
  int threads;
  int64_t shared, bytes;  // of a block
  int resident = 0;       // blocks on a multiprocessor

  Plan(const Queries<T>& in, const Request& want, int threads, int64_t largest)
      : layout(phases::Layout::of(in, want, threads)), threads(threads) {
    const bool fits = !in.average_ties && layout.near_bytes <= largest;
    kernel = fits ? rank_kernel<T> : in.average_ties ? rank_tied_kernel<T> : rank_many_kernel<T>;
    shared = fits ? layout.near_bytes : 0;
    bytes = layout.far_bytes + (fits ? 0 : layout.near_bytes);
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared)));
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, shared));
  }
};

template <class T>
Plan<T> plan_of(const Queries<T>& in, const Request& want, int device) {
  int largest = 0;
  check(cudaDeviceGetAttribute(&largest, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  const Plan<T> plan(in, want, kThreads, largest);
  if (plan.shared == 0 || plan.resident > 2) return plan;
  // Where shared memory leaves room for one or two blocks, larger ones keep the multiprocessor busy.
  return Plan<T>(in, want, plan.resident == 2 ? 2 * kThreads : kMostThreads, largest);
}

template <class T>
void launch(const Queries<T>& in, const Request& want, const Arguments& a, double* out, cudaStream_t stream) {
  if (in.queries == 0) return;
  int device = 0, processors = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  const Plan<T> plan = plan_of(in, want, device);
  const int64_t affordable = std::max<int64_t>(a.limit / plan.bytes, 1);
  const int64_t blocks = std::min({in.queries, int64_t{processors} * plan.resident, affordable});
  Tensor workspace = torch::stable::new_empty(a.scores, {blocks * plan.bytes}, ScalarType::Byte);
  char* memory = static_cast<char*>(workspace.mutable_data_ptr());
  plan.kernel<<<blocks, plan.threads, plan.shared, stream>>>(in, want, plan.layout, in.queries, memory, out);
  check(cudaGetLastError());
}

Tensor average_precision(const Arguments& a) {
  a.check();
  const auto device = a.scores.get_device_index();
  torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  const auto queue = static_cast<cudaStream_t>(stream);
  Request want = a.request();
  Tensor ks = torch::stable::new_empty(a.scores, {want.num_cutoffs + 1}, ScalarType::Long);
  int64_t* device_cutoffs = static_cast<int64_t*>(ks.mutable_data_ptr());
  check(cudaMemcpyAsync(device_cutoffs, want.cutoffs, want.num_cutoffs * sizeof(int64_t),
                        cudaMemcpyHostToDevice, queue));
  want.cutoffs = device_cutoffs;
  Tensor out = torch::stable::new_empty(a.scores, {a.scores.size(0), want.width()}, ScalarType::Double);
  double* rows = static_cast<double*>(out.mutable_data_ptr());
  a.by_dtype([&](const auto& in) { launch(in, want, a, rows, queue); });
  return out;
}

bool ranks_on(int64_t device) {
  torch::stable::accelerator::DeviceGuard guard(static_cast<torch::stable::accelerator::DeviceIndex>(device));
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, rank_kernel<float>);
  if (error == cudaSuccess) return true;
  cudaGetLastError();  // it is answered, so nobody else's
  STD_TORCH_CHECK(error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction ||
                      error == cudaErrorUnsupportedPtxVersion,
                  "CUDA: ", cudaGetErrorString(error));
  return false;
}

}  // namespace
}  // namespace drcl

STABLE_TORCH_LIBRARY_IMPL(drcl, CompositeExplicitAutograd, m) {
  m.impl("ranks_on", TORCH_BOX(&drcl::ranks_on));
}

STABLE_TORCH_LIBRARY_IMPL(drcl, CUDA, m) {
  m.impl("average_precision", TORCH_BOX(&drcl::flat<drcl::average_precision>));
}
