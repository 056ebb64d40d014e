// Loads panels of a product's operands, DEPTH of k each, into shared memory. `Places` says where they go.

constexpr int QUAD = 4;  // columns per call of an epilogue
constexpr int DEPTH = 16384 / sizeof(A) / (TILE_M > TILE_N ? TILE_M : TILE_N);

// x is a row of a, or a column of b. Its elements along k are at from[x * line + k], or at from[k * line + x]; lines
// follow each other without gaps.
template <bool ALONG_K>
struct Operand {
    const T* from;
    int line, extent;  // elements from one line to the next, and the number of x
    bool packed;       // whether lines are whole pieces of 16 bytes

    __device__ __forceinline__ Operand(const T* from, int line, int extent)
        : from(from), line(line), extent(extent), packed(line % WIDTH == 0 && aligned(from)) {}
    __device__ __forceinline__ const T* at(int x, int k) const {
        return from + (ALONG_K ? Index(x) * line + k : Index(k) * line + x);
    }
};

// A thread's part of a panel of TILE lines x.
template <class Places>
struct Panel {
    static constexpr int UNITS = DEPTH * Places::TILE / (WIDTH * THREADS);
    static_assert(UNITS * WIDTH * THREADS == DEPTH * Places::TILE, "every thread has equally many units");
    Pack<T, WIDTH> unit[UNITS];

    __device__ __forceinline__ void fetch(const Operand<Places::ALONG_K>& of, int first_x, int first_k, int depth) {
        // If packed, a unit is wholly inside or outside. All loads are issued before the first is waited for.
        if (of.packed) {
#pragma unroll
            for (int i = 0; i < UNITS; i++) {
                const int number = threadIdx.x + i * THREADS;
                const int x = first_x + Places::x_of(number), k = first_k + Places::k_of(number);
                unit[i] = {};
                if (x < of.extent && k < depth) unit[i] = load<WIDTH>(of.at(x, k));
            }
        } else {
#pragma unroll
            for (int i = 0; i < UNITS; i++) {
                const int number = threadIdx.x + i * THREADS;
                const int x = first_x + Places::x_of(number), k = first_k + Places::k_of(number);
                const int left = x >= of.extent || k >= depth ? 0 : Places::ALONG_K ? depth - k : of.extent - x;
                unit[i] = load<WIDTH>(of.at(x, k), left, false);
            }
        }
    }

    __device__ __forceinline__ void put(typename Places::Element* panel) const {
#pragma unroll
        for (int i = 0; i < UNITS; i++) {
            const int number = threadIdx.x + i * THREADS;
            Places::put(panel, Places::x_of(number), Places::k_of(number), unit[i]);
        }
    }
};
