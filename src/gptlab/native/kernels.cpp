// The training kernels: attention, norms, activations and cross-entropy, forward and backward.
//
// Each computes what a few lines of PyTorch compute (their names stand beside), in one pass over memory and without
// intermediate tensors. Numbers come as float (type 0) or bfloat16 (type 1). The rows of a tensor are shared out among
// threads; sums over rows are added up in the order of the threads, so the same number of threads gives the same bits.

#include <omp.h>

#include <vector>

#include "common.h"

namespace {

// Attention: kernels.reference with a causal mask, without bias and dropout

struct Heads {  // (B, heads, T, D) at any strides but the last, which is 1
  int64_t batch, head, row;
};

template <class T>
void read_rows(const T* from, int64_t stride, int rows, int width, float scale, float* to) {  // (rows, padded width)
  for (int t = 0; t < rows; ++t)  // all at once: the rows lie far apart
    for (int d = 0; d < width; d += 64 / sizeof(T)) __builtin_prefetch(from + t * stride + d);
  for (int t = 0; t < rows; ++t, from += stride, to += padded(width))
    for (int d = 0; d < width; d += W) store(to + d, load(from + d, width - d) * scale);
}

template <class T>
void write_rows(const float* from, int rows, int width, T* to, int64_t stride) {
  for (int t = 0; t < rows; ++t, to += stride, from += padded(width))
    for (int d = 0; d < width; d += W) store(to + d, load(from + d), width - d);
}

void transpose(const float* from, int rows, int width, float* to) {  // (rows, padded width) -> (width, padded rows)
  const int from_row = padded(width), to_row = padded(rows);
  for (int t = 0; t < rows; t += W) {
    for (int d = 0; d < width; ++d) {
      vec column{};
      if (t + W <= rows)
        for (int i = 0; i < W; ++i) column[i] = from[(t + i) * from_row + d];
      else
        for (int i = 0; i < rows - t; ++i) column[i] = from[(t + i) * from_row + d];
      store(to + d * to_row + t, column);
    }
  }
}

constexpr int TOGETHER = 24;  // queries whose scores are held at once

struct Shape {
  int64_t B, H, K, T, D;
  float scale;
};

template <class N>
void attention_forward(const Shape& s, const N* q, const N* k, const N* v, N* out, float* lse, const Heads* at) {
  const int T = s.T, D = s.D, Tp = padded(T), Dp = padded(D), group = s.H / s.K;
#pragma omp parallel
  {
    Floats key(T * Dp), turned(D * Tp), value(T * Dp), query(TOGETHER * Dp), score(TOGETHER * Tp), sum_of(TOGETHER * Dp);
#pragma omp for
    for (int64_t bk = 0; bk < s.B * s.K; ++bk) {
      const int64_t b = bk / s.K, g = bk % s.K;
      read_rows(k + b * at[1].batch + g * at[1].head, at[1].row, T, D, s.scale, key);
      transpose(key, T, D, turned);
      read_rows(v + b * at[2].batch + g * at[2].head, at[2].row, T, D, 1, value);
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        for (int first = 0; first < T; first += TOGETHER) {
          const int rows = std::min(TOGETHER, T - first), seen = first + rows, wide = padded(seen);
          read_rows(q + b * at[0].batch + h * at[0].head + first * at[0].row, at[0].row, rows, D, 1, query);
          product(rows, wide, D, query, Dp, 1, turned, Tp, score, Tp);
          for (int t = 0; t < rows; ++t) {
            float* row = score + t * Tp;
            const int own = first + t + 1;  // a query sees so many keys
            vec most = splat(-INFINITY);
            for (int j = 0; j < own; j += W) most = larger(load(row + j, own - j, -INFINITY), most);
            const float top = largest(most);
            vec total{};
            for (int j = 0; j < wide; j += W) {
              vec p = below(exponential(load(row + j) - top), j, own);
              store(row + j, p);
              total += p;
            }
            const float weight = sum(total);
            lse[(b * s.H + h) * T + first + t] = top + std::log(weight);
            const float inverse = 1 / weight;
            for (int j = 0; j < wide; j += W) store(row + j, load(row + j) * inverse);
          }
          product(rows, Dp, seen, score, Tp, 1, value, Dp, sum_of, Dp);
          write_rows<N>(sum_of, rows, D, out + b * at[3].batch + h * at[3].head + first * at[3].row, at[3].row);
        }
      }
    }
  }
}

// With P the pattern, S the scores, O the output: dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(dO O)),
// dQ = scale dS K, dK = scale dS^T Q. P is computed anew from the logarithms of its sums, `lse`.
template <class N>
void attention_backward(const Shape& s, const N* q, const N* k, const N* v, const N* out, const N* dout,
                        const float* lse, N* dq, N* dk, N* dv, const Heads* at) {
  const int T = s.T, D = s.D, Tp = padded(T), Dp = padded(D), group = s.H / s.K;
#pragma omp parallel
  {
    Floats key(T * Dp), key_turned(D * Tp), value(T * Dp), value_turned(D * Tp), dkey(T * Dp), dvalue(T * Dp);
    Floats query(TOGETHER * Dp), dsum(TOGETHER * Dp), dquery(TOGETHER * Dp), pattern(TOGETHER * Tp), dscore(TOGETHER * Tp);
#pragma omp for
    for (int64_t bk = 0; bk < s.B * s.K; ++bk) {
      const int64_t b = bk / s.K, g = bk % s.K;
      read_rows(k + b * at[1].batch + g * at[1].head, at[1].row, T, D, s.scale, key);
      transpose(key, T, D, key_turned);
      read_rows(v + b * at[2].batch + g * at[2].head, at[2].row, T, D, 1, value);
      transpose(value, T, D, value_turned);
      std::fill_n(dkey.data, T * Dp, 0.0f);
      std::fill_n(dvalue.data, T * Dp, 0.0f);
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        for (int first = 0; first < T; first += TOGETHER) {
          const int rows = std::min(TOGETHER, T - first), seen = first + rows, wide = padded(seen);
          const N* outs = out + b * at[3].batch + h * at[3].head + first * at[3].row;
          read_rows(q + b * at[0].batch + h * at[0].head + first * at[0].row, at[0].row, rows, D, 1, query);
          read_rows(dout + b * at[4].batch + h * at[4].head + first * at[4].row, at[4].row, rows, D, 1, dsum);
          product(rows, wide, D, query, Dp, 1, key_turned, Tp, pattern, Tp);
          product(rows, wide, D, dsum, Dp, 1, value_turned, Tp, dscore, Tp);
          for (int t = 0; t < rows; ++t) {
            float *p = pattern + t * Tp, *ds = dscore + t * Tp;
            const float log_sum = lse[(b * s.H + h) * T + first + t];
            vec both{};
            for (int d = 0; d < D; d += W) both += load(outs + t * at[3].row + d, D - d) * load(dsum + t * Dp + d);
            const float common = sum(both);
            const int own = first + t + 1;
            for (int j = 0; j < wide; j += W) {
              vec x = below(exponential(load(p + j) - log_sum), j, own);
              store(p + j, x);
              store(ds + j, x * (load(ds + j) - common));
            }
          }
          product<true>(seen, Dp, rows, pattern, 1, Tp, dsum, Dp, dvalue, Dp);
          product<true>(seen, Dp, rows, dscore, 1, Tp, query, Dp, dkey, Dp);
          product(rows, Dp, seen, dscore, Tp, 1, key, Dp, dquery, Dp);  // the scale is in the keys
          write_rows<N>(dquery, rows, D, dq + b * at[5].batch + h * at[5].head + first * at[5].row, at[5].row);
        }
      }
      for (int i = 0; i < T * Dp; i += W) store(dkey + i, load(dkey + i) * s.scale);
      write_rows<N>(dkey, T, D, dk + b * at[6].batch + g * at[6].head, at[6].row);
      write_rows<N>(dvalue, T, D, dv + b * at[7].batch + g * at[7].head, at[7].row);
    }
  }
}

// Rotary positions: positions.rope

// Of x (B, heads, T, D) the first `turned` numbers of each head, pair by pair: (a cos - b sin, b cos + a sin), with the
// sign of the sines; pairs are neighbours, or a half apart. cos and sin: (B or 1, T, turned / 2). The pairs' first
// numbers are gathered on one side, so that vectors turn many at once.
template <class N>
void rotate(int64_t B, int64_t H, int64_t T, int64_t D, int64_t turned, bool neighbours, float sign, const N* x,
            const Heads& at, const float* cos, const float* sin, int64_t each, N* to, const Heads& out) {
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

// Norms: norms.LayerNorm, RMSNorm and SeedLayerNorm, of x or of x + more

enum Kind { LAYER, RMS, SEED };

// y = (x - centre) inverse * weight + bias, centre and inverse kept for each row: (rows, 2)
template <class X, class Y, class R>
void norm_forward(Kind kind, int64_t rows, int C, const X* x, const R* more, X* together, const float* weight,
                  const float* bias, float eps, Y* y, float* kept) {
#pragma omp parallel for
  for (int64_t row = 0; row < rows; ++row) {
    const X* from = x + row * C;
    if (more) {
      for (int j = 0; j < C; j += W)
        store(together + row * C + j, load(from + j, C - j) + load(more + row * C + j, C - j), C - j);
      from = together + row * C;
    }
    float centre = 0;
    if (kind != RMS) {
      vec total{};
      for (int j = 0; j < C; j += W) total += load(from + j, C - j);
      centre = sum(total) / C;
    }
    vec squares{};
    for (int j = 0; j < C; j += W) {
      vec off = load(from + j, C - j, centre) - centre;
      squares += off * off;
    }
    const float total = sum(squares);
    const float inverse =
        kind == SEED ? 1 / (std::sqrt(total / (C - 1)) + eps) : 1 / std::sqrt(total / C + eps);
    for (int j = 0; j < C; j += W) {
      vec out = (load(from + j, C - j) - centre) * inverse;
      if (weight) out *= load(weight + j, C - j);
      if (bias) out += load(bias + j, C - j);
      store(y + row * C + j, out, C - j);
    }
    kept[2 * row] = centre;
    kept[2 * row + 1] = inverse;
  }
}

// With n = (x - centre) inverse and g = dy weight: dx = inverse (g - A - n B). LayerNorm: A = mean(g), B = mean(g n);
// RMSNorm: A = 0, B the same; SeedLayerNorm: A = mean(g), B = sum(g n) / ((C - 1) std inverse).
template <class X, class Y>
void norm_backward(Kind kind, int64_t rows, int C, const X* x, const float* weight, float eps, const float* kept,
                   const Y* dy, const X* dmore, X* dx, float* dweight, float* dbias) {
  const int Cp = padded(C);
  std::vector<std::unique_ptr<Floats>> sums(omp_get_max_threads());
#pragma omp parallel
  {
    auto& own = sums[omp_get_thread_num()];
    own = std::make_unique<Floats>(2 * Cp);
    float *dw = *own, *db = dw + Cp;
    std::fill_n(dw, 2 * Cp, 0.0f);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; ++row) {
      const float centre = kept[2 * row], inverse = kept[2 * row + 1];
      vec total{}, along{};
      for (int j = 0; j < C; j += W) {
        vec n = (load(x + row * C + j, C - j, centre) - centre) * inverse, g = load(dy + row * C + j, C - j);
        store(dw + j, load(dw + j) + g * n);
        store(db + j, load(db + j) + g);
        if (weight) g *= load(weight + j, C - j);
        total += g;
        along += g * n;
      }
      const float mean = kind == RMS ? 0 : sum(total) / C;
      float share = sum(along) / C;
      if (kind == SEED) {
        const float std = 1 / inverse - eps;
        share = std > 0 ? sum(along) / ((C - 1) * std * inverse) : 0;
      }
      for (int j = 0; j < C; j += W) {
        vec n = (load(x + row * C + j, C - j, centre) - centre) * inverse, g = load(dy + row * C + j, C - j);
        if (weight) g *= load(weight + j, C - j);
        vec out = (g - mean - n * share) * inverse;
        if (dmore) out += load(dmore + row * C + j, C - j);
        store(dx + row * C + j, out, C - j);
      }
    }
  }
  for (float* to : {dweight, dbias}) {
    if (!to) continue;
    std::fill_n(to, C, 0.0f);
    for (auto& own : sums)
      if (own)
        for (int j = 0; j < C; ++j) to[j] += own->data[(to == dweight ? 0 : Cp) + j];
  }
}

// Activations: those of model/mlps.py, by their place in kernels.ACTIVATIONS

enum Activation { RELU_SQUARED, GELU, GELU_TANH, SILU };

inline vec sigmoid(vec x) { return 1 / (1 + exponential(-x)); }

// f(x), and its derivative where it is asked for
template <Activation A, bool SLOPE>
inline vec activated(vec x, vec* slope) {
  if constexpr (A == RELU_SQUARED) {
    vec positive = x < 0 ? vec{} : x;  // NaN stays
    if (SLOPE) *slope = 2 * positive;
    return positive * positive;
  } else if constexpr (A == GELU) {
    // Phi(x) = (1 + erf(x / sqrt 2)) / 2 to 1e-7: Abramowitz and Stegun 1964, 7.1.26
    vec size = larger(x, -x) * 0.70710678f, t = 1 / (1 + 0.3275911f * size), bell = exponential(-size * size);
    vec tail = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    tail *= 0.5f * bell;
    vec below = x < 0 ? tail : 1 - tail;
    if (SLOPE) *slope = below + x * bell * 0.39894228f;
    return x * below;
  } else if constexpr (A == GELU_TANH) {  // (1 + tanh u) / 2 = sigmoid(2 u)
    vec square = x * x, s = sigmoid(1.59576912f * x * (1 + 0.044715f * square));
    if (SLOPE) *slope = s + x * s * (1 - s) * 1.59576912f * (1 + 0.134145f * square);
    return x * s;
  } else {
    vec s = sigmoid(x);
    if (SLOPE) *slope = s + x * s * (1 - s);
    return x * s;
  }
}

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

template <class X, class R>
void norm_in(int y_type, Kind kind, int64_t rows, int C, const void* x, const void* more, void* together,
             const float* weight, const float* bias, float eps, void* y, float* kept) {
  if (y_type)
    norm_forward<X, bf16, R>(kind, rows, C, (const X*)x, (const R*)more, (X*)together, weight, bias, eps, (bf16*)y, kept);
  else
    norm_forward<X, float, R>(kind, rows, C, (const X*)x, (const R*)more, (X*)together, weight, bias, eps, (float*)y,
                              kept);
}

template <class X, class Y>
void norm_out(Kind kind, int64_t rows, int C, const void* x, const float* weight, float eps, const float* kept,
              const void* dy, const void* dmore, void* dx, float* dweight, float* dbias) {
  norm_backward<X, Y>(kind, rows, C, (const X*)x, weight, eps, kept, (const Y*)dy, (const X*)dmore, (X*)dx, dweight,
                      dbias);
}

}  // namespace

extern "C" {

// strides: three (batch, head, row) for each of q, k, v, out
void gptlab_attention_forward(int type, int64_t B, int64_t H, int64_t K, int64_t T, int64_t D, float scale,
                              const void* q, const void* k, const void* v, void* out, float* lse,
                              const int64_t* strides) {
  const Shape s{B, H, K, T, D, scale};
  const Heads* at = reinterpret_cast<const Heads*>(strides);
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
  const Heads* at = reinterpret_cast<const Heads*>(strides);
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
  const Heads* at = reinterpret_cast<const Heads*>(strides);
  if (type)
    rotate(B, H, T, D, turned, neighbours, sign, (const bf16*)x, at[0], cos, sin, each, (bf16*)to, at[1]);
  else
    rotate(B, H, T, D, turned, neighbours, sign, (const float*)x, at[0], cos, sin, each, (float*)to, at[1]);
}

// more, together: nullptr for a norm of x alone; else x + more is normed, and written to `together`
void gptlab_norm_forward(int x_type, int more_type, int y_type, int kind, int64_t rows, int64_t C, const void* x,
                         const void* more, void* together, const float* weight, const float* bias, float eps, void* y,
                         float* kept) {
  auto of = x_type ? (more_type ? norm_in<bf16, bf16> : norm_in<bf16, float>)
                   : (more_type ? norm_in<float, bf16> : norm_in<float, float>);
  of(y_type, Kind(kind), rows, C, x, more, together, weight, bias, eps, y, kept);
}

// dmore: what else the sum's gradient is made of, or nullptr; dweight, dbias: (C), or nullptr
void gptlab_norm_backward(int x_type, int y_type, int kind, int64_t rows, int64_t C, const void* x, const float* weight,
                          float eps, const float* kept, const void* dy, const void* dmore, void* dx, float* dweight,
                          float* dbias) {
  auto of = x_type ? (y_type ? norm_out<bf16, bf16> : norm_out<bf16, float>)
                   : (y_type ? norm_out<float, bf16> : norm_out<float, float>);
  of(Kind(kind), rows, C, x, weight, eps, kept, dy, dmore, dx, dweight, dbias);
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
