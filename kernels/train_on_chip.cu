// Training steps of small networks, many in one launch: a block trains one network, whose parameters and gradient stay
// in shared memory all the time, and with SLOTS_ON_CHIP the optimizer's slots too. A step does what gather,
// bias_activation and hadamard_derivative with their products, a loss kernel, step_begin and optimizer_step do: rows
// are found as gather finds them, a network that diverges becomes inactive before anything of it is written, dropout
// masks have the same bits. Batches larger than `chunk` rows are processed in chunks. With TF32, tensor cores compute
// the products.
//
// theta and slots (K, P); X (K or 1, m, n_0), y and weight likewise; tables and options as in step_begin. Takes `steps`
// steps of `rows` rows from the cursor on, and the last block to end advances the cursor.
//
// In shared memory, a matrix's row is an odd number of 16-byte words long, with room for its columns rounded up to a
// multiple of 4: threads that read neighbouring rows have no bank conflict. Rows and columns beyond a tensor's own, up
// to multiples of 4, are zero and stay zero. Moves theta and slots twice per launch, and the batches' rows once.

constexpr int MOST_LAYERS = 16;
constexpr int MOST_ROWS = THREADS;  // of a chunk
constexpr int LANES = 8;            // threads that share a row of the loss
constexpr int AHEAD = 32;           // steps whose scalars are computed at once, by a thread each
constexpr int WORD = 16 / sizeof(A);
constexpr int AT_A_TIME = 2;        // words whose parameters a thread updates at once

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

// Tells the compiler that an index is a multiple of WORD: otherwise it stores one element at a time.
__device__ __forceinline__ int whole(int index) { return index & -WORD; }

// -- tensors -------------------------------------------------------------------------------------------

__device__ __forceinline__ A squares_of(const Quad& g) {
    A square = 0;
#pragma unroll
    for (int i = 0; i < TILE; i++) square += g.x[i] * g.x[i];
    return square;
}

// Calls visit(place, from, count, weights) for every 4 neighbours of a row of a tensor; a thread always gets the same
// ones. They are at `place` in shared memory and at `from` in theta, and `count` of them belong to the tensor.
template <class Visit>
__device__ __forceinline__ void each_quad(const LayerPlace* layers, int n_layers, Visit visit) {
    for (int l = 0; l < n_layers; l++) {
        const int n_in = layers[l].n_in, n_out = layers[l].n_out, row_length = layers[l].row;
        const int bits = min(bits_for((n_out + TILE - 1) / TILE), 8), lane = TILE * (threadIdx.x & ((1 << bits) - 1));
        for (int column = lane; column < n_out; column += TILE << bits) {
            const int count = min(TILE, n_out - column);
#pragma unroll 1
            for (int row = threadIdx.x >> bits; row < n_in; row += THREADS >> bits)
                visit(layers[l].W + row * row_length + column, layers[l].theta_W + row * n_out + column, count, true);
            if (threadIdx.x >> bits == 0) visit(layers[l].b + column, layers[l].theta_b + column, count, false);
        }
    }
}

// What neighbours hold: how many of them belong to a tensor, and whether they are weights.
__device__ __forceinline__ unsigned char kind_of(int count, bool weights) { return count | weights << 3; }

// An update of N times `width` neighbours, independent of each other.
template <int N, int width>
struct Parameters {
    Pack<A, width> w[N] = {}, g[N] = {}, slots[N][Rule::slots + 1] = {};
    int count[N] = {};
    bool weights[N] = {};

    __device__ __forceinline__ void fetch(int q, const A* from_w, const A* from_g, unsigned char kind) {
        w[q] = load<width>(from_w), g[q] = load<width>(from_g), count[q] = kind & 7, weights[q] = kind >> 3;
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

// Sums delta over a chunk's rows for every layer, and adds the sums of earlier chunks unless this is the first. Returns
// the sum of squares of what the thread has written. Warps take 8 columns each in turn; 4 threads share a column.
__device__ __forceinline__ A sum_biases(const LayerPlace* layers, int n_layers, const A* on_chip, A* grad, int rows,
                                        bool first) {
    constexpr int SHARING = 4, COLUMNS_OF_A_WARP = 32 / SHARING, WARPS = THREADS / 32;
    const int lane = threadIdx.x % SHARING;
    int turn = threadIdx.x / 32;
    A squares = 0;
    for (int l = 0; l < n_layers; l++) {
        const int n = layers[l].n_out, row_length = layers[l].row, groups = (n + COLUMNS_OF_A_WARP - 1) / COLUMNS_OF_A_WARP;
        for (; turn < groups; turn += WARPS) {
            const int column = turn * COLUMNS_OF_A_WARP + threadIdx.x % 32 / SHARING;
            const A* const delta = on_chip + layers[l].a + column;
            A sum = 0;
            if (column < n) {
#pragma unroll 8
                for (int row = lane; row < rows; row += SHARING) sum += delta[row * row_length];
            }
            sum = over_lanes<SHARING>(sum, Add());
            if (lane > 0 || column >= n) continue;
            A* const to = grad + layers[l].b + column;
            if (!first) sum += *to;
            *to = sum;
            squares += sum * sum;
        }
        turn -= groups;
    }
    return squares;
}

// Copies from device memory into shared memory. With 16 bytes of equal types, the thread goes on before they have
// arrived: until wait_for_rows().
template <int N, class From, class To>
__device__ __forceinline__ void bring(const From* from, To* to) {
    constexpr int PUT = N % TILE == 0 ? TILE : 1;
    const Pack<From, N> pack = load<N>(from);
#pragma unroll
    for (int i = 0; i < N; i += PUT) {
        Pack<To, PUT> put;
#pragma unroll
        for (int j = 0; j < PUT; j++) put.x[j] = convert<To>(pack.x[i + j]);
        store(to + i, put);
    }
}
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
template <>
__device__ __forceinline__ void bring<WORD, A, A>(const A* from, A* to) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(unsigned(__cvta_generic_to_shared(to))), "l"(from)
                 : "memory");
}
__device__ __forceinline__ void wait_for_rows() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#else
__device__ __forceinline__ void wait_for_rows() {}
#endif

// Copies the rows of a source (m, columns) that `taken` lists into shared memory; complete after wait_for_rows().
template <int N, class From, class To>
__device__ __forceinline__ void take(const From* __restrict__ source, const Index* taken, To* out, int row_length, int height,
                                     int columns) {
    const int bits = min(bits_for((columns + N - 1) / N), 8), lane = N * (threadIdx.x & ((1 << bits) - 1));
    for (int column = lane; column < columns; column += N << bits) {
#pragma unroll 4
        for (int row = threadIdx.x >> bits; row < height; row += THREADS >> bits) {
            const int to = row * row_length + column;
            bring<N>(source + taken[row] * columns + column, out + (N % WORD ? to : whole(to)));
        }
    }
}

// -- the loss ------------------------------------------------------------------------------------------

// BP1 of the rows of a chunk: logits become delta. Adds to the sums of value and metric.
__device__ __forceinline__ void loss_of_rows(A* logits, int row_length, int height, int n, const A* targets,
                                             const int* classes, const double* row_weights, A s, double scale, Totals& mine) {
    for (int lowest = 0; lowest < height; lowest += THREADS / LANES) {  // alike in all threads: they meet in shuffles
        const int row = lowest + threadIdx.x / LANES;
        const bool there = row < height;
#ifdef CLASSES
        const int* y = classes + row;
#else
        const A* y = targets + row * row_length;
#endif
        loss_of_row<LANES>(logits + row * row_length, y, n, there, s, there ? row_weights[row] : 0.0, scale, mine);
    }
}

// The sums over all threads; each gets the same bits. There must be a barrier before the next call.
template <class V>
__device__ __forceinline__ Sums over_block(double value, double metric, V square, V weights, Sums* warps) {
    value = over_lanes<32>(value, Add()), metric = over_lanes<32>(metric, Add());
    square = over_lanes<32>(square, Add()), weights = over_lanes<32>(weights, Add());
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = {value, metric, double(square), double(weights)};
    __syncthreads();
    Sums sum = warps[0];
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
train_on_chip(A* __restrict__ theta, const LayerPlace* __restrict__ places, int n_layers, int size, int targets_at,
              int kinds_at, int used, int chunk, int rows, int steps, const S* __restrict__ X, const Y* __restrict__ y,
              const double* __restrict__ weight, const Index* __restrict__ order, const unsigned* __restrict__ keys,
              const Index* __restrict__ counts, Index X_stride, Index y_stride, Index weight_stride,
              Index order_stride, Index keys_stride, Index counts_stride, Index period, int batch_size, Index* cursor,
              const Index* __restrict__ first_step, const double* __restrict__ normalizers,
              const double* __restrict__ learning_rates, Totals* totals, Index steps_per_epoch,
              const double* __restrict__ smoothing, bool* active, Index* fault_step, Index* updates,
              const double* __restrict__ l2, int l2_by_batch, double* penalty, const double* __restrict__ weight_decay,
              const double* __restrict__ max_grad_norm, double* largest_update, unsigned* arrived, Index P
#ifdef DROPOUT
              , const double* __restrict__ rates, const unsigned long long* __restrict__ seeds
#endif
              OPTION_PARAMETERS SLOT_PARAMETERS) {
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ LayerPlace layers[MOST_LAYERS];
    __shared__ Index taken[MOST_ROWS];
    __shared__ double row_weights[MOST_ROWS];
    __shared__ int classes[MOST_ROWS];
    __shared__ Rule rules[AHEAD];
    __shared__ Sums warps[THREADS / 32];
    __shared__ Tiling tilings[3][MOST_LAYERS];  // of each layer's products: forward, of its weights' gradient, backward
    const Index k = blockIdx.x, start = cursor[0];
    const int tid = threadIdx.x;
    A* const on_chip = reinterpret_cast<A*>(memory);
    A* const grad = on_chip + size;
    A* const targets = on_chip + targets_at;
    [[maybe_unused]] unsigned char* const kinds = memory + kinds_at;  // of every word of theta
    A* const global_slots[] = {SLOT_POINTERS nullptr};
    theta += k * P;
    X += k * X_stride, y += k * y_stride;
    if (weight) weight += k * weight_stride;
    if (order) order += k * order_stride;
    if (keys) keys += k * keys_stride;

    // Where a slot is kept, for an element at `place` in shared memory and at `from` in theta.
#ifdef SLOTS_ON_CHIP
    auto slot_at = [&](int j, int place, int) -> A* { return on_chip + (2 + j) * size + place; };
#else
    auto slot_at = [&](int j, int, int from) -> A* { return global_slots[j] + k * P + from; };
#endif

    for (int i = tid; i < n_layers; i += THREADS) {
        layers[i] = places[i];
        const int n_in = layers[i].n_in, n_out = layers[i].n_out, most = min(chunk, rows);  // rows at once
        tilings[0][i] = Tiling::of(most, n_out, n_in);
        tilings[1][i] = Tiling::of(n_in, n_out, most);
        tilings[2][i] = Tiling::of(most, n_in, n_out);
    }
    for (int i = tid; i < used; i += THREADS) on_chip[i] = A(0);
    __syncthreads();
    each_quad(layers, n_layers, [&](int place, int from, int count, [[maybe_unused]] bool weights) {
#ifdef SLOTS_ON_CHIP
        for (int i = 0; i < TILE; i += WORD) kinds[(place + i) / WORD] = kind_of(min(max(count - i, 0), WORD), weights);
#endif
#pragma unroll
        for (int i = 0; i < TILE; i++) {
            if (i >= count) break;
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

    auto nothing = [](int) { return Quad{}; };
    const int at_once = rows <= chunk ? min(max(THREADS / rows, 1), AHEAD) : 1;  // steps whose rows are looked up
    // Loads the rows that were looked up from `place` on, and their targets.
    auto take_rows = [&](int place, int height) {
        const int n_0 = layers[0].n_in, input_row = layers[0].input_row;
        A* const input = on_chip + whole(layers[0].input);
        constexpr int N = 16 / sizeof(S);
        if (n_0 % N == 0 && aligned(X))
            take<N>(X, taken + place, input, input_row, height, n_0);
        else
            take<1>(X, taken + place, input, input_row, height, n_0);
#ifndef CLASSES
        take<1>(y, taken + place, targets, top->row, height, top->n_out);
#endif
    };
    bool brought = false;
    for (int taking = 0; taking < steps; taking++) {
        const Index step = start + taking, now = k * steps_per_epoch + step;
        const double normalizer = normalizers[now], rate = learning_rates[now];
        const double shrink = l2 ? l2[k] * (l2_by_batch ? normalizer : 1.0) : 0.0;
        const A l2_of_step = shrink;
        Totals mine = {0, 0};
        A squares = 0, weights_squares = 0;
        // Slow work that does not depend on other steps is done for several steps at once: their scalars by the last
        // warp, their row numbers by all threads.
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
            if (!brought) take_rows(place, height);
            wait_for_rows();
            __syncthreads();

            for (int l = 0; l < n_layers; l++) {  // forward
                const LayerPlace& at = layers[l];
                const bool hidden = l + 1 < n_layers;
                const int n = at.n_out, row_length = at.row;
                A* const a = on_chip + whole(at.a);
                [[maybe_unused]] A* const z = on_chip + whole(at.z);
#ifdef DROPOUT
                unsigned char* const mask = memory + at.mask;
                auto random_at = [&](Index place) { return Philox(place / 4, l, first_step[k] + step, seed); };
#endif
                auto finish = [&](int first_row, int i_apart, int column, int, auto& rows_of_sums) {
                    int to = first_row * row_length + column;
#ifdef DROPOUT
                    const Index place = Index(base + first_row) * n + column;
                    Philox random = random_at(place);
#endif
#pragma unroll
                    for (Quad& sums : rows_of_sums) {
                        if constexpr (!Act::from_a)
                            if (hidden) store(z + whole(to), sums);
#pragma unroll
                        for (int j = 0; j < TILE; j++) {
                            A value = hidden ? Act::f(sums.x[j]) : sums.x[j];
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
                                mask[to + j] = kept;
                            }
#endif
                            sums.x[j] = column + j < n ? value : A(0);
                        }
                        store(a + whole(to), sums);
                        to += i_apart * row_length;
                    }
                };
                auto biases = [&](int column) { return load<TILE>(on_chip + at.b + column); };
                product<true, false>(tilings[0][l], on_chip + at.input, at.input_row, on_chip + at.W, row_length,
                                     at.n_in, biases, finish);
                __syncthreads();
            }

            loss_of_rows(on_chip + top->a, top->row, height, top->n_out, targets, classes + place, row_weights + place, s,
                         normalizer, mine);
            __syncthreads();

            for (int l = n_layers - 1; trains && l >= 0; l--) {  // backward; delta lies where a was
                const LayerPlace& at = layers[l];
                const A* const delta = on_chip + at.a;
                const bool ends = base + height == rows;  // the gradient, whose norm is summed up
                const int n = at.n_out, row_length = at.row;
                auto keep = [&](int row, int, int column, int, auto& rows_of_sums) {
                    int place = at.W + row * row_length + column;
#pragma unroll
                    for (Quad& sums : rows_of_sums) {
                        A* const to = grad + place;
                        if (base > 0) {
                            const Quad before = load<TILE>(to);
#pragma unroll
                            for (int j = 0; j < TILE; j++) sums.x[j] += before.x[j];
                        }
                        store(to, sums);
                        if (ends && l2) {
                            const Quad w = load<TILE>(on_chip + place);
#pragma unroll
                            for (int j = 0; j < TILE; j++) sums.x[j] += l2_of_step * w.x[j];
                            if (penalty) weights_squares += squares_of(w);
                        }
                        place += row_length;
                    }
                    if (!ends) return;
#pragma unroll
                    for (const Quad& sums : rows_of_sums) squares += squares_of(sums);
                };
                product<false, false>(tilings[1][l], on_chip + at.input, at.input_row, delta, row_length, height,
                                      nothing, keep);
                if (l == 0) {
                    const A of_biases = sum_biases(layers, n_layers, on_chip, grad, height, base == 0);
                    if (ends) squares += of_biases;
                }
                __syncthreads();
                if (l == 0) break;
                const LayerPlace& below = layers[l - 1];
                A* const a = on_chip + below.a;
                [[maybe_unused]] const A* const z = on_chip + below.z;
#ifdef DROPOUT
                const unsigned char* const mask = memory + below.mask;
#endif
                auto differentiate = [&](int row, int i_apart, int column, int apart, auto& rows_of_sums) {
                    constexpr int ROWS = sizeof(rows_of_sums) / sizeof(Quad);
                    const int place = row * below.row + column, next = i_apart * below.row;
                    A* const to = a + place;
                    Quad x[ROWS];
#pragma unroll
                    for (int i = 0; i < ROWS; i++)
#pragma unroll
                        for (int j = 0; j < TILE; j++)
                            x[i].x[j] = Act::from_a ? to[i * next + j * apart] : z[place + i * next + j * apart];
#pragma unroll
                    for (int i = 0; i < ROWS; i++)
#pragma unroll
                        for (int j = 0; j < TILE; j++) {
                            A d = rows_of_sums[i].x[j];
#ifdef DROPOUT
                            d *= mask[place + i * next + j * apart] ? survivor_scale : A(0);
                            if (Act::from_a) x[i].x[j] /= survivor_scale;
#endif
                            d *= Act::derivative(x[i].x[j]);
                            to[i * next + j * apart] = column + j * apart < below.n_out ? d : A(0);
                        }
                };
                product<true, true>(tilings[2][l], delta, row_length, on_chip + at.W, row_length, n, nothing,
                                    differentiate);
                __syncthreads();
            }
        }

        const int next = (taking + 1) % at_once;
        brought = next > 0 && taking + 1 < steps;  // the next step's rows, meanwhile
        if (brought) take_rows(next * rows, rows);

        // What step_begin decides.
        const Rule rule = rules[taking % AHEAD];  // before the barrier behind which others may be written
        Sums sum = over_block(mine.value, mine.metric, squares, weights_squares, warps);
        if (trains && !isfinite(sum.square + sum.weights)) {  // maybe only their squares are too large for A
            double square_again = 0, weights_again = 0;
            each_quad(layers, n_layers, [&](int place, int, int count, bool weights) {
#pragma unroll 1
                for (int i = 0; i < count; i++) {
                    const A w = on_chip[place + i], g = grad[place + i] + (l2 && weights ? l2_of_step * w : A(0));
                    square_again += double(g) * double(g);
                    if (weights) weights_again += double(w) * double(w);
                }
            });
            __syncthreads();
            sum = over_block(mine.value, mine.metric, square_again, weights_again, warps);
        }
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
        // Everything that is laid out like theta, including padding: fewer instructions than layer by layer.
        for (int first = WORD * tid; first < size; first += AT_A_TIME * WORD * THREADS) {
            Parameters<AT_A_TIME, WORD> some;
#pragma unroll
            for (int q = 0; q < AT_A_TIME; q++) {
                const int place = first + q * WORD * THREADS;
                if (place >= size) continue;
                some.fetch(q, on_chip + place, grad + place, kinds[place / WORD]);
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
            some.fetch(0, on_chip + place, grad + place, kind_of(count, weights));
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
#pragma unroll
            for (int i = 0; i < TILE; i++) {
                if (i >= count) break;
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
