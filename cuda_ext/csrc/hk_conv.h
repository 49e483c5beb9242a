// HKConv: steps 1 to 3 of arXiv:2306.08862 for one node, without a tensor of size (pairs, K, o).
//
// With w = x_i - p and the boost z_s = w - kappa p_s, a linear layer of the relative feature is
//   W z = (U_i - U_p) - kappa U_p + W_0 z_0 + b,   U = W_s x_s,
// so that the matrix product is one a node (done before, in `product`) and not one a pair. The difference
// keeps its digits while |x_i| + (1 + kappa) |p| is not much larger than |z|; the few pairs where it is (close
// together far from the origin, or equal) take the product with z itself, which is made in higher precision.
//
// The formulas are those of hyperkit/nn/_kernel_rows.py; names of gradients start with g.
#pragma once
#include "hk_args.h"
#include "hk_group.h"

namespace HK_NS {

constexpr float FAST_RATIO = 32.0f;  // costs at most log2(32) = 5 of 24 bits

// Floats of scratch a group needs: passes are 0 forward, 1 backward, 2 backward with gradients of kernel points.
HK_FN hk_int conv_floats(int d, int o, int k, int pass) {
  hk_int row = (hk_int)k * (o + 1);
  hk_int base = 2 * ((hk_int)d + k) + d + row + 7 * k + 2 * (o + 1);  // the first are of at most 8 bytes each
  // `first`, `scale` and `kernels` are sums over all nodes of a group; on the CPU they are not touched.
  hk_int more = pass > 0 ? row + 6 * k + 2 * (o + 1) + row + k : 0;
  if (pass > 1) more += (hk_int)k * (d + 1);
  return (base + more + 15) / 16 * 16;
}

struct Scratch {
  wide *zw, *kernel_b;
  float *z, *y, *q, *dist, *w, *gate, *excess, *f, *t, *mean, *acc;
  float *node, *gw, *gq, *gu, *gd, *along, *gm, *gacc;
  float *first, *scale, *kernels;

  HK_FN Scratch(float* memory, int d, int o, int k) {
    int row = k * (o + 1);
    wide* wp = (wide*)memory;
    zw = wp, wp += d;
    kernel_b = wp, wp += k;
    float* p = (float*)wp;
    z = p, p += d;
    y = p, p += row;
    q = p, p += k;
    dist = p, p += k;
    w = p, p += k;
    gate = p, p += k;
    excess = p, p += k;
    f = p, p += k;
    t = p, p += k;
    mean = p, p += o + 1;
    acc = p, p += o + 1;
    node = p, p += row;
    gw = p, p += k;
    gq = p, p += k;
    gu = p, p += k;
    gd = p, p += k;
    along = p, p += 2 * k;
    gm = p, p += o + 1;
    gacc = p, p += o + 1;
    first = p, p += row;
    scale = p, p += k;
    kernels = p;
  }
};

// O is the number of outputs where it is known to the compiler, or 0.
template <class G, int O>
struct Conv {
  const G& g;
  const hk_conv_args& a;
  Scratch s;
  int d, o, k, row;
  // of the centre
  const float *p, *up;
  wide qp, tp, over_tp;
  // of the curvature
  wide root, ic;
  float radius;
  // of the pair
  wide kappa, tx, px;
  float z0, m0, total, reach, r, square_mean, plus;
  bool fast;

  HK_FN Conv(const G& group, const hk_conv_args& args, float* scratch)
      : g(group), a(args), s(scratch, args.d, O ? O : args.o, args.k) {
    d = a.d, o = O ? O : a.o, k = a.k, row = k * (o + 1);
    root = sqrt_(wide(a.c)), ic = wide(1.0f) / wide(a.c), radius = 1.0f / sqrt_(a.c);
    const Scratch& t = s;
    const hk_conv_args& b = a;
    int width = d;
    g.rows(
        k, d, wide(0.0f),
        [&](int j, int i, wide& to) {
          float v = b.kernels[(hk_int)j * (width + 1) + 1 + i];
          gather_(to, v, v);
        },
        [&](int j, wide q) { t.kernel_b[j] = sqrt_(wide(1.0f) + wide(b.c) * q) - wide(1.0f); });
  }

  HK_FN void centre(hk_int n) {
    p = a.x + n * (d + 1) + 1;
    up = a.product + n * row;
    const float* x = p;
    g.sum1(d, [&](int i, wide& to) { gather_(to, x[i], x[i]); }, qp);
    tp = sqrt_(qp + ic);
    over_tp = wide(1.0f) / (wide(1.0f) + root * tp);
  }

  // The neighbour's relative feature, its K transformed points' directions and the weights of the kernels.
  HK_FN void pair_forward(hk_int neighbour) {
    const float* x = a.x + neighbour * (d + 1) + 1;
    const float* centre_ = p;
    const Scratch t = s;
    wide qx, both;
    g.sum3(
        d,
        [&](int i, wide& along, wide& square, wide& difference) {
          float xi = x[i], pi = centre_[i];
          wide w = minus_(xi, pi);
          gather_(along, pi, w);
          gather_(square, xi, xi);
          gather_(difference, w, plus_(xi, pi));
        },
        px, qx, both);
    tx = sqrt_(qx + ic);
    wide dt = both / (tx + tp);  // x_0 - p_0 from the difference, which does not cancel
    kappa = root * (dt - root * px * over_tp);
    wide minus = -kappa;
    wide qz;
    g.sum1(
        d,
        [&](int i, wide& to) {
          wide v = minus_(x[i], centre_[i]);
          gather_(v, centre_[i], minus);
          t.zw[i] = v;
          t.z[i] = (float)v;
          gather_(to, v, v);
        },
        qz);
    g.sync();
    wide time = sqrt_(qz + ic);
    z0 = (float)time;
    float size = sqrt_((float)qx) + abs_(1.0f + (float)kappa) * sqrt_((float)qp);
    fast = size * size <= FAST_RATIO * FAST_RATIO * (float)qz;
    distances(qz);
    transform(neighbour);
    weights();
    combine();
  }

  HK_FN void prefetch(hk_int e) const {
    if (e >= a.begin[a.n]) return;
    hk_int next = a.source[e];
    g.prefetch(a.x + next * (d + 1), d + 1);
    g.prefetch(a.product + next * row, row);
  }

  HK_FN void distances(wide qz) {
    const Scratch t = s;
    const float* kernels = a.kernels;
    int width = d + 1;
    wide cw = wide(a.c), cq = cw * qz, aw = cq / (wide(1.0f) + sqrt_(wide(1.0f) + cq));
    plus = (float)aw;
    g.rows(
        k, d, wide(0.0f), [&](int j, int i, wide& to) { gather_(to, kernels[j * width + 1 + i], t.zw[i]); },
        [&](int j, wide dot) {
          wide b = t.kernel_b[j];
          t.dist[j] = (float)(wide(0.5f) * (aw + b + aw * b - cw * dot));  // sinh^2(sqrt(c) D/2)
        });
  }

  HK_FN void transform(hk_int neighbour) {
    const Scratch t = s;
    const float *ux = a.product + neighbour * row, *u = up, *first = a.first, *bias = a.bias;
    float kap = (float)kappa, time = z0;
    int outs = o;
    if (fast) {
      g.rows(
          k, o, 0.0f,
          [&](int j, int i, float& to) {
            int e = j * outs + i;
            float v = ((ux[e] - u[e]) - kap * u[e]) + (time * first[e] + bias[e]);
            t.y[e] = v;
            to += v * v;
          },
          [&](int j, float q) { t.q[j] = q; });
      int space = k * o;
      g.each(k, [&](int j) {
        int e = space + j;
        t.y[e] = ((ux[e] - u[e]) - kap * u[e]) + (time * first[e] + bias[e]);
      });
      return;
    }
    const float* matrix = a.matrix;
    int width = d;
    g.rows(
        row, d, 0.0f, [&](int e, int i, float& to) { to += matrix[(hk_int)e * width + i] * t.z[i]; },
        [&](int e, float v) { t.y[e] = v + time * first[e] + bias[e]; });
    g.rows(
        k, o, 0.0f,
        [&](int j, int i, float& to) {
          float v = t.y[j * outs + i];
          to += v * v;
        },
        [&](int j, float q) { t.q[j] = q; });
  }

  HK_FN void weights() {
    const Scratch t = s;
    const float* scale = a.scale;
    float margin = a.margin * radius, rc = radius, over_c = (float)ic, eps = a.eps, sigma = a.sigma;
    int space = k * o, kind = k == 1 && a.correlation == 0 ? 3 : a.correlation;
    reach = 1.0f;
    g.each(k, [&](int j) {
      float h = t.dist[j];
      // Below 0 there is only rounding; NaN goes on.
      t.dist[j] = 2.0f * rc * asinh_(sqrt_(h <= 0.0f ? 0.0f : h));
      float gate = sigmoid_(t.y[space + j]);
      float excess = gate * scale[j] + margin;
      float f2 = excess * (excess + 2.0f * rc) / (t.q[j] + eps);
      t.gate[j] = gate;
      t.excess[j] = excess;
      t.f[j] = sqrt_(f2);
      t.t[j] = sqrt_(f2 * t.q[j] + over_c);
      float near = 1.0f - t.dist[j] / sigma;
      float lin = near <= 0.0f ? 0.0f : near;
      t.w[j] = kind == 0 ? t.dist[j] : (kind == 1 ? lin : 1.0f);
    });
    if (kind == 1) {
      reach = g.sum(k, [&](int j) { return t.w[j]; }, 0.0f);
      if (k == 1) g.each(k, [&](int j) { t.w[j] = 1.0f; });
    }
    if (kind == 2) {
      float nearest = t.dist[0];
      for (int j = 1; j < k; ++j) nearest = t.dist[j] < nearest ? t.dist[j] : nearest;
      float factor = -0.5f / (sigma * sigma);
      g.each(k, [&](int j) { t.w[j] = exp_(factor * (t.dist[j] - nearest) * (t.dist[j] + nearest)); });
      float sum = g.sum(k, [&](int j) { return t.w[j]; }, 0.0f);
      g.each(k, [&](int j) { t.w[j] = t.w[j] / sum; });
    }
  }

  // 1/sqrt(c (m_0^2 - |m_s|^2)), the bracket not below total^2 (which rounding alone can break).
  HK_FN float normalizer(float time, float q, float sum) const {
    float square = a.c * (time * time - q), bound = sum * sum;
    float value = bound > 0.0f ? (square < bound ? bound : square) : 1.0f;
    return 1.0f / sqrt_(value);
  }

  HK_FN void combine() {
    const Scratch t = s;
    int outs = o, kernels = k;
    g.sum2(
        k,
        [&](int j, float& time, float& sum) {
          time += t.w[j] * t.t[j];
          sum += t.w[j];
        },
        m0, total);
    if constexpr (O > 0 && !G::shared_memory) {
      float m[O];
      HK_LOOP for (int i = 0; i < O; ++i) m[i] = 0.0f;
      for (int j = 0; j < kernels; ++j) {
        float u = t.w[j] * t.f[j];
        HK_LOOP for (int i = 0; i < O; ++i) m[i] += u * t.y[j * O + i];
      }
      HK_LOOP for (int i = 0; i < O; ++i) t.mean[i] = m[i];
    } else {
      g.each(o, [&](int i) {
        float m = 0.0f;
        for (int j = 0; j < kernels; ++j) m += t.w[j] * t.f[j] * t.y[j * outs + i];
        t.mean[i] = m;
      });
    }
    square_mean = g.sum(o, [&](int i) { return t.mean[i] * t.mean[i]; }, 0.0f);
    r = normalizer(m0, square_mean, total);
  }

  HK_FN void forward(hk_int n) {
    centre(n);
    const Scratch t = s;
    g.each(o + 1, [&](int i) { t.acc[i] = 0.0f; });
    float all = 0.0f;
    for (hk_int e = a.begin[n]; e < a.begin[n + 1]; ++e) {
      float weight = a.weight[e];
      prefetch(e + 1);
      if (weight == 0.0f) continue;
      pair_forward(a.source[e]);
      weight *= reach;
      float scale = weight * r, time = weight * sqrt_(square_mean * r * r + (float)ic);
      int outs = o;
      g.each(o, [&](int i) { t.acc[i] += scale * t.mean[i]; });
      g.each(1, [&](int) { t.acc[outs] += time; });
      all += weight;
    }
    float scale = all > 0.0f ? 1.0f / all : 1.0f;
    float q = g.sum(
        o,
        [&](int i) {
          float m = t.acc[i] * scale;
          return m * m;
        },
        0.0f);
    float rr = normalizer(t.acc[o] * scale, q, all > 0.0f ? 1.0f : 0.0f);
    float* out = a.out + n * (o + 1);
    float* sums = a.sums + n * (o + 1);
    float* totals = a.total;
    float over_c = (float)ic;
    int outs = o;
    g.each(o, [&](int i) {
      out[1 + i] = t.acc[i] * scale * rr;
      sums[1 + i] = t.acc[i];
    });
    g.each(1, [&](int) {
      out[0] = sqrt_(q * rr * rr + over_c);
      sums[0] = t.acc[outs];
      totals[n] = all;
    });
  }

  // What all nodes add to. Many groups at once would wait for each other, so that a group keeps its own sums until
  // it ends; on the CPU a thread has its own arrays anyway.
  HK_FN hk_conv_grad begin_backward(const hk_conv_grad& b) const {
    hk_conv_grad mine = b;
    if constexpr (G::shared_memory) {
      const Scratch t = s;
      int all = row + k + (b.kernels == nullptr ? 0 : k * (d + 1));
      g.each(all, [&](int i) { t.first[i] = 0.0f; });
      mine.first = t.first, mine.scale = t.scale;
      mine.kernels = b.kernels == nullptr ? nullptr : t.kernels;
    }
    return mine;
  }
  HK_FN void end_backward(const hk_conv_grad& b) const {
    if constexpr (G::shared_memory) {
      const Scratch t = s;
      const G& group = g;
      g.each(row, [&](int i) { group.add(b.first + i, t.first[i]); });
      g.each(k, [&](int i) { group.add(b.scale + i, t.scale[i]); });
      if (b.kernels != nullptr) g.each(k * (d + 1), [&](int i) { group.add(b.kernels + i, t.kernels[i]); });
    }
  }
  // `b` is what begin_backward returned.
  HK_FN void backward(hk_int n, const hk_conv_grad& b);
  HK_FN void pair_backward(hk_int e, hk_int n, const hk_conv_grad& b);
};

}  // namespace HK_NS
