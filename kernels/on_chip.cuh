// What training on the chip shares with the products of its networks, which threads or tensor cores form.

constexpr int TILE = 4;  // rows and columns of matrices are there up to multiples of it, and zero beyond a tensor's own

using Quad = Pack<A, TILE>;

// 2^bits is the least power that is n at least.
__device__ __forceinline__ int bits_for(int n) { return n > 1 ? 32 - __clz(n - 1) : 0; }
