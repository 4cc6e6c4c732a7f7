// Products with weights of 8 and 4 bits, in integers, so that weights need not become floating-point numbers: x as three
// digits to the base of 254, from -127 to 127, with a scale for each 64 elements; included by products_row.cuh.

constexpr u32 ONES = 0x01010101, LEVELS = 0x0f0f0f0f;  // of bytes

// In columns as `multiply` takes them: the three digits of a group of 64, and with four bits those of a second group, as
// lanes 0 and 1 of a row have another one than lanes 2 and 3. What a lane gets is that of two of the columns.
template <int BITS, int DEPTH>
struct Vector : Form<BITS, DEPTH> {
    using F = Form<BITS, DEPTH>;
    static constexpr int PRODUCTS = 16 / BITS;  // of 16 bytes
    u32 x[CHUNKS][PRODUCTS][2];
    float scales[CHUNKS], lower[CHUNKS];  // of what the lane gets; eight times the sum of its columns

    void take(const Shared& s, int slice) {
        const int lane = F::thread % 32, digit = lane / 4 % 4;
        const bool mine = digit < DIGITS && lane / 16 == (BITS == 4 ? lane % 4 / 2 : 0);
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk) {
            if (!F::any(slice, chunk)) continue;
            const bool there = F::there(slice, chunk);
            const int at = F::piece(slice, chunk) * F::PART;
#pragma unroll
            for (int i = 0; i < PRODUCTS; i += 2) {
                uint4 found = make_uint4(0, 0, 0, 0);
                if (mine && there) found = ((const uint4*)(s.x.digits[digit] + at))[i / 2];
                x[chunk][i][0] = found.x, x[chunk][i][1] = found.y;
                x[chunk][i + 1][0] = found.z, x[chunk][i + 1][1] = found.w;
            }
            scales[chunk] = there ? s.x.scales[at / 64] * (lane % 2 ? 1 / (BASE * BASE * BASE) : 1 / BASE) : 0;
            if (BITS == 8) continue;
            int found[4] = {};
#pragma unroll
            for (int i = 0; i < PRODUCTS; ++i)
                ::multiply(found, make_uint4(ONES, ONES, ONES, ONES), x[chunk][i][0], x[chunk][i][1]);
            lower[chunk] = 8 * scales[chunk] * joined(found);
        }
    }

    void multiply(Shared& s, Place& place, int count, float (*parts)[WARPS]) {
#pragma unroll 1
        for (int slice = 0; slice < F::SLICES; ++slice) {
            if (F::SLICES > 1) take(s, slice);
#pragma unroll 1
            for (int at = 0; at < count; at += 2 * TILE) {
                const bool two = count - at > TILE;
                put(parts + at, sums_of(s, place, slice, two), two, slice > 0);
            }
        }
    }

    // This lane's part of the products with its row of the next tile, and of the one after it if there are `two`.
    float2 sums_of(Shared& s, Place& place, int slice, bool two) const {
        uint4 weights[2][CHUNKS] = {};
        u32 groups[2][CHUNKS] = {};  // of four bits: a scale and a middle
        float own[2] = {}, middles[2] = {};
        read_tiles<2>(s, place, two ? 2 : 1, [&](int i, const unsigned char* row) {
#pragma unroll
            for (int chunk = 0; chunk < CHUNKS; ++chunk) {
                if (!F::any(slice, chunk)) continue;
                const int at = F::piece(0, chunk);
                weights[i][chunk] = ((const uint4*)row)[at];  // where there is none x is 0
                if (BITS == 4) groups[i][chunk] = F::there(slice, chunk) ? ((const u32*)(row + ROW_BYTES))[at / 2] : 0;
            }
        });
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk) {
            if (!F::any(slice, chunk)) continue;
            int found[4] = {};
            multiply_chunk(found, weights[0][chunk], weights[1][chunk], x[chunk]);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float product = joined(found + 2 * i);
                if (BITS == 8) own[i] += product * scales[chunk];
                if (BITS == 4) {  // level 8 stands for the group's middle
                    own[i] += low(groups[i][chunk]) * (product * scales[chunk] - lower[chunk]);
                    middles[i] += high(groups[i][chunk]) * lower[chunk];
                }
            }
        }
        return make_float2(own[0] + middles[0] / 8, own[1] + middles[1] / 8);
    }

    static void multiply_chunk(int (&found)[4], uint4 one, uint4 other, const u32 (&x)[PRODUCTS][2]) {
        const u32 ones[4] = {one.x, one.y, one.z, one.w}, others[4] = {other.x, other.y, other.z, other.w};
#pragma unroll
        for (int i = 0; i < PRODUCTS; ++i) {
            uint4 rows = make_uint4(ones[i] & LEVELS, others[i] & LEVELS, ones[i] >> 4 & LEVELS, others[i] >> 4 & LEVELS);
            const int at = 2 * i % 4;
            if (BITS == 8) rows = make_uint4(ones[at], others[at], ones[at + 1], others[at + 1]);
            ::multiply(found, rows, x[i][0], x[i][1]);
        }
    }

    static float joined(const int* found) { return (float)(found[0] * (int)BASE + found[1]); }

    // Sums of a row's four lanes, of the second tile's rows if there are `two`.
    void put(float (*parts)[WARPS], float2 own, bool two, bool more) const {
        const bool odd = F::thread % 2;
        float sum = (odd ? own.y : own.x) + __shfl_xor_sync(~0u, odd ? own.x : own.y, 1);
        if (BITS == 4) sum += __shfl_xor_sync(~0u, sum, 2);
        if (F::thread % 4 > odd || (odd && !two)) return;
        float& part = parts[(odd ? TILE : 0) + F::thread % 32 / 4][F::thread / 32];
        part = more ? part + sum : sum;
    }
};

// The scale of 64 elements, of which each of 16 lanes has four: infinite or NaN where one of them is.
float scale_of(float4 x) {
    auto size = [](float x) { return __float_as_uint(x) & 0x7fffffff; };
    u32 most = max(max(size(x.x), size(x.y)), max(size(x.z), size(x.w)));
#pragma unroll
    for (int step = 8; step > 0; step /= 2) most = max(most, __shfl_xor_sync(~0u, most, step));
    return __uint_as_float(most) / 127;
}

template <int BITS>
void keep(Shared& s, int at, float4 x) {
    const float scale = scale_of(x), by = __fdividef(1.0f, scale), up = 12582912.0f;  // numbers from 2^23 on are whole
    float rest[4] = {x.x * by, x.y * by, x.z * by, x.w * by};
    if (at % 64 == 0) s.x.scales[at / 64] = scale;
#pragma unroll
    for (int digit = 0; digit < DIGITS; ++digit) {
        u32 bits[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float whole = rest[i] + up;
            rest[i] = (rest[i] - (whole - up)) * BASE, bits[i] = __float_as_uint(whole) & 0xff;
        }
        // A word of weights of four bits has each eighth element of the group, and is taken apart into even and odd ones.
        const int place = BITS == 8 ? at : at / 64 * 64 + at / 4 % 2 * 32 + at / 8 % 2 * 4 + at / 16 % 4;
        signed char* to = s.x.digits[digit] + place;
        if (BITS == 8) *(u32*)to = bits[0] | bits[1] << 8 | bits[2] << 16 | bits[3] << 24;
        if (BITS == 4)
#pragma unroll
            for (int i = 0; i < 4; ++i) to[8 * i] = (signed char)bits[i];
    }
}
