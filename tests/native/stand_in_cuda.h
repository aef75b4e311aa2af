// The little of CUDA and of PyTorch's stable ABI that csrc/cuda/*.cu uses: a GPU whose blocks run one after
// the other, of one thread each. What is launched and allocated is written down.

#pragma once

#include "stand_in.h"

#define __global__
#define __device__
#define __launch_bounds__(...)

namespace stand_in {

struct Device {
  int processors = 1, resident = 1, shared_memory = 0;  // resident: blocks on a processor
};
inline Device device;

struct Index {
  uint32_t x;
};

// Of the last call: bytes to work in, and blocks.
inline int64_t workspace = 0, blocks = 0;
inline std::vector<int64_t> shared;

}  // namespace stand_in

inline stand_in::Index threadIdx{0}, blockDim{1}, blockIdx{0}, gridDim{1};
inline void __syncthreads() {}

enum cudaError_t {
  cudaSuccess, cudaErrorNoKernelImageForDevice, cudaErrorInvalidDeviceFunction, cudaErrorUnsupportedPtxVersion
};
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrMultiProcessorCount };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemcpyKind { cudaMemcpyHostToDevice };
using cudaStream_t = void*;
struct cudaFuncAttributes {};

inline const char* cudaGetErrorString(cudaError_t) { return "an error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* index) { return *index = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  const auto& [processors, resident, shared_memory] = stand_in::device;
  *value = which == cudaDevAttrMultiProcessorCount ? processors : shared_memory;
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int) {
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel) {
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, size_t) {
  return *blocks = stand_in::device.resident, cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}

namespace stand_in {

// What kernel<<<blocks, threads, shared, stream>>> becomes.
template <class... Parameters>
auto launch(void (*kernel)(Parameters...), int64_t grid, int, int64_t shared_bytes, cudaStream_t) {
  return [=](const auto&... arguments) {
    blocks = grid;
    gridDim.x = static_cast<uint32_t>(grid);
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
      shared = std::vector<int64_t>(shared_bytes / 8, -1);  // another block's has nothing to say
      kernel(arguments...);
    }
  };
}

}  // namespace stand_in

#define TORCH_ERROR_CODE_CHECK(call) (void)(call)

inline int aoti_torch_get_current_cuda_stream(int32_t, void** stream) { return *stream = nullptr, 0; }

namespace torch::stable {

inline Tensor new_empty(const Tensor&, std::vector<int64_t> sizes, headeronly::ScalarType type) {
  if (type == headeronly::ScalarType::Double) return empty(std::move(sizes), type);
  const int64_t bytes = sizes.at(0) * (type == headeronly::ScalarType::Long ? 8 : 1);
  if (type == headeronly::ScalarType::Byte) stand_in::workspace = bytes;
  std::shared_ptr<char[]> data(new char[bytes]);
  std::memset(data.get(), 0xa5, bytes);
  return Tensor(std::shared_ptr<void>(data, data.get()), type, std::move(sizes), {1});
}

namespace accelerator {

using DeviceIndex = int32_t;
struct DeviceGuard {
  explicit DeviceGuard(DeviceIndex) {}
};

}  // namespace accelerator
}  // namespace torch::stable
