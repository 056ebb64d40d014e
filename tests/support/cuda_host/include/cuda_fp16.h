// The half-precision type and conversions of CUDA's header of this name, in software.
#pragma once

struct __half {
    unsigned short bits;
};

inline float __half2float(__half h) {
    unsigned sign = (h.bits & 0x8000u) << 16, exponent = h.bits >> 10 & 0x1f, fraction = h.bits & 0x3ffu;
    if (exponent == 0) {  // zero or subnormal: fraction * 2^-24, exact in float
        float magnitude = static_cast<float>(fraction) * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    unsigned wide = exponent == 31 ? 0xff : exponent + (127 - 15);
    return host_bits<float>(sign | wide << 23 | fraction << 13);
}

inline __half __float2half_rn(float x) {
    unsigned bits = host_bits<unsigned>(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    unsigned result;
    if (magnitude > 0x7f800000u) {
        return {0x7fff};  // CUDA's NaN
    }
    if (magnitude >= 0x47800000u) {  // 2^16 and infinity
        result = 0x7c00;
    } else if (magnitude >= 0x38800000u) {  // normal: rebias, round to nearest even; may carry up to infinity
        result = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    } else {  // subnormal: adding 2^-1 leaves the multiple of 2^-24 in the low bits, rounded to nearest even
        float sum = host_bits<float>(magnitude) + 0.5f;
        result = host_bits<unsigned>(sum) - 0x3f000000u;
    }
    return {static_cast<unsigned short>(sign | result)};
}

inline __half __float2half(float x) { return __float2half_rn(x); }
