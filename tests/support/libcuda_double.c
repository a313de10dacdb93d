/* A stand-in for libcuda.so.1, so that a real binding of CUDA's driver can be run without a device.
 *
 * It has the calls that edgeemo makes, over memory of the process. Copies are done when their stream is waited
 * for, or recorded while it captures; an address that is nobody's loses the context. double_fail() makes a call
 * fail, double_live() counts what was not freed, double_stack() the contexts on the calling thread's stack.
 *
 *     cc -shared -fPIC -pthread -Wl,-soname,libcuda.so.1 -o libcuda.so.1 libcuda_double.c
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, ILLEGAL_STATE = 401, NOT_FOUND = 500, NOT_READY = 600,
    ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901
};
static const struct { int code; const char *text; } CODES[] = {
    {SUCCESS, "no error"},
    {INVALID_VALUE, "invalid argument"},
    {OUT_OF_MEMORY, "out of memory"},
    {NOT_INITIALIZED, "initialization error"},
    {INVALID_DEVICE, "invalid device ordinal"},
    {INVALID_CONTEXT, "invalid device context"},
    {INVALID_HANDLE, "invalid resource handle"},
    {ILLEGAL_STATE, "the operation cannot be performed in the present state"},
    {NOT_FOUND, "named symbol not found"},
    {NOT_READY, "device not ready"},
    {ILLEGAL_ADDRESS, "an illegal memory access was encountered"},
    {LAUNCH_FAILED, "unspecified launch failure"},
    {CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "operation failed due to a previous error during capture"},
};

typedef enum { DEVICE_MEMORY, HOST_MEMORY, STREAM, EVENT, GRAPH, EXECUTABLE } Kind;
typedef struct { char *to, *from; size_t size; struct Thing *event; } Operation;
typedef struct { Operation *at; size_t count; } Operations;
typedef struct Thing { /* anything that must be freed */
    Kind kind;
    char *bytes; size_t size;           /* memory */
    Operations queue, captured;         /* streams; graphs have the latter alone */
    int capturing, invalid, recorded, passed;
    struct Thing *next;
} Thing;

#define TOTAL ((size_t)1 << 30)
#define DEEP 64
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int initialised, users, lost, context; /* the address of `context` is the handle of the primary one */
static Thing *things;
static __thread void *stack[DEEP];
static __thread int depth;
static char failing[64];
static int fail_code, fail_after;

void double_fail(const char *call, int code, int after) {
    snprintf(failing, sizeof failing, "%s", call);
    fail_code = code;
    fail_after = after;
}
int double_stack(void) { return depth; }
int double_live(void) {
    int count = users;
    for (Thing *thing = things; thing; thing = thing->next) count++;
    return count;
}

static int enter(const char *call, int needs_context) {
    pthread_mutex_lock(&lock);
    if (!initialised) return NOT_INITIALIZED;
    if (needs_context && !(depth && users)) return INVALID_CONTEXT;
    if (needs_context && lost) return lost;
    if (strcmp(call, failing) || fail_after-- > 0) return SUCCESS;
    failing[0] = 0;
    if (fail_code == ILLEGAL_ADDRESS || fail_code == LAUNCH_FAILED) lost = fail_code;
    return fail_code;
}
static int leave(int code) {
    pthread_mutex_unlock(&lock);
    return code;
}
#define ENTER(call, needs_context) \
    do { int code = enter(call, needs_context); if (code) return leave(code); } while (0)

static Thing *add(Kind kind) {
    Thing *thing = calloc(1, sizeof *thing);
    thing->kind = kind;
    thing->next = things;
    return things = thing;
}
static Thing *find(const void *handle, Kind kind) {
    for (Thing *thing = things; thing; thing = thing->next)
        if (thing->kind == kind && (thing == handle || (thing->bytes && thing->bytes == handle))) return thing;
    return NULL;
}
static void drop(Thing *gone) {
    Thing **at = &things;
    while (*at != gone) at = &(*at)->next;
    *at = gone->next;
    free(gone->bytes);
    free(gone->queue.at);
    free(gone->captured.at);
    free(gone);
}
static int destroy(const char *call, const void *handle, Kind kind) {
    ENTER(call, 1);
    Thing *thing = find(handle, kind);
    if (thing) drop(thing);
    return leave(thing ? SUCCESS : INVALID_HANDLE);
}
static void append(Operations *list, Operation one) {
    list->at = realloc(list->at, (list->count + 1) * sizeof one);
    list->at[list->count++] = one;
}
static int owned(const char *start, size_t size) {
    for (Thing *thing = things; thing; thing = thing->next)
        if (thing->bytes && start >= thing->bytes && start + size <= thing->bytes + thing->size) return 1;
    return 0;
}
static int submit(void *handle, Operation one) {
    Thing *stream = find(handle, STREAM);
    if (!stream) return INVALID_HANDLE;
    if (stream->capturing && stream->invalid) return CAPTURE_INVALIDATED;
    append(stream->capturing ? &stream->captured : &stream->queue, one);
    return SUCCESS;
}
static void run(Thing *stream) {
    for (size_t i = 0; i < stream->queue.count && !lost; i++) {
        Operation one = stream->queue.at[i];
        if (one.event) one.event->passed = 1;
        else if (owned(one.to, one.size) && owned(one.from, one.size)) memcpy(one.to, one.from, one.size);
        else lost = ILLEGAL_ADDRESS;
    }
    stream->queue.count = 0;
}
static int allocate(const char *call, Kind kind, size_t size, void *answer) {
    ENTER(call, 1);
    size_t used = size;
    for (Thing *thing = things; thing; thing = thing->next) {
        used += thing->size;
        if (thing->capturing) {
            thing->invalid = 1;
            return leave(CAPTURE_UNSUPPORTED);
        }
    }
    if (!size) return leave(INVALID_VALUE);
    if (used > TOTAL) return leave(OUT_OF_MEMORY);
    Thing *memory = add(kind);
    memory->bytes = malloc(size);
    memset(memory->bytes, 0xA5, size);
    memory->size = size;
    *(void **)answer = memory->bytes;
    return leave(SUCCESS);
}

int cuInit(unsigned flags) {
    initialised = 1;
    ENTER("cuInit", 0);
    return leave(flags ? INVALID_VALUE : SUCCESS);
}
int cuDriverGetVersion(int *version) { *version = 12060; return SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { *device = 0; return ordinal ? INVALID_DEVICE : SUCCESS; }
int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, (size_t)length, "Stand-in");
    return device ? INVALID_DEVICE : SUCCESS;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = TOTAL; return device ? INVALID_DEVICE : SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 18 || attribute == 19 ? 1 : attribute == 75 ? 8 : attribute == 76 ? 7 : 0;
    return device ? INVALID_DEVICE : SUCCESS;
}
int cuDeviceComputeCapability(int *major, int *minor, int device) {
    *major = 8;
    *minor = 7;
    return device ? INVALID_DEVICE : SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **answer, int device) {
    ENTER("cuDevicePrimaryCtxRetain", 0);
    users++;
    *answer = &context;
    return leave(device ? INVALID_DEVICE : SUCCESS);
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER("cuDevicePrimaryCtxRelease", 0);
    if (!users) return leave(INVALID_CONTEXT);
    if (!--users) {
        if (lost) while (things) drop(things); /* what a healthy one leaves stays, for double_live() to tell */
        lost = 0;
    }
    return leave(device ? INVALID_DEVICE : SUCCESS);
}
int cuCtxPushCurrent_v2(void *given) {
    ENTER("cuCtxPushCurrent", 0);
    if (given != &context || !users || depth == DEEP) return leave(INVALID_CONTEXT);
    stack[depth++] = given;
    return leave(SUCCESS);
}
int cuCtxPopCurrent_v2(void **answer) {
    ENTER("cuCtxPopCurrent", 0);
    if (!depth) return leave(INVALID_CONTEXT);
    *answer = stack[--depth];
    return leave(SUCCESS);
}

int cuStreamCreate(void **stream, unsigned flags) {
    ENTER("cuStreamCreate", 1);
    if (flags != 1) return leave(INVALID_VALUE); /* edgeemo's stream never waits for the default stream */
    *stream = add(STREAM);
    return leave(SUCCESS);
}
int cuStreamDestroy_v2(void *stream) { return destroy("cuStreamDestroy", stream, STREAM); }
int cuStreamSynchronize(void *handle) {
    ENTER("cuStreamSynchronize", 1);
    Thing *stream = find(handle, STREAM);
    if (!stream) return leave(INVALID_HANDLE);
    if (stream->capturing) {
        stream->invalid = 1;
        return leave(CAPTURE_UNSUPPORTED);
    }
    run(stream);
    return leave(lost);
}
int cuStreamBeginCapture_v2(void *handle, int mode) {
    ENTER("cuStreamBeginCapture", 1);
    Thing *stream = find(handle, STREAM);
    if (!stream || mode != 1) return leave(INVALID_VALUE); /* edgeemo captures thread-locally */
    if (stream->capturing) return leave(ILLEGAL_STATE);
    stream->capturing = 1;
    stream->invalid = 0;
    return leave(SUCCESS);
}
int cuStreamEndCapture(void *handle, void **answer) {
    ENTER("cuStreamEndCapture", 1);
    Thing *stream = find(handle, STREAM);
    *answer = NULL;
    if (!stream || !stream->capturing) return leave(ILLEGAL_STATE);
    Operations captured = stream->captured;
    stream->captured = (Operations){0};
    stream->capturing = 0;
    if (stream->invalid) {
        free(captured.at);
        return leave(CAPTURE_INVALIDATED);
    }
    Thing *graph = add(GRAPH);
    graph->captured = captured;
    *answer = graph;
    return leave(SUCCESS);
}
int cuGraphInstantiateWithFlags(void **answer, void *handle, unsigned long long flags) {
    ENTER("cuGraphInstantiate", 1);
    Thing *graph = find(handle, GRAPH);
    if (!graph || flags) return leave(INVALID_VALUE);
    Thing *made = add(EXECUTABLE);
    for (size_t i = 0; i < graph->captured.count; i++) append(&made->captured, graph->captured.at[i]);
    *answer = made;
    return leave(SUCCESS);
}
int cuGraphLaunch(void *handle, void *stream) {
    ENTER("cuGraphLaunch", 1);
    Thing *graph = find(handle, EXECUTABLE);
    int code = graph ? SUCCESS : INVALID_HANDLE;
    for (size_t i = 0; !code && i < graph->captured.count; i++) code = submit(stream, graph->captured.at[i]);
    return leave(code);
}
int cuGraphDestroy(void *graph) { return destroy("cuGraphDestroy", graph, GRAPH); }
int cuGraphExecDestroy(void *graph) { return destroy("cuGraphExecDestroy", graph, EXECUTABLE); }

int cuEventCreate(void **event, unsigned flags) {
    ENTER("cuEventCreate", 1);
    if (flags > 7) return leave(INVALID_VALUE);  // blocking, without time, for another process
    *event = add(EVENT);
    return leave(SUCCESS);
}
int cuEventDestroy_v2(void *event) { return destroy("cuEventDestroy", event, EVENT); }
int cuEventRecord(void *handle, void *stream) {
    ENTER("cuEventRecord", 1);
    Thing *event = find(handle, EVENT);
    if (!event) return leave(INVALID_HANDLE);
    event->recorded = 1;
    event->passed = 0;
    return leave(submit(stream, (Operation){.event = event}));
}
int cuEventSynchronize(void *handle) {
    ENTER("cuEventSynchronize", 1);
    if (!find(handle, EVENT)) return leave(INVALID_HANDLE);
    for (Thing *thing = things; thing; thing = thing->next)
        if (thing->kind == STREAM) run(thing);
    return leave(lost);
}
int cuEventElapsedTime_v2(float *milliseconds, void *start, void *end) {
    ENTER("cuEventElapsedTime", 1);
    Thing *from = find(start, EVENT), *to = find(end, EVENT);
    if (!from || !to || !from->recorded || !to->recorded) return leave(INVALID_HANDLE);
    *milliseconds = 1.5f;
    return leave(from->passed && to->passed ? SUCCESS : NOT_READY);
}
int cuEventElapsedTime(float *milliseconds, void *start, void *end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}

int cuMemAlloc_v2(void **answer, size_t size) { return allocate("cuMemAlloc", DEVICE_MEMORY, size, answer); }
int cuMemFree_v2(void *address) { return destroy("cuMemFree", address, DEVICE_MEMORY); }
int cuMemHostAlloc(void **answer, size_t size, unsigned flags) {
    if (flags != 2) return INVALID_VALUE; /* the device is integrated: edgeemo maps its memory */
    return allocate("cuMemHostAlloc", HOST_MEMORY, size, answer);
}
int cuMemFreeHost(void *address) { return destroy("cuMemFreeHost", address, HOST_MEMORY); }
int cuMemHostGetDevicePointer_v2(void **answer, void *address, unsigned flags) {
    ENTER("cuMemHostGetDevicePointer", 1);
    *answer = address;
    return leave(find(address, HOST_MEMORY) && !flags ? SUCCESS : INVALID_VALUE);
}
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t size, void *stream) {
    ENTER("cuMemcpyHtoDAsync", 1);
    return leave(submit(stream, (Operation){.to = to, .from = (char *)from, .size = size}));
}
int cuMemcpyDtoHAsync_v2(void *to, void *from, size_t size, void *stream) {
    ENTER("cuMemcpyDtoHAsync", 1);
    return leave(submit(stream, (Operation){.to = to, .from = from, .size = size}));
}

int cuGetErrorString(int code, const char **answer) {
    for (size_t i = 0; i < sizeof CODES / sizeof *CODES; i++)
        if (CODES[i].code == code) return *answer = CODES[i].text, SUCCESS;
    return INVALID_VALUE;
}

/* cuda-python looks every call up by its name without a version. */
int cuGetProcAddress_v2(const char *name, void **answer, int version, uint64_t flags, int *found) {
    static const struct { const char *name; void *call; } CALLS[] = {
        {"cuInit", cuInit}, {"cuDriverGetVersion", cuDriverGetVersion},
        {"cuDeviceGet", cuDeviceGet},
        {"cuDeviceGetName", cuDeviceGetName}, {"cuDeviceTotalMem", cuDeviceTotalMem_v2},
        {"cuDeviceGetAttribute", cuDeviceGetAttribute},
        {"cuDevicePrimaryCtxRetain", cuDevicePrimaryCtxRetain},
        {"cuDevicePrimaryCtxRelease", cuDevicePrimaryCtxRelease_v2},
        {"cuCtxPushCurrent", cuCtxPushCurrent_v2}, {"cuCtxPopCurrent", cuCtxPopCurrent_v2},
        {"cuStreamCreate", cuStreamCreate}, {"cuStreamDestroy", cuStreamDestroy_v2},
        {"cuStreamSynchronize", cuStreamSynchronize}, {"cuStreamBeginCapture", cuStreamBeginCapture_v2},
        {"cuStreamEndCapture", cuStreamEndCapture}, {"cuGraphInstantiate", cuGraphInstantiateWithFlags},
        {"cuGraphInstantiateWithFlags", cuGraphInstantiateWithFlags}, {"cuGraphLaunch", cuGraphLaunch},
        {"cuGraphDestroy", cuGraphDestroy}, {"cuGraphExecDestroy", cuGraphExecDestroy},
        {"cuEventCreate", cuEventCreate}, {"cuEventDestroy", cuEventDestroy_v2},
        {"cuEventRecord", cuEventRecord}, {"cuEventSynchronize", cuEventSynchronize},
        {"cuEventElapsedTime", cuEventElapsedTime}, {"cuMemAlloc", cuMemAlloc_v2},
        {"cuMemFree", cuMemFree_v2}, {"cuMemHostAlloc", cuMemHostAlloc}, {"cuMemFreeHost", cuMemFreeHost},
        {"cuMemHostGetDevicePointer", cuMemHostGetDevicePointer_v2},
        {"cuMemcpyHtoDAsync", cuMemcpyHtoDAsync_v2}, {"cuMemcpyDtoHAsync", cuMemcpyDtoHAsync_v2},
        {"cuGetErrorString", cuGetErrorString},
    };
    (void)version;
    (void)flags;
    *answer = NULL;
    for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++)
        if (!strcmp(CALLS[i].name, name)) *answer = CALLS[i].call;
    if (found) *found = *answer ? 0 : 1;
    return *answer ? SUCCESS : NOT_FOUND;
}
