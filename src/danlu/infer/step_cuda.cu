// A decoding step of one row as one kernel: a program a multiprocessor, each with its share of the rows of every
// weight. One warp fetches weights into a ring in shared memory, as fast as memory gives them and far ahead of their
// use, so that memory works on while programs wait for one another; the other warps multiply.
//
// Set by step_cuda.py: PROGRAMS, MEMORY (of a program, in bytes), WARPS (of a program, that multiply), GROUP (rows whose
// sums it puts together at once), PIECES (of the keys, at most), PATIENCE (how often a word is asked for); of the model
// LAYERS, HIDDEN, MLP, VOCAB, KV_HEADS, QUERIES (heads that share a key), HEAD (its size), BIASED, QK_NORM.

#include "hopper.cuh"

constexpr int THREADS = 32 * WARPS;              // that multiply
constexpr int SLICE = 1024, TILE = 8;            // elements and rows of a tile
constexpr int PITCH = 2 * SLICE + 64;            // bytes from row to row: two rows lie in other banks
constexpr int CHUNKS = SLICE / WARPS / 32;       // of 32 elements, a warp's share of a slice
// Tiles on their way at once. More would hold words up, which is what narrow layers wait for; the head waits for none.
constexpr int FLIGHT = HIDDEN > 1024 ? 3 : 2, LAST_FLIGHT = 3;
constexpr int KEYS = 8 * WARPS;                  // that a program sees at once
constexpr int PIECE = 64;                        // keys of a piece, unless there are more than so many pieces
constexpr int HEADS = KV_HEADS * QUERIES, OWN = HEADS * HEAD, QKV = OWN + 2 * KV_HEADS * HEAD;
constexpr int SPANS = (HIDDEN + 4 * THREADS - 1) / (4 * THREADS);
constexpr int PAIRS = HEAD / 64;  // of elements of a value that a lane mixes

constexpr int larger(int a, int b) { return a > b ? a : b; }
constexpr int slices(int depth) { return (depth + SLICE - 1) / SLICE; }

constexpr int WIDEST = larger(HIDDEN, larger(OWN, MLP));
static_assert(larger(QKV, larger(HIDDEN, 2 * MLP)) <= GROUP * PROGRAMS - 2 * PROGRAMS, "too many rows for a program");
static_assert(HIDDEN >= PROGRAMS && MLP >= PROGRAMS && KV_HEADS <= PROGRAMS, "too few rows for all programs");
static_assert(LAYERS > 1 && LAYERS < 256 && QUERIES <= 8 && HEAD % 64 == 0, "");

struct Layer {
    const bf16 *attention_norm, *qkv, *bias, *q_norm, *k_norm, *o, *mlp_norm, *gate_up, *down;
    bf16 *keys, *values;  // [L, KV_HEADS, HEAD]
};

struct Model {
    const Layer* layers;
    const bf16 *embed, *norm, *head;
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

struct Work {
    alignas(16) u32 x[2][WIDEST / 2];  // in two parts, that together have 16 bits
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

// ---- The ring

struct Place {  // of a tile in the ring, the same way for those that fetch and those that multiply
    int stage = 0;
    u32 phase = 0;  // of the stage's barriers
    void next() {
        if (++stage == STAGES) stage = 0, phase ^= 1;
    }
};

struct Ahead : Place {
    Place landed;
    int flying = 0, most = FLIGHT;  // on their way

    void wait_for_room(Shared& s) {
        if (flying == most) wait(s.full[landed.stage], landed.phase), landed.next();
        else ++flying;
        wait(s.empty[stage], phase ^ 1);
    }
};

// Fetches rows `first` … `first + rows` - 1 of a weight; from row `turn` of these on, `jump` rows further.
template <int DEPTH>
void fetch(Shared& s, Ahead& place, const bf16* weight, int first, int rows, int turn = 0, int jump = 0) {
    const int lane = threadIdx.x & 31;
#pragma unroll 1
    for (int at = 0; at < rows; at += TILE) {
        const int count = min(TILE, rows - at), row = at + lane;
        const bf16* from = weight + (size_t)(first + row + (row >= turn ? jump : 0)) * DEPTH;
#pragma unroll 1
        for (int slice = 0; slice < slices(DEPTH); ++slice, place.next()) {
            const u32 bytes = 2 * min(SLICE, DEPTH - slice * SLICE);
            place.wait_for_room(s);
            if (lane == 0) promise(s.full[place.stage], bytes * count);
            __syncwarp();
            if (lane < count) copy(s.ring[place.stage][lane], from + slice * SLICE, bytes, s.full[place.stage]);
        }
    }
}

// ---- Products

// A warp's share of a slice of x, in columns as `multiply` takes them: pairs of even places, in their two parts, and
// pairs of odd places, as 16 bytes of a weight are two pieces of 16 elements to it, in rows 0 … 7 and 8 … 15.
template <int DEPTH>
struct Taken {
    u32 x[CHUNKS][2];
    static int eight(int slice, int chunk) {
        return slice * (SLICE / 8) + (threadIdx.x / 32 * CHUNKS + chunk) * 4 + threadIdx.x % 4;
    }
    static bool there(int slice, int chunk) { return slice < DEPTH / SLICE || eight(slice, chunk) < DEPTH / 8; }
    void take(const Shared& s, int slice) {
        const int column = threadIdx.x % 32 / 4;
        const u32* from = s.x[column % 2] + column / 2;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk)
#pragma unroll
            for (int i = 0; i < 2; ++i)
                x[chunk][i] = column < 4 && there(slice, chunk) ? from[4 * eight(slice, chunk) + 2 * i] : 0;
    }
    void add(const uint4 (&weights)[CHUNKS], float (&sums)[2][4]) const {
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk) multiply(sums[chunk % 2], weights[chunk], x[chunk][0], x[chunk][1]);
    }
};

// A warp's share of the next N tiles, of the same slice of N times eight rows or of N slices: asks for all of them
// before it waits for one.
template <int DEPTH, int N>
void load(Shared& s, Place& place, int slice, uint4 (&weights)[N][CHUNKS]) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    bool landed[N];
    Place asked = place, left = place;
#pragma unroll
    for (int i = 0; i < N; ++i, asked.next()) landed[i] = open(s.full[asked.stage], asked.phase);
#pragma unroll
    for (int i = 0; i < N; ++i, place.next()) {
        const int own = slices(DEPTH) > 1 ? slice + i : slice;
        const uint4* row = (const uint4*)s.ring[place.stage][lane / 4] + warp * CHUNKS * 4 + lane % 4;
        if (!landed[i]) wait(s.full[place.stage], place.phase);
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk)
            weights[i][chunk] = Taken<DEPTH>::there(own, chunk) ? row[chunk * 4] : make_uint4(0, 0, 0, 0);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < N; ++i, left.next())
        if (lane == 0) arrive(s.empty[left.stage]);
}

// A row's part of this warp.
void put(float (*parts)[WARPS], const float (&sums)[2][4]) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const float(&one)[4] = sums[0], (&two)[4] = sums[1];
    float own = lane % 4 ? one[2] + one[3] + (two[2] + two[3]) : one[0] + one[1] + (two[0] + two[1]);
    own += __shfl_xor_sync(~0u, own, 1);
    if (lane % 4 == 0) parts[lane / 4][warp] = own;
}

template <int DEPTH, int N>
void multiply_rows(Shared& s, Place& place, const Taken<DEPTH>& taken, float (*parts)[WARPS]) {
    uint4 weights[N][CHUNKS];
    float sums[N][2][4] = {};
    load<DEPTH>(s, place, 0, weights);
#pragma unroll
    for (int i = 0; i < N; ++i) taken.add(weights[i], sums[i]);
#pragma unroll
    for (int i = 0; i < N; ++i) put(parts + i * TILE, sums[i]);
}

template <int DEPTH, int N>
void multiply_slices(Shared& s, Place& place, int slice, float (&sums)[2][4]) {
    uint4 weights[N][CHUNKS];
    Taken<DEPTH> taken[N];
#pragma unroll
    for (int i = 0; i < N; ++i) taken[i].take(s, slice + i);
    load<DEPTH>(s, place, slice, weights);
#pragma unroll
    for (int i = 0; i < N; ++i) taken[i].add(weights[i], sums);
}

// The products of x with `rows` rows of a weight, as they come: use(first, count, total), total(i) that of row
// first + i. A warp has the same share of all rows of a tile.
template <int DEPTH, class Use>
void products(Shared& s, Place& place, int rows, Use use) {
    constexpr int SLICES = slices(DEPTH);
    Taken<DEPTH> taken;
    if (SLICES == 1) taken.take(s, 0);
#pragma unroll 1
    for (int first = 0, turn = 0; first < rows; first += GROUP, turn ^= 1) {
        const int count = min(GROUP, rows - first);
        float(*parts)[WARPS] = s.parts[turn];
        int at = 0;
        if (SLICES == 1) {
#pragma unroll 1
            for (; at + TILE < count; at += 2 * TILE) multiply_rows<DEPTH, 2>(s, place, taken, parts + at);
            if (at < count) multiply_rows<DEPTH, 1>(s, place, taken, parts + at);
        } else {
#pragma unroll 1
            for (; at < count; at += TILE) {
                float sums[2][4] = {};
#pragma unroll 3
                for (int slice = 0; slice < SLICES - 1; slice += 2) multiply_slices<DEPTH, 2>(s, place, slice, sums);
                if (SLICES % 2) multiply_slices<DEPTH, 1>(s, place, SLICES - 1, sums);
                put(parts + at, sums);
            }
        }
        sync<THREADS>();
        use(first, count, [&](int row) {
            const float4 *of = (const float4*)parts[row], one = of[0], two = of[1];
            return one.x + one.y + (one.z + one.w) + (two.x + two.y + (two.z + two.w));
        });
    }
}

// ---- What products take in

// Four elements of x, in two parts each.
void keep(Shared& s, int at, float4 x) {
    const u32 one = packed(x.x, x.y), two = packed(x.z, x.w);
    *(uint2*)(s.x[0] + at / 2) = make_uint2(one, two);
    *(uint2*)(s.x[1] + at / 2) = make_uint2(packed(x.x - low(one), x.y - high(one)), packed(x.z - low(two), x.w - high(two)));
}

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
struct Scaled {
    Shared& s;
    const Scales& scales;
    float square = 0;
    void take(int span, int at, float4 x) {
        const uint2 by = scales.held[span];
        square += x.x * x.x + x.y * x.y + (x.z * x.z + x.w * x.w);
        keep(s, at, make_float4(x.x * low(by.x), x.y * high(by.x), x.z * low(by.y), x.w * high(by.y)));
    }
    void done() {
        sync<THREADS>();  // the square is needed later than x
        for (int step = 16; step > 0; step /= 2) square += __shfl_xor_sync(~0u, square, step);
        if (threadIdx.x % 32 == 0) s.squares[threadIdx.x / 32] = square;
    }
};

void take_scaled(Shared& s, const Scales& scales, const u32* words, u32 number, Patience patience) {
    Scaled scaled{s, scales};
    ask_all<SPANS>(words, HIDDEN, number, patience, [&](int span, int at, float4 x) { scaled.take(span, at, x); });
    scaled.done();
}

void take_embedded(Shared& s, const Scales& scales, const bf16* row) {
    Scaled scaled{s, scales};
#pragma unroll
    for (int span = 0; span < SPANS; ++span) {
        const int at = 4 * (span * THREADS + threadIdx.x);
        if (at >= HIDDEN) break;
        const uint2 x = fetch8(row + at);
        scaled.take(span, at, make_float4(low(x.x), high(x.x), low(x.y), high(x.y)));
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
        fetch<HIDDEN>(s, place, of.qkv, qkv.first, qkv.count);
        fetch<OWN>(s, place, of.o, hidden.first, hidden.count);
        fetch<HIDDEN>(s, place, of.gate_up, mlp.first, 2 * mlp.count, mlp.count, MLP - mlp.count);
        fetch<MLP>(s, place, of.down, hidden.first, hidden.count);
    }
    place.most = LAST_FLIGHT;
    fetch<HIDDEN>(s, place, m.head, vocabulary.first, vocabulary.count);
}

// What a layer reads beside its weights: memory itself is busy with weights.
void bring_all(const Layer& layer, const Attended& a, const Rows& qkv) {
    const int thread = threadIdx.x;
    if (blockIdx.x == PROGRAMS - 1 && thread < (HIDDEN + 63) / 64)
        bring(layer.attention_norm + 64 * thread), bring(layer.mlp_norm + 64 * thread);
    if (BIASED && thread < 2) bring(layer.bias + qkv.first + thread * (qkv.count - 1));
    if (!a.here()) return;
    if (QK_NORM && thread < HEAD / 64) bring(layer.q_norm + 64 * thread), bring(layer.k_norm + 64 * thread);
    for (int i = thread; i < min(2 * KEYS, a.stop - a.start) * (HEAD / 64); i += THREADS) {
        const size_t at = ((size_t)(a.start + i / (HEAD / 64)) * KV_HEADS + a.head) * HEAD + i % (HEAD / 64) * 64;
        bring(layer.keys + at), bring(layer.values + at);
    }
}

void multiply_all(Shared& s, const Model& m) {
    const Rows qkv(QKV), hidden(HIDDEN), mlp(MLP), vocabulary(VOCAB);
    const int thread = threadIdx.x;
    const bf16* row = m.embed + m.inputs[0] * HIDDEN;
    const Attended a((int)m.inputs[1], m.window);
    float residual = thread < hidden.count ? single(row[hidden.first + thread]) : 0.0f;
    Place place;
    const Turn by(m, a.place);
    Scales scales;
    scales.fetch(s.layers[0].attention_norm);
    auto grow = [&](u32* to, u32 number) {
        return [&, to, number](int first, int count, auto total) {
            if (thread < count) residual += total(thread), publish(to + hidden.first + thread, residual, number);
        };
    };
#pragma unroll 1
    for (int layer = 0; layer < LAYERS; ++layer) {
        const Layer& of = s.layers[layer];
        const u32 number = layer + 1;
        if (layer + 1 < LAYERS) bring_all(s.layers[layer + 1], a, qkv);
        Held ahead;
        ahead.fetch(of, a, a.start + thread / 32 * 8);
        const float bias = BIASED && thread < qkv.count ? single(of.bias[qkv.first + thread]) : 0.0f;
        if (layer) take_scaled(s, scales, m.x, layer, {m.lost});
        else take_embedded(s, scales, row);
        products<HIDDEN>(s, place, qkv.count, [&](int first, int count, auto total) {
            if (thread < count) publish(m.qkv + qkv.first + thread, total(thread) * root(s, m.eps) + bias, number);
        });
        if (a.here()) attend(s.attention, m, of, a, by, ahead, number);
        scales.fetch(of.mlp_norm);
        take_attended(s, m, a.pieces, number);
        products<OWN>(s, place, hidden.count, grow(m.middle, number));
        take_scaled(s, scales, m.middle, number, {m.lost});
        products<HIDDEN>(s, place, 2 * mlp.count, [&](int first, int count, auto total) {
            if (thread >= mlp.count) return;
            const float by = root(s, m.eps), gate = total(thread) * by, up = total(mlp.count + thread) * by;
            publish(m.inner + mlp.first + thread, __fdividef(gate, 1.0f + __expf(-gate)) * up, number);
        });
        scales.fetch(layer + 1 < LAYERS ? s.layers[layer + 1].attention_norm : m.norm);
        ask_all<(MLP + 4 * THREADS - 1) / (4 * THREADS)>(
            m.inner, MLP, number, {m.lost}, [&](int, int at, float4 x) { keep(s, at, x); });
        sync<THREADS>();
        products<MLP>(s, place, hidden.count, grow(m.x, number));
    }
    take_scaled(s, scales, m.x, LAYERS, {m.lost});
    const bool lost = ask4(m.lost);
    products<HIDDEN>(s, place, vocabulary.count, [&](int first, int count, auto total) {
        const float by = root(s, m.eps);
        if (thread < count) m.logits[vocabulary.first + first + thread] = lost ? 0x7fff : rounded(total(thread) * by);
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
