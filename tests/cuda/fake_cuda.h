/* SPDX-License-Identifier: MIT */
/*
 * A libcuda.so.1 of the tests' own: devices whose memory is the host's and whose kernels compute
 * nothing, unless SOBRE_TEST_KERNELS names a library that does it for stubs. It checks every
 * argument, works off its streams as late as the real one may, counts objects that are alive, and
 * fails the call that it is told to.
 */
#ifndef FAKE_CUDA_H
#define FAKE_CUDA_H

#include <stdatomic.h>
#include <stddef.h>

typedef enum fake_object {
    FAKE_CONTEXT, /* references */
    FAKE_STREAM,
    FAKE_EVENT,
    FAKE_MODULE,
    FAKE_MEMORY,
    FAKE_PINNED,
    FAKE_N_OBJECTS
} fake_object;

enum { FAKE_MAX_FAILED = 32 };

typedef struct fake_control {
    /* What it plays. */
    int driver_version, n_devices, init_error;
    int major, minor, compute_mode;
    size_t memory; /* bytes a device */
    /* Calls that can fail. Those that give back do so even then, as with the real one, whose
     * results are about earlier work. */
    atomic_llong n_calls;
    atomic_llong fail_at;                /* this one, from 1, fails; 0: none */
    atomic_int for_good;                 /* all after it fail, too */
    atomic_int error;                    /* with this code */
    const char *failed[FAKE_MAX_FAILED]; /* names of calls that were made to fail, each once */
    int n_failed;
    atomic_int n_without_context; /* times that a context could not be made current */
    /* What it saw. */
    atomic_llong n_live[FAKE_N_OBJECTS];
    atomic_llong n_launches, n_copies_in, n_copies_out;
    char launched[4096][24]; /* entries of the first ones */
    char misuse[256];        /* the first thing that the real one would not have borne; "": none */
    int (*depth)(void);      /* contexts that are current for this thread, one above the other */
} fake_control;

/* Forgets what it saw and plays a usual card; all objects should be gone. */
typedef fake_control *(*fake_cuda_control_fn)(void);

#endif
