// Runs the real __global__ functions on the CPU: every CUDA thread is a fiber, blocks run one after another.
//
// A fiber runs until it meets a barrier. Which fiber goes next is decided by the seed: even seeds let the lanes
// of all warps take turns in a shuffled order; odd seeds starve: the first warp in a shuffled order runs until it
// can go no further. Shared memory is filled with NaN before each block. A warp whose lanes wait at different
// barriers, or that has lanes that ended while others wait, is an error, as it is undefined on a GPU.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#define HK_EMULATE
#define HK_PAIR  // the GPU's arithmetic: two floats where the CPU has float64
#define __global__
#define __device__
#define HK_DEVICE inline
#define __launch_bounds__(...)
#define HK_DYNAMIC_SHARED(name) float* name = emu::machine().dynamic.data()
#define HK_STATIC_SHARED(name, n) float* name = emu::machine().fixed.data()

struct Index3 {
  unsigned x, y, z;
};

namespace emu {

enum Wait { NONE, WARP, SHUFFLE, BLOCK, DONE };

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  Wait wait = NONE;
  unsigned mask = 0;  // the lanes that the barrier is for
  float deposit[2];
  int parity = 0;
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<float> dynamic, fixed;
  ucontext_t main;
  int current = 0;
  Index3 thread{0, 0, 0}, block{0, 0, 0}, grid{1, 1, 1}, dims{1, 1, 1};
  std::function<void()> body;
  std::string error;
};

inline Machine& machine() {
  static Machine m;
  return m;
}

inline void pause(Wait wait, unsigned mask = 0) {
  Machine& m = machine();
  Fiber& f = m.fibers[m.current];
  f.wait = wait;
  f.mask = mask;
  swapcontext(&f.context, &m.main);
}

inline void entry() {
  Machine& m = machine();
  m.body();
  m.fibers[m.current].wait = DONE;
  swapcontext(&m.fibers[m.current].context, &m.main);
}

inline float shuffle(unsigned lanes, float v, int bits) {
  Machine& m = machine();
  Fiber& f = m.fibers[m.current];
  int me = m.current, parity = f.parity ^= 1;  // two slots: a fast lane may be one shuffle ahead
  f.deposit[parity] = v;
  pause(SHUFFLE, lanes);
  return machine().fibers[(me & ~31) | ((me & 31) ^ (bits & 31))].deposit[parity];
}

// Lets go what may: lanes that are all at the barrier that names them, a block whose threads all wait for it.
inline bool release(Machine& m) {
  int n = (int)m.fibers.size(), blocked = 0, done = 0;
  bool any = false;
  for (int i = 0; i < n; ++i) {
    Fiber& f = m.fibers[i];
    blocked += f.wait == BLOCK;
    done += f.wait == DONE;
    if (f.wait != WARP && f.wait != SHUFFLE) continue;
    int warp = i & ~31;
    bool running = false, same = (f.mask >> (i & 31) & 1) != 0;
    for (int l = 0; l < 32; ++l) {
      if (!(f.mask >> l & 1)) continue;
      const Fiber& other = m.fibers[warp + l];
      running |= other.wait == NONE;
      same &= other.wait == f.wait && other.mask == f.mask;
    }
    if (running) continue;
    if (!same) {
      m.error = "divergent barrier in warp " + std::to_string(i / 32);
      return false;
    }
    unsigned mask = f.mask;
    for (int l = 0; l < 32; ++l)
      if (mask >> l & 1) m.fibers[warp + l].wait = NONE;
    any = true;
  }
  if (!any && blocked > 0 && blocked + done == n) {
    if (done > 0) {
      m.error = "threads ended before __syncthreads";
      return false;
    }
    for (Fiber& f : m.fibers) f.wait = NONE;
    any = true;
  }
  return any;
}

inline void run_block(Machine& m, int threads, std::mt19937& random, bool starve) {
  m.fibers.resize(threads);
  std::fill(m.dynamic.begin(), m.dynamic.end(), NAN);
  std::fill(m.fixed.begin(), m.fixed.end(), NAN);
  for (Fiber& f : m.fibers) {
    f.stack.resize(1 << 16);
    f.wait = NONE;
    f.parity = 0;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.data();
    f.context.uc_stack.ss_size = f.stack.size();
    f.context.uc_link = nullptr;
    makecontext(&f.context, entry, 0);
  }
  std::vector<int> order(threads), warps(threads / 32);
  for (int w = 0; w < threads / 32; ++w) warps[w] = w;
  std::shuffle(warps.begin(), warps.end(), random);
  std::vector<int> lanes(32);
  for (int l = 0; l < 32; ++l) lanes[l] = l;
  auto step = [&](int i) {
    if (m.fibers[i].wait != NONE) return false;
    m.current = i;
    m.thread.x = i;
    swapcontext(&m.main, &m.fibers[i].context);
    return true;
  };
  for (;;) {
    bool moved = false;
    for (int w : warps) {
      std::shuffle(lanes.begin(), lanes.end(), random);
      bool warp_moved = false;
      for (int l : lanes) warp_moved |= step(w * 32 + l);
      moved |= warp_moved;
      if (warp_moved && starve) break;  // this warp again, before any other
    }
    bool finished = true;
    for (Fiber& f : m.fibers) finished &= f.wait == DONE;
    if (finished) return;
    if (!release(m) && (!moved || !m.error.empty())) {
      if (m.error.empty()) m.error = "deadlock";
      return;
    }
  }
}

// Returns an empty string, or what is wrong with the kernel.
inline std::string launch(int grid, int threads, int64_t shared_floats, unsigned seed, std::function<void()> body) {
  Machine& m = machine();
  m.error.clear();
  m.body = std::move(body);
  m.grid.x = grid;
  m.dims.x = threads;
  m.dynamic.assign(shared_floats, NAN);
  m.fixed.assign(64, NAN);
  std::mt19937 random(seed);
  std::vector<int> blocks(grid);
  for (int b = 0; b < grid; ++b) blocks[b] = b;
  std::shuffle(blocks.begin(), blocks.end(), random);
  for (int b : blocks) {
    m.block.x = b;
    run_block(m, threads, random, seed % 2 == 1);
    if (!m.error.empty()) break;
  }
  return m.error;
}

}  // namespace emu

#define threadIdx (emu::machine().thread)
#define blockIdx (emu::machine().block)
#define gridDim (emu::machine().grid)
#define blockDim (emu::machine().dims)
inline void __syncwarp(unsigned mask) { emu::pause(emu::WARP, mask); }
inline void __syncthreads() { emu::pause(emu::BLOCK); }
inline float __shfl_xor_sync(unsigned mask, float v, int bits) { return emu::shuffle(mask, v, bits); }
inline float atomicAdd(float* p, float v) {
  float old = *p;
  *p += v;
  return old;
}
