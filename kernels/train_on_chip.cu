// Training steps of small networks, many in one launch: a block trains one network, whose parameters and gradient lie
// in shared memory all the time, and with SLOTS_ON_CHIP the optimizer's slots. A step is what gather, bias_activation
// and hadamard_derivative with their products, a kernel of a loss, step_begin and optimizer_step make of it: rows are
// found as gather finds them, a network that leaves the finite numbers becomes inactive before anything of it is
// written, masks of dropout have the same bits. Batches larger than `chunk` rows are gone through in chunks.
//
// theta and slots (K, P); X (K or 1, m, n_0), y and weight likewise; tables and options as in step_begin. `steps`
// steps of `rows` rows are taken from where the cursor stands, and the last block to end moves it on.
//
// In shared memory a matrix has rows whose length is an odd number of 16-byte words and a multiple of 4 elements at
// least: threads that read neighbouring rows meet no bank conflict. Rows and columns beyond a tensor's own, up to
// multiples of 4, are zero and stay it. Moves theta and slots twice a launch, and the batches' rows once.

constexpr int TILE = 4;             // a thread computes TILE x TILE sums of a product
constexpr int MOST_LAYERS = 16;
constexpr int MOST_ROWS = THREADS;  // of a chunk
constexpr int LANES = 8;            // threads that share a row of the loss
constexpr int AHEAD = 32;           // steps whose scalars are computed at once, by a thread each
constexpr int WORD = 16 / sizeof(A);
constexpr int AT_A_TIME = 2;        // words whose parameters a thread updates at once

using Quad = Pack<A, TILE>;

// A layer's sizes, and where its parts begin: in theta, and in shared memory, counted in elements (the mask in bytes).
struct LayerPlace {
    int n_in, n_out;
    int theta_W, theta_b;
    int W, b;
    int input, input_row;  // what it reads (chunk, n_in), and the length of a row of it
    int a, row;            // what it computes (chunk, n_out); rows of W are as long
    int z;                 // before the activation, where the derivative is read off it
    int mask;              // (chunk, row)
};

struct Sums {
    double value, metric, square, weights;
};

// The values of `lanes` neighbouring threads combined.
template <int lanes, class V, class Combine>
__device__ __forceinline__ V over_lanes(V x, Combine combine) {
#pragma unroll
    for (int offset = lanes / 2; offset > 0; offset /= 2) x = combine(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

// 2^bits is the least power that is n at least.
__device__ __forceinline__ int bits_for(int n) { return n > 1 ? 32 - __clz(n - 1) : 0; }

// -- products ------------------------------------------------------------------------------------------

// Sums over k of a(i, k) b(k, j), for i < m and j < n. Where A_ALONG_K, a(i, k) is a[i * a_row + k], else
// a[k * a_row + i]; where B_ALONG_K, b(k, j) is b[j * b_row + k], else b[k * b_row + j]. finish(i, j, apart, sums) is
// called with the sums of (i, j), (i, j + apart), ...; columns from n on are to be left alone.
//
// Where a product has fewer tiles than there are threads, several threads share a tile, each with a part of the terms.
// Their sums meet in scratch, behind a barrier, and are added up in the parts' order. What finish writes, the product
// must not read.
template <bool A_ALONG_K, bool B_ALONG_K, class Finish>
__device__ __forceinline__ void product(const A* a, int a_row, const A* b, int b_row, int m, int n, int k, A* scratch,
                                        Finish finish) {
    const int high = (m + TILE - 1) / TILE, wide = (n + TILE - 1) / TILE;  // tiles along both sides
    const int wide_bits = bits_for(wide), tile_bits = wide_bits + bits_for(high), tiles = 1 << tile_bits;
    const int part_bits = max(0, min(bits_for(THREADS) - tile_bits, bits_for(k) - bits_for(2 * TILE)));
    const int parts = 1 << part_bits, depth = (((k + parts - 1) >> part_bits) + TILE - 1) / TILE * TILE;
    const int part = part_bits ? int(threadIdx.x) >> tile_bits : 0;
    const int first = part * depth, last = min(first + depth, k);
    const int apart = B_ALONG_K ? wide : 1;
    for (int t = part_bits ? int(threadIdx.x) & (tiles - 1) : int(threadIdx.x); t < tiles; t += THREADS) {
        int tile_j = t & ((1 << wide_bits) - 1), tile_i = t >> wide_bits;
        if (wide_bits > 3 && tile_bits >= wide_bits + 2) {  // a warp has 4 x 8 tiles: then it reads the fewest words
            tile_j = (t & 7) | (t >> 5 << 3 & ((1 << wide_bits) - 1));
            tile_i = (t >> 3 & 3) | t >> (wide_bits + 2) << 2;
        }
        const bool inside = tile_i < high && tile_j < wide && part < parts;
        // Along k, a thread's rows are far apart, so that neighbouring threads have neighbouring rows.
        const int i_0 = A_ALONG_K ? tile_i : TILE * tile_i, i_apart = A_ALONG_K ? high : 1;
        const int j_0 = B_ALONG_K ? tile_j : TILE * tile_j;
        A sum[TILE][TILE] = {};
        if (inside) {
            if constexpr (A_ALONG_K) {
                for (int at = first; at < last; at += TILE) {
                    Quad x[TILE], y[TILE];
#pragma unroll
                    for (int i = 0; i < TILE; i++) x[i] = load<TILE>(a + (i_0 + i * i_apart) * a_row + at);
#pragma unroll
                    for (int j = 0; j < TILE; j++)
                        y[j] = load<TILE>(B_ALONG_K ? b + (j_0 + j * apart) * b_row + at : b + (at + j) * b_row + j_0);
#pragma unroll
                    for (int step = 0; step < TILE; step++)
#pragma unroll
                        for (int i = 0; i < TILE; i++)
#pragma unroll
                            for (int j = 0; j < TILE; j++)
                                sum[i][j] += x[i].x[step] * (B_ALONG_K ? y[j].x[step] : y[step].x[j]);
                }
            } else {
#pragma unroll 4
                for (int at = first; at < last; at++) {
                    const Quad x = load<TILE>(a + at * a_row + i_0), y = load<TILE>(b + at * b_row + j_0);
#pragma unroll
                    for (int i = 0; i < TILE; i++)
#pragma unroll
                        for (int j = 0; j < TILE; j++) sum[i][j] += x.x[i] * y.x[j];
                }
            }
        }
        // By way of scratch also where each thread keeps its own, since registers cannot be looped over.
        if (inside) {
#pragma unroll
            for (int i = 0; i < TILE; i++) {
                Quad sums;
#pragma unroll
                for (int j = 0; j < TILE; j++) sums.x[j] = sum[i][j];
                store(scratch + (i * THREADS + threadIdx.x) * TILE, sums);
            }
        }
        if (part_bits) __syncthreads();
        const int first_part = part_bits ? t : int(threadIdx.x);  // the thread that has the tile's first part
#pragma unroll 1
        for (int i = part; inside && i < TILE; i += parts) {
            Quad sums = load<TILE>(scratch + (i * THREADS + first_part) * TILE);
            for (int other = 1; other < parts; other++) {
                const Quad more = load<TILE>(scratch + (i * THREADS + (other << tile_bits) + t) * TILE);
#pragma unroll
                for (int j = 0; j < TILE; j++) sums.x[j] += more.x[j];
            }
            if (i_0 + i * i_apart < m) finish(i_0 + i * i_apart, j_0, apart, sums);
        }
    }
}

// sums (n) = those of the rows of a matrix (rows, n), added to what is there unless it is the first chunk. Returns the
// squares of those that the thread has written.
__device__ __forceinline__ double sum_rows(const A* matrix, int row_length, int rows, int n, A* sums, bool first) {
    constexpr int SHARING = 4;  // threads of a column
    const int lane = threadIdx.x % SHARING;
    double squares = 0;
    for (int left = 0; left < n; left += THREADS / SHARING) {
        const int column = left + threadIdx.x / SHARING;
        A sum = 0;
        if (column < n) {
#pragma unroll 8
            for (int row = lane; row < rows; row += SHARING) sum += matrix[row * row_length + column];
        }
        sum = over_lanes<SHARING>(sum, Add());
        if (lane > 0 || column >= n) continue;
        if (!first) sum += sums[column];
        sums[column] = sum;
        squares += double(sum) * double(sum);
    }
    return squares;
}

// The sum of the squares. In A, as a conversion to double takes as long as eight products; scaled where that overflows.
__device__ __forceinline__ double squares_of(const Quad& g) {
    A square = 0, scaled = 0;
#pragma unroll
    for (int i = 0; i < TILE; i++) square += g.x[i] * g.x[i];
    if (isfinite(square)) return square;
    const A down = 1.0 / 73786976294838206464.0;  // 2^-66
#pragma unroll
    for (int i = 0; i < TILE; i++) scaled += (g.x[i] * down) * (g.x[i] * down);
    return double(scaled) / (double(down) * double(down));
}

// -- tensors -------------------------------------------------------------------------------------------

// visit(place, from, count, weights) for every 4 neighbours of a row of a tensor, each thread its own ones, always the
// same: `place` in shared memory, `from` in theta, of which `count` are the tensor's.
template <class Visit>
__device__ __forceinline__ void each_quad(const LayerPlace* layers, int n_layers, Visit visit) {
    for (int l = 0; l < n_layers; l++) {
        const int n_in = layers[l].n_in, n_out = layers[l].n_out, row_length = layers[l].row;
        const int bits = min(bits_for((n_out + TILE - 1) / TILE), 8), lane = TILE * (threadIdx.x & ((1 << bits) - 1));
        for (int column = lane; column < n_out; column += TILE << bits) {
            const int count = min(TILE, n_out - column);
            for (int row = threadIdx.x >> bits; row < n_in; row += THREADS >> bits)
                visit(layers[l].W + row * row_length + column, layers[l].theta_W + row * n_out + column, count, true);
            if (threadIdx.x >> bits == 0) visit(layers[l].b + column, layers[l].theta_b + column, count, false);
        }
    }
}

// What neighbours are of a tensor: how many are its own, and whether they are weights.
__device__ __forceinline__ unsigned char kind_of(int count, bool weights) { return count | weights << 3; }

// An update of N times `width` neighbours, none of which waits for another.
template <int N, int width>
struct Parameters {
    Pack<A, width> w[N] = {}, g[N] = {}, slots[N][Rule::slots + 1] = {};
    int count[N] = {};
    bool weights[N] = {};

    __device__ __forceinline__ void load(int q, const A* from_w, const A* from_g, unsigned char kind) {
        w[q] = ::load<width>(from_w), g[q] = ::load<width>(from_g), count[q] = kind & 7, weights[q] = kind >> 3;
    }

    // Padding stays zero, whatever the rule makes of zeros. Its slots are never read for anything else.
    __device__ __forceinline__ void update(const Rule& rule, A clip, bool penalized, A l2, A decay, A& most) {
        if (penalized) {
#pragma unroll
            for (int q = 0; q < N; q++)
#pragma unroll
                for (int i = 0; i < width; i++) g[q].x[i] += (weights[q] ? l2 : A(0)) * w[q].x[i];
        }
#pragma unroll
        for (int q = 0; q < N; q++) {
            const A decays = weights[q] ? decay : A(0);
#pragma unroll
            for (int i = 0; i < width; i++) {
                A slot[Rule::slots + 1];
#pragma unroll
                for (int j = 0; j < Rule::slots; j++) slot[j] = slots[q][j].x[i];
                A change = rule.update(g[q].x[i] * clip, slot);
                if (decay != A(0)) change += decays * w[q].x[i];
                change = i < count[q] ? change : A(0);
#pragma unroll
                for (int j = 0; j < Rule::slots; j++) slots[q][j].x[i] = slot[j];
                w[q].x[i] -= change;
                most = fmax(most, fabs(change));
            }
        }
    }
};

// The rows that are taken of a source (m, columns), into shared memory.
template <int N, class From, class To>
__device__ __forceinline__ void take(const From* __restrict__ source, const Index* taken, To* out, int row_length, int height,
                                     int columns) {
    const int bits = min(bits_for((columns + N - 1) / N), 8), lane = N * (threadIdx.x & ((1 << bits) - 1));
    for (int column = lane; column < columns; column += N << bits) {
#pragma unroll 4
        for (int row = threadIdx.x >> bits; row < height; row += THREADS >> bits) {
            const Pack<From, N> pack = load<N>(source + taken[row] * columns + column);
            constexpr int PUT = N % TILE == 0 ? TILE : 1;
#pragma unroll
            for (int i = 0; i < N; i += PUT) {
                Pack<To, PUT> put;
#pragma unroll
                for (int j = 0; j < PUT; j++) put.x[j] = convert<To>(pack.x[i + j]);
                store(out + row * row_length + column + i, put);
            }
        }
    }
}

// -- the loss ------------------------------------------------------------------------------------------

// BP1 of the rows of a chunk: logits become delta. Adds to the sums of value and metric. What each branch computes is in
// softmax_cross_entropy.cu and elementwise_loss.cu.
__device__ __forceinline__ void loss_of_rows(A* logits, int row_length, int height, int n, const A* targets,
                                             const int* classes, const double* row_weights, A s, double scale, Sums& mine) {
    const int lane = threadIdx.x % LANES;
    for (int lowest = 0; lowest < height; lowest += THREADS / LANES) {  // of all threads alike: they meet in shuffles
        const int row = lowest + threadIdx.x / LANES;
        const bool there = row < height;
        const int first = there ? lane : n;
        A* z = logits + row * row_length;
        const double w = there ? row_weights[row] : 0.0;
        const A factor = w * scale;
#ifndef CLASSES
        const A* given = targets + row * row_length;
#endif
#ifdef SOFTMAX_CROSS_ENTROPY
        A largest = least();
        int predicted = n;
        for (int j = first; j < n; j += LANES)
            if (z[j] > largest) largest = z[j], predicted = j;
        const A top = over_lanes<LANES>(largest, Max());
        predicted = over_lanes<LANES>(largest == top ? predicted : n, Min());
#ifdef CLASSES
        const int truth = there ? classes[row] : n;
#else
        A truest = least();
        int truth = n;
        for (int j = first; j < n; j += LANES)
            if (given[j] > truest) truest = given[j], truth = j;
        const A best = over_lanes<LANES>(truest, Max());
        truth = over_lanes<LANES>(truest == best ? truth : n, Min());
#endif
        auto target = [&](int j) {
#ifdef CLASSES
            const A yj = j == truth ? A(1) : A(0);
#else
            const A yj = given[j];
#endif
            return (A(1) - s) * yj + s / A(n);
        };
        A others = 0, aim = 0;  // but for the largest, whose exponential is 1
        for (int j = first; j < n; j += LANES) {
            const A shifted = z[j] - top, t = target(j);
            others += j == predicted ? A(0) : exp(shifted);
            aim += t == A(0) ? A(0) : t * shifted;
        }
        others = over_lanes<LANES>(others, Add());
        aim = over_lanes<LANES>(aim, Add());
        const A total = others + A(1);
        for (int j = first; j < n; j += LANES) z[j] = (exp(z[j] - top) / total - target(j)) * factor;
        if (there && lane == 0) {
            mine.value += w * (log1p(others) - aim);
            mine.metric += predicted == truth ? w : 0.0;
        }
#else
#if LINK == 2
        A top = least(), total = 0, mean = 0;
        for (int j = first; j < n; j += LANES) top = Max()(top, z[j]);
        top = over_lanes<LANES>(top, Max());
        for (int j = first; j < n; j += LANES) total += exp(z[j] - top);
        total = over_lanes<LANES>(total, Add());
        auto output = [&](A zj) { return exp(zj - top) / total; };
        for (int j = first; j < n; j += LANES) {
            const A a = output(z[j]);
            mean += a * Loss::delta(a, given[j], s, j);
        }
        mean = over_lanes<LANES>(mean, Add());
#else
        [[maybe_unused]] auto output = [](A zj) { return Out::f(zj); };
#endif
        double value = 0, metric = 0;
        for (int j = first; j < n; j += LANES) {
            const A zj = z[j], yj = given[j];
#if LINK == 0
            value += Loss::value(zj, yj, s, j);
            const A delta = Loss::delta(zj, yj, s, j);
#else
            const A a = output(zj), grad_a = Loss::delta(a, yj, s, j);
            value += Loss::value(a, yj, s, j);
#if LINK == 1
            const A delta = grad_a * Out::derivative(Out::from_a ? a : zj);
#else
            const A delta = a * (grad_a - mean);
#endif
#endif
#ifdef LABELS
            metric += (zj > A(0)) == (yj > A(0.5));
#else
            const A error = output(zj) - yj;
            metric += error * error;
#endif
            z[j] = delta * factor;
        }
        value = over_lanes<LANES>(value, Add());
        metric = over_lanes<LANES>(metric, Add());
        if (there && lane == 0) mine.value += w * value, mine.metric += w * (metric / n);
#endif
    }
}

// The sums over all threads; each gets the same bits. A barrier lies before the next call.
__device__ __forceinline__ Sums over_block(Sums sum) {
    __shared__ Sums warps[THREADS / 32];
    auto add = [](double& x) { x = over_lanes<32>(x, Add()); };
    add(sum.value), add(sum.metric), add(sum.square), add(sum.weights);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = warps[0];
#pragma unroll
    for (int warp = 1; warp < THREADS / 32; warp++) {
        const Sums& other = warps[warp];
        sum.value += other.value, sum.metric += other.metric;
        sum.square += other.square, sum.weights += other.weights;
    }
    return sum;
}

// -- the kernel ----------------------------------------------------------------------------------------

extern "C" __global__ void
train_on_chip(A* __restrict__ theta, const LayerPlace* __restrict__ places, int n_layers, int size, int scratch_at,
              int targets_at, int kinds_at, int used, int chunk, int rows, int steps, const S* __restrict__ X,
              const Y* __restrict__ y, const double* __restrict__ weight, const Index* __restrict__ order,
              const unsigned* __restrict__ keys, const Index* __restrict__ counts, Index X_stride, Index y_stride, Index weight_stride, Index order_stride,
              Index keys_stride, Index counts_stride, Index period, int batch_size, Index* cursor,
              const Index* __restrict__ first_step, const double* __restrict__ normalizers,
              const double* __restrict__ learning_rates, Totals* totals, Index steps_per_epoch,
              const double* __restrict__ smoothing, bool* active, Index* fault_step, Index* updates,
              const double* __restrict__ l2, int l2_by_batch, double* penalty, const double* __restrict__ weight_decay,
              const double* __restrict__ max_grad_norm, double* largest_update, unsigned* arrived, Index P
#ifdef DROPOUT
              , const double* __restrict__ rates, const unsigned long long* __restrict__ seeds
#endif
              OPTION_PARAMETERS SLOT_PARAMETERS) {
    wait_for_last_kernel();
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ LayerPlace layers[MOST_LAYERS];
    __shared__ Index taken[MOST_ROWS];
    __shared__ double row_weights[MOST_ROWS];
    __shared__ int classes[MOST_ROWS];
    __shared__ Rule rules[AHEAD];
    const Index k = blockIdx.x, start = cursor[0];
    const int tid = threadIdx.x;
    A* const on_chip = reinterpret_cast<A*>(memory);
    A* const grad = on_chip + size;
    A* const scratch = on_chip + scratch_at;
    A* const targets = on_chip + targets_at;
    [[maybe_unused]] unsigned char* const kinds = memory + kinds_at;  // of every word of theta
    A* const global_slots[] = {SLOT_POINTERS nullptr};
    theta += k * P;
    X += k * X_stride, y += k * y_stride;
    if (weight) weight += k * weight_stride;
    if (order) order += k * order_stride;
    if (keys) keys += k * keys_stride;

    // A slot's place where it is kept, for an element at `place` in shared memory and `from` in theta.
#ifdef SLOTS_ON_CHIP
    auto slot_at = [&](int j, int place, int) -> A* { return on_chip + (2 + j) * size + place; };
#else
    auto slot_at = [&](int j, int, int from) -> A* { return global_slots[j] + k * P + from; };
#endif

    for (int i = tid; i < n_layers; i += THREADS) layers[i] = places[i];
    for (int i = tid; i < used; i += THREADS) on_chip[i] = A(0);
    __syncthreads();
    each_quad(layers, n_layers, [&](int place, int from, int count, [[maybe_unused]] bool weights) {
#ifdef SLOTS_ON_CHIP
        for (int i = 0; i < TILE; i += WORD) kinds[(place + i) / WORD] = kind_of(min(max(count - i, 0), WORD), weights);
#endif
        for (int i = 0; i < count; i++) {
            on_chip[place + i] = theta[from + i];
#ifdef SLOTS_ON_CHIP
            for (int j = 0; j < Rule::slots; j++) *slot_at(j, place + i, 0) = global_slots[j][k * P + from + i];
#endif
        }
    });

    bool trains = active[k], changed = false;
    Index done = updates[k];
    A most = 0;
    const A s = smoothing[k];
    const LayerPlace* const top = layers + n_layers - 1;
#ifdef DROPOUT
    const double rate_of_dropout = rates[k];
    const unsigned long long seed = seeds[k], threshold = rint(rate_of_dropout * 4294967296.0);
    const A survivor_scale = 1.0 / (1.0 - rate_of_dropout);
#endif

    const int at_once = rows <= chunk ? min(max(THREADS / rows, 1), AHEAD) : 1;  // steps whose rows are looked up
    for (int taking = 0; taking < steps; taking++) {
        const Index step = start + taking, now = k * steps_per_epoch + step;
        const double normalizer = normalizers[now], rate = learning_rates[now];
        const double shrink = l2 ? l2[k] * (l2_by_batch ? normalizer : 1.0) : 0.0;
        const A l2_of_step = shrink;
        Sums sum = {0, 0, 0, 0};
        // What takes long and hangs on no other step is done for several steps at once: their scalars by the last warp,
        // their rows by all threads.
        if (taking % AHEAD == 0 && tid >= THREADS - AHEAD && tid - (THREADS - AHEAD) < steps - taking) {
            const int later = tid - (THREADS - AHEAD);
            const Index t = done + 1 + later;  // the count of updates, if none of the steps between ends the training
            rules[later] = Rule::of(learning_rates[now + later], t OPTION_VALUES);
        }
        for (int base = 0; base < rows; base += chunk) {
            const int height = min(chunk, rows - base), place = taking % at_once * rows;  // of the first row in taken
            if (taking % at_once == 0) {
                const int later = tid / rows, there = height < rows ? height : rows * min(at_once, steps - taking);
                if (tid < there) {
                    Index row = (step + later) * batch_size + base + (tid - later * rows);
                    if (period) row %= period;
                    if (keys) row = shuffled(row, keys, counts[k * counts_stride]);
                    taken[tid] = row = order ? order[row] : row;
                    row_weights[tid] = weight ? weight[row] : 1.0;
#ifdef CLASSES
                    classes[tid] = y[row];
#endif
                }
                __syncthreads();
            }
            const int n_0 = layers[0].n_in;
            A* const input = on_chip + layers[0].input;
            constexpr int N = 16 / sizeof(S);
            if (n_0 % N == 0 && aligned(X))
                take<N>(X, taken + place, input, layers[0].input_row, height, n_0);
            else
                take<1>(X, taken + place, input, layers[0].input_row, height, n_0);
#ifndef CLASSES
            take<1>(y, taken + place, targets, top->row, height, top->n_out);
#endif
            __syncthreads();

            for (int l = 0; l < n_layers; l++) {  // forward
                const LayerPlace& at = layers[l];
                const bool hidden = l + 1 < n_layers;
                const int n = at.n_out, row_length = at.row;
                const A* const b = on_chip + at.b;
                A* const a = on_chip + at.a;
                [[maybe_unused]] A* const z = on_chip + at.z;
#ifdef DROPOUT
                unsigned char* const mask = memory + at.mask;
                auto random_at = [&](Index place) { return Philox(place / 4, l, first_step[k] + step, seed); };
#endif
                auto finish = [&](int row, int column, int, Quad sums) {
                    [[maybe_unused]] Quad before;
#ifdef DROPOUT
                    const Index place = Index(base + row) * n + column;
                    Philox random = random_at(place);
#endif
#pragma unroll
                    for (int j = 0; j < TILE; j++) {
                        const A zj = sums.x[j] + b[column + j];
                        before.x[j] = zj;
                        A value = hidden ? Act::f(zj) : zj;
#ifdef DROPOUT
                        if (j > 0 && (place + j) % 4 == 0) random = random_at(place + j);
                        const int word = (place + j) % 4;
                        const unsigned drawn = word == 0   ? random.word[0]
                                               : word == 1 ? random.word[1]
                                               : word == 2 ? random.word[2]
                                                           : random.word[3];
                        const bool kept = drawn >= threshold;
                        if (hidden) {
                            value *= kept ? survivor_scale : A(0);
                            mask[row * row_length + column + j] = kept;
                        }
#endif
                        sums.x[j] = column + j < n ? value : A(0);
                    }
                    store(a + row * row_length + column, sums);
                    if constexpr (!Act::from_a)
                        if (hidden) store(z + row * row_length + column, before);
                };
                product<true, false>(on_chip + at.input, at.input_row, on_chip + at.W, row_length, height, n, at.n_in,
                                     scratch, finish);
                __syncthreads();
            }

            loss_of_rows(on_chip + top->a, top->row, height, top->n_out, targets, classes + place, row_weights + place, s,
                         normalizer, sum);
            __syncthreads();

            for (int l = n_layers - 1; trains && l >= 0; l--) {  // backward; delta lies where a was
                const LayerPlace& at = layers[l];
                const A* const delta = on_chip + at.a;
                const bool ends = base + height == rows;  // the gradient, whose norm is summed up
                const int n = at.n_out, row_length = at.row;
                auto keep = [&](int row, int column, int, Quad sums) {
                    const int place = at.W + row * row_length + column;
                    A* const to = grad + place;
                    if (base > 0) {
                        const Quad before = load<TILE>(to);
#pragma unroll
                        for (int j = 0; j < TILE; j++) sums.x[j] += before.x[j];
                    }
                    store(to, sums);
                    if (!ends) return;
                    if (l2) {
                        const Quad w = load<TILE>(on_chip + place);
#pragma unroll
                        for (int j = 0; j < TILE; j++) sums.x[j] += l2_of_step * w.x[j];
                        if (penalty) sum.weights += squares_of(w);
                    }
                    sum.square += squares_of(sums);
                };
                product<false, false>(on_chip + at.input, at.input_row, delta, row_length, at.n_in, n, height, scratch, keep);
                const double of_biases = sum_rows(delta, row_length, height, n, grad + at.b, base == 0);
                if (ends) sum.square += of_biases;
                __syncthreads();
                if (l == 0) break;
                const LayerPlace& below = layers[l - 1];
                A* const a = on_chip + below.a;
                [[maybe_unused]] const A* const z = on_chip + below.z;
#ifdef DROPOUT
                const unsigned char* const mask = memory + below.mask;
#endif
                auto differentiate = [&](int row, int column, int apart, Quad sums) {
#pragma unroll
                    for (int j = 0; j < TILE; j++) {
                        if (column + j * apart >= below.n_out) break;
                        const int place = row * below.row + column + j * apart;
                        A d = sums.x[j], x = Act::from_a ? a[place] : z[place];
#ifdef DROPOUT
                        d *= mask[place] ? survivor_scale : A(0);
                        if (Act::from_a) x /= survivor_scale;
#endif
                        a[place] = d * Act::derivative(x);
                    }
                };
                product<true, true>(delta, row_length, on_chip + at.W, row_length, height, at.n_in, n, scratch, differentiate);
                __syncthreads();
            }
        }

        // What step_begin decides.
        const Rule rule = rules[taking % AHEAD];  // before the barrier behind which others may be written
        sum = over_block(sum);
        if (tid == 0) totals[now] = {sum.value, sum.metric};
        if (!trains) continue;
        if (!(isfinite(sum.square) && isfinite(sum.value))) {
            trains = false;
            if (tid == 0) active[k] = false, fault_step[k] = first_step[k] + step;
            continue;
        }
        done++, changed = true;
        if (tid == 0 && penalty) penalty[now] = 0.5 * l2[k] * sum.weights;

        // What optimizer_step carries out.
        const A clip = max_grad_norm && sum.square > 0 ? fmin(1.0, max_grad_norm[k] / sqrt(sum.square)) : 1.0;
        const A decay = weight_decay ? rate * weight_decay[k] : 0.0;
#ifdef SLOTS_ON_CHIP
        // All that is laid out as theta is, padding too: fewer instructions than by layers.
        for (int first = WORD * tid; first < size; first += AT_A_TIME * WORD * THREADS) {
            Parameters<AT_A_TIME, WORD> some;
#pragma unroll
            for (int q = 0; q < AT_A_TIME; q++) {
                const int place = first + q * WORD * THREADS;
                if (place >= size) continue;
                some.load(q, on_chip + place, grad + place, kinds[place / WORD]);
#pragma unroll
                for (int j = 0; j < Rule::slots; j++) some.slots[q][j] = load<WORD>(slot_at(j, place, 0));
            }
            some.update(rule, clip, l2 != nullptr, l2_of_step, decay, most);
#pragma unroll
            for (int q = 0; q < AT_A_TIME; q++) {
                const int place = first + q * WORD * THREADS;
                if (place >= size) continue;
                store(on_chip + place, some.w[q]);
#pragma unroll
                for (int j = 0; j < Rule::slots; j++) store(slot_at(j, place, 0), some.slots[q][j]);
            }
        }
#else
        each_quad(layers, n_layers, [&](int place, int from, int count, bool weights) {
            Parameters<1, TILE> some;
            some.load(0, on_chip + place, grad + place, kind_of(count, weights));
            for (int j = 0; j < Rule::slots; j++) some.slots[0][j] = load<TILE>(slot_at(j, 0, from), count, false);
            some.update(rule, clip, l2 != nullptr, l2_of_step, decay, most);
            store(on_chip + place, some.w[0]);
            for (int j = 0; j < Rule::slots; j++) store(slot_at(j, 0, from), some.slots[0][j], count, false);
        });
#endif
    }

    __syncthreads();
    if (changed) {
        each_quad(layers, n_layers, [&](int place, int from, int count, bool) {
            for (int i = 0; i < count; i++) {
                theta[from + i] = on_chip[place + i];
#ifdef SLOTS_ON_CHIP
                for (int j = 0; j < Rule::slots; j++) global_slots[j][k * P + from + i] = *slot_at(j, place + i, 0);
#endif
            }
        });
        if (tid == 0) updates[k] = done;
        if (largest_update) {
            most = over_group<THREADS>(most, Max());
            if (tid == 0 && most > largest_update[k]) largest_update[k] = most;
        }
    }
    if (is_last(arrived, gridDim.x) && tid == 0) cursor[0] = start + steps;
}
