// What the kernels share: vectors of the machine's width, bfloat16, the exponential, and one matrix product.
//
// Everything is computed in float; numbers may be stored as bfloat16. Vectors are the compilers' own (GCC and Clang), so
// the same lines serve AVX-512, AVX2 and NEON.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int W = 16;  // floats in a vector
constexpr int ROWS = 6, COLUMNS = 4;  // of the block of C that `product` keeps in registers: rows, vectors
#elif defined(__AVX__)
constexpr int W = 8;
constexpr int ROWS = 4, COLUMNS = 2;
#else
constexpr int W = 4;
constexpr int ROWS = 4, COLUMNS = 4;
#endif

typedef float vec __attribute__((vector_size(W * 4)));
typedef int32_t ivec __attribute__((vector_size(W * 4)));
typedef uint16_t hvec __attribute__((vector_size(W * 2)));

struct bf16 {
  uint16_t bits;
};

inline float number(float x) { return x; }
inline float number(bf16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

inline void store(float* to, float x) { *to = x; }
inline void store(bf16* to, float x) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  to->bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <class V, class T>
inline V raw(const T* from) {
  V out;
  std::memcpy(&out, from, sizeof(V));
  return out;
}

inline vec load(const float* from) { return raw<vec>(from); }
inline vec load(const bf16* from) {
#if defined(__AVX512F__)  // what compilers make of the line below is several times as long
  return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)), 16);
#else
  return (vec)(__builtin_convertvector(raw<hvec>(from), ivec) << 16);
#endif
}

inline void store(float* to, vec x) { std::memcpy(to, &x, sizeof x); }
inline void store(bf16* to, vec x) {
  typedef uint32_t uvec __attribute__((vector_size(W * 4)));
  uvec bits = (uvec)x;
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
#if defined(__AVX512F__)
  hvec half = (hvec)_mm512_cvtepi32_epi16((__m512i)bits);
#else
  hvec half = __builtin_convertvector(bits, hvec);
#endif
  std::memcpy(to, &half, sizeof half);
}

inline vec splat(float x) { return x - vec{}; }

// A part of a vector, n numbers of it: the others are `rest`.
template <class T>
inline vec load(const T* from, int n, float rest = 0) {
  if (n >= W) return load(from);
  vec out = splat(rest);
  for (int i = 0; i < n; ++i) out[i] = number(from[i]);
  return out;
}

template <class T>
inline void store(T* to, vec x, int n) {
  if (n >= W) return store(to, x);
  for (int i = 0; i < n; ++i) store(to + i, x[i]);
}

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
inline __mmask16 lanes(int n) { return __mmask16((1u << n) - 1); }
template <>
inline vec load(const float* from, int n, float rest) {
  return n >= W ? load(from) : (vec)_mm512_mask_loadu_ps(_mm512_set1_ps(rest), lanes(n), from);
}
template <>
inline vec load(const bf16* from, int n, float rest) {
  if (n >= W) return load(from);
  vec all = (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes(n), from)), 16);
  return (vec)_mm512_mask_blend_ps(lanes(n), _mm512_set1_ps(rest), (__m512)all);
}
template <>
inline void store(float* to, vec x, int n) {
  if (n >= W) return store(to, x);
  _mm512_mask_storeu_ps(to, lanes(n), (__m512)x);
}
inline float sum(vec x) { return _mm512_reduce_add_ps((__m512)x); }
inline float largest(vec x) { return _mm512_reduce_max_ps((__m512)x); }
#else
inline float sum(vec x) {
  float total = 0;
  for (int i = 0; i < W; ++i) total += x[i];
  return total;
}
inline float largest(vec x) {
  float out = x[0];
  for (int i = 1; i < W; ++i) out = x[i] > out ? x[i] : out;
  return out;
}
#endif

// x where the lane, counted from `first`, is below n; else 0
inline vec below(vec x, int first, int n) {
  ivec lane;
  for (int i = 0; i < W; ++i) lane[i] = i;
  return lane < n - first ? x : vec{};
}

inline vec larger(vec a, vec b) { return a > b ? a : b; }
inline vec smaller(vec a, vec b) { return a < b ? a : b; }

// e^x to 2 ulp: x = n ln 2 + r, e^r by its Taylor series to the sixth power, 2^n by the bits of the exponent. Below -87
// it is 0 to 1e-38, above 88 it stays at 1.6e38; NaN stays NaN.
inline vec exponential(vec x) {
  vec within = smaller(larger(x, splat(-87.0f)), splat(88.0f));
  vec shifted = within * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  vec n = shifted - 12582912.0f;
  vec r = within - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts
  vec p = splat(1.0f / 720);
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  ivec whole = __builtin_convertvector(n, ivec);
  vec power = (vec)((whole + 127) << 23);
  vec out = p * power;
  return x == x ? out : x;
}

inline int padded(int n) { return (n + W - 1) / W * W; }  // to whole vectors

// Room for floats, aligned to a cache line.
struct Floats {
  explicit Floats(size_t n) : data(static_cast<float*>(::operator new(n * 4, std::align_val_t(64)))) {}
  ~Floats() { ::operator delete(data, std::align_val_t(64)); }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
  operator float*() { return data; }
  float* data;
};

// What `product` multiplies: floats, or pairs of bfloat16 that follow each other in the inner direction, which some
// processors multiply and add to a float in one instruction.
struct Singles {
  typedef float number;
  static vec pick(const float* b) { return load(b); }
  static vec same(float a) { return splat(a); }
  static vec add(vec total, vec a, vec b) { return total + a * b; }
};

#if defined(__AVX512BF16__)
constexpr bool PAIRS = true;
struct Pairs {
  typedef uint32_t number;  // the first of the pair in the lower half
  static __m512bh pick(const uint32_t* b) { return (__m512bh)_mm512_loadu_si512(b); }
  static __m512bh same(uint32_t a) { return (__m512bh)_mm512_set1_epi32(a); }
  static vec add(vec total, __m512bh a, __m512bh b) { return (vec)_mm512_dpbf16_ps((__m512)total, a, b); }
};
#else
constexpr bool PAIRS = false;
typedef Singles Pairs;
#endif

// One block of a product, held in registers: R rows and V vectors of C.
template <class M, int R, int V, bool ADD>
inline void block(int inner, const typename M::number* a, int64_t a_row, int64_t a_col, const typename M::number* b,
                  int64_t b_row, float* c, int64_t c_row) {
  vec total[R][V];
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < V; ++j) total[i][j] = ADD ? load(c + i * c_row + j * W) : vec{};
  for (int k = 0; k < inner; ++k) {
    decltype(M::pick(b)) column[V];
    for (int j = 0; j < V; ++j) column[j] = M::pick(b + k * b_row + j * W);
    for (int i = 0; i < R; ++i) {
      auto x = M::same(a[i * a_row + k * a_col]);
      for (int j = 0; j < V; ++j) total[i][j] = M::add(total[i][j], x, column[j]);
    }
  }
  for (int i = 0; i < R; ++i)
    for (int j = 0; j < V; ++j) store(c + i * c_row + j * W, total[i][j]);
}

template <class M, int V, bool ADD, class N>
inline void rows_of(int rows, int inner, const N* a, int64_t a_row, int64_t a_col, const N* b, int64_t b_row, float* c,
                    int64_t c_row) {
  int i = 0;
  for (; i + ROWS <= rows; i += ROWS)
    block<M, ROWS, V, ADD>(inner, a + i * a_row, a_row, a_col, b, b_row, c + i * c_row, c_row);
  for (; i + 2 <= rows; i += 2)
    block<M, 2, V, ADD>(inner, a + i * a_row, a_row, a_col, b, b_row, c + i * c_row, c_row);
  if (i < rows) block<M, 1, V, ADD>(inner, a + i * a_row, a_row, a_col, b, b_row, c + i * c_row, c_row);
}

// C = A B, or C += A B: A (rows, inner) at any strides (so also transposed), B (inner, columns) and C (rows, columns)
// with contiguous rows. `columns` must be a multiple of W; of Pairs, `inner` counts pairs.
template <bool ADD = false, class M = Singles>
inline void product(int rows, int columns, int inner, const typename M::number* a, int64_t a_row, int64_t a_col,
                    const typename M::number* b, int64_t b_row, float* c, int64_t c_row) {
  int j = 0;
  for (; j + COLUMNS * W <= columns; j += COLUMNS * W)
    rows_of<M, COLUMNS, ADD>(rows, inner, a, a_row, a_col, b + j, b_row, c + j, c_row);
  for (; j + 2 * W <= columns; j += 2 * W)
    rows_of<M, 2, ADD>(rows, inner, a, a_row, a_col, b + j, b_row, c + j, c_row);
  if (j < columns) rows_of<M, 1, ADD>(rows, inner, a, a_row, a_col, b + j, b_row, c + j, c_row);
}
