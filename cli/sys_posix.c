/* SPDX-License-Identifier: MIT */
#include "sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "os.h"

static const char *own_name = "sobre"; /* as it was called */

bool sys_init(int *argc, char ***argv)
{
    if (*argc > 0) own_name = (*argv)[0];
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

bool sys_file_stamp(const char *path, uint64_t *ret_size, int64_t *ret_changed)
{
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode)) return false;
    *ret_size = (uint64_t)st.st_size;
    *ret_changed = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    return true;
}

/* --- Child processes */

/* The child is the leader of a group of its own, so that what drivers start ends with it. */
static int start_self(const char *const *args, int output, pid_t *ret_pid)
{
    enum { MAX_ARGS = 32 };
#ifdef __linux__
    static const char program[] = "/proc/self/exe"; /* right even if the file was replaced */
#else
    const char *program = own_name;
#endif
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    char *argv[MAX_ARGS + 2] = {(char *)(uintptr_t)own_name};
    int error;

    for (size_t i = 0; i < MAX_ARGS && args[i]; i++) argv[i + 1] = (char *)(uintptr_t)args[i];
    if ((error = posix_spawn_file_actions_init(&files)) != 0) return error;
    if ((error = posix_spawnattr_init(&attributes)) == 0) {
        posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        posix_spawn_file_actions_adddup2(&files, output, STDOUT_FILENO);
        posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
        posix_spawnattr_setpgroup(&attributes, 0);
        error = posix_spawnp(ret_pid, program, &files, &attributes, argv, environ);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&files);
    return error;
}

/* Waits until the child has closed its output and ended; it may hang between the two. */
static sys_end follow(pid_t pid, int input, uint64_t deadline_ns, bool (*interrupted)(void),
                      void (*collect)(void *user, const char *data, size_t size), void *user,
                      int *ret_code)
{
    bool open = true, idle = false;
    int status;

    for (;;) {
        const uint64_t now = os_now_ns();
        struct pollfd fd = {.fd = open ? input : -1, .events = POLLIN};
        char data[4096];

        if (interrupted()) return SYS_END_INTERRUPT;
        if (now >= deadline_ns) return SYS_END_TIMEOUT;
        /* What it started may keep the output open. */
        if ((!open || idle) && waitpid(pid, &status, WNOHANG) == pid) break;
        idle = poll(&fd, 1, open ? 50 : 1) <= 0;
        if (idle) continue;
        const ssize_t n = read(input, data, sizeof data);
        if (n > 0)
            collect(user, data, (size_t)n);
        else if (n == 0 || errno != EINTR)
            open = false;
    }
    if (WIFSIGNALED(status)) {
        *ret_code = WTERMSIG(status);
        return SYS_END_CRASH;
    }
    *ret_code = WEXITSTATUS(status);
    return SYS_END_EXIT;
}

sys_end sys_run_self(const char *const *args, int timeout_ms, bool (*interrupted)(void),
                     void (*collect)(void *user, const char *data, size_t size), void *user,
                     int *ret_code)
{
    const uint64_t deadline_ns = os_now_ns() + (uint64_t)timeout_ms * 1000000;
    int ends[2], status;
    pid_t pid;

    if (pipe(ends) != 0) return SYS_END_NOT_STARTED;
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    const int error = start_self(args, ends[1], &pid);
    close(ends[1]);
    if (error) {
        close(ends[0]);
        errno = error;
        return SYS_END_NOT_STARTED;
    }
    const sys_end end = follow(pid, ends[0], deadline_ns, interrupted, collect, user, ret_code);
    kill(-pid, SIGKILL); /* also what it may have left behind */
    if (end == SYS_END_TIMEOUT || end == SYS_END_INTERRUPT)
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    close(ends[0]);
    return end;
}

const char *sys_crash_text(int code)
{
    return strsignal(code);
}

void sys_limit_self(int seconds)
{
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    alarm((unsigned)seconds);
}

/* --- Environment */

/* The items of a list with colons. */
static void each_item(const char *list, void (*each)(void *user, const char *path), void *user)
{
    char *copy = strdup(list), *rest = NULL;
    for (char *item = copy ? strtok_r(copy, ":", &rest) : NULL; item;
         item = strtok_r(NULL, ":", &rest))
        each(user, item);
    free(copy);
}

/* The files of a folder whose names end in .icd. */
static void each_icd(const char *folder, void (*each)(void *user, const char *path), void *user)
{
    static const char suffix[] = ".icd";
    const size_t n_suffix = sizeof suffix - 1;
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    char path[4096];

    while (dir && (entry = readdir(dir))) {
        const size_t n = strlen(entry->d_name);
        if (n > n_suffix && strcmp(entry->d_name + n - n_suffix, suffix) == 0 &&
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) < (int)sizeof path)
            each(user, path);
    }
    if (dir) closedir(dir);
}

static void list_opencl(void (*each)(void *user, const char *path), void *user)
{
    const char *vendors = getenv("OCL_ICD_VENDORS"), *libraries = getenv("OCL_ICD_FILENAMES");

    if (libraries && libraries[0]) each_item(libraries, each, user);
    if (!vendors || !vendors[0])
        each_icd("/etc/OpenCL/vendors", each, user);
    else if (sys_is_folder(vendors))
        each_icd(vendors, each, user);
    else
        each(user, vendors); /* an .icd file, or a library */
}

typedef struct finder {
    const char *name;
    void (*each)(void *user, const char *path);
    void *user;
} finder;

static void find_in(void *user, const char *folder)
{
    const finder *f = user;
    char path[4096];

    if (snprintf(path, sizeof path, "%s/%s", folder, f->name) < (int)sizeof path &&
        access(path, F_OK) == 0)
        f->each(f->user, path);
}

static void list_cuda(void (*each)(void *user, const char *path), void *user)
{
    static const struct {
        const char *folder, *name;
    } places[] = {
        {"/usr/lib/x86_64-linux-gnu", "libcuda.so.1"},
        {"/usr/lib/aarch64-linux-gnu", "libcuda.so.1"},
        {"/usr/lib/aarch64-linux-gnu/tegra", "libcuda.so.1"},
        {"/usr/lib64", "libcuda.so.1"},
        {"/usr/lib", "libcuda.so.1"},
        {"/usr/lib/wsl/lib", "libcuda.so.1"},
        {"/usr/local/nvidia/lib64", "libcuda.so.1"},
        {"/dev", "nvidiactl"},
        {"/dev", "dxg"},   /* Windows's card in its Linux */
        {"/dev", "nvmap"}, /* Tegra's */
    };
    const char *folders = getenv("LD_LIBRARY_PATH");

    if (folders) each_item(folders, find_in, &(finder){"libcuda.so.1", each, user});
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        find_in(&(finder){places[i].name, each, user}, places[i].folder);
}

void sys_list_drivers(const char *backend, void (*each)(void *user, const char *path), void *user)
{
    if (strcmp(backend, "opencl") == 0) list_opencl(each, user);
    if (strcmp(backend, "cuda") == 0) list_cuda(each, user);
}

void sys_release(char *ret_text, size_t size)
{
    struct utsname name;
    snprintf(ret_text, size, "%s", uname(&name) == 0 ? name.release : "");
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
