// Parts of a layer that several kernels are made of: attention of one head, the norm of a row, the slope of an activation.
#pragma once

#include "common.h"

namespace {

// Attention: kernels.reference with a causal mask, without bias and dropout

template <class T>
void read_rows(const T* from, int64_t stride, int rows, int width, float scale, float* to) {  // (rows, padded width)
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

constexpr int TOGETHER = 24;  // queries whose scores are held at once: whole blocks of `product`

// Numbers (heads, T, D): where a head begins, and its rows.
template <class N>
struct Heads {
  N* data;
  int64_t head, row;
  N* at(int64_t h, int64_t t = 0) const { return data + h * head + t * row; }
};

// The heads that share one pair of keys and values, in one text.
class Attention {
 public:
  Attention(int T, int D, float scale)
      : T(T), D(D), Tp(padded(T)), Dp(padded(D)), scale(scale), key(T * Dp), key_turned(D * Tp), value(T * Dp),
        value_turned(D * Tp), dkey(T * Dp), dvalue(T * Dp), query(TOGETHER * Dp), dsum(TOGETHER * Dp),
        dquery(TOGETHER * Dp), pattern(TOGETHER * Tp), dscore(TOGETHER * Tp) {}

  template <class N>
  void forward(int heads, Heads<const N> q, Heads<const N> k, Heads<const N> v, Heads<N> out, float* lse) {
    read_rows(k.at(0), k.row, T, D, scale, key);
    transpose(key, T, D, key_turned);
    read_rows(v.at(0), v.row, T, D, 1, value);
    for (int h = 0; h < heads; ++h) {
      for (int first = 0; first < T; first += TOGETHER) {
        const int rows = std::min(TOGETHER, T - first), seen = first + rows, wide = padded(seen);
        read_rows(q.at(h, first), q.row, rows, D, 1, query);
        product(rows, wide, D, query, Dp, 1, key_turned, Tp, pattern, Tp);
        for (int t = 0; t < rows; ++t) {
          float* row = pattern + t * Tp;
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
          lse[h * T + first + t] = top + std::log(weight);
          const float inverse = 1 / weight;
          for (int j = 0; j < wide; j += W) store(row + j, load(row + j) * inverse);
        }
        product(rows, Dp, seen, pattern, Tp, 1, value, Dp, dquery, Dp);
        write_rows<N>(dquery, rows, D, out.at(h, first), out.row);
      }
    }
  }

  // With P the pattern, S the scores, O the output: dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(dO O)),
  // dQ = scale dS K, dK = scale dS^T Q. P is computed anew from the logarithms of its sums, `lse`.
  template <class N>
  void backward(int heads, Heads<const N> q, Heads<const N> k, Heads<const N> v, Heads<const N> out,
                Heads<const N> dout, const float* lse, Heads<N> dq, Heads<N> dk, Heads<N> dv) {
    read_rows(k.at(0), k.row, T, D, scale, key);
    transpose(key, T, D, key_turned);
    read_rows(v.at(0), v.row, T, D, 1, value);
    transpose(value, T, D, value_turned);
    std::fill_n(dkey.data, T * Dp, 0.0f);
    std::fill_n(dvalue.data, T * Dp, 0.0f);
    for (int h = 0; h < heads; ++h) {
      for (int first = 0; first < T; first += TOGETHER) {
        const int rows = std::min(TOGETHER, T - first), seen = first + rows, wide = padded(seen);
        read_rows(q.at(h, first), q.row, rows, D, 1, query);
        read_rows(dout.at(h, first), dout.row, rows, D, 1, dsum);
        product(rows, wide, D, query, Dp, 1, key_turned, Tp, pattern, Tp);
        product(rows, wide, D, dsum, Dp, 1, value_turned, Tp, dscore, Tp);
        for (int t = 0; t < rows; ++t) {
          float *p = pattern + t * Tp, *ds = dscore + t * Tp;
          const N* o = out.at(h, first + t);
          vec both{};
          for (int d = 0; d < D; d += W) both += load(o + d, D - d) * load(dsum + t * Dp + d);
          const float common = sum(both), log_sum = lse[h * T + first + t];
          for (int j = 0; j < wide; j += W) {
            vec x = below(exponential(load(p + j) - log_sum), j, first + t + 1);
            store(p + j, x);
            store(ds + j, x * (load(ds + j) - common));
          }
        }
        product<true>(seen, Dp, rows, pattern, 1, Tp, dsum, Dp, dvalue, Dp);
        product<true>(seen, Dp, rows, dscore, 1, Tp, query, Dp, dkey, Dp);
        product(rows, Dp, seen, dscore, Tp, 1, key, Dp, dquery, Dp);  // the scale is in the keys
        write_rows<N>(dquery, rows, D, dq.at(h, first), dq.row);
      }
    }
    for (int i = 0; i < T * Dp; i += W) store(dkey + i, load(dkey + i) * scale);
    write_rows<N>(dkey, T, D, dk.at(0), dk.row);
    write_rows<N>(dvalue, T, D, dv.at(0), dv.row);
  }

 private:
  const int T, D, Tp, Dp;
  const float scale;
  Floats key, key_turned, value, value_turned, dkey, dvalue, query, dsum, dquery, pattern, dscore;
};

// Norms: norms.layer_norm, rms_norm and seed_layer_norm

enum Kind { LAYER, RMS, SEED };

// y = (x - centre) inverse * weight + bias, of one row; centre and inverse are kept
template <class X, class Y>
inline void norm_row(Kind kind, int C, const X* x, const float* weight, const float* bias, float eps, Y* y, float* kept) {
  float centre = 0;
  if (kind != RMS) {
    vec total{};
    for (int j = 0; j < C; j += W) total += load(x + j, C - j);
    centre = sum(total) / C;
  }
  vec squares{};
  for (int j = 0; j < C; j += W) {
    vec off = load(x + j, C - j, centre) - centre;
    squares += off * off;
  }
  const float total = sum(squares);
  const float inverse = kind == SEED ? 1 / (std::sqrt(total / (C - 1)) + eps) : 1 / std::sqrt(total / C + eps);
  for (int j = 0; j < C; j += W) {
    vec out = (load(x + j, C - j) - centre) * inverse;
    if (weight) out *= load(weight + j, C - j);
    if (bias) out += load(bias + j, C - j);
    store(y + j, out, C - j);
  }
  kept[0] = centre;
  kept[1] = inverse;
}

// With n = (x - centre) inverse and g = dy weight: dx = inverse (g - A - n B). LayerNorm: A = mean(g), B = mean(g n);
// RMSNorm: A = 0, B the same; SeedLayerNorm: A = mean(g), B = sum(g n) / ((C - 1) std inverse). dweight and dbias are
// added to; more: added to dx, or nullptr.
template <class X, class Y>
inline void norm_row_back(Kind kind, int C, const X* x, const float* weight, float eps, const float* kept, const Y* dy,
                          const X* more, X* dx, float* dweight, float* dbias) {
  const float centre = kept[0], inverse = kept[1];
  vec total{}, along{};
  for (int j = 0; j < C; j += W) {
    vec n = (load(x + j, C - j, centre) - centre) * inverse, g = load(dy + j, C - j);
    store(dweight + j, load(dweight + j) + g * n);
    store(dbias + j, load(dbias + j) + g);
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
    vec n = (load(x + j, C - j, centre) - centre) * inverse, g = load(dy + j, C - j);
    if (weight) g *= load(weight + j, C - j);
    vec out = (g - mean - n * share) * inverse;
    if (more) out += load(more + j, C - j);
    store(dx + j, out, C - j);
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

}  // namespace
