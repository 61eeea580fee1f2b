/* SPDX-License-Identifier: MIT */
/* The table of compiled programs, and the threads that compile. The mutex is held but while a
 * program is built. */
#include <stdio.h>
#include <string.h>

#include "driver.h"

typedef enum program_state {
    PROGRAM_IDLE, /* not begun, or failed for a reason that may pass */
    PROGRAM_BUILDING,
    PROGRAM_READY,
    PROGRAM_REFUSED,
} program_state;

struct gpu_program_entry {
    gpu_program_entry *next;
    gpu_variant variant; /* of the first who asked */
    program_state state;
    bool wanted; /* a thread should build it */
    void *program;
    gpu_problem problem; /* of PROGRAM_REFUSED */
};

static bool compile_together(const gpu_variant *a, const gpu_variant *b)
{
    return a->group == b->group && !strcmp(a->file, b->file) && !strcmp(a->defines, b->defines);
}

/* NULL: out of memory. */
static gpu_program_entry *find_or_add(gpu_programs *p, const gpu_variant *variant)
{
    const sobre_host *host = p->device->host;
    gpu_program_entry *e = p->first;

    while (e && !compile_together(&e->variant, variant)) e = e->next;
    if (e) return e;
    e = host->alloc(host->context, sizeof *e, sizeof(void *));
    if (!e) return NULL;
    e->variant = *variant;
    if (p->last)
        p->last->next = e;
    else
        p->first = e;
    p->last = e;
    return e;
}

static void set_wanted(gpu_programs *p, gpu_program_entry *e, bool wanted)
{
    p->n_wanted += wanted - e->wanted;
    e->wanted = wanted;
}

static void build_entry(gpu_programs *p, gpu_program_entry *e, gpu_problem *problem)
{
    static const program_state state_after[] = {[GPU_BUILT] = PROGRAM_READY,
                                                [GPU_BUILD_REFUSED] = PROGRAM_REFUSED,
                                                [GPU_BUILD_FAILED] = PROGRAM_IDLE};
    void *program = NULL;
    gpu_built built;

    set_wanted(p, e, false);
    e->state = PROGRAM_BUILDING;
    os_mutex_unlock(&p->sync.mutex);
    built = p->compiler->build(p->device, &e->variant, &program, problem);
    os_mutex_lock(&p->sync.mutex);
    e->state = state_after[built];
    e->program = program;
    if (built == GPU_BUILD_REFUSED) e->problem = *problem;
    os_cond_broadcast(&p->sync.cond);
}

static void compile_wanted(void *arg)
{
    gpu_programs *p = arg;
    gpu_problem problem; /* whoever needs the program will find it again */

    os_mutex_lock(&p->sync.mutex);
    while (!p->closing) {
        gpu_program_entry *e = p->first;
        while (e && !e->wanted) e = e->next;
        if (e)
            build_entry(p, e, &problem);
        else
            os_cond_wait(&p->sync.cond, &p->sync.mutex);
    }
    os_mutex_unlock(&p->sync.mutex);
}

void gpu_programs_prepare(gpu_programs *p, const gpu_variant *variant)
{
    gpu_program_entry *e;

    os_mutex_lock(&p->sync.mutex);
    e = find_or_add(p, variant);
    if (e && e->state == PROGRAM_IDLE && !e->wanted) {
        set_wanted(p, e, true);
        if (p->n_threads < GPU_MAX_COMPILERS && p->n_threads < p->n_wanted) {
            os_thread *thread = os_thread_start(compile_wanted, p);
            if (thread) p->threads[p->n_threads++] = thread;
        }
        os_cond_broadcast(&p->sync.cond);
    }
    os_mutex_unlock(&p->sync.mutex);
}

sobre_status gpu_programs_get(gpu_programs *p, const gpu_variant *variant, void **ret_program,
                              gpu_problem *problem)
{
    sobre_status status = SOBRE_OK;
    gpu_program_entry *e;

    os_mutex_lock(&p->sync.mutex);
    e = find_or_add(p, variant);
    while (e && e->state == PROGRAM_BUILDING) os_cond_wait(&p->sync.cond, &p->sync.mutex);
    if (!e) {
        status = problem->status = SOBRE_OUT_OF_MEMORY;
        snprintf(problem->text, sizeof problem->text,
                 "no memory for the program of %s; close other programs", variant->file);
    } else {
        if (e->state == PROGRAM_IDLE) build_entry(p, e, problem);
        if (e->state == PROGRAM_REFUSED) *problem = e->problem;
        if (e->state == PROGRAM_READY)
            *ret_program = e->program;
        else
            status = problem->status;
    }
    os_mutex_unlock(&p->sync.mutex);
    return status;
}

sobre_status gpu_programs_open(gpu_programs *p, sobre_device *device, const gpu_compiler *compiler)
{
    p->device = device;
    p->compiler = compiler;
    return gpu_sync_open(&p->sync, device->host);
}

void gpu_programs_close(gpu_programs *p)
{
    gpu_program_entry *next;

    if (p->sync.ready) {
        os_mutex_lock(&p->sync.mutex);
        p->closing = true;
        os_cond_broadcast(&p->sync.cond);
        os_mutex_unlock(&p->sync.mutex);
    }
    for (int32_t i = 0; i < p->n_threads; i++) os_thread_join(p->threads[i]);
    for (gpu_program_entry *e = p->first; e; e = next) {
        next = e->next;
        if (e->program) p->compiler->release(p->device, e->program);
        p->device->host->free(p->device->host->context, e);
    }
    gpu_sync_close(&p->sync);
}
