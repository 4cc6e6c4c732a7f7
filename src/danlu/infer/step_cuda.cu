// A decoding step of one row as one kernel: a program a multiprocessor, each with its share of the rows of every
// weight. One warp fetches weights into a ring in shared memory, as fast as memory gives them and far ahead of their
// use, so that memory works on while programs wait for one another; the other warps multiply.
//
// Set by step_cuda.py: PROGRAMS, MEMORY (of a program, in bytes), WARPS (of a program, that multiply), GROUP (rows whose
// sums it puts together at once), PIECES (of the keys, at most), PATIENCE (how often a word is asked for); of the model
// LAYERS, HIDDEN, MLP, VOCAB, KV_HEADS, QUERIES (heads that share a key), HEAD (its size), BIASED, QK_NORM, BLOCK_BITS (of
// the blocks' weights) and END_BITS (of embedding and head).

#include "hopper.cuh"

constexpr int THREADS = 32 * WARPS;              // that multiply
constexpr int TILE = 8, ROW_BYTES = 2048;         // rows of a tile, bytes of weights in one of them
constexpr int PITCH = ROW_BYTES + (BLOCK_BITS == 4 ? ROW_BYTES / 8 : 0) + 64;  // from row to row: two lie in other banks
constexpr int CHUNKS = ROW_BYTES / WARPS / 64;   // of 64 bytes, a warp's share of a row
// Tiles on their way at once. More would hold words up, which is what narrow layers wait for; the head waits for none.
constexpr int FLIGHT = HIDDEN > 1024 && BLOCK_BITS > 4 ? 3 : 2, LAST_FLIGHT = 3;
constexpr int KEYS = 8 * WARPS;                  // that a program sees at once
constexpr int PIECE = HEAD > 64 ? 128 : 64;      // keys of a piece, unless there are more than so many pieces
constexpr int HEADS = KV_HEADS * QUERIES, OWN = HEADS * HEAD, QKV = OWN + 2 * KV_HEADS * HEAD;
constexpr int SPANS = (HIDDEN + 4 * THREADS - 1) / (4 * THREADS);
constexpr int PAIRS = HEAD / 64;  // of elements of a value that a lane mixes

constexpr int larger(int a, int b) { return a > b ? a : b; }
constexpr int smaller(int a, int b) { return a < b ? a : b; }

constexpr int WIDEST = larger(HIDDEN, larger(OWN, MLP));
static_assert(larger(QKV, larger(HIDDEN, 2 * MLP)) <= GROUP * PROGRAMS - 2 * PROGRAMS, "too many rows for a program");
static_assert(HIDDEN >= PROGRAMS && MLP >= PROGRAMS && KV_HEADS <= PROGRAMS, "too few rows for all programs");
static_assert(GROUP % (2 * TILE) == 0 && GROUP <= THREADS, "");
static_assert(LAYERS > 1 && LAYERS < 256 && QUERIES <= 8 && HEAD % 64 == 0, "");

struct Weight {  // of 16, 8 or 4 bits; scales float32 [rows], or of each group of 64 a scale and a middle in bf16
    const void *values, *scales;
};

struct Layer {
    const bf16 *attention_norm, *bias, *q_norm, *k_norm, *mlp_norm;
    Weight qkv, o, gate_up, down;
    bf16 *keys, *values;  // [L, KV_HEADS, HEAD]
};

struct Model {
    const Layer* layers;
    Weight embed, head;
    const bf16* norm;
    const float *cos, *sin;   // [L, HEAD / 2]
    const long long* inputs;  // the token, its position
    u32 *qkv, *pieces, *shares, *middle, *inner, *x;  // words
    u32* lost;  // not 0 when a program has waited in vain: none waits for words any more, and logits are NaN
    bf16* logits;
    float eps, head_eps;
    int window;
};

struct Attention {
    alignas(16) bf16 query[2][8][HEAD], fresh[2][HEAD];  // as two parts each; key and value
    alignas(16) float shares[WARPS][9][8], mixed[WARPS][QUERIES][HEAD + 2];
};

constexpr int DIGITS = 3;
constexpr float BASE = 254;  // of digits from -127 to 127

union X {  // what products take in, as products_bf16.cuh and products_integers.cuh keep it
    u32 parts[2][WIDEST / 2];
    struct {
        signed char digits[DIGITS][WIDEST];
        float scales[WIDEST / 64 + 1];
    };
};

struct Work {
    alignas(16) X x;
    Attention attention;
    alignas(16) float parts[2][GROUP][WARPS];
    alignas(16) float squares[WARPS];
    Layer layers[LAYERS];
};

constexpr int STAGES = (MEMORY - (int)sizeof(Work) - 128) / (TILE * PITCH + 16);
static_assert(STAGES > 3, "the rows are too wide");

struct Shared : Work {
    Barrier full[STAGES], empty[STAGES];
    alignas(128) unsigned char ring[STAGES][TILE][PITCH];
};
static_assert(sizeof(Shared) <= MEMORY, "");

#include "words.cuh"
#include "products_row.cuh"

// ---- What products take in

struct Scales {  // of a norm, for the elements that this thread takes
    uint2 held[SPANS];
    void fetch(const bf16* norm) {
#pragma unroll
        for (int span = 0; span < SPANS; ++span) {
            const int at = 4 * (span * THREADS + threadIdx.x);
            held[span] = at < HIDDEN ? fetch8(norm + at) : make_uint2(0, 0);
        }
    }
};

// x times the norm's weight; what it is to be divided by, `root` tells.
template <int BITS>
struct Scaled {
    Shared& s;
    const Scales& scales;
    float square = 0;
    void take(int span, int at, float4 x) {
        const uint2 by = scales.held[span];
        square += x.x * x.x + x.y * x.y + (x.z * x.z + x.w * x.w);
        keep<BITS>(s, at, make_float4(x.x * low(by.x), x.y * high(by.x), x.z * low(by.y), x.w * high(by.y)));
    }
    void done() {
        sync<THREADS>();  // the square is needed later than x
        for (int step = 16; step > 0; step /= 2) square += __shfl_xor_sync(~0u, square, step);
        if (threadIdx.x % 32 == 0) s.squares[threadIdx.x / 32] = square;
    }
};

template <int BITS>
void take_scaled(Shared& s, const Scales& scales, const u32* words, u32 number, Patience patience) {
    Scaled<BITS> scaled{s, scales};
    ask_all<SPANS>(words, HIDDEN, number, patience, [&](int span, int at, float4 x) { scaled.take(span, at, x); });
    scaled.done();
}

// Four elements of a token's embedding.
float4 embedding(const Model& m, size_t token, int at) {
    const size_t from = token * HIDDEN + at;
    if (END_BITS == 16) {
        const uint2 x = fetch8((const bf16*)m.embed.values + from);
        return make_float4(low(x.x), high(x.x), low(x.y), high(x.y));
    }
    const u32 bytes = fetch4((const char*)m.embed.values + from);
    const float scale = __uint_as_float(fetch4((const float*)m.embed.scales + token));
    float x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = single(rounded(scale * (signed char)(bytes >> 8 * i)));
    return make_float4(x[0], x[1], x[2], x[3]);
}

void take_embedded(Shared& s, const Scales& scales, const Model& m) {
    Scaled<BLOCK_BITS> scaled{s, scales};
#pragma unroll
    for (int span = 0; span < SPANS; ++span) {
        const int at = 4 * (span * THREADS + threadIdx.x);
        if (at >= HIDDEN) break;
        scaled.take(span, at, embedding(m, m.inputs[0], at));
    }
    scaled.done();
}

float root(const Shared& s, float eps) {
    float square = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) square += s.squares[warp];
    return rsqrtf(square / HIDDEN + eps);
}

#include "attention_row.cuh"

// ---- The step

struct Rows {  // this program's share
    int first, count;
    Rows(int of) : first((int)((long long)of * blockIdx.x / PROGRAMS)) {
        count = (int)((long long)of * (blockIdx.x + 1) / PROGRAMS) - first;
    }
};

void fetch_all(Shared& s, const Model& m) {
    const Rows qkv(QKV), hidden(HIDDEN), mlp(MLP), vocabulary(VOCAB);
    Ahead place;
#pragma unroll 1
    for (int layer = 0; layer < LAYERS; ++layer) {
        const Layer& of = s.layers[layer];
        fetch<BLOCK_BITS, HIDDEN>(s, place, of.qkv, qkv.first, qkv.count);
        fetch<BLOCK_BITS, OWN>(s, place, of.o, hidden.first, hidden.count);
        fetch<BLOCK_BITS, HIDDEN>(s, place, of.gate_up, mlp.first, 2 * mlp.count, mlp.count, MLP - mlp.count);
        fetch<BLOCK_BITS, MLP>(s, place, of.down, hidden.first, hidden.count);
    }
    place.most = LAST_FLIGHT;
    fetch<END_BITS, HIDDEN>(s, place, m.head, vocabulary.first, vocabulary.count);
}

void bring_scales(const Layer& layer) {
    const Rows qkv(QKV), hidden(HIDDEN), mlp(MLP);
    auto lines = [](const void* scales, int first, int count) {  // of 32 scales
        const int at = 32 * (int)threadIdx.x;
        if (at < count + 31) bring((const float*)scales + first + min(at, count - 1));
    };
    lines(layer.qkv.scales, qkv.first, qkv.count), lines(layer.o.scales, hidden.first, hidden.count);
    lines(layer.gate_up.scales, mlp.first, mlp.count), lines(layer.gate_up.scales, MLP + mlp.first, mlp.count);
    lines(layer.down.scales, hidden.first, hidden.count);
}

// What a layer reads beside its weights: memory itself is busy with weights.
void bring_all(const Layer& layer, const Attended& a, const Rows& qkv) {
    const int thread = threadIdx.x;
    if (blockIdx.x == PROGRAMS - 1 && thread < (HIDDEN + 63) / 64)
        bring(layer.attention_norm + 64 * thread), bring(layer.mlp_norm + 64 * thread);
    if (BIASED && thread < 2) bring(layer.bias + qkv.first + thread * (qkv.count - 1));
    if (BLOCK_BITS == 8) bring_scales(layer);
    if (!a.here()) return;
    if (QK_NORM && thread < HEAD / 64) bring(layer.q_norm + 64 * thread), bring(layer.k_norm + 64 * thread);
    for (int i = thread; i < min(2 * KEYS, a.stop - a.start) * (HEAD / 64); i += THREADS) {
        const size_t at = ((size_t)(a.start + i / (HEAD / 64)) * KV_HEADS + a.head) * HEAD + i % (HEAD / 64) * 64;
        bring(layer.keys + at), bring(layer.values + at);
    }
}

// The scale of a row of a weight of 8 bits; asked for before the row's products are there.
template <int BITS>
float scale_of(Weight weight, int row, bool mine) {
    return BITS == 8 && mine ? __uint_as_float(fetch4((const float*)weight.scales + row)) : 1.0f;
}

void multiply_all(Shared& s, const Model& m) {
    const Rows qkv(QKV), hidden(HIDDEN), mlp(MLP), vocabulary(VOCAB);
    const int thread = threadIdx.x;
    const Attended a((int)m.inputs[1], m.window);
    float residual = 0;
    if (thread < hidden.count) {
        const int at = hidden.first + thread;
        const float4 four = embedding(m, m.inputs[0], at & ~3);
        residual = at & 2 ? (at & 1 ? four.w : four.z) : at & 1 ? four.y : four.x;
    }
    Place place;
    const Turn by(m, a.place);
    Scales scales;
    scales.fetch(s.layers[0].attention_norm);
    auto own = [&](Weight weight, const Rows& rows) {
        return [&, weight](int first, int count) {
            return make_float2(scale_of<BLOCK_BITS>(weight, rows.first + first + thread, thread < count), 0.0f);
        };
    };
    auto grow = [&](u32* to, u32 number) {
        return [&, to, number](int first, int count, auto total, float2 given) {
            if (thread >= count) return;
            residual += total(thread) * given.x, publish(to + hidden.first + thread, residual, number);
        };
    };
#pragma unroll 1
    for (int layer = 0; layer < LAYERS; ++layer) {
        const Layer& of = s.layers[layer];
        const u32 number = layer + 1;
        if (layer + 1 < LAYERS) bring_all(s.layers[layer + 1], a, qkv);
        const float bias = BIASED && thread < qkv.count ? single(of.bias[qkv.first + thread]) : 0.0f;
        if (layer) take_scaled<BLOCK_BITS>(s, scales, m.x, layer, {m.lost});
        else take_embedded(s, scales, m);
        products<BLOCK_BITS, HIDDEN>(s, place, qkv.count, own(of.qkv, qkv), [&](int, int count, auto total, float2 given) {
            if (thread >= count) return;
            publish(m.qkv + qkv.first + thread, total(thread) * given.x * root(s, m.eps) + bias, number);
        });
        if (a.here()) attend(s.attention, m, of, a, by, number);
        scales.fetch(of.mlp_norm);
        take_attended(s, m, a.pieces, number);
        products<BLOCK_BITS, OWN>(s, place, hidden.count, own(of.o, hidden), grow(m.middle, number));
        take_scaled<BLOCK_BITS>(s, scales, m.middle, number, {m.lost});
        auto both = [&](int, int) {
            const int at = mlp.first + thread;
            const bool mine = thread < mlp.count;
            return make_float2(scale_of<BLOCK_BITS>(of.gate_up, at, mine), scale_of<BLOCK_BITS>(of.gate_up, MLP + at, mine));
        };
        products<BLOCK_BITS, HIDDEN>(s, place, 2 * mlp.count, both, [&](int, int, auto total, float2 given) {
            if (thread >= mlp.count) return;
            const float by = root(s, m.eps);
            const float gate = total(thread) * by * given.x, up = total(mlp.count + thread) * by * given.y;
            publish(m.inner + mlp.first + thread, __fdividef(gate, 1.0f + __expf(-gate)) * up, number);
        });
        scales.fetch(layer + 1 < LAYERS ? s.layers[layer + 1].attention_norm : m.norm);
        ask_all<(MLP + 4 * THREADS - 1) / (4 * THREADS)>(
            m.inner, MLP, number, {m.lost}, [&](int, int at, float4 x) { keep<BLOCK_BITS>(s, at, x); });
        sync<THREADS>();
        products<BLOCK_BITS, MLP>(s, place, hidden.count, own(of.down, hidden), grow(m.x, number));
    }
    take_scaled<END_BITS>(s, scales, m.x, LAYERS, {m.lost});
    const bool lost = ask4(m.lost);
    auto begin = [&](int first, int count) {
        return make_float2(scale_of<END_BITS>(m.head, vocabulary.first + first + thread, thread < count), 0.0f);
    };
    products<END_BITS, HIDDEN>(s, place, vocabulary.count, begin, [&](int first, int count, auto total, float2 given) {
        if (thread >= count) return;
        const float logit = total(thread) * given.x * root(s, m.eps);
        m.logits[vocabulary.first + first + thread] = lost ? 0x7fff : rounded(logit);
    });
}

extern "C" __global__ void __launch_bounds__(THREADS + 32, 1) row_step(const __grid_constant__ Model m) {
    Shared& s = *(Shared*)shared_memory();
    for (int i = threadIdx.x; i < (int)(sizeof(s.layers) / 8); i += THREADS + 32)
        ((unsigned long long*)s.layers)[i] = ((const unsigned long long*)m.layers)[i];
    if (threadIdx.x < STAGES) ready(s.full[threadIdx.x], 1), ready(s.empty[threadIdx.x], WARPS);
    __syncthreads();
    if (threadIdx.x >= THREADS) fetch_all(s, m);
    else multiply_all(s, m);
}
