// One decoding step of a decoder on a CPU in one call; what `Decoder.forward` computes, in float32 between the weights.
// The structs are those of step_cpu.py, field by field.

#include "products_cpu.h"

struct Slot {
    Matrix weight, a, b;    // of all adapters: A's below each other, B's side by side
    const int32_t *owner;   // [rows of A] whose each is; null where there are none
};

struct Layer {
    Slot qkv, o, gate_up, down;
    const float *attention_norm, *mlp_norm, *q_norm, *k_norm;  // the last two may be null
    float *keys, *values;                                      // [rows, kv_heads, length, head]
};

struct Model {
    Matrix embed, head;
    const Layer *layers;
    const float *norm, *cos, *sin;  // cosines and sines [length, head / 2]
    int64_t layer_count, kv_heads, queries, head_size, length, window;  // queries of one key-value head; window or 0
    float norm_eps, head_norm_eps;
    int32_t gelu;
};

struct Work {  // of floats, [rows, ...]; scores [threads, queries, length]
    float *x, *normed, *wide, *attended, *inner, *low, *scores;
};

struct Picks {
    const float *of;  // [rows, count] of 0 and 1: which adapters each row takes; null: none takes any
    int64_t count;
};

static inline float dot(const float *a, const float *b, int64_t size) {
    Floats sums = {};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) sums += vector_at(a + i) * vector_at(b + i);
    float sum = i ? total(sums) : 0;
    for (; i < size; i++) sum += a[i] * b[i];
    return sum;
}

static void rms_norm(const float *x, const float *weight, float eps, int64_t size, float *y) {
    const float inverse = 1 / std::sqrt(dot(x, x, size) / float(size) + eps);
    for (int64_t i = 0; i < size; i++) y[i] = x[i] * inverse * weight[i];
}

// e^x to float32's last bit or two (Cody and Waite's reduction, Cephes' polynomial); NaN stays NaN.
static inline Floats exponential(Floats x) {
    const Floats low = Floats{} - 87.0f, high = Floats{} + 88.0f;
    x = x < low ? low : x > high ? high : x;
    const Floats shift = Floats{} + 12582912.0f, n = (x * 1.44269504f + shift) - shift;
    const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * reinterpret_cast<Floats>((__builtin_convertvector(n, Ints) + 127) << 23);
}

static void gate(const float *gate_up, int64_t size, bool gelu, float *inner) {
    const float *up = gate_up + size;
    int64_t i = 0;
    for (; !gelu && i + LANES <= size; i += LANES) {
        const Floats x = vector_at(gate_up + i);
        vector_at(inner + i) = x / (1.0f + exponential(-x)) * vector_at(up + i);
    }
    for (; i < size; i++) {
        const float x = gate_up[i];
        inner[i] = up[i] * x * (gelu ? 0.5f * (1 + std::erf(x * 0.70710678f)) : 1 / (1 + std::exp(-x)));
    }
}

static void rotate(float *x, const float *cos, const float *sin, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

// The softmax of scale * scores [count] times values [count, size].
static void weigh(float *scores, int64_t count, float scale, const float *values, int64_t size, float *o) {
    float most = -INFINITY, sum = 0;
    for (int64_t t = 0; t < count; t++) most = scores[t] > most ? scores[t] : most;
    int64_t t = 0;
    Floats sums = {};
    for (; t + LANES <= count; t += LANES) {
        vector_at(scores + t) = exponential((vector_at(scores + t) - most) * scale);
        sums += vector_at(scores + t);
    }
    for (; t < count; t++) sum += scores[t] = std::exp((scores[t] - most) * scale);
    const float inverse = 1 / (sum + total(sums));
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        Floats even = {}, odd = {};
        for (t = 0; t + 2 <= count; t += 2) {
            even += scores[t] * vector_at(values + t * size + i);
            odd += scores[t + 1] * vector_at(values + (t + 1) * size + i);
        }
        if (t < count) even += scores[t] * vector_at(values + t * size + i);
        vector_at(o + i) = (even + odd) * inverse;
    }
    for (; i < size; i++) {
        o[i] = 0;
        for (t = 0; t < count; t++) o[i] += scores[t] * values[t * size + i];
        o[i] *= inverse;
    }
}

// One key-value head of one row: its queries and its key turned, key and value kept, and what the queries read.
static void attend(const Model &m, const Layer &layer, float *q, float *o, int64_t place, int64_t head, float *scores) {
    const int64_t size = m.head_size, half = size / 2;
    float *k = q + m.queries * size, *v = k + size;
    for (int64_t i = 0; i <= m.queries; i++) {
        const float *norm = i < m.queries ? layer.q_norm : layer.k_norm;
        if (norm) rms_norm(q + i * size, norm, m.head_norm_eps, size, q + i * size);
        rotate(q + i * size, m.cos + place * half, m.sin + place * half, half);
    }
    float *keys = layer.keys + head * m.length * size, *values = layer.values + head * m.length * size;
    for (int64_t i = 0; i < size; i++) keys[place * size + i] = k[i], values[place * size + i] = v[i];
    const int64_t begin = m.window && place >= m.window ? place - m.window + 1 : 0, count = place + 1 - begin;
    const Matrix seen = {keys + begin * size, nullptr, nullptr, count, size, FLOAT32, 0};
    product_of<FLOAT32>(seen, {0, count}, q, scores, m.queries, false);
    for (int64_t i = 0; i < m.queries; i++)
        weigh(scores + i * count, count, 1 / std::sqrt(float(size)), values + begin * size, size, o + i * size);
}

static void normed(const Team &team, const float *x, const float *weight, float eps, int64_t size, int64_t rows,
                   float *y) {
    const Range mine = team.share(rows);
    for (int64_t row = mine.begin; row < mine.end; row++) rms_norm(x + row * size, weight, eps, size, y + row * size);
    team.meet();
}

// y = x W^T + bias, or y += that, and what the adapters add that the rows take.
static void project(const Team &team, const Slot &slot, const Picks &picks, float *low, const float *x, float *y,
                    int64_t rows, bool add = false) {
    product(team, slot.weight, x, y, rows, add);
    if (!picks.of || !slot.owner) return;
    product(team, slot.a, x, low, rows);
    const Range mine = team.share(rows);
    for (int64_t row = mine.begin; row < mine.end; row++)
        for (int64_t i = 0; i < slot.a.out; i++) low[row * slot.a.out + i] *= picks.of[row * picks.count + slot.owner[i]];
    team.meet();
    product(team, slot.b, low, y, rows, true);
}

static void step(const Team &team, const Model &m, const Work &work, const Picks &picks, const int64_t *tokens,
                 const int64_t *places, int64_t rows, float *logits) {
    const int64_t width = m.embed.width;
    const int64_t grouped = (m.queries + 2) * m.head_size;
    const Range mine = team.share(rows), heads = team.share(rows * m.kv_heads);
    for (int64_t row = mine.begin; row < mine.end; row++) embed(m.embed, tokens[row], work.x + row * width);
    for (int64_t number = 0; number < m.layer_count; number++) {
        const Layer &layer = m.layers[number];
        normed(team, work.x, layer.attention_norm, m.norm_eps, width, rows, work.normed);
        project(team, layer.qkv, picks, work.low, work.normed, work.wide, rows);
        for (int64_t i = heads.begin; i < heads.end; i++)
            attend(m, layer, work.wide + i * grouped, work.attended + i * m.queries * m.head_size,
                   places[i / m.kv_heads], i, work.scores + team.me * m.queries * m.length);
        team.meet();
        project(team, layer.o, picks, work.low, work.attended, work.x, rows, true);
        normed(team, work.x, layer.mlp_norm, m.norm_eps, width, rows, work.normed);
        project(team, layer.gate_up, picks, work.low, work.normed, work.wide, rows);
        const int64_t size = layer.down.weight.width;
        for (int64_t row = mine.begin; row < mine.end; row++)
            gate(work.wide + row * 2 * size, size, m.gelu, work.inner + row * size);
        team.meet();
        project(team, layer.down, picks, work.low, work.inner, work.x, rows, true);
    }
    normed(team, work.x, m.norm, m.norm_eps, width, rows, work.normed);
    product(team, m.head, work.normed, logits, rows);
}

extern "C" void danlu_step(const Model *m, const Work *work, const Picks *picks, const int64_t *tokens,
                          const int64_t *places, int64_t rows, float *logits, int threads) {
    Barrier barrier;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    step({omp_get_thread_num(), omp_get_num_threads(), &barrier}, *m, *work, *picks, tokens, places, rows, logits);
#else
    step({0, 1, &barrier}, *m, *work, *picks, tokens, places, rows, logits);
#endif
}
