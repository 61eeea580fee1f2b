/* SPDX-License-Identifier: MIT */
/*
 * Every operation on every backend against its definition in double precision:
 * test_ops [rows|products|attention] [--tiny|--small] [--bench [PART]]
 *
 * SOBRE_TEST_DEVICES names the devices (tests/rig.h). --tiny runs the smallest cases only, without
 * poison, for simulators that see what nobody wrote. --bench adds large cases and times all whose
 * names contain PART: the median time of a run, and what it reads and computes a second.
 */
#include "conf.h"

enum { MAX_FAMILIES = 16, MAX_TESTS = RIG_MAX_DEVICES * MAX_FAMILIES };

static const struct {
    const char *name;
    const conf_family *families;
} groups[] = {
    {"rows", conf_rows_families},
    {"products", conf_mm_families},
    {"attention", conf_attn_families},
    {"chains", conf_chain_families},
};
enum { N_GROUPS = sizeof groups / sizeof groups[0] };

typedef struct run_of {
    conf *conf;
    const char *group;
    const conf_family *family; /* NULL: what is said of the group in the end */
} run_of;

static void family_runs(void **state)
{
    const run_of *r = *state;
    r->conf->group = r->group;
    r->family->run(r->conf);
}

/* Says which case it was, and leaves nothing behind. */
static int after_family(void **state)
{
    conf *c = ((const run_of *)*state)->conf;
    if (c->name[0] && c->rig.b) print_error("in case \"%s\" on %s\n", c->name, c->device->name);
    rig_close(&c->rig);
    return 0;
}

static void device_is_there(void **state)
{
    rig_device_need(((const run_of *)*state)->conf->device);
}

static void list_is_true(void **state)
{
    const conf *c = ((const run_of *)*state)->conf;
    if (c->size == CONF_USUAL) conf_check_list(c);
}

static int after_group(void **state)
{
    conf *c = ((const run_of *)*state)->conf;
    if (c->n_cases > 0)
        print_message("%s: %d cases, %d of them declined\n", c->device->name, (int)c->n_cases,
                      (int)c->n_refused);
    c->n_cases = c->n_refused = 0;
    rig_device_close(c->device);
    if (c->blas) rig_device_close(c->blas);
    return 0;
}

int main(int argc, char **argv)
{
    static rig_device devices[RIG_MAX_DEVICES], with_blas[RIG_MAX_DEVICES];
    static conf confs[RIG_MAX_DEVICES];
    static run_of runs[MAX_TESTS];
    static char names[MAX_TESTS][96];
    static struct CMUnitTest tests[MAX_TESTS];
    const char *group = NULL, *filter = NULL;
    conf_size size = CONF_USUAL;
    size_t n = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--tiny")) {
            size = CONF_TINY;
        } else if (!strcmp(argv[i], "--small")) {
            size = CONF_SMALL;
        } else if (!strcmp(argv[i], "--bench")) {
            size = CONF_LARGE;
            if (i + 1 < argc) filter = argv[++i];
        } else {
            group = argv[i];
        }
    }
    int32_t n_devices = rig_devices(devices);
    for (int32_t d = 0; d < n_devices; d++) {
        conf *c = &confs[d];
        *c = (conf){.device = &devices[d], .size = size, .filter = filter};
        if (!rig_is_possible(c->device)) {
            runs[n] = (run_of){c, NULL, NULL};
            tests[n] = (struct CMUnitTest){c->device->name, device_is_there, NULL, NULL, &runs[n]};
            n++;
            continue;
        }
        if (strcmp(devices[d].backend, "cpu") != 0 && rig_computes(&devices[d])) {
            with_blas[d] = devices[d];
            with_blas[d].blas = SOBRE_BLAS_ALWAYS;
            devices[d].blas = SOBRE_BLAS_NEVER;
            strcat(with_blas[d].name, "+blas");
            c->blas = &with_blas[d];
        }
        for (int g = 0; g < N_GROUPS; g++) {
            if (group && strcmp(group, groups[g].name)) continue;
            for (const conf_family *f = groups[g].families; f->name; f++, n++) {
                snprintf(names[n], sizeof names[n], "%s on %s", f->name, c->device->name);
                runs[n] = (run_of){c, groups[g].name, f};
                tests[n] = (struct CMUnitTest){names[n], family_runs, NULL, after_family, &runs[n]};
            }
            snprintf(names[n], sizeof names[n], "what %s declines", c->device->name);
            runs[n] = (run_of){c, groups[g].name, NULL};
            tests[n] = (struct CMUnitTest){names[n], list_is_true, NULL, after_group, &runs[n]};
            n++;
        }
    }
    if (n == 0) return 1;
    return _cmocka_run_group_tests("ops", tests, n, NULL, NULL);
}
