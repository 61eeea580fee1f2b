/* SPDX-License-Identifier: MIT */
#include "sys.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <unistd.h>

bool sys_init(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return true;
}

bool sys_is_terminal(FILE *stream)
{
    return isatty(fileno(stream)) == 1;
}

int sys_columns(FILE *stream)
{
    struct winsize size;
    return ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

sys_input sys_stdin_kind(void)
{
    struct stat st;
    if (sys_is_terminal(stdin)) return SYS_INPUT_TERMINAL;
    return fstat(STDIN_FILENO, &st) == 0 && S_ISREG(st.st_mode) ? SYS_INPUT_FILE : SYS_INPUT_STREAM;
}

bool sys_stdin_ready(int timeout_ms)
{
    struct pollfd fd = {.fd = STDIN_FILENO, .events = POLLIN};
    return poll(&fd, 1, timeout_ms) != 0; /* an error shows itself in reading */
}

/* Waits for input with the signal let in only inside the wait, so that none can slip through
 * between the question and the wait. */
static bool wait_for_line(bool (*interrupted)(void))
{
    sigset_t blocked, before;
    fd_set input;
    bool ready = false;

    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    if (!interrupted()) {
        FD_ZERO(&input);
        FD_SET(STDIN_FILENO, &input);
        ready = pselect(STDIN_FILENO + 1, &input, NULL, NULL, NULL, &before) > 0;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return ready;
}

sys_line sys_read_line(bool (*interrupted)(void), char **ret_line)
{
    char *line = NULL;
    size_t capacity = 0;

    if (!wait_for_line(interrupted)) return SYS_LINE_INTERRUPTED;
    const ssize_t n = getline(&line, &capacity, stdin);
    if (n < 0) {
        free(line);
        clearerr(stdin);
        return interrupted() ? SYS_LINE_INTERRUPTED : SYS_LINE_END;
    }
    if (n > 0 && line[n - 1] == '\n') line[n - 1] = 0;
    *ret_line = line;
    return SYS_LINE;
}

static void (*interrupt_handler)(void);

static void on_signal(int number)
{
    const int saved = errno;
    (void)number;
    interrupt_handler();
    errno = saved;
}

void sys_on_interrupt(void (*handler)(void))
{
    /* Without SA_RESTART, so that Ctrl-C ends a read of the terminal. */
    struct sigaction action = {.sa_handler = on_signal}, before;

    interrupt_handler = handler;
    sigemptyset(&action.sa_mask);
    /* Started in the background by a shell, the program leaves Ctrl-C to others. */
    if (sigaction(SIGINT, NULL, &before) == 0 && before.sa_handler != SIG_IGN)
        sigaction(SIGINT, &action, NULL);
}

void sys_exit_now(int code)
{
    _exit(code);
}

FILE *sys_open(const char *path, const char *mode)
{
    return fopen(path, mode);
}

bool sys_replace(const char *from, const char *to)
{
    return rename(from, to) == 0;
}

bool sys_remove(const char *path)
{
    return unlink(path) == 0;
}

bool sys_is_file(const char *path, uint64_t *ret_size)
{
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode)) return false;
    *ret_size = (uint64_t)st.st_size;
    return true;
}

bool sys_is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool sys_can_write_folder(const char *path)
{
    char *copy = strdup(path), *slash;

    if (!copy) return false;
    while (access(copy, F_OK) != 0 && errno == ENOENT && (slash = strrchr(copy, '/')))
        slash[slash == copy] = 0;
    bool can = access(copy, W_OK | X_OK) == 0;
    int error = errno;
    if (can && !sys_is_folder(copy)) {
        can = false;
        error = ENOTDIR;
    }
    free(copy);
    errno = error;
    return can;
}

bool sys_list_folder(const char *path, bool (*each)(void *user, const char *name, uint64_t size),
                     void *user)
{
    DIR *folder = opendir(path);
    const struct dirent *entry;
    bool go_on = true;

    if (!folder) return false;
    while (go_on && (entry = readdir(folder))) {
        struct stat st;
        if (fstatat(dirfd(folder), entry->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
            go_on = each(user, entry->d_name, (uint64_t)st.st_size);
    }
    closedir(folder);
    return true;
}

char *sys_cache_home(void)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *path;

    if (cache && cache[0] == '/') return strdup(cache); /* a relative one is to be ignored */
    if (!home || !home[0]) return NULL;
    path = malloc(strlen(home) + sizeof "/.cache");
    if (path) strcat(strcpy(path, home), "/.cache");
    return path;
}

void sys_huge_pages(char *ret_state, size_t size)
{
    /* "always [madvise] never": the one in brackets holds. */
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    char line[80] = "";

    if (!file) {
        ret_state[0] = 0;
        return;
    }
    char *state = fgets(line, sizeof line, file) ? strchr(line, '[') : NULL;
    fclose(file);
    char *end = state ? strchr(state, ']') : NULL;
    if (end) *end = 0;
    snprintf(ret_state, size, "%s", end ? state + 1 : "");
}
