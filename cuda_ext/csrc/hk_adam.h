// One step of Riemannian Adam for one point of the Lorentz model (hyperkit/optim.py, `RiemannianAdam._move`):
// Riemannian gradient, both moments, geodesic step, and the momentum carried along it. Three passes over a row
// that stays in the first-level cache, one over memory.
#pragma once
#include "hk_args.h"
#include "hk_group.h"

namespace HK_NS {

template <class T>
HK_FN T sinhc_(T q) {  // sinh(n)/n, n^2 = q
  if (q < T(0.5)) {
    T s = T(1) / T(1307674368000.0);
    s = s * q + T(1) / T(6227020800.0);
    s = s * q + T(1) / T(39916800.0);
    s = s * q + T(1) / T(362880.0);
    s = s * q + T(1) / T(5040.0);
    s = s * q + T(1) / T(120.0);
    s = s * q + T(1) / T(6.0);
    return s * q + T(1);
  }
  T n = sqrt_(q);
  return sinh_(n) / n;
}
template <class T>
HK_FN T coshq_(T q) {  // cosh(n), n^2 = q
  if (q < T(0.5)) {
    T s = T(1) / T(87178291200.0);
    s = s * q + T(1) / T(479001600.0);
    s = s * q + T(1) / T(3628800.0);
    s = s * q + T(1) / T(40320.0);
    s = s * q + T(1) / T(720.0);
    s = s * q + T(1) / T(24.0);
    s = s * q + T(1) / T(2.0);
    return s * q + T(1);
  }
  return cosh_(sqrt_(q));
}

// What multiplies the space part of x in exp_x(v): `plain` but for long steps towards the origin (`_exp_factor` in
// ops/_lorentz_maps.py). v = k x + lateral; m2 is c |v|^2, lateral2 c |lateral|^2, b = sinh(n)/n, n^2 = m2.
HK_FN float exp_factor(float k, float m2, float q, float t, float lateral2, float b, float plain, float c) {
  if (!(k < 0.0f && m2 > 0.25f)) return plain;
  float root = sqrt_(c), n = sqrt_(m2), s = root * sqrt_(q), ct = root * t, a = k * s / ct;
  float e = asinh_(s) - n, size = abs_(e);
  float sh = size < 0.5f ? size * sinhc_(size * size) : sinh_(size);
  sh = e < 0.0f ? -sh : sh;
  return (sh + lateral2 / (n * (n - a)) * (b * n) * ct) / s;
}

// x, m (d + 1), grad (d + 1), v and its largest value (1); all but grad change.
template <class G>
HK_FN void adam_row(const G& g, const hk_adam_args& a, int d, float* x, const float* grad, float* m, float* v,
                    float* largest) {
  float* xs = x + 1;
  float* ms = m + 1;
  const float* gs = grad + 1;
  float c = a.c, decay = a.weight_decay, beta1 = a.beta1;
  float q = g.sum(d, [&](int i) { return xs[i] * xs[i]; }, 0.0f);
  float t2 = q + 1.0f / c, t = sqrt_(t2);
  float over = (grad[0] + decay * x[0]) / t;
  float along, square;
  g.sum2(
      d,
      [&](int i, float& s, float& n) {
        float h = gs[i] + decay * xs[i] + xs[i] * over;
        s += xs[i] * h;
        n += h * h;
      },
      along, square);
  square += c * along * along;
  // The first moment, and what of it lies along x.
  float ca = c * along, w = 1.0f - beta1;
  float radial = g.sum(
      d,
      [&](int i) {
        float h = gs[i] + decay * xs[i] + xs[i] * over + ca * xs[i];
        float moment = ms[i] + w * (h - ms[i]);
        ms[i] = moment;
        return moment * xs[i];
      },
      0.0f);
  float second = v[0] * a.beta2 + (1.0f - a.beta2) * square;
  float used = second;
  if (a.amsgrad) used = largest[0] < second ? second : largest[0];
  g.sync();
  float step = -a.lr_over_correction / (sqrt_(used * a.one_over_correction2) + a.eps);
  bool far = c * q > 1.0f;
  float k = far ? radial / q : 0.0f;
  float perp2 = g.sum(
      d,
      [&](int i) {
        float p = ms[i] - k * xs[i];
        return p * p;
      },
      0.0f);
  float n2 = perp2 + (far ? k * (radial / (c * t2)) : -(radial / t) * (radial / t));
  float w2 = c * max_(n2, 0.0f);
  float m2 = w2 * step * step;
  float ch = coshq_(m2), b = sinhc_(m2);
  float factor = exp_factor(k * step, m2, q, t, c * step * step * perp2, b, ch + b * step * k, c);
  float kept = ch * k + b * step * w2, side = b * step;
  float time2, product;
  g.sum2(
      d,
      [&](int i, float& square_, float& product_) {
        float p = ms[i] - k * xs[i], old = xs[i];
        float y = factor * old + side * p, moved = kept * old + ch * p;
        xs[i] = y;
        ms[i] = moved;
        square_ += y * y;
        product_ += y * moved;
      },
      time2, product);
  float time = sqrt_(time2 + 1.0f / c);
  bool amsgrad = a.amsgrad != 0;
  g.each(1, [&](int) {
    x[0] = time;
    m[0] = product / time;
    v[0] = second;
    if (amsgrad) largest[0] = used;
  });
}

}  // namespace HK_NS
