/* SPDX-License-Identifier: MIT */
/* Small results on disk: see cl_cache.h. */
#include "cl_cache.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "os.h"

enum { PATH_SIZE = 4096, ERROR_SIZE = 256, FORMAT = 1 };
static const uint64_t max_size = (uint64_t)64 << 20; /* of an entry, bytes */

/* What a file begins with; integers as this machine has them. */
typedef struct header {
    char magic[8];
    uint64_t format;
    cl_hash key;
    uint64_t size; /* of what follows */
    cl_hash checksum;
} header;

static const char magic[8] = {'S', 'O', 'B', 'R', 'E', '-', 'C', 'L'};

/* The finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
 * generators", 2014). */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

cl_hash cl_hash_bytes(cl_hash hash, const void *data, size_t size)
{
    const unsigned char *bytes = data;
    const uint64_t length = size;

    for (size_t i = 0; i < size; i += 8) {
        const size_t n = size - i < 8 ? size - i : 8;
        uint64_t word = 0;
        memcpy(&word, bytes + i, n);
        hash.h[0] = mix((hash.h[0] ^ word) + 0x9e3779b97f4a7c15u);
        hash.h[1] = mix(hash.h[1] + 0xd1342543de82ef95u + word) ^ hash.h[0];
    }
    hash.h[0] = mix(hash.h[0] ^ length);
    hash.h[1] = mix(hash.h[1] + length);
    return hash;
}

cl_hash cl_hash_text(cl_hash hash, const char *text)
{
    return cl_hash_bytes(hash, text, strlen(text) + 1);
}

static bool same(cl_hash a, cl_hash b)
{
    return a.h[0] == b.h[0] && a.h[1] == b.h[1];
}

static bool path_of(const sobre_host *host, cl_hash key, char *ret_path)
{
    return host->cache_dir &&
           snprintf(ret_path, PATH_SIZE, "%s/opencl/%016" PRIx64 "%016" PRIx64 ".bin",
                    host->cache_dir, key.h[0], key.h[1]) < PATH_SIZE;
}

/* Reads an opened entry; a message if it is of no use. */
static const char *read_entry(const sobre_host *host, os_file file, cl_hash key, void **ret_data,
                              size_t *ret_size)
{
    header head;
    uint64_t size;
    void *data;
    const cl_hash zero = {{0, 0}};

    if (!os_file_size(file, &size) || size < sizeof head ||
        !os_file_read_at(file, 0, &head, sizeof head))
        return "it has no header";
    if (memcmp(head.magic, magic, sizeof magic) != 0 || head.format != FORMAT)
        return "it is of another format";
    if (!same(head.key, key)) return "it belongs to another name";
    if (head.size == 0 || head.size > max_size || head.size != size - sizeof head)
        return "its length is wrong";
    data = host->alloc(host->context, (size_t)head.size, 16);
    if (!data) return "memory is short";
    if (os_file_read_at(file, sizeof head, data, (size_t)head.size) &&
        same(cl_hash_bytes(zero, data, (size_t)head.size), head.checksum)) {
        *ret_data = data;
        *ret_size = (size_t)head.size;
        return NULL;
    }
    host->free(host->context, data);
    return "its content is damaged";
}

bool cl_cache_load(const sobre_host *host, cl_hash key, void **ret_data, size_t *ret_size)
{
    char path[PATH_SIZE];
    os_file file;
    const char *problem;

    if (!path_of(host, key, path) || !os_file_open(path, &file)) return false;
    problem = read_entry(host, file, key, ret_data, ret_size);
    os_file_close(file);
    if (problem)
        host->log(host->context, SOBRE_LOG_DEBUG, "ignored the cached file %s: %s", path, problem);
    return !problem;
}

void cl_cache_store(const sobre_host *host, cl_hash key, const void *data, size_t size)
{
    char path[PATH_SIZE], error[ERROR_SIZE];
    const cl_hash zero = {{0, 0}};
    header head = {.format = FORMAT, .key = key, .size = size};
    char *whole;

    if (size == 0 || size > max_size || !path_of(host, key, path)) return;
    whole = host->alloc(host->context, sizeof head + size, 16);
    if (!whole) return;
    memcpy(head.magic, magic, sizeof magic);
    head.checksum = cl_hash_bytes(zero, data, size);
    memcpy(whole, &head, sizeof head);
    memcpy(whole + sizeof head, data, size);
    if (!os_file_replace(path, whole, sizeof head + size))
        host->log(host->context, SOBRE_LOG_DEBUG, "could not write the cached file %s: %s", path,
                  os_error_text(error, sizeof error));
    host->free(host->context, whole);
}
