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

enum RowKind {
  L_DIST = 0,
  L_SQDIST = 1,
  L_LOGMAP = 2,
  L_EXPMAP0 = 3,
  L_LOGMAP0 = 4,
  B_DIST = 5,
  B_EXPMAP0 = 6,
  B_LOGMAP0 = 7,
  B_ADD = 8,
  B_LOGMAP = 9,
  ROW_KINDS = 10
};

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
    wide w2, wp, qx, near_dot;
    g.sum2(
        d,
        [&](int i, wide& a, wide& b) {
          wide w = minus_(y[i], x[i]);
          gather_(a, w, w);
          gather_(b, w, plus_(x[i], y[i]));
        },
        w2, wp);
    g.sum2(
        d,
        [&](int i, wide& a, wide& b) {
          gather_(a, x[i], x[i]);
          gather_(b, x[i], minus_(y[i], x[i]));
        },
        qx, near_dot);
    wide ic = wide(1.0f) / wide(c), qy = qx + wp;
    if (qy < wide(0.0f)) qy = wide(0.0f);
    wide tx = sqrt_(qx + ic), ty = sqrt_(qy + ic), dt = wp / (tx + ty);
    wide along = qx + near_dot;
    over_x = (float)(dt / tx);
    over_y = (float)(dt / ty);
    if (wide(0.5f) * tx * ty < along) {
      // Close in direction: the difference of the radii, and what of w is orthogonal to the nearer point.
      bool x_near = qx < qy;
      wide qn = x_near ? qx : qy, dot = x_near ? near_dot : near_dot + w2;
      wide perp2 = w2 - dot * dot / qn;
      if (perp2 < wide(0.0f)) perp2 = wide(0.0f);
      wide sx = sqrt_(qx), sy = sqrt_(qy);
      wide sn = x_near ? sx : sy, sf = x_near ? sy : sx;
      float lateral = (float)(wide(2.0f) * (sn / sf) * perp2 / (wide(1.0f) + along / (sn * sf)));
      float z = (float)(wp / (sx * ty + sy * tx)), z2 = z * z;
      s = 0.5f * z2 / (1.0f + sqrt_(1.0f + z2)) + 0.25f * c * lateral;
    } else {
      s = (float)(wide(0.25f) * wide(c) * (w2 - dt * dt));
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

HK_FN bool row_lorentz(int kind) { return kind <= L_LOGMAP0; }
HK_FN bool row_scalar(int kind) { return kind == L_DIST || kind == L_SQDIST || kind == B_DIST; }

template <class G>
HK_FN void row_at(const G& g, int kind, const float* x, const float* y, float* out, hk_int n, int d, float c,
                  float low) {
  int skip = row_lorentz(kind) ? 1 : 0;
  hk_int at = n * (d + skip) + skip;
  row_forward(g, kind, x + at, y == nullptr ? nullptr : y + at, out + (row_scalar(kind) ? n : n * (d + skip)), d, c, low);
}

template <class G>
HK_FN void row_backward_at(const G& g, int kind, const float* x, const float* y, const float* grad, float* gx,
                           float* gy, hk_int n, int d, float c, float low) {
  int skip = row_lorentz(kind) ? 1 : 0;
  hk_int at = n * (d + skip) + skip;
  row_backward(g, kind, x + at, y == nullptr ? nullptr : y + at, grad + (row_scalar(kind) ? n : n * (d + skip)),
               gx == nullptr ? nullptr : gx + at, gy == nullptr ? nullptr : gy + at, d, c, low);
  if (skip) {
    g.each(1, [&](int) {  // no time coordinate is read
      if (gx != nullptr) gx[at - 1] = 0.0f;
      if (gy != nullptr) gy[at - 1] = 0.0f;
    });
  }
}

}  // namespace HK_NS
