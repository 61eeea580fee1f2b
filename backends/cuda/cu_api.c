/* SPDX-License-Identifier: MIT */
#include "cu_api.h"

#include <stdio.h>
#include <string.h>

#include "os.h"

#ifdef _WIN32
static const char library_name[] = "nvcuda.dll";
#else
static const char library_name[] = "libcuda.so.1";
#endif

bool cu_api_open(cu_api *ret_api, char *ret_reason, size_t size)
{
    /* Pointers to functions have one size and one way to be stored, whatever they take. */
    static const struct {
        const char *symbol;
        size_t at;
    } functions[] = {
#define CU_ENTRY(name, symbol, parameters) {symbol, offsetof(cu_api, name)},
        CU_FUNCTIONS(CU_ENTRY)
#undef CU_ENTRY
    };
    void *library = os_library_open(library_name);
    char error[256];

    if (!library) {
        snprintf(ret_reason, size, "%s, which comes with NVIDIA's driver, cannot be loaded: %s",
                 library_name, os_error_text(error, sizeof error));
        return false;
    }
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *function = os_library_symbol(library, functions[i].symbol);
        if (!function) {
            snprintf(ret_reason, size, "%s has no %s: NVIDIA's driver is too old; update it",
                     library_name, functions[i].symbol);
            os_library_close(library);
            return false;
        }
        memcpy((char *)ret_api + functions[i].at, &function, sizeof function);
    }
    return true;
}

const char *cu_error_name(const cu_api *api, CUresult error)
{
    const char *name = NULL;

    if (api->cuGetErrorName(error, &name) == CUDA_SUCCESS && name) return name;
    return "an error that the driver has no name for";
}
