// A GPU for step_cuda.cu where there is none: its programs' threads are fibers of one thread, which are let on in an
// order drawn at random, and copies and words that were sent arrive when chance has it. Stands in for hopper.cuh.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#define HOPPER
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
using std::max;
using std::min;

typedef uint32_t u32;
typedef uint16_t bf16;

struct alignas(8) uint2 { u32 x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

template <class To, class From>
To same_bits(From from) {
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
inline float __uint_as_float(u32 bits) { return same_bits<float>(bits); }
inline u32 __float_as_uint(float value) { return same_bits<u32>(value); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float power(float two) { return std::exp2(two); }
inline float low(u32 pair) { return __uint_as_float(pair << 16); }
inline float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
inline float single(bf16 value) { return __uint_as_float((u32)value << 16); }
inline bf16 rounded(float value) {
    const u32 bits = __float_as_uint(value);
    return value != value ? 0x7fff : (bf16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline u32 packed(float low, float high) { return rounded(low) | (u32)rounded(high) << 16; }

// ---- Fibers

struct Meeting {  // of so many threads
    int size, here = 0, times = 0;
};

struct Warp {
    Meeting meeting{32};
    u32 shuffled[32];
    uint4 x[32];
    u32 w[32][2];
};

struct Program {
    std::vector<unsigned char> memory;
    Meeting all, some;
    std::vector<Warp> warps;
};

struct Fiber {
    ucontext_t context;
    std::unique_ptr<unsigned char[]> stack;
    Program* program;
    unsigned thread, block;
    bool done = false;
};

struct Index { unsigned x; };
thread_local Index threadIdx, blockIdx;
thread_local Fiber* now;
thread_local ucontext_t scheduler;
thread_local std::mt19937 chance;
thread_local std::vector<std::function<void()>> copies;        // on their way, in no order
thread_local long until_lost;  // words until one is lost
thread_local std::map<u32*, std::deque<u32>> words;            // on their way, in order for each place

inline void yield() {
    Fiber* own = now;
    swapcontext(&own->context, &scheduler);
    now = own, threadIdx.x = own->thread, blockIdx.x = own->block;
}
inline void meet(Meeting& meeting) {
    const int time = meeting.times;
    if (++meeting.here == meeting.size) meeting.here = 0, ++meeting.times;
    while (meeting.times == time) yield();
}
inline Warp& warp() { return now->program->warps[threadIdx.x / 32]; }
inline int thread_here() { return (int)threadIdx.x; }
inline void __syncwarp() { meet(warp().meeting); }
inline void __syncthreads() { meet(now->program->all); }
template <int COUNT>
void sync() {
    now->program->some.size = COUNT;
    meet(now->program->some);
}
template <class Value>
Value __shfl_xor_sync(u32, Value value, int step) {
    warp().shuffled[threadIdx.x % 32] = same_bits<u32>(value);
    __syncwarp();
    const u32 found = warp().shuffled[threadIdx.x % 32 ^ step];
    __syncwarp();
    return same_bits<Value>(found);
}
// As PTX has it: of x (16 rows) a lane holds rows lane / 4 and 8 more, of w (8 rows) row lane / 4, of the sums those of
// x's rows with w's rows 2 (lane % 4) and one more. `product` is that of 32 bits of each.
template <class Sum, class Product>
void multiply(Sum (&sums)[4], uint4 x, u32 w0, u32 w1, Product product) {
    const int lane = threadIdx.x % 32;
    Warp& all = warp();
    all.x[lane] = x, all.w[lane][0] = w0, all.w[lane][1] = w1;
    __syncwarp();
    for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) {
            const uint4& of = all.x[lane / 4 * 4 + j];
            const u32* by = all.w[(lane % 4 * 2 + i % 2) * 4 + j];
            sums[i] += product(i < 2 ? of.x : of.y, by[0]);
            sums[i] += product(i < 2 ? of.z : of.w, by[1]);
        }
    }
    __syncwarp();
}
inline void multiply(float (&sums)[4], uint4 x, u32 w0, u32 w1) {
    multiply(sums, x, w0, w1, [](u32 x, u32 w) { return low(x) * low(w) + high(x) * high(w); });
}
inline void multiply(int (&sums)[4], uint4 x, u32 w0, u32 w1) {
    multiply(sums, x, w0, w1, [](u32 x, u32 w) {
        int sum = 0;
        for (int shift = 0; shift < 32; shift += 8) sum += (int8_t)(x >> shift) * (int8_t)(w >> shift);
        return sum;
    });
}

// ---- Memory

inline uint4 fetch16(const void* from) { return *(const uint4*)from; }
inline uint2 fetch8(const void* from) { return *(const uint2*)from; }
inline u32 fetch4(const void* from) { return *(const u32*)from; }
inline void bring(const void*) {}
inline void tell(u32* word, u32 bits) {
    if (--until_lost) words[word].push_back(bits);
}
inline u32 ask4(const u32* word) { return yield(), *word; }
inline uint2 ask8(const u32* at) { return {ask4(at), ask4(at + 1)}; }
inline uint4 ask16(const u32* at) { return {ask4(at), ask4(at + 1), ask4(at + 2), ask4(at + 3)}; }

inline unsigned char* shared_memory() {
    return (unsigned char*)(((uintptr_t)now->program->memory.data() + 127) / 128 * 128);
}

typedef unsigned long long Barrier;
struct Opening {
    int16_t arrivals, missing;
    int32_t bytes : 31;
    u32 phase : 1;
};
static_assert(sizeof(Opening) == sizeof(Barrier), "");
inline void settle(Opening& o) {
    if (!o.missing && !o.bytes) o.missing = o.arrivals, o.phase ^= 1;
}
inline void ready(Barrier& barrier, int arrivals) { (Opening&)barrier = {(int16_t)arrivals, (int16_t)arrivals, 0, 0}; }
inline void arrive(Barrier& barrier) {
    Opening& o = (Opening&)barrier;
    if (!o.missing) std::fprintf(stderr, "more have arrived than a barrier takes\n"), std::abort();
    --o.missing, settle(o);
}
inline void promise(Barrier& barrier, u32 bytes) {
    ((Opening&)barrier).bytes += (int)bytes;
    arrive(barrier);
}
inline bool open(const Barrier& barrier, u32 phase) { return ((const Opening&)barrier).phase != phase; }
inline void wait(const Barrier& barrier, u32 phase) {
    while (!open(barrier, phase)) yield();
}
inline void copy(void* to, const void* from, u32 bytes, Barrier& barrier) {
    if (((uintptr_t)to | (uintptr_t)from | bytes) % 16) std::fprintf(stderr, "a copy is not aligned\n"), std::abort();
    copies.push_back([=, &barrier] {
        std::memcpy(to, from, bytes);
        ((Opening&)barrier).bytes -= (int)bytes, settle((Opening&)barrier);
    });
}

// ---- Running

// Lets `threads` threads of `programs` programs run `step` to its end; with `lose` that word of all is lost. False where
// nothing went on for a long time.
template <class Step>
bool emulate(int programs, int threads, int memory, unsigned seed, long lose, Step step) {
    static thread_local Step* body;
    body = &step;
    chance.seed(seed), until_lost = lose;
    std::vector<Program> all(programs);
    std::vector<Fiber> fibers(programs * threads);
    for (int i = 0; i < programs * threads; ++i) {
        Fiber& fiber = fibers[i];
        fiber.block = i / threads, fiber.thread = i % threads, fiber.program = &all[fiber.block];
        fiber.stack.reset(new unsigned char[1 << 16]);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get(), fiber.context.uc_stack.ss_size = 1 << 16;
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, (void (*)())(+[] { (*body)(), now->done = true; }), 0);
    }
    for (Program& program : all) {
        program.memory.assign(memory + 128, 0xff);  // NaN, where it is read before it was written
        program.all.size = threads, program.warps.resize(threads / 32);
    }
    const int warps = programs * threads / 32;
    int left = programs * threads, slow = 0;
    for (long turn = 0; left; ++turn) {
        if (turn > 4000000) return false;
        if (turn % 3000 == 0) slow = (int)(chance() % (programs + 1));  // a program that is let on seldom, or none
        const int which = (int)(chance() % warps);
        if (which / (threads / 32) == slow && chance() % 16) continue;
        const u32 waiting = chance() % 4 ? 0 : chance();  // lanes of a warp need not keep step either
        for (int lane = 0; lane < 32; ++lane) {
            Fiber& fiber = fibers[which * 32 + lane];
            if (fiber.done || waiting >> lane & 1) continue;
            now = &fiber, threadIdx.x = fiber.thread, blockIdx.x = fiber.block;
            swapcontext(&scheduler, &fiber.context);
            left -= fiber.done;
        }
        while (!copies.empty() && chance() % 2) {
            std::swap(copies[chance() % copies.size()], copies.back());
            copies.back()(), copies.pop_back();
        }
        for (auto word = words.begin(); word != words.end();) {
            if (chance() % 4) *word->first = word->second.front(), word->second.pop_front();
            word = word->second.empty() ? words.erase(word) : std::next(word);
        }
    }
    return true;
}
