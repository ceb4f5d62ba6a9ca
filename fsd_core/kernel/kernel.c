/* The compiled kernel: the product of sparse weights with tiles of activations, with bias, activation and clip in the same pass.

   A tile is float32 (rows, WIDTH): the activations of WIDTH - 1 samples, after those of the base in lane 0. `Block` in block.py describes
   both. Every sum starts at zero or at ``start`` and adds the terms of its row in the order in which they are stored, each with one
   rounding (fused multiply-add). So a result has the same bits in each instruction set, and does not depend on the other samples, the
   number of tiles or the number of threads.

   Functions take contiguous buffers (numpy arrays), check all sizes and indices, and let other Python threads run while they compute. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH 32
#define HEIGHT 8                 /* rows of the highest block */
#define GATHERED 64              /* inputs that are gathered into a buffer in the first cache, at most */
#define MOVED 4                  /* tiles that are filled at a time: with more of them, a long row is read in longer parts */
#define CACHED_BYTES (512 << 10) /* tiles that go through several layers together, so that they stay in the second cache */
enum { BIAS = 1, NONZERO = 2, RELU = 4 }; /* NONZERO: the bias is added only to sums that are not zero */

/* Weights in blocks of 8, 4, 2 or 1 rows that read the same inputs: such rows share the loads of their inputs. */
typedef struct {
    int32_t rows, columns, blocks;
    int32_t always;    /* -1: the bias is added to every sum; 0: only to sums that are not zero */
    float floor;       /* results up to this number become zero: 0 for relu, else NaN, which no number reaches */
    float top;         /* the clip of relu, or infinity */
    float *bias;       /* (rows,); without a bias -0, which changes no sum */
    int32_t *terms;    /* (blocks,): inputs that the rows of a block read */
    int32_t *heights;  /* (blocks,): rows of a block */
    int32_t *same;     /* (blocks,): how many blocks from this one on read the same inputs: 1 for the last of them */
    int32_t *outputs;  /* (rows,): the number of each row, block after block */
    int32_t *indices;  /* the inputs of blocks, once for those that read the same */
    int64_t inputs;    /* the length of indices */
    float *weights;    /* for each block (terms, height) */
} Plan;

#define FOUR(n) n, n + 1, n + 2, n + 3
#define SIXTEEN(n) FOUR(n), FOUR(n + 4), FOUR(n + 8), FOUR(n + 12)
static const int32_t SERIES[GATHERED] = {SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48)}; /* the numbers of gathered inputs */
#define UNROLL _Pragma("GCC unroll 8")

typedef void Tile(const Plan *, const float *, const float *, float *, int32_t *);

/* sum + weight * x, rounded once, on machines without such an instruction. The product is exact in double. The sum is rounded to odd: if it
   is inexact, its last bit becomes 1, so that the second rounding, to float, cannot meet a tie that the first one made. */
static inline float fused(float weight, float x, float sum) {
    double product = (double)weight * x, total = product + sum, part = total - product;
    double error = (product - (total - part)) + (sum - part);
    if (error > 0 || error < 0) {
        int64_t bits;
        memcpy(&bits, &total, 8);
        if (!(bits & 1)) bits += (error > 0) == (total > 0) ? 1 : -1;
        memcpy(&total, &bits, 8);
    }
    return (float)total;
}

#define NAME(n) n##_plain
#define TARGET
#define LANES 4
#define VECTORS 2
#define ROWS 4
#define MADD(sum, weight, x) for (int k = 0; k < 4; k++) (sum)[k] = fused(weight, (x)[k], (sum)[k])
#include "tile.h"

/* The compiler makes one instruction of the product and the sum: setup.py passes -ffp-contract=fast. */
#if defined(__x86_64__)
#include <cpuid.h>
#define NAME(n) n##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define VECTORS 2
#define ROWS 4
#define MADD(sum, weight, x) (sum) += (weight) * (x)
#include "tile.h"
#define NAME(n) n##_avx512
#define TARGET __attribute__((target("avx512f,avx2,fma")))
#define LANES 16
#define VECTORS 2
#define ROWS 8
#define MADD(sum, weight, x) (sum) += (weight) * (x)
#include "tile.h"
static const char *const SETS[] = {"avx512", "avx2", "plain"};
static Tile *const TILES[] = {tile_avx512, tile_avx2, tile_plain};
enum { SET_COUNT = 3 };

/* Whether the processor has an instruction set, and the operating system keeps its registers. */
static int has(int set) {
    unsigned a, b, c, d, saved = 0, high;
    if (set == 2) return 1;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA)) return 0;
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2)) return 0;
    return set == 1 ? (saved & 0x06) == 0x06 : (b & bit_AVX512F) && (saved & 0xe6) == 0xe6;
}
#elif defined(__aarch64__)
#define NAME(n) n##_neon
#define TARGET
#define LANES 4
#define VECTORS 4
#define ROWS 4
#define MADD(sum, weight, x) (sum) += (weight) * (x)
#include "tile.h"
static const char *const SETS[] = {"neon", "plain"};
static Tile *const TILES[] = {tile_neon, tile_plain};
enum { SET_COUNT = 2 };
static int has(int set) { (void)set; return 1; }
#else
static const char *const SETS[] = {"plain"};
static Tile *const TILES[] = {tile_plain};
enum { SET_COUNT = 1 };
static int has(int set) { (void)set; return 1; }
#endif

static void drop(Plan *plan) {
    if (!plan) return;
    free(plan->bias), free(plan->terms), free(plan->heights), free(plan->same);
    free(plan->outputs), free(plan->indices), free(plan->weights), free(plan);
}

static void drop_capsule(PyObject *capsule) { drop(PyCapsule_GetPointer(capsule, "plan")); }

static void *array(int64_t count) { return malloc(4 * (size_t)(count + 1)); }

/* Link the rows that read the same inputs in the same order: next[row] is the next such row or -1. first[row] is 1 for the first of them. */
static int link_rows(int32_t rows, const int64_t *indptr, const int32_t *indices, int32_t *next, char *first) {
    int64_t size = 2;
    while (size < 2 * (int64_t)rows) size *= 2;
    int32_t *head = malloc(8 * (size_t)size), *last = head + size; /* an open hash table: the first and last row of each list */
    if (!head) return -1;
    memset(head, 0xff, 4 * (size_t)size);
    for (int32_t row = 0; row < rows; row++) {
        const int32_t *own = indices + indptr[row];
        int64_t count = indptr[row + 1] - indptr[row];
        uint64_t hash = (uint64_t)count;
        for (int64_t e = 0; e < count; e++) hash = (hash ^ (uint32_t)own[e]) * 0x9E3779B97F4A7C15u, hash ^= hash >> 29;
        int64_t at = (int64_t)(hash & (uint64_t)(size - 1));
        for (; head[at] >= 0; at = (at + 1) & (size - 1)) {
            int64_t from = indptr[head[at]];
            if (indptr[head[at] + 1] - from == count && !memcmp(indices + from, own, 4 * (size_t)count)) break;
        }
        first[row] = head[at] < 0, next[row] = -1;
        if (first[row]) head[at] = row;
        else next[last[at]] = row;
        last[at] = row;
    }
    free(head);
    return 0;
}

/* Fill a plan whose arrays have room for one block per row; it gets its indices here. */
static int fill(Plan *plan, const int64_t *indptr, const int32_t *indices, const float *values) {
    int32_t *next = array(plan->rows), *output = plan->outputs, *index = NULL;
    char *first = malloc((size_t)plan->rows + 1);
    float *weight = plan->weights;
    int failed = !next || !first || link_rows(plan->rows, indptr, indices, next, first);
    if (!failed) { /* equal rows share their inputs; room for exactly these, because what is freed later leaves gaps in the heap */
        for (int32_t row = 0; row < plan->rows; row++)
            if (first[row]) plan->inputs += indptr[row + 1] - indptr[row];
        index = plan->indices = array(plan->inputs);
        failed = !index;
    }
    for (int32_t row = 0; !failed && row < plan->rows; row++) {
        int32_t terms = (int32_t)(indptr[row + 1] - indptr[row]), members[HEIGHT];
        int32_t begin = plan->blocks;
        for (int32_t at = first[row] ? row : -1; at >= 0;) {
            int32_t height = 0;
            for (int32_t each = at; each >= 0 && height < HEIGHT; each = next[each]) members[height++] = each;
            height = height >= 8 ? 8 : height >= 4 ? 4 : height >= 2 ? 2 : 1;
            for (int32_t e = 0; e < terms; e++)
                for (int32_t r = 0; r < height; r++) *weight++ = values[indptr[members[r]] + e];
            memcpy(output, members, 4 * (size_t)height), output += height;
            plan->terms[plan->blocks] = terms;
            plan->heights[plan->blocks++] = height;
            at = next[members[height - 1]];
        }
        for (int32_t b = begin; b < plan->blocks; b++) plan->same[b] = plan->blocks - b;
        if (plan->blocks > begin) memcpy(index, indices + indptr[row], 4 * (size_t)terms), index += terms;
    }
    free(next), free(first);
    return failed ? -1 : 0;
}

static PyObject *py_plan(PyObject *self, PyObject *args) {
    Py_buffer indptr, indices, values, bias;
    int rows, columns, rule;
    float top;
    (void)self;
    if (!PyArg_ParseTuple(args, "iiy*y*y*y*if", &rows, &columns, &indptr, &indices, &values, &bias, &rule, &top)) return NULL;
    const int64_t *starts = indptr.buf;
    const int32_t *read = indices.buf;
    int64_t count = indices.len / 4;
    const char *wrong = NULL;
    PyObject *capsule = NULL;
    Plan *plan = NULL;
    if (rows < 0 || columns < 0 || indptr.len != 8 * ((Py_ssize_t)rows + 1) || indices.len != 4 * count || values.len != indices.len)
        wrong = "indptr, indices or values do not have the size of the weights: expected int64 (rows + 1,), int32 (n,), float32 (n,)";
    else if (bias.len != 4 * (Py_ssize_t)rows)
        wrong = "bias: expected float32 (rows,)";
    else if (starts[0] != 0 || starts[rows] != count)
        wrong = "indptr: expected to begin with 0 and to end with the number of weights";
    for (int32_t row = 0; !wrong && row < rows; row++)
        if (starts[row + 1] < starts[row] || starts[row + 1] > count || starts[row + 1] - starts[row] > INT32_MAX)
            wrong = "indptr: expected ascending numbers";
    for (int64_t e = 0; !wrong && e < count; e++)
        if (read[e] < 0 || read[e] >= columns) wrong = "indices: expected numbers from 0 to columns - 1";
    if (wrong) {
        PyErr_SetString(PyExc_ValueError, wrong);
    } else if ((plan = calloc(1, sizeof(Plan)))) {
        plan->rows = rows, plan->columns = columns, plan->always = (rule & BIAS) && (rule & NONZERO) ? 0 : -1;
        plan->floor = rule & RELU ? 0 : NAN, plan->top = rule & RELU ? top : INFINITY;
        plan->bias = array(rows), plan->terms = array(rows), plan->heights = array(rows), plan->same = array(rows), plan->outputs = array(rows);
        plan->weights = array(count);
        if (plan->bias && plan->terms && plan->heights && plan->same && plan->outputs && plan->weights) {
            for (int32_t row = 0; row < rows; row++) plan->bias[row] = rule & BIAS ? ((const float *)bias.buf)[row] : -0.0f;
            if (fill(plan, starts, read, values.buf) == 0) capsule = PyCapsule_New(plan, "plan", drop_capsule);
        }
        if (!capsule) drop(plan);
    }
    if (!capsule && !PyErr_Occurred()) PyErr_NoMemory();
    PyBuffer_Release(&indptr), PyBuffer_Release(&indices), PyBuffer_Release(&values), PyBuffer_Release(&bias);
    return capsule;
}

/* Take the tiles [first, last) through all plans, as many at a time as stay in the cache. Returns -1 if memory is missing. */
static int through(Plan **plans, Py_ssize_t count, Tile *tile, int64_t rows, const float *x, const float *start, float *y, uint8_t *live,
                   int64_t first, int64_t last) {
    int64_t most = rows, out = plans[count - 1]->rows, together = 1;
    for (Py_ssize_t n = 0; n < count; n++) most = plans[n]->rows > most ? plans[n]->rows : most;
    float *scratch = NULL;
    if (count > 1) {
        while (8 * most * WIDTH * (together + 1) <= CACHED_BYTES && together < last - first) together++;
        void *area = NULL;
        if (posix_memalign(&area, 64, 8 * (size_t)(most + 1) * WIDTH * (size_t)together)) return -1;
        scratch = area;
    }
    for (int64_t begin = first; begin < last; begin += together) {
        int64_t some = last - begin < together ? last - begin : together, before = rows;
        const float *from = x + begin * rows * WIDTH;
        for (Py_ssize_t n = 0; n < count; n++) {
            int64_t after = plans[n]->rows;
            float *to = n == count - 1 ? y + begin * out * WIDTH : scratch + (n % 2) * most * WIDTH * together;
            for (int64_t t = 0; t < some; t++) {
                int32_t differs[WIDTH] = {0};
                int mark = live && n == count - 1;
                tile(plans[n], from + t * before * WIDTH, start ? start + (begin + t) * out * WIDTH : NULL, to + t * after * WIDTH,
                     mark ? differs : NULL);
                for (int k = 0; mark && k < WIDTH; k++) live[(begin + t) * WIDTH + k] = differs[k] != 0;
            }
            from = to, before = after;
        }
    }
    free(scratch);
    return 0;
}

static PyObject *py_forward(PyObject *self, PyObject *args) {
    PyObject *given, *result = NULL;
    int set, rows, tiles, first, last;
    Py_buffer x, start, y, live;
    (void)self;
    if (!PyArg_ParseTuple(args, "iO!iiy*z*w*w*ii", &set, &PyTuple_Type, &given, &rows, &tiles, &x, &start, &y, &live, &first, &last))
        return NULL;
    Py_ssize_t count = PyTuple_Size(given);
    Plan **plans = malloc(sizeof(Plan *) * (size_t)(count + 1));
    int wrong = !count || set < 0 || set >= SET_COUNT || !has(set) || rows < 0 || first < 0 || first > last || last > tiles;
    int64_t before = rows;
    for (Py_ssize_t n = 0; plans && n < count; n++) {
        if (!(plans[n] = PyCapsule_GetPointer(PyTuple_GetItem(given, n), "plan"))) goto end;
        wrong |= plans[n]->columns > before;
        before = plans[n]->rows;
    }
    if (!plans) { PyErr_NoMemory(); goto end; }
    wrong |= x.len != 4 * (int64_t)WIDTH * rows * tiles || y.len != 4 * (int64_t)WIDTH * before * tiles || live.len != (int64_t)WIDTH * tiles;
    wrong |= start.buf && (start.len != y.len || count > 1);
    if (wrong) {
        PyErr_SetString(PyExc_ValueError, "tiles do not have the size that the plans expect");
        goto end;
    }
    int failed;
    Py_BEGIN_ALLOW_THREADS
    failed = through(plans, count, TILES[set], rows, x.buf, start.buf, y.buf, live.buf, first, last);
    Py_END_ALLOW_THREADS
    result = failed ? PyErr_NoMemory() : Py_NewRef(Py_None);
end:
    free(plans), PyBuffer_Release(&x), PyBuffer_Release(&y), PyBuffer_Release(&live);
    if (start.buf) PyBuffer_Release(&start);
    return result;
}

/* Finish sums that were computed elsewhere, in place, and mark the lanes that differ from lane 0: tiles (tiles, rows, WIDTH). */
static PyObject *py_finish(PyObject *self, PyObject *args) {
    Py_buffer z, bias, live;
    int rows, tiles, rule;
    float top;
    (void)self;
    if (!PyArg_ParseTuple(args, "iiw*y*ifw*", &rows, &tiles, &z, &bias, &rule, &top, &live)) return NULL;
    int wrong = rows < 0 || tiles < 0 || z.len != 4 * (int64_t)WIDTH * rows * tiles || bias.len != 4 * (int64_t)rows;
    wrong |= live.len != (int64_t)WIDTH * tiles;
    if (wrong) {
        PyErr_SetString(PyExc_ValueError, "tiles do not have the expected size");
    } else {
        Py_BEGIN_ALLOW_THREADS
        for (int64_t t = 0; t < tiles; t++) {
            int32_t differs[WIDTH] = {0};
            for (int64_t r = 0; r < rows; r++) {
                float *at = (float *)z.buf + (t * rows + r) * WIDTH, added = ((const float *)bias.buf)[r];
                for (int k = 0; k < WIDTH; k++) {
                    float v = at[k];
                    if (rule & BIAS) v = (rule & NONZERO) && v == 0 ? v : v + added;
                    if (rule & RELU) v = v <= 0 ? 0 : v, v = v > top ? top : v;
                    at[k] = v;
                }
                for (int k = 0; k < WIDTH; k++) differs[k] |= at[k] != at[0];
            }
            for (int k = 0; k < WIDTH; k++) ((uint8_t *)live.buf)[t * WIDTH + k] = differs[k] != 0;
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&z), PyBuffer_Release(&bias), PyBuffer_Release(&live);
    return wrong ? NULL : Py_NewRef(Py_None);
}

/* Copy lanes and rows from tiles of one width into tiles of another. Lane 0 and the lanes that stay free get the base. */
static PyObject *py_move(PyObject *self, PyObject *args) {
    Py_buffer source, lanes, picked, target;
    int rows, width, into_rows, into_width, offset;
    (void)self;
    if (!PyArg_ParseTuple(args, "iiy*y*z*iiw*i", &rows, &width, &source, &lanes, &picked, &into_rows, &into_width, &target, &offset))
        return NULL;
    int64_t count = lanes.len / 4, taken = picked.buf ? picked.len / 4 : rows, from = width, to = into_width;
    int64_t tiles = to > 1 && count ? (count + to - 2) / (to - 1) : 1;
    int64_t there = rows > 0 && width > 0 ? source.len / (4 * (int64_t)rows * from) : 0;
    const int32_t *lane = lanes.buf, *pick = picked.buf;
    int wrong = rows < 0 || width < 1 || into_width < 1 || into_rows < 0 || (count && to < 2) || (rows && there < 1);
    wrong |= source.len != 4 * (int64_t)rows * from * there || target.len != 4 * (int64_t)into_rows * to * tiles;
    wrong |= offset < 0 || offset + taken > into_rows;
    for (int64_t i = 0; !wrong && i < count; i++) wrong = rows && (lane[i] < 0 || lane[i] >= from * there);
    for (int64_t i = 0; !wrong && pick && i < taken; i++) wrong = pick[i] < 0 || pick[i] >= rows;
    int64_t *places = wrong ? NULL : malloc(8 * (size_t)to * MOVED);
    if (wrong) PyErr_SetString(PyExc_ValueError, "lanes, rows or tiles are outside the shape of the tiles");
    else if (!places) PyErr_NoMemory();
    else {
        Py_BEGIN_ALLOW_THREADS
        for (int64_t first = 0; rows && first < tiles; first += MOVED) {
            int64_t some = tiles - first < MOVED ? tiles - first : MOVED, run[MOVED]; /* lanes after lane 0 that are neighbours in source */
            for (int64_t t = 0; t < some; t++) {
                int64_t *place = places + t * to, before = (first + t) * (to - 1);
                for (int64_t k = 0; k < to; k++) {
                    int64_t at = k && before + k - 1 < count ? lane[before + k - 1] : 0;
                    place[k] = at / from * rows * from + at % from;
                }
                for (run[t] = to > 1; run[t] > 0 && run[t] + 1 < to && place[run[t] + 1] == place[1] + run[t];) run[t]++;
            }
            for (int64_t r = 0; r < taken; r++) {
                const float *row = (const float *)source.buf + (pick ? pick[r] : r) * from;
                for (int64_t t = 0; t < some; t++) {
                    const int64_t *place = places + t * to;
                    float *into = (float *)target.buf + ((first + t) * into_rows + offset + r) * to;
                    into[0] = row[0];
                    if (run[t] == WIDTH - 1) memcpy(into + 1, row + place[1], 4 * (WIDTH - 1)); /* a constant size: no call */
                    else if (run[t]) memcpy(into + 1, row + place[1], 4 * (size_t)run[t]);
                    for (int64_t k = run[t] + 1; k < to; k++) into[k] = row[place[k]];
                }
            }
        }
        Py_END_ALLOW_THREADS
        free(places);
    }
    PyBuffer_Release(&source), PyBuffer_Release(&lanes), PyBuffer_Release(&target);
    if (picked.buf) PyBuffer_Release(&picked);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyObject *py_sets(PyObject *self, PyObject *none) {
    PyObject *found = PyList_New(0);
    (void)self, (void)none;
    for (int set = 0; found && set < SET_COUNT; set++) {
        PyObject *pair = has(set) ? Py_BuildValue("si", SETS[set], set) : NULL;
        if (pair && PyList_Append(found, pair)) Py_CLEAR(found);
        Py_XDECREF(pair);
    }
    return found;
}

static PyMethodDef methods[] = {
    {"plan", py_plan, METH_VARARGS, NULL},     {"forward", py_forward, METH_VARARGS, NULL}, {"finish", py_finish, METH_VARARGS, NULL},
    {"move", py_move, METH_VARARGS, NULL},     {"sets", py_sets, METH_NOARGS, NULL},        {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kernel", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) {
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "WIDTH", WIDTH)) Py_CLEAR(made);
    return made;
}
