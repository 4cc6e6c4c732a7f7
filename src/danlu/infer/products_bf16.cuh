// Products with weights in bf16: x in two parts, that together have 16 bits; included by products_row.cuh.

// In columns as `multiply` takes them: pairs of even places, in their two parts, and pairs of odd places, as 16 bytes of
// a weight are two pieces of 16 elements to it, in rows 0 … 7 and 8 … 15.
template <int DEPTH>
struct Vector<16, DEPTH> : Form<16, DEPTH> {
    using F = Form<16, DEPTH>;
    typedef u32 Slice[CHUNKS][2];
    Slice x;

    void take(const Shared& s, int slice) { take(s, slice, x); }

    void take(const Shared& s, int slice, Slice& x) const {
        const int column = F::thread % 32 / 4;
        const u32* from = s.x.parts[column % 2] + column / 2;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk)
#pragma unroll
            for (int i = 0; i < 2; ++i)
                x[chunk][i] = column < 4 && F::there(slice, chunk) ? from[4 * F::piece(slice, chunk) + 2 * i] : 0;
    }

    void multiply(Shared& s, Place& place, int count, float (*parts)[WARPS]) const {
        int at = 0;
        if (F::SLICES == 1) {
#pragma unroll 1
            for (; at + TILE < count; at += 2 * TILE) multiply_rows<2>(s, place, parts + at);
            if (at < count) multiply_rows<1>(s, place, parts + at);
            return;
        }
#pragma unroll 1
        for (; at < count; at += TILE) {
            float sums[2][4] = {};
#pragma unroll 3
            for (int slice = 0; slice < F::SLICES - 1; slice += 2) multiply_slices<2>(s, place, slice, sums);
            if (F::SLICES % 2) multiply_slices<1>(s, place, F::SLICES - 1, sums);
            put(parts + at, sums);
        }
    }

    template <int N>
    void load(Shared& s, Place& place, int slice, uint4 (&weights)[N][CHUNKS]) const {
        read_tiles<N>(s, place, N, [&](int i, const unsigned char* row) {
            const int own = F::SLICES > 1 ? slice + i : slice;
#pragma unroll
            for (int chunk = 0; chunk < CHUNKS; ++chunk)
                weights[i][chunk] =
                    F::there(own, chunk) ? ((const uint4*)row)[F::piece(0, chunk)] : make_uint4(0, 0, 0, 0);
        });
    }

    static void add(const Slice& x, const uint4 (&weights)[CHUNKS], float (&sums)[2][4]) {
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk)
            ::multiply(sums[chunk % 2], weights[chunk], x[chunk][0], x[chunk][1]);
    }

    template <int N>
    void multiply_rows(Shared& s, Place& place, float (*parts)[WARPS]) const {
        uint4 weights[N][CHUNKS];
        float sums[N][2][4] = {};
        load(s, place, 0, weights);
#pragma unroll
        for (int i = 0; i < N; ++i) add(x, weights[i], sums[i]);
#pragma unroll
        for (int i = 0; i < N; ++i) put(parts + i * TILE, sums[i]);
    }

    template <int N>
    void multiply_slices(Shared& s, Place& place, int slice, float (&sums)[2][4]) const {
        uint4 weights[N][CHUNKS];
        Slice taken[N];
#pragma unroll
        for (int i = 0; i < N; ++i) take(s, slice + i, taken[i]);
        load(s, place, slice, weights);
#pragma unroll
        for (int i = 0; i < N; ++i) add(taken[i], weights[i], sums);
    }

    void put(float (*parts)[WARPS], const float (&sums)[2][4]) const {
        const int lane = F::thread % 32;
        const float(&one)[4] = sums[0], (&two)[4] = sums[1];
        float own = lane % 4 ? one[2] + one[3] + (two[2] + two[3]) : one[0] + one[1] + (two[0] + two[1]);
        own += __shfl_xor_sync(~0u, own, 1);
        if (lane % 4 == 0) parts[lane / 4][F::thread / 32] = own;
    }
};

template <>
void keep<16>(Shared& s, int at, float4 x) {
    const u32 one = packed(x.x, x.y), two = packed(x.z, x.w);
    *(uint2*)(s.x.parts[0] + at / 2) = make_uint2(one, two);
    *(uint2*)(s.x.parts[1] + at / 2) =
        make_uint2(packed(x.x - low(one), x.y - high(one)), packed(x.z - low(two), x.w - high(two)));
}
