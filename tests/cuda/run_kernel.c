/* SPDX-License-Identifier: MIT */
#include "run_kernel.h"

#include <stddef.h>
#include <stdint.h>

#define SYMBOL __attribute__((visibility("default")))

enum { STACK_SIZE = 64 << 10 };

typedef struct thread {
    void *stack; /* where it goes on */
    bool done;
} thread;

run_index threadIdx, blockIdx, gridDim;
static char stacks[RUN_MAX_THREADS][STACK_SIZE] __attribute__((aligned(16)));
static thread threads[RUN_MAX_THREADS];
static void *scheduler; /* its stack */
static run_entry kernel;
static void **arguments;

/* Saves what a call must leave as it was, and goes on where another stack was left. */
void switch_stack(void **ret_from, void *to);
__asm__(".text\n"
        ".globl switch_stack\n"
        ".hidden switch_stack\n"
        "switch_stack:\n"
        "    push %rbp\n    push %rbx\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
        "    mov %rsp, (%rdi)\n"
        "    mov %rsi, %rsp\n"
        "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbx\n    pop %rbp\n"
        "    ret\n");

void __syncthreads(void)
{
    switch_stack(&threads[threadIdx.x].stack, scheduler);
}

static void thread_main(void)
{
    kernel(arguments);
    threads[threadIdx.x].done = true;
    __syncthreads(); /* for ever */
}

/* A stack as switch_stack() leaves one: six registers, and where to return to. */
static void begin(unsigned i)
{
    void **top = (void **)(void *)(stacks[i] + STACK_SIZE) - 2;

    *top = (void *)(uintptr_t)thread_main;
    threads[i] = (thread){.stack = top - 6};
}

static bool run_group(unsigned n_threads)
{
    unsigned n_done = 0;

    for (unsigned i = 0; i < n_threads; i++) begin(i);
    while (n_done == 0) {
        for (unsigned i = 0; i < n_threads; i++) {
            threadIdx.x = i;
            switch_stack(&scheduler, threads[i].stack);
            n_done += threads[i].done;
        }
    }
    return n_done == n_threads;
}

SYMBOL bool run_kernel(run_entry entry, void **parameters, unsigned n_groups_x, unsigned n_groups_y,
                       unsigned n_threads);

bool run_kernel(run_entry entry, void **parameters, unsigned n_groups_x, unsigned n_groups_y,
                unsigned n_threads)
{
    kernel = entry;
    arguments = parameters;
    gridDim = (run_index){n_groups_x, n_groups_y};
    for (blockIdx.y = 0; blockIdx.y < n_groups_y; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < n_groups_x; blockIdx.x++)
            if (!run_group(n_threads)) return false;
    return true;
}
