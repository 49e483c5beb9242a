// The kernels of one instruction set, by pointer: what shim.cpp calls.
#pragma once
#include "hk_args.h"

struct hk_table {
  const char* name;
  hk_int (*conv_scratch)(int d, int o, int k, int backward);
  void (*conv)(const hk_conv_args&, hk_int begin, hk_int end, float* scratch);
  void (*conv_backward)(const hk_conv_args&, const hk_conv_grad&, hk_int begin, hk_int end, float* scratch);
  void (*adam)(const hk_adam_args&, hk_int begin, hk_int end, int d, float* x, const float* grad, float* m,
               float* v, float* largest);
  void (*row)(int kind, const float* const* in, float* out, hk_int begin, hk_int end, int d, float c,
              float low);
  void (*row_backward)(int kind, const float* const* in, const float* grad, float* const* out, hk_int begin,
                       hk_int end, int d, float c, float low);
  void (*tail)(const hk_tail_args&, hk_int begin, hk_int end);
  void (*tail_backward)(const hk_tail_args&, hk_int begin, hk_int end);
  void (*ball_tail)(const hk_ball_args&, hk_int begin, hk_int end);
  void (*ball_tail_backward)(const hk_ball_args&, hk_int begin, hk_int end, double* sums, float* scratch);
  void (*linear)(const hk_linear_args&, hk_int begin, hk_int end);
  void (*linear_backward)(const hk_linear_args&, hk_int begin, hk_int end, double* by_first, double* by_bias,
                          double* by_top, float* scratch);
  void (*linear_join)(const hk_linear_args&, const float* product, float* gx, hk_int begin, hk_int end);
  void (*tanimoto)(const hk_word* query, const hk_word* reference, const int* sizes, hk_int m, int words,
                   float* out, hk_int begin, hk_int end);
  void (*columns)(const hk_word* columns, hk_int words, const hk_int* starts, const hk_int* sizes,
                  hk_int groups, const unsigned char* query, int bytes, float* out, hk_int begin, hk_int end);
};

extern "C" const hk_table* hk_table_base();
extern "C" const hk_table* hk_table_avx2();
extern "C" const hk_table* hk_table_avx512();
