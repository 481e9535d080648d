// Kernels of one operation each: attention, rotary positions, norms, activations and cross-entropy, forward and backward.
//
// Each computes what a few lines of PyTorch compute (their names stand beside), in one pass over memory and without
// intermediate tensors. Numbers come as float (type 0) or bfloat16 (type 1). The rows of a tensor are shared out among
// threads; sums over rows are added up in the order of the threads, so the same number of threads gives the same bits.

#include <omp.h>

#include <vector>

#include "parts.h"

namespace {

// Attention

struct Strides {  // of (B, heads, T, D); the last is 1
  int64_t batch, head, row;
};

struct Shape {
  int64_t B, H, K, T, D;
  float scale;
};

// The heads of text b from the one of number h on
template <class N>
Heads<N> heads(N* data, const Strides& s, int64_t b, int64_t h) {
  return {data + b * s.batch + h * s.head, s.head, s.row};
}

template <class N>
void attention_forward(const Shape& s, const N* q, const N* k, const N* v, N* out, float* lse, const Strides* at) {
  const int64_t group = s.H / s.K;
#pragma omp parallel
  {
    Attention attention(s.T, s.D, s.scale);
#pragma omp for
    for (int64_t bk = 0; bk < s.B * s.K; ++bk) {
      const int64_t b = bk / s.K, g = bk % s.K, h = g * group;
      attention.forward<N>(group, heads(q, at[0], b, h), heads(k, at[1], b, g), heads(v, at[2], b, g),
                           heads(out, at[3], b, h), lse + (b * s.H + h) * s.T);
    }
  }
}

template <class N>
void attention_backward(const Shape& s, const N* q, const N* k, const N* v, const N* out, const N* dout,
                        const float* lse, N* dq, N* dk, N* dv, const Strides* at) {
  const int64_t group = s.H / s.K;
#pragma omp parallel
  {
    Attention attention(s.T, s.D, s.scale);
#pragma omp for
    for (int64_t bk = 0; bk < s.B * s.K; ++bk) {
      const int64_t b = bk / s.K, g = bk % s.K, h = g * group;
      attention.backward<N>(group, heads(q, at[0], b, h), heads(k, at[1], b, g), heads(v, at[2], b, g),
                            heads(out, at[3], b, h), heads(dout, at[4], b, h), lse + (b * s.H + h) * s.T,
                            heads(dq, at[5], b, h), heads(dk, at[6], b, g), heads(dv, at[7], b, g));
    }
  }
}

// Rotary positions: positions.rope

// Of x (B, heads, T, D) the first `turned` numbers of each head, pair by pair: (a cos - b sin, b cos + a sin), with the
// sign of the sines; pairs are neighbours, or a half apart. cos and sin: (B or 1, T, turned / 2). The pairs' first
// numbers are gathered on one side, so that vectors turn many at once.
template <class N>
void rotate(int64_t B, int64_t H, int64_t T, int64_t D, int64_t turned, bool neighbours, float sign, const N* x,
            const Strides& at, const float* cos, const float* sin, int64_t each, N* to, const Strides& out) {
  const int half = turned / 2;
#pragma omp parallel
  {
    Floats pair(2 * padded(half));
    float *a = pair, *b = a + padded(half);
#pragma omp for
    for (int64_t bt = 0; bt < B * T; ++bt) {
      const int64_t i = bt / T, t = bt % T;
      const float *c = cos + i * each + t * half, *s = sin + i * each + t * half;
      for (int64_t h = 0; h < H; ++h) {
        const N* from = x + i * at.batch + h * at.head + t * at.row;
        N* row = to + i * out.batch + h * out.head + t * out.row;
        const int first = neighbours ? 2 : 1, second = neighbours ? 1 : half;  // steps between pairs, and in them
        for (int j = 0; j < half; ++j) {
          a[j] = number(from[j * first]);
          b[j] = number(from[j * first + second]);
        }
        for (int j = 0; j < half; j += W) {
          const vec co = load(c + j, half - j), si = load(s + j, half - j) * sign, u = load(a + j), v = load(b + j);
          store(a + j, u * co - v * si);
          store(b + j, v * co + u * si);
        }
        for (int j = 0; j < half; ++j) {
          store(row + j * first, a[j]);
          store(row + j * first + second, b[j]);
        }
        for (int64_t j = turned; j < D; ++j) row[j] = from[j];
      }
    }
  }
}

// Norms

template <class X, class Y>
void norm_forward(Kind kind, int64_t rows, int C, const void* x, const float* weight, const float* bias, float eps,
                  void* y, float* kept) {
#pragma omp parallel for
  for (int64_t row = 0; row < rows; ++row)
    norm_row(kind, C, (const X*)x + row * C, weight, bias, eps, (Y*)y + row * C, kept + 2 * row);
}

template <class X, class Y>
void norm_backward(Kind kind, int64_t rows, int C, const void* x, const float* weight, float eps, const float* kept,
                   const void* dy, void* dx, float* dweight, float* dbias) {
  const int Cp = padded(C);
  std::vector<std::unique_ptr<Floats>> sums(omp_get_max_threads());
#pragma omp parallel
  {
    auto& own = sums[omp_get_thread_num()];
    own = std::make_unique<Floats>(2 * Cp);
    std::fill_n(own->data, 2 * Cp, 0.0f);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row)
      norm_row_back<X, Y>(kind, C, (const X*)x + row * C, weight, eps, kept + 2 * row, (const Y*)dy + row * C, nullptr,
                          (X*)dx + row * C, own->data, own->data + Cp);
  }
  for (float* to : {dweight, dbias}) {
    if (!to) continue;
    std::fill_n(to, C, 0.0f);
    for (auto& own : sums)
      if (own)
        for (int j = 0; j < C; ++j) to[j] += own->data[(to == dweight ? 0 : Cp) + j];
  }
}

// Activations

template <Activation A, class N>
void activation_forward(bool gated, int64_t rows, int F, const N* x, N* y) {
#pragma omp parallel for
  for (int64_t row = 0; row < rows; ++row) {
    const N* from = x + row * F * (gated ? 2 : 1);
    for (int j = 0; j < F; j += W) {
      vec out = activated<A, false>(load(from + j, F - j), nullptr);
      if (gated) out *= load(from + F + j, F - j);
      store(y + row * F + j, out, F - j);
    }
  }
}

template <Activation A, class N>
void activation_backward(bool gated, int64_t rows, int F, const N* x, const N* dy, N* dx) {
#pragma omp parallel for
  for (int64_t row = 0; row < rows; ++row) {
    const N* from = x + row * F * (gated ? 2 : 1);
    N* to = dx + row * F * (gated ? 2 : 1);
    for (int j = 0; j < F; j += W) {
      vec slope, out = activated<A, true>(load(from + j, F - j), &slope), g = load(dy + row * F + j, F - j);
      if (gated) {
        store(to + F + j, g * out, F - j);
        g *= load(from + F + j, F - j);
      }
      store(to + j, g * slope, F - j);
    }
  }
}

template <class N>
void activation(int which, bool gated, int64_t rows, int F, const N* x, const N* dy, N* to) {
#define EACH(A)                                                   \
  case A:                                                         \
    if (dy) return activation_backward<A, N>(gated, rows, F, x, dy, to); \
    return activation_forward<A, N>(gated, rows, F, x, to);
  switch (Activation(which)) { EACH(RELU_SQUARED) EACH(GELU) EACH(GELU_TANH) EACH(SILU) }
#undef EACH
}

// Cross-entropy: loss.summed

template <class N>
void entropy_forward(int64_t rows, int V, const N* logits, const int64_t* targets, int64_t ignored, float* lse,
                     float* nats) {
#pragma omp parallel for
  for (int64_t row = 0; row < rows; ++row) {
    const N* from = logits + row * V;
    vec most = splat(-INFINITY), total{};
    for (int j = 0; j < V; j += W) most = larger(load(from + j, V - j, -INFINITY), most);
    const float top = largest(most);
    for (int j = 0; j < V; j += W) total += exponential(load(from + j, V - j, -INFINITY) - top);
    lse[row] = top + std::log(sum(total));
    nats[row] = targets[row] == ignored ? 0 : lse[row] - number(from[targets[row]]);
  }
}

template <class N>
void entropy_backward(int64_t rows, int V, const N* logits, const int64_t* targets, int64_t ignored, const float* lse,
                      float size, N* d) {
#pragma omp parallel for
  for (int64_t row = 0; row < rows; ++row) {
    const float each = targets[row] == ignored ? 0 : size;
    for (int j = 0; j < V; j += W)
      store(d + row * V + j, exponential(load(logits + row * V + j, V - j) - lse[row]) * each, V - j);
    if (each != 0) {
      const int64_t at = row * V + targets[row];
      store(d + at, (std::exp(number(logits[at]) - lse[row]) - 1) * each);
    }
  }
}

}  // namespace

extern "C" {

// strides: three (batch, head, row) for each of q, k, v, out
void gptlab_attention_forward(int type, int64_t B, int64_t H, int64_t K, int64_t T, int64_t D, float scale,
                              const void* q, const void* k, const void* v, void* out, float* lse,
                              const int64_t* strides) {
  const Shape s{B, H, K, T, D, scale};
  const Strides* at = reinterpret_cast<const Strides*>(strides);
  if (type)
    attention_forward(s, (const bf16*)q, (const bf16*)k, (const bf16*)v, (bf16*)out, lse, at);
  else
    attention_forward(s, (const float*)q, (const float*)k, (const float*)v, (float*)out, lse, at);
}

// strides: three for each of q, k, v, out, dout, dq, dk, dv
void gptlab_attention_backward(int type, int64_t B, int64_t H, int64_t K, int64_t T, int64_t D, float scale,
                               const void* q, const void* k, const void* v, const void* out, const void* dout,
                               const float* lse, void* dq, void* dk, void* dv, const int64_t* strides) {
  const Shape s{B, H, K, T, D, scale};
  const Strides* at = reinterpret_cast<const Strides*>(strides);
  if (type)
    attention_backward(s, (const bf16*)q, (const bf16*)k, (const bf16*)v, (const bf16*)out, (const bf16*)dout, lse,
                       (bf16*)dq, (bf16*)dk, (bf16*)dv, at);
  else
    attention_backward(s, (const float*)q, (const float*)k, (const float*)v, (const float*)out, (const float*)dout, lse,
                       (float*)dq, (float*)dk, (float*)dv, at);
}

// strides: three for x, three for `to`; each: numbers between two texts' cosines, 0 where all share them
void gptlab_rotate(int type, int64_t B, int64_t H, int64_t T, int64_t D, int64_t turned, int neighbours, float sign,
                   const void* x, const float* cos, const float* sin, int64_t each, void* to, const int64_t* strides) {
  const Strides* at = reinterpret_cast<const Strides*>(strides);
  if (type)
    rotate(B, H, T, D, turned, neighbours, sign, (const bf16*)x, at[0], cos, sin, each, (bf16*)to, at[1]);
  else
    rotate(B, H, T, D, turned, neighbours, sign, (const float*)x, at[0], cos, sin, each, (float*)to, at[1]);
}

// kept: (rows, 2) for the backward pass
void gptlab_norm_forward(int x_type, int y_type, int kind, int64_t rows, int64_t C, const void* x, const float* weight,
                         const float* bias, float eps, void* y, float* kept) {
  auto of = x_type ? (y_type ? norm_forward<bf16, bf16> : norm_forward<bf16, float>)
                   : (y_type ? norm_forward<float, bf16> : norm_forward<float, float>);
  of(Kind(kind), rows, C, x, weight, bias, eps, y, kept);
}

// dweight, dbias: (C), or nullptr
void gptlab_norm_backward(int x_type, int y_type, int kind, int64_t rows, int64_t C, const void* x, const float* weight,
                          float eps, const float* kept, const void* dy, void* dx, float* dweight, float* dbias) {
  auto of = x_type ? (y_type ? norm_backward<bf16, bf16> : norm_backward<bf16, float>)
                   : (y_type ? norm_backward<float, bf16> : norm_backward<float, float>);
  of(Kind(kind), rows, C, x, weight, eps, kept, dy, dx, dweight, dbias);
}

// x (rows, F), or (rows, 2 F) of gates and values; dy nullptr: y into `to`, else dx
void gptlab_activation(int type, int which, int gated, int64_t rows, int64_t F, const void* x, const void* dy, void* to) {
  if (type)
    activation(which, gated, rows, F, (const bf16*)x, (const bf16*)dy, (bf16*)to);
  else
    activation(which, gated, rows, F, (const float*)x, (const float*)dy, (float*)to);
}

void gptlab_entropy_forward(int type, int64_t rows, int64_t V, const void* logits, const int64_t* targets,
                            int64_t ignored, float* lse, float* nats) {
  if (type)
    entropy_forward(rows, V, (const bf16*)logits, targets, ignored, lse, nats);
  else
    entropy_forward(rows, V, (const float*)logits, targets, ignored, lse, nats);
}

void gptlab_entropy_backward(int type, int64_t rows, int64_t V, const void* logits, const int64_t* targets,
                             int64_t ignored, const float* lse, float size, void* d) {
  if (type)
    entropy_backward(rows, V, (const bf16*)logits, targets, ignored, lse, size, (bf16*)d);
  else
    entropy_backward(rows, V, (const float*)logits, targets, ignored, lse, size, (float*)d);
}
}
