/* SPDX-License-Identifier: MIT */
#include <stdatomic.h>

#include "app.h"
#include "sys.h"

static atomic_int n_interrupts;
static atomic_int n_handlers; /* running now: on Windows a thread of their own */
static _Atomic(sobre_session *) watched;

static void on_interrupt(void)
{
    atomic_fetch_add(&n_handlers, 1);
    sobre_session *session = atomic_load(&watched);
    if (atomic_fetch_add(&n_interrupts, 1) >= 1) sys_exit_now(CODE_INTERRUPTED);
    if (session) sobre_session_cancel(session);
    atomic_fetch_sub(&n_handlers, 1);
}

void interrupt_install(void)
{
    sys_on_interrupt(on_interrupt);
}

void interrupt_watch(sobre_session *session)
{
    atomic_store(&watched, session);
    while (!session && atomic_load(&n_handlers) > 0) continue;
}

bool interrupt_pending(void)
{
    return atomic_load(&n_interrupts) > 0;
}

void interrupt_forget(void)
{
    atomic_store(&n_interrupts, 0);
}
