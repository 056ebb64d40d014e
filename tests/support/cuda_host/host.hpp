// The part of CUDA C++ that gpubp's kernels use, for a host compiler. Included before each kernel's text.
//
// It includes no header of a library, because hundreds of kernels are compiled with it one by one. A block's
// threads run as fibers (runtime.cpp), one at a time: between two synchronizations nothing interrupts a thread.
#pragma once

#include "runtime.hpp"

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static  // uninitialized, so in the library's .bss, which the launch fills with 0xFF for each block

// -- synchronization ----------------------------------------------------------------------------------

inline void __syncthreads(int line = __builtin_LINE()) { host_syncthreads(line); }

inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
    host_meet("__syncwarp", mask, 0, -1, line);
}

template <class T>
T host_shuffle(const char* what, unsigned mask, T value, int source, int line) {
    static_assert(sizeof(T) <= 8, "CUDA shuffles values of at most 8 bytes");
    unsigned long long bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    bits = host_meet(what, mask, bits, source, line);
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}

inline int host_lane() { return static_cast<int>(threadIdx.x % 32); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int line = __builtin_LINE()) {
    return host_shuffle("__shfl_sync", mask, value, source & 31, line);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int line = __builtin_LINE()) {
    return host_shuffle("__shfl_xor_sync", mask, value, (host_lane() ^ lanes) & 31, line);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int line = __builtin_LINE()) {
    int source = host_lane() + static_cast<int>(delta);
    return host_shuffle("__shfl_down_sync", mask, value, source < 32 ? source : host_lane(), line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return static_cast<unsigned>(host_meet("__ballot_sync", mask, predicate != 0, -1, line));
}

inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return host_meet("__any_sync", mask, predicate != 0, -1, line) != 0;
}

inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
    return host_meet("__all_sync", mask, predicate == 0, -1, line) == 0;
}

inline void __threadfence() {}

// -- atomics: integers only, so that sums do not depend on an order -----------------------------------

#define HOST_ATOMICS(T)                                                     \
    inline T atomicAdd(T* p, T v) { T old = *p; *p = old + v; return old; }  \
    inline T atomicMax(T* p, T v) { T old = *p; if (v > old) *p = v; return old; }
HOST_ATOMICS(int)
HOST_ATOMICS(unsigned)
HOST_ATOMICS(unsigned long long)
#undef HOST_ATOMICS

inline unsigned atomicInc(unsigned* p, unsigned limit) {
    unsigned old = *p;
    *p = old >= limit ? 0 : old + 1;
    return old;
}

// -- numbers ------------------------------------------------------------------------------------------

#define HOST_MATH_1(name)                                            \
    inline float name(float x) { return __builtin_##name##f(x); }     \
    inline double name(double x) { return __builtin_##name(x); }
#define HOST_MATH_2(name)                                                          \
    inline float name(float x, float y) { return __builtin_##name##f(x, y); }       \
    inline double name(double x, double y) { return __builtin_##name(x, y); }
HOST_MATH_1(exp)
HOST_MATH_1(expm1)
HOST_MATH_1(log)
HOST_MATH_1(log1p)
HOST_MATH_1(tanh)
HOST_MATH_1(erf)
HOST_MATH_1(erfc)
HOST_MATH_1(sqrt)
HOST_MATH_1(fabs)
HOST_MATH_1(rint)
HOST_MATH_2(pow)
HOST_MATH_2(fmax)
HOST_MATH_2(fmin)
#undef HOST_MATH_1
#undef HOST_MATH_2

inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline bool isfinite(double x) { return __builtin_isfinite(x); }
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isnan(double x) { return __builtin_isnan(x); }

template <class T>
T min(T a, T b) { return b < a ? b : a; }
template <class T>
T max(T a, T b) { return a < b ? b : a; }

inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}

inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }

template <class T>
T __ldg(const T* p) { return *p; }

template <class To, class From>
To host_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "a cast keeps the size");
    To to;
    __builtin_memcpy(&to, &from, sizeof(To));
    return to;
}
inline float __int_as_float(int x) { return host_bits<float>(x); }
inline long long __double_as_longlong(double x) { return host_bits<long long>(x); }

// -- how a kernel is called ---------------------------------------------------------------------------

struct __half;
struct __nv_bfloat16;

// What a parameter is: i, u or f with its size in bytes, b2 for bfloat16, ? for anything else.
template <class T>
struct HostType {
    static constexpr const char* code = "?";
    static constexpr bool pointer = false, constant = false;
};
template <class T>
struct HostType<const T> : HostType<T> {
    static constexpr bool constant = true;
};
template <class T>
struct HostType<T*> {
    static constexpr const char* code = HostType<T>::code;
    static constexpr bool pointer = true, constant = HostType<T>::constant;  // whether it points to what is const
};
#define HOST_TYPE(T, name)                          \
    template <>                                      \
    struct HostType<T> {                             \
        static constexpr const char* code = name;    \
        static constexpr bool pointer = false, constant = false; \
    };
HOST_TYPE(bool, "u1")
HOST_TYPE(char, "i1")
HOST_TYPE(signed char, "i1")
HOST_TYPE(unsigned char, "u1")
HOST_TYPE(short, "i2")
HOST_TYPE(unsigned short, "u2")
HOST_TYPE(int, "i4")
HOST_TYPE(unsigned, "u4")
HOST_TYPE(long, "i8")
HOST_TYPE(unsigned long, "u8")
HOST_TYPE(long long, "i8")
HOST_TYPE(unsigned long long, "u8")
HOST_TYPE(__half, "f2")
HOST_TYPE(__nv_bfloat16, "b2")
HOST_TYPE(float, "f4")
HOST_TYPE(double, "f8")
#undef HOST_TYPE

template <class... P>
const char* host_parameter(void (*)(P...), unsigned i, bool* pointer, bool* constant) {
    const char* const codes[] = {HostType<P>::code..., nullptr};
    const bool pointers[] = {HostType<P>::pointer..., false}, constants[] = {HostType<P>::constant..., false};
    *pointer = pointers[i];
    *constant = constants[i];
    return codes[i];
}

struct HostCall {
    template <class... P>
    HostCall(void (*kernel)(P...), P... p) { kernel(p...); }
};

template <class... P>
void host_call(void (*kernel)(P...), void** args) {
    (void)args;  // a kernel may have no parameters
    HostCall{kernel, *static_cast<P*>(*args++)...};  // a braced list is evaluated from left to right
}

// The linker's names for the library's uninitialized statics: the kernel's shared memory.
extern "C" char __bss_start[] __attribute__((visibility("hidden")));
extern "C" char _end[] __attribute__((visibility("hidden")));

#define HOST_KERNEL(kernel)                                                                                       \
    static void host_body(void** args) { host_call(kernel, args); }                                               \
    extern "C" __attribute__((visibility("default"))) const char* gpubp_parameter(unsigned i, bool* pointer,       \
                                                                                  bool* constant) {               \
        return host_parameter(kernel, i, pointer, constant);                                                      \
    }                                                                                                             \
    extern "C" __attribute__((visibility("default"))) const char* gpubp_launch(                                   \
        const unsigned* grid, unsigned block, unsigned shared, void** args, unsigned long long seed, bool fibers) { \
        return gpubp_host_run(host_body, args, grid, block, shared, seed, fibers, __bss_start,                    \
                              static_cast<unsigned long>(_end - __bss_start));                                    \
    }
