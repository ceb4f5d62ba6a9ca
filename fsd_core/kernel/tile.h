/* The inner loops of the kernel. kernel.c includes this file once for each instruction set, after it has defined:

   NAME(n)  the name of a function or type, with a suffix for the instruction set
   TARGET   the attribute that lets the compiler use the instruction set in a function
   LANES    float32 numbers in a vector register
   VECTORS  registers with sums of one row that are in use at a time
   ROWS     rows that are computed at a time, at most HEIGHT: ROWS * VECTORS registers hold their sums
   MADD     MADD(sum, weight, x) adds the product of a number and a vector to the vector sum, and rounds once

   The vectors are those of GCC and clang, which need no intrinsics: a vector that is wider than a register becomes several. */

typedef float NAME(floats) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t NAME(ints) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define FLOATS NAME(floats)
#define INTS NAME(ints)

/* A vector of this number. (An addition to zeros would make +0 of -0.) */
static TARGET inline __attribute__((always_inline)) FLOATS NAME(all)(float number) {
    int32_t bits;
    memcpy(&bits, &number, 4);
    return (FLOATS)((INTS){0} + bits);
}

/* Bias, activation and clip of one vector of sums, without a branch: a plan without one of them has a number there that changes nothing.
   A NaN stays NaN; relu makes +0 of -0, as numpy does. */
static TARGET inline __attribute__((always_inline)) FLOATS NAME(finish)(FLOATS z, FLOATS bias, INTS always, FLOATS floor, FLOATS top) {
    const FLOATS zero = {0};
    z += (FLOATS)((INTS)bias & ((z != zero) | always));
    z = (FLOATS)((INTS)z & ~(z <= floor));
    const INTS over = z > top;
    return (FLOATS)(((INTS)z & ~over) | ((INTS)top & over));
}

/* COUNT rows that read the same inputs. weights[e * stride + r] is the weight of row r for input indices[e]. A lane of ``differs`` gets
   bits where the result of the lane is not that of lane 0. The loops over rows and vectors are unrolled, or gcc keeps the sums in memory. */
#define DEFINE(COUNT)                                                                                                                   \
    static TARGET inline __attribute__((always_inline)) void NAME(rows##COUNT)(                                                         \
        const Plan *plan, const int32_t *indices, int32_t terms, const float *weights, int32_t stride, const int32_t *outputs,          \
        const float *x, const float *start, float *y, int32_t *differs) {                                                               \
        const FLOATS zero = {0}, floor = NAME(all)(plan->floor), top = NAME(all)(plan->top);                                            \
        const INTS always = (INTS){0} + plan->always;                                                                                   \
        for (int lane = 0; lane < WIDTH; lane += VECTORS * LANES) {                                                                     \
            FLOATS sum[COUNT][VECTORS];                                                                                                 \
            INTS unlike[VECTORS];                                                                                                       \
            UNROLL for (int v = 0; v < VECTORS; v++) unlike[v] = (INTS){0};                                                             \
            UNROLL for (int r = 0; r < COUNT; r++)                                                                                      \
                UNROLL for (int v = 0; v < VECTORS; v++) sum[r][v] = zero;                                                              \
            if (start) {                                                                                                                \
                UNROLL for (int r = 0; r < COUNT; r++)                                                                                  \
                    UNROLL for (int v = 0; v < VECTORS; v++)                                                                            \
                        sum[r][v] = *(const FLOATS *)(start + (int64_t)outputs[r] * WIDTH + lane + v * LANES);                          \
            }                                                                                                                           \
            for (int32_t e = 0; e < terms; e++) {                                                                                       \
                const float *from = x + (int64_t)indices[e] * WIDTH + lane;                                                             \
                FLOATS read[VECTORS];                                                                                                   \
                UNROLL for (int v = 0; v < VECTORS; v++) read[v] = *(const FLOATS *)(from + v * LANES);                                 \
                UNROLL for (int r = 0; r < COUNT; r++)                                                                                  \
                    UNROLL for (int v = 0; v < VECTORS; v++) MADD(sum[r][v], weights[(int64_t)e * stride + r], read[v]);                \
            }                                                                                                                           \
            UNROLL for (int r = 0; r < COUNT; r++) {                                                                                    \
                float *to = y + (int64_t)outputs[r] * WIDTH;                                                                            \
                const FLOATS bias = NAME(all)(plan->bias[outputs[r]]);                                                                  \
                UNROLL for (int v = 0; v < VECTORS; v++) {                                                                              \
                    sum[r][v] = NAME(finish)(sum[r][v], bias, always, floor, top);                                                      \
                    *(FLOATS *)(to + lane + v * LANES) = sum[r][v];                                                                     \
                }                                                                                                                       \
                if (differs) {                                                                                                          \
                    const FLOATS base = NAME(all)(to[0]);                                                                               \
                    UNROLL for (int v = 0; v < VECTORS; v++) unlike[v] |= sum[r][v] != base;                                            \
                }                                                                                                                       \
            }                                                                                                                           \
            if (differs)                                                                                                                \
                UNROLL for (int v = 0; v < VECTORS; v++) *(INTS *)(differs + lane + v * LANES) |= unlike[v];                            \
        }                                                                                                                               \
    }
DEFINE(1)
DEFINE(2)
DEFINE(4)
#if ROWS == 8
DEFINE(8)
#endif

/* A block of rows, ROWS at a time. */
static TARGET inline __attribute__((always_inline)) void NAME(block)(
    const Plan *plan, const int32_t *indices, int32_t terms, const float *weights, int32_t height, const int32_t *outputs, const float *x,
    const float *start, float *y, int32_t *differs) {
#if ROWS == 8
    if (height == 8) NAME(rows8)(plan, indices, terms, weights, 8, outputs, x, start, y, differs);
    else
#endif
    for (int32_t r = 0; r < height; r += ROWS) {
        if (height >= 4) NAME(rows4)(plan, indices, terms, weights + r, height, outputs + r, x, start, y, differs);
        else if (height == 2) NAME(rows2)(plan, indices, terms, weights + r, height, outputs + r, x, start, y, differs);
        else NAME(rows1)(plan, indices, terms, weights + r, height, outputs + r, x, start, y, differs);
    }
}

/* Copy the inputs indices[from..to) of a tile into a buffer. */
static TARGET inline __attribute__((always_inline)) void NAME(gather)(const int32_t *indices, int32_t from, int32_t to, const float *x,
                                                                      float *buffer) {
    for (int32_t e = from; e < to; e++)
        for (int lane = 0; lane < WIDTH; lane += LANES)
            *(FLOATS *)(buffer + e * WIDTH + lane) = *(const FLOATS *)(x + (int64_t)indices[e] * WIDTH + lane);
}

/* One tile through one plan: y = finish(start + weights * x). ``start`` and ``differs`` may be NULL.

   Blocks that read the same inputs read them from a buffer. In a large tile, inputs at a distance of a power of two would push each other
   out of the cache. While these blocks are computed, the inputs of the next ones come: first into the cache, then into the other buffer.
   The lines of the next block's outputs come into the cache too: a store to a line that is not there waits for it. */
static TARGET void NAME(tile)(const Plan *plan, const float *x, const float *start, float *y, int32_t *differs) {
    const int32_t *indices = plan->indices, *outputs = plan->outputs;
    const float *weights = plan->weights;
    float buffers[2][GATHERED * WIDTH] __attribute__((aligned(64)));
    int now = 0, ready = 0; /* the buffer in use; whether it has the inputs of the next block */
    for (int32_t b = 0; b < plan->blocks;) {
        int32_t terms = plan->terms[b], together = plan->same[b], after = b + together;
        const int32_t *next = indices + terms;
        int32_t coming = after < plan->blocks && plan->same[after] > 1 && plan->terms[after] <= GATHERED ? plan->terms[after] : 0;
        int32_t part = (coming + together - 1) / together, got = 0;
        int gathers = together > 1 && terms <= GATHERED;
        if (gathers && !ready) NAME(gather)(indices, 0, terms, x, buffers[now]);
        for (; b < after; b++) {
            int32_t height = plan->heights[b], to = got + part < coming ? got + part : coming;
            if (coming) {
                int64_t at = next - plan->indices + to, most = at + part < plan->inputs ? at + part : plan->inputs;
                for (; at < most; at++)
                    for (int lane = 0; lane < WIDTH; lane += 16) __builtin_prefetch(x + (int64_t)plan->indices[at] * WIDTH + lane);
                NAME(gather)(next, got, to, x, buffers[!now]);
                got = to;
            }
            for (int32_t r = 0; b + 1 < plan->blocks && r < plan->heights[b + 1]; r++)
                for (int lane = 0; lane < WIDTH; lane += 16) __builtin_prefetch(y + (int64_t)outputs[height + r] * WIDTH + lane, 1);
            if (gathers) NAME(block)(plan, SERIES, terms, weights, height, outputs, buffers[now], start, y, differs);
            else NAME(block)(plan, indices, terms, weights, height, outputs, x, start, y, differs);
            weights += (int64_t)terms * height;
            outputs += height;
        }
        indices = next;
        ready = coming > 0;
        now ^= ready;
    }
}

#undef DEFINE
#undef FLOATS
#undef INTS
#undef NAME
#undef TARGET
#undef LANES
#undef VECTORS
#undef ROWS
#undef MADD
