// A group of lanes works on one row or node. Algorithms are written as phases over it:
//   each(n, f)        f(i) for i < n, in any order; a barrier follows
//   sum(n, f)         the sum of f(i), known to every lane
//   sum1(n, f, a), sum2(n, f, a, b), sum3  one, two, three sums in one pass, to which f(i, a, b) adds
//   rows(n, m, 0, f, h)  for each r < n: h(r, s), s the sum over i < m to which f(r, i, s) adds; a barrier follows
//   add(p, v)         *p += v, while other groups do the same
// h(r, ...) of `rows` is called by one lane, for several rows at a time: it may hold no phase.
// What stands outside of phases is uniform: all lanes compute the same.
#pragma once
#include "hk_base.h"

namespace HK_NS {

// Sums of float32 on the CPU with AVX-512. The compiler adds up the 16 lanes of a reduction one after the other,
// which takes longer than a row of 128; here they are halved. With narrower registers it gains nothing.
#if defined(HK_SIMD) && defined(__AVX512F__) && !defined(__CUDACC__)
#define HK_LANES 16
struct LaneSums {
  typedef float lanes __attribute__((vector_size(64)));
  lanes v;
  HK_FN LaneSums() : v{} {}
  HK_FN void add(const float* terms) {
    lanes t;
    __builtin_memcpy(&t, terms, 64);
    v += t;
  }
  HK_FN float total() const {
    float s[16], h[8], q[4];
    __builtin_memcpy(s, &v, 64);
    HK_LOOP
    for (int l = 0; l < 8; ++l) h[l] = s[l] + s[l + 8];
    HK_LOOP
    for (int l = 0; l < 4; ++l) q[l] = h[l] + h[l + 4];
    return (q[0] + q[2]) + (q[1] + q[3]);
  }
};
#endif

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
#if defined(HK_LANES)
    LaneSums lanes;
    int i = 0;
    for (; i + HK_LANES <= n; i += HK_LANES) {
      float t[HK_LANES];
      HK_LOOP
      for (int l = 0; l < HK_LANES; ++l) t[l] = f(i + l);
      lanes.add(t);
    }
    float s = lanes.total();
    for (; i < n; ++i) s += f(i);
    return s;
#else
    float s = 0.0f;
#if defined(HK_SIMD)
#pragma omp simd reduction(+ : s)
#endif
    for (int i = 0; i < n; ++i) s += f(i);
    return s;
#endif
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
#if defined(HK_LANES)
    if constexpr (same_type<T, float>::value) {
      LaneSums as, bs;
      int i = 0;
      for (; i + HK_LANES <= n; i += HK_LANES) {
        float t[HK_LANES], u[HK_LANES];
        HK_LOOP
        for (int l = 0; l < HK_LANES; ++l) {
          float p = 0.0f, q = 0.0f;
          f(i + l, p, q);
          t[l] = p;
          u[l] = q;
        }
        as.add(t);
        bs.add(u);
      }
      a = as.total();
      b = bs.total();
      for (; i < n; ++i) f(i, a, b);
      first = a;
      second = b;
      return;
    }
#endif
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
  template <class T, class F>
  HK_FN void sum1(int n, F f, T& out) const {
    T s = T(0.0f);
    if constexpr (same_type<T, pair>::value) {
      for (int i = 0; i < n; ++i) f(i, s);
    } else {
#if defined(HK_SIMD)
#pragma omp simd reduction(+ : s)
#endif
      for (int i = 0; i < n; ++i) f(i, s);
    }
    out = s;
  }
  template <class T, class F, class H>
  HK_FN void rows(int n, int m, T, F f, H h) const {
    for (int r = 0; r < n; ++r) {
      T s;
      sum1(m, [&](int i, T& to) { f(r, i, to); }, s);
      h(r, s);
    }
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
// L lanes of a warp (8 or 32): lane l takes l, l + L, ...; sums by butterflies, so that every lane gets the same
// bits. With 8, four rows or pairs go through a warp at once, and what is the same for all lanes of a group is
// computed for four of them.
template <int L>
struct Lanes {
  static constexpr bool shared_memory = true;
  int lane;
  unsigned mask;
  __device__ Lanes() : lane(threadIdx.x & (L - 1)) {
    mask = L == 32 ? 0xffffffffu : ((1u << (L & 31)) - 1u) << (threadIdx.x & 31 & ~(L - 1));
  }
  __device__ void sync() const { __syncwarp(mask); }
  template <class F>
  __device__ void each(int n, F f) const {
    for (int i = lane; i < n; i += L) f(i);
    sync();
  }
  __device__ float exchange(float v, int bit) const { return __shfl_xor_sync(mask, v, bit); }
  __device__ pair exchange(pair v, int bit) const { return pair(exchange(v.hi, bit), exchange(v.lo, bit)); }
  // The same order on both sides: a + b and b + a differ in the last bit for pairs.
  __device__ float meet(float v, int bit) const { return v + exchange(v, bit); }
  __device__ pair meet(pair v, int bit) const {
    pair other = exchange(v, bit);
    bool upper = lane & bit;
    return join_(upper ? other : v, upper ? v : other);
  }
  // Of two sums a lane goes on with one, by this bit of its number: half the additions of two butterflies.
  template <class T>
  __device__ T part(T a, T b, int bit) const {
    bool upper = lane & bit;
    T send = upper ? a : b, keep = upper ? b : a;
    return join_(keep, exchange(send, bit));
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
    T s;
    sum1(n, [&](int i, T& to) { to = join_(to, f(i)); }, s);
    return s;
  }
  template <class T, class F>
  __device__ void sum1(int n, F f, T& out) const {
    T s = T(0.0f);
    for (int i = lane; i < n; i += L) f(i, s);
    HK_UNROLL
    for (int bit = L / 2; bit > 0; bit >>= 1) s = meet(s, bit);
    out = s;
  }
  template <class T, class F>
  __device__ void sum2(int n, F f, T& first, T& second) const {
    T a = T(0.0f), b = T(0.0f);
    for (int i = lane; i < n; i += L) f(i, a, b);
    T v = part(a, b, L / 2);
    HK_UNROLL
    for (int bit = L / 4; bit > 0; bit >>= 1) v = meet(v, bit);
    both(v, L / 2, first, second);
  }
  template <class T, class F>
  __device__ void sum3(int n, F f, T& first, T& second, T& third) const {
    T a = T(0.0f), b = T(0.0f), c = T(0.0f);
    for (int i = lane; i < n; i += L) f(i, a, b, c);
    T v = part(part(a, b, L / 2), meet(c, L / 2), L / 4);
    HK_UNROLL
    for (int bit = L / 8; bit > 0; bit >>= 1) v = meet(v, bit);
    T ab;
    both(v, L / 4, ab, third);
    both(ab, L / 2, first, second);
  }
  // Eight rows at a time: lanes share out the rows while they add, seven additions and those of L / 8 lanes.
  template <class T, class F, class H>
  __device__ void rows(int n, int m, T zero, F f, H h) const {
    for (int r = 0; r < n; r += 8) {
      T v[8];
      HK_UNROLL
      for (int j = 0; j < 8; ++j) {
        v[j] = zero;
        if (r + j < n)
          for (int i = lane; i < m; i += L) f(r + j, i, v[j]);
      }
      HK_UNROLL
      for (int j = 0; j < 4; ++j) v[j] = part(v[j], v[j + 4], L / 2);
      HK_UNROLL
      for (int j = 0; j < 2; ++j) v[j] = part(v[j], v[j + 2], L / 4);
      T s = part(v[0], v[1], L / 8);
      HK_UNROLL
      for (int bit = L / 16; bit > 0; bit >>= 1) s = meet(s, bit);
      // The bits of the lane's number, from the top, are those of its row.
      int mine = r + (lane & (L / 2) ? 4 : 0) + (lane & (L / 4) ? 2 : 0) + (lane & (L / 8) ? 1 : 0);
      if ((lane & (L / 8 - 1)) == 0 && mine < n) h(mine, s);
    }
    sync();
  }
  __device__ void add(float* p, float v) const { atomicAdd(p, v); }
  __device__ void prefetch(const float*, int) const {}  // other warps run while one waits
};
#endif

}  // namespace HK_NS
