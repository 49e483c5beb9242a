// One step of Riemannian Adam for one point of the ball (hyperkit/optim.py, `RiemannianAdam._move`): as geoopt has
// it, the step is x + step m, kept inside, and the momentum is transported along the geodesic to there.
#pragma once
#include "hk_rows.h"

namespace HK_NS {

// x, m (d), grad (d), v and its largest value (a.columns, all of them equal); all but grad change.
template <class G>
HK_FN void ball_adam_row(const G& g, const hk_adam_args& a, int d, float* x, const float* grad, float* m, float* v,
                         float* largest) {
  float c = a.c, decay = a.weight_decay, w = 1.0f - a.beta1, gap = gap_(g, x, d, c, a.low);
  float scale = 0.25f * gap * gap;  // of the Riemannian gradient
  float g2 = g.sum(
      d,
      [&](int i) {
        float h = grad[i] + decay * x[i], moment = m[i] + w * (scale * h - m[i]);
        m[i] = moment;
        return h * h;
      },
      0.0f);
  float second = v[0] * a.beta2 + (1.0f - a.beta2) * (scale * g2), used = second;
  if (a.amsgrad) used = largest[0] < second ? second : largest[0];
  g.sync();
  float step = -a.lr_over_correction / (sqrt_(used * a.one_over_correction2) + a.eps);
  float n = sqrt_(c * g.sum(
                          d,
                          [&](int i) {
                            float y = x[i] + step * m[i];
                            return y * y;
                          },
                          0.0f));
  float held = n > BALL_TOP ? BALL_TOP / n : 1.0f;
  auto y = [&](int i) { return held * (x[i] + step * m[i]); };
  BallTransport t(g, x, y, m, d, c, a.low);
  float on_x = (float)t.a, on_delta = (float)t.b, lambda = (float)t.lambda;
  g.each(d, [&](int i) {
    float to = y(i), from = x[i];
    m[i] = lambda * (m[i] + on_x * from + on_delta * (to - from));
    x[i] = to;
  });
  bool amsgrad = a.amsgrad != 0;
  g.each(a.columns, [&](int i) {
    v[i] = second;
    if (amsgrad) largest[i] = used;
  });
}

// Point n of the model that `a` names.
template <class G>
HK_FN void adam_at(const G& g, const hk_adam_args& a, hk_int n, int d, float* x, const float* grad, float* m, float* v,
                   float* largest) {
  hk_int at = n * (a.ball ? d : d + 1), to = n * a.columns;
  float* top = largest == nullptr ? nullptr : largest + to;
  if (a.ball)
    ball_adam_row(g, a, d, x + at, grad + at, m + at, v + to, top);
  else
    adam_row(g, a, d, x + at, grad + at, m + at, v + to, top);
}

}  // namespace HK_NS
