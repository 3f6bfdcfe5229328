/* What library.py asks before it calls anything else. This unit is compiled for every x86-64 processor. */
#include "library.h"

#define IN(member) offsetof(operation, member)
#define OF(member) offsetof(move, member)
#define AT(member) offsetof(program, member)
/* The sizes, then every member's offset: an operation's kind and union first, then the calls in the union. */
static const word layout[] = {
    ROWWISE, sizeof(operation), sizeof(move), sizeof(program), IN(kind), IN(ufunc),
    IN(ufunc), IN(ufunc.loop), IN(ufunc.data), IN(ufunc.count), IN(ufunc.outer), IN(ufunc.inner), IN(ufunc.widen_first),
    IN(ufunc.widen_result), IN(ufunc.row_elements), IN(ufunc.array[0].at), IN(ufunc.array[0].outer), IN(ufunc.array[0].inner),
    IN(ufunc.array[1].at), IN(ufunc.array[1].outer), IN(ufunc.array[1].inner), IN(ufunc.array[2].at),
    IN(ufunc.array[2].outer), IN(ufunc.array[2].inner),
    IN(take), IN(take.out), IN(take.source), IN(take.indices), IN(take.count), IN(take.row_bytes), IN(take.source_rows),
    IN(take.columns), IN(take.size),
    IN(argmax), IN(argmax.source), IN(argmax.row), IN(argmax.column), IN(argmax.rows), IN(argmax.columns), IN(argmax.out),
    IN(argmax.is_double), IN(copy), IN(copy.to), IN(copy.from), IN(copy.bytes), IN(product), IN(product.a),
    IN(product.a_row), IN(product.a_depth), IN(product.b), IN(product.b_row), IN(product.b_column), IN(product.c),
    IN(product.c_row), IN(product.c_column), IN(product.rows), IN(product.columns), IN(product.depth), IN(product.alpha),
    IN(product.beta), IN(product.p), IN(rowwise), IN(rowwise.count), IN(rowwise.rows), OF(to), OF(to_step), OF(from), OF(from_step), OF(bytes),
    AT(operations), AT(count), AT(moves), AT(before), AT(after), AT(first), AT(steps),
};

/* Number `index` of the layout; -1 after the last. */
word twostroke_layout(word index) { return index < (word)(sizeof layout / sizeof *layout) ? layout[index] : -1; }

/* Whether subnormal numbers count as zeros in this thread from now on. Returns whether they did before. */
word twostroke_flush(word on) {
    unsigned before = flush_subnormals();
    if (!on) __builtin_ia32_ldmxcsr(before & ~(unsigned)SUBNORMALS_ARE_ZEROS);
    return (before & SUBNORMALS_ARE_ZEROS) == SUBNORMALS_ARE_ZEROS;
}

/* Whether the processor has this variant's instructions and the operating system saves their registers. */
word twostroke_runs_here(void) {
#define HAS(name) __builtin_cpu_supports(name)
    __builtin_cpu_init();
    int runs = HAS("avx2") && HAS("fma") && HAS("bmi") && HAS("bmi2") && HAS("popcnt");
#ifdef TWOSTROKE_AVX512
    return runs && HAS("avx512f") && HAS("avx512bw") && HAS("avx512dq") && HAS("avx512vl");
#endif
    return runs;
}
