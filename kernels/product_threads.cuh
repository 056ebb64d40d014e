// A tile's sums by threads, QUAD x QUAD each, so that few words of shared memory are read for many products. If a tile
// has fewer sums than that, threads form GROUPS that each take every GROUPS-th k, so that a block has enough threads to
// fetch whole panels at once. Panels hold elements of A, k by k.

constexpr int ACROSS = TILE_N / QUAD;  // threads of a group side by side
constexpr int GROUPS = THREADS * QUAD * QUAD / (TILE_M * TILE_N);
constexpr int OF_PANELS = DEPTH * (TILE_M + 4 + TILE_N + 4);

template <bool ALONG, int LINES>
struct PanelPlaces {
    using Element = A;
    static constexpr bool ALONG_K = ALONG;
    static constexpr int TILE = LINES, PITCH = TILE + 4, SIZE = DEPTH * PITCH;  // what is stored at once is in 32 banks

    // The first element of a unit. Along k, two neighbours share a line's sector, so that 32 threads store to 32 banks.
    static __device__ __forceinline__ int k_of(int number) {
        return ALONG_K ? (number % 2 + number / (2 * TILE) * 2) * WIDTH : number / (TILE / WIDTH);
    }
    static __device__ __forceinline__ int x_of(int number) {
        return ALONG_K ? number / 2 % TILE : number % (TILE / WIDTH) * WIDTH;
    }
    static __device__ __forceinline__ void put(A* panel, int x, int k, const Pack<T, WIDTH>& unit) {
        const Pack<A, WIDTH> values = convert<A>(unit);
        A* to = panel + k * PITCH + x;
        if constexpr (ALONG_K)
            for (int j = 0; j < WIDTH; j++) to[j * PITCH] = values.x[j];
        else
            store(to, values);
    }
};

template <class PlacesA, class PlacesB>
struct Sums {
    const int group = threadIdx.x / (THREADS / GROUPS), inside = threadIdx.x % (THREADS / GROUPS);
    const int top = inside / ACROSS * QUAD, left = inside % ACROSS * QUAD;
    Pack<A, QUAD> sum[QUAD] = {}, of_b = {};

    // Adds the products of the first `depth` k of two panels.
    __device__ __forceinline__ void add(const A* panel_a, const A* panel_b, int depth, bool sum_columns) {
#pragma unroll 4
        for (int k = group; k < depth; k += GROUPS) {
            const Pack<A, QUAD> x = load<QUAD>(panel_a + k * PlacesA::PITCH + top);
            const Pack<A, QUAD> y = load<QUAD>(panel_b + k * PlacesB::PITCH + left);
            for (int r = 0; r < QUAD; r++)
                for (int c = 0; c < QUAD; c++) sum[r].x[c] += x.x[r] * y.x[c];
            if (sum_columns)
                for (int c = 0; c < QUAD; c++) of_b.x[c] += y.x[c];
        }
    }

    __device__ __forceinline__ void put(A* parts, A* column_parts, bool sum_columns) const {
        for (int r = 0; r < QUAD; r++) store(parts + (group * TILE_M + top + r) * TILE_N + left, sum[r]);
        if (sum_columns && top == 0) store(column_parts + group * TILE_N + left, of_b);
    }
};
