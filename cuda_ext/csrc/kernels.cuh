// The __global__ functions: a warp takes a node or a row and runs the phases of hk_*.h.
#pragma once
#include "hk_ball_adam.h"
#include "hk_ball_tail.h"
#include "hk_conv_grad.h"
#include "hk_rows.h"
#include "hk_tail.h"
#include "hk_tanimoto.h"

// The emulator (testing/cuda_emu.h) hands out its own memory, filled with NaN.
#if !defined(HK_EMULATE)
#define HK_DYNAMIC_SHARED(name) extern __shared__ __align__(16) float name[]
#define HK_STATIC_SHARED(name, n) __shared__ float name[n]
#define HK_DEVICE __device__ __forceinline__
#endif

constexpr int HK_WARPS = 4;  // in a block; of the convolution fewer where shared memory is short

namespace HK_NS {

// What a group takes: its number, then in steps of the groups of the grid.
template <int L, class F>
HK_DEVICE void in_turn(hk_int n, F f) {
  int groups = blockDim.x / L;
  for (hk_int r = (hk_int)blockIdx.x * groups + threadIdx.x / L; r < n; r += (hk_int)gridDim.x * groups) f(r);
}

template <int L>
HK_DEVICE void conv_forward(const hk_conv_args& a, float* shared) {
  Lanes<L> g;
  Conv<Lanes<L>, 0, 0> f(g, a, shared + threadIdx.x / L * conv_floats(a.d, a.o, a.k, 0));
  in_turn<L>(a.n, [&](hk_int n) { f.forward(n); });
}

template <int L>
HK_DEVICE void conv_backward(const hk_conv_args& a, const hk_conv_grad& b, float* shared) {
  Lanes<L> g;
  int pass = b.kernels == nullptr ? 1 : 2;
  Conv<Lanes<L>, 0, 0> f(g, a, shared + threadIdx.x / L * conv_floats(a.d, a.o, a.k, pass));
  hk_conv_grad mine = f.begin_backward(b);
  in_turn<L>(a.n, [&](hk_int n) { f.backward(n, mine); });
  f.end_backward(b);
}

}  // namespace HK_NS

// bad[0] becomes 1 if `begin` (n + 1) does not rise from 0 to the number of pairs, bad[1] if `source` names no node.
extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 1)
    hk_graph_kernel(const hk_int* begin, hk_int n, const hk_int* source, hk_int pairs, int* bad) {
  HK_NS::in_turn<1>(n > pairs ? n : pairs, [&](hk_int i) {
    if (i < pairs && (source[i] < 0 || source[i] >= n)) bad[1] = 1;
    if (i < n && begin[i] > begin[i + 1]) bad[0] = 1;
    if (i == 0 && (begin[0] != 0 || begin[n] != pairs)) bad[0] = 1;
  });
}

// Eight lanes a node; 32 (`_wide`) where the shared memory of so many nodes is too much.
extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 5) hk_conv_kernel(hk_conv_args a) {
  HK_DYNAMIC_SHARED(hk_shared);
  HK_NS::conv_forward<8>(a, hk_shared);
}

extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 4) hk_conv_wide_kernel(hk_conv_args a) {
  HK_DYNAMIC_SHARED(hk_shared);
  HK_NS::conv_forward<32>(a, hk_shared);
}

extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 3) hk_conv_backward_kernel(hk_conv_args a, hk_conv_grad b) {
  HK_DYNAMIC_SHARED(hk_shared);
  HK_NS::conv_backward<8>(a, b, hk_shared);
}

extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 3)
    hk_conv_backward_wide_kernel(hk_conv_args a, hk_conv_grad b) {
  HK_DYNAMIC_SHARED(hk_shared);
  HK_NS::conv_backward<32>(a, b, hk_shared);
}

extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 4)
    hk_row_kernel(int kind, const float* x, const float* y, const float* v, float* out, hk_int n, int d, float c,
                  float low) {
  HK_NS::Lanes<8> g;
  HK_NS::in_turn<8>(n, [&](hk_int r) { HK_NS::row_at(g, kind, x, y, v, out, r, d, c, low); });
}

extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 4)
    hk_row_backward_kernel(int kind, const float* x, const float* y, const float* v, const float* grad, float* gx,
                           float* gy, float* gv, hk_int n, int d, float c, float low) {
  HK_NS::Lanes<8> g;
  HK_NS::in_turn<8>(
      n, [&](hk_int r) { HK_NS::row_backward_at(g, kind, x, y, v, grad, gx, gy, gv, r, d, c, low); });
}

extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 4)
    hk_adam_kernel(hk_adam_args a, hk_int n, int d, float* x, const float* grad, float* m, float* v, float* largest) {
  HK_NS::Lanes<8> g;
  HK_NS::in_turn<8>(n, [&](hk_int r) { HK_NS::adam_at(g, a, r, d, x, grad, m, v, largest); });
}

extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 4) hk_tail_kernel(hk_tail_args a) {
  HK_NS::Lanes<8> g;
  HK_NS::in_turn<8>(a.n, [&](hk_int r) { HK_NS::tail_at(g, a, r); });
}

extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 4) hk_tail_backward_kernel(hk_tail_args a) {
  HK_NS::Lanes<8> g;
  HK_NS::in_turn<8>(a.n, [&](hk_int r) { HK_NS::tail_backward_at(g, a, r); });
}

extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 4) hk_ball_tail_kernel(hk_ball_args a) {
  HK_NS::Lanes<8> g;
  HK_NS::in_turn<8>(a.n, [&](hk_int r) { HK_NS::ball_tail_at(g, a, r); });
}

extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 4) hk_ball_tail_backward_kernel(hk_ball_args a) {
  HK_NS::Lanes<8> g;
  HK_NS::in_turn<8>(a.n, [&](hk_int r) {
    HK_NS::ball_tail_backward_at<false>(g, a, r, a.by_power + r * a.d, nullptr, nullptr, nullptr);
  });
}

// A block takes a query: its lanes share the reference, its warps' maxima meet in shared memory.
extern "C" __global__ void __launch_bounds__(32 * HK_WARPS, 1)
    hk_tanimoto_kernel(const hk_word* query, const hk_word* reference, const int* sizes, hk_int m, int words,
                       float* out, hk_int n) {
  HK_STATIC_SHARED(best, HK_WARPS);
  HK_NS::Lanes<32> g;
  for (hk_int r = blockIdx.x; r < n; r += gridDim.x) {
    float mine = HK_NS::tanimoto_row(g, query + r * words, reference, sizes, m, words, threadIdx.x, 32 * HK_WARPS);
    for (int offset = 16; offset > 0; offset >>= 1) {
      float other = g.exchange(mine, offset);
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
