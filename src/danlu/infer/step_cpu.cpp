// One decoding step of a decoder on a CPU in one call; what `Decoder.forward` computes, in float32 between the weights.
// Weights are read where they lie, as PyTorch holds them. The structs are those of step_cpu.py, field by field.

#include <atomic>
#include <cmath>
#include <cstdint>
#include <sched.h>
#include <utility>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#elif defined(__x86_64__)
#error "this processor has no AVX2, and PyTorch's own products are quicker there"
#else
constexpr int LANES = 4;
#endif
constexpr int OUT = 4, ROWS = LANES / OUT;  // rows of W and of x whose sums, a vector each, are made at once
constexpr int SPINS = 2000;                         // looks at a barrier before another thread may have the core

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
typedef float Floats __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef int8_t Bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

enum Kind : int32_t { FLOAT32, BF16, INT8 };

struct Matrix {  // [out, width]; scales (int8) and bias are [out] or null
    const void *values;
    const float *scales, *bias;
    int64_t out, width;
    int32_t kind;
};

struct Layer {
    Matrix qkv, o, gate_up, down;
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
    float *x, *normed, *wide, *attended, *inner, *scores;
};

struct Barrier {
    std::atomic<int> arrived{0}, round{0};
    void meet(int threads) {
        const int now = round.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(now + 1, std::memory_order_release);
            return;
        }
        for (int looks = 0; round.load(std::memory_order_acquire) == now; looks++)
            if (looks > SPINS) sched_yield();
    }
};

struct Range { int64_t begin, end; };

struct Team {
    int me, threads;
    Barrier *barrier;
    void meet() const { if (threads > 1) barrier->meet(threads); }
    Range share(int64_t count, int64_t unit = 1) const {
        const int64_t units = (count + unit - 1) / unit, begin = units * me / threads * unit;
        const int64_t end = units * (me + 1) / threads * unit;
        return {begin, end < count ? end : count};
    }
};

template <int... lanes> static inline Floats pick(Floats a, Floats b) {
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(a, b, lanes...);
#else
    return __builtin_shuffle(a, b, Ints{lanes...});
#endif
}

// Lane i: the lanes i and i ^ step of a added where that bit of i is 0, of b where it is 1.
template <int step, int... i> static inline Floats folded(Floats a, Floats b, std::integer_sequence<int, i...>) {
    return pick<(i & step ? LANES + i : i)...>(a, b) + pick<(i & step ? LANES + (i ^ step) : i ^ step)...>(a, b);
}

// The sums over the lanes of `count` vectors, in lanes 0 ... count - 1; count is a power of two up to LANES.
template <int count, int step = 1> static inline Floats totals(Floats *v) {
    constexpr int left = count > 1 ? count / 2 : 1;
    for (int i = 0; i < left; i++)
        v[i] = folded<step>(v[count > 1 ? 2 * i : i], v[count > 1 ? 2 * i + 1 : i],
                            std::make_integer_sequence<int, LANES>());
    if constexpr (2 * step < LANES) return totals<left, 2 * step>(v);
    return v[0];
}

static inline float total(Floats v) { return totals<1>(&v)[0]; }

static inline const Floats &vector_at(const float *p) { return *reinterpret_cast<const Floats *>(p); }
static inline Floats &vector_at(float *p) { return *reinterpret_cast<Floats *>(p); }

constexpr int64_t bytes_of(Kind kind) { return kind == FLOAT32 ? 4 : kind == BF16 ? 2 : 1; }

template <Kind kind> static inline Floats load(const char *p) {
    if constexpr (kind == FLOAT32) return *reinterpret_cast<const Floats *>(p);
    // GCC takes the conversions of the last lines apart, value by value.
#if defined(__AVX512F__)
    if constexpr (kind == BF16)
        return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
    if constexpr (kind == INT8)
        return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
#elif defined(__AVX2__)
    if constexpr (kind == BF16)
        return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
    if constexpr (kind == INT8)
        return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
#else
    if constexpr (kind == BF16) {
        const Halves h = *reinterpret_cast<const Halves *>(p);
        return reinterpret_cast<Floats>(__builtin_convertvector(h, Ints) << 16);
    }
    const Bytes b = *reinterpret_cast<const Bytes *>(p);
    return __builtin_convertvector(__builtin_convertvector(b, Ints), Floats);
#endif
}

template <Kind kind> static inline float load_one(const char *p) {
    if constexpr (kind == FLOAT32) return *reinterpret_cast<const float *>(p);
    if constexpr (kind == INT8) return *reinterpret_cast<const int8_t *>(p);
    const uint32_t bits = uint32_t(*reinterpret_cast<const uint16_t *>(p)) << 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

// Keeps a value in a register, where GCC would read it from memory again for each use.
static inline void hold(Floats &v) {
#if defined(__x86_64__)
    asm("" : "+v"(v));
#endif
}

static inline Four four(const float *p, int64_t count, float otherwise) {
    if (!p) return Four{} + otherwise;
    if (count >= OUT) return *reinterpret_cast<const Four *>(p);
    Four v = {};
    for (int64_t i = 0; i < count; i++) v[i] = p[i];
    return v;
}

// `rows` rows of x times the rows out ... out + 3 of W, of which those from `end` on are not there.
template <Kind kind, int rows>
static inline void tile(const Matrix &m, const float *x, float *y, int64_t out, int64_t end, bool add) {
    constexpr int64_t bytes = bytes_of(kind);
    const int64_t count = end - out < OUT ? end - out : OUT, ahead = OUT * m.width * bytes;
    const char *w[OUT];
    for (int o = 0; o < OUT; o++)
        w[o] = static_cast<const char *>(m.values) + (out + (o < count ? o : count - 1)) * m.width * bytes;
    Floats sums[rows * OUT] = {};
    int64_t i = 0;
    for (; i + LANES <= m.width; i += LANES) {
        Floats weights[OUT];
#pragma GCC unroll 4
        for (int o = 0; o < OUT; o++) {
            __builtin_prefetch(w[o] + i * bytes + ahead);
            hold(weights[o] = load<kind>(w[o] + i * bytes));
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            Floats v = vector_at(x + r * m.width + i);
            hold(v);
#pragma GCC unroll 4
            for (int o = 0; o < OUT; o++) sums[r * OUT + o] += weights[o] * v;
        }
    }
    float found[LANES];
    vector_at(found) = totals<rows * OUT>(sums);
    for (; i < m.width; i++)
        for (int r = 0; r < rows; r++)
            for (int o = 0; o < OUT; o++) found[r * OUT + o] += load_one<kind>(w[o] + i * bytes) * x[r * m.width + i];
    const Four scales = four(m.scales ? m.scales + out : nullptr, count, 1);
    const Four bias = four(m.bias ? m.bias + out : nullptr, count, 0);
    for (int r = 0; r < rows; r++) {
        float *place = y + r * m.out + out;
        const Four sum = *reinterpret_cast<const Four *>(found + r * OUT) * scales + bias;
        if (count == OUT) *reinterpret_cast<Four *>(place) = add ? *reinterpret_cast<const Four *>(place) + sum : sum;
        else
            for (int64_t o = 0; o < count; o++) place[o] = add ? place[o] + sum[o] : sum[o];
    }
}

template <Kind kind>
static void product_of(const Matrix &m, Range outs, const float *x, float *y, int64_t rows, bool add) {
    for (int64_t out = outs.begin; out < outs.end; out += OUT) {
        int64_t row = 0;
        for (; row + ROWS <= rows; row += ROWS)
            tile<kind, ROWS>(m, x + row * m.width, y + row * m.out, out, outs.end, add);
        for (; row < rows; row++) tile<kind, 1>(m, x + row * m.width, y + row * m.out, out, outs.end, add);
    }
}

// y [rows, out] = x W^T + bias, or y += that; each thread its share of the columns.
static void product(const Team &team, const Matrix &m, const float *x, float *y, int64_t rows, bool add = false) {
    const Range mine = team.share(m.out, OUT);
    if (m.kind == FLOAT32) product_of<FLOAT32>(m, mine, x, y, rows, add);
    else if (m.kind == BF16) product_of<BF16>(m, mine, x, y, rows, add);
    else product_of<INT8>(m, mine, x, y, rows, add);
    team.meet();
}

template <Kind kind> static void row_of(const Matrix &m, int64_t row, float *x) {
    const char *from = static_cast<const char *>(m.values) + row * m.width * bytes_of(kind);
    const float scale = m.scales ? m.scales[row] : 1;
    for (int64_t i = 0; i < m.width; i++) x[i] = load_one<kind>(from + i * bytes_of(kind)) * scale;
}

static void embed(const Matrix &m, int64_t token, float *x) {
    if (m.kind == FLOAT32) row_of<FLOAT32>(m, token, x);
    else if (m.kind == BF16) row_of<BF16>(m, token, x);
    else row_of<INT8>(m, token, x);
}

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
    const Matrix seen = {keys + begin * size, nullptr, nullptr, count, size, FLOAT32};
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

static void step(const Team &team, const Model &m, const Work &work, const int64_t *tokens, const int64_t *places,
                 int64_t rows, float *logits) {
    const int64_t width = m.embed.width;
    const int64_t grouped = (m.queries + 2) * m.head_size;
    const Range mine = team.share(rows), heads = team.share(rows * m.kv_heads);
    for (int64_t row = mine.begin; row < mine.end; row++) embed(m.embed, tokens[row], work.x + row * width);
    for (int64_t number = 0; number < m.layer_count; number++) {
        const Layer &layer = m.layers[number];
        normed(team, work.x, layer.attention_norm, m.norm_eps, width, rows, work.normed);
        product(team, layer.qkv, work.normed, work.wide, rows);
        for (int64_t i = heads.begin; i < heads.end; i++)
            attend(m, layer, work.wide + i * grouped, work.attended + i * m.queries * m.head_size,
                   places[i / m.kv_heads], i, work.scores + team.me * m.queries * m.length);
        team.meet();
        product(team, layer.o, work.attended, work.x, rows, true);
        normed(team, work.x, layer.mlp_norm, m.norm_eps, width, rows, work.normed);
        product(team, layer.gate_up, work.normed, work.wide, rows);
        const int64_t size = layer.down.width;
        for (int64_t row = mine.begin; row < mine.end; row++)
            gate(work.wide + row * 2 * size, size, m.gelu, work.inner + row * size);
        team.meet();
        product(team, layer.down, work.inner, work.x, rows, true);
    }
    normed(team, work.x, m.norm, m.norm_eps, width, rows, work.normed);
    product(team, m.head, work.normed, logits, rows);
}

extern "C" void danlu_step(const Model *m, const Work *work, const int64_t *tokens, const int64_t *places, int64_t rows,
                          float *logits, int threads) {
    Barrier barrier;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
    step({omp_get_thread_num(), omp_get_num_threads(), &barrier}, *m, *work, tokens, places, rows, logits);
#else
    step({0, 1, &barrier}, *m, *work, tokens, places, rows, logits);
#endif
}
