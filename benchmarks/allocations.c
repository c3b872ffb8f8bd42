/* Counts the bytes of tensors in a process: torch's CPU allocator (in libc10) takes every tensor by posix_memalign; what other libraries take so
   (oneDNN's work space) is not counted. Preloaded; plan_accuracy.py builds it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PLACES (1u << 21) /* pointers are kept in an open table; a lost one would be counted for ever */

static void *held[PLACES];
static size_t sizes[PLACES];
static size_t live, most;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int (*real_memalign)(void **, size_t, size_t);
static void (*real_free)(void *);

static unsigned place(void *p) { return (unsigned)(((uintptr_t)p >> 4) * 2654435761u) & (PLACES - 1); }

static int from_torch(void *caller) {
    static void *torch;
    Dl_info at;
    if (!dladdr(caller, &at)) return 0;
    if (!torch && at.dli_fname && strstr(at.dli_fname, "libc10.so")) torch = at.dli_fbase;
    return torch && at.dli_fbase == torch;
}

int posix_memalign(void **out, size_t alignment, size_t size) {
    if (!real_memalign) real_memalign = dlsym(RTLD_NEXT, "posix_memalign");
    int failed = real_memalign(out, alignment, size);
    if (failed || size == 0 || !from_torch(__builtin_return_address(0))) return failed;
    pthread_mutex_lock(&lock);
    unsigned i = place(*out);
    while (held[i] && held[i] != (void *)-1) i = (i + 1) & (PLACES - 1);
    held[i] = *out;
    sizes[i] = size;
    live += size;
    if (live > most) most = live;
    pthread_mutex_unlock(&lock);
    return 0;
}

void free(void *p) {
    if (!real_free) real_free = dlsym(RTLD_NEXT, "free");
    if (p) {
        pthread_mutex_lock(&lock);
        for (unsigned i = place(p); held[i]; i = (i + 1) & (PLACES - 1))
            if (held[i] == p) {
                live -= sizes[i];
                held[i] = (void *)-1;
                break;
            }
        pthread_mutex_unlock(&lock);
    }
    real_free(p);
}

size_t tensor_bytes(void) { return live; }

size_t tensor_bytes_most(void) { /* since it was last asked */
    pthread_mutex_lock(&lock);
    size_t found = most;
    most = live;
    pthread_mutex_unlock(&lock);
    return found;
}
