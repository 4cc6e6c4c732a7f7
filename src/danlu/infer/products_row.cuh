// Weights on their way through a ring in shared memory, and the products of one vector with them; included by
// step_cuda.cu.

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

// How rows of a weight come: eight of them a tile, in slices where they are too wide for it; all slices of so many tiles
// before those of the next. A warp has the same share of all rows: of a slice, 16 bytes a lane, four lanes a row, in each
// of the chunks.
template <int BITS, int DEPTH>
struct Form {
    static constexpr int PART = 128 / BITS, PARTS = DEPTH / PART, SLICE = ROW_BYTES * 8 / BITS;
    static constexpr int SLICES = (DEPTH + SLICE - 1) / SLICE;
    static constexpr int TILES = BITS == 16 ? 1 : GROUP / TILE;  // integers take a slice of x in once for all of them
    const int thread = thread_here();

    static bool any(int slice, int chunk) { return slice * (ROW_BYTES / 16) + chunk * WARPS * 4 < PARTS; }
    int piece(int slice, int chunk) const {
        return slice * (ROW_BYTES / 16) + (chunk * WARPS + thread / 32) * 4 + thread % 4;
    }
    bool there(int slice, int chunk) const { return slice < DEPTH / SLICE || piece(slice, chunk) < PARTS; }
};

// Fetches rows `first` … `first + rows` - 1 of a weight; from row `turn` of these on, `jump` rows further.
template <int BITS, int DEPTH>
void fetch(Shared& s, Ahead& place, Weight weight, int first, int rows, int turn = 0, int jump = 0) {
    using F = Form<BITS, DEPTH>;
    const int lane = threadIdx.x & 31;
    const bool scales = lane >= TILE;  // of four bits each lane of eight more copies those of a row
#pragma unroll 1
    for (int at = 0; at < rows; at += F::TILES * TILE)
#pragma unroll 1
        for (int slice = 0; slice < F::SLICES; ++slice)
#pragma unroll 1
            for (int tile = at; tile < min(at + F::TILES * TILE, rows); tile += TILE, place.next()) {
                const int count = min(TILE, rows - tile), own = tile + lane % TILE;
                const size_t row = first + own + (own >= turn ? jump : 0);
                const u32 elements = min(F::SLICE, DEPTH - slice * F::SLICE);
                const u32 bytes = elements * BITS / 8, more = BITS == 4 ? elements / 16 : 0;
                place.wait_for_room(s);
                if (lane == 0) promise(s.full[place.stage], (bytes + more) * count);
                __syncwarp();
                if (lane % TILE >= count || lane >= (BITS == 4 ? 2 : 1) * TILE) continue;
                const char* values = (const char*)weight.values + row * (DEPTH * BITS / 8) + slice * ROW_BYTES;
                const char* others = (const char*)weight.scales + row * (DEPTH / 16) + slice * (F::SLICE / 16);
                copy(s.ring[place.stage][lane % TILE] + (scales ? ROW_BYTES : 0), scales ? others : values,
                     scales ? more : bytes, s.full[place.stage]);
            }
}

// The next `count` tiles, N at most, of each this lane's row: asks for all of them before it waits for one.
template <int N, class Read>
void read_tiles(Shared& s, Place& place, int count, Read read) {
    bool landed[N];
    Place asked = place, left = place;
#pragma unroll
    for (int i = 0; i < N; ++i, asked.next()) landed[i] = i >= count || open(s.full[asked.stage], asked.phase);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        if (i >= count) break;
        if (!landed[i]) wait(s.full[place.stage], place.phase);
        read(i, s.ring[place.stage][threadIdx.x % 32 / 4]);
        place.next();
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < N; ++i, left.next())
        if (i < count && threadIdx.x % 32 == 0) arrive(s.empty[left.stage]);
}

// x as a warp multiplies it, with weights of so many bits. `multiply` gives the sums of its share of the next `count`
// rows, `take` takes in a slice of x, which `keep` has put into shared memory; a warp's lanes keep and take together.
template <int BITS, int DEPTH>
struct Vector;
template <int BITS>
void keep(Shared& s, int at, float4 x);

#include "products_bf16.cuh"
#include "products_integers.cuh"

// The products of x with `rows` rows of a weight, as they come: use(first, count, total, given), total(i) that of row
// first + i, given what begin(first, count) gave before.
template <int BITS, int DEPTH, class Begin, class Use>
void products(Shared& s, Place& place, int rows, Begin begin, Use use) {
    Vector<BITS, DEPTH> x;
    if (x.SLICES == 1) x.take(s, 0);
#pragma unroll 1
    for (int first = 0, turn = 0; first < rows; first += GROUP, turn ^= 1) {
        const int count = min(GROUP, rows - first);
        float(*parts)[WARPS] = s.parts[turn];
        const float2 given = begin(first, count);
        x.multiply(s, place, count, parts);
        sync<THREADS>();
        use(first, count, [&](int row) {
            float4 all = make_float4(0, 0, 0, 0);
#pragma unroll
            for (int i = 0; i < WARPS / 4; ++i) {
                const float4 four = ((const float4*)parts[row])[i];
                all.x += four.x, all.y += four.y, all.z += four.z, all.w += four.w;
            }
            return all.x + all.y + (all.z + all.w);
        }, given);
    }
}
