/* SPDX-License-Identifier: MIT */
/* Waiting for a device. Its first work can take a minute, because that is when drivers compile
 * kernels; a terminal then shows that something happens. */
#include <string.h>

#include "app.h"
#include "os.h"
#include "sys.h"

enum { STEP_MS = 1000 };
static const char notice[] =
    "\rwaiting for the device, %d s: at first use its driver compiles kernels";

/* All that comes after the first work, and the CPU's work, blocks without a word. */
static bool is_watched(const app *a)
{
    return a->device_info && strcmp(a->device_info->backend, "cpu") != 0 && !a->has_worked &&
           !a->args->quiet && sys_is_terminal(stderr);
}

static void show(uint64_t start_ns)
{
    fprintf(stderr, notice, (int)((os_now_ns() - start_ns) / 1000000000));
    fflush(stderr);
}

/* Passes the status on. */
static sobre_status end(app *a, bool shown, sobre_status status)
{
    if (shown) fprintf(stderr, "\r%*s\r", (int)sizeof notice, "");
    if (status >= 0) a->has_worked = true;
    return status;
}

sobre_status wait_event(app *a, const sobre_event **ret_event)
{
    const uint64_t start_ns = os_now_ns();
    const int32_t step_ms = is_watched(a) ? STEP_MS : -1;
    sobre_status status;
    bool shown = false;

    while ((status = sobre_session_next(a->session, step_ms, ret_event)) == SOBRE_AGAIN) {
        show(start_ns);
        shown = true;
    }
    return end(a, shown, status);
}

sobre_status wait_batch(app *a, const sobre_batch *batch)
{
    const uint64_t start_ns = os_now_ns();
    sobre_status status;
    bool shown = false;

    if (!is_watched(a)) return end(a, false, sobre_session_eval(a->session, batch));
    status = sobre_session_submit(a->session, batch);
    if (status < 0) return status;
    while ((status = sobre_session_wait(a->session, STEP_MS)) == SOBRE_AGAIN) {
        show(start_ns);
        shown = true;
    }
    return end(a, shown, status);
}
