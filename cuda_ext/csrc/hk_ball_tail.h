// What follows the product of a Poincaré linear layer or convolution (hyperkit/nn/poincare.py, `ball_tail`): signed
// distances to hyperplanes, and the ball point that has them to the axes. Two passes over a row in the first-level
// cache, one over memory.
#pragma once
#include "hk_args.h"
#include "hk_group.h"

namespace HK_NS {

constexpr float BALL_FAR = 40.0f;                                       // sinh ends here, its square is finite
constexpr float BALL_LAST = 1.0f - 2.0f * 1.1920928955078125e-7f;  // last radius of the format, as BALL_TOP

HK_FN float signed_asinh(float x) {
  float y = asinh_(abs_(x));
  return x < 0.0f ? -y : y;
}
HK_FN float signed_sinh(float x) {
  float a = abs_(x), q = x * x;
  float near = x + x * q * (1.6666667e-1f + q * (8.3333333e-3f + q * (1.9841270e-4f + q * 2.7557319e-6f)));
  float far = sinh_(a);
  far = x < 0.0f ? -far : far;
  return a < 0.5f ? near : far;
}

// The numbers of a row: its factor f(q) for the space part w, and what <w, grad> w is multiplied with.
struct BallRow {
  float f, on;
  HK_FN BallRow(float q, float c) {
    float s = c * q, t = sqrt_(1.0f + s);
    f = 1.0f / (1.0f + t);
    float n = sqrt_(s);
    bool out = n * f > BALL_LAST;
    float safe = out ? s : 1.0f;
    on = -c * (out ? BALL_LAST / (n * safe) : f * f / t);
    f = out ? BALL_LAST / n : f;
  }
};

// One number of a row: what is inside the asinh, the angle, and the gradient by what is inside.
HK_FN float ball_inside(float z, float space, float time, float gain, float tilt) {
  return gain * (space * z) - tilt * time;
}
HK_FN float ball_angle(float asinh, float power) {
  float u = power * asinh;
  return u < -BALL_FAR ? -BALL_FAR : (u > BALL_FAR ? BALL_FAR : u);
}
// `t` and `w` are the asinh and the point's space coordinate; `by_u` becomes the gradient of the angle.
HK_FN float ball_slope(float grad, float f, float on, float s, float t, float w, float power, float c, float scale,
                       float& by_u) {
  float by = (f * grad + on * w) * sqrt_(1.0f + c * w * w) * scale;  // cosh from the sinh
  by_u = abs_(power * t) > BALL_FAR ? 0.0f : by;
  return by_u * power / sqrt_(1.0f + s * s);
}

template <class G>
HK_FN void ball_tail_at(const G& g, const hk_ball_args& a, hk_int n) {
  const float* z = a.z + n * a.d;
  float *to = a.out + n * a.d, space = a.space[n], time = a.time[n], scale = 1.0f / sqrt_(a.c);
  g.each(a.d, [&](int i) {
    float t = signed_asinh(ball_inside(z[i], space, time, a.gain[i], a.tilt[i]));
    to[i] = scale * signed_sinh(ball_angle(t, a.power[i]));
  });
  float q = g.sum(a.d, [&](int i) { return to[i] * to[i]; }, 0.0f);
  float f = BallRow(q, a.c).f;
  g.each(a.d, [&](int i) { to[i] *= f; });
}

// Gradients of a row of z, of its space and its time. `held` (d) is scratch; at the end it has the row's part of the
// gradient of `power`. SUMS: what all rows add to, (d) each.
template <bool SUMS, class G>
HK_FN void ball_tail_backward_at(const G& g, const hk_ball_args& a, hk_int n, float* held, float* by_gain,
                                 float* by_tilt, float* by_power) {
  const float *z = a.z + n * a.d, *grad = a.grad + n * a.d;
  float *to = a.out + n * a.d, space = a.space[n], time = a.time[n], scale = 1.0f / sqrt_(a.c), q, along;
  g.sum2(
      a.d,
      [&](int i, float& square, float& product) {
        float t = signed_asinh(ball_inside(z[i], space, time, a.gain[i], a.tilt[i]));
        float w = scale * signed_sinh(ball_angle(t, a.power[i]));
        held[i] = t;
        to[i] = w;
        square += w * w;
        product += w * grad[i];
      },
      q, along);
  g.sync();  // a lane reads what it has written itself, but the compiler may not know
  BallRow r(q, a.c);
  float f = r.f, on = r.on * along, c = a.c, by_space, by_time;
  g.sum2(
      a.d,
      [&](int i, float& gs, float& gt) {
        float s = ball_inside(z[i], space, time, a.gain[i], a.tilt[i]), t = held[i], by_u;
        float by_s = ball_slope(grad[i], f, on, s, t, to[i], a.power[i], c, scale, by_u), slope = by_s * a.gain[i];
        to[i] = slope * space;
        held[i] = by_u * t;
        gs += slope * z[i];
        gt -= by_s * a.tilt[i];
        if constexpr (SUMS) {
          by_gain[i] += by_s * (space * z[i]);
          by_tilt[i] -= by_s * time;
          by_power[i] += by_u * t;
        }
      },
      by_space, by_time);
  g.each(1, [&](int) {
    a.by_space[n] = by_space;
    a.by_time[n] = by_time;
  });
}

}  // namespace HK_NS
