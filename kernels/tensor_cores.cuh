// A warp's product on tensor cores: float32 sums (16, 8) of a (16, UNIT_K) and b (UNIT_K, 8), of 16-bit numbers or,
// with TF32, of float32 rounded to 10 bits of fraction.
//
// Source of the layout of fragments: NVIDIA, PTX ISA, "Matrix Fragments for mma.m16n8k16", and for TF32 "for
// mma.m16n8k8".

constexpr int UNIT_M = 16, UNIT_N = 8;
#ifdef TF32
constexpr int OF_A_WORD = 1;  // numbers
#else
constexpr int OF_A_WORD = 2;
#endif
constexpr int UNIT_K = 8 * OF_A_WORD;

// Fragments: a lane's words, each of neighbours along k. Lane 4 i + j has rows i and i + 8 of a at word j of k, and the
// same at word j + 4; column i of b at these words; and columns 2 j and 2 j + 1 of the sums, in row i, then row i + 8.
struct FragmentA {
    unsigned word[4];
};
struct FragmentB {
    unsigned word[2];
};

__device__ __forceinline__ void multiply_add(A (&sum)[4], const FragmentA& a, const FragmentB& b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#if defined(TF32)
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#elif defined(FLOAT16)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]), "r"(b.word[1]));
#else  // without such instructions, lanes ask each other for the words
    using Word = Pack<T, OF_A_WORD>;
    const int i = threadIdx.x % 32 / 4, j = threadIdx.x % 4;
#pragma unroll
    for (int upper = 0; upper < 2; upper++)
        for (int lane = 0; lane < 4; lane++) {  // whose words they are
            Word x[2], y[2];
#pragma unroll
            for (int row = 0; row < 2; row++) {
                const unsigned word = __shfl_sync(0xffffffffu, a.word[2 * upper + row], 4 * i + lane);
                x[row] = *reinterpret_cast<const Word*>(&word);
            }
#pragma unroll
            for (int column = 0; column < 2; column++) {
                const unsigned word = __shfl_sync(0xffffffffu, b.word[upper], 4 * (2 * j + column) + lane);
                y[column] = *reinterpret_cast<const Word*>(&word);
            }
#pragma unroll
            for (int k = 0; k < OF_A_WORD; k++)
#pragma unroll
                for (int of = 0; of < 4; of++) sum[of] += convert<A>(x[of / 2].x[k]) * convert<A>(y[of % 2].x[k]);
        }
#endif
}

#ifdef TF32
// Rounded to 10 bits of fraction, to nearest, ties away from zero; what is not finite stays so.
__device__ __forceinline__ unsigned to_tf32(float x) {
    unsigned word;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(word) : "f"(x));
#else
    word = *reinterpret_cast<const unsigned*>(&x);
    if (isfinite(x)) word = (word + 0x1000u) & 0xFFFFE000u;
#endif
    return word;
}
#endif
