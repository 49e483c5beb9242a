// The operators of torch.ops.hyperkit_ext over torch's stable ABI: one binary for torch 2.10 and later, no
// Python. Every shape, dtype, stride and device is checked here; the kernels trust their arguments.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cpu.h"

using torch::stable::Tensor;
using torch::headeronly::ScalarType;

namespace {

// Messages are put together without a stream. STD_TORCH_CHECK's, which uses one, ended in a segmentation fault with
// torch 2.11 and g++ 13; why was not found out, but not so with this.
inline std::string text(const char* s) { return s; }
template <class Number>
std::string text(Number v) {
  return std::to_string(v);
}
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (condition) return;
  std::string message;
  ((message += text(parts)), ...);
  throw std::runtime_error(message);
}

const hk_table* choose() {
  const char* wanted = std::getenv("HYPERKIT_ISA");
  bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512vpopcntdq");
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (wanted != nullptr && std::strcmp(wanted, "base") == 0) return hk_table_base();
  if (wanted != nullptr && std::strcmp(wanted, "avx2") == 0 && avx2) return hk_table_avx2();
  if (avx512) return hk_table_avx512();
  return avx2 ? hk_table_avx2() : hk_table_base();
}

const hk_table& table() {
  static const hk_table* chosen = choose();
  return *chosen;
}

void check(const Tensor& t, const char* name, ScalarType type, int64_t dims) {
  require(t.is_cpu(), name, " must be on the CPU");
  require(t.scalar_type() == type, name, " has the wrong dtype");
  require(dims < 0 || t.dim() == dims, name, " must have ", dims, " dimensions, got ", t.dim());
  require(t.is_contiguous(), name, " must be contiguous");
}

void same(int64_t got, int64_t wanted, const char* what) {
  require(got == wanted, what, " must be ", wanted, ", got ", got);
}

template <class T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
T* out(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// Aligned scratch: a cache line, which is also the widest register.
struct Buffer {
  explicit Buffer(int64_t floats, bool zero = false)
      : memory(static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 63) / 64 * 64 + 64))) {
    require(memory != nullptr, "out of memory for ", floats, " floats of scratch");
    if (zero) std::memset(memory, 0, floats * 4);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(memory); }
  float* memory;
};

int64_t isa() {
  const char* name = table().name;
  return std::strcmp(name, "base") == 0 ? 0 : (std::strcmp(name, "avx2") == 0 ? 1 : 2);
}

// ---- Tanimoto -------------------------------------------------------------------------------------------

Tensor tanimoto_max(Tensor query, Tensor reference) {
  check(query, "query", ScalarType::Byte, 2);
  check(reference, "reference", ScalarType::Byte, 2);
  same(reference.size(1), query.size(1), "the number of bytes of reference");
  require(query.size(1) > 0 && query.size(1) % 8 == 0, "rows must hold whole 64-bit words, got ",
                  query.size(1), " bytes");
  require(reference.size(0) > 0, "reference must not be empty");
  int words = static_cast<int>(query.size(1) / 8);
  Tensor result = torch::stable::new_empty(query, {query.size(0)}, ScalarType::Float);
  const hk_word *q = in<hk_word>(query), *r = in<hk_word>(reference);
  hk_int m = reference.size(0);
  std::vector<int> sizes(m);
  for (hk_int i = 0; i < m; ++i) {
    int s = 0;
    for (int w = 0; w < words; ++w) s += __builtin_popcountll(r[i * words + w]);
    sizes[i] = s;
  }
  float* to = out<float>(result);
  torch::stable::parallel_for(0, query.size(0), 8, [&](int64_t begin, int64_t end) {
    table().tanimoto(q, r, sizes.data(), m, words, to, begin, end);
  });
  return result;
}

Tensor tanimoto_columns(Tensor query, Tensor columns, Tensor starts, Tensor sizes) {
  check(query, "query", ScalarType::Byte, 2);
  check(columns, "columns", ScalarType::Long, 2);
  check(starts, "starts", ScalarType::Long, 1);
  check(sizes, "sizes", ScalarType::Long, 1);
  same(columns.size(0), query.size(1) * 8, "the number of columns");
  require(columns.size(0) <= 1023 + 1, "at most 1024 bits are supported, got ", columns.size(0));
  same(sizes.size(0), starts.size(0), "the number of sizes");
  const hk_int *s = in<hk_int>(starts), *z = in<hk_int>(sizes);
  hk_int groups = starts.size(0), words = columns.size(1);
  require(groups > 0 && s[0] == 0, "starts must begin with 0");
  for (hk_int j = 1; j < groups; ++j)
    require(s[j] > s[j - 1] && s[j] < words && z[j] > z[j - 1], "starts and sizes must grow");
  Tensor result = torch::stable::new_empty(query, {query.size(0)}, ScalarType::Float);
  const unsigned char* q = in<unsigned char>(query);
  const hk_word* c = in<hk_word>(columns);
  int bytes = static_cast<int>(query.size(1));
  for (int64_t i = 0, all; i < query.size(0); ++i) {
    all = 0;
    for (int b = 0; b < bytes; ++b) all += __builtin_popcount(q[i * bytes + b]);
    require(all < 1024, "a query with all 1024 bits set is not supported");
  }
  float* to = out<float>(result);
  torch::stable::parallel_for(0, query.size(0), 1, [&](int64_t begin, int64_t end) {
    table().columns(c, words, s, z, groups, q, bytes, to, begin, end);
  });
  return result;
}

// ---- rows -----------------------------------------------------------------------------------------------

// The tensors that a row operation takes, and where they lie.
struct Rows {
  const float* from[3] = {nullptr, nullptr, nullptr};
  int64_t n;
  int d;
  float head, low;
};

int64_t grain(int64_t width) { return width > 32768 ? 1 : 32768 / width; }

Rows check_rows(int64_t kind, const Tensor& x, const std::optional<Tensor>& y, const std::optional<Tensor>& v,
                double c) {
  require(kind >= 0 && kind < hk::ROW_KINDS, "kind must be 0 to ", hk::ROW_KINDS - 1, ", got ", kind);
  int k = static_cast<int>(kind), wanted = hk::row_arguments(k);
  check(x, "x", ScalarType::Float, 2);
  require(x.size(1) >= 1 + hk::row_lorentz(k), "x has too few columns: ", x.size(1));
  require(x.size(1) < (int64_t(1) << 30), "x has too many columns: ", x.size(1));
  require(c > 0, "c must be > 0, got ", c);
  Rows r;
  r.from[0] = in<float>(x);
  const std::optional<Tensor>* more[2] = {&y, &v};
  const char* names[2] = {"y", "v"};
  for (int i = 0; i < 2; ++i) {
    bool given = more[i]->has_value(), needed = wanted > i + 1;
    require(given == needed, "kind ", kind, needed ? " needs " : " takes no ", names[i]);
    if (!given) continue;
    const Tensor& t = more[i]->value();
    check(t, names[i], ScalarType::Float, 2);
    same(t.size(0), x.size(0), i == 0 ? "the number of rows of y" : "the number of rows of v");
    same(t.size(1), x.size(1), i == 0 ? "the number of columns of y" : "the number of columns of v");
    r.from[i + 1] = in<float>(t);
  }
  r.n = x.size(0);
  r.d = static_cast<int>(x.size(1) - hk::row_lorentz(k));
  r.head = static_cast<float>(c);
  r.low = static_cast<float>(c - r.head);
  return r;
}

Tensor row(int64_t kind, Tensor x, std::optional<Tensor> y, std::optional<Tensor> v, double c) {
  Rows r = check_rows(kind, x, y, v, c);
  int k = static_cast<int>(kind);
  Tensor result = hk::row_scalar(k) ? torch::stable::new_empty(x, {x.size(0), 1}) : torch::stable::empty_like(x);
  float* to = out<float>(result);
  torch::stable::parallel_for(0, r.n, grain(r.d), [&](int64_t begin, int64_t end) {
    table().row(k, r.from, to, begin, end, r.d, r.head, r.low);
  });
  return result;
}

std::tuple<Tensor, Tensor, Tensor> row_backward(int64_t kind, Tensor x, std::optional<Tensor> y,
                                                std::optional<Tensor> v, Tensor grad, double c, bool first,
                                                bool second, bool third) {
  Rows r = check_rows(kind, x, y, v, c);
  int k = static_cast<int>(kind);
  check(grad, "grad", ScalarType::Float, 2);
  same(grad.size(0), x.size(0), "the number of rows of grad");
  same(grad.size(1), hk::row_scalar(k) ? 1 : x.size(1), "the number of columns of grad");
  require(first || hk::row_arguments(k) > 1, "the gradient of x is the only one there is");
  auto made = [&](bool wanted) { return wanted ? torch::stable::empty_like(x) : torch::stable::new_empty(x, {0}); };
  second = second && y.has_value();
  third = third && v.has_value();
  Tensor gx = made(first), gy = made(second), gv = made(third);
  float* to[3] = {first ? out<float>(gx) : nullptr, second ? out<float>(gy) : nullptr,
                  third ? out<float>(gv) : nullptr};
  const float* g = in<float>(grad);
  torch::stable::parallel_for(0, r.n, grain(r.d), [&](int64_t begin, int64_t end) {
    table().row_backward(k, r.from, g, to, begin, end, r.d, r.head, r.low);
  });
  return {gx, gy, gv};
}

// ---- linear layers: the product, and its tail -----------------------------------------------------------

hk_tail_args check_tail(const Tensor& z, const Tensor& log_scale, double c) {
  check(z, "z", ScalarType::Float, 2);
  check(log_scale, "log_scale", ScalarType::Float, 1);
  require(z.size(1) >= 2, "z must have shape (n, d + 1), got ", z.size(1), " columns");
  require(z.size(1) < (int64_t(1) << 30), "z has too many columns: ", z.size(1));
  int64_t n = z.size(0), period = log_scale.size(0);
  require(period > 0 && n % period == 0, "the length of log_scale must divide ", n, ", got ", period);
  require(c > 0, "c must be > 0, got ", c);
  return hk_tail_args{in<float>(z), in<float>(log_scale), nullptr, nullptr, nullptr, nullptr, n, period,
                      static_cast<int>(z.size(1) - 1), static_cast<float>(c)};
}

void run_tail(const hk_tail_args& a) {
  torch::stable::parallel_for(0, a.n, grain(a.d), [&](int64_t begin, int64_t end) { table().tail(a, begin, end); });
}

// Sums of each row's part in float64 and in one order: the same bits on any number of threads.
void sum_scales(const float* parts, int64_t n, int64_t period, float* total) {
  std::vector<double> sums(period, 0.0);
  for (int64_t i = 0; i < n; i += period)
    for (int64_t j = 0; j < period; ++j) sums[j] += parts[i + j];
  for (int64_t j = 0; j < period; ++j) total[j] = static_cast<float>(sums[j]);
}

// Writes the gradient of z and returns that of log_scale, given that of the points.
Tensor run_tail_backward(hk_tail_args a, const Tensor& grad, const Tensor& gz, const Tensor& log_scale) {
  check(grad, "grad", ScalarType::Float, 2);
  same(grad.size(0), a.n, "the number of rows of grad");
  same(grad.size(1), a.d + 1, "the number of columns of grad");
  Tensor result = torch::stable::empty_like(log_scale);
  float* total = out<float>(result);
  Buffer parts(a.n);
  a.grad = in<float>(grad);
  a.out = out<float>(gz);
  a.by_scale = parts.memory;
  torch::stable::parallel_for(0, a.n, grain(a.d),
                              [&](int64_t begin, int64_t end) { table().tail_backward(a, begin, end); });
  sum_scales(parts.memory, a.n, a.period, total);
  return result;
}

Tensor tail(Tensor z, Tensor log_scale, double c) {
  hk_tail_args a = check_tail(z, log_scale, c);
  Tensor result = torch::stable::empty_like(z);
  a.out = out<float>(result);
  run_tail(a);
  return result;
}

std::tuple<Tensor, Tensor> tail_backward(Tensor z, Tensor log_scale, Tensor grad, double c) {
  hk_tail_args a = check_tail(z, log_scale, c);
  Tensor gz = torch::stable::empty_like(z);
  Tensor gl = run_tail_backward(a, grad, gz, log_scale);
  return {gz, gl};
}

hk_ball_args check_ball_tail(const Tensor& z, const Tensor& space, const Tensor& time, const Tensor& gain,
                             const Tensor& tilt, const Tensor& power, double c) {
  check(z, "z", ScalarType::Float, 2);
  int64_t n = z.size(0), d = z.size(1);
  require(d >= 1 && d < (int64_t(1) << 30), "z must have shape (n, d), got ", d, " columns");
  check(space, "space", ScalarType::Float, 1);
  check(time, "time", ScalarType::Float, 1);
  same(space.size(0), n, "the length of space");
  same(time.size(0), n, "the length of time");
  check(gain, "gain", ScalarType::Float, 1);
  check(tilt, "tilt", ScalarType::Float, 1);
  check(power, "power", ScalarType::Float, 1);
  same(gain.size(0), d, "the length of gain");
  same(tilt.size(0), d, "the length of tilt");
  same(power.size(0), d, "the length of power");
  require(c > 0, "c must be > 0, got ", c);
  hk_ball_args a = {};
  a.z = in<float>(z);
  a.space = in<float>(space);
  a.time = in<float>(time);
  a.gain = in<float>(gain);
  a.tilt = in<float>(tilt);
  a.power = in<float>(power);
  a.n = n;
  a.d = static_cast<int>(d);
  a.c = static_cast<float>(c);
  return a;
}

Tensor ball_tail(Tensor z, Tensor space, Tensor time, Tensor gain, Tensor tilt, Tensor power, double c) {
  hk_ball_args a = check_ball_tail(z, space, time, gain, tilt, power, c);
  Tensor result = torch::stable::empty_like(z);
  a.out = out<float>(result);
  torch::stable::parallel_for(0, a.n, grain(8 * a.d),
                              [&](int64_t begin, int64_t end) { table().ball_tail(a, begin, end); });
  return result;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> ball_tail_backward(Tensor z, Tensor space, Tensor time,
                                                                              Tensor gain, Tensor tilt, Tensor power,
                                                                              Tensor grad, double c) {
  hk_ball_args a = check_ball_tail(z, space, time, gain, tilt, power, c);
  check(grad, "grad", ScalarType::Float, 2);
  same(grad.size(0), a.n, "the number of rows of grad");
  same(grad.size(1), a.d, "the number of columns of grad");
  Tensor gz = torch::stable::empty_like(z), gs = torch::stable::empty_like(space);
  Tensor gt = torch::stable::empty_like(time);
  Tensor by[3] = {torch::stable::empty_like(gain), torch::stable::empty_like(tilt), torch::stable::empty_like(power)};
  a.grad = in<float>(grad);
  a.out = out<float>(gz);
  a.by_space = out<float>(gs);
  a.by_time = out<float>(gt);
  // What all rows add to: every worker has its own copy.
  int64_t d = a.d, n = a.n, workers = torch::stable::get_num_threads(), most = n / grain(8 * d) + 1;
  if (workers > most) workers = most;
  std::vector<double> sums(workers * 3 * d, 0.0);
  torch::stable::parallel_for(0, workers, 1, [&](int64_t b, int64_t e) {
    Buffer scratch(4 * d);
    for (int64_t i = b; i < e; ++i)
      table().ball_tail_backward(a, n * i / workers, n * (i + 1) / workers, sums.data() + i * 3 * d, scratch.memory);
  });
  for (int64_t k = 0; k < 3; ++k)
    for (int64_t j = 0; j < d; ++j) {
      double sum = 0.0;
      for (int64_t i = 0; i < workers; ++i) sum += sums[(i * 3 + k) * d + j];
      out<float>(by[k])[j] = static_cast<float>(sum);
    }
  return {gz, gs, gt, by[0], by[1], by[2]};
}

// The arguments of a linear layer, and the memory that they point to.
struct Linear {
  hk_linear_args a;
  std::vector<float> first, bias;
};

Linear check_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& log_scale,
                    double c) {
  check(x, "x", ScalarType::Float, 2);
  check(weight, "weight", ScalarType::Float, 2);
  check(log_scale, "log_scale", ScalarType::Float, 1);
  int64_t n = x.size(0), width = x.size(1) - 1, d = weight.size(0) - 1;
  require(width >= 1 && d >= 1, "x and weight must have shapes (n, i + 1) and (o + 1, i + 1), got ", width + 1, " and ",
          d + 1, " for i + 1 and o + 1");
  require(width < (int64_t(1) << 30) && d < (int64_t(1) << 30), "too many columns");
  same(weight.size(1), width + 1, "the number of columns of weight");
  same(log_scale.size(0), 1, "the length of log_scale");
  require(c > 0, "c must be > 0, got ", c);
  Linear r;
  const float* w = in<float>(weight);
  r.first.resize(d);
  for (int64_t i = 0; i < d; ++i) r.first[i] = w[(i + 1) * (width + 1)];
  if (bias.has_value()) {
    check(*bias, "bias", ScalarType::Float, 1);
    same(bias->size(0), d + 1, "the length of bias");
  } else {
    r.bias.assign(d + 1, 0.0f);
  }
  r.a = {};
  r.a.x = in<float>(x);
  r.a.first = r.first.data();
  r.a.top = w;
  r.a.bias = bias.has_value() ? in<float>(*bias) : r.bias.data();
  r.a.log_scale = *in<float>(log_scale);
  r.a.c = static_cast<float>(c);
  r.a.n = n;
  r.a.width = static_cast<int>(width);
  r.a.d = static_cast<int>(d);
  return r;
}

Tensor space_of(Tensor t, int64_t dim, int64_t size) { return torch::stable::narrow(t, dim, 1, size); }

std::tuple<Tensor, Tensor> linear(Tensor x, Tensor weight, std::optional<Tensor> bias, Tensor log_scale, double c) {
  Linear r = check_linear(x, weight, bias, log_scale, c);
  hk_linear_args& a = r.a;
  Tensor square = space_of(space_of(weight, 0, a.d), 1, a.width);
  Tensor product = torch::stable::matmul(space_of(x, 1, a.width), torch::stable::transpose(square, 0, 1));
  check(product, "the product (torch.autocast must be off around this operator)", ScalarType::Float, 2);
  Tensor points = torch::stable::new_empty(x, {a.n, a.d + 1}), kept = torch::stable::new_empty(x, {2, a.n});
  a.product = in<float>(product);
  a.points = out<float>(points);
  a.kept = out<float>(kept);
  torch::stable::parallel_for(0, a.n, grain(a.d), [&](int64_t begin, int64_t end) { table().linear(a, begin, end); });
  return {points, kept};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> linear_backward(Tensor x, Tensor weight, std::optional<Tensor> bias,
                                                           Tensor log_scale, double c, Tensor points, Tensor kept,
                                                           Tensor grad, bool by_x, bool by_weight) {
  Linear r = check_linear(x, weight, bias, log_scale, c);
  hk_linear_args& a = r.a;
  int64_t n = a.n, d = a.d, width = a.width;
  check(points, "points", ScalarType::Float, 2);
  check(kept, "kept", ScalarType::Float, 2);
  check(grad, "grad", ScalarType::Float, 2);
  for (const Tensor* t : {&points, &grad}) {
    same(t->size(0), n, "the number of rows of points and grad");
    same(t->size(1), d + 1, "the number of columns of points and grad");
  }
  same(kept.numel(), 2 * n, "the numbers in kept");
  Tensor space = torch::stable::new_empty(x, {n, d});
  Buffer rows(3 * n);
  a.points = out<float>(points);
  a.kept = out<float>(kept);
  a.grad = in<float>(grad);
  a.space = out<float>(space);
  a.gate = rows.memory;
  a.time = rows.memory + n;
  a.by_scale = rows.memory + 2 * n;
  // What all rows add to: every worker has its own copy.
  int64_t workers = torch::stable::get_num_threads(), most = n / grain(d) + 1, all = 2 * d + width + 2;
  if (workers > most) workers = most;
  std::vector<double> sums(workers * all, 0.0);
  torch::stable::parallel_for(0, workers, 1, [&](int64_t b, int64_t e) {
    Buffer scratch(all);
    for (int64_t i = b; i < e; ++i) {
      double* to = sums.data() + i * all;
      table().linear_backward(a, n * i / workers, n * (i + 1) / workers, to, to + d, to + 2 * d + 1, scratch.memory);
    }
  });
  for (int64_t i = 1; i < workers; ++i)
    for (int64_t j = 0; j < all; ++j) sums[j] += sums[i * all + j];

  Tensor gl = torch::stable::empty_like(log_scale);
  sum_scales(a.by_scale, n, 1, out<float>(gl));
  Tensor gx = by_x ? torch::stable::empty_like(x) : torch::stable::new_empty(x, {0});
  Tensor gw = by_weight ? torch::stable::empty_like(weight) : torch::stable::new_empty(x, {0});
  Tensor gb = bias.has_value() ? torch::stable::empty_like(*bias) : torch::stable::new_empty(x, {0});
  if (by_x) {
    Tensor product = torch::stable::matmul(space, space_of(space_of(weight, 0, d), 1, width));
    check(product, "the gradient's product", ScalarType::Float, 2);
    const float* from = in<float>(product);
    float* to = out<float>(gx);
    torch::stable::parallel_for(0, n, grain(width), [&](int64_t begin, int64_t end) {
      table().linear_join(a, from, to, begin, end);
    });
  }
  if (by_weight) {
    Tensor product = torch::stable::matmul(torch::stable::transpose(space, 0, 1), space_of(x, 1, width));
    check(product, "the weights' product", ScalarType::Float, 2);
    const float* from = in<float>(product);
    float* to = out<float>(gw);
    for (int64_t j = 0; j <= width; ++j) to[j] = static_cast<float>(sums[2 * d + 1 + j]);
    for (int64_t i = 0; i < d; ++i) {
      float* line = to + (i + 1) * (width + 1);
      line[0] = static_cast<float>(sums[i]);
      std::memcpy(line + 1, from + i * width, width * sizeof(float));
    }
  }
  if (bias.has_value())
    for (int64_t i = 0; i <= d; ++i) out<float>(gb)[i] = static_cast<float>(sums[d + i]);
  return {gx, gw, gb, gl};
}

// ---- Adam -----------------------------------------------------------------------------------------------

void adam(Tensor x, Tensor grad, Tensor m, Tensor v, std::optional<Tensor> largest, double rate, double beta1,
          double beta2, double correction2, double eps, double weight_decay, double c, bool ball) {
  check(x, "x", ScalarType::Float, 2);
  check(grad, "grad", ScalarType::Float, 2);
  check(m, "m", ScalarType::Float, 2);
  check(v, "v", ScalarType::Float, 2);
  require(x.size(1) >= 1 + !ball, "x has too few columns: ", x.size(1));
  for (const Tensor* t : {&grad, &m}) {
    same(t->size(0), x.size(0), "the number of rows of grad and m");
    same(t->size(1), x.size(1), "the number of columns of grad and m");
  }
  same(v.size(0), x.size(0), "the number of rows of v");
  if (!ball || v.size(1) != x.size(1)) same(v.size(1), 1, "the number of columns of v");
  if (largest.has_value()) {
    check(*largest, "largest", ScalarType::Float, 2);
    same(largest->size(0), x.size(0), "the number of rows of largest");
    same(largest->size(1), v.size(1), "the number of columns of largest");
  }
  require(c > 0, "c must be > 0, got ", c);
  float head = static_cast<float>(c);
  hk_adam_args a{static_cast<float>(rate),
                 static_cast<float>(beta1),
                 static_cast<float>(beta2),
                 static_cast<float>(1.0 / correction2),
                 static_cast<float>(eps),
                 static_cast<float>(weight_decay),
                 head,
                 static_cast<float>(c - head),
                 largest.has_value(),
                 ball,
                 static_cast<int>(v.size(1))};
  int d = static_cast<int>(x.size(1) - !ball);
  float *px = out<float>(x), *pm = out<float>(m), *pv = out<float>(v);
  const float* pg = in<float>(grad);
  float* pl = largest.has_value() ? out<float>(*largest) : nullptr;
  torch::stable::parallel_for(0, x.size(0), grain(d), [&](int64_t begin, int64_t end) {
    table().adam(a, begin, end, d, px, pg, pm, pv, pl);
  });
}

// ---- HKConv ---------------------------------------------------------------------------------------------

struct Conv {
  hk_conv_args a;
  Tensor product;
  int64_t pairs, row;
};

Conv conv_check(const Tensor& x, const Tensor& matrix, const Tensor& first, const Tensor& bias,
                const Tensor& scale, const Tensor& kernels, const Tensor& begin, const Tensor& source,
                const Tensor& weight, int64_t correlation, double sigma, double c) {
  check(x, "x", ScalarType::Float, 2);
  check(matrix, "matrix", ScalarType::Float, 2);
  check(first, "first", ScalarType::Float, 1);
  check(bias, "bias", ScalarType::Float, 1);
  check(scale, "scale", ScalarType::Float, 1);
  check(kernels, "kernels", ScalarType::Float, 2);
  check(begin, "begin", ScalarType::Long, 1);
  check(source, "source", ScalarType::Long, 1);
  check(weight, "weight", ScalarType::Float, 1);
  int64_t n = x.size(0), d = x.size(1) - 1, k = kernels.size(0), row = matrix.size(0);
  require(d >= 1, "x must have shape (n, d + 1), got ", x.size(1), " columns");
  require(k >= 1 && row % k == 0 && row / k >= 2, "matrix must have K (o + 1) rows for K = ", k,
                  " kernels, got ", row);
  same(matrix.size(1), d, "the number of columns of matrix");
  same(kernels.size(1), d + 1, "the number of columns of kernels");
  same(first.size(0), row, "the length of first");
  same(bias.size(0), row, "the length of bias");
  same(scale.size(0), k, "the length of scale");
  same(begin.size(0), n + 1, "the length of begin");
  int64_t pairs = source.size(0);
  same(weight.size(0), pairs, "the length of weight");
  require(correlation >= 0 && correlation <= 2, "correlation must be 0, 1 or 2, got ", correlation);
  require(sigma > 0 && c > 0, "sigma and c must be > 0, got ", sigma, " and ", c);
  const hk_int *b = in<hk_int>(begin), *s = in<hk_int>(source);
  require(b[0] == 0 && b[n] == pairs, "begin must go from 0 to the number of pairs ", pairs);
  for (int64_t i = 0; i < n; ++i) require(b[i] <= b[i + 1], "begin must not fall, at node ", i);
  for (int64_t e = 0; e < pairs; ++e)
    require(s[e] >= 0 && s[e] < n, "source must name nodes 0 to ", n - 1, ", got ", s[e]);
  Conv r;
  Tensor view = x;
  Tensor space = torch::stable::narrow(view, 1, 1, d);
  Tensor plain = matrix;
  r.product = torch::stable::matmul(space, torch::stable::transpose(plain, 0, 1));
  check(r.product, "the product (torch.autocast must be off around this operator)", ScalarType::Float, 2);
  r.a = hk_conv_args{in<float>(x),     in<float>(r.product),
                     in<float>(matrix), in<float>(first),
                     in<float>(bias),  in<float>(scale),
                     in<float>(kernels), b,
                     s,                in<float>(weight),
                     nullptr,          nullptr,
                     nullptr,          n,
                     static_cast<int>(d), static_cast<int>(row / k - 1),
                     static_cast<int>(k), static_cast<int>(correlation),
                     static_cast<float>(sigma), static_cast<float>(c),
                     1e-4f,            1e-8f};
  r.pairs = pairs;
  r.row = row;
  return r;
}

std::tuple<Tensor, Tensor, Tensor> conv(Tensor x, Tensor matrix, Tensor first, Tensor bias, Tensor scale,
                                        Tensor kernels, Tensor begin, Tensor source, Tensor weight,
                                        int64_t correlation, double sigma, double c) {
  Conv r = conv_check(x, matrix, first, bias, scale, kernels, begin, source, weight, correlation, sigma, c);
  int64_t n = x.size(0), o = r.a.o;
  Tensor result = torch::stable::new_empty(x, {n, o + 1}), sums = torch::stable::new_empty(x, {n, o + 1});
  Tensor total = torch::stable::new_empty(x, {n, 1});
  r.a.out = out<float>(result);
  r.a.total = out<float>(total);
  r.a.sums = out<float>(sums);
  hk_int floats = table().conv_scratch(r.a.d, r.a.o, r.a.k, 0);
  torch::stable::parallel_for(0, n, 16, [&](int64_t b, int64_t e) {
    Buffer scratch(floats);
    table().conv(r.a, b, e, scratch.memory);
  });
  return {result, total, sums};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> conv_backward(
    Tensor x, Tensor matrix, Tensor first, Tensor bias, Tensor scale, Tensor kernels, Tensor begin,
    Tensor source, Tensor weight, int64_t correlation, double sigma, double c, Tensor total, Tensor sums,
    Tensor grad, bool by_kernels, bool by_weight) {
  Conv r = conv_check(x, matrix, first, bias, scale, kernels, begin, source, weight, correlation, sigma, c);
  int64_t n = x.size(0), d = r.a.d, o = r.a.o, k = r.a.k, row = r.row;
  check(total, "total", ScalarType::Float, 2);
  check(sums, "sums", ScalarType::Float, 2);
  check(grad, "grad", ScalarType::Float, 2);
  same(total.numel(), n, "the number of rows of total");
  same(sums.size(0), n, "the number of rows of sums");
  same(sums.size(1), o + 1, "the number of columns of sums");
  same(grad.size(0), n, "the number of rows of grad");
  same(grad.size(1), o + 1, "the number of columns of grad");
  r.a.total = out<float>(total);
  r.a.sums = out<float>(sums);
  Tensor gx = torch::stable::new_zeros(x, {n, d + 1}), gp = torch::stable::new_zeros(x, {n, row});
  Tensor gm = torch::stable::new_zeros(matrix, {row, d}), gf = torch::stable::new_zeros(first, {row});
  Tensor gb = torch::stable::new_zeros(bias, {row}), gs = torch::stable::new_zeros(scale, {k});
  Tensor gk = torch::stable::new_zeros(kernels, {by_kernels ? k : 0, d + 1});
  Tensor gw = torch::stable::new_zeros(weight, {by_weight ? r.pairs : 0});
  hk_int floats = table().conv_scratch(r.a.d, r.a.o, r.a.k, 1);

  // What several nodes add to: every worker but the first has its own copy. At most eight workers, for memory.
  struct Part {
    int64_t size;
    float* whole;
  };
  const Part parts[7] = {{n * (d + 1), out<float>(gx)}, {n * row, out<float>(gp)},  {row * d, out<float>(gm)},
                         {row, out<float>(gf)},         {row, out<float>(gb)},      {k, out<float>(gs)},
                         {by_kernels ? k * (d + 1) : 0, out<float>(gk)}};
  int64_t all = 0;
  for (const Part& p : parts) all += (p.size + 15) / 16 * 16;
  int64_t workers = torch::stable::get_num_threads();
  if (workers > 8) workers = 8;
  if (workers > n) workers = n > 0 ? n : 1;
  std::vector<std::unique_ptr<Buffer>> copies;
  for (int64_t i = 1; i < workers; ++i) copies.push_back(std::make_unique<Buffer>(all, true));
  torch::stable::parallel_for(0, workers, 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      float* at[7];
      float* next = i == 0 ? nullptr : copies[i - 1]->memory;
      for (int j = 0; j < 7; ++j) {
        at[j] = i == 0 ? parts[j].whole : next;
        if (i != 0) next += (parts[j].size + 15) / 16 * 16;
      }
      hk_conv_grad g{in<float>(grad), at[0], at[1], at[1], at[2], at[3], at[4], at[5],
                     by_kernels ? at[6] : nullptr, by_weight ? out<float>(gw) : nullptr};
      Buffer scratch(floats);
      table().conv_backward(r.a, g, n * i / workers, n * (i + 1) / workers, scratch.memory);
    }
  });
  for (const auto& copy : copies) {
    float* next = copy->memory;
    for (const Part& p : parts) {
      float* to = p.whole;
      const float* from = next;
      torch::stable::parallel_for(0, p.size, 65536, [&](int64_t b, int64_t e) {
        for (int64_t i = b; i < e; ++i) to[i] += from[i];
      });
      next += (p.size + 15) / 16 * 16;
    }
  }
  // product = x_s matrix^T
  Tensor view = x;
  Tensor by_matrix = torch::stable::matmul(torch::stable::transpose(gp, 0, 1), torch::stable::narrow(view, 1, 1, d));
  Tensor by_x = torch::stable::matmul(gp, matrix);
  check(by_matrix, "the matrix's gradient", ScalarType::Float, 2);
  check(by_x, "the nodes' gradient", ScalarType::Float, 2);
  const float *pm = in<float>(by_matrix), *px = in<float>(by_x);
  float *tm = out<float>(gm), *tx = out<float>(gx);
  for (int64_t i = 0; i < row * d; ++i) tm[i] += pm[i];
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < d; ++j) tx[i * (d + 1) + 1 + j] += px[i * d + j];
  return {gx, gm, gf, gb, gs, gk, gw};
}

}  // namespace

STABLE_TORCH_LIBRARY(hyperkit_ext, m) {
  m.def("isa() -> int");
  m.def("tanimoto_max(Tensor query, Tensor reference) -> Tensor");
  m.def("tanimoto_columns(Tensor query, Tensor columns, Tensor starts, Tensor sizes) -> Tensor");
  m.def("row(int kind, Tensor x, Tensor? y, Tensor? v, float c) -> Tensor");
  m.def(
      "row_backward(int kind, Tensor x, Tensor? y, Tensor? v, Tensor grad, float c, bool first, bool second, bool "
      "third) -> (Tensor, Tensor, Tensor)");
  m.def("tail(Tensor z, Tensor log_scale, float c) -> Tensor");
  m.def("tail_backward(Tensor z, Tensor log_scale, Tensor grad, float c) -> (Tensor, Tensor)");
  m.def(
      "ball_tail(Tensor z, Tensor space, Tensor time, Tensor gain, Tensor tilt, Tensor power, float c) -> Tensor");
  m.def(
      "ball_tail_backward(Tensor z, Tensor space, Tensor time, Tensor gain, Tensor tilt, Tensor power, Tensor grad, "
      "float c) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("linear(Tensor x, Tensor weight, Tensor? bias, Tensor log_scale, float c) -> (Tensor, Tensor)");
  m.def(
      "linear_backward(Tensor x, Tensor weight, Tensor? bias, Tensor log_scale, float c, Tensor points, Tensor kept, "
      "Tensor grad, bool by_x, bool by_weight) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "adam_(Tensor(a!) x, Tensor grad, Tensor(b!) m, Tensor(c!) v, Tensor(d!)? largest, float rate, float "
      "beta1, float beta2, float correction2, float eps, float weight_decay, float c, bool ball) -> ()");
  m.def(
      "conv(Tensor x, Tensor matrix, Tensor first, Tensor bias, Tensor scale, Tensor kernels, Tensor begin, "
      "Tensor source, Tensor weight, int correlation, float sigma, float c) -> (Tensor, Tensor, Tensor)");
  m.def(
      "conv_backward(Tensor x, Tensor matrix, Tensor first, Tensor bias, Tensor scale, Tensor kernels, Tensor "
      "begin, Tensor source, Tensor weight, int correlation, float sigma, float c, Tensor total, Tensor sums, "
      "Tensor grad, bool by_kernels, bool by_weight) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(hyperkit_ext, CompositeExplicitAutograd, m) { m.impl("isa", TORCH_BOX(&isa)); }

STABLE_TORCH_LIBRARY_IMPL(hyperkit_ext, CPU, m) {
  m.impl("tanimoto_max", TORCH_BOX(&tanimoto_max));
  m.impl("tanimoto_columns", TORCH_BOX(&tanimoto_columns));
  m.impl("row", TORCH_BOX(&row));
  m.impl("row_backward", TORCH_BOX(&row_backward));
  m.impl("tail", TORCH_BOX(&tail));
  m.impl("tail_backward", TORCH_BOX(&tail_backward));
  m.impl("ball_tail", TORCH_BOX(&ball_tail));
  m.impl("ball_tail_backward", TORCH_BOX(&ball_tail_backward));
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("linear_backward", TORCH_BOX(&linear_backward));
  m.impl("adam_", TORCH_BOX(&adam));
  m.impl("conv", TORCH_BOX(&conv));
  m.impl("conv_backward", TORCH_BOX(&conv_backward));
}
