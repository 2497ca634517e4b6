/* Everything that a row of sums holds, in one pass over gradients in float32. See native.py beside this file.

   Compiled when gradprobe is installed, if there is a compiler. The loops are over whole parts of tensors, so that
   all threads have work with one large tensor as with many small ones. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUM, NORM, PEAK, ZEROS, NONFINITE, NUMBERS };
enum { BLOCK = 4096, PART = 16 * BLOCK, FEW = 32768, ON_STACK = 128 };
static const uint32_t INFINITE = 0x7f800000;

/* one function for each kind of processor, chosen when the library is loaded */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

typedef struct {
    const float *values;
    size_t count;
    size_t tensor;
    double sums[NUMBERS];
} Part;

FOR_EACH_PROCESSOR
static double sum_of(const float *values, size_t count) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < count; i++) sum += fabsf(values[i]);
    return sum;
}

/* the bits of floats of at least 0 are in the order of the floats, with NaN above all others */
static inline uint32_t bits_of(float size) {
    uint32_t bits;
    memcpy(&bits, &size, sizeof bits);
    return bits;
}

/* Both halves at once: an addition waits for the one before it, and the other half fills the time. */
FOR_EACH_PROCESSOR
static void all_of(const float *values, size_t count, double *sums) {
    const size_t half = count / 2;
    const float *others = values + half;
    float sum = 0, squares = 0, sum_b = 0, squares_b = 0;
    uint32_t peak = 0, filled = 0, peak_b = 0, filled_b = 0;
#pragma omp simd reduction(+ : sum, squares, filled, sum_b, squares_b, filled_b) reduction(max : peak, peak_b)
    for (size_t i = 0; i < half; i++) {
        float size = fabsf(values[i]), size_b = fabsf(others[i]);
        uint32_t bits = bits_of(size), bits_b = bits_of(size_b);
        sum += size;
        sum_b += size_b;
        squares += size * size;
        squares_b += size_b * size_b;
        peak = bits > peak ? bits : peak;
        peak_b = bits_b > peak_b ? bits_b : peak_b;
        filled += bits != 0;
        filled_b += bits_b != 0;
    }
    float last = count % 2 ? fabsf(values[count - 1]) : 0;
    sum += sum_b + last;
    squares += squares_b + last * last;
    filled += filled_b + (last != 0);
    peak = peak_b > peak ? peak_b : peak;
    peak = bits_of(last) > peak ? bits_of(last) : peak;
    float largest;
    memcpy(&largest, &peak, sizeof largest);
    sums[SUM] += sum;
    sums[ZEROS] += count - filled;
    if (largest > sums[PEAK] || peak > INFINITE) sums[PEAK] = largest;
    if (peak >= INFINITE)
        for (size_t i = 0; i < count; i++) sums[NONFINITE] += !isfinite(values[i]);
    if (peak != 0 && !(squares > 1e-24f && squares < 1e30f)) { /* they vanished in float32, or were too large */
        double wide = 0;
        for (size_t i = 0; i < count; i++) wide += (double)values[i] * values[i];
        sums[NORM] += wide;
    } else
        sums[NORM] += squares;
}

static void measure(Part *part, int every) {
    for (size_t start = 0; start < part->count; start += BLOCK) {
        size_t left = part->count - start, count = left < BLOCK ? left : BLOCK;
        if (every)
            all_of(part->values + start, count, part->sums);
        else
            part->sums[SUM] += sum_of(part->values + start, count);
    }
}

static size_t parts_of(size_t count) { return (count + PART - 1) / PART; }

static void measure_all(const float *const *tensors, const size_t *counts, size_t n, int every, int threads,
                        Part *parts, double *sums) {
    size_t number = 0, elements = 0;
    for (size_t t = 0; t < n; elements += counts[t++])
        for (size_t start = 0; start < counts[t]; start += PART) {
            size_t left = counts[t] - start;
            parts[number++] = (Part){tensors[t] + start, left < PART ? left : PART, t, {0}};
        }
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads) if (elements > FEW)
    for (size_t i = 0; i < number; i++) measure(&parts[i], every);
    memset(sums, 0, n * NUMBERS * sizeof *sums);
    for (size_t i = 0; i < number; i++) {
        double *to = sums + parts[i].tensor * NUMBERS, *from = parts[i].sums;
        for (int k = 0; k < NUMBERS; k++)
            if (k != PEAK) to[k] += from[k];
        if (from[PEAK] > to[PEAK] || isnan(from[PEAK])) to[PEAK] = from[PEAK];
    }
}

/* Rows of sums of n tensors: shape (n, 5), or (n, 1). Returns 0, or 1 if there is not enough memory.

   Small arrays are on the stack: a few bytes on the heap, between the large pieces that a training step frees and
   allocates again, would keep these from being joined again, and new ones cost page faults (docs/facts.md, 13). */
int gradprobe_sums(const float *const *tensors, const size_t *counts, size_t n, int every, int threads, float *rows) {
    Part few_parts[ON_STACK];
    double few_sums[ON_STACK * NUMBERS];
    size_t number = 0;
    for (size_t t = 0; t < n; t++) number += parts_of(counts[t]);
    Part *parts = number <= ON_STACK ? few_parts : malloc(number * sizeof *parts);
    double *sums = n <= ON_STACK ? few_sums : malloc(n * NUMBERS * sizeof *sums);
    int done = parts && sums, width = every ? NUMBERS : 1;
    if (done) measure_all(tensors, counts, n, every, threads, parts, sums);
    for (size_t t = 0; done && t < n; t++) {
        double *from = sums + t * NUMBERS;
        from[NORM] = sqrt(from[NORM]);
        for (int k = 0; k < width; k++) rows[t * width + k] = (float)from[k];
    }
    if (parts != few_parts) free(parts);
    if (sums != few_sums) free(sums);
    return !done;
}
