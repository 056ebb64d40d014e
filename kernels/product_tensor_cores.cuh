// A tile's sums of 16-bit numbers on tensor cores. Warps share the tile; if there are more warps than units of sums,
// they form GROUPS that each take every GROUPS-th unit of k. Panels hold operands in the layout that they have in
// memory.

constexpr int PIECES = TILE_M / UNIT_M * (TILE_N / UNIT_N), WARPS = THREADS / 32;
constexpr int GROUPS = PIECES < WARPS ? WARPS / PIECES : 1;
constexpr int OF_A_WARP = PIECES * GROUPS / WARPS;  // pieces, side by side
static_assert(OF_A_WARP * WARPS == PIECES * GROUPS, "every warp has equally many pieces");

constexpr int BESIDE = 8;  // padding elements of each line, so that a fragment's words are in 32 banks
constexpr int OF_PANELS = (TILE_M + BESIDE + TILE_N + BESIDE) * (DEPTH + BESIDE) / 2;  // counted in A

template <bool ALONG, int LINES>
struct PanelPlaces {
    using Element = T;
    static constexpr bool ALONG_K = ALONG;
    static constexpr int TILE = LINES, PITCH = (ALONG_K ? DEPTH : TILE) + BESIDE, SIZE = (TILE + BESIDE) * (DEPTH + BESIDE);

    static __device__ __forceinline__ int k_of(int number) {
        return ALONG_K ? number % (DEPTH / WIDTH) * WIDTH : number / (TILE / WIDTH);
    }
    static __device__ __forceinline__ int x_of(int number) {
        return ALONG_K ? number / (DEPTH / WIDTH) : number % (TILE / WIDTH) * WIDTH;
    }
    static __device__ __forceinline__ void put(T* panel, int x, int k, const Pack<T, WIDTH>& unit) {
        store(panel + (ALONG_K ? x * PITCH + k : k * PITCH + x), unit);
    }
    // Elements k and k + 1 of line x, as a word.
    static __device__ __forceinline__ unsigned pair(const T* panel, int x, int k) {
        if constexpr (ALONG_K) return *reinterpret_cast<const unsigned*>(panel + x * PITCH + k);
        const auto* from = reinterpret_cast<const unsigned short*>(panel + k * PITCH + x);
        return from[0] | unsigned(from[PITCH]) << 16;
    }
};

template <class PlacesA, class PlacesB>
struct Sums {
    const int warp = threadIdx.x / 32, i = threadIdx.x % 32 / 4, j = threadIdx.x % 4;
    const int group = warp / (WARPS / GROUPS), inside = warp % (WARPS / GROUPS);
    const int top = inside % (TILE_M / UNIT_M) * UNIT_M, left = inside / (TILE_M / UNIT_M) * OF_A_WARP * UNIT_N;
    A sum[OF_A_WARP][4] = {}, of_b[OF_A_WARP][4] = {};

    // Adds the products of the first `depth` k of two panels, which hold zeros from there on.
    __device__ __forceinline__ void add(const T* panel_a, const T* panel_b, int depth, bool sum_columns) {
#pragma unroll 4
        for (int k = group * UNIT_K; k < depth; k += GROUPS * UNIT_K) {
            FragmentA x;
#pragma unroll
            for (int word = 0; word < 4; word++)
                x.word[word] = PlacesA::pair(panel_a, top + i + word % 2 * 8, k + 2 * j + word / 2 * 8);
#pragma unroll
            for (int piece = 0; piece < OF_A_WARP; piece++) {
                FragmentB y;
#pragma unroll
                for (int word = 0; word < 2; word++)
                    y.word[word] = PlacesB::pair(panel_b, left + piece * UNIT_N + i, k + 2 * j + word * 8);
                multiply_add(sum[piece], x, y);
                if (sum_columns) multiply_add(of_b[piece], ones(), y);
            }
        }
    }

    __device__ __forceinline__ void put(A* parts, A* column_parts, bool sum_columns) const {
#pragma unroll
        for (int piece = 0; piece < OF_A_WARP; piece++) {
            const int column = left + piece * UNIT_N + 2 * j;
#pragma unroll
            for (int row = 0; row < 2; row++) {
                const Pack<A, 2> both = {sum[piece][2 * row], sum[piece][2 * row + 1]};
                store(parts + (group * TILE_M + top + i + row * 8) * TILE_N + column, both);
            }
            const Pack<A, 2> sums = {of_b[piece][0], of_b[piece][1]};  // the same in all rows
            if (sum_columns && top == 0 && i == 0) store(column_parts + group * TILE_N + column, sums);
        }
    }

    static __device__ __forceinline__ FragmentA ones() {
        const Pack<T, 2> pair = {convert<T>(A(1)), convert<T>(A(1))};
        const unsigned word = *reinterpret_cast<const unsigned*>(&pair);
        return {word, word, word, word};
    }
};
