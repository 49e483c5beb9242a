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

// Floats of scratch a group needs: passes are 0 forward, 1 backward, 2 backward with gradients of kernel points;
// `pairs` is how many pairs go through the phases together. Where it is more than one the kernels are kept in
// higher precision as well.
HK_FN hk_int conv_floats(int d, int o, int k, int pass, int pairs = 1) {
  hk_int row = (hk_int)k * (o + 1), b = pairs;
  hk_int base = 2 * (b * d + k) + b * (d + row + 7 * k) + b * o + 1 + o + 1;  // the first are of at most 8 bytes each
  if (pairs > 1) base += 2 * (hk_int)k * d + b * k;
  // `first`, `scale` and `kernels` are sums over all nodes of a group; on the CPU they are not touched.
  hk_int more = pass > 0 ? row + 6 * k + 2 * (o + 1) + row + k : 0;
  if (pass > 1) more += (hk_int)k * (d + 1);
  return (base + more + 15) / 16 * 16;
}

struct Scratch {
  wide *zw, *kernel_b, *kernels_wide;
  float *z, *y, *q, *dist, *w, *gate, *excess, *f, *t, *mean, *acc, *scales;
  float *node, *gw, *gq, *gu, *gd, *along, *gm, *gacc;
  float *first, *scale, *kernels;

  HK_FN Scratch(float* memory, int d, int o, int k, int b) {
    int row = k * (o + 1);
    wide* wp = (wide*)memory;
    zw = wp, wp += b * d;
    kernel_b = wp, wp += k;
    kernels_wide = wp;
    if (b > 1) wp += k * d;
    float* p = (float*)wp;
    z = p, p += b * d;
    y = p, p += b * row;
    q = p, p += b * k;
    dist = p, p += b * k;
    w = p, p += b * k;
    gate = p, p += b * k;
    excess = p, p += b * k;
    f = p, p += b * k;
    t = p, p += b * k;
    mean = p, p += b * o + 1;
    acc = p, p += o + 1;
    scales = p;
    if (b > 1) p += b * k;
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

// O is the number of outputs where it is known to the compiler, or 0; so is K, that of kernels, and then the inputs are
// as many as the outputs.
template <class G, int O, int K>
struct Conv {
  // Pairs go through the phases a few at a time: what is one number a pair, or one a pair and kernel, is then computed
  // side by side, and while the roots and quotients of one pair are on their way the others' are begun. On a GPU
  // other groups do that, and it is one.
  static constexpr int B = G::pairs;
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
  // of the pairs
  int count;
  hk_int ahead;  // where the next pairs begin
  hk_int neighbour[B];
  float weight[B];
  wide kappa[B], tx[B], px[B], qz[B];
  float z0[B], m0[B], total[B], reach[B], r[B], square_mean[B], plus[B];
  bool fast[B];

  HK_FN Conv(const G& group, const hk_conv_args& args, float* scratch)
      : g(group), a(args), s(scratch, K ? O : args.d, O ? O : args.o, K ? K : args.k, B) {
    d = K ? O : a.d, o = O ? O : a.o, k = K ? K : a.k, row = k * (o + 1);
    root = sqrt_(wide(a.c)), ic = wide(1.0f) / wide(a.c), radius = 1.0f / sqrt_(a.c);
    const Scratch& t = s;
    const hk_conv_args& b = a;
    int width = d, kernels = k;
    unrolled<B>([&](auto i) {  // numbers for places that are computed though no pair is there
      kappa[i] = wide(0.0f), tx[i] = wide(1.0f), px[i] = wide(0.0f), qz[i] = wide(0.0f);
      z0[i] = m0[i] = total[i] = reach[i] = r[i] = square_mean[i] = plus[i] = 1.0f;
      neighbour[i] = 0, weight[i] = 0.0f, fast[i] = true;
    });
    g.rows(
        k, d, wide(0.0f),
        [&](int j, int i, wide& to) {
          float v = b.kernels[(hk_int)j * (width + 1) + 1 + i];
          gather_(to, v, v);
        },
        [&](int j, wide q) { t.kernel_b[j] = sqrt_(wide(1.0f) + wide(b.c) * q) - wide(1.0f); });
    if constexpr (B > 1) {
      for (int j = 0; j < k; ++j) {
        const float* from = a.kernels + (hk_int)j * (d + 1) + 1;
        g.each(d, [&](int i) { t.kernels_wide[j * width + i] = wide(from[i]); });
      }
      for (int i = 0; i < B; ++i) g.each(k, [&](int j) { t.scales[i * kernels + j] = b.scale[j]; });
    }
  }

  template <class F>
  HK_FN void each_pair(F f) const {
    if constexpr (B == 1) {
      f(0);
    } else {
      for (int i = 0; i < count; ++i) f(i);
    }
  }
  // Numbers of pairs side by side, those of absent ones too.
  template <class F>
  HK_FN void side_by_side(F f) const {
    HK_LOOP for (int i = 0; i < B; ++i) f(i);
  }

  HK_FN void centre(hk_int n) {
    p = a.x + n * (d + 1) + 1;
    up = a.product + n * row;
    const float* x = p;
    g.sum1(d, [&](int i, wide& to) { gather_(to, x[i], x[i]); }, qp);
    tp = sqrt_(qp + ic);
    over_tp = wide(1.0f) / (wide(1.0f) + root * tp);
  }

  // The next pairs of node n from `e` on, of those that count; returns where to go on.
  HK_FN hk_int gather_pairs(hk_int e, hk_int n, hk_int* place, bool all) {
    if constexpr (B == 1) {  // no index: arrays would not stay in a GPU's registers
      neighbour[0] = a.source[e], weight[0] = a.weight[e], place[0] = e;
      count = all || weight[0] != 0.0f;
      return e + 1;
    } else {
      count = 0;
      for (; e < a.begin[n + 1] && count < B; ++e) {
        float w = a.weight[e];
        if (all || w != 0.0f) neighbour[count] = a.source[e], weight[count] = w, place[count] = e, ++count;
      }
      return e;
    }
  }

  // The neighbours' relative features, their K transformed points' directions and the weights of the kernels.
  HK_FN void forward_pairs() {
    each_pair([&](int b) {
      prefetch(a.x, ahead + b, d + 1);
      const float* x = a.x + neighbour[b] * (d + 1) + 1;
      const float* centre_ = p;
      wide along, square, difference;
      g.sum3(
          d,
          [&](int i, wide& along, wide& square, wide& difference) {
            float xi = x[i], pi = centre_[i];
            wide w = minus_(xi, pi);
            gather_(along, pi, w);
            gather_(square, xi, xi);
            gather_(difference, w, plus_(xi, pi));
          },
          along, square, difference);
      px[b] = along, tx[b] = square, qz[b] = difference;
    });
    float size[B], size_p = sqrt_((float)qp);
    side_by_side([&](int b) {
      wide qx = tx[b];
      tx[b] = sqrt_(qx + ic);
      wide dt = qz[b] / (tx[b] + tp);  // x_0 - p_0 from the difference, which does not cancel
      kappa[b] = root * (dt - root * px[b] * over_tp);
      size[b] = sqrt_((float)qx) + abs_(1.0f + (float)kappa[b]) * size_p;
    });
    each_pair([&](int b) {
      const float* x = a.x + neighbour[b] * (d + 1) + 1;
      const float* centre_ = p;
      wide* zw = s.zw + b * d;
      float* z = s.z + b * d;
      wide minus = -kappa[b], sum;
      g.sum1(
          d,
          [&](int i, wide& to) {
            wide v = minus_(x[i], centre_[i]);
            gather_(v, centre_[i], minus);
            zw[i] = v;
            z[i] = (float)v;
            gather_(to, v, v);
          },
          sum);
      qz[b] = sum;
    });
    g.sync();
    wide half[B];
    side_by_side([&](int b) {
      z0[b] = (float)sqrt_(qz[b] + ic);
      wide cq = wide(a.c) * qz[b];
      half[b] = cq / (wide(1.0f) + sqrt_(wide(1.0f) + cq));
      plus[b] = (float)half[b];
      fast[b] = size[b] * size[b] <= FAST_RATIO * FAST_RATIO * (float)qz[b];
    });
    distances(half);
    transform();
    weights();
    each_pair([&](int b) { combine(b); });
    side_by_side([&](int b) { r[b] = normalizer(m0[b], square_mean[b], total[b]); });
  }

  // A row of the next pairs, while those before are computed: all of them at once would wait for each other.
  HK_FN void prefetch(const float* table, hk_int e, int width) const {
    if (e < a.begin[a.n]) g.prefetch(table + a.source[e] * width, width);
  }

  HK_FN void distances(const wide* half) {
    const wide *zw = s.zw, *kernel_b = s.kernel_b, *exact = s.kernels_wide;
    float* dist = s.dist;
    const float* kernels = a.kernels;
    int width = d, kernels_ = k;
    wide cw = wide(a.c);
    auto square = [&](int j, int b, wide dot) {  // sinh^2(sqrt(c) D/2)
      wide kb = kernel_b[j];
      dist[b * kernels_ + j] = (float)(wide(0.5f) * (half[b] + kb + half[b] * kb - cw * dot));
    };
    if constexpr (B == 1) {
      g.rows(
          k, d, wide(0.0f),
          [&](int j, int i, wide& to) { gather_(to, kernels[j * (width + 1) + 1 + i], zw[i]); },
          [&](int j, wide dot) { square(j, 0, dot); });
    } else {
      g.template tiles<B>(
          k, d, wide(0.0f), [&](int j, int i, auto b) { return exact[j * width + i] * zw[b * width + i]; },
          [](int, int, int, wide v) { return v; }, square);
    }
  }

  // y: the K products' space coordinates; q: their squares; the logits of the gates.
  HK_FN void transform() {
    const Scratch t = s;
    const float *u = up, *first = a.first, *bias = a.bias;
    const float *ux[B], *next[B];
    float kap[B], time[B];
    bool all = true;
    unrolled<B>([&](auto b) {
      ux[b] = a.product + neighbour[b] * row, kap[b] = (float)kappa[b], time[b] = z0[b];
      next[b] = a.product + (ahead + b < a.begin[a.n] ? a.source[ahead + b] : 0) * row;
      if (b < count) all = all && fast[b];
    });
    if (!all) {
      each_pair([&](int b) { transform_direct(b); });
      return;
    }
    int outs = o, space = k * o, kernels = k, size = row;
    auto product = [&](int e, auto b) { return ((ux[b][e] - u[e]) - kap[b] * u[e]) + (time[b] * first[e] + bias[e]); };
    g.template tiles<B>(
        k, o, 0.0f, [&](int j, int i, auto b) { return product(j * outs + i, b); },
        [&](int j, int i, auto b, float v) {
          t.y[b * size + j * outs + i] = v;
          return v * v;
        },
        [&](int j, auto b, float q) {
          t.q[b * kernels + j] = q;
          g.prefetch(next[b] + j * outs, outs);  // a piece at a time: so many at once would be dropped
        });
    unrolled<B>([&](auto b) { g.each(kernels, [&](int j) { t.gate[b * kernels + j] = product(space + j, b); }); });
  }
  HK_FN void transform_direct(int b) {
    float *y = s.y + b * row, *square = s.q + b * k, *gate = s.gate + b * k;
    const float *ux = a.product + neighbour[b] * row, *u = up, *first = a.first, *bias = a.bias;
    const float *matrix = a.matrix, *z = s.z + b * d;
    float kap = (float)kappa[b], time = z0[b];
    int outs = o, space = k * o, width = d;
    if (!fast[b]) {
      g.rows(
          row, d, 0.0f, [&](int e, int i, float& to) { to += matrix[(hk_int)e * width + i] * z[i]; },
          [&](int e, float v) { y[e] = v + time * first[e] + bias[e]; });
    } else {
      g.each(row, [&](int e) { y[e] = ((ux[e] - u[e]) - kap * u[e]) + (time * first[e] + bias[e]); });
    }
    g.rows(
        k, o, 0.0f,
        [&](int j, int i, float& to) {
          float v = y[j * outs + i];
          to += v * v;
        },
        [&](int j, float q) { square[j] = q; });
    g.each(k, [&](int j) { gate[j] = y[space + j]; });
  }

  HK_FN void weights() {
    const Scratch t = s;
    const float* scale = B > 1 ? s.scales : a.scale;
    float margin = a.margin * radius, rc = radius, over_c = (float)ic, eps = a.eps, sigma = a.sigma;
    int kind = k == 1 && a.correlation == 0 ? 3 : a.correlation, kernels = k;
    g.each(B > 1 ? count * k : k, [&](int j) {
      float h = t.dist[j];
      // Below 0 there is only rounding; NaN goes on.
      t.dist[j] = 2.0f * rc * asinh_(sqrt_(h <= 0.0f ? 0.0f : h));
      float gate = sigmoid_(t.gate[j]);
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
    if (kind != 1 && kind != 2) return;
    each_pair([&](int b) {
      float *w = t.w + b * kernels, *dist = t.dist + b * kernels;
      if (kind == 1) {
        reach[b] = g.sum(kernels, [&](int j) { return w[j]; }, 0.0f);
        if (kernels == 1) g.each(kernels, [&](int j) { w[j] = 1.0f; });
      } else {
        float nearest = dist[0];
        for (int j = 1; j < kernels; ++j) nearest = dist[j] < nearest ? dist[j] : nearest;
        float factor = -0.5f / (sigma * sigma);
        g.each(kernels, [&](int j) { w[j] = exp_(factor * (dist[j] - nearest) * (dist[j] + nearest)); });
        float sum = g.sum(kernels, [&](int j) { return w[j]; }, 0.0f);
        g.each(kernels, [&](int j) { w[j] = w[j] / sum; });
      }
    });
  }

  // 1/sqrt(c (m_0^2 - |m_s|^2)), the bracket not below total^2 (which rounding alone can break).
  HK_FN float normalizer(float time, float q, float sum) const {
    float square = a.c * (time * time - q), bound = sum * sum;
    float value = bound > 0.0f ? (square < bound ? bound : square) : 1.0f;
    return 1.0f / sqrt_(value);
  }

  HK_FN void combine(int b) {
    const float *w = s.w + b * k, *f = s.f + b * k, *times = s.t + b * k, *y = s.y + b * row;
    float* mean = s.mean + b * o;
    int outs = o, kernels = k;
    float time_, sum_;
    g.sum2(
        k,
        [&](int j, float& time, float& sum) {
          time += w[j] * times[j];
          sum += w[j];
        },
        time_, sum_);
    m0[b] = time_, total[b] = sum_;
    if constexpr (O > 0 && !G::shared_memory) {
      float m[O];
      HK_LOOP for (int i = 0; i < O; ++i) m[i] = 0.0f;
      for (int j = 0; j < kernels; ++j) {
        float u = w[j] * f[j];
        HK_LOOP for (int i = 0; i < O; ++i) m[i] += u * y[j * O + i];
      }
      HK_LOOP for (int i = 0; i < O; ++i) mean[i] = m[i];
    } else {
      g.each(o, [&](int i) {
        float m = 0.0f;
        for (int j = 0; j < kernels; ++j) m += w[j] * f[j] * y[j * outs + i];
        mean[i] = m;
      });
    }
    square_mean[b] = g.sum(o, [&](int i) { return mean[i] * mean[i]; }, 0.0f);
  }

  HK_FN void forward(hk_int n) {
    centre(n);
    const Scratch t = s;
    g.each(o + 1, [&](int i) { t.acc[i] = 0.0f; });
    float all = 0.0f;
    hk_int place[B];
    for (hk_int e = a.begin[n]; e < a.begin[n + 1];) {
      e = ahead = gather_pairs(e, n, place, false);
      if (count == 0) continue;
      forward_pairs();
      each_pair([&](int b) {
        float share = weight[b] * reach[b], scale = share * r[b];
        float time = share * sqrt_(square_mean[b] * r[b] * r[b] + (float)ic);
        int outs = o;
        const float* mean = t.mean + b * outs;
        g.each(o, [&](int i) { t.acc[i] += scale * mean[i]; });
        g.each(1, [&](int) { t.acc[outs] += time; });
        all += share;
      });
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
  HK_FN void pair_backward(int pair, hk_int e, hk_int n, const hk_conv_grad& b);
};

}  // namespace HK_NS
