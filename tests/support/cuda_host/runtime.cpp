// Runs the blocks of a launch on the host, one after another. The threads of a block that synchronize are fibers
// in one thread of the host; a block whose kernel never synchronizes is a loop.
//
// Blocks, and threads between two synchronizations, run in a random order, and shared memory starts as 0xFF:
// what holds only for one order, or only for zeroed memory, gives other results here. What would hang or be
// undefined on a device (a barrier that not all reach, lanes at different shuffles, an address outside any
// memory) ends the launch with a message.
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

#include "runtime.hpp"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
unsigned char* host_dynamic_shared;

namespace {

constexpr unsigned MAX_THREADS = 1024, GUARD_BYTES = 256;
// Of a block: what a kernel declares with a size, and all of it where the launch asks for more.
constexpr unsigned STATIC_SHARED_BYTES = 48 * 1024, SHARED_BYTES = 227 * 1024;
constexpr unsigned char POISON = 0xff, GUARD = 0xa5;
constexpr size_t STACK_BYTES = 64 * 1024 + 7 * 64;  // not a power of 2: their tops would share a few cache lines

enum class State { ready, at_barrier, at_meeting, returned };

struct Fiber {
    jmp_buf context;
    bool started = false;
    State state;
    int line;                  // where it waits
    const char* what;          // __shfl_sync, ...
    unsigned mask;             // the lanes it waits for
    unsigned long long value;  // what it brings to a meeting, then what it takes away
    int source;
};

Fiber fibers[MAX_THREADS];
unsigned current, n_threads, n_warps, n_ready;
unsigned lanes_ready[MAX_THREADS / 32], lanes_waiting[MAX_THREADS / 32];  // of each warp: who can go on, who meets
std::vector<unsigned> warp_order;
bool warp_by_warp;
jmp_buf scheduler;
sigjmp_buf launch;  // where a failed launch continues
char message[512];
unsigned long long random_state;
void (*thread_body)(void**);
void** thread_args;
unsigned dynamic_shared_bytes;
std::vector<HostAccess> accesses;

unsigned random_below(unsigned n) {  // xorshift64*; the bias of the product is of no matter here
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return static_cast<unsigned>((random_state * 0x2545f4914f6cdd1dull >> 32) * n >> 32);
}

// 0 ... n - 1 in a random order.
void shuffle(std::vector<unsigned>& numbers, unsigned n) {
    numbers.resize(n);
    for (unsigned i = 0; i < n; i++) {
        unsigned j = random_below(i + 1);
        numbers[i] = numbers[j];
        numbers[j] = i;
    }
}

// -- fibers -------------------------------------------------------------------------------------------

void suspend() {  // back to the scheduler until the scheduler comes back here
    if (!_setjmp(fibers[current].context)) _longjmp(scheduler, 1);
}

void fiber_main() {
    for (;;) {  // a fiber lives on from block to block and from launch to launch
        thread_body(thread_args);
        fibers[current].state = State::returned;
        suspend();
    }
}

void start(unsigned i) {
    static char* stacks = static_cast<char*>(mmap(nullptr, MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks == MAP_FAILED) host_fail("no memory for the stacks of %u threads", MAX_THREADS);
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks + i * STACK_BYTES;
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = nullptr;
    makecontext(&context, fiber_main, 0);
    fibers[i].started = true;
    setcontext(&context);
}

void resume(unsigned i) {
    current = i;
    threadIdx = {i, 0, 0};
    if (_setjmp(scheduler)) return;
    if (fibers[i].started) _longjmp(fibers[i].context, 1);
    start(i);
}

void release(unsigned i) {
    fibers[i].state = State::ready;
    lanes_ready[i / 32] |= 1u << i % 32;
    n_ready++;
}

// All threads go on, until they stand at the next barrier: now one warp before the other, so that some get far ahead
// of the rest, now all mixed.
void release_block() {
    shuffle(warp_order, n_warps);
    warp_by_warp = random_below(2);
    for (unsigned i = 0; i < n_threads; i++) release(i);
}

unsigned take_ready() {
    unsigned w = warp_by_warp ? 0 : random_below(n_warps);
    while (!lanes_ready[warp_order[w]]) w = (w + 1) % n_warps;
    unsigned& lanes = lanes_ready[warp_order[w]];
    unsigned from = random_below(32), above = lanes >> from << from;  // the first one from a random lane on
    unsigned lane = static_cast<unsigned>(__builtin_ctz(above ? above : lanes));
    lanes &= ~(1u << lane);
    n_ready--;
    return warp_order[w] * 32 + lane;
}

// -- where threads meet -------------------------------------------------------------------------------

const char* describe(const Fiber& fiber, char (&text)[80]) {
    if (fiber.state == State::returned) return "has returned";
    snprintf(text, sizeof text, "waits at %s, line %d", fiber.what, fiber.line);
    return text;
}

[[noreturn]] void fail_disagreeing(unsigned i, unsigned j) {
    char a[80], b[80];
    host_fail("thread %u %s, while thread %u %s", i, describe(fibers[i], a), j, describe(fibers[j], b));
}

void wait_at(State state, const char* what, int line) {
    fibers[current].state = state;
    fibers[current].what = what;
    fibers[current].line = line;
}

// No thread can go on, so all must stand at one barrier.
void pass_barrier() {
    unsigned waiting = 0;  // a thread that has not returned
    while (fibers[waiting].state == State::returned) waiting++;
    for (unsigned i = 0; i < n_threads; i++) {
        const Fiber &a = fibers[waiting], &b = fibers[i];
        if (a.state != b.state || a.line != b.line) fail_disagreeing(waiting, i);
    }
    if (fibers[waiting].state != State::at_barrier) fail_disagreeing(waiting, waiting);
    release_block();
}

void finish_meeting(unsigned warp_start, unsigned mask) {
    unsigned long long values[32], ballot = 0;
    for (unsigned lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        values[lane] = fibers[warp_start + lane].value;
        if (values[lane]) ballot |= 1ull << lane;
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1)) continue;
        Fiber& fiber = fibers[warp_start + lane];
        if (fiber.source >= 0 && !(mask >> fiber.source & 1))
            host_fail("%s, line %d: thread %u reads lane %d, which is not in the mask 0x%08x", fiber.what, fiber.line,
                      warp_start + lane, fiber.source, mask);
        fiber.value = fiber.source < 0 ? ballot : values[fiber.source];
        release(warp_start + lane);
    }
}

// -- blocks -------------------------------------------------------------------------------------------

void run_fibers() {
    memset(lanes_waiting, 0, sizeof lanes_waiting);
    memset(lanes_ready, 0, sizeof lanes_ready);
    n_ready = 0;
    release_block();
    unsigned returned = 0;
    while (returned < n_threads) {
        if (!n_ready) pass_barrier();
        unsigned i = take_ready();
        resume(i);
        returned += fibers[i].state == State::returned;
    }
}

void run_loop() {
    static std::vector<unsigned> threads;
    shuffle(threads, n_threads);
    for (unsigned i : threads) {
        threadIdx = {i, 0, 0};
        thread_body(thread_args);
    }
}

void on_signal(int number) {
    if (number == SIGFPE) host_fail("an integer division by zero");
    if (number == SIGSEGV || number == SIGBUS) host_fail("an address outside any memory, or a misaligned one");
    host_fail("an index outside an array of fixed size, a misaligned address, or an overflow of a signed integer");
}

// Takes over the signals that a faulty kernel raises, for as long as it lives.
class SignalGuard {
    static constexpr int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    struct sigaction before[5];

  public:
    SignalGuard() {
        struct sigaction action = {};
        action.sa_handler = on_signal;
        for (int i = 0; i < 5; i++) sigaction(numbers[i], &action, &before[i]);
    }
    ~SignalGuard() {
        for (int i = 0; i < 5; i++) sigaction(numbers[i], &before[i], nullptr);
    }
};

void run_blocks(unsigned shared, bool use_fibers, char* statics, size_t statics_size) {
    alignas(256) static unsigned char dynamic_shared[SHARED_BYTES + GUARD_BYTES];
    host_dynamic_shared = dynamic_shared;
    static std::vector<unsigned> blocks;
    shuffle(blocks, gridDim.x * gridDim.y * gridDim.z);
    for (unsigned b : blocks) {
        blockIdx = {b % gridDim.x, b / gridDim.x % gridDim.y, b / gridDim.x / gridDim.y};
        memset(statics, POISON, statics_size);
        memset(dynamic_shared, POISON, shared);
        memset(dynamic_shared + shared, GUARD, GUARD_BYTES);
        use_fibers ? run_fibers() : run_loop();
        for (unsigned i = 0; i < GUARD_BYTES; i++)
            if (dynamic_shared[shared + i] != GUARD)
                host_fail("byte %u of %u bytes of dynamic shared memory is written", shared + i, shared);
    }
}

}  // namespace

void host_fail(const char* format, ...) {
    char what[384];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    uint3 b = blockIdx;
    snprintf(message, sizeof message, "%s (block (%u, %u, %u), thread %u)", what, b.x, b.y, b.z, threadIdx.x);
    for (Fiber& fiber : fibers) fiber.started = false;  // what they were doing is given up
    siglongjmp(launch, 1);
}

void host_syncthreads(int line) {
    wait_at(State::at_barrier, "__syncthreads", line);
    suspend();
}

unsigned long long host_meet(const char* what, unsigned mask, unsigned long long value, int source, int line) {
    Fiber& me = fibers[current];
    unsigned lane = current % 32, warp = current / 32, threads = n_threads - warp * 32;
    unsigned there = threads >= 32 ? ~0u : (1u << threads) - 1;
    if (!(mask >> lane & 1)) host_fail("%s, line %d: lane %u is not in its own mask 0x%08x", what, line, lane, mask);
    if (mask & ~there)
        host_fail("%s, line %d: the mask 0x%08x names lanes that warp %u lacks in a block of %u threads", what, line,
                  mask, warp, n_threads);
    wait_at(State::at_meeting, what, line);
    me.mask = mask;
    me.value = value;
    me.source = source;
    unsigned& waiting = lanes_waiting[warp];
    if (waiting) {
        unsigned first = warp * 32 + static_cast<unsigned>(__builtin_ctz(waiting));
        const Fiber& other = fibers[first];
        if (other.line != line || other.mask != mask || (other.what != what && strcmp(other.what, what)))
            fail_disagreeing(first, current);
    }
    waiting |= 1u << lane;
    if (waiting == mask) {
        waiting = 0;
        finish_meeting(warp * 32, mask);
    }
    suspend();
    return me.value;
}

void host_access(const void* address, unsigned bytes, const char* file, int line) {
    const auto offset = static_cast<const unsigned char*>(address) - host_dynamic_shared;
    if (offset >= 0 && offset < dynamic_shared_bytes)
        accesses.push_back({file, line, threadIdx.x, static_cast<unsigned>(offset), bytes});
}

unsigned long gpubp_host_accesses(const HostAccess** first) {
    *first = accesses.data();
    return accesses.size();
}

const char* gpubp_host_run(void (*body)(void**), void** args, const unsigned* grid, unsigned block, unsigned shared,
                           unsigned long long seed, bool use_fibers, char* statics, unsigned long statics_size) {
    SignalGuard guard;
    thread_body = body;
    thread_args = args;
    blockIdx = threadIdx = {0, 0, 0};
    n_threads = block;
    n_warps = (block + 31) / 32;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block, 1, 1};
    random_state = seed * 0x9e3779b97f4a7c15ull | 1;
    accesses.clear();
    dynamic_shared_bytes = shared;
    if (sigsetjmp(launch, 1)) return message;
    const unsigned most = shared ? SHARED_BYTES : STATIC_SHARED_BYTES;
    if (statics_size > STATIC_SHARED_BYTES || statics_size + shared > most)
        host_fail("a block needs %lu bytes of shared memory; it has %u", statics_size + shared, most);
    run_blocks(shared, use_fibers, statics, statics_size);
    return nullptr;
}
