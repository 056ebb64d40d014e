// The bfloat16 type and conversions of CUDA's header of this name, in software.
#pragma once

struct __nv_bfloat16 {
    unsigned short bits;
};

inline float __bfloat162float(__nv_bfloat16 b) { return host_bits<float>(static_cast<unsigned>(b.bits) << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    unsigned bits = host_bits<unsigned>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return {0x7fff};  // CUDA's NaN
    }
    return {static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

inline __nv_bfloat16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }
