/* SPDX-License-Identifier: MIT */
/* Waiting for a device. Its first work can take a minute, because that is when drivers compile
 * kernels; so whoever waits is told, each second on a terminal, elsewhere once. */
#include <string.h>

#include "app.h"
#include "os.h"
#include "out.h"
#include "sys.h"

enum { STEP_MS = 1000, PATIENCE_S = 5 /* without a terminal */ };

typedef struct notice {
    uint64_t start_ns;
    bool terminal, shown;
} notice;

static const char text[] =
    "\rwaiting for the device, %d s: at first use its driver compiles kernels";

/* The CPU's work, and all that comes after the first of a device, blocks without a word. */
static bool is_watched(const app *a)
{
    return a->device_info && strcmp(a->device_info->backend, "cpu") != 0 && !a->has_worked &&
           !a->args->quiet;
}

static notice begin(void)
{
    return (notice){.start_ns = os_now_ns(), .terminal = sys_is_terminal(stderr)};
}

static void show(notice *n)
{
    const int seconds = (int)((os_now_ns() - n->start_ns) / 1000000000);

    if (n->terminal) {
        fprintf(stderr, text, seconds);
        fflush(stderr);
        n->shown = true;
    } else if (!n->shown && seconds >= PATIENCE_S) {
        warn("the device takes long to begin: at first use its driver compiles kernels");
        n->shown = true;
    }
}

/* Passes the status on. */
static sobre_status end(app *a, const notice *n, sobre_status status)
{
    if (n->terminal && n->shown) fprintf(stderr, "\r%*s\r", (int)sizeof text, "");
    if (status >= 0) a->has_worked = true;
    return status;
}

sobre_status wait_event(app *a, const sobre_event **ret_event)
{
    const int32_t step_ms = is_watched(a) ? STEP_MS : -1;
    notice n = begin();
    sobre_status status;

    while ((status = sobre_session_next(a->session, step_ms, ret_event)) == SOBRE_AGAIN) show(&n);
    return end(a, &n, status);
}

sobre_status wait_batch(app *a, const sobre_batch *batch)
{
    notice n = begin();
    sobre_status status;

    if (!is_watched(a)) return sobre_session_eval(a->session, batch);
    status = sobre_session_submit(a->session, batch);
    if (status < 0) return status;
    while ((status = sobre_session_wait(a->session, STEP_MS)) == SOBRE_AGAIN) show(&n);
    return end(a, &n, status);
}
