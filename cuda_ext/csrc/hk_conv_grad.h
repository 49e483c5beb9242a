// Gradients of hk_conv.h. A pair is computed again from its inputs; nothing of it was kept.
#pragma once
#include "hk_conv.h"

namespace HK_NS {

template <class G, int O, int K>
HK_FN void Conv<G, O, K>::backward(hk_int n, const hk_conv_grad& b) {
  float all = a.total[n];
  if (all == 0.0f) return;  // nobody: the output does not depend on anything
  centre(n);
  const Scratch t = s;
  float scale = all > 0.0f ? 1.0f / all : 1.0f;
  const float *sums = a.sums + n * (o + 1), *out = b.grad + n * (o + 1);
  float q, along;
  g.sum2(
      o,
      [&](int i, float& square, float& product) {
        float m = sums[1 + i] * scale;
        square += m * m;
        product += m * out[1 + i];
      },
      q, along);
  float time = sums[0] * scale;
  float rr = normalizer(time, q, all > 0.0f ? 1.0f : 0.0f);
  float tt = sqrt_(q * rr * rr + (float)ic);
  float g_square = -0.5f * rr * rr * rr * (along + out[0] * q * rr / tt);
  float twice = out[0] * rr * rr / tt - 2.0f * a.c * g_square;
  float c = a.c;
  int outs = o;
  g.each(o, [&](int i) { t.gacc[i] = scale * (rr * out[1 + i] + twice * sums[1 + i] * scale); });
  g.each(1, [&](int) { t.gacc[outs] = scale * 2.0f * c * time * g_square; });
  g.each(row, [&](int e) { t.node[e] = 0.0f; });
  hk_int place[B];
  for (hk_int e = a.begin[n]; e < a.begin[n + 1];) {
    e = ahead = gather_pairs(e, n, place, b.weight != nullptr);
    if (count == 0) continue;
    forward_pairs();
    each_pair([&](int i) {
      prefetch(b.product, e + i, row);
      prefetch(b.x, e + i, d + 1);
      pair_backward(i, place[i], n, b);
    });
  }
  // As a centre; `product` is what nodes get as neighbours.
  float* centre_product = b.centre + n * row;
  g.each(row, [&](int e) { centre_product[e] += t.node[e]; });
}

template <class G, int O, int K>
HK_FN void Conv<G, O, K>::pair_backward(int pair, hk_int e, hk_int n, const hk_conv_grad& b) {
  hk_int neighbour = this->neighbour[pair];
  const G& group = g;
  // The pair's own part of the scratch, and its numbers.
  Scratch t = s;
  t.zw += pair * d, t.z += pair * d, t.y += pair * row, t.q += pair * k, t.dist += pair * k, t.w += pair * k;
  t.gate += pair * k, t.excess += pair * k, t.f += pair * k, t.t += pair * k, t.mean += pair * o;
  const wide kappa = this->kappa[pair], tx = this->tx[pair], px = this->px[pair];
  const float z0 = this->z0[pair], m0 = this->m0[pair], reach = this->reach[pair], r = this->r[pair];
  const float square_mean = this->square_mean[pair], plus = this->plus[pair];
  const bool fast = this->fast[pair];
  const int outs = o, space = k * o, kernels = k;
  const float c = a.c, rc = radius, eps = a.eps, sigma = a.sigma;
  // The pair's point: [time, r mean], weight times gacc is its gradient.
  float weight = this->weight[pair] * reach;
  float time = sqrt_(square_mean * r * r + (float)ic);
  float along = g.sum(o, [&](int i) { return t.mean[i] * t.gacc[i]; }, 0.0f);
  float g_weight = r * along + time * t.gacc[outs];
  if (b.weight != nullptr) {
    float value = g_weight * reach;
    float* place = b.weight + e;
    g.each(1, [&](int) { *place = value; });
    if (a.weight[e] == 0.0f) return;
  }
  float g_reach = g_weight * a.weight[e];
  float g0 = weight * t.gacc[outs];
  float g_square = -0.5f * r * r * r * (weight * along + g0 * square_mean * r / time);
  float g_m0 = 2.0f * c * m0 * g_square;
  float twice = g0 * r * r / time - 2.0f * c * g_square;
  float rn = r;
  g.each(o, [&](int i) { t.gm[i] = rn * weight * t.gacc[i] + twice * t.mean[i]; });

  g.rows(
      k, o, 0.0f, [&](int j, int i, float& to) { to += t.y[j * outs + i] * t.gm[i]; },
      [&](int j, float v) { t.along[j] = v; });
  int kind = k == 1 && a.correlation == 0 ? 3 : a.correlation;
  const float* scales = a.scale;
  float* g_scale = b.scale;
  g.each(k, [&](int j) {
    float w = t.w[j], f = t.f[j], tm = t.t[j], qq = t.q[j], ex = t.excess[j], gate = t.gate[j];
    float g_f = w * (t.along[j] + g_m0 * f * qq / tm);
    t.gq[j] = 2.0f * (0.5f * f * (g_m0 * w * f / tm - g_f / (qq + eps)));
    t.gu[j] = w * f;
    float g_excess = g_f * (ex + rc) / (f * (qq + eps));
    t.gate[j] = g_excess * gate;  // by the scale
    t.excess[j] = g_excess * scales[j] * gate * (1.0f - gate);  // by the gate's logit
    t.gw[j] = f * t.along[j] + g_m0 * tm;
  });
  g.each(k, [&](int j) { g_scale[j] += t.gate[j]; });
  float mean_gw = 0.0f;
  if (kind == 2) mean_gw = g.sum(k, [&](int j) { return t.w[j] * t.gw[j]; }, 0.0f);
  float aw = plus;
  g.each(k, [&](int j) {
    float dist = t.dist[j], w = t.w[j], g_d = 0.0f;
    if (kind == 0) g_d = t.gw[j];
    if (kind == 1) g_d = dist < sigma ? ((kernels == 1 ? 0.0f : t.gw[j]) + g_reach) * (-1.0f / sigma) : 0.0f;
    if (kind == 2) g_d = w * (t.gw[j] - mean_gw) * (-dist / (sigma * sigma));
    // sinh^2(x) has derivative sinh(2x) = 2 sinh(x) cosh(x); x = sqrt(c) D/2
    float h = 0.5f * dist / rc;
    float e2 = exp_(h), sh = 0.5f * (e2 - 1.0f / e2), ch = 0.5f * (e2 + 1.0f / e2);
    float small = h * (1.0f + h * h * (1.0f / 6.0f + h * h * (1.0f / 120.0f + h * h / 5040.0f)));
    sh = h < 0.5f ? small : sh;
    // A quotient of 0 by 0 at a kernel point, where the subgradient is 0.
    t.gd[j] = dist > 0.0f ? 0.5f * g_d * rc / (sh * ch) : (dist == 0.0f ? 0.0f : dist);
  });

  // Through the linear layers: gy = gq y + gu gm, and the gate.
  float kap = (float)kappa, z_time = z0;
  float g_kappa = 0.0f, g_z0 = 0.0f;
  const float *u = up, *first = a.first;
  float *g_first = b.first, *g_bias = b.bias;
  if (fast) {
    // On a GPU the bias's gradient, the sum of what neighbours get, is left to the caller: `product` over all nodes.
    float* product = b.product + neighbour * row;
    auto element = [&](int x, float gy, float& sk, float& st) {
      group.add(product + x, gy);
      t.node[x] += (-1.0f - kap) * gy;
      g_first[x] += gy * z_time;
      if constexpr (!G::shared_memory) g_bias[x] += gy;
      sk -= gy * u[x];
      st += gy * first[x];
    };
    float by_kappa, by_time;
    if constexpr (G::shared_memory) {
      g.sum2(
          o,
          [&](int i, float& sk, float& st) {
            float by_mean = t.gm[i];
            for (int j = 0; j < kernels; ++j) {
              int x = j * outs + i;
              element(x, t.gq[j] * t.y[x] + t.gu[j] * by_mean, sk, st);
            }
          },
          by_kappa, by_time);
      g_kappa += by_kappa;
      g_z0 += by_time;
    } else {
      for (int j = 0; j < k; ++j) {
        float gqj = t.gq[j], guj = t.gu[j];
        g.sum2(
            o,
            [&](int i, float& sk, float& st) {
              int x = j * outs + i;
              element(x, gqj * t.y[x] + guj * t.gm[i], sk, st);
            },
            by_kappa, by_time);
        g_kappa += by_kappa;
        g_z0 += by_time;
      }
    }
    g.sum2(
        k, [&](int j, float& sk, float& st) { element(space + j, t.excess[j], sk, st); }, by_kappa, by_time);
    g_kappa += by_kappa;
    g_z0 += by_time;
    g.sync();
  } else {
    g.each(space, [&](int x) {
      int j = x / outs;
      t.y[x] = t.gq[j] * t.y[x] + t.gu[j] * t.gm[x - j * outs];
    });
    g.each(k, [&](int j) { t.y[space + j] = t.excess[j]; });
    g_z0 = g.sum(
        row,
        [&](int x) {
          float gy = t.y[x];
          group.add(g_bias + x, gy);
          g_first[x] += gy * z_time;
          return gy * first[x];
        },
        0.0f);
  }

  // Through the distances and the relative feature, in higher precision as on the way there.
  const float *ker = a.kernels, *matrix = a.matrix;
  int width = d + 1, rows_ = row;
  bool direct = !fast;
  wide g_a;
  g.sum1(k, [&](int j, wide& to) { gather_(to, t.gd[j], wide(1.0f) + t.kernel_b[j]); }, g_a);
  g_a = g_a + wide(g_z0) / root;  // z_0 = (1 + a)/sqrt(c)
  wide by_z = g_a * wide(c) / (wide(1.0f) + wide(aw));  // da/dz = c z/(1 + a)
  const float* centre_ = p;
  g.each(d, [&](int i) {
    float more = 0.0f, kern = 0.0f;
    for (int j = 0; j < kernels; ++j) kern += t.gd[j] * ker[j * width + 1 + i];
    if (direct)
      for (int x = 0; x < rows_; ++x) more += matrix[(hk_int)x * (width - 1) + i] * t.y[x];
    wide sum = wide(more - c * kern);
    gather_(sum, by_z, t.zw[i]);
    t.zw[i] = sum;  // from here on its gradient
  });
  if (direct) {
    float* g_matrix = b.matrix;
    for (int x = 0; x < row; ++x) {
      float gy = t.y[x];
      g.each(d, [&](int i) { group.add(g_matrix + (hk_int)x * (width - 1) + i, gy * t.z[i]); });
    }
  }
  if (b.kernels != nullptr) {
    float* g_kernels = b.kernels;
    for (int j = 0; j < k; ++j) {
      float gt = t.gd[j], kb = (float)t.kernel_b[j];
      float by_b = gt * (1.0f + aw) * c / (1.0f + kb);
      g.each(d, [&](int i) {
        g_kernels[j * width + 1 + i] += by_b * ker[j * width + 1 + i] - c * gt * t.z[i];
      });
    }
  }
  wide gzp;
  g.sum1(d, [&](int i, wide& to) { gather_(to, centre_[i], t.zw[i]); }, gzp);
  wide gk = wide(g_kappa) - gzp;
  wide g_dt = root * gk, along_p = wide(c) * gk * over_tp;
  wide g_px = -along_p;
  wide g_tp = along_p * root * px * over_tp - g_dt;
  wide over_x = g_dt / tx, over_p = g_tp / tp, more = wide(-1.0f) - kappa;
  const float* x = a.x + neighbour * (d + 1) + 1;
  float *gx = b.x + neighbour * (d + 1) + 1, *gp = b.x + n * (d + 1) + 1;
  g.each(d, [&](int i) {
    float xi = x[i], pi = centre_[i];
    wide gz = t.zw[i], by_x = gz, by_p = wide(0.0f);
    gather_(by_x, xi, over_x);
    gather_(by_x, pi, g_px);
    gather_(by_p, pi, over_p);
    gather_(by_p, gz, more);
    gather_(by_p, minus_(xi, pi), g_px);
    gather_(by_p, -pi, g_px);
    group.add(gx + i, (float)by_x);
    group.add(gp + i, (float)by_p);
  });
}

}  // namespace HK_NS
