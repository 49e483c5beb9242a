// Row operations of the geometry core, float32, forward and backward: one pass over memory each.
//
// An output is a combination of the inputs' rows whose coefficients are functions of a few inner products.
// These are summed in higher precision (`wide`), which costs nothing beside the memory, and replaces the
// branches that keep digits in hyperkit/ops. The formulas are those of ops/_lorentz_metric.py,
// _lorentz_maps.py and _poincare_core.py.
#pragma once
#include "hk_adam.h"
#include "hk_group.h"

namespace HK_NS {

// asinh(n)/n, n^2 = q, and its derivative for q.
HK_FN void asinhc_(float q, float& value, float& slope) {
  if (q < 0.06f) {
    value = 1.0f + q * (-1.0f / 6 + q * (3.0f / 40 + q * (-15.0f / 336 + q * (105.0f / 3456 + q * (-945.0f / 42240)))));
    slope = -1.0f / 6 + q * (6.0f / 40 + q * (-45.0f / 336 + q * (420.0f / 3456 + q * (-4725.0f / 42240))));
    return;
  }
  value = asinh_(sqrt_(q)) / sqrt_(q);
  slope = (1.0f / sqrt_(1.0f + q) - value) / (2.0f * q);
}
HK_FN void sinhc_slope(float q, float& value, float& slope) {
  value = sinhc_(q);
  if (q < 0.5f) {
    slope = 1.0f / 6 + q * (1.0f / 60 + q * (1.0f / 1680 + q * (1.0f / 90720 + q * (1.0f / 7983360))));
    return;
  }
  slope = (coshq_(q) - value) / (2.0f * q);
}
HK_FN void tanhc_slope(float q, float& value, float& slope) {
  if (q < 0.06f) {
    value = 1.0f + q * (-1.0f / 3 + q * (2.0f / 15 + q * (-17.0f / 315 + q * (62.0f / 2835))));
    slope = -1.0f / 3 + q * (4.0f / 15 + q * (-51.0f / 315 + q * (248.0f / 2835)));
    return;
  }
  float n = sqrt_(q), e = exp_(-2.0f * n), th = (1.0f - e) / (1.0f + e);
  if (q < 0.5f) th = n * sinhc_(q) / coshq_(q);
  value = th / n;
  slope = (4.0f * e / ((1.0f + e) * (1.0f + e)) - value) / (2.0f * q);
}

// sinh^2(sqrt(c) d/2) of two points over their space rows, and what its gradient needs.
struct Haversine {
  float s, over_x, over_y;  // gradient for x: c/2 (-w + over_x x), for y: c/2 (w - over_y y), w = y - x
  template <class G>
  HK_FN Haversine(const G& g, const float* x, const float* y, int d, float c) {
    // Each sum by itself: of points at radius 40 and 13 the one's square is e^54 times the other's, and a difference
    // of what is as large as the former says nothing of the latter.
    wide w2, wp, qx, qy, xw, yw;
    g.sum3(
        d,
        [&](int i, wide& a, wide& b, wide& e) {
          wide w = minus_(y[i], x[i]);
          gather_(a, w, w);
          gather_(b, w, plus_(x[i], y[i]));
          gather_(e, x[i], x[i]);
        },
        w2, wp, qx);
    g.sum3(
        d,
        [&](int i, wide& a, wide& b, wide& e) {
          wide w = minus_(y[i], x[i]);
          gather_(a, x[i], w);
          gather_(b, y[i], w);
          gather_(e, y[i], y[i]);
        },
        xw, yw, qy);
    bool x_near = qx < qy;
    wide ic = wide(1.0f) / wide(c), tx = sqrt_(qx + ic), ty = sqrt_(qy + ic), dt = wp / (tx + ty);
    wide along = x_near ? qx + xw : qy - yw;
    over_x = (float)(dt / tx);
    over_y = (float)(dt / ty);
    if (wide(0.5f) * tx * ty < along) {
      // Close in direction: the difference of the radii, and what of w is orthogonal to the nearer point.
      wide qn = x_near ? qx : qy, dot = x_near ? xw : yw;
      wide perp2 = w2 - dot * dot / qn;
      if (perp2 < wide(0.0f)) perp2 = wide(0.0f);
      wide sx = sqrt_(qx), sy = sqrt_(qy);
      wide sn = x_near ? sx : sy, sf = x_near ? sy : sx;
      float lateral = (float)(wide(2.0f) * (sn / sf) * perp2 / (wide(1.0f) + along / (sn * sf)));
      float z = (float)(wp / (sx * ty + sy * tx)), z2 = z * z;
      s = 0.5f * z2 / (1.0f + sqrt_(1.0f + z2)) + 0.25f * c * lateral;
    } else {
      // Far apart cosh(sqrt(c) D) itself; near each other (then near the origin) what it is above 1.
      wide cosh = wide(c) * (tx * ty - along);
      bool far = wide(4.0f) < cosh;
      s = (float)(far ? wide(0.5f) * (cosh - wide(1.0f)) : wide(0.25f) * wide(c) * (w2 - dt * dt));
    }
  }
};

// 1 - c |x|^2 of a row. Here c needs more digits than a float has: near the edge its rounding would be seen.
template <class G>
HK_FN float gap_(const G& g, const float* x, int d, float c, float low) {
  wide q;
  g.sum1(d, [&](int i, wide& to) { gather_(to, x[i], x[i]); }, q);
  return (float)(wide(1.0f) - (wide(c) + wide(low)) * q);
}

constexpr float BALL_TOP = 1.0f - 2.0f * 1.1920928955078125e-7f;

// Points beyond the last radius of float32 go back to it; returns the factor.
template <class G>
HK_FN float ball_project(const G& g, float* out, int d, float c) {
  float n = sqrt_(c * g.sum(d, [&](int i) { return out[i] * out[i]; }, 0.0f));
  if (!(n > BALL_TOP)) return 1.0f;
  float f = BALL_TOP / n;
  g.each(d, [&](int i) { out[i] *= f; });
  return f;
}

template <class G>
HK_FN void row_forward(const G& g, int kind, const float* x, const float* y, float* out, int d, float c, float low) {
  // Lorentz rows hold d + 1 numbers; x and y point to the space part, out to the whole row.
  const float root = sqrt_(c);
  if (kind == L_DIST || kind == L_SQDIST) {
    Haversine h(g, x, y, d, c);
    float value, slope;
    if (kind == L_DIST) {
      value = 2.0f / root * asinh_(sqrt_(h.s <= 0.0f ? 0.0f : h.s));
    } else {
      asinhc_(h.s, value, slope);
      value = 4.0f / c * h.s * value * value;
    }
    g.each(1, [&](int) { out[0] = value; });
  } else if (kind == L_LOGMAP) {
    Haversine h(g, x, y, d, c);
    float as, slope;
    asinhc_(h.s, as, slope);
    float rt = sqrt_(1.0f + h.s), fw = as / rt, fx = 2.0f * (h.s / rt) * as;
    float q, along;
    g.sum2(
        d,
        [&](int i, float& a, float& b) {
          float v = fw * (y[i] - x[i]) - fx * x[i];
          out[1 + i] = v;
          a += x[i] * x[i];
          b += x[i] * v;
        },
        q, along);
    g.sync();
    g.each(1, [&](int) { out[0] = along / sqrt_(q + 1.0f / c); });
  } else if (kind == L_EXPMAP0) {
    float q = g.sum(d, [&](int i) { return x[i] * x[i]; }, 0.0f), f = sinhc_(c * q);
    g.each(d, [&](int i) { out[1 + i] = f * x[i]; });
    g.each(1, [&](int) { out[0] = sqrt_(f * f * q + 1.0f / c); });
  } else if (kind == L_LOGMAP0) {
    float q = g.sum(d, [&](int i) { return x[i] * x[i]; }, 0.0f), f, slope;
    asinhc_(c * q, f, slope);
    g.each(d, [&](int i) { out[1 + i] = f * x[i]; });
    g.each(1, [&](int) { out[0] = 0.0f; });
  } else if (kind == B_DIST) {
    float w2 = g.sum(d, [&](int i) { return (x[i] - y[i]) * (x[i] - y[i]); }, 0.0f);
    float s = c * w2 / gap_(g, x, d, c, low) / gap_(g, y, d, c, low);
    g.each(1, [&](int) { out[0] = 2.0f / root * asinh_(sqrt_(s <= 0.0f ? 0.0f : s)); });
  } else if (kind == B_CONFORMAL) {
    float factor = 2.0f / gap_(g, x, d, c, low);
    g.each(1, [&](int) { out[0] = factor; });
  } else if (kind == B_EXPMAP0) {
    float q = g.sum(d, [&](int i) { return x[i] * x[i]; }, 0.0f), f, slope;
    tanhc_slope(c * q, f, slope);
    g.each(d, [&](int i) { out[i] = f * x[i]; });
    ball_project(g, out, d, c);
  } else if (kind == B_LOGMAP0) {
    float q = g.sum(d, [&](int i) { return x[i] * x[i]; }, 0.0f), gap = gap_(g, x, d, c, low), f, slope;
    asinhc_(c * q / gap, f, slope);
    f = f / sqrt_(gap);
    g.each(d, [&](int i) { out[i] = f * x[i]; });
  } else if (kind == B_ADD) {
    float gx = gap_(g, x, d, c, low), gy = gap_(g, y, d, c, low);
    float s = c * g.sum(d, [&](int i) { return (x[i] + y[i]) * (x[i] + y[i]); }, 0.0f);
    float den = s + gx * gy, fb = gx / den, fx = s / den;
    g.each(d, [&](int i) { out[i] = fb * (x[i] + y[i]) + fx * x[i]; });
    ball_project(g, out, d, c);
  } else if (kind == B_LOGMAP) {
    float gx = gap_(g, x, d, c, low), gy = gap_(g, y, d, c, low);
    float e2 = c * g.sum(d, [&](int i) { return (y[i] - x[i]) * (y[i] - x[i]); }, 0.0f);
    float s = e2 / gx / gy, as, slope;
    asinhc_(s, as, slope);
    float f = as / sqrt_(1.0f + s) / gy;
    g.each(d, [&](int i) { out[i] = f * (gx * (y[i] - x[i]) - e2 * x[i]); });
  }
}

// Gradients gx and gy (where wanted) of the space rows, given that of the output.
template <class G>
HK_FN void row_backward(const G& g, int kind, const float* x, const float* y, const float* grad, float* gx,
                        float* gy, int d, float c, float low) {
  const float root = sqrt_(c);
  if (kind == L_DIST || kind == L_SQDIST || kind == L_LOGMAP) {
    Haversine h(g, x, y, d, c);
    float as, slope, by_s, rt = sqrt_(1.0f + h.s);
    float fw = 0.0f, fx = 0.0f, over = 0.0f, on_x = 0.0f;
    asinhc_(h.s, as, slope);
    if (kind == L_DIST) {
      by_s = h.s > 0.0f ? grad[0] / (root * sqrt_(h.s) * rt) : (h.s <= 0.0f ? 0.0f : h.s);
    } else if (kind == L_SQDIST) {
      by_s = grad[0] * 4.0f / c * as / rt;  // d(asinh(sqrt s)^2)/ds = asinhc/sqrt(1 + s)
    } else {
      // out = fw w - fx x, time (x.out)/t: the gradient of the space part is gs + over x.
      fw = as / rt;
      fx = 2.0f * (h.s / rt) * as;
      float q, along;
      g.sum2(
          d,
          [&](int i, float& a, float& b) {
            a += x[i] * x[i];
            b += x[i] * (fw * (y[i] - x[i]) - fx * x[i]);
          },
          q, along);
      float t2 = q + 1.0f / c, t = sqrt_(t2);
      over = grad[0] / t;
      on_x = -grad[0] * along / (t * t2);
      float by_w, by_x;
      g.sum2(
          d,
          [&](int i, float& a, float& b) {
            float v = grad[1 + i] + over * x[i];
            a += v * (y[i] - x[i]);
            b += v * x[i];
          },
          by_w, by_x);
      float fw_s = slope / rt - 0.5f * as / (rt * rt * rt);
      by_s = by_w * fw_s - by_x * (2.0f * fw + 2.0f * h.s * fw_s);  // fx = 2 s fw
    }
    float half = 0.5f * c * by_s, ox = h.over_x, oy = h.over_y;
    bool map = kind == L_LOGMAP;
    g.each(d, [&](int i) {
      float w = y[i] - x[i], direct_x = 0.0f, direct_y = 0.0f;
      if (map) {
        float v = grad[1 + i] + over * x[i];
        direct_y = fw * v;
        direct_x = -(fw + fx) * v + over * (fw * w - fx * x[i]) + on_x * x[i];
      }
      if (gx != nullptr) gx[i] = half * (ox * x[i] - w) + direct_x;
      if (gy != nullptr) gy[i] = half * (w - oy * y[i]) + direct_y;
    });
  } else if (kind == L_EXPMAP0 || kind == L_LOGMAP0 || kind == B_EXPMAP0 || kind == B_LOGMAP0) {
    int skip = kind == L_EXPMAP0 || kind == L_LOGMAP0 ? 1 : 0;
    float q, along;
    g.sum2(
        d,
        [&](int i, float& a, float& b) {
          a += x[i] * x[i];
          b += x[i] * grad[skip + i];
        },
        q, along);
    float f, slope, over = 0.0f;
    if (kind == L_EXPMAP0) {
      sinhc_slope(c * q, f, slope);
      over = grad[0] / sqrt_(f * f * q + 1.0f / c) * f;  // through the time, f |v| its argument
      along += over * q;
    } else if (kind == L_LOGMAP0) {
      asinhc_(c * q, f, slope);
    } else if (kind == B_EXPMAP0) {
      tanhc_slope(c * q, f, slope);
      float n = f * sqrt_(c * q);
      if (n > BALL_TOP) {  // held at the edge: the direction alone moves the result
        f = f * BALL_TOP / n;
        float radial = f * along / q;
        g.each(d, [&](int i) { gx[i] = f * grad[i] - radial * x[i]; });
        return;
      }
    } else {
      float gap = gap_(g, x, d, c, low), s = c * q / gap, inner, rise;
      asinhc_(s, inner, rise);
      f = inner / sqrt_(gap);
      // by c q: ds = 1/gap^2, and gap = 1 - c q
      slope = rise / (gap * gap * sqrt_(gap)) + 0.5f * f / gap;
    }
    float more = 2.0f * c * slope * along;
    g.each(d, [&](int i) { gx[i] = f * (grad[skip + i] + over * x[i]) + more * x[i]; });
  } else if (kind == B_CONFORMAL) {
    float factor = 2.0f / gap_(g, x, d, c, low), by = c * factor * factor * grad[0];
    g.each(d, [&](int i) { gx[i] = by * x[i]; });
  } else if (kind == B_DIST) {
    float w2 = g.sum(d, [&](int i) { return (x[i] - y[i]) * (x[i] - y[i]); }, 0.0f);
    float ax = gap_(g, x, d, c, low), ay = gap_(g, y, d, c, low), s = c * w2 / ax / ay;
    float by_s = s > 0.0f ? grad[0] / (root * sqrt_(s) * sqrt_(1.0f + s)) : (s <= 0.0f ? 0.0f : s);
    float on_w = 2.0f * c * by_s / ax / ay, on_x = 2.0f * c * by_s * s / ax, on_y = 2.0f * c * by_s * s / ay;
    g.each(d, [&](int i) {
      if (gx != nullptr) gx[i] = on_w * (x[i] - y[i]) + on_x * x[i];
      if (gy != nullptr) gy[i] = on_w * (y[i] - x[i]) + on_y * y[i];
    });
  } else if (kind == B_ADD) {
    float ax = gap_(g, x, d, c, low), ay = gap_(g, y, d, c, low);
    float s = c * g.sum(d, [&](int i) { return (x[i] + y[i]) * (x[i] + y[i]); }, 0.0f);
    float den = s + ax * ay, fb = ax / den, fx = s / den;
    float n2 = g.sum(
        d,
        [&](int i) {
          float v = fb * (x[i] + y[i]) + fx * x[i];
          return v * v;
        },
        0.0f);
    float n = sqrt_(c * n2), held = 1.0f, radial = 0.0f;
    if (n > BALL_TOP) {
      held = BALL_TOP / n;
      float along = g.sum(d, [&](int i) { return grad[i] * (fb * (x[i] + y[i]) + fx * x[i]); }, 0.0f);
      radial = held * along / n2;
    }
    float by_b, by_x;
    g.sum2(
        d,
        [&](int i, float& a, float& b) {
          float both = x[i] + y[i], v = held * grad[i] - radial * (fb * both + fx * x[i]);
          a += v * both;
          b += v * x[i];
        },
        by_b, by_x);
    // fb = ax/den, fx = s/den, den = s + ax ay
    float by_den = -(by_b * fb + by_x * fx) / den;
    float by_s = by_x / den + by_den, by_ax = by_b / den + by_den * ay, by_ay = by_den * ax;
    g.each(d, [&](int i) {
      float both = x[i] + y[i], v = held * grad[i] - radial * (fb * both + fx * x[i]);
      float shared = fb * v + 2.0f * c * by_s * both;
      if (gx != nullptr) gx[i] = shared + fx * v - 2.0f * c * by_ax * x[i];
      if (gy != nullptr) gy[i] = shared - 2.0f * c * by_ay * y[i];
    });
  } else if (kind == B_LOGMAP) {
    float ax = gap_(g, x, d, c, low), ay = gap_(g, y, d, c, low);
    float e2 = c * g.sum(d, [&](int i) { return (y[i] - x[i]) * (y[i] - x[i]); }, 0.0f);
    float s = e2 / ax / ay, as, slope, rt = sqrt_(1.0f + s);
    asinhc_(s, as, slope);
    float h = as / rt, f = h / ay;
    float by_e, by_x;
    g.sum2(
        d,
        [&](int i, float& a, float& b) {
          a += grad[i] * (y[i] - x[i]);
          b += grad[i] * x[i];
        },
        by_e, by_x);
    float h_s = slope / rt - 0.5f * as / (rt * rt * rt);
    float by_f = ax * by_e - e2 * by_x;
    float by_s = by_f * h_s / ay;
    float by_ax = f * by_e - by_s * s / ax, by_ay = -by_f * f / ay - by_s * s / ay;
    float by_e2 = by_s / ax / ay - f * by_x;
    g.each(d, [&](int i) {
      float e = y[i] - x[i], on_e = f * ax * grad[i] + 2.0f * c * by_e2 * e;
      if (gx != nullptr) gx[i] = -on_e - f * e2 * grad[i] - 2.0f * c * by_ax * x[i];
      if (gy != nullptr) gy[i] = on_e - 2.0f * c * by_ay * y[i];
    });
  }
}

// ---- exponential maps and parallel transport ------------------------------------------------------------
//
// Of x, y and v the space rows, of `out` and `grad` of the Lorentz model whole rows.

// A vector cut in a multiple of x and what is orthogonal to it, far from the origin; nearer, k = 0: no direction
// is needed there and nothing cancels.
HK_FN float rest_(float v, wide k, float x) { return (float)(wide(v) - k * wide(x)); }

// exp_x(v) = alpha x + b perp, v = k x + perp.
struct LorentzExp {
  bool far;
  wide q, k;
  float along, perp2, t2, m2, ch, b, slope, alpha;
  template <class G>
  HK_FN LorentzExp(const G& g, const float* x, const float* v, int d, float c) {
    wide xv, p2;
    g.sum2(
        d,
        [&](int i, wide& s, wide& t) {
          gather_(s, x[i], x[i]);
          gather_(t, x[i], v[i]);
        },
        q, xv);
    float qf = (float)q;
    far = c * qf > 1.0f;
    k = far ? xv / q : wide(0.0f);
    wide cut = k;  // as a local: what a store might change keeps a loop from SIMD code
    g.sum1(
        d,
        [&](int i, wide& s) {
          wide p = wide(v[i]) - cut * wide(x[i]);
          gather_(s, p, p);
        },
        p2);
    along = (float)xv;
    perp2 = (float)p2;
    t2 = qf + 1.0f / c;
    float kf = (float)k, n2 = perp2 + (far ? kf * (along / (c * t2)) : -along * (along / t2));
    m2 = c * max_(n2, 0.0f);
    if (!(n2 == n2)) m2 = n2;
    ch = coshq_(m2);
    sinhc_slope(m2, b, slope);
    alpha = exp_factor(kf, m2, qf, sqrt_(t2), c * perp2, b, ch + b * kf, c);
  }
};

template <class G>
HK_FN void lorentz_exp(const G& g, const float* x, const float* v, float* out, int d, float c) {
  LorentzExp e(g, x, v, d, c);
  wide k = e.k;
  float alpha = e.alpha, b = e.b;
  float square = g.sum(
      d,
      [&](int i) {
        float y = alpha * x[i] + b * rest_(v[i], k, x[i]);
        out[1 + i] = y;
        return y * y;
      },
      0.0f);
  g.sync();
  g.each(1, [&](int) { out[0] = sqrt_(square + 1.0f / c); });
}

// Written out, cosh(n) x + sinh(n)/n v has coefficients of size e^n whose sum, for a step towards the origin, has the
// size e^-n. So far out the part of each gradient along x is that of F(s, V) = s cosh(n) + V sinh(n)/n, the radial
// coordinate of the result (s and V those of x and v), whose derivatives hold the time of the result as a factor.
template <class G>
HK_FN void lorentz_exp_backward(const G& g, const float* x, const float* v, const float* grad, float* gx, float* gv,
                                int d, float c) {
  LorentzExp e(g, x, v, d, c);
  const float* gs = grad + 1;
  wide k = e.k, xg, pg;
  g.sum2(
      d,
      [&](int i, wide& s, wide& t) {
        gather_(s, gs[i], x[i]);
        gather_(t, gs[i], wide(v[i]) - k * wide(x[i]));
      },
      xg, pg);
  float q = (float)e.q, kf = (float)k, b = e.b, ch = e.ch, alpha = e.alpha, bend = 2.0f * e.slope, p2 = e.perp2;
  float cross = e.far ? 0.0f : e.along, t2 = e.t2;
  float time = sqrt_(alpha * alpha * q + 2.0f * alpha * b * cross + b * b * p2 + 1.0f / c), over = grad[0] / time;
  // <u, x> and <u, perp>, u the gradient of the space part alone.
  float ux = (float)xg + over * (alpha * q + b * cross), up = (float)pg + over * (alpha * cross + b * p2);
  float twice = c * ((b + bend * kf) * ux + bend * up);
  float x_g = ch, x_p, x_x, v_g = b, v_p = over * b * b + twice, v_x;
  wide cut(0.0f);
  if (e.far) {
    float ct2 = c * t2, th2 = c * q / ct2, ath = kf * th2, ratio = time / sqrt_(t2), p2c = c * p2;
    cut = xg / e.q;
    x_p = ch * over * b - twice * ath;
    x_x = ux / q * ((1.0f - ath) * ratio + ath * p2c * bend) - c * up * bend * kf * ath / ct2;
    v_x = ux / q * (ratio - p2c * bend) + c * up * bend * kf / ct2;
  } else {
    float w = e.along / t2;
    x_p = ch * over * b - twice * w;
    x_x = ch * over * ch + twice * w * w;
    v_x = over * b * ch - twice * w;
  }
  g.each(d, [&](int i) {
    float side = rest_(gs[i], cut, x[i]), p = rest_(v[i], k, x[i]), xi = x[i];
    if (gx != nullptr) gx[i] = x_g * side + x_p * p + x_x * xi;
    if (gv != nullptr) gv[i] = v_g * side + v_p * p + v_x * xi;
  });
}

// The transported vector is v + lambda (x + y), lambda = c N/D, N = <y, v>, D = 1 - c <x, y>: all of it in `wide`,
// which has the digits that go where v, of size e^r, is almost along x + y. N and D are sums of what the difference
// of the radii and what the angle gives, since as differences of numbers of size e^(2r) they would lose theirs.
struct LorentzTransport {
  wide tx, ty, xv, yv, xy, qy, d_, lambda;
  template <class G>
  HK_FN LorentzTransport(const G& g, const float* x, const float* y, const float* v, int d, float c) {
    wide qx, wp, xw, wv, lateral, n;
    g.sum3(
        d,
        [&](int i, wide& s, wide& t, wide& u) {
          gather_(s, x[i], x[i]);
          gather_(t, y[i], y[i]);
          gather_(u, minus_(y[i], x[i]), plus_(x[i], y[i]));
        },
        qx, qy, wp);
    g.sum2(
        d,
        [&](int i, wide& s, wide& t) {
          gather_(s, x[i], v[i]);
          gather_(t, x[i], minus_(y[i], x[i]));
        },
        xv, xw);
    wide ic = wide(1.0f) / wide(c), zero(0.0f);
    bool far = c * (float)qx > 1.0f;
    wide k = far ? xv / qx : zero, kw = far ? xw / qx : zero;
    g.sum2(
        d,
        [&](int i, wide& s, wide& t) {
          wide w = minus_(y[i], x[i]), side = w - kw * wide(x[i]);
          gather_(s, w, wide(v[i]) - k * wide(x[i]));
          gather_(t, side, side);
        },
        wv, lateral);
    tx = sqrt_(qx + ic);
    ty = sqrt_(qy + ic);
    xy = qx + xw;
    yv = xv + wv + k * xw;
    if (far) {
      wide sx = sqrt_(qx), sy = sqrt_(qy), onto = xy / sx;
      wide m = wide(0.5f) * sy < onto ? lateral / (sy + onto) : sy - onto;  // sy (1 - cos of the angle)
      wide z = wp / (sy * tx + sx * ty);                                    // sinh of the difference of the radii
      n = wv + k * (sx * (ic * z / tx - m));
      d_ = wide(2.0f) + z * z / (wide(1.0f) + sqrt_(wide(1.0f) + z * z)) + wide(c) * sx * m;
    } else {
      n = wv - wp / (tx + ty) * (xv / tx);
      d_ = wide(1.0f) + wide(c) * (tx * ty - xy);
    }
    lambda = wide(c) * n / d_;
  }
};

template <class G>
HK_FN void lorentz_transport(const G& g, const float* x, const float* y, const float* v, float* out, int d, float c) {
  LorentzTransport t(g, x, y, v, d, c);
  wide lambda = t.lambda;
  float along = g.sum(
      d,
      [&](int i) {
        float o = (float)(wide(v[i]) + lambda * plus_(x[i], y[i]));
        out[1 + i] = o;
        return o * y[i];
      },
      0.0f);
  g.sync();
  g.each(1, [&](int) { out[0] = along / (float)t.ty; });
}

template <class G>
HK_FN void lorentz_transport_backward(const G& g, const float* x, const float* y, const float* v, const float* grad,
                                      float* gx, float* gy, float* gv, int d, float c) {
  LorentzTransport t(g, x, y, v, d, c);
  const float* gs = grad + 1;
  wide by_lambda;
  g.sum1(d, [&](int i, wide& s) { gather_(s, gs[i], plus_(x[i], y[i])); }, by_lambda);
  // The gradient of the space part alone is gs + over y: the time is <y, out>/ty.
  wide over = wide(grad[0]) / t.ty, lambda = t.lambda;
  by_lambda += over * (t.qy + t.xy);
  wide beta = by_lambda * wide(c) / t.d_, rho = t.ty / t.tx, both = beta + over, zero(0.0f);
  wide out_y = t.yv + lambda * (t.xy + t.qy);
  wide v_x = zero - beta * rho;
  wide x_v = v_x, x_y = lambda * both, x_x = beta * rho * (t.xv / (t.tx * t.tx) - lambda);
  wide y_x = lambda * both;
  wide y_y = lambda * (over + over) - beta * (t.xv / (t.tx * t.ty) + lambda * (t.tx / t.ty)) -
             over * (out_y / (t.ty * t.ty));
  g.each(d, [&](int i) {
    wide xi(x[i]), yi(y[i]), vi(v[i]), gi(gs[i]);
    if (gx != nullptr) gx[i] = (float)(lambda * gi + x_x * xi + x_y * yi + x_v * vi);
    if (gy != nullptr) gy[i] = (float)(lambda * gi + y_x * xi + y_y * yi + both * vi);
    if (gv != nullptr) gv[i] = (float)(gi + v_x * xi + both * yi);
  });
}

// exp_x(v) = x (+) f v, of which the sum's gap is 1/cosh(n)^2.
struct BallExp {
  float ax, ay, n2, th, slope, f;
  template <class G>
  HK_FN BallExp(const G& g, const float* x, const float* v, int d, float c, float low) {
    ax = gap_(g, x, d, c, low);
    float step = g.sum(d, [&](int i) { return v[i] * v[i]; }, 0.0f);
    n2 = c * (step / ax / ax);
    tanhc_slope(n2, th, slope);
    float e = exp_(-2.0f * sqrt_(n2));
    ay = n2 > 0.25f ? 4.0f * e / ((1.0f + e) * (1.0f + e)) : 1.0f - n2 * th * th;
    f = th / ax;
  }
};

template <class G>
HK_FN void ball_exp(const G& g, const float* x, const float* v, float* out, int d, float c, float low) {
  BallExp e(g, x, v, d, c, low);
  float f = e.f, ax = e.ax;
  float s = c * g.sum(
                    d,
                    [&](int i) {
                      float both = x[i] + f * v[i];
                      return both * both;
                    },
                    0.0f);
  float den = s + ax * e.ay, fb = ax / den, fx = s / den;
  g.each(d, [&](int i) { out[i] = fb * (x[i] + f * v[i]) + fx * x[i]; });
  ball_project(g, out, d, c);
}

template <class G>
HK_FN void ball_exp_backward(const G& g, const float* x, const float* v, const float* grad, float* gx, float* gv,
                             int d, float c, float low) {
  BallExp e(g, x, v, d, c, low);
  float f = e.f, ax = e.ax, ay = e.ay;
  float s = c * g.sum(
                    d,
                    [&](int i) {
                      float both = x[i] + f * v[i];
                      return both * both;
                    },
                    0.0f);
  float den = s + ax * ay, fb = ax / den, fx = s / den, n_out, along;
  g.sum2(
      d,
      [&](int i, float& a, float& b) {
        float o = fb * (x[i] + f * v[i]) + fx * x[i];
        a += o * o;
        b += grad[i] * o;
      },
      n_out, along);
  float n = sqrt_(c * n_out), held = 1.0f, radial = 0.0f;
  if (n > BALL_TOP) {
    held = BALL_TOP / n;
    radial = held * along / n_out;
  }
  float by_b, by_x, by_v, on_v;  // <u, both>, <u, x>, <u, v>, <both, v>, u the gradient before the projection
  g.sum2(
      d,
      [&](int i, float& a, float& b) {
        float both = x[i] + f * v[i], u = held * grad[i] - radial * (fb * both + fx * x[i]);
        a += u * both;
        b += u * x[i];
      },
      by_b, by_x);
  g.sum2(
      d,
      [&](int i, float& a, float& b) {
        float both = x[i] + f * v[i], u = held * grad[i] - radial * (fb * both + fx * x[i]);
        a += u * v[i];
        b += both * v[i];
      },
      by_v, on_v);
  // fb = ax/den, fx = s/den, den = s + ax ay, as for Moebius addition; then f = th/ax and n2 = c |v|^2/ax^2.
  float by_den = -(by_b * fb + by_x * fx) / den;
  float by_s = by_x / den + by_den, by_ax = by_b / den + by_den * ay, by_ay = by_den * ax;
  float by_f = fb * by_v + 2.0f * c * by_s * on_v;
  float by_n2 = by_f * e.slope / ax - by_ay * ay * e.th;
  by_ax -= (by_f * f + 2.0f * e.n2 * by_n2) / ax;
  float more = 2.0f * c * by_n2 / ax / ax;
  g.each(d, [&](int i) {
    float both = x[i] + f * v[i], u = held * grad[i] - radial * (fb * both + fx * x[i]);
    float shared = fb * u + 2.0f * c * by_s * both;
    if (gx != nullptr) gx[i] = shared + fx * u - 2.0f * c * by_ax * x[i];
    if (gv != nullptr) gv[i] = f * shared + more * v[i];
  });
}

// lambda (v + a x + b delta), delta = y - x: `rotate` of ops/_poincare_core.py, whose coefficients are functions of
// five inner products. y(i) gives a coordinate of y.
struct BallTransport {
  wide cc, xx, xd, dd, xv, dv, gx, gy, den, f, tau2, h, px, pd, a, b, lambda;
  template <class G, class Y>
  HK_FN BallTransport(const G& g, const float* x, Y y, const float* v, int d, float c, float low) {
    g.sum3(
        d,
        [&](int i, wide& s, wide& t, wide& u) {
          wide w = minus_(y(i), x[i]);
          gather_(s, x[i], x[i]);
          gather_(t, x[i], w);
          gather_(u, w, w);
        },
        xx, xd, dd);
    g.sum2(
        d,
        [&](int i, wide& s, wide& t) {
          gather_(s, x[i], v[i]);
          gather_(t, v[i], minus_(y(i), x[i]));
        },
        xv, dv);
    wide one(1.0f), half(0.5f), two(2.0f), zero(0.0f);
    cc = wide(c) + wide(low);
    gx = one - cc * xx;
    gy = one - cc * (xx + two * xd + dd);
    den = half * (gx + gy + cc * dd);
    f = cc / den;
    wide area = xx * dd - xd * xd;  // Cauchy and Schwarz: >= 0
    if (area < zero) area = zero;
    tau2 = area * f * f;
    h = two / (one + tau2);
    pd = dv + f * (dv * xd - xv * dd);
    px = xv + f * (dv * xx - xv * xd);
    a = h * f * pd;
    b = zero - h * f * px;
    lambda = gy / gx;
  }
};

template <class G>
HK_FN void ball_transport(const G& g, const float* x, const float* y, const float* v, float* out, int d, float c,
                          float low) {
  BallTransport t(g, x, [&](int i) { return y[i]; }, v, d, c, low);
  float a = (float)t.a, b = (float)t.b, lambda = (float)t.lambda;
  g.each(d, [&](int i) { out[i] = lambda * (v[i] + a * x[i] + b * (y[i] - x[i])); });
}

template <class G>
HK_FN void ball_transport_backward(const G& g, const float* x, const float* y, const float* v, const float* grad,
                                   float* gx, float* gy, float* gv, int d, float c, float low) {
  BallTransport t(g, x, [&](int i) { return y[i]; }, v, d, c, low);
  wide ux, ud, uv, zero(0.0f), one(1.0f), two(2.0f), half(0.5f);
  g.sum3(
      d,
      [&](int i, wide& s, wide& p, wide& q) {
        gather_(s, grad[i], x[i]);
        gather_(p, grad[i], minus_(y[i], x[i]));
        gather_(q, grad[i], v[i]);
      },
      ux, ud, uv);
  wide by_a = t.lambda * ux, by_b = t.lambda * ud, by_lambda = uv + t.a * ux + t.b * ud, f = t.f, h = t.h;
  wide by_pd = by_a * h * f, by_px = zero - by_b * h * f;
  wide by_h = f * (by_a * t.pd - by_b * t.px), by_f = h * (by_a * t.pd - by_b * t.px);
  by_f += by_pd * (t.dv * t.xd - t.xv * t.dd) + by_px * (t.dv * t.xx - t.xv * t.xd);
  wide by_dv = by_pd * (one + f * t.xd) + by_px * f * t.xx;
  wide by_xv = by_px * (one - f * t.xd) - by_pd * f * t.dd;
  wide by_xd = f * (by_pd * t.dv - by_px * t.xv), by_dd = zero - by_pd * f * t.xv, by_xx = by_px * f * t.dv;
  wide by_tau2 = zero - half * h * h * by_h, by_area = by_tau2 * f * f;
  by_f += two * by_tau2 * t.tau2 / f;
  by_xx += by_area * t.dd;
  by_dd += by_area * t.xx;
  by_xd += zero - two * t.xd * by_area;
  wide by_den = zero - by_f * f / t.den;
  by_dd += half * t.cc * by_den;
  wide by_gx = half * by_den - by_lambda * t.lambda / t.gx, by_gy = half * by_den + by_lambda / t.gx;
  float la = (float)(t.lambda * t.a), lb = (float)(t.lambda * t.b), lambda = (float)t.lambda;
  float xv = (float)by_xv, dv = (float)by_dv, xd = (float)by_xd, dd = (float)(two * by_dd);
  float xx = (float)(two * (by_xx - t.cc * by_gx)), yy = (float)(two * t.cc * by_gy);
  g.each(d, [&](int i) {
    float delta = y[i] - x[i], gi = grad[i], xi = x[i], vi = v[i];
    float by_delta = lb * gi + dv * vi + xd * xi + dd * delta;
    if (gx != nullptr) gx[i] = la * gi + xv * vi + xx * xi + xd * delta - by_delta;
    if (gy != nullptr) gy[i] = by_delta - yy * y[i];
    if (gv != nullptr) gv[i] = lambda * gi + xv * xi + dv * delta;
  });
}

// Row n of tensors; y and v may be null, as may the gradients.
template <class G>
HK_FN void row_at(const G& g, int kind, const float* x, const float* y, const float* v, float* out, hk_int n, int d,
                  float c, float low) {
  int skip = row_lorentz(kind) ? 1 : 0;
  hk_int at = n * (d + skip) + skip;
  out += row_scalar(kind) ? n : n * (d + skip);
  if (kind == L_TRANSP)
    lorentz_transport(g, x + at, y + at, v + at, out, d, c);
  else if (kind == L_EXPMAP)
    lorentz_exp(g, x + at, y + at, out, d, c);
  else if (kind == B_TRANSP)
    ball_transport(g, x + at, y + at, v + at, out, d, c, low);
  else if (kind == B_EXPMAP)
    ball_exp(g, x + at, y + at, out, d, c, low);
  else
    row_forward(g, kind, x + at, y == nullptr ? nullptr : y + at, out, d, c, low);
}

template <class G>
HK_FN void row_backward_at(const G& g, int kind, const float* x, const float* y, const float* v, const float* grad,
                           float* gx, float* gy, float* gv, hk_int n, int d, float c, float low) {
  int skip = row_lorentz(kind) ? 1 : 0;
  hk_int at = n * (d + skip) + skip;
  grad += row_scalar(kind) ? n : n * (d + skip);
  x += at;
  if (y != nullptr) y += at;
  if (v != nullptr) v += at;
  if (gx != nullptr) gx += at;
  if (gy != nullptr) gy += at;
  if (gv != nullptr) gv += at;
  if (kind == L_TRANSP)
    lorentz_transport_backward(g, x, y, v, grad, gx, gy, gv, d, c);
  else if (kind == L_EXPMAP)
    lorentz_exp_backward(g, x, y, grad, gx, gy, d, c);
  else if (kind == B_TRANSP)
    ball_transport_backward(g, x, y, v, grad, gx, gy, gv, d, c, low);
  else if (kind == B_EXPMAP)
    ball_exp_backward(g, x, y, grad, gx, gy, d, c, low);
  else
    row_backward(g, kind, x, y, grad, gx, gy, d, c, low);
  if (skip) {
    g.each(1, [&](int) {  // no time coordinate is read
      if (gx != nullptr) gx[-1] = 0.0f;
      if (gy != nullptr) gy[-1] = 0.0f;
      if (gv != nullptr) gv[-1] = 0.0f;
    });
  }
}

}  // namespace HK_NS
