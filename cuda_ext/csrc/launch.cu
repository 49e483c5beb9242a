// The launcher without torch: extern "C", a stream, addresses of arguments. cudart is linked statically, so that
// no version of it has to be there at run time.
#include <cuda_runtime.h>

#include <cstring>

#include "kernels.cuh"

namespace {

struct Kernel {
  const char* name;
  const void* function;
};
const Kernel kernels[] = {
    {"hk_graph_kernel", (const void*)hk_graph_kernel},
    {"hk_conv_kernel", (const void*)hk_conv_kernel},
    {"hk_conv_wide_kernel", (const void*)hk_conv_wide_kernel},
    {"hk_conv_backward_kernel", (const void*)hk_conv_backward_kernel},
    {"hk_conv_backward_wide_kernel", (const void*)hk_conv_backward_wide_kernel},
    {"hk_row_kernel", (const void*)hk_row_kernel},
    {"hk_row_backward_kernel", (const void*)hk_row_backward_kernel},
    {"hk_adam_kernel", (const void*)hk_adam_kernel},
    {"hk_tail_kernel", (const void*)hk_tail_kernel},
    {"hk_tail_backward_kernel", (const void*)hk_tail_backward_kernel},
    {"hk_ball_tail_kernel", (const void*)hk_ball_tail_kernel},
    {"hk_ball_tail_backward_kernel", (const void*)hk_ball_tail_backward_kernel},
    {"hk_tanimoto_kernel", (const void*)hk_tanimoto_kernel},
};

}  // namespace

// Returns 0 or a CUDA error. Arguments as for cuLaunchKernel, which hyperkit._ext.nvrtc calls instead.
extern "C" __attribute__((visibility("default"))) int hk_cuda_launch(const char* name, int grid, int threads,
                                                                     int shared, void** arguments, void* stream) {
  for (const Kernel& k : kernels) {
    if (std::strcmp(k.name, name) != 0) continue;
    if (shared > 48 * 1024) {
      cudaError_t error = cudaFuncSetAttribute(k.function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
      if (error != cudaSuccess) return (int)error;
    }
    return (int)cudaLaunchKernel(k.function, dim3(grid), dim3(threads), arguments, shared, (cudaStream_t)stream);
  }
  return (int)cudaErrorInvalidDeviceFunction;
}
