// What the step asks of the GPU in the GPU's own words (PTX). tests/infer/emulated_gpu.h stands in for it where there is
// none.
#ifndef HOPPER
#define HOPPER

typedef unsigned int u32;
typedef unsigned short bf16;

// ---- Numbers

float low(u32 pair) { return __uint_as_float(pair << 16); }
float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
float single(bf16 value) { return __uint_as_float((u32)value << 16); }

u32 packed(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
bf16 rounded(float value) { return (bf16)packed(value, 0.0f); }

float power(float two) {
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(two));
    return two;
}

// sums += x w^T of 16 elements: of x, rows g and g + 8 at lanes of g = lane / 4, of w row g. Which 16 elements the lanes
// of a row hold is the same for both, and does not matter else.
void multiply(float (&sums)[4], uint4 x, u32 w0, u32 w1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w), "r"(w0), "r"(w1));
}

// The same of 32 whole numbers of 8 bits.
void multiply(int (&sums)[4], uint4 x, u32 w0, u32 w1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w), "r"(w0), "r"(w1));
}

// ---- Memory. Loads in the order in which they are asked for: the compiler would put them off until they are used.

uint4 fetch16(const void* from) {
    uint4 v;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}
uint2 fetch8(const void* from) {
    uint2 v;
    asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
    return v;
}
u32 fetch4(const void* from) {
    u32 v;
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(v) : "l"(from));
    return v;
}

// On its way to where it is quickly read.
void bring(const void* line) { asm volatile("prefetch.global.L2::evict_last [%0];" ::"l"(line)); }

// What other programs see, and what they have written.
void tell(u32* word, u32 bits) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(word), "r"(bits) : "memory");
}
uint4 ask16(const u32* words) {
    uint4 v;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(words) : "memory");
    return v;
}
uint2 ask8(const u32* words) {
    uint2 v;
    asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(words) : "memory");
    return v;
}
u32 ask4(const u32* word) {
    u32 v;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(word) : "memory");
    return v;
}

// ---- A program's threads and its shared memory

unsigned char* shared_memory() {
    extern __shared__ __align__(128) unsigned char memory[];
    return memory;
}
u32 address(const void* shared) { return (u32)__cvta_generic_to_shared(shared); }

// threadIdx.x, read where this stands: what follows from it would else be computed once and kept in memory for want of
// registers.
int thread_here() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
}

// The first `COUNT` threads wait for one another.
template <int COUNT>
void sync() { asm volatile("bar.sync 1, %0;" ::"n"(COUNT) : "memory"); }

typedef unsigned long long Barrier;  // opens when so many have arrived, and all that was promised has been copied

void ready(Barrier& barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(&barrier)), "r"(arrivals));
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
void arrive(Barrier& barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(&barrier)) : "memory");
}
void promise(Barrier& barrier, u32 bytes) {  // and arrive
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(&barrier)), "r"(bytes) : "memory");
}
bool open(const Barrier& barrier, u32 phase) {  // by now; `wait` waits for it
    u32 done;
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done) : "r"(address(&barrier)), "r"(phase) : "memory");
    return done;
}
void wait(const Barrier& barrier, u32 phase) {
    u32 done;
    do {
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                     : "=r"(done) : "r"(address(&barrier)), "r"(phase) : "memory");
    } while (!done);
}

// Copies to shared memory while the program goes on; what is read once makes no way for itself in the cache.
void copy(void* to, const void* from, u32 bytes, Barrier& barrier) {
    unsigned long long once;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(once));
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;"
                 ::"r"(address(to)), "l"(from), "r"(bytes), "r"(address(&barrier)), "l"(once) : "memory");
}

#endif
