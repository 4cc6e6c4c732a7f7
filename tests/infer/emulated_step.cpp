// step_cuda.cu, run by emulated_gpu.h: compiled by test_step_cuda.py with the shape's names.

#include "emulated_gpu.h"
#include "step_cuda.cu"

extern "C" bool run(const Model* model, unsigned seed, long lose) {
    return emulate(PROGRAMS, THREADS + 32, MEMORY, seed, lose, [=] { row_step(*model); });
}
