// What training on the chip shares with its products, which threads or tensor cores compute.

constexpr int TILE = 4;  // rows and columns of matrices are padded with zeros to multiples of it

using Quad = Pack<A, TILE>;

// 2^bits is the least power of two that is at least n.
__device__ __forceinline__ int bits_for(int n) { return n > 1 ? 32 - __clz(n - 1) : 0; }
