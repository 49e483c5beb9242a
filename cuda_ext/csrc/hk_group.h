// A group of lanes works on one row or node. Algorithms are written as phases over it:
//   each(n, f)        f(i) for i < n, in any order; a barrier follows
//   sum(n, f)         the sum of f(i), known to every lane
//   sum2(n, f, a, b)  two sums in one pass, f(i, a, b) adds to its arguments; sum3 the same for three
//   rows(n, m, 0, f, g)  for each r < n: g(r, sum over i < m of f(r, i)); a barrier follows
//   add(p, v)         *p += v, while other groups do the same
// h(r, ...) of `rows` is called by one lane, for several rows at a time: it may hold no phase.
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
  template <class T, class F>
  HK_FN void sum3(int n, F f, T& first, T& second, T& third) const {
    T a = T(0.0f), b = T(0.0f), c = T(0.0f);
    if constexpr (same_type<T, pair>::value) {
      for (int i = 0; i < n; ++i) f(i, a, b, c);
    } else {
#if defined(HK_SIMD)
#pragma omp simd reduction(+ : a, b, c)
#endif
      for (int i = 0; i < n; ++i) f(i, a, b, c);
    }
    first = a;
    second = b;
    third = c;
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
  __device__ float exchange(float v, int bit) const { return __shfl_xor_sync(0xffffffffu, v, bit); }
  __device__ pair exchange(pair v, int bit) const { return pair(exchange(v.hi, bit), exchange(v.lo, bit)); }
  // The same order on both sides: a + b and b + a differ in the last bit for pairs.
  __device__ float meet(float v, int bit) const { return v + exchange(v, bit); }
  __device__ pair meet(pair v, int bit) const {
    pair other = exchange(v, bit);
    bool upper = lane & bit;
    return (upper ? other : v) + (upper ? v : other);
  }
  // Of two sums a lane goes on with one, by this bit of its number: half the additions of two butterflies.
  template <class T>
  __device__ T part(T a, T b, int bit) const {
    bool upper = lane & bit;
    T send = upper ? a : b, keep = upper ? b : a;
    return keep + exchange(send, bit);
  }
  template <class T>
  __device__ void both(T v, int bit, T& a, T& b) const {
    T other = exchange(v, bit);
    bool upper = lane & bit;
    a = upper ? other : v;
    b = upper ? v : other;
  }
  template <class T, class F>
  __device__ T sum(int n, F f, T) const {
    T s = T(0.0f);
    for (int i = lane; i < n; i += 32) s = s + f(i);
    HK_UNROLL
    for (int bit = 16; bit > 0; bit >>= 1) s = meet(s, bit);
    return s;
  }
  template <class T, class F>
  __device__ void sum2(int n, F f, T& first, T& second) const {
    T a = T(0.0f), b = T(0.0f);
    for (int i = lane; i < n; i += 32) f(i, a, b);
    T v = part(a, b, 16);
    HK_UNROLL
    for (int bit = 8; bit > 0; bit >>= 1) v = meet(v, bit);
    both(v, 16, first, second);
  }
  template <class T, class F>
  __device__ void sum3(int n, F f, T& first, T& second, T& third) const {
    T a = T(0.0f), b = T(0.0f), c = T(0.0f);
    for (int i = lane; i < n; i += 32) f(i, a, b, c);
    T v = part(part(a, b, 16), meet(c, 16), 8);
    HK_UNROLL
    for (int bit = 4; bit > 0; bit >>= 1) v = meet(v, bit);
    T ab;
    both(v, 8, ab, third);
    both(ab, 16, first, second);
  }
  // Eight rows at a time: lanes share out the rows while they add, seven additions and two more.
  template <class T, class F, class H>
  __device__ void rows(int n, int m, T zero, F f, H h) const {
    for (int r = 0; r < n; r += 8) {
      T v[8];
      HK_UNROLL
      for (int j = 0; j < 8; ++j) {
        v[j] = zero;
        if (r + j < n)
          for (int i = lane; i < m; i += 32) v[j] = v[j] + f(r + j, i);
      }
      HK_UNROLL
      for (int j = 0; j < 4; ++j) v[j] = part(v[j], v[j + 4], 16);
      HK_UNROLL
      for (int j = 0; j < 2; ++j) v[j] = part(v[j], v[j + 2], 8);
      T s = part(v[0], v[1], 4);
      s = meet(s, 2);
      s = meet(s, 1);
      int mine = r + (lane >> 4 & 1) * 4 + (lane >> 3 & 1) * 2 + (lane >> 2 & 1);
      if ((lane & 3) == 0 && mine < n) h(mine, s);
    }
    sync();
  }
  __device__ void add(float* p, float v) const { atomicAdd(p, v); }
  __device__ void prefetch(const float*, int) const {}  // other warps run while one waits
};
#endif

}  // namespace HK_NS
