// Arguments of the kernels: plain structs, the same for the CPU, the CUDA launchers and NVRTC.
#pragma once
#include "hk_base.h"

namespace HK_NS {

// Row operations: rows of the Lorentz model hold d + 1 numbers, those of the ball d.
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
  L_EXPMAP = 10,
  L_TRANSP = 11,
  B_EXPMAP = 12,
  B_TRANSP = 13,
  B_CONFORMAL = 14,
  ROW_KINDS = 15
};
HK_FN bool row_lorentz(int kind) { return kind <= L_LOGMAP0 || kind == L_EXPMAP || kind == L_TRANSP; }
HK_FN bool row_scalar(int kind) { return kind == L_DIST || kind == L_SQDIST || kind == B_DIST || kind == B_CONFORMAL; }
HK_FN int row_arguments(int kind) {
  if (kind == L_TRANSP || kind == B_TRANSP) return 3;
  bool one = kind == L_EXPMAP0 || kind == L_LOGMAP0 || kind == B_EXPMAP0 || kind == B_LOGMAP0;
  return one || kind == B_CONFORMAL ? 1 : 2;
}

}  // namespace HK_NS

struct hk_conv_args {
  // nodes (n, d + 1), of which the space coordinates are read; products (n, row) of x_s with `matrix`
  const float* x;
  const float* product;
  // matrix (row, d), first (row), bias (row): row = K o + K, all outputs' space rows, then the K gates
  const float* matrix;
  const float* first;
  const float* bias;
  const float* scale;    // (K), exp(log_scale)
  const float* kernels;  // (K, d + 1)
  const hk_int* begin;   // (n + 1): pairs of node i are begin[i] .. begin[i + 1] - 1
  const hk_int* source;  // (R), the neighbour
  const float* weight;   // (R) >= 0
  float* out;            // (n, o + 1)
  float* total;          // (n): sum of the weights
  float* sums;           // (n, o + 1): sum of the weighted points
  hk_int n;
  int d, o, k;
  int correlation;  // 0 distance, 1 linear, 2 gaussian
  float sigma, c, margin, eps;
};

struct hk_conv_grad {
  const float* grad;  // (n, o + 1)
  // Added to, and zero at the start; on the CPU each thread has its own.
  float* x;        // (n, d + 1)
  float* product;  // (n, row), as neighbours
  float* centre;   // (n, row), as centres: `product` again on the CPU
  float* matrix;   // (row, d)
  float* first;    // (row)
  float* bias;     // (row); on a GPU the column sums of `product` are still to be added
  float* scale;    // (K)
  float* kernels;  // (K, d + 1), or null
  float* weight;   // (R), or null
};

struct hk_adam_args {
  float lr_over_correction, beta1, beta2, one_over_correction2, eps, weight_decay, c, low;
  int amsgrad, ball;
  int columns;  // of v: 1, or in the ball the width of a point, all columns being equal
};

// The tail of a linear layer. Row n of z (n, d + 1) has the scale n % period of log_scale (period).
struct hk_tail_args {
  const float* z;  // may be `out`; in the backward pass the outputs if `kept` is given
  const float* log_scale;
  const float* grad;  // (n, d + 1), backward
  float* out;         // (n, d + 1): points; backward: the gradient of z
  float* kept;        // (2, n), or null: squared norms of the space parts, then z_0
  float* by_scale;    // (n), backward: each row's part of the gradient of log_scale
  hk_int n, period;
  int d;
  float c;
};

// The tail of a Poincaré linear layer: y is the ball point of the space coordinates sinh(u_k)/sqrt(c) with
// u_k = power_k asinh(gain_k space_n z_nk - tilt_k time_n).
struct hk_ball_args {
  const float* z;      // (n, d)
  const float* space;  // (n)
  const float* time;   // (n)
  const float* gain;   // (d)
  const float* tilt;   // (d)
  const float* power;  // (d)
  const float* grad;   // (n, d), backward
  float* out;          // (n, d): points; backward: the gradient of z
  float* by_space;     // (n), backward
  float* by_time;      // (n), backward
  float* by_power;     // (n, d), backward on a GPU: each row's part
  hk_int n;
  int d;
  float c;
};

// A Lorentz linear layer on the CPU, for n rows: a matrix product of the space parts alone, whose sizes are powers
// of two where the widths are (a product with one column more takes up to 1.6 times as long), and what is missing
// of it. Rows of x hold width + 1 numbers, those of points and grad d + 1.
struct hk_linear_args {
  const float* x;
  const float* product;  // (n, d): x_s times the transposed space part of the weights
  const float* first;    // (d): the weights that take the time of x to the space part
  const float* top;      // (width + 1): those that make z_0
  const float* bias;     // (d + 1)
  float log_scale, c;
  float* points;
  float* kept;  // (2, n): squared norms of the space parts, then z_0
  // backward
  const float* grad;
  float* space;     // (n, d): gradient of the space part of z
  float* gate;      // (n): that of z_0
  float* time;      // (n): that of the time of x
  float* by_scale;  // (n): each row's part of the gradient of log_scale
  hk_int n;
  int width, d;
};
