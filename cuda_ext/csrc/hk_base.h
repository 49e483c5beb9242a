// What every kernel header stands on: qualifiers, fixed-width names and the arithmetic of one lane.
// No std, torch or CUDA header is included anywhere in hk_*.h, so that g++, nvcc and NVRTC read them unchanged.
#pragma once

#if defined(__CUDACC__)
#define HK_FN __host__ __device__ __forceinline__
#else
#define HK_FN inline __attribute__((always_inline))
#endif
// Each instance for another instruction set has its own namespace: inline functions must not be merged.
#ifndef HK_NS
#define HK_NS hk
#endif
#if defined(__CUDA_ARCH__) || !defined(HK_SIMD)
#define HK_LOOP
#else
#define HK_PRAGMA(x) _Pragma(#x)
#define HK_LOOP HK_PRAGMA(omp simd)
#endif

#if defined(__CUDA_ARCH__)
#define HK_UNROLL _Pragma("unroll")
#else
#define HK_UNROLL
#endif

// A function whose whole body is inlined: a lambda left as a call would keep its loop from becoming SIMD code.
#if defined(__CUDACC__)
#define HK_FLAT
#else
#define HK_FLAT __attribute__((flatten))
#endif

typedef long long hk_int;
typedef unsigned long long hk_word;

namespace HK_NS {

template <class A, class B>
struct same_type {
  static constexpr bool value = false;
};
template <class A>
struct same_type<A, A> {
  static constexpr bool value = true;
};

// f(0), f(1) .. f(N - 1), each with a number that is known to the compiler.
template <int I>
struct constant {
  HK_FN constexpr operator int() const { return I; }
};
template <int N, class F>
HK_FN void unrolled(F f) {
  if constexpr (N > 0) {
    unrolled<N - 1>(f);
    f(constant<N - 1>());
  }
}

HK_FN float sqrt_(float x) {
#if defined(__CUDA_ARCH__)
  return sqrtf(x);
#else
  return __builtin_sqrtf(x);
#endif
}
HK_FN double sqrt_(double x) {
#if defined(__CUDA_ARCH__)
  return sqrt(x);
#else
  return __builtin_sqrt(x);
#endif
}
template <class T>
HK_FN T max_(T a, T b) {
  return a < b ? b : a;
}
template <class T>
HK_FN T min_(T a, T b) {
  return b < a ? b : a;
}
template <class T>
HK_FN T abs_(T a) {
  return a < T(0) ? -a : a;
}

// The CPU's float32 functions are branch free, so that loops over kernels or rows become SIMD code; their
// error is one or two units in the last place (tests/cuda_ext/test_math.py). The GPU has its own.
#if defined(__CUDA_ARCH__)
HK_FN float exp_(float x) { return expf(x); }
HK_FN float log1p_(float x) { return log1pf(x); }
HK_FN double exp_(double x) { return exp(x); }
HK_FN double log1p_(double x) { return log1p(x); }
#else
HK_FN float bits_to_float(int i) {
  float f;
  __builtin_memcpy(&f, &i, 4);
  return f;
}
HK_FN int float_to_bits(float f) {
  int i;
  __builtin_memcpy(&i, &f, 4);
  return i;
}
HK_FN float exp_(float x) {
  // exp(x) = 2^n exp(r), |r| <= log(2)/2 (Cody and Waite's reduction, Taylor's polynomial of degree 7). The
  // power is applied in two halves, so that results next to overflow and underflow are right.
  float clipped = x < -104.0f ? -104.0f : (x > 89.0f ? 89.0f : x);
  clipped = x == x ? clipped : 0.0f;
  float shifted = clipped * 1.44269504088896341f + 12582912.0f;  // rounds to the nearest integer
  float n = shifted - 12582912.0f;
  float r = clipped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  float y = (p * r * r + r) + 1.0f;
  int whole = (int)n;
  int half = whole >> 1;
  y = y * bits_to_float((half + 127) << 23) * bits_to_float((whole - half + 127) << 23);
  return x == x ? y : x;
}
HK_FN float log_(float x) {
  // For x >= 1 here: x = m 2^e, m in [sqrt(1/2), sqrt(2)); Cephes' polynomial for log(m).
  int i = float_to_bits(x);
  int e = ((i - 0x3f3504f3) >> 23);
  float m = bits_to_float(i - (e << 23)) - 1.0f;
  float z = m * m;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  float n = (float)e;
  float y = m * z * p - 2.12194440e-4f * n - 0.5f * z;
  return (m + y) + 0.693359375f * n;
}
HK_FN float log1p_(float x) {
  // For x >= 0. The rounding of 1 + x is put back to first order.
  float u = 1.0f + x;
  float rest = x - (u - 1.0f);
  float y = log_(u) + rest / u;
  y = x < 3.0e38f ? y : x;
  return x < 1.0e-7f ? x : y;
}
HK_FN double exp_(double x) { return __builtin_exp(x); }
HK_FN double log1p_(double x) { return __builtin_log1p(x); }
#endif

// asinh(x) for x >= 0; x^2 must not overflow for the first form, so large x takes log(2x).
template <class T>
HK_FN T asinh_(T x) {
  T big = same_type<T, float>::value ? T(1.0e9) : T(1.0e15);
  T safe = x < big ? x : T(1);
  T square = safe * safe;
  T near = safe + square / (T(1) + sqrt_(T(1) + square));
  T y = log1p_(x < big ? near : x) + (x < big ? T(0) : T(0.69314718055994530942));  // one logarithm
  return x == x ? y : x;
}
// sinh and cosh for x >= 0 through exp(x/2), which does not overflow before the result does.
template <class T>
HK_FN T cosh_(T x) {
  T h = exp_(T(0.5) * x);
  T inverse = T(1) / h;
  return (T(0.5) * h) * h + (T(0.5) * inverse) * inverse;
}
template <class T>
HK_FN T sinh_(T x) {  // cancels near 0: for x >= 0.5 only
  T h = exp_(T(0.5) * x);
  T inverse = T(1) / h;
  return (T(0.5) * h) * h - (T(0.5) * inverse) * inverse;
}
template <class T>
HK_FN T sigmoid_(T x) {
  T e = exp_(-abs_(x));
  T inverse = T(1) / (T(1) + e);
  return x < T(0) ? e * inverse : inverse;
}

// Two floats as one number of 48 bits: what float64 is on the CPU, on a GPU whose kernels use no float64.
struct pair {
  float hi, lo;
  HK_FN pair() {}
  HK_FN pair(float h) : hi(h), lo(0.0f) {}
  HK_FN pair(float h, float l) : hi(h), lo(l) {}
  HK_FN explicit operator float() const { return hi + lo; }
};
HK_FN float fma_(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return fmaf(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}
HK_FN pair quick(float a, float b) {  // |a| >= |b|
  float s = a + b;
  return pair(s, b - (s - a));
}
HK_FN pair operator+(pair a, pair b) {
  float s = a.hi + b.hi;
  float t = s - a.hi;
  float e = (a.hi - (s - t)) + (b.hi - t);
  float u = a.lo + b.lo;
  float v = u - a.lo;
  float f = (a.lo - (u - v)) + (b.lo - v);
  pair r = quick(s, e + u);
  return quick(r.hi, r.lo + f);
}
HK_FN pair operator-(pair a) { return pair(-a.hi, -a.lo); }
HK_FN pair operator-(pair a, pair b) { return a + (-b); }
HK_FN pair operator*(pair a, pair b) {
  float p = a.hi * b.hi;
  float e = fma_(a.hi, b.hi, -p);
  e = fma_(a.hi, b.lo, e);
  e = fma_(a.lo, b.hi, e);
  return quick(p, e);
}
HK_FN pair operator/(pair a, pair b) {
  float q = a.hi / b.hi;
  pair r = a - b * pair(q);
  float q2 = r.hi / b.hi;
  r = r - b * pair(q2);
  return quick(q, q2) + pair(r.hi / b.hi);
}
HK_FN pair& operator+=(pair& a, pair b) { return a = a + b; }

// Sums of many terms, where an error relative to the terms is wanted and not one relative to the sum: half the
// operations of + and a third of those of * and +. What add up are numbers or, for differences that must not lose
// their digits, what minus_ and plus_ return. (Ogita, Rump and Oishi's Dot2.)
HK_FN pair join_(pair a, pair b) {
  float s = a.hi + b.hi, t = s - a.hi;
  float e = (a.hi - (s - t)) + (b.hi - t);
  return quick(s, e + (a.lo + b.lo));
}
HK_FN float join_(float a, float b) { return a + b; }
HK_FN double join_(double a, double b) { return a + b; }
HK_FN void gather_rest(pair& s, float p, float e) {
  float t = s.hi + p, z = t - s.hi;
  s.lo += ((s.hi - (t - z)) + (p - z)) + e;
  s.hi = t;
}
HK_FN void gather_(pair& s, float a, float b) {
  float p = a * b;
  gather_rest(s, p, fma_(a, b, -p));
}
HK_FN void gather_(pair& s, float a, pair b) {
  float p = a * b.hi;
  gather_rest(s, p, fma_(a, b.lo, fma_(a, b.hi, -p)));
}
HK_FN void gather_(pair& s, pair a, pair b) {
  float p = a.hi * b.hi;
  gather_rest(s, p, fma_(a.lo, b.hi, fma_(a.hi, b.lo, fma_(a.hi, b.hi, -p))));
}
template <class A, class B>
HK_FN void gather_(double& s, A a, B b) {
  s += double(a) * double(b);
}
HK_FN void sum_exactly(float a, float b, pair& out) {
  float s = a + b, t = s - a;
  out = pair(s, (a - (s - t)) + (b - t));
}
HK_FN void sum_exactly(float a, float b, double& out) { out = double(a) + double(b); }
HK_FN pair sqrt_(pair a) {
  if (!(a.hi > 0.0f)) return pair(sqrt_(a.hi));
  float s = sqrt_(a.hi);
  pair r = a - pair(s) * pair(s);
  return quick(s, (r.hi + r.lo) / (2.0f * s));
}
HK_FN bool operator<(pair a, pair b) { return a.hi < b.hi || (a.hi == b.hi && a.lo < b.lo); }

// What float32 kernels sum in where rounding would be seen: float64 on the CPU; two floats on the GPU, and in
// the tests that run the GPU's arithmetic on the CPU.
#if defined(__CUDA_ARCH__) || defined(HK_PAIR)
typedef pair wide;
#else
typedef double wide;
#endif
HK_FN wide plus_(float a, float b) {
  wide out;
  sum_exactly(a, b, out);
  return out;
}
HK_FN wide minus_(float a, float b) { return plus_(a, -b); }
template <class T>
struct wider {
  typedef double type;
};
template <>
struct wider<float> {
  typedef wide type;
};

}  // namespace HK_NS
