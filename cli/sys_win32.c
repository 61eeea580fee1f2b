/* SPDX-License-Identifier: MIT */
#include "sys.h"

#include <windows.h>

#include <fcntl.h>
#include <io.h>
#include <errno.h>
#include <shellapi.h>
#include <stdlib.h>
#include <string.h>

#include "os.h"

/* The system speaks UTF-16; both give malloc'ed copies, NULL on failure. */
static wchar_t *to_wide(const char *text)
{
    const int n = MultiByteToWideChar(CP_UTF8, 0, text, -1, NULL, 0);
    wchar_t *wide = n > 0 ? malloc((size_t)n * sizeof *wide) : NULL;
    if (wide) MultiByteToWideChar(CP_UTF8, 0, text, -1, wide, n);
    return wide;
}

static char *to_utf8(const wchar_t *wide)
{
    const int n = WideCharToMultiByte(CP_UTF8, 0, wide, -1, NULL, 0, NULL, NULL);
    char *text = n > 0 ? malloc((size_t)n) : NULL;
    if (text) WideCharToMultiByte(CP_UTF8, 0, wide, -1, text, n, NULL, NULL);
    return text;
}

bool sys_init(int *argc, char ***argv)
{
    int n;
    wchar_t **wide = CommandLineToArgvW(GetCommandLineW(), &n);
    char **args = wide ? calloc((size_t)n + 1, sizeof *args) : NULL;
    bool whole = args != NULL;

    for (int i = 0; whole && i < n; i++) whole = (args[i] = to_utf8(wide[i])) != NULL;
    LocalFree(wide);
    if (!whole) return false;
    *argc = n;
    *argv = args; /* lives as long as the program */
    SetConsoleOutputCP(CP_UTF8);
    SetConsoleCP(CP_UTF8);
    _setmode(_fileno(stdin), _O_BINARY);
    _setmode(_fileno(stdout), _O_BINARY);
    return true;
}

static HANDLE handle_of(FILE *stream)
{
    return (HANDLE)_get_osfhandle(_fileno(stream));
}

bool sys_is_terminal(FILE *stream)
{
    DWORD mode;
    const HANDLE handle = handle_of(stream);

    if (!GetConsoleMode(handle, &mode)) return false;
    if (stream != stdin) SetConsoleMode(handle, mode | 0x0004 /* escape sequences */);
    return true;
}

int sys_columns(FILE *stream)
{
    CONSOLE_SCREEN_BUFFER_INFO info;
    if (!GetConsoleScreenBufferInfo(handle_of(stream), &info)) return 0;
    return info.srWindow.Right - info.srWindow.Left + 1;
}

sys_input sys_stdin_kind(void)
{
    if (sys_is_terminal(stdin)) return SYS_INPUT_TERMINAL;
    return GetFileType(handle_of(stdin)) == FILE_TYPE_DISK ? SYS_INPUT_FILE : SYS_INPUT_STREAM;
}

bool sys_stdin_ready(int timeout_ms)
{
    for (int waited = 0;; waited += 10) {
        DWORD n;
        if (!PeekNamedPipe(handle_of(stdin), NULL, 0, NULL, &n, NULL) || n > 0) return true;
        if (waited >= timeout_ms) return false;
        Sleep(10);
    }
}

sys_line sys_read_line(bool (*interrupted)(void), char **ret_line)
{
    enum { SIZE = 1 << 16 };
    char *line = malloc(SIZE);

    if (!line) return SYS_LINE_END;
    if (!fgets(line, SIZE, stdin)) {
        free(line);
        clearerr(stdin);
        Sleep(50); /* Ctrl-C ends the read before its handler has run */
        return interrupted() ? SYS_LINE_INTERRUPTED : SYS_LINE_END;
    }
    line[strcspn(line, "\r\n")] = 0;
    *ret_line = line;
    return SYS_LINE;
}

static void (*interrupt_handler)(void);

static BOOL WINAPI on_control(DWORD event)
{
    if (event != CTRL_C_EVENT && event != CTRL_BREAK_EVENT) return FALSE;
    interrupt_handler();
    return TRUE;
}

void sys_on_interrupt(void (*handler)(void))
{
    interrupt_handler = handler;
    SetConsoleCtrlHandler(on_control, TRUE);
}

void sys_exit_now(int code)
{
    _exit(code);
}

FILE *sys_open(const char *path, const char *mode)
{
    wchar_t *wide_path = to_wide(path), *wide_mode = to_wide(mode);
    FILE *file = wide_path && wide_mode ? _wfopen(wide_path, wide_mode) : NULL;
    free(wide_path);
    free(wide_mode);
    return file;
}

bool sys_replace(const char *from, const char *to)
{
    wchar_t *wide_from = to_wide(from), *wide_to = to_wide(to);
    const bool done =
        wide_from && wide_to && MoveFileExW(wide_from, wide_to, MOVEFILE_REPLACE_EXISTING);
    free(wide_from);
    free(wide_to);
    return done;
}

bool sys_remove(const char *path)
{
    wchar_t *wide = to_wide(path);
    const bool done = wide && DeleteFileW(wide);
    free(wide);
    return done;
}

bool sys_is_file(const char *path, uint64_t *ret_size)
{
    WIN32_FILE_ATTRIBUTE_DATA data;
    wchar_t *wide = to_wide(path);
    const bool there = wide && GetFileAttributesExW(wide, GetFileExInfoStandard, &data) &&
                       !(data.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY);
    free(wide);
    if (there) *ret_size = (uint64_t)data.nFileSizeHigh << 32 | data.nFileSizeLow;
    return there;
}

static bool is_folder(const wchar_t *path)
{
    const DWORD attributes = GetFileAttributesW(path);
    return attributes != INVALID_FILE_ATTRIBUTES && attributes & FILE_ATTRIBUTE_DIRECTORY;
}

bool sys_is_folder(const char *path)
{
    wchar_t *wide = to_wide(path);
    const bool is = wide && is_folder(wide);
    free(wide);
    return is;
}

bool sys_can_write_folder(const char *path)
{
    const DWORD share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
    wchar_t *wide = to_wide(path);
    HANDLE folder = INVALID_HANDLE_VALUE;

    if (!wide) return false;
    for (wchar_t *end = wide + wcslen(wide); end > wide; end--) {
        if (*end && *end != L'/' && *end != L'\\') continue;
        *end = 0;
        if (GetFileAttributesW(wide) == INVALID_FILE_ATTRIBUTES) continue;
        /* To open it for new files asks the access control list, and makes none. */
        if (is_folder(wide))
            folder = CreateFileW(wide, FILE_ADD_FILE, share, NULL, OPEN_EXISTING,
                                 FILE_FLAG_BACKUP_SEMANTICS, NULL);
        break;
    }
    free(wide);
    errno = EACCES;
    return folder != INVALID_HANDLE_VALUE && CloseHandle(folder);
}

bool sys_list_folder(const char *path, bool (*each)(void *user, const char *name, uint64_t size),
                     void *user)
{
    WIN32_FIND_DATAW data;
    char *pattern = malloc(strlen(path) + sizeof "/*");
    bool go_on = true;

    if (!pattern) return false;
    wchar_t *wide = to_wide(strcat(strcpy(pattern, path), "/*"));
    free(pattern);
    const HANDLE find = wide ? FindFirstFileW(wide, &data) : INVALID_HANDLE_VALUE;
    free(wide);
    if (find == INVALID_HANDLE_VALUE) return false;
    do {
        if (data.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY) continue;
        char *name = to_utf8(data.cFileName);
        if (name) go_on = each(user, name, (uint64_t)data.nFileSizeHigh << 32 | data.nFileSizeLow);
        free(name);
    } while (go_on && FindNextFileW(find, &data));
    FindClose(find);
    return true;
}

bool sys_file_stamp(const char *path, uint64_t *ret_size, int64_t *ret_changed)
{
    WIN32_FILE_ATTRIBUTE_DATA data;
    wchar_t *wide = to_wide(path);
    const bool there = wide && GetFileAttributesExW(wide, GetFileExInfoStandard, &data);
    free(wide);
    if (!there) return false;
    *ret_size = (uint64_t)data.nFileSizeHigh << 32 | data.nFileSizeLow;
    *ret_changed = (int64_t)((uint64_t)data.ftLastWriteTime.dwHighDateTime << 32 |
                             data.ftLastWriteTime.dwLowDateTime);
    return true;
}

/* --- Child processes */

/* Adds an argument so that CommandLineToArgvW() reads it as it is: backslashes count only before a
 * quotation mark, where they are doubled. */
static wchar_t *add_quoted(wchar_t *to, const wchar_t *text)
{
    size_t n_slashes = 0;

    *to++ = L'"';
    for (; *text; text++) {
        if (*text == L'"')
            for (n_slashes++; n_slashes > 0; n_slashes--) *to++ = L'\\';
        n_slashes = *text == L'\\' ? n_slashes + 1 : 0;
        *to++ = *text;
    }
    for (; n_slashes > 0; n_slashes--) *to++ = L'\\';
    *to++ = L'"';
    *to++ = L' ';
    return to;
}

/* Malloc'ed; the name of the program comes first. */
static wchar_t *command_line(const wchar_t *program, const char *const *args)
{
    size_t size = 2 * wcslen(program) + 4;

    for (size_t i = 0; args[i]; i++) size += 2 * strlen(args[i]) + 4;
    wchar_t *line = malloc(size * sizeof *line), *to = line;
    if (!line) return NULL;
    to = add_quoted(to, program);
    for (size_t i = 0; args[i]; i++) {
        wchar_t *wide = to_wide(args[i]);
        if (wide) to = add_quoted(to, wide);
        free(wide);
    }
    *to = 0;
    return line;
}

/* In a job that ends all of its processes when it is closed, by this process's end at the latest.
 */
static bool start_self(const char *const *args, HANDLE output, HANDLE job,
                       PROCESS_INFORMATION *ret_process)
{
    enum { MAX_PROGRAM = 32768 };
    SECURITY_ATTRIBUTES inherited = {.nLength = sizeof inherited, .bInheritHandle = TRUE};
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits = {0};
    wchar_t *program = malloc(MAX_PROGRAM * sizeof *program), *line = NULL;
    const HANDLE nothing =
        CreateFileW(L"NUL", GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE,
                    &inherited, OPEN_EXISTING, 0, NULL);
    STARTUPINFOW start = {.cb = sizeof start,
                          .dwFlags = STARTF_USESTDHANDLES,
                          .hStdInput = nothing,
                          .hStdOutput = output,
                          .hStdError = nothing};
    bool started = false;

    limits.BasicLimitInformation.LimitFlags =
        JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | JOB_OBJECT_LIMIT_DIE_ON_UNHANDLED_EXCEPTION;
    if (program && nothing != INVALID_HANDLE_VALUE &&
        GetModuleFileNameW(NULL, program, MAX_PROGRAM) && (line = command_line(program, args)) &&
        SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limits, sizeof limits))
        started =
            CreateProcessW(program, line, NULL, NULL, TRUE, CREATE_SUSPENDED | CREATE_NO_WINDOW,
                           NULL, NULL, &start, ret_process);
    if (started && (!AssignProcessToJobObject(job, ret_process->hProcess) ||
                    ResumeThread(ret_process->hThread) == (DWORD)-1)) {
        TerminateProcess(ret_process->hProcess, 1);
        CloseHandle(ret_process->hThread);
        CloseHandle(ret_process->hProcess);
        started = false;
    }
    if (nothing != INVALID_HANDLE_VALUE) CloseHandle(nothing);
    free(program);
    free(line);
    return started;
}

static sys_end follow(HANDLE process, HANDLE input, uint64_t deadline_ns, bool (*interrupted)(void),
                      void (*collect)(void *user, const char *data, size_t size), void *user,
                      int *ret_code)
{
    enum { STEP_MS = 5 };
    const DWORD crashed = 0xc0000000; /* codes of unhandled exceptions */
    bool ended = false;
    DWORD code;

    for (;;) { /* what it wrote before its end is read after it */
        char data[4096];
        DWORD n = 0;

        if (interrupted()) return SYS_END_INTERRUPT;
        if (os_now_ns() >= deadline_ns) return SYS_END_TIMEOUT;
        if (PeekNamedPipe(input, NULL, 0, NULL, &n, NULL) && n > 0) {
            if (ReadFile(input, data, sizeof data, &n, NULL)) collect(user, data, n);
            continue;
        }
        if (ended) break;
        ended = WaitForSingleObject(process, STEP_MS) == WAIT_OBJECT_0;
    }
    if (!GetExitCodeProcess(process, &code)) code = crashed;
    *ret_code = (int)code;
    return code >= crashed ? SYS_END_CRASH : SYS_END_EXIT;
}

sys_end sys_run_self(const char *const *args, int timeout_ms, bool (*interrupted)(void),
                     void (*collect)(void *user, const char *data, size_t size), void *user,
                     int *ret_code)
{
    const uint64_t deadline_ns = os_now_ns() + (uint64_t)timeout_ms * 1000000;
    SECURITY_ATTRIBUTES inherited = {.nLength = sizeof inherited, .bInheritHandle = TRUE};
    PROCESS_INFORMATION process;
    HANDLE input, output, job;
    sys_end end = SYS_END_NOT_STARTED;

    errno = EAGAIN;
    if (!CreatePipe(&input, &output, &inherited, 0)) return end;
    SetHandleInformation(input, HANDLE_FLAG_INHERIT, 0);
    job = CreateJobObjectW(NULL, NULL);
    const bool started = job && start_self(args, output, job, &process);
    CloseHandle(output);
    if (started) {
        end = follow(process.hProcess, input, deadline_ns, interrupted, collect, user, ret_code);
        CloseHandle(process.hThread);
        CloseHandle(process.hProcess);
    }
    if (job) CloseHandle(job);
    CloseHandle(input);
    return end;
}

const char *sys_crash_text(int code)
{
    static char text[32];
    snprintf(text, sizeof text, "exception 0x%08x", (unsigned)code);
    return text;
}

/* The job ends it with its parent. */
void sys_limit_self(int seconds)
{
    (void)seconds;
    SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX);
}

/* --- Environment */

/* OpenCL drivers stand in several places of the registry, all of which the loader reads; without it
 * there are none. */
void sys_list_drivers(const char *backend, void (*each)(void *user, const char *path), void *user)
{
    const char *name = strcmp(backend, "cuda") == 0 ? "nvcuda.dll" : "OpenCL.dll";
    wchar_t folder[MAX_PATH];
    const UINT n = GetSystemDirectoryW(folder, MAX_PATH);
    char *text = n > 0 && n < MAX_PATH ? to_utf8(folder) : NULL;
    char *path = text ? malloc(strlen(text) + 1 + strlen(name) + 1) : NULL;
    uint64_t size;

    if (path && sys_is_file(strcat(strcat(strcpy(path, text), "\\"), name), &size))
        each(user, path);
    free(path);
    free(text);
}

void sys_release(char *ret_text, size_t size)
{
    wchar_t build[32];
    DWORD n = sizeof build;
    char *text = NULL;

    if (RegGetValueW(HKEY_LOCAL_MACHINE, L"SOFTWARE\\Microsoft\\Windows NT\\CurrentVersion",
                     L"CurrentBuildNumber", RRF_RT_REG_SZ, NULL, build, &n) == ERROR_SUCCESS)
        text = to_utf8(build);
    snprintf(ret_text, size, "%s", text ? text : "");
    free(text);
}

char *sys_cache_home(void)
{
    const wchar_t *cache = _wgetenv(L"XDG_CACHE_HOME");
    if (!cache || !cache[0]) cache = _wgetenv(L"LOCALAPPDATA");
    return cache && cache[0] ? to_utf8(cache) : NULL;
}

void sys_huge_pages(char *ret_state, size_t size)
{
    if (size > 0) ret_state[0] = 0;
}
