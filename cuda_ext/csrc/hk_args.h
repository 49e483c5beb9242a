// Arguments of the kernels: plain structs, the same for the CPU, the CUDA launchers and NVRTC.
#pragma once
#include "hk_base.h"

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
  float lr_over_correction, beta1, beta2, one_over_correction2, eps, weight_decay, c;
  int amsgrad;
};
