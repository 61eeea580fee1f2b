/* SPDX-License-Identifier: MIT */
/* The `sobre` program. Only here: printing, the environment, signals. */
#include <string.h>

#include "app.h"
#include "cmds.h"
#include "out.h"
#include "sys.h"

static const command *const commands[] = {&cmd_run,     &cmd_tokenize, &cmd_logits, &cmd_bench,
                                          &cmd_inspect, &cmd_devices,  &cmd_doctor};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static int print_help(void)
{
    printf("usage: sobre COMMAND [arguments]\n\nRun small language models on this machine.\n\n"
           "commands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        printf("  %-10s %s\n", commands[i]->name, commands[i]->summary);
    printf("  %-10s %s\n", "help", "This text, or that of a command.");
    printf("\n`sobre COMMAND --help` tells more. MODEL is a GGUF file, or the beginning of a name\n"
           "in the cache folder, ~/.cache/sobre/models.\n"
           "\nexamples:\n"
           "  sobre run smollm2 -p \"What is the capital of France?\"\n"
           "  sobre bench smollm2\n"
           "\nenvironment:\n"
           "  XDG_CACHE_HOME  the cache is sobre/ in this folder\n"
           "  OCL_ICD_VENDORS, OCL_ICD_FILENAMES  OpenCL's drivers, as its loader reads them\n"
           "  CUDA_VISIBLE_DEVICES, CUDA_DEVICE_ORDER  NVIDIA's cards, as its driver reads them\n"
           "  NO_COLOR, TERM  no colours if the one is set or the other is \"dumb\"\n"
           "  COLUMNS         the width of --help\n"
           "\nexit codes:\n");
    args_print_exit_codes(stdout);
    return out_finish();
}

static const command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    return NULL;
}

static int unknown_command(const char *name)
{
    const char *names[N_COMMANDS];

    for (size_t i = 0; i < N_COMMANDS; i++) names[i] = commands[i]->name;
    const char *near = nearest_word(name, names, N_COMMANDS);
    if (near)
        complain("there is no command \"%s\"; did you mean %s?", name, near);
    else
        complain("there is no command \"%s\"; `sobre --help` lists them", name);
    return CODE_USAGE;
}

int main(int argc, char **argv)
{
    if (!sys_init(&argc, &argv)) return out_of_memory();
    const char *name = argc > 1 ? argv[1] : NULL;

    if (!name) {
        complain("a command is missing; `sobre --help` lists them");
        return CODE_USAGE;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        printf("sobre %s\n", sobre_version());
        return out_finish();
    }
    const bool helps = strcmp(name, "help") == 0;
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || (helps && argc < 3))
        return print_help();
    if (helps) name = argv[2];
    if (helps &&
        (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0))
        return print_help();
    const command *c = find_command(name);
    if (!c) return unknown_command(name);
    if (helps) {
        args_print_help(c, stdout);
        return out_finish();
    }
    interrupt_install();
    return c->run(c, argc - 1, argv + 1);
}
