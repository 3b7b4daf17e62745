/* How fast the cores read memory: the bound for decoding, where each step reads every weight once.
 *
 *     cc -O3 -march=native -pthread bandwidth.c -o bandwidth && ./bandwidth [THREADS]...
 *
 * Sums a buffer of 1 GiB (far larger than any cache) with vector loads, the buffer split evenly
 * between the threads, 15 passes; prints one JSON line per thread count and page size with the median
 * and the best GB/s (1e9 bytes). Each thread writes its own part first, so that pages are near it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define BYTES ((size_t)1 << 30)
#define PASSES 15
#define STREAMS 8 /* independent sums, so that additions never wait */
#define MAX_THREADS 256

typedef uint64_t vec __attribute__((vector_size(64)));

struct part {
    const vec *from;
    size_t count;
    uint64_t sum;
    pthread_t thread;
};

static pthread_barrier_t start, stop;

static void read_part(struct part *part) {
    vec sums[STREAMS] = {{0}};
    for (size_t i = 0; i + STREAMS <= part->count; i += STREAMS)
        for (int s = 0; s < STREAMS; s++) sums[s] += part->from[i + s];
    for (int s = 0; s < STREAMS; s++)
        for (int lane = 0; lane < 8; lane++) part->sum += sums[s][lane];
}

static void *worker(void *argument) {
    struct part *part = argument;
    memset((void *)part->from, 1, part->count * sizeof(vec));
    for (int pass = 0; pass <= PASSES; pass++) {
        pthread_barrier_wait(&start);
        read_part(part);
        pthread_barrier_wait(&stop);
    }
    return NULL;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int measure(int threads, int huge) {
    static struct part parts[MAX_THREADS];
    vec *buffer = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) return perror("mmap"), 1;
    madvise(buffer, BYTES, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    pthread_barrier_init(&start, NULL, threads + 1);
    pthread_barrier_init(&stop, NULL, threads + 1);
    size_t each = BYTES / sizeof(vec) / threads;
    for (int t = 0; t < threads; t++) {
        parts[t] = (struct part){.from = buffer + t * each, .count = each};
        pthread_create(&parts[t].thread, NULL, worker, &parts[t]);
    }
    double rates[PASSES];
    for (int pass = -1; pass < PASSES; pass++) { /* the first pass waits for the writing: not counted */
        double began = now();
        pthread_barrier_wait(&start);
        pthread_barrier_wait(&stop);
        if (pass >= 0) rates[pass] = each * threads * sizeof(vec) / (now() - began) / 1e9;
    }
    uint64_t sum = 0;
    for (int t = 0; t < threads; t++) {
        pthread_join(parts[t].thread, NULL);
        sum += parts[t].sum;
    }
    munmap(buffer, BYTES);
    qsort(rates, PASSES, sizeof(double), by_size);
    printf("{\"threads\": %d, \"huge_pages\": %s, \"median_gb_s\": %.2f, \"best_gb_s\": %.2f, \"sum\": %llu}\n", threads,
           huge ? "true" : "false", rates[PASSES / 2], rates[PASSES - 1], (unsigned long long)sum);
    return 0;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        int threads = atoi(argv[i]);
        if (threads < 1 || threads > MAX_THREADS) return fprintf(stderr, "not a thread count: %s\n", argv[i]), 2;
        if (measure(threads, 0) || measure(threads, 1)) return 1;
    }
    return 0;
}
