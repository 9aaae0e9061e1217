/*
 * Asking for a line of memory that will be written.
 *
 * A line that another core has looked at or changed must be taken from it before it is written, and an atomic operation
 * waits for that. __builtin_prefetch(p, 1) asks for a copy to read alone, unless the compiler may assume PREFETCHW;
 * x86-64 processors that do not know that instruction (Intel's before Broadwell) take it for one that does nothing.
 */
#ifndef ENGINE_PREFETCH_H
#define ENGINE_PREFETCH_H

static inline void prefetch_write(const void *line)
{
#if defined(__x86_64__)
    __asm__("prefetchw %0" : : "m"(*(const char *)line));
#else
    __builtin_prefetch(line, 1);
#endif
}

#endif
