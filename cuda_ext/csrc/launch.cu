// Launchers without torch: extern "C", a stream, pointers; 0 or a CUDA error, or -1 where shared memory does not
// suffice. cudart is linked statically, so that no version of it has to be there at run time.
#include <cuda_runtime.h>

#include "kernels.cuh"

namespace {

int blocks(hk_int items) { return (int)(items < 1 ? 1 : (items > 65535 * 16 ? 65535 * 16 : items)); }

// What a block may have on this device once it is asked for.
int shared_limit() {
  int device = 0, limit = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return limit;
}

template <class F>
int allow(F* kernel, hk_int bytes) {
  if (bytes <= 48 * 1024) return 0;
  if (bytes > shared_limit()) return -1;
  return (int)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

}  // namespace

#define HK_EXPORT extern "C" __attribute__((visibility("default")))

HK_EXPORT int hk_cuda_conv(const hk_conv_args* a, void* stream) {
  hk_int bytes = 4 * hk_conv_shared(a->d, a->o, a->k, false);
  int error = allow(hk_conv_kernel, bytes);
  if (error) return error;
  hk_conv_kernel<<<blocks((a->n + HK_WARPS - 1) / HK_WARPS), 32 * HK_WARPS, bytes, (cudaStream_t)stream>>>(*a);
  return (int)cudaGetLastError();
}

HK_EXPORT int hk_cuda_conv_backward(const hk_conv_args* a, const hk_conv_grad* b, void* stream) {
  hk_int bytes = 4 * hk_conv_shared(a->d, a->o, a->k, true);
  int error = allow(hk_conv_backward_kernel, bytes);
  if (error) return error;
  hk_conv_backward_kernel<<<blocks((a->n + HK_WARPS - 1) / HK_WARPS), 32 * HK_WARPS, bytes, (cudaStream_t)stream>>>(
      *a, *b);
  return (int)cudaGetLastError();
}

HK_EXPORT int hk_cuda_row(int kind, const float* x, const float* y, float* out, hk_int n, int d, float c, float low,
                          void* stream) {
  hk_row_kernel<<<blocks((n + HK_WARPS - 1) / HK_WARPS), 32 * HK_WARPS, 0, (cudaStream_t)stream>>>(kind, x, y, out,
                                                                                                n, d, c, low);
  return (int)cudaGetLastError();
}

HK_EXPORT int hk_cuda_row_backward(int kind, const float* x, const float* y, const float* grad, float* gx, float* gy,
                                   hk_int n, int d, float c, float low, void* stream) {
  hk_row_backward_kernel<<<blocks((n + HK_WARPS - 1) / HK_WARPS), 32 * HK_WARPS, 0, (cudaStream_t)stream>>>(
      kind, x, y, grad, gx, gy, n, d, c, low);
  return (int)cudaGetLastError();
}

HK_EXPORT int hk_cuda_adam(const hk_adam_args* a, hk_int n, int d, float* x, const float* grad, float* m, float* v,
                           float* largest, void* stream) {
  hk_adam_kernel<<<blocks((n + HK_WARPS - 1) / HK_WARPS), 32 * HK_WARPS, 0, (cudaStream_t)stream>>>(
      *a, n, d, x, grad, m, v, largest);
  return (int)cudaGetLastError();
}

HK_EXPORT int hk_cuda_tanimoto(const hk_word* query, const hk_word* reference, const int* sizes, hk_int m, int words,
                               float* out, hk_int n, void* stream) {
  hk_tanimoto_kernel<<<blocks(n), 32 * HK_WARPS, 0, (cudaStream_t)stream>>>(query, reference, sizes, m, words, out,
                                                                            n);
  return (int)cudaGetLastError();
}
