// Products of few rows with weights as PyTorch holds them, in float32, and how threads share them.

#pragma once

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

enum Kind : int32_t { FLOAT32, BF16, INT8, INT4 };

// [out, width]; bias is [out] or null. Scales: of INT8 float32 [out]; of INT4 pairs of bf16 [width / group, out], the
// scale and what level 8 stands for; else null. INT4's values are in PyTorch's order for AVX512: 64 rows together, and
// of each k the rows 0 ... 31 in the low halves of 32 bytes and 32 ... 63 in the high ones; of fewer rows, pairs.
struct Matrix {
    const void *values, *scales;
    const float *bias;
    int64_t out, width;
    int32_t kind, group;
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

static inline float from_bf16(uint32_t bits) {
    bits <<= 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

template <Kind kind> static inline float load_one(const char *p) {
    if constexpr (kind == FLOAT32) return *reinterpret_cast<const float *>(p);
    if constexpr (kind == INT8) return *reinterpret_cast<const int8_t *>(p);
    return from_bf16(*reinterpret_cast<const uint16_t *>(p));
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
    const Four scales = four(m.scales ? static_cast<const float *>(m.scales) + out : nullptr, count, 1);
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

constexpr int BLOCK = 64;  // rows of W that INT4 keeps together

#if defined(__AVX512F__)
// sums [rows, 64] of levels times x over one group.
template <int rows>
static inline void levels_times(const uint8_t *packed, int64_t group, int64_t width, const float *x,
                                float (*sums)[BLOCK]) {
    Floats held[rows * 4] = {};
    const __m128i low = _mm_set1_epi8(15);
    for (int64_t k = 0; k < group; k++) {
        const __m128i a = _mm_loadu_si128((const __m128i *)(packed + k * 32));
        const __m128i b = _mm_loadu_si128((const __m128i *)(packed + k * 32 + 16));
        const __m128i parts[4] = {_mm_and_si128(a, low), _mm_and_si128(b, low),
                                  _mm_and_si128(_mm_srli_epi16(a, 4), low), _mm_and_si128(_mm_srli_epi16(b, 4), low)};
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            Floats levels = (Floats)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(parts[i]));
            hold(levels);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) held[r * 4 + i] += levels * x[r * width + k];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < 4; i++) vector_at(sums[r] + i * 16) = held[r * 4 + i];
}
#endif

// `rows` rows of x times `count` rows of W from `out` on, which lie together.
template <int rows>
static void block_of_int4(const Matrix &m, const float *x, float *y, int64_t out, int64_t count, bool add) {
    const uint8_t *packed = static_cast<const uint8_t *>(m.values) + out * m.width / 2;
    float found[rows][BLOCK] = {};
    for (int64_t begin = 0; begin < m.width; begin += m.group) {
        float sums[rows][BLOCK] = {}, x_sums[rows] = {};
        const uint32_t *pairs = static_cast<const uint32_t *>(m.scales) + begin / m.group * m.out + out;
        for (int r = 0; r < rows; r++)
            for (int64_t k = begin; k < begin + m.group; k++) x_sums[r] += x[r * m.width + k];
#if defined(__AVX512F__)
        if (count == BLOCK) levels_times<rows>(packed + begin * 32, m.group, m.width, x + begin, sums);
        else
#endif
        for (int64_t k = begin; k < begin + m.group; k++)
            for (int64_t n = 0; n < count; n++) {
                const bool whole = count == BLOCK, high = whole ? n >= 32 : n % 2;
                const uint8_t byte = packed[k * count / 2 + (whole ? n % 32 : n / 2)];
                const float level = high ? byte >> 4 : byte & 15;
                for (int r = 0; r < rows; r++) sums[r][n] += level * x[r * m.width + k];
            }
        for (int r = 0; r < rows; r++)
            for (int64_t n = 0; n < count; n++) {
                const float scale = from_bf16(pairs[n]), middle = from_bf16(pairs[n] >> 16);
                found[r][n] += scale * (sums[r][n] - 8 * x_sums[r]) + middle * x_sums[r];
            }
    }
    for (int r = 0; r < rows; r++)
        for (int64_t n = 0; n < count; n++) {
            float &place = y[r * m.out + out + n];
            place = found[r][n] + (m.bias ? m.bias[out + n] : 0) + (add ? place : 0);
        }
}

static void product_of_int4(const Matrix &m, Range outs, const float *x, float *y, int64_t rows, bool add) {
    for (int64_t out = outs.begin; out < outs.end; out += BLOCK) {
        const int64_t count = m.out - out < BLOCK ? m.out - out : BLOCK;
        int64_t row = 0;
        for (; row + OUT <= rows; row += OUT)
            block_of_int4<OUT>(m, x + row * m.width, y + row * m.out, out, count, add);
        for (; row < rows; row++) block_of_int4<1>(m, x + row * m.width, y + row * m.out, out, count, add);
    }
}

// y [rows, out] = x W^T + bias, or y += that; each thread its share of the columns.
static void product(const Team &team, const Matrix &m, const float *x, float *y, int64_t rows, bool add = false) {
    const Range mine = team.share(m.out, m.kind == INT4 ? BLOCK : OUT);
    if (m.kind == FLOAT32) product_of<FLOAT32>(m, mine, x, y, rows, add);
    else if (m.kind == BF16) product_of<BF16>(m, mine, x, y, rows, add);
    else if (m.kind == INT8) product_of<INT8>(m, mine, x, y, rows, add);
    else product_of_int4(m, mine, x, y, rows, add);
    team.meet();
}

template <Kind kind> static void row_of(const Matrix &m, int64_t row, float *x) {
    const char *from = static_cast<const char *>(m.values) + row * m.width * bytes_of(kind);
    const float scale = m.scales ? static_cast<const float *>(m.scales)[row] : 1;
    for (int64_t i = 0; i < m.width; i++) x[i] = load_one<kind>(from + i * bytes_of(kind)) * scale;
}

static void embed(const Matrix &m, int64_t token, float *x) {
    if (m.kind == FLOAT32) row_of<FLOAT32>(m, token, x);
    else if (m.kind == BF16) row_of<BF16>(m, token, x);
    else row_of<INT8>(m, token, x);
}
