// A whole block, x + attention(norm(x)) and then x + mlp(norm(x)), forward and backward: model/block.py with PreNorm.
//
// In small models PyTorch takes as long to go from one operation to the next as to compute them. Here a thread takes some
// texts through all of a block while their numbers are in its cache. Everything is kept in float, and every width is a multiple of W.

#include <omp.h>

#include <vector>

#include "parts.h"

namespace {

enum { NORM1, NORM1_BIAS, QKV, QKV_BIAS, OUT, OUT_BIAS, NORM2, NORM2_BIAS, UP, UP_BIAS, DOWN, DOWN_BIAS, PARAMETERS };

}  // namespace

extern "C" {

struct gptlab_block {
  int64_t B, T, C, H, K, D, F;  // texts, tokens, width; heads, of keys and values, their width; width of the MLP
  int64_t kind, activation, gated;
  int64_t half;                     // whether products are of bfloat16, where the processor has them
  int64_t turned, neighbours, each;  // of rotary positions: see gptlab_rotate; turned 0: none
  float eps, scale;
  const float *cos, *sin;
  const float* parameters[PARAMETERS];  // (out, in), as PyTorch has them; nullptr for a bias or gain that is not there
  const float* x;                       // (B, T, C)
  float *statistics, *qkv, *lse, *z, *middle, *hidden;  // kept: (B T, 4), (B T, S), (B, H, T), (B T, H D), (B T, C), (B T, F')
  float* y;                             // (B, T, C)
  const float* dy;
  float *dx, *gradients;  // of the parameters, one after the other; a gain or bias that is not there has its place, too
};
}

namespace {

struct Sizes {
  explicit Sizes(const gptlab_block& b)
      : C(b.C), S((b.H + 2 * b.K) * b.D), Z(b.H * b.D), F(b.F), wide(b.F * (b.gated ? 2 : 1)), widest(std::max({S, C, Z, wide})) {
    const int64_t counts[PARAMETERS] = {C, C, S * C, S, C * Z, C, C, C, wide * C, wide, C * F, C};
    for (int i = 0; i < PARAMETERS; ++i) {
      first[i] = total;
      total += counts[i];
    }
  }
  int64_t C, S, Z, F, wide, widest;  // width; of q, k and v together; of what the heads collect; MLP; before its gate
  int64_t first[PARAMETERS], total = 0;
};

// Two rows of numbers as pairs of bfloat16, rounded to the nearest: the first row in the lower halves.
inline void pair(vec first, vec second, uint32_t* to) {
  bf16 halves[2 * W];
  store(halves, first);
  store(halves + W, second);
  typedef uint32_t uvec __attribute__((vector_size(W * 4)));
  uvec low = __builtin_convertvector(raw<hvec>(halves), uvec), high = __builtin_convertvector(raw<hvec>(halves + W), uvec);
  uvec both = low | (high << 16);
  std::memcpy(to, &both, sizeof both);
}

// A weight (out, in), packed for products with rows of x, x w^T, and with rows of dy, dy w. Shared out among the threads
// of a region.
struct Packed {
  Packed(bool half, bool turned, int64_t out, int64_t in)
      : half(half), turned(turned), out(out), in(in), room(half ? out * in / 2 : turned ? out * in : W) {}

  void fill(const float* w) {
    from = w;
    if (!half && !turned) return;
    if (turned) {  // (in, out)
#pragma omp for schedule(static) nowait
      for (int64_t o = 0; o < out; o += W)
        for (int64_t i = 0; i < in; i += half ? 2 : 1) {
          vec columns[2];
          for (int64_t k = 0; k < (half ? 2 : 1); ++k)
            for (int j = 0; j < W; ++j) columns[k][j] = w[(o + j) * in + i + k];
          if (half)
            pair(columns[0], columns[1], pairs() + i / 2 * out + o);
          else
            store(room + i * out + o, columns[0]);
        }
    } else {  // (out / 2, in) pairs
#pragma omp for schedule(static) nowait
      for (int64_t o = 0; o < out; o += 2)
        for (int64_t i = 0; i < in; i += W) pair(load(w + o * in + i), load(w + (o + 1) * in + i), pairs() + o / 2 * in + i);
    }
  }
  const float* singles() { return turned ? room.data : from; }
  uint32_t* pairs() { return reinterpret_cast<uint32_t*>(room.data); }

  const bool half, turned;
  const int64_t out, in;
  Floats room;
  const float* from = nullptr;
};

// Room of one thread for rows packed in pairs, along them (`across` false) or along the tokens.
struct Pack {
  explicit Pack(int64_t n) : room(n / 2) {}
  const uint32_t* along(int rows, int64_t width, const float* x) {
    bf16* to = reinterpret_cast<bf16*>(room.data);
    for (int64_t i = 0; i < rows * width; i += W) store(to + i, load(x + i));
    return reinterpret_cast<uint32_t*>(room.data);
  }
  const uint32_t* tokens(int rows, int64_t width, const float* x) {
    uint32_t* to = reinterpret_cast<uint32_t*>(room.data);
    for (int t = 0; t < rows; t += 2)
      for (int64_t j = 0; j < width; j += W)
        pair(load(x + t * width + j), t + 1 < rows ? load(x + (t + 1) * width + j) : vec{}, to + t / 2 * width + j);
    return to;
  }
  Floats room;
};

// y = x w^T + bias, or y = more + x w^T + bias
void dense(int rows, const float* x, Packed& w, const float* bias, const float* more, float* y, Pack& pack) {
  for (int t = 0; t < rows; ++t)
    for (int64_t j = 0; j < w.out; j += W) {
      vec first = more ? load(more + t * w.out + j) : vec{};
      store(y + t * w.out + j, bias ? first + load(bias + j) : first);
    }
  if (w.half)
    product<true, Pairs>(rows, w.out, w.in / 2, pack.along(rows, w.in, x), w.in / 2, 1, w.pairs(), w.out, y, w.out);
  else
    product<true>(rows, w.out, w.in, x, w.in, 1, w.singles(), w.out, y, w.out);
}

// dw += dy^T x, dbias += the rows of dy; dx = dy w
void dense_back(int rows, const float* x, Packed& w, const float* dy, float* dw, float* dbias, float* dx, Pack& pack,
                Pack& other) {
  const int64_t in = w.in, out = w.out;
  for (int t = 0; t < rows; ++t)
    for (int64_t j = 0; j < out; j += W) store(dbias + j, load(dbias + j) + load(dy + t * out + j));
  if (w.half) {
    product<true, Pairs>(out, in, (rows + 1) / 2, pack.tokens(rows, out, dy), 1, out, other.tokens(rows, in, x), in, dw, in);
    product<false, Pairs>(rows, in, out / 2, pack.along(rows, out, dy), out / 2, 1, w.pairs(), in, dx, in);
  } else {
    product<true>(out, in, rows, dy, 1, out, x, in, dw, in);
    product(rows, in, out, dy, out, 1, w.singles(), in, dx, in);
  }
}

template <Activation A>
void activate(bool gated, int rows, int64_t F, const float* h, float* a) {
  const int64_t wide = gated ? 2 * F : F;
  for (int t = 0; t < rows; ++t)
    for (int64_t j = 0; j < F; j += W) {
      vec out = activated<A, false>(load(h + t * wide + j), nullptr);
      store(a + t * F + j, gated ? out * load(h + t * wide + F + j) : out);
    }
}

template <Activation A>
void activate_back(bool gated, int rows, int64_t F, const float* h, const float* da, float* dh) {
  const int64_t wide = gated ? 2 * F : F;
  for (int t = 0; t < rows; ++t)
    for (int64_t j = 0; j < F; j += W) {
      vec slope, out = activated<A, true>(load(h + t * wide + j), &slope), g = load(da + t * F + j);
      if (gated) {
        store(dh + t * wide + F + j, g * out);
        g *= load(h + t * wide + F + j);
      }
      store(dh + t * wide + j, g * slope);
    }
}

using Activate = void (*)(bool, int, int64_t, const float*, float*);
using ActivateBack = void (*)(bool, int, int64_t, const float*, const float*, float*);
constexpr Activate ACTIVATE[] = {activate<RELU_SQUARED>, activate<GELU>, activate<GELU_TANH>, activate<SILU>};
constexpr ActivateBack ACTIVATE_BACK[] = {activate_back<RELU_SQUARED>, activate_back<GELU>, activate_back<GELU_TANH>,
                                          activate_back<SILU>};

// Queries and keys of `rows` tokens from token `first` on, turned where they lie
void rotate(const gptlab_block& b, int64_t S, int64_t first, int rows, float sign, float* qkv) {
  const int64_t half = b.turned / 2, step = b.neighbours ? 2 : 1, other = b.neighbours ? 1 : half;
  for (int t = 0; t < (half ? rows : 0); ++t) {
    const int64_t at = (first + t) / b.T * b.each + (first + t) % b.T * half;
    for (int64_t h = 0; h < b.H + b.K; ++h) {
      float* x = qkv + t * S + h * b.D;
      for (int64_t j = 0; j < half; ++j) {
        const float c = b.cos[at + j], s = sign * b.sin[at + j], u = x[j * step], v = x[j * step + other];
        x[j * step] = u * c - v * s;
        x[j * step + other] = v * c + u * s;
      }
    }
  }
}

// So many texts at a time: some 128 rows, enough for `product` to work in whole blocks, and for each thread as many times.
int64_t texts_at_once(const gptlab_block& b) {
  const int64_t share = std::max<int64_t>(1, b.B / omp_get_max_threads()), times = (share * b.T + 127) / 128;
  return (share + times - 1) / times;
}

}  // namespace

extern "C" {

void gptlab_block_forward(const gptlab_block* block) {
  const gptlab_block& b = *block;
  const Sizes n(b);
  const Kind kind = Kind(b.kind);
  const float* const* p = b.parameters;
  const bool half = b.half && PAIRS;
  Packed qkv_w(half, true, n.S, n.C), out_w(half, true, n.C, n.Z), up_w(half, true, n.wide, n.C), down_w(half, true, n.C, n.F);
  const int64_t texts = texts_at_once(b), most = texts * b.T;
#pragma omp parallel
  {
    qkv_w.fill(p[QKV]);
    out_w.fill(p[OUT]);
    up_w.fill(p[UP]);
    down_w.fill(p[DOWN]);
    Floats normed(most * n.C), a(most * n.F);
    Pack pack((most + 1) * n.widest);
    Attention attention(b.T, b.D, b.scale);
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t text = 0; text < b.B; text += texts) {
      const int64_t number = std::min(texts, b.B - text), first = text * b.T;
      const int rows = number * b.T;
      float *qkv = b.qkv + first * n.S, *z = b.z + first * n.Z, *middle = b.middle + first * n.C;
      float *hidden = b.hidden + first * n.wide, *statistics = b.statistics + first * 4;
      for (int t = 0; t < rows; ++t)
        norm_row(kind, n.C, b.x + (first + t) * n.C, p[NORM1], p[NORM1_BIAS], b.eps, normed + t * n.C, statistics + 4 * t);
      dense(rows, normed, qkv_w, p[QKV_BIAS], nullptr, qkv, pack);
      rotate(b, n.S, first, rows, 1, qkv);
      for (int64_t i = 0; i < number; ++i)
        for (int64_t k = 0; k < b.K; ++k) {
          const int64_t group = b.H / b.K, h = k * group;
          const float* own = qkv + i * b.T * n.S;
          attention.forward<float>(group, {own + h * b.D, b.D, n.S}, {own + (b.H + k) * b.D, b.D, n.S},
                                   {own + (b.H + b.K + k) * b.D, b.D, n.S},
                                   {z + i * b.T * n.Z + h * b.D, b.D, n.Z}, b.lse + ((text + i) * b.H + h) * b.T);
        }
      dense(rows, z, out_w, p[OUT_BIAS], b.x + first * n.C, middle, pack);
      for (int t = 0; t < rows; ++t)
        norm_row(kind, n.C, middle + t * n.C, p[NORM2], p[NORM2_BIAS], b.eps, normed + t * n.C, statistics + 4 * t + 2);
      dense(rows, normed, up_w, p[UP_BIAS], nullptr, hidden, pack);
      ACTIVATE[b.activation](b.gated, rows, n.F, hidden, a);
      dense(rows, a, down_w, p[DOWN_BIAS], middle, b.y + first * n.C, pack);
    }
  }
}

void gptlab_block_backward(const gptlab_block* block) {
  const gptlab_block& b = *block;
  const Sizes n(b);
  const Kind kind = Kind(b.kind);
  const float* const* p = b.parameters;
  const int64_t texts = texts_at_once(b), most = texts * b.T;
  const bool half = b.half && PAIRS;
  Packed qkv_w(half, false, n.S, n.C), out_w(half, false, n.C, n.Z), up_w(half, false, n.wide, n.C), down_w(half, false, n.C, n.F);
  std::vector<std::unique_ptr<Floats>> sums(omp_get_max_threads());
#pragma omp parallel
  {
    qkv_w.fill(p[QKV]);
    out_w.fill(p[OUT]);
    up_w.fill(p[UP]);
    down_w.fill(p[DOWN]);
    auto& own_sums = sums[omp_get_thread_num()];
    own_sums = std::make_unique<Floats>(n.total);
    float* d[PARAMETERS];
    for (int i = 0; i < PARAMETERS; ++i) d[i] = own_sums->data + n.first[i];
    std::fill_n(d[0], n.total, 0.0f);
    Floats normed(most * n.C), a(most * n.F), da(most * n.F), dh(most * n.wide), dnormed(most * n.C);
    Floats dmiddle(most * n.C), dz(most * n.Z), dqkv(most * n.S), unused(2 * n.C);
    Pack pack((most + 1) * n.widest), other((most + 1) * n.widest);  // an odd token is paired with zeros
    Attention attention(b.T, b.D, b.scale);
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t text = 0; text < b.B; text += texts) {
      const int64_t number = std::min(texts, b.B - text), first = text * b.T;
      const int rows = number * b.T;
      const float *x = b.x + first * n.C, *middle = b.middle + first * n.C, *hidden = b.hidden + first * n.wide;
      const float *dy = b.dy + first * n.C, *statistics = b.statistics + first * 4;
      // What the forward pass did not keep is computed anew.
      auto renormed = [&](const float* from, int norm, int bias) {
        for (int t = 0; t < rows; ++t)
          norm_row(kind, n.C, from + t * n.C, p[norm], p[bias], b.eps, normed + t * n.C, unused);
      };
      auto norm_back = [&](const float* from, int which, int norm, int bias, const float* more, float* dx) {
        for (int t = 0; t < rows; ++t)
          norm_row_back(kind, n.C, from + t * n.C, p[norm], b.eps, statistics + 4 * t + which, dnormed + t * n.C,
                        more + t * n.C, dx + t * n.C, d[norm], d[bias]);
      };
      ACTIVATE[b.activation](b.gated, rows, n.F, hidden, a);
      dense_back(rows, a, down_w, dy, d[DOWN], d[DOWN_BIAS], da, pack, other);
      ACTIVATE_BACK[b.activation](b.gated, rows, n.F, hidden, da, dh);
      renormed(middle, NORM2, NORM2_BIAS);
      dense_back(rows, normed, up_w, dh, d[UP], d[UP_BIAS], dnormed, pack, other);
      norm_back(middle, 2, NORM2, NORM2_BIAS, dy, dmiddle);
      dense_back(rows, b.z + first * n.Z, out_w, dmiddle, d[OUT], d[OUT_BIAS], dz, pack, other);
      for (int64_t i = 0; i < number; ++i)
        for (int64_t k = 0; k < b.K; ++k) {
          const int64_t group = b.H / b.K, h = k * group, at = i * b.T;
          const float *own = b.qkv + (first + at) * n.S, *z = b.z + (first + at) * n.Z;
          float* to = dqkv + at * n.S;
          attention.backward<float>(
              group, {own + h * b.D, b.D, n.S}, {own + (b.H + k) * b.D, b.D, n.S},
              {own + (b.H + b.K + k) * b.D, b.D, n.S}, {z + h * b.D, b.D, n.Z}, {dz + at * n.Z + h * b.D, b.D, n.Z},
              b.lse + ((text + i) * b.H + h) * b.T, {to + h * b.D, b.D, n.S}, {to + (b.H + k) * b.D, b.D, n.S},
              {to + (b.H + b.K + k) * b.D, b.D, n.S});
        }
      rotate(b, n.S, first, rows, -1, dqkv);
      renormed(x, NORM1, NORM1_BIAS);
      dense_back(rows, normed, qkv_w, dqkv, d[QKV], d[QKV_BIAS], dnormed, pack, other);
      norm_back(x, 0, NORM1, NORM1_BIAS, dmiddle, b.dx + first * n.C);
    }
    // In the order of the threads, so that the same number of them gives the same bits.
#pragma omp for schedule(static)
    for (int64_t j = 0; j < n.total; j += W) {
      vec total{};
      for (auto& one : sums)
        if (one) total += load(one->data + j);
      store(b.gradients + j, total);
    }
  }
}
}
