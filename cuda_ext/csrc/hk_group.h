// A group of lanes works on one row or node. Algorithms are written as phases over it:
//   each(n, f)        f(i) for i < n, in any order; a barrier follows
//   sum(n, f)         the sum of f(i), known to every lane
//   sum1(n, f, a), sum2(n, f, a, b), sum3  one, two, three sums in one pass, to which f(i, a, b) adds
//   rows(n, m, 0, f, h)  for each r < n: h(r, s), s the sum over i < m to which f(r, i, s) adds; a barrier follows
//   tiles<P>(n, m, 0, v, f, h)  P sums for each r: h(r, b, s) has the sum of f(r, i, b, v(r, i, b)); v only reads, so
//                     that what it reads for all b is read once
//   add(p, v)         *p += v, while other groups do the same
//   pairs             how many pairs of a convolution go through the phases together
// h(r, ...) of `rows` is called by one lane, for several rows at a time: it may hold no phase.
// What stands outside of phases is uniform: all lanes compute the same.
#pragma once
#include "hk_base.h"

namespace HK_NS {

// Sums on the CPU with AVX-512. The compiler adds up the lanes of a reduction one after the other, which takes longer
// than a row of 128; here they are halved, and those of eight rows together. With narrower registers it gains nothing.
#if defined(HK_SIMD) && defined(__AVX512F__) && !defined(__CUDACC__) && defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HK_LANES
#endif
#endif
#if defined(HK_LANES)
template <class T>
struct Register;
template <>
struct Register<float> {
  static constexpr int lanes = 16;
  typedef float type __attribute__((vector_size(64)));
  typedef float eight __attribute__((vector_size(32)));
  // The sums of eight registers' lanes. Each step adds the halves of what belongs to one register, for two of them.
  static HK_FN void totals(type* v, float* out) {
    unrolled<4>([&](auto j) {
      v[j] = __builtin_shufflevector(v[j], v[j + 4], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
             __builtin_shufflevector(v[j], v[j + 4], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    });
    unrolled<2>([&](auto j) {
      v[j] = __builtin_shufflevector(v[j], v[j + 2], 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
             __builtin_shufflevector(v[j], v[j + 2], 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    });
    type w = __builtin_shufflevector(v[0], v[1], 0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29) +
             __builtin_shufflevector(v[0], v[1], 2, 3, 6, 7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31);
    eight sums = __builtin_shufflevector(w, w, 0, 2, 4, 6, 8, 10, 12, 14) +
                 __builtin_shufflevector(w, w, 1, 3, 5, 7, 9, 11, 13, 15);
    __builtin_memcpy(out, &sums, 32);
  }
};
template <>
struct Register<double> {
  static constexpr int lanes = 8;
  typedef double type __attribute__((vector_size(64)));
  static HK_FN void totals(type* v, double* out) {
    unrolled<4>([&](auto j) {
      v[j] = __builtin_shufflevector(v[j], v[j + 4], 0, 1, 2, 3, 8, 9, 10, 11) +
             __builtin_shufflevector(v[j], v[j + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    });
    unrolled<2>([&](auto j) {
      v[j] = __builtin_shufflevector(v[j], v[j + 2], 0, 1, 4, 5, 8, 9, 12, 13) +
             __builtin_shufflevector(v[j], v[j + 2], 2, 3, 6, 7, 10, 11, 14, 15);
    });
    type sums = __builtin_shufflevector(v[0], v[1], 0, 2, 4, 6, 8, 10, 12, 14) +
                __builtin_shufflevector(v[0], v[1], 1, 3, 5, 7, 9, 11, 13, 15);
    __builtin_memcpy(out, &sums, 64);
  }
};
// Sixteen terms at a time, as many as a register of float32 holds: with the eight of float64 the compiler takes
// registers of half the width.
template <class T>
struct LaneSums {
  static constexpr int N = 16, parts = N / Register<T>::lanes;
  typename Register<T>::type v[parts];
  HK_FN LaneSums() : v{} {}
  HK_FN void add(const T* terms) {
    unrolled<parts>([&](auto i) {
      typename Register<T>::type t;
      __builtin_memcpy(&t, terms + i * Register<T>::lanes, 64);
      v[i] += t;
    });
  }
  HK_FN typename Register<T>::type joined() const {
    if constexpr (parts == 2)
      return v[0] + v[1];
    else
      return v[0];
  }
  HK_FN T total() const {
    T s[Register<T>::lanes];
    typename Register<T>::type all = joined();
    __builtin_memcpy(s, &all, 64);
    if constexpr (Register<T>::lanes == 16) {
      HK_LOOP
      for (int l = 0; l < 8; ++l) s[l] = s[l] + s[l + 8];
    }
    HK_LOOP
    for (int l = 0; l < 4; ++l) s[l] = s[l] + s[l + 4];
    return (s[0] + s[2]) + (s[1] + s[3]);
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
    LaneSums<float> lanes;
    int i = 0;
    for (; i + LaneSums<float>::N <= n; i += LaneSums<float>::N) {
      float t[LaneSums<float>::N];
      HK_LOOP
      for (int l = 0; l < LaneSums<float>::N; ++l) t[l] = f(i + l);
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
      LaneSums<float> as, bs;
      int i = 0;
      for (; i + LaneSums<float>::N <= n; i += LaneSums<float>::N) {
        float t[LaneSums<float>::N], u[LaneSums<float>::N];
        HK_LOOP
        for (int l = 0; l < LaneSums<float>::N; ++l) {
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

// HKConv's: a few pairs at once, and sums in lanes of float64 too, what is left of a row included. Row operations, whose
// sums are few and whose loops write, take up to three times as long with these.
struct SerialPairs : Serial {
  static constexpr int pairs = 4;
  template <class T>
  HK_FN static constexpr bool in_lanes() {
#if defined(HK_LANES)
    return same_type<T, float>::value || same_type<T, double>::value;
#else
    return false;
#endif
  }
#if defined(HK_LANES)
  template <class T, class F>
  HK_FN T sum(int n, F f, T) const {
    T s;
    sum1(n, [&](int i, T& to) { to += f(i); }, s);
    return s;
  }
  template <class T, class F>
  HK_FN void sum1(int n, F f, T& out) const {
    if constexpr (!in_lanes<T>()) {
      Serial::sum1(n, f, out);
    } else {
      constexpr int N = LaneSums<T>::N;
      LaneSums<T> a_;
      int i = 0;
      for (; i + N <= n; i += N) {
        T ta[N];
        HK_LOOP
        for (int l = 0; l < N; ++l) {
          T aa = T(0.0f);
          f(i + l, aa);
          ta[l] = aa;
        }
        a_.add(ta);
      }
      T a = a_.total();
#pragma omp simd reduction(+ : a)
      for (int j = i; j < n; ++j) f(j, a);
      out = a;
    }
  }
  template <class T, class F>
  HK_FN void sum3(int n, F f, T& first, T& second, T& third) const {
    if constexpr (!in_lanes<T>()) {
      Serial::sum3(n, f, first, second, third);
    } else {
      constexpr int N = LaneSums<T>::N;
      LaneSums<T> a_, b_, c_;
      int i = 0;
      for (; i + N <= n; i += N) {
        T ta[N], tb[N], tc[N];
        HK_LOOP
        for (int l = 0; l < N; ++l) {
          T aa = T(0.0f), bb = T(0.0f), cc = T(0.0f);
          f(i + l, aa, bb, cc);
          ta[l] = aa, tb[l] = bb, tc[l] = cc;
        }
        a_.add(ta), b_.add(tb), c_.add(tc);
      }
      T a = a_.total(), b = b_.total(), c = c_.total();
#pragma omp simd reduction(+ : a, b, c)
      for (int j = i; j < n; ++j) f(j, a, b, c);
      first = a, second = b, third = c;
    }
  }
#endif
  template <class T, class F, class H>
  HK_FN void rows(int n, int m, T zero, F f, H h) const {
    auto value = [&](int r, int i, int) {
      T to = T(0.0f);
      f(r, i, to);
      return to;
    };
    tiles<1>(n, m, zero, value, [](int, int, int, T v) { return v; }, [&](int r, int, T s) { h(r, s); });
  }
  template <int P, class T, class V, class F, class H>
  HK_FN void tiles(int n, int m, T zero, V value, F f, H h) const {
    int r = 0;
#if defined(HK_LANES)
    if constexpr (in_lanes<T>()) {
      for (; r + 8 / P <= n; r += 8 / P) tile<P, 8 / P>(r, m, zero, value, f, h);
    }
#endif
    for (; r < n; ++r) {
      unrolled<P>([&](auto b) {
        T s;
        sum1(m, [&](int i, T& to) { to += f(r, i, b, value(r, i, b)); }, s);
        h(r, b, s);
      });
    }
  }
#if defined(HK_LANES)
  // Eight sums: R rows of P.
  template <int P, int R, class T, class V, class F, class H>
  HK_FN void tile(int r, int m, T, V value, F f, H h) const {
    constexpr int N = LaneSums<T>::N;
    constexpr int order[8] = {0, 4, 2, 6, 1, 5, 3, 7};  // where `totals` has its sum at this place
    T s[8];
    LaneSums<T> sums[8];
    int whole = m / N * N;
    for (int i = 0; i < whole; i += N) {
      unrolled<R>([&](auto j) {
        T t[P][N];
        unrolled<P>([&](auto b) {
          HK_LOOP
          for (int l = 0; l < N; ++l) t[b][l] = value(r + j, i + l, b);
        });
        unrolled<P>([&](auto b) {
          HK_LOOP
          for (int l = 0; l < N; ++l) t[b][l] = f(r + j, i + l, b, t[b][l]);
          sums[j * P + b].add(t[b]);
        });
      });
    }
    typename Register<T>::type v[8];
    unrolled<8>([&](auto j) { v[order[j]] = sums[j].joined(); });
    Register<T>::totals(v, s);
    for (int i = whole; i < m; ++i)
      unrolled<R>([&](auto j) {
        unrolled<P>([&](auto b) { s[j * P + b] += f(r + j, i, b, value(r + j, i, b)); });
      });
    unrolled<P>([&](auto b) {
      HK_LOOP
      for (int j = 0; j < R; ++j) h(r + j, b, s[j * P + b]);
    });
  }
#endif
};

#if defined(__CUDACC__) || defined(HK_EMULATE)
// L lanes of a warp (8 or 32): lane l takes l, l + L, ...; sums by butterflies, so that every lane gets the same
// bits. With 8, four rows or pairs go through a warp at once, and what is the same for all lanes of a group is
// computed for four of them.
template <int L>
struct Lanes {
  static constexpr bool shared_memory = true;
  static constexpr int pairs = 1;
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
  template <int P, class T, class V, class F, class H>
  __device__ void tiles(int n, int m, T zero, V value, F f, H h) const {
    static_assert(P == 1, "other groups are what fills the registers");
    constant<0> b;
    rows(
        n, m, zero, [&](int r, int i, T& to) { to += f(r, i, b, value(r, i, b)); },
        [&](int r, T s) { h(r, b, s); });
  }
  __device__ void add(float* p, float v) const { atomicAdd(p, v); }
  __device__ void prefetch(const float*, int) const {}  // other warps run while one waits
};
#endif

}  // namespace HK_NS
