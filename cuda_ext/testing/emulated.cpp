// The kernels in the emulator, behind the interface that the tests and the fake driver call.
#include "cuda_emu.h"

#include "kernels.cuh"

#define HK_EXPORT extern "C" __attribute__((visibility("default")))

namespace {
std::string message;

int done(std::string error) {
  message = std::move(error);
  return message.empty() ? 0 : 1;
}
int blocks(hk_int n) { return n < 1 ? 1 : (int)(n > 3 ? 3 : n); }  // few: nodes beyond the grid are taken in strides
}  // namespace

HK_EXPORT const char* emu_message() { return message.c_str(); }
HK_EXPORT hk_int emu_conv_shared(int d, int o, int k, int backward) { return hk_conv_shared(d, o, k, backward != 0); }

HK_EXPORT int emu_row(int kind, const float* x, const float* y, float* out, hk_int n, int d, float c, float low, unsigned seed) {
  return done(emu::launch(blocks(n), 32 * HK_WARPS, 0, seed, [=] { hk_row_kernel(kind, x, y, out, n, d, c, low); }));
}
HK_EXPORT int emu_row_backward(int kind, const float* x, const float* y, const float* grad, float* gx, float* gy,
                               hk_int n, int d, float c, float low, unsigned seed) {
  return done(emu::launch(blocks(n), 32 * HK_WARPS, 0, seed,
                          [=] { hk_row_backward_kernel(kind, x, y, grad, gx, gy, n, d, c, low); }));
}
HK_EXPORT int emu_adam(const hk_adam_args* a, hk_int n, int d, float* x, const float* grad, float* m, float* v,
                       float* largest, unsigned seed) {
  return done(emu::launch(blocks(n), 32 * HK_WARPS, 0, seed,
                          [=] { hk_adam_kernel(*a, n, d, x, grad, m, v, largest); }));
}
HK_EXPORT int emu_tanimoto(const hk_word* query, const hk_word* reference, const int* sizes, hk_int m, int words,
                           float* out, hk_int n, unsigned seed) {
  return done(emu::launch(blocks(n), 32 * HK_WARPS, 0, seed,
                          [=] { hk_tanimoto_kernel(query, reference, sizes, m, words, out, n); }));
}
#if !defined(EMU_WITHOUT_CONV)
HK_EXPORT int emu_conv(const hk_conv_args* a, hk_int shared_floats, unsigned seed) {
  return done(emu::launch(blocks(a->n), 32 * HK_WARPS, shared_floats, seed, [=] { hk_conv_kernel(*a); }));
}
HK_EXPORT int emu_conv_backward(const hk_conv_args* a, const hk_conv_grad* b, hk_int shared_floats, unsigned seed) {
  return done(
      emu::launch(blocks(a->n), 32 * HK_WARPS, shared_floats, seed, [=] { hk_conv_backward_kernel(*a, *b); }));
}

// ---- what the fake driver launches: kernels by name, arguments as cuLaunchKernel has them ------------------
HK_EXPORT int emu_by_name(const char* name, int grid, int threads, hk_int shared_bytes, void** p, unsigned seed) {
  std::string kernel = name;
  std::function<void()> body;
  if (kernel == "hk_conv_kernel") {
    body = [=] { hk_conv_kernel(*(hk_conv_args*)p[0]); };
  } else if (kernel == "hk_conv_backward_kernel") {
    body = [=] { hk_conv_backward_kernel(*(hk_conv_args*)p[0], *(hk_conv_grad*)p[1]); };
  } else if (kernel == "hk_row_kernel") {
    body = [=] {
      hk_row_kernel(*(int*)p[0], *(const float**)p[1], *(const float**)p[2], *(float**)p[3], *(hk_int*)p[4],
                    *(int*)p[5], *(float*)p[6], *(float*)p[7]);
    };
  } else if (kernel == "hk_row_backward_kernel") {
    body = [=] {
      hk_row_backward_kernel(*(int*)p[0], *(const float**)p[1], *(const float**)p[2], *(const float**)p[3],
                             *(float**)p[4], *(float**)p[5], *(hk_int*)p[6], *(int*)p[7], *(float*)p[8], *(float*)p[9]);
    };
  } else {
    return done("unknown kernel " + kernel);
  }
  return done(emu::launch(grid, threads, shared_bytes / 4, seed, body));
}
#endif
