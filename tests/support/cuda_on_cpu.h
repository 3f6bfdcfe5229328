// CUDA's words for a C++ compiler, to run a kernel's own source on a CPU and see it break its rules.
//
// A block's threads are fibers, run one at a time from barrier to barrier, warp by warp, in an order of the caller's
// choice: without a barrier that is needed some order reads too early or too late. Found and said: threads that meet
// different barriers or end beside one that waits, shuffles of less than a warp, reads and writes beyond an argument's
// array (it lies against a page that nobody may touch) or beyond an array of known size. Shared memory is NaN when a
// block begins.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))
#define __syncthreads() cuda_on_cpu::barrier(__LINE__)
#define __shfl_sync(mask, value, lane) cuda_on_cpu::shuffle(__LINE__, mask, value, (lane) & 31)
#define __shfl_xor_sync(mask, value, distance) \
    cuda_on_cpu::shuffle(__LINE__, mask, value, (static_cast<int>(threadIdx.x) ^ (distance)) & 31)

struct float4 {
    float x, y, z, w;
};
struct dim3 {
    unsigned x, y, z;
};
static dim3 gridDim, blockDim, blockIdx, threadIdx;

extern "C" {
extern char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));

struct Argument {
    void* data;
    std::size_t bytes, item;  // of all, and of one number
    int array, floating;      // 0 or 1
};
struct Launch {
    dim3 grid, block;
    int order;  // of threads and blocks: 0 up, 1 down, else shuffled anew after every barrier
    int at_end;  // whether arrays lie against the page behind them, or the one before
};
}

namespace cuda_on_cpu {

constexpr std::size_t PAGE = 4096, STACK = 1 << 17;
constexpr unsigned char POISON = 0xff;  // NaN
constexpr unsigned WARP_SIZE = 32;
enum State { READY, AT_BARRIER, AT_SHUFFLE, ENDED };

struct Fiber {
    ucontext_t context;  // to begin with; then `jmp_buf`s, which ask nothing of the kernel of the system
    jmp_buf here;
    State state;
    bool begun;
    int line, lane;
    double value;  // given to a shuffle, and what comes of it
};

static std::vector<Fiber> fibers;
static std::vector<char*> stacks;
static jmp_buf scheduler;
static std::size_t current;
static void (*body)(const void* call);
static const void* call;
static std::string message;
static sigjmp_buf jump;

inline void wait(State state, int line) {
    Fiber& fiber = fibers[current];
    fiber.state = state, fiber.line = line;
    if (_setjmp(fiber.here) == 0) _longjmp(scheduler, 1);
}

// Run the current fiber until it waits or ends.
inline void resume() {
    if (_setjmp(scheduler) != 0) return;
    Fiber& fiber = fibers[current];
    if (fiber.begun) _longjmp(fiber.here, 1);
    fiber.begun = true;
    setcontext(&fiber.context);
}

inline void barrier(int line) { wait(AT_BARRIER, line); }

template <class T>
T shuffle(int line, unsigned mask, T value, int lane) {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, int>, "exact in a double");
    if (mask != 0xffffffffu) message = "a shuffle of less than a warp, line " + std::to_string(line);
    fibers[current].value = value, fibers[current].lane = lane;
    wait(AT_SHUFFLE, line);
    return static_cast<T>(fibers[current].value);
}

inline void begin() {
    body(call);
    fibers[current].state = ENDED;
    _longjmp(scheduler, 1);
}

inline std::string where(std::size_t thread) {
    const dim3& b = blockIdx;
    return "block (" + std::to_string(b.x) + ", " + std::to_string(b.y) + ", " + std::to_string(b.z) + ") thread " +
           std::to_string(thread);
}

// Whether fibers first..last all wait so, on one line.
inline bool together(std::size_t first, std::size_t last, State state) {
    return std::all_of(fibers.begin() + first, fibers.begin() + last, [&](const Fiber& fiber) {
        return fiber.state == state && fiber.line == fibers[first].line;
    });
}

// A warp's shuffle, where all of it has come; false where not.
inline bool exchange(std::size_t warp) {
    if (warp + WARP_SIZE > fibers.size() || !together(warp, warp + WARP_SIZE, AT_SHUFFLE)) return false;
    double values[WARP_SIZE];
    for (unsigned i = 0; i < WARP_SIZE; ++i) values[i] = fibers[warp + fibers[warp + i].lane].value;
    for (unsigned i = 0; i < WARP_SIZE; ++i) fibers[warp + i].value = values[i], fibers[warp + i].state = READY;
    return true;
}

// A linear congruential generator, as std::shuffle wants one.
struct Random {
    using result_type = unsigned;
    std::uint64_t state;
    static constexpr unsigned min() { return 0; }
    static constexpr unsigned max() { return 0xffffffffu; }
    unsigned operator()() {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return static_cast<unsigned>(state >> 32);
    }
};

// 0 ... count - 1 in the order asked for.
inline std::vector<unsigned> turns(std::size_t count, int order, Random& random) {
    std::vector<unsigned> found(count);
    std::iota(found.begin(), found.end(), 0u);
    if (order == 1) std::reverse(found.begin(), found.end());
    if (order > 1) std::shuffle(found.begin(), found.end(), random);
    return found;
}

// As far as the warp comes without the others.
inline void run_warp(std::size_t warp, int order, Random& random) {
    const std::size_t lanes = std::min<std::size_t>(WARP_SIZE, fibers.size() - warp);
    do {
        for (unsigned lane : turns(lanes, order, random)) {
            current = warp + lane;
            if (fibers[current].state != READY) continue;
            const unsigned index = static_cast<unsigned>(current);
            threadIdx = {index % blockDim.x, index / blockDim.x % blockDim.y, index / blockDim.x / blockDim.y};
            resume();
        }
    } while (exchange(warp));
}

inline void run_block(int order, Random& random) {
    if (__start_shared_memory) std::memset(__start_shared_memory, POISON, __stop_shared_memory - __start_shared_memory);
    for (std::size_t i = 0; i < fibers.size(); ++i) {
        Fiber& fiber = fibers[i];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stacks[i];
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        fiber.state = READY, fiber.line = 0, fiber.begun = false;
        makecontext(&fiber.context, begin, 0);
    }
    const std::size_t warps = (fibers.size() + WARP_SIZE - 1) / WARP_SIZE;
    for (bool again = true; again;) {
        for (unsigned warp : turns(warps, order, random)) run_warp(std::size_t{warp} * WARP_SIZE, order, random);
        again = together(0, fibers.size(), AT_BARRIER);
        for (Fiber& fiber : fibers)
            if (again) fiber.state = READY;
    }
    for (std::size_t i = 0; i < fibers.size() && message.empty(); ++i)
        if (fibers[i].state != ENDED)
            message = where(i) + " waits at line " + std::to_string(fibers[i].line) + " for threads that do not come";
}

// An argument's array between two pages that nobody may touch, or the number.
struct Place {
    char *page = nullptr, *data = nullptr;
    std::size_t whole = 0, bytes = 0;

    void put(const Argument& argument, bool at_end) {
        bytes = argument.bytes;
        const std::size_t inner = (bytes + PAGE - 1) / PAGE * PAGE;
        whole = inner + 2 * PAGE;
        page = static_cast<char*>(mmap(nullptr, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        mprotect(page + PAGE, inner, PROT_READ | PROT_WRITE);
        std::memset(page + PAGE, POISON, inner);
        data = page + PAGE + (at_end ? inner - bytes : 0);
        std::memcpy(data, argument.data, bytes);
    }
    // Whether what lies between the array and its pages is as it was.
    bool whole_around() const {
        const auto poisoned = [](char c) { return static_cast<unsigned char>(c) == POISON; };
        return std::all_of(page + PAGE, data, poisoned) && std::all_of(data + bytes, page + whole - PAGE, poisoned);
    }
};

static std::vector<Place> places;

inline void on_signal(int, siginfo_t* info, void*) {
    message = where(current) + " reaches beyond an array of known size";
    const char* address = static_cast<char*>(info->si_addr);
    for (std::size_t i = 0; i < places.size(); ++i)
        if (address >= places[i].page && address < places[i].page + places[i].whole)
            message = where(current) + " reaches beyond argument " + std::to_string(i) + ", to byte " +
                      std::to_string(address - places[i].data) + " of " + std::to_string(places[i].bytes);
    siglongjmp(jump, 1);
}

inline void run_grid(const Launch& launch) {
    Random random{static_cast<std::uint64_t>(launch.order)};
    gridDim = launch.grid, blockDim = launch.block;
    fibers.resize(std::size_t{blockDim.x} * blockDim.y * blockDim.z);
    while (stacks.size() < fibers.size()) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        stacks.push_back(static_cast<char*>(mmap(nullptr, STACK, PROT_READ | PROT_WRITE, flags, -1, 0)));
    }
    for (unsigned block : turns(std::size_t{gridDim.x} * gridDim.y * gridDim.z, launch.order, random)) {
        blockIdx = {block % gridDim.x, block / gridDim.x % gridDim.y, block / gridDim.x / gridDim.y};
        run_block(launch.order, random);
        if (!message.empty()) return;
    }
}

template <class T>
T read(const Argument& argument, const Place& place, int index) {
    using Number = std::remove_pointer_t<T>;
    if (argument.array != std::is_pointer_v<T> || argument.floating != std::is_floating_point_v<Number> ||
        argument.item != sizeof(Number))
        message = "argument " + std::to_string(index) + " is of another type";
    if constexpr (std::is_pointer_v<T>) {
        return reinterpret_cast<T>(place.data);
    } else {
        T value{};
        if (message.empty()) std::memcpy(&value, argument.data, sizeof(T));
        return value;
    }
}

// The error in words, or "".
template <class... T, std::size_t... I>
const char* run(void (*kernel)(T...), const Launch& launch, const Argument* arguments, int count,
                std::index_sequence<I...>) {
    message.clear();
    if (count != static_cast<int>(sizeof...(T))) return "another number of arguments";
    places.assign(sizeof...(T), Place{});
    for (int i = 0; i < count; ++i)
        if (arguments[i].array) places[i].put(arguments[i], launch.at_end);
    const std::tuple<T...> values{read<T>(arguments[I], places[I], I)...};
    const auto with_values = [&] { kernel(std::get<I>(values)...); };
    call = &with_values;
    body = [](const void* it) { (*static_cast<const decltype(with_values)*>(it))(); };
    struct sigaction action {}, before[3];
    const int signals[3] = {SIGSEGV, SIGBUS, SIGILL};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO;
    for (int i = 0; i < 3; ++i) sigaction(signals[i], &action, &before[i]);
    if (message.empty() && sigsetjmp(jump, 1) == 0) run_grid(launch);
    for (int i = 0; i < 3; ++i) sigaction(signals[i], &before[i], nullptr);
    call = nullptr;
    for (int i = 0; i < count; ++i) {
        if (!arguments[i].array) continue;
        if (message.empty() && !places[i].whole_around()) message = "written beside argument " + std::to_string(i);
        std::memcpy(arguments[i].data, places[i].data, arguments[i].bytes);
        munmap(places[i].page, places[i].whole);
    }
    return message.c_str();
}

template <class... T>
const char* run(void (*kernel)(T...), const Launch& launch, const Argument* arguments, int count) {
    return run(kernel, launch, arguments, count, std::index_sequence_for<T...>{});
}

}  // namespace cuda_on_cpu

// The kernel as a function of the library.
#define RUN_ON_CPU(kernel)                                                                               \
    extern "C" const char* run_##kernel(const Launch* launch, const Argument* arguments, int count) {    \
        return cuda_on_cpu::run(kernel, *launch, arguments, count);                                      \
    }
