// Programs hand each other vectors as words: a float32 whose last 8 bits are the layer's number from 1. Who reads asks
// until the number is right, so a value and the news of it are one access (as NCCL's LL protocol has it). A word is
// written again only when every program has written something that it could not have known before reading it.
// Included by step_cuda.cu.

void publish(u32* word, float value, u32 number) {
    u32 bits = __float_as_uint(value);
    if (value - value == 0.0f) bits += 0x80;  // no infinity, no NaN
    tell(word, (bits & ~0xffu) | number);
}
bool told(uint4 v, u32 number) {
    return (((v.x ^ number) | (v.y ^ number) | (v.z ^ number) | (v.w ^ number)) & 0xff) == 0;
}
bool told(uint2 v, u32 number) { return (((v.x ^ number) | (v.y ^ number)) & 0xff) == 0; }
float value(u32 word) { return __uint_as_float(word & ~0xffu); }
float4 values(uint4 v) { return make_float4(value(v.x), value(v.y), value(v.z), value(v.w)); }

// Asking ends after PATIENCE times, and once one has given up, soon for all.
struct Patience {
    u32* lost;
    u32 asked = 0;
    bool lasts() {
        if (++asked == PATIENCE) tell(lost, 1);
        return asked % 256 || (asked < PATIENCE && !ask4(lost));
    }
};

// One lane of a warp asks until it is told: were all to ask so, memory would have no time for anything else.
void await(const u32* words, u32 number, Patience patience) {
    if (threadIdx.x % 32 == 0)
        while (!told(ask16(words), number) && patience.lasts()) {}
    __syncwarp();
}

// N times four words from `words` on, THREADS times four apart, as far as there are `count`: asked for all at once, or
// some at a time where there are so many that a program would be long.
template <int N, class Take>
void ask_all(const u32* words, int count, u32 number, Patience patience, Take take) {
    constexpr int AT_ONCE = N > 6 ? 4 : N;
    const int thread = thread_here();
    if (N > 1 && 4 * (thread & ~31) < count) await(words + 4 * thread, number, patience);
#pragma unroll 1
    for (int first = 0; first < N; first += AT_ONCE) {
        uint4 found[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const int at = 4 * ((first + i) * THREADS + thread);
            found[i] = at < count ? ask16(words + at) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const int at = 4 * ((first + i) * THREADS + thread);
            if (at >= count) break;
            while (!told(found[i], number) && patience.lasts()) found[i] = ask16(words + at);
            take(first + i, at, values(found[i]));
        }
    }
}
