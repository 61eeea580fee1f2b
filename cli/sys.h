/* SPDX-License-Identifier: MIT */
/* What only the program needs of the operating system: terminals, interrupts, folders, child
 * processes, the environment. sys_posix.c and sys_win32.c implement it; the rest is in os.h. */
#ifndef SOBRE_CLI_SYS_H
#define SOBRE_CLI_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Before all else: UTF-8 arguments and console, binary streams, where that is not so anyway. */
bool sys_init(int *argc, char ***argv);

/* --- Terminals */
bool sys_is_terminal(FILE *stream);
int sys_columns(FILE *stream); /* 0: not known */

/* --- Standard input */
typedef enum sys_input { SYS_INPUT_TERMINAL, SYS_INPUT_FILE, SYS_INPUT_STREAM } sys_input;
sys_input sys_stdin_kind(void);
/* Whether there is something to read, or the end, within the time. */
bool sys_stdin_ready(int timeout_ms);
/* One line of a terminal, without its end, malloc'ed. `interrupted` says whether the handler below
 * has run: such a call returns at once, and one during the wait ends it. */
typedef enum sys_line { SYS_LINE, SYS_LINE_END, SYS_LINE_INTERRUPTED } sys_line;
sys_line sys_read_line(bool (*interrupted)(void), char **ret_line);

/* --- Interrupts: Ctrl-C. The handler runs at any moment. */
void sys_on_interrupt(void (*handler)(void));
void sys_exit_now(int code); /* from the handler */

/* --- Files; paths are UTF-8. */
FILE *sys_open(const char *path, const char *mode);
bool sys_replace(const char *from, const char *to); /* renames, over an old file */
bool sys_remove(const char *path);
bool sys_is_file(const char *path, uint64_t *ret_size);
bool sys_is_folder(const char *path);
/* Whether a folder, or where it is missing the nearest one above it, takes new files; false with
 * errno set. Changes nothing. */
bool sys_can_write_folder(const char *path);
/* Calls `each` with every plain file; false if the folder cannot be read. */
bool sys_list_folder(const char *path, bool (*each)(void *user, const char *name, uint64_t size),
                     void *user);

/* Size and time of the last change (in no particular unit); false: there is no such plain file. */
bool sys_file_stamp(const char *path, uint64_t *ret_size, int64_t *ret_changed);

/* --- Child processes */
typedef enum sys_end {
    SYS_END_EXIT,       /* by itself; *ret_code is the exit code */
    SYS_END_CRASH,      /* *ret_code is for sys_crash_text() */
    SYS_END_TIMEOUT,    /* it was ended */
    SYS_END_INTERRUPT,  /* it was ended */
    SYS_END_NOT_STARTED /* errno says why */
} sys_end;
/* Runs this program once more, with arguments (NULL-terminated) after its name, no input and no
 * standard error; `collect` gets its standard output. After timeout_ms, or when `interrupted` says
 * so, it is ended, with all that it started. */
sys_end sys_run_self(const char *const *args, int timeout_ms, bool (*interrupted)(void),
                     void (*collect)(void *user, const char *data, size_t size), void *user,
                     int *ret_code);
/* "Segmentation fault"; valid until the next call. */
const char *sys_crash_text(int code);
/* In such a child: it ends after so many seconds even if its parent is gone, and leaves no core
 * file behind. */
void sys_limit_self(int seconds);

/* --- Environment */
/* Calls `each` with every file that shows a driver for a backend: "opencl", those that its loader
 * would take (names of libraries, too); "cuda", NVIDIA's library, or its card where that is not in
 * any of the usual places. Loads nothing. */
void sys_list_drivers(const char *backend, void (*each)(void *user, const char *path), void *user);
/* The version of the system's kernel; "" if it is not known. */
void sys_release(char *ret_text, size_t size);
/* The user's cache folder, malloc'ed; NULL: none is known. */
char *sys_cache_home(void);
/* The state of transparent huge pages, "always", "madvise" or "never"; "" where there are none. */
void sys_huge_pages(char *ret_state, size_t size);

#endif
