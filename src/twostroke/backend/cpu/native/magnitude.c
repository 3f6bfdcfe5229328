/* The largest magnitude in an array: shows in one pass whether all its numbers are finite. */
#include "library.h"

enum { NUMBERS_OF_TASK = 1 << 15, MOST_TASKS = 32, SHARED_NUMBERS = 1 << 16 };
typedef struct { const void *numbers; word count, is_double, tasks, *found; } magnitude_call;

/* As integers, numbers without their sign have the order of the magnitudes; infinity is above them, NaNs are above infinity. */
#define LARGEST(integer, name, bits)                                                                     \
    __attribute__((optimize("O3"))) static word name(const integer *x, const integer *end) {             \
        integer largest = 0;                                                                             \
        for (; x < end; x++) largest = (*x & bits) > largest ? *x & bits : largest;                      \
        return largest;                                                                                  \
    }
LARGEST(int32_t, largest_float, INT32_MAX)
LARGEST(int64_t, largest_double, INT64_MAX)

static void magnitude_task(const void *argument, word index) {
    const magnitude_call *x = argument;
    word start = x->count * index / x->tasks, end = x->count * (index + 1) / x->tasks;
    const int32_t *floats = x->numbers;
    const int64_t *doubles = x->numbers;
    x->found[index] = x->is_double ? largest_double(doubles + start, doubles + end) : largest_float(floats + start, floats + end);
}

/* Of numbers of `size` bytes, 4 or 8; NaN if one of them is. */
double twostroke_largest(const void *numbers, word count, word size) {
    word found[MOST_TASKS], tasks = (count + NUMBERS_OF_TASK - 1) / NUMBERS_OF_TASK, largest = 0;
    magnitude_call call = {numbers, count, size == sizeof(double), tasks < MOST_TASKS ? tasks : MOST_TASKS, found};
    parallel_for(magnitude_task, &call, call.tasks, count >= SHARED_NUMBERS);
    for (word i = 0; i < call.tasks; i++) largest = found[i] > largest ? found[i] : largest;
    union { int32_t word; float number; } as_float = {.word = (int32_t)largest};
    union { int64_t word; double number; } as_double = {.word = largest};
    return call.is_double ? as_double.number : (double)as_float.number;
}
