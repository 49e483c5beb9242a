// The __global__ functions: a warp takes a node or a row and runs the phases of hk_*.h.
#pragma once
#include "hk_adam.h"
#include "hk_conv_grad.h"
#include "hk_rows.h"
#include "hk_tanimoto.h"

// The emulator (testing/cuda_emu.h) hands out its own memory, filled with NaN.
#if !defined(HK_EMULATE)
#define HK_DYNAMIC_SHARED(name) extern __shared__ __align__(16) float name[]
#define HK_STATIC_SHARED(name, n) __shared__ float name[n]
#endif

constexpr int HK_WARPS = 4;  // in a block; of the convolution fewer where shared memory is short

extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 1) hk_conv_kernel(hk_conv_args a) {
  HK_DYNAMIC_SHARED(hk_shared);
  HK_NS::Warp g;
  int warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  HK_NS::Conv<HK_NS::Warp, 0> f(g, a, hk_shared + warp * HK_NS::conv_floats(a.d, a.o, a.k, false), false);
  for (hk_int n = (hk_int)blockIdx.x * warps + warp; n < a.n; n += (hk_int)gridDim.x * warps) f.forward(n);
}

extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 3) hk_conv_backward_kernel(hk_conv_args a, hk_conv_grad b) {
  HK_DYNAMIC_SHARED(hk_shared);
  HK_NS::Warp g;
  int warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  HK_NS::Conv<HK_NS::Warp, 0> f(g, a, hk_shared + warp * HK_NS::conv_floats(a.d, a.o, a.k, true), true);
  hk_conv_grad mine = f.begin_backward(b);
  for (hk_int n = (hk_int)blockIdx.x * warps + warp; n < a.n; n += (hk_int)gridDim.x * warps) f.backward(n, mine);
  f.end_backward(b);
}

extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 1)
    hk_row_kernel(int kind, const float* x, const float* y, float* out, hk_int n, int d, float c, float low) {
  HK_NS::Warp g;
  for (hk_int r = (hk_int)blockIdx.x * HK_WARPS + (threadIdx.x >> 5); r < n; r += (hk_int)gridDim.x * HK_WARPS)
    HK_NS::row_at(g, kind, x, y, out, r, d, c, low);
}

extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 1)
    hk_row_backward_kernel(int kind, const float* x, const float* y, const float* grad, float* gx, float* gy,
                           hk_int n, int d, float c, float low) {
  HK_NS::Warp g;
  for (hk_int r = (hk_int)blockIdx.x * HK_WARPS + (threadIdx.x >> 5); r < n; r += (hk_int)gridDim.x * HK_WARPS)
    HK_NS::row_backward_at(g, kind, x, y, grad, gx, gy, r, d, c, low);
}

extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 1)
    hk_adam_kernel(hk_adam_args a, hk_int n, int d, float* x, const float* grad, float* m, float* v, float* largest) {
  HK_NS::Warp g;
  for (hk_int r = (hk_int)blockIdx.x * HK_WARPS + (threadIdx.x >> 5); r < n; r += (hk_int)gridDim.x * HK_WARPS)
    HK_NS::adam_row(g, a, d, x + r * (d + 1), grad + r * (d + 1), m + r * (d + 1), v + r,
                    largest == nullptr ? nullptr : largest + r);
}

// A block takes a query: its lanes share the reference, its warps' maxima meet in shared memory.
extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 1)
    hk_tanimoto_kernel(const hk_word* query, const hk_word* reference, const int* sizes, hk_int m, int words,
                       float* out, hk_int n) {
  HK_STATIC_SHARED(best, HK_WARPS);
  HK_NS::Warp g;
  for (hk_int r = blockIdx.x; r < n; r += gridDim.x) {
    float mine = HK_NS::tanimoto_row(g, query + r * words, reference, sizes, m, words, threadIdx.x, 32 * HK_WARPS);
    for (int offset = 16; offset > 0; offset >>= 1) {
      float other = __shfl_xor_sync(0xffffffffu, mine, offset);
      mine = other > mine ? other : mine;
    }
    if (g.lane == 0) best[threadIdx.x >> 5] = mine;
    __syncthreads();
    if (threadIdx.x == 0) {
      float all = best[0];
      for (int w = 1; w < HK_WARPS; ++w) all = best[w] > all ? best[w] : all;
      out[r] = all;
    }
    __syncthreads();
  }
}
