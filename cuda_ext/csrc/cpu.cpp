// One instruction set's instance: compiled three times with HK_NS, HK_TABLE and the compiler's -m flags.
#define HK_SIMD
#include "cpu.h"
#include "hk_ball_adam.h"
#include "hk_ball_tail.h"
#include "hk_conv_grad.h"
#include "hk_rows.h"
#include "hk_tail.h"
#include "hk_tanimoto.h"

namespace HK_NS {
namespace {

template <int O, int K>
HK_FLAT void conv(const hk_conv_args& a, hk_int begin, hk_int end, float* scratch) {
  SerialPairs g;
  Conv<SerialPairs, O, K> f(g, a, scratch);
  for (hk_int n = begin; n < end; ++n) f.forward(n);
}

template <int O, int K>
HK_FLAT void conv_backward(const hk_conv_args& a, const hk_conv_grad& b, hk_int begin, hk_int end, float* scratch) {
  SerialPairs g;
  Conv<SerialPairs, O, K> f(g, a, scratch);
  for (hk_int n = begin; n < end; ++n) f.backward(n, b);
}

hk_int conv_scratch(int d, int o, int k, int backward) { return conv_floats(d, o, k, backward, SerialPairs::pairs); }

// Usual sizes, known to the compiler: no code for what is left of a row, and half of the time. Each takes seconds to
// compile, so that there are no more, and but one of each kind where HK_FEW_SIZES is set (by tests).
#if defined(HK_FEW_SIZES)
#define HK_MORE_SIZES(...)
#else
#define HK_MORE_SIZES(...) __VA_ARGS__
#endif
#if defined(__AVX2__)
#define HK_CONV_SIZES(F, ...)                                      \
  if (a.k == 8 && a.d == a.o) {                                    \
    if (a.o == 16) return F<16, 8>(__VA_ARGS__);                   \
    HK_MORE_SIZES(if (a.o == 32) return F<32, 8>(__VA_ARGS__);)    \
    HK_MORE_SIZES(if (a.o == 64) return F<64, 8>(__VA_ARGS__);)    \
  }
#else
#define HK_CONV_SIZES(F, ...)
#endif
void conv_any(const hk_conv_args& a, hk_int begin, hk_int end, float* scratch) {
  HK_CONV_SIZES(conv, a, begin, end, scratch)
  switch (a.o) {
    case 16: return conv<16, 0>(a, begin, end, scratch);
    HK_MORE_SIZES(case 32: return conv<32, 0>(a, begin, end, scratch);)
    HK_MORE_SIZES(case 64: return conv<64, 0>(a, begin, end, scratch);)
    default: return conv<0, 0>(a, begin, end, scratch);
  }
}
void conv_backward_any(const hk_conv_args& a, const hk_conv_grad& b, hk_int begin, hk_int end, float* scratch) {
  HK_CONV_SIZES(conv_backward, a, b, begin, end, scratch)
  conv_backward<0, 0>(a, b, begin, end, scratch);
}

HK_FLAT void adam(const hk_adam_args& a, hk_int begin, hk_int end, int d, float* x, const float* grad, float* m,
          float* v, float* largest) {
  Serial g;
  for (hk_int n = begin; n < end; ++n) adam_at(g, a, n, d, x, grad, m, v, largest);
}

void tanimoto_any(const hk_word* query, const hk_word* reference, const int* sizes, hk_int m, int words,
                  float* out, hk_int begin, hk_int end) {
  Serial g;
  for (hk_int n = begin; n < end; ++n)
    out[n] = tanimoto_row(g, query + n * words, reference, sizes, m, words, 0, 1);
}

void columns_any(const hk_word* columns, hk_int words, const hk_int* starts, const hk_int* sizes,
                 hk_int groups, const unsigned char* query, int bytes, float* out, hk_int begin, hk_int end) {
  static thread_local hk_word tail[1024 * 8];
  int on[1024];
  for (hk_int n = begin; n < end; ++n) {
    int count = 0;
    for (int b = 0; b < bytes; ++b)
      for (int bit = 0; bit < 8; ++bit)
        if (query[n * bytes + b] & (128 >> bit)) on[count++] = b * 8 + bit;
    out[n] = tanimoto_columns(columns, words, starts, sizes, groups, on, count, tail);
  }
}

// The kind is a constant inside: each operation's loop is compiled for itself.
template <int KIND>
HK_FLAT void row_kind(const float* const* in, float* out, hk_int begin, hk_int end, int d, float c, float low) {
  Serial g;
  for (hk_int n = begin; n < end; ++n) row_at(g, KIND, in[0], in[1], in[2], out, n, d, c, low);
}
template <int KIND>
HK_FLAT void row_kind_backward(const float* const* in, const float* grad, float* const* out, hk_int begin, hk_int end,
                       int d, float c, float low) {
  Serial g;
  for (hk_int n = begin; n < end; ++n)
    row_backward_at(g, KIND, in[0], in[1], in[2], grad, out[0], out[1], out[2], n, d, c, low);
}
#define HK_EACH_KIND(F) \
  {F<0>, F<1>, F<2>, F<3>, F<4>, F<5>, F<6>, F<7>, F<8>, F<9>, F<10>, F<11>, F<12>, F<13>, F<14>}
void row_any(int kind, const float* const* in, float* out, hk_int begin, hk_int end, int d, float c, float low) {
  static constexpr decltype(&row_kind<0>) all[ROW_KINDS] = HK_EACH_KIND(row_kind);
  all[kind](in, out, begin, end, d, c, low);
}
void row_backward_any(int kind, const float* const* in, const float* grad, float* const* out, hk_int begin,
                      hk_int end, int d, float c, float low) {
  static constexpr decltype(&row_kind_backward<0>) all[ROW_KINDS] = HK_EACH_KIND(row_kind_backward);
  all[kind](in, grad, out, begin, end, d, c, low);
}

// Rows in blocks: the numbers of a block's rows are computed side by side.
constexpr int TAIL_BLOCK = 16;

// Functions of their own: within the loops that they are called from, the compiler does not make them SIMD code.
HK_FLAT __attribute__((noinline)) void tail_numbers(const float* q, const float* z0, const float* log_scale, float c,
                                                    float* f, float* time) {
  HK_LOOP
  for (int j = 0; j < TAIL_BLOCK; ++j) {
    TailRow r(q[j], z0[j], log_scale[j], c);
    f[j] = r.factor();
    time[j] = r.time();
  }
}
// `points` is 1 if the rows are not z but the points, f z_s, and on_z is for them; else 0. No branch.
HK_FLAT __attribute__((noinline)) void tail_gradients(const float* q, const float* z0, const float* log_scale, float c,
                                                      const float* g0, const float* along, float points, float* f,
                                                      float* on_z, float* by_z0, float* by_log) {
  HK_LOOP
  for (int j = 0; j < TAIL_BLOCK; ++j) {
    TailRow r(q[j], z0[j], log_scale[j], c);
    f[j] = r.factor();
    float scaled = points / f[j] + (1.0f - points), on, first, scale;
    r.backward(g0[j], along[j] * scaled, on, first, scale);
    on_z[j] = on * scaled;
    by_z0[j] = first;
    by_log[j] = scale;
  }
}

HK_FLAT void tail(const hk_tail_args& a, hk_int begin, hk_int end) {
  Serial g;
  hk_int width = a.d + 1, scale = begin % a.period;
  for (hk_int n = begin; n < end; n += TAIL_BLOCK) {
    int rows = static_cast<int>(min_<hk_int>(TAIL_BLOCK, end - n));
    float q[TAIL_BLOCK] = {}, z0[TAIL_BLOCK] = {}, ls[TAIL_BLOCK] = {}, f[TAIL_BLOCK], t[TAIL_BLOCK];
    for (int j = 0; j < rows; ++j) {
      const float* row = a.z + (n + j) * width;
      q[j] = tail_square(g, row, a.d);
      z0[j] = row[0];
      ls[j] = a.log_scale[scale];
      if (++scale == a.period) scale = 0;
    }
    tail_numbers(q, z0, ls, a.c, f, t);
    for (int j = 0; j < rows; ++j) {
      hk_int at = (n + j) * width;
      tail_write(g, a.z + at, f[j], t[j], a.out + at, a.d);
      if (a.kept != nullptr) {
        a.kept[n + j] = q[j];
        a.kept[a.n + n + j] = z0[j];
      }
    }
  }
}
HK_FLAT void tail_backward(const hk_tail_args& a, hk_int begin, hk_int end) {
  Serial g;
  bool given = a.kept != nullptr;
  hk_int width = a.d + 1, scale = begin % a.period;
  for (hk_int n = begin; n < end; n += TAIL_BLOCK) {
    int rows = static_cast<int>(min_<hk_int>(TAIL_BLOCK, end - n));
    float q[TAIL_BLOCK] = {}, along[TAIL_BLOCK] = {}, z0[TAIL_BLOCK] = {}, g0[TAIL_BLOCK] = {}, ls[TAIL_BLOCK] = {};
    float f[TAIL_BLOCK], on_z[TAIL_BLOCK], by_z0[TAIL_BLOCK], by_log[TAIL_BLOCK];
    for (int j = 0; j < rows; ++j) {
      const float *row = a.z + (n + j) * width, *by = a.grad + (n + j) * width;
      tail_sums(g, row, by, a.d, q[j], along[j]);
      if (given) q[j] = a.kept[n + j];
      z0[j] = given ? a.kept[a.n + n + j] : row[0];
      g0[j] = by[0];
      ls[j] = a.log_scale[scale];
      if (++scale == a.period) scale = 0;
    }
    tail_gradients(q, z0, ls, a.c, g0, along, given ? 1.0f : 0.0f, f, on_z, by_z0, by_log);
    for (int j = 0; j < rows; ++j) {
      hk_int at = (n + j) * width;
      tail_write_grad(g, a.z + at, a.grad + at, f[j], on_z[j], by_z0[j], a.out + at, a.d);
      a.by_scale[n + j] = by_log[j];
    }
  }
}

// Rows of other widths than whole registers, side by side: a block of rows as one row, with what a row's or a column's
// numbers are repeated for each of its numbers.
constexpr int BALL_BLOCK = 512;
struct BallBlock {
  const hk_ball_args& a;
  int d, rows;
  float gain[BALL_BLOCK], tilt[BALL_BLOCK], power[BALL_BLOCK], space[BALL_BLOCK], time[BALL_BLOCK];
  float f[BALL_BLOCK], on[BALL_BLOCK], t[BALL_BLOCK], w[BALL_BLOCK];

  static bool takes(int d) { return d % 16 != 0 && d <= BALL_BLOCK / 2; }
  HK_FN explicit BallBlock(const hk_ball_args& args) : a(args), d(args.d), rows(BALL_BLOCK / args.d) {
    for (int j = 0; j < rows * d; ++j) {
      gain[j] = a.gain[j % d];
      tilt[j] = a.tilt[j % d];
      power[j] = a.power[j % d];
    }
  }
  HK_FN void repeat(const float* one, float* many, int count) const {
    for (int r = 0; r < count; ++r)
      for (int i = 0; i < d; ++i) many[r * d + i] = one[r];
  }
  // The space coordinates w, and the factors f and on of each row, of which `on` is for the gradient if there is one.
  HK_FN void forward(hk_int n, int count, const float* grad) {
    Serial g;
    const float* z = a.z + n * d;
    float scale = 1.0f / sqrt_(a.c), factor[BALL_BLOCK], other[BALL_BLOCK];
    repeat(a.space + n, space, count);
    repeat(a.time + n, time, count);
    g.each(count * d, [&](int j) {
      t[j] = signed_asinh(ball_inside(z[j], space[j], time[j], gain[j], tilt[j]));
      w[j] = scale * signed_sinh(ball_angle(t[j], power[j]));
    });
    for (int r = 0; r < count; ++r) {
      float q = 0.0f, along = 0.0f;
      for (int i = 0; i < d; ++i) q += w[r * d + i] * w[r * d + i];
      if (grad != nullptr)
        for (int i = 0; i < d; ++i) along += w[r * d + i] * grad[r * d + i];
      factor[r] = q;
      other[r] = along;
    }
    g.each(count, [&](int r) {
      BallRow row(factor[r], a.c);
      factor[r] = row.f;
      other[r] *= row.on;
    });
    repeat(factor, f, count);
    repeat(other, on, count);
  }
};
HK_FLAT void ball_tail(const hk_ball_args& a, hk_int begin, hk_int end) {
  Serial g;
  if (!BallBlock::takes(a.d)) {
    for (hk_int n = begin; n < end; ++n) ball_tail_at(g, a, n);
    return;
  }
  BallBlock b(a);
  for (hk_int n = begin; n < end; n += b.rows) {
    int count = static_cast<int>(min_<hk_int>(b.rows, end - n));
    b.forward(n, count, nullptr);
    float* to = a.out + n * a.d;
    g.each(count * a.d, [&](int j) { to[j] = b.f[j] * b.w[j]; });
  }
}
// Adds to sums (3, d), of gain, tilt and power: a block of rows in float32, the blocks in float64.
HK_FLAT void ball_tail_backward(const hk_ball_args& a, hk_int begin, hk_int end, double* sums, float* scratch) {
  Serial g;
  int d = a.d;
  if (BallBlock::takes(d)) {
    BallBlock b(a);
    float scale = 1.0f / sqrt_(a.c), by_gain[BALL_BLOCK], by_tilt[BALL_BLOCK], by_power[BALL_BLOCK];
    for (hk_int n = begin; n < end; n += b.rows) {
      int count = static_cast<int>(min_<hk_int>(b.rows, end - n));
      const float *z = a.z + n * d, *grad = a.grad + n * d;
      float* to = a.out + n * d;
      b.forward(n, count, grad);
      g.each(count * d, [&](int j) {
        float s = ball_inside(z[j], b.space[j], b.time[j], b.gain[j], b.tilt[j]), by_u;
        float by_s = ball_slope(grad[j], b.f[j], b.on[j], s, b.t[j], b.w[j], b.power[j], a.c, scale, by_u);
        to[j] = by_s * b.gain[j] * b.space[j];
        by_gain[j] = by_s * b.space[j] * z[j];
        by_tilt[j] = -by_s * b.time[j];
        by_power[j] = by_u * b.t[j];
        b.w[j] = by_s * b.gain[j] * z[j];
        b.t[j] = -by_s * b.tilt[j];
      });
      for (int r = 0; r < count; ++r) {
        float gs = 0.0f, gt = 0.0f;
        for (int i = 0; i < d; ++i) {
          gs += b.w[r * d + i];
          gt += b.t[r * d + i];
          sums[i] += by_gain[r * d + i];
          sums[d + i] += by_tilt[r * d + i];
          sums[2 * d + i] += by_power[r * d + i];
        }
        a.by_space[n + r] = gs;
        a.by_time[n + r] = gt;
      }
    }
    return;
  }
  float *held = scratch, *parts = scratch + d;
  for (hk_int n = begin; n < end; n += TAIL_BLOCK) {
    g.each(3 * d, [&](int i) { parts[i] = 0.0f; });
    for (hk_int j = n; j < min_<hk_int>(n + TAIL_BLOCK, end); ++j)
      ball_tail_backward_at<true>(g, a, j, held, parts, parts + d, parts + 2 * d);
    g.each(3 * d, [&](int i) { sums[i] += parts[i]; });
  }
}

HK_FLAT void linear(const hk_linear_args& a, hk_int begin, hk_int end) {
  Serial g;
  hk_int row = a.d + 1;
  float ls[TAIL_BLOCK];
  for (float& l : ls) l = a.log_scale;
  for (hk_int n = begin; n < end; n += TAIL_BLOCK) {
    int rows = static_cast<int>(min_<hk_int>(TAIL_BLOCK, end - n));
    float q[TAIL_BLOCK] = {}, z0[TAIL_BLOCK] = {}, f[TAIL_BLOCK], t[TAIL_BLOCK];
    for (int j = 0; j < rows; ++j) {
      float* z = a.points + (n + j) * row;
      z0[j] = linear_row(g, a, a.x + (n + j) * (a.width + 1), a.product + (n + j) * a.d, z);
      q[j] = tail_square(g, z, a.d);
    }
    tail_numbers(q, z0, ls, a.c, f, t);
    for (int j = 0; j < rows; ++j) {
      float* z = a.points + (n + j) * row;
      tail_write(g, z, f[j], t[j], z, a.d);
      a.kept[n + j] = q[j];
      a.kept[a.n + n + j] = z0[j];
    }
  }
}
// Adds to by_first (d), by_bias (d + 1) and by_top (width + 1): a block of rows in float32, the blocks in float64.
HK_FLAT void linear_backward(const hk_linear_args& a, hk_int begin, hk_int end, double* by_first, double* by_bias,
                             double* by_top, float* scratch) {
  Serial g;
  hk_int row = a.d + 1;
  float ls[TAIL_BLOCK];
  for (float& l : ls) l = a.log_scale;
  int d = a.d, width = a.width;
  float *sum_first = scratch, *sum_bias = scratch + d, *sum_top = scratch + 2 * d;
  const float* first = a.first;
  for (hk_int n = begin; n < end; n += TAIL_BLOCK) {
    int rows = static_cast<int>(min_<hk_int>(TAIL_BLOCK, end - n));
    float q[TAIL_BLOCK] = {}, along[TAIL_BLOCK] = {}, z0[TAIL_BLOCK] = {}, g0[TAIL_BLOCK] = {};
    float f[TAIL_BLOCK], on_z[TAIL_BLOCK], by_z0[TAIL_BLOCK], by_log[TAIL_BLOCK];
    for (int j = 0; j < rows; ++j) {
      const float *p = a.points + (n + j) * row, *by = a.grad + (n + j) * row;
      along[j] = g.sum(d, [&](int i) { return by[1 + i] * p[1 + i]; }, 0.0f);
      q[j] = a.kept[n + j];
      z0[j] = a.kept[a.n + n + j];
      g0[j] = by[0];
    }
    tail_gradients(q, z0, ls, a.c, g0, along, 1.0f, f, on_z, by_z0, by_log);
    g.each(2 * d + width, [&](int i) { scratch[i] = 0.0f; });
    double gate = 0.0, first_top = 0.0;
    for (int j = 0; j < rows; ++j) {
      const float *p = a.points + (n + j) * row, *by = a.grad + (n + j) * row, *x = a.x + (n + j) * (width + 1);
      float* to = a.space + (n + j) * d;
      float fj = f[j], on = on_z[j], z = by_z0[j], t = x[0];
      a.time[n + j] = z * a.top[0] + g.sum(
                                         d,
                                         [&](int i) {
                                           float v = fj * by[1 + i] + on * p[1 + i];
                                           to[i] = v;
                                           sum_first[i] += t * v;
                                           sum_bias[i] += v;
                                           return first[i] * v;
                                         },
                                         0.0f);
      g.each(width, [&](int i) { sum_top[i] += z * x[1 + i]; });
      first_top += double(z) * double(t);
      a.gate[n + j] = z;
      a.by_scale[n + j] = by_log[j];
      gate += z;
    }
    g.each(d, [&](int i) { by_first[i] += sum_first[i]; });
    g.each(d, [&](int i) { by_bias[1 + i] += sum_bias[i]; });
    g.each(width, [&](int i) { by_top[1 + i] += sum_top[i]; });
    by_bias[0] += gate;
    by_top[0] += first_top;
  }
}
// The gradient of x, given that of the product of the space parts.
HK_FLAT void linear_join(const hk_linear_args& a, const float* product, float* gx, hk_int begin, hk_int end) {
  Serial g;
  const float* top = a.top;
  for (hk_int n = begin; n < end; ++n) {
    const float* from = product + n * a.width;
    float *to = gx + n * (a.width + 1), z = a.gate[n];
    g.each(a.width, [&](int i) { to[1 + i] = from[i] + z * top[1 + i]; });
    to[0] = a.time[n];
  }
}

const hk_table table = {
    HK_NAME,       conv_scratch,       conv_any, conv_backward_any, adam,        row_any,      row_backward_any, tail,
    tail_backward, ball_tail,          ball_tail_backward,          linear,      linear_backward,  linear_join,
    tanimoto_any,  columns_any};

}  // namespace
}  // namespace HK_NS

extern "C" const hk_table* HK_TABLE() { return &HK_NS::table; }
