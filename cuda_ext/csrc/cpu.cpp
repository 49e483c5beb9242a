// One instruction set's instance: compiled three times with HK_NS, HK_TABLE and the compiler's -m flags.
#define HK_SIMD
#include "cpu.h"
#include "hk_adam.h"
#include "hk_conv_grad.h"
#include "hk_rows.h"
#include "hk_tanimoto.h"

namespace HK_NS {
namespace {

template <int O>
HK_FLAT void conv(const hk_conv_args& a, hk_int begin, hk_int end, float* scratch) {
  Serial g;
  Conv<Serial, O> f(g, a, scratch);
  for (hk_int n = begin; n < end; ++n) f.forward(n);
}

template <int O>
HK_FLAT void conv_backward(const hk_conv_args& a, const hk_conv_grad& b, hk_int begin, hk_int end, float* scratch) {
  Serial g;
  Conv<Serial, O> f(g, a, scratch);
  for (hk_int n = begin; n < end; ++n) f.backward(n, b);
}

hk_int conv_scratch(int d, int o, int k, int backward) { return conv_floats(d, o, k, backward); }

void conv_any(const hk_conv_args& a, hk_int begin, hk_int end, float* scratch) {
  switch (a.o) {
    case 16: return conv<16>(a, begin, end, scratch);
    case 32: return conv<32>(a, begin, end, scratch);
    case 64: return conv<64>(a, begin, end, scratch);
    default: return conv<0>(a, begin, end, scratch);
  }
}

void conv_backward_any(const hk_conv_args& a, const hk_conv_grad& b, hk_int begin, hk_int end, float* scratch) {
  switch (a.o) {
    case 16: return conv_backward<16>(a, b, begin, end, scratch);
    case 32: return conv_backward<32>(a, b, begin, end, scratch);
    case 64: return conv_backward<64>(a, b, begin, end, scratch);
    default: return conv_backward<0>(a, b, begin, end, scratch);
  }
}

HK_FLAT void adam(const hk_adam_args& a, hk_int begin, hk_int end, int d, float* x, const float* grad, float* m,
          float* v, float* largest) {
  Serial g;
  for (hk_int n = begin; n < end; ++n)
    adam_row(g, a, d, x + n * (d + 1), grad + n * (d + 1), m + n * (d + 1), v + n,
             largest == nullptr ? nullptr : largest + n);
}

void tanimoto_any(const hk_word* query, const hk_word* reference, const int* sizes, hk_int m, int words,
                  float* out, hk_int begin, hk_int end) {
  Serial g;
  for (hk_int n = begin; n < end; ++n)
    out[n] = tanimoto_row(g, query + n * words, reference, sizes, m, words, 0, 1);
}

void columns_any(const hk_word* columns, hk_int words, const hk_int* starts, const hk_int* sizes,
                 hk_int groups, const unsigned char* query, int bytes, float* out, hk_int begin, hk_int end) {
  static thread_local hk_word tail[1024 * 8];
  int on[1024];
  for (hk_int n = begin; n < end; ++n) {
    int count = 0;
    for (int b = 0; b < bytes; ++b)
      for (int bit = 0; bit < 8; ++bit)
        if (query[n * bytes + b] & (128 >> bit)) on[count++] = b * 8 + bit;
    out[n] = tanimoto_columns(columns, words, starts, sizes, groups, on, count, tail);
  }
}

// The kind is a constant inside: each operation's loop is compiled for itself.
template <int KIND>
HK_FLAT void row_kind(const float* const* in, float* out, hk_int begin, hk_int end, int d, float c, float low) {
  Serial g;
  for (hk_int n = begin; n < end; ++n) row_at(g, KIND, in[0], in[1], out, n, d, c, low);
}
template <int KIND>
HK_FLAT void row_kind_backward(const float* const* in, const float* grad, float* const* out, hk_int begin, hk_int end,
                       int d, float c, float low) {
  Serial g;
  for (hk_int n = begin; n < end; ++n)
    row_backward_at(g, KIND, in[0], in[1], grad, out[0], out[1], n, d, c, low);
}
#define HK_EACH_KIND(F) \
  {F<0>, F<1>, F<2>, F<3>, F<4>, F<5>, F<6>, F<7>, F<8>, F<9>}
void row_any(int kind, const float* const* in, float* out, hk_int begin, hk_int end, int d, float c, float low) {
  static constexpr decltype(&row_kind<0>) all[ROW_KINDS] = HK_EACH_KIND(row_kind);
  all[kind](in, out, begin, end, d, c, low);
}
void row_backward_any(int kind, const float* const* in, const float* grad, float* const* out, hk_int begin,
                      hk_int end, int d, float c, float low) {
  static constexpr decltype(&row_kind_backward<0>) all[ROW_KINDS] = HK_EACH_KIND(row_kind_backward);
  all[kind](in, grad, out, begin, end, d, c, low);
}

const hk_table table = {HK_NAME,      conv_scratch,     conv_any,     conv_backward_any, adam,
                        row_any, row_backward_any, tanimoto_any, columns_any};

}  // namespace
}  // namespace HK_NS

extern "C" const hk_table* HK_TABLE() { return &HK_NS::table; }
