/* Aligned memory (of tensors) between pages that may not be touched; LD_PRELOAD it.

   A read or a write behind the end dies by SIGSEGV at once; one in the few bytes that alignment
   leaves, or before the start, is noticed when the memory is freed, and dies by SIGABRT. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096UL
#define ARENA (64UL << 30)
#define LARGEST (256UL << 20)
#define PATTERN 0xCA

struct header { size_t pages, offset, size; }; /* on a page of its own, before the data */

static char *arena, *next;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void (*system_free)(void *);
static int (*system_memalign)(void **, size_t, size_t);

__attribute__((constructor)) static void start(void) {
    system_free = dlsym(RTLD_NEXT, "free");
    system_memalign = dlsym(RTLD_NEXT, "posix_memalign");
    void *found = mmap(NULL, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found != MAP_FAILED) arena = next = found;
}

int posix_memalign(void **out, size_t alignment, size_t size) {
    if (size > LARGEST) return ENOMEM;
    if (!size) size = 1;
    size_t pages = (size + PAGE - 1) / PAGE;
    pthread_mutex_lock(&lock);
    char *block = next;
    int fits = arena && alignment <= PAGE && block + (pages + 2) * PAGE <= arena + ARENA;
    if (fits) next += (pages + 2) * PAGE;
    pthread_mutex_unlock(&lock);
    if (!fits) {
        if (!system_memalign) system_memalign = dlsym(RTLD_NEXT, "posix_memalign");
        return system_memalign(out, alignment, size);
    }
    if (mprotect(block, (pages + 1) * PAGE, PROT_READ | PROT_WRITE)) return ENOMEM;
    struct header *header = (struct header *)block;
    char *data = block + PAGE;
    header->pages = pages;
    header->offset = (pages * PAGE - size) / alignment * alignment;
    header->size = size;
    memset(data, PATTERN, pages * PAGE < (1UL << 20) ? pages * PAGE : PAGE);
    *out = data + header->offset;
    memset((char *)*out + size, PATTERN, pages * PAGE - header->offset - size);
    return 0;
}

static void check(const unsigned char *from, size_t length) {
    for (size_t at = 0; at < length; at++)
        if (from[at] != PATTERN) abort();
}

void free(void *pointer) {
    char *at = pointer;
    if (!arena || at < arena || at >= arena + ARENA) {
        if (!system_free) system_free = dlsym(RTLD_NEXT, "free");
        if (system_free) system_free(pointer);
        return;
    }
    char *data = (char *)((uintptr_t)at & ~(PAGE - 1));
    struct header *header = (struct header *)(data - PAGE);
    size_t length = header->pages * PAGE;
    check((unsigned char *)data, header->offset);
    check((unsigned char *)at + header->size, length - header->offset - header->size);
    madvise(data - PAGE, length + PAGE, MADV_DONTNEED);
    mprotect(data - PAGE, length + PAGE, PROT_NONE);
}
