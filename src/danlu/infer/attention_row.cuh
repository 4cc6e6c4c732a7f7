// Attention of the one new token, its keys in pieces, one a program; included by step_cuda.cu.

constexpr int MOST_PIECES = smaller(PIECES, PROGRAMS / KV_HEADS);

struct Attended {  // pieces of a row's keys, the new one too, one a program
    int place, pieces, head, piece, start, stop;
    Attended(int place, int window) : place(place) {
        const int low = max(place + 1 - window, 0), keys = place + 1 - low;
        pieces = min(MOST_PIECES, (keys + PIECE - 1) / PIECE);
        head = blockIdx.x % KV_HEADS, piece = blockIdx.x / KV_HEADS;
        const int share = (keys + pieces - 1) / pieces;
        start = low + piece * share, stop = here() ? min(start + share, place + 1) : start;
    }
    bool here() const { return piece < pieces; }
    bool last() const { return piece == pieces - 1; }
};

struct Held {  // eight keys and values: of key lane / 4 what `multiply` takes, of each value the lane's pairs
    uint4 key[HEAD / 32];
    u32 value[8][PAIRS];
    void fetch(const Layer& layer, const Attended& a, int first) {
        const int lane = threadIdx.x % 32, stop = min(a.stop, a.place);
        const size_t from = ((size_t)first * KV_HEADS + a.head) * HEAD;
        const bf16* keys = layer.keys + from + lane / 4 * KV_HEADS * HEAD + lane % 4 * 8;
        const bf16* values = layer.values + from + 2 * lane;
#pragma unroll
        for (int chunk = 0; chunk < HEAD / 32; ++chunk) {
            key[chunk] = make_uint4(0, 0, 0, 0);
            if (first + lane / 4 < stop) key[chunk] = fetch16(keys + chunk * 32);
        }
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int pair = 0; pair < PAIRS; ++pair) {
                value[i][pair] = 0;
                if (first + i < stop) value[i][pair] = fetch4(values + i * KV_HEADS * HEAD + pair * 64);
            }
    }
    void take(const bf16 (&fresh)[2][HEAD], int slot) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int chunk = 0; chunk < HEAD / 32; ++chunk)
            if (lane / 4 == slot) key[chunk] = ((const uint4*)fresh[0])[chunk * 4 + lane % 4];
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int pair = 0; pair < PAIRS; ++pair)
                if (i == slot) value[i][pair] = ((const u32*)fresh[1])[pair * 32 + lane];
    }
};

struct Turn {  // cosines and sines of the place, for the pairs of elements that this lane turns
    float cos[PAIRS], sin[PAIRS];
    Turn(const Model& m, int place) {
#pragma unroll
        for (int pair = 0; pair < PAIRS; ++pair) {
            const size_t at = (size_t)place * (HEAD / 2) + pair * 32 + threadIdx.x % 32;
            cos[pair] = m.cos[at], sin[pair] = m.sin[at];
        }
    }
};

// Queries and key after norm and rotation, queries scaled for powers of two; key and value as the cache has them.
void turn(Attention& s, const Model& m, const Layer& layer, const Attended& a, const Turn& turn, u32 number) {
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int head = threadIdx.x / 32; head < QUERIES + 2; head += WARPS) {
        const u32* words = m.qkv + (a.head * (QUERIES + 2) + head) * HEAD + lane;
        Patience patience{m.lost};
        u32 found[2 * PAIRS];
        float x[2 * PAIRS], square = 0, factor = 1;
#pragma unroll
        for (int i = 0; i < 2 * PAIRS; ++i) found[i] = ask4(words + 32 * i);
#pragma unroll
        for (int i = 0; i < 2 * PAIRS; ++i) {
            while ((found[i] ^ number) & 0xff && patience.lasts()) found[i] = ask4(words + 32 * i);
            x[i] = value(found[i]), square = fmaf(x[i], x[i], square);
        }
        __syncwarp();
        if (head == QUERIES + 1) {
#pragma unroll
            for (int i = 0; i < 2 * PAIRS; ++i) s.fresh[1][32 * i + lane] = rounded(x[i]);
            break;
        }
        const bool query = head < QUERIES;
        if (QK_NORM) {
            const bf16* norm = (query ? layer.q_norm : layer.k_norm) + lane;
            for (int step = 16; step > 0; step /= 2) square += __shfl_xor_sync(~0u, square, step);
            factor = rsqrtf(square / HEAD + m.head_eps);
#pragma unroll
            for (int i = 0; i < 2 * PAIRS; ++i) x[i] *= single(norm[32 * i]);
        }
        if (query) factor *= 1.4426950408889634f * rsqrtf((float)HEAD);
#pragma unroll
        for (int i = 0; i < 2 * PAIRS; ++i) {
            const int pair = i % PAIRS, other = (i + PAIRS) % (2 * PAIRS);
            const float turned = factor * (x[i] * turn.cos[pair] + (i < PAIRS ? -1 : 1) * x[other] * turn.sin[pair]);
            const bf16 most = rounded(turned);
            if (query) s.query[0][head][32 * i + lane] = most, s.query[1][head][32 * i + lane] = rounded(turned - single(most));
            else s.fresh[0][32 * i + lane] = most;
        }
    }
    sync<THREADS>();
    if (a.last() && threadIdx.x < HEAD) {
        const size_t to = ((size_t)a.place * KV_HEADS + a.head) * HEAD + threadIdx.x;
        layer.keys[to] = s.fresh[0][threadIdx.x], layer.values[to] = s.fresh[1][threadIdx.x];
    }
}

// What a warp has seen: lanes of query lane / 4 its peak, and their part of the sum; all lanes their pairs of values.
struct Seen {
    float peak = -1e30f, total = 0, mixed[QUERIES][2 * PAIRS] = {};

    void see(Attention& s, const Held& held, int count) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, query = lane / 4, first = lane % 4 * 2;
        float scores[4] = {}, other[4] = {};
#pragma unroll
        for (int chunk = 0; chunk < HEAD / 32; ++chunk) {
            const uint4 most = ((const uint4*)s.query[0][query])[chunk * 4 + lane % 4];
            const uint4 rest = ((const uint4*)s.query[1][query])[chunk * 4 + lane % 4];
            multiply(scores, make_uint4(most.x, rest.x, most.y, rest.y), held.key[chunk].x, held.key[chunk].y);
            multiply(other, make_uint4(most.z, rest.z, most.w, rest.w), held.key[chunk].z, held.key[chunk].w);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[i] += other[i];
        const float one = first < count ? scores[0] + scores[2] : -1e30f;
        const float two = first + 1 < count ? scores[1] + scores[3] : -1e30f;
        float higher = fmaxf(peak, fmaxf(one, two));
        higher = fmaxf(higher, __shfl_xor_sync(~0u, higher, 1));
        higher = fmaxf(higher, __shfl_xor_sync(~0u, higher, 2));
        const float shrink = power(peak - higher);
        const float own[2] = {first < count ? power(one - higher) : 0.0f, first + 1 < count ? power(two - higher) : 0.0f};
        total = total * shrink + (own[0] + own[1]), peak = higher;
        float(&shares)[9][8] = s.shares[warp];
        shares[first][query] = own[0], shares[first + 1][query] = own[1], shares[8][query] = shrink;
        __syncwarp();
#pragma unroll
        for (int q = 0; q < QUERIES; ++q)
#pragma unroll
            for (int i = 0; i < 2 * PAIRS; ++i) mixed[q][i] *= shares[8][q];
#pragma unroll
        for (int key = 0; key < 8; ++key)
#pragma unroll
            for (int q = 0; q < QUERIES; ++q)
#pragma unroll
                for (int pair = 0; pair < PAIRS; ++pair) {
                    const u32 value = held.value[key][pair];
                    mixed[q][2 * pair] = fmaf(shares[key][q], low(value), mixed[q][2 * pair]);
                    mixed[q][2 * pair + 1] = fmaf(shares[key][q], high(value), mixed[q][2 * pair + 1]);
                }
        __syncwarp();
    }

    void give(Attention& s) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        if (lane % 4 == 0 && lane / 4 < QUERIES)
            s.mixed[warp][lane / 4][HEAD] = peak, s.mixed[warp][lane / 4][HEAD + 1] = total;
#pragma unroll
        for (int q = 0; q < QUERIES; ++q)
#pragma unroll
            for (int i = 0; i < 2 * PAIRS; ++i) s.mixed[warp][q][2 * (i / 2 * 32 + lane) + i % 2] = mixed[q][i];
    }
};

void attend(
    Attention& s, const Model& m, const Layer& layer, const Attended& a, const Turn& by, u32 number
) {
    int at = a.start + threadIdx.x / 32 * 8;
    Held held;  // on their way while the queries come
    held.fetch(layer, a, at);
    turn(s, m, layer, a, by, number);
    Seen seen;
#pragma unroll 1
    for (; at < a.stop; at += KEYS) {
        Held now = held;
        held.fetch(layer, a, at + KEYS);
        if (a.place - at < 8) now.take(s.fresh, a.place - at);
        seen.see(s, now, min(8, a.stop - at));
    }
    seen.give(s);
    sync<THREADS>();
#pragma unroll 1
    for (int i = threadIdx.x; i < QUERIES * HEAD; i += THREADS) {
        const int query = i / HEAD, dim = i % HEAD, head = a.head * QUERIES + query;
        float peak = -1e30f, total = 0, mixed = 0;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) peak = fmaxf(peak, s.mixed[w][query][HEAD]);
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            const float share = power(s.mixed[w][query][HEAD] - peak);
            total = fmaf(share, s.mixed[w][query][HEAD + 1], total), mixed = fmaf(share, s.mixed[w][query][dim], mixed);
        }
        publish(m.pieces + a.piece * OWN + head * HEAD + dim, __fdividef(mixed, total), number);
        if (dim < 2) {  // its share as a logarithm, in two words as one has 16 bits
            const float whole = peak + log2f(total), most = __uint_as_float(__float_as_uint(whole) & ~0xffffu);
            publish(m.shares + (a.piece * HEADS + head) * 2 + dim, dim ? whole - most : most, number);
        }
    }
}

// A head's mix of values, of the mixes of its pieces; of several heads asked for at once.
void take_attended(Shared& s, const Model& m, int pieces, u32 number) {
    constexpr int SPAN = 4 * THREADS, AT_ONCE = OWN > SPAN && MOST_PIECES <= 4 ? 2 : 1;
#pragma unroll 1
    for (int first = 4 * thread_here(); first < OWN; first += AT_ONCE * SPAN) {
        Patience patience{m.lost};
        if (first < SPAN) await(m.pieces + first, number, patience);
        uint4 found[AT_ONCE][MOST_PIECES];
        uint2 share[AT_ONCE][MOST_PIECES];
#pragma unroll
        for (int n = 0; n < AT_ONCE; ++n)
#pragma unroll
            for (int i = 0; i < MOST_PIECES; ++i) {
                const int at = first + n * SPAN;
                const bool is = at < OWN && i < pieces;
                found[n][i] = is ? ask16(m.pieces + i * OWN + at) : make_uint4(0, 0, 0, 0);
                share[n][i] = is ? ask8(m.shares + (i * HEADS + at / HEAD) * 2) : make_uint2(0, 0);
            }
#pragma unroll
        for (int n = 0; n < AT_ONCE; ++n) {
            const int at = first + n * SPAN;
            if (at >= OWN) break;
            const u32 *from = m.pieces + at, *share_from = m.shares + at / HEAD * 2;
            float peak = -1e30f, total = 0;
            float4 mixed = make_float4(0, 0, 0, 0);
#pragma unroll
            for (int i = 0; i < MOST_PIECES; ++i) {
                if (i >= pieces) break;
                while (!told(found[n][i], number) && patience.lasts()) found[n][i] = ask16(from + i * OWN);
                while (!told(share[n][i], number) && patience.lasts()) share[n][i] = ask8(share_from + i * 2 * HEADS);
                const float whole = value(share[n][i].x) + value(share[n][i].y), higher = fmaxf(peak, whole);
                const float shrink = power(peak - higher), by = power(whole - higher);
                const float4 x = values(found[n][i]);
                total = total * shrink + by, peak = higher;
                mixed.x = mixed.x * shrink + x.x * by, mixed.y = mixed.y * shrink + x.y * by;
                mixed.z = mixed.z * shrink + x.z * by, mixed.w = mixed.w * shrink + x.w * by;
            }
            const float by = __fdividef(1.0f, total);
            keep<BLOCK_BITS>(s, at, make_float4(mixed.x * by, mixed.y * by, mixed.z * by, mixed.w * by));
        }
    }
    sync<THREADS>();
}
