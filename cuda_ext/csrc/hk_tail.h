// What follows the matrix product of a Lorentz linear layer (hyperkit/nn/_base.py, `lorentz_tail`): the gate, the
// rescaled space part and the time over it. Two passes over a row in the first-level cache, one over memory; after
// a layer's own product in place, so that nothing is kept but the layer's inputs and outputs and two numbers a row.
#pragma once
#include "hk_args.h"
#include "hk_group.h"

namespace HK_NS {

// TIME_MARGIN and SPACE_EPS of hyperkit/nn/_base.py.
constexpr float TAIL_MARGIN = 1e-4f;
constexpr float TAIL_EPS = 1e-8f;

// The numbers of a row: its time above the origin is `excess`, its space part is scaled by the root of f2.
struct TailRow {
  float q, ic, root, gate, rest, scale, excess, f2;  // rest = 1 - gate, without the cancellation
  HK_FN TailRow(float square, float z0, float log_scale, float c) {
    q = square;
    ic = 1.0f / c;
    root = sqrt_(ic);
    scale = exp_(log_scale);
    float e = exp_(-abs_(z0)), inverse = 1.0f / (1.0f + e);
    gate = z0 < 0.0f ? e * inverse : inverse;
    rest = z0 < 0.0f ? inverse : e * inverse;
    excess = gate * scale + TAIL_MARGIN * root;
    f2 = excess * (excess + 2.0f * root) / (q + TAIL_EPS);
  }
  HK_FN float factor() const { return sqrt_(f2); }
  HK_FN float time() const { return sqrt_(f2 * q + ic); }
  // Gradients, given that of the time, g0, and <gradient of the space part, z_s>: for z_s it is f g_s + on_z z_s.
  HK_FN void backward(float g0, float along, float& on_z, float& by_z0, float& by_log_scale) const {
    float over = q + TAIL_EPS, by_time = g0 / (2.0f * time());
    float by_f2 = along / (2.0f * factor()) + by_time * q;
    on_z = 2.0f * (by_time * f2 - by_f2 * f2 / over);
    by_log_scale = by_f2 * (2.0f * excess + 2.0f * root) / over * gate * scale;
    by_z0 = by_log_scale * rest;
  }
};

// z, out and the gradients here are whole rows, (d + 1).
template <class G>
HK_FN float tail_square(const G& g, const float* z, int d) {
  return g.sum(d, [&](int i) { return z[1 + i] * z[1 + i]; }, 0.0f);
}
template <class G>
HK_FN void tail_write(const G& g, const float* z, float f, float time, float* out, int d) {
  g.each(d, [&](int i) { out[1 + i] = f * z[1 + i]; });
  g.each(1, [&](int) { out[0] = time; });
}
template <class G>
HK_FN void tail_sums(const G& g, const float* z, const float* grad, int d, float& q, float& along) {
  g.sum2(
      d,
      [&](int i, float& a, float& b) {
        a += z[1 + i] * z[1 + i];
        b += grad[1 + i] * z[1 + i];
      },
      q, along);
}
template <class G>
HK_FN void tail_write_grad(const G& g, const float* z, const float* grad, float f, float on_z, float by_z0, float* gz,
                           int d) {
  g.each(d, [&](int i) { gz[1 + i] = f * grad[1 + i] + on_z * z[1 + i]; });
  g.each(1, [&](int) { gz[0] = by_z0; });
}

// A linear layer's row before its tail, from the product of the space parts: z_s into `z`; returns z_0.
template <class G>
HK_FN float linear_row(const G& g, const hk_linear_args& a, const float* x, const float* product, float* z) {
  float t = x[0];
  const float *first = a.first, *bias = a.bias + 1, *top = a.top;
  g.each(a.d, [&](int i) { z[1 + i] = product[i] + t * first[i] + bias[i]; });
  return g.sum(a.width, [&](int i) { return top[1 + i] * x[1 + i]; }, 0.0f) + top[0] * t + a.bias[0];
}

// One row, as a GPU takes it. On the CPU the numbers of a block of rows are computed side by side (cpu.cpp).
template <class G>
HK_FN void tail_at(const G& g, const hk_tail_args& a, hk_int n) {
  hk_int at = n * (a.d + 1);
  const float* z = a.z + at;
  float z0 = z[0], q = tail_square(g, z, a.d);
  g.sync();  // in place, the time overwrites z[0]
  TailRow r(q, z0, a.log_scale[n % a.period], a.c);
  tail_write(g, z, r.factor(), r.time(), a.out + at, a.d);
  if (a.kept != nullptr) {
    g.each(1, [&](int) {
      a.kept[n] = q;
      a.kept[a.n + n] = z0;
    });
  }
}
template <class G>
HK_FN void tail_backward_at(const G& g, const hk_tail_args& a, hk_int n) {
  hk_int at = n * (a.d + 1);
  const float *z = a.z + at, *grad = a.grad + at;
  bool given = a.kept != nullptr;  // then the rows are the outputs, f z_s
  float q, along, on_z, by_z0, by_log;
  tail_sums(g, z, grad, a.d, q, along);
  TailRow r(given ? a.kept[n] : q, given ? a.kept[a.n + n] : z[0], a.log_scale[n % a.period], a.c);
  float f = r.factor(), scaled = given ? 1.0f / f : 1.0f;
  r.backward(grad[0], along * scaled, on_z, by_z0, by_log);
  tail_write_grad(g, z, grad, f, on_z * scaled, by_z0, a.out + at, a.d);
  g.each(1, [&](int) { a.by_scale[n] = by_log; });
}

}  // namespace HK_NS
