// The kernels in the emulator, by name and with arguments as cuLaunchKernel has them: what the tests and the fake
// driver call.
#include "cuda_emu.h"

#include "kernels.cuh"

#define HK_EXPORT extern "C" __attribute__((visibility("default")))

namespace {
std::string message;

template <class T>
T at(void** p, int i) {
  return *(T*)p[i];
}
}  // namespace

HK_EXPORT const char* emu_message() { return message.c_str(); }
HK_EXPORT hk_int emu_conv_floats(int d, int o, int k, int pass) { return HK_NS::conv_floats(d, o, k, pass); }

// Returns 0, or 1 with a message.
HK_EXPORT int emu_launch(const char* name, int grid, int threads, int shared, void** p, unsigned seed) {
  std::string kernel = name;
  std::function<void()> body;
  if (kernel == "hk_row_kernel") {
    body = [=] {
      hk_row_kernel(at<int>(p, 0), at<const float*>(p, 1), at<const float*>(p, 2), at<const float*>(p, 3),
                    at<float*>(p, 4), at<hk_int>(p, 5), at<int>(p, 6), at<float>(p, 7), at<float>(p, 8));
    };
  } else if (kernel == "hk_row_backward_kernel") {
    body = [=] {
      hk_row_backward_kernel(at<int>(p, 0), at<const float*>(p, 1), at<const float*>(p, 2), at<const float*>(p, 3),
                             at<const float*>(p, 4), at<float*>(p, 5), at<float*>(p, 6), at<float*>(p, 7),
                             at<hk_int>(p, 8), at<int>(p, 9), at<float>(p, 10), at<float>(p, 11));
    };
  } else if (kernel == "hk_tail_kernel") {
    body = [=] { hk_tail_kernel(at<hk_tail_args>(p, 0)); };
  } else if (kernel == "hk_tail_backward_kernel") {
    body = [=] { hk_tail_backward_kernel(at<hk_tail_args>(p, 0)); };
  } else if (kernel == "hk_ball_tail_kernel") {
    body = [=] { hk_ball_tail_kernel(at<hk_ball_args>(p, 0)); };
  } else if (kernel == "hk_ball_tail_backward_kernel") {
    body = [=] { hk_ball_tail_backward_kernel(at<hk_ball_args>(p, 0)); };
  } else if (kernel == "hk_adam_kernel") {
    body = [=] {
      hk_adam_kernel(at<hk_adam_args>(p, 0), at<hk_int>(p, 1), at<int>(p, 2), at<float*>(p, 3),
                     at<const float*>(p, 4), at<float*>(p, 5), at<float*>(p, 6), at<float*>(p, 7));
    };
  } else if (kernel == "hk_tanimoto_kernel") {
    body = [=] {
      hk_tanimoto_kernel(at<const hk_word*>(p, 0), at<const hk_word*>(p, 1), at<const int*>(p, 2), at<hk_int>(p, 3),
                         at<int>(p, 4), at<float*>(p, 5), at<hk_int>(p, 6));
    };
  } else if (kernel == "hk_graph_kernel") {
    body = [=] {
      hk_graph_kernel(at<const hk_int*>(p, 0), at<hk_int>(p, 1), at<const hk_int*>(p, 2), at<hk_int>(p, 3),
                      at<int*>(p, 4));
    };
#if !defined(EMU_WITHOUT_CONV)
  } else if (kernel == "hk_conv_kernel") {
    body = [=] { hk_conv_kernel(at<hk_conv_args>(p, 0)); };
  } else if (kernel == "hk_conv_wide_kernel") {
    body = [=] { hk_conv_wide_kernel(at<hk_conv_args>(p, 0)); };
  } else if (kernel == "hk_conv_backward_wide_kernel") {
    body = [=] { hk_conv_backward_wide_kernel(at<hk_conv_args>(p, 0), at<hk_conv_grad>(p, 1)); };
  } else if (kernel == "hk_conv_backward_kernel") {
    body = [=] { hk_conv_backward_kernel(at<hk_conv_args>(p, 0), at<hk_conv_grad>(p, 1)); };
#endif
  } else {
    message = "unknown kernel " + kernel;
    return 1;
  }
  message = emu::launch(grid, threads, shared / 4, seed, body);
  return message.empty() ? 0 : 1;
}
