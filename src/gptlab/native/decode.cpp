// Decoding: N texts side by side, tokens in, scores of the next token out, keys and values kept in between.
//
// A matrix lies in panels of 4 W columns, each of them (inner, 4 W), so that a vector times a matrix reads memory in
// order. Every sum runs over its terms in the same order, whatever the number of rows, texts and threads: what is
// computed of a text depends on that text alone, to the last bit.
#include <omp.h>

#include <atomic>
#include <thread>
#include <vector>

#include "common.h"

namespace {

typedef float fhalf __attribute__((vector_size(W * 2)));
typedef double dvec __attribute__((vector_size(W * 4)));  // as many
typedef int64_t lvec __attribute__((vector_size(W * 4)));

constexpr int PANEL = 4 * W;
constexpr int BLOCK = 8 * ROWS;   // rows of one task of a product
constexpr int CHUNK = 16 * ROWS;  // rows that go through all layers together
constexpr float NEVER = -1e30f;   // the score of what may not be seen

// These are filled by fast.py, which has the same fields in the same order.

enum NormKind { NONE, LAYER, RMS, SEED };
struct Norm {
  int64_t kind;
  const float *weight, *bias;  // null, or padded with zeros to whole vectors
};

struct Matrix {  // x W + bias
  const float *panels, *bias;
  int64_t inner, columns;  // columns in whole vectors
};

struct Layer {
  Norm first, second, q, k;
  Matrix qkv, out, up, down;  // `up` of a gated MLP: a vector of gates, a vector of values, and so on
  int64_t band;               // so many positions back are seen; 0: all
};

enum Activation { RELU, RELU_SQUARED, GELU, GELU_TANH, SWIGLU, GEGLU, GEGLU_TANH };
struct Model {
  int64_t layers, context, width, embedding, vocabulary, heads, groups, head, parameters;
  int64_t activation, parallel, kept, turned, interleaved;
  double eps, alpha, embedding_scale, scale;
  const float *table, *positions, *cosines, *sines, *biases;  // tokens (V, E), by position (context, padded C) and
                                                              // (context, turned / 2), by distance (H, context + W)
  Norm before, last, very_last;
  Matrix into, out_of, projection;
  const Layer* layer;
};

struct Choice {
  double temperature;      // 0: greedy
  const float* bias;       // (V), or null
  const double* uniforms;  // (N)
  int64_t* chosen;         // (N)
  float* logprobs;         // (N)
};

// Activations

// The normal distribution function of -|x|, to 2e-9: a polynomial in 1 / (1 + |x| / 3), times e^(-x^2 / 2).
inline vec tail(vec x) {
  vec size = larger(x, -x);
  vec t = 1.0f / (1.0f + size * (1.0f / 3));
  vec p = splat(0.046032279f);
  p = p * t - 0.2165613f;
  p = p * t + 0.31214206f;
  p = p * t - 0.071485461f;
  p = p * t + 0.17318663f;
  p = p * t + 0.12295915f;
  p = p * t + 0.1337267f;
  return p * t * exponential(-0.5f * x * x);
}

inline vec relu(vec x) { return x < 0.0f ? vec{} : x; }
inline vec silu(vec x) { return x / (1.0f + exponential(-x)); }
inline vec gelu(vec x) { return relu(x) - larger(x, -x) * tail(x); }
inline vec gelu_tanh(vec x) { return x / (1.0f + exponential(-1.59576912f * (x + 0.044715f * x * x * x))); }

inline bool gated(int64_t activation) { return activation >= SWIGLU; }

inline vec activated(int64_t activation, vec x) {
  switch (activation) {
    case RELU: return relu(x);
    case RELU_SQUARED: return relu(x) * relu(x);
    case SWIGLU: return silu(x);
    case GELU: case GEGLU: return gelu(x);
    default: return gelu_tanh(x);
  }
}

// Threads

// Where the threads of a team wait for one another. OpenMP's own barrier soon lets a thread sleep, and where other
// programs want the processor, it takes longer to wake up than a layer takes to compute.
struct Gate {
  std::atomic<int> arrived{0}, round{0};
};

// The threads that compute something together: each takes its share, and waits for the others.
struct Team {
  int rank, size;
  Gate* gate;

  int64_t from(int64_t n) const { return n * rank / size; }
  int64_t to(int64_t n) const { return n * (rank + 1) / size; }
  void wait() const {
    if (size == 1) return;
    const int round = gate->round;
    if (++gate->arrived == size) {
      gate->arrived = 0;
      gate->round = round + 1;
    }
    for (int tries = 0; gate->round == round; ++tries)
      if (tries > 5000) std::this_thread::yield();
  }
};

// Room for what flows: of a team (x, qkv, z, wide) and of a thread (the rest), rows of `stride` floats.
struct Room {
  explicit Room(const Model& m)
      : stride(widest(m)),
        keys((m.context + PANEL - 1) / PANEL * PANEL),
        x(CHUNK * stride),
        qkv(CHUNK * stride),
        z(CHUNK * stride),
        wide(CHUNK * stride),
        h(CHUNK * stride),
        block(BLOCK * PANEL),
        q((m.heads / m.groups + 1) * padded(m.head)),
        scores(m.heads / m.groups * keys),
        collected(m.heads / m.groups * padded(m.head)),
        bent(m.projection.columns),
        odds(m.projection.columns),
        before((m.vocabulary + PANEL - 1) / PANEL) {}

  static int64_t widest(const Model& m) {
    int64_t most = std::max({m.width, m.embedding, m.heads * m.head});
    for (int64_t l = 0; l < m.layers; ++l)
      most = std::max({most, m.layer[l].qkv.columns, m.layer[l].up.columns, m.layer[l].down.inner});
    return padded(int(most));
  }

  int64_t stride, keys;
  Floats x, qkv, z, wide, h, block, q, scores, collected, bent;
  std::vector<double> odds, before;
};

// Keys lie in panels as a matrix of D rows and `span` positions does, values as a matrix of positions and D columns.
struct Decoder {
  Decoder(const Model* m, int texts)
      : model(*m),
        texts(texts),
        span(std::min(PANEL, padded(int(m->context)))),
        a_key((m->context + span - 1) / span * span * m->head),
        a_value(m->context * padded(int(m->head))),
        k(m->layers * texts * m->groups * a_key),
        v(m->layers * texts * m->groups * a_value) {}

  float* keys(int64_t layer, int64_t text, int64_t group) {
    return k.data + ((layer * texts + text) * model.groups + group) * a_key;
  }
  float* values(int64_t layer, int64_t text, int64_t group) {
    return v.data + ((layer * texts + text) * model.groups + group) * a_value;
  }

  const Model& model;
  int texts, span;
  int64_t a_key, a_value;  // floats of one head
  Floats k, v;
  std::vector<std::unique_ptr<Room>> rooms;  // one for each thread
};

// Parts

// x and out may be the same; what is behind `width` is 0 in x, and in out.
void normed(const Norm& norm, int64_t width, double eps, const float* x, float* out) {
  if (norm.kind == NONE) {
    if (x != out) std::memcpy(out, x, padded(int(width)) * 4);
    return;
  }
  float mean = 0;
  if (norm.kind != RMS) {
    vec total{};
    for (int j = 0; j < width; j += W) total += load(x + j);
    mean = sum(total) / width;
  }
  vec squares{};
  for (int j = 0; j < width; j += W) {
    vec centred = below(load(x + j) - mean, j, int(width));
    squares += centred * centred;
    store(out + j, centred);
  }
  float total = sum(squares);
  float scale = norm.kind == SEED ? 1 / (std::sqrt(total / (width - 1)) + float(eps))
                                  : 1 / std::sqrt(total / width + float(eps));
  for (int j = 0; j < width; j += W) {
    vec y = load(out + j) * scale;
    if (norm.weight) y *= load(norm.weight + j);
    if (norm.bias) y += load(norm.bias + j);
    store(out + j, y);
  }
}

// The team's products of some rows with a matrix: then(row, column, vector) of each vector of each row.
template <class Then>
void times(const Matrix& m, int rows, const float* a, int64_t a_row, Team team, Room& own, Then then) {
  int64_t panels = (m.columns + PANEL - 1) / PANEL, blocks = (rows + BLOCK - 1) / BLOCK;
  for (int64_t task = team.from(panels * blocks); task < team.to(panels * blocks); ++task) {
    int column = int(task / blocks) * PANEL, row = int(task % blocks) * BLOCK;
    int columns = std::min(PANEL, int(m.columns) - column), count = std::min(BLOCK, rows - row);
    product(count, columns, int(m.inner), a + row * a_row, a_row, 1, m.panels + column * m.inner, columns, own.block,
            PANEL);
    for (int i = 0; i < count; ++i)
      for (int j = 0; j < columns; j += W) {
        vec x = load(own.block + i * PANEL + j);
        then(row + i, column + j, m.bias ? x + load(m.bias + column + j) : x);
      }
  }
}

// One head of q or k, normed and turned; D floats, and zeros to whole vectors.
void prepared(const Model& m, const Norm& norm, const float* x, int64_t position, float* out) {
  std::memset(out, 0, padded(int(m.head)) * 4);
  std::memcpy(out, x, m.head * 4);
  normed(norm, m.head, m.eps, out, out);
  const float *cosine = m.cosines + position * (m.turned / 2), *sine = m.sines + position * (m.turned / 2);
  int64_t step = m.interleaved ? 2 : 1, other = m.interleaved ? 1 : m.turned / 2;
  for (int64_t i = 0; i < m.turned / 2; ++i) {
    float *a = out + i * step, *b = a + other, first = *a, second = *b;
    *a = first * cosine[i] - second * sine[i];
    *b = second * cosine[i] + first * sine[i];
  }
}

// Scores of the keys from..length-1 to e^(score - the greatest), 0 before; gives the sum of these. The first score that
// is there is the one of `from`, rounded down to whole vectors. bias: by key, or null.
float exponentials(float* scores, int from, int length, float scale, const float* bias) {
  vec most = splat(NEVER), total{};
  int begin = from / W * W;
  for (int s = begin; s < length; s += W) {
    vec x = load(scores + s) * scale;
    if (bias) x += load(bias + s);
    ivec key{};
    for (int i = 0; i < W; ++i) key[i] = s + i;
    x = (key >= from) & (key < length) ? x : splat(NEVER);
    most = larger(most, x);
    store(scores + s, x);
  }
  const float greatest = largest(most);
  for (int s = begin; s < length; s += W) {
    vec x = load(scores + s);
    vec p = x <= NEVER ? vec{} : exponential(x - greatest);
    total += p;
    store(scores + s, p);
  }
  return sum(total);
}

// Attention of one text's tokens at the positions from `position` on, with one head of keys and values, and all heads
// of queries that share it. qkv, z: the rows of these tokens.
void attend(Decoder& d, int64_t l, int64_t text, int64_t group, int64_t position, int rows, const float* qkv, float* z,
            int64_t stride, Room& own) {
  const Model& m = d.model;
  const Layer& layer = m.layer[l];
  int D = int(m.head), deep = padded(D), per = int(m.heads / m.groups), span = d.span;
  float *k = d.keys(l, text, group), *v = d.values(l, text, group), *q = own.q, *key = own.q + per * deep;
  for (int r = 0; r < rows; ++r, ++position, qkv += stride, z += stride) {
    prepared(m, layer.k, qkv + (m.heads + group) * D, position, key);
    for (int i = 0; i < D; ++i) k[(position / span * D + i) * span + position % span] = key[i];
    std::memcpy(v + position * deep, qkv + (m.heads + m.groups + group) * D, D * 4);
    for (int i = 0; i < per; ++i) prepared(m, layer.q, qkv + (group * per + i) * D, position, q + i * deep);

    int length = int(position) + 1, from = layer.band ? std::max(0, length - int(layer.band)) : 0;
    for (int s = from / span * span; s < length; s += span)
      product(per, std::min(span, padded(length - s)), D, q, deep, 1, k + s * D, span, own.scores + s, own.keys);
    float totals[per];
    for (int i = 0; i < per; ++i) {
      const float* bias = m.biases ? m.biases + (group * per + i) * (m.context + W) + m.context - length : nullptr;
      totals[i] = exponentials(own.scores + i * own.keys, from, length, float(m.scale), bias);
    }
    product(per, deep, length - from, own.scores + from, own.keys, 1, v + from * deep, deep, own.collected, deep);
    for (int i = 0; i < per; ++i)
      for (int j = 0; j < D; ++j) z[(group * per + i) * D + j] = own.collected[i * deep + j] / totals[i];
  }
}

// Some texts' next tokens, of each so many, through the whole model; what follows the last of each into its logits.
// ids (texts, tokens) and logits (texts, padded V) begin at the first of these texts.
void read(Decoder& d, int64_t first, int texts, int64_t start, int tokens, const int64_t* ids, float* logits, Team team,
          Room& ours, Room& own) {
  const Model& m = d.model;
  const int64_t stride = ours.stride, width = padded(int(m.width)), a_logit = m.projection.columns;
  float *x = ours.x, *h = own.h, *wide = ours.wide;
  for (int begin = 0; begin < texts * tokens; begin += CHUNK) {
    const int rows = std::min(CHUNK, texts * tokens - begin);

    if (m.into.panels) {
      for (int r = 0; r < rows; ++r)
        for (int64_t j = 0; j < m.embedding; ++j) h[r * stride + j] = m.table[ids[begin + r] * m.embedding + j];
      times(m.into, rows, h, stride, team, own, [&](int r, int j, vec y) { store(x + r * stride + j, y); });
      team.wait();
    }
    for (int64_t r = team.from(rows); r < team.to(rows); ++r) {
      float* row = x + r * stride;
      if (!m.into.panels) {
        std::memset(row, 0, width * 4);
        std::memcpy(row, m.table + ids[begin + r] * m.embedding, m.embedding * 4);
      }
      const float* position = m.positions ? m.positions + (start + (begin + r) % tokens) * width : nullptr;
      for (int j = 0; j < width; j += W) {
        vec y = load(row + j) * float(m.embedding_scale);
        store(row + j, position ? y + load(position + j) : y);
      }
      normed(m.before, m.width, m.eps, row, row);
    }
    team.wait();

    auto norm = [&](const Norm& which) {
      for (int r = 0; r < rows; ++r) normed(which, m.width, m.eps, x + r * stride, h + r * stride);
    };
    auto add = [&](int r, int j, vec y) {  // what a branch gives, to the stream, or to what the branch was given
      y += m.kept ? load(h + r * stride + j) * float(m.alpha) : load(x + r * stride + j);
      store(x + r * stride + j, y);
    };
    for (int64_t l = 0; l < m.layers; ++l) {
      const Layer& layer = m.layer[l];
      norm(layer.first);
      times(layer.qkv, rows, h, stride, team, own, [&](int r, int j, vec y) { store(ours.qkv + r * stride + j, y); });
      team.wait();
      const int one = begin / tokens, several = (begin + rows - 1) / tokens - one + 1;  // texts that these rows are of
      for (int64_t task = team.from(several * m.groups); task < team.to(several * m.groups); ++task) {
        int text = one + int(task / m.groups), from = std::max(begin, text * tokens);
        int count = std::min(begin + rows, (text + 1) * tokens) - from;
        attend(d, l, first + text, task % m.groups, start + from - text * tokens, count,
               ours.qkv + (from - begin) * stride, ours.z + (from - begin) * stride, stride, own);
      }
      team.wait();
      times(layer.out, rows, ours.z, stride, team, own, add);
      if (!m.parallel) {
        team.wait();
        norm(layer.second);
      }
      if (gated(m.activation)) {
        vec gate{};
        times(layer.up, rows, h, stride, team, own, [&](int r, int j, vec y) {
          if (j / W % 2)
            store(wide + r * stride + j / W / 2 * W, gate * y);
          else
            gate = activated(m.activation, y);
        });
      } else {
        times(layer.up, rows, h, stride, team, own,
              [&](int r, int j, vec y) { store(wide + r * stride + j, activated(m.activation, y)); });
      }
      team.wait();
      times(layer.down, rows, wide, stride, team, own, add);
      team.wait();
    }

    int last = 0;  // of the rows that are a text's last
    const int text = (begin + tokens) / tokens - 1;
    for (int r = 0; r < rows; ++r)
      if ((begin + r) % tokens == tokens - 1) {
        normed(m.last, m.width, m.eps, x + r * stride, h + last * stride);
        normed(m.very_last, m.width, m.eps, h + last * stride, h + last * stride);
        ++last;
      }
    const float* out = h;
    if (m.out_of.panels) {
      times(m.out_of, last, h, stride, team, own, [&](int r, int j, vec y) { store(wide + r * stride + j, y); });
      team.wait();
      out = wide;
    }
    times(m.projection, last, out, stride, team, own,
          [&](int r, int j, vec y) { store(logits + (text + r) * a_logit + j, y); });
    team.wait();
  }
}

// Of a text whose prompt all share, the keys and values, to another.
void copy(Decoder& d, int64_t text, int64_t length) {
  const Model& m = d.model;
  for (int64_t l = 0; l < m.layers; ++l)
    for (int64_t g = 0; g < m.groups; ++g) {
      std::memcpy(d.keys(l, text, g), d.keys(l, 0, g), (length + d.span - 1) / d.span * d.span * m.head * 4);
      std::memcpy(d.values(l, text, g), d.values(l, 0, g), length * padded(int(m.head)) * 4);
    }
}

// e^x in double, for x <= 0, to 1e-15: as `exponential`, with more terms. Below -708 it is 0.
inline dvec precise_exponential(dvec x) {
  dvec shifted = x * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52
  dvec n = shifted - 6755399441055744.0;
  dvec r = x - n * 0.6931471805582987 - n * 1.6465949582897082e-12;  // ln 2 in two parts
  dvec p = dvec{} + 1.0;
  for (int k = 13; k > 0; --k) p = p * (r * (1.0 / k)) + 1.0;
  return x > -708.0 ? p * (dvec)(((lvec)shifted + 1023) << 52) : dvec{};
}

// The next token of a text, as sampling.choose has it, and its log-probability before bias and temperature.
void choose(const Model& m, const float* logits, const Choice& c, int64_t text, Room& own) {
  const int V = int(m.vocabulary), blocks = (V + PANEL - 1) / PANEL;
  float* bent = own.bent;
  vec likeliest = splat(-INFINITY), most = likeliest, total{};
  for (int i = 0; i < V; i += W) {
    vec x = load(logits + i, V - i, -INFINITY), y = c.bias ? x + load(c.bias + i, V - i) : x;
    likeliest = larger(x, likeliest);
    most = larger(y, most);
    store(bent + i, y);
  }
  const float best = largest(most), top = largest(likeliest);
  int chosen = 0;
  if (c.temperature > 0) {  // first the sums before each block of tokens, then those within one
    const float temperature = float(std::max(c.temperature, 1e-30));
    double *odds = own.odds.data(), *before = own.before.data(), all = 0;
    for (int block = 0; block < blocks; ++block) {
      dvec here{};
      for (int i = block * PANEL; i < std::min((block + 1) * PANEL, padded(V)); i += W / 2) {
        dvec x = precise_exponential(__builtin_convertvector((raw<fhalf>(bent + i) - best) / temperature, dvec));
        std::memcpy(odds + i, &x, sizeof x);
        here += x;
      }
      before[block] = all;
      for (int i = 0; i < W / 2; ++i) all += here[i];
    }
    const double aim = c.uniforms[text] * all;
    int block = int(std::upper_bound(before + 1, before + blocks, aim) - before) - 1;
    double reached = before[block];
    for (int i = block * PANEL; i < V && reached <= aim; ++i)
      if (odds[i] > 0) reached += odds[chosen = i];
  } else {
    while (chosen < V - 1 && bent[chosen] != best) ++chosen;
  }
  for (int i = 0; i < V; i += W) total += below(exponential(load(logits + i, V - i) - top), i, V);
  c.chosen[text] = chosen;
  c.logprobs[text] = logits[chosen] - top - std::log(sum(total));
}

}  // namespace

extern "C" {

int64_t gptlab_lanes() { return W; }

// A number that changes with these bytes. Each lane multiplies, adds and turns, so that no bit counts for itself alone.
uint64_t gptlab_digest(const void* const* parts, const int64_t* sizes, int64_t count) {
  constexpr int LANES = 64;
  uint32_t lanes[LANES] = {}, words[LANES];
  auto take = [&](const char* from, int64_t size) {
    std::memcpy(words, from, size);
    for (int i = 0; i < LANES; ++i) {
      uint32_t x = lanes[i] * 0x9e3779b1u + words[i];
      lanes[i] = x << 13 | x >> 19;
    }
  };
  for (int64_t part = 0; part < count; ++part) {
    const char* at = static_cast<const char*>(parts[part]);
    int64_t size = sizes[part];
    for (; size >= int64_t(sizeof words); size -= sizeof words, at += sizeof words) take(at, sizeof words);
    std::memset(words, 0, sizeof words);
    take(at, size);
  }
  uint64_t digest = 0;
  for (uint32_t lane : lanes) digest = digest * 0x9e3779b97f4a7c15u + lane;
  return digest;
}

// Null where memory is short. The model must outlive it.
void* gptlab_decoder(const Model* model, int64_t texts) {
  try {
    return new Decoder(model, int(texts));
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void gptlab_decoder_free(void* decoder) { delete static_cast<Decoder*>(decoder); }

// Read ids (given, tokens) behind the `start` tokens that are held, and give what follows: logits (N, padded V). given:
// N, or 1 for tokens that all N texts share. choice: of the next tokens, or null. 0, or 1 where memory is short.
int64_t gptlab_decoder_read(void* decoder, int64_t start, const int64_t* ids, int64_t given, int64_t tokens,
                            float* logits, const Choice* choice, int64_t threads) {
  Decoder& d = *static_cast<Decoder*>(decoder);
  const Model& m = d.model;
  const int64_t a_logit = m.projection.columns;
  try {
    while (int64_t(d.rooms.size()) < threads) d.rooms.push_back(std::make_unique<Room>(m));
  } catch (const std::bad_alloc&) {
    return 1;
  }
  // What follows for the texts first..last - 1, of which `given` are read by this team; its rooms are ours and own.
  auto texts = [&](int64_t first, int64_t last, Team team, Room& ours, Room& own) {
    int count = int(std::min(last, given) - first);
    read(d, first, count, start, int(tokens), ids + first * tokens, logits + first * a_logit, team, ours, own);
    for (int64_t text = first + team.from(last - first); text < first + team.to(last - first); ++text) {
      if (text >= given) {
        copy(d, text, start + tokens);
        std::memcpy(logits + text * a_logit, logits, a_logit * 4);
      }
      if (choice) choose(m, logits + text * a_logit, *choice, text, own);
    }
  };
  // A small piece of work is done sooner than a second thread begins. The weights of a small model lie in every core's
  // own cache: then each thread has its own texts, and need not wait for others.
  if (threads == 1 || m.parameters * given * tokens < 4'000'000) {
    texts(0, d.texts, {0, 1, nullptr}, *d.rooms[0], *d.rooms[0]);
    return 0;
  }
  const bool apart = given >= threads && m.parameters <= 1'000'000;
  Gate gate;
#pragma omp parallel num_threads(int(threads))
  {
    Team team{omp_get_thread_num(), omp_get_num_threads(), &gate};
    Room& own = *d.rooms[team.rank];
    if (apart)
      texts(team.from(given), team.to(given), {0, 1, nullptr}, own, own);
    else
      texts(0, d.texts, team, *d.rooms[0], own);
  }
  return 0;
}

}  // extern "C"
