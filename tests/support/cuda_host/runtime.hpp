// What runtime.cpp supplies to kernels.
#pragma once

struct uint3 {
    unsigned x, y, z;
};
using dim3 = uint3;

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
extern unsigned char* host_dynamic_shared;

// `line` says where in the kernel's source a thread stands; threads that meet must stand on the same one.
void host_syncthreads(int line);
// Waits for the lanes of `mask`. The result is lane `source`'s value, or with source = -1 the mask of the lanes
// whose value is not 0.
unsigned long long host_meet(const char* what, unsigned mask, unsigned long long value, int source, int line);
[[noreturn]] void host_fail(const char* format, ...);

// A thread's access to a block's dynamic shared memory, of which `offset` is counted in bytes.
struct HostAccess {
    const char* file;
    int line;
    unsigned thread, offset, bytes;
};
// For kernels whose text is made to say what they access (bank_conflicts.py); elsewhere than there it notes nothing.
void host_access(const void* address, unsigned bytes, const char* file, int line);

// The accesses of the last launch, in each thread's order.
extern "C" unsigned long gpubp_host_accesses(const HostAccess** accesses);
extern "C" const char* gpubp_host_run(void (*body)(void**), void** args, const unsigned* grid, unsigned block,
                                      unsigned shared, unsigned long long seed, bool fibers, char* statics,
                                      unsigned long statics_size);
