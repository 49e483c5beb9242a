// A group of lanes works on one row or node. Algorithms are written as phases over it:
//   each(n, f)        f(i) for i < n, in any order; a barrier follows
//   sum(n, f)         the sum of f(i), known to every lane
//   sum2(n, f, a, b)  two sums in one pass, f(i, a, b) adds to its arguments
//   rows(n, m, 0, f, g)  for each r < n: g(r, sum over i < m of f(r, i)); a barrier follows
//   add(p, v)         *p += v, while other groups do the same
// What stands outside of phases is uniform: all lanes compute the same.
#pragma once
#include "hk_base.h"

namespace HK_NS {

// The CPU: one lane, whose loops are SIMD code.
struct Serial {
  static constexpr bool shared_memory = false;
  template <class F>
  HK_FN void each(int n, F f) const {
    HK_LOOP
    for (int i = 0; i < n; ++i) f(i);
  }
  template <class F>
  HK_FN float sum(int n, F f, float) const {
    float s = 0.0f;
#if defined(HK_SIMD)
#pragma omp simd reduction(+ : s)
#endif
    for (int i = 0; i < n; ++i) s += f(i);
    return s;
  }
  template <class F>
  HK_FN double sum(int n, F f, double) const {
    double s = 0.0;
#if defined(HK_SIMD)
#pragma omp simd reduction(+ : s)
#endif
    for (int i = 0; i < n; ++i) s += f(i);
    return s;
  }
  template <class F>
  HK_FN pair sum(int n, F f, pair) const {
    pair s(0.0f);
    for (int i = 0; i < n; ++i) s += f(i);
    return s;
  }
  template <class T, class F>
  HK_FN void sum2(int n, F f, T& first, T& second) const {
    T a = T(0.0f), b = T(0.0f);
    if constexpr (same_type<T, pair>::value) {
      for (int i = 0; i < n; ++i) f(i, a, b);
    } else {
#if defined(HK_SIMD)
#pragma omp simd reduction(+ : a, b)
#endif
      for (int i = 0; i < n; ++i) f(i, a, b);
    }
    first = a;
    second = b;
  }
  template <class T, class F, class H>
  HK_FN void rows(int n, int m, T zero, F f, H h) const {
    for (int r = 0; r < n; ++r)
      h(r, sum(m, [&](int i) { return f(r, i); }, zero));
  }
  HK_FN void add(float* p, float v) const { *p += v; }
  HK_FN void sync() const {}
  // Rows that the next node or pair reads, at places that nobody could guess.
  HK_FN void prefetch(const float* p, int n) const {
#if !defined(__CUDACC__)
    for (int i = 0; i < n; i += 16) __builtin_prefetch(p + i);
#endif
  }
};

#if defined(__CUDACC__) || defined(HK_EMULATE)
// A warp: lane l takes l, l + 32, ...; sums by butterflies, so that every lane gets the same bits.
struct Warp {
  static constexpr bool shared_memory = true;
  int lane;
  __device__ Warp() : lane(threadIdx.x & 31) {}
  __device__ void sync() const { __syncwarp(0xffffffffu); }
  template <class F>
  __device__ void each(int n, F f) const {
    for (int i = lane; i < n; i += 32) f(i);
    sync();
  }
  __device__ float across(float v) const {
    for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
  }
  __device__ pair across(pair v) const {
    for (int offset = 16; offset > 0; offset >>= 1) {
      pair other(__shfl_xor_sync(0xffffffffu, v.hi, offset), __shfl_xor_sync(0xffffffffu, v.lo, offset));
      // The same order on both sides: a + b and b + a differ in the last bit for pairs.
      v = (lane & offset) ? other + v : v + other;
    }
    return v;
  }
  template <class T, class F>
  __device__ T sum(int n, F f, T) const {
    T s = T(0.0f);
    for (int i = lane; i < n; i += 32) s = s + f(i);
    return across(s);
  }
  template <class T, class F>
  __device__ void sum2(int n, F f, T& first, T& second) const {
    T a = T(0.0f), b = T(0.0f);
    for (int i = lane; i < n; i += 32) f(i, a, b);
    first = across(a);
    second = across(b);
  }
  template <class T, class F, class H>
  __device__ void rows(int n, int m, T zero, F f, H h) const {
    for (int r = 0; r < n; ++r) {
      T s = sum(m, [&](int i) { return f(r, i); }, zero);
      if (lane == 0) h(r, s);
    }
    sync();
  }
  __device__ void add(float* p, float v) const { atomicAdd(p, v); }
  __device__ void prefetch(const float*, int) const {}  // other warps run while one waits
};
#endif

}  // namespace HK_NS
